//! Batches: all or nothing, and many callers to one commit.

use std::time::{Duration, Instant};

use model::{FileNumber, FileState, TransferState};
use store::{Batch, Conflict, ErrorKind, FileQuery, Mutation, Store};

use crate::{add, at, finish, id, transfer};

#[tokio::test]
async fn a_batch_happens_whole_or_not_at_all() {
    let store = Store::open_in_memory().await.unwrap();
    let batch = Batch::new().push(Mutation::CreateTransfer(transfer(1))).push(finish(1, 7));
    let error = store.commit(batch).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert_eq!(error.to_string(), format!("could not finish file 7 of transfer {}", id(1)));
    assert_eq!(store.transfer(&id(1)).await.unwrap(), None, "the first mutation went with the second");

    let too_many = std::iter::repeat_n(Mutation::BreakerSuccess { destination: "d".into() }, 101);
    let mut batch = Batch::new();
    batch.extend(too_many);
    assert_eq!(store.commit(batch).await.unwrap_err().kind, ErrorKind::Invalid);
}

#[tokio::test]
async fn preconditions_on_transfers_hold() {
    let store = Store::open_in_memory().await.unwrap();
    store.commit(Mutation::CreateTransfer(transfer(1))).await.unwrap();
    assert_eq!(store.commit(Mutation::CreateTransfer(transfer(1))).await.unwrap_err().conflict(), Some(&Conflict::Exists));
    let set = |state, expect: &[TransferState]| Mutation::SetTransferState {
        transfer: id(1),
        state,
        error: None,
        at: at(9),
        expect: Some(expect.to_vec()),
    };
    let refused = store.commit(set(TransferState::InProgress, &[TransferState::Paused])).await.unwrap_err();
    assert_eq!(refused.conflict(), Some(&Conflict::TransferState(TransferState::Pending)));
    let refused = store.commit(Mutation::DeleteTransfer { transfer: id(1) }).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict, "an unfinished transfer is not pruned");

    store.commit(Batch::new().push(add(1, 0..3)).push(set(TransferState::Completed, &[TransferState::Pending]))).await.unwrap();
    assert_eq!(store.transfer(&id(1)).await.unwrap().unwrap().finished_at, Some(at(9)));
    let run = |run| Mutation::StartRun { transfer: id(1), run, pid: 4, at: at(10) };
    assert_eq!(store.commit(run(3)).await.unwrap_err().conflict(), Some(&Conflict::Run(1)));
    store.commit(run(2)).await.unwrap();
    assert_eq!(store.unfinished_by_identity("identity-1").await.unwrap().len(), 0);

    store.commit(Mutation::DeleteTransfer { transfer: id(1) }).await.unwrap();
    store.commit(Mutation::CreateTransfer(transfer(1))).await.unwrap();
    assert!(store.files(&id(1), FileQuery::default()).await.unwrap().is_empty(), "files went with their transfer");
    assert_eq!(store.unfinished_by_identity("identity-1").await.unwrap(), vec![transfer(1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_results_of_sixty_four_writers_share_their_commits() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("state.db")).await.unwrap();
    store.commit(Batch::new().push(Mutation::CreateTransfer(transfer(1))).push(add(1, 0..1000)).push(add(1, 1000..2000))).await.unwrap();
    let before = store.statistics();
    let began = Instant::now();
    let writers: Vec<_> = (0..64)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for number in (writer..2000).step_by(64) {
                    store.commit(finish(1, number)).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let after = store.statistics();
    let commits = after.commits - before.commits;
    println!("2000 batches in {commits} commits, {:?}", began.elapsed());
    assert_eq!(after.batches - before.batches, 2000);
    assert!(commits < 1000, "{commits} commits for 2000 batches");
    let counts = store.counts(&id(1)).await.unwrap();
    assert_eq!((counts.len(), counts[0].state, counts[0].files, counts[0].bytes), (1, FileState::Delivered, 2000, 200_000));
}

#[tokio::test]
async fn what_waits_for_another_process_is_committed_together_and_failures_stay_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    let store = Store::open(&file).await.unwrap();
    store.commit(Batch::new().push(Mutation::CreateTransfer(transfer(1))).push(add(1, 0..64))).await.unwrap();
    let other = rusqlite::Connection::open(&file).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let before = store.statistics();
    // Every second one names a file that is not there.
    let waiting: Vec<_> = (0..64)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move { store.commit(finish(1, if number % 2 == 0 { number } else { 1000 + number })).await })
        })
        .collect();
    // On one thread every task has run, and asked, before this one has given way as often as there are tasks.
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
    other.execute_batch("ROLLBACK").unwrap();
    for (number, answer) in waiting.into_iter().enumerate() {
        assert_eq!(answer.await.unwrap().is_ok(), number % 2 == 0);
    }
    let commits = store.statistics().commits - before.commits;
    assert!(commits <= 2, "{commits} commits: those that the writer had begun with, and all others");
    assert_eq!(store.counts(&id(1)).await.unwrap().iter().find(|count| count.state == FileState::Delivered).unwrap().files, 32);
}

#[tokio::test]
async fn a_process_that_keeps_the_lock_makes_busy_and_the_store_goes_on_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    let options = store::Options { busy_limit: Duration::from_millis(50), ..Default::default() };
    let store = Store::open_with(&file, options).await.unwrap();
    let other = rusqlite::Connection::open(&file).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = store.commit(Mutation::CreateTransfer(transfer(1))).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Busy);
    assert!(error.is_retryable());
    assert_eq!(store.transfer(&id(1)).await.unwrap(), None, "reading goes on");
    drop(other);
    store.commit(Mutation::CreateTransfer(transfer(1))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_files_are_added_in_seconds_and_read_page_by_page() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("state.db")).await.unwrap();
    store.commit(Mutation::CreateTransfer(transfer(1))).await.unwrap();
    let batches: Vec<_> = (0..100).map(|n| add(1, n * 1000..(n + 1) * 1000)).collect();
    let began = Instant::now();
    for batch in batches {
        store.commit(batch).await.unwrap();
    }
    println!("100,000 files added in {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(20), "about 1 s is normal; a busy machine gets some grace");
    let (mut after, mut seen) = (None, 0);
    loop {
        let states = [FileState::Failed, FileState::Pending];
        let page = store.files(&id(1), FileQuery { after, states: Some(&states), ..Default::default() }).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.iter().zip(seen..).all(|(file, number)| file.number == FileNumber(number)));
        seen += page.len() as u32;
        after = Some(last.number);
    }
    println!("and read after {:?}", began.elapsed());
    assert_eq!(seen, 100_000);
}
