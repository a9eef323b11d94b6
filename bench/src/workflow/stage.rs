//! An executor over a store in a directory, with tasks that answer at once, and a count of what is written.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use app::journal::{Effects, StoreJournal, SystemChance};
use async_trait::async_trait;
use serde_json::{Value, json};
use store::Store;
use tokio::sync::watch;
use workflow::executor::{
    Answer, Creation, Executor, Journal, JournalError, NewExecution, Options, Ports, Running, Save, Stored, SystemClock, TaskCall,
    TaskHandler,
};
use workflow::{HistoryEvent, Step};

/// Counts what is written, as AWS counts transitions: states that are entered.
pub struct Counting {
    inner: StoreJournal,
    pub transitions: AtomicU64,
    pub steps: AtomicU64,
    pub events: AtomicU64,
    /// When the first step was written.
    pub first: watch::Sender<Option<Instant>>,
}

impl Counting {
    fn count(&self, step: &Step) {
        let entered = step.history.iter().filter(|event| event.kind.ends_with("StateEntered")).count();
        self.transitions.fetch_add(entered as u64, Ordering::Relaxed);
        self.events.fetch_add(step.history.len() as u64, Ordering::Relaxed);
        if self.steps.fetch_add(1, Ordering::Relaxed) == 0 {
            self.first.send_replace(Some(Instant::now()));
        }
    }
}

#[async_trait]
impl Journal<Effects> for Counting {
    async fn create(&self, new: Creation<'_, Effects>) -> Result<(), JournalError> {
        let step = new.step;
        self.inner.create(new).await.inspect(|()| self.count(step))
    }
    async fn save(&self, save: Save<'_, Effects>) -> Result<(), JournalError> {
        let step = save.step;
        self.inner.save(save).await.inspect(|()| self.count(step))
    }
    async fn load(&self, name: &str) -> Result<Option<Stored>, JournalError> {
        self.inner.load(name).await
    }
    async fn open(&self, after: u64, limit: usize) -> Result<Vec<(u64, Stored)>, JournalError> {
        self.inner.open(after, limit).await
    }
    async fn history(&self, name: &str, after: u64, limit: usize) -> Result<Vec<HistoryEvent>, JournalError> {
        self.inner.history(name, after, limit).await
    }
}

/// Answers at once; those of a state called `Gate` when it opens.
struct Tasks {
    gate: watch::Sender<bool>,
}

#[async_trait]
impl TaskHandler<Effects> for Tasks {
    async fn run(&self, call: TaskCall, running: Running<Effects>) -> Answer<Effects> {
        if call.state == "Gate" {
            let mut gate = self.gate.subscribe();
            tokio::select! {
                _ = gate.wait_for(|open| *open) => {}
                () = running.cancelled.cancelled() => return Answer::fault("Cancelled", "the process ends"),
            }
        }
        Answer::ok(answer(&call.state))
    }
}

/// The direct way through `workflows/transfer.asl.json`.
fn answer(state: &str) -> Value {
    match state {
        "ValidateInput" => json!({"files": 2, "bytes": 300}),
        "AuthenticateSSO" => json!({"attempt": 1}),
        "DownloadFromS3" => json!({"strategy": "direct", "mover": "slice", "lanes": [0]}),
        "OpenTransfer" => json!({"mover": "slice"}),
        "SendSlice" => json!({"more": false}),
        "FinishTransfer" => json!({"delivered": 2, "failed": 0, "bytes": 300}),
        _ => json!({"done": true}),
    }
}

pub struct Stage {
    pub store: Store,
    pub executor: Executor<Effects>,
    pub journal: Arc<Counting>,
    tasks: Arc<Tasks>,
}

impl Stage {
    pub async fn open(directory: &Path, commit_delay: Duration) -> Result<Self> {
        let options = store::Options { commit_delay, ..store::Options::of_service() };
        let store = Store::open_with(directory.join("state.db"), options).await?;
        let journal = Arc::new(Counting {
            inner: StoreJournal::new(store.clone(), None),
            transitions: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            events: AtomicU64::new(0),
            first: watch::Sender::new(None),
        });
        let tasks = Arc::new(Tasks { gate: watch::Sender::new(false) });
        let ports = Ports {
            journal: journal.clone(),
            handler: tasks.clone(),
            watcher: Arc::new(()),
            clock: Arc::new(SystemClock::default()),
            chance: Box::new(SystemChance),
        };
        Ok(Self { store, executor: Executor::new(ports, Options::default()), journal, tasks })
    }

    /// So many executions, started side by side.
    pub async fn start(&self, prefix: &str, count: usize, definition: &str) -> Result<()> {
        let mut starts = tokio::task::JoinSet::new();
        for number in 0..count {
            let name = format!("{prefix}-{number}");
            let input = json!({"transfer_id": name, "run": 1, "worker_queue": "https://sqs.us-east-1.amazonaws.com/000000000000/work"});
            let new = NewExecution { name, machine: "transfer".into(), definition: definition.into(), input };
            let executor = self.executor.clone();
            starts.spawn(async move { executor.start(new, Vec::new()).await });
            if starts.len() >= 256 {
                starts.join_next().await.transpose()?.transpose()?;
            }
        }
        while let Some(started) = starts.join_next().await {
            started??;
        }
        Ok(())
    }

    pub fn open_gate(&self) {
        self.tasks.gate.send_replace(true);
    }

    pub async fn until_all_ended(&self) {
        while self.executor.running() > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub fn transitions(&self) -> u64 {
        self.journal.transitions.load(Ordering::Relaxed)
    }

    pub fn steps(&self) -> u64 {
        self.journal.steps.load(Ordering::Relaxed)
    }

    pub async fn close(self) -> Result<()> {
        self.executor.shutdown(Duration::from_millis(100)).await;
        self.store.close().await?;
        Ok(())
    }
}

/// A gate and so many tasks in a row: every transition is a step of its own.
pub fn chain(tasks: usize, gate: bool) -> String {
    let task = |next: Option<String>| {
        let mut state = json!({"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "ResultPath": "$.last",
            "Parameters": {"FunctionName": "f", "Payload": {"transfer_id.$": "$.transfer_id", "run.$": "$.run"}}});
        match next {
            Some(next) => state["Next"] = json!(next),
            None => state["End"] = json!(true),
        }
        state
    };
    let mut states = serde_json::Map::new();
    if gate {
        states.insert("Gate".into(), task(Some("Task0".into())));
    }
    for number in 0..tasks {
        states.insert(format!("Task{number}"), task((number + 1 < tasks).then(|| format!("Task{}", number + 1))));
    }
    json!({"StartAt": if gate { "Gate" } else { "Task0" }, "States": states}).to_string()
}

/// The transfer, behind a gate.
pub fn transfer() -> Result<String> {
    let mut definition: Value = serde_json::from_str(include_str!("../../../workflows/transfer.asl.json"))?;
    let gate = json!({"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "ResultPath": null, "Next": definition["StartAt"],
        "Parameters": {"FunctionName": "f", "Payload": {}}});
    definition["States"]["Gate"] = gate;
    definition["StartAt"] = json!("Gate");
    Ok(definition.to_string())
}
