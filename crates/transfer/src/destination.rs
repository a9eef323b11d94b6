//! The port on the writing side. A `Connector` is a configured partner server, a `Connection` a live session,
//! a `Writer` an open remote file. The contract suite in `tests/it/contract` checks every sentence here on every
//! implementation.

use async_trait::async_trait;
use bytes::Bytes;
use model::{Algorithm, Digest, Endpoint, RemotePath};

use crate::Result;

/// What a server can do. The engine decides by these and never by a protocol's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Ranges may be written at any offset, in any order, over several connections.
    pub offset_writes: bool,
    /// A write's `Ok` means that the server has confirmed these bytes. Otherwise only `Writer::close` tells.
    pub confirms_writes: bool,
    /// A stream that was cut can be continued at an offset up to the size of the file (`OpenMode::Continue`). Only asked
    /// where `offset_writes` is false; what a server promises here is tried before the engine counts on it.
    pub continues: bool,
    /// Written bytes can be read again through the connection (write-only directories cannot).
    pub read: bool,
    /// `Writer::sync` makes bytes survive a crash of the server.
    pub sync: bool,
    /// What `RenameMode::NoClobber` is worth.
    pub no_clobber: NoClobber,
    /// `RenameMode::Replace` replaces an existing file in one step.
    pub atomic_replace: bool,
    /// A name is stored byte for byte. Otherwise the engine looks for the exact name after publishing.
    pub exact_names: bool,
    pub set_times: bool,
    pub set_mode: bool,
    /// Digests that the server computes itself.
    pub hashes: Vec<Algorithm>,
    /// Requests of this many files may be in flight on one connection.
    pub multiplex: usize,
    /// Largest useful single write, in bytes; larger chunks are split by the connection.
    pub max_write: usize,
    /// Free space can be asked for.
    pub free_space: bool,
}

impl Capabilities {
    /// A file travels as one stream, and only its end tells whether the server has it.
    pub fn is_stream(&self) -> bool {
        !self.offset_writes && !self.confirms_writes
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoClobber {
    /// The server refuses to rename onto an existing name, in one step.
    Atomic,
    /// It refuses, but looks first and renames after; a moment remains.
    Checked,
    /// It overwrites, or nobody knows; look before renaming.
    Unsupported,
}

/// Who answered, for receipts and messages. Everything here comes from the peer and is escaped when shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerIdentity {
    /// `SHA256:…` of the host key or certificate that was trusted.
    pub host_key: Option<String>,
    /// The software as it calls itself.
    pub software: Option<String>,
    pub address: Option<std::net::SocketAddr>,
    /// Our own address on this connection; the server may see a translated one.
    pub local_address: Option<std::net::IpAddr>,
    /// Time from a request to its answer, measured while connecting.
    pub round_trip: std::time::Duration,
    /// What the user should know: a legacy algorithm, a missing extension.
    pub notes: Vec<String>,
    /// What only the protocol can know of the server: versions, limits, extensions. A few, each short.
    pub facts: Vec<ServerFact>,
}

/// A short name, the same for every server of a protocol, and what this server has there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFact {
    pub name: &'static str,
    pub value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    pub size: u64,
    pub modified: Option<jiff::Timestamp>,
    pub directory: bool,
}

/// A name in a directory. Names that are not UTF-8 are reported lossily with `exact: false` and must not be acted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub exact: bool,
    pub metadata: Metadata,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Create; an existing name is `dest_exists`.
    CreateNew,
    /// Create under a name that nobody has but us, and we not yet: where a look would cost, nobody looks.
    CreateOwn,
    /// Open what is there, without truncating it; see `Connection::open` for a missing name.
    Existing,
    /// Create or empty: only for publishing in place, when the user chose that.
    Truncate,
    /// Open what is there and go on writing at this offset, which is not beyond its end. Only where
    /// `Capabilities::continues`; a refusal is `dest_protocol` or `dest_denied`, a missing file `dest_dir_missing`.
    Continue(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateOptions {
    pub mode: OpenMode,
    /// Also open for reading back, where `Capabilities::read`.
    pub read: bool,
    /// Permission bits for a new file; `None` leaves it to the server.
    pub permissions: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// Fails with `dest_exists` when the new name is taken (as far as `Capabilities::no_clobber` says).
    NoClobber,
    /// Takes the place of an existing file in one step; `dest_exists` where the server cannot.
    Replace,
}

/// Opens sessions on one partner server with one credential.
#[async_trait]
pub trait Connector: Send + Sync + std::fmt::Debug {
    /// Where this connector leads, with the port and user really used.
    fn endpoint(&self) -> &Endpoint;

    /// So many more sessions will be wanted as soon as the first one is logged in. Over a long way a connector may begin them
    /// with what comes before the login, in which nothing of the user is told.
    fn expect(&self, _sessions: usize) {}

    /// Opens one session. The host is proved before any credential is sent.
    /// Errors: `dest_unreachable`, `dest_host_key`, `dest_tls`, `dest_auth`, `dest_protocol`, `network_stalled`.
    async fn connect(&self) -> Result<Box<dyn Connection>>;
}

/// A live session. All calls may run at the same time, up to `Capabilities::multiplex` files.
/// Dropping a connection closes it. After an error with `is_connection_lost` no further call succeeds.
#[async_trait]
pub trait Connection: Send + Sync + std::fmt::Debug {
    fn capabilities(&self) -> &Capabilities;

    fn identity(&self) -> &ServerIdentity;

    /// `None` when nothing has this name. Follows symbolic links. A missing parent is `None` too.
    async fn stat(&self, path: &RemotePath) -> Result<Option<Metadata>>;

    /// The entries of a directory without `.` and `..`; at most `limit` of them. Errors: `dest_dir_missing`, `dest_denied`.
    async fn list(&self, path: &RemotePath, limit: usize) -> Result<Vec<Entry>>;

    /// Creates one directory. Succeeds if it is already there. A missing parent is `dest_dir_missing`.
    async fn make_directory(&self, path: &RemotePath) -> Result<()>;

    /// Removes an empty directory. Succeeds if it is already gone.
    async fn remove_directory(&self, path: &RemotePath) -> Result<()>;

    /// Opens a file for writing. Errors: `dest_exists` (`CreateNew`, name taken), `dest_dir_missing` (parent missing, or
    /// `Existing` and the file is gone: ask `stat` to tell them apart), `dest_denied`, `dest_no_space`, `dest_name_invalid`.
    async fn open(&self, path: &RemotePath, options: CreateOptions) -> Result<Box<dyn Writer>>;

    /// Looks at `look` and opens `path`, together where that saves a round trip. Neither waits for the other's outcome.
    async fn look_and_open(
        &self,
        look: &RemotePath,
        path: &RemotePath,
        options: CreateOptions,
    ) -> (Result<Option<Metadata>>, Result<Box<dyn Writer>>) {
        tokio::join!(self.stat(look), self.open(path, options))
    }

    /// Opens a file for reading only, for digests of files that are already there. Its `write_at` fails.
    async fn open_read(&self, path: &RemotePath) -> Result<Box<dyn Writer>>;

    /// Errors: `dest_exists`, `dest_dir_missing` (the old name or the new parent is missing), `dest_denied`,
    /// `dest_publish_failed` (refused without a reason that helps).
    async fn rename(&self, from: &RemotePath, to: &RemotePath, mode: RenameMode) -> Result<()>;

    /// Renames, and looks at the new name right after, together where that saves a round trip. The look is the inner result.
    async fn rename_and_look(&self, from: &RemotePath, to: &RemotePath, mode: RenameMode) -> Result<Result<Option<Metadata>>> {
        self.rename(from, to, mode).await?;
        Ok(self.stat(to).await)
    }

    /// Succeeds if the file is already gone.
    async fn remove(&self, path: &RemotePath) -> Result<()>;

    /// Sets modification time and permission bits of a file by name.
    async fn set_attributes(&self, path: &RemotePath, modified: Option<jiff::Timestamp>, permissions: Option<u32>) -> Result<()>;

    /// A digest that the server computes over the whole file. `None` when it does not offer this one.
    async fn hash(&self, path: &RemotePath, algorithm: Algorithm) -> Result<Option<Digest>>;

    /// Free bytes for us in the file system of `path`, where the server tells.
    async fn free_space(&self, path: &RemotePath) -> Result<Option<u64>>;

    /// Cheap check that the session still answers.
    async fn ping(&self) -> Result<()>;

    /// Ends the session in good order; an error here is only for the log.
    async fn close(&self) -> Result<()>;
}

/// An open remote file. Calls take `&self` so that many can be in flight; a stream-only destination
/// (`offset_writes` false) must be written in order, one call at a time.
#[async_trait]
pub trait Writer: Send + Sync + std::fmt::Debug {
    /// `Ok` means that every byte of `data` was accepted at `offset` (confirmed by the server where
    /// `Capabilities::confirms_writes`); a short write is an error. Disk full is `dest_no_space`.
    async fn write_at(&self, offset: u64, data: Bytes) -> Result<()>;

    /// Reads exactly `length` bytes, at most 256 KiB; fewer at end of file. The file must be open for reading.
    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes>;

    /// Size of the file as the server sees it now.
    async fn size(&self) -> Result<u64>;

    /// Returns when everything confirmed so far survives a crash of the server. Only where `Capabilities::sync`.
    async fn sync(&self) -> Result<()>;

    /// Sets modification time and permission bits of the open file.
    async fn set_attributes(&self, modified: Option<jiff::Timestamp>, permissions: Option<u32>) -> Result<()>;

    /// Sets time and permission bits where there are any, and asks for the size; together where that saves a round trip.
    async fn settle(&self, modified: Option<jiff::Timestamp>, permissions: Option<u32>) -> (Result<()>, Result<u64>) {
        let attributes =
            async { if modified.is_none() && permissions.is_none() { Ok(()) } else { self.set_attributes(modified, permissions).await } };
        tokio::join!(attributes, self.size())
    }

    /// Ends the stream of written bytes and returns when the server has said that it has them all; nothing can be written
    /// afterwards. Where every write is confirmed there is nothing to end. Reading, `size` and `set_attributes` end a
    /// stream too, for they need the line that it occupies.
    async fn finish(&self) -> Result<()> {
        Ok(())
    }

    /// Late write errors appear here; a file is complete only after `Ok`. Dropping a writer without this
    /// abandons it: a stream is then cut so that the server does not take it for whole.
    async fn close(&self) -> Result<()>;
}
