//! From what a server answers to the class that callers act on. Codes that mean several things stay ambiguous
//! here; `probe` looks at the server to tell them apart.

use std::fmt;
use std::sync::Arc;

use crate::error::BoxError;
use crate::{Error, ErrorKind, Subject};

pub(super) const OK: u32 = 0;
pub(super) const EOF: u32 = 1;
pub(super) const NO_SUCH_FILE: u32 = 2;
pub(super) const PERMISSION_DENIED: u32 = 3;
pub(super) const FAILURE: u32 = 4;
pub(super) const BAD_MESSAGE: u32 = 5;
pub(super) const NO_CONNECTION: u32 = 6;
pub(super) const CONNECTION_LOST: u32 = 7;
pub(super) const OP_UNSUPPORTED: u32 = 8;

/// A refusal in the server's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusError {
    pub code: u32,
    pub message: String,
}

impl StatusError {
    fn name(&self) -> &'static str {
        match self.code {
            OK => "OK",
            EOF => "EOF",
            NO_SUCH_FILE => "NO_SUCH_FILE",
            PERMISSION_DENIED => "PERMISSION_DENIED",
            FAILURE => "FAILURE",
            BAD_MESSAGE => "BAD_MESSAGE",
            NO_CONNECTION => "NO_CONNECTION",
            CONNECTION_LOST => "CONNECTION_LOST",
            OP_UNSUPPORTED => "OP_UNSUPPORTED",
            _ => "status",
        }
    }

    /// The class, where code and text decide it alone. `None`: the reason must be looked for.
    pub(super) fn class(&self) -> Option<ErrorKind> {
        // Codes above 8 belong to later versions of the protocol; servers send them in version 3 too.
        match self.code {
            NO_SUCH_FILE | 10 | 19 => Some(ErrorKind::DestDirMissing),
            PERMISSION_DENIED | 12 | 22 => Some(ErrorKind::DestDenied),
            11 => Some(ErrorKind::DestExists),
            14 | 15 => Some(ErrorKind::DestNoSpace),
            20 => Some(ErrorKind::DestNameInvalid),
            NO_CONNECTION | CONNECTION_LOST => Some(ErrorKind::NetworkReset),
            OP_UNSUPPORTED => Some(ErrorKind::DestProtocol),
            _ if self.speaks_of_space() => Some(ErrorKind::DestNoSpace),
            _ => None,
        }
    }

    fn speaks_of_space(&self) -> bool {
        let text = self.message.to_ascii_lowercase();
        ["no space", "disk full", "quota", "not enough space", "insufficient space", "insufficient disk", "out of space"]
            .iter()
            .any(|phrase| text.contains(phrase))
    }
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server answered {} ({})", self.name(), self.code)?;
        if self.message.is_empty() { Ok(()) } else { write!(f, ": {}", model::escape_name(&self.message)) }
    }
}

impl std::error::Error for StatusError {}

/// Why a session serves no further request. Every waiter gets a copy.
#[derive(Debug, Clone)]
pub(super) struct Lost {
    pub kind: ErrorKind,
    text: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Lost {
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), source: None }
    }

    pub fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    pub fn protocol(source: impl Into<BoxError>) -> Self {
        Self::new(ErrorKind::DestProtocol, "the server broke the SFTP protocol").because(source)
    }

    pub fn reset(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::NetworkReset, text)
    }

    pub fn into_error(self, operation: &'static str, subject: impl Into<Subject>) -> Error {
        Error::new(self.kind, operation, subject).because(self).on_lost_connection()
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&model::escape_name(&self.text))
    }
}

impl std::error::Error for Lost {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

/// Why one request did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    Status(StatusError),
    Lost(Lost),
}

impl Failure {
    pub fn code(&self) -> Option<u32> {
        match self {
            Self::Status(status) => Some(status.code),
            Self::Lost(_) => None,
        }
    }

    /// The error, with `ambiguous` as the class where the answer alone does not tell.
    pub fn into_error(self, operation: &'static str, subject: impl Into<Subject>, ambiguous: ErrorKind) -> Error {
        match self {
            Self::Lost(lost) => lost.into_error(operation, subject),
            Self::Status(status) => {
                let error = Error::new(status.class().unwrap_or(ambiguous), operation, subject);
                let lost = matches!(status.code, NO_CONNECTION | CONNECTION_LOST);
                let error = error.because(status);
                if lost { error.on_lost_connection() } else { error }
            }
        }
    }
}

impl From<Lost> for Failure {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

impl From<StatusError> for Failure {
    fn from(status: StatusError) -> Self {
        Self::Status(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u32, message: &str) -> StatusError {
        StatusError { code, message: message.to_owned() }
    }

    #[test]
    fn a_failure_without_words_stays_ambiguous() {
        assert_eq!(status(FAILURE, "Failure").class(), None);
        assert_eq!(status(FAILURE, "Disk quota exceeded").class(), Some(ErrorKind::DestNoSpace));
        assert_eq!(status(FAILURE, "No space left on device").class(), Some(ErrorKind::DestNoSpace));
        assert_eq!(status(PERMISSION_DENIED, "").class(), Some(ErrorKind::DestDenied));
    }

    #[test]
    fn the_servers_words_are_kept_and_escaped() {
        let error =
            Failure::Status(status(FAILURE, "no\u{1b}[2J")).into_error("write", Subject::Path("/a".into()), ErrorKind::DestProtocol);
        let text = crate::error::chain(&error);
        assert_eq!(text, "could not write /a: the server answered FAILURE (4): no\\u{1b}[2J");
        assert!(!error.is_connection_lost());
    }

    #[test]
    fn a_server_that_lost_its_own_connection_is_a_lost_connection() {
        let error = Failure::Status(status(CONNECTION_LOST, "")).into_error("write", Subject::Nothing, ErrorKind::DestProtocol);
        assert_eq!(error.kind, ErrorKind::NetworkReset);
        assert!(error.is_connection_lost());
    }
}
