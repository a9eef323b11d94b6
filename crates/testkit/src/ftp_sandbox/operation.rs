//! What a client asked for, as tests see it, and what a test may do in the server's place.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::script::{DataStep, Step};

/// One command line, or the arrival of a connection (`CONNECT`, whose answer is the greeting). Bytes that are not UTF-8
/// are shown lossily, and the argument of PASS is `***`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Counted from 0 over all connections.
    pub number: u64,
    pub connection: u64,
    /// In capitals; with SITE its own command follows (`SITE CHMOD`).
    pub verb: String,
    pub argument: String,
    /// Absolute and normalised, for commands about a file or directory.
    pub path: Option<Arc<str>>,
}

impl Operation {
    pub fn is(&self, verb: &str) -> bool {
        self.verb == verb
    }
}

/// What a hook decides about an operation.
#[derive(Debug, Clone)]
pub enum Action {
    /// As if the hook were not there.
    Proceed,
    /// This answer, nothing done.
    Refuse(u16, String),
    /// Done, and then this answer instead of the right one.
    DoneThenRefuse(u16, String),
    /// The connection is closed before anything is done.
    Disconnect,
    /// Done, then the connection is closed instead of an answer: the unknown outcome.
    DoneThenDisconnect,
    /// Nothing else happens on this connection for so long, then it proceeds.
    Delay(Duration),
    /// Done, never answered.
    Silent,
    /// Neither done nor answered.
    Ignore,
    /// These bytes instead of an answer, whatever they are; nothing done.
    Raw(Bytes),
    /// Done, and then these bytes in place of the answer.
    DoneThenRaw(Bytes),
    /// Done and answered, and then these bytes that nobody asked for, in the same packet.
    DoneThenAlso(Bytes),
    /// These steps instead of an answer; nothing done.
    Steps(Vec<Step>),
    /// For commands with a data connection: it is opened as ever, with 150, then these steps run on it instead of the
    /// transfer, then 226.
    Data(Vec<DataStep>),
}

impl Action {
    /// 550 with some text.
    pub fn refuse() -> Self {
        Self::Refuse(550, "Refused by the sandbox".to_owned())
    }
}
