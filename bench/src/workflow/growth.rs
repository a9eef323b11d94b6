//! What a transition and a start cost when more and more executions have ended, and what these take on the disk.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::stage::{Stage, chain};

const TASKS: usize = 4;
const SAMPLE: usize = 1_000;

pub async fn all(directory: &Path) -> Result<()> {
    println!(
        "| finished executions of {TASKS} tasks | µs a start | µs a transition | ms to open the store and resume | file, MiB | KiB an execution |"
    );
    println!("|---:|---:|---:|---:|---:|---:|");
    let (definition, gated) = (chain(TASKS, false), chain(TASKS, true));
    let mut finished = 0;
    for target in [100, 1_000, 10_000, 100_000] {
        let stage = Stage::open(directory, Duration::ZERO).await?;
        while finished < target {
            let more = (target - finished).min(2_000);
            stage.start(&format!("f{finished}"), more, &definition).await?;
            stage.until_all_ended().await;
            finished += more;
        }
        let began = Instant::now();
        stage.start(&format!("g{target}"), SAMPLE, &gated).await?;
        let started = began.elapsed().as_micros() as f64 / SAMPLE as f64;
        let before = stage.transitions();
        let began = Instant::now();
        stage.open_gate();
        stage.until_all_ended().await;
        let transition = began.elapsed().as_micros() as f64 / (stage.transitions() - before) as f64;
        finished += SAMPLE;
        stage.close().await?;
        let began = Instant::now();
        let again = Stage::open(directory, Duration::ZERO).await?;
        again.executor.resume().await?;
        let opened = began.elapsed().as_millis();
        again.close().await?;
        let size = std::fs::metadata(directory.join("state.db"))?.len() as f64;
        println!(
            "| {target} | {started:.0} | {transition:.0} | {opened} | {:.1} | {:.1} |",
            size / 1048576.0,
            size / 1024.0 / finished as f64
        );
    }
    Ok(())
}
