//! Four FTPS servers, five misfortunes, many times: what is found at the destination, and what it cost on the wire.
//!
//! `FILEFERRY_GRID` says how often each of the twenty cells is played (once without it); `FILEFERRY_GRID_CELL` plays those
//! alone whose names hold this text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use testkit::ftp::{FtpProgram, FtpServerOptions, FtpTlsVersion};
use testkit::proxy::{Direction, How, Scope};
use testkit::s3::S3Server;
use tokio::sync::Semaphore;

use crate::chance::Chance;
use crate::check::{self, Eye};
use crate::number;
use crate::play::until;
use crate::running::{Running, was_killed};
use crate::server::Kind;
use crate::stage::{Collection, PAST_THE_LEASE, Setting, Stage};

const MIB: u64 = 1 << 20;
const SERVERS: [Kind; 4] = [Kind::VsftpdTls, Kind::ProftpdTls, Kind::PureFtpdTls, Kind::PyftpdlibTls];
const LIMIT: Duration = Duration::from_secs(120);
/// Of a file that is cut: several checkpoints long.
const CUT_SIZE: u64 = 40_000_017;
/// Slow enough that a random byte of the file is a random moment.
const CUT_RATE: u64 = 60_000_000;
/// One checkpoint interval, and what proxy and kernels hold.
const SENT_AGAIN: u64 = 24 * MIB;
/// What handshakes and records add to a file, at most.
const OVERHEAD: u64 = 256 << 10;
const DISK: u64 = 64 * MIB;
const BALLAST: u64 = 24 * MIB;
const TOO_LARGE: u64 = 60 * MIB;
/// 1 Mbit/s.
const SLOW: u64 = 125_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cell {
    Kill,
    TakeOver,
    ControlCut,
    DiskFull,
    SlowLine,
}

impl Cell {
    const ALL: [Self; 5] = [Self::SlowLine, Self::DiskFull, Self::TakeOver, Self::Kill, Self::ControlCut];

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::TakeOver => "SIGSTOP, take-over, SIGCONT",
            Self::ControlCut => "control connection cut",
            Self::DiskFull => "disk full",
            Self::SlowLine => "1 Mbit/s, TLS 1.3",
        }
    }

    /// How many at the same time: some wait for a line or a server, others need a processor.
    fn at_once(self) -> usize {
        match self {
            Self::SlowLine => 10,
            Self::DiskFull => 3,
            _ => 2,
        }
    }
}

/// Of one repetition, or the worst of many.
#[derive(Debug, Default)]
struct Outcome {
    played: u64,
    violations: Vec<String>,
    skipped: Option<String>,
    /// Bytes of data connections that reached the server beyond those of the file, or all of them on a full disk.
    wire: u64,
    slowest: f64,
}

#[test]
fn grid() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(all()).unwrap();
}

async fn all() -> anyhow::Result<()> {
    let begun = Instant::now();
    let own = tempfile::tempdir()?;
    let program = own.path().join("fileferry");
    std::fs::copy(env!("CARGO_BIN_EXE_fileferry"), &program)?;
    let repetitions = number("FILEFERRY_GRID").unwrap_or(1);
    let wanted = std::env::var("FILEFERRY_GRID_CELL").unwrap_or_default();
    let s3 = Arc::new(S3Server::start().await);
    let numbers = Arc::new(AtomicU64::new(1));
    let results: Arc<Mutex<BTreeMap<(Cell, Kind), Outcome>>> = Arc::default();
    let mut plays = tokio::task::JoinSet::new();
    for cell in Cell::ALL {
        let turn = Arc::new(Semaphore::new(cell.at_once()));
        for repetition in 0..repetitions {
            for kind in SERVERS {
                if !format!("{} {}", cell.name(), kind.name()).contains(&wanted) {
                    continue;
                }
                let (turn, s3, program, results, numbers) = (turn.clone(), s3.clone(), program.clone(), results.clone(), numbers.clone());
                plays.spawn(async move {
                    let _turn = turn.acquire_owned().await.expect("nobody closes it");
                    let play = Play { kind, cell, repetition, number: numbers.fetch_add(1, SeqCst), s3, program };
                    let outcome = play.outcome().await;
                    for violation in &outcome.violations {
                        println!("{} / {} / {repetition}: {violation}", kind.name(), cell.name());
                    }
                    let mut results = results.lock().unwrap();
                    let sum = results.entry((cell, kind)).or_default();
                    sum.played += outcome.played;
                    sum.violations.extend(outcome.violations);
                    sum.skipped = outcome.skipped.or(sum.skipped.take());
                    sum.wire = sum.wire.max(outcome.wire);
                    sum.slowest = sum.slowest.max(outcome.slowest);
                });
            }
        }
    }
    while let Some(ended) = plays.join_next().await {
        ended?;
    }
    let results = results.lock().unwrap();
    println!("\n| server | misfortune | played | violations | most on the wire (MiB) | slowest (s) |\n|---|---|---:|---:|---:|---:|");
    for ((cell, kind), outcome) in results.iter() {
        let wire = outcome.wire as f64 / MIB as f64;
        let (played, violations, slowest) = (outcome.played, outcome.violations.len(), outcome.slowest);
        println!("| {} | {} | {played} | {violations} | {wire:.1} | {slowest:.1} |", kind.name(), cell.name());
    }
    for ((cell, kind), outcome) in results.iter() {
        if let Some(why) = &outcome.skipped {
            println!("skipped: {} / {}: {why}", kind.name(), cell.name());
        }
    }
    let violations: usize = results.values().map(|outcome| outcome.violations.len()).sum();
    println!("{violations} violations, {:.0} s", begun.elapsed().as_secs_f64());
    anyhow::ensure!(violations == 0, "{violations} promises were broken");
    Ok(())
}

struct Play {
    kind: Kind,
    cell: Cell,
    repetition: u64,
    number: u64,
    s3: Arc<S3Server>,
    program: PathBuf,
}

impl Play {
    async fn outcome(&self) -> Outcome {
        let mut outcome = Outcome { played: 1, ..Outcome::default() };
        if let Some(lacking) = self.kind.lacking() {
            return Outcome { skipped: Some(lacking.to_owned()), ..Outcome::default() };
        }
        let begun = Instant::now();
        let played = match self.cell {
            Cell::Kill | Cell::TakeOver | Cell::ControlCut => self.interrupted(&mut outcome).await,
            Cell::DiskFull => self.disk_full(&mut outcome).await,
            Cell::SlowLine => self.slow_line(&mut outcome).await,
        };
        if let Err(error) = played {
            outcome.violations.push(format!("it could not be played: {error:#}"));
        }
        outcome.slowest = begun.elapsed().as_secs_f64();
        outcome
    }

    fn chance(&self) -> Chance {
        let place = SERVERS.iter().position(|kind| *kind == self.kind).unwrap_or_default() as u64;
        Chance::new(self.repetition * 100 + self.cell as u64 * 10 + place)
    }

    async fn stage(
        &self,
        size: u64,
        stall_timeout: &str,
        flags: &[&str],
        change: impl FnOnce(&mut FtpServerOptions),
    ) -> anyhow::Result<Stage> {
        let collection = Arc::new(Collection::one(&self.s3, self.number, size));
        let (kind, s3, program) = (self.kind, self.s3.clone(), self.program.as_path());
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Stage::with(Setting { kind, s3, collection, replace: false, program, stall_timeout, flags }, change).await
    }

    /// A file on its way, and one misfortune at a random byte of it.
    async fn interrupted(&self, outcome: &mut Outcome) -> anyhow::Result<()> {
        let mut chance = self.chance();
        let mut stage = self.stage(CUT_SIZE, "20s", &[], |_| {}).await?;
        stage.line_rate(CUT_RATE);
        let at = (CUT_SIZE as f64 * chance.fraction() * 0.95) as u64;
        let mut run = stage.start()?;
        anyhow::ensure!(until(&mut run, || stage.arrived() >= at).await, "it ended before byte {at}: {}", run.last_words());
        let status = match self.cell {
            Cell::Kill => {
                run.signal(Signal::KILL);
                run.end(LIMIT).await.filter(|status| !was_killed(*status))
            }
            Cell::TakeOver => {
                run.signal(Signal::STOP);
                tokio::time::sleep(PAST_THE_LEASE).await;
                let mut second = stage.start()?;
                tokio::time::sleep(Duration::from_millis(chance.below(2_500))).await;
                run.signal(Signal::CONT);
                let status = second.end(LIMIT).await;
                outcome.violations.extend(second.judge(status, "second writer"));
                run.end(LIMIT).await
            }
            _ => {
                stage.cut(Scope::Control, chance.pick(&[How::Rst, How::Fin]));
                run.end(LIMIT).await
            }
        };
        if self.cell != Cell::Kill || status.is_some() {
            outcome.violations.extend(run.judge(status, self.cell.name()));
        }
        finish(&stage, &mut run, outcome).await?;
        let sent = stage.arrived();
        outcome.wire = sent.saturating_sub(CUT_SIZE);
        if outcome.wire > SENT_AGAIN + CUT_SIZE / 100 + OVERHEAD {
            outcome.violations.push(format!("I4: {sent} bytes for {CUT_SIZE}, interrupted at {at}"));
        }
        stage.keep(&outcome.violations);
        Ok(())
    }

    /// A full disk is told as such, costs less than twice its size, leaves nothing behind, and does no harm once freed.
    async fn disk_full(&self, outcome: &mut Outcome) -> anyhow::Result<()> {
        let mount_point = tempfile::Builder::new().prefix("small-disk-").tempdir()?;
        let Some(disk) = SmallDisk::mount(mount_point.path())? else {
            *outcome = Outcome { skipped: Some("mounting a tmpfs needs root".to_owned()), ..Outcome::default() };
            return Ok(());
        };
        let root = disk.0.clone();
        let mut stage = self.stage(TOO_LARGE, "5s", &[], move |options| options.root = Some(root)).await?;
        let ballast = disk.0.join("ballast");
        std::fs::write(&ballast, vec![1; BALLAST as usize])?;
        let mut run = stage.start()?;
        let status = run.end(LIMIT).await;
        let summary = run.summary().unwrap_or_default();
        let code = status.and_then(|status| status.code());
        if code != Some(26) || summary["errors"]["dest_no_space"] != 1 || summary["held"] != 1 {
            outcome.violations.push(format!("a full disk ended with {status:?} {summary}; {}", run.last_words()));
        }
        outcome.wire = stage.arrived();
        if outcome.wire >= 2 * (DISK - BALLAST) {
            outcome.violations.push(format!("{} bytes were sent to a disk of {}", outcome.wire, DISK - BALLAST));
        }
        let left: Vec<_> = std::fs::read_dir(&disk.0)?.flatten().map(|entry| entry.file_name()).filter(|name| name != "ballast").collect();
        if !left.is_empty() {
            outcome.violations.push(format!("left on the full disk: {left:?}"));
        }
        std::fs::remove_file(&ballast)?;
        let mut run = stage.start()?;
        let status = run.end(LIMIT).await;
        if !status.is_some_and(|status| status.success()) {
            outcome.violations.push(format!("with space again it ended with {status:?}; {}", run.last_words()));
        }
        Eye::default().look(&stage, true, &mut outcome.violations);
        stage.keep(&outcome.violations);
        // Its server and its files go before the disk.
        drop(stage);
        Ok(())
    }

    /// Sent exactly once and acknowledged, although the tail of each file waits in buffers when the client is through.
    async fn slow_line(&self, outcome: &mut Outcome) -> anyhow::Result<()> {
        let size = 300_000 + self.chance().below(700_000);
        let only = |options: &mut FtpServerOptions| {
            // Pure-FTPd cannot be told; the client's demand is enough.
            if self.kind.ftp().is_some_and(|(program, _)| program != FtpProgram::PureFtpd) {
                options.tls_version = FtpTlsVersion::Only13;
            }
        };
        let mut stage = self.stage(size, "20s", &["--tls-min", "1.3"], only).await?;
        stage.line_rate(SLOW);
        let mut run = stage.start()?;
        let status = run.end(LIMIT).await;
        if !status.is_some_and(|status| status.success()) {
            outcome.violations.push(format!("it ended with {status:?}; {}; {}", run.last_words(), stage.server_log()));
        }
        Eye::default().look(&stage, true, &mut outcome.violations);
        check::receipts(&stage, &mut outcome.violations).await?;
        let sent = stage.passed(Scope::Data, Direction::ToServer);
        outcome.wire = sent.saturating_sub(size);
        if sent > size + size / 50 + (32 << 10) {
            outcome.violations.push(format!("{sent} bytes for {size}"));
        }
        stage.keep(&outcome.violations);
        Ok(())
    }
}

/// Runs the command until it succeeds, and looks at what is there.
async fn finish(stage: &Stage, run: &mut Running, outcome: &mut Outcome) -> anyhow::Result<()> {
    let until = Instant::now() + LIMIT;
    let mut status = run.has_ended();
    while !status.is_some_and(|status| status.success()) {
        let mut again = stage.start()?;
        status = again.end(LIMIT).await;
        outcome.violations.extend(again.judge(status, "again"));
        if Instant::now() > until {
            outcome.violations.push(format!("it never succeeded; {}; {}", again.last_words(), stage.server_log()));
            break;
        }
    }
    Eye::default().look(stage, true, &mut outcome.violations);
    outcome.violations.extend(stage.failed_proofs());
    check::receipts(stage, &mut outcome.violations).await
}

struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` for whoever may not mount.
    fn mount(on: &Path) -> anyhow::Result<Option<Self>> {
        let options = format!("size={DISK},mode=755");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(on).output();
        Ok(done.is_ok_and(|output| output.status.success()).then(|| Self(on.to_owned())))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}
