//! The packets of SFTP version 3: requests to bytes, bytes to replies. Everything read here was written by the
//! peer: a length is compared with what is there before it is used, and a string is a slice, never an allocation.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::error::StatusError;

/// Largest packet taken from a server: a read of 256 KiB and its header.
pub(super) const MAX_PACKET: usize = 256 * 1024 + 1024;
/// The protocol's own limit for handles.
const MAX_HANDLE: usize = 256;
/// What is kept of a server's explanation.
const MAX_MESSAGE: usize = 1024;
/// A payload up to this size travels in one buffer with its header, so that one SSH packet of 32 KiB holds both.
const JOINED: usize = 32_704;

pub(super) const READ: u32 = 1;
pub(super) const WRITE: u32 = 2;
pub(super) const CREATE: u32 = 8;
pub(super) const TRUNCATE: u32 = 16;
pub(super) const EXCLUSIVE: u32 = 32;

const ATTRIBUTE_SIZE: u32 = 1;
const ATTRIBUTE_OWNER: u32 = 2;
const ATTRIBUTE_PERMISSIONS: u32 = 4;
const ATTRIBUTE_TIMES: u32 = 8;
const ATTRIBUTE_EXTENDED: u32 = 0x8000_0000;

const INIT: u8 = 1;
const VERSION: u8 = 2;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;
const EXTENDED: u8 = 200;
const EXTENDED_REPLY: u8 = 201;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("a packet of {0} bytes was announced; at most {MAX_PACKET} are allowed")]
    TooLong(u32),
    #[error("the server sent text where SFTP should begin: {0:?}; a login script may be printing")]
    Text(String),
    #[error("a packet ends before its {0}")]
    Short(&'static str),
    #[error("a handle of {0} bytes; 1 to {MAX_HANDLE} are allowed")]
    Handle(usize),
    #[error("a reply of type {0}, which no request asks for")]
    Kind(u8),
    #[error("the first packet is of type {0}, not VERSION")]
    NotVersion(u8),
}

/// What a file is, as far as the server says, and what we ask it to set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub size: Option<u64>,
    pub permissions: Option<u32>,
    /// Access and modification time, in seconds since 1970.
    pub times: Option<(u32, u32)>,
}

impl Attributes {
    pub fn is_directory(&self) -> bool {
        self.permissions.is_some_and(|mode| mode & 0o170_000 == 0o040_000)
    }

    fn encode(&self, out: &mut BytesMut) {
        let mut flags = 0;
        for (set, flag) in [
            (self.size.is_some(), ATTRIBUTE_SIZE),
            (self.permissions.is_some(), ATTRIBUTE_PERMISSIONS),
            (self.times.is_some(), ATTRIBUTE_TIMES),
        ] {
            if set {
                flags |= flag;
            }
        }
        out.put_u32(flags);
        if let Some(size) = self.size {
            out.put_u64(size);
        }
        if let Some(permissions) = self.permissions {
            out.put_u32(permissions);
        }
        if let Some((accessed, modified)) = self.times {
            out.put_u32(accessed);
            out.put_u32(modified);
        }
    }
}

/// One message on its way: the payload follows the header without being copied into it.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub header: Bytes,
    pub payload: Bytes,
}

#[derive(Debug, Clone)]
pub(super) enum Request<'a> {
    Open { path: &'a str, flags: u32, attributes: Attributes },
    Close { handle: &'a Bytes },
    Read { handle: &'a Bytes, offset: u64, length: u32 },
    Write { handle: &'a Bytes, offset: u64, data: Bytes },
    Stat { path: &'a str },
    StatHandle { handle: &'a Bytes },
    SetAttributes { path: &'a str, attributes: Attributes },
    SetHandleAttributes { handle: &'a Bytes, attributes: Attributes },
    OpenDirectory { path: &'a str },
    ReadDirectory { handle: &'a Bytes },
    Remove { path: &'a str },
    MakeDirectory { path: &'a str },
    RemoveDirectory { path: &'a str },
    RealPath { path: &'a str },
    Rename { from: &'a str, to: &'a str },
    PosixRename { from: &'a str, to: &'a str },
    FileSystem { path: &'a str },
    Sync { handle: &'a Bytes },
    Limits,
    CheckFile { path: &'a str, algorithm: &'a str },
}

impl Request<'_> {
    pub fn encode(&self, id: u32) -> Outgoing {
        let mut out = BytesMut::with_capacity(match self {
            Self::Write { handle, data, .. } if data.len() <= JOINED => 32 + handle.len() + data.len(),
            _ => 128,
        });
        let mut payload = Bytes::new();
        out.put_u32(0);
        out.put_u8(self.kind());
        out.put_u32(id);
        match self {
            Self::Open { path, flags, attributes } => {
                put_string(&mut out, path.as_bytes());
                out.put_u32(*flags);
                attributes.encode(&mut out);
            }
            Self::Close { handle } | Self::StatHandle { handle } | Self::ReadDirectory { handle } => put_string(&mut out, handle),
            Self::Read { handle, offset, length } => {
                put_string(&mut out, handle);
                out.put_u64(*offset);
                out.put_u32(*length);
            }
            Self::Write { handle, offset, data } => {
                put_string(&mut out, handle);
                out.put_u64(*offset);
                out.put_u32(data.len() as u32);
                if data.len() <= JOINED { out.extend_from_slice(data) } else { payload = data.clone() }
            }
            Self::Stat { path }
            | Self::OpenDirectory { path }
            | Self::Remove { path }
            | Self::RemoveDirectory { path }
            | Self::RealPath { path } => put_string(&mut out, path.as_bytes()),
            Self::MakeDirectory { path } => {
                put_string(&mut out, path.as_bytes());
                Attributes::default().encode(&mut out);
            }
            Self::SetAttributes { path, attributes } => {
                put_string(&mut out, path.as_bytes());
                attributes.encode(&mut out);
            }
            Self::SetHandleAttributes { handle, attributes } => {
                put_string(&mut out, handle);
                attributes.encode(&mut out);
            }
            Self::Rename { from, to } => {
                put_string(&mut out, from.as_bytes());
                put_string(&mut out, to.as_bytes());
            }
            Self::PosixRename { from, to } => {
                put_string(&mut out, b"posix-rename@openssh.com");
                put_string(&mut out, from.as_bytes());
                put_string(&mut out, to.as_bytes());
            }
            Self::FileSystem { path } => {
                put_string(&mut out, b"statvfs@openssh.com");
                put_string(&mut out, path.as_bytes());
            }
            Self::Sync { handle } => {
                put_string(&mut out, b"fsync@openssh.com");
                put_string(&mut out, handle);
            }
            Self::Limits => put_string(&mut out, b"limits@openssh.com"),
            Self::CheckFile { path, algorithm } => {
                put_string(&mut out, b"check-file-name");
                put_string(&mut out, path.as_bytes());
                put_string(&mut out, algorithm.as_bytes());
                // From the beginning to the end, as one block.
                out.put_u64(0);
                out.put_u64(0);
                out.put_u32(0);
            }
        }
        let length = (out.len() - 4 + payload.len()) as u32;
        out[..4].copy_from_slice(&length.to_be_bytes());
        Outgoing { header: out.freeze(), payload }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Open { .. } => 3,
            Self::Close { .. } => 4,
            Self::Read { .. } => 5,
            Self::Write { .. } => 6,
            Self::StatHandle { .. } => 8,
            Self::SetAttributes { .. } => 9,
            Self::SetHandleAttributes { .. } => 10,
            Self::OpenDirectory { .. } => 11,
            Self::ReadDirectory { .. } => 12,
            Self::Remove { .. } => 13,
            Self::MakeDirectory { .. } => 14,
            Self::RemoveDirectory { .. } => 15,
            Self::RealPath { .. } => 16,
            Self::Stat { .. } => 17,
            Self::Rename { .. } => 18,
            Self::PosixRename { .. } | Self::FileSystem { .. } | Self::Sync { .. } | Self::Limits | Self::CheckFile { .. } => EXTENDED,
        }
    }
}

pub(super) fn init() -> Bytes {
    Bytes::from_static(&[0, 0, 0, 5, INIT, 0, 0, 0, 3])
}

fn put_string(out: &mut BytesMut, text: &[u8]) {
    out.put_u32(text.len() as u32);
    out.extend_from_slice(text);
}

/// A name in a directory, as raw as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub name: Bytes,
    pub attributes: Attributes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Status(StatusError),
    Handle(Bytes),
    Data(Bytes),
    Names(Vec<Name>),
    Attributes(Attributes),
    Extended(Fields),
}

impl Reply {
    /// The request id and the reply in `packet` (without its length).
    pub fn decode(packet: Bytes) -> Result<(u32, Self), Malformed> {
        let mut fields = Fields(packet);
        let kind = fields.u8("type")?;
        let id = fields.u32("id")?;
        let reply = match kind {
            STATUS => {
                let code = fields.u32("status code")?;
                // Some servers leave out the text, which version 3 asks for.
                let text = if fields.0.has_remaining() { fields.string("status text")? } else { Bytes::new() };
                let message = String::from_utf8_lossy(&text[..text.len().min(MAX_MESSAGE)]).into_owned();
                Self::Status(StatusError { code, message })
            }
            HANDLE => {
                let handle = fields.string("handle")?;
                if handle.is_empty() || handle.len() > MAX_HANDLE {
                    return Err(Malformed::Handle(handle.len()));
                }
                // A copy, so that a small handle does not keep a large buffer alive.
                Self::Handle(Bytes::copy_from_slice(&handle))
            }
            DATA => Self::Data(fields.string("data")?),
            NAME => {
                let count = fields.u32("count")?;
                // The smallest entry has 12 bytes, so the packet bounds the list.
                let mut names = Vec::with_capacity((count as usize).min(fields.0.len() / 12));
                for _ in 0..count {
                    let name = fields.string("name")?;
                    fields.string("long name")?;
                    names.push(Name { name, attributes: fields.attributes()? });
                }
                Self::Names(names)
            }
            ATTRS => Self::Attributes(fields.attributes()?),
            EXTENDED_REPLY => Self::Extended(fields),
            other => return Err(Malformed::Kind(other)),
        };
        Ok((id, reply))
    }
}

/// What a server says of itself in its first packet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Version {
    pub number: u32,
    pub posix_rename: bool,
    pub statvfs: bool,
    pub fsync: bool,
    pub hardlink: bool,
    pub limits: bool,
    pub check_file: bool,
}

impl Version {
    pub fn decode(packet: Bytes) -> Result<Self, Malformed> {
        let mut fields = Fields(packet);
        let kind = fields.u8("type")?;
        if kind != VERSION {
            return Err(Malformed::NotVersion(kind));
        }
        let mut version = Self { number: fields.u32("version")?, ..Self::default() };
        while fields.0.has_remaining() {
            let name = fields.string("extension name")?;
            let data = fields.string("extension data")?;
            match (&name[..], &data[..]) {
                (b"posix-rename@openssh.com", b"1") => version.posix_rename = true,
                (b"statvfs@openssh.com", b"2") => version.statvfs = true,
                (b"fsync@openssh.com", b"1") => version.fsync = true,
                (b"hardlink@openssh.com", b"1") => version.hardlink = true,
                (b"limits@openssh.com", b"1") => version.limits = true,
                (b"check-file", _) => version.check_file = true,
                _ => {}
            }
        }
        Ok(version)
    }
}

/// The answer to `limits@openssh.com`; 0 is "not said".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Limits {
    pub packet: u64,
    pub read: u64,
    pub write: u64,
    pub handles: u64,
}

/// The answer to `statvfs@openssh.com`, as far as it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileSystem {
    pub free: u64,
    pub files: u64,
    pub free_files: u64,
    pub read_only: bool,
}

/// A packet that is read from the front. Every read says what it looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fields(pub Bytes);

impl Fields {
    fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        self.0.try_get_u8().map_err(|_| Malformed::Short(what))
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        self.0.try_get_u32().map_err(|_| Malformed::Short(what))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        self.0.try_get_u64().map_err(|_| Malformed::Short(what))
    }

    fn string(&mut self, what: &'static str) -> Result<Bytes, Malformed> {
        let length = self.u32(what)? as usize;
        if length > self.0.len() {
            return Err(Malformed::Short(what));
        }
        Ok(self.0.split_to(length))
    }

    fn attributes(&mut self) -> Result<Attributes, Malformed> {
        let flags = self.u32("attributes")?;
        let mut attributes = Attributes::default();
        if flags & ATTRIBUTE_SIZE != 0 {
            attributes.size = Some(self.u64("size")?);
        }
        if flags & ATTRIBUTE_OWNER != 0 {
            self.u64("owner")?;
        }
        if flags & ATTRIBUTE_PERMISSIONS != 0 {
            attributes.permissions = Some(self.u32("permissions")?);
        }
        if flags & ATTRIBUTE_TIMES != 0 {
            attributes.times = Some((self.u32("access time")?, self.u32("modification time")?));
        }
        if flags & ATTRIBUTE_EXTENDED != 0 {
            for _ in 0..self.u32("count of extended attributes")? {
                self.string("extended attribute")?;
                self.string("extended attribute")?;
            }
        }
        Ok(attributes)
    }

    pub fn limits(mut self) -> Result<Limits, Malformed> {
        Ok(Limits { packet: self.u64("limits")?, read: self.u64("limits")?, write: self.u64("limits")?, handles: self.u64("limits")? })
    }

    pub fn file_system(mut self) -> Result<FileSystem, Malformed> {
        let mut field = [0; 11];
        for value in &mut field {
            *value = self.u64("file system")?;
        }
        let [_, fragment, _, _, available, files, _, free_files, _, flags, _] = field;
        Ok(FileSystem { free: available.saturating_mul(fragment), files, free_files, read_only: flags & 1 != 0 })
    }

    /// The digest in an answer to `check-file-name`, when it was made with `algorithm`.
    pub fn check_file(mut self, algorithm: &str) -> Result<Option<Bytes>, Malformed> {
        let mut used = self.string("hash algorithm")?;
        // Drafts differ: some servers repeat the name of the extension first.
        if used.starts_with(b"check-file") {
            used = self.string("hash algorithm")?;
        }
        Ok(used.eq_ignore_ascii_case(algorithm.as_bytes()).then_some(self.0))
    }
}

/// Cuts the stream of a channel into packets. A packet that lies within one chunk is not copied.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    /// The beginning of a packet whose end has not come yet; never more than one packet.
    partial: BytesMut,
    chunk: Bytes,
    begun: bool,
}

impl Assembler {
    /// Must be called only after `next` has returned `None`.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty());
        self.chunk = chunk;
    }

    pub fn next(&mut self) -> Result<Option<Bytes>, Malformed> {
        if self.partial.is_empty() && self.chunk.len() >= 4 {
            let length = self.length([self.chunk[0], self.chunk[1], self.chunk[2], self.chunk[3]])?;
            if self.chunk.len() >= 4 + length {
                self.chunk.advance(4);
                return Ok(Some(self.chunk.split_to(length)));
            }
        }
        self.take_until(4);
        if self.partial.len() < 4 {
            return Ok(None);
        }
        let length = self.length([self.partial[0], self.partial[1], self.partial[2], self.partial[3]])?;
        self.take_until(4 + length);
        if self.partial.len() < 4 + length {
            return Ok(None);
        }
        self.partial.advance(4);
        Ok(Some(self.partial.split().freeze()))
    }

    fn take_until(&mut self, wanted: usize) {
        let missing = wanted.saturating_sub(self.partial.len());
        if missing > 0 && self.chunk.has_remaining() {
            self.partial.reserve(missing);
            let part = self.chunk.split_to(missing.min(self.chunk.len()));
            self.partial.extend_from_slice(&part);
        }
    }

    fn length(&mut self, head: [u8; 4]) -> Result<usize, Malformed> {
        let length = u32::from_be_bytes(head);
        if length as usize > MAX_PACKET {
            // Four printable bytes at the very beginning are a greeting, not a length.
            if !self.begun && head.iter().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) {
                let mut text = self.partial.to_vec();
                text.extend_from_slice(&self.chunk[..self.chunk.len().min(80)]);
                return Err(Malformed::Text(String::from_utf8_lossy(&text).into_owned()));
            }
            return Err(Malformed::TooLong(length));
        }
        if length == 0 {
            return Err(Malformed::Short("type"));
        }
        self.begun = true;
        Ok(length as usize)
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
