//! What is remembered of a user: preferences, and a conversation exchange by exchange, so that no row grows without end.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The longest body of either, in bytes: a row of DynamoDB holds 400 KB.
pub const LONGEST_CONTEXT: usize = 262_144;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preferences {
    pub user: String,
    /// JSON.
    pub body: String,
    pub at: Timestamp,
    pub expires_at: Timestamp,
}

/// One exchange of a conversation: what was said and what was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    pub user: String,
    /// From 1 on, in the order of the conversation.
    pub number: u64,
    /// JSON.
    pub body: String,
    pub at: Timestamp,
    pub expires_at: Timestamp,
}
