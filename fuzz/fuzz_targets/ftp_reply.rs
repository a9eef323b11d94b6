//! See `transfer::ftp::fuzzing::reply` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| transfer::ftp::fuzzing::reply(input));
