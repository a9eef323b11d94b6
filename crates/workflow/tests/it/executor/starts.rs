//! Starting, stopping, going on, and who may carry an execution on.

use std::time::Duration;

use serde_json::{Value, json};
use workflow::Status;
use workflow::executor::{Error, ManualClock, MemoryJournal, Started};

use super::world::{Process, Script, check_books, gist, new_execution};
use crate::began;

fn hanging() -> Value {
    json!({"StartAt": "Only", "States": {"Only": {"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "End": true,
        "Parameters": {"FunctionName": "f", "Payload": {"x.$": "$.x"}}}}})
}

fn process(script: Value) -> (Process, MemoryJournal<Vec<String>>) {
    let stored = MemoryJournal::default();
    (Process::begin(&stored, None, &Script::new(&script), &ManualClock::new(began())), stored)
}

// Mutation: the journal creates an execution that there is already (`create`).
#[tokio::test]
async fn a_thousand_starts_with_half_of_them_doubled_make_each_execution_once() {
    let (process, stored) = process(json!({"Only": {"Return": 1}}));
    let mut starts = tokio::task::JoinSet::new();
    for number in 0..1_000_u64 {
        // Doubled, and out of order.
        let name = format!("e-{}", (number * 7_919) % 500);
        let executor = process.executor.clone();
        let new = new_execution(&name, &hanging(), json!({"x": name}));
        starts.spawn(async move { executor.start(new, vec![format!("created {name}")]).await });
    }
    let (mut new, mut already) = (0, 0);
    while let Some(started) = starts.join_next().await {
        match started.unwrap() {
            Ok(Started { already: false }) => new += 1,
            // One that had ended by the time of its second start is refused, as AWS does.
            Ok(Started { already: true }) | Err(Error::Exists) => already += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((new, already), (500, 500));
    process.quiet().await;
    assert_eq!((stored.names().len(), process.executor.running()), (500, 0));
    check_books(&stored).await;
    assert_eq!(stored.effects().concat().iter().filter(|effect| effect.starts_with("created")).count(), 500);
}

// Mutations: `start` does not compare the input, takes one that has ended for the same, or takes any name.
#[tokio::test]
async fn the_same_name_with_the_same_input_is_the_same_execution_only_while_it_runs() {
    let (process, _) = process(json!({"Only": {"Hang": true}}));
    let start = |input: Value| process.executor.start(new_execution("e", &hanging(), input), Vec::new());
    assert_eq!(start(json!({"x": 1})).await, Ok(Started { already: false }));
    assert_eq!(start(json!({"x": 1})).await, Ok(Started { already: true }));
    assert_eq!(start(json!({"x": 2})).await, Err(Error::Exists));
    process.executor.stop("e", "Enough", "").await.unwrap();
    assert_eq!(start(json!({"x": 1})).await, Err(Error::Exists));
    assert_eq!(process.executor.start(new_execution("a b", &hanging(), json!({})), Vec::new()).await, Err(Error::Name("a b".into())));
    assert!(matches!(process.executor.start(new_execution("f", &json!({}), json!({})), Vec::new()).await, Err(Error::Definition(_))));
}

// Mutation: whoever stops what has ended meanwhile is told of an error (`stop`).
#[tokio::test]
async fn what_was_stopped_stays_stopped_however_often_it_is_said() {
    let (process, stored) = process(json!({"Only": {"Hang": true}}));
    assert_eq!(process.executor.stop("e", "Enough", "").await, Err(Error::NotFound));
    process.executor.start(new_execution("e", &hanging(), json!({"x": 1})), Vec::new()).await.unwrap();
    let (first, second) = tokio::join!(process.executor.stop("e", "Enough", "of it"), process.executor.stop("e", "More", ""));
    assert_eq!((first, second), (Ok(()), Ok(())));
    assert_eq!(process.executor.stop("e", "Again", "").await, Ok(()));
    let history = process.history("e").await;
    assert_eq!(history.iter().filter(|event| event.kind == "ExecutionAborted").count(), 1);
    assert!(matches!(process.executor.ended("e").await, Ok(Status::Aborted(fault)) if fault.error == "Enough"));
    process.quiet().await;
    check_books(&stored).await;
    assert_eq!(*process.said.0.lock().unwrap(), ["e ended ABORTED"]);
}

// Mutation: what has ended stays in memory and takes events (`drive`, `step`).
#[tokio::test]
async fn stopped_at_any_state_the_transfer_ends_once_and_nothing_is_written_afterwards() {
    for way in crate::transfer::ways().into_iter().filter(|way| !way.slow && way.error.is_none()) {
        let slowly = way.mocks.iter().map(|(state, answers)| {
            let list = answers.as_array().cloned().unwrap_or_else(|| vec![answers.clone()]);
            let late = |mut answer: Value| {
                answer["Delay"] = json!(1);
                answer
            };
            (state.clone(), list.into_iter().map(late).collect::<Value>())
        });
        let script = Value::Object(slowly.collect());
        for rests in 0.. {
            let (process, stored) = process(script.clone());
            process.executor.start(new_execution("e", &crate::transfer::definition(), crate::transfer::input()), Vec::new()).await.unwrap();
            process.quiet().await;
            for _ in 0..rests {
                process.clock.advance(Duration::from_secs(1));
                process.quiet().await;
            }
            let over = process.executor.running() == 0;
            // Twice at once: one end, and both are told that it is over.
            let stop = || process.executor.stop("e", "Stopped", "by hand");
            assert_eq!(tokio::join!(stop(), stop()), (Ok(()), Ok(())));
            let written = stored.effects().len();
            for _ in 0..3 {
                process.clock.advance(Duration::from_secs(1));
                process.quiet().await;
            }
            assert_eq!((stored.effects().len(), process.executor.running()), (written, 0), "{} after {rests} s", way.name);
            let ends = process
                .history("e")
                .await
                .iter()
                .filter(|event| ["ExecutionAborted", "ExecutionSucceeded"].contains(&event.kind.as_str()))
                .count();
            assert_eq!(ends, 1, "{} after {rests} s", way.name);
            check_books(&stored).await;
            if over {
                assert!(rests > 5, "{} went through {rests} states only", way.name);
                break;
            }
        }
    }
}

// Mutation: a step is saved whatever was saved before it (`expect_event`).
#[tokio::test]
async fn of_two_drivers_the_second_drops_what_the_first_carried_on_and_says_so() {
    let stored = MemoryJournal::default();
    let (script, clock) = (Script::new(&json!({"Only": {"Return": 1, "Delay": 10}})), ManualClock::new(began()));
    let first = Process::begin(&stored, None, &script, &clock);
    first.executor.start(new_execution("e", &hanging(), json!({"x": 1})), Vec::new()).await.unwrap();
    first.quiet().await;
    let second = Process::begin(&stored, None, &script, &clock);
    assert_eq!(second.executor.resume().await, Ok(1));
    second.quiet().await;
    clock.advance(Duration::from_secs(10));
    first.quiet().await;
    second.quiet().await;
    let said = |process: &Process| process.said.0.lock().unwrap().concat();
    let mut both = [said(&first), said(&second)];
    both.sort();
    assert_eq!(both, ["e dropped", "e ended SUCCEEDED"]);
    assert_eq!((first.executor.running(), second.executor.running()), (0, 0));
    check_books(&stored).await;
}

// Mutation: `resume` takes up the first page alone.
#[tokio::test]
async fn more_executions_than_are_read_at_once_are_all_taken_up() {
    let stored = MemoryJournal::default();
    let (script, clock) = (Script::new(&json!({"Only": {"Return": 1, "Delay": 10}})), ManualClock::new(began()));
    let first = Process::begin(&stored, None, &script, &clock);
    let names: Vec<String> = (0..8).map(|number| format!("e{number}")).collect();
    for name in &names {
        first.executor.start(new_execution(name, &hanging(), json!({"x": 1})), Vec::new()).await.unwrap();
    }
    first.quiet().await;
    first.die().await;
    // Pages of three.
    let second = Process::begin(&stored, None, &script, &clock);
    assert_eq!(second.executor.resume().await, Ok(names.len()));
    for name in &names {
        assert!(matches!(second.until_ended(name).await, Some(Status::Succeeded { .. })), "{name}");
    }
    check_books(&stored).await;
}

// Mutation: an execution is read with a definition that is in memory already (`definition`).
#[tokio::test]
async fn an_upgrade_does_not_change_a_run_in_flight() {
    let stored = MemoryJournal::default();
    let script = Script::new(&json!({"Only": {"Return": 1, "Delay": 10}, "Other": {"Return": 2}}));
    let clock = ManualClock::new(began());
    let old = Process::begin(&stored, None, &script, &clock);
    old.executor.start(new_execution("e", &hanging(), json!({"x": 1})), Vec::new()).await.unwrap();
    old.quiet().await;
    old.die().await;
    let new = Process::begin(&stored, None, &script, &clock);
    let changed =
        json!({"StartAt": "Other", "States": {"Other": {"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "End": true}}});
    new.executor.start(new_execution("f", &changed, json!({})), Vec::new()).await.unwrap();
    new.executor.resume().await.unwrap();
    assert!(new.until_ended("e").await.is_some());
    let states = |history: Vec<workflow::HistoryEvent>| gist(&history).into_iter().find(|line| line.starts_with("TaskStateEntered"));
    assert_eq!(states(new.history("e").await).as_deref(), Some("TaskStateEntered Only"));
    assert_eq!(states(new.history("f").await).as_deref(), Some("TaskStateEntered Other"));
    let described = new.executor.describe("e").await.unwrap().unwrap();
    assert_eq!((described.definition, described.input), (hanging().to_string().into(), json!({"x": 1})));
}

// Mutation: `redrive` takes what runs, or what has succeeded.
#[tokio::test]
async fn only_what_failed_goes_on_and_only_once() {
    let (process, stored) = process(json!({"Only": [{"Throw": {"Error": "E"}}, {"Return": 1, "Delay": 5}]}));
    process.executor.start(new_execution("e", &hanging(), json!({"x": 1})), Vec::new()).await.unwrap();
    process.quiet().await;
    let (first, second) = tokio::join!(process.executor.redrive("e"), process.executor.redrive("e"));
    assert_eq!((first, second), (Ok(()), Err(Error::NotFailed)));
    assert!(matches!(process.until_ended("e").await, Some(Status::Succeeded { .. })));
    assert_eq!(process.executor.redrive("e").await, Err(Error::NotFailed));
    assert_eq!(process.executor.redrive("nobody").await, Err(Error::NotFound));
    assert_eq!(process.executor.running(), 0);
    check_books(&stored).await;
}

// Mutations: each write that fails is told (`stalled`); a write that failed counts as written.
#[tokio::test]
async fn while_nothing_can_be_written_nothing_is_started_and_people_are_told_once() {
    let (process, _) = process(json!({"Only": {"Return": 1, "Delay": 1}}));
    process.executor.start(new_execution("e", &hanging(), json!({"x": 1})), Vec::new()).await.unwrap();
    process.quiet().await;
    process.journal.dead.store(true, std::sync::atomic::Ordering::SeqCst);
    for _ in 0..50 {
        process.clock.advance(Duration::from_secs(1));
        process.quiet().await;
    }
    assert!(matches!(
        process.executor.start(new_execution("f", &hanging(), json!({"x": 1})), Vec::new()).await,
        Err(Error::Unavailable(_))
    ));
    process.journal.dead.store(false, std::sync::atomic::Ordering::SeqCst);
    assert!(matches!(process.until_ended("e").await, Some(Status::Succeeded { .. })));
    process.quiet().await;
    assert_eq!(*process.said.0.lock().unwrap(), ["stalled", "going on", "e ended SUCCEEDED"]);
}
