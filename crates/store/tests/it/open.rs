//! Opening, refusing, copying.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use model::TransferState;
use store::{ErrorKind, Mutation, Store, TransferQuery, TransferRecord};

use crate::{add, id, transfer};

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn directory_and_files_are_private_and_records_survive_closing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("new/state.db");
    let store = Store::open(&file).await.unwrap();
    store.commit(Mutation::CreateTransfer(transfer(1))).await.unwrap();
    assert_eq!(mode(file.parent().unwrap()), 0o700);
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(&directory.path().join("new/state.db-wal")), 0o600);
    let clone = store.clone();
    store.close().await.unwrap();
    assert_eq!(clone.transfer(&id(1)).await.unwrap_err().kind, ErrorKind::Closed);
    assert_eq!(clone.commit(Mutation::CreateTransfer(transfer(2))).await.unwrap_err().kind, ErrorKind::Closed);
    assert_eq!(Store::open(&file).await.unwrap().transfer(&id(1)).await.unwrap(), Some(transfer(1)));
}

// SEMANTICS S55: "A state file that a newer version wrote is refused and not touched; one of an older version goes on
// with its rows."
#[tokio::test]
async fn a_newer_schema_is_refused_and_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    Store::open(&file).await.unwrap().close().await.unwrap();
    let other = rusqlite::Connection::open(&file).unwrap();
    other.pragma_update(None, "user_version", 99).unwrap();
    other.close().unwrap();
    let before = std::fs::read(&file).unwrap();
    let error = Store::open(&file).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Newer);
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("schema is 99"), "{cause}");
    assert_eq!(std::fs::read(&file).unwrap(), before);
}

#[tokio::test]
async fn a_damaged_file_is_called_so() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    std::fs::write(&file, "not a database, but long enough to look at".repeat(100)).unwrap();
    let error = Store::open(&file).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt);
    assert!(error.next_step().contains("restore a backup"));
}

#[tokio::test]
async fn a_backup_is_a_whole_store_and_never_overwrites() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("state.db")).await.unwrap();
    store.commit(Mutation::CreateTransfer(transfer(1))).await.unwrap();
    let copy = directory.path().join("copy.db");
    store.backup(&copy).await.unwrap();
    assert_eq!(mode(&copy), 0o600);
    assert_eq!(store.backup(&copy).await.unwrap_err().kind, ErrorKind::Io);
    let copy = Store::open(&copy).await.unwrap();
    assert_eq!(copy.transfer(&id(1)).await.unwrap(), Some(transfer(1)));
    copy.integrity_check().await.unwrap();
}

#[tokio::test]
async fn damage_inside_is_found_by_the_check() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    let store = Store::open(&file).await.unwrap();
    store.commit(Mutation::CreateTransfer(transfer(1))).await.unwrap();
    store.commit(add(1, 0..1000)).await.unwrap();
    store.close().await.unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    // Not the first pages, which hold the schema.
    for byte in &mut bytes[40 * 4096..42 * 4096] {
        *byte ^= 0xff;
    }
    std::fs::write(&file, bytes).unwrap();
    let store = Store::open(&file).await.unwrap();
    assert_eq!(store.integrity_check().await.unwrap_err().kind, ErrorKind::Corrupt);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_create_the_file_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    let opening: Vec<_> = (0..12)
        .map(|n| {
            let file = file.clone();
            tokio::spawn(async move {
                let store = Store::open(&file).await.unwrap();
                store.commit(Mutation::CreateTransfer(transfer(n))).await.unwrap();
                store.close().await.unwrap();
            })
        })
        .collect();
    for one in opening {
        one.await.unwrap();
    }
    let store = Store::open(&file).await.unwrap();
    assert_eq!(store.transfers(TransferQuery::default()).await.unwrap().len(), 12);
    store.integrity_check().await.unwrap();
}

#[tokio::test]
async fn transfers_are_listed_newest_first_by_state_identity_and_page() {
    let store = Store::open_in_memory().await.unwrap();
    for n in 0..5 {
        let state = if n % 2 == 0 { TransferState::Paused } else { TransferState::Failed };
        let identity = if n < 3 { "same" } else { "other" }.to_owned();
        store.commit(Mutation::CreateTransfer(TransferRecord { state, identity, ..transfer(n) })).await.unwrap();
    }
    let listed = async |query| store.transfers(query).await.unwrap().into_iter().map(|record| record.id).collect::<Vec<_>>();
    let paused = TransferQuery { states: vec![TransferState::Paused], ..Default::default() };
    assert_eq!(listed(paused.clone()).await, [id(4), id(2), id(0)]);
    assert_eq!(listed(TransferQuery { before: Some(id(4)), limit: 1, ..paused }).await, [id(2)]);
    assert_eq!(listed(TransferQuery { identity: Some("same".into()), ..Default::default() }).await, [id(2), id(1), id(0)]);
    let unfinished = store.unfinished_by_identity("same").await.unwrap();
    assert_eq!(unfinished.into_iter().map(|record| record.id).collect::<Vec<_>>(), [id(2), id(0)]);
}

// As the arm of a `select!` whose other arm is being carried out. Mutation: a read keeps its place in the queue itself.
#[tokio::test]
async fn reads_that_are_left_half_way_keep_no_other_waiting() {
    use std::future::{Future as _, poll_fn};
    use std::task::Poll;
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("state.db")).await.unwrap();
    let mut left = Vec::new();
    for _ in 0..64 {
        let store = store.clone();
        let mut read = Box::pin(async move { store.leases().await });
        poll_fn(|context| {
            let _ = read.as_mut().poll(context);
            Poll::Ready(())
        })
        .await;
        left.push(read);
    }
    let read = tokio::time::timeout(std::time::Duration::from_secs(20), store.transfer(&id(1))).await;
    assert_eq!(read.expect("the others hold nothing").unwrap(), None);
    for read in left {
        read.await.unwrap();
    }
}
