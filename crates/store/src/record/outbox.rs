//! What is to be said to other systems, written down together with its reason.

use jiff::{SignedDuration, Timestamp};
use model::TransferId;
use serde::{Deserialize, Serialize};

use super::words::words;

/// No message waits longer between two attempts. One that seems to was put off under a clock that was set back since, and is due.
pub const LONGEST_PAUSE: SignedDuration = SignedDuration::from_secs(300);

/// One side effect. A step that runs twice makes the same key twice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OutboxKey {
    pub transfer: TransferId,
    pub run: u32,
    pub step: String,
    pub purpose: String,
}

impl std::fmt::Display for OutboxKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "message {}/{}/{}/{}", self.transfer, self.run, self.step, self.purpose)
    }
}

words! {
    /// What becomes of a message whose sender died between sending and noting it down.
    Delivering {
        /// It is sent again, with the same key: for targets that know a key again (tickets, webhooks). Each message
        /// arrives at least once, and counts once by its key.
        AtLeastOnce "at-least-once",
        /// It is `unconfirmed` and not sent again: for targets that do not (chat, mail). Each message arrives at most once.
        AtMostOnce "at-most-once",
    }
}

words! {
    OutboxState {
        Waiting "waiting",
        Claimed "claimed",
        Sent "sent",
        /// Perhaps sent; nobody knows.
        Unconfirmed "unconfirmed",
        /// For good, until a person acts. It holds back what comes later for the same subject.
        Refused "refused",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxRecord {
    pub key: OutboxKey,
    /// Which system, as the configuration names it.
    pub target: String,
    /// What it is about there: messages about one subject go one after the other, in the order of their making.
    pub subject: String,
    pub body: String,
    pub delivering: Delivering,
    pub state: OutboxState,
    /// How often it was claimed; the number of the present claim.
    pub attempts: u32,
    /// Not before then.
    pub next_at: Timestamp,
    pub claimed_by: Option<String>,
    pub claimed_until: Option<Timestamp>,
    /// Of the last attempt.
    pub error: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// From then on a sent or unconfirmed one may be swept.
    pub expires_at: Timestamp,
}

/// A new message: waiting, never claimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxMessage {
    pub key: OutboxKey,
    pub target: String,
    pub subject: String,
    pub body: String,
    pub delivering: Delivering,
    pub at: Timestamp,
    pub expires_at: Timestamp,
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendFailure {
    /// Again, not before then. For `AtMostOnce` only where it is certain that nothing arrived.
    Again { next_at: Timestamp },
    /// The target will never take it.
    Refused,
    /// It may have arrived. For `AtMostOnce` only.
    Unconfirmed,
}
