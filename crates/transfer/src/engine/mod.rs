//! The engine: takes files from a feed and delivers each one, many at a time, over shared connections.
//! Decides by capabilities; no protocol's name appears here.

mod directories;
mod dock;
mod file;
mod known;
mod leave;
mod open;
mod prove;
mod publish;
mod queue;
mod ranges;
mod read;
mod send;
mod stream;
mod turn;
mod whole;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use model::{Ability, Bandwidth, RemotePath, TempName, Thresholds, TransferId};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::budget::Budget;
use crate::limit::Limiter;
use crate::meter::Meter;
use crate::pool::Pool;
use crate::port::{Feed, Ledger, Logins, PublishGate, SizeClass, Wishes};
use crate::retry::Backoff;
use crate::source::Source;
use crate::{Connector, Error, ErrorKind, Result, Subject};
use directories::Directories;
pub use dock::Dock;
use known::Doubt;
pub use known::{Known, Learned};
use turn::Turn;

pub(crate) use prove::SAMPLE_BYTES_PER_RANGE;

/// How the machine is to be used; none of it changes what is delivered.
#[derive(Debug, Clone)]
pub struct Tuning {
    pub connections: Option<usize>,
    /// Large files at once.
    pub transfers: usize,
    /// Bounds small files in flight together with the connections' own limit.
    pub lanes: usize,
    pub range_size: u64,
    pub budget: u64,
    pub bandwidth: Bandwidth,
    pub backoff: Backoff,
    /// From this round trip on a server counts as far; `pool::FAR` as a rule.
    pub far: Duration,
    pub thresholds: Thresholds,
}

/// Small files in flight on one lane.
const FILES_PER_LANE: usize = 16;
/// Small files in flight at most, so that a slow answer does not hold hundreds of buffers.
const SMALL_IN_FLIGHT: usize = 256;

/// Everything one run needs.
pub struct Setup {
    pub transfer: TransferId,
    pub run: u32,
    /// The epoch of the lease under which this process writes.
    pub epoch: u32,
    pub source: Arc<dyn Source>,
    pub connector: Arc<dyn Connector>,
    pub ledger: Arc<dyn Ledger>,
    pub gate: Arc<dyn PublishGate>,
    pub logins: Arc<dyn Logins>,
    pub meter: Arc<Meter>,
    pub wishes: Wishes,
    pub tuning: Tuning,
    /// The directory below which everything is delivered.
    pub root: RemotePath,
    pub temp_name: TempName,
    /// First Ctrl-C, SIGTERM, cancel: finish what is confirmed, leave the rest for a resume.
    pub stop: CancellationToken,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Setup({})", self.transfer)
    }
}

#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    setup: Setup,
    pool: Arc<Pool>,
    budget: Budget,
    limiter: Arc<Limiter>,
    directories: Directories,
    range_size: u64,
    /// What the first file found out about offset writes; `None` until then.
    offsets: Mutex<Option<bool>>,
    /// And about going on with a cut stream.
    continues: Mutex<Option<bool>>,
    known: Known,
    learned: Mutex<Learned>,
    /// What is not as it was known; for receipts.
    changed: Mutex<Vec<String>>,
    doubt: Mutex<Doubt>,
    /// Held while one file finds that out, so that the others wait for its answer.
    learning: tokio::sync::Mutex<()>,
    /// Reading back was refused for good: nobody waits to ask twice any more.
    reads_refused: AtomicBool,
    /// An error that no other file can escape: a refused login, a lost lease.
    halted: Mutex<Option<Error>>,
    halt: CancellationToken,
    /// A stop came while a file was under way; it is left for a resume.
    interrupted: AtomicBool,
}

impl Inner {
    /// A run at its beginning: what is known to be refused is not tried, everything else is open.
    fn new(setup: Setup, known: Known, dock: Dock) -> Self {
        let Dock { pool, budget, limiter, range_size } = dock;
        Self {
            pool,
            budget,
            limiter,
            directories: Directories::new(setup.root.clone()),
            range_size,
            offsets: Mutex::new(known.refused.contains(&Ability::OffsetWrites).then_some(false)),
            continues: Mutex::new(known.refused.contains(&Ability::Continues).then_some(false)),
            learned: Mutex::default(),
            changed: Mutex::default(),
            doubt: Mutex::new(if known.refused.contains(&Ability::Rename) { Doubt::Renames } else { Doubt::Nothing }),
            known,
            learning: tokio::sync::Mutex::default(),
            reads_refused: AtomicBool::new(false),
            halted: Mutex::new(None),
            halt: setup.stop.child_token(),
            interrupted: AtomicBool::new(false),
            setup,
        }
    }
}

impl Engine {
    pub fn new(setup: Setup) -> Self {
        Self::knowing(setup, Known::default())
    }

    /// With what an earlier look at the server has shown.
    pub fn knowing(setup: Setup, known: Known) -> Self {
        let dock = Dock::new(setup.connector.clone(), setup.logins.clone(), setup.meter.clone(), &setup.tuning, known.logins);
        Self::at(&dock, setup, known)
    }

    /// Over the connections, the memory and the speed limit of a dock. What the setup says of those is not used.
    pub fn at(dock: &Dock, setup: Setup, known: Known) -> Self {
        Self { inner: Arc::new(Inner::new(setup, known, dock.clone())) }
    }

    /// A second engine at the same dock, for what goes with the files.
    pub fn beside(&self, setup: Setup) -> Self {
        Self::at(&self.dock(), setup, Known::default())
    }

    fn dock(&self) -> Dock {
        let Inner { pool, budget, limiter, range_size, .. } = &*self.inner;
        Dock { pool: pool.clone(), budget: budget.clone(), limiter: limiter.clone(), range_size: *range_size }
    }

    /// Files up to this size travel in one range.
    pub fn small_up_to(&self) -> u64 {
        self.inner.range_size
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.inner.pool
    }

    /// What this run has found out so far.
    pub fn learned(&self) -> Learned {
        let mut learned = self.inner.learned.lock().expect("no panic while holding the lock").clone();
        learned.logins = self.inner.pool.granted();
        learned
    }

    /// Delivers everything the feed has. Failures of single files go to the ledger; an error here concerns all of
    /// them. After a stop it returns `cancelled` when files were left.
    pub async fn run(&self, feed: Arc<dyn Feed>) -> Result<()> {
        let tuning = &self.inner.setup.tuning;
        let small = (tuning.lanes.max(1) * FILES_PER_LANE).min(SMALL_IN_FLIGHT);
        let small = self.drive(feed.clone(), SizeClass::Small, small);
        let large = self.drive(feed, SizeClass::Large, tuning.transfers.max(1));
        let (small, large) = tokio::join!(small, large);
        let halted = self.inner.halted.lock().expect("no panic while holding the lock").take();
        match halted {
            Some(error) => Err(error),
            None if self.inner.interrupted.load(Relaxed) => Err(file::cancelled()),
            None => small.and(large),
        }
    }

    async fn drive(&self, feed: Arc<dyn Feed>, class: SizeClass, at_once: usize) -> Result<()> {
        let slots = Arc::new(Semaphore::new(at_once));
        let mut files = JoinSet::new();
        let outcome = loop {
            let slot = tokio::select! {
                biased;
                _ = self.inner.halt.cancelled() => break Err(file::cancelled()),
                slot = slots.clone().acquire_owned() => slot.expect("the semaphore is never closed"),
            };
            while files.try_join_next().is_some() {}
            let next = tokio::select! {
                biased;
                _ = self.inner.halt.cancelled() => break Err(file::cancelled()),
                next = feed.next(class) => next,
            };
            let task = match next {
                Ok(Some(task)) => task,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            let (inner, turn) = (self.inner.clone(), Turn::of(&slots, slot));
            files.spawn(async move {
                file::deliver(inner, task, turn).await;
            });
        };
        while let Some(joined) = files.join_next().await {
            if let Err(error) = joined {
                self.inner.halt(Error::new(ErrorKind::Internal, "finish a file", crate::Subject::Nothing).because(error));
            }
        }
        outcome
    }
}

impl Inner {
    /// Stops the whole run for an error that every other file would meet too.
    fn halt(&self, error: Error) {
        let mut halted = self.halted.lock().expect("no panic while holding the lock");
        if halted.is_none() {
            debug!(error = %crate::error::chain(&error), "halting the run");
            *halted = Some(error);
        }
        self.halt.cancel();
    }

    /// Whether an error of one file concerns all of them.
    fn concerns_all(error: &Error) -> bool {
        match error.kind {
            ErrorKind::DestAuth | ErrorKind::DestHostKey | ErrorKind::DestTls | ErrorKind::LeaseLost => true,
            // A server that may not be connected to; a single file may be forbidden too.
            ErrorKind::PolicyDenied => matches!(error.subject(), Subject::Server(_)),
            // No file is given up for it: what is sent is kept, for when the records can be written again.
            ErrorKind::Internal => *error.subject() == Subject::Records,
            _ => false,
        }
    }

    fn offsets_work(&self) -> Option<bool> {
        *self.offsets.lock().expect("no panic while holding the lock")
    }

    fn learn_offsets(&self, work: bool) {
        self.learn(Ability::OffsetWrites, work, || "a mark was written at an offset of a temporary file and looked for".to_owned());
        *self.offsets.lock().expect("no panic while holding the lock") = Some(work);
    }

    fn continues(&self) -> Option<bool> {
        *self.continues.lock().expect("no panic while holding the lock")
    }

    fn learn_continues(&self, works: bool, words: &str) {
        self.learn(Ability::Continues, works, || words.to_owned());
        *self.continues.lock().expect("no panic while holding the lock") = Some(works);
    }
}
