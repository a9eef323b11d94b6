//! Spacing of bytes in time, for bandwidth limits.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

/// Lets bytes pass at a rate. Shared by everything that goes through the same pipe.
#[derive(Debug, Default)]
pub struct Pacer {
    free_at: Mutex<Option<Instant>>,
}

impl Pacer {
    pub fn new() -> Self {
        Self::default()
    }

    /// Books `bytes` at `bytes_per_second` and returns when they have passed.
    pub fn book(&self, bytes: u64, bytes_per_second: u64) -> Instant {
        let now = Instant::now();
        let mut free_at = self.free_at.lock().expect("no panic while booking");
        let start = free_at.map_or(now, |at| at.max(now));
        let end = start + Duration::from_secs_f64(bytes as f64 / bytes_per_second.max(1) as f64);
        *free_at = Some(end);
        end
    }
}

/// Bytes to pass at once: about 20 ms of the rate, so that a limit is smooth and not a series of bursts.
pub fn piece(bytes_per_second: u64) -> usize {
    (bytes_per_second / 50).clamp(1024, 256 * 1024) as usize
}
