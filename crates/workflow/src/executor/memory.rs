//! A journal that forgets everything with its last clone, for tests and trials. It stores texts, as every other one does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde_json::{from_str, to_string};

use super::port::{Creation, Effects, Journal, JournalError, Save, Stored};
use crate::interpreter::{Execution, FrameId, HistoryEvent, Status, Step};

/// Clones share what is remembered.
#[derive(Debug)]
pub struct MemoryJournal<E> {
    records: Arc<Mutex<Records<E>>>,
}

#[derive(Debug)]
struct Records<E> {
    executions: BTreeMap<String, Record>,
    effects: Vec<E>,
}

#[derive(Debug)]
struct Record {
    definition: Arc<str>,
    number: u64,
    start: String,
    head: String,
    frames: BTreeMap<FrameId, String>,
    history: Vec<String>,
    running: bool,
    last_event: u64,
}

impl<E> Clone for MemoryJournal<E> {
    fn clone(&self) -> Self {
        Self { records: self.records.clone() }
    }
}

impl<E> Default for MemoryJournal<E> {
    fn default() -> Self {
        Self { records: Arc::new(Mutex::new(Records { executions: BTreeMap::new(), effects: Vec::new() })) }
    }
}

impl<E: Effects> MemoryJournal<E> {
    fn records(&self) -> MutexGuard<'_, Records<E>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The effects of all steps, in the order in which they were written.
    pub fn effects(&self) -> Vec<E> {
        self.records().effects.clone()
    }

    pub fn names(&self) -> Vec<String> {
        self.records().executions.keys().cloned().collect()
    }
}

fn text<T: serde::Serialize>(value: &T) -> Result<String, JournalError> {
    to_string(value).map_err(|error| JournalError::Unavailable(error.to_string()))
}

fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, JournalError> {
    from_str(text).map_err(|error| JournalError::Unavailable(error.to_string()))
}

impl Record {
    fn write(&mut self, execution: &Execution, step: &Step) -> Result<(), JournalError> {
        self.head = text(&execution.head())?;
        self.running = execution.status == Status::Running;
        self.last_event = execution.last_event;
        for id in &step.removed {
            self.frames.remove(id);
        }
        for (id, frame) in step.touched.iter().filter_map(|id| Some((*id, execution.frames.get(id)?))) {
            self.frames.insert(id, text(frame)?);
        }
        for event in &step.history {
            self.history.push(text(event)?);
        }
        Ok(())
    }

    fn read(&self) -> Result<Stored, JournalError> {
        let frames = self.frames.values().map(|frame| read(frame)).collect::<Result<Vec<_>, _>>()?;
        let execution = Execution::from_parts(read(&self.start)?, read(&self.head)?, frames);
        Ok(Stored { definition: self.definition.clone(), execution })
    }
}

#[async_trait]
impl<E: Effects> Journal<E> for MemoryJournal<E> {
    async fn create(&self, new: Creation<'_, E>) -> Result<(), JournalError> {
        let mut records = self.records();
        let name = &new.execution.start.name;
        if records.executions.contains_key(name) {
            return Err(JournalError::Exists);
        }
        let mut record = Record {
            definition: new.definition.clone(),
            number: records.executions.len() as u64 + 1,
            start: text(&new.execution.start)?,
            head: String::new(),
            frames: BTreeMap::new(),
            history: Vec::new(),
            running: true,
            last_event: 0,
        };
        record.write(new.execution, new.step)?;
        records.executions.insert(name.clone(), record);
        records.effects.push(new.effects.clone());
        Ok(())
    }

    async fn save(&self, save: Save<'_, E>) -> Result<(), JournalError> {
        let mut records = self.records();
        let name = &save.execution.start.name;
        let record = records.executions.get_mut(name).ok_or_else(|| JournalError::Conflict("it was removed".to_owned()))?;
        if record.last_event != save.expect_event {
            return Err(JournalError::Conflict(format!("its last event is {}, not {}", record.last_event, save.expect_event)));
        }
        record.write(save.execution, save.step)?;
        records.effects.push(save.effects.clone());
        Ok(())
    }

    async fn load(&self, name: &str) -> Result<Option<Stored>, JournalError> {
        self.records().executions.get(name).map(Record::read).transpose()
    }

    async fn open(&self, after: u64, limit: usize) -> Result<Vec<(u64, Stored)>, JournalError> {
        let records = self.records();
        let mut later: Vec<&Record> = records.executions.values().filter(|record| record.running && record.number > after).collect();
        later.sort_by_key(|record| record.number);
        later.into_iter().take(limit).map(|record| Ok((record.number, record.read()?))).collect()
    }

    async fn history(&self, name: &str, after: u64, limit: usize) -> Result<Vec<HistoryEvent>, JournalError> {
        let records = self.records();
        let Some(record) = records.executions.get(name) else { return Ok(Vec::new()) };
        let after = usize::try_from(after).unwrap_or(usize::MAX);
        record.history.iter().skip(after).take(limit).map(|event| read(event)).collect()
    }
}
