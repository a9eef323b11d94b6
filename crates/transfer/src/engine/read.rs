//! Reading the pinned source: one range at a time, tried again by itself, so that a throttled store does not
//! restart a file.

use std::ops::Range;

use bytes::Bytes;
use tracing::debug;

use super::Inner;
use crate::error::chain;
use crate::meter::Step;
use crate::retry::Patience;
use crate::source::Pin;
use crate::{Error, ErrorKind, Result, Subject};

/// Ranges in memory for each connection of a file: one is sent, one waits for its confirmation or proof, one for its
/// turn, and one is being read. With fewer a far line stands idle while a range makes room for the next.
const RANGES_PER_CONNECTION: u64 = 4;
/// Smaller ones cost more requests than they fill the line.
const LEAST_SHARE: u64 = 2 << 20;

impl Inner {
    /// The size of the ranges of a file that travels over so many connections.
    pub(super) fn range_size_over(&self, connections: u64) -> u64 {
        let share = self.budget.range_bytes() / (connections.max(1) * RANGES_PER_CONNECTION);
        if connections < 3 { self.range_size } else { self.range_size.min(share.max(LEAST_SHARE)) }
    }

    /// Reads a range, with up to three attempts. The error of the last one is final for this file.
    pub(super) async fn read_range(&self, pin: &Pin, range: Range<u64>) -> Result<Bytes> {
        self.ask_source(|| self.setup.source.read(pin, range.clone())).await
    }

    /// Looks at the source object as it is now.
    pub(super) async fn look_at(&self, pin: &Pin) -> Result<Pin> {
        self.ask_source(|| self.setup.source.pin(&pin.key, pin.version.as_deref())).await
    }

    async fn ask_source<T, F: Future<Output = Result<T>>>(&self, ask: impl Fn() -> F) -> Result<T> {
        let mut patience = Patience::new(self.setup.tuning.backoff);
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.is_retryable() => {
                    let Some(wait) = patience.after_failure(0) else { return Err(error.exhausted()) };
                    debug!(error = %chain(&error), "reading again");
                    self.setup.meter.retried();
                    self.pause(wait).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits, but not longer than the run goes on.
    pub(super) async fn pause(&self, wait: std::time::Duration) -> Result<()> {
        let _step = self.setup.meter.step(Step::Waiting);
        tokio::select! {
            _ = tokio::time::sleep(wait) => Ok(()),
            _ = self.halt.cancelled() => Err(Error::new(ErrorKind::Cancelled, "try again", Subject::Nothing)),
        }
    }
}
