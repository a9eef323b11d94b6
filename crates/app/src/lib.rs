//! The use cases: a request becomes a decision and a batch for the store. Permissions live here.
//! No spawn, no sleep, no loop; those are `runtime`'s.

pub mod admission;
pub mod advice;
pub mod audit;
pub mod binding;
pub mod companion;
pub mod companion_source;
pub mod connectors;
pub mod delivery;
pub mod error;
pub mod event;
pub mod feed;
mod fields;
pub mod follow;
pub mod forecast;
pub mod hindrance;
pub mod history;
pub mod journal;
pub mod ledger;
pub mod letter;
pub mod logins;
pub mod manifest;
pub mod order;
pub mod outbox;
pub mod page;
pub mod policy;
pub mod profiles;
pub mod register;
pub mod requests;
pub mod secrets;
pub mod settings;
pub mod sources;
pub mod spec;
pub mod tasks;
pub mod transfers;
pub mod verdict;

pub use error::{Error, Result};
pub use event::Event;
pub use spec::{CopySpec, Options, S3Settings, ServerSettings, TlsMinimum};
