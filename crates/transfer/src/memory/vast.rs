//! An object that is too large for the machine: a source that computes its bytes, and a server that compares what it is
//! given, keeps which of it came, and returns it when it is read back. Every byte really passes through the engine.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use model::{Algorithm, Digest, Endpoint, ObjectKey, Protocol, RemotePath};

use super::destination::lock;
use crate::{
    Capabilities, Connection, Connector, CreateOptions, Entry, Error, ErrorKind, Listing, ListingOptions, Metadata, Object, OpenMode,
    Pages, Pin, RenameMode, Result, ServerIdentity, Source, Subject, Writer,
};

/// Not a divisor of any range size, so a shift by whole ranges or by 4 GiB changes the bytes.
const PERIOD: usize = (1 << 20) - 3;
/// The longest piece that is asked for at once.
const LONGEST: usize = 16 << 20;
/// What is remembered as a whole; ranges and writes of the engine are multiples of it.
const BLOCK: u64 = 16 << 10;
/// The engine's try whether offsets are honoured is shorter.
const LONGEST_MARK: usize = 64;
const MAX_READ: usize = 256 << 10;

/// The bytes at any offset, without copying.
#[derive(Debug, Clone)]
struct Content(Bytes);

impl Content {
    fn new(seed: u64) -> Self {
        let mut state = seed | 1;
        let mut bytes = Vec::with_capacity(PERIOD + LONGEST);
        while bytes.len() < PERIOD {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            bytes.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
        }
        bytes.truncate(PERIOD);
        while bytes.len() < PERIOD + LONGEST {
            let more = (PERIOD + LONGEST - bytes.len()).min(PERIOD);
            bytes.extend_from_within(..more);
        }
        Self(bytes.into())
    }

    fn at(&self, offset: u64, length: usize) -> Bytes {
        let from = (offset % PERIOD as u64) as usize;
        self.0.slice(from..from + length)
    }
}

/// A bucket with one object.
#[derive(Debug, Clone)]
pub struct VastSource {
    content: Content,
    object: Object,
    read: Arc<AtomicU64>,
}

impl VastSource {
    pub fn new(key: &str, size: u64) -> Self {
        let key = ObjectKey::new(key).expect("a key of a test is one");
        let object = Object { key, size, etag: Some("\"vast\"".into()), version: None, modified: None, archived: false };
        Self { content: Content::new(size), object, read: Arc::default() }
    }

    /// Bytes handed out so far, those that were read twice included.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(SeqCst)
    }
}

struct OnePage(Option<Object>);

#[async_trait]
impl Pages for OnePage {
    async fn next(&mut self) -> Result<Option<Listing>> {
        Ok(self.0.take().map(|object| Listing { objects: vec![object], folders: vec![] }))
    }
}

#[async_trait]
impl Source for VastSource {
    fn store(&self) -> &'static str {
        "s3"
    }

    fn bucket(&self) -> &str {
        "vast"
    }

    fn list(&self, options: ListingOptions) -> Box<dyn Pages + '_> {
        let fits = self.object.key.as_str().starts_with(&options.prefix);
        Box::new(OnePage(fits.then(|| self.object.clone())))
    }

    async fn pin(&self, key: &ObjectKey, _version: Option<&str>) -> Result<Pin> {
        if *key != self.object.key {
            return Err(Error::new(ErrorKind::SourceMissing, "look at", key));
        }
        Ok(Pin::from(self.object.clone()))
    }

    async fn read(&self, _pin: &Pin, range: Range<u64>) -> Result<Bytes> {
        self.read.fetch_add(range.end - range.start, SeqCst);
        Ok(self.content.at(range.start, (range.end - range.start) as usize))
    }
}

/// What a vast server has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VastCount {
    /// Bytes that came, and of these the ones that were there already, or were not what belongs at their offset.
    pub accepted: u64,
    pub again: u64,
    pub wrong: u64,
    pub read_back: u64,
    pub connections: u64,
    pub cuts: u64,
}

#[derive(Debug)]
struct State {
    size: u64,
    content: Content,
    /// The one file, as it is called now; nothing: there is none.
    name: Mutex<String>,
    end: AtomicU64,
    /// One bit for each block that is there.
    there: Vec<AtomicU64>,
    marks: Mutex<BTreeMap<u64, Bytes>>,
    /// After so many accepted bytes every connection ends, each once.
    cuts: Mutex<Vec<u64>>,
    /// Grows with every cut; connections of an older life are gone.
    life: AtomicU64,
    accepted: AtomicU64,
    again: AtomicU64,
    wrong: AtomicU64,
    read_back: AtomicU64,
    connections: AtomicU64,
}

impl State {
    /// Notes the blocks of a write; how many of its bytes were there before.
    fn note(&self, offset: u64, length: u64) -> u64 {
        let last = (offset + length).div_ceil(BLOCK);
        let mut again = 0;
        for block in offset / BLOCK..last {
            let bit = 1 << (block % 64);
            if self.there[(block / 64) as usize].fetch_or(bit, SeqCst) & bit != 0 {
                again += BLOCK.min(self.size - block * BLOCK);
            }
        }
        again
    }

    fn has(&self, offset: u64, length: u64) -> bool {
        (offset / BLOCK..(offset + length).div_ceil(BLOCK))
            .all(|block| self.there[(block / 64) as usize].load(SeqCst) >> (block % 64) & 1 == 1)
    }

    fn clear(&self) {
        lock(&self.name).clear();
        lock(&self.marks).clear();
        self.end.store(0, SeqCst);
        self.there.iter().for_each(|bits| bits.store(0, SeqCst));
    }
}

/// A server that has room for one file of `source`'s size and compares every byte of it.
#[derive(Debug, Clone)]
pub struct VastDestination {
    endpoint: Endpoint,
    capabilities: Capabilities,
    identity: ServerIdentity,
    state: Arc<State>,
}

impl VastDestination {
    /// `cuts`: all connections end when so many bytes have come, each once.
    pub fn new(source: &VastSource, capabilities: Capabilities, cuts: &[u64]) -> Self {
        let size = source.object.size;
        let mut cuts = cuts.to_vec();
        cuts.sort_unstable_by(|a, b| b.cmp(a));
        let state = State {
            size,
            content: source.content.clone(),
            name: Mutex::default(),
            end: AtomicU64::new(0),
            there: (0..size.div_ceil(BLOCK).div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            marks: Mutex::default(),
            cuts: Mutex::new(cuts),
            life: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            again: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            read_back: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        };
        let endpoint = Endpoint { protocol: Protocol::Memory, host: "vast".to_owned(), port: None, user: None };
        Self { endpoint, capabilities, identity: ServerIdentity::default(), state: Arc::new(state) }
    }

    pub fn count(&self) -> VastCount {
        let state = &self.state;
        VastCount {
            accepted: state.accepted.load(SeqCst),
            again: state.again.load(SeqCst),
            wrong: state.wrong.load(SeqCst),
            read_back: state.read_back.load(SeqCst),
            connections: state.connections.load(SeqCst),
            cuts: state.life.load(SeqCst),
        }
    }

    /// Whether the whole object stands under this name, every byte of it right.
    pub fn is_whole(&self, path: &str) -> bool {
        let state = &self.state;
        *lock(&state.name) == path
            && state.end.load(SeqCst) == state.size
            && state.has(0, state.size)
            && state.wrong.load(SeqCst) == 0
            && lock(&state.marks).is_empty()
    }
}

#[async_trait]
impl Connector for VastDestination {
    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    async fn connect(&self) -> Result<Box<dyn Connection>> {
        self.state.connections.fetch_add(1, SeqCst);
        let life = self.state.life.load(SeqCst);
        let (capabilities, identity) = (self.capabilities.clone(), self.identity.clone());
        Ok(Box::new(VastConnection { state: self.state.clone(), life, capabilities, identity }))
    }
}

#[derive(Debug, Clone)]
struct VastConnection {
    state: Arc<State>,
    life: u64,
    capabilities: Capabilities,
    identity: ServerIdentity,
}

impl VastConnection {
    fn enter(&self, operation: &'static str, subject: impl Into<Subject>) -> Result<&State> {
        if self.state.life.load(SeqCst) == self.life {
            return Ok(&self.state);
        }
        Err(Error::new(ErrorKind::NetworkReset, operation, subject).because("the line was cut").on_lost_connection())
    }

    fn is(&self, path: &RemotePath) -> bool {
        *lock(&self.state.name) == path.as_str()
    }
}

fn never<T>(what: &'static str, path: &RemotePath) -> Result<T> {
    Err(Error::new(ErrorKind::DestDenied, what, path))
}

#[async_trait]
impl Connection for VastConnection {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn identity(&self) -> &ServerIdentity {
        &self.identity
    }

    async fn stat(&self, path: &RemotePath) -> Result<Option<Metadata>> {
        let state = self.enter("look at", path)?;
        let there = Metadata { size: state.end.load(SeqCst), modified: None, directory: false };
        Ok(self.is(path).then_some(there))
    }

    async fn list(&self, path: &RemotePath, _limit: usize) -> Result<Vec<Entry>> {
        let state = self.enter("list", path)?;
        let name = lock(&state.name).clone();
        let metadata = Metadata { size: state.end.load(SeqCst), modified: None, directory: false };
        Ok(match name.rsplit_once('/') {
            Some((directory, name)) if directory == path.as_str().trim_end_matches('/') => {
                vec![Entry { name: name.to_owned(), exact: true, metadata }]
            }
            _ => Vec::new(),
        })
    }

    async fn make_directory(&self, _path: &RemotePath) -> Result<()> {
        Ok(())
    }

    async fn remove_directory(&self, path: &RemotePath) -> Result<()> {
        never("remove", path)
    }

    async fn open(&self, path: &RemotePath, options: CreateOptions) -> Result<Box<dyn Writer>> {
        let state = self.enter("open", path)?;
        match (options.mode, self.is(path)) {
            (OpenMode::Existing, false) => return Err(Error::new(ErrorKind::DestDirMissing, "open", path)),
            (OpenMode::CreateNew | OpenMode::CreateOwn, true) => return Err(Error::new(ErrorKind::DestExists, "create", path)),
            (OpenMode::Existing, true) => {}
            _ => {
                state.clear();
                path.as_str().clone_into(&mut lock(&state.name));
            }
        }
        Ok(Box::new(self.clone()))
    }

    async fn open_read(&self, path: &RemotePath) -> Result<Box<dyn Writer>> {
        self.enter("open", path)?;
        if self.is(path) { Ok(Box::new(self.clone())) } else { Err(Error::new(ErrorKind::DestDirMissing, "open", path)) }
    }

    async fn rename(&self, from: &RemotePath, to: &RemotePath, _mode: RenameMode) -> Result<()> {
        let state = self.enter("rename", from)?;
        if !self.is(from) {
            return Err(Error::new(ErrorKind::DestDirMissing, "rename", from));
        }
        to.as_str().clone_into(&mut lock(&state.name));
        Ok(())
    }

    async fn remove(&self, path: &RemotePath) -> Result<()> {
        let state = self.enter("remove", path)?;
        if self.is(path) {
            state.clear();
        }
        Ok(())
    }

    async fn set_attributes(&self, path: &RemotePath, _modified: Option<jiff::Timestamp>, _permissions: Option<u32>) -> Result<()> {
        self.enter("set attributes of", path).map(drop)
    }

    async fn hash(&self, _path: &RemotePath, _algorithm: Algorithm) -> Result<Option<Digest>> {
        Ok(None)
    }

    async fn free_space(&self, _path: &RemotePath) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn ping(&self) -> Result<()> {
        self.enter("ask", Subject::Nothing).map(drop)
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Writer for VastConnection {
    async fn write_at(&self, offset: u64, data: Bytes) -> Result<()> {
        let state = self.enter("write", Subject::Nothing)?;
        let (length, end) = (data.len() as u64, offset + data.len() as u64);
        if data.len() < LONGEST_MARK && end < state.size {
            lock(&state.marks).insert(offset, data);
            state.end.fetch_max(end, SeqCst);
            return Ok(());
        }
        if data != state.content.at(offset, data.len()) {
            state.wrong.fetch_add(length, SeqCst);
        }
        state.again.fetch_add(state.note(offset, length), SeqCst);
        lock(&state.marks).retain(|at, _| !(offset..end).contains(at));
        state.end.fetch_max(end, SeqCst);
        let accepted = state.accepted.fetch_add(length, SeqCst) + length;
        let is_cut = {
            let mut cuts = lock(&state.cuts);
            let due = cuts.last().is_some_and(|cut| accepted >= *cut);
            due && cuts.pop().is_some()
        };
        if is_cut {
            state.life.fetch_add(1, SeqCst);
        }
        // What was written with the cut is there, and nobody was told.
        self.enter("write", Subject::Nothing).map(drop)
    }

    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        let state = self.enter("read", Subject::Nothing)?;
        let length = length.min(MAX_READ).min(state.end.load(SeqCst).saturating_sub(offset) as usize);
        if let Some(mark) = lock(&state.marks).get(&offset) {
            return Ok(mark.slice(..length.min(mark.len())));
        }
        state.read_back.fetch_add(length as u64, SeqCst);
        // A hole reads as zeros.
        Ok(if state.has(offset, length as u64) { state.content.at(offset, length) } else { vec![0; length].into() })
    }

    async fn size(&self) -> Result<u64> {
        Ok(self.enter("look at", Subject::Nothing)?.end.load(SeqCst))
    }

    async fn sync(&self) -> Result<()> {
        self.enter("sync", Subject::Nothing).map(drop)
    }

    async fn set_attributes(&self, _modified: Option<jiff::Timestamp>, _permissions: Option<u32>) -> Result<()> {
        self.enter("set attributes of", Subject::Nothing).map(drop)
    }

    async fn close(&self) -> Result<()> {
        self.enter("close", Subject::Nothing).map(drop)
    }
}
