//! Copies of the state file: made while others go on writing, and put back in its place.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::reader::check_integrity;
use super::{closed, migrations, place, wait_for_others};
use crate::{Error, ErrorKind, Result, ServerLock, Store};

/// What SQLite keeps beside a state file.
const COMPANIONS: [&str; 2] = ["-wal", "-shm"];

impl Store {
    /// Writes a copy of this moment to a new file (0600), while others go on reading and writing. The copy is one file
    /// without companions and can be moved about.
    pub async fn backup(&self, to: &Path) -> Result<()> {
        let target = to.to_owned();
        let readers = self.readers.clone();
        let copy = move || {
            let readers = readers.ok_or_else(|| Error::bare(ErrorKind::Invalid).reason("a store in memory has no copy"))?;
            let file = create(&target)?;
            let copied = copy_pages(&readers.connect()?, &target).and_then(|()| file.sync_all().map_err(place::from_io));
            if copied.is_err() {
                // The first error is what the caller needs; a half copy would only look like a backup.
                let _: io::Result<()> = fs::remove_file(&target);
            }
            copied
        };
        let done = tokio::task::spawn_blocking(copy).await.map_err(|error| closed().because(error))?;
        done.map_err(|error| error.at("back up to", || to.display().to_string()))
    }

    /// Puts the backup `from` in the place of the state file `to`. A damaged backup, one of a newer version and the
    /// database of another program are refused before anything changes. Where there is a state file, it is refused with
    /// `Conflict` unless `replace`; then the old one is moved aside, and its new name is the answer. While a server runs on
    /// the directory, or any process has the state file open, it is refused in any case. `from` stays as it is. The log of
    /// a file that is no database any more is lost.
    pub async fn restore(from: &Path, to: &Path, replace: bool) -> Result<Option<PathBuf>> {
        let (source, target) = (from.to_owned(), to.to_owned());
        let done = tokio::task::spawn_blocking(move || put_back(&source, &target, replace)).await;
        let done = done.map_err(|error| closed().because(error))?;
        done.map_err(|error| error.at("restore", || to.display().to_string()))
    }
}

/// Created first, for the mode: SQLite fills an empty file.
fn create(path: &Path) -> Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(place::from_io)
}

/// All pages in one step, which sees one moment: step by step, a busy writer would make it begin again for ever.
fn copy_pages(from: &Connection, to: &Path) -> Result<()> {
    let mut copy = Connection::open_with_flags(to, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    copy.execute_batch("PRAGMA synchronous = FULL")?;
    let backup = Backup::new(from, &mut copy)?;
    match backup.step(-1)? {
        StepResult::Done => {}
        StepResult::More => return Err(Error::bare(ErrorKind::Io).reason("the copy ended early")),
        _ => return Err(Error::bare(ErrorKind::Busy).reason("another process holds the state file")),
    }
    drop(backup);
    // A file in WAL mode cannot be read where nothing can be written.
    copy.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
    Ok(())
}

fn put_back(from: &Path, to: &Path, replace: bool) -> Result<Option<PathBuf>> {
    let directory = match to.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let backup = fs::canonicalize(from).map_err(place::from_io)?;
    if fs::canonicalize(to).is_ok_and(|present| present == backup) {
        return Err(Error::bare(ErrorKind::Invalid).reason("the backup is the state file itself"));
    }
    let _lock = ServerLock::take(directory)?;
    let exists = fs::symlink_metadata(to).is_ok();
    if exists && !replace {
        return Err(Error::bare(ErrorKind::Conflict).reason("there is a state file already, and nobody said to replace it"));
    }
    let arriving = beside(to, ".restoring");
    // Left by a restore that died; under the lock there is no other.
    for stale in [arriving.clone(), beside(&arriving, "-journal")] {
        remove_if_there(&stale)?;
    }
    let file = create(&arriving)?;
    let arrived = arrive(&backup, &arriving).and_then(|()| file.sync_all().map_err(place::from_io)).and_then(|()| {
        // Only now, so that a refused backup has not closed anything.
        if exists { nobody_has_it_open(to) } else { Ok(()) }
    });
    if let Err(error) = arrived {
        let _: io::Result<()> = fs::remove_file(&arriving);
        return Err(error);
    }
    let aside = move_aside(to).map_err(place::from_io)?;
    fs::rename(&arriving, to).map_err(place::from_io)?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(place::from_io)?;
    Ok(aside)
}

fn arrive(backup: &Path, arriving: &Path) -> Result<()> {
    let source = Connection::open_with_flags(backup, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    migrations::check(&source)?;
    if migrations::version(&source)? == 0 {
        return Err(Error::bare(ErrorKind::Corrupt).reason("it is empty"));
    }
    copy_pages(&source, arriving)?;
    check_integrity(&Connection::open_with_flags(arriving, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?)
}

/// Out of WAL goes only who is alone. What is no database, or a newer one, has nobody to ask.
fn nobody_has_it_open(path: &Path) -> Result<()> {
    let ask = || -> Result<String> {
        let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        wait_for_others(&mut connection, Duration::ZERO)?;
        Ok(connection.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0))?)
    };
    match ask() {
        Err(error) if error.kind == ErrorKind::Corrupt => Ok(()),
        Err(error) if error.kind != ErrorKind::Busy => Err(error),
        Ok(mode) if mode == "delete" => Ok(()),
        _ => Err(Error::bare(ErrorKind::Busy).reason("another process has the state file open")),
    }
}

/// With its companions: beside another file they would be taken for that one's.
fn move_aside(path: &Path) -> io::Result<Option<PathBuf>> {
    let there = |path: &Path| fs::symlink_metadata(path).is_ok();
    let present: Vec<&str> = std::iter::once("").chain(COMPANIONS).filter(|ending| there(&beside(path, ending))).collect();
    if present.is_empty() {
        return Ok(None);
    }
    let mut numbers = 1..;
    let aside = loop {
        let number: u32 = numbers.next().ok_or(io::ErrorKind::AlreadyExists)?;
        let name = beside(path, &format!(".replaced-{number}"));
        if !there(&name) {
            break name;
        }
    };
    for ending in present {
        fs::rename(beside(path, ending), beside(&aside, ending))?;
    }
    Ok(Some(aside))
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(place::from_io(error)),
        _ => Ok(()),
    }
}
