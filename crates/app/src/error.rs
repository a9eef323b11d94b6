//! The error of the use cases: a class for the user, one line with causes, and a better next step where there is one.

use model::ErrorClass;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub class: ErrorClass,
    pub message: String,
    pub next: Option<String>,
    /// Another process works on the same thing.
    pub held_by: Option<u32>,
}

impl Error {
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), next: None, held_by: None }
    }

    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}

impl From<transfer::Error> for Error {
    fn from(error: transfer::Error) -> Self {
        Self::new(error.kind, transfer::error::chain(&error))
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        let class = match error.kind {
            store::ErrorKind::LeaseLost => ErrorClass::LeaseLost,
            _ => ErrorClass::Internal,
        };
        Self::new(class, transfer::error::chain(&error)).next(error.kind.next_step())
    }
}

/// A store's failure as the engine sees it: a lost lease stops it, anything else is ours.
pub(crate) fn to_engine(operation: &'static str, error: store::Error) -> transfer::Error {
    let kind = match error.kind {
        store::ErrorKind::LeaseLost => ErrorClass::LeaseLost,
        _ => ErrorClass::Internal,
    };
    transfer::Error::new(kind, operation, transfer::Subject::Nothing).because(error)
}
