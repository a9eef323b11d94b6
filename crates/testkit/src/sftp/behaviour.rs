//! How the server behaves, or misbehaves. Everything can be changed while it runs; the next request sees it.

use std::time::Duration;

/// What partners' servers do, one field each. The default behaves like OpenSSH.
#[derive(Debug, Clone)]
pub struct Behaviour {
    pub extensions: Extensions,
    pub limits: Limits,
    /// What SSH_FXP_RENAME does (posix-rename is an extension and always replaces).
    pub rename: RenameRule,
    /// Reading and listing are denied, as in a drop box.
    pub write_only: bool,
    pub stat_denied: bool,
    /// Bytes that all files together may hold; a write past it is FAILURE, the close is still OK.
    pub capacity: Option<u64>,
    pub logins: Option<LoginLimit>,
    /// SFTP channels of one connection, like OpenSSH's MaxSessions.
    pub max_channels: Option<usize>,
    pub authentication: Authentication,
    /// Every write lands at the end of the file, whatever its offset says.
    pub offsets_ignored: bool,
    pub corruption: Option<Corruption>,
    /// Replies wait for up to this many others and leave shuffled.
    pub reorder: Option<usize>,
    /// Remember what was not fsynced, so that `SftpServer::crash` can lose it.
    pub tracks_unsynced: bool,
    /// After this many writes in all (of every connection) nothing is answered any more.
    pub stall_after_writes: Option<u64>,
    /// Every reply is this late. Replies overlap, as on a long line; `Verdict::Delay` makes the server itself slow.
    pub latency: Duration,
    /// Every reply after VERSION claims to be 4 GiB long.
    pub huge_replies: bool,
    /// Every reply after VERSION answers a request that was never made.
    pub wrong_ids: bool,
    /// Names added to every listing as they are: `../evil`, `a/b`, bytes that are not UTF-8.
    pub extra_names: Vec<Vec<u8>>,
    /// New connections are accepted and dropped before the SSH greeting.
    pub refuses_connections: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            extensions: Extensions::ALL,
            limits: Limits::default(),
            rename: RenameRule::RefusesExisting,
            write_only: false,
            stat_denied: false,
            capacity: None,
            logins: None,
            max_channels: None,
            authentication: Authentication::KeyOrPassword,
            offsets_ignored: false,
            corruption: None,
            reorder: None,
            tracks_unsynced: false,
            stall_after_writes: None,
            latency: Duration::ZERO,
            huge_replies: false,
            wrong_ids: false,
            extra_names: Vec::new(),
            refuses_connections: false,
        }
    }
}

impl Behaviour {
    /// The honest servers among these, by name, for the contract suite. Two logins are here because OpenSSH cannot
    /// limit them by itself.
    pub fn set_ups() -> Vec<(&'static str, Self)> {
        let plain = Self::default;
        let limits = Limits { max_read: 32 * 1024, max_write: 32 * 1024, max_handles: 4, ..Limits::default() };
        let two = LoginLimit { count: 2, refusal: LoginRefusal::Authentication };
        vec![
            ("plain", plain()),
            ("no extensions", Self { extensions: Extensions::NONE, ..plain() }),
            ("no posix-rename", Self { extensions: Extensions { posix_rename: false, ..Extensions::ALL }, ..plain() }),
            ("no fsync", Self { extensions: Extensions { fsync: false, ..Extensions::ALL }, ..plain() }),
            ("rename overwrites", Self { rename: RenameRule::Overwrites, ..plain() }),
            ("rename denied", Self { rename: RenameRule::Denied, ..plain() }),
            ("rename unsupported", Self { rename: RenameRule::Unsupported, ..plain() }),
            ("write-only", Self { write_only: true, ..plain() }),
            ("no stat", Self { stat_denied: true, ..plain() }),
            ("small limits", Self { limits, ..plain() }),
            ("two logins", Self { logins: Some(two), ..plain() }),
            ("one channel a connection", Self { max_channels: Some(1), ..plain() }),
            ("shuffled replies", Self { reorder: Some(16), ..plain() }),
            ("key, then password", Self { authentication: Authentication::KeyThenPassword, ..plain() }),
        ]
    }
}

/// An extension that is not announced is answered OP_UNSUPPORTED.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extensions {
    pub posix_rename: bool,
    pub fsync: bool,
    pub statvfs: bool,
    pub limits: bool,
    pub hardlink: bool,
}

impl Extensions {
    pub const ALL: Self = Self { posix_rename: true, fsync: true, statvfs: true, limits: true, hardlink: true };
    pub const NONE: Self = Self { posix_rename: false, fsync: false, statvfs: false, limits: false, hardlink: false };

    pub(crate) fn announced(self) -> Vec<(&'static str, &'static str)> {
        [
            (self.posix_rename, ("posix-rename@openssh.com", "1")),
            (self.statvfs, ("statvfs@openssh.com", "2")),
            (self.statvfs, ("fstatvfs@openssh.com", "2")),
            (self.hardlink, ("hardlink@openssh.com", "1")),
            (self.fsync, ("fsync@openssh.com", "1")),
            (self.limits, ("limits@openssh.com", "1")),
        ]
        .into_iter()
        .filter_map(|(on, extension)| on.then_some(extension))
        .collect()
    }
}

/// Announced by limits@openssh.com and enforced in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A larger packet ends the connection.
    pub max_packet: u32,
    /// A longer read is answered short.
    pub max_read: u32,
    /// A longer write is FAILURE and stores nothing.
    pub max_write: u32,
    /// Open handles of one channel; one more is FAILURE.
    pub max_handles: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_packet: 256 * 1024, max_read: 255 * 1024, max_write: 255 * 1024, max_handles: 1019 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameRule {
    /// FAILURE when the new name is taken, in one step, as OpenSSH does.
    RefusesExisting,
    /// Replaces what is there.
    Overwrites,
    /// PERMISSION_DENIED, posix-rename too.
    Denied,
    /// OP_UNSUPPORTED, posix-rename too.
    Unsupported,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoginLimit {
    /// Logins at a time.
    pub count: usize,
    pub refusal: LoginRefusal,
}

/// Where one login too many is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginRefusal {
    /// The right credential is rejected.
    Authentication,
    /// The login succeeds, its channel is refused.
    Channel,
    /// Disconnected with "Too many connections" after the credential.
    Disconnect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication {
    KeyOrPassword,
    Key,
    Password,
    /// The key first (partial success), then the password.
    KeyThenPassword,
    /// The password as the answer to a question (keyboard-interactive).
    Question,
    /// The key first (partial success), then the question.
    KeyThenQuestion,
    /// Nobody gets in.
    Nobody,
}

/// Right replies, wrong bytes. Offsets are positions in the file as the client writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corruption {
    pub kind: CorruptionKind,
    /// How many newly created files are spoilt; later ones are stored rightly.
    pub files: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CorruptionKind {
    /// The bits of one byte are inverted.
    FlipByte { offset: u64 },
    /// These bytes are not stored and what follows moves up: the file is shorter.
    Drop { offset: u64, length: u64 },
    /// Two ranges are stored at each other's place.
    Swap { first: u64, second: u64, length: u64 },
    /// A range is stored again over the range that follows it.
    Duplicate { offset: u64, length: u64 },
    /// Bytes of an older, longer file remain after the end. Put there when the file is closed or looked at.
    StaleTail { length: u64 },
    /// Zeros instead of these bytes.
    Hole { offset: u64, length: u64 },
}

impl Corruption {
    /// Where the pieces of one write end up: `(offset in the file, bytes)`.
    pub(crate) fn place(&self, offset: u64, data: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let end = offset + data.len() as u64;
        let cut = |from: u64, to: u64| -> (u64, Vec<u8>) {
            let (from, to) = (from.clamp(offset, end), to.clamp(offset, end));
            (from, if from < to { data[(from - offset) as usize..(to - offset) as usize].to_vec() } else { Vec::new() })
        };
        let mut pieces = match self.kind {
            CorruptionKind::FlipByte { offset: at } => {
                let mut bytes = data.to_vec();
                if (offset..end).contains(&at) {
                    bytes[(at - offset) as usize] ^= 0xff;
                }
                vec![(offset, bytes)]
            }
            CorruptionKind::Drop { offset: at, length } => {
                let (start, rest) = cut(at.saturating_add(length), u64::MAX);
                vec![cut(0, at), (start.saturating_sub(length), rest)]
            }
            CorruptionKind::Hole { offset: at, length } => {
                let (start, hole) = cut(at, at + length);
                vec![cut(0, at), (start, vec![0; hole.len()]), cut(at + length, u64::MAX)]
            }
            CorruptionKind::Swap { first, second, length } => {
                let (first_start, first_bytes) = cut(first, first + length);
                let (second_start, second_bytes) = cut(second, second + length);
                let moved_first = if first_bytes.is_empty() { 0 } else { first_start - first + second };
                let moved_second = if second_bytes.is_empty() { 0 } else { second_start - second + first };
                vec![
                    cut(0, first),
                    (moved_first, first_bytes),
                    cut(first + length, second),
                    (moved_second, second_bytes),
                    cut(second + length, u64::MAX),
                ]
            }
            CorruptionKind::Duplicate { offset: at, length } => {
                let (start, again) = cut(at, at + length);
                vec![cut(0, at + length), (start + length, again), cut(at + 2 * length, u64::MAX)]
            }
            CorruptionKind::StaleTail { .. } => vec![(offset, data.to_vec())],
        };
        pieces.retain(|(_, bytes)| !bytes.is_empty());
        pieces
    }
}
