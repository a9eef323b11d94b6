//! Executions of workflows: a head, its frames, its history, and the definition that it was started with.

use std::sync::Arc;

use jiff::Timestamp;
use model::{ExecutionStatus, TransferId};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecutionRecord {
    /// `ff-<transfer>-<run>`; given once and for all.
    pub name: String,
    /// Whose it is; an execution may also belong to nobody.
    pub transfer: Option<TransferId>,
    /// Lower-case SHA-256 of the definition's text, which is kept once.
    pub definition: String,
    pub status: ExecutionStatus,
    /// What there is to know besides frames, history and definition. JSON.
    pub head: String,
    /// When something happens by itself.
    pub wakes: Option<Timestamp>,
    /// Number of the newest event of its history.
    pub last_event: u64,
    pub started_at: Timestamp,
    pub updated_at: Timestamp,
    /// Set while the status is terminal.
    pub finished_at: Option<Timestamp>,
}

/// One place at which an execution stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    pub id: u64,
    /// JSON.
    pub body: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRow {
    /// From 1, without gaps.
    pub id: u64,
    pub at: Timestamp,
    /// As AWS names it, such as `TaskStateEntered`.
    pub kind: String,
    /// JSON.
    pub body: String,
}

/// A new execution, with what its first step made.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateExecution {
    pub record: ExecutionRecord,
    pub definition_text: Arc<str>,
    pub frames: Vec<Frame>,
    pub history: Vec<HistoryRow>,
}

/// What one event led to.
#[derive(Debug, Clone, PartialEq)]
pub struct SaveStep {
    pub name: String,
    /// The `last_event` of the record that the step began with.
    pub expect_event: u64,
    pub last_event: u64,
    /// Terminal: `finished_at` becomes `at`; otherwise it is cleared, which is how a redrive begins.
    pub status: ExecutionStatus,
    pub head: String,
    pub wakes: Option<Timestamp>,
    /// New and changed ones.
    pub frames: Vec<Frame>,
    /// Ids of frames that are gone. One that is not there is gone already.
    pub removed: Vec<u64>,
    pub history: Vec<HistoryRow>,
    pub at: Timestamp,
}

/// An execution that has not ended, with all its frames in the order of their ids.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenExecution {
    /// Its place among all executions: the last one of a page is the cursor of the next.
    pub number: u64,
    pub record: ExecutionRecord,
    pub frames: Vec<Frame>,
}

/// Newest first.
#[derive(Debug, Clone, Default)]
pub struct ExecutionQuery {
    pub transfer: Option<TransferId>,
    /// Empty: every status.
    pub statuses: Vec<ExecutionStatus>,
    /// Only those created before this one; the name of the last of a page is the cursor of the next.
    pub before: Option<String>,
    /// 0: the store's own limit, 1,000, which also bounds any other number.
    pub limit: u32,
}
