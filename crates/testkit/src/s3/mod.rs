//! An S3 server inside the process, on a free port of 127.0.0.1: fast, observable, and as broken as a test wants it.
//! Any signature is accepted; path-style addresses only.

mod answer;
mod body;
mod bucket;
mod connection;
mod content;
mod error;
mod fault;
mod listing;
mod read;
mod request;
mod write;
mod xml;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use hyper::HeaderMap;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use bucket::{Checksum, Encryption, ObjectOptions};
pub use connection::Ending;
pub use content::Content;
pub use error::S3Error;
pub use fault::{Effect, Fault, FaultHandle, Faults, Operation};
pub use request::AskedRange;

use crate::pace::Pacer;
use bucket::{BucketState, Objects, Version, Versioning};
use connection::{Connection, EndAfterFlush};

/// Requests kept for inspection; older ones are only counted.
const REQUESTS_KEPT: usize = 50_000;

/// One request as it arrived, and what became of it so far.
#[derive(Debug, Clone)]
pub struct Request {
    pub operation: Operation,
    pub method: String,
    pub bucket: String,
    pub key: String,
    pub range: Option<AskedRange>,
    pub version_id: Option<String>,
    pub if_match: Option<String>,
    pub headers: HeaderMap,
    /// Number of the TCP connection, from 1.
    pub connection: u64,
    pub at: Instant,
    /// 0 while there is no answer.
    pub status: u16,
    /// Bytes of the body handed to the connection.
    pub bytes_sent: u64,
}

#[derive(Debug)]
struct Logged {
    request: Request,
    status: Arc<AtomicU16>,
    sent: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Settings {
    access_key: Option<String>,
    latency: Duration,
    bytes_per_second: Option<u64>,
}

#[derive(Debug, Default)]
struct Shared {
    buckets: RwLock<BTreeMap<String, BucketState>>,
    uploads: Mutex<write::Uploads>,
    faults: Faults,
    settings: RwLock<Settings>,
    pace: Arc<Pacer>,
    log: Mutex<VecDeque<Logged>>,
    requests: AtomicU64,
    connections: AtomicU64,
    in_flight: AtomicU64,
    peak_in_flight: AtomicU64,
}

/// Counts a request as long as its answer is under way.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Shared>);

impl InFlight {
    fn new(shared: &Arc<Shared>) -> Self {
        let now = shared.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        shared.peak_in_flight.fetch_max(now, Ordering::SeqCst);
        Self(shared.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The server; it stops when dropped.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

impl S3Server {
    /// Starts on a free port of 127.0.0.1.
    pub async fn start() -> Self {
        Self::bind("127.0.0.1:0".parse().expect("an address")).await.expect("a free port on the loopback")
    }

    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::<Shared>::default();
        let stop = CancellationToken::new();
        tokio::spawn(accept(listener, shared.clone(), stop.clone()));
        Ok(Self { address, shared, _stop: stop.drop_guard() })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:PORT`
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The bucket of this name, made if it is not there.
    pub fn bucket(&self, name: &str) -> Bucket {
        let mut buckets = self.shared.buckets.write().expect("no panic while locked");
        buckets.entry(name.to_owned()).or_insert_with(|| BucketState::new(Objects::Stored(BTreeMap::new())));
        Bucket { shared: self.shared.clone(), name: name.to_owned() }
    }

    /// A read-only bucket of `count` objects, computed when asked for: `entry` gives key and size for each index and
    /// must give keys in ascending order. The object at `index` holds `Content::generated(index, size)`.
    pub fn synthetic_bucket(&self, name: &str, count: u64, entry: impl Fn(u64) -> (String, u64) + Send + Sync + 'static) -> Bucket {
        let state = BucketState::new(Objects::Synthetic { count, entry: Arc::new(entry) });
        self.shared.buckets.write().expect("no panic while locked").insert(name.to_owned(), state);
        Bucket { shared: self.shared.clone(), name: name.to_owned() }
    }

    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// From now on requests without this access key are refused. Signatures are still not checked.
    pub fn require_access_key(&self, access_key: &str) {
        self.shared.settings.write().expect("no panic while locked").access_key = Some(access_key.to_owned());
    }

    /// Every answer comes this much later.
    pub fn set_latency(&self, latency: Duration) {
        self.shared.settings.write().expect("no panic while locked").latency = latency;
    }

    /// Limits all answers together.
    pub fn set_bandwidth(&self, bytes_per_second: Option<u64>) {
        self.shared.settings.write().expect("no panic while locked").bytes_per_second = bytes_per_second;
    }

    /// The newest requests, oldest first.
    pub fn requests(&self) -> Vec<Request> {
        let log = self.shared.log.lock().expect("no panic while locked");
        let now = |logged: &Logged| Request {
            status: logged.status.load(Ordering::SeqCst),
            bytes_sent: logged.sent.load(Ordering::SeqCst),
            ..logged.request.clone()
        };
        log.iter().map(now).collect()
    }

    /// The newest requests for one operation, oldest first.
    pub fn requests_for(&self, operation: Operation) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.operation == operation).collect()
    }

    /// All requests since the start or the last reset.
    pub fn request_count(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Bytes of bodies of GETs for objects of this key, in any bucket, among the requests kept.
    pub fn bytes_served(&self, key: &str) -> u64 {
        let log = self.shared.log.lock().expect("no panic while locked");
        let of_key = |logged: &&Logged| logged.request.operation == Operation::GetObject && logged.request.key == key;
        log.iter().filter(of_key).map(|logged| logged.sent.load(Ordering::SeqCst)).sum()
    }

    pub fn connection_count(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// The most requests that were under way at the same time.
    pub fn peak_requests_in_flight(&self) -> u64 {
        self.shared.peak_in_flight.load(Ordering::SeqCst)
    }

    /// Forgets the requests; objects and faults stay.
    pub fn reset_requests(&self) {
        self.shared.log.lock().expect("no panic while locked").clear();
        self.shared.requests.store(0, Ordering::SeqCst);
        self.shared.peak_in_flight.store(self.shared.in_flight.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

/// One bucket of a server.
#[derive(Debug, Clone)]
pub struct Bucket {
    shared: Arc<Shared>,
    name: String,
}

/// What was put.
#[derive(Debug, Clone)]
pub struct Stored(Arc<Version>);

impl Stored {
    /// Without quotes.
    pub fn etag(&self) -> String {
        self.0.etag().to_owned()
    }

    pub fn version_id(&self) -> Option<String> {
        self.0.id.clone()
    }
}

impl Bucket {
    fn state<T>(&self, change: impl FnOnce(&mut BucketState) -> T) -> T {
        let mut buckets = self.shared.buckets.write().expect("no panic while locked");
        change(buckets.get_mut(&self.name).expect("buckets are never removed"))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn put(&self, key: &str, content: impl Into<Content>) -> Stored {
        self.put_with(key, content, ObjectOptions::default())
    }

    pub fn put_with(&self, key: &str, content: impl Into<Content>, options: ObjectOptions) -> Stored {
        Stored(self.state(|state| state.add(key, Some(content.into()), options)))
    }

    /// Switches versioning on where it is not, and returns the id of the new version.
    pub fn put_versioned(&self, key: &str, content: impl Into<Content>) -> String {
        self.versioning(true);
        self.put(key, content).version_id().expect("versioning is on")
    }

    /// As a DELETE without versionId does: a delete marker where there are versions.
    pub fn delete(&self, key: &str) {
        self.state(|state| state.delete(key, None));
    }

    pub fn delete_version(&self, key: &str, version_id: &str) {
        self.state(|state| state.delete(key, Some(version_id)));
    }

    /// The current bytes.
    pub fn get(&self, key: &str) -> Option<Content> {
        self.state(|state| state.current(key)?.content.clone())
    }

    /// `false` suspends: new objects get the version "null".
    pub fn versioning(&self, on: bool) -> &Self {
        self.state(|state| {
            state.versioning = match (on, state.versioning) {
                (true, _) => Versioning::Enabled,
                (false, Versioning::Never) => Versioning::Never,
                (false, _) => Versioning::Suspended,
            };
        });
        self
    }

    /// Refuses requests that do not say the requester pays.
    pub fn requester_pays(&self, on: bool) -> &Self {
        self.state(|state| state.requester_pays = on);
        self
    }

    /// Refuses listings; missing keys are then 403, as at S3.
    pub fn deny_listing(&self, on: bool) -> &Self {
        self.state(|state| state.listing_denied = on);
        self
    }

    pub fn region(&self, region: &str) -> &Self {
        self.state(|state| state.region = region.to_owned());
        self
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let number = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::spawn(serve(stream, number, shared.clone(), stop.clone()));
            }
            // Out of descriptors: others must close first.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve(stream: TcpStream, number: u64, shared: Arc<Shared>, stop: CancellationToken) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let end = EndAfterFlush::default();
    let io = TokioIo::new(Connection::new(stream, end.clone()));
    let service = service_fn(move |request| answer::answer(shared.clone(), request, number, end.clone()));
    let connection = hyper::server::conn::http1::Builder::new().max_buf_size(1 << 20).serve_connection(io, service);
    tokio::select! {
            biased;
        () = stop.cancelled() => {}
        // Clients go away and faults cut: both are ordinary here.
        _ = connection => {}
    }
}
