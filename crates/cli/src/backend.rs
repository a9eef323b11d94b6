//! What the commands call. Swapped for `pub use runtime::{…}` when the engine is there.

use std::time::Duration;

use app::event::{FileReport, Summary};
use app::{CopySpec, Event};
use model::{Algorithm, Credential, ErrorClass, TransferId};
use runtime::{Control, CopyMode, Difference, Failure, HistoryEntry, Leftover, ListedEntry, Place};
use tokio::sync::mpsc;

#[derive(Debug, Clone, Copy, Default)]
pub struct CheckSummary {
    pub same: u64,
    pub differs: u64,
    pub missing: u64,
    pub only_at_destination: u64,
    pub failed: u64,
}

fn absent<T>() -> Result<T, Failure> {
    let class = ErrorClass::Internal;
    Err(Failure { class, exit_code: class.exit_code(), message: "this build moves no files".into(), next: None })
}

pub async fn copy(
    _place: &Place,
    _spec: CopySpec,
    _password: Option<Credential>,
    _mode: CopyMode,
    _events: mpsc::Sender<Event>,
    _control: Control,
) -> Result<Summary, Failure> {
    absent()
}

pub async fn resume(
    _place: &Place,
    _id: Option<TransferId>,
    _password: Option<Credential>,
    _events: mpsc::Sender<Event>,
    _control: Control,
) -> Result<Vec<Summary>, Failure> {
    absent()
}

pub async fn abandon(_place: &Place, _id: Option<TransferId>, _password: Option<Credential>) -> Result<Vec<TransferId>, Failure> {
    absent()
}

pub async fn list(_place: &Place, _url: &str, _spec: &CopySpec, _recursive: bool, _out: mpsc::Sender<ListedEntry>) -> Result<(), Failure> {
    absent()
}

pub async fn check(
    _place: &Place,
    _spec: CopySpec,
    _password: Option<Credential>,
    _out: mpsc::Sender<Difference>,
) -> Result<CheckSummary, Failure> {
    absent()
}

pub async fn hash(
    _place: &Place,
    _url: &str,
    _spec: &CopySpec,
    _algorithms: &[Algorithm],
    _out: mpsc::Sender<(String, Algorithm, String)>,
) -> Result<(), Failure> {
    absent()
}

pub async fn clean(
    _place: &Place,
    _url: &str,
    _spec: &CopySpec,
    _older_than: Duration,
    _dry_run: bool,
    _out: mpsc::Sender<Leftover>,
) -> Result<(), Failure> {
    absent()
}

pub async fn history(_place: &Place, _limit: usize) -> Result<Vec<HistoryEntry>, Failure> {
    Ok(Vec::new())
}

pub async fn prune(_place: &Place, _older_than: Duration) -> Result<u64, Failure> {
    Ok(0)
}

pub async fn explain_transfer(_place: &Place, _id: &TransferId) -> Result<(HistoryEntry, Vec<FileReport>), Failure> {
    absent()
}
