//! Answers the executor's journal with the store: a step of an execution and what its task wants written are one batch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use aws_lc_rs::{digest, rand};
use data_encoding::HEXLOWER;
use model::{ExecutionStatus, TransferId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::{
    Batch, Conflict, CreateExecution, ErrorKind, ExecutionRecord, Frame, HistoryRow, LeaseGuard, Mutation, OpenExecution, SaveStep, Store,
};
use workflow::executor::{Creation, Journal, JournalError, Save, Stored};
use workflow::{Chance, Execution, Fault, HistoryEvent, Status, Step};

/// What tasks want written with the step that follows from their answer.
pub type Effects = Vec<Mutation>;

/// What an execution is started with is kept among its frames, where no step writes it again. Frames count from 1.
const START: u64 = 0;

pub struct StoreJournal {
    store: Store,
    /// Nothing is written once somebody else has this lease.
    guard: Option<LeaseGuard>,
    texts: Mutex<HashMap<String, Arc<str>>>,
}

impl std::fmt::Debug for StoreJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreJournal").field("guard", &self.guard).finish_non_exhaustive()
    }
}

impl StoreJournal {
    pub fn new(store: Store, guard: Option<LeaseGuard>) -> Self {
        Self { store, guard, texts: Mutex::default() }
    }

    fn batch(&self, step: Mutation, effects: &Effects) -> Batch {
        let mut batch = Batch::new();
        if let Some(guard) = &self.guard {
            batch = batch.guarded_by(guard.clone());
        }
        batch = batch.push(step);
        batch.extend(effects.iter().cloned());
        batch
    }

    async fn text(&self, hash: &str) -> Result<Arc<str>, JournalError> {
        let known = self.texts.lock().unwrap_or_else(PoisonError::into_inner).get(hash).cloned();
        if let Some(text) = known {
            return Ok(text);
        }
        let text = self.store.definition(hash).await.map_err(unavailable)?;
        let text: Arc<str> = text.ok_or_else(|| JournalError::Unavailable(format!("the definition {hash} is not in the store")))?.into();
        self.texts.lock().unwrap_or_else(PoisonError::into_inner).insert(hash.to_owned(), text.clone());
        Ok(text)
    }

    async fn stored(&self, open: OpenExecution) -> Result<Stored, JournalError> {
        let definition = self.text(&open.record.definition).await?;
        let (mut start, mut frames) = (None, Vec::with_capacity(open.frames.len()));
        for frame in open.frames {
            match frame.id {
                START => start = Some(read(&frame.body)?),
                _ => frames.push(read(&frame.body)?),
            }
        }
        let start = start.ok_or_else(|| JournalError::Unavailable(format!("the start of {} is not in the store", open.record.name)))?;
        Ok(Stored { definition, execution: Execution::from_parts(start, read(&open.record.head)?, frames) })
    }

    /// Whether it was the execution itself that a batch was refused for, or something that its task wanted written.
    async fn refusal(&self, name: &str, creates: bool, error: store::Error) -> JournalError {
        match (error.kind, error.conflict()) {
            (ErrorKind::LeaseLost, _) | (_, Some(Conflict::Execution { .. })) => JournalError::Conflict(sentence(&error)),
            (ErrorKind::Conflict | ErrorKind::NotFound | ErrorKind::Invalid, _) => {
                let there = match self.store.execution(name).await {
                    Ok(found) => found.is_some(),
                    Err(error) => return unavailable(error),
                };
                match (creates, there) {
                    (true, true) => JournalError::Exists,
                    (false, false) => JournalError::Conflict(sentence(&error)),
                    // Records that changed meanwhile are read again by the next attempt; what can never be written stays so.
                    _ if error.kind == ErrorKind::Invalid => JournalError::Refused(Fault::new("internal", sentence(&error))),
                    _ => JournalError::Refused(Fault::new("Transient", sentence(&error))),
                }
            }
            _ => unavailable(error),
        }
    }
}

#[async_trait]
impl Journal<Effects> for StoreJournal {
    async fn create(&self, new: Creation<'_, Effects>) -> Result<(), JournalError> {
        let execution = new.execution;
        let name = &execution.start.name;
        let definition = HEXLOWER.encode(digest::digest(&digest::SHA256, new.definition.as_bytes()).as_ref());
        let status = status(&execution.status);
        let record = ExecutionRecord {
            name: name.clone(),
            transfer: transfer_of(name),
            definition,
            status,
            head: text(&execution.head())?,
            wakes: execution.wakes(),
            last_event: execution.last_event,
            started_at: new.at,
            updated_at: new.at,
            finished_at: status.is_terminal().then_some(new.at),
        };
        let mut frames = frames(execution, new.step)?;
        frames.push(Frame { id: START, body: text(&execution.start)? });
        let create = CreateExecution { record, definition_text: new.definition.clone(), frames, history: history(new.step)? };
        let written = self.store.commit(self.batch(Mutation::CreateExecution(Box::new(create)), new.effects)).await;
        match written {
            Ok(_) => Ok(()),
            Err(error) => Err(self.refusal(name, true, error).await),
        }
    }

    async fn save(&self, save: Save<'_, Effects>) -> Result<(), JournalError> {
        let execution = save.execution;
        let step = SaveStep {
            name: execution.start.name.clone(),
            expect_event: save.expect_event,
            last_event: execution.last_event,
            status: status(&execution.status),
            head: text(&execution.head())?,
            wakes: execution.wakes(),
            frames: frames(execution, save.step)?,
            removed: save.step.removed.iter().copied().collect(),
            history: history(save.step)?,
            at: save.at,
        };
        let written = self.store.commit(self.batch(Mutation::SaveStep(Box::new(step)), save.effects)).await;
        match written {
            Ok(_) => Ok(()),
            Err(error) => Err(self.refusal(&execution.start.name, false, error).await),
        }
    }

    async fn load(&self, name: &str) -> Result<Option<Stored>, JournalError> {
        match self.store.execution_with_frames(name).await.map_err(unavailable)? {
            Some(open) => self.stored(open).await.map(Some),
            None => Ok(None),
        }
    }

    async fn open(&self, after: u64, limit: usize) -> Result<Vec<(u64, Stored)>, JournalError> {
        let (mut after, mut open) = (after, Vec::new());
        while open.is_empty() {
            let page = self.store.open_executions(after, u32::try_from(limit).unwrap_or(u32::MAX)).await.map_err(unavailable)?;
            let Some(last) = page.last() else { break };
            after = last.number;
            for execution in page {
                let (number, name) = (execution.number, execution.record.name.clone());
                match self.stored(execution).await {
                    Ok(stored) => open.push((number, stored)),
                    // It stays as it is, for a program that can read it; the others go on.
                    Err(error) => tracing::error!(execution = name, %error, "an open execution cannot be taken up"),
                }
            }
        }
        Ok(open)
    }

    async fn history(&self, name: &str, after: u64, limit: usize) -> Result<Vec<HistoryEvent>, JournalError> {
        let rows = self.store.history(name, after, u32::try_from(limit).unwrap_or(u32::MAX)).await.map_err(unavailable)?;
        rows.iter().map(|row| read(&row.body)).collect()
    }
}

/// `ff-<transfer>-<run>`, or an execution that belongs to no transfer.
fn transfer_of(name: &str) -> Option<TransferId> {
    let (transfer, run) = name.strip_prefix("ff-")?.rsplit_once('-')?;
    run.parse::<u32>().ok()?;
    transfer.parse().ok()
}

fn status(status: &Status) -> ExecutionStatus {
    match status {
        Status::Running => ExecutionStatus::Running,
        Status::Succeeded { .. } => ExecutionStatus::Succeeded,
        Status::Failed(_) => ExecutionStatus::Failed,
        Status::TimedOut(_) => ExecutionStatus::TimedOut,
        Status::Aborted(_) => ExecutionStatus::Aborted,
    }
}

fn frames(execution: &Execution, step: &Step) -> Result<Vec<Frame>, JournalError> {
    let touched = step.touched.iter().filter_map(|id| execution.frames.get(id));
    touched.map(|frame| Ok(Frame { id: frame.id, body: text(frame)? })).collect()
}

fn history(step: &Step) -> Result<Vec<HistoryRow>, JournalError> {
    let row = |event: &HistoryEvent| Ok(HistoryRow { id: event.id, at: event.timestamp, kind: event.kind.clone(), body: text(event)? });
    step.history.iter().map(row).collect()
}

fn text<T: Serialize>(value: &T) -> Result<String, JournalError> {
    serde_json::to_string(value).map_err(|error| JournalError::Unavailable(error.to_string()))
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, JournalError> {
    serde_json::from_str(text).map_err(|error| JournalError::Unavailable(format!("what is stored of an execution cannot be read: {error}")))
}

fn unavailable(error: store::Error) -> JournalError {
    JournalError::Unavailable(sentence(&error))
}

fn sentence(error: &store::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Random numbers that nobody guesses: task tokens are made of them.
#[derive(Debug, Default)]
pub struct SystemChance;

impl Chance for SystemChance {
    fn number(&mut self) -> u64 {
        let mut bytes = [0; 8];
        rand::fill(&mut bytes).expect("the system has random numbers");
        u64::from_ne_bytes(bytes)
    }
}
