//! A partner's server in memory. `MemoryDestination` is the connector and the window into the server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use md5::Digest as _;
use model::{Algorithm, Digest, Endpoint, Protocol, RemotePath};

use super::file::Node;
use super::writer::{MemoryWriter, refused, set_attributes};
use crate::{
    Capabilities, Connection, Connector, CreateOptions, Entry, Error, ErrorKind, Metadata, NoClobber, OpenMode, RenameMode, Result,
    ServerIdentity, Writer,
};

/// Where `/~/` leads.
const HOME: &str = "/home/user";

pub(super) type SharedNode = Arc<Mutex<Node>>;

#[derive(Debug)]
pub(super) struct State {
    files: BTreeMap<String, SharedNode>,
    directories: BTreeSet<String>,
    capabilities: Capabilities,
    pub(super) capacity: Option<u64>,
    connection_limit: Option<usize>,
    open_connections: usize,
    /// Connections ever opened, and bytes ever accepted.
    connects: usize,
    pub(super) accepted: u64,
    /// Grows with every crash; connections of an older life are gone.
    life: u64,
}

impl State {
    fn parent_exists(&self, path: &str) -> bool {
        self.directories.contains(parent(path))
    }

    pub(super) fn used(&self) -> u64 {
        self.files.values().map(|node| lock(node).now.stored()).sum()
    }
}

fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(cut) => &path[..cut],
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic happens while it is held")
}

/// The path as the server sees it.
fn place(path: &RemotePath) -> String {
    match path.wire() {
        "." => HOME.to_owned(),
        absolute if absolute.starts_with('/') => absolute.to_owned(),
        relative => format!("{HOME}/{relative}"),
    }
}

#[derive(Debug, Clone)]
pub struct MemoryDestination {
    endpoint: Endpoint,
    state: Arc<Mutex<State>>,
}

impl Default for MemoryDestination {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryDestination {
    /// A server that can do everything.
    pub fn new() -> Self {
        Self::with_capabilities(Self::everything())
    }

    /// All abilities; switch off what a test needs to be missing.
    pub fn everything() -> Capabilities {
        Capabilities {
            offset_writes: true,
            confirms_writes: true,
            continues: false,
            read: true,
            sync: true,
            no_clobber: NoClobber::Atomic,
            atomic_replace: true,
            exact_names: true,
            set_times: true,
            set_mode: true,
            hashes: vec![Algorithm::Sha256, Algorithm::Md5, Algorithm::Crc64nvme],
            multiplex: 16,
            max_write: 256 * 1024,
            free_space: true,
        }
    }

    /// `/`, the login directory and `/in` exist.
    pub fn with_capabilities(capabilities: Capabilities) -> Self {
        let state = State {
            files: BTreeMap::new(),
            directories: ["/", "/home", HOME, "/in"].map(str::to_owned).into(),
            capabilities,
            capacity: None,
            connection_limit: None,
            open_connections: 0,
            connects: 0,
            accepted: 0,
            life: 0,
        };
        let endpoint = Endpoint { protocol: Protocol::Memory, host: "memory".to_owned(), port: None, user: None };
        Self { endpoint, state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// What a file holds now. Meant for files of a few megabytes.
    pub fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        let node = self.state().files.get(path).cloned()?;
        let node = lock(&node);
        Some(node.now.read(0, usize::try_from(node.now.size()).expect("test files fit in memory")))
    }

    /// The paths of all files, sorted.
    pub fn names(&self) -> Vec<String> {
        self.state().files.keys().cloned().collect()
    }

    /// A file that someone else has put there, durable, with the directories above it.
    pub fn put(&self, path: &str, bytes: &[u8]) {
        let mut node = Node::default();
        node.now.write(0, bytes);
        node.durable = node.now.clone();
        self.make_directories(parent(path));
        self.state().files.insert(path.to_owned(), Arc::new(Mutex::new(node)));
    }

    pub fn make_directories(&self, path: &str) {
        let mut state = self.state();
        let mut path = path;
        while path != "/" {
            state.directories.insert(path.to_owned());
            path = parent(path);
        }
    }

    /// The partner's collector takes a file away.
    pub fn take(&self, path: &str) -> Option<Vec<u8>> {
        let bytes = self.bytes(path)?;
        self.state().files.remove(path);
        Some(bytes)
    }

    pub fn permissions(&self, path: &str) -> Option<u32> {
        let node = self.state().files.get(path).cloned()?;
        lock(&node).permissions
    }

    /// The server dies and comes back: every connection is lost, and so are bytes that were not synced. Names stay.
    pub fn crash(&self) {
        let mut state = self.state();
        state.life += 1;
        state.open_connections = 0;
        for node in state.files.values() {
            let mut node = lock(node);
            node.now = node.durable.clone();
        }
    }

    /// Every connection is cut; nothing is lost.
    pub fn disconnect_all(&self) {
        let mut state = self.state();
        state.life += 1;
        state.open_connections = 0;
    }

    /// Bytes that fit in all; writes beyond are `dest_no_space`.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        self.state().capacity = capacity;
    }

    /// More connections than this at once are refused.
    pub fn limit_connections(&self, limit: Option<usize>) {
        self.state().connection_limit = limit;
    }

    /// Holds for connections opened from now on.
    pub fn set_capabilities(&self, capabilities: Capabilities) {
        self.state().capabilities = capabilities;
    }

    /// Connections ever granted.
    pub fn connects(&self) -> usize {
        self.state().connects
    }

    /// Bytes ever accepted by writes, to see what was sent twice.
    pub fn accepted(&self) -> u64 {
        self.state().accepted
    }
}

#[async_trait]
impl Connector for MemoryDestination {
    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    async fn connect(&self) -> Result<Box<dyn Connection>> {
        let mut state = self.state();
        if let Some(limit) = state.connection_limit
            && state.open_connections >= limit
        {
            return Err(Error::new(ErrorKind::DestUnreachable, "connect to", crate::Subject::Server("memory".to_owned()))
                .because(format!("at most {limit} connections are allowed")));
        }
        state.open_connections += 1;
        state.connects += 1;
        Ok(Box::new(MemoryConnection {
            session: Arc::new(Session { state: self.state.clone(), life: state.life, closed: AtomicBool::new(false) }),
            capabilities: state.capabilities.clone(),
            identity: ServerIdentity { software: Some("memory".to_owned()), ..ServerIdentity::default() },
        }))
    }
}

/// What a connection shares with its open files.
#[derive(Debug)]
pub(super) struct Session {
    state: Arc<Mutex<State>>,
    life: u64,
    closed: AtomicBool,
}

impl Session {
    /// The server's state, while this session lives.
    pub(super) fn enter(&self, operation: &'static str, path: &RemotePath) -> Result<MutexGuard<'_, State>> {
        let state = lock(&self.state);
        if self.closed.load(Ordering::Acquire) || state.life != self.life {
            return Err(Error::new(ErrorKind::NetworkReset, operation, path).because("the connection is closed").on_lost_connection());
        }
        Ok(state)
    }

    fn end(&self) {
        let mut state = lock(&self.state);
        if !self.closed.swap(true, Ordering::AcqRel) && state.life == self.life {
            state.open_connections = state.open_connections.saturating_sub(1);
        }
    }
}

#[derive(Debug)]
pub struct MemoryConnection {
    session: Arc<Session>,
    capabilities: Capabilities,
    identity: ServerIdentity,
}

impl Drop for MemoryConnection {
    fn drop(&mut self) {
        self.session.end();
    }
}

impl MemoryConnection {
    fn writer(&self, node: SharedNode, path: &RemotePath, readable: bool, writable: bool) -> Box<dyn Writer> {
        let readable = readable && self.capabilities.read;
        Box::new(MemoryWriter::new(self.session.clone(), node, path.clone(), readable, writable, self.capabilities.clone()))
    }
}

#[async_trait]
impl Connection for MemoryConnection {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn identity(&self) -> &ServerIdentity {
        &self.identity
    }

    async fn stat(&self, path: &RemotePath) -> Result<Option<Metadata>> {
        let state = self.session.enter("look at", path)?;
        let name = place(path);
        if state.directories.contains(&name) {
            return Ok(Some(Metadata { size: 0, modified: None, directory: true }));
        }
        Ok(state.files.get(&name).map(|node| {
            let node = lock(node);
            Metadata { size: node.now.size(), modified: node.modified, directory: false }
        }))
    }

    async fn list(&self, path: &RemotePath, limit: usize) -> Result<Vec<Entry>> {
        let state = self.session.enter("list", path)?;
        let directory = place(path);
        if !state.directories.contains(&directory) {
            return Err(refused(ErrorKind::DestDirMissing, "list", path, "there is no such directory"));
        }
        let inside = |name: &&String| name.as_str() != "/" && parent(name) == directory;
        let entry = |name: &String, metadata: Metadata| Entry {
            name: name.rsplit('/').next().unwrap_or_default().to_owned(),
            exact: true,
            metadata,
        };
        let directories =
            state.directories.iter().filter(inside).map(|name| entry(name, Metadata { size: 0, modified: None, directory: true }));
        let files = state.files.iter().filter(|(name, _)| inside(name)).map(|(name, node)| {
            let node = lock(node);
            entry(name, Metadata { size: node.now.size(), modified: node.modified, directory: false })
        });
        Ok(directories.chain(files).take(limit).collect())
    }

    async fn make_directory(&self, path: &RemotePath) -> Result<()> {
        let mut state = self.session.enter("create the directory", path)?;
        let name = place(path);
        if state.files.contains_key(&name) {
            return Err(refused(ErrorKind::DestExists, "create the directory", path, "a file has this name"));
        }
        if !state.parent_exists(&name) {
            return Err(refused(ErrorKind::DestDirMissing, "create the directory", path, "its parent is missing"));
        }
        state.directories.insert(name);
        Ok(())
    }

    async fn remove_directory(&self, path: &RemotePath) -> Result<()> {
        let mut state = self.session.enter("remove the directory", path)?;
        let name = place(path);
        if state.files.contains_key(&name) {
            return Err(refused(ErrorKind::DestDenied, "remove the directory", path, "it is a file"));
        }
        let below = format!("{name}/");
        if state.files.keys().chain(&state.directories).any(|other| other.starts_with(&below)) {
            return Err(refused(ErrorKind::DestExists, "remove the directory", path, "it is not empty"));
        }
        state.directories.remove(&name);
        Ok(())
    }

    async fn open(&self, path: &RemotePath, options: CreateOptions) -> Result<Box<dyn Writer>> {
        let mut state = self.session.enter("open", path)?;
        let name = place(path);
        if state.directories.contains(&name) {
            let kind = if matches!(options.mode, OpenMode::CreateNew | OpenMode::CreateOwn) {
                ErrorKind::DestExists
            } else {
                ErrorKind::DestDenied
            };
            return Err(refused(kind, "open", path, "it is a directory"));
        }
        let existing = state.files.get(&name).cloned();
        let node = match (options.mode, existing) {
            (OpenMode::CreateNew | OpenMode::CreateOwn, Some(_)) => {
                return Err(refused(ErrorKind::DestExists, "open", path, "the name is taken"));
            }
            (OpenMode::Continue(_), Some(_)) if !self.capabilities.offset_writes && !self.capabilities.continues => {
                return Err(refused(ErrorKind::DestDenied, "open", path, "this server does not continue files"));
            }
            (OpenMode::Continue(at), Some(node)) if !self.capabilities.offset_writes => {
                let mut content = lock(&node);
                if at > content.now.size() {
                    return Err(refused(ErrorKind::DestProtocol, "open", path, "the offset is beyond the end"));
                }
                content.now.truncate(at);
                drop(content);
                node
            }
            (OpenMode::Existing | OpenMode::Continue(_), Some(node)) => node,
            (OpenMode::Existing | OpenMode::Continue(_), None) => {
                return Err(refused(ErrorKind::DestDirMissing, "open", path, "there is no such file"));
            }
            (OpenMode::Truncate, Some(node)) => {
                lock(&node).now = Default::default();
                node
            }
            (OpenMode::CreateNew | OpenMode::CreateOwn | OpenMode::Truncate, None) => {
                if !state.parent_exists(&name) {
                    return Err(refused(ErrorKind::DestDirMissing, "open", path, "its directory is missing"));
                }
                let node = SharedNode::default();
                lock(&node).permissions = options.permissions.filter(|_| self.capabilities.set_mode);
                state.files.insert(name, node.clone());
                node
            }
        };
        Ok(self.writer(node, path, options.read, true))
    }

    async fn open_read(&self, path: &RemotePath) -> Result<Box<dyn Writer>> {
        let state = self.session.enter("open", path)?;
        if !self.capabilities.read {
            return Err(refused(ErrorKind::DestDenied, "open", path, "this server does not let files be read"));
        }
        match state.files.get(&place(path)) {
            Some(node) => Ok(self.writer(node.clone(), path, true, false)),
            None => Err(refused(ErrorKind::DestDirMissing, "open", path, "there is no such file")),
        }
    }

    async fn rename(&self, from: &RemotePath, to: &RemotePath, mode: RenameMode) -> Result<()> {
        let mut state = self.session.enter("rename a file to", to)?;
        let (old, new) = (place(from), place(to));
        if !state.files.contains_key(&old) {
            return Err(refused(ErrorKind::DestDirMissing, "rename a file to", to, "the old name is missing"));
        }
        if !state.parent_exists(&new) {
            return Err(refused(ErrorKind::DestDirMissing, "rename a file to", to, "its directory is missing"));
        }
        let taken = state.files.contains_key(&new) && old != new;
        let may_replace = match mode {
            RenameMode::Replace => self.capabilities.atomic_replace,
            RenameMode::NoClobber => self.capabilities.no_clobber == NoClobber::Unsupported,
        };
        if state.directories.contains(&new) || (taken && !may_replace) {
            return Err(refused(ErrorKind::DestExists, "rename a file to", to, "the name is taken"));
        }
        let node = state.files.remove(&old).expect("it was there a moment ago, under the same lock");
        state.files.insert(new, node);
        Ok(())
    }

    async fn remove(&self, path: &RemotePath) -> Result<()> {
        let mut state = self.session.enter("remove", path)?;
        let name = place(path);
        if state.directories.contains(&name) {
            return Err(refused(ErrorKind::DestDenied, "remove", path, "it is a directory"));
        }
        state.files.remove(&name);
        Ok(())
    }

    async fn set_attributes(&self, path: &RemotePath, modified: Option<jiff::Timestamp>, permissions: Option<u32>) -> Result<()> {
        let state = self.session.enter("set attributes of", path)?;
        match state.files.get(&place(path)) {
            Some(node) => set_attributes(&self.capabilities, node, path, modified, permissions),
            None => Err(refused(ErrorKind::DestDirMissing, "set attributes of", path, "there is no such file")),
        }
    }

    async fn hash(&self, path: &RemotePath, algorithm: Algorithm) -> Result<Option<Digest>> {
        let node = {
            let state = self.session.enter("hash", path)?;
            if !self.capabilities.hashes.contains(&algorithm) {
                return Ok(None);
            }
            let missing = || refused(ErrorKind::DestDirMissing, "hash", path, "there is no such file");
            state.files.get(&place(path)).cloned().ok_or_else(missing)?
        };
        let node = lock(&node);
        let bytes = node.now.read(0, usize::try_from(node.now.size()).expect("test files fit in memory"));
        let value = match algorithm {
            Algorithm::Sha256 => sha2::Sha256::digest(&bytes).to_vec(),
            Algorithm::Md5 => md5::Md5::digest(&bytes).to_vec(),
            Algorithm::Crc64nvme => crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &bytes).to_be_bytes().to_vec(),
        };
        Ok(Some(Digest::new(algorithm, value).expect("each algorithm yields its own length")))
    }

    async fn free_space(&self, path: &RemotePath) -> Result<Option<u64>> {
        let state = self.session.enter("ask for the free space of", path)?;
        let known = self.capabilities.free_space;
        Ok(known.then(|| state.capacity.unwrap_or(1 << 50).saturating_sub(state.used())))
    }

    async fn ping(&self) -> Result<()> {
        self.session.enter("reach", &RemotePath::root()).map(|_| ())
    }

    async fn close(&self) -> Result<()> {
        self.session.end();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn path(text: &str) -> RemotePath {
        RemotePath::from_user(text).unwrap()
    }

    const NEW: CreateOptions = CreateOptions { mode: OpenMode::CreateNew, read: true, permissions: None };

    #[tokio::test]
    async fn a_crash_takes_what_was_not_synced_and_every_connection() {
        let server = MemoryDestination::new();
        let connection = server.connect().await.unwrap();
        let file = connection.open(&path("/in/a"), NEW).await.unwrap();
        file.write_at(0, Bytes::from_static(b"durable")).await.unwrap();
        file.sync().await.unwrap();
        file.write_at(7, Bytes::from_static(b" and lost")).await.unwrap();
        server.crash();
        assert_eq!(server.bytes("/in/a").unwrap(), b"durable");
        assert!(file.size().await.unwrap_err().is_connection_lost());
        assert!(connection.ping().await.is_err());
        assert!(server.connect().await.unwrap().ping().await.is_ok());
    }

    #[tokio::test]
    async fn a_full_server_says_so_at_once_or_at_the_end() {
        for confirms_writes in [true, false] {
            let server = MemoryDestination::with_capabilities(Capabilities { confirms_writes, ..MemoryDestination::everything() });
            server.set_capacity(Some(10));
            let connection = server.connect().await.unwrap();
            let file = connection.open(&path("/in/a"), NEW).await.unwrap();
            file.write_at(0, Bytes::from_static(b"0123456789")).await.unwrap();
            let late = file.write_at(10, Bytes::from_static(b"x")).await;
            let end = file.close().await;
            let error = if confirms_writes { late.unwrap_err() } else { end.unwrap_err() };
            assert_eq!(error.kind, ErrorKind::DestNoSpace);
            assert_eq!(connection.free_space(&path("/in")).await.unwrap(), Some(0));
        }
    }

    #[tokio::test]
    async fn a_dropped_connection_makes_room_for_another() {
        let server = MemoryDestination::new();
        server.limit_connections(Some(1));
        let first = server.connect().await.unwrap();
        assert_eq!(server.connect().await.unwrap_err().kind, ErrorKind::DestUnreachable);
        drop(first);
        let second = server.connect().await.unwrap();
        second.close().await.unwrap();
        drop(second);
        assert!(server.connect().await.is_ok());
        assert_eq!(server.connects(), 3);
    }

    #[tokio::test]
    async fn tests_see_and_place_files() {
        let server = MemoryDestination::new();
        server.put("/x/y/a", b"abc");
        assert_eq!(server.names(), ["/x/y/a"]);
        assert_eq!(server.take("/x/y/a").unwrap(), b"abc");
        assert_eq!(server.bytes("/x/y/a"), None);
        let connection = server.connect().await.unwrap();
        connection.open(&path("/~/b"), NEW).await.unwrap();
        assert_eq!(server.names(), ["/home/user/b"]);
    }
}
