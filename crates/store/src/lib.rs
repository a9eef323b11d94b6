//! What FileFerry remembers: transfers, their files, leases, destinations and deliveries.
//! Reads go by noun; every write is one `Store::commit(Batch)`, all or nothing. SQL stays inside `sqlite/`.
//! The store has no clock, no random source and no policy: its callers bring all three.

mod batch;
mod error;
mod record;
mod sqlite;

pub use batch::{Batch, Committed, Failure, LeaseClaim, LeaseGuard, MAX_FILES, MAX_MUTATIONS, Mutation};
pub use error::{Conflict, Error, ErrorKind, Result};
pub use record::{
    Delivery, DestinationRecord, FileQuery, FileRecord, Lease, Parked, Part, StateCount, Statistics, TransferQuery, TransferRecord,
};
pub use sqlite::{Options, Store};
