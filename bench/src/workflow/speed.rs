//! A thousand executions, all runnable: transitions a second, and how many share one commit.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::line::processor;
use super::stage::{Stage, chain, transfer};

const EXECUTIONS: usize = 1_000;

pub async fn all(directory: &Path) -> Result<()> {
    println!("| {EXECUTIONS} executions runnable | transitions/s | steps/s | transitions a commit | commits/s | processors busy |");
    println!("|---|---:|---:|---:|---:|---:|");
    let delays = [("", Duration::ZERO), (", each commit 5 ms longer", Duration::from_millis(5))];
    for (what, definition) in [("20 tasks in a row", chain(20, true)), ("transfer.asl.json, direct", transfer()?)] {
        for (slow, delay) in delays {
            let place = directory.join(format!("{}{}", what.len(), delay.as_millis()));
            row(&place, &format!("{what}{slow}"), &definition, delay).await?;
        }
    }
    Ok(())
}

async fn row(directory: &Path, what: &str, definition: &str, delay: Duration) -> Result<()> {
    let stage = Stage::open(directory, delay).await?;
    stage.start("e", EXECUTIONS, definition).await?;
    let (transitions, steps, commits, spent) = (stage.transitions(), stage.steps(), stage.store.statistics().commits, processor());
    let began = Instant::now();
    stage.open_gate();
    stage.until_all_ended().await;
    let seconds = began.elapsed().as_secs_f64();
    let transitions = (stage.transitions() - transitions) as f64;
    let steps = (stage.steps() - steps) as f64;
    let commits = (stage.store.statistics().commits - commits) as f64;
    let busy = (processor() - spent).as_secs_f64() / seconds;
    println!(
        "| {what} | {:.0} | {:.0} | {:.0} | {:.0} | {busy:.2} |",
        transitions / seconds,
        steps / seconds,
        transitions / commits,
        commits / seconds
    );
    stage.close().await
}
