//! See `model::fuzzing::templates` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| model::fuzzing::templates(input));
