//! Kills the copy, its server and its line at random moments, runs it again, and looks whether any promise was broken.
//!
//! `FILEFERRY_KILLS` says how many strikes (one scene a destination without it, about 24), `FILEFERRY_KILL_SERVERS` on
//! which servers (`sftp`, `ftp`, `file`, or part of a name), `FILEFERRY_SEED` repeats one scene. What is printed and how it
//! is read: docs/operations/kills.md.

mod chance;
mod check;
mod grid;
mod play;
mod running;
mod server;
mod stage;
mod strike;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use testkit::s3::S3Server;

use play::Scene;
use server::Kind;
use stage::Collection;

/// Scenes under way at the same time: one waits for leases and retries while the other works.
const AT_ONCE: usize = 2;
/// The first scene of the quick pass.
const FIRST: u64 = 1;
const BIG: [u64; 3] = [62 << 20, 84_000_001, 118_000_017];

/// Of all scenes together.
#[derive(Debug, Default)]
pub struct Tally {
    cells: BTreeMap<(Kind, &'static str), Cell>,
    violations: Vec<String>,
}

#[derive(Debug, Default)]
struct Cell {
    strikes: u64,
    /// Broken promises of scenes in which this was the last strike.
    violations: usize,
    most_sent_again: u64,
}

impl Tally {
    fn strikes(&self) -> u64 {
        self.cells.values().map(|cell| cell.strikes).sum()
    }

    fn add(&mut self, scene: &Scene) {
        for (index, strike) in scene.struck.iter().enumerate() {
            let cell = self.cells.entry((scene.kind, strike.name())).or_default();
            cell.strikes += 1;
            // Where several strikes share what was sent again, each gets its part; reboots lose what was sent.
            if !strike.is_crash() {
                cell.most_sent_again = cell.most_sent_again.max(scene.sent_again / scene.interruptions.max(1));
            }
            if index + 1 == scene.struck.len() {
                cell.violations += scene.violations.len();
            }
        }
        self.violations.extend(
            scene.violations.iter().map(|v| format!("seed {}: {v}\n      {:?}, missed {:?}", scene.seed, scene.struck, scene.missed)),
        );
    }

    fn print(&self, seconds: f64) {
        println!("\n| destination | strike | number | violations | most sent again (MiB) |\n|---|---|---:|---:|---:|");
        for ((kind, name), cell) in &self.cells {
            let sent = cell.most_sent_again as f64 / (1 << 20) as f64;
            println!("| {} | {name} | {} | {} | {sent:.1} |", kind.name(), cell.strikes, cell.violations);
        }
        println!("\nkills: {}, violations: {}, {seconds:.0} s", self.strikes(), self.violations.len());
        for violation in &self.violations {
            println!("  {violation}");
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn no_promise_is_broken_whatever_is_killed_when() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(all()).unwrap();
}

async fn all() -> anyhow::Result<()> {
    let begun = Instant::now();
    // A rebuild during a long run must not change the program that is looked at.
    let own = tempfile::tempdir()?;
    let program = own.path().join("fileferry");
    std::fs::copy(env!("CARGO_BIN_EXE_fileferry"), &program)?;

    let repeated = number("FILEFERRY_SEED");
    let wanted = number("FILEFERRY_KILLS");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    // Without a wish the same few scenes, so that a failure is not the luck of the day.
    let first = repeated.or(wanted.map(|_| now)).unwrap_or(FIRST);
    // One round at least, where nobody says how many.
    let round = if wanted.is_none() { first + Kind::ALL.len() as u64 } else { 0 };
    println!("seeds from {first}");
    let next = Arc::new(AtomicU64::new(first));
    let tally = Arc::new(Mutex::new(Tally::default()));
    let wanted = wanted.unwrap_or(0);
    let servers = std::env::var("FILEFERRY_KILL_SERVERS").unwrap_or_default();
    let chosen = |kind: &Kind| kind.family() == servers || kind.name().to_lowercase().contains(&servers.to_lowercase());
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(chosen).collect();
    anyhow::ensure!(kinds.iter().any(|kind| kind.lacking().is_none()), "no server here is called {servers:?}");
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..if repeated.is_some() { 1 } else { AT_ONCE } {
        let (next, tally, program, kinds) = (next.clone(), tally.clone(), program.clone(), kinds.clone());
        workers.spawn(async move {
            let s3 = Arc::new(S3Server::start().await);
            let collections: Vec<_> = (1..).zip(BIG).map(|(number, big)| Arc::new(Collection::fill(&s3, number, big))).collect();
            loop {
                let seed = next.fetch_add(1, SeqCst);
                if seed >= round && repeated.is_none() && tally.lock().unwrap().strikes() >= wanted {
                    return;
                }
                if repeated.is_none() && !kinds.contains(&Kind::of(seed)) {
                    continue;
                }
                if let Some(lacking) = Kind::of(seed).lacking() {
                    println!("seed {seed} {}: skipped, {lacking}", Kind::of(seed).name());
                    if repeated.is_some() {
                        return;
                    }
                    continue;
                }
                let scene = one(seed, &s3, &collections, &program).await;
                tally.lock().unwrap().add(&scene);
                if repeated.is_some() {
                    return;
                }
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended?;
    }
    let tally = tally.lock().unwrap();
    tally.print(begun.elapsed().as_secs_f64());
    anyhow::ensure!(tally.violations.is_empty(), "{} promises were broken; FILEFERRY_SEED=… repeats a scene", tally.violations.len());
    Ok(())
}

async fn one(seed: u64, s3: &Arc<S3Server>, collections: &[Arc<Collection>], program: &Path) -> Scene {
    let mut scene = Scene::new(seed);
    if let Err(error) = scene.play(s3, collections, program).await {
        scene.violations.push(format!("the scene could not be played: {error:#}"));
    }
    println!("{scene}");
    for violation in &scene.violations {
        println!("  {violation}");
    }
    scene
}
