//! What an executor asks of the world: a journal that remembers, a handler that carries tasks out, somebody who is told.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::Value;

use super::task::Running;
use crate::interpreter::{Execution, HistoryEvent, Status, Step};
use crate::{Fault, definition::Resource};

/// What tasks want written together with the step that their answer leads to. The executor never looks inside.
pub trait Effects: Clone + Default + Send + Sync + 'static {}

impl<E: Clone + Default + Send + Sync + 'static> Effects for E {}

/// Remembers executions. Each write happens whole or not at all, and has happened when it is answered.
#[async_trait]
pub trait Journal<E: Effects>: Send + Sync + 'static {
    /// `Exists` if there ever was an execution of this name.
    async fn create(&self, new: Creation<'_, E>) -> Result<(), JournalError>;

    /// `Conflict` unless the last event written is `expect_event`.
    async fn save(&self, step: Save<'_, E>) -> Result<(), JournalError>;

    async fn load(&self, name: &str) -> Result<Option<Stored>, JournalError>;

    /// Executions that run, each with its number, in the order of these; only numbers above `after`. An empty page is the last.
    async fn open(&self, after: u64, limit: usize) -> Result<Vec<(u64, Stored)>, JournalError>;

    /// Events numbered above `after`, in order.
    async fn history(&self, name: &str, after: u64, limit: usize) -> Result<Vec<HistoryEvent>, JournalError>;
}

/// A new execution with its first step.
#[derive(Debug)]
pub struct Creation<'a, E> {
    /// The text of the definition: a run in flight keeps the one it was started with.
    pub definition: &'a Arc<str>,
    pub execution: &'a Execution,
    pub step: &'a Step,
    pub effects: &'a E,
    pub at: Timestamp,
}

/// One step: what of the execution changed, what is added to its history, and what its task did.
#[derive(Debug)]
pub struct Save<'a, E> {
    pub expect_event: u64,
    /// As it is after the step; only its head and the frames named in `step` have changed.
    pub execution: &'a Execution,
    pub step: &'a Step,
    pub effects: &'a E,
    pub at: Timestamp,
}

/// An execution as it was stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub definition: Arc<str>,
    pub execution: Execution,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    #[error("there is an execution of this name already")]
    Exists,
    /// Somebody else has written a step of this execution, or has taken it over.
    #[error("another one carries this execution on: {0}")]
    Conflict(String),
    /// The effects can not be written as they are. Nothing was; the task has failed with this.
    #[error("the effects of the task cannot be written: {0}")]
    Refused(Fault),
    /// Not written, or not known to be. Another try may go through.
    #[error("{0}")]
    Unavailable(String),
}

/// Carries out tasks.
#[async_trait]
pub trait TaskHandler<E: Effects>: Send + Sync + 'static {
    /// May be called twice for one token: again after a restart, when the answer to the first call was not written.
    ///
    /// A task with `.waitForTaskToken` is handed over only: `Ok` says that somebody has the token now, and will answer with
    /// [`super::Executor::succeed`] or [`super::Executor::fail`].
    async fn run(&self, call: TaskCall, running: Running<E>) -> Answer<E>;
}

/// A task to be carried out.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskCall {
    /// Name of the execution.
    pub execution: String,
    pub state: String,
    /// Names this attempt. Whoever has it can end the task.
    pub token: String,
    pub resource: Resource,
    /// `FunctionName` or `QueueUrl`; the whole ARN of any other resource.
    pub function: String,
    /// `Payload` or `MessageBody`; everything for any other resource.
    pub payload: Value,
    /// 0 the first time.
    pub attempt: u64,
    pub deadline: Option<Timestamp>,
    pub heartbeat_seconds: Option<u64>,
    /// It was started before a restart, and nobody knows how far it came.
    pub again: bool,
}

/// What became of a task. The effects are written with the step that follows, those of a fault too.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer<E> {
    pub result: Result<Value, Fault>,
    pub effects: E,
}

impl<E: Default> Answer<E> {
    pub fn ok(output: Value) -> Self {
        Self { result: Ok(output), effects: E::default() }
    }

    pub fn fault(error: impl Into<String>, cause: impl Into<String>) -> Self {
        Self { result: Err(Fault::new(error, cause)), effects: E::default() }
    }

    pub fn with(self, effects: E) -> Self {
        Self { effects, ..self }
    }
}

impl<E: Default> From<Result<Value, Fault>> for Answer<E> {
    fn from(result: Result<Value, Fault>) -> Self {
        Self { result, effects: E::default() }
    }
}

/// Is told what nobody asked for. The calls must not block.
pub trait Watcher: Send + Sync + 'static {
    /// The end of an execution is written.
    fn ended(&self, _execution: &str, _status: &Status) {}
    /// Somebody else carries an execution on; here its tasks were cancelled.
    fn dropped(&self, _execution: &str, _why: &str) {}
    /// The journal takes no writes; executions pause until it does.
    fn stalled(&self, _why: &str) {}
    fn going_on(&self) {}
}

/// Nobody.
impl Watcher for () {}
