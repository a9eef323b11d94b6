//! The parsers of what a server says, reachable for the fuzzers in `fuzz/` and for nobody else.

pub use super::listing::{Kind, Listed, facts, listed, time_value};
