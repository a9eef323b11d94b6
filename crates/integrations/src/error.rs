//! The error of these services. Callers wait and try again whatever it was, so there is one kind, with its cause.

use std::error::Error as _;

pub type Result<T, E = Error> = std::result::Result<T, E>;
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
#[error("could not {operation} {subject}")]
pub struct Error {
    operation: &'static str,
    subject: String,
    #[source]
    source: BoxError,
}

impl Error {
    pub fn new(operation: &'static str, subject: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self { operation, subject: subject.into(), source: source.into() }
    }
}

/// The error and its causes in one line.
pub fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// How a service that is told something refuses; what follows differs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nothing was done; another try may go through.
    #[error("{0}")]
    Unavailable(String),
    /// It will never be done as it is.
    #[error("{0}")]
    Refused(String),
    /// It may have been done.
    #[error("{0}")]
    Unknown(String),
}
