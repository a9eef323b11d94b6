//! Time as an executor sees it: the wall clock, which people and time servers set, kept apart from the time that passes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};

#[async_trait]
pub trait Clock: Send + Sync + 'static {
    fn wall(&self) -> Timestamp;

    /// Since some moment; nobody can set it, and it counts the time that the machine was asleep.
    fn steady(&self) -> Duration;

    /// Returns when `steady` has reached `until`. May be late.
    async fn sleep_until(&self, until: Duration);
}

/// The clocks of the operating system.
#[derive(Debug)]
pub struct SystemClock {
    began: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { began: Instant::now() }
    }
}

#[async_trait]
impl Clock for SystemClock {
    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }

    #[cfg(target_os = "linux")]
    fn steady(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let (seconds, nanoseconds) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
        seconds.and_then(|seconds| Ok(Duration::new(seconds, nanoseconds?))).unwrap_or_else(|_| self.began.elapsed())
    }

    #[cfg(not(target_os = "linux"))]
    fn steady(&self) -> Duration {
        self.began.elapsed()
    }

    async fn sleep_until(&self, until: Duration) {
        tokio::time::sleep(until.saturating_sub(self.steady())).await;
    }
}

/// Differences below it are put down to reading two clocks one after the other, and to time servers that nudge.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(1);

/// A moment, and by how much the wall clock has been set since the executor began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    pub now: Timestamp,
    pub moved: SignedDuration,
}

/// The time by which executions live. It passes as steady time does and stays with the wall clock: when that is set, the
/// timeline goes along, and says so, so that what was counted from the old time can be moved too.
pub(super) struct Timeline {
    clock: Arc<dyn Clock>,
    anchor: Mutex<Anchor>,
}

struct Anchor {
    wall: Timestamp,
    steady: Duration,
    moved: SignedDuration,
}

impl Timeline {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let (steady, wall) = read(&*clock);
        Self { clock, anchor: Mutex::new(Anchor { wall, steady, moved: SignedDuration::ZERO }) }
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(super) fn now(&self) -> Moment {
        let mut anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        let (steady, wall) = read(&*self.clock);
        let passed = SignedDuration::try_from(steady.saturating_sub(anchor.steady)).unwrap_or(SignedDuration::MAX);
        let expected = anchor.wall.checked_add(passed).unwrap_or(Timestamp::MAX);
        let off = wall.duration_since(expected);
        if off.abs() <= TOLERANCE {
            return Moment { now: expected, moved: anchor.moved };
        }
        let moved = anchor.moved.saturating_add(off);
        *anchor = Anchor { wall, steady, moved };
        Moment { now: wall, moved }
    }
}

/// Both clocks, read so close to each other that a process stopped in between does not look like a clock that was set.
fn read(clock: &dyn Clock) -> (Duration, Timestamp) {
    loop {
        let before = clock.steady();
        let wall = clock.wall();
        if clock.steady().saturating_sub(before) < Duration::from_millis(100) {
            return (before, wall);
        }
    }
}
