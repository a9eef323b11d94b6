//! What an object holds: real bytes, or bytes computed from a seed, so that terabytes cost no memory.

use std::ops::Range;
use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};
use crc_fast::CrcAlgorithm;
use data_encoding::HEXLOWER;
use sha2::Digest as _;

/// The filler repeats after this many bytes.
const BASE: usize = 1 << 20;
/// Each span of this length begins with a stamp, so no two spans of an object are equal.
const SPAN: u64 = 4096;
const STAMP: usize = 16;

/// The bytes of one object. Clones are cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Stored(Bytes),
    Generated { seed: u64, len: u64 },
}

impl Content {
    /// `len` bytes that depend on nothing but `seed`: every 4 KiB span differs from every other one of the same
    /// object and from the span at the same place under another seed.
    pub fn generated(seed: u64, len: u64) -> Self {
        Self(Kind::Generated { seed, len })
    }

    pub fn len(&self) -> u64 {
        match &self.0 {
            Kind::Stored(bytes) => bytes.len() as u64,
            Kind::Generated { len, .. } => *len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of `range`, cut at the end of the content.
    pub fn read(&self, range: Range<u64>) -> Bytes {
        let end = range.end.min(self.len());
        let start = range.start.min(end);
        match &self.0 {
            Kind::Stored(bytes) => bytes.slice(start as usize..end as usize),
            Kind::Generated { seed, .. } => generate(*seed, start..end),
        }
    }

    pub fn bytes(&self) -> Bytes {
        self.read(0..self.len())
    }

    /// Calls `each` with all bytes in order, a mebibyte at a time.
    pub fn for_each_block(&self, mut each: impl FnMut(&[u8])) {
        let mut at = 0;
        while at < self.len() {
            let block = self.read(at..at + BASE as u64);
            each(&block);
            at += block.len() as u64;
        }
    }

    pub fn sha256_bytes(&self) -> [u8; 32] {
        let mut hash = sha2::Sha256::new();
        self.for_each_block(|block| hash.update(block));
        hash.finalize().into()
    }

    /// SHA-256 in lower-case hexadecimal.
    pub fn sha256(&self) -> String {
        HEXLOWER.encode(&self.sha256_bytes())
    }

    pub fn md5_bytes(&self) -> [u8; 16] {
        let mut hash = md5::Md5::new();
        self.for_each_block(|block| hash.update(block));
        hash.finalize().into()
    }

    /// MD5 in lower-case hexadecimal.
    pub fn md5(&self) -> String {
        HEXLOWER.encode(&self.md5_bytes())
    }

    pub fn crc64nvme(&self) -> u64 {
        self.crc(CrcAlgorithm::Crc64Nvme)
    }

    pub(crate) fn crc(&self, algorithm: CrcAlgorithm) -> u64 {
        let mut digest = crc_fast::Digest::new(algorithm);
        self.for_each_block(|block| digest.update(block));
        digest.finalize()
    }

    /// Bytes to hand over at once: stored bytes are only sliced, generated ones should stay in the cache.
    pub(crate) fn frame(&self) -> u64 {
        match &self.0 {
            Kind::Stored(_) => 1 << 20,
            Kind::Generated { .. } => 256 << 10,
        }
    }

    /// Something that differs between any two contents, at no cost whatever the size.
    pub(crate) fn identity(&self) -> [u8; 16] {
        match &self.0 {
            Kind::Stored(bytes) => md5::Md5::digest(bytes).into(),
            Kind::Generated { seed, len } => md5::Md5::digest(format!("generated {seed} {len}")).into(),
        }
    }

    /// Whether the MD5 costs little enough to compute when somebody looks at the object.
    pub(crate) fn is_cheap(&self) -> bool {
        match &self.0 {
            Kind::Stored(_) => true,
            Kind::Generated { len, .. } => *len <= 64 << 10,
        }
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self(Kind::Stored(bytes))
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Kind::Stored(bytes.into()))
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self(Kind::Stored(Bytes::copy_from_slice(text.as_bytes())))
    }
}

impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        Self(Kind::Stored(Bytes::copy_from_slice(bytes)))
    }
}

/// One filler for all seeds, made once: the stamps carry the difference.
fn base() -> &'static [u8] {
    static FILLER: OnceLock<Vec<u8>> = OnceLock::new();
    FILLER.get_or_init(|| (0..BASE as u64 / 8).flat_map(|word| mix(word).to_le_bytes()).collect())
}

/// SplitMix64's finaliser: a bijection, so distinct inputs stay distinct.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn stamp(seed: u64, span: u64) -> [u8; STAMP] {
    let mut stamp = [0; STAMP];
    stamp[..8].copy_from_slice(&mix(mix(seed) ^ span).to_le_bytes());
    stamp[8..].copy_from_slice(&mix(mix(seed).rotate_left(32).wrapping_add(span)).to_le_bytes());
    stamp
}

fn generate(seed: u64, range: Range<u64>) -> Bytes {
    let mut out = BytesMut::with_capacity((range.end - range.start) as usize);
    let mut at = range.start;
    while at < range.end {
        let from = (at % BASE as u64) as usize;
        let take = (BASE - from).min((range.end - at) as usize);
        out.extend_from_slice(&base()[from..from + take]);
        at += take as u64;
    }
    for span in range.start / SPAN..range.end.div_ceil(SPAN) {
        let begins = span * SPAN;
        // The range may begin or end in the middle of a stamp.
        let from = begins.max(range.start);
        let to = (begins + STAMP as u64).min(range.end);
        if from < to {
            let part = &stamp(seed, span)[(from - begins) as usize..(to - begins) as usize];
            out[(from - range.start) as usize..(to - range.start) as usize].copy_from_slice(part);
        }
    }
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_range_of_generated_content_equals_the_same_bytes_of_the_whole() {
        let content = Content::generated(7, 2 * BASE as u64 + 12_345);
        let whole = content.bytes();
        assert_eq!(whole.len() as u64, content.len());
        for (start, end) in [(0, 1), (5, 20), (4090, 4100), (4096, 4097), (4103, 12_289), (1_048_570, 1_048_600), (2_097_000, 2_200_000)] {
            assert_eq!(content.read(start..end), whole.slice(start as usize..(end as usize).min(whole.len())), "{start}..{end}");
        }
    }

    #[test]
    fn no_two_spans_are_equal_and_seeds_differ() {
        let content = Content::generated(1, 4 * BASE as u64);
        let whole = content.bytes();
        let spans: std::collections::BTreeSet<&[u8]> = whole.chunks(SPAN as usize).collect();
        assert_eq!(spans.len(), 1024);
        assert_ne!(content.read(0..64), Content::generated(2, 64).bytes());
    }

    #[test]
    fn terabytes_are_readable_at_any_place() {
        let content = Content::generated(3, 5 << 40);
        assert_eq!(content.read((5 << 40) - 10..u64::MAX).len(), 10);
        assert_ne!(content.read(4 << 40..(4 << 40) + 16), content.read(3 << 40..(3 << 40) + 16));
    }

    #[test]
    fn digests_are_the_known_ones() {
        let content = Content::from("123456789");
        assert_eq!(content.crc64nvme(), 0xae8b_1486_0a79_9888);
        assert_eq!(content.md5(), "25f9e794323b453885f5181f1b624d0b");
        assert_eq!(content.sha256(), "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225");
    }
}
