//! An FTP and FTPS server in this process, on a free port of the loopback: the sandbox of the demonstration, and a
//! partner that misbehaves on demand. `Behaviour` says how, `on` intercepts anything else, `Script` answers byte by
//! byte, `Recorder` tells what came.
//!
//! It runs on threads of its own, so a test may be single-threaded, block, or turn its own clock.

mod behaviour;
mod certificate;
mod commands;
mod control;
mod data;
mod listing;
mod operation;
mod recorder;
mod script;
mod session;
mod transfer;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use crate::sftp::{Corruption, CorruptionKind, Gauge, NameEvent, NameEventKind};
pub use behaviour::{
    Behaviour, Cut, FinalReply, Full, LoginLimit, LoginRefusal, Names, Noop, Passive, Rename, Restart, RestartRule, SessionReuse,
    TlsVersions,
};
pub use operation::{Action, Operation};
pub use recorder::{DataEnd, DataSeen, Event, Recorder, TlsSeen};
pub use script::{DataStep, Script, Step};

use crate::pace::Pacer;
use crate::sftp::{Storage, lock, random};
use certificate::Certificate;

type Hook = Box<dyn Fn(&Operation) -> Action + Send + Sync>;
type Watcher = Box<dyn Fn(&NameEvent) + Send + Sync>;

/// What the port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Clear text; AUTH is unknown.
    Clear,
    /// Clear text until AUTH TLS.
    Explicit,
    /// TLS from the first byte.
    Implicit,
}

/// What all connections share.
pub(crate) struct Shared {
    storage: Storage,
    certificate: Certificate,
    security: Security,
    behaviour: RwLock<Arc<Behaviour>>,
    recorder: Recorder,
    hooks: RwLock<Vec<Hook>>,
    watchers: RwLock<Vec<Watcher>>,
    scripts: Mutex<VecDeque<Script>>,
    user: String,
    password: String,
    pacer: Pacer,
    cuts_done: AtomicUsize,
    file_locks: Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>,
    /// Files chosen to be stored wrongly, by name, and how many were chosen so far.
    spoilt: Mutex<(HashSet<Arc<str>>, usize)>,
    generation: watch::Sender<u64>,
}

impl Shared {
    fn behaviour(&self) -> Arc<Behaviour> {
        self.behaviour.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn action(&self, operation: &Operation) -> Action {
        let hooks = self.hooks.read().unwrap_or_else(PoisonError::into_inner);
        let decide = |hook: &Hook| match hook(operation) {
            Action::Proceed => None,
            action => Some(action),
        };
        hooks.iter().find_map(decide).unwrap_or(Action::Proceed)
    }

    fn named(&self, kind: NameEventKind, path: &Arc<str>, file: &Path) {
        let event = NameEvent { kind, path: path.clone(), file: file.to_owned() };
        self.watchers.read().unwrap_or_else(PoisonError::into_inner).iter().for_each(|watcher| watcher(&event));
    }

    /// The script of the next connection; the last one stays for all that follow.
    fn take_script(&self) -> Option<Script> {
        let mut scripts = lock(&self.scripts);
        if scripts.len() > 1 { scripts.pop_front() } else { scripts.front().cloned() }
    }

    /// Whether the connection is to be closed at this point, once more.
    fn cuts(&self, behaviour: &Behaviour, point: Cut) -> bool {
        let more = |done: usize| (done < behaviour.cut_times).then_some(done + 1);
        behaviour.cut == Some(point) && self.cuts_done.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    fn file_lock(&self, real: &Path) -> Arc<tokio::sync::Mutex<()>> {
        lock(&self.file_locks).entry(real.to_owned()).or_default().clone()
    }

    /// How this file is stored wrongly; one that is begun anew may be chosen for it.
    fn lie(&self, path: &Arc<str>, new: bool, behaviour: &Behaviour) -> Option<Corruption> {
        let lie = behaviour.lie?;
        let mut spoilt = lock(&self.spoilt);
        let (files, chosen) = &mut *spoilt;
        if new {
            files.remove(path);
            if *chosen < lie.files {
                *chosen += 1;
                files.insert(path.clone());
            }
        }
        files.contains(path).then_some(lie)
    }
}

/// Settings of a server that does not run yet.
#[derive(Debug)]
pub struct FtpServerBuilder {
    root: Option<PathBuf>,
    certificates: Option<PathBuf>,
    address: IpAddr,
    port: u16,
    user: String,
    password: Option<String>,
    security: Security,
    behaviour: Behaviour,
    scripts: Vec<Script>,
}

impl FtpServerBuilder {
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

    /// Keeps `authority.pem`, `server.pem` and `server.key` in this directory, so that a restarted sandbox still has the
    /// known certificate.
    pub fn certificates_in(mut self, directory: impl Into<PathBuf>) -> Self {
        self.certificates = Some(directory.into());
        self
    }

    /// The loopback address to listen on; 127.0.0.1 if not set.
    pub fn listen_on(mut self, address: IpAddr) -> Self {
        self.address = address;
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

    /// Explicit if not set, which also speaks clear text to those who do not ask.
    pub fn security(mut self, security: Security) -> Self {
        self.security = security;
        self
    }

    pub fn behaviour(mut self, behaviour: Behaviour) -> Self {
        self.behaviour = behaviour;
        self
    }

    /// Answers one connection with this; called again, the next one. The last script serves all that follow.
    pub fn script(mut self, script: Script) -> Self {
        self.scripts.push(script);
        self
    }

    pub async fn start(self) -> anyhow::Result<FtpServer> {
        let (certificates, temporary) = match self.certificates {
            Some(directory) => {
                std::fs::create_dir_all(&directory)?;
                (directory, None)
            }
            None => {
                let directory = tempfile::Builder::new().prefix("ftps-certificates-").tempdir()?;
                (directory.path().to_owned(), Some(directory))
            }
        };
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
            certificate: Certificate::at(&certificates)?,
            security: self.security,
            behaviour: RwLock::new(Arc::new(self.behaviour)),
            recorder: Recorder::default(),
            hooks: RwLock::default(),
            watchers: RwLock::default(),
            scripts: Mutex::new(self.scripts.into()),
            user: self.user,
            password,
            pacer: Pacer::new(),
            cuts_done: AtomicUsize::new(0),
            file_locks: Mutex::default(),
            spoilt: Mutex::default(),
            generation: watch::Sender::new(0),
        });
        let listener = std::net::TcpListener::bind((self.address, self.port)).context("listen on the loopback")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("ftp-server").enable_all().build()?;
        {
            let _inside = runtime.enter();
            runtime.spawn(accept(shared.clone(), TcpListener::from_std(listener)?));
        }
        Ok(FtpServer { shared, address, _temporary: temporary, runtime: Some(runtime) })
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    for number in 0.. {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // Out of descriptors, or the peer went before we looked; the next one may succeed.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        if shared.behaviour().refuses_connections || stream.set_nodelay(true).is_err() {
            continue;
        }
        let mut generation = shared.generation.subscribe();
        let connection = session::serve(shared.clone(), number, stream);
        tokio::spawn(async move {
            tokio::select! {
                () = connection => {}
                _ = generation.changed() => {}
            }
        });
    }
}

/// A running server. Dropping it cuts every connection and frees the port.
pub struct FtpServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    _temporary: Option<TempDir>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl std::fmt::Debug for FtpServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FtpServer").field("address", &self.address).field("root", &self.root()).finish_non_exhaustive()
    }
}

impl Drop for FtpServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waits until every task is gone, so that nothing outlives the server's directory; on a thread of its own,
            // because a runtime may not be waited for inside another.
            let stopping = std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(2)));
            let _ = stopping.join();
        }
    }
}

impl FtpServer {
    pub fn builder() -> FtpServerBuilder {
        FtpServerBuilder {
            root: None,
            certificates: None,
            address: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            user: "partner".to_owned(),
            password: None,
            security: Security::Explicit,
            behaviour: Behaviour::default(),
            scripts: Vec::new(),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn security(&self) -> Security {
        self.shared.security
    }

    /// The PEM file of the authority that signed the server's certificate.
    pub fn authority(&self) -> &Path {
        &self.shared.certificate.authority
    }

    /// `SHA256:…` (base64 without padding) of the server's certificate.
    pub fn fingerprint(&self) -> &str {
        &self.shared.certificate.fingerprint
    }

    pub fn user(&self) -> &str {
        &self.shared.user
    }

    pub fn password(&self) -> &str {
        &self.shared.password
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

    /// Changes the behaviour from the next command on; what concerns TLS from the next connection on.
    pub fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        let mut behaviour = self.shared.behaviour.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut behaviour));
    }

    /// Answers connections from now on with these scripts, one each; none is what the behaviour says.
    pub fn follow(&self, scripts: impl IntoIterator<Item = Script>) {
        *lock(&self.shared.scripts) = scripts.into_iter().collect();
    }

    /// Asks before every operation; the first hook that does not say `Proceed` decides. Called from several threads.
    /// A hook may change the behaviour and kill connections; it may not add hooks.
    pub fn on(&self, hook: impl Fn(&Operation) -> Action + Send + Sync + 'static) {
        self.shared.hooks.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(hook));
    }

    pub fn clear_hooks(&self) {
        self.shared.hooks.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Tells of every name that appears or goes, before the client hears of it.
    pub fn watch(&self, watcher: impl Fn(&NameEvent) + Send + Sync + 'static) {
        self.shared.watchers.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(watcher));
    }

    /// Cuts every connection, orphans too. Each stops at its next wait, so a block under way may still be written.
    pub fn kill_connections(&self) {
        self.shared.generation.send_modify(|number| *number += 1);
    }
}
