//! Temporary files that are of no more use: found by their name template and our records, never those of others.

use std::collections::BTreeSet;
use std::time::Duration;

use app::Options;
use app::transfers::{Held, Naming};
use model::{RemotePath, TempName};
use store::{FileQuery, FileRecord, Store};
use tracing::{debug, warn};
use transfer::engine::Engine;
use transfer::error::chain;

/// Directories looked into after a run; the rest is for `clean`.
const DIRECTORIES: usize = 200;
/// Names read of one directory.
pub const NAMES: usize = 100_000;

/// What looking for leftovers may cost after the end.
const PATIENCE: Duration = Duration::from_secs(20);
const TRIES: u32 = 3;

/// Whose leftovers are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// After a run that followed a dead one: what earlier epochs of this transfer left.
    Earlier,
    /// After this process lost its lease: its own, but for those on which the successor may count.
    Own,
}

pub async fn after_run(whose: Whose, store: &Store, held: &Held, engine: &Engine, options: &Options, naming: &Naming) {
    let looked = async {
        let mut tried = 1;
        loop {
            match try_after_run(whose, store, held, engine, options, naming).await {
                // A completed transfer is not looked at again, so a cut line must not end this.
                Err(error) if error.class.is_retryable() && tried < TRIES => tried += 1,
                other => return other,
            }
        }
    };
    match tokio::time::timeout(PATIENCE, looked).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            warn!(error = %error.message, "could not look for temporary files of an earlier run; `fileferry clean` does");
        }
        Err(_) => warn!("the server took too long to look for temporary files of an earlier run; `fileferry clean` does"),
    }
}

async fn try_after_run(whose: Whose, store: &Store, held: &Held, engine: &Engine, options: &Options, naming: &Naming) -> app::Result<()> {
    let connection = engine.pool().seat().await?;
    let id = &held.record.id;
    for directory in directories(store, id, &options.temp_name, &naming.root).await? {
        let entries = match connection.list(&directory, NAMES).await {
            Ok(entries) => entries,
            Err(error) if error.is_connection_lost() => {
                connection.lost();
                return Err(error.into());
            }
            Err(error) => {
                debug!(%directory, error = %chain(&error), "cannot be listed");
                continue;
            }
        };
        for entry in entries.iter().filter(|e| e.exact && !e.metadata.directory) {
            let Some(parts) = options.temp_name.read(&entry.name) else { continue };
            // Epochs go on counting from one run to the next.
            if parts.transfer != id.short() || parts.run > held.record.run {
                continue;
            }
            let path = directory.join(&entry.name).map_err(transfer::Error::from)?;
            let file = store.file(id, parts.file).await?;
            let in_use = match whose {
                Whose::Earlier => parts.epoch >= held.lease.epoch || file.is_some_and(|f| may_continue(&f, parts.attempt)),
                Whose::Own => parts.epoch != held.lease.epoch || file.is_some_and(|f| names(&f, &path)),
            };
            if !in_use {
                if let Err(error) = connection.remove(&path).await {
                    if error.is_connection_lost() {
                        connection.lost();
                    }
                    return Err(error.into());
                }
                debug!(%path, "removed a temporary file of an earlier run");
            }
        }
    }
    Ok(())
}

/// Whether an unfinished file may still be continued from a temporary file of this attempt. Its name may be that of a
/// later epoch than the record says: a take-over renames first and is written down later.
fn may_continue(file: &FileRecord, attempt: u32) -> bool {
    !file.state.is_success() && (file.checkpoint.is_some() || file.intent.is_some()) && file.attempt == attempt
}

/// Whether the records lead a successor to this temporary file.
fn names(file: &FileRecord, path: &RemotePath) -> bool {
    let named = |record: &Option<String>| record.as_deref().is_some_and(|text| text.contains(path.name()));
    !file.state.is_success() && (named(&file.checkpoint) || named(&file.intent))
}

/// Where temporary files of this transfer may lie.
pub async fn directories(store: &Store, id: &model::TransferId, temp: &TempName, root: &RemotePath) -> app::Result<BTreeSet<RemotePath>> {
    let mut found = BTreeSet::new();
    let mut after = None;
    while found.len() < DIRECTORIES {
        let page = store.files(id, FileQuery { after, limit: 1_000, ..Default::default() }).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.number);
        for file in page {
            if let Some(directory) = beside(temp, &file.path) {
                found.insert(directory);
            }
        }
    }
    found.extend(beside(temp, &root.join("x").map_err(transfer::Error::from)?));
    Ok(found)
}

/// The directory of a file's temporary names.
pub fn beside(temp: &TempName, path: &RemotePath) -> Option<RemotePath> {
    let id = model::TransferId::from_random([0; 10]);
    temp.path(path, &id, 1, model::FileNumber(0), 1, 1).ok()?.parent()
}
