//! The use cases: a request becomes a decision and a batch for the store. Permissions live here.
//! No spawn, no sleep, no loop; those are `runtime`'s.

pub mod event;
pub mod spec;

pub use event::Event;
pub use spec::{CopySpec, Options, S3Settings, SshSettings};
