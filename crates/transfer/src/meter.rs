//! Progress: counters that anyone may read at any time. Lossy by nature and never in the data path.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

#[derive(Debug, Default)]
pub struct Meter {
    files_total: AtomicU64,
    bytes_total: AtomicU64,
    files_done: AtomicU64,
    files_failed: AtomicU64,
    /// Bytes of files that are where they should be, counting what is under way.
    bytes_done: AtomicU64,
    /// Bytes handed to the destination, repeats included.
    bytes_sent: AtomicU64,
    /// Bytes read back as proof.
    bytes_proved: AtomicU64,
    active: [AtomicU64; STEPS.len()],
    connections: AtomicU64,
    retries: AtomicU64,
    /// Counts what several of its kind do together.
    whole: Option<Arc<Meter>>,
}

/// What a file is going through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Preparing,
    Sending,
    Verifying,
    Publishing,
    Waiting,
}

const STEPS: [(Step, &str); 5] = [
    (Step::Preparing, "preparing"),
    (Step::Sending, "sending"),
    (Step::Verifying, "verifying"),
    (Step::Publishing, "publishing"),
    (Step::Waiting, "waiting to retry"),
];

/// One look at the counters.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Snapshot {
    pub files_total: u64,
    pub files_done: u64,
    pub files_failed: u64,
    pub bytes_total: u64,
    pub bytes_done: u64,
    pub bytes_sent: u64,
    pub bytes_proved: u64,
    pub connections: u64,
    pub retries: u64,
    pub step: &'static str,
}

impl Meter {
    /// A part of what `whole` counts: work done here shows there too, and the connections of all are shown here.
    pub fn part_of(whole: Arc<Meter>) -> Self {
        Self { whole: Some(whole), ..Self::default() }
    }

    pub fn expect(&self, files: u64, bytes: u64) {
        self.files_total.fetch_add(files, Relaxed);
        self.bytes_total.fetch_add(bytes, Relaxed);
    }

    pub fn sent(&self, bytes: u64) {
        self.bytes_sent.fetch_add(bytes, Relaxed);
        if let Some(whole) = &self.whole {
            whole.sent(bytes);
        }
    }

    pub fn done(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Relaxed);
    }

    /// Takes back what turned out not to be there.
    pub fn undone(&self, bytes: u64) {
        self.bytes_done.fetch_sub(bytes.min(self.bytes_done.load(Relaxed)), Relaxed);
    }

    pub fn proved(&self, bytes: u64) {
        self.bytes_proved.fetch_add(bytes, Relaxed);
    }

    pub fn file_finished(&self, success: bool) {
        let counter = if success { &self.files_done } else { &self.files_failed };
        counter.fetch_add(1, Relaxed);
        if let Some(whole) = &self.whole {
            whole.file_finished(success);
        }
    }

    pub fn retried(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    pub fn connections(&self, open: u64) {
        self.connections.store(open, Relaxed);
    }

    /// Marks a file as being in `step` until the guard is dropped.
    pub fn step(&self, step: Step) -> StepGuard<'_> {
        let counter = &self.active[STEPS.iter().position(|(s, _)| *s == step).expect("every step is in the table")];
        counter.fetch_add(1, Relaxed);
        StepGuard { counter }
    }

    pub fn snapshot(&self) -> Snapshot {
        let busiest = STEPS.iter().zip(&self.active).max_by_key(|(_, n)| n.load(Relaxed)).filter(|(_, n)| n.load(Relaxed) > 0);
        Snapshot {
            files_total: self.files_total.load(Relaxed),
            files_done: self.files_done.load(Relaxed),
            files_failed: self.files_failed.load(Relaxed),
            bytes_total: self.bytes_total.load(Relaxed),
            bytes_done: self.bytes_done.load(Relaxed),
            bytes_sent: self.bytes_sent.load(Relaxed),
            bytes_proved: self.bytes_proved.load(Relaxed),
            connections: self.whole.as_deref().unwrap_or(self).connections.load(Relaxed),
            retries: self.retries.load(Relaxed),
            step: busiest.map_or("", |((_, name), _)| name),
        }
    }
}

#[derive(Debug)]
pub struct StepGuard<'a> {
    counter: &'a AtomicU64,
}

impl Drop for StepGuard<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Relaxed);
    }
}
