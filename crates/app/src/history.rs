//! What happened: transfers and their files as people ask for them.

use model::{ErrorClass, FileNumber, FileState, TransferId, TransferState};
use store::{FileQuery, Store, TransferQuery, TransferRecord};

use crate::error::{Error, Result};
use crate::event::{ErrorReport, FileReport};

/// One line of `history`.
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

async fn entry(store: &Store, record: TransferRecord) -> Result<HistoryEntry> {
    let counts = store.counts(&record.id).await?;
    Ok(HistoryEntry {
        files_done: counts.iter().filter(|c| c.state.is_success()).map(|c| c.files).sum(),
        id: record.id,
        run: record.run,
        state: record.state,
        source: record.source,
        destination: record.destination,
        files_total: record.files_total,
        bytes_total: record.bytes_total,
        created_at: record.created_at,
        finished_at: record.finished_at,
        error: record.error_class.map(|class| (class, record.error_text.unwrap_or_default())),
    })
}

/// Newest first.
pub async fn list(store: &Store, limit: usize) -> Result<Vec<HistoryEntry>> {
    let records = store.transfers(TransferQuery { limit: limit as u32, ..TransferQuery::default() }).await?;
    let mut entries = Vec::with_capacity(records.len());
    for record in records {
        entries.push(entry(store, record).await?);
    }
    Ok(entries)
}

/// One transfer with the files that are not where they should be (at most `limit`).
pub async fn explain(store: &Store, id: &TransferId, limit: u32) -> Result<(HistoryEntry, Vec<FileReport>)> {
    let record = store.transfer(id).await?.ok_or_else(|| unknown(id))?;
    let open: Vec<FileState> = FileState::ALL.iter().copied().filter(|s| !s.is_success()).collect();
    let files = store.files(id, FileQuery { states: Some(&open), limit, ..Default::default() }).await?;
    let reports = files
        .into_iter()
        .map(|f| FileReport {
            v: 1,
            kind: "file",
            transfer_id: id.clone(),
            file: FileNumber(f.number.0),
            status: f.state,
            key: f.key.to_string(),
            path: f.path.to_string(),
            size: f.size,
            error: f.error_class.map(|class| ErrorReport::new(class, f.error_text.unwrap_or_default())),
            kept: None,
            verification: None,
            seconds: 0.0,
        })
        .collect();
    Ok((entry(store, record).await?, reports))
}

pub fn unknown(id: &TransferId) -> Error {
    Error::new(ErrorClass::Internal, format!("no transfer {id} is in the records of this machine")).next("see `fileferry history`")
}
