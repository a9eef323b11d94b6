//! Runs an execution in memory with mocked tasks and a clock that jumps: for `workflow run` and for tests.

mod mocks;

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

pub use mocks::{Answer, MockError, Mocks};

use crate::interpreter::{Command, Event, Execution, HistoryEvent, Rejected, Start, Status, Step, step};
use crate::{Chance, Machine};

/// How an execution went.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    pub status: Status,
    pub history: Vec<HistoryEvent>,
    pub began: Timestamp,
    /// By the clock that jumps.
    pub ended: Timestamp,
    pub execution: Execution,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrialError {
    #[error("the task state {state:?} was called {calls} times, and there is no mock for that call")]
    NoMock { state: String, calls: u64 },
    #[error("there is a mock for {0:?}, which is not a task state of the definition")]
    NoSuchTask(String),
    #[error(transparent)]
    Rejected(#[from] Rejected),
    #[error("nothing more can happen to the execution")]
    Stuck,
}

impl Trial {
    /// As `workflow run` prints it: status, output, error and cause, null where there is none.
    pub fn outcome(&self) -> Value {
        let (output, fault) = match &self.status {
            Status::Succeeded { output } => (output.clone(), None),
            Status::Failed(fault) | Status::TimedOut(fault) | Status::Aborted(fault) => (Value::Null, Some(fault)),
            Status::Running => (Value::Null, None),
        };
        serde_json::json!({
            "status": self.status.name(),
            "output": output,
            "error": fault.map(|fault| &fault.error).filter(|error| !error.is_empty()),
            "cause": fault.map(|fault| &fault.cause).filter(|cause| !cause.is_empty()),
        })
    }
}

/// From the start to the end, however long the waits are.
pub fn run(machine: &Machine, start: Start, mocks: &Mocks, began: Timestamp, chance: &mut dyn Chance) -> Result<Trial, TrialError> {
    run_watched(machine, start, mocks, began, chance, |_, _| {})
}

/// The same; `watch` sees the execution after every step, and may change nothing but read and write it.
pub fn run_watched(
    machine: &Machine,
    start: Start,
    mocks: &Mocks,
    began: Timestamp,
    chance: &mut dyn Chance,
    mut watch: impl FnMut(&mut Execution, &Step),
) -> Result<Trial, TrialError> {
    if let Some(unknown) = mocks.states().find(|name| !has_task(machine, name)) {
        return Err(TrialError::NoSuchTask(unknown.to_owned()));
    }
    let (mut execution, mut next) = Execution::start(machine, start, began, chance)?;
    watch(&mut execution, &next);
    let mut answers = Answers { mocks, calls: HashMap::new(), open: BTreeMap::new(), order: 0 };
    let (mut now, mut history) = (began, Vec::new());
    loop {
        history.append(&mut next.history);
        for command in std::mem::take(&mut next.commands) {
            answers.take(command, now)?;
        }
        if execution.status != Status::Running {
            return Ok(Trial { status: execution.status.clone(), history, began, ended: now, execution });
        }
        // An answer that comes in the same moment as a timeout is in time.
        let event = match (answers.next(), execution.wakes()) {
            (None, None) => return Err(TrialError::Stuck),
            (Some(at), wakes) if wakes.is_none_or(|wakes| at <= wakes) => {
                now = now.max(at);
                answers.give()
            }
            (_, Some(at)) => {
                now = now.max(at);
                Event::Clock
            }
            (Some(_), None) => Event::Clock,
        };
        next = step(machine, &mut execution, event, now, chance)?;
        watch(&mut execution, &next);
    }
}

fn has_task(machine: &Machine, name: &str) -> bool {
    let here = machine.state(name).is_some_and(|state| matches!(state.kind, crate::definition::Kind::Task(_)));
    here || machine.states.iter().flat_map(|state| state.machines()).any(|inner| has_task(inner, name))
}

/// Which mock answers which call, and when.
struct Answers<'a> {
    mocks: &'a Mocks,
    calls: HashMap<String, u64>,
    open: BTreeMap<(Timestamp, u64), (String, Answer)>,
    order: u64,
}

impl Answers<'_> {
    fn take(&mut self, command: Command, now: Timestamp) -> Result<(), TrialError> {
        match command {
            Command::CancelTask { token } => self.open.retain(|_, (open, _)| *open != token),
            Command::StartTask(task) => {
                let calls = self.calls.entry(task.state.clone()).or_default();
                let Some((delay, answer)) = self.mocks.answer(&task.state, *calls) else {
                    return Err(TrialError::NoMock { state: task.state, calls: *calls + 1 });
                };
                *calls += 1;
                self.order += 1;
                let at = now.checked_add(SignedDuration::from_secs(delay)).unwrap_or(Timestamp::MAX);
                self.open.insert((at, self.order), (task.token, answer.clone()));
            }
        }
        Ok(())
    }

    fn next(&self) -> Option<Timestamp> {
        self.open.keys().next().map(|(at, _)| *at)
    }

    fn give(&mut self) -> Event {
        match self.open.pop_first() {
            Some((_, (token, Answer::Return(output)))) => Event::TaskSucceeded { token, output },
            Some((_, (token, Answer::Throw(fault)))) => Event::TaskFailed { token, error: fault.error, cause: fault.cause },
            None => Event::Clock,
        }
    }
}
