//! The port of the engine answered by one SFTP session: names, directories, opening, renaming.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use model::{Algorithm, Digest, Endpoint, RemotePath};

use super::ahead::Ahead;
use super::config::SftpConfig;
use super::connect::{Opened, open_ahead};
use super::error::{EOF, FAILURE, Failure, Lost, NO_SUCH_FILE, OP_UNSUPPORTED};
use super::link;
use super::probe::{self, Found};
use super::session::Session;
use super::way::Socket;
use super::wire::{self, Attributes, Fields, Name, Request};
use super::writer::{SftpWriter, attributes};
use crate::destination::{
    Capabilities, Connection, Connector, CreateOptions, Entry, Metadata, NoClobber, OpenMode, RenameMode, ServerFact, ServerIdentity,
    Writer,
};
use crate::{Error, ErrorKind, Result, Subject};

/// Small files that may be worked on at once: four lanes of sixteen. A far file is five round trips of waiting, in which
/// others can go.
const MULTIPLEX: usize = 64;
/// Longest name taken from a listing; no common file system holds a longer one.
const MAX_NAME: usize = 4096;
/// Names of one listing that are kept or dropped, in bytes.
const MAX_LISTING: usize = 64 * 1024 * 1024;
/// Pages without a usable name in a row, after which a listing is taken for endless.
const MAX_EMPTY_PAGES: usize = 16;

/// A configured SFTP server.
#[derive(Debug, Clone)]
pub struct SftpConnector {
    config: Arc<SftpConfig>,
    ahead: Arc<Ahead>,
}

impl SftpConnector {
    pub fn new(config: SftpConfig) -> Self {
        Self { config: Arc::new(config), ahead: Arc::default() }
    }
}

#[async_trait]
impl Connector for SftpConnector {
    fn endpoint(&self) -> &Endpoint {
        &self.config.endpoint
    }

    fn expect(&self, sessions: usize) {
        self.ahead.expect(sessions);
    }

    async fn connect(&self) -> Result<Box<dyn Connection>> {
        const OPERATION: &str = "start SFTP on";
        let subject = || Subject::Server(self.config.endpoint.to_string());
        let Opened { handle, identity, socket } = open_ahead(&self.config, &self.ahead).await?;
        let start = async {
            let (outbound, inbound) = link::open(handle).await?;
            Session::start(outbound, inbound, self.config.stall_timeout).await
        };
        match tokio::time::timeout(self.config.connect_timeout, start).await {
            Ok(Ok(session)) => {
                let mut connection = SftpConnection::new(session, identity, self.config.endpoint.clone());
                connection.socket = Some(socket);
                Ok(Box::new(connection))
            }
            Ok(Err(lost)) => Err(lost.into_error(OPERATION, subject())),
            Err(_) => {
                let seconds = self.config.connect_timeout.as_secs();
                let lost = Lost::new(ErrorKind::NetworkStalled, format!("the server did not answer within {seconds} s"));
                Err(lost.into_error(OPERATION, subject()))
            }
        }
    }
}

/// One live SFTP session.
pub struct SftpConnection {
    session: Arc<Session>,
    identity: ServerIdentity,
    capabilities: Capabilities,
    endpoint: Endpoint,
    /// The SSH library's task outlives its handle while a peer keeps the window shut; closing the socket ends it.
    socket: Option<Socket>,
}

impl std::fmt::Debug for SftpConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SftpConnection").field("endpoint", &self.endpoint).field("open", &!self.session.is_over()).finish_non_exhaustive()
    }
}

impl Drop for SftpConnection {
    fn drop(&mut self) {
        self.session.end();
        if let Some(socket) = &self.socket {
            socket.shut();
        }
    }
}

impl SftpConnection {
    pub(super) fn new(session: Session, mut identity: ServerIdentity, endpoint: Endpoint) -> Self {
        identity.round_trip = session.round_trip;
        let version = &session.version;
        for (offered, note) in [
            (version.posix_rename, "the server cannot replace a file in one step (no posix-rename)"),
            (version.statvfs, "the server does not tell its free space (no statvfs)"),
            (version.fsync, "the server does not promise that written bytes survive its crash (no fsync)"),
        ] {
            if !offered {
                identity.notes.push(note.to_owned());
            }
        }
        identity.facts = facts(&session);
        // OpenSSH renames by link and unlink, which the file system refuses when the name is taken.
        let openssh = identity.software.as_deref().is_some_and(|software| software.contains("OpenSSH"));
        let capabilities = Capabilities {
            offset_writes: true,
            confirms_writes: true,
            continues: false,
            read: true,
            sync: version.fsync,
            no_clobber: if openssh { NoClobber::Atomic } else { NoClobber::Checked },
            atomic_replace: version.posix_rename,
            // Servers on Windows fold case and drop final dots and spaces.
            exact_names: openssh,
            set_times: true,
            set_mode: true,
            hashes: if version.check_file { vec![Algorithm::Sha256, Algorithm::Md5] } else { Vec::new() },
            multiplex: MULTIPLEX.min(session.max_handles),
            max_write: session.max_write,
            free_space: version.statvfs,
        };
        Self { session: Arc::new(session), identity, capabilities, endpoint, socket: None }
    }

    fn lost(&self, lost: Lost, operation: &'static str, path: &RemotePath) -> Error {
        lost.into_error(operation, path)
    }

    async fn open_file(&self, path: &RemotePath, flags: u32, permissions: Option<u32>) -> Result<Box<dyn Writer>> {
        const OPERATION: &str = "open";
        let permit = self.session.handle_permit().await.map_err(|lost| self.lost(lost, OPERATION, path))?;
        let attributes = Attributes { permissions: permissions.map(|mode| mode & 0o7777), ..Attributes::default() };
        match self.session.handle(Request::Open { path: path.wire(), flags, attributes }).await {
            Ok(handle) => {
                let (writable, readable) = (flags & wire::WRITE != 0, flags & wire::READ != 0);
                Ok(Box::new(SftpWriter::new(Arc::clone(&self.session), path.clone(), handle, writable, readable, permit)))
            }
            Err(failure) => Err(probe::after_create(&self.session, failure, OPERATION, path, flags & wire::EXCLUSIVE != 0).await),
        }
    }

    async fn read_directory(&self, handle: &Bytes, limit: usize) -> Result<Vec<Entry>, Failure> {
        let mut entries = Vec::new();
        let (mut bytes, mut empty) = (0, 0);
        while entries.len() < limit {
            let names = match self.session.names(Request::ReadDirectory { handle }).await {
                Ok(names) => names,
                Err(failure) if failure.code() == Some(EOF) => break,
                Err(failure) => return Err(failure),
            };
            let before = entries.len();
            for name in names {
                bytes += name.name.len();
                if entries.len() < limit {
                    entries.extend(entry(name));
                }
            }
            empty = if entries.len() == before { empty + 1 } else { 0 };
            if empty > MAX_EMPTY_PAGES || bytes > MAX_LISTING {
                return Err(self.session.distrust("a listing without an end"));
            }
        }
        Ok(entries)
    }
}

/// What is shown of a listed name; `None` for names that cannot be one file of this directory.
fn entry(name: Name) -> Option<Entry> {
    let raw = &name.name[..];
    if raw.is_empty() || raw == b"." || raw == b".." || raw.len() > MAX_NAME || raw.iter().any(|b| *b == b'/' || *b == 0) {
        return None;
    }
    let exact = std::str::from_utf8(raw).is_ok();
    Some(Entry { name: String::from_utf8_lossy(raw).into_owned(), exact, metadata: metadata(&name.attributes) })
}

/// What the server offers beyond the draft, and what it takes at once.
fn facts(session: &Session) -> Vec<ServerFact> {
    let version = &session.version;
    let offered: Vec<&str> = [
        (version.posix_rename, "posix-rename"),
        (version.fsync, "fsync"),
        (version.statvfs, "statvfs"),
        (version.hardlink, "hardlink"),
        (version.limits, "limits"),
        (version.check_file, "check-file"),
    ]
    .into_iter()
    .filter_map(|(on, name)| on.then_some(name))
    .collect();
    let offered = if offered.is_empty() { "none that is used".to_owned() } else { offered.join(" ") };
    let told = if version.limits { "" } else { " (assumed: it does not tell)" };
    vec![
        ServerFact { name: "sftp_version", value: version.number.to_string() },
        ServerFact { name: "extensions", value: offered },
        ServerFact { name: "max_write", value: format!("{} bytes{told}", session.max_write) },
        ServerFact { name: "max_handles", value: format!("{}{told}", session.max_handles) },
    ]
}

fn metadata(attributes: &Attributes) -> Metadata {
    let modified = attributes.times.and_then(|(_, modified)| jiff::Timestamp::from_second(i64::from(modified)).ok());
    Metadata { size: attributes.size.unwrap_or(0), modified, directory: attributes.is_directory() }
}

#[async_trait]
impl Connection for SftpConnection {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn identity(&self) -> &ServerIdentity {
        &self.identity
    }

    async fn stat(&self, path: &RemotePath) -> Result<Option<Metadata>> {
        const OPERATION: &str = "look at";
        let found = probe::stat(&self.session, path).await.map_err(|failure| probe::on_name(failure, OPERATION, path))?;
        match found {
            Some(attributes) if attributes.size.is_none() && !attributes.is_directory() => {
                Err(Error::new(ErrorKind::DestProtocol, OPERATION, path).because("the server tells no size"))
            }
            found => Ok(found.as_ref().map(metadata)),
        }
    }

    async fn list(&self, path: &RemotePath, limit: usize) -> Result<Vec<Entry>> {
        const OPERATION: &str = "list";
        let permit = self.session.handle_permit().await.map_err(|lost| self.lost(lost, OPERATION, path))?;
        let handle = match self.session.handle(Request::OpenDirectory { path: path.wire() }).await {
            Ok(handle) => handle,
            Err(failure) if failure.code() == Some(FAILURE) => {
                let kind = match probe::look(&self.session, path).await {
                    Found::Nothing | Found::File => ErrorKind::DestDirMissing,
                    Found::Directory | Found::Unknown => ErrorKind::DestProtocol,
                };
                return Err(failure.into_error(OPERATION, path, kind));
            }
            Err(failure) => return Err(probe::on_name(failure, OPERATION, path)),
        };
        // Closed by its own drop, also when this call is abandoned.
        let open = SftpWriter::new(Arc::clone(&self.session), path.clone(), handle.clone(), false, false, permit);
        let entries = self.read_directory(&handle, limit).await;
        drop(open);
        entries.map_err(|failure| failure.into_error(OPERATION, path, ErrorKind::DestProtocol))
    }

    async fn make_directory(&self, path: &RemotePath) -> Result<()> {
        const OPERATION: &str = "create the directory";
        let failure = match self.session.ok(Request::MakeDirectory { path: path.wire() }).await {
            Ok(()) => return Ok(()),
            Err(failure @ Failure::Lost(_)) => return Err(probe::on_name(failure, OPERATION, path)),
            Err(failure) => failure,
        };
        // Servers refuse an existing directory with whatever code they like.
        match probe::look(&self.session, path).await {
            Found::Directory => Ok(()),
            Found::File => Err(failure.into_error(OPERATION, path, ErrorKind::DestExists)),
            Found::Nothing | Found::Unknown => Err(probe::after_create(&self.session, failure, OPERATION, path, true).await),
        }
    }

    async fn remove_directory(&self, path: &RemotePath) -> Result<()> {
        const OPERATION: &str = "remove the directory";
        match self.session.ok(Request::RemoveDirectory { path: path.wire() }).await {
            Ok(()) => Ok(()),
            Err(failure) if failure.code() == Some(NO_SUCH_FILE) && probe::look(&self.session, path).await == Found::Nothing => Ok(()),
            // FAILURE is how a directory that is not empty is refused.
            Err(failure) => Err(failure.into_error(OPERATION, path, ErrorKind::DestDenied)),
        }
    }

    async fn open(&self, path: &RemotePath, options: CreateOptions) -> Result<Box<dyn Writer>> {
        let read = if options.read { wire::READ } else { 0 };
        let (mode, permissions) = match options.mode {
            OpenMode::CreateNew | OpenMode::CreateOwn => (wire::CREATE | wire::EXCLUSIVE, options.permissions),
            // Offsets may be written anyway.
            OpenMode::Existing | OpenMode::Continue(_) => (0, None),
            OpenMode::Truncate => (wire::CREATE | wire::TRUNCATE, options.permissions),
        };
        self.open_file(path, wire::WRITE | read | mode, permissions).await
    }

    async fn open_read(&self, path: &RemotePath) -> Result<Box<dyn Writer>> {
        self.open_file(path, wire::READ, None).await
    }

    async fn rename(&self, from: &RemotePath, to: &RemotePath, mode: RenameMode) -> Result<()> {
        let taken = || Error::new(ErrorKind::DestExists, "rename to", to);
        let posix = mode == RenameMode::Replace && self.session.version.posix_rename;
        let (from_wire, to_wire) = (from.wire(), to.wire());
        if posix {
            match self.session.ok(Request::PosixRename { from: from_wire, to: to_wire }).await {
                Ok(()) => return Ok(()),
                // Announced and not offered after all: as if it had not been announced.
                Err(failure) if failure.code() == Some(OP_UNSUPPORTED) => {}
                Err(failure) => return Err(probe::after_rename(&self.session, failure, from, to, false).await),
            }
        }
        // Some servers overwrite with the plain rename, against the draft; only OpenSSH is known not to.
        let look_first = mode == RenameMode::Replace || self.capabilities.no_clobber != NoClobber::Atomic;
        if look_first {
            match probe::is_taken(&self.session, to).await {
                Ok(false) => {}
                Ok(true) if mode == RenameMode::Replace => return Err(taken().because("the server cannot replace a file in one step")),
                Ok(true) => return Err(taken()),
                Err(failure) => return Err(probe::on_name(failure, "look at", to)),
            }
        }
        match self.session.ok(Request::Rename { from: from_wire, to: to_wire }).await {
            Ok(()) => Ok(()),
            Err(failure) => Err(probe::after_rename(&self.session, failure, from, to, true).await),
        }
    }

    async fn remove(&self, path: &RemotePath) -> Result<()> {
        const OPERATION: &str = "remove";
        match self.session.ok(Request::Remove { path: path.wire() }).await {
            Ok(()) => Ok(()),
            Err(failure @ Failure::Lost(_)) => Err(probe::on_name(failure, OPERATION, path)),
            // FAILURE too is said of a name that is gone.
            Err(failure) => match probe::look(&self.session, path).await {
                Found::Nothing => Ok(()),
                Found::Directory => Err(failure.into_error(OPERATION, path, ErrorKind::DestDenied)),
                Found::File | Found::Unknown => Err(probe::on_name(failure, OPERATION, path)),
            },
        }
    }

    async fn set_attributes(&self, path: &RemotePath, modified: Option<jiff::Timestamp>, permissions: Option<u32>) -> Result<()> {
        let Some(attributes) = attributes(path, modified, permissions)? else { return Ok(()) };
        self.session
            .ok(Request::SetAttributes { path: path.wire(), attributes })
            .await
            .map_err(|failure| failure.into_error("set the attributes of", path, ErrorKind::DestDenied))
    }

    async fn hash(&self, path: &RemotePath, algorithm: Algorithm) -> Result<Option<Digest>> {
        const OPERATION: &str = "ask for the digest of";
        if !self.capabilities.hashes.contains(&algorithm) {
            return Ok(None);
        }
        let name = algorithm.name();
        match self
            .session
            .extended(Request::CheckFile { path: path.wire(), algorithm: name }, |fields: Fields| fields.check_file(name))
            .await
        {
            Ok(None) => Ok(None),
            Ok(Some(bytes)) => Digest::new(algorithm, bytes.to_vec())
                .map(Some)
                .map_err(|error| Error::new(ErrorKind::DestProtocol, OPERATION, path).because(error)),
            // Offered, but not this algorithm, or not for this file.
            Err(failure) if matches!(failure.code(), Some(FAILURE | OP_UNSUPPORTED)) => Ok(None),
            Err(failure) => Err(probe::on_name(failure, OPERATION, path)),
        }
    }

    async fn free_space(&self, path: &RemotePath) -> Result<Option<u64>> {
        match probe::file_system(&self.session, path).await {
            Ok(state) => Ok(state.map(|state| state.free)),
            Err(failure) if failure.code() == Some(OP_UNSUPPORTED) => Ok(None),
            Err(failure) => Err(probe::on_name(failure, "ask for the free space of", path)),
        }
    }

    async fn ping(&self) -> Result<()> {
        match self.session.names(Request::RealPath { path: "." }).await {
            // A refusal is an answer as well.
            Ok(_) | Err(Failure::Status(_)) => Ok(()),
            Err(failure) => Err(failure.into_error("reach", Subject::Server(self.endpoint.to_string()), ErrorKind::DestProtocol)),
        }
    }

    async fn close(&self) -> Result<()> {
        self.session.close().await;
        Ok(())
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
