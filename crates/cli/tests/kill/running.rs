//! The program as a child that dies with the test, and what it said.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Exit codes that ask for another run.
const AGAIN: [i32; 2] = [5, 6];
const HARMLESS: [&str; 6] =
    ["network_reset", "network_stalled", "dest_unreachable", "lease_lost", "dest_publish_failed", "source_throttled"];

#[derive(Debug)]
pub struct Running {
    child: Child,
    pub pid: i32,
    pub begun: Instant,
    out: PathBuf,
    err: PathBuf,
    ended: Option<ExitStatus>,
}

impl Running {
    pub fn new(child: Child, out: PathBuf, err: PathBuf) -> Self {
        Self { pid: child.id() as i32, child, begun: Instant::now(), out, err, ended: None }
    }

    pub fn signal(&mut self, signal: Signal) {
        if self.has_ended().is_none() {
            send(self.pid, signal);
        }
    }

    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Waits for its end; `None` when it took longer than allowed and had to be killed.
    pub async fn end(&mut self, limit: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + limit;
        loop {
            if let Some(status) = self.has_ended() {
                return Some(status);
            }
            if Instant::now() > until {
                self.signal(Signal::KILL);
                let _ = self.child.wait();
                return None;
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.err).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().filter(|l| !l.is_empty()).take(4).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    pub fn summary(&self) -> Option<serde_json::Value> {
        let text = std::fs::read_to_string(&self.out).ok()?;
        let mut objects = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        objects.rfind(|o| o["type"] == "summary")
    }

    /// I7 and the exit code of a run that was not killed.
    pub fn judge(&self, status: Option<ExitStatus>, what: &str) -> Option<String> {
        let Some(status) = status else {
            return Some(format!("I7: a run did not end ({what}); {}", self.last_words()));
        };
        let code = status.code().unwrap_or(-1);
        let summary = self.summary().unwrap_or_default();
        let classes: Vec<&str> =
            summary["errors"].as_object().map(|errors| errors.keys().map(String::as_str).collect()).unwrap_or_default();
        let harmful = classes.iter().any(|class| !HARMLESS.contains(class));
        let wrong = code != 0 && (!AGAIN.contains(&code) || harmful);
        wrong.then(|| format!("exit code {code} {classes:?} ({what}); {} {}", summary["error"], self.last_words()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::KILL.as_raw())
}

pub fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // Gone in the meantime is as good.
        let _ = kill_process(pid, signal);
    }
}
