//! See `transfer::sftp::fuzzing::ssh_config` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| transfer::sftp::fuzzing::ssh_config(input));
