//! See `transfer::ftp::fuzzing::listing` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| transfer::ftp::fuzzing::listing(input));
