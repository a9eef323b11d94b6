//! Digests of a stream whose state can be stored and resumed: SHA-256 and MD5 in order, CRC-64/NVME per range and combined.

use crc_fast::CrcAlgorithm::Crc64Nvme;
use data_encoding::{BASE64, HEXLOWER};
use md5::Md5;
use model::{Crc64, DigestSet};
use serde::{Deserialize, Serialize};
use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest as _, Sha256};

/// CRC-64/NVME of one buffer.
pub fn crc64(data: &[u8]) -> Crc64 {
    Crc64(crc_fast::checksum(Crc64Nvme, data))
}

/// What is small enough to stay in the processor's cache from one digest to the next.
const BLOCK: usize = 128 << 10;

/// CRC-64/NVME of `data`, which `digests` take in too, block by block: memory is read once.
pub fn crc64_and(data: &[u8], digests: &mut StreamDigests) -> Crc64 {
    let mut crc = crc_fast::Digest::new(Crc64Nvme);
    for block in data.chunks(BLOCK) {
        crc.update(block);
        digests.update(block);
    }
    Crc64(crc.finalize())
}

/// CRC-64/NVME of two neighbouring stretches from the CRC of each.
pub fn combine(first: Crc64, second: Crc64, second_length: u64) -> Crc64 {
    // The first stretch is followed by so many zero bits: its CRC is multiplied by that power of x.
    let (mut shift, mut power, mut rest) = (ONE, X_TO_THE_8, second_length);
    while rest > 0 {
        if rest & 1 == 1 {
            shift = multiply(shift, power);
        }
        power = multiply(power, power);
        rest >>= 1;
    }
    Crc64(multiply(shift, first.0) ^ second.0)
}

/// The polynomial of CRC-64/NVME, and two others modulo it; the highest bit is the lowest power of x.
const POLYNOMIAL: u64 = 0x9a6c_9329_ac4b_c9b5;
const ONE: u64 = 1 << 63;
const X_TO_THE_8: u64 = 1 << 55;

/// The product of two polynomials. Of a range of some MiB a combination takes microseconds this way; the matrices of
/// the crate take a hundred times as long, which was 4 % of a whole copy.
fn multiply(a: u64, mut b: u64) -> u64 {
    let mut product = 0;
    for bit in (0..64).rev() {
        if a >> bit & 1 == 1 {
            product ^= b;
        }
        b = if b & 1 == 1 { b >> 1 ^ POLYNOMIAL } else { b >> 1 };
    }
    product
}

/// The ordered digests of a stream, and how far they have come.
#[derive(Clone, Debug)]
pub struct StreamDigests {
    sha256: Option<Sha256>,
    md5: Option<Md5>,
}

/// A stored midstate. It is as sensitive as the content it summarises, and no more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestState {
    pub sha256: Option<String>,
    pub md5: Option<String>,
}

impl StreamDigests {
    pub fn new(wanted: DigestSet) -> Self {
        Self { sha256: wanted.sha256.then(Sha256::new), md5: wanted.md5.then(Md5::new) }
    }

    /// Continues from a stored state; `None` when it does not hold what is wanted or was damaged.
    pub fn resume(wanted: DigestSet, state: &DigestState) -> Option<Self> {
        let sha256 = match wanted.sha256 {
            true => Some(restore(state.sha256.as_deref()?)?),
            false => None,
        };
        let md5 = match wanted.md5 {
            true => Some(restore(state.md5.as_deref()?)?),
            false => None,
        };
        Some(Self { sha256, md5 })
    }

    pub fn is_empty(&self) -> bool {
        self.sha256.is_none() && self.md5.is_none()
    }

    pub fn update(&mut self, data: &[u8]) {
        if let Some(hash) = &mut self.sha256 {
            hash.update(data);
        }
        if let Some(hash) = &mut self.md5 {
            hash.update(data);
        }
    }

    pub fn state(&self) -> DigestState {
        DigestState {
            sha256: self.sha256.as_ref().map(|h| BASE64.encode(&h.serialize())),
            md5: self.md5.as_ref().map(|h| BASE64.encode(&h.serialize())),
        }
    }

    /// SHA-256 and MD5 in hexadecimal, as computed.
    pub fn finish(&self) -> (Option<String>, Option<String>) {
        let sha256 = self.sha256.clone().map(|h| HEXLOWER.encode(&h.finalize()));
        let md5 = self.md5.clone().map(|h| HEXLOWER.encode(&h.finalize()));
        (sha256, md5)
    }
}

fn restore<T: SerializableState>(text: &str) -> Option<T> {
    let bytes = BASE64.decode(text.as_bytes()).ok()?;
    let state = SerializedState::<T>::try_from(bytes.as_slice()).ok()?;
    T::deserialize(&state).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_midstate_goes_on_where_it_stopped() {
        let data: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        let both = DigestSet { sha256: true, md5: true };
        let mut whole = StreamDigests::new(both);
        whole.update(&data);
        for cut in [0, 1, 63, 64, 65, 99_999, 100_000] {
            let mut first = StreamDigests::new(both);
            first.update(&data[..cut]);
            let json = serde_json::to_string(&first.state()).unwrap();
            let mut second = StreamDigests::resume(both, &serde_json::from_str(&json).unwrap()).unwrap();
            second.update(&data[cut..]);
            assert_eq!(second.finish(), whole.finish(), "cut at {cut}");
        }
    }

    #[test]
    fn both_in_one_pass_are_what_each_is_alone() {
        let data: Vec<u8> = (0..3 * BLOCK as u32 + 7).map(|i| (i % 249) as u8).collect();
        let both = DigestSet { sha256: true, md5: true };
        for length in [0, 1, BLOCK, BLOCK + 1, data.len()] {
            let (mut together, mut alone) = (StreamDigests::new(both), StreamDigests::new(both));
            alone.update(&data[..length]);
            assert_eq!(crc64_and(&data[..length], &mut together), crc64(&data[..length]));
            assert_eq!(together.finish(), alone.finish());
        }
    }

    #[test]
    fn a_damaged_midstate_is_refused() {
        let set = DigestSet { sha256: true, md5: false };
        assert!(StreamDigests::resume(set, &DigestState::default()).is_none());
        assert!(StreamDigests::resume(set, &DigestState { sha256: Some("AAAA".into()), md5: None }).is_none());
    }

    #[test]
    fn crc_of_parts_combines_to_the_crc_of_the_whole() {
        assert_eq!(crc64(b"123456789"), Crc64(0xae8b_1486_0a79_9888), "the check value of CRC-64/NVME");
        let (a, b) = (b"hello, ".as_slice(), b"world".as_slice());
        assert_eq!(combine(crc64(a), crc64(b), b.len() as u64), crc64(b"hello, world"));
        assert_eq!(combine(crc64(b""), crc64(b), b.len() as u64), crc64(b));
        assert_eq!(combine(crc64(a), crc64(b""), 0), crc64(a));
        for length in [1, 2, 255, 4096, 4_194_304, 104_857_601, u64::MAX >> 4] {
            let (first, second) = (crc64(&length.to_le_bytes()), crc64(&(length ^ 7).to_be_bytes()));
            assert_eq!(combine(first, second, length).0, crc_fast::checksum_combine(Crc64Nvme, first.0, second.0, length), "{length}");
        }
    }
}
