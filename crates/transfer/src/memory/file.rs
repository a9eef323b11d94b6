//! The bytes of one file in memory: sparse, with the state that a crash would leave.

use std::collections::BTreeMap;
use std::sync::Arc;

const BLOCK: u64 = 64 * 1024;

/// Blocks hold what was written; what lies between is zero. Copies share blocks.
#[derive(Debug, Clone, Default)]
pub(super) struct Contents {
    blocks: BTreeMap<u64, Arc<Vec<u8>>>,
    size: u64,
}

impl Contents {
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that take room; holes do not.
    pub fn stored(&self) -> u64 {
        self.blocks.values().map(|block| block.len() as u64).sum()
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let (number, start) = (at / BLOCK, (at % BLOCK) as usize);
            let count = (data.len() - done).min(BLOCK as usize - start);
            let block = Arc::make_mut(self.blocks.entry(number).or_default());
            if block.len() < start + count {
                block.resize(start + count, 0);
            }
            block[start..start + count].copy_from_slice(&data[done..done + count]);
            done += count;
        }
        if !data.is_empty() {
            self.size = self.size.max(offset + data.len() as u64);
        }
    }

    pub fn truncate(&mut self, size: u64) {
        let last = size / BLOCK;
        self.blocks.retain(|number, _| *number < last || *number == last && !size.is_multiple_of(BLOCK));
        if let Some(block) = self.blocks.get_mut(&last) {
            Arc::make_mut(block).truncate((size % BLOCK) as usize);
        }
        self.size = self.size.min(size);
    }

    pub fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let end = self.size.min(offset.saturating_add(length as u64));
        let mut out = vec![0; end.saturating_sub(offset) as usize];
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let (number, start) = (at / BLOCK, (at % BLOCK) as usize);
            let count = (out.len() - done).min(BLOCK as usize - start);
            if let Some(block) = self.blocks.get(&number)
                && block.len() > start
            {
                let have = count.min(block.len() - start);
                out[done..done + have].copy_from_slice(&block[start..start + have]);
            }
            done += count;
        }
        out
    }
}

#[derive(Debug, Default)]
pub(super) struct Node {
    pub now: Contents,
    /// What a crash leaves: the contents at the last sync.
    pub durable: Contents,
    pub modified: Option<jiff::Timestamp>,
    pub permissions: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_what_a_plain_vector_would_hold(writes in prop::collection::vec((0u64..200_000, prop::collection::vec(any::<u8>(), 0..3000)), 0..8), from in 0u64..210_000, length in 0usize..70_000) {
            let (mut contents, mut plain) = (Contents::default(), Vec::new());
            for (offset, data) in &writes {
                contents.write(*offset, data);
                let end = *offset as usize + data.len();
                if !data.is_empty() && plain.len() < end {
                    plain.resize(end, 0);
                }
                if !data.is_empty() {
                    plain[*offset as usize..end].copy_from_slice(data);
                }
            }
            prop_assert_eq!(contents.size(), plain.len() as u64);
            let start = (from as usize).min(plain.len());
            let end = (from as usize + length).min(plain.len());
            prop_assert_eq!(contents.read(from, length), &plain[start..end.max(start)]);
        }
    }

    #[test]
    fn holes_take_no_room() {
        let mut contents = Contents::default();
        contents.write(5 << 30, b"end");
        assert_eq!((contents.size(), contents.stored()), ((5 << 30) + 3, 3));
    }
}
