//! Executions: each step whole, each by one writer, the ended ones cheap.

use std::sync::Arc;

use model::ExecutionStatus::{self, Failed, Running, Succeeded};
use store::{
    Batch, Conflict, CreateExecution, ErrorKind, ExecutionQuery, ExecutionRecord, Frame, HistoryRow, Mutation, OpenExecution, SaveStep,
    Store,
};

use crate::{at, id};

pub fn frame(number: u64, body: &str) -> Frame {
    Frame { id: number, body: body.into() }
}

pub fn event(number: u64) -> HistoryRow {
    HistoryRow { id: number, at: at(number as i64), kind: "TaskStateEntered".into(), body: format!("{{\"id\":{number}}}") }
}

pub fn record(n: u8, run: u32) -> ExecutionRecord {
    ExecutionRecord {
        name: format!("ff-{}-{run}", id(n)),
        transfer: Some(id(n)),
        definition: "d1".into(),
        status: Running,
        head: "{}".into(),
        wakes: None,
        last_event: 2,
        started_at: at(0),
        updated_at: at(0),
        finished_at: None,
    }
}

pub fn create(n: u8, run: u32) -> Mutation {
    let (frames, history) = (vec![frame(1, "first")], vec![event(1), event(2)]);
    Mutation::CreateExecution(Box::new(CreateExecution { record: record(n, run), definition_text: Arc::from("text"), frames, history }))
}

/// The next step: two events more.
pub fn step(n: u8, run: u32, expect_event: u64, status: ExecutionStatus) -> SaveStep {
    SaveStep {
        name: record(n, run).name,
        expect_event,
        last_event: expect_event + 2,
        status,
        head: format!("{{\"at\":{expect_event}}}"),
        wakes: Some(at(9)),
        frames: vec![frame(1, "changed"), frame(2, "new")],
        removed: Vec::new(),
        history: vec![event(expect_event + 1), event(expect_event + 2)],
        at: at(5),
    }
}

fn save(step: SaveStep) -> Mutation {
    Mutation::SaveStep(Box::new(step))
}

// Mutations: a second creation is taken; removed frames, or the history of a step, are not written (`save_step`); a page begins with the
// event before it.
#[tokio::test]
async fn a_step_changes_head_frames_and_history_together() {
    let store = Store::open_in_memory().await.unwrap();
    store.commit(create(1, 1)).await.unwrap();
    assert_eq!(store.commit(create(1, 1)).await.unwrap_err().conflict(), Some(&Conflict::Exists));
    let name = record(1, 1).name;
    assert_eq!(store.execution(&name).await.unwrap(), Some(record(1, 1)));
    assert_eq!(store.definition("d1").await.unwrap().as_deref(), Some("text"));
    assert_eq!(store.definition("d2").await.unwrap(), None);

    store.commit(save(step(1, 1, 2, Running))).await.unwrap();
    let SaveStep { head, wakes, .. } = step(1, 1, 2, Running);
    let record = ExecutionRecord { head, wakes, last_event: 4, updated_at: at(5), ..record(1, 1) };
    let whole = OpenExecution { number: 1, record: record.clone(), frames: vec![frame(1, "changed"), frame(2, "new")] };
    assert_eq!(store.execution_with_frames(&name).await.unwrap(), Some(whole.clone()));
    assert_eq!(store.open_executions(0, 0).await.unwrap(), [whole]);

    let removed = SaveStep { frames: vec![frame(3, "third")], removed: vec![1, 2, 77], ..step(1, 1, 4, Running) };
    store.commit(save(removed)).await.unwrap();
    assert_eq!(store.execution_with_frames(&name).await.unwrap().unwrap().frames, [frame(3, "third")]);
    let events = |after, limit| store.history(&name, after, limit);
    assert_eq!(events(0, 0).await.unwrap(), (1..=6).map(event).collect::<Vec<_>>());
    // Pages may begin and end among the events of one step. Mutations: the events of a row that are before the page are not left
    // out; or a page is not cut.
    for after in 0..=6 {
        for limit in 1..=7 {
            let last = 6.min(after + limit);
            assert_eq!(events(after, limit as u32).await.unwrap(), (after + 1..=last).map(event).collect::<Vec<_>>());
        }
    }
    assert_eq!(store.history("ff-nobody-1", 0, 0).await.unwrap(), []);
}

// Mutation: `save_step` does not compare the last event; a batch that failed is not undone (`carry_out`).
#[tokio::test]
async fn a_step_from_an_older_event_changes_nothing_and_says_where_the_execution_is() {
    let store = Store::open_in_memory().await.unwrap();
    store.commit(create(1, 1)).await.unwrap();
    store.commit(save(step(1, 1, 2, Running))).await.unwrap();
    let before = store.execution_with_frames(&record(1, 1).name).await.unwrap();
    let late = SaveStep { frames: vec![frame(9, "zombie")], removed: vec![1], ..step(1, 1, 2, Failed) };
    // What stands beside it in the batch does not happen either.
    let error = store.commit(Batch::new().push(create(2, 1)).push(save(late))).await.unwrap_err();
    assert_eq!(error.conflict(), Some(&Conflict::Execution { status: Running, last_event: 4 }));
    assert_eq!(store.execution_with_frames(&record(1, 1).name).await.unwrap(), before);
    assert_eq!(store.execution(&record(2, 1).name).await.unwrap(), None);
    let missing = store.commit(save(step(3, 1, 2, Running))).await.unwrap_err();
    assert_eq!(missing.kind, ErrorKind::NotFound);
    assert_eq!(missing.to_string(), format!("could not save a step of execution {}", record(3, 1).name));
}

// Mutations: an end is not noted, or stays noted after a redrive; an open one is deleted; the history of all is deleted with it.
#[tokio::test]
async fn an_ended_execution_is_no_longer_open_can_be_redriven_and_only_then_deleted() {
    let store = Store::open_in_memory().await.unwrap();
    store.commit(Batch::new().push(create(1, 1)).push(create(2, 1))).await.unwrap();
    let delete = || Mutation::DeleteExecution { name: record(1, 1).name };
    let error = store.commit(delete()).await.unwrap_err();
    assert_eq!(error.conflict(), Some(&Conflict::Execution { status: Running, last_event: 2 }));

    store.commit(save(step(1, 1, 2, Failed))).await.unwrap();
    let ended = store.execution(&record(1, 1).name).await.unwrap().unwrap();
    assert_eq!((ended.status, ended.finished_at), (Failed, Some(at(5))));
    let open = async || store.open_executions(0, 0).await.unwrap().into_iter().map(|open| open.record.name).collect::<Vec<_>>();
    assert_eq!(open().await, [record(2, 1).name]);

    store.commit(save(step(1, 1, 4, Running))).await.unwrap();
    assert_eq!(store.execution(&record(1, 1).name).await.unwrap().unwrap().finished_at, None);
    assert_eq!(open().await, [record(1, 1).name, record(2, 1).name], "a redrive opens it again");

    store.commit(save(step(1, 1, 6, Succeeded))).await.unwrap();
    store.commit(delete()).await.unwrap();
    assert_eq!(store.execution(&record(1, 1).name).await.unwrap(), None);
    assert_eq!(store.history(&record(1, 1).name, 0, 0).await.unwrap(), []);
    assert_eq!(store.history(&record(2, 1).name, 0, 0).await.unwrap().len(), 2, "those of others stay");
    assert_eq!(store.commit(delete()).await.unwrap_err().kind, ErrorKind::NotFound);
}

// Mutations: a page begins with the last one of the page before, of all or of the open ones.
#[tokio::test]
async fn executions_are_listed_by_transfer_status_and_page() {
    let store = Store::open_in_memory().await.unwrap();
    for (n, run) in [(1, 1), (2, 1), (1, 2), (2, 2), (1, 3)] {
        store.commit(create(n, run)).await.unwrap();
    }
    store.commit(save(step(1, 2, 2, Failed))).await.unwrap();
    let listed = async |query| store.executions(query).await.unwrap().into_iter().map(|record| record.name).collect::<Vec<_>>();
    let names = |pairs: &[(u8, u32)]| pairs.iter().map(|(n, run)| record(*n, *run).name).collect::<Vec<_>>();
    let of_one = ExecutionQuery { transfer: Some(id(1)), ..Default::default() };
    assert_eq!(listed(of_one.clone()).await, names(&[(1, 3), (1, 2), (1, 1)]));
    assert_eq!(listed(ExecutionQuery { statuses: vec![Running], ..of_one.clone() }).await, names(&[(1, 3), (1, 1)]));
    assert_eq!(listed(ExecutionQuery { before: Some(record(1, 3).name), limit: 1, ..of_one }).await, names(&[(1, 2)]));
    assert_eq!(listed(ExecutionQuery { statuses: vec![Failed], ..Default::default() }).await, names(&[(1, 2)]));

    let first = store.open_executions(0, 2).await.unwrap();
    let second = store.open_executions(first[1].number, 2).await.unwrap();
    let open: Vec<_> = first.into_iter().chain(second).map(|open| open.record.name).collect();
    assert_eq!(open, names(&[(1, 1), (2, 1), (2, 2), (1, 3)]));
}

// Mutation: `history` reads no rows of `history`, or those after the steps.
#[tokio::test]
async fn events_that_an_earlier_version_wrote_come_before_those_of_later_steps() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    let store = Store::open(&file).await.unwrap();
    store.commit(create(1, 1)).await.unwrap();
    store.commit(create(2, 1)).await.unwrap();
    // As that version has it: a row for each event, and no step.
    let old = "DELETE FROM steps WHERE place < 2 << 24;
               INSERT INTO history SELECT 1, json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
                   json_extract(value, '$[3]') FROM steps, json_each(events);";
    rusqlite::Connection::open(&file).unwrap().execute_batch(old).unwrap();
    store.commit(save(step(1, 1, 2, Running))).await.unwrap();
    let events = async |after, limit| store.history(&record(1, 1).name, after, limit).await.unwrap();
    assert_eq!(events(0, 0).await, (1..=4).map(event).collect::<Vec<_>>());
    assert_eq!(events(1, 2).await, (2..=3).map(event).collect::<Vec<_>>());
    store.commit(save(step(1, 1, 4, Failed))).await.unwrap();
    store.commit(Mutation::DeleteExecution { name: record(1, 1).name }).await.unwrap();
    assert_eq!(events(0, 0).await, []);
    assert_eq!(store.history(&record(2, 1).name, 0, 0).await.unwrap().len(), 2, "those of others stay");
}
