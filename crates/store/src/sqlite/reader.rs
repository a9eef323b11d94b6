//! Reads by noun, on a small pool of read-only connections. Each read sees one moment of the database.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::{FileNumber, FileState, ObjectKey, RemotePath, TransferId};
use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::{STATEMENTS, closed, deliveries, destinations, files, leases, transfers, wait_for_others};
use crate::{
    Delivery, DestinationRecord, Error, ErrorKind, FileQuery, FileRecord, Lease, Result, StateCount, Store, TransferQuery, TransferRecord,
};

const CONNECTIONS: usize = 4;

pub(super) struct Readers {
    path: PathBuf,
    busy_limit: Duration,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readers").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Readers {
    pub(super) fn new(path: PathBuf, busy_limit: Duration) -> Self {
        Self { path, busy_limit, permits: Arc::new(Semaphore::new(CONNECTIONS)), idle: Mutex::new(Vec::new()) }
    }

    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let readers = self.clone();
        // In a task of its own: a caller that is not polled while it waits here, as the other arm of a `select!`, would
        // keep its place in the queue and with it everybody behind it, perhaps the very read that it waits for.
        let work = tokio::spawn(async move {
            let permit = readers.permits.clone().acquire_owned().await.map_err(|_| closed())?;
            let work = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                let idle = readers.idle().pop();
                let connection = match idle {
                    Some(connection) => connection,
                    None => readers.connect()?,
                };
                // Statements of one read see one snapshot; it ends with the transaction, which has nothing to commit.
                let moment = connection.unchecked_transaction()?;
                let result = read(&connection);
                drop(moment);
                let mut idle = readers.idle();
                if result.is_ok() && !readers.permits.is_closed() && idle.len() < CONNECTIONS {
                    idle.push(connection);
                }
                result
            });
            work.await.map_err(|error| closed().because(error))?
        });
        work.await.map_err(|error| closed().because(error))?
    }

    pub(super) fn close(&self) {
        self.permits.close();
        self.idle().clear();
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn connect(&self) -> Result<Connection> {
        let mut connection = Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        wait_for_others(&mut connection, self.busy_limit)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(connection)
    }
}

impl Store {
    pub async fn transfer(&self, id: &TransferId) -> Result<Option<TransferRecord>> {
        let key = id.clone();
        self.read("read", || format!("transfer {id}"), move |c| transfers::get(c, &key)).await
    }

    pub async fn transfers(&self, query: TransferQuery) -> Result<Vec<TransferRecord>> {
        self.read("list", || "the transfers".into(), move |c| transfers::list(c, &query)).await
    }

    /// Newest first.
    pub async fn unfinished_by_identity(&self, identity: &str) -> Result<Vec<TransferRecord>> {
        let identity = identity.to_owned();
        self.read("list", || "the transfers".into(), move |c| transfers::unfinished_by_identity(c, &identity)).await
    }

    /// One page in the order of numbers; give the last number of it as `after` for the next.
    pub async fn files(&self, id: &TransferId, query: FileQuery<'_>) -> Result<Vec<FileRecord>> {
        let key = id.clone();
        let states: Option<Vec<FileState>> = query.states.map(<[FileState]>::to_vec);
        let FileQuery { part, after, limit, .. } = query;
        let list = move |c: &Connection| files::list(c, &key, &FileQuery { part, after, states: states.as_deref(), limit });
        self.read("list the files of", || format!("transfer {id}"), list).await
    }

    pub async fn file(&self, id: &TransferId, number: FileNumber) -> Result<Option<FileRecord>> {
        let key = id.clone();
        self.read("read", || format!("file {number} of transfer {id}"), move |c| files::get(c, &key, number)).await
    }

    pub async fn file_by_key(&self, id: &TransferId, key: &ObjectKey) -> Result<Option<FileRecord>> {
        let (transfer, wanted) = (id.clone(), key.clone());
        self.read("read", || format!("{key} of transfer {id}"), move |c| files::by_key(c, &transfer, &wanted)).await
    }

    /// Only states that some file is in.
    pub async fn counts(&self, id: &TransferId) -> Result<Vec<StateCount>> {
        let key = id.clone();
        self.read("count the files of", || format!("transfer {id}"), move |c| files::counts(c, &key)).await
    }

    /// Signed lines in the order of numbers, a page of them; cursor as in [`Store::files`].
    pub async fn receipts(&self, id: &TransferId, after: Option<FileNumber>, limit: u32) -> Result<Vec<(FileNumber, String)>> {
        let key = id.clone();
        self.read("list the receipts of", || format!("transfer {id}"), move |c| files::receipts(c, &key, after, limit)).await
    }

    pub async fn delivery(&self, destination: &str, path: &RemotePath) -> Result<Option<Delivery>> {
        let (destination, wanted) = (destination.to_owned(), path.clone());
        self.read("read the delivery to", || path.to_string(), move |c| deliveries::get(c, &destination, &wanted)).await
    }

    /// Those that exist, in the order of `paths`.
    pub async fn deliveries(&self, destination: &str, paths: &[RemotePath]) -> Result<Vec<Delivery>> {
        let (key, paths) = (destination.to_owned(), paths.to_vec());
        let list = move |c: &Connection| paths.iter().filter_map(|path| deliveries::get(c, &key, path).transpose()).collect();
        self.read("list the deliveries to", || destination.to_owned(), list).await
    }

    /// `None` while it is free. An expired lease is still here: whether its holder lives is for the caller to see.
    pub async fn lease(&self, resource: &str) -> Result<Option<Lease>> {
        let key = resource.to_owned();
        self.read("read the lease on", || resource.to_owned(), move |c| leases::held(c, &key)).await
    }

    pub async fn leases(&self) -> Result<Vec<Lease>> {
        self.read("list", || "the leases".into(), leases::all_held).await
    }

    pub async fn destination(&self, key: &str) -> Result<Option<DestinationRecord>> {
        let wanted = key.to_owned();
        self.read("read", || key.to_owned(), move |c| destinations::get(c, &wanted)).await
    }

    /// Reads every page; `Corrupt` says what is wrong.
    pub async fn integrity_check(&self) -> Result<()> {
        self.read("check", || "the state file".into(), check_integrity).await
    }
}

pub(super) fn check_integrity(c: &Connection) -> Result<()> {
    let mut statement = c.prepare("PRAGMA integrity_check(10)")?;
    let lines = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    let orphans = c.prepare("PRAGMA foreign_key_check")?.exists([])?;
    match lines.as_slice() {
        [line] if line == "ok" && !orphans => Ok(()),
        [line] if line == "ok" => Err(Error::bare(ErrorKind::Corrupt).reason("there are rows without what they belong to")),
        lines => Err(Error::bare(ErrorKind::Corrupt).reason(lines.join("; "))),
    }
}
