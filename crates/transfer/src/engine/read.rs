//! Reading the pinned source: one range at a time, tried again by itself, so that a throttled store does not
//! restart a file.

use std::ops::Range;

use bytes::Bytes;
use tracing::debug;

use super::Inner;
use crate::error::chain;
use crate::meter::Step;
use crate::plan::FAR_CONNECTIONS;
use crate::retry::Patience;
use crate::source::Pin;
use crate::{Error, ErrorKind, Result, Subject};

/// Ranges in memory for each connection of a file: one is sent, one waits for its confirmation or proof, one for its
/// turn, and one is being read. With fewer a far line stands idle while a range makes room for the next.
const RANGES_PER_CONNECTION: u64 = 4;
/// Smaller ones cost more requests than they fill the line.
const LEAST_SHARE: u64 = 2 << 20;
/// Several files share a far line and the memory: one range is sent and one is being read, or most of them stand idle.
const RANGES_PER_FILE: u64 = 3;
const LEAST_OF_MANY: u64 = 1 << 20;
/// Smaller ranges spread better over the connections, and more of the memory waits where it is needed. Of a larger file the
/// sheet would become long.
const OF_ONE_MIB_BELOW: u64 = 64 << 30;

impl Inner {
    pub(super) fn is_far(&self) -> bool {
        self.pool.target() as u64 >= FAR_CONNECTIONS
    }

    /// The size of the ranges of a file that travels over so many connections.
    pub(super) fn range_size_over(&self, connections: u64, size: u64) -> u64 {
        let share = |ranges: u64, least: u64| self.range_size.min((self.budget.range_bytes() / ranges.max(1)).max(least));
        match connections {
            FAR_CONNECTIONS.. if size < OF_ONE_MIB_BELOW => self.range_size.min(LEAST_OF_MANY),
            FAR_CONNECTIONS.. => share(connections * RANGES_PER_CONNECTION, LEAST_SHARE),
            _ if self.is_far() => share(self.setup.tuning.transfers as u64 * RANGES_PER_FILE, LEAST_OF_MANY),
            _ => self.range_size,
        }
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
