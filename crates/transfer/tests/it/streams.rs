//! Files that travel as one stream to a server in memory which, as FTP servers do, confirms nothing before the end.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use model::{Grade, ObjectKey, Verify};
use tokio_util::sync::CancellationToken;
use transfer::memory::{MemoryDestination, MemorySource};
use transfer::retry::Backoff;
use transfer::{Capabilities, Error, ErrorKind, ListingOptions, NoClobber, Pages, Pin, Result, Source};

use crate::failing::{Break, Failing};
use crate::harness::{Ferry, pattern};

const RANGE: u64 = 512 << 10;

fn capabilities() -> Capabilities {
    Capabilities {
        offset_writes: false,
        confirms_writes: false,
        continues: true,
        sync: false,
        no_clobber: NoClobber::Unsupported,
        hashes: Vec::new(),
        multiplex: 1,
        ..MemoryDestination::everything()
    }
}

fn ferry(capabilities: Capabilities, size: usize) -> (Ferry, MemorySource, MemoryDestination) {
    let source = MemorySource::new();
    source.put("a", pattern(size));
    let destination = MemoryDestination::with_capabilities(capabilities);
    destination.make_directories("/in");
    let mut ferry = Ferry::new(Arc::new(source.clone()), Arc::new(destination.clone()), "/in");
    ferry.tuning.range_size = RANGE;
    ferry.tuning.backoff = Backoff { attempts: 3, base: Duration::from_millis(1), cap: Duration::from_millis(2) };
    (ferry, source, destination)
}

fn assert_delivered(ferry: &Ferry, source: &MemorySource, destination: &MemoryDestination) {
    let kept = ferry.records.kept(0);
    assert!(kept.finished.is_some(), "{:?}", kept.failed);
    assert!(destination.bytes("/in/a").as_deref() == source.bytes("a").as_deref(), "the file is not whole");
    assert_eq!(destination.names(), ["/in/a"]);
}

/// A source from which one byte is gone.
#[derive(Debug)]
struct Gone {
    inner: MemorySource,
    at: u64,
}

#[async_trait]
impl Source for Gone {
    fn store(&self) -> &'static str {
        self.inner.store()
    }

    fn bucket(&self) -> &str {
        self.inner.bucket()
    }

    fn list(&self, options: ListingOptions) -> Box<dyn Pages + '_> {
        self.inner.list(options)
    }

    async fn pin(&self, key: &ObjectKey, version: Option<&str>) -> Result<Pin> {
        self.inner.pin(key, version).await
    }

    async fn read(&self, pin: &Pin, range: Range<u64>) -> Result<Bytes> {
        match range.contains(&self.at) {
            true => Err(Error::new(ErrorKind::SourceMissing, "read", &pin.key)),
            false => self.inner.read(pin, range).await,
        }
    }
}

#[tokio::test]
async fn a_file_is_read_back_when_it_is_whole() {
    let (ferry, source, destination) = ferry(capabilities(), 5_000_001);
    ferry.run(&["a"]).await.unwrap();
    assert_delivered(&ferry, &source, &destination);
    let delivery = ferry.records.kept(0).finished.unwrap().delivery.unwrap();
    assert_eq!((delivery.grade, delivery.proof.bytes), (Grade::ReadBack, 5_000_001));
}

#[tokio::test]
async fn sampled_compares_both_ends_and_blocks_between() {
    let (mut ferry, source, destination) = ferry(capabilities(), 40_000_001);
    ferry.wishes.verify = Verify::AtLeast(Grade::Sampled);
    ferry.run(&["a"]).await.unwrap();
    assert_delivered(&ferry, &source, &destination);
    let delivery = ferry.records.kept(0).finished.unwrap().delivery.unwrap();
    assert_eq!(delivery.grade, Grade::Sampled);
    assert!(delivery.proof.blocks >= 10 && delivery.proof.bytes < 1 << 20, "{:?}", delivery.proof);
}

// Mutation: `reopen_stream` returns `None`.
#[tokio::test]
async fn a_successor_goes_on_where_the_server_is_and_sends_little_again() {
    let size = 30_000_000;
    let (ferry, source, destination) = ferry(capabilities(), size);
    let stop = CancellationToken::new();
    let watcher = {
        let (destination, stop) = (destination.clone(), stop.clone());
        tokio::spawn(async move {
            while destination.accepted() < 20_000_000 {
                tokio::task::yield_now().await;
            }
            stop.cancel();
        })
    };
    let _ = ferry.run_until(&["a"], &stop).await;
    watcher.await.unwrap();
    assert!(ferry.records.kept(0).finished.is_none(), "it was to be stopped");
    ferry.run(&["a"]).await.unwrap();
    assert_delivered(&ferry, &source, &destination);
    let delivery = ferry.records.kept(0).finished.unwrap().delivery.unwrap();
    assert!(delivery.bytes_resumed >= 15_000_000, "{}", delivery.bytes_resumed);
    let again = destination.accepted() - size as u64;
    assert!(again <= (16 << 20) + 64, "{again} bytes were sent again");
}

/// Stops after about twelve of twenty megabytes, lets `change` do something to the temporary file, and goes on.
async fn changed_between(change: impl Fn(Vec<u8>) -> Vec<u8>) {
    let (mut ferry, source, destination) = ferry(capabilities(), 20_000_000);
    ferry.wishes.verify = Verify::AtLeast(Grade::Sampled);
    let stop = CancellationToken::new();
    let watcher = {
        let (destination, stop) = (destination.clone(), stop.clone());
        tokio::spawn(async move {
            while destination.accepted() < 12_000_000 {
                tokio::task::yield_now().await;
            }
            stop.cancel();
        })
    };
    let _ = ferry.run_until(&["a"], &stop).await;
    watcher.await.unwrap();
    let temp = destination.names().into_iter().find(|n| n.contains(".ff-")).expect("a temporary file");
    let there = destination.bytes(&temp).unwrap();
    destination.take(&temp);
    destination.put(&temp, &change(there));
    ferry.run(&["a"]).await.unwrap();
    assert_delivered(&ferry, &source, &destination);
    let delivery = ferry.records.kept(0).finished.unwrap().delivery.unwrap();
    assert_eq!(delivery.attempts, 1, "the file was continued: {:?}", delivery.notes);
    assert!(delivery.bytes_resumed >= 5_000_000, "{}", delivery.bytes_resumed);
}

// The server came back from a crash: the file has its length, and its last bytes are zeros.
// Mutation: `seam_holds` returns true without looking.
// SEMANTICS S35: "A server that takes a file as one stream (FTP) is believed in nothing but the size it shows and the bytes
// it returns: a cut file goes on only behind bytes that were read back and are the ones that were sent."
#[tokio::test]
async fn a_seam_that_lost_its_bytes_is_left_for_an_earlier_one() {
    changed_between(|mut there| {
        let length = there.len();
        there[length - 700_000..].fill(0);
        there
    })
    .await;
}

// Mutation: `find_place` takes the last boundary of all.
#[tokio::test]
async fn a_server_that_lost_the_end_of_a_file_gets_it_again() {
    changed_between(|mut there| {
        there.truncate(there.len() - 3_000_000);
        there
    })
    .await;
}

// B3. Mutation: `learn_to_continue` returns at once.
#[tokio::test]
async fn a_server_that_cannot_continue_is_known_before_the_first_byte() {
    let (ferry, source, destination) = ferry(Capabilities { continues: false, ..capabilities() }, 3_000_000);
    let (engine, _) = ferry.engine(&CancellationToken::new());
    let feed = ferry.feed(&["a"], engine.small_up_to()).await;
    engine.run(feed).await.unwrap();
    let notes = engine.pool().take_notes();
    assert!(notes.iter().any(|note| note.contains("resume=not_supported")), "{notes:?}");
    assert_delivered(&ferry, &source, &destination);
}

#[tokio::test]
async fn a_server_that_lets_nobody_read_gets_the_file_once_and_the_weaker_proof_is_said() {
    for size in [1000, 3_000_000] {
        let (ferry, source, destination) = ferry(Capabilities { read: false, ..capabilities() }, size);
        ferry.run(&["a"]).await.unwrap();
        assert_delivered(&ferry, &source, &destination);
        let delivery = ferry.records.kept(0).finished.unwrap().delivery.unwrap();
        assert_eq!(delivery.grade, Grade::Size);
        assert!(delivery.notes.iter().any(|note| note.contains("not looked at")), "{:?}", delivery.notes);
        assert!(destination.accepted() < size as u64 + 100, "sent once");
    }
}

// A4. Mutation: after a source error the writer is closed instead of dropped.
#[tokio::test]
async fn a_source_that_fails_for_good_leaves_nothing() {
    let (mut ferry, source, destination) = ferry(capabilities(), 8_000_000);
    ferry.source = Arc::new(Gone { inner: source, at: 5_000_000 });
    ferry.run(&["a"]).await.unwrap();
    assert_eq!(ferry.records.kept(0).failed.unwrap().0, ErrorKind::SourceMissing);
    assert!(destination.names().is_empty(), "{:?}", destination.names());
}

// B1. Mutation: `suspect_full_disk` returns at once.
#[tokio::test]
async fn a_full_disk_frees_its_room_and_is_held() {
    let (ferry, _source, destination) = ferry(capabilities(), 8_000_000);
    destination.set_capacity(Some(3_000_000));
    ferry.run(&["a"]).await.unwrap();
    assert_eq!(ferry.records.kept(0).failed.unwrap().0, ErrorKind::DestNoSpace);
    assert!(destination.names().is_empty(), "{:?}", destination.names());
    assert!(destination.accepted() < 2 * 8_000_000, "sent {} bytes", destination.accepted());
}

// A `fail` that could not look twice used to overwrite. Mutation: `rename_after_look` renames when `stat` was refused.
#[tokio::test]
async fn a_server_that_tells_nothing_of_names_keeps_the_file_that_is_there() {
    for size in [1000, 3_000_000] {
        let (mut ferry, _source, destination) = ferry(capabilities(), size);
        destination.put("/in/a", b"old");
        ferry.connector = Arc::new(Failing::new(ferry.connector.clone(), 0, Break::Refused).only("stat").for_good());
        ferry.run(&["a"]).await.unwrap();
        assert_eq!(ferry.records.kept(0).failed.unwrap().0, ErrorKind::DestExists);
        assert_eq!(destination.bytes("/in/a").unwrap(), b"old");
    }
}
