//! The use cases: a request becomes a decision and a batch for the store. Permissions live here.
//! No spawn, no sleep, no loop; those are `runtime`'s.

pub mod advice;
pub mod companion;
pub mod companion_source;
pub mod delivery;
pub mod error;
pub mod event;
pub mod feed;
pub mod follow;
pub mod forecast;
pub mod history;
pub mod journal;
pub mod ledger;
pub mod letter;
pub mod logins;
pub mod manifest;
pub mod order;
pub mod page;
pub mod profiles;
pub mod spec;
pub mod transfers;
pub mod verdict;

pub use error::{Error, Result};
pub use event::Event;
pub use spec::{CopySpec, Options, S3Settings, ServerSettings, TlsMinimum};
