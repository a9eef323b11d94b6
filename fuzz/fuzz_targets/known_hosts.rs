//! See `transfer::sftp::fuzzing::known_hosts` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| transfer::sftp::fuzzing::known_hosts(input));
