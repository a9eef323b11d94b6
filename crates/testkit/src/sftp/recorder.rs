//! What the server saw: operations, names, counters. Tests assert with it what was never sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::operation::Operation;

/// Operations beyond this many are counted and not kept, so that a long demonstration stays small.
const MAX_OPERATIONS: usize = 200_000;

/// A number that goes up and down, and how high it ever was.
#[derive(Debug, Default)]
pub struct Gauge {
    now: AtomicUsize,
    highest: AtomicUsize,
}

impl Gauge {
    pub fn now(&self) -> usize {
        self.now.load(Ordering::SeqCst)
    }

    pub fn highest(&self) -> usize {
        self.highest.load(Ordering::SeqCst)
    }

    pub(crate) fn up(&self) {
        self.up_to(usize::MAX);
    }

    /// Up, unless that would be more than `limit`.
    pub(crate) fn up_to(&self, limit: usize) -> bool {
        let risen = self.now.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| (now < limit).then_some(now + 1));
        if let Ok(before) = risen {
            self.highest.fetch_max(before + 1, Ordering::SeqCst);
        }
        risen.is_ok()
    }

    pub(crate) fn down(&self) {
        self.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Login attempts by method; an attempt is a credential that was really presented (a key with its signature).
#[derive(Debug, Default)]
pub struct Attempts {
    pub none: AtomicUsize,
    pub key: AtomicUsize,
    pub password: AtomicUsize,
    pub question: AtomicUsize,
}

impl Attempts {
    /// Credentials presented, right or wrong.
    pub fn credentials(&self) -> usize {
        [&self.key, &self.password, &self.question].iter().map(|count| count.load(Ordering::SeqCst)).sum()
    }
}

#[derive(Debug, Default)]
pub struct Recorder {
    operations: Mutex<Vec<Operation>>,
    names: Mutex<BTreeSet<Arc<str>>>,
    written: Mutex<BTreeMap<Arc<str>, u64>>,
    pub attempts: Attempts,
    /// TCP connections, logged in or not.
    pub connections: Gauge,
    /// Those let in; one refused because of `Behaviour::logins` is in `refused_logins` instead.
    pub logins: Gauge,
    pub refused_logins: AtomicUsize,
    pub channels: Gauge,
    pub open_files: Gauge,
    operations_seen: AtomicU64,
    bytes_written: AtomicU64,
    bytes_read: AtomicU64,
    writes: AtomicU64,
}

impl Recorder {
    /// The operations seen so far, in order; the first 200,000 of them.
    pub fn operations(&self) -> Vec<Operation> {
        lock(&self.operations).clone()
    }

    /// How many operations there were that `choose` accepts.
    pub fn count(&self, choose: impl Fn(&Operation) -> bool) -> usize {
        lock(&self.operations).iter().filter(|operation| choose(operation)).count()
    }

    /// Every name that any operation mentioned.
    pub fn paths(&self) -> BTreeSet<String> {
        lock(&self.operations).iter().filter_map(|operation| operation.path().map(str::to_owned)).collect()
    }

    /// Every name a file ever had here: created, renamed to, or linked.
    pub fn names(&self) -> BTreeSet<String> {
        lock(&self.names).iter().map(|name| name.to_string()).collect()
    }

    /// Bytes of acknowledged writes, counted as often as they were sent.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Ordering::SeqCst)
    }

    /// The same for one file, by the name it was opened with.
    pub fn bytes_written_to(&self, path: &str) -> u64 {
        lock(&self.written).get(path).copied().unwrap_or(0)
    }

    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::SeqCst)
    }

    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::SeqCst)
    }

    /// All operations, also those that were not kept.
    pub fn operations_seen(&self) -> u64 {
        self.operations_seen.load(Ordering::SeqCst)
    }

    /// Forgets operations, names and byte counts; the gauges go on.
    pub fn clear(&self) {
        lock(&self.operations).clear();
        lock(&self.names).clear();
        lock(&self.written).clear();
        for counter in [&self.operations_seen, &self.bytes_written, &self.bytes_read, &self.writes] {
            counter.store(0, Ordering::SeqCst);
        }
    }

    pub(crate) fn saw(&self, operation: &Operation) {
        self.operations_seen.fetch_add(1, Ordering::SeqCst);
        let mut operations = lock(&self.operations);
        if operations.len() < MAX_OPERATIONS {
            operations.push(operation.clone());
        }
    }

    pub(crate) fn named(&self, path: &Arc<str>) {
        lock(&self.names).insert(path.clone());
    }

    /// Returns how many writes there have been.
    pub(crate) fn wrote(&self, path: &Arc<str>, bytes: u64) -> u64 {
        self.bytes_written.fetch_add(bytes, Ordering::SeqCst);
        let mut written = lock(&self.written);
        match written.get_mut(path) {
            Some(count) => *count += bytes,
            None => {
                written.insert(path.clone(), bytes);
            }
        }
        drop(written);
        self.writes.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(crate) fn read(&self, bytes: u64) {
        self.bytes_read.fetch_add(bytes, Ordering::SeqCst);
    }
}

/// A panic in one test's hook must not hide what the others recorded.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
