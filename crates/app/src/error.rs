//! The error of the use cases: a class for the user, one line with causes, and a better next step where there is one.

use model::ErrorClass;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request was turned away before anything happened. Doors make a status of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It can never be carried out as it is.
    Invalid,
    /// What it names does not exist, or is not for this caller to see.
    Unknown,
    /// It does not fit what is there now.
    Conflict,
    /// This caller may not.
    Denied,
    /// The records cannot be written or read at this time: nothing is wrong with what was asked for.
    NotNow,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub class: ErrorClass,
    pub message: String,
    pub next: Option<String>,
    /// Another process works on the same thing.
    pub held_by: Option<u32>,
    pub refusal: Option<Refusal>,
}

impl Error {
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), next: None, held_by: None, refusal: None }
    }

    /// A request that says something that cannot be; `field` is its place in the request.
    pub fn invalid(field: &str, why: impl std::fmt::Display) -> Self {
        Self::refused(Refusal::Invalid, format!("{field}: {why}")).next("correct the request")
    }

    pub fn unknown(what: &str, name: impl std::fmt::Display) -> Self {
        Self::refused(Refusal::Unknown, format!("there is no {what} {name}"))
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self::refused(Refusal::Conflict, message)
    }

    pub fn denied(message: impl Into<String>) -> Self {
        let error = Self::new(ErrorClass::PolicyDenied, message);
        Self { refusal: Some(Refusal::Denied), ..error }
    }

    fn refused(refusal: Refusal, message: impl Into<String>) -> Self {
        Self { refusal: Some(refusal), ..Self::new(ErrorClass::Internal, message) }
    }

    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}

impl From<transfer::Error> for Error {
    fn from(error: transfer::Error) -> Self {
        let refusal = (*error.subject() == transfer::Subject::Records).then_some(Refusal::NotNow);
        Self { refusal, ..Self::new(error.kind, transfer::error::chain(&error)) }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        let class = match error.kind {
            store::ErrorKind::LeaseLost => ErrorClass::LeaseLost,
            _ => ErrorClass::Internal,
        };
        let refusal = is_for_now(&error).then_some(Refusal::NotNow);
        Self { refusal, ..Self::new(class, transfer::error::chain(&error)) }.next(error.kind.next_step())
    }
}

/// A disk that is full or read-only, a file that is locked: whoever mends it does so from outside.
fn is_for_now(error: &store::Error) -> bool {
    error.is_retryable() || error.kind == store::ErrorKind::ReadOnly
}

/// A store's failure as the engine sees it: a lost lease stops it, anything else is ours.
pub(crate) fn to_engine(operation: &'static str, error: store::Error) -> transfer::Error {
    let kind = match error.kind {
        store::ErrorKind::LeaseLost => ErrorClass::LeaseLost,
        _ => ErrorClass::Internal,
    };
    let subject = if is_for_now(&error) { transfer::Subject::Records } else { transfer::Subject::Nothing };
    transfer::Error::new(kind, operation, subject).because(error)
}

/// The same for an error that has passed a use case.
pub(crate) fn through_engine(operation: &'static str, error: Error) -> transfer::Error {
    let for_now = error.refusal == Some(Refusal::NotNow);
    let subject = if for_now { transfer::Subject::Records } else { transfer::Subject::Nothing };
    transfer::Error::new(error.class, operation, subject).because(error)
}

/// Why a store turned something away, without repeating what was to be done.
pub(crate) fn cause(error: &store::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}
