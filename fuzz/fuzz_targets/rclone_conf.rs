//! See `runtime::rclone::fuzzing::configuration` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| runtime::rclone::fuzzing::configuration(input));
