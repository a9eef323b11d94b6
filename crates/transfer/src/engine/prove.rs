//! Proof by reading back: what was just written is read through the same handle and compared byte for byte with
//! what is still in memory.

use std::ops::Range;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use model::{Crc64, Grade};

use super::Inner;
use crate::digest::{combine, crc64};
use crate::sheet::ProofCount;
use crate::{Error, ErrorKind, Result, Subject, Writer};

/// Both ends of every range, so that part boundaries and resume seams are always among the samples…
const EDGE: u64 = 4 << 10;
/// …and one block at a place that the destination cannot foresee.
const INSIDE: u64 = 32 << 10;
pub(crate) const SAMPLE_BYTES_PER_RANGE: u64 = 2 * EDGE + INSIDE;

/// Blocks of read-back in flight for one range.
const BLOCK: u64 = 256 << 10;
const BLOCKS_IN_FLIGHT: usize = 4;

impl Inner {
    /// Compares what `grade` asks for of one written range. `integrity_mismatch` names the first differing byte.
    pub(super) async fn prove(&self, writer: &dyn Writer, grade: Grade, offset: u64, data: &Bytes) -> Result<ProofCount> {
        let length = data.len() as u64;
        let pieces: Vec<Range<u64>> = match grade {
            Grade::ReadBack => (0..length).step_by(BLOCK as usize).map(|at| at..(at + BLOCK).min(length)).collect(),
            Grade::Sampled => samples(length),
            _ => return Ok(ProofCount::default()),
        };
        let mut reads = stream::iter(pieces)
            .map(|piece| async move {
                let _memory = self.budget.block(piece.end - piece.start).await;
                let read = writer.read_at(offset + piece.start, (piece.end - piece.start) as usize).await?;
                compare(&read, &data[piece.start as usize..piece.end as usize], offset + piece.start)?;
                self.setup.meter.proved(piece.end - piece.start);
                Ok::<u64, Error>(piece.end - piece.start)
            })
            .buffered(BLOCKS_IN_FLIGHT);
        let mut count = ProofCount::default();
        while let Some(bytes) = reads.next().await {
            count.bytes += bytes?;
            count.blocks += 1;
        }
        Ok(count)
    }

    /// Reads a stretch of the destination and returns its CRC; shorter than `range` when the file is.
    pub(super) async fn remote_crc(&self, writer: &dyn Writer, range: Range<u64>) -> Result<(Crc64, u64)> {
        let blocks = range.clone().step_by(BLOCK as usize).map(|at| at..(at + BLOCK).min(range.end));
        let mut reads = stream::iter(blocks)
            .map(|block| async move {
                let _memory = self.budget.block(block.end - block.start).await;
                let read = writer.read_at(block.start, (block.end - block.start) as usize).await?;
                Ok::<_, Error>((crc64(&read), read.len() as u64))
            })
            .buffered(BLOCKS_IN_FLIGHT);
        let (mut all, mut length) = (Crc64::default(), 0);
        while let Some(block) = reads.next().await {
            let (crc, bytes) = block?;
            all = combine(all, crc, bytes);
            length += bytes;
        }
        Ok((all, length))
    }
}

fn compare(read: &[u8], sent: &[u8], offset: u64) -> Result<()> {
    if read == sent {
        return Ok(());
    }
    let at = read.iter().zip(sent).position(|(a, b)| a != b).unwrap_or(read.len().min(sent.len())) as u64 + offset;
    let why = if read.len() == sent.len() {
        format!("of {} bytes there crc64nvme is {}, of those sent {}", sent.len(), crc64(read), crc64(sent))
    } else {
        format!("the destination returned {} of the {} bytes sent", read.len(), sent.len())
    };
    Err(Error::new(ErrorKind::IntegrityMismatch, "prove the content at byte", Subject::Setting(at.to_string())).because(why))
}

/// Both edges and one block inside at a random place.
fn samples(length: u64) -> Vec<Range<u64>> {
    if length <= SAMPLE_BYTES_PER_RANGE {
        return (length > 0).then_some(0..length).into_iter().collect();
    }
    let room = length - 2 * EDGE - INSIDE;
    let mut random = [0u8; 8];
    // Without randomness the block is still compared, only at a place that could be foreseen.
    let _ = aws_lc_rs::rand::fill(&mut random);
    let inside = EDGE + u64::from_le_bytes(random) % (room + 1);
    vec![0..EDGE, inside..inside + INSIDE, length - EDGE..length]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_cover_both_edges_and_stay_inside() {
        for length in [0, 1, SAMPLE_BYTES_PER_RANGE, SAMPLE_BYTES_PER_RANGE + 1, 10 << 20] {
            let samples = samples(length);
            assert!(samples.iter().all(|s| s.start < s.end && s.end <= length));
            if length > 0 {
                assert_eq!((samples[0].start, samples[samples.len() - 1].end), (0, length));
            }
        }
    }

    #[test]
    fn a_mismatch_names_the_first_differing_byte() {
        let error = compare(b"abXd", b"abcd", 100).unwrap_err();
        assert_eq!(error.kind, ErrorKind::IntegrityMismatch);
        assert!(error.to_string().contains("102"));
        assert!(compare(b"ab", b"abcd", 0).unwrap_err().to_string().contains('2'));
    }
}
