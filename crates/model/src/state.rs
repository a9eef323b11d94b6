//! States of a transfer and of its files (TE23 is a subset), of executions and of tickets.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! states {
    ($(#[$meta:meta])* $type:ident { $($variant:ident $word:literal $terminal:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $type { $(#[serde(rename = $word)] $variant,)* }

        impl $type {
            pub const ALL: &'static [$type] = &[$(Self::$variant,)*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|s| s.as_str() == word)
            }

            /// Nothing more happens unless a person asks for it.
            pub fn is_terminal(self) -> bool {
                match self { $(Self::$variant => $terminal,)* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

states! {
    /// The state of one approved delivery.
    TransferState {
        Pending "pending" false,
        Held "held" false,
        InProgress "in_progress" false,
        Paused "paused" false,
        Completed "completed" true,
        CompletedWithErrors "completed_with_errors" true,
        Failed "failed" true,
        Cancelled "cancelled" true,
    }
}

states! {
    /// How an execution stands; the words are those of AWS.
    ExecutionStatus {
        Running "RUNNING" false,
        Succeeded "SUCCEEDED" true,
        Failed "FAILED" true,
        TimedOut "TIMED_OUT" true,
        Aborted "ABORTED" true,
    }
}

states! {
    /// The state of a ticket; the words are those that people see in their ticket system.
    TicketState {
        New "New" false,
        InProgress "In Progress" false,
        OnHold "On Hold" false,
        Resolved "Resolved" false,
        Closed "Closed" true,
        Canceled "Canceled" true,
    }
}

states! {
    /// The state of one file of a transfer.
    FileState {
        Pending "pending" false,
        InProgress "in_progress" false,
        Delivered "delivered" true,
        Unchanged "unchanged" true,
        Skipped "skipped" true,
        Collected "collected" true,
        Superseded "superseded" true,
        PublishPending "publish_pending" false,
        Held "held" false,
        Failed "failed" true,
    }
}

impl FileState {
    /// The destination holds, or has held, what the user asked for.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Delivered | Self::Unchanged | Self::Skipped | Self::Collected | Self::Superseded)
    }
}
