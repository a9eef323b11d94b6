//! One scene: the copy is begun, struck several times, run until it succeeds, and run once more.

use std::fmt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use testkit::proxy::{Direction, Scope};
use testkit::s3::S3Server;
use testkit::sftp::Verdict;

use crate::chance::Chance;
use crate::check::{self, Eye};
use crate::running::{Running, was_killed};
use crate::server::Kind;
use crate::stage::{Armed, Collection, PAST_THE_LEASE, Setting, Stage};
use crate::strike::{Moment, Strike};

/// Every run ends within this (I7).
const LIMIT: Duration = Duration::from_secs(90);
/// Runs until the copy must have succeeded; an open breaker may ask for a minute's patience.
const PATIENCE: Duration = Duration::from_secs(150);
/// What one interruption may cost, as the promise has it: one checkpoint interval for each of two connections, their
/// packets in flight, and what was read and not yet confirmed (the byte budget).
const IN_FLIGHT: u64 = 2 * (16 << 20) + 2 * (2 << 20) + (32 << 20);
/// The same of FTP: the two large files are a stream each, and each may lose one checkpoint interval and what proxy and
/// kernels hold.
const STREAMS_IN_FLIGHT: u64 = 2 * ((16 << 20) + (8 << 20));
/// What logins and handshakes of a run without anything to do may add to the bytes of data connections.
const IDLE: u64 = 64 << 10;

#[derive(Debug)]
pub struct Scene {
    pub seed: u64,
    pub kind: Kind,
    pub struck: Vec<Strike>,
    /// The one that found no run to strike, or did not end it.
    pub missed: Option<Strike>,
    pub interruptions: u64,
    pub sent_again: u64,
    pub most_temporary: usize,
    pub violations: Vec<String>,
    replace: bool,
    runs: u64,
    seconds: f64,
    chance: Chance,
    eye: Eye,
}

impl Scene {
    pub fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let kind = Kind::of(seed);
        Self {
            seed,
            kind,
            struck: Vec::new(),
            missed: None,
            interruptions: 0,
            sent_again: 0,
            most_temporary: 0,
            violations: Vec::new(),
            replace: chance.one_in(3) && kind.replaces(),
            runs: 0,
            seconds: 0.0,
            chance,
            eye: Eye::default(),
        }
    }

    pub async fn play(&mut self, s3: &Arc<S3Server>, collections: &[Arc<Collection>], program: &Path) -> anyhow::Result<()> {
        let begun = Instant::now();
        s3.reset_requests();
        let collection = collections[self.chance.pick(&[0, 0, 0, 1, 1, 2])].clone();
        let (kind, replace, s3) = (self.kind, self.replace, s3.clone());
        let mut stage = Stage::set(Setting { kind, s3, collection, replace, program, stall_timeout: "20s", flags: Vec::new() }).await?;
        let strikes = 1 + self.chance.below(4);
        for index in 0..strikes {
            let strike = Strike::random(&mut self.chance, self.kind, index == 0);
            if !self.strike(&mut stage, strike).await? {
                self.missed = Some(strike);
                break;
            }
            self.interruptions += strike.interruptions();
            self.struck.push(strike);
            self.look(&stage, &format!("after {strike}"), false);
        }
        self.finish(&stage).await?;
        self.once_more(&stage).await?;
        self.look(&stage, "at the end", true);
        check::receipts(&stage, &mut self.violations).await?;
        if !self.struck.iter().any(Strike::is_crash) {
            self.violations.extend(stage.failed_proofs());
        }
        self.seconds = begun.elapsed().as_secs_f64();
        stage.keep(&self.violations);
        Ok(())
    }

    fn look(&mut self, stage: &Stage, when: &str, at_the_end: bool) {
        let mut found = Vec::new();
        let temporary = self.eye.look(stage, at_the_end, &mut found);
        self.most_temporary = self.most_temporary.max(temporary);
        self.violations.extend(found.into_iter().map(|violation| format!("{violation} {when}")));
    }

    /// Plays one strike to its end; `false` when the copy had ended before it fell.
    async fn strike(&mut self, stage: &mut Stage, strike: Strike) -> anyhow::Result<bool> {
        let stop = match strike {
            Strike::Kill(_) => Some(Signal::KILL),
            Strike::Zombie { .. } => Some(Signal::STOP),
            _ => None,
        };
        let moment = match strike {
            Strike::Kill(m) | Strike::Sessions(m) | Strike::Restart(m, _) | Strike::Cut(m, ..) | Strike::Crash(m, _) => m,
            Strike::Zombie { moment, .. } => moment,
        };
        let missing = stage.collection.total.saturating_sub(stage.arrived()).max(2 << 20);
        if let Moment::At { point, nth, done } = moment {
            let verdict = match strike {
                Strike::Kill(_) if done => Verdict::DoneThenDisconnect,
                Strike::Kill(_) => Verdict::Disconnect,
                Strike::Zombie { late_rename: true, wakes_after, .. } => Verdict::Delay(Duration::from_millis(wakes_after)),
                Strike::Zombie { .. } => Verdict::Proceed,
                _ if done => Verdict::Proceed,
                _ => Verdict::Delay(Duration::from_millis(20)),
            };
            stage.tripped.arm(Some(Armed { point, left: nth, signal: stop, verdict }));
        }
        let mut threshold = stage.arrived();
        let mut at_byte = None;
        if let Moment::Share(share) = moment {
            let more = (missing as f64 * share) as u64;
            threshold += more;
            // Every other cut falls in the middle of a packet.
            if let Strike::Cut(_, scope, direction, how) = strike
                && more.is_multiple_of(2)
            {
                let more = match (scope, direction) {
                    // Commands are short.
                    (Scope::Control, _) => more % 8_192,
                    (Scope::All, Direction::ToClient) => more / 4,
                    _ => more,
                };
                at_byte = Some((scope, direction, stage.cut_at(scope, direction, how, more)));
            }
        }
        let mut run = stage.start()?;
        self.runs += 1;
        stage.tripped.pid.store(run.pid, SeqCst);
        let fell = match at_byte {
            Some((scope, direction, at)) => until(&mut run, || stage.passed(scope, direction) >= at).await,
            None => came(stage, &mut run, moment, threshold).await,
        };
        let struck = match strike {
            _ if !fell => false,
            Strike::Kill(_) => {
                run.signal(Signal::KILL);
                true
            }
            Strike::Sessions(_) => {
                stage.end_sessions();
                true
            }
            Strike::Restart(_, pause) => {
                stage.restart(Duration::from_millis(pause)).await?;
                true
            }
            Strike::Cut(_, scope, _, how) => {
                if at_byte.is_none() {
                    stage.cut(scope, how);
                }
                true
            }
            Strike::Crash(_, loss) => {
                stage.crash(loss, &mut self.chance).await?;
                true
            }
            Strike::Zombie { wakes_after, kill_second, .. } => {
                run.signal(Signal::STOP);
                self.second_writer(stage, &mut run, wakes_after, kill_second).await?;
                true
            }
        };
        if stop.is_none() && struck && self.chance.one_in(2) {
            // Misfortunes come in pairs: the client dies while it recovers.
            tokio::time::sleep(Duration::from_millis(self.chance.below(900))).await;
            if run.has_ended().is_none() {
                run.signal(Signal::KILL);
                self.interruptions += 1;
            }
        }
        let status = run.end(LIMIT).await;
        let tripped = stage.tripped.fired.load(SeqCst);
        stage.tripped.arm(None);
        stage.heal();
        let killed = status.is_some_and(was_killed);
        if stop == Some(Signal::KILL) && tripped && !killed {
            // The server ended the session, and the signal came before anybody knew whom to kill: an interruption all the same.
            self.interruptions += 1;
        }
        if !killed {
            self.judge(&run, status, strike.name());
        }
        Ok(struck && (stop != Some(Signal::KILL) || killed))
    }

    /// Another process takes the stopped one's place; some time later that one goes on.
    async fn second_writer(&mut self, stage: &Stage, first: &mut Running, wakes_after: u64, kill: Option<u64>) -> anyhow::Result<()> {
        tokio::time::sleep(PAST_THE_LEASE).await;
        let mut second = stage.start()?;
        self.runs += 1;
        let (wake, kill) = (Duration::from_millis(wakes_after), kill.map(Duration::from_millis));
        let (mut woken, mut killed) = (false, false);
        loop {
            let ended = second.has_ended().is_some();
            let passed = second.begun.elapsed();
            if !woken && passed >= wake {
                first.signal(Signal::CONT);
                woken = true;
            }
            if !killed && kill.is_some_and(|kill| passed >= kill) {
                second.signal(Signal::KILL);
                killed = true;
            }
            if (ended || passed > LIMIT) && woken {
                break;
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        let status = second.end(Duration::from_secs(1)).await;
        if !(killed && status.is_some_and(was_killed)) {
            self.judge(&second, status, "second writer");
        }
        Ok(())
    }

    fn judge(&mut self, run: &Running, status: Option<ExitStatus>, what: &str) {
        self.violations.extend(run.judge(status, what));
    }

    /// Runs the command until it succeeds.
    async fn finish(&mut self, stage: &Stage) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut run = stage.start()?;
            self.runs += 1;
            let status = run.end(LIMIT).await;
            if status.is_some_and(|status| status.success()) {
                break;
            }
            self.judge(&run, status, "again");
            if Instant::now() > until {
                self.violations.push(format!("I7: it never succeeded; {}; {}", run.last_words(), stage.server_log()));
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        // I4. What encryption adds is below one part in a hundred, and a login is a few kilobytes.
        let total = stage.collection.total;
        let (sent, whole) = match self.kind {
            Kind::Sandbox | Kind::FtpSandbox => (stage.arrived(), total + self.runs * 64),
            Kind::File => (stage.served(), stage.collection.large().map(|f| f.content.len()).sum()),
            _ => (stage.arrived(), total + total / 100 + self.runs * (512 << 10)),
        };
        self.sent_again = sent.saturating_sub(whole);
        let crashes = self.struck.iter().filter(|strike| strike.is_crash()).count() as u64;
        let once = match self.kind {
            _ if !self.kind.resumes() => total,
            _ if self.kind.is_ftp() => STREAMS_IN_FLIGHT + stage.collection.small_total,
            _ => IN_FLIGHT + stage.collection.small_total,
        };
        let allowed = self.interruptions * once + crashes * total;
        if self.sent_again > allowed {
            self.violations.push(format!(
                "I4: {:.1} MiB sent again after {} interruptions",
                self.sent_again as f64 / (1 << 20) as f64,
                self.interruptions
            ));
        }
        Ok(())
    }

    /// The same command once more: nothing to do.
    async fn once_more(&mut self, stage: &Stage) -> anyhow::Result<()> {
        let (arrived, read) = (stage.arrived(), stage.objects_read());
        let mut run = stage.start()?;
        let status = run.end(LIMIT).await;
        let summary = run.summary().unwrap_or_default();
        let (more, allowed) = match self.kind {
            Kind::Sandbox | Kind::FtpSandbox => (stage.arrived() - arrived, 0),
            _ if self.kind.is_ftp() => (stage.arrived() - arrived, IDLE),
            _ => (0, 0),
        };
        let idle = summary["delivered"] == 0 && summary["bytes_sent"] == 0 && more <= allowed && stage.objects_read() == read;
        if !status.is_some_and(|status| status.success()) || !idle {
            self.violations.push(format!("second run: {status:?}, {more} bytes, {summary}; {}", run.last_words()));
        }
        Ok(())
    }
}

/// Waits for the moment; `false` when the run ended first.
async fn came(stage: &Stage, run: &mut Running, moment: Moment, threshold: u64) -> bool {
    let begun = run.begun;
    let now = || match moment {
        Moment::Share(_) => stage.arrived() >= threshold,
        Moment::After(time) => begun.elapsed() >= Duration::from_millis(time),
        Moment::At { .. } => stage.tripped.fired.load(SeqCst),
    };
    until(run, now).await
}

/// Waits until it is so; `false` when the run ended first.
pub async fn until(run: &mut Running, so: impl Fn() -> bool) -> bool {
    while !so() {
        if run.has_ended().is_some() {
            return so();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    true
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {} {}{}: {} strikes, {} runs, {:.1} s, {:.1} MiB sent again, {} temporary files, {} violations",
            self.seed,
            self.kind.name(),
            if self.replace { " replace" } else { "" },
            self.struck.len(),
            self.runs,
            self.seconds,
            self.sent_again as f64 / (1 << 20) as f64,
            self.most_temporary,
            self.violations.len()
        )
    }
}
