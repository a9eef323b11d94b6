//! Faults of FTP and FTPS, and what must hold after each of them: the sandbox behind a proxy that breaks the line, and
//! real servers behind one on the same ports. The invariants are those of `faults`: I1 a final name holds nothing, the
//! old file or the whole new one; I2 an old file stays unless it was replaced; I4 little is sent again; I5 at most one
//! temporary file where it can be resumed, none after success; I7 everything ends; I8 every failure has a class, and
//! no text has a secret.

mod binary;
mod disk;
mod line;
mod names;
mod publishing;
mod real_lines;
mod replies;
mod rest;
mod takeover;
mod tls;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use model::{Endpoint, FileState, Protocol};
use testkit::ftp::{FtpProgram, FtpServerOptions};
use testkit::ftp_sandbox::{Action, Behaviour, FtpServer, NameEvent, NameEventKind, Operation, Security};
use testkit::proxy::{Direction, FaultProxy, PassiveReplies, Scope};
use transfer::ErrorKind;
use transfer::ftp::{FtpConfig, FtpConnector, Secret};
use transfer::memory::MemorySource;
use transfer::port::Delivery;
use transfer::retry::Backoff;

use crate::harness::{Ferry, Kept, pattern};

/// The sandbox's password: it must never be seen in a text.
const CANARY: &str = "canary-9b2e-password";
const RANGE: u64 = 512 << 10;
/// What lies in the sockets of a loopback connection and those of a proxy when it breaks.
const IN_FLIGHT: u64 = 8 << 20;
/// I4: one checkpoint interval for each connection.
const INTERVAL: u64 = 16 << 20;
/// What finding out whether a stream can be continued costs: two writes of a mark.
const PROBE: u64 = 32;
const OLD: &[u8] = b"what stood there before";
const BOUND: Duration = Duration::from_secs(40);

/// One transfer of some files to one directory of one server.
struct Cargo {
    source: MemorySource,
    ferry: Ferry,
    keys: Vec<&'static str>,
    olds: BTreeMap<&'static str, Vec<u8>>,
    disk: PathBuf,
    secret: String,
    /// What a watcher saw under final names that must not be there.
    wrong: Arc<Mutex<Vec<String>>>,
}

impl Cargo {
    fn new(connector: FtpConnector, root: &str, disk: PathBuf, secret: &str, files: &[(&'static str, usize)]) -> Self {
        let source = MemorySource::new();
        files.iter().for_each(|(key, size)| source.put(key, pattern(*size)));
        let mut ferry = Ferry::new(Arc::new(source.clone()), Arc::new(connector), root);
        ferry.tuning.range_size = RANGE;
        ferry.tuning.lanes = 1;
        // However slowly a busy machine answers.
        ferry.tuning.far = Duration::MAX;
        ferry.tuning.backoff = Backoff { attempts: 3, base: Duration::from_millis(10), cap: Duration::from_millis(40) };
        let keys = files.iter().map(|file| file.0).collect();
        Self { source, ferry, keys, olds: BTreeMap::new(), disk, secret: secret.to_owned(), wrong: Arc::default() }
    }

    fn put_old(&mut self, key: &'static str) {
        std::fs::write(self.disk.join(key), OLD).unwrap();
        self.olds.insert(key, OLD.to_vec());
    }

    /// A run as a new process. I7: it ends. I8: no secret in its error.
    async fn run(&self) -> transfer::Result<()> {
        let outcome = tokio::time::timeout(BOUND, self.ferry.run(&self.keys)).await.expect("every run ends");
        if let Err(error) = &outcome {
            let (text, debug) = (transfer::error::chain(error), format!("{error:?}"));
            assert!(!text.contains(&self.secret) && !debug.contains(&self.secret), "the password is shown: {text} {debug}");
        }
        self.check();
        outcome
    }

    fn there(&self, key: &str) -> Option<Vec<u8>> {
        std::fs::read(self.disk.join(key)).ok()
    }

    /// Names at the destination that are no final names.
    fn leftovers(&self) -> Vec<String> {
        let names = std::fs::read_dir(&self.disk).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| !self.keys.contains(&name.as_str()) && name != "lost+found").collect()
    }

    fn kept(&self, key: &str) -> Kept {
        let number = self.keys.iter().position(|k| *k == key).unwrap();
        self.ferry.records.kept(number as u32)
    }

    /// The invariants that hold at every rest.
    fn check(&self) {
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "under a final name: {wrong:?}");
        for key in &self.keys {
            let (there, kept) = (self.there(key), self.kept(key));
            let whole = there.as_deref() == self.source.bytes(key).as_deref();
            let delivered = kept.finished.as_ref().is_some_and(|f| f.state == FileState::Delivered);
            assert!(whole || !delivered, "{key} is recorded as delivered and not whole");
            let before = self.olds.get(key).map(Vec::as_slice);
            assert!(whole || there.as_deref() == before, "{key} is neither as before nor whole");
            if let Some((_, text, _)) = &kept.failed {
                assert!(!text.contains(&self.secret), "the password is shown: {text}");
            }
        }
        let unfinished = self.keys.iter().filter(|key| self.kept(key).finished.is_none()).count();
        assert!(self.leftovers().len() <= unfinished, "left: {:?} with {unfinished} unfinished", self.leftovers());
    }

    fn assert_delivered(&self, which: &str) {
        for key in &self.keys {
            self.delivered(key, which);
        }
        assert!(self.leftovers().is_empty(), "{which}: {:?}", self.leftovers());
    }

    fn delivered(&self, key: &str, which: &str) -> Box<Delivery> {
        self.check();
        let kept = self.kept(key);
        let finished = kept.finished.unwrap_or_else(|| panic!("{which}: {key} was not delivered: {:?}", kept.failed));
        assert_eq!(finished.state, FileState::Delivered, "{which}: {key}");
        finished.delivery.expect("a delivered file has its facts")
    }

    /// The class and the words of a failure.
    fn failed(&self, key: &str, which: &str) -> (ErrorKind, String) {
        let kept = self.kept(key);
        let (kind, text, _) = kept.failed.clone().unwrap_or_else(|| panic!("{which}: {key} did not fail: {kept:?}"));
        (kind, text)
    }

    fn size(&self) -> u64 {
        self.keys.iter().map(|key| self.source.bytes(key).unwrap().len() as u64).sum()
    }
}

/// The sandbox behind a proxy through which its data connections go too, while they are in clear text.
struct Voyage {
    server: Arc<FtpServer>,
    proxy: FaultProxy,
    cargo: Cargo,
}

impl Deref for Voyage {
    type Target = Cargo;

    fn deref(&self) -> &Cargo {
        &self.cargo
    }
}

/// An able server that does not compute digests, so that content is proved by reading it back.
fn able() -> Behaviour {
    Behaviour { hashes: false, ..Behaviour::default() }
}

impl Voyage {
    async fn new(behaviour: Behaviour, files: &[(&'static str, usize)]) -> Self {
        Self::secured(Security::Clear, behaviour, files).await
    }

    async fn secured(security: Security, behaviour: Behaviour, files: &[(&'static str, usize)]) -> Self {
        let server = FtpServer::builder().security(security).password(CANARY).behaviour(behaviour).start().await.unwrap();
        std::fs::create_dir(server.file("/in")).unwrap();
        let proxy = FaultProxy::start(server.address()).await;
        proxy.rewrite(Direction::ToClient, || Box::new(PassiveReplies::new()));
        let connector = FtpConnector::new(sandbox_config(&server, proxy.address())).unwrap();
        let cargo = Cargo::new(connector, "/in", server.file("/in"), CANARY, files);
        watch(&server, &cargo);
        Self { server: Arc::new(server), proxy, cargo }
    }

    fn config(&self) -> FtpConfig {
        sandbox_config(&self.server, self.proxy.address())
    }

    fn connect_with(&mut self, config: FtpConfig) {
        self.cargo.ferry.connector = Arc::new(FtpConnector::new(config).unwrap());
    }

    /// I4, beside what holds for every server.
    async fn run(&self) -> transfer::Result<()> {
        let outcome = self.cargo.run().await;
        let logins = self.proxy.connections().iter().filter(|connection| !connection.passive).count() as u64;
        assert!(self.sent_again() <= logins * (INTERVAL + IN_FLIGHT), "{} bytes were sent again", self.sent_again());
        outcome
    }

    /// Bytes that the server took beyond the size of the files.
    fn sent_again(&self) -> u64 {
        self.server.recorder().bytes_received().saturating_sub(self.size())
    }

    fn data(&self, direction: Direction) -> u64 {
        self.proxy.on(Scope::Data).bytes(direction)
    }

    /// Answers the operation number `nth` (from 0) that is `verb` with `action`, and all others as ever.
    fn once(&self, verb: &'static str, nth: u64, action: Action) {
        let seen = AtomicU64::new(0);
        self.server.on(move |operation: &Operation| match operation.is(verb) && seen.fetch_add(1, SeqCst) == nth {
            true => action.clone(),
            false => Action::Proceed,
        });
    }

    /// The commands that begin like this, of all connections.
    fn commands(&self, start: &str) -> Vec<String> {
        self.server.recorder().commands().into_iter().filter(|line| line.starts_with(start)).collect()
    }
}

fn sandbox_config(server: &FtpServer, address: SocketAddr) -> FtpConfig {
    let protocol = match server.security() {
        Security::Clear => Protocol::Ftp,
        Security::Explicit => Protocol::Ftpes,
        Security::Implicit => Protocol::Ftps,
    };
    let user = Some(server.user().to_owned());
    let mut config = FtpConfig::new(Endpoint { protocol, host: address.ip().to_string(), port: Some(address.port()), user });
    config.password = Some(Secret::new(server.password()));
    config.tls.ca_files = vec![server.authority().to_owned()];
    patient(config)
}

/// Gives up soon, and not so soon that a busy machine looks like a broken line.
fn patient(mut config: FtpConfig) -> FtpConfig {
    config.connect_timeout = Duration::from_secs(10);
    config.stall_timeout = Duration::from_secs(4);
    config.reply_timeout = Duration::from_secs(4);
    config
}

/// Looks at every final name at the moment it appears or goes.
fn watch(server: &FtpServer, cargo: &Cargo) {
    let (source, keys, wrong) = (cargo.source.clone(), cargo.keys.clone(), cargo.wrong.clone());
    server.watch(move |NameEvent { kind, path, file }| {
        let Some(key) = keys.iter().find(|key| **path == format!("/in/{key}")) else { return };
        let whole = std::fs::read(file).ok().as_deref() == source.bytes(key).as_deref();
        match kind {
            NameEventKind::Created | NameEventKind::Emptied => wrong.lock().unwrap().push(format!("{key} was {kind:?}")),
            NameEventKind::RenamedFrom(_) if !whole => wrong.lock().unwrap().push(format!("{key} appeared and was not whole")),
            NameEventKind::Removed => wrong.lock().unwrap().push(format!("{key} was removed")),
            _ => {}
        }
    });
}

/// A real server behind a proxy on the same ports of 127.0.0.2, data connections included.
struct Harbour {
    server: testkit::ftp::FtpServer,
    proxy: FaultProxy,
    cargo: Cargo,
}

impl Deref for Harbour {
    type Target = Cargo;

    fn deref(&self) -> &Cargo {
        &self.cargo
    }
}

impl Harbour {
    /// `None` where this machine may lack the server.
    async fn new(program: FtpProgram, options: FtpServerOptions, files: &[(&'static str, usize)]) -> Option<Self> {
        let server = crate::ftp::start(program, options).await?;
        let proxy = FaultProxy::mirror(server.address(), server.passive_ports()).await.unwrap();
        let connector = FtpConnector::new(real_config(&server, proxy.address())).unwrap();
        let cargo = Cargo::new(connector, server.directory(), server.root().to_owned(), server.password(), files);
        Some(Self { server, proxy, cargo })
    }

    fn config(&self) -> FtpConfig {
        real_config(&self.server, self.proxy.address())
    }

    fn connect_with(&mut self, config: FtpConfig) {
        self.cargo.ferry.connector = Arc::new(FtpConnector::new(config).unwrap());
    }

    fn name(&self) -> &'static str {
        self.server.program().name()
    }

    fn data(&self, direction: Direction) -> u64 {
        self.proxy.on(Scope::Data).bytes(direction)
    }

    /// Waits until so many bytes have passed to the server on data connections.
    async fn sent(&self, bytes: u64) {
        let reached = async {
            while self.data(Direction::ToServer) < bytes {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(BOUND, reached).await.expect("bytes are sent");
    }
}

fn real_config(server: &testkit::ftp::FtpServer, address: SocketAddr) -> FtpConfig {
    let mut config = crate::ftp::config(server);
    config.endpoint.host = address.ip().to_string();
    patient(config)
}

/// ProFTPD goes on with uploads only where it is told to.
fn resuming(program: FtpProgram) -> FtpServerOptions {
    FtpServerOptions { permissive: program == FtpProgram::Proftpd, ..FtpServerOptions::default() }
}

/// Works on all of these, so many at a time, and tells of every one that fails.
async fn each<T>(cases: impl IntoIterator<Item = T>, at_once: usize, work: impl AsyncFn(T)) {
    let caught = |case| AssertUnwindSafe(work(case)).catch_unwind();
    let outcomes: Vec<_> = futures_util::stream::iter(cases.into_iter().map(caught)).buffer_unordered(at_once).collect().await;
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    assert_eq!(failed, 0, "of {} cases", outcomes.len());
}

/// Whether the long form of a test was asked for.
fn slow() -> bool {
    std::env::var("FILEFERRY_SLOW").is_ok_and(|value| value == "1")
}
