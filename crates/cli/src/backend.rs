//! What the commands call.

pub use runtime::{abandon, check, clean, copy, explain_transfer, hash, history, list, prune, resume, watch};
