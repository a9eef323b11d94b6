//! What the commands call.

pub use runtime::{
    abandon, check, clean, copy, explain_transfer, forget_profile, hash, history, list, prune, rehearse, resume, show_profile, watch,
};
