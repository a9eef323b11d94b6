//! See `transfer::sftp::fuzzing::packets` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| transfer::sftp::fuzzing::packets(input));
