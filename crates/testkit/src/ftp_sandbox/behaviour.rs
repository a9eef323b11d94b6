//! How the server behaves, or misbehaves. Everything can be changed while it runs; the next command sees it.

use std::net::IpAddr;
use std::time::Duration;

use crate::sftp::Corruption;

/// What partners' servers do, one field each. The default is an able, honest server without locks.
#[derive(Debug, Clone)]
pub struct Behaviour {
    /// MLST and MLSD are known and announced.
    pub mlst: bool,
    pub size: bool,
    /// MDTM and MFMT.
    pub times: bool,
    /// HASH, XSHA256, XMD5 and XCRC.
    pub hashes: bool,
    pub avbl: bool,
    pub site_chmod: bool,
    pub restart: Restart,
    /// STOR onto an existing name is 550.
    pub no_overwrite: bool,
    pub rename: Rename,
    /// RETR, LIST, NLST and MLSD are 550, as in a drop box.
    pub write_only: bool,
    pub names: Names,
    pub passive: Passive,
    /// USER is 530 and data connections are 522 until they are protected.
    pub tls_required: bool,
    pub auth: bool,
    /// PROT P is 536.
    pub prot_p: bool,
    pub tls: TlsVersions,
    pub session_reuse: SessionReuse,
    /// TLS 1.3 tickets of a login, given at its handshake; data connections give none. `None` is two with every handshake.
    pub tickets: Option<usize>,
    /// One data connection more than this in one login is 425.
    pub data_connections: Option<usize>,
    /// A data connection over TLS that ends without close_notify is answered 426; otherwise nobody looks.
    pub close_notify_required: bool,
    /// 530 for the right password too.
    pub login_refused: bool,
    pub logins: Option<LoginLimit>,
    /// Bytes that all files together may hold.
    pub capacity: Option<u64>,
    pub full: Full,
    pub noop: Noop,
    pub final_reply: FinalReply,
    /// 226, and something else on the disk. Only the first STOR at offset 0 of so many files is spoilt.
    pub lie: Option<Corruption>,
    /// The control connection is closed here, without a word.
    pub cut: Option<Cut>,
    /// How often that happens in all.
    pub cut_times: usize,
    /// Goes on storing after the control connection is gone.
    pub orphan: bool,
    /// A second STOR of the same file waits for the first one's end, before its 150. Otherwise two writers interleave.
    pub locks: bool,
    /// Bytes a second that data connections take or give, all together.
    pub rate: Option<u64>,
    /// Every reply is this late.
    pub latency: Duration,
    /// Every byte of every reply is a packet of its own.
    pub byte_by_byte: bool,
    /// Lines of replies end with LF alone.
    pub bare_line_feeds: bool,
    /// Names added to every listing as they are: `../evil`, `a/b`, bytes that are not UTF-8.
    pub extra_names: Vec<Vec<u8>>,
    /// New connections are accepted and dropped before the greeting.
    pub refuses_connections: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            mlst: true,
            size: true,
            times: true,
            hashes: true,
            avbl: true,
            site_chmod: true,
            restart: Restart::default(),
            no_overwrite: false,
            rename: Rename::Replaces,
            write_only: false,
            names: Names::Exact,
            passive: Passive::default(),
            tls_required: false,
            auth: true,
            prot_p: true,
            tls: TlsVersions::Both,
            session_reuse: SessionReuse::NotRequired,
            tickets: None,
            data_connections: None,
            close_notify_required: false,
            login_refused: false,
            logins: None,
            capacity: None,
            full: Full::Reply(452, "No space left on device".to_owned()),
            noop: Noop::Immediate,
            final_reply: FinalReply::Prompt,
            lie: None,
            cut: None,
            cut_times: usize::MAX,
            orphan: false,
            locks: false,
            rate: None,
            latency: Duration::ZERO,
            byte_by_byte: false,
            bare_line_feeds: false,
            extra_names: Vec::new(),
            refuses_connections: false,
        }
    }
}

impl Behaviour {
    /// The honest servers among these, by name, for the contract suite.
    pub fn set_ups() -> Vec<(&'static str, Self)> {
        let plain = Self::default;
        let restart = |rule: RestartRule| Restart { rule, ..Restart::default() };
        let two = LoginLimit { count: 2, refusal: LoginRefusal::Greeting };
        vec![
            ("plain", plain()),
            ("no MLST", Self { mlst: false, ..plain() }),
            ("no REST", Self { restart: restart(RestartRule::Unknown), ..plain() }),
            ("no REST before STOR", Self { restart: restart(RestartRule::DownloadsOnly), ..plain() }),
            ("rename refuses existing", Self { rename: Rename::RefusesExisting, no_overwrite: true, ..plain() }),
            ("rename denied", Self { rename: Rename::Denied, ..plain() }),
            ("no SIZE", Self { size: false, ..plain() }),
            ("write-only", Self { write_only: true, ..plain() }),
            ("no EPSV", Self { passive: Passive { epsv: false, ..Passive::default() }, ..plain() }),
            ("two logins", Self { logins: Some(two), ..plain() }),
            ("no extensions", Self { mlst: false, size: false, times: false, hashes: false, avbl: false, site_chmod: false, ..plain() }),
        ]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    pub rule: RestartRule,
    /// What STOR at an offset does to the bytes behind it: vsftpd keeps them, Pure-FTPd cuts them off.
    pub keeps_tail: bool,
    /// An offset beyond the end is taken (and leaves a hole); otherwise it is 554.
    pub beyond_end: bool,
}

impl Default for Restart {
    fn default() -> Self {
        Self { rule: RestartRule::Able, keeps_tail: true, beyond_end: false }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartRule {
    Able,
    /// Not in FEAT, and REST is 502.
    Unknown,
    /// Announced, REST is 350, STOR after it 550, as with ProFTPD's defaults.
    DownloadsOnly,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rename {
    Replaces,
    /// 550 when the new name is taken, in one step.
    RefusesExisting,
    /// RNFR is 550.
    Denied,
}

/// What becomes of names on the way to the disk. Nobody tells the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    Exact,
    /// Spaces and tabs at either end of a name are dropped.
    Trimmed,
    LowerCase,
}

/// What EPSV and PASV answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passive {
    /// EPSV is known; otherwise 500.
    pub epsv: bool,
    pub pasv: bool,
    /// The address that PASV tells instead of the true one.
    pub address: Option<std::net::Ipv4Addr>,
    /// The port that both tell instead of the true one.
    pub port: Option<u16>,
    /// An address in the answer to EPSV, where none belongs.
    pub epsv_address: Option<IpAddr>,
}

impl Default for Passive {
    fn default() -> Self {
        Self { epsv: true, pasv: true, address: None, port: None, epsv_address: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersions {
    Both,
    Only12,
    Only13,
}

/// Whether a data connection must resume the TLS session of its own control connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionReuse {
    NotRequired,
    /// Refused with this code after the handshake: vsftpd says 522, ProFTPD 425.
    Required(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoginLimit {
    /// At a time: connections for `Greeting`, logins for the others.
    pub count: usize,
    pub refusal: LoginRefusal,
}

/// Where one too many is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginRefusal {
    /// 421 instead of the greeting, and closed.
    Greeting,
    /// 421 after the right password, and closed.
    Password,
    /// 530 after the right password.
    NotLoggedIn,
}

/// How a full disk shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Full {
    /// The data connection is closed and this is said.
    Reply(u16, String),
    /// The data connection is closed and nothing is said.
    CloseData,
    /// Nothing is read any more and nothing is said.
    Silence,
}

/// What NOOP is answered while data moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noop {
    /// 200 at once.
    Immediate,
    /// 500 at once; the transfer goes on.
    Unknown,
    /// 200 after the reply to the transfer.
    Deferred,
}

/// When the 226 is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalReply {
    Prompt,
    After(Duration),
    Never,
    /// Right after the 150, before any data is read.
    BeforeData,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Before the 150 of a STOR; its file is already there, empty.
    BeforePreliminary,
    /// When so many bytes of a STOR have been stored.
    MidData(u64),
    /// All data is stored, its 226 is not sent.
    BeforeFinal,
    /// Instead of the answer to RNFR.
    AfterRenameFrom,
    /// RNTO is done, not answered.
    AfterRename,
}
