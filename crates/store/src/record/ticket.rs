//! The built-in ticket register, for where no ticket system is configured.

use jiff::Timestamp;
use model::{TicketKind, TicketState, TransferId};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketRecord {
    /// From 1; never given twice.
    pub number: u64,
    pub correlation_id: String,
    pub kind: TicketKind,
    pub transfer: TransferId,
    pub spec_hash: String,
    pub state: TicketState,
    pub urgency: u8,
    pub group: String,
    pub opened_by: String,
    pub title: String,
    pub opened_at: Timestamp,
    pub updated_at: Timestamp,
}

/// A ticket to be opened, which will be `New`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTicket {
    pub correlation_id: String,
    pub kind: TicketKind,
    pub transfer: TransferId,
    pub spec_hash: String,
    pub urgency: u8,
    pub group: String,
    pub opened_by: String,
    pub title: String,
    pub at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketNote {
    /// Chosen by the writer; the same one again is the same note.
    pub key: String,
    pub at: Timestamp,
    pub author: String,
    pub text: String,
}
