//! The loops: opens what a spec names, drives the engine over the manifest, keeps leases alive.
//! Everything the command line does goes through the functions here.

mod admission;
mod attach;
mod beside;
mod browse;
mod clean;
mod contract;
mod copy;
mod docks;
mod dry_run;
mod ends;
mod ftp;
mod handler;
mod harbour;
mod history;
mod inbox;
pub mod keys;
mod netrc;
mod open;
mod outbox;
mod outlook;
mod passage;
mod process;
pub mod rclone;
mod rehearse;
mod round;
mod scratch;
mod sealer;
pub mod sealing;
pub mod secret;
mod select;
mod service;
mod sweep;
mod sweeper;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

use app::CopySpec;
pub use app::history::HistoryEntry;
pub use browse::{check, hash, list};
pub use clean::{abandon, clean};
pub use copy::{copy, resume};
pub use history::{Explained, explain_transfer, history, prune};
use model::{Credential, ErrorClass};
pub use open::{DestinationSide, Opening, SourceSide};
pub use rehearse::{Depth, RehearseWish, Rehearsed, forget_profile, rehearse, show_profile, try_connector};
pub use service::{NotifierKind, Service, ServiceSettings};
use store::{Store, TransferRecord};
use tokio_util::sync::CancellationToken;
pub use watch::{WatchMode, Watched, watch};

/// Asks a person for a secret; `None` when nobody answers.
pub type Ask = dyn Fn(&str) -> Option<Credential> + Send + Sync;

/// Opens a secret that the service keeps; the error names the secret only.
pub type Sealed = dyn Fn(&str) -> Result<Credential, String> + Send + Sync;

/// Where state lives and who is asked. Read from the environment once, by the binary.
#[derive(Clone)]
pub struct Place {
    /// `$XDG_STATE_HOME/fileferry`.
    pub state: PathBuf,
    pub home: PathBuf,
    pub login_name: Option<String>,
    pub ssh_agent: Option<PathBuf>,
    /// How long a lease lasts without being renewed: `app::transfers::LEASE`, shorter only in tests.
    pub lease: jiff::SignedDuration,
    /// Asks on the terminal; `None` never asks.
    pub prompt: Option<Arc<Ask>>,
    /// Opens `local:NAME`; `None` outside the service.
    pub sealed: Option<Arc<Sealed>>,
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

impl Failure {
    pub(crate) fn of(class: ErrorClass, message: String) -> Self {
        Self { class, exit_code: class.exit_code(), message, next: None }
    }

    /// A mistake in the request, found before anything was done.
    pub(crate) fn usage(message: String) -> Self {
        Self { class: ErrorClass::Internal, exit_code: 1, message, next: Some("see `fileferry copy --help`".to_owned()) }
    }
}

impl From<app::Error> for Failure {
    fn from(error: app::Error) -> Self {
        Self { class: error.class, exit_code: error.class.exit_code(), message: error.message, next: error.next }
    }
}

impl From<transfer::Error> for Failure {
    fn from(error: transfer::Error) -> Self {
        app::Error::from(error).into()
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        app::Error::from(error).into()
    }
}

impl Place {
    /// The state file; made at the first call.
    pub(crate) async fn store(&self) -> Result<Store, Failure> {
        Ok(Store::open(self.state.join("fileferry.db")).await?)
    }

    /// For commands that leave no trace: nothing is made.
    pub(crate) async fn store_if_any(&self) -> Result<Option<Store>, Failure> {
        if self.state.join("fileferry.db").is_file() { self.store().await.map(Some) } else { Ok(None) }
    }
}

/// What a reference leads to.
pub(crate) fn secret(reference: &str, what: &str, place: &Place) -> Result<Credential, Failure> {
    let reference: secret::Reference = reference.parse().map_err(|e: secret::SecretError| Failure::usage(e.to_string()))?;
    let ask = || place.prompt.as_ref().and_then(|ask| ask(&format!("Password for {what}: ")));
    reference.resolve(ask, place.sealed.as_deref()).map_err(|e| Failure::of(ErrorClass::DestAuth, e.to_string()))
}

pub(crate) fn stored_spec(record: &TransferRecord) -> Result<CopySpec, Failure> {
    serde_json::from_str(&record.spec)
        .map_err(|e| Failure::of(ErrorClass::Internal, format!("the request of transfer {} cannot be read: {e}", record.id)))
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

#[derive(Debug, Clone, Copy, Default)]
pub struct CheckSummary {
    pub same: u64,
    pub differs: u64,
    pub missing: u64,
    pub only_at_destination: u64,
    pub failed: u64,
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
