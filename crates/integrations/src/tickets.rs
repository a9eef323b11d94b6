//! The port to a ticket system: tickets are read back before they count, and every write has a key, so that saying
//! something twice is saying it once.

use async_trait::async_trait;
use jiff::Timestamp;
use model::{TicketKind, TicketState, TransferId};

use crate::Fault;

/// A ticket as its system shows it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    pub number: String,
    pub kind: TicketKind,
    pub state: TicketState,
    /// The one transfer that it is for.
    pub transfer: TransferId,
    /// What was approved.
    pub spec_hash: String,
    pub opened_by: String,
    pub group: String,
    pub opened_at: Timestamp,
}

/// What becomes of a ticket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TicketChange {
    pub state: Option<TicketState>,
    pub note: Option<String>,
}

#[async_trait]
pub trait TicketSystem: Send + Sync + std::fmt::Debug {
    /// The ticket of this number as it is now; `None`: there is none.
    async fn read(&self, number: &str) -> Result<Option<Ticket>, Fault>;

    /// `Ok` means that state and note are there. The same key again changes nothing.
    async fn write(&self, number: &str, key: &str, change: &TicketChange) -> Result<(), Fault>;
}
