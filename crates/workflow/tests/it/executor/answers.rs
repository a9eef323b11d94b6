//! Tasks and their answers: from outside, late, by panic, at the end of the process.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use workflow::executor::{
    Answer, Creation, Error, Executor, Journal, JournalError, ManualClock, MemoryJournal, Options, Ports, Running, Save, Stored, TaskCall,
    TaskHandler,
};
use workflow::{Fault, HistoryEvent, Seeded, Status};

use super::world::{Process, Script, check_books, fault, new_execution};
use crate::began;

fn handed_over(heartbeat: u64) -> Value {
    json!({"StartAt": "Only", "States": {"Only": {"Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken", "End": true,
        "HeartbeatSeconds": heartbeat, "Parameters": {"QueueUrl": "q", "MessageBody": {"token.$": "$$.Task.Token"}}}}})
}

fn process(stored: &MemoryJournal<Vec<String>>, script: &Arc<Script>) -> Process {
    Process::begin(stored, None, script, &ManualClock::new(began()))
}

fn token(script: &Script) -> String {
    script.started.lock().unwrap().last().unwrap().0.clone()
}

// Mutations: a task that is started again gets another token, or is not told that it is; an answer is taken whatever its token
// (`task_frame`); one from outside is wrapped as a function's is.
#[tokio::test]
async fn a_token_given_away_is_answered_from_outside_after_a_restart_and_once() {
    let (stored, script) = (MemoryJournal::default(), Script::new(&json!({"Only": {"Return": 1, "Delay": 1_000_000}})));
    let first = process(&stored, &script);
    first.executor.start(new_execution("e", &handed_over(60), json!({})), Vec::new()).await.unwrap();
    first.quiet().await;
    let token = token(&script);
    first.executor.heartbeat(&token).await.unwrap();
    first.die().await;
    let second = process(&stored, &script);
    second.executor.resume().await.unwrap();
    second.quiet().await;
    assert_eq!(script.started.lock().unwrap().iter().map(|(_, again)| *again).collect::<Vec<_>>(), [false, true]);
    for wrong in ["", "e", "e:", &format!("{token}1"), &token.replace("e:", "f:"), "x:y:1"] {
        assert_eq!(second.executor.succeed(wrong, json!(1), Vec::new()).await, Err(Error::NoSuchTask), "{wrong}");
        assert_eq!(second.executor.heartbeat(wrong).await, Err(Error::NoSuchTask), "{wrong}");
    }
    let answer = || second.executor.succeed(&token, json!({"moved": 7}), vec![token.clone()]);
    let (one, other) = tokio::join!(answer(), answer());
    assert_eq!((one, other), (Ok(()), Err(Error::NoSuchTask)));
    assert_eq!(answer().await, Err(Error::NoSuchTask));
    // What a worker says is not wrapped.
    assert_eq!(second.executor.ended("e").await, Ok(Status::Succeeded { output: json!({"moved": 7}) }));
    check_books(&stored).await;
}

// Mutation: each heartbeat is written, or too few of them are (`heartbeat`).
#[tokio::test]
async fn heartbeats_are_said_often_and_written_ten_times_at_most() {
    let (stored, script) = (MemoryJournal::default(), Script::new(&json!({"Only": {"Return": 1, "Delay": 1_000_000}})));
    let process = process(&stored, &script);
    process.executor.start(new_execution("e", &handed_over(100), json!({})), Vec::new()).await.unwrap();
    process.quiet().await;
    let token = token(&script);
    let writes = || process.journal.labels.lock().unwrap().iter().filter(|label| label.starts_with("a heartbeat")).count();
    for _ in 0..100 {
        process.executor.heartbeat(&token).await.unwrap();
        process.clock.advance(Duration::from_secs(1));
        process.quiet().await;
    }
    assert_eq!(writes(), 10);
    // Until the last one is a hundred seconds old, the task is alive.
    process.clock.advance(Duration::from_secs(88));
    process.quiet().await;
    assert_eq!(process.executor.running(), 1);
    process.clock.advance(Duration::from_secs(3));
    process.quiet().await;
    assert_eq!(process.executor.heartbeat(&token).await, Err(Error::NoSuchTask));
    assert!(matches!(process.executor.ended("e").await, Ok(Status::Failed(fault)) if fault.error == "States.HeartbeatTimeout"));
}

fn one_task(more: Value) -> Value {
    let mut state = json!({"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "End": true, "Parameters": {"FunctionName": "f", "Payload": {}}});
    state.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"StartAt": "Only", "States": {"Only": state}})
}

// Mutation: nobody catches it (`start_task`).
#[tokio::test]
async fn a_panic_is_a_fault_that_can_be_caught() {
    let (stored, script) = (MemoryJournal::default(), Script::new(&json!({"Only": {"Panic": true}})));
    let process = process(&stored, &script);
    process.executor.start(new_execution("e", &one_task(json!({})), json!({})), Vec::new()).await.unwrap();
    let ended = process.until_ended("e").await.unwrap();
    let fault = fault(&ended).unwrap();
    assert_eq!((fault.error.as_str(), fault.cause.as_str()), ("Lambda.Unknown", "the task panicked: as scripted"));
}

// Mutation: an answer is taken whatever its token (`task_frame`): the second task succeeds with what the first returned.
#[tokio::test]
async fn an_answer_that_comes_after_the_timeout_changes_nothing() {
    let (stored, script) =
        (MemoryJournal::default(), Script::new(&json!({"Only": {"Return": 1, "Delay": 20}, "Last": {"Return": 2, "Delay": 60}})));
    let process = process(&stored, &script);
    process.executor.start(new_execution("ends", &one_task(json!({"TimeoutSeconds": 10})), json!({})), Vec::new()).await.unwrap();
    let mut caught = one_task(json!({"TimeoutSeconds": 10, "Catch": [{"ErrorEquals": ["States.Timeout"], "Next": "Last"}]}));
    caught["States"]["Last"] = one_task(json!({}))["States"]["Only"].clone();
    process.executor.start(new_execution("goes-on", &caught, json!({})), Vec::new()).await.unwrap();
    let ended = process.until_ended("ends").await.unwrap();
    assert_eq!(fault(&ended).unwrap().error, "States.Timeout");
    process.clock.advance(Duration::from_secs(30));
    process.quiet().await;
    assert_eq!(stored.effects().concat(), Vec::<String>::new());
    let Some(Status::Succeeded { output }) = process.until_ended("goes-on").await else { panic!() };
    assert_eq!(output["Payload"], 2);
    assert_eq!(stored.effects().concat(), [token(&script)]);
}

/// Waits in every task until nobody waits for it any more.
#[derive(Default)]
struct Patient(Mutex<Vec<String>>);

#[async_trait]
impl TaskHandler<u32> for Patient {
    async fn run(&self, call: TaskCall, running: Running<u32>) -> Answer<u32> {
        running.cancelled.cancelled().await;
        self.0.lock().unwrap().push(call.state);
        Answer::ok(json!({}))
    }
}

// Mutation: the command to cancel a task is not carried out (`carry_out`): only the end of an execution tells its tasks.
#[tokio::test]
async fn a_task_whose_time_is_over_is_told_while_its_execution_goes_on() {
    let (handler, clock) = (Arc::new(Patient::default()), ManualClock::new(began()));
    let ports = Ports {
        journal: Arc::new(MemoryJournal::<u32>::default()),
        handler: handler.clone(),
        watcher: Arc::new(()),
        clock: Arc::new(clock.clone()),
        chance: Box::new(Seeded::new(1)),
    };
    let executor = Executor::new(ports, Options { away_after: Duration::MAX, ..Options::default() });
    let mut definition = one_task(json!({"TimeoutSeconds": 10, "Catch": [{"ErrorEquals": ["States.Timeout"], "Next": "Last"}]}));
    definition["States"]["Last"] = one_task(json!({}))["States"]["Only"].clone();
    executor.start(new_execution("e", &definition, json!({})), 0).await.unwrap();
    for _ in 0..20 {
        for _ in 0..30 {
            tokio::task::yield_now().await;
        }
        clock.advance(Duration::from_secs(1));
    }
    assert_eq!((handler.0.lock().unwrap().as_slice(), executor.running()), (["Only".to_owned()].as_slice(), 1));
}

// Mutations: what fails because the process ends counts as a failure (`answered`); a task is given no time to answer
// (`shutdown`); something new is begun meanwhile (`start`).
#[tokio::test]
async fn at_a_shutdown_what_answers_is_written_and_what_fails_is_run_again() {
    for (script, again) in [(json!({"Only": {"Hang": true}}), true), (json!({"Only": {"Return": 5, "Delay": 1}}), false)] {
        let (stored, script) = (MemoryJournal::default(), Script::new(&script));
        let first = process(&stored, &script);
        first.executor.start(new_execution("e", &one_task(json!({})), json!({})), Vec::new()).await.unwrap();
        first.quiet().await;
        let answers = async {
            // Longer than no time at all. That the answer comes within the grace is not up to it.
            tokio::time::sleep(Duration::from_millis(20)).await;
            first.clock.advance(Duration::from_secs(u64::from(!again)));
        };
        let grace = Duration::from_secs(if again { 1 } else { 60 });
        tokio::join!(first.executor.shutdown(grace), answers);
        assert_eq!(first.executor.start(new_execution("f", &one_task(json!({})), json!({})), Vec::new()).await, Err(Error::Stopping));
        let running = stored.load("e").await.unwrap().unwrap().execution.status == Status::Running;
        assert_eq!(running, again);
        let second = process(&stored, &script);
        assert_eq!(second.executor.resume().await, Ok(usize::from(again)));
        second.quiet().await;
        assert_eq!(script.started.lock().unwrap().iter().filter(|(_, second)| *second).count(), usize::from(again));
        check_books(&stored).await;
    }
}

// Mutation: a step is taken although the executor is closed (`take`).
#[tokio::test]
async fn after_a_shutdown_no_answer_is_taken() {
    let (stored, script) = (MemoryJournal::default(), Script::new(&json!({"Only": {"Return": 1, "Delay": 1_000_000}})));
    let process = process(&stored, &script);
    process.executor.start(new_execution("e", &handed_over(60), json!({})), Vec::new()).await.unwrap();
    process.quiet().await;
    process.executor.shutdown(Duration::ZERO).await;
    let token = token(&script);
    assert_eq!(process.executor.succeed(&token, json!(1), vec![token.clone()]).await, Err(Error::Stopping));
    assert_eq!(stored.load("e").await.unwrap().unwrap().execution.status, Status::Running);
    assert_eq!(stored.effects().concat(), Vec::<String>::new());
}

/// Refuses the effects of every first answer, as a store does whose records have changed meanwhile.
struct Refusing(MemoryJournal<u32>);

#[async_trait]
impl Journal<u32> for Refusing {
    async fn create(&self, new: Creation<'_, u32>) -> Result<(), JournalError> {
        if *new.effects == 1 { Err(JournalError::Refused(Fault::new("Transient", "taken"))) } else { self.0.create(new).await }
    }
    async fn save(&self, save: Save<'_, u32>) -> Result<(), JournalError> {
        tokio::task::yield_now().await;
        if *save.effects == 1 { Err(JournalError::Refused(Fault::new("Transient", "taken"))) } else { self.0.save(save).await }
    }
    async fn load(&self, name: &str) -> Result<Option<Stored>, JournalError> {
        self.0.load(name).await
    }
    async fn open(&self, after: u64, limit: usize) -> Result<Vec<(u64, Stored)>, JournalError> {
        self.0.open(after, limit).await
    }
    async fn history(&self, name: &str, after: u64, limit: usize) -> Result<Vec<HistoryEvent>, JournalError> {
        self.0.history(name, after, limit).await
    }
}

#[derive(Default)]
struct Counting(AtomicUsize);

#[async_trait]
impl TaskHandler<u32> for Counting {
    async fn run(&self, call: TaskCall, _: Running<u32>) -> Answer<u32> {
        let number = self.0.fetch_add(1, Ordering::SeqCst) as u32 + 1;
        Answer::ok(json!({"function": call.function, "payload": call.payload, "attempt": call.attempt})).with(number)
    }
}

// Mutation: effects that were refused are no fault, or are kept with it (`Happening::fail`).
#[tokio::test]
async fn an_answer_whose_effects_cannot_be_written_is_a_fault_and_the_task_decides_anew() {
    let (stored, clock) = (MemoryJournal::default(), ManualClock::new(began()));
    let ports = Ports {
        journal: Arc::new(Refusing(stored.clone())),
        handler: Arc::new(Counting::default()),
        watcher: Arc::new(()),
        clock: Arc::new(clock.clone()),
        chance: Box::new(Seeded::new(1)),
    };
    let executor = Executor::new(ports, Options::default());
    let definition = one_task(json!({"Retry": [{"ErrorEquals": ["Transient"], "IntervalSeconds": 1}]}));
    let refused = executor.start(new_execution("e", &definition, json!({})), 1).await;
    assert_eq!(refused, Err(Error::Refused(Fault::new("Transient", "taken"))));
    executor.start(new_execution("e", &definition, json!({})), 0).await.unwrap();
    let mut ended = Status::Running;
    for _ in 0..100 {
        for _ in 0..30 {
            tokio::task::yield_now().await;
        }
        ended = executor.describe("e").await.unwrap().unwrap().status;
        if ended != Status::Running {
            break;
        }
        clock.advance(Duration::from_secs(1));
    }
    assert_eq!(ended, Status::Succeeded { output: json!({"Payload": {"function": "f", "payload": {}, "attempt": 1}, "StatusCode": 200}) });
    assert_eq!(stored.effects().into_iter().filter(|number| *number > 0).collect::<Vec<_>>(), [2]);
}
