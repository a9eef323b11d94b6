//! The records of the store, as plain data. JSON columns are opaque here: the `app` crate gives them meaning.

pub(crate) mod audit;
pub(crate) mod context;
pub(crate) mod execution;
pub(crate) mod learning;
pub(crate) mod outbox;
pub(crate) mod request;
pub(crate) mod session;
pub(crate) mod setting;
pub(crate) mod ticket;
mod words;

use jiff::Timestamp;
use model::{ErrorClass, FileNumber, FileState, ObjectKey, RemotePath, TransferId, TransferState};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransferRecord {
    pub id: TransferId,
    pub run: u32,
    /// Hash of source, destination and naming options: two records with one identity are the same command.
    pub identity: String,
    pub source: String,
    pub destination: String,
    pub spec: String,
    pub state: TransferState,
    pub error_class: Option<ErrorClass>,
    pub error_text: Option<String>,
    pub files_total: u64,
    pub bytes_total: u64,
    /// The manifest is complete.
    pub listed: bool,
    /// The process that works on it, or did last.
    pub pid: u32,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub finished_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileRecord {
    pub transfer: TransferId,
    pub number: FileNumber,
    pub key: ObjectKey,
    pub path: RemotePath,
    pub size: u64,
    pub pin: String,
    pub state: FileState,
    pub attempt: u32,
    pub epoch: u32,
    pub checkpoint: Option<String>,
    pub intent: Option<String>,
    pub error_class: Option<ErrorClass>,
    pub error_text: Option<String>,
    pub bytes_done: u64,
    pub bytes_sent: u64,
    /// The signed line.
    pub receipt: Option<String>,
    /// What became of the source object after its delivery; `None`: nothing yet.
    pub original: Option<String>,
    pub updated_at: Timestamp,
}

/// The newest delivery by us to one path of one destination. It outlives its transfer's record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// The server's identity, user included.
    pub destination: String,
    pub path: RemotePath,
    /// Store and bucket.
    pub source: String,
    pub key: ObjectKey,
    pub version: Option<String>,
    pub etag: Option<String>,
    pub size: u64,
    pub modified: Option<Timestamp>,
    /// Lower-case hexadecimal.
    pub sha256: Option<String>,
    /// Sixteen hexadecimal characters.
    pub crc64nvme: Option<String>,
    pub published_at: Timestamp,
    pub transfer: TransferId,
    /// It was published and the partner has taken it away.
    pub collected: bool,
}

/// A held lease. A free resource has none, though its epoch is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub resource: String,
    /// Random per process.
    pub holder: String,
    pub pid: u32,
    /// With pid and host it tells a living holder from a recycled number.
    pub process_start: String,
    pub host: String,
    pub epoch: u32,
    pub expires_at: Timestamp,
}

/// Why nobody logs in to a destination until a person acts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    /// A fingerprint of what was refused; never the secret.
    pub credential: String,
    pub reason: String,
    pub at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationRecord {
    pub key: String,
    pub parked: Option<Parked>,
    pub breaker_failures: u32,
    pub breaker_open_until: Option<Timestamp>,
    pub profile: Option<String>,
}

/// Newest first.
#[derive(Debug, Clone, Default)]
pub struct TransferQuery {
    /// Empty: every state.
    pub states: Vec<TransferState>,
    pub identity: Option<String>,
    /// Only those created before this one; the last of a page is the cursor of the next.
    pub before: Option<TransferId>,
    /// 0: the store's own limit, 1,000, which also bounds any other number.
    pub limit: u32,
}

/// Which part of a manifest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Part {
    #[default]
    Everything,
    /// What the source has.
    Files,
    /// What goes with it: numbers from `model::contract::FIRST_COMPANION` on.
    Companions,
}

/// In the order of their numbers.
#[derive(Debug, Clone, Default)]
pub struct FileQuery<'a> {
    pub part: Part,
    pub after: Option<FileNumber>,
    /// `None`: every state.
    pub states: Option<&'a [FileState]>,
    /// 0: the store's own limit, 1,000, which also bounds any other number.
    pub limit: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateCount {
    pub state: FileState,
    pub files: u64,
    /// The sum of their sizes.
    pub bytes: u64,
}

/// Counted since the store was opened, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Batches answered, well or badly.
    pub batches: u64,
    /// Transactions committed; each is one wait for the disk.
    pub commits: u64,
}
