//! Object keys: any text that S3 allows. A key is not a path; `RemotePath::resolve` is the way from one to the other.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An S3 object key, or the path of a local file below the directory that was named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ObjectKey(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectKeyError {
    #[error("an object key must not be empty")]
    Empty,
    #[error("the key is {0} bytes long; S3 allows at most 1024")]
    TooLong(usize),
}

impl ObjectKey {
    /// S3's limit in bytes of UTF-8 (Amazon S3 User Guide, "Naming Amazon S3 objects").
    pub const MAX_BYTES: usize = 1024;

    pub fn new(text: impl Into<String>) -> Result<Self, ObjectKeyError> {
        let text = text.into();
        match text.len() {
            0 => Err(ObjectKeyError::Empty),
            n if n > Self::MAX_BYTES => Err(ObjectKeyError::TooLong(n)),
            _ => Ok(Self(text)),
        }
    }

    /// The path of a local file; it may be longer than an S3 key.
    pub fn local(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Keys that end in `/` mark a folder in consoles; they hold no file.
    pub fn is_folder_marker(&self) -> bool {
        self.0.ends_with('/')
    }
}

impl fmt::Display for ObjectKey {
    /// Control characters are escaped, so that a key cannot forge a log line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::escape_name(&self.0))
    }
}
