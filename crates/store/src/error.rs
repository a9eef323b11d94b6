//! The one error of this crate. A kind exists because a caller, or the person in front of it, acts on it.

use std::fmt;
use std::sync::Arc;

use model::{ExecutionStatus, FileState, ObjectKey, RemotePath, TicketState, TransferId, TransferState};
use rusqlite::{ErrorCode, ffi};

use crate::{GrantRecord, IdempotencyRecord, Lease, OutboxState, SessionRefusal, Wish};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The record named by a mutation does not exist.
    NotFound,
    /// A precondition does not hold; `Error::conflict` says which.
    Conflict,
    /// Another holder has the lease under which the batch was written.
    LeaseLost,
    /// The request can never be carried out as it is (too many mutations, a state that cannot follow).
    Invalid,
    /// No space left where the state file is.
    Full,
    /// Another process kept the state file locked for longer than the limit.
    Busy,
    /// The state file, or its file system, cannot be written.
    ReadOnly,
    /// A newer FileFerry has written the state file.
    Newer,
    /// The state file is damaged, or is not one of ours.
    Corrupt,
    /// The state file is on a network file system.
    NetworkFilesystem,
    /// Another server works on the state directory.
    ServerRunning,
    /// The store has been closed.
    Closed,
    /// The operating system refused to read or write.
    Io,
}

impl ErrorKind {
    /// What to do next, in one sentence.
    pub fn next_step(self) -> &'static str {
        match self {
            Self::NotFound => "check the id with `fileferry history`",
            Self::Conflict => "read the record again and decide anew",
            Self::LeaseLost => "another process has taken this transfer over; stop writing to it",
            Self::Invalid => "this is a fault of the program; report it",
            Self::Full => "free space on the disk of the state directory; nothing is lost and the next write goes through",
            Self::Busy => "another process holds the state file; try again when it is done",
            Self::ReadOnly => "make the state directory writable, or choose another one",
            Self::Newer => "update this program, or choose another state directory; the file was not touched",
            Self::Corrupt => "move the state file and its -wal and -shm files aside, then restore a backup or start anew",
            Self::NetworkFilesystem => "choose a state directory on a local disk; locks over a network lose records",
            Self::ServerRunning => "stop that server first, or choose another state directory",
            Self::Closed => "open the store again",
            Self::Io => "check the disk of the state directory, its quota and its permissions",
        }
    }

    /// Another try may go through without anyone changing the request.
    pub fn is_retryable(self) -> bool {
        match self {
            Self::Full | Self::Busy | Self::Io => true,
            Self::NotFound
            | Self::Conflict
            | Self::LeaseLost
            | Self::Invalid
            | Self::ReadOnly
            | Self::Newer
            | Self::Corrupt
            | Self::NetworkFilesystem
            | Self::ServerRunning
            | Self::Closed => false,
        }
    }
}

/// The precondition that did not hold.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Conflict {
    #[error("{path} is the destination of two keys: {first} and {second}")]
    Path { path: RemotePath, first: ObjectKey, second: ObjectKey },
    #[error("the key {key} is in the manifest twice, for {first} and {second}")]
    Key { key: ObjectKey, first: RemotePath, second: RemotePath },
    #[error("the record exists already")]
    Exists,
    #[error("the transfer is {0}")]
    TransferState(TransferState),
    #[error("the transfer is at run {0}")]
    Run(u32),
    #[error("the file is {0}")]
    FileState(FileState),
    #[error("the file is at attempt {attempt}, epoch {epoch}")]
    Attempt { attempt: u32, epoch: u32 },
    #[error("process {} holds the lease until {}", .0.pid, .0.expires_at)]
    Lease(Lease),
    #[error("the breaker is not due for a probe")]
    Breaker,
    #[error("the execution is {status} at event {last_event}")]
    Execution { status: ExecutionStatus, last_event: u64 },
    #[error("the request was approved by {0}")]
    Approved(String),
    #[error("the wish is {0}")]
    Wish(Wish),
    #[error("the key stands for transfer {}", .0.transfer)]
    Idempotency(IdempotencyRecord),
    #[error("{0}")]
    Session(SessionRefusal),
    #[error("transfer {} has a grant of {} for another request or user", .0.transfer, .0.user)]
    Grant(GrantRecord),
    #[error("all {taken} slots are taken")]
    Slots { taken: u32 },
    #[error("the message is {state}, at attempt {attempts}")]
    Outbox { state: OutboxState, attempts: u32 },
    #[error("an earlier message for the same subject is {0}")]
    OutboxOrder(OutboxState),
    #[error("the ticket is {0}")]
    Ticket(TicketState),
    /// 0: there is none.
    #[error("it has version {0}")]
    Version(u32),
    #[error("transfer {0} uses it and has not ended")]
    InUse(TransferId),
}

/// `could not OPERATION SUBJECT`; the cause is the source. Cheap to clone: one failed commit answers many callers.
#[derive(Debug, Clone)]
pub struct Error {
    pub kind: ErrorKind,
    operation: &'static str,
    subject: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Reason(String);

impl Error {
    pub(crate) fn new(kind: ErrorKind, operation: &'static str, subject: impl Into<String>) -> Self {
        Self { kind, operation, subject: subject.into(), source: None }
    }

    /// A failure whose operation is known further up only; see [`Error::at`].
    pub(crate) fn bare(kind: ErrorKind) -> Self {
        Self::new(kind, "", "")
    }

    pub(crate) fn because(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    pub(crate) fn reason(self, text: impl Into<String>) -> Self {
        self.because(Reason(text.into()))
    }

    pub(crate) fn at(mut self, operation: &'static str, subject: impl FnOnce() -> String) -> Self {
        if self.operation.is_empty() {
            self.operation = operation;
            self.subject = subject();
        }
        self
    }

    pub fn conflict(&self) -> Option<&Conflict> {
        self.source.as_deref().and_then(|source| source.downcast_ref())
    }

    pub fn next_step(&self) -> &'static str {
        self.kind.next_step()
    }

    pub fn is_retryable(&self) -> bool {
        self.kind.is_retryable()
    }

    /// The class under which people meet this failure.
    pub fn class(&self) -> model::ErrorClass {
        match self.kind {
            ErrorKind::LeaseLost => model::ErrorClass::LeaseLost,
            _ => model::ErrorClass::Internal,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation = if self.operation.is_empty() { "use" } else { self.operation };
        let subject = if self.subject.is_empty() { "the state file" } else { &self.subject };
        write!(f, "could not {operation} {}", model::escape_name(subject))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<Conflict> for Error {
    fn from(conflict: Conflict) -> Self {
        Self::bare(ErrorKind::Conflict).because(conflict)
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::bare(kind_of(&error)).because(error)
    }
}

fn kind_of(error: &rusqlite::Error) -> ErrorKind {
    use rusqlite::Error as Sqlite;
    match error {
        Sqlite::QueryReturnedNoRows => ErrorKind::NotFound,
        // Text or a number in a column that no version of this program writes.
        Sqlite::FromSqlConversionFailure(..) | Sqlite::InvalidColumnType(..) | Sqlite::IntegralValueOutOfRange(..) => ErrorKind::Corrupt,
        Sqlite::SqliteFailure(cause, _) => match (cause.code, cause.extended_code) {
            // The wal-index is grown in steps; on a full disk that fails under this code and not as FULL.
            (ErrorCode::DiskFull, _) | (_, ffi::SQLITE_IOERR_SHMSIZE) => ErrorKind::Full,
            (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _) => ErrorKind::Busy,
            (ErrorCode::ReadOnly, _) => ErrorKind::ReadOnly,
            (ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _) => ErrorKind::Corrupt,
            (ErrorCode::ConstraintViolation, _) => ErrorKind::Conflict,
            (ErrorCode::TooBig, _) => ErrorKind::Invalid,
            _ => ErrorKind::Io,
        },
        _ => ErrorKind::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_names_the_operation_once_and_escapes_the_subject() {
        let error = Error::bare(ErrorKind::Full).at("save", || "file\n3".into()).at("commit", || "x".into());
        assert_eq!(error.to_string(), "could not save file\\u{a}3");
    }
}
