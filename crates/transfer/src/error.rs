//! The one error of this crate: a class that callers act on, the operation, its subject, the cause.

use std::fmt;

pub use model::ErrorClass as ErrorKind;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an operation was about. It is always shown with control characters escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    Path(String),
    Object(String),
    Server(String),
    Account(String),
    Setting(String),
    /// Our own records, which cannot be written or read at this time. It concerns every file, and none is to blame.
    Records,
    Nothing,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(s) | Self::Object(s) | Self::Server(s) | Self::Account(s) | Self::Setting(s) => f.write_str(&model::escape_name(s)),
            Self::Records | Self::Nothing => Ok(()),
        }
    }
}

impl From<&model::RemotePath> for Subject {
    fn from(path: &model::RemotePath) -> Self {
        Self::Path(path.as_str().to_owned())
    }
}

impl From<&model::ObjectKey> for Subject {
    fn from(key: &model::ObjectKey) -> Self {
        Self::Object(key.as_str().to_owned())
    }
}

/// `could not OPERATION SUBJECT`; the cause is the source. `kind` decides what happens next.
#[derive(Debug)]
pub struct Error {
    pub kind: ErrorKind,
    operation: &'static str,
    subject: Subject,
    /// The connection it happened on can serve no further request.
    connection_lost: bool,
    /// It was already tried as often as makes sense.
    exhausted: bool,
    source: Option<BoxError>,
}

impl Error {
    pub fn new(kind: ErrorKind, operation: &'static str, subject: impl Into<Subject>) -> Self {
        Self { kind, operation, subject: subject.into(), connection_lost: false, exhausted: false, source: None }
    }

    pub fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Marks that the connection is gone, whatever the class says about the request.
    pub fn on_lost_connection(mut self) -> Self {
        self.connection_lost = true;
        self
    }

    pub fn is_connection_lost(&self) -> bool {
        self.connection_lost
    }

    /// Marks that trying again was tried.
    pub fn exhausted(mut self) -> Self {
        self.exhausted = true;
        self
    }

    pub fn is_retryable(&self) -> bool {
        self.kind.is_retryable() && !self.exhausted
    }

    pub fn operation(&self) -> &'static str {
        self.operation
    }

    pub fn subject(&self) -> &Subject {
        &self.subject
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Subject::Records | Subject::Nothing => write!(f, "could not {}", self.operation),
            subject => write!(f, "could not {} {subject}", self.operation),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

impl From<model::NameError> for Error {
    fn from(error: model::NameError) -> Self {
        Self::new(ErrorKind::DestNameInvalid, "use the name", Subject::Nothing).because(error)
    }
}

/// An error and its causes in one line: `could not write /in/a: connection reset`.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    model::escape_name(&text)
}
