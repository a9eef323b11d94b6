//! SFTP version 3 as a server sees it: requests in, replies out. Written apart from the client's codec, from the
//! draft and OpenSSH's PROTOCOL file, so that one mistake cannot hide in both.

use bytes::{BufMut, Bytes, BytesMut};

pub const OK: u32 = 0;
pub const EOF: u32 = 1;
pub const NO_SUCH_FILE: u32 = 2;
pub const PERMISSION_DENIED: u32 = 3;
pub const FAILURE: u32 = 4;
pub const BAD_MESSAGE: u32 = 5;
pub const OP_UNSUPPORTED: u32 = 8;

pub const OPEN_READ: u32 = 1;
pub const OPEN_WRITE: u32 = 2;
pub const OPEN_APPEND: u32 = 4;
pub const OPEN_CREATE: u32 = 8;
pub const OPEN_TRUNCATE: u32 = 16;
pub const OPEN_EXCLUSIVE: u32 = 32;

const ATTRIBUTE_SIZE: u32 = 1;
const ATTRIBUTE_OWNER: u32 = 2;
const ATTRIBUTE_PERMISSIONS: u32 = 4;
const ATTRIBUTE_TIMES: u32 = 8;
const ATTRIBUTE_EXTENDED: u32 = 0x8000_0000;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    pub size: Option<u64>,
    pub owner: Option<(u32, u32)>,
    pub permissions: Option<u32>,
    /// Access and modification time, in seconds.
    pub times: Option<(u32, u32)>,
}

#[derive(Debug)]
pub(crate) enum Request {
    Initialise,
    Open { path: Bytes, flags: u32, attributes: Attributes },
    Close { handle: Bytes },
    Read { handle: Bytes, offset: u64, length: u32 },
    Write { handle: Bytes, offset: u64, data: Bytes },
    Stat { path: Bytes, follow: bool },
    StatHandle { handle: Bytes },
    SetStat { path: Bytes, attributes: Attributes },
    SetStatHandle { handle: Bytes, attributes: Attributes },
    OpenDirectory { path: Bytes },
    ReadDirectory { handle: Bytes },
    Remove { path: Bytes },
    MakeDirectory { path: Bytes, attributes: Attributes },
    RemoveDirectory { path: Bytes },
    RealPath { path: Bytes },
    Rename { from: Bytes, to: Bytes },
    ReadLink { path: Bytes },
    PosixRename { from: Bytes, to: Bytes },
    HardLink { from: Bytes, to: Bytes },
    Sync { handle: Bytes },
    FreeSpace { path: Bytes },
    FreeSpaceHandle { handle: Bytes },
    Limits,
    Extended { name: String },
    Unknown { kind: u8 },
}

/// A packet that does not hold what its type promises.
#[derive(Debug)]
pub(crate) struct Malformed;

struct Fields(Bytes);

impl Fields {
    fn u8(&mut self) -> Result<u8, Malformed> {
        if self.0.is_empty() {
            return Err(Malformed);
        }
        Ok(self.0.split_to(1)[0])
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        if self.0.len() < 4 {
            return Err(Malformed);
        }
        let field = self.0.split_to(4);
        Ok(u32::from_be_bytes([field[0], field[1], field[2], field[3]]))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from(self.u32()?) << 32 | u64::from(self.u32()?))
    }

    fn string(&mut self) -> Result<Bytes, Malformed> {
        let length = self.u32()? as usize;
        if self.0.len() < length {
            return Err(Malformed);
        }
        Ok(self.0.split_to(length))
    }

    fn attributes(&mut self) -> Result<Attributes, Malformed> {
        let flags = self.u32()?;
        let mut attributes = Attributes::default();
        if flags & ATTRIBUTE_SIZE != 0 {
            attributes.size = Some(self.u64()?);
        }
        if flags & ATTRIBUTE_OWNER != 0 {
            attributes.owner = Some((self.u32()?, self.u32()?));
        }
        if flags & ATTRIBUTE_PERMISSIONS != 0 {
            attributes.permissions = Some(self.u32()?);
        }
        if flags & ATTRIBUTE_TIMES != 0 {
            attributes.times = Some((self.u32()?, self.u32()?));
        }
        if flags & ATTRIBUTE_EXTENDED != 0 {
            for _ in 0..self.u32()? {
                self.string()?;
                self.string()?;
            }
        }
        Ok(attributes)
    }
}

/// The id and the request of one packet (without its length field). INIT has a version where the others have an id.
pub(crate) fn parse(packet: Bytes) -> Result<(u32, Request), Malformed> {
    let mut fields = Fields(packet);
    let kind = fields.u8()?;
    let id = fields.u32()?;
    let request = match kind {
        1 => Request::Initialise,
        3 => Request::Open { path: fields.string()?, flags: fields.u32()?, attributes: fields.attributes()? },
        4 => Request::Close { handle: fields.string()? },
        5 => Request::Read { handle: fields.string()?, offset: fields.u64()?, length: fields.u32()? },
        6 => Request::Write { handle: fields.string()?, offset: fields.u64()?, data: fields.string()? },
        7 => Request::Stat { path: fields.string()?, follow: false },
        8 => Request::StatHandle { handle: fields.string()? },
        9 => Request::SetStat { path: fields.string()?, attributes: fields.attributes()? },
        10 => Request::SetStatHandle { handle: fields.string()?, attributes: fields.attributes()? },
        11 => Request::OpenDirectory { path: fields.string()? },
        12 => Request::ReadDirectory { handle: fields.string()? },
        13 => Request::Remove { path: fields.string()? },
        14 => Request::MakeDirectory { path: fields.string()?, attributes: fields.attributes()? },
        15 => Request::RemoveDirectory { path: fields.string()? },
        16 => Request::RealPath { path: fields.string()? },
        17 => Request::Stat { path: fields.string()?, follow: true },
        18 => Request::Rename { from: fields.string()?, to: fields.string()? },
        19 => Request::ReadLink { path: fields.string()? },
        200 => match &*fields.string()? {
            b"posix-rename@openssh.com" => Request::PosixRename { from: fields.string()?, to: fields.string()? },
            b"hardlink@openssh.com" => Request::HardLink { from: fields.string()?, to: fields.string()? },
            b"fsync@openssh.com" => Request::Sync { handle: fields.string()? },
            b"statvfs@openssh.com" => Request::FreeSpace { path: fields.string()? },
            b"fstatvfs@openssh.com" => Request::FreeSpaceHandle { handle: fields.string()? },
            b"limits@openssh.com" => Request::Limits,
            name => Request::Extended { name: String::from_utf8_lossy(name).into_owned() },
        },
        kind => Request::Unknown { kind },
    };
    Ok((id, request))
}

/// One reply, with its length field written last.
#[derive(Debug)]
pub(crate) struct Reply(BytesMut);

impl Reply {
    fn new(kind: u8, id: u32, room: usize) -> Self {
        let mut bytes = BytesMut::with_capacity(room + 16);
        bytes.put_u32(0);
        bytes.put_u8(kind);
        bytes.put_u32(id);
        Self(bytes)
    }

    fn string(mut self, value: &[u8]) -> Self {
        self.0.put_u32(value.len() as u32);
        self.0.put_slice(value);
        self
    }

    fn u64s(mut self, values: &[u64]) -> Self {
        values.iter().for_each(|value| self.0.put_u64(*value));
        self
    }

    fn attributes(mut self, attributes: &Attributes) -> Self {
        let flag = |present: bool, flag: u32| if present { flag } else { 0 };
        self.0.put_u32(
            flag(attributes.size.is_some(), ATTRIBUTE_SIZE)
                | flag(attributes.owner.is_some(), ATTRIBUTE_OWNER)
                | flag(attributes.permissions.is_some(), ATTRIBUTE_PERMISSIONS)
                | flag(attributes.times.is_some(), ATTRIBUTE_TIMES),
        );
        if let Some(size) = attributes.size {
            self.0.put_u64(size);
        }
        if let Some((user, group)) = attributes.owner {
            self.0.put_u32(user);
            self.0.put_u32(group);
        }
        if let Some(permissions) = attributes.permissions {
            self.0.put_u32(permissions);
        }
        if let Some((accessed, modified)) = attributes.times {
            self.0.put_u32(accessed);
            self.0.put_u32(modified);
        }
        self
    }

    fn finish(mut self) -> Bytes {
        let length = (self.0.len() - 4) as u32;
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0.freeze()
    }
}

pub(crate) fn version(extensions: &[(&str, &str)]) -> Bytes {
    extensions.iter().fold(Reply::new(2, 3, 256), |reply, (name, data)| reply.string(name.as_bytes()).string(data.as_bytes())).finish()
}

pub fn status(id: u32, code: u32, text: &str) -> Bytes {
    let mut reply = Reply::new(101, id, 32 + text.len());
    reply.0.put_u32(code);
    reply.string(text.as_bytes()).string(b"").finish()
}

pub fn handle(id: u32, handle: &[u8]) -> Bytes {
    Reply::new(102, id, handle.len()).string(handle).finish()
}

pub fn data(id: u32, data: &[u8]) -> Bytes {
    Reply::new(103, id, data.len()).string(data).finish()
}

pub fn attributes(id: u32, attributes: &Attributes) -> Bytes {
    Reply::new(105, id, 40).attributes(attributes).finish()
}

/// A listing: name, the line that `ls -l` would show, attributes.
pub fn names(id: u32, names: &[(Vec<u8>, String, Attributes)]) -> Bytes {
    let mut reply = Reply::new(104, id, names.len() * 128);
    reply.0.put_u32(names.len() as u32);
    names.iter().fold(reply, |reply, (name, line, attributes)| reply.string(name).string(line.as_bytes()).attributes(attributes)).finish()
}

pub(crate) fn extended_reply(id: u32, numbers: &[u64]) -> Bytes {
    Reply::new(201, id, numbers.len() * 8).u64s(numbers).finish()
}

/// What OpenSSH says for a code.
pub fn text_of(code: u32) -> &'static str {
    match code {
        OK => "Success",
        EOF => "End of file",
        NO_SUCH_FILE => "No such file",
        PERMISSION_DENIED => "Permission denied",
        BAD_MESSAGE => "Bad message",
        OP_UNSUPPORTED => "Operation unsupported",
        _ => "Failure",
    }
}

/// The code that OpenSSH gives for an error of the operating system: a full disk is only a failure there.
pub(crate) fn code_of(error: &std::io::Error) -> u32 {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR | Errno::BADF | Errno::LOOP) => NO_SUCH_FILE,
        Some(Errno::PERM | Errno::ACCESS | Errno::FAULT) => PERMISSION_DENIED,
        Some(Errno::NAMETOOLONG | Errno::INVAL) => BAD_MESSAGE,
        Some(Errno::NOSYS) => OP_UNSUPPORTED,
        _ => FAILURE,
    }
}
