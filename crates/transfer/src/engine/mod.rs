pub(crate) const SAMPLE_BYTES_PER_RANGE: u64 = (4 << 10) * 2 + (32 << 10);
