//! The two tickets of every approved transfer.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which of the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TicketKind {
    /// Follows the delivery for whoever asked for it.
    User,
    /// Closed at the end, for whoever looks back.
    Audit,
}

impl TicketKind {
    pub const ALL: &'static [Self] = &[Self::User, Self::Audit];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Audit => "audit",
        }
    }

    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == word)
    }
}

impl fmt::Display for TicketKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
