//! The store on SQLite: one writer thread, a few read-only connections, one file that several processes may share.

mod audit;
mod backup;
mod contexts;
mod deliveries;
mod destinations;
mod executions;
mod files;
mod learning;
mod leases;
mod migrations;
mod outbox;
mod place;
mod reader;
mod requests;
mod sessions;
mod settings;
mod slots;
mod tickets;
mod transfers;
mod value;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{mpsc, oneshot};

pub(crate) use self::place::from_io;
use self::reader::Readers;
use self::writer::{Counters, Job, Request, Writer};
use crate::{Batch, Committed, Error, ErrorKind, Result, Statistics};

#[derive(Debug, Clone)]
pub struct Options {
    /// Locks over a network are not to be trusted; whoever sets this has one process only.
    pub allow_network_filesystem: bool,
    /// How long to wait for other processes before `Busy`.
    pub busy_limit: Duration,
    /// Bytes of pages that the writer keeps; SQLite's own 2 MiB where nothing is said.
    pub page_cache: Option<u32>,
    /// Each commit takes so much longer, as on a slower disk. For measurements.
    pub commit_delay: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { allow_network_filesystem: false, busy_limit: Duration::from_secs(30), page_cache: None, commit_delay: Duration::ZERO }
    }
}

impl Options {
    /// For a service: a thousand executions under way touch more pages in one commit than 2 MiB hold, and what does not fit is
    /// written twice and read again.
    pub fn of_service() -> Self {
        Self { page_cache: Some(8 << 20), ..Self::default() }
    }
}

/// The state file. Clones share it; the last one closes it.
#[derive(Debug, Clone)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
    /// `None` in memory.
    readers: Option<Arc<Readers>>,
    counters: Arc<Counters>,
}

impl Store {
    /// Opens the state file, creates it and its directory where missing, and brings it to this version.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self> {
        Self::open_with(path, Options::default()).await
    }

    pub async fn open_with(path: impl Into<PathBuf>, options: Options) -> Result<Self> {
        let path = path.into();
        let opened = tokio::task::spawn_blocking(move || {
            let subject = path.display().to_string();
            Self::open_file(path, &options).map_err(|error| error.at("open", || subject))
        });
        opened.await.map_err(|error| Error::new(ErrorKind::Closed, "open", "the state file").because(error))?
    }

    fn open_file(path: PathBuf, options: &Options) -> Result<Self> {
        place::prepare(&path, options.allow_network_filesystem)?;
        let connection = open_writer(&path, options)?;
        let counters = Arc::new(Counters::default());
        let readers = Some(Arc::new(Readers::new(path.clone(), options.busy_limit)));
        let jobs = Writer::start(connection, Some(path), options.clone(), counters.clone()).map_err(place::from_io)?;
        Ok(Self { jobs, readers, counters })
    }

    /// A store that forgets everything with its last clone. For tests.
    pub async fn open_in_memory() -> Result<Self> {
        let mut connection = Connection::open_in_memory()?;
        connection.execute_batch("PRAGMA foreign_keys = ON")?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        migrations::migrate(&mut connection)?;
        let counters = Arc::new(Counters::default());
        let jobs = Writer::start(connection, None, Options::default(), counters.clone()).map_err(place::from_io)?;
        Ok(Self { jobs, readers: None, counters })
    }

    /// Writes the batch whole or not at all. `Ok` means it is on the disk; an error means it was not written, except
    /// that after `Io` and `Closed` only reading tells. A caller that stops waiting does not undo it.
    pub async fn commit(&self, batch: impl Into<Batch>) -> Result<Committed> {
        let (answer, answered) = oneshot::channel();
        self.send(Job::Commit(Request { batch: batch.into(), answer })).await?;
        answered.await.map_err(|_| closed())?
    }

    /// Closes the file now, for every clone, after what has been asked for before. What comes later is `Closed`.
    pub async fn close(self) -> Result<()> {
        if let Some(readers) = &self.readers {
            readers.close();
        }
        let (done, closing) = oneshot::channel();
        self.send(Job::Close(done)).await?;
        closing.await.map_err(|_| closed())
    }

    pub fn statistics(&self) -> Statistics {
        Statistics { batches: self.counters.batches.load(Ordering::Relaxed), commits: self.counters.commits.load(Ordering::Relaxed) }
    }

    async fn send(&self, job: Job) -> Result<()> {
        self.jobs.send(job).await.map_err(|_| closed())
    }

    async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        subject: impl FnOnce() -> String,
        read: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let result = match &self.readers {
            Some(readers) => readers.read(read).await,
            None => {
                let (answer, answered) = oneshot::channel();
                // A reader that went away needs no answer.
                let job = Job::Read(Box::new(move |connection| drop(answer.send(read(connection)))));
                match self.send(job).await {
                    Ok(()) => answered.await.unwrap_or_else(|_| Err(closed())),
                    Err(error) => Err(error),
                }
            }
        };
        result.map_err(|error| error.at(operation, subject))
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "use", "the state file")
}

/// Above the number of statements there are, so that each is compiled once.
const STATEMENTS: usize = 256;

fn open_writer(path: &Path, options: &Options) -> Result<Connection> {
    let busy_limit = options.busy_limit;
    let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    // Before anything else: even the change to WAL needs a lock that another process may have.
    wait_for_others(&mut connection, busy_limit)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    let began = Instant::now();
    loop {
        match set_up(&mut connection, options) {
            // Where waiting could deadlock, SQLite answers BUSY without asking the handler.
            Err(error) if error.kind == ErrorKind::Busy && began.elapsed() < busy_limit => std::thread::sleep(Duration::from_millis(5)),
            result => return result.map(|()| connection),
        }
    }
}

fn set_up(connection: &mut Connection, options: &Options) -> Result<()> {
    // First, because a file that is refused must not have been changed.
    migrations::check(connection)?;
    if connection.is_readonly("main")? {
        return Err(Error::bare(ErrorKind::ReadOnly).reason("the file cannot be written"));
    }
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(Error::bare(ErrorKind::Io).reason(format!("its file system allows the journal mode {mode} only, not WAL")));
    }
    // FULL: what was answered survives a power cut. The log is cut back so that one large manifest does not keep its space.
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA journal_size_limit = 16777216;")?;
    if let Some(bytes) = options.page_cache {
        // Less than nothing: kibibytes.
        connection.pragma_update(None, "cache_size", -i64::from(bytes >> 10))?;
    }
    migrations::migrate(connection)
}

/// Asks again every few milliseconds. SQLite's own handler waits up to 100 ms between tries and so loses against a
/// process that commits all the time.
fn wait_for_others(connection: &mut Connection, limit: Duration) -> Result<()> {
    let mut began = Instant::now();
    let handler = move |tries: i32| {
        if tries == 0 {
            began = Instant::now();
        }
        let wait = began.elapsed() < limit;
        if wait {
            std::thread::sleep(Duration::from_millis(1 + u64::from(tries.unsigned_abs() % 5)));
        }
        wait
    };
    Ok(connection.busy_handler(Some(handler))?)
}
