//! What is remembered of a file that is sent as one stream to a server that confirms nothing before the end: the places
//! from which the stream can be continued, the samples to compare afterwards, and how far reading back has come.
//! Pure bookkeeping, stored with the checkpoint.

use model::Crc64;
use serde::{Deserialize, Serialize};

use crate::digest::{DigestState, combine, crc64};

/// So many bytes before a boundary are read back before the stream goes on behind them.
pub const TAIL: u64 = 64 << 10;
/// Boundaries that are all kept: what a kernel and a network hold back is smaller than so many ranges.
const NEAR: usize = 12;
/// Blocks that `sampled` compares inside a file; both ends and every seam come on top.
const BLOCKS: u64 = 16;
const BLOCK: u64 = 32 << 10;

/// A place in the stream with everything needed to go on from there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Boundary {
    pub offset: u64,
    /// The ordered digests of everything before.
    pub digests: DigestState,
    pub crc: Crc64,
    /// The last bytes before: how many, and their CRC.
    pub tail_length: u64,
    pub tail_crc: Crc64,
}

/// A stretch to read back and compare once the file is whole. Its CRC is known when the stream has passed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub offset: u64,
    pub length: u64,
    pub crc: Option<Crc64>,
}

/// How far the content was read back, and the CRC of that much.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadBack {
    pub bytes: u64,
    pub crc: Crc64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamNotes {
    /// Ascending; the newest ones and, further back, ever fewer.
    pub boundaries: Vec<Boundary>,
    pub samples: Vec<Sample>,
    pub read_back: ReadBack,
}

impl StreamNotes {
    /// Chooses the samples of a file of `size` bytes. They come from `random`, so that a server cannot foresee them, and
    /// none crosses a border between ranges.
    pub fn new(size: u64, range_size: u64, sampled: bool, mut random: impl FnMut() -> u64) -> Self {
        let mut notes = Self::default();
        if !sampled || size == 0 {
            return notes;
        }
        let ranges = size.div_ceil(range_size);
        let mut add = |offset: u64, length: u64| notes.samples.push(Sample { offset, length, crc: None });
        add(0, BLOCK.min(size).min(range_size));
        let last = (ranges - 1) * range_size;
        let end = BLOCK.min(size - last);
        add(size - end, end);
        for _ in 0..BLOCKS.min(ranges) {
            let start = random() % ranges * range_size;
            let room = range_size.min(size - start);
            let length = BLOCK.min(room);
            add(start + random() % (room - length + 1), length);
        }
        notes.samples.sort_unstable_by_key(|s| s.offset);
        notes.samples.dedup();
        notes
    }

    /// Fills in the samples inside a range that passes.
    pub fn passes(&mut self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        for sample in self.samples.iter_mut().filter(|s| s.offset >= offset && s.offset + s.length <= end) {
            let at = (sample.offset - offset) as usize;
            sample.crc = Some(crc64(&data[at..at + sample.length as usize]));
        }
    }

    /// The stream was handed over up to here.
    pub fn reached(&mut self, boundary: Boundary) {
        self.boundaries.push(boundary);
        self.thin();
    }

    /// The last place that a file of this size can be continued from.
    pub fn up_to(&self, size: u64) -> Option<&Boundary> {
        self.boundaries.iter().rfind(|b| b.offset <= size)
    }

    /// The stream goes on at `boundary`: what lay behind is forgotten, and the seam will be compared.
    pub fn rewind(&mut self, boundary: &Boundary, sampled: bool) {
        self.boundaries.retain(|b| b.offset <= boundary.offset);
        for sample in &mut self.samples {
            if sample.offset + sample.length > boundary.offset {
                sample.crc = None;
            }
        }
        let start = boundary.offset - boundary.tail_length;
        if sampled && !self.samples.iter().any(|s| s.offset == start && s.length == boundary.tail_length) {
            self.samples.push(Sample { offset: start, length: boundary.tail_length, crc: Some(boundary.tail_crc) });
            self.samples.sort_unstable_by_key(|s| s.offset);
        }
        if self.read_back.bytes > boundary.offset {
            self.read_back = ReadBack::default();
        }
    }

    /// Keeps the newest boundaries, and behind them ever fewer: a gap is at most half as wide as its distance from the
    /// end, so that a server that lost much of a file (a crash) still has a place to go on from.
    fn thin(&mut self) {
        let Some(near) = self.boundaries.len().checked_sub(NEAR) else { return };
        let end = self.boundaries.last().map_or(0, |b| b.offset);
        let mut index = 1;
        for _ in 1..near.max(1) {
            let (before, after) = (self.boundaries[index - 1].offset, self.boundaries[index + 1].offset);
            if after - before <= (end - after) / 2 {
                self.boundaries.remove(index);
            } else {
                index += 1;
            }
        }
    }
}

/// The boundary at the end of a range whose data just passed. `before` is the CRC of everything before the range.
pub fn boundary(offset: u64, data: &[u8], before: Crc64, crc: Crc64, digests: DigestState) -> Boundary {
    let tail_length = TAIL.min(data.len() as u64);
    let tail = &data[data.len() - tail_length as usize..];
    Boundary {
        offset: offset + data.len() as u64,
        digests,
        crc: combine(before, crc, data.len() as u64),
        tail_length,
        tail_crc: crc64(tail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Boundary {
        Boundary { offset, digests: DigestState::default(), crc: Crc64(offset), tail_length: 10, tail_crc: Crc64(1) }
    }

    #[test]
    fn the_newest_boundaries_stay_and_older_ones_thin_out() {
        let mut notes = StreamNotes::default();
        let range = 4u64 << 20;
        let count = 100_000;
        for number in 1..=count {
            notes.reached(at(number * range));
            assert!(notes.boundaries.len() <= NEAR + 48, "{} boundaries after {number}", notes.boundaries.len());
        }
        let end = count * range;
        for back in 0..NEAR as u64 {
            assert_eq!(notes.up_to(end - back * range).unwrap().offset, end - back * range);
        }
        // A file that lost half of itself loses at most half of what is left.
        let half = notes.up_to(end / 2).unwrap().offset;
        assert!(half >= end / 4, "{half} of {end}");
        assert!(notes.boundaries.is_sorted_by_key(|b| b.offset));
    }

    #[test]
    fn a_file_shorter_than_the_first_boundary_has_no_place_to_go_on_from() {
        let mut notes = StreamNotes::default();
        notes.reached(at(100));
        assert_eq!(notes.up_to(99), None);
        assert_eq!(notes.up_to(100).unwrap().offset, 100);
    }

    #[test]
    fn samples_cover_both_ends_lie_inside_ranges_and_are_filled_as_the_data_passes() {
        for size in [1, 1000, 4096, 10_000, 1 << 20, (1 << 20) + 1] {
            let range = 4096;
            let mut next = 7u64;
            let mut notes = StreamNotes::new(size, range, true, || {
                next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                next >> 33
            });
            let data: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
            for (number, chunk) in data.chunks(range as usize).enumerate() {
                notes.passes(number as u64 * range, chunk);
            }
            assert_eq!(notes.samples[0].offset, 0);
            assert!(notes.samples.iter().any(|s| s.offset + s.length == size));
            for sample in &notes.samples {
                let stretch = &data[sample.offset as usize..(sample.offset + sample.length) as usize];
                assert_eq!(sample.crc, Some(crc64(stretch)), "{size}: {sample:?}");
            }
        }
    }

    #[test]
    fn going_back_forgets_what_lay_behind_and_samples_the_seam() {
        let mut notes = StreamNotes::new(1000, 100, true, || 5);
        notes.passes(0, &[1; 100]);
        notes.passes(100, &[2; 100]);
        let first = boundary(0, &[1; 100], Crc64::default(), crc64(&[1; 100]), DigestState::default());
        notes.reached(first.clone());
        notes.reached(at(200));
        notes.rewind(&first, true);
        assert_eq!(notes.boundaries, vec![first.clone()]);
        assert!(notes.samples.iter().all(|s| (s.crc.is_some()) == (s.offset + s.length <= 100)), "{:?}", notes.samples);
        assert!(notes.samples.iter().any(|s| s.offset + s.length == 100 && s.crc == Some(first.tail_crc)));
    }
}
