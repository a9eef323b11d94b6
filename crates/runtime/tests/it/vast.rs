//! A terabyte through the whole workflow, in scaled time: bytes that are made on the way, a server that checks and counts
//! them, slices, a line that is cut ten times, and what the execution and the records cost. `docs/operations/scale.md` has
//! the figures. `FILEFERRY_VAST_GIB` sets the size, `FILEFERRY_VAST_CRC_ONLY` leaves SHA-256 out, and
//! `FILEFERRY_VAST_SLICE_MS` says how long a slice is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use app::CopySpec;
use async_trait::async_trait;
use model::{Algorithm, FileNumber, FileState, ObjectKey, RemotePath, TicketKind, TransferId, TransferState};
use runtime::{DestinationSide, Failure, NotifierKind, Opening, Place, SourceSide};
use store::HistoryRow;
use testkit::machine::{peak_memory, processor_seconds};
use transfer::memory::{MemoryDestination, VastDestination, VastSource};
use transfer::{Capabilities, Connector as _};

use crate::scene::{Scene, text};

const GIB: u64 = 1 << 30;
const CUTS: u64 = 10;
/// Confirmed bytes that a stop may cost on each connection, and what is in flight beside them.
const INTERVAL: u64 = 16 << 20;
const IN_FLIGHT: u64 = 4 << 20;
const CONNECTIONS: u64 = 5;

/// What Step Functions lets through: events of an execution, and bytes of a state's data.
const MOST_EVENTS: usize = 25_000;
const MOST_PAYLOAD: usize = 262_144;
/// An item of DynamoDB. The size of a checkpoint follows the rate, and that of a test without a line is eighty times one of
/// 1 Gbit/s.
const MOST_CHECKPOINT: u64 = 400_000;

/// Both ends of every transfer are those of this test.
#[derive(Debug)]
struct Vast {
    source: VastSource,
    destination: VastDestination,
}

#[async_trait]
impl Opening for Vast {
    async fn source(&self, _: &CopySpec, _: &Place) -> Result<SourceSide, Failure> {
        let single = Some(ObjectKey::new("out/vast.bin").unwrap());
        Ok(SourceSide { source: Arc::new(self.source.clone()), prefix: String::new(), single })
    }

    fn destination(&self, _: &CopySpec, _: &Place) -> Result<DestinationSide, Failure> {
        let endpoint = self.destination.endpoint().clone();
        Ok(DestinationSide {
            connector: Arc::new(self.destination.clone()),
            key: app::transfers::destination_key(&endpoint),
            endpoint,
            path: RemotePath::from_user("/in").unwrap(),
            directory: true,
            credential: String::new(),
        })
    }
}

/// Looks at the checkpoint of the one file again and again.
#[derive(Debug, Default)]
struct Checkpoints {
    /// Those that were seen; some may have been replaced between two looks.
    seen: AtomicU64,
    bytes: AtomicU64,
    largest: AtomicU64,
    over: AtomicBool,
}

impl Checkpoints {
    async fn look(&self, store: &store::Store, id: &TransferId) {
        let mut last = String::new();
        while !self.over.load(SeqCst) {
            let file = store.file(id, FileNumber(0)).await.unwrap();
            if let Some(checkpoint) = file.and_then(|file| file.checkpoint).filter(|checkpoint| *checkpoint != last) {
                self.seen.fetch_add(1, SeqCst);
                self.bytes.fetch_add(checkpoint.len() as u64, SeqCst);
                self.largest.fetch_max(checkpoint.len() as u64, SeqCst);
                last = checkpoint;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn worked() -> f64 {
    processor_seconds(std::process::id()).expect("this process lives")
}

/// The whole history of the one execution.
fn events(scene: &Scene, id: &TransferId) -> Vec<HistoryRow> {
    let name = app::binding::execution_name(id, 1);
    let mut rows: Vec<HistoryRow> = Vec::new();
    loop {
        let after = rows.last().map_or(0, |row| row.id);
        let page = scene.runtime.block_on(scene.store.history(&name, after, 1_000)).unwrap();
        if page.is_empty() {
            return rows;
        }
        rows.extend(page);
    }
}

// Mutations: the output of a slice carries the checkpoint; a cut throws away what was confirmed; a slice that ends takes no
// last checkpoint.
#[test]
fn a_vast_object_passes_the_whole_workflow_through_ten_cuts_within_every_limit() {
    let size = number("FILEFERRY_VAST_GIB").unwrap_or(6) * GIB + 12_345;
    let sha256 = number("FILEFERRY_VAST_CRC_ONLY") != Some(1);
    let mut scene = Scene::new();
    let source = VastSource::new("out/vast.bin", size);
    let capabilities = Capabilities { hashes: vec![], ..MemoryDestination::everything() };
    let cuts: Vec<u64> = (1..=CUTS).map(|cut| size / (CUTS + 1) * cut).collect();
    let destination = VastDestination::new(&source, capabilities, &cuts);
    scene.settings.opening = Arc::new(Vast { source: source.clone(), destination: destination.clone() });
    scene.settings.slice = Duration::from_millis(number("FILEFERRY_VAST_SLICE_MS").unwrap_or(400));
    let notices = scene.path("notices");
    scene.settings.notifiers = vec![NotifierKind::File(notices.clone())];
    let id = scene.submit_with("out/vast.bin", "ann", 5, |options| {
        options.connections = Some(CONNECTIONS as u32);
        if !sha256 {
            options.digests = vec![Algorithm::Crc64nvme];
        }
    });

    let (before, begun, written) = (worked(), Instant::now(), scene.store.statistics());
    let checkpoints = Arc::new(Checkpoints::default());
    let looking = scene.runtime.spawn({
        let (checkpoints, store, id) = (checkpoints.clone(), scene.store.clone(), id.clone());
        async move { checkpoints.look(&store, &id).await }
    });
    let running = scene.start();
    // A terabyte takes longer than the patience of a scene, and what it waits for is progress.
    let (mut last, mut moved) = (0, Instant::now());
    while scene.state(&id) != TransferState::Completed {
        let (state, accepted) = (scene.state(&id), destination.count().accepted);
        assert!(
            matches!(state, TransferState::Pending | TransferState::InProgress | TransferState::Completed),
            "{:#?}",
            scene.history(&id)
        );
        if accepted > last {
            (last, moved) = (accepted, Instant::now());
        }
        assert!(moved.elapsed() < crate::scene::PATIENCE, "nothing moves: {:#?}", scene.history(&id));
        std::thread::sleep(Duration::from_millis(50));
    }
    let (seconds, processor) = (begun.elapsed().as_secs_f64(), worked() - before);
    checkpoints.over.store(true, SeqCst);
    scene.runtime.block_on(looking).unwrap();

    let closed = [(TicketKind::User, "Resolved".to_owned()), (TicketKind::Audit, "Closed".to_owned())];
    scene.until("the tickets are told", || scene.tickets(&id) == closed);
    scene.until("people are told", || text(&notices).lines().count() == 1);
    let statistics = scene.store.statistics();
    running.stop();

    let file = scene.runtime.block_on(scene.store.file(&id, FileNumber(0))).unwrap().unwrap();
    assert_eq!((file.state, file.size), (FileState::Delivered, size), "{:?}", file.error_text);
    assert!(destination.is_whole("/in/vast.bin"));
    let receipts = scene.runtime.block_on(scene.store.receipts(&id, None, 10)).unwrap();
    assert_eq!(receipts.len(), 1);
    let rows = events(&scene, &id);
    let entered = |state: &str| {
        let name = format!("\"{state}\"");
        rows.iter().filter(|row| row.kind.ends_with("StateEntered") && row.body.contains(&name)).count() as u64
    };
    let parallel = size > GIB;
    let sending = if parallel { "ChunkedTransfer" } else { "TransferToFTP" };
    // The eleven duties but the other way of sending and the one for errors.
    for duty in ["ValidateInput", "AuthenticateSSO", "DownloadFromS3", "CheckFileSize", sending] {
        assert_eq!(entered(duty), 1, "{duty}");
    }
    for duty in ["UpdateServiceNow", "NotifyUser", "CleanupAndLogout", "TransferComplete"] {
        assert_eq!(entered(duty), 1, "{duty}");
    }
    assert_eq!(entered("HandleError"), 0);
    // Each slice that leaves something gives the transfer back, and the next one takes it under a new epoch.
    let (slices, calls) = (u64::from(file.epoch), entered("SendChunk") + entered("SendSlice") + entered("SendChunksByWorker"));
    let largest_event = rows.iter().map(|row| row.body.len()).max().unwrap_or_default();
    let count = destination.count();
    let (seen, largest) = (checkpoints.seen.load(SeqCst), checkpoints.largest.load(SeqCst));
    let (batches, commits) = (statistics.batches - written.batches, statistics.commits - written.commits);
    let database: u64 = std::fs::read_dir(scene.path("state")).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    println!(
        "bytes {size}, {seconds:.1} s, {:.0} MB/s, processor {:.2} s per GiB",
        size as f64 / seconds / 1e6,
        processor / (size as f64 / GIB as f64)
    );
    println!("slices {slices}, in {calls} calls of a state; events {}, the largest {largest_event} bytes", rows.len());
    println!(
        "sent again {} bytes over {} cuts and {slices} slices, read back {}, connections {}",
        count.again, count.cuts, count.read_back, count.connections
    );
    println!("checkpoints seen {seen}, mean {} bytes, largest {largest}", checkpoints.bytes.load(SeqCst) / seen.max(1));
    println!("batches {batches}, commits {commits}, records {database} bytes, receipt {} bytes", receipts[0].1.len());
    println!("peak memory {:.1} MiB", peak_memory() as f64 / f64::from(1 << 20));

    assert_eq!((count.cuts, count.wrong), (CUTS, 0));
    assert!(slices >= 8, "{slices} slices are not many");
    assert!(rows.len() < MOST_EVENTS / 10, "{} events", rows.len());
    assert!(largest_event < MOST_PAYLOAD / 10, "an event of {largest_event} bytes");
    assert!(rows.len() as u64 <= 100 + calls * 10, "{} events for {calls} calls", rows.len());
    assert!(largest > 0 && largest < MOST_CHECKPOINT, "a checkpoint of {largest} bytes");
    // One for each interval of a connection, one for each slice and cut, and what the steps themselves write.
    assert!(batches <= size / INTERVAL * 2 + (slices + CUTS) * 40 + 400, "{batches} batches");
    // What is in flight on each connection that is cut; the end of a slice costs nothing.
    assert!(count.again <= CUTS * CONNECTIONS * IN_FLIGHT, "{} bytes were sent again", count.again);
    assert!(peak_memory() < 200 << 20, "{} bytes of memory", peak_memory());
}
