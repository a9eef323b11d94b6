//! What is learnt of transfers for predictions, and what is remembered of objects for listings.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One transfer that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lesson {
    /// The protocol.
    pub transfer_type: String,
    /// `small`, `medium`, `large` or `very_large`.
    pub size_category: String,
    /// `completed`, or the class of its error.
    pub outcome: String,
    pub duration: Duration,
    pub bytes: u64,
    pub retries: u64,
}

/// Sums over the transfers of one type, size and outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearningRecord {
    pub transfer_type: String,
    pub size_category: String,
    pub outcome: String,
    pub transfers: u64,
    pub duration: Duration,
    pub bytes: u64,
    pub retries: u64,
}

/// Metadata of one object, for listings; never for a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedObject {
    /// `bucket#key`.
    pub key: String,
    /// JSON, with the ETag or version by which it is validated again.
    pub body: String,
    pub expires_at: Timestamp,
}
