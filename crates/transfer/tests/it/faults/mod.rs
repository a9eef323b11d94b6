//! Faults, and what must hold after each of them: a sandbox SFTP server behind a proxy that breaks the line, and the
//! checker of the invariants. I1: a final name holds nothing, the old file or the whole new one at every moment.
//! I2: an old file stays unless it was replaced. I4: little is sent again. I5: at most one temporary file where it can
//! be resumed, none after success. I7: everything ends. I8: every failure has a class, and no text has a secret.

mod destination;
mod every_operation;
mod network;
mod takeover;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use model::{Endpoint, FileState, Protocol};
use testkit::proxy::{Direction, FaultProxy};
use testkit::sftp::{Behaviour, NameEvent, NameEventKind, SftpServer};
use transfer::memory::MemorySource;
use transfer::retry::Backoff;
use transfer::sftp::{Secret, SftpConfig, SftpConnector};
use transfer::{Error, ErrorKind};

use crate::harness::{Ferry, pattern};

/// The password: it must never be seen in a text.
const CANARY: &str = "canary-6f1d-password";
const RANGE: u64 = 512 << 10;
/// What one connection may have sent and not yet heard of.
const IN_FLIGHT: u64 = 2 << 20;
/// I4: one checkpoint interval for each connection.
const INTERVAL: u64 = 16 << 20;
const OLD: &[u8] = b"what stood there before";

/// One transfer of some files to one server through one proxy.
struct Voyage {
    server: Arc<SftpServer>,
    proxy: FaultProxy,
    source: MemorySource,
    ferry: Ferry,
    keys: Vec<&'static str>,
    olds: BTreeMap<&'static str, Vec<u8>>,
    /// What the watcher saw under final names that must not be there.
    wrong: Arc<Mutex<Vec<String>>>,
}

impl Voyage {
    async fn new(behaviour: Behaviour, files: &[(&'static str, usize)]) -> Self {
        Self::with_old(behaviour, files, &[]).await
    }

    async fn with_old(behaviour: Behaviour, files: &[(&'static str, usize)], olds: &[&'static str]) -> Self {
        let server = Arc::new(SftpServer::builder().password(CANARY).behaviour(behaviour).start().await.unwrap());
        std::fs::create_dir(server.file("/in")).unwrap();
        let source = MemorySource::new();
        files.iter().for_each(|(key, size)| source.put(key, pattern(*size)));
        let olds: BTreeMap<_, _> = olds.iter().map(|key| (*key, OLD.to_vec())).collect();
        for (key, bytes) in &olds {
            std::fs::write(server.file(&format!("/in/{key}")), bytes).unwrap();
        }
        let proxy = FaultProxy::start(server.address()).await;
        let connector = SftpConnector::new(config(&server, proxy.port()));
        let mut ferry = Ferry::new(Arc::new(source.clone()), Arc::new(connector), "/in");
        ferry.tuning.range_size = RANGE;
        ferry.tuning.connections = Some(2);
        ferry.tuning.backoff = Backoff { attempts: 3, base: Duration::from_millis(5), cap: Duration::from_millis(20) };
        let wrong = Arc::new(Mutex::new(Vec::new()));
        let keys: Vec<_> = files.iter().map(|file| file.0).collect();
        watch(&server, &source, &keys, wrong.clone());
        Self { server, proxy, source, ferry, keys, olds, wrong }
    }

    fn config(&self) -> SftpConfig {
        config(&self.server, self.proxy.port())
    }

    fn connect_with(&mut self, config: SftpConfig) {
        self.ferry.connector = Arc::new(SftpConnector::new(config));
    }

    /// A run as a new process. I7: it ends. I8: no secret in its error.
    async fn run(&self) -> transfer::Result<()> {
        let run = tokio::time::timeout(Duration::from_secs(20), self.ferry.run(&self.keys));
        let outcome = run.await.expect("every run ends");
        if let Err(error) = &outcome {
            no_secret(error);
        }
        self.check();
        outcome
    }

    fn there(&self, key: &str) -> Option<Vec<u8>> {
        std::fs::read(self.server.file(&format!("/in/{key}"))).ok()
    }

    /// Names at the destination that are no final names.
    fn leftovers(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.server.file("/in")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !self.keys.contains(&name.as_str())).collect()
    }

    fn kept(&self, key: &str) -> crate::harness::Kept {
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
                assert!(!text.contains(CANARY), "the password is shown: {text}");
            }
        }
        let unfinished = self.keys.iter().filter(|key| self.kept(key).finished.is_none()).count();
        assert!(self.leftovers().len() <= unfinished, "left: {:?} with {unfinished} unfinished", self.leftovers());
        let size: u64 = self.keys.iter().map(|key| self.source.bytes(key).unwrap().len() as u64).sum();
        let again = self.server.recorder().bytes_written().saturating_sub(size);
        assert!(again <= self.proxy.accepted() * (INTERVAL + IN_FLIGHT), "{again} bytes were sent again");
    }

    fn assert_delivered(&self, which: &str) {
        self.check();
        for key in &self.keys {
            let kept = self.kept(key);
            let finished = kept.finished.unwrap_or_else(|| panic!("{which}: {key} was not delivered: {:?}", kept.failed));
            assert_eq!(finished.state, FileState::Delivered, "{which}: {key}");
        }
        assert!(self.leftovers().is_empty(), "{which}: {:?}", self.leftovers());
    }

    /// Acknowledged bytes of writes beyond the size of the files.
    fn sent_again(&self) -> u64 {
        let size: u64 = self.keys.iter().map(|key| self.source.bytes(key).unwrap().len() as u64).sum();
        self.server.recorder().bytes_written().saturating_sub(size)
    }

    /// A failure of `key`, with its class. It must say nothing secret.
    fn failed(&self, key: &str) -> ErrorKind {
        self.kept(key).failed.unwrap_or_else(|| panic!("{key} did not fail: {:?}", self.kept(key))).0
    }

    fn to_server(&self) -> u64 {
        self.proxy.bytes(Direction::ToServer)
    }
}

fn config(server: &SftpServer, port: u16) -> SftpConfig {
    let endpoint =
        Endpoint { protocol: Protocol::Sftp, host: "127.0.0.1".to_owned(), port: Some(port), user: Some(server.user().to_owned()) };
    let mut config = SftpConfig::new(endpoint);
    config.password = Some(Secret::new(CANARY));
    config.host_key_pins = vec![server.host_key_fingerprint()];
    config.connect_timeout = Duration::from_secs(5);
    config.stall_timeout = Duration::from_secs(5);
    config
}

fn no_secret(error: &Error) {
    let (text, debug) = (transfer::error::chain(error), format!("{error:?}"));
    assert!(!text.contains(CANARY) && !debug.contains(CANARY), "the password is shown: {text} {debug}");
}

/// Looks at every final name at the moment it appears or goes.
fn watch(server: &SftpServer, source: &MemorySource, keys: &[&'static str], wrong: Arc<Mutex<Vec<String>>>) {
    let (source, keys) = (source.clone(), keys.to_vec());
    server.watch(move |NameEvent { kind, path, file }| {
        let Some(key) = keys.iter().find(|key| **path == format!("/in/{key}")) else { return };
        let whole = std::fs::read(file).ok().as_deref() == source.bytes(key).as_deref();
        match kind {
            NameEventKind::Created | NameEventKind::Emptied => wrong.lock().unwrap().push(format!("{key} was {kind:?}")),
            NameEventKind::RenamedFrom(_) | NameEventKind::LinkedFrom(_) if !whole => {
                wrong.lock().unwrap().push(format!("{key} appeared and was not whole"));
            }
            NameEventKind::Removed if std::fs::exists(file).is_ok_and(|there| !there) => {
                wrong.lock().unwrap().push(format!("{key} was removed"));
            }
            _ => {}
        }
    });
}
