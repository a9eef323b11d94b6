//! `--bwlimit`: one token bucket for everything that is written.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Blocks handed out at once when a limit is on; small enough that slow limits stay smooth.
pub const LIMITED_BLOCK: usize = 64 << 10;

#[derive(Debug)]
pub struct Limiter {
    rate: Option<u64>,
    /// The moment from which the next bytes may flow.
    next: Mutex<Option<Instant>>,
}

impl Limiter {
    pub fn new(rate: Option<u64>) -> Self {
        Self { rate, next: Mutex::new(None) }
    }

    pub fn is_limited(&self) -> bool {
        self.rate.is_some()
    }

    /// Returns when `bytes` may be sent.
    pub async fn take(&self, bytes: usize) {
        let Some(rate) = self.rate else { return };
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let start = {
            let mut next = self.next.lock().expect("no panic while holding the lock");
            let now = Instant::now();
            let start = next.map_or(now, |at| at.max(now));
            *next = Some(start + cost);
            start
        };
        tokio::time::sleep_until(start.into()).await;
    }
}
