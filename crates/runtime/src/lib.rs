//! The loops: opens what a spec names, drives the engine over the manifest, keeps leases alive.
//! Everything the command line does goes through the functions here.

pub mod keys;
pub mod secret;

use std::path::PathBuf;
use std::sync::Arc;

use model::{Credential, ErrorClass, TransferId, TransferState};

use tokio_util::sync::CancellationToken;

/// Where state lives and who is asked. Read from the environment once, by the binary.
#[derive(Clone)]
pub struct Place {
    /// `$XDG_STATE_HOME/fileferry`.
    pub state: PathBuf,
    pub home: PathBuf,
    pub login_name: Option<String>,
    pub ssh_agent: Option<PathBuf>,
    /// Asks on the terminal; `None` never asks.
    pub prompt: Option<Arc<dyn Fn(&str) -> Option<Credential> + Send + Sync>>,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Place({})", self.state.display())
    }
}

/// Why a command could not be carried out as a whole. Failures of single files are events, not this.
#[derive(Debug)]
pub struct Failure {
    pub class: ErrorClass,
    pub exit_code: u8,
    /// One line with causes.
    pub message: String,
    /// A next step that is better than the class's own, if there is one.
    pub next: Option<String>,
}

/// First Ctrl-C: `stop` (checkpoint and end); second: `abort`.
#[derive(Debug, Clone, Default)]
pub struct Control {
    pub stop: CancellationToken,
    pub abort: CancellationToken,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct CopyMode {
    pub dry_run: bool,
    /// Follow a copy that another process is running instead of exiting with 5.
    pub attach: bool,
}

/// One line of `ls`.
#[derive(Debug, Clone)]
pub struct ListedEntry {
    pub name: String,
    pub directory: bool,
    pub size: u64,
    pub modified: Option<jiff::Timestamp>,
}

/// One line of `check`.
#[derive(Debug, Clone)]
pub enum Difference {
    Same { key: String, how: String },
    MissingAtDestination { key: String },
    OnlyAtDestination { path: String },
    Differs { key: String, how: String },
    Failed { key: String, class: ErrorClass, message: String },
}

#[derive(Debug, Clone)]
pub struct HistoryEntry {
    pub id: TransferId,
    pub run: u32,
    pub state: TransferState,
    pub source: String,
    pub destination: String,
    pub files_done: u64,
    pub files_total: u64,
    pub bytes_total: u64,
    pub created_at: jiff::Timestamp,
    pub finished_at: Option<jiff::Timestamp>,
    pub error: Option<(ErrorClass, String)>,
}

/// One temporary file that `clean` found.
#[derive(Debug, Clone)]
pub struct Leftover {
    pub path: String,
    pub size: u64,
    pub modified: Option<jiff::Timestamp>,
    pub removed: bool,
    /// Why it was left: younger than asked, belongs to a transfer that can be resumed, not in our records.
    pub kept_because: Option<String>,
}
