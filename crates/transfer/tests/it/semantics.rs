//! Promises of docs/SEMANTICS.md that are the engine's, on sources and destinations in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use async_trait::async_trait;
use bytes::Bytes;
use model::{Algorithm, Clobber, Digest, Endpoint, FileState, Grade, IfExists, Publish, RemotePath, TransferId, Verify};
use tokio_util::sync::CancellationToken;
use transfer::memory::{MemoryDestination, MemorySource};
use transfer::{
    Capabilities, Connection, Connector, CreateOptions, Entry, Error, ErrorKind, Metadata, NoClobber, RenameMode, Result, ServerIdentity,
    Writer,
};

use crate::harness::{Ferry, pattern};

fn ferry(source: &MemorySource, destination: &MemoryDestination) -> Ferry {
    Ferry::new(Arc::new(source.clone()), Arc::new(destination.clone()), "/in")
}

fn one_file(size: usize) -> (Ferry, MemorySource, MemoryDestination) {
    let (source, destination) = (MemorySource::new(), MemoryDestination::new());
    source.put("a", pattern(size));
    (ferry(&source, &destination), source, destination)
}

/// Stops a run once so many bytes are confirmed.
fn stop_after(ferry: &Ferry, bytes: u64) -> CancellationToken {
    let (stop, meter) = (CancellationToken::new(), ferry.meter.clone());
    let token = stop.clone();
    tokio::spawn(async move {
        while meter.snapshot().bytes_done < bytes {
            tokio::task::yield_now().await;
        }
        token.cancel();
    });
    stop
}

// SEMANTICS S1: "Under a final name there is either the whole file, proved as asked, or what was there before."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_looks_at_a_final_name_sees_the_old_file_or_the_new_one() {
    for old in [None, Some(b"old".to_vec())] {
        let (mut ferry, source, destination) = one_file(24_000_000);
        if let Some(old) = &old {
            destination.put("/in/a", old);
        }
        ferry.wishes.if_exists = IfExists::Replace;
        let new = source.bytes("a").unwrap();
        let done = CancellationToken::new();
        let watcher = tokio::spawn({
            let (destination, done, old, new) = (destination.clone(), done.clone(), old.clone(), new.clone());
            async move {
                let mut looks = 0u32;
                while !done.is_cancelled() {
                    let seen = destination.bytes("/in/a");
                    assert!(seen == old || seen.as_deref() == Some(&new[..]), "half a file under its final name");
                    looks += 1;
                    tokio::task::yield_now().await;
                }
                looks
            }
        });
        ferry.run(&["a"]).await.unwrap();
        done.cancel();
        assert!(watcher.await.unwrap() > 0);
        assert!(destination.bytes("/in/a").as_deref() == Some(&new[..]));
    }
}

// SEMANTICS S4: "Only `--if-exists replace-unsafe`, and only where the server cannot replace in one step, takes the old name
// away before the new file has it; the receipt says for how many milliseconds the name was missing."
#[tokio::test]
async fn an_unsafe_replacement_is_chosen_by_the_user_and_said_on_the_receipt() {
    for atomic in [true, false] {
        let (mut ferry, source, destination) = one_file(10);
        destination.put("/in/a", b"old");
        let capabilities = Capabilities { atomic_replace: atomic, no_clobber: NoClobber::Checked, ..MemoryDestination::everything() };
        destination.set_capabilities(capabilities);
        ferry.wishes.if_exists = IfExists::ReplaceUnsafe;
        ferry.run(&["a"]).await.unwrap();
        let clobber = ferry.records.kept(0).finished.unwrap().delivery.unwrap().clobber;
        assert_eq!(matches!(clobber, Clobber::Unsafe { .. }), !atomic, "{clobber:?}");
        assert_eq!(destination.bytes("/in/a").as_deref(), source.bytes("a").as_deref());
    }
}

// SEMANTICS S9: "Where the content at the destination differs from what was read, the file is sent once more from the start;
// if it differs again it is `held`, without its final name, and the temporary file is kept for inspection."
#[tokio::test]
async fn a_destination_that_stores_something_else_is_found_out() {
    for size in [1_000, 12_000_000] {
        for lies in [1, u32::MAX] {
            let (mut ferry, source, destination) = one_file(size);
            destination.set_capabilities(Capabilities { hashes: vec![], ..MemoryDestination::everything() });
            ferry.connector =
                Arc::new(Liar { truth: Arc::new(destination.clone()), lies: Arc::new(AtomicU32::new(lies)), collector: None });
            ferry.run(&["a"]).await.unwrap();
            let kept = ferry.records.kept(0);
            if lies == 1 {
                assert_eq!(kept.finished.unwrap().delivery.unwrap().grade, Grade::ReadBack);
                assert_eq!(destination.bytes("/in/a").as_deref(), source.bytes("a").as_deref());
                assert_eq!(destination.names(), ["/in/a"]);
            } else {
                let (kind, _, inspected) = kept.failed.unwrap();
                assert_eq!((kind, kind.nature()), (ErrorKind::IntegrityMismatch, model::Nature::Held));
                assert!(destination.bytes("/in/a").is_none());
                assert_eq!(destination.names(), [inspected.unwrap().as_str()], "one temporary file, the second one");
            }
        }
    }
}

// SEMANTICS S14: "A source object that changes after the copy has looked at it is `source_changed`; what is delivered is
// never a mixture of two versions."
#[tokio::test]
async fn a_changed_source_is_an_error_and_never_a_mixture() {
    // Larger than what may be in memory, so that something is left to read.
    let other = pattern(60_000_001)[1..].to_vec();
    // While it runs.
    let (mut ferry, source, destination) = one_file(60_000_000);
    ferry.tuning.bandwidth = Some(100 << 20).into();
    let (changing, meter, bytes) = (source.clone(), ferry.meter.clone(), other.clone());
    tokio::spawn(async move {
        while meter.snapshot().bytes_done == 0 {
            tokio::task::yield_now().await;
        }
        changing.put("a", bytes);
    });
    ferry.run(&["a"]).await.unwrap();
    assert_eq!(ferry.records.kept(0).failed.expect("the change was seen").0, ErrorKind::SourceChanged);
    assert!(destination.names().is_empty(), "{:?}", destination.names());

    // Between an interruption and its resume.
    let (mut ferry, source, destination) = one_file(60_000_000);
    ferry.tuning.bandwidth = Some(100 << 20).into();
    let stop = stop_after(&ferry, 10_000_000);
    assert_eq!(ferry.run_until(&["a"], &stop).await.unwrap_err().kind, ErrorKind::Cancelled);
    source.put("a", other);
    ferry.run(&["a"]).await.unwrap();
    assert_eq!(ferry.records.kept(0).failed.unwrap().0, ErrorKind::SourceChanged);
    assert!(destination.bytes("/in/a").is_none());
}

// SEMANTICS S29: "Of two copies that deliver to the same free name at the same time with `--if-exists fail`, one gets the
// name and the other fails with `dest_exists`, wherever the server's rename refuses a taken name."
#[tokio::test]
async fn two_copies_to_one_name_have_one_winner() {
    for size in [1_000, 20_000_000] {
        let destination = MemoryDestination::new();
        let sources = [1, 2].map(|extra| {
            let source = MemorySource::new();
            source.put("a", pattern(size + extra));
            source
        });
        let mut ferries = sources.each_ref().map(|source| ferry(source, &destination));
        ferries[1].transfer = TransferId::from_random([4; 10]);
        let (first, second) = tokio::join!(ferries[0].run(&["a"]), ferries[1].run(&["a"]));
        first.and(second).unwrap();
        let kept = ferries.each_ref().map(|ferry| ferry.records.kept(0));
        let winner = kept.iter().position(|k| k.finished.is_some()).expect("one of them delivers");
        assert_eq!(kept[1 - winner].failed.as_ref().map(|f| f.0), Some(ErrorKind::DestExists));
        assert_eq!(destination.bytes("/in/a").as_deref(), sources[winner].bytes("a").as_deref());
    }
}

// SEMANTICS S6: "A verified file that could not get its name is kept; the next run of the same copy asks its own
// `--if-exists` and sends nothing again."
#[tokio::test]
async fn the_next_run_publishes_a_kept_file_under_its_own_policy() {
    let (mut ferry, source, destination) = one_file(20_000_000);
    ferry.tuning.bandwidth = Some(200 << 20).into();
    let (meter, other) = (ferry.meter.clone(), destination.clone());
    tokio::spawn(async move {
        while meter.snapshot().bytes_done == 0 {
            tokio::task::yield_now().await;
        }
        other.put("/in/a", b"somebody else's");
    });
    ferry.run(&["a"]).await.unwrap();
    let (kind, _, kept) = ferry.records.kept(0).failed.unwrap();
    assert_eq!(kind, ErrorKind::DestExists);
    assert!(kept.is_some_and(|path| destination.bytes(path.as_str()).is_some()), "the verified file is kept");

    let sent = destination.accepted();
    ferry.wishes.if_exists = IfExists::Replace;
    ferry.run(&["a"]).await.unwrap();
    let again = ferry.records.kept(0);
    let delivery = again.finished.unwrap_or_else(|| panic!("not published: {:?}", again.failed)).delivery.unwrap();
    assert_eq!((delivery.clobber, destination.accepted()), (Clobber::Replaced, sent));
    assert_eq!(destination.bytes("/in/a").as_deref(), source.bytes("a").as_deref());
    assert_eq!(destination.names(), ["/in/a"]);
}

// SEMANTICS S19: "A name that was published and is gone when the copy looks again counts as `collected`: delivered, and never
// sent a second time."
#[tokio::test]
async fn a_file_taken_away_before_the_answer_is_collected() {
    let (mut ferry, _, destination) = one_file(1_000);
    let collector = Some(destination.clone());
    ferry.connector = Arc::new(Liar { truth: Arc::new(destination.clone()), lies: Arc::default(), collector });
    ferry.run(&["a"]).await.unwrap();
    let finished = ferry.records.kept(0).finished.unwrap();
    assert_eq!((finished.state, finished.delivery.is_some()), (FileState::Collected, true));
    assert_eq!(destination.accepted(), 1_000);
    assert!(destination.names().is_empty());
}

// SEMANTICS S5: "The program never writes under a final name by itself; with `--publish in-place` it does, and the receipt
// says `in-place`."
#[tokio::test]
async fn bytes_go_to_a_temporary_name_unless_told_otherwise() {
    for publish in [Publish::Rename, Publish::StagingDir, Publish::InPlace] {
        let (mut ferry, _, destination) = one_file(20_000_000);
        destination.make_directories("/in/tmp");
        ferry.wishes.publish = publish;
        ferry.wishes.verify = Verify::Auto;
        ferry.tuning.bandwidth = Some(100 << 20).into();
        let stop = stop_after(&ferry, 5_000_000);
        assert_eq!(ferry.run_until(&["a"], &stop).await.unwrap_err().kind, ErrorKind::Cancelled);
        assert_eq!(destination.bytes("/in/a").is_some(), publish == Publish::InPlace, "{publish}");
        ferry.run(&["a"]).await.unwrap();
        assert_eq!(ferry.records.kept(0).finished.unwrap().delivery.unwrap().mode, publish);
    }
}

/// A destination whose first `lies` writes store another first byte than they were given. With a collector the answer to
/// a rename is lost, and the file is taken away right after it.
#[derive(Debug)]
struct Liar {
    truth: Arc<dyn Connector>,
    lies: Arc<AtomicU32>,
    collector: Option<MemoryDestination>,
}

#[derive(Debug)]
struct LyingConnection(Box<dyn Connection>, Arc<AtomicU32>, Option<MemoryDestination>);

#[derive(Debug)]
struct LyingWriter(Box<dyn Writer>, Arc<AtomicU32>);

#[async_trait]
impl Connector for Liar {
    fn endpoint(&self) -> &Endpoint {
        self.truth.endpoint()
    }

    async fn connect(&self) -> Result<Box<dyn Connection>> {
        Ok(Box::new(LyingConnection(self.truth.connect().await?, self.lies.clone(), self.collector.clone())))
    }
}

#[async_trait]
impl Connection for LyingConnection {
    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }

    fn identity(&self) -> &ServerIdentity {
        self.0.identity()
    }

    async fn stat(&self, path: &RemotePath) -> Result<Option<Metadata>> {
        self.0.stat(path).await
    }

    async fn list(&self, path: &RemotePath, limit: usize) -> Result<Vec<Entry>> {
        self.0.list(path, limit).await
    }

    async fn make_directory(&self, path: &RemotePath) -> Result<()> {
        self.0.make_directory(path).await
    }

    async fn remove_directory(&self, path: &RemotePath) -> Result<()> {
        self.0.remove_directory(path).await
    }

    async fn open(&self, path: &RemotePath, options: CreateOptions) -> Result<Box<dyn Writer>> {
        Ok(Box::new(LyingWriter(self.0.open(path, options).await?, self.1.clone())))
    }

    async fn open_read(&self, path: &RemotePath) -> Result<Box<dyn Writer>> {
        self.0.open_read(path).await
    }

    async fn rename(&self, from: &RemotePath, to: &RemotePath, mode: RenameMode) -> Result<()> {
        self.0.rename(from, to, mode).await?;
        match &self.2 {
            None => Ok(()),
            Some(collector) => {
                collector.take(to.as_str()).expect("it was renamed");
                Err(Error::new(ErrorKind::NetworkReset, "rename to", to).on_lost_connection())
            }
        }
    }

    async fn remove(&self, path: &RemotePath) -> Result<()> {
        self.0.remove(path).await
    }

    async fn set_attributes(&self, path: &RemotePath, modified: Option<jiff::Timestamp>, permissions: Option<u32>) -> Result<()> {
        self.0.set_attributes(path, modified, permissions).await
    }

    async fn hash(&self, path: &RemotePath, algorithm: Algorithm) -> Result<Option<Digest>> {
        self.0.hash(path, algorithm).await
    }

    async fn free_space(&self, path: &RemotePath) -> Result<Option<u64>> {
        self.0.free_space(path).await
    }

    async fn ping(&self) -> Result<()> {
        self.0.ping().await
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}

#[async_trait]
impl Writer for LyingWriter {
    async fn write_at(&self, offset: u64, data: Bytes) -> Result<()> {
        let lie = !data.is_empty() && self.1.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
        let data = match lie {
            true => [&[data[0] ^ 1], &data[1..]].concat().into(),
            false => data,
        };
        self.0.write_at(offset, data).await
    }

    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        self.0.read_at(offset, length).await
    }

    async fn size(&self) -> Result<u64> {
        self.0.size().await
    }

    async fn sync(&self) -> Result<()> {
        self.0.sync().await
    }

    async fn set_attributes(&self, modified: Option<jiff::Timestamp>, permissions: Option<u32>) -> Result<()> {
        self.0.set_attributes(modified, permissions).await
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}
