//! A wrapper around any connector that breaks one operation, or all from one on: before or after its effect, with or
//! without losing the connection. It counts every call, and lets a test look at the destination after each.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use model::{Algorithm, Digest, Endpoint, RemotePath};
use transfer::{
    Capabilities, Connection, Connector, CreateOptions, Entry, Error, ErrorKind, Metadata, RenameMode, Result, ServerIdentity, Subject,
    Writer,
};

/// What happens to the operation with the number of the break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// Refused, nothing done.
    Refused,
    /// Done, and answered with an error.
    DoneAndRefused,
    /// The connection is lost, nothing done.
    Lost,
    /// Done, then the connection is lost instead of an answer.
    DoneAndLost,
}

impl Break {
    pub const ALL: [Self; 4] = [Self::Refused, Self::DoneAndRefused, Self::Lost, Self::DoneAndLost];

    fn does(self) -> bool {
        matches!(self, Self::DoneAndRefused | Self::DoneAndLost)
    }

    fn loses(self) -> bool {
        matches!(self, Self::Lost | Self::DoneAndLost)
    }
}

type Look = Box<dyn Fn(u64, &'static str) + Send + Sync>;

struct Shared {
    at: u64,
    how: Break,
    /// Every later operation is broken as well: the process never gets anywhere again.
    for_good: bool,
    only: Option<&'static str>,
    count: AtomicU64,
    names: Mutex<Vec<&'static str>>,
    look: Option<Look>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "breaks {} ({:?})", self.at, self.how)
    }
}

#[derive(Debug, Clone)]
pub struct Failing {
    inner: Arc<dyn Connector>,
    shared: Arc<Shared>,
}

impl Failing {
    /// Breaks operation number `at`, from 0.
    pub fn new(inner: Arc<dyn Connector>, at: u64, how: Break) -> Self {
        let shared = Shared { at, how, for_good: false, only: None, count: AtomicU64::new(0), names: Mutex::default(), look: None };
        Self { inner, shared: Arc::new(shared) }
    }

    /// Breaks nothing: for counting and looking.
    pub fn never(inner: Arc<dyn Connector>) -> Self {
        Self::new(inner, u64::MAX, Break::Refused)
    }

    fn change(mut self, change: impl FnOnce(&mut Shared)) -> Self {
        change(Arc::get_mut(&mut self.shared).expect("changed before it is used"));
        self
    }

    pub fn for_good(self) -> Self {
        self.change(|shared| shared.for_good = true)
    }

    /// Counts and breaks operations of this name only.
    pub fn only(self, name: &'static str) -> Self {
        self.change(|shared| shared.only = Some(name))
    }

    /// Called after every operation with its number and name.
    pub fn look(self, look: impl Fn(u64, &'static str) + Send + Sync + 'static) -> Self {
        self.change(|shared| shared.look = Some(Box::new(look)))
    }

    /// Operations so far.
    pub fn operations(&self) -> Vec<&'static str> {
        self.shared.names.lock().unwrap().clone()
    }
}

#[async_trait]
impl Connector for Failing {
    fn endpoint(&self) -> &Endpoint {
        self.inner.endpoint()
    }

    async fn connect(&self) -> Result<Box<dyn Connection>> {
        let link = Arc::new(Link { shared: self.shared.clone(), dead: AtomicBool::new(false) });
        let inner = link.call("connect", self.inner.connect()).await?;
        Ok(Box::new(FailingConnection { inner, link }))
    }
}

#[derive(Debug)]
struct Link {
    shared: Arc<Shared>,
    dead: AtomicBool,
}

impl Link {
    async fn call<T>(&self, name: &'static str, operation: impl Future<Output = Result<T>>) -> Result<T> {
        let error = |kind| Error::new(kind, name, Subject::Nothing).because("a test broke it");
        if self.dead.load(SeqCst) {
            return Err(error(ErrorKind::NetworkReset).on_lost_connection());
        }
        if self.shared.only.is_some_and(|only| only != name) {
            return operation.await;
        }
        let number = self.shared.count.fetch_add(1, SeqCst);
        self.shared.names.lock().unwrap().push(name);
        let how = self.shared.how;
        let broken = number == self.shared.at || (self.shared.for_good && number >= self.shared.at);
        let done = if !broken || how.does() { Some(operation.await) } else { None };
        if let Some(look) = &self.shared.look {
            look(number, name);
        }
        match done {
            Some(outcome) if !broken => outcome,
            _ if how.loses() => {
                self.dead.store(true, SeqCst);
                Err(error(ErrorKind::NetworkReset).on_lost_connection())
            }
            _ => Err(error(ErrorKind::DestProtocol)),
        }
    }
}

#[derive(Debug)]
struct FailingConnection {
    inner: Box<dyn Connection>,
    link: Arc<Link>,
}

impl FailingConnection {
    fn writer(&self, inner: Box<dyn Writer>) -> Box<dyn Writer> {
        let stream = self.inner.capabilities().is_stream();
        Box::new(FailingWriter { inner, link: self.link.clone(), stream })
    }
}

#[async_trait]
impl Connection for FailingConnection {
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn identity(&self) -> &ServerIdentity {
        self.inner.identity()
    }

    async fn stat(&self, path: &RemotePath) -> Result<Option<Metadata>> {
        self.link.call("stat", self.inner.stat(path)).await
    }

    async fn list(&self, path: &RemotePath, limit: usize) -> Result<Vec<Entry>> {
        self.link.call("list", self.inner.list(path, limit)).await
    }

    async fn make_directory(&self, path: &RemotePath) -> Result<()> {
        self.link.call("make directory", self.inner.make_directory(path)).await
    }

    async fn remove_directory(&self, path: &RemotePath) -> Result<()> {
        self.link.call("remove directory", self.inner.remove_directory(path)).await
    }

    async fn open(&self, path: &RemotePath, options: CreateOptions) -> Result<Box<dyn Writer>> {
        Ok(self.writer(self.link.call("open", self.inner.open(path, options)).await?))
    }

    async fn open_read(&self, path: &RemotePath) -> Result<Box<dyn Writer>> {
        Ok(self.writer(self.link.call("open to read", self.inner.open_read(path)).await?))
    }

    async fn rename(&self, from: &RemotePath, to: &RemotePath, mode: RenameMode) -> Result<()> {
        self.link.call("rename", self.inner.rename(from, to, mode)).await
    }

    async fn remove(&self, path: &RemotePath) -> Result<()> {
        self.link.call("remove", self.inner.remove(path)).await
    }

    async fn set_attributes(&self, path: &RemotePath, modified: Option<jiff::Timestamp>, permissions: Option<u32>) -> Result<()> {
        self.link.call("set attributes", self.inner.set_attributes(path, modified, permissions)).await
    }

    async fn hash(&self, path: &RemotePath, algorithm: Algorithm) -> Result<Option<Digest>> {
        self.link.call("hash", self.inner.hash(path, algorithm)).await
    }

    async fn free_space(&self, path: &RemotePath) -> Result<Option<u64>> {
        self.link.call("free space", self.inner.free_space(path)).await
    }

    async fn ping(&self) -> Result<()> {
        self.link.call("ping", self.inner.ping()).await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

#[derive(Debug)]
struct FailingWriter {
    inner: Box<dyn Writer>,
    link: Arc<Link>,
    stream: bool,
}

#[async_trait]
impl Writer for FailingWriter {
    async fn write_at(&self, offset: u64, data: Bytes) -> Result<()> {
        self.link.call("write", self.inner.write_at(offset, data)).await
    }

    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        self.link.call("read", self.inner.read_at(offset, length)).await
    }

    async fn size(&self) -> Result<u64> {
        self.link.call("size", self.inner.size()).await
    }

    async fn sync(&self) -> Result<()> {
        self.link.call("sync", self.inner.sync()).await
    }

    async fn set_attributes(&self, modified: Option<jiff::Timestamp>, permissions: Option<u32>) -> Result<()> {
        self.link.call("set attributes", self.inner.set_attributes(modified, permissions)).await
    }

    async fn finish(&self) -> Result<()> {
        // Nothing to break where there is nothing to end.
        if !self.stream {
            return self.inner.finish().await;
        }
        self.link.call("finish", self.inner.finish()).await
    }

    async fn close(&self) -> Result<()> {
        self.link.call("close", self.inner.close()).await
    }
}
