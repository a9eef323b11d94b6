//! Files beyond 4 GiB without the memory or the disk for them: a source that computes its bytes, and a destination
//! that compares what it is given and keeps only which blocks came.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use model::{Algorithm, Digest, Endpoint, Grade, ObjectKey, Protocol, RemotePath};
use testkit::s3::{Content, S3Server};
use transfer::memory::MemoryDestination;
use transfer::{
    Capabilities, Connection, Connector, CreateOptions, Entry, Error, ErrorKind, Listing, ListingOptions, Metadata, Object, OpenMode,
    Pages, Pin, RenameMode, Result, ServerIdentity, Source, Writer,
};

use super::{config, source};
use crate::harness::{Ferry, pattern};

const SIZE: u64 = (5 << 30) + 1;
/// Not a divisor of any range size, so a shift by whole ranges or by 4 GiB changes the bytes.
const PERIOD: usize = (1 << 20) - 3;
const LONGEST: usize = 8 << 20;

/// The bytes at an offset, without copying.
#[derive(Debug, Clone)]
struct Bottomless(Bytes);

impl Bottomless {
    fn new() -> Self {
        let period = pattern(PERIOD);
        let mut bytes = Vec::with_capacity(PERIOD + LONGEST);
        while bytes.len() < PERIOD + LONGEST {
            bytes.extend_from_slice(&period);
        }
        Self(bytes.into())
    }

    fn at(&self, offset: u64, length: usize) -> Bytes {
        let from = (offset % PERIOD as u64) as usize;
        self.0.slice(from..from + length)
    }
}

struct OnePage(Option<Object>);

#[async_trait]
impl Pages for OnePage {
    async fn next(&mut self) -> Result<Option<Listing>> {
        Ok(self.0.take().map(|object| Listing { objects: vec![object], folders: vec![] }))
    }
}

fn object() -> Object {
    Object { key: ObjectKey::new("vast").unwrap(), size: SIZE, etag: Some("\"e\"".into()), version: None, modified: None, archived: false }
}

#[async_trait]
impl Source for Bottomless {
    fn store(&self) -> &'static str {
        "s3"
    }

    fn bucket(&self) -> &str {
        "b"
    }

    fn list(&self, _options: ListingOptions) -> Box<dyn Pages + '_> {
        Box::new(OnePage(Some(object())))
    }

    async fn pin(&self, _key: &ObjectKey, _version: Option<&str>) -> Result<Pin> {
        Ok(Pin::from(object()))
    }

    async fn read(&self, _pin: &Pin, range: Range<u64>) -> Result<Bytes> {
        Ok(self.at(range.start, (range.end - range.start) as usize))
    }
}

#[derive(Debug)]
struct File {
    name: Mutex<String>,
    end: AtomicU64,
    bytes: AtomicU64,
    wrong: AtomicU64,
    beyond_4_gib: AtomicU64,
}

/// One file; every write is compared at once with what belongs at its offset.
#[derive(Debug, Clone)]
struct Counting {
    endpoint: Endpoint,
    capabilities: Capabilities,
    identity: ServerIdentity,
    content: Bottomless,
    file: Arc<File>,
}

impl Counting {
    fn new(content: Bottomless) -> Self {
        let file = File {
            name: Mutex::default(),
            end: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            beyond_4_gib: AtomicU64::new(0),
        };
        Self {
            endpoint: Endpoint { protocol: Protocol::Memory, host: "counting".into(), port: None, user: None },
            capabilities: Capabilities { read: false, hashes: vec![], sync: false, ..MemoryDestination::everything() },
            identity: ServerIdentity::default(),
            content,
            file: Arc::new(file),
        }
    }

    fn is(&self, path: &RemotePath) -> bool {
        *self.file.name.lock().unwrap() == path.as_str()
    }

    fn metadata(&self) -> Metadata {
        Metadata { size: self.file.end.load(SeqCst), modified: None, directory: false }
    }
}

fn never<T>(what: &'static str, path: &RemotePath) -> Result<T> {
    Err(Error::new(ErrorKind::DestDenied, what, path))
}

#[async_trait]
impl Connector for Counting {
    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    async fn connect(&self) -> Result<Box<dyn Connection>> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Connection for Counting {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn identity(&self) -> &ServerIdentity {
        &self.identity
    }

    async fn stat(&self, path: &RemotePath) -> Result<Option<Metadata>> {
        Ok(self.is(path).then(|| self.metadata()))
    }

    async fn list(&self, path: &RemotePath, _limit: usize) -> Result<Vec<Entry>> {
        never("list", path)
    }

    async fn make_directory(&self, _path: &RemotePath) -> Result<()> {
        Ok(())
    }

    async fn remove_directory(&self, path: &RemotePath) -> Result<()> {
        never("remove", path)
    }

    async fn open(&self, path: &RemotePath, options: CreateOptions) -> Result<Box<dyn Writer>> {
        match (options.mode, self.is(path)) {
            (OpenMode::Existing, false) => return Err(Error::new(ErrorKind::DestDirMissing, "open", path)),
            (OpenMode::CreateNew | OpenMode::CreateOwn, true) => return Err(Error::new(ErrorKind::DestExists, "create", path)),
            _ => path.as_str().clone_into(&mut self.file.name.lock().unwrap()),
        }
        Ok(Box::new(self.clone()))
    }

    async fn open_read(&self, path: &RemotePath) -> Result<Box<dyn Writer>> {
        never("read", path)
    }

    async fn rename(&self, from: &RemotePath, to: &RemotePath, _mode: RenameMode) -> Result<()> {
        assert!(self.is(from));
        to.as_str().clone_into(&mut self.file.name.lock().unwrap());
        Ok(())
    }

    async fn remove(&self, path: &RemotePath) -> Result<()> {
        if self.is(path) {
            self.file.name.lock().unwrap().clear();
            self.file.end.store(0, SeqCst);
        }
        Ok(())
    }

    async fn set_attributes(&self, _path: &RemotePath, _modified: Option<jiff::Timestamp>, _permissions: Option<u32>) -> Result<()> {
        Ok(())
    }

    async fn hash(&self, _path: &RemotePath, _algorithm: Algorithm) -> Result<Option<Digest>> {
        Ok(None)
    }

    async fn free_space(&self, _path: &RemotePath) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Writer for Counting {
    async fn write_at(&self, offset: u64, data: Bytes) -> Result<()> {
        // The mark with which the engine tries whether offsets are honoured is overwritten later and does not count.
        if data.len() < 64 && offset + (data.len() as u64) < SIZE {
            self.file.end.fetch_max(offset + data.len() as u64, SeqCst);
            return Ok(());
        }
        let length = data.len() as u64;
        if data != self.content.at(offset, data.len()) {
            self.file.wrong.fetch_add(length, SeqCst);
        }
        if offset + length > u64::from(u32::MAX) + 1 {
            self.file.beyond_4_gib.fetch_add(length, SeqCst);
        }
        self.file.bytes.fetch_add(length, SeqCst);
        self.file.end.fetch_max(offset + length, SeqCst);
        Ok(())
    }

    async fn read_at(&self, _offset: u64, _length: usize) -> Result<Bytes> {
        Err(Error::new(ErrorKind::DestDenied, "read", transfer::Subject::Nothing))
    }

    async fn size(&self) -> Result<u64> {
        Ok(self.file.end.load(SeqCst))
    }

    async fn sync(&self) -> Result<()> {
        Ok(())
    }

    async fn set_attributes(&self, _modified: Option<jiff::Timestamp>, _permissions: Option<u32>) -> Result<()> {
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

// Mutation: an offset or a count of bytes is kept in 32 bits (`Sheet::range`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_five_gib_and_one_byte_arrives_byte_for_byte_past_the_limits_of_32_bits() {
    let content = Bottomless::new();
    let destination = Counting::new(content.clone());
    let mut ferry = Ferry::new(Arc::new(content), Arc::new(destination.clone()), "/in");
    ferry.wishes.digests = model::DigestSet { sha256: false, md5: false };
    ferry.tuning.range_size = 4 << 20;
    ferry.run(&["vast"]).await.unwrap();
    let finished = ferry.records.kept(0).finished.unwrap_or_else(|| panic!("{:?}", ferry.records.kept(0).failed));
    let delivery = finished.delivery.unwrap();
    let file = &destination.file;
    assert_eq!((delivery.pin.size, delivery.bytes_sent, delivery.grade), (SIZE, SIZE, Grade::Acknowledged));
    assert_eq!(*file.name.lock().unwrap(), "/in/vast");
    assert_eq!((file.bytes.load(SeqCst), file.end.load(SeqCst), file.wrong.load(SeqCst)), (SIZE, SIZE, 0));
    assert_eq!(file.beyond_4_gib.load(SeqCst), SIZE - (1 << 32));
}

// Mutation: a range's offset is kept in 32 bits (`reader::read`).
#[tokio::test]
async fn the_last_bytes_of_an_object_beyond_4_gib_are_read_where_they_are() {
    let server = S3Server::start().await;
    let content = Content::generated(9, SIZE);
    server.bucket("b").put("vast", content.clone());
    let source = source(config(&server)).await;
    let pin = source.pin(&ObjectKey::new("vast").unwrap(), None).await.unwrap();
    assert_eq!(pin.size, SIZE);
    for range in [SIZE - 1..SIZE, SIZE - 70_000..SIZE, (1 << 32) - 5..(1 << 32) + 5] {
        assert_eq!(source.read(&pin, range.clone()).await.unwrap(), content.read(range));
    }
}
