//! What a running copy tells the world, one JSON object per line with `--json`. A `file` line of a delivered file
//! is its signed receipt.

use model::{ErrorClass, FileNumber, FileState, TransferId, TransferState};
use serde::Serialize;
use transfer::meter::Snapshot;

use crate::forecast::Forecast;

#[derive(Debug, Clone)]
pub enum Event {
    Plan(PlanReport),
    Progress {
        transfer_id: TransferId,
        snapshot: Snapshot,
    },
    /// The receipt line of a delivered or collected file, exactly as signed.
    Receipt {
        line: String,
        report: FileReport,
    },
    /// A file that ended otherwise: unchanged, skipped, superseded, held, failed.
    File(FileReport),
    /// What became of an original, or why it was kept.
    After(AfterReport),
    /// One round of a watch is over.
    Round(Box<Summary>),
    /// How a watch is doing.
    Watch(WatchReport),
    /// Something worth a line on stderr: a legacy algorithm, fewer logins than asked for, a retry.
    Note(String),
}

/// `{"v":1,"type":"plan",…}`
#[derive(Debug, Clone, Serialize)]
pub struct PlanReport {
    pub v: u32,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub transfer_id: TransferId,
    pub run: u32,
    /// An earlier, interrupted run of the same copy is continued.
    pub resumed: bool,
    pub source: String,
    pub destination: String,
    pub files: u64,
    pub bytes: u64,
    pub excluded: u64,
    /// Keys ending in `/`, which hold no file.
    pub folder_markers: Vec<String>,
    pub files_direct: u64,
    pub files_chunked: u64,
    pub files_parallel: u64,
    pub verify: String,
    /// Bytes that the proof will read from the destination.
    pub proof_bytes: u64,
    pub if_exists: String,
    pub publish: String,
    /// Files that go with others, the manifest and the done file among them.
    pub companions: u64,
    pub order: Option<String>,
    pub after: String,
    pub dry_run: bool,
    /// With `--dry-run`: what would be sent where, in listing order (bounded; `more` counts the rest).
    pub listing: Vec<PlannedFile>,
    pub more: u64,
    /// With `--dry-run`: what is known of the destination's server.
    pub known: Option<Box<Forecast>>,
}

#[derive(Debug, Clone, Serialize)]
pub struct PlannedFile {
    pub key: String,
    pub path: String,
    pub size: u64,
}

/// `{"v":1,"type":"file","status":"failed",…}` for files without a receipt.
#[derive(Debug, Clone, Serialize)]
pub struct FileReport {
    pub v: u32,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub transfer_id: TransferId,
    pub file: FileNumber,
    pub status: FileState,
    pub key: String,
    pub path: String,
    pub size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
    /// A temporary file that was kept at the destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification: Option<String>,
    pub seconds: f64,
}

#[derive(Debug, Clone, Serialize)]
pub struct ErrorReport {
    pub class: ErrorClass,
    /// What happened, with its causes.
    pub message: String,
    pub whose_move: String,
    pub next: String,
}

impl ErrorReport {
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), whose_move: class.whose_move().into(), next: class.next_step().into() }
    }
}

/// `{"v":1,"type":"after",…}`
#[derive(Debug, Clone, Serialize)]
pub struct AfterReport {
    pub v: u32,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub transfer_id: TransferId,
    pub key: String,
    pub version: Option<String>,
    /// `deleted`, `archived` or `kept`.
    pub state: &'static str,
    /// Where it is archived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
}

/// `{"v":1,"type":"watch",…}`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct WatchReport {
    pub v: u32,
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `watching`, `waiting` (for a server, a store or a person) or `stopped`.
    pub state: &'static str,
    pub rounds: u64,
    pub delivered: u64,
    /// Objects that are tried again later.
    pub retrying: u64,
    /// Objects that are left alone until they change.
    pub given_up: u64,
    /// Objects that changed a moment ago.
    pub settling: u64,
    pub last_delivery: Option<jiff::Timestamp>,
    /// Why it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// With `--queue`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueReport>,
}

/// How the queue of a watch is doing, in messages since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct QueueReport {
    pub received: u64,
    pub deleted: u64,
    /// Received, and their objects not done with.
    pub held: u64,
    /// Events of other kinds and of objects that this watch does not send.
    pub not_ours: u64,
    /// Events of versions that came after a newer one had been delivered.
    pub superseded: u64,
    /// Left to the queue.
    pub not_understood: u64,
    /// Why nothing comes from it; listing goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
}

/// `{"v":1,"type":"summary",…}`, always the last line.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    pub v: u32,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub transfer_id: Option<TransferId>,
    pub state: TransferState,
    pub files: u64,
    pub delivered: u64,
    pub unchanged: u64,
    pub skipped: u64,
    pub collected: u64,
    pub superseded: u64,
    pub publish_pending: u64,
    pub held: u64,
    pub failed: u64,
    pub not_finished: u64,
    pub bytes: u64,
    pub bytes_sent: u64,
    pub bytes_resumed: u64,
    pub seconds: f64,
    /// Files that went with others, and those that could not.
    pub companions: u64,
    pub companions_failed: u64,
    /// Originals that were deleted or archived, and those that should have been.
    pub removed: u64,
    pub source_kept: u64,
    /// How many files failed with which class.
    pub errors: std::collections::BTreeMap<String, u64>,
    /// What ended the whole run, as opposed to single files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
    pub exit_code: u8,
}
