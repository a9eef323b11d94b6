//! Requests: what makes a transfer governed. At most one belongs to a transfer, and it follows that one's state.

use jiff::Timestamp;
use model::{ErrorClass, TransferId, TransferState};
use serde::{Deserialize, Serialize};

use super::words::words;

words! {
    /// What a person wants of a transfer that is under way. Tasks obey it; it interrupts nothing by itself.
    Wish {
        None "none",
        Cancel "cancel",
        Pause "pause",
        Hold "hold",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRecord {
    pub transfer: TransferId,
    /// The principal who asked.
    pub user: String,
    pub connector: String,
    pub source: String,
    /// 0 to 9; 9 goes first.
    pub priority: u8,
    /// What was approved; sessions, grants and tickets are bound to it.
    pub spec_hash: String,
    pub approval: Approval,
    pub user_ticket: Option<String>,
    pub audit_ticket: Option<String>,
    pub wish: Wish,
    /// Why a pending or held transfer does not go on.
    pub waiting: Option<Waiting>,
    /// Name of the newest execution.
    pub execution: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// From then on an ended one is not read any more, and may be swept.
    pub expires_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The connector's: `auto`, `second-person` or `change`.
    pub policy: String,
    pub approved_by: Option<String>,
    pub approved_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    pub class: Option<ErrorClass>,
    pub reason: String,
}

/// A request and where its transfer stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub record: RequestRecord,
    pub state: TransferState,
    /// Of the transfer.
    pub run: u32,
}

/// Newest first.
#[derive(Debug, Clone, Default)]
pub struct RequestQuery {
    pub user: Option<String>,
    pub connector: Option<String>,
    /// Empty: every state.
    pub states: Vec<TransferState>,
    /// Only those created before this one; the last of a page is the cursor of the next.
    pub before: Option<TransferId>,
    /// Ended ones that have expired by then are left out; `None`: none has.
    pub now: Option<Timestamp>,
    /// 0: the store's own limit, 1,000, which also bounds any other number.
    pub limit: u32,
}

/// How many requests of a connector wait to be admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueCount {
    pub connector: String,
    pub pending: u64,
}

/// Which transfer a client's key has stood for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotencyRecord {
    /// With the principal in it: two principals may choose the same.
    pub key: String,
    pub request_hash: String,
    pub transfer: TransferId,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
}
