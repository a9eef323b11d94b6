//! Cases E2 and E6: two processes on one transfer, and a cancel at any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use model::Endpoint;
use testkit::proxy::{Action, Counted, Direction};
use testkit::sftp::{Behaviour, SftpServer, Verdict};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use transfer::memory::{MemoryDestination, MemorySource};
use transfer::sftp::SftpConnector;
use transfer::{Capabilities, Connection, Connector, ErrorKind, Result};

use super::{Voyage, config};
use crate::harness::{Ferry, pattern};

const SIZE: usize = 4_000_000;
const BOUND: Duration = Duration::from_secs(20);

// E2. Mutation: `deliver` does not remove its own temporary file after `lease_lost`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_process_that_wakes_after_its_successor_stops_and_harms_nothing() {
    for at in [20_000, SIZE as u64 / 10, SIZE as u64 / 2, SIZE as u64 * 9 / 10] {
        let mut voyage = Voyage::new(Behaviour::default(), &[("large", SIZE)]).await;
        // The pause: nothing passes, nothing is lost, and nobody's clock runs out.
        let up = voyage.proxy.rule(Direction::ToServer, Counted::OverAll, at, Action::Stall);
        let (engine, _) = voyage.ferry.engine(&CancellationToken::new());
        let feed = voyage.ferry.feed(&["large"], engine.small_up_to()).await;
        let pool = engine.pool().clone();
        let sleeper = tokio::spawn(async move { engine.run(feed).await });
        let reached = async {
            while voyage.to_server() < at {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(BOUND, reached).await.unwrap();

        let direct = SftpConnector::new(config(&voyage.server, voyage.server.address().port()));
        voyage.ferry.connector = Arc::new(direct);
        // What the sleeper made and never recorded is still its own; it removes that when it wakes.
        tokio::time::timeout(BOUND, voyage.ferry.run(&["large"])).await.unwrap().unwrap();
        let finished = voyage.there("large").unwrap();
        assert!(finished == voyage.source.bytes("large").unwrap());

        up.remove();
        let outcome = tokio::time::timeout(BOUND, sleeper).await.expect("the sleeper ends").unwrap();
        assert_eq!(outcome.unwrap_err().kind, ErrorKind::LeaseLost, "at {at}");
        tokio::time::timeout(BOUND, pool.close()).await.unwrap();
        voyage.check();
        assert!(voyage.there("large").unwrap() == finished, "at {at}: the successor's file was touched");
        assert!(voyage.leftovers().is_empty(), "at {at}: {:?}", voyage.leftovers());
    }
}

// E2. Several guards stand behind one another here (the fence in `settle`, the ledger before the rename and after it):
// the test stays green without the fence alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rename_that_wakes_up_late_finds_nothing_to_rename() {
    for (key, size) in [("small", 1000), ("large", SIZE)] {
        let mut voyage = Voyage::new(Behaviour::default(), &[(key, size)]).await;
        let first = AtomicBool::new(true);
        let (reached, notify) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let tell = reached.clone();
        voyage.server.on(move |operation| {
            if operation.is_rename() && first.swap(false, SeqCst) {
                tell.notify_one();
                return Verdict::Delay(Duration::from_millis(1200));
            }
            Verdict::Proceed
        });
        let (engine, _) = voyage.ferry.engine(&CancellationToken::new());
        let feed = voyage.ferry.feed(&[key], engine.small_up_to()).await;
        let pool = engine.pool().clone();
        let done = notify.clone();
        let sleeper = tokio::spawn(async move {
            let outcome = engine.run(feed).await;
            done.notify_one();
            outcome
        });
        tokio::time::timeout(BOUND, reached.notified()).await.unwrap();
        let direct = SftpConnector::new(config(&voyage.server, voyage.server.address().port()));
        voyage.ferry.connector = Arc::new(direct);
        voyage.run().await.unwrap();
        tokio::time::timeout(BOUND, notify.notified()).await.unwrap();
        let outcome = sleeper.await.unwrap();
        assert_eq!(outcome.unwrap_err().kind, ErrorKind::LeaseLost, "{key}");
        tokio::time::timeout(BOUND, pool.close()).await.unwrap();
        voyage.assert_delivered(key);
        let publishes = voyage.server.recorder().count(|o| o.is_rename() && o.path() == Some(&format!("/in/{key}")));
        assert!(publishes <= 2, "{publishes} renames to the final name");
    }
}

// E6. Mutation: `deliver` records a cancelled file as failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_during_the_rename_has_one_outcome() {
    for verdict in [Verdict::Proceed, Verdict::DoneThenDisconnect, Verdict::Disconnect, Verdict::Delay(Duration::from_millis(50))] {
        for size in [1000, 2_000_000] {
            let voyage = Voyage::new(Behaviour::default(), &[("a", size)]).await;
            let stop = CancellationToken::new();
            let (cancel, first, told) = (stop.clone(), AtomicBool::new(true), verdict.clone());
            voyage.server.on(move |operation| {
                if operation.is_rename() && first.swap(false, SeqCst) {
                    cancel.cancel();
                    return told.clone();
                }
                Verdict::Proceed
            });
            let outcome = tokio::time::timeout(BOUND, voyage.ferry.run_until(&["a"], &stop)).await.unwrap();
            voyage.check();
            assert!(voyage.kept("a").failed.is_none(), "{verdict:?}: {:?}", voyage.kept("a").failed);
            if let Err(error) = outcome {
                assert_eq!(error.kind, ErrorKind::Cancelled, "{verdict:?}");
            }
            voyage.run().await.unwrap();
            voyage.assert_delivered(&format!("{verdict:?}, {size} bytes"));
        }
    }
}

// E6. Mutation: `deliver` does not count a cancelled file as interrupted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_does_not_wait_for_a_silent_server() {
    let voyage = Voyage::new(Behaviour { stall_after_writes: Some(5), ..Behaviour::default() }, &[("large", SIZE)]).await;
    let stop = CancellationToken::new();
    let server: Arc<SftpServer> = voyage.server.clone();
    let cancel = stop.clone();
    let canceller = tokio::spawn(async move {
        while server.recorder().writes() < 5 {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    });
    let began = std::time::Instant::now();
    let (engine, _) = voyage.ferry.engine(&stop);
    let feed = voyage.ferry.feed(&["large"], engine.small_up_to()).await;
    let error = tokio::time::timeout(BOUND, engine.run(feed)).await.unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Cancelled);
    assert!(began.elapsed() < Duration::from_secs(4), "it waited for the stall: {:?}", began.elapsed());
    canceller.await.unwrap();
    drop(engine);
    voyage.check();
    voyage.server.change(|behaviour| behaviour.stall_after_writes = None);
    voyage.run().await.unwrap();
    voyage.assert_delivered("resumed");
}

/// Lets the second connection come about only when it is told to.
#[derive(Debug)]
struct Late {
    inner: MemoryDestination,
    connects: AtomicU64,
    now: Notify,
}

#[async_trait]
impl Connector for Late {
    fn endpoint(&self) -> &Endpoint {
        self.inner.endpoint()
    }

    async fn connect(&self) -> Result<Box<dyn Connection>> {
        if self.connects.fetch_add(1, SeqCst) == 1 {
            self.now.notified().await;
        }
        self.inner.connect().await
    }
}

// Soft spot of the sheet. Mutation: `other_connection_lost` marks nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_between_two_connections_of_one_file_is_noticed() {
    // With a hash of the server's own the loss would be found later, and everything sent again.
    let capabilities = Capabilities { hashes: Vec::new(), ..MemoryDestination::everything() };
    let (source, destination) = (MemorySource::new(), MemoryDestination::with_capabilities(capabilities));
    // From 64 MiB on a file has several lanes.
    const WIDE: usize = 68_000_000;
    source.put("a", pattern(WIDE));
    let late = Arc::new(Late { inner: destination.clone(), connects: AtomicU64::new(0), now: Notify::new() });
    let mut ferry = Ferry::new(Arc::new(source.clone()), late.clone(), "/in");
    (ferry.tuning.range_size, ferry.tuning.connections) = (1 << 20, Some(2));
    ferry.tuning.bandwidth = Some(100 << 20).into();
    let meter = ferry.meter.clone();
    let restart = tokio::spawn({
        let destination = destination.clone();
        async move {
            while meter.snapshot().bytes_done < WIDE as u64 / 8 {
                tokio::task::yield_now().await;
            }
            // The first connection finds out with its next write; the second never knew the old server.
            destination.crash();
            late.now.notify_one();
        }
    });
    tokio::time::timeout(BOUND, ferry.run(&["a"])).await.unwrap().unwrap();
    restart.await.unwrap();
    let kept = ferry.records.kept(0);
    assert!(kept.finished.is_some(), "{:?}", kept.failed);
    assert!(destination.bytes("/in/a").as_deref() == source.bytes("a").as_deref(), "a lost range was delivered as a hole");
}
