//! How often and how long after: three attempts without progress, exponential with full jitter.

use std::time::Duration;

#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// Attempts in a row that brought nothing before giving up.
    pub attempts: u32,
    pub base: Duration,
    pub cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { attempts: 3, base: Duration::from_millis(500), cap: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// The wait before try number `tried + 1`: a random time up to `base * 2^tried`, at most `cap`.
    pub fn delay(&self, tried: u32) -> Duration {
        let ceiling = self.base.saturating_mul(1 << tried.min(16)).min(self.cap);
        ceiling.mul_f64(random_fraction())
    }
}

/// Counts attempts that brought nothing. Progress starts the count anew, so that a flapping line that moves
/// forward is never given up (D6).
#[derive(Debug)]
pub struct Patience {
    backoff: Backoff,
    failures: u32,
    seen: u64,
}

impl Patience {
    pub fn new(backoff: Backoff) -> Self {
        Self { backoff, failures: 0, seen: 0 }
    }

    /// What was reached is given up and reached for again: progress counts from nothing.
    pub fn start_over(&mut self) {
        self.seen = 0;
    }

    /// Called after a failure with a measure that grows with progress. `None` means: give up.
    pub fn after_failure(&mut self, progress: u64) -> Option<Duration> {
        if progress > self.seen {
            self.seen = progress;
            self.failures = 0;
        }
        self.failures += 1;
        (self.failures < self.backoff.attempts).then(|| self.backoff.delay(self.failures))
    }
}

fn random_fraction() -> f64 {
    let mut bytes = [0u8; 4];
    // Without randomness the wait is the longest one, which is safe.
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_up_after_three_failures_in_a_row_but_not_while_there_is_progress() {
        let mut patience = Patience::new(Backoff::default());
        assert!(patience.after_failure(0).is_some());
        assert!(patience.after_failure(0).is_some());
        assert!(patience.after_failure(0).is_none());
        let mut patience = Patience::new(Backoff::default());
        for progress in 1..100 {
            assert!(patience.after_failure(progress).is_some());
        }
    }

    #[test]
    fn waits_are_bounded() {
        let backoff = Backoff::default();
        for tried in 0..100 {
            assert!(backoff.delay(tried) <= backoff.cap);
        }
    }
}
