//! An SSH and SFTP server in this process, on a free port of the loopback: the sandbox of the demonstration, and a
//! partner that misbehaves on demand. `Behaviour` says how, `on` intercepts anything else, `Recorder` tells what came.
//!
//! It runs on threads of its own, so a test may be single-threaded, block, or turn its own clock.

mod behaviour;
mod files;
mod keys;
mod operation;
mod recorder;
mod session;
mod ssh;
mod storage;
pub mod wire;

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use anyhow::Context;
use russh::keys::{Algorithm, HashAlg, PublicKey};
use russh::{MethodKind, MethodSet, SshId};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use behaviour::{Authentication, Behaviour, Corruption, CorruptionKind, Extensions, Limits, LoginLimit, LoginRefusal, RenameRule};
pub use operation::{NameEvent, NameEventKind, Operation, Verdict};
pub use recorder::{Attempts, Gauge, Recorder};
pub use storage::Loss;
pub use wire::Attributes;

pub(crate) use keys::{key_at, random};
pub(crate) use recorder::lock;
pub(crate) use storage::{Storage, attributes_of, listing_line, normalise};

type Hook = Box<dyn Fn(&Operation) -> Verdict + Send + Sync>;
type Watcher = Box<dyn Fn(&NameEvent) + Send + Sync>;

/// What all connections share.
pub(crate) struct Shared {
    storage: Storage,
    behaviour: RwLock<Arc<Behaviour>>,
    /// Turned by a kill; connections of an older generation do nothing any more.
    generation: RwLock<u64>,
    /// Sent whenever the behaviour or the generation changed.
    changes: watch::Sender<u64>,
    recorder: Recorder,
    hooks: RwLock<Vec<Hook>>,
    watchers: RwLock<Vec<Watcher>>,
    sockets: Mutex<HashMap<u64, std::net::TcpStream>>,
    user: String,
    password: String,
    accepted_keys: Mutex<Vec<PublicKey>>,
    next_handle: AtomicU64,
    handle_seed: [u8; 16],
    /// Files chosen to be stored wrongly, by the name under which they were created.
    spoilt: Mutex<Spoilt>,
}

#[derive(Default)]
struct Spoilt {
    files: HashSet<Arc<str>>,
    chosen: usize,
    tails: HashSet<Arc<str>>,
}

impl Shared {
    fn behaviour(&self) -> Arc<Behaviour> {
        self.behaviour.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn hold_generation(&self) -> RwLockReadGuard<'_, u64> {
        self.generation.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn generation(&self) -> u64 {
        *self.hold_generation()
    }

    fn verdict(&self, operation: &Operation) -> Verdict {
        let hooks = self.hooks.read().unwrap_or_else(PoisonError::into_inner);
        let decide = |hook: &Hook| match hook(operation) {
            Verdict::Proceed => None,
            verdict => Some(verdict),
        };
        hooks.iter().find_map(decide).unwrap_or(Verdict::Proceed)
    }

    fn named(&self, kind: NameEventKind, path: &Arc<str>, file: &Path) {
        if kind != NameEventKind::Removed {
            self.recorder.named(path);
        }
        let event = NameEvent { kind, path: path.clone(), file: file.to_owned() };
        self.watchers.read().unwrap_or_else(PoisonError::into_inner).iter().for_each(|watcher| watcher(&event));
    }

    /// Whether writes to this file are stored wrongly; a new file may be chosen for it.
    fn is_spoilt(&self, path: &Arc<str>, new: bool, behaviour: &Behaviour) -> bool {
        let Some(corruption) = behaviour.corruption else { return false };
        let mut spoilt = lock(&self.spoilt);
        if new {
            spoilt.files.remove(path);
            if spoilt.chosen < corruption.files {
                spoilt.chosen += 1;
                spoilt.files.insert(path.clone());
                spoilt.tails.insert(path.clone());
            }
        }
        spoilt.files.contains(path)
    }

    fn take_tail(&self, path: &Arc<str>) -> bool {
        lock(&self.spoilt).tails.remove(path)
    }

    /// Ends one TCP connection without a word of SSH.
    fn cut(&self, connection: u64) {
        if let Some(socket) = lock(&self.sockets).remove(&connection) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Settings of a server that does not run yet.
#[derive(Debug)]
pub struct SftpServerBuilder {
    root: Option<PathBuf>,
    keys: Option<PathBuf>,
    port: u16,
    user: String,
    password: Option<String>,
    behaviour: Behaviour,
}

impl SftpServerBuilder {
    /// Serves this directory, which is created if it is missing. Clients see it as `/`.
    pub fn root(mut self, directory: impl Into<PathBuf>) -> Self {
        self.root = Some(directory.into());
        self
    }

    /// Serves a private directory that goes with the server; in memory where the machine has room. The default.
    pub fn in_memory(mut self) -> Self {
        self.root = None;
        self
    }

    /// Keeps `host_key` and `client_key` in this directory, so that a restarted sandbox is still the known host.
    pub fn keys_in(mut self, directory: impl Into<PathBuf>) -> Self {
        self.keys = Some(directory.into());
        self
    }

    /// A port to listen on; 0, the default, takes a free one.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The only account; `partner` if not set.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = user.into();
        self
    }

    /// Its password; random if not set.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    pub fn behaviour(mut self, behaviour: Behaviour) -> Self {
        self.behaviour = behaviour;
        self
    }

    pub async fn start(self) -> anyhow::Result<SftpServer> {
        let (key_directory, temporary_keys) = match self.keys {
            Some(directory) => {
                std::fs::create_dir_all(&directory)?;
                (directory, None)
            }
            None => {
                let directory = tempfile::Builder::new().prefix("sftp-keys-").tempdir()?;
                (directory.path().to_owned(), Some(directory))
            }
        };
        let host_key = key_at(&key_directory.join("host_key"), "sandbox host")?;
        let client_key = key_at(&key_directory.join("client_key"), "sandbox client")?;
        let storage = match &self.root {
            Some(root) => Storage::on(root).with_context(|| format!("serve {}", root.display()))?,
            None => Storage::temporary()?,
        };
        let password = match self.password {
            Some(password) => password,
            None => data_encoding::HEXLOWER.encode(&random::<12>()?),
        };
        let shared = Arc::new(Shared {
            storage,
            behaviour: RwLock::new(Arc::new(self.behaviour)),
            generation: RwLock::new(0),
            changes: watch::Sender::new(0),
            recorder: Recorder::default(),
            hooks: RwLock::default(),
            watchers: RwLock::default(),
            sockets: Mutex::default(),
            user: self.user,
            password,
            accepted_keys: Mutex::new(vec![client_key.public_key().clone()]),
            next_handle: AtomicU64::new(1),
            handle_seed: random()?,
            spoilt: Mutex::default(),
        });
        let host_public = host_key.public_key().clone();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).context("listen on the loopback")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let config = Arc::new(russh::server::Config {
            server_id: SshId::Standard("SSH-2.0-FileFerrySandbox_1".into()),
            methods: MethodSet::from(&[MethodKind::PublicKey, MethodKind::Password, MethodKind::KeyboardInteractive][..]),
            auth_rejection_time: Duration::ZERO,
            keys: vec![host_key],
            inactivity_timeout: None,
            preferred: preferred(),
            nodelay: true,
            ..Default::default()
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("sftp-server").enable_all().build()?;
        {
            let _inside = runtime.enter();
            let listener = TcpListener::from_std(listener)?;
            runtime.spawn(accept(shared.clone(), config, listener));
        }
        Ok(SftpServer {
            shared,
            address,
            host_key: host_public,
            client_key: key_directory.join("client_key"),
            _temporary_keys: temporary_keys,
            runtime: Some(runtime),
        })
    }
}

/// The ciphers that OpenSSH offers, AES-GCM first: the library alone would leave aes128-gcm out.
fn preferred() -> russh::Preferred {
    use russh::cipher;
    russh::Preferred {
        cipher: vec![cipher::AES_128_GCM, cipher::AES_256_GCM, cipher::CHACHA20_POLY1305, cipher::AES_128_CTR, cipher::AES_256_CTR].into(),
        key: vec![Algorithm::Ed25519].into(),
        ..Default::default()
    }
}

async fn accept(shared: Arc<Shared>, config: Arc<russh::server::Config>, listener: TcpListener) {
    for number in 0.. {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // Out of descriptors, or the peer went before we looked; the next one may succeed.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        if shared.behaviour().refuses_connections {
            continue;
        }
        let generation = shared.generation();
        let Ok(stream) = keep_socket(&shared, number, stream) else { continue };
        let connection = ssh::Connection::new(shared.clone(), number, generation);
        let config = config.clone();
        tokio::spawn(async move {
            if let Ok(session) = russh::server::run_stream(config, stream, connection).await {
                // An error here is the client's end of the connection, or a cut that the test asked for.
                let _ = session.await;
            }
        });
    }
}

/// Keeps a second descriptor of the socket, so that the connection can be cut below SSH.
fn keep_socket(shared: &Shared, number: u64, stream: tokio::net::TcpStream) -> std::io::Result<tokio::net::TcpStream> {
    stream.set_nodelay(true)?;
    let stream = stream.into_std()?;
    lock(&shared.sockets).insert(number, stream.try_clone()?);
    tokio::net::TcpStream::from_std(stream)
}

/// A running server. Dropping it cuts every connection and frees the port.
pub struct SftpServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    host_key: PublicKey,
    client_key: PathBuf,
    _temporary_keys: Option<TempDir>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl std::fmt::Debug for SftpServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SftpServer").field("address", &self.address).field("root", &self.root()).finish_non_exhaustive()
    }
}

impl Drop for SftpServer {
    fn drop(&mut self) {
        self.kill_connections();
        if let Some(runtime) = self.runtime.take() {
            // Waits until every task is gone, so that nothing outlives the server's directory; on a thread of its own,
            // because a runtime may not be waited for inside another.
            let stopping = std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(2)));
            let _ = stopping.join();
        }
    }
}

impl SftpServer {
    pub fn builder() -> SftpServerBuilder {
        SftpServerBuilder { root: None, keys: None, port: 0, user: "partner".to_owned(), password: None, behaviour: Behaviour::default() }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `SHA256:…` as `ssh-keygen -l` prints it.
    pub fn host_key_fingerprint(&self) -> String {
        self.host_key.fingerprint(HashAlg::Sha256).to_string()
    }

    /// A line for a known_hosts file.
    pub fn known_hosts_line(&self) -> String {
        let key = self.host_key.to_openssh().expect("an Ed25519 key has a text form");
        let key = key.splitn(3, ' ').take(2).collect::<Vec<_>>().join(" ");
        format!("[{}]:{} {key}", self.address.ip(), self.address.port())
    }

    pub fn user(&self) -> &str {
        &self.shared.user
    }

    pub fn password(&self) -> &str {
        &self.shared.password
    }

    /// A private key that is let in; its public half lies beside it as `.pub`.
    pub fn client_key(&self) -> &Path {
        &self.client_key
    }

    /// Lets another key in, given as a line of an authorized_keys file.
    pub fn accept_key(&self, line: &str) -> anyhow::Result<()> {
        lock(&self.shared.accepted_keys).push(PublicKey::from_openssh(line)?);
        Ok(())
    }

    /// The directory that clients see as `/`.
    pub fn root(&self) -> &Path {
        self.shared.storage.root()
    }

    /// The file behind a client's path.
    pub fn file(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    pub fn recorder(&self) -> &Recorder {
        &self.shared.recorder
    }

    pub fn behaviour(&self) -> Behaviour {
        (*self.shared.behaviour()).clone()
    }

    /// Changes the behaviour from the next request on. Ending a stall lets the waiting requests go on.
    pub fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        {
            let mut behaviour = self.shared.behaviour.write().unwrap_or_else(PoisonError::into_inner);
            change(Arc::make_mut(&mut behaviour));
        }
        self.shared.changes.send_modify(|number| *number += 1);
    }

    /// Asks before every operation; the first hook that does not say `Proceed` decides. Called from several threads.
    /// A hook may change the behaviour and kill connections; it may not add hooks.
    pub fn on(&self, hook: impl Fn(&Operation) -> Verdict + Send + Sync + 'static) {
        self.shared.hooks.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(hook));
    }

    pub fn clear_hooks(&self) {
        self.shared.hooks.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Tells of every name that appears or goes, before the client hears of it. The operation is still under way, so a
    /// watcher may not kill connections or crash the server: both wait for operations to end.
    pub fn watch(&self, watcher: impl Fn(&NameEvent) + Send + Sync + 'static) {
        self.shared.watchers.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(watcher));
    }

    /// Cuts every connection. When this returns, nothing that was under way is written any more.
    pub fn kill_connections(&self) {
        self.kill(|| Ok(())).expect("nothing but locks and sockets");
    }

    /// The server "reboots": connections are cut, unsynced writes are lost (with `Behaviour::tracks_unsynced`), and
    /// new connections are served on the same port with the same keys.
    pub fn crash(&self, loss: Loss) -> std::io::Result<()> {
        self.kill(|| self.shared.storage.lose(loss))
    }

    fn kill(&self, meanwhile: impl FnOnce() -> std::io::Result<()>) -> std::io::Result<()> {
        let result = {
            let mut generation = self.shared.generation.write().unwrap_or_else(PoisonError::into_inner);
            *generation += 1;
            meanwhile()
        };
        self.shared.changes.send_modify(|number| *number += 1);
        for (_, socket) in lock(&self.shared.sockets).drain() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        result
    }
}
