//! Random mutations against a map that says what should have happened.

use std::collections::BTreeMap;

use model::{FileNumber, FileState};
use proptest::prelude::*;
use store::{Batch, FileQuery, Mutation, Store};

use crate::{at, file, id, transfer};

#[derive(Debug, Clone)]
enum Step {
    Add(u32),
    Begin(u32, u32, u32),
    Checkpoint(u32, u32, u32, u64),
    State(u32, FileState),
    Finish(u32, FileState),
    Pin(u32),
    Remove(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let n = || 0..4u32;
    let state = || prop::sample::select(FileState::ALL);
    prop_oneof![
        3 => n().prop_map(Step::Add),
        2 => (n(), 0..4u32, 0..3u32).prop_map(|(n, attempt, epoch)| Step::Begin(n, attempt, epoch)),
        2 => (n(), 0..4u32, 0..3u32, 0..99u64).prop_map(|(n, attempt, epoch, done)| Step::Checkpoint(n, attempt, epoch, done)),
        1 => (n(), state()).prop_map(|(n, state)| Step::State(n, state)),
        1 => (n(), state()).prop_map(|(n, state)| Step::Finish(n, state)),
        1 => n().prop_map(Step::Pin),
        1 => n().prop_map(Step::Remove),
    ]
}

#[derive(Debug, Clone, PartialEq)]
struct Row {
    state: FileState,
    attempt: u32,
    epoch: u32,
    checkpoint: Option<String>,
    done: u64,
    receipt: Option<String>,
    size: u64,
}

type Rows = BTreeMap<u32, Row>;

fn expect(rows: &mut Rows, step: &Step) -> bool {
    match step {
        Step::Add(n) => {
            let new = Row { state: FileState::Pending, attempt: 1, epoch: 1, checkpoint: None, done: 0, receipt: None, size: 100 };
            let free = !rows.contains_key(n);
            rows.entry(*n).or_insert(new);
            return free;
        }
        Step::Remove(n) => {
            if rows.get(n).is_some_and(|row| !row.state.is_success()) {
                rows.remove(n);
            }
            return true;
        }
        _ => {}
    }
    let (Step::Begin(n, ..) | Step::Checkpoint(n, ..) | Step::State(n, _) | Step::Finish(n, _) | Step::Pin(n)) = step else { return true };
    let Some(row) = rows.get_mut(n) else { return false };
    match *step {
        Step::Begin(_, attempt, epoch) => {
            if row.state.is_success() || (attempt, epoch) < (row.attempt, row.epoch) {
                return false;
            }
            if attempt != row.attempt {
                (row.checkpoint, row.done) = (None, 0);
            }
            (row.state, row.attempt, row.epoch) = (FileState::InProgress, attempt, epoch);
        }
        Step::Checkpoint(_, attempt, epoch, done) => {
            if row.state.is_terminal() || (attempt, epoch) < (row.attempt, row.epoch) {
                return false;
            }
            (row.attempt, row.epoch, row.done, row.checkpoint) = (attempt, epoch, done, Some(done.to_string()));
        }
        Step::State(_, state) => row.state = state,
        Step::Finish(n, state) => {
            let receipt = Some(n.to_string());
            if !state.is_terminal() {
                return false;
            }
            if row.state.is_success() {
                return row.state == state && row.receipt == receipt;
            }
            (row.state, row.receipt, row.checkpoint) = (state, receipt, None);
            if state.is_success() {
                row.done = row.size;
            }
        }
        Step::Pin(_) => {
            (row.state, row.checkpoint, row.done, row.size) = (FileState::Pending, None, 0, 50);
            row.attempt += 1;
        }
        Step::Add(_) | Step::Remove(_) => unreachable!("answered above"),
    }
    true
}

fn mutation(step: &Step) -> Mutation {
    let (transfer, at) = (id(1), at(1));
    match *step {
        Step::Add(n) => Mutation::AddFiles { transfer, files: vec![file(1, n)] },
        Step::Begin(n, attempt, epoch) => Mutation::BeginAttempt { transfer, number: FileNumber(n), attempt, epoch, at },
        Step::Checkpoint(n, attempt, epoch, bytes_done) => {
            let (number, checkpoint) = (FileNumber(n), bytes_done.to_string());
            Mutation::SaveCheckpoint { transfer, number, attempt, epoch, checkpoint, bytes_done, at }
        }
        Step::State(n, state) => Mutation::SetFileState { transfer, number: FileNumber(n), state, error: None, at },
        Step::Finish(n, state) => {
            let (number, receipt) = (FileNumber(n), Some(n.to_string()));
            Mutation::FinishFile { transfer, number, state, receipt, bytes_sent: 0, at, delivery: None }
        }
        Step::Pin(n) => Mutation::ReplacePin { transfer, number: FileNumber(n), pin: "p".into(), size: 50, at },
        Step::Remove(n) => Mutation::RemoveFiles { transfer, numbers: vec![FileNumber(n)] },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_a_map_would(batches in prop::collection::vec(prop::collection::vec(step(), 1..4), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let store = Store::open_in_memory().await.unwrap();
            store.commit(Mutation::CreateTransfer(transfer(1))).await.unwrap();
            let mut rows = Rows::new();
            for steps in batches {
                let mut after = rows.clone();
                let fits = steps.iter().all(|step| expect(&mut after, step));
                let mut batch = Batch::new();
                batch.extend(steps.iter().map(mutation));
                let answer = store.commit(batch).await;
                assert_eq!(answer.is_ok(), fits, "{steps:?} on {rows:?}: {answer:?}");
                if fits {
                    rows = after;
                }
                let stored: Rows = store.files(&id(1), FileQuery::default()).await.unwrap().into_iter().map(|file| {
                    let row = Row {
                        state: file.state,
                        attempt: file.attempt,
                        epoch: file.epoch,
                        checkpoint: file.checkpoint,
                        done: file.bytes_done,
                        receipt: file.receipt,
                        size: file.size,
                    };
                    (file.number.0, row)
                }).collect();
                assert_eq!(stored, rows, "after {steps:?}");
                let counted: u64 = store.counts(&id(1)).await.unwrap().iter().map(|count| count.files).sum();
                assert_eq!(counted, rows.len() as u64);
            }
        });
    }
}
