//! What a client asked for, as tests see it, and what a test may answer in the server's place.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::wire::{self, Attributes};

/// Paths are absolute, normalised, as the client sees them; bytes that are not UTF-8 are shown lossily.
/// Operations on a handle carry the path it was opened with, `?` for a handle that was never given out.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    Open {
        path: Arc<str>,
        flags: u32,
        attributes: Attributes,
    },
    Close {
        path: Arc<str>,
    },
    Read {
        path: Arc<str>,
        offset: u64,
        length: u32,
    },
    Write {
        path: Arc<str>,
        offset: u64,
        length: usize,
    },
    /// STAT, LSTAT and FSTAT.
    Stat {
        path: Arc<str>,
    },
    /// SETSTAT and FSETSTAT.
    SetStat {
        path: Arc<str>,
        attributes: Attributes,
    },
    OpenDirectory {
        path: Arc<str>,
    },
    ReadDirectory {
        path: Arc<str>,
    },
    Remove {
        path: Arc<str>,
    },
    MakeDirectory {
        path: Arc<str>,
    },
    RemoveDirectory {
        path: Arc<str>,
    },
    RealPath {
        path: Arc<str>,
    },
    ReadLink {
        path: Arc<str>,
    },
    Rename {
        from: Arc<str>,
        to: Arc<str>,
    },
    PosixRename {
        from: Arc<str>,
        to: Arc<str>,
    },
    HardLink {
        from: Arc<str>,
        to: Arc<str>,
    },
    Sync {
        path: Arc<str>,
    },
    FreeSpace {
        path: Arc<str>,
    },
    Limits,
    /// A request that this server does not know.
    Unknown {
        name: String,
    },
}

impl Operation {
    /// The name it is about; the new one for renames.
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::Open { path, .. }
            | Self::Close { path }
            | Self::Read { path, .. }
            | Self::Write { path, .. }
            | Self::Stat { path }
            | Self::SetStat { path, .. }
            | Self::OpenDirectory { path }
            | Self::ReadDirectory { path }
            | Self::Remove { path }
            | Self::MakeDirectory { path }
            | Self::RemoveDirectory { path }
            | Self::RealPath { path }
            | Self::ReadLink { path }
            | Self::Sync { path }
            | Self::FreeSpace { path } => Some(path),
            Self::Rename { to, .. } | Self::PosixRename { to, .. } | Self::HardLink { to, .. } => Some(to),
            Self::Limits | Self::Unknown { .. } => None,
        }
    }

    pub fn is_write(&self) -> bool {
        matches!(self, Self::Write { .. })
    }

    pub fn is_rename(&self) -> bool {
        matches!(self, Self::Rename { .. } | Self::PosixRename { .. })
    }

    /// Opens for writing.
    pub fn is_open_to_write(&self) -> bool {
        matches!(self, Self::Open { flags, .. } if flags & wire::OPEN_WRITE != 0)
    }
}

/// What a hook decides about an operation.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// As if the hook were not there.
    Proceed,
    /// This status, nothing done.
    Status(u32, String),
    /// The connection is cut before anything is done.
    Disconnect,
    /// Done, then the connection is cut instead of an answer: the unknown outcome.
    DoneThenDisconnect,
    /// The channel does nothing else for so long, then proceeds.
    Delay(Duration),
    /// Answered OK, nothing done.
    AckButDrop,
    /// Done, never answered.
    Silent,
    /// Neither done nor answered.
    Ignore,
    /// These bytes instead of an answer, with their own length field, whatever they are; nothing done.
    Raw(Bytes),
}

impl Verdict {
    /// A status with the text that OpenSSH gives it.
    pub fn status(code: u32) -> Self {
        Self::Status(code, wire::text_of(code).to_owned())
    }
}

/// A file's name appeared or went. Told after it happened and before the client is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameEvent {
    pub kind: NameEventKind,
    pub path: Arc<str>,
    /// The file on the disk of the sandbox, to look at its content.
    pub file: std::path::PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameEventKind {
    Created,
    /// The name was there and its content was thrown away.
    Emptied,
    RenamedFrom(Arc<str>),
    LinkedFrom(Arc<str>),
    Removed,
}
