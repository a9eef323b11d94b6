//! Temporary files that are of no more use: found by their name template and our records, never those of others.

use std::collections::BTreeSet;

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

/// After a run that followed a dead one: removes what earlier epochs of this transfer left.
pub async fn after_run(store: &Store, held: &Held, engine: &Engine, options: &Options, naming: &Naming) {
    if let Err(error) = try_after_run(store, held, engine, options, naming).await {
        warn!(error = %error.message, "could not look for temporary files of an earlier run; `fileferry clean` does");
    }
}

async fn try_after_run(store: &Store, held: &Held, engine: &Engine, options: &Options, naming: &Naming) -> app::Result<()> {
    let connection = engine.pool().seat().await?;
    let id = &held.record.id;
    for directory in directories(store, id, &options.temp_name, &naming.root).await? {
        let entries = match connection.list(&directory, NAMES).await {
            Ok(entries) => entries,
            Err(error) => {
                debug!(%directory, error = %chain(&error), "cannot be listed");
                continue;
            }
        };
        for entry in entries.iter().filter(|e| e.exact && !e.metadata.directory) {
            let Some(parts) = options.temp_name.read(&entry.name) else { continue };
            if parts.transfer != id.short() || parts.run != held.record.run {
                continue;
            }
            let path = directory.join(&entry.name).map_err(transfer::Error::from)?;
            let in_use = store.file(id, parts.file).await?.is_some_and(|f| needs(&f, &path, parts.epoch, held.lease.epoch));
            if !in_use {
                connection.remove(&path).await?;
                debug!(%path, "removed a temporary file of an earlier run");
            }
        }
    }
    Ok(())
}

/// Whether an unfinished file may still be continued from this temporary file.
pub fn needs(file: &FileRecord, path: &RemotePath, epoch: u32, current: u32) -> bool {
    if file.state.is_success() {
        return false;
    }
    let named = |record: &Option<String>| record.as_deref().is_some_and(|text| text.contains(path.as_str()));
    epoch >= current || named(&file.checkpoint) || named(&file.intent)
}

/// Where temporary files of this transfer may lie.
pub async fn directories(store: &Store, id: &model::TransferId, temp: &TempName, root: &RemotePath) -> app::Result<BTreeSet<RemotePath>> {
    let mut found = BTreeSet::new();
    let mut after = None;
    while found.len() < DIRECTORIES {
        let page = store.files(id, FileQuery { after, states: None, limit: 1_000 }).await?;
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
