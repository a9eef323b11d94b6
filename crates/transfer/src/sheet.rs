//! The sheet of one file: which ranges the destination has confirmed, which are proved, which survive a crash of
//! the server, and how far the ordered digests have come. Pure bookkeeping; the checkpoint is its stored form.
//!
//! A range goes `open → written → proved → durable`. After a connection was lost, written ranges that are not durable
//! are suspect: the server may have restarted. They are read back and compared before they count again.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use model::{Crc64, DigestSet, RemotePath};
use serde::{Deserialize, Serialize};

use crate::digest::{DigestState, StreamDigests, combine};
use crate::source::Pin;
use crate::stream::{Boundary, ReadBack, StreamNotes, boundary};

/// Where a server has no fsync, written data counts as durable after this time: Linux writes dirty pages back
/// after 30 s and looks every 5 s (vm.dirty_expire_centisecs); the proof at the end still decides.
const SETTLE: Duration = Duration::from_secs(60);

/// What is kept between runs for one file. Small whatever the size of the file: only ranges behind which something
/// is still missing are listed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub pin: Pin,
    pub temp: RemotePath,
    pub attempt: u32,
    pub epoch: u32,
    pub range_size: u64,
    /// Bytes that went through the ordered digests, from the start of the file.
    pub hashed: u64,
    pub digests: DigestState,
    /// Ranges from the start that are written, proved as far as wanted, and durable.
    pub settled: u64,
    pub settled_crc: Crc64,
    /// The ranges from `settled` to the last hashed one.
    pub ranges: Vec<StoredRange>,
    pub proof: ProofCount,
    /// For a file sent as one stream: nothing above counts as being there, these places do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamNotes>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRange {
    pub crc: Crc64,
    pub written: bool,
    pub proved: bool,
    pub durable: bool,
}

/// How much was read back and compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofCount {
    pub bytes: u64,
    pub blocks: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct RangeState {
    crc: Option<Crc64>,
    written: Option<Instant>,
    proved: bool,
    durable: bool,
    suspect: bool,
}

#[derive(Debug)]
pub struct Sheet {
    size: u64,
    range_size: u64,
    needs_proof: bool,
    syncs: bool,
    settled: u64,
    settled_crc: Crc64,
    ranges: VecDeque<RangeState>,
    digests: StreamDigests,
    hashed: u64,
    proof: ProofCount,
    confirmed_bytes: u64,
    wanted: DigestSet,
    stream: Option<Stream>,
}

/// A file that goes to a server which confirms nothing before its end.
#[derive(Debug)]
struct Stream {
    notes: StreamNotes,
    /// Of the ranges that were read and not handed over yet.
    ahead: VecDeque<Boundary>,
    sampled: bool,
    /// Where the server was found to have it, when it went on last.
    found: Option<u64>,
}

impl Sheet {
    pub fn new(size: u64, range_size: u64, digests: DigestSet, needs_proof: bool, syncs: bool) -> Self {
        Self {
            size,
            range_size,
            needs_proof,
            syncs,
            settled: 0,
            settled_crc: Crc64::default(),
            ranges: VecDeque::new(),
            digests: StreamDigests::new(digests),
            hashed: 0,
            proof: ProofCount::default(),
            confirmed_bytes: 0,
            wanted: digests,
            stream: None,
        }
    }

    /// For a server that confirms nothing before the end: ranges are handed over in order, and boundaries remembered.
    pub fn stream(size: u64, range_size: u64, digests: DigestSet, sampled: bool) -> Self {
        let notes = StreamNotes::new(size, range_size, sampled, random);
        Self {
            stream: Some(Stream { notes, ahead: VecDeque::new(), sampled, found: None }),
            ..Self::new(size, range_size, digests, false, false)
        }
    }

    /// What an earlier process left of a stream; `go_back_to` says where it goes on.
    pub fn resume_stream(checkpoint: &Checkpoint, digests: DigestSet, sampled: bool) -> Option<Self> {
        let notes = checkpoint.stream.clone().filter(|_| checkpoint.range_size > 0)?;
        let sheet = Self::new(checkpoint.pin.size, checkpoint.range_size, digests, false, false);
        Some(Self { stream: Some(Stream { notes, ahead: VecDeque::new(), sampled, found: None }), proof: checkpoint.proof, ..sheet })
    }

    /// What is remembered of a stream; `None` for a file whose ranges are confirmed one by one.
    pub fn notes(&self) -> Option<&StreamNotes> {
        self.stream.as_ref().map(|s| &s.notes)
    }

    /// The stream goes on at `boundary`. `false` when its digests cannot be continued.
    pub fn go_back_to(&mut self, boundary: &Boundary) -> bool {
        let whole = boundary.offset == self.size || boundary.offset.is_multiple_of(self.range_size);
        let (Some(stream), Some(digests), true) = (&mut self.stream, StreamDigests::resume(self.wanted, &boundary.digests), whole) else {
            return false;
        };
        stream.notes.rewind(boundary, stream.sampled);
        stream.found = Some(boundary.offset);
        stream.ahead.clear();
        self.ranges.clear();
        self.settled = boundary.offset.div_ceil(self.range_size);
        self.settled_crc = boundary.crc;
        self.digests = digests;
        self.hashed = boundary.offset;
        self.confirmed_bytes = boundary.offset;
        true
    }

    /// So much of the stream was read back, with this CRC.
    pub fn read_back(&mut self, read_back: ReadBack) {
        if let Some(stream) = &mut self.stream {
            stream.notes.read_back = read_back;
        }
    }

    /// How far this file has come, reading back included. Of a stream that was cut only what the server was found to have
    /// counts: what was handed over may be megabytes ahead of that, and no later attempt would seem to get any further.
    pub fn progress(&self) -> u64 {
        self.found().unwrap_or(self.confirmed_bytes) + self.notes().map_or(0, |n| n.read_back.bytes)
    }

    /// Where a stream that was cut went on.
    pub fn found(&self) -> Option<u64> {
        self.stream.as_ref().and_then(|stream| stream.found)
    }

    /// Continues from a checkpoint; `None` when it does not fit (other digests wanted, damaged): start over then.
    pub fn resume(checkpoint: &Checkpoint, digests: DigestSet, needs_proof: bool, syncs: bool) -> Option<Self> {
        if checkpoint.stream.is_some() {
            return None;
        }
        let size = checkpoint.pin.size;
        let mut sheet = Self::new(size, checkpoint.range_size, digests, needs_proof, syncs);
        if checkpoint.range_size == 0 || checkpoint.hashed > size {
            return None;
        }
        sheet.digests = StreamDigests::resume(digests, &checkpoint.digests)?;
        sheet.hashed = checkpoint.hashed;
        sheet.settled = checkpoint.settled;
        sheet.settled_crc = checkpoint.settled_crc;
        sheet.proof = checkpoint.proof;
        let listed = checkpoint.settled + checkpoint.ranges.len() as u64;
        if sheet.range(listed).start.min(size) != checkpoint.hashed {
            return None;
        }
        for (index, stored) in (checkpoint.settled..).zip(&checkpoint.ranges) {
            // The clock of the earlier run is gone; without fsync everything unsettled is looked at again.
            let written = stored.written.then(Instant::now);
            sheet.ranges.push_back(RangeState {
                crc: Some(stored.crc),
                written,
                proved: stored.proved,
                durable: stored.durable,
                suspect: stored.written && (!stored.durable || (needs_proof && !stored.proved)),
            });
            if stored.written {
                sheet.confirmed_bytes += sheet.length(index);
            }
        }
        sheet.confirmed_bytes += sheet.range(sheet.settled).start.min(size);
        Some(sheet)
    }

    pub fn count(&self) -> u64 {
        self.size.div_ceil(self.range_size).max(1)
    }

    /// The bytes of range `index`; empty for the one range of an empty file.
    pub fn range(&self, index: u64) -> Range<u64> {
        let start = (index * self.range_size).min(self.size);
        start..(start + self.range_size).min(self.size)
    }

    fn length(&self, index: u64) -> u64 {
        let range = self.range(index);
        range.end - range.start
    }

    /// Ranges that must be sent, in order; those below the digests' frontier are only sent, not hashed again.
    pub fn missing(&self) -> Vec<u64> {
        let behind = (self.settled..).zip(&self.ranges).filter(|(_, r)| r.written.is_none()).map(|(i, _)| i);
        behind.chain(self.settled + self.ranges.len() as u64..self.count()).collect()
    }

    /// Takes note of a range that was read. In order it feeds the digests; one read again must be the same bytes:
    /// `false` means the source changed behind its pin.
    pub fn read(&mut self, index: u64, data: &[u8], crc: Crc64) -> bool {
        let at = (index - self.settled) as usize;
        match self.ranges.get(at) {
            Some(range) => range.crc == Some(crc),
            None => {
                let mut digests = self.digests.clone();
                digests.update(data);
                self.read_hashed(index, data, crc, digests);
                true
            }
        }
    }

    /// Like `read`, for a range whose bytes another thread has already put through `digests`.
    pub fn read_hashed(&mut self, index: u64, data: &[u8], crc: Crc64, digests: StreamDigests) {
        debug_assert_eq!(index, self.settled + self.ranges.len() as u64, "ranges reach the digests in order");
        let offset = self.hashed;
        self.digests = digests;
        self.hashed += data.len() as u64;
        if let Some(stream) = &mut self.stream {
            let before = stream.ahead.back().map_or(self.settled_crc, |b| b.crc);
            stream.notes.passes(offset, data);
            stream.ahead.push_back(boundary(offset, data, before, crc, self.digests.state()));
        }
        self.ranges.push_back(RangeState { crc: Some(crc), ..RangeState::default() });
    }

    /// Whether this range has yet to go through the ordered digests.
    pub fn is_ahead(&self, index: u64) -> bool {
        index >= self.settled + self.ranges.len() as u64
    }

    pub fn digests(&self) -> StreamDigests {
        self.digests.clone()
    }

    /// The destination confirmed this range, or took it into its stream.
    pub fn written(&mut self, index: u64) {
        if let Some(stream) = &mut self.stream {
            debug_assert_eq!(index, self.settled, "a stream takes ranges in order");
            if let Some(boundary) = stream.ahead.pop_front() {
                self.ranges.pop_front();
                self.settled += 1;
                self.settled_crc = boundary.crc;
                self.confirmed_bytes = boundary.offset;
                stream.notes.reached(boundary);
            }
            return;
        }
        let length = self.length(index);
        if let Some(range) = self.state(index) {
            range.written = Some(Instant::now());
            range.suspect = false;
            range.durable = false;
            range.proved = false;
            self.confirmed_bytes += length;
        }
    }

    /// What was read back of this range agreed.
    pub fn proved(&mut self, index: u64, count: ProofCount) {
        if let Some(range) = self.state(index) {
            range.proved = true;
            self.proof.bytes += count.bytes;
            self.proof.blocks += count.blocks;
            self.settle();
        }
    }

    /// What a sync that starts now will make durable: ranges written since the handle that syncs was opened. Of earlier
    /// ones it does not know whether the server has restarted since.
    pub fn before_sync(&self, opened: Instant) -> Vec<u64> {
        let covered = |r: &RangeState| r.written.is_some_and(|at| at >= opened) && !r.suspect && !r.durable;
        (self.settled..).zip(&self.ranges).filter(|(_, r)| covered(r)).map(|(i, _)| i).collect()
    }

    pub fn synced(&mut self, indexes: &[u64]) {
        for index in indexes {
            if let Some(range) = self.state(*index)
                && range.written.is_some()
                && !range.suspect
            {
                range.durable = true;
            }
        }
        self.settle();
    }

    /// Bytes written since the last sync.
    pub fn unsynced_bytes(&self) -> u64 {
        let waiting = |r: &RangeState| r.written.is_some() && !r.suspect && !r.durable;
        (self.settled..).zip(&self.ranges).filter(|(_, r)| waiting(r)).map(|(i, _)| self.length(i)).sum()
    }

    /// A connection was lost: the server may have restarted, so what is not durable is suspect.
    pub fn connection_lost(&mut self) {
        if !self.syncs {
            self.age();
        }
        for range in &mut self.ranges {
            range.suspect = range.written.is_some() && (!range.durable || (self.needs_proof && !range.proved));
        }
    }

    /// A connection was lost while another one lived on whose handle was opened at `since`: only what was written
    /// before that may be gone.
    pub fn other_connection_lost(&mut self, since: Instant) {
        for range in &mut self.ranges {
            range.suspect |= !range.durable && range.written.is_some_and(|at| at < since);
        }
    }

    /// The attempt ended for another reason: what was written and not yet proved must be looked at by the next one.
    pub fn attempt_ended(&mut self) {
        for range in &mut self.ranges {
            range.suspect |= range.written.is_some() && self.needs_proof && !range.proved;
        }
    }

    /// Ranges to read back and compare before they count again.
    pub fn suspects(&self) -> Vec<(u64, Crc64)> {
        (self.settled..).zip(&self.ranges).filter(|(_, r)| r.suspect).filter_map(|(i, r)| Some((i, r.crc?))).collect()
    }

    /// The suspect range holds what was written.
    pub fn cleared(&mut self, index: u64) {
        let (length, needs_proof) = (self.length(index), self.needs_proof);
        if let Some(range) = self.state(index) {
            range.suspect = false;
            let compared_now = needs_proof && !std::mem::replace(&mut range.proved, true);
            // Seen there now, whenever it was written.
            range.written = Some(Instant::now());
            if compared_now {
                self.proof.bytes += length;
                self.proof.blocks += 1;
            }
        }
        self.settle();
    }

    /// The range is not there (any more) and must be sent again. Returns its length.
    pub fn lost(&mut self, index: u64) -> u64 {
        let length = self.length(index);
        match self.state(index) {
            Some(range) if range.written.is_some() => {
                *range = RangeState { crc: range.crc, ..RangeState::default() };
                self.confirmed_bytes -= length;
                length
            }
            _ => 0,
        }
    }

    pub fn is_complete(&self) -> bool {
        let all_read = self.settled + self.ranges.len() as u64 == self.count();
        all_read && self.ranges.iter().all(|r| r.written.is_some() && !r.suspect && (r.proved || !self.needs_proof))
    }

    /// Bytes that the destination has confirmed and that still count.
    pub fn confirmed_bytes(&self) -> u64 {
        self.confirmed_bytes
    }

    pub fn proof(&self) -> ProofCount {
        self.proof
    }

    /// CRC-64 of the whole file, once every range was read.
    pub fn crc(&self) -> Crc64 {
        (self.settled..)
            .zip(&self.ranges)
            .fold(self.settled_crc, |all, (index, range)| combine(all, range.crc.unwrap_or_default(), self.length(index)))
    }

    pub fn checkpoint(&self, pin: &Pin, temp: &RemotePath, attempt: u32, epoch: u32) -> Checkpoint {
        let stored = |r: &RangeState| StoredRange {
            crc: r.crc.unwrap_or_default(),
            written: r.written.is_some(),
            proved: r.proved,
            // A suspect one is looked at again, not sent again.
            durable: r.durable && !r.suspect,
        };
        // A stream says where it goes on by its boundaries.
        let ranges = if self.stream.is_some() { Vec::new() } else { self.ranges.iter().map(stored).collect() };
        Checkpoint {
            pin: pin.clone(),
            temp: temp.clone(),
            attempt,
            epoch,
            range_size: self.range_size,
            hashed: self.hashed,
            digests: self.digests.state(),
            settled: self.settled,
            settled_crc: self.settled_crc,
            ranges,
            proof: self.proof,
            stream: self.notes().cloned(),
        }
    }

    fn state(&mut self, index: u64) -> Option<&mut RangeState> {
        self.ranges.get_mut(index.checked_sub(self.settled)? as usize)
    }

    fn age(&mut self) {
        for range in &mut self.ranges {
            range.durable |= !range.suspect && range.written.is_some_and(|at| at.elapsed() >= SETTLE);
        }
    }

    /// Folds finished ranges at the front into one CRC, so that checkpoints stay small.
    fn settle(&mut self) {
        if !self.syncs {
            self.age();
        }
        while let Some(range) = self.ranges.front() {
            let done = range.written.is_some() && range.durable && !range.suspect && (range.proved || !self.needs_proof);
            let (true, Some(crc)) = (done, range.crc) else { break };
            self.settled_crc = combine(self.settled_crc, crc, self.length(self.settled));
            self.settled += 1;
            self.ranges.pop_front();
        }
    }
}

fn random() -> u64 {
    let mut bytes = [0u8; 8];
    // Without randomness blocks are still compared, only at places that could be foreseen.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
#[path = "sheet_tests.rs"]
mod tests;
