//! `clean` and `resume --abandon`: temporary files of ours, found by template and records, and scratch files of rehearsals;
//! others' are never touched.

use std::time::Duration;

use app::CopySpec;
use app::binding::is_governed;
use app::transfers::{self, is_open};
use jiff::Timestamp;
use model::{Credential, FileState, RemotePath, TempName, TransferId, TransferState};
use store::{Batch, FileQuery, Mutation, Store, TransferQuery, TransferRecord};
use tokio::sync::mpsc;
use transfer::Connection;

use crate::open::{self, Login};
use crate::scratch::Rehearsals;
use crate::sweep::{NAMES, beside, directories};
use crate::{Failure, Leftover, Place, process};

/// Finds our temporary files in one directory and removes those that nothing needs any more.
pub async fn clean(
    place: &Place,
    url: &str,
    spec: &CopySpec,
    older_than: Duration,
    dry_run: bool,
    out: mpsc::Sender<Leftover>,
) -> Result<(), Failure> {
    let side = open::destination(url, &spec.server, &spec.options, None, Login::Now, place)?;
    let store = place.store().await?;
    let directory = if side.directory { side.path.clone() } else { side.path.parent().unwrap_or_else(RemotePath::root) };
    let connection = side.connector.connect().await?;
    let records = records(&store).await?;
    let now = Timestamp::now();
    let template = &spec.options.temp_name;
    let mut places = vec![directory.clone()];
    places.extend(beside(template, &directory.join("x").map_err(transfer::Error::from)?).filter(|d| d != &directory));
    for directory in places {
        if connection.stat(&directory).await?.is_none() && directory != places_first(&side.path, side.directory) {
            continue;
        }
        let rehearsals = Rehearsals::on_record(&store, &side.key, &directory).await?;
        for entry in connection.list(&directory, NAMES).await?.into_iter().filter(|entry| entry.exact) {
            let young = entry.metadata.modified.is_none_or(|at| now.duration_since(at).unsigned_abs() < older_than);
            let kept_because = if let Some(whose) = template.scratch_of(&entry.name) {
                match rehearsals.alive.contains(&whose) {
                    true => Some("a rehearsal is using it".to_owned()),
                    false => young.then(|| "it is younger than --older-than".to_owned()),
                }
            } else if let Some(parts) = template.read(&entry.name).filter(|_| !entry.metadata.directory) {
                needed(records.iter().find(|record| record.id.short() == parts.transfer), young)
            } else {
                continue;
            };
            let path = directory.join(&entry.name).map_err(transfer::Error::from)?;
            let (mut removed, mut kept_because) = (kept_because.is_none() && !dry_run, kept_because);
            match (removed, entry.metadata.directory) {
                // What stands in it is not known to be ours.
                (true, true) => match connection.remove_directory(&path).await {
                    Err(error) if error.is_connection_lost() => return Err(error.into()),
                    Err(error) => (removed, kept_because) = (false, Some(transfer::error::chain(&error))),
                    Ok(()) => {}
                },
                (true, false) => connection.remove(&path).await?,
                (false, _) => {}
            }
            let leftover =
                Leftover { path: path.to_string(), size: entry.metadata.size, modified: entry.metadata.modified, removed, kept_because };
            if out.send(leftover).await.is_err() {
                return Ok(());
            }
        }
    }
    connection.close().await?;
    Ok(())
}

/// Why a temporary file of this transfer is left.
fn needed(owner: Option<&TransferRecord>, young: bool) -> Option<String> {
    match owner {
        None => Some("it is not in this machine's records".to_owned()),
        Some(record) if is_open(record.state) && is_governed(record) => {
            Some(format!("the service may go on with transfer {}; see `fileferry transfer cancel`", record.id))
        }
        Some(record) if is_open(record.state) => {
            Some(format!("transfer {} can still be resumed; see `fileferry resume --abandon`", record.id))
        }
        Some(_) if young => Some("it is younger than --older-than".to_owned()),
        Some(_) => None,
    }
}

/// The directory that was named must exist; the staging directory beside it need not.
fn places_first(path: &RemotePath, directory: bool) -> RemotePath {
    if directory { path.clone() } else { path.parent().unwrap_or_else(RemotePath::root) }
}

async fn records(store: &Store) -> Result<Vec<TransferRecord>, Failure> {
    let mut all = Vec::new();
    let mut before = None;
    loop {
        let page = store.transfers(TransferQuery { before, ..TransferQuery::default() }).await?;
        let Some(last) = page.last() else { return Ok(all) };
        before = Some(last.id.clone());
        all.extend(page);
    }
}

/// Gives transfers up: removes their temporary files at the destination, then their state. `None` is all unfinished.
pub async fn abandon(place: &Place, id: Option<TransferId>, password: Option<Credential>) -> Result<Vec<TransferId>, Failure> {
    let store = place.store().await?;
    let mut abandoned = Vec::new();
    for record in crate::history::unfinished(&store, id.as_ref()).await? {
        let spec = crate::stored_spec(&record)?;
        let id = record.id.clone();
        let held = match transfers::take(&store, record, &process::holder(place.lease), Timestamp::now(), process::is_dead).await {
            Ok(held) => held,
            Err(error) if error.held_by.is_some() => return Err(Failure::from(error)),
            Err(error) => return Err(error.into()),
        };
        let removal = remove_temporary(place, &store, &spec, &id, password.clone()).await;
        let state = if removal.is_ok() { TransferState::Cancelled } else { TransferState::Paused };
        transfers::end(&store, &held, state, None, Timestamp::now()).await?;
        removal?;
        abandoned.push(id);
    }
    Ok(abandoned)
}

async fn remove_temporary(
    place: &Place,
    store: &Store,
    spec: &CopySpec,
    id: &TransferId,
    password: Option<Credential>,
) -> Result<(), Failure> {
    let side = open::destination(&spec.destination, &spec.server, &spec.options, password, Login::Now, place)?;
    let root = if side.directory { side.path.clone() } else { side.path.parent().unwrap_or_else(RemotePath::root) };
    // Nothing was ever sent by a transfer without files.
    if store.files(id, FileQuery { limit: 1, ..FileQuery::default() }).await?.is_empty() {
        return Ok(());
    }
    let connection = side.connector.connect().await?;
    remove_over(&*connection, store, &spec.options.temp_name, &root, id).await?;
    connection.close().await?;
    store.commit(forget(store, id).await?).await?;
    Ok(())
}

/// Removes the temporary files of a transfer that nobody goes on with.
pub(crate) async fn remove_over(
    connection: &dyn Connection,
    store: &Store,
    template: &TempName,
    root: &RemotePath,
    id: &TransferId,
) -> app::Result<()> {
    let named = on_record(store, id).await?;
    remove_named(connection, store, template, root, id, &named).await
}

/// The same for one that somebody may go on with all the same: it begins its files anew then.
pub(crate) async fn remove_and_forget(
    connection: &dyn Connection,
    store: &Store,
    template: &TempName,
    root: &RemotePath,
    id: &TransferId,
) -> app::Result<()> {
    let named = on_record(store, id).await?;
    // The records first: a temporary file that they name and that is gone would count as published and collected.
    begin_anew(store, id).await?;
    remove_named(connection, store, template, root, id, &named).await
}

/// No record of the transfer's unfinished files names a temporary file any more; how they ended stays.
async fn begin_anew(store: &Store, id: &TransferId) -> app::Result<()> {
    let mut after = None;
    loop {
        let page = store.files(id, FileQuery { after, ..FileQuery::default() }).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.number);
        let named: Vec<_> = page.into_iter().filter(|f| !f.state.is_success() && (f.checkpoint.is_some() || f.intent.is_some())).collect();
        for files in named.chunks(store::MAX_MUTATIONS / 2) {
            let (mut batch, at) = (Batch::new(), Timestamp::now());
            for file in files {
                let (transfer, number) = (id.clone(), file.number);
                let (attempt, epoch) = (file.attempt + 1, file.epoch);
                batch = batch.push(Mutation::BeginAttempt { transfer: transfer.clone(), number, attempt, epoch, at });
                // Nothing is there any more that only waits for its name.
                let state = if file.state == FileState::PublishPending { FileState::Failed } else { file.state };
                let text = file.error_text.clone().unwrap_or_default();
                let error = file.error_class.map(|class| store::Failure { class, text });
                batch = batch.push(Mutation::SetFileState { transfer, number, state, error, at });
            }
            store.commit(batch).await?;
        }
    }
}

async fn remove_named(
    connection: &dyn Connection,
    store: &Store,
    template: &TempName,
    root: &RemotePath,
    id: &TransferId,
    named: &[RemotePath],
) -> app::Result<()> {
    for directory in directories(store, id, template, root).await? {
        match connection.list(&directory, NAMES).await {
            Ok(entries) => {
                for entry in entries.iter().filter(|e| e.exact && !e.metadata.directory) {
                    if template.read(&entry.name).is_some_and(|parts| parts.transfer == id.short()) {
                        connection.remove(&directory.join(&entry.name).map_err(transfer::Error::from)?).await?;
                    }
                }
            }
            // A directory that cannot be listed: the names that the records know.
            Err(error) if !error.is_connection_lost() => {
                for temp in named.iter().filter(|temp| temp.parent().as_ref() == Some(&directory)) {
                    connection.remove(temp).await?;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The temporary files that the records of a transfer name.
async fn on_record(store: &Store, id: &TransferId) -> app::Result<Vec<RemotePath>> {
    let (mut named, mut after) = (Vec::new(), None);
    loop {
        let page = store.files(id, FileQuery { after, ..FileQuery::default() }).await?;
        let Some(last) = page.last() else { return Ok(named) };
        after = Some(last.number);
        let unreadable =
            |e: serde_json::Error| app::Error::new(model::ErrorClass::Internal, format!("a record of a file cannot be read: {e}"));
        for file in page {
            if let Some(text) = file.checkpoint {
                named.push(serde_json::from_str::<transfer::sheet::Checkpoint>(&text).map_err(unreadable)?.temp);
            }
            if let Some(text) = file.intent {
                named.push(serde_json::from_str::<transfer::port::Intent>(&text).map_err(unreadable)?.temp);
            }
        }
    }
}

/// Checkpoints of an abandoned transfer must never be used again.
async fn forget(store: &Store, id: &TransferId) -> Result<Batch, Failure> {
    let mut batch = Batch::new();
    let open: Vec<_> = model::FileState::ALL.iter().copied().filter(|s| !s.is_success()).collect();
    let files = store.files(id, FileQuery { states: Some(&open), ..FileQuery::default() }).await?;
    for numbers in files.chunks(store::MAX_FILES) {
        batch = batch.push(Mutation::RemoveFiles { transfer: id.clone(), numbers: numbers.iter().map(|f| f.number).collect() });
    }
    Ok(batch)
}
