//! A destination and a source between which a script acts: at chosen operations something breaks, the process dies, the
//! server restarts, the source changes or the partner comes by. After each operation the world looks at the final names.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use model::{Endpoint, ObjectKey};
use tokio_util::sync::CancellationToken;
use transfer::{Connection, Connector, Error, ErrorKind, ListingOptions, Pages, Pin, Result, Source, Subject};

use super::world::{Act, World};
use crate::failing::Break;
use crate::tapped::{Tap, Tapped};

#[derive(Debug, Clone)]
pub enum Event {
    /// One operation of the destination, or one read of the source.
    Break(Break),
    /// The process dies instead of doing this, or right after it and before it knows.
    Kill {
        after: bool,
    },
    /// One byte of the next write is another one.
    Flip,
    /// SIGTERM.
    Stop,
    World(Act),
}

/// One process and what happens to it.
#[derive(Debug)]
pub struct Script {
    world: Arc<World>,
    events: Mutex<BTreeMap<u64, Event>>,
    count: AtomicU64,
    flip: AtomicBool,
    flips: bool,
    pub killed: CancellationToken,
    pub stop: CancellationToken,
    /// What has happened, for messages and for the judge.
    pub fired: Mutex<Vec<String>>,
    /// Bytes that the destination got, by the last part of the path.
    pub written: Mutex<BTreeMap<String, u64>>,
}

impl Script {
    /// `flips`: the proof that was asked for finds a changed byte.
    pub fn new(world: Arc<World>, events: BTreeMap<u64, Event>, flips: bool) -> Arc<Self> {
        Arc::new(Self {
            world,
            events: Mutex::new(events),
            count: AtomicU64::new(0),
            flip: AtomicBool::new(false),
            flips,
            killed: CancellationToken::new(),
            stop: CancellationToken::new(),
            fired: Mutex::default(),
            written: Mutex::default(),
        })
    }

    async fn dead<T>(&self) -> T {
        std::future::pending().await
    }

    async fn call<T>(&self, name: &'static str, link: Option<&AtomicBool>, operation: impl Future<Output = Result<T>>) -> Result<T> {
        if self.killed.is_cancelled() {
            return self.dead().await;
        }
        if link.is_some_and(|dead| dead.load(SeqCst)) {
            return Err(Error::new(ErrorKind::NetworkReset, name, Subject::Nothing).because("the script cut it").on_lost_connection());
        }
        let number = self.count.fetch_add(1, SeqCst);
        let event = self.events.lock().unwrap().remove(&number);
        if let Some(event) = &event {
            self.fired.lock().unwrap().push(format!("{number} {name}: {event:?}"));
        }
        let outcome = match event {
            None => operation.await,
            Some(Event::Kill { after }) => {
                if after {
                    let _ = operation.await;
                    self.world.look(name);
                }
                self.killed.cancel();
                return self.dead().await;
            }
            Some(Event::Flip) => {
                self.flip.store(self.flips, SeqCst);
                operation.await
            }
            Some(Event::Stop) => {
                self.stop.cancel();
                operation.await
            }
            Some(Event::World(act)) => {
                self.world.act(&act);
                operation.await
            }
            Some(Event::Break(how)) => self.broken(name, link, how, operation).await,
        };
        // The process may have died while this was under way.
        if self.killed.is_cancelled() {
            return self.dead().await;
        }
        if !matches!(name, "write" | "read" | "size" | "read the source") {
            self.world.look(name);
        }
        outcome
    }

    async fn broken<T>(
        &self,
        name: &'static str,
        link: Option<&AtomicBool>,
        how: Break,
        operation: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let Some(link) = link else {
            return Err(Error::new(ErrorKind::SourceThrottled, name, Subject::Nothing).because("the script said so"));
        };
        if matches!(how, Break::DoneAndRefused | Break::DoneAndLost) {
            let _ = operation.await;
        }
        let error = |kind| Error::new(kind, name, Subject::Nothing).because("the script broke it");
        if matches!(how, Break::Lost | Break::DoneAndLost) {
            link.store(true, SeqCst);
            return Err(error(ErrorKind::NetworkReset).on_lost_connection());
        }
        Err(error(ErrorKind::DestProtocol))
    }
}

#[derive(Debug)]
pub struct ScriptedSource {
    pub inner: Arc<dyn Source>,
    pub script: Arc<Script>,
}

#[async_trait]
impl Source for ScriptedSource {
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
        self.script.call("pin the source", None, self.inner.pin(key, version)).await
    }

    async fn read(&self, pin: &Pin, range: Range<u64>) -> Result<Bytes> {
        self.script.call("read the source", None, self.inner.read(pin, range)).await
    }
}

#[derive(Debug)]
pub struct ScriptedConnector {
    pub inner: Arc<dyn Connector>,
    pub script: Arc<Script>,
}

#[async_trait]
impl Connector for ScriptedConnector {
    fn endpoint(&self) -> &Endpoint {
        self.inner.endpoint()
    }

    async fn connect(&self) -> Result<Box<dyn Connection>> {
        let link = Arc::new(Link { script: self.script.clone(), dead: AtomicBool::new(false) });
        let inner = link.call("connect", self.inner.connect()).await?;
        Ok(Box::new(Tapped::new(inner, link)))
    }
}

#[derive(Debug)]
struct Link {
    script: Arc<Script>,
    dead: AtomicBool,
}

impl Tap for Link {
    const EVERY_FINISH: bool = true;

    async fn call<T: Send>(&self, name: &'static str, operation: impl Future<Output = Result<T>> + Send) -> Result<T> {
        self.script.call(name, Some(&self.dead), operation).await
    }

    fn instead(&self, name: &str, mut data: Bytes) -> Bytes {
        if !data.is_empty() && self.script.flip.swap(false, SeqCst) {
            let mut other = data.to_vec();
            let at = other.len() / 3;
            other[at] ^= 0x10;
            data = Bytes::from(other);
        }
        *self.script.written.lock().unwrap().entry(name.to_owned()).or_default() += data.len() as u64;
        data
    }
}
