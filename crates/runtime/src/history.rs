//! What happened on this machine.

use std::time::Duration;

use app::binding::is_governed;
use app::event::FileReport;
use app::history::{self, HistoryEntry};
use app::transfers::is_open;
use app::{advice, profiles};
use jiff::Timestamp;
use model::TransferId;
use store::{Mutation, Store, TransferQuery, TransferRecord};

use crate::open::{self, Login};
use crate::{Failure, Place};

/// Files shown by `explain`.
const EXPLAINED: u32 = 100;

/// Newest first.
pub async fn history(place: &Place, limit: usize) -> Result<Vec<HistoryEntry>, Failure> {
    Ok(history::list(&place.store().await?, limit).await?)
}

/// One transfer, the files of it that are not where they should be, and what is known of its server that may explain it.
#[derive(Debug, Clone)]
pub struct Explained {
    pub entry: HistoryEntry,
    pub files: Vec<FileReport>,
    pub known: Vec<String>,
}

pub async fn explain_transfer(place: &Place, id: &TransferId) -> Result<Explained, Failure> {
    let store = place.store().await?;
    let (entry, mut files) = history::explain(&store, id, EXPLAINED).await?;
    let mut known = Vec::new();
    if let Some(profile) = profile_of(place, &store, id).await {
        if let Some((class, _)) = &entry.error {
            known.extend(advice::for_failure(&profile, *class));
        }
        for error in files.iter_mut().filter_map(|file| file.error.as_mut()) {
            let Some(advice) = advice::for_failure(&profile, error.class) else { continue };
            error.next = format!("{}; {advice}", error.next);
        }
        known.extend(profiles::warnings(&profile, &app::Options::default(), Timestamp::now()));
    }
    Ok(Explained { entry, files, known })
}

/// The settings of a transfer may no longer lead to its server; then nothing is known.
async fn profile_of(place: &Place, store: &Store, id: &TransferId) -> Option<model::Profile> {
    let record = store.transfer(id).await.ok()??;
    let spec = crate::stored_spec(&record).ok()?;
    let side = open::destination(&spec.destination, &spec.server, &spec.options, None, Login::Never, place).ok()?;
    profiles::load(store, &side.key).await.ok()?
}

/// Forgets finished transfers that ended longer ago than this. What was delivered stays known, so that nothing is
/// sent twice.
pub async fn prune(place: &Place, older_than: Duration) -> Result<u64, Failure> {
    let store = place.store().await?;
    let limit = Timestamp::now().checked_sub(older_than).map_err(|e| Failure::usage(e.to_string()))?;
    let mut pruned = 0;
    let mut before = None;
    loop {
        let page = store.transfers(TransferQuery { before, ..TransferQuery::default() }).await?;
        let Some(last) = page.last() else { return Ok(pruned) };
        before = Some(last.id.clone());
        for record in page {
            if record.state.is_terminal() && record.finished_at.is_some_and(|at| at < limit) {
                store.commit(Mutation::DeleteTransfer { transfer: record.id }).await?;
                pruned += 1;
            }
        }
    }
}

/// Transfers that `resume` goes on with, oldest first. Naming one that is done, or a service's, is an error that says so;
/// where none is named, those of a service are left to it.
pub(crate) async fn unfinished(store: &Store, id: Option<&TransferId>) -> Result<Vec<TransferRecord>, Failure> {
    if let Some(id) = id {
        let record = store.transfer(id).await?.ok_or_else(|| history::unknown(id))?;
        return match is_open(record.state) {
            true if is_governed(&record) => Err(Failure {
                next: Some(format!("`fileferry transfer resume {id}`, or `fileferry transfer cancel {id}` to give it up")),
                ..Failure::usage(format!("transfer {id} was asked of the service on this directory, which alone goes on with it"))
            }),
            true => Ok(vec![record]),
            false => Err(Failure::usage(format!("transfer {id} is {}; there is nothing to go on with", record.state))),
        };
    }
    let mut found = Vec::new();
    let mut before = None;
    loop {
        let page = store.transfers(TransferQuery { before, ..TransferQuery::default() }).await?;
        let Some(last) = page.last() else { break };
        before = Some(last.id.clone());
        found.extend(page.into_iter().filter(|t| is_open(t.state) && !is_governed(t)));
    }
    found.reverse();
    Ok(found)
}
