//! The engine with everything around it in memory: a ledger that keeps what a process would have stored, so that a
//! test can "kill" the engine and go on with a new one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use model::{DigestSet, FileNumber, IfExists, Publish, RemotePath, TempName, Thresholds, TransferId, Verify};
use tokio_util::sync::CancellationToken;
use transfer::engine::{Engine, Setup, Tuning};
use transfer::meter::Meter;
use transfer::port::{Failed, Feed, FileTask, Finished, Intent, Ledger, Logins, PublishGate, SizeClass, Verdict, Wishes};
use transfer::retry::Backoff;
use transfer::sheet::Checkpoint;
use transfer::{Connector, Error, ErrorKind, ListingOptions, Pin, Result, ServerIdentity, Source, Subject};

/// What a process leaves behind for its successor.
#[derive(Debug, Default, Clone)]
pub struct Kept {
    pub attempt: u32,
    pub checkpoint: Option<Checkpoint>,
    pub intent: Option<Intent>,
    pub finished: Option<Finished>,
    pub failed: Option<(ErrorKind, String, Option<RemotePath>)>,
}

/// The store of a test. `epoch` fences: a ledger of an older epoch gets `lease_lost`.
#[derive(Debug, Default)]
pub struct Records {
    pub files: Mutex<BTreeMap<FileNumber, Kept>>,
    pub epoch: Mutex<u32>,
    pub checkpoints: Mutex<u64>,
    pub intents: Mutex<u64>,
    pub refuse_publish: Mutex<Option<ErrorKind>>,
    pub connects: Mutex<Vec<std::result::Result<(), ErrorKind>>>,
}

impl Records {
    pub fn kept(&self, number: u32) -> Kept {
        self.files.lock().unwrap().get(&FileNumber(number)).cloned().unwrap_or_default()
    }
}

#[derive(Debug)]
pub struct TestLedger {
    pub records: Arc<Records>,
    pub epoch: u32,
}

impl TestLedger {
    fn write(&self, file: FileNumber, change: impl FnOnce(&mut Kept)) -> Result<()> {
        if *self.records.epoch.lock().unwrap() != self.epoch {
            return Err(Error::new(ErrorKind::LeaseLost, "write", Subject::Nothing));
        }
        change(self.records.files.lock().unwrap().entry(file).or_default());
        Ok(())
    }
}

#[async_trait]
impl Ledger for TestLedger {
    async fn checkpoint(&self, file: FileNumber, checkpoint: &Checkpoint, _done: u64) -> Result<()> {
        *self.records.checkpoints.lock().unwrap() += 1;
        // Through JSON, as the real store does it.
        let stored = serde_json::from_str(&serde_json::to_string(checkpoint).unwrap()).unwrap();
        self.write(file, |kept| kept.checkpoint = Some(stored))
    }

    async fn restart(&self, file: FileNumber, attempt: u32) -> Result<()> {
        self.write(file, |kept| *kept = Kept { attempt, ..Kept::default() })
    }

    async fn intent(&self, file: FileNumber, intent: &Intent) -> Result<()> {
        *self.records.intents.lock().unwrap() += 1;
        let stored = serde_json::from_str(&serde_json::to_string(intent).unwrap()).unwrap();
        self.write(file, |kept| kept.intent = Some(stored))
    }

    async fn finished(&self, file: FileNumber, finished: Finished) -> Result<()> {
        self.write(file, |kept| {
            assert!(kept.finished.is_none(), "a file ends once");
            kept.finished = Some(finished);
            kept.checkpoint = None;
            kept.intent = None;
        })
    }

    async fn failed(&self, file: FileNumber, failed: &Failed) -> Result<()> {
        let text = transfer::error::chain(&failed.error);
        self.write(file, |kept| kept.failed = Some((failed.error.kind, text, failed.kept.clone())))
    }
}

#[async_trait]
impl PublishGate for TestLedger {
    async fn may_publish(&self, _file: FileNumber, _pin: &Pin, path: &RemotePath) -> Result<Verdict> {
        Ok(match *self.records.refuse_publish.lock().unwrap() {
            Some(kind) => Verdict::Refused(Error::new(kind, "publish", path)),
            None => Verdict::Go,
        })
    }
}

#[async_trait]
impl Logins for TestLedger {
    async fn before_connect(&self) -> Result<()> {
        Ok(())
    }

    async fn after_connect(&self, outcome: std::result::Result<&ServerIdentity, &Error>) {
        self.records.connects.lock().unwrap().push(outcome.map(drop).map_err(|e| e.kind));
    }
}

#[derive(Debug)]
pub struct ListFeed {
    tasks: Mutex<Vec<FileTask>>,
    small_up_to: u64,
}

impl ListFeed {
    pub fn of(tasks: Vec<FileTask>, small_up_to: u64) -> Self {
        Self { tasks: Mutex::new(tasks), small_up_to }
    }
}

#[async_trait]
impl Feed for ListFeed {
    async fn next(&self, class: SizeClass) -> Result<Option<FileTask>> {
        let mut tasks = self.tasks.lock().unwrap();
        let at = tasks.iter().position(|t| (t.pin.size <= self.small_up_to) == (class == SizeClass::Small));
        Ok(at.map(|at| tasks.remove(at)))
    }
}

/// One transfer that can be run again and again, each time as a new process would.
pub struct Ferry {
    pub source: Arc<dyn Source>,
    pub connector: Arc<dyn Connector>,
    pub records: Arc<Records>,
    pub wishes: Wishes,
    pub tuning: Tuning,
    pub root: RemotePath,
    pub temp_name: TempName,
    pub transfer: TransferId,
    pub meter: Arc<Meter>,
    pins: Mutex<BTreeMap<String, Pin>>,
}

pub fn wishes() -> Wishes {
    Wishes {
        if_exists: IfExists::Fail,
        publish: Publish::Rename,
        verify: Verify::Auto,
        digests: DigestSet::default(),
        resend: false,
        preserve_time: true,
        permissions: None,
        make_directories: true,
        make_root: false,
    }
}

pub fn tuning() -> Tuning {
    Tuning {
        connections: None,
        transfers: 5,
        lanes: 16,
        range_size: 10 << 20,
        budget: 32 << 20,
        bandwidth: model::Bandwidth::default(),
        backoff: Backoff { attempts: 3, base: Duration::from_millis(20), cap: Duration::from_millis(100) },
        far: transfer::pool::FAR,
        thresholds: Thresholds::default(),
    }
}

impl Ferry {
    pub fn new(source: Arc<dyn Source>, connector: Arc<dyn Connector>, root: &str) -> Self {
        Self {
            source,
            connector,
            records: Arc::default(),
            wishes: wishes(),
            tuning: tuning(),
            root: RemotePath::from_user(root).unwrap(),
            temp_name: TempName::default(),
            transfer: TransferId::from_random([3; 10]),
            meter: Arc::default(),
            pins: Mutex::default(),
        }
    }

    pub fn path(&self, key: &str) -> RemotePath {
        self.root.join(key).unwrap()
    }

    /// A new process: takes the next epoch and goes on with what is recorded.
    pub fn engine(&self, stop: &CancellationToken) -> (Engine, u32) {
        let epoch = {
            let mut epoch = self.records.epoch.lock().unwrap();
            *epoch += 1;
            *epoch
        };
        let ledger = Arc::new(TestLedger { records: self.records.clone(), epoch });
        let engine = Engine::new(Setup {
            transfer: self.transfer.clone(),
            run: 1,
            epoch,
            source: self.source.clone(),
            connector: self.connector.clone(),
            ledger: ledger.clone(),
            gate: ledger.clone(),
            logins: ledger,
            meter: self.meter.clone(),
            wishes: self.wishes.clone(),
            tuning: self.tuning.clone(),
            root: self.root.clone(),
            temp_name: self.temp_name.clone(),
            stop: stop.clone(),
        });
        (engine, epoch)
    }

    /// The files that still have to be delivered, in the order of `keys`.
    pub async fn feed(&self, keys: &[&str], small_up_to: u64) -> Arc<ListFeed> {
        let mut tasks = Vec::new();
        for (number, key) in keys.iter().enumerate() {
            let kept = self.records.kept(number as u32);
            if kept.finished.is_some() {
                continue;
            }
            let known = self.pins.lock().unwrap().get(*key).cloned();
            let pin = match known {
                Some(pin) => pin,
                None => self.list_one(key).await,
            };
            self.pins.lock().unwrap().insert((*key).to_owned(), pin.clone());
            tasks.push(FileTask {
                number: FileNumber(number as u32),
                pin,
                path: self.path(key),
                attempt: kept.attempt.max(1),
                checkpoint: kept.checkpoint,
                intent: kept.intent,
                previous: None,
            });
        }
        Arc::new(ListFeed::of(tasks, small_up_to))
    }

    async fn list_one(&self, key: &str) -> Pin {
        let mut pages = self.source.list(ListingOptions { prefix: key.to_owned(), delimited: false });
        while let Some(page) = pages.next().await.unwrap() {
            if let Some(object) = page.objects.into_iter().find(|o| o.key.as_str() == key) {
                return Pin::from(object);
            }
        }
        panic!("the source has no {key:?}");
    }

    pub async fn run(&self, keys: &[&str]) -> Result<()> {
        self.run_until(keys, &CancellationToken::new()).await
    }

    pub async fn run_until(&self, keys: &[&str], stop: &CancellationToken) -> Result<()> {
        let (engine, _) = self.engine(stop);
        let feed = self.feed(keys, engine.small_up_to()).await;
        let outcome = engine.run(feed).await;
        engine.pool().close().await;
        outcome
    }
}

/// Bytes that differ everywhere, so that swapped, shifted or repeated pieces are found.
pub fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64 ^ length as u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        bytes.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
