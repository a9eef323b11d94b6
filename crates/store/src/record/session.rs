//! Sessions of ten seconds and the grants they are turned into.

use std::time::Duration;

use jiff::Timestamp;
use model::TransferId;
use serde::{Deserialize, Serialize};

/// No session is longer.
pub const LONGEST_SESSION: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// SHA-256 of the token; the token itself is nowhere here.
    pub token_hash: String,
    pub transfer: TransferId,
    pub run: u32,
    pub user: String,
    pub spec_hash: String,
    /// A reference, never keys.
    pub role: String,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    /// Name of the execution that has used it.
    pub consumed_by: Option<String>,
}

impl SessionRecord {
    /// It counts from `created_at` until just before `expires_at`. A clock that went back before its creation does not
    /// make it longer.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.created_at <= now && now < self.expires_at
    }
}

/// Why a session does not open the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionRefusal {
    #[error("the session has expired")]
    Expired,
    #[error("the session was given for another request")]
    OtherSpec,
    #[error("the session was used by another execution")]
    Consumed,
}

/// What a consumed session leaves behind: everything later rests on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRecord {
    pub transfer: TransferId,
    pub user: String,
    pub spec_hash: String,
    pub role: String,
    /// The execution that consumed the session.
    pub execution: String,
    pub at: Timestamp,
}
