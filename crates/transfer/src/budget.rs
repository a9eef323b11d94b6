//! The one byte budget of a process: every range and read-back block is drawn from it, so memory stays bounded
//! whatever the sizes and the parallelism.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits are counted in this unit, so that a budget of many GiB fits a semaphore.
const UNIT: u64 = 4096;
/// Ranges may fill this part of the budget…
const RANGE_SHARE: u64 = 2;
/// …and read-back has its own: a range in memory may wait for a block, never a block for a range. What is left over
/// is for packets between us and the network, of which every connection holds about 2 MiB twice.
const BLOCK_SHARE: u64 = 8;

#[derive(Debug, Clone)]
pub struct Budget {
    ranges: Arc<Semaphore>,
    blocks: Arc<Semaphore>,
    range_bytes: u64,
    block_bytes: u64,
}

/// Bytes taken from the budget; they return when this is dropped.
#[derive(Debug)]
pub struct Reserved {
    _permit: OwnedSemaphorePermit,
}

impl Budget {
    pub fn new(total: u64) -> Self {
        let block_bytes = (total / BLOCK_SHARE).max(UNIT * 64);
        let range_bytes = (total / RANGE_SHARE).max(UNIT * 64);
        let semaphore = |bytes: u64| Arc::new(Semaphore::new(bytes.div_ceil(UNIT) as usize));
        Self { ranges: semaphore(range_bytes), blocks: semaphore(block_bytes), range_bytes, block_bytes }
    }

    /// How many bytes of ranges may be in memory at once.
    pub fn range_bytes(&self) -> u64 {
        self.range_bytes
    }

    /// Waits until `bytes` of range are free. More than the whole budget counts as the whole budget: one range
    /// then has it for itself.
    pub async fn range(&self, bytes: u64) -> Reserved {
        Self::take(&self.ranges, bytes, self.range_bytes).await
    }

    /// Waits for memory of one read-back block.
    pub async fn block(&self, bytes: u64) -> Reserved {
        Self::take(&self.blocks, bytes, self.block_bytes).await
    }

    async fn take(semaphore: &Arc<Semaphore>, bytes: u64, all: u64) -> Reserved {
        let units = bytes.min(all).div_ceil(UNIT).max(1) as u32;
        let permit = semaphore.clone().acquire_many_owned(units).await.expect("the budget is never closed");
        Reserved { _permit: permit }
    }
}

/// The range size when `streams` ranges shall be in memory at once: as asked, but shrunk to 4 MiB before
/// parallelism would have to shrink.
pub fn range_size(asked: u64, budget: &Budget, streams: u64) -> u64 {
    const LEAST: u64 = 4 << 20;
    const STEP: u64 = 128 << 10;
    let fair = budget.range_bytes() / streams.max(1);
    let size = asked.min(fair.max(LEAST.min(asked)));
    if size > STEP { size / STEP * STEP } else { size.max(16 << 10) }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SEMANTICS S30: "File data in memory is drawn from one budget per process, `--buffer` (32 MiB): when it is used up, reading
    // waits."
    #[tokio::test]
    async fn a_full_budget_makes_the_next_one_wait() {
        let budget = Budget::new(32 << 20);
        let first = budget.range(budget.range_bytes()).await;
        let waiting = budget.range(1);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert!(futures_util::poll!(Box::pin(budget.block(1))).is_ready(), "read-back has its own share");
        drop(first);
        waiting.await;
    }

    #[test]
    fn ranges_shrink_to_four_mib_before_parallelism_does() {
        let budget = Budget::new(32 << 20);
        assert_eq!(range_size(10 << 20, &budget, 1), 10 << 20);
        assert_eq!(range_size(10 << 20, &budget, 3), (16 << 20) / 3 / (128 << 10) * (128 << 10));
        assert_eq!(range_size(10 << 20, &budget, 25), 4 << 20);
        assert_eq!(range_size(1 << 20, &budget, 25), 1 << 20);
    }
}
