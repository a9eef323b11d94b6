//! Every operation of a delivery is broken in turn, on a destination in memory: once, so that the same process goes
//! on, and for good, so that a new process takes over from what was recorded.

use std::sync::Arc;
use std::time::Duration;

use model::{FileState, IfExists};
use tokio_util::sync::CancellationToken;
use transfer::memory::{MemoryDestination, MemorySource};
use transfer::retry::Backoff;
use transfer::{Capabilities, ErrorKind, NoClobber};

use crate::failing::{Break, Failing};
use crate::harness::{Ferry, pattern};

const OLD: &[u8] = b"what stood there before";

/// One file, one policy, one server; each run of it starts on an empty server.
#[derive(Clone)]
struct Course {
    source: MemorySource,
    size: usize,
    range_size: u64,
    policy: IfExists,
    old: bool,
    capabilities: Capabilities,
}

struct Place {
    ferry: Ferry,
    source: MemorySource,
    destination: MemoryDestination,
    course: Course,
}

impl Course {
    fn new(size: usize) -> Self {
        let capabilities = Capabilities { hashes: Vec::new(), ..MemoryDestination::everything() };
        let source = MemorySource::new();
        source.put("a", pattern(size));
        Self { source, size, range_size: 10 << 20, policy: IfExists::Fail, old: false, capabilities }
    }

    fn place(&self) -> Place {
        let (source, destination) = (self.source.clone(), MemoryDestination::with_capabilities(self.capabilities.clone()));
        if self.old {
            destination.put("/in/a", OLD);
        }
        let mut ferry = Ferry::new(Arc::new(source.clone()), Arc::new(destination.clone()), "/in");
        ferry.wishes.if_exists = self.policy;
        ferry.tuning.range_size = self.range_size;
        ferry.tuning.connections = Some(2);
        ferry.tuning.backoff = Backoff { attempts: 3, base: Duration::from_millis(1), cap: Duration::from_millis(2) };
        Place { ferry, source, destination, course: self.clone() }
    }

    /// How many operations an undisturbed delivery takes.
    async fn operations(&self) -> Vec<&'static str> {
        let mut place = self.place();
        let counting = Failing::never(place.ferry.connector.clone());
        place.ferry.connector = Arc::new(counting.clone());
        place.run().await.unwrap();
        place.assert_delivered("undisturbed");
        counting.operations()
    }
}

impl Place {
    async fn run(&self) -> transfer::Result<()> {
        bounded(self.ferry.run(&["a"])).await
    }

    /// I1 and I2: the final name has nothing, the old file or the whole new one. With `replace-unsafe` the old one may
    /// have stepped aside.
    fn look(&self) -> impl Fn(u64, &'static str) + Send + Sync + 'static {
        let (source, destination, course) = (self.source.clone(), self.destination.clone(), self.course.clone());
        move |number, name| {
            let there = destination.bytes("/in/a");
            let whole = there.as_deref() == source.bytes("a").as_deref();
            let before = if course.old { Some(OLD) } else { None };
            let aside = course.policy == IfExists::ReplaceUnsafe && there.is_none();
            assert!(whole || aside || there.as_deref() == before, "after operation {number} ({name}) the final name has something else");
            if aside && course.old {
                let kept = destination.names().iter().any(|n| destination.bytes(n).as_deref() == Some(OLD));
                assert!(kept, "after operation {number} ({name}) the old file is nowhere");
            }
        }
    }

    fn assert_delivered(&self, which: &str) {
        let kept = self.ferry.records.kept(0);
        let finished = kept.finished.unwrap_or_else(|| panic!("{which}: not delivered: {:?}", kept.failed));
        assert_eq!(finished.state, FileState::Delivered, "{which}");
        assert!(self.destination.bytes("/in/a").as_deref() == self.source.bytes("a").as_deref(), "{which}: not whole");
        assert_eq!(self.destination.names(), ["/in/a"], "{which}: something else was left");
    }
}

async fn bounded<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("every wait is bounded")
}

async fn broken_once(course: Course) {
    broken_once_as(course, &Break::ALL).await;
}

async fn broken_once_as(course: Course, ways: &[Break]) {
    let operations = course.operations().await;
    for (at, name) in operations.iter().enumerate() {
        for how in ways.iter().copied() {
            let mut place = course.place();
            place.ferry.connector = Arc::new(Failing::new(place.ferry.connector.clone(), at as u64, how).look(place.look()));
            let which = format!("{name} ({at} of {}) {how:?}, once", operations.len());
            // Only the error of a connection ends a run at once.
            let _ = place.run().await;
            place.look()(0, "the run");
            if place.ferry.records.kept(0).finished.is_none() {
                place.ferry.connector = Arc::new(place.destination.clone());
                place.run().await.unwrap_or_else(|e| panic!("{which}: {e}"));
            }
            place.assert_delivered(&which);
        }
    }
}

async fn broken_for_good(course: Course) {
    let operations = course.operations().await;
    for (at, name) in operations.iter().enumerate() {
        for how in [Break::Lost, Break::DoneAndLost] {
            let mut place = course.place();
            let healthy = place.ferry.connector.clone();
            place.ferry.connector = Arc::new(Failing::new(healthy.clone(), at as u64, how).for_good().look(place.look()));
            let which = format!("{name} ({at} of {}) {how:?}, for good", operations.len());
            let _ = place.run().await;
            let recorded = place.ferry.records.kept(0);
            place.ferry.connector = Arc::new(Failing::never(healthy).look(place.look()));
            if place.ferry.records.kept(0).finished.is_none() {
                place.run().await.unwrap_or_else(|e| panic!("{which}: {e}"));
            }
            let kept = place.ferry.records.kept(0);
            let finished = kept.finished.unwrap_or_else(|| panic!("{which}: not delivered: {:?}", kept.failed));
            assert_eq!(finished.state, FileState::Delivered, "{which}");
            assert!(place.destination.bytes("/in/a").as_deref() == place.source.bytes("a").as_deref(), "{which}: not whole");
            // What an earlier process had not recorded yet is swept by the caller of the engine.
            let unrecorded = recorded.checkpoint.is_none() && recorded.intent.is_none();
            let left = place.destination.names().len() - 1;
            assert!(left <= usize::from(unrecorded), "{which}: {:?}", place.destination.names());
            let again = place.destination.accepted().saturating_sub(course.size as u64);
            assert!(again <= 2 * (16 << 20), "{which}: {again} bytes were sent again");
        }
    }
}

// Mutation: `settle` takes a missing temporary file for "start over" (`None`) instead of looking at the final name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_file_survives_any_operation_broken_once() {
    broken_once(Course::new(100_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_file_survives_any_operation_broken_for_good() {
    broken_for_good(Course::new(100_000)).await;
}

// Mutation: `Sheet::attempt_ended` marks nothing; a range without its proof is then waited for without end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_survives_any_operation_broken_once() {
    broken_once(Course { range_size: 512 << 10, ..Course::new(2_500_000) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_survives_any_operation_broken_for_good() {
    broken_for_good(Course { range_size: 512 << 10, ..Course::new(2_500_000) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_megabytes_survive_any_operation_broken() {
    let course = Course { capabilities: MemoryDestination::everything(), ..Course::new(30_000_000) };
    broken_once_as(course, &[Break::DoneAndLost]).await;
}

// Mutation: `rename` with `RenameMode::Replace` removes the old file first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_file_stands_until_the_new_one_takes_its_place() {
    for size in [1000, 1_200_000] {
        let course = Course { policy: IfExists::Replace, old: true, range_size: 512 << 10, ..Course::new(size) };
        broken_once(course.clone()).await;
        broken_for_good(course).await;
    }
}

// Mutation: the old file is not moved back when the new one cannot take its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_file_that_stepped_aside_is_never_lost_and_never_left() {
    let capabilities =
        Capabilities { atomic_replace: false, no_clobber: NoClobber::Checked, hashes: Vec::new(), ..MemoryDestination::everything() };
    for size in [1000, 1_200_000] {
        let course = Course {
            policy: IfExists::ReplaceUnsafe,
            old: true,
            range_size: 512 << 10,
            capabilities: capabilities.clone(),
            ..Course::new(size)
        };
        broken_once(course.clone()).await;
        broken_for_good(course).await;
    }
}

/// A server as FTP ones are: a file is one stream, and nothing is confirmed before its end.
fn stream(size: usize) -> Course {
    let capabilities = Capabilities {
        offset_writes: false,
        confirms_writes: false,
        continues: true,
        sync: false,
        no_clobber: NoClobber::Unsupported,
        multiplex: 1,
        ..Course::new(1).capabilities
    };
    Course { capabilities, range_size: 512 << 10, ..Course::new(size) }
}

// Mutation: `find_place` takes the last boundary of all instead of the last one that the server still has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_survives_any_operation_broken_once() {
    for size in [1000, 2_500_000] {
        broken_once(stream(size)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_survives_any_operation_broken_for_good() {
    for size in [1000, 2_500_000] {
        broken_for_good(stream(size)).await;
    }
}

// A server that cannot go on with a file gets it from the start, under another name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_cannot_be_continued_survives_any_operation_broken() {
    let course = stream(2_500_000);
    let course = Course { capabilities: Capabilities { continues: false, ..course.capabilities.clone() }, ..course };
    broken_once(course.clone()).await;
    broken_for_good(course).await;
}

// E6. Mutation: a cancelled file is given up (its temporary file removed, `failed` recorded) instead of left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_at_any_operation_leaves_all_or_nothing_and_can_be_resumed() {
    for size in [1000, 1_200_000] {
        let course = Course { policy: IfExists::Replace, old: true, range_size: 512 << 10, ..Course::new(size) };
        for at in 0..course.operations().await.len() as u64 {
            let mut place = course.place();
            let stop = CancellationToken::new();
            let (look, cancel) = (place.look(), stop.clone());
            let connector = Failing::never(place.ferry.connector.clone()).look(move |number, name| {
                if number >= at {
                    cancel.cancel();
                }
                look(number, name);
            });
            place.ferry.connector = Arc::new(connector);
            let outcome = bounded(place.ferry.run_until(&["a"], &stop)).await;
            let kept = place.ferry.records.kept(0);
            assert!(kept.failed.is_none(), "a stopped file has not failed: {:?}", kept.failed);
            match outcome {
                Ok(()) => place.assert_delivered(&format!("cancelled at {at}, too late")),
                Err(error) => {
                    assert_eq!(error.kind, ErrorKind::Cancelled);
                    // It may have come after the file and before the feed said that there are no more.
                    if kept.finished.is_some() {
                        place.assert_delivered(&format!("cancelled at {at}, when it was done"));
                    }
                    assert!(place.destination.names().len() <= 2, "{:?}", place.destination.names());
                }
            }
            // Again: a cancel of what is stopped or done changes nothing.
            stop.cancel();
            let names = place.destination.names();
            let _ = bounded(place.ferry.run_until(&["a"], &stop)).await;
            assert_eq!(place.destination.names(), names, "cancelled at {at}: the second cancel did something");
            place.run().await.unwrap();
            place.assert_delivered(&format!("cancelled at {at}, resumed"));
        }
    }
}

// Mutation: the patience of a file counts every byte sent as progress, also those sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_never_finishes_is_given_up() {
    for size in [1000, 1_200_000] {
        for readable in [true, false] {
            for name in ["sync", "close", "size", "read", "set attributes"] {
                let course = Course { range_size: 512 << 10, ..Course::new(size) };
                let mut place = Course { capabilities: Capabilities { read: readable, ..course.capabilities.clone() }, ..course }.place();
                let connector = Failing::new(place.ferry.connector.clone(), 0, Break::Lost).only(name).for_good();
                place.ferry.connector = Arc::new(connector);
                place.run().await.unwrap();
                let kept = place.ferry.records.kept(0);
                if name == "read" && !readable {
                    assert!(kept.finished.is_some());
                    continue;
                }
                assert_eq!(kept.failed.unwrap_or_else(|| panic!("{name} {size} {readable}: ended well")).0, ErrorKind::NetworkReset);
                assert!(place.destination.bytes("/in/a").is_none());
                assert!(place.destination.accepted() <= 4 * size as u64 + 64, "{name}: sent {} bytes", place.destination.accepted());
            }
        }
    }
}
