//! One server a directory, copies made while others write, and putting them back.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use store::{ErrorKind, Mutation, ServerLock, Store};

use crate::{at, id, transfer};

const LOCKED: &str = "STORE_TEST_LOCK";

fn cause(error: &store::Error) -> String {
    std::error::Error::source(error).unwrap().to_string()
}

/// What the child of the next test does; without its setting it is nothing.
#[test]
fn child_that_takes_the_lock_and_waits() {
    let Some(directory) = std::env::var_os(LOCKED) else { return };
    let _lock = ServerLock::take(Path::new(&directory)).unwrap();
    println!("\nlocked");
    // Until the parent kills it or goes away.
    let _ = std::io::stdin().read_line(&mut String::new());
}

// SEMANTICS S53: "A second server on one state directory is refused and told the process of the first; what a killed
// server leaves behind locks nobody out."
#[test]
fn a_second_server_is_told_of_the_first_until_that_one_is_gone_however_it_went() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("new");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "backup::child_that_takes_the_lock_and_waits", "--nocapture", "--test-threads=1"])
        .env(LOCKED, &place)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert!(lines.any(|line| line.unwrap() == "locked"));
    let error = ServerLock::take(&place).unwrap_err();
    assert_eq!(error.kind, ErrorKind::ServerRunning);
    assert_eq!(error.to_string(), format!("could not lock {}", place.display()));
    assert_eq!(cause(&error), format!("process {} is a server on it", child.id()));
    assert!(error.next_step().contains("stop that server"));
    child.kill().unwrap();
    child.wait().unwrap();

    let lock = ServerLock::take(&place).expect("what a killed server leaves behind locks nobody out");
    assert_eq!(ServerLock::take(&place).unwrap_err().kind, ErrorKind::ServerRunning, "not even the same process twice");
    drop(lock);
    drop(ServerLock::take(&place).unwrap());
}

async fn with_totals(file: &Path, files_total: u64) -> Store {
    let store = Store::open(file).await.unwrap();
    store.commit(Mutation::CreateTransfer(transfer(1))).await.unwrap();
    store.commit(totals(files_total)).await.unwrap();
    store
}

fn totals(files_total: u64) -> Mutation {
    Mutation::SetTransferTotals { transfer: id(1), files_total, bytes_total: files_total, listed: false, at: at(0) }
}

async fn read_totals(file: &Path) -> (u64, u64) {
    let store = Store::open(file).await.unwrap();
    store.integrity_check().await.unwrap();
    let record = store.transfer(&id(1)).await.unwrap().unwrap();
    store.close().await.unwrap();
    (record.files_total, record.bytes_total)
}

// SEMANTICS S54: "A backup made while others write is one moment of the store; one that is damaged, of a newer version
// or of another program is not restored, and nothing is put over a store that is open or served."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_made_while_others_write_is_one_moment_of_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = with_totals(&directory.path().join("state.db"), 1).await;
    for n in 0..20 {
        store.commit(crate::add(1, n * 1_000..(n + 1) * 1_000)).await.unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (store, stop) = (store.clone(), stop.clone());
        async move {
            let mut written = 1;
            while !stop.load(Ordering::Relaxed) {
                written += 1;
                store.commit(totals(written)).await.unwrap();
            }
            written
        }
    });
    for n in 0..3 {
        let before = store.transfer(&id(1)).await.unwrap().unwrap().files_total;
        let copy = directory.path().join(format!("copy-{n}.db"));
        store.backup(&copy).await.unwrap();
        let after = store.transfer(&id(1)).await.unwrap().unwrap().files_total;
        let plain = std::fs::read_dir(directory.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with(&format!("copy-{n}.db")));
        assert_eq!(plain.count(), 1, "a backup is one file");
        let (files, bytes) = read_totals(&copy).await;
        assert!(files == bytes && (before..=after).contains(&files), "{before} ≤ {files} ≤ {after}, {bytes}");
    }
    stop.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() > 3, "the writer went on");
}

/// A backup that says 7, and a place to put it.
async fn backup_of_seven(directory: &Path) -> (PathBuf, PathBuf) {
    let store = with_totals(&directory.join("old/state.db"), 7).await;
    let copy = directory.join("copy.db");
    store.backup(&copy).await.unwrap();
    (copy, directory.join("new/state.db"))
}

#[tokio::test]
async fn a_backup_is_put_where_there_is_nothing_and_elsewhere_only_when_told() {
    let directory = tempfile::tempdir().unwrap();
    let (copy, place) = backup_of_seven(directory.path()).await;
    assert_eq!(Store::restore(&copy, &place, false).await.unwrap(), None);
    assert_eq!(read_totals(&place).await, (7, 7));
    let store = Store::open(&place).await.unwrap();
    store.commit(totals(8)).await.unwrap();
    store.close().await.unwrap();

    let error = Store::restore(&copy, &place, false).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert_eq!(read_totals(&place).await, (8, 8));
    for expected in [8, 7] {
        let aside = Store::restore(&copy, &place, true).await.unwrap().expect("the old one is kept");
        assert_eq!(read_totals(&place).await, (7, 7));
        assert_eq!(read_totals(&aside).await, (expected, expected));
    }
    let itself = Store::restore(&place, &place, true).await.unwrap_err();
    assert_eq!(itself.kind, ErrorKind::Invalid);
}

// SEMANTICS S54: "A backup made while others write is one moment of the store; one that is damaged, of a newer version
// or of another program is not restored, and nothing is put over a store that is open or served."
#[tokio::test]
async fn nothing_is_put_over_a_store_that_is_open_or_served() {
    let directory = tempfile::tempdir().unwrap();
    let (copy, place) = backup_of_seven(directory.path()).await;
    let open = with_totals(&place, 8).await;
    let error = Store::restore(&copy, &place, true).await.unwrap_err();
    assert_eq!((error.kind, cause(&error).as_str()), (ErrorKind::Busy, "another process has the state file open"));
    open.commit(totals(9)).await.expect("it was not disturbed");
    open.close().await.unwrap();
    let lock = ServerLock::take(place.parent().unwrap()).unwrap();
    let error = Store::restore(&copy, &place, true).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::ServerRunning);
    drop(lock);
    assert_eq!(read_totals(&place).await, (9, 9));
    let names = std::fs::read_dir(place.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(names.into_iter().all(|name| !name.contains("restoring")), "a refused restore leaves nothing");
}

// SEMANTICS S54: "A backup made while others write is one moment of the store; one that is damaged, of a newer version
// or of another program is not restored, and nothing is put over a store that is open or served."
#[tokio::test]
async fn what_is_no_whole_backup_of_a_known_version_is_refused_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (copy, place) = backup_of_seven(directory.path()).await;
    with_totals(&place, 8).await.close().await.unwrap();
    let good = std::fs::read(&copy).unwrap();
    let bad = directory.path().join("bad.db");
    let change = |change: &dyn Fn(&rusqlite::Connection)| {
        std::fs::write(&bad, &good).unwrap();
        change(&rusqlite::Connection::open(&bad).unwrap());
    };
    let refused = async |kind, what: &str| {
        let error = Store::restore(&bad, &place, true).await.unwrap_err();
        assert_eq!(error.kind, kind, "{what}: {error:?}");
        assert_eq!(read_totals(&place).await, (8, 8), "{what}");
    };
    change(&|c| c.pragma_update(None, "user_version", 99).unwrap());
    refused(ErrorKind::Newer, "a newer version").await;
    change(&|c| c.pragma_update(None, "application_id", 1).unwrap());
    refused(ErrorKind::Corrupt, "another program's").await;
    std::fs::write(&bad, b"").unwrap();
    refused(ErrorKind::Corrupt, "an empty file").await;
    std::fs::write(&bad, &good[..good.len() - 4096]).unwrap();
    refused(ErrorKind::Corrupt, "a file that was cut").await;
    std::fs::remove_file(&bad).unwrap();
    refused(ErrorKind::Io, "no file").await;
}

#[tokio::test]
async fn a_backup_takes_the_place_of_a_damaged_store() {
    let directory = tempfile::tempdir().unwrap();
    let (copy, place) = backup_of_seven(directory.path()).await;
    std::fs::create_dir_all(place.parent().unwrap()).unwrap();
    for name in ["state.db", "state.db-wal"] {
        std::fs::write(place.with_file_name(name), "this is what a bad disk left").unwrap();
    }
    let aside = Store::restore(&copy, &place, true).await.unwrap().unwrap();
    assert_eq!(read_totals(&place).await, (7, 7));
    assert!(std::fs::read_to_string(&aside).unwrap().contains("bad disk"));
    // A log that is no log of the new file must not be taken for one.
    assert!(!place.with_file_name("state.db-wal").exists());
}
