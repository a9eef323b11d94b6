//! Files that others hold, that lost their end, or that a disk has damaged.

use std::path::Path;
use std::time::{Duration, Instant};

use store::{ErrorKind, Mutation, Options, Store};

use crate::{add, at, id, transfer};

fn totals(files_total: u64) -> Mutation {
    Mutation::SetTransferTotals { transfer: id(1), files_total, bytes_total: 0, listed: false, at: at(0) }
}

/// Keeps every writer out until it is dropped, as another process would.
fn hold(file: &Path) -> rusqlite::Connection {
    let other = rusqlite::Connection::open(file).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    other
}

async fn open(file: &Path, busy_limit: Duration) -> Store {
    Store::open_with(file, Options { busy_limit, ..Options::default() }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_another_process_holds_is_waited_for_up_to_the_limit() {
    // The real thing takes ten seconds; the relation is what counts.
    let slow = std::env::var("FILEFERRY_SLOW").is_ok_and(|value| value == "1");
    let held = if slow { Duration::from_secs(10) } else { Duration::from_millis(700) };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    let patient = open(&file, held * 3).await;
    patient.commit(Mutation::CreateTransfer(transfer(1))).await.unwrap();
    let hasty = open(&file, held / 4).await;

    let other = hold(&file);
    let began = Instant::now();
    let error = hasty.commit(totals(1)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Busy, "{error:?}");
    assert!(error.is_retryable() && error.next_step().contains("another process"));
    assert!(began.elapsed() >= held / 4 && began.elapsed() < held, "after {:?}", began.elapsed());
    assert_eq!(hasty.transfer(&id(1)).await.unwrap().unwrap().files_total, 0, "reading goes on, and nothing was written");

    let waiting = tokio::spawn({
        let patient = patient.clone();
        async move { patient.commit(totals(2)).await }
    });
    tokio::time::sleep(held).await;
    assert!(!waiting.is_finished(), "the other still holds it");
    drop(other);
    waiting.await.unwrap().expect("it goes through once the other is done");
    hasty.commit(totals(3)).await.expect("and the one that was refused can try again");
}

#[tokio::test]
async fn a_log_that_lost_its_end_is_an_earlier_moment_and_never_a_mixture() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    let store = Store::open(&file).await.unwrap();
    store.commit(Mutation::CreateTransfer(transfer(1))).await.unwrap();
    for n in 1..=12 {
        let files_total = u64::from(n) * 10;
        store.commit(store::Batch::new().push(add(1, n * 10 - 10..n * 10)).push(totals(files_total))).await.unwrap();
    }
    // As a disk has it that was cut off before its cache was written.
    let (whole, log) = (std::fs::read(&file).unwrap(), std::fs::read(directory.path().join("state.db-wal")).unwrap());
    assert!(log.len() > 100_000, "everything is still in the log");
    let mut seen = Vec::new();
    for cut in (0..=log.len()).step_by(log.len() / 40) {
        let other = directory.path().join(format!("cut-{cut}/state.db"));
        std::fs::create_dir(other.parent().unwrap()).unwrap();
        std::fs::write(&other, &whole).unwrap();
        std::fs::write(format!("{}-wal", other.display()), &log[..cut]).unwrap();
        let store = Store::open(&other).await.unwrap();
        store.integrity_check().await.unwrap();
        if let Some(record) = store.transfer(&id(1)).await.unwrap() {
            let files: u64 = store.counts(&id(1)).await.unwrap().iter().map(|count| count.files).sum();
            assert_eq!(files, record.files_total, "cut at {cut}: files and their number are of one batch");
            seen.push(files);
        }
    }
    assert!(seen.is_sorted() && seen.last().is_some_and(|files| *files >= 110) && seen.len() > 10, "{seen:?}");
}

#[tokio::test]
async fn a_damaged_page_is_said_where_it_is_read_and_the_rest_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    let store = Store::open(&file).await.unwrap();
    store.commit(Mutation::CreateTransfer(transfer(1))).await.unwrap();
    store.commit(add(1, 0..1_000)).await.unwrap();
    store.close().await.unwrap();
    let raw = rusqlite::Connection::open(&file).unwrap();
    let root: u32 = raw.query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'files'", [], |row| row.get(0)).unwrap();
    drop(raw);
    let mut bytes = std::fs::read(&file).unwrap();
    for byte in &mut bytes[(root as usize - 1) * 4096..root as usize * 4096] {
        *byte ^= 0xff;
    }
    std::fs::write(&file, bytes).unwrap();

    let store = Store::open(&file).await.unwrap();
    let read = store.file(&id(1), model::FileNumber(3)).await.unwrap_err();
    let written = store.commit(add(1, 5_000..5_001)).await.unwrap_err();
    for error in [&read, &written] {
        assert_eq!(error.kind, ErrorKind::Corrupt, "{error:?}");
        assert!(!error.is_retryable() && error.next_step().contains("restore a backup"));
    }
    store.commit(totals(9)).await.expect("another table is whole");
    assert_eq!(store.transfer(&id(1)).await.unwrap().unwrap().files_total, 9);
    assert_eq!(store.integrity_check().await.unwrap_err().kind, ErrorKind::Corrupt);
}
