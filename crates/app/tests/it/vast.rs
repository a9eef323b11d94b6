//! A terabyte in the small: bytes that are made on the way pass through the whole engine into a server that checks and
//! counts them, the line is cut ten times, and what the records cost is measured. `docs/operations/scale.md` has the
//! figures; `FILEFERRY_VAST_GIB` sets the size, `FILEFERRY_VAST_CRC_ONLY` leaves SHA-256 out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Instant;

use app::delivery::Letterhead;
use app::feed::ManifestFeed;
use app::ledger::StoreLedger;
use app::logins::StoreLogins;
use app::manifest::Manifest;
use app::transfers::{self, Holder, LEASE, Naming, destination_key};
use app::{CopySpec, Event, Options, S3Settings, ServerSettings};
use async_trait::async_trait;
use jiff::Timestamp;
use model::{DigestSet, FileNumber, FileState, NameTemplate, RemotePath};
use store::Store;
use testkit::machine::{peak_memory, processor_seconds};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use transfer::engine::{Engine, Setup, Tuning};
use transfer::memory::{MemoryDestination, VastDestination, VastSource};
use transfer::port::{Failed, Finished, Intent, Ledger, Wishes};
use transfer::retry::Backoff;
use transfer::sheet::Checkpoint;
use transfer::{Capabilities, Connector, ListingOptions, Source};

const GIB: u64 = 1 << 30;
const CUTS: u64 = 10;
/// Confirmed bytes after which a checkpoint comes, on each connection.
const INTERVAL: u64 = 16 << 20;
const IN_FLIGHT: u64 = 4 << 20;

/// Passes everything on and measures the checkpoints as they are stored.
struct Measured {
    inner: Arc<StoreLedger>,
    checkpoints: AtomicU64,
    bytes: AtomicU64,
    largest: AtomicU64,
}

#[async_trait]
impl Ledger for Measured {
    async fn checkpoint(&self, file: FileNumber, checkpoint: &Checkpoint, done: u64) -> transfer::Result<()> {
        let stored = serde_json::to_string(checkpoint).unwrap().len() as u64;
        self.checkpoints.fetch_add(1, SeqCst);
        self.bytes.fetch_add(stored, SeqCst);
        self.largest.fetch_max(stored, SeqCst);
        self.inner.checkpoint(file, checkpoint, done).await
    }

    async fn restart(&self, file: FileNumber, attempt: u32) -> transfer::Result<()> {
        self.inner.restart(file, attempt).await
    }

    async fn intent(&self, file: FileNumber, intent: &Intent) -> transfer::Result<()> {
        self.inner.intent(file, intent).await
    }

    async fn finished(&self, file: FileNumber, finished: Finished) -> transfer::Result<()> {
        self.inner.finished(file, finished).await
    }

    async fn failed(&self, file: FileNumber, failed: &Failed) -> transfer::Result<()> {
        self.inner.failed(file, failed).await
    }
}

fn worked() -> f64 {
    processor_seconds(std::process::id()).expect("this process lives")
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

// Mutations: the checkpoint lists every range that was ever sent (`Sheet::settle` keeps them); a cut throws away what was confirmed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vast_object_arrives_through_ten_cuts_and_its_records_stay_small() {
    let size = number("FILEFERRY_VAST_GIB").unwrap_or(8) * GIB + 12_345;
    let sha256 = number("FILEFERRY_VAST_CRC_ONLY") != Some(1);
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path().join("state.db")).await.unwrap();
    let source = VastSource::new("out/vast.bin", size);
    let capabilities = Capabilities { hashes: vec![], ..MemoryDestination::everything() };
    let cuts: Vec<u64> = (1..=CUTS).map(|cut| size / (CUTS + 1) * cut).collect();
    let destination = VastDestination::new(&source, capabilities, &cuts);

    let spec = CopySpec {
        source: "s3://vast/out/".into(),
        destination: "sftp://u@vast/in/".into(),
        s3: S3Settings::default(),
        server: ServerSettings::default(),
        options: Options::default(),
    };
    let holder = Holder { name: "test".into(), pid: 1, process_start: "1".into(), host: "here".into(), lease: LEASE };
    let held = transfers::begin(&store, &spec, &spec.destination, &holder, Timestamp::now(), |_| false).await.unwrap();
    let root = RemotePath::from_user("/in").unwrap();
    let naming = Naming { root: root.clone(), template: NameTemplate::keep(), prefix: "out/".into(), exact: None, now: Timestamp::now() };
    let mut manifest = Manifest::open(&store, &held, &naming, &spec.options).await.unwrap();
    let listed = source.list(ListingOptions::default()).next().await.unwrap().unwrap();
    for object in listed.objects {
        assert!(manifest.add(object, Timestamp::now()).await.unwrap().is_none());
    }
    manifest.complete(Timestamp::now()).await.unwrap();

    let key = model::receipt::SigningKey::from_seed(&[7; 32]).unwrap();
    let letterhead = Letterhead {
        held: held.clone(),
        endpoint: destination.endpoint().clone(),
        store: source.store().into(),
        bucket: source.bucket().into(),
        program: "test".into(),
        key: Arc::new(key),
    };
    let (events, mut told) = mpsc::channel::<Event>(64);
    let heard = tokio::spawn(async move {
        let mut count = 0u64;
        while told.recv().await.is_some() {
            count += 1;
        }
        count
    });
    let place = destination_key(destination.endpoint());
    let source_name = letterhead.source();
    let ledger = StoreLedger::new(store.clone(), letterhead, place.clone(), spec.options.if_exists, Arc::new(source.clone()), events);
    let ledger = Arc::new(ledger);
    let measured =
        Arc::new(Measured { inner: ledger.clone(), checkpoints: AtomicU64::new(0), bytes: AtomicU64::new(0), largest: AtomicU64::new(0) });
    let options = &spec.options;
    let engine = Engine::new(Setup {
        transfer: held.record.id.clone(),
        run: 1,
        epoch: held.lease.epoch,
        source: Arc::new(source.clone()),
        connector: Arc::new(destination.clone()),
        ledger: measured.clone(),
        gate: ledger.clone(),
        logins: Arc::new(StoreLogins::new(store.clone(), place.clone(), String::new(), false)),
        meter: Arc::default(),
        wishes: Wishes {
            if_exists: options.if_exists,
            publish: options.publish,
            verify: options.least_proof(),
            digests: DigestSet { sha256, md5: false },
            resend: false,
            preserve_time: true,
            permissions: None,
            make_directories: true,
            make_root: false,
        },
        tuning: Tuning {
            connections: Some(5),
            transfers: options.transfers as usize,
            lanes: options.lanes as usize,
            range_size: options.chunk_size.get(),
            budget: options.buffer.get(),
            bandwidth: options.bwlimit.clone(),
            backoff: Backoff { base: std::time::Duration::from_millis(20), ..Backoff::default() },
            far: transfer::pool::FAR,
            thresholds: options.thresholds,
        },
        root,
        temp_name: options.temp_name.clone(),
        stop: CancellationToken::new(),
    });
    let feed = ManifestFeed::new(store.clone(), held.clone(), place, source_name, engine.small_up_to());
    let (before, begun, statistics) = (worked(), Instant::now(), store.statistics());
    engine.run(Arc::new(feed)).await.unwrap();
    let (seconds, processor) = (begun.elapsed().as_secs_f64(), worked() - before);
    engine.pool().close().await;

    let file = store.file(&held.record.id, FileNumber(0)).await.unwrap().unwrap();
    assert_eq!((file.state, file.size), (FileState::Delivered, size), "{:?}", file.error_text);
    assert!(destination.is_whole("/in/vast.bin"));
    let count = destination.count();
    let now = store.statistics();
    let (checkpoints, largest) = (measured.checkpoints.load(SeqCst), measured.largest.load(SeqCst));
    drop((engine, ledger));
    let receipt = file.receipt.as_deref().unwrap_or_default().len();
    let gib = size as f64 / GIB as f64;
    println!("bytes {size}, {seconds:.1} s, {:.0} MB/s, processor {:.2} s per GiB", size as f64 / seconds / 1e6, processor / gib);
    println!("sent again {} bytes over {} cuts, read back {}, connections {}", count.again, count.cuts, count.read_back, count.connections);
    println!("checkpoints {checkpoints}, mean {} bytes, largest {largest}", measured.bytes.load(SeqCst) / checkpoints.max(1));
    println!("batches {}, commits {}, receipt {receipt} bytes", now.batches - statistics.batches, now.commits - statistics.commits);
    let database: u64 = std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    println!("records {database} bytes, peak memory {:.1} MiB", peak_memory() as f64 / f64::from(1 << 20));
    drop(measured);
    println!("events {}", heard.await.unwrap());

    assert_eq!((count.cuts, count.wrong), (CUTS, 0));
    // On each of five connections, what is in flight.
    assert!(count.again <= CUTS * 5 * IN_FLIGHT, "{} bytes were sent again", count.again);
    assert!(checkpoints <= size / INTERVAL * 2 + 100, "{checkpoints} checkpoints");
    // An item of DynamoDB holds 400 KB and a state of Step Functions 256 KiB; neither is near.
    assert!(largest < 64 << 10, "a checkpoint of {largest} bytes");
    assert!(peak_memory() < 160 << 20, "{} bytes of memory", peak_memory());
}
