//! Faults of the source: an S3 server that changes, breaks off, throttles or lies, read by `S3Source` and delivered by
//! the engine. Each test names the mutation that turns it red.

mod broken;
mod changes;
mod features;
mod objects;
mod originals;
mod vast;

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{Credential, FileState};
use testkit::s3::{Bucket, Content, Operation, S3Server};
use tokio_util::sync::CancellationToken;
use transfer::memory::MemoryDestination;
use transfer::s3::{AccessKey, S3Config, S3Source};
use transfer::{Connector, ErrorKind};

use crate::harness::Ferry;

/// Ranges of a large file here: small, so that a few megabytes are many ranges.
pub const RANGE: u64 = 1 << 20;

/// A store, a destination in memory, and the engine between them.
pub struct Stage {
    pub server: S3Server,
    pub bucket: Bucket,
    pub destination: MemoryDestination,
    pub ferry: Ferry,
}

/// What every source of these tests is told.
pub fn config(server: &S3Server) -> S3Config {
    let mut config = S3Config::new("b");
    config.endpoint = Some(server.endpoint());
    config.region = Some("us-east-1".into());
    config.access_key = Some(AccessKey { id: "AKIATEST".into(), secret: Credential::new("secret"), session_token: None });
    config.stall_timeout = Duration::from_secs(5);
    config
}

pub async fn source(config: S3Config) -> Arc<S3Source> {
    Arc::new(S3Source::connect(config).await.unwrap())
}

pub async fn stage() -> Stage {
    let destination = MemoryDestination::new();
    let (server, bucket, ferry) = ferry_to(Arc::new(destination.clone()), "/in").await;
    Stage { server, bucket, destination, ferry }
}

pub async fn ferry_to(connector: Arc<dyn Connector>, root: &str) -> (S3Server, Bucket, Ferry) {
    let server = S3Server::start().await;
    let bucket = server.bucket("b");
    let mut ferry = Ferry::new(source(config(&server)).await, connector, root);
    ferry.tuning.range_size = RANGE;
    (server, bucket, ferry)
}

impl Stage {
    /// The file is complete under its final name, nothing else is there, and the record agrees.
    pub fn assert_delivered(&self, number: u32, key: &str, content: &Content) {
        let kept = self.ferry.records.kept(number);
        let finished = kept.finished.unwrap_or_else(|| panic!("{key} did not finish: {:?}", kept.failed));
        assert_eq!(finished.state, FileState::Delivered);
        let delivery = finished.delivery.expect("a delivered file has its facts");
        assert_eq!((delivery.pin.size, delivery.crc64nvme.0), (content.len(), content.crc64nvme()));
        assert_eq!(delivery.sha256, Some(content.sha256()));
        let there = self.destination.bytes(&format!("/in/{key}"));
        assert!(there.as_deref() == Some(&content.bytes()[..]), "{key} is not whole");
        assert_eq!(self.temporaries(), Vec::<String>::new());
    }

    /// The file failed with this class and nothing of it is at the destination.
    pub fn assert_nothing(&self, number: u32, key: &str, class: ErrorKind) -> String {
        let text = self.assert_failed(number, key, class);
        assert_eq!(self.temporaries(), Vec::<String>::new());
        text
    }

    /// The file failed with this class and has no final name; its temporary file may wait for a resume.
    pub fn assert_failed(&self, number: u32, key: &str, class: ErrorKind) -> String {
        let kept = self.ferry.records.kept(number);
        assert!(kept.finished.is_none(), "{key} was delivered");
        let (kind, text, _) = kept.failed.expect("a failure is recorded");
        assert_eq!(kind, class, "{text}");
        assert_eq!(self.destination.bytes(&format!("/in/{key}")), None, "{key} has its final name");
        text
    }

    pub fn temporaries(&self) -> Vec<String> {
        self.destination.names().into_iter().filter(|name| name.contains(".ff-")).collect()
    }

    /// Where the ranges of the GETs for this key began, in order.
    pub fn asked(&self, key: &str) -> Vec<u64> {
        let gets = self.server.requests_for(Operation::GetObject).into_iter().filter(|r| r.key == key);
        gets.map(|r| match r.range {
            Some(testkit::s3::AskedRange::From(start, _)) => start,
            _ => 0,
        })
        .collect()
    }

    /// Runs until `enough` is true and then stops as the first Ctrl-C does.
    pub async fn run_and_stop(&self, keys: &[&str], enough: impl Fn() -> bool) {
        let stop = CancellationToken::new();
        let running = self.ferry.run_until(keys, &stop);
        tokio::pin!(running);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            tokio::select! {
                ended = &mut running => panic!("it ended before it was stopped: {ended:?}"),
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
            if enough() {
                break;
            }
            assert!(Instant::now() < deadline, "the moment to stop never came");
        }
        stop.cancel();
        assert_eq!(running.await.unwrap_err().kind, ErrorKind::Cancelled);
    }

    /// As `run_and_stop`, but as a killed process: nobody tidies up.
    pub async fn run_and_kill(&self, keys: &[&str], enough: impl Fn() -> bool) {
        let running = self.ferry.run(keys);
        tokio::pin!(running);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !enough() {
            assert!(Instant::now() < deadline, "the moment to kill never came");
            tokio::select! {
                ended = &mut running => panic!("it ended before it was killed: {ended:?}"),
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
    }

    /// Ranges from the start of the file that the stored checkpoint counts as confirmed, and bytes that went through
    /// the digests.
    pub fn checkpoint(&self, number: u32) -> (u64, u64) {
        let Some(checkpoint) = self.ferry.records.kept(number).checkpoint else { return (0, 0) };
        let more = checkpoint.ranges.iter().take_while(|range| range.written).count() as u64;
        (checkpoint.settled + more, checkpoint.hashed)
    }
}
