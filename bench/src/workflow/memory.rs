//! Ten thousand executions that wait: what they take in memory, and how soon a new process is at work on them.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::line::{memory, processor};
use super::stage::{Stage, transfer};

const EXECUTIONS: usize = 10_000;

pub async fn wait(directory: &Path) -> Result<()> {
    let (before, _) = memory();
    let stage = Stage::open(directory, Duration::ZERO).await?;
    let began = Instant::now();
    stage.start("e", EXECUTIONS, &transfer()?).await?;
    let started = began.elapsed().as_secs_f64();
    stage.executor.settled().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (now, most) = memory();
    println!("| {EXECUTIONS} executions that wait in their first task | |");
    println!("|---|---:|");
    println!("| starts/s | {:.0} |", EXECUTIONS as f64 / started);
    println!("| memory before, MiB | {before:.0} |");
    println!("| memory with all of them, MiB | {now:.0} (at most {most:.0}) |");
    println!("| an execution, KiB | {:.1} |", (now - before) * 1024.0 / EXECUTIONS as f64);
    let spent = processor();
    tokio::time::sleep(Duration::from_secs(5)).await;
    println!("| processor while all wait, ms a second | {:.0} |", (processor() - spent).as_secs_f64() * 1000.0 / 5.0);
    stage.close().await
}

pub async fn restart(directory: &Path) -> Result<()> {
    let began = Instant::now();
    let stage = Stage::open(directory, Duration::ZERO).await?;
    stage.open_gate();
    let mut first = stage.journal.first.subscribe();
    let resumed = stage.executor.resume().await?;
    let taken_up = began.elapsed();
    let first = first.wait_for(Option::is_some).await?.context("no first step")?;
    let (now, most) = memory();
    println!("| restart with {resumed} open executions | s |");
    println!("|---|---:|");
    println!("| until the first transition is written | {:.2} |", first.duration_since(began).as_secs_f64());
    println!("| until all are taken up, and run | {:.2} |", taken_up.as_secs_f64());
    stage.until_all_ended().await;
    println!("| until all have ended | {:.2} |", began.elapsed().as_secs_f64());
    println!("| memory when all were taken up, MiB | {now:.0} (at most {most:.0}) |");
    stage.close().await
}
