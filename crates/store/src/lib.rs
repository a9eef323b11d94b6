//! What FileFerry remembers: transfers and their files, requests, executions, sessions, messages, tickets, settings, leases.
//! Reads go by noun; every write is one `Store::commit(Batch)`, all or nothing. SQL stays inside `sqlite/`.
//! The store has no clock, no random source and no policy: its callers bring all three.

mod batch;
mod error;
mod mutation;
mod naming;
mod record;
mod server_lock;
mod sqlite;

pub use batch::{Batch, Committed, Failure, LeaseClaim, LeaseGuard, MAX_MUTATIONS};
pub use error::{Conflict, Error, ErrorKind, Result};
pub use mutation::{MAX_FILES, MAX_SWEEP, Mutation};
pub use record::audit::{AuditCursor, AuditLine};
pub use record::context::{Exchange, LONGEST_CONTEXT, Preferences};
pub use record::execution::{CreateExecution, ExecutionQuery, ExecutionRecord, Frame, HistoryRow, OpenExecution, SaveStep};
pub use record::learning::{CachedObject, LearningRecord, Lesson};
pub use record::outbox::{Delivering, LONGEST_PAUSE, OutboxKey, OutboxMessage, OutboxRecord, OutboxState, SendFailure};
pub use record::request::{Approval, IdempotencyRecord, QueueCount, Request, RequestQuery, RequestRecord, Waiting, Wish};
pub use record::session::{GrantRecord, LONGEST_SESSION, SessionRecord, SessionRefusal};
pub use record::setting::{SecretRecord, SettingRecord};
pub use record::ticket::{NewTicket, TicketNote, TicketRecord};
pub use record::{
    Delivery, DestinationRecord, FileQuery, FileRecord, Lease, Parked, Part, StateCount, Statistics, TransferQuery, TransferRecord,
};
pub use server_lock::ServerLock;
pub use sqlite::{Options, Store};
