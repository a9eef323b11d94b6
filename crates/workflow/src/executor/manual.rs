//! A clock that stands still until it is told otherwise, for tests: time passes, the wall clock is set, the machine sleeps.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use super::clock::Clock;

/// Clones show the same time.
#[derive(Debug, Clone)]
pub struct ManualClock {
    steady: Arc<watch::Sender<Duration>>,
    /// Wall time at steady time zero.
    origin: Arc<Mutex<Timestamp>>,
    sleepers: Arc<Mutex<BTreeMap<Duration, usize>>>,
}

impl ManualClock {
    pub fn new(wall: Timestamp) -> Self {
        Self { steady: Arc::new(watch::Sender::new(Duration::ZERO)), origin: Arc::new(Mutex::new(wall)), sleepers: Arc::default() }
    }

    /// Time passes, all of it at once.
    pub fn advance(&self, by: Duration) {
        self.steady.send_modify(|steady| *steady += by);
    }

    /// The steady time for which somebody waits first.
    pub fn next_sleeper(&self) -> Option<Duration> {
        self.sleepers().first_key_value().map(|(until, _)| *until)
    }

    fn sleepers(&self) -> MutexGuard<'_, BTreeMap<Duration, usize>> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody sets the wall clock.
    pub fn set_wall(&self, by: SignedDuration) {
        let mut origin = self.origin.lock().unwrap_or_else(PoisonError::into_inner);
        *origin = origin.checked_add(by).unwrap_or(*origin);
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn wall(&self) -> Timestamp {
        let passed = SignedDuration::try_from(*self.steady.borrow()).unwrap_or(SignedDuration::MAX);
        let origin = *self.origin.lock().unwrap_or_else(PoisonError::into_inner);
        origin.checked_add(passed).unwrap_or(Timestamp::MAX)
    }

    fn steady(&self) -> Duration {
        *self.steady.borrow()
    }

    async fn sleep_until(&self, until: Duration) {
        let _sleeper = Sleeper::new(self, until);
        // The sender lives as long as this clock, so that waiting cannot fail.
        let _ = self.steady.subscribe().wait_for(|steady| *steady >= until).await;
    }
}

struct Sleeper<'a>(&'a ManualClock, Duration);

impl<'a> Sleeper<'a> {
    fn new(clock: &'a ManualClock, until: Duration) -> Self {
        *clock.sleepers().entry(until).or_default() += 1;
        Self(clock, until)
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        let mut sleepers = self.0.sleepers();
        if let Some(count) = sleepers.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                sleepers.remove(&self.1);
            }
        }
    }
}
