//! The journal over the store: what a batch is refused for, and what comes back as it was written.

use std::sync::Arc;
use std::time::Duration;

use app::journal::{Effects, StoreJournal, SystemChance};
use async_trait::async_trait;
use model::ExecutionStatus;
use serde_json::json;
use store::{CreateExecution, ExecutionRecord, Frame, Lesson, Mutation, Store};
use workflow::executor::{Answer, Error, Executor, Journal, NewExecution, Options, Ports, Running, SystemClock, TaskCall, TaskHandler};
use workflow::{Chance, Status};

struct Tasks;

/// The first answer wants something written that cannot be.
#[async_trait]
impl TaskHandler<Effects> for Tasks {
    async fn run(&self, call: TaskCall, _: Running<Effects>) -> Answer<Effects> {
        match call.state.as_str() {
            "Lose" if call.attempt == 0 => Answer::ok(json!(0)).with(vec![missing()]),
            _ => Answer::ok(json!(call.attempt)).with(vec![lesson(&call.execution)]),
        }
    }
}

fn lesson(of: &str) -> Mutation {
    let words = |text: &str| text.to_owned();
    let lesson = Lesson {
        transfer_type: words(of),
        size_category: words("small"),
        outcome: words("completed"),
        duration: Duration::ZERO,
        bytes: 1,
        retries: 0,
    };
    Mutation::AddLearning(lesson)
}

/// Something that cannot be written, for its transfer is not there.
fn missing() -> Mutation {
    Mutation::DeleteTransfer { transfer: "aeaqcaibaeaqcaib".parse().unwrap() }
}

fn new(name: &str) -> NewExecution {
    let definition = json!({"StartAt": "Lose", "States": {"Lose": {"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "End": true,
        "Retry": [{"ErrorEquals": ["Transient"], "IntervalSeconds": 1, "MaxAttempts": 1}]}}});
    NewExecution { name: name.into(), machine: "machine".into(), definition: definition.to_string(), input: json!({"x": 1}) }
}

fn executor(store: &Store) -> Executor<Effects> {
    let ports = Ports {
        journal: Arc::new(StoreJournal::new(store.clone(), None)),
        handler: Arc::new(Tasks),
        watcher: Arc::new(()),
        clock: Arc::new(SystemClock::default()),
        chance: Box::new(SystemChance),
    };
    Executor::new(ports, Options::default())
}

// Mutations: effects are written in a batch of their own, at the start or with a step; a refusal is no fault (`Happening::fail`).
#[tokio::test]
async fn a_step_and_its_effects_are_written_together_or_not_at_all() {
    let store = Store::open_in_memory().await.unwrap();
    let executor = executor(&store);
    // Refused effects keep the execution from being created, too.
    assert!(
        matches!(executor.start(new("e"), vec![lesson("e"), missing()]).await, Err(Error::Refused(fault)) if fault.error == "Transient")
    );
    assert!(executor.describe("e").await.unwrap().is_none() && store.learning("e", "small").await.unwrap().is_empty());
    executor.start(new("e"), Vec::new()).await.unwrap();
    // The first answer is refused, is a fault therefore, and the second attempt goes through.
    let ended = tokio::time::timeout(Duration::from_secs(60), executor.ended("e")).await.expect("it ends").unwrap();
    assert_eq!(ended, Status::Succeeded { output: json!({"Payload": 1, "StatusCode": 200}) });
    assert_eq!(store.learning("e", "small").await.unwrap().iter().map(|learnt| learnt.transfers).sum::<u64>(), 1);
    let kinds: Vec<String> = executor.history("e", 0, 100).await.unwrap().into_iter().map(|event| event.kind).collect();
    assert!(kinds.contains(&"TaskFailed".to_owned()) && kinds.last().is_some_and(|kind| kind == "ExecutionSucceeded"), "{kinds:?}");
    assert_eq!(executor.start(new("e"), Vec::new()).await, Err(Error::Exists));
}

// Mutations: the start is not kept (`create`); frames that are gone stay (`save`).
#[tokio::test]
async fn what_is_read_is_what_was_written() {
    let store = Store::open_in_memory().await.unwrap();
    let executor = executor(&store);
    executor.start(new("e"), Vec::new()).await.unwrap();
    let journal = StoreJournal::new(store.clone(), None);
    let open = journal.open(0, 10).await.unwrap();
    assert_eq!(open.len(), 1);
    let (number, stored) = &open[0];
    assert_eq!((&*stored.definition, &stored.execution.start.input), (new("e").definition.as_str(), &json!({"x": 1})));
    assert!(journal.open(*number, 10).await.unwrap().is_empty());
    executor.ended("e").await.unwrap();
    assert!(journal.open(0, 10).await.unwrap().is_empty());
    assert!(journal.load("e").await.unwrap().unwrap().execution.frames.is_empty());
    assert!(journal.load("nobody").await.unwrap().is_none());
}

// Mutation: one that cannot be read is an error of the whole page (`open`).
#[tokio::test]
async fn an_execution_that_cannot_be_read_keeps_no_other_from_going_on() {
    let store = Store::open_in_memory().await.unwrap();
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    for (name, head) in [
        ("unreadable", "{}"),
        ("strange", r#"{"started":"2026-01-01T00:00:00Z","status":"Running","redrives":0,"next_frame":1,"next_task":1,"last_event":0}"#),
    ] {
        let record = ExecutionRecord {
            name: name.into(),
            transfer: None,
            definition: "00".repeat(32),
            status: ExecutionStatus::Running,
            head: head.into(),
            wakes: None,
            last_event: 0,
            started_at: now,
            updated_at: now,
            finished_at: None,
        };
        let start = workflow::Start { name: name.into(), ..workflow::Start::default() };
        let frames = vec![Frame { id: 0, body: serde_json::to_string(&start).unwrap() }];
        let create = CreateExecution { record, definition_text: "no definition".into(), frames, history: Vec::new() };
        store.commit(Mutation::CreateExecution(Box::new(create))).await.unwrap();
    }
    let first = executor(&store);
    first.start(NewExecution { definition: waiting(), ..new("e") }, Vec::new()).await.unwrap();
    first.shutdown(Duration::from_secs(1)).await;
    let second = executor(&store);
    assert_eq!(second.resume().await, Ok(1));
    assert!(matches!(second.ended("e").await, Ok(Status::Succeeded { .. })));
}

fn waiting() -> String {
    json!({"StartAt": "Wait", "States": {"Wait": {"Type": "Wait", "Seconds": 1, "End": true}}}).to_string()
}

// Mutation: `SystemChance` draws nothing.
#[test]
fn tokens_are_drawn_from_the_system() {
    let (first, second) = (SystemChance.uuid(), SystemChance.uuid());
    assert!(first != second && first.len() == 36, "{first} {second}");
}
