//! The process that `killed.rs` kills: some thirty executions at a time over the SQLite store in a directory.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use app::journal::{Effects, StoreJournal, SystemChance};
use async_trait::async_trait;
use serde_json::{Value, json};
use store::{Lesson, Mutation, Store};
use workflow::executor::{Answer, Executor, NewExecution, Options, Ports, Running, SystemClock, TaskCall, TaskHandler};

pub const DIRECTORY: &str = "FILEFERRY_TEST_KILLED_IN";
pub const LIFE: &str = "FILEFERRY_TEST_KILLED_LIFE";
pub const DEFINITION: &str = include_str!("../../../../workflows/transfer.asl.json");

/// Which way an execution goes is in its name.
fn way(name: &str) -> (&'static str, &'static str) {
    match name.bytes().map(u32::from).sum::<u32>() % 4 {
        0 => ("direct", "slice"),
        1 => ("direct", "worker"),
        2 => ("parallel", "slice"),
        _ => ("parallel", "worker"),
    }
}

pub fn input(name: &str) -> Value {
    json!({"transfer_id": name, "run": 1, "worker_queue": "queue"})
}

pub fn answer(name: &str, state: &str) -> Value {
    let (strategy, mover) = way(name);
    match state {
        "ValidateInput" => json!({"files": 2, "bytes": 300}),
        "AuthenticateSSO" => json!({"attempt": 1}),
        "DownloadFromS3" => json!({"strategy": strategy, "mover": mover, "lanes": [0, 1, 2]}),
        "OpenTransfer" | "OpenChunks" => json!({"mover": mover}),
        "SendSlice" | "SendChunk" => json!({"more": false}),
        "FinishTransfer" | "FinishChunks" => json!({"delivered": 2, "failed": 0, "bytes": 300}),
        _ => json!({}),
    }
}

fn effect(name: &str, what: &str, outcome: &str) -> Effects {
    let (transfer_type, size_category, outcome) = (name.to_owned(), what.to_owned(), outcome.to_owned());
    vec![Mutation::AddLearning(Lesson { transfer_type, size_category, outcome, duration: Duration::ZERO, bytes: 0, retries: 0 })]
}

struct Tasks {
    directory: PathBuf,
    store: Store,
    executor: OnceLock<Executor<Effects>>,
}

/// One write, so that a kill leaves a whole line or none.
fn say(directory: &Path, file: &str, line: &str) {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(directory.join(file)).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

#[async_trait]
impl TaskHandler<Effects> for Tasks {
    async fn run(&self, call: TaskCall, running: Running<Effects>) -> Answer<Effects> {
        let stored = self.store.execution_with_frames(&call.execution).await.unwrap();
        if !stored.is_some_and(|open| open.frames.iter().any(|frame| frame.body.contains(&call.token))) {
            say(&self.directory, "violations", &call.token);
        }
        say(&self.directory, "begun", &call.token);
        let output = answer(&call.execution, &call.state);
        let pause = Duration::from_micros(u64::from(call.token.bytes().map(u32::from).sum::<u32>() % 5_000));
        let effects = effect(&call.execution, "answered", &call.token);
        if !call.resource.waits_for_token {
            tokio::time::sleep(pause).await;
            return Answer::ok(output).with(effects);
        }
        let (executor, token) = (self.executor.get().unwrap().clone(), call.token);
        tokio::spawn(async move {
            let _ = running.heartbeat().await;
            tokio::time::sleep(pause).await;
            let _ = executor.succeed(&token, output, effects).await;
        });
        Answer::ok(json!({"MessageId": "1"}))
    }
}

#[test]
fn a_process_that_is_killed() {
    let (Some(directory), Ok(life)) = (std::env::var_os(DIRECTORY).map(PathBuf::from), std::env::var(LIFE)) else { return };
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(live(directory, life));
}

async fn live(directory: PathBuf, life: String) {
    let store = Store::open(directory.join("state.db")).await.unwrap();
    let tasks = Arc::new(Tasks { directory: directory.clone(), store: store.clone(), executor: OnceLock::new() });
    let ports = Ports {
        journal: Arc::new(StoreJournal::new(store, None)),
        handler: tasks.clone(),
        watcher: Arc::new(()),
        clock: Arc::new(SystemClock::default()),
        chance: Box::new(SystemChance),
    };
    let executor = Executor::new(ports, Options::default());
    assert!(tasks.executor.set(executor.clone()).is_ok());
    executor.resume().await.unwrap();
    say(&directory, "lives", &life);
    if life == "last" {
        while executor.running() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        return executor.shutdown(Duration::from_secs(5)).await;
    }
    for number in 0.. {
        while executor.running() >= 30 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let name = format!("e-{life}-{number}");
        let new = NewExecution { name: name.clone(), machine: "transfer".into(), definition: DEFINITION.into(), input: input(&name) };
        executor.start(new, effect(&name, "started", "started")).await.unwrap();
        say(&directory, "created", &name);
    }
}
