//! What can be said of an execution to people, as it is stored.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::port::Effects;
use super::{Error, Executor};
use crate::interpreter::{Doing, Execution, Frame, Status};

/// As DescribeExecution, and where it stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Description {
    pub name: String,
    pub machine: String,
    pub status: Status,
    pub input: Value,
    pub started: Timestamp,
    pub deadline: Option<Timestamp>,
    pub redrives: u32,
    pub last_event: u64,
    pub standing: Vec<Standing>,
    #[serde(skip)]
    pub definition: Arc<str>,
}

/// A place at which an execution stands and waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    pub state: String,
    /// `task`, `wait` or `retry`.
    pub doing: &'static str,
    pub since: Timestamp,
    /// When it goes on by itself at the latest.
    pub until: Option<Timestamp>,
    pub attempt: u64,
}

impl Standing {
    fn of(frame: &Frame) -> Option<Self> {
        let doing = match &frame.doing {
            Doing::Task { .. } => "task",
            Doing::Wait { .. } => "wait",
            Doing::Retry { .. } => "retry",
            _ => return None,
        };
        Some(Self { state: frame.state.clone(), doing, since: frame.entered, until: frame.wakes(), attempt: frame.retry_count })
    }
}

impl Description {
    pub fn of(definition: Arc<str>, execution: Execution) -> Self {
        Self {
            standing: execution.frames.values().filter_map(Standing::of).collect(),
            name: execution.start.name,
            machine: execution.start.machine_name,
            status: execution.status,
            input: execution.start.input,
            started: execution.started,
            deadline: execution.deadline,
            redrives: execution.redrives,
            last_event: execution.last_event,
            definition,
        }
    }
}

impl<E: Effects> Executor<E> {
    /// What is written of an execution; None if there never was one.
    pub async fn describe(&self, name: &str) -> Result<Option<Description>, Error> {
        let stored = self.core.journal.load(name).await?;
        Ok(stored.map(|stored| Description::of(stored.definition, stored.execution)))
    }
}
