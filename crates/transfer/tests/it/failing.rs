//! A wrapper around any connector that breaks one operation, or all from one on: before or after its effect, with or
//! without losing the connection. It counts every call, and lets a test look at the destination after each.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use model::Endpoint;
use transfer::{Connection, Connector, Error, ErrorKind, Result, Subject};

use crate::tapped::{Tap, Tapped};

/// What happens to the operation with the number of the break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// Refused, nothing done.
    Refused,
    /// Done, and answered with an error.
    DoneAndRefused,
    /// The connection is lost, nothing done.
    Lost,
    /// Done, then the connection is lost instead of an answer.
    DoneAndLost,
}

impl Break {
    pub const ALL: [Self; 4] = [Self::Refused, Self::DoneAndRefused, Self::Lost, Self::DoneAndLost];

    fn does(self) -> bool {
        matches!(self, Self::DoneAndRefused | Self::DoneAndLost)
    }

    fn loses(self) -> bool {
        matches!(self, Self::Lost | Self::DoneAndLost)
    }
}

type Look = Box<dyn Fn(u64, &'static str) + Send + Sync>;

struct Shared {
    at: u64,
    how: Break,
    /// Every later operation is broken as well: the process never gets anywhere again.
    for_good: bool,
    only: Option<&'static str>,
    count: AtomicU64,
    names: Mutex<Vec<&'static str>>,
    look: Option<Look>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "breaks {} ({:?})", self.at, self.how)
    }
}

#[derive(Debug, Clone)]
pub struct Failing {
    inner: Arc<dyn Connector>,
    shared: Arc<Shared>,
}

impl Failing {
    /// Breaks operation number `at`, from 0.
    pub fn new(inner: Arc<dyn Connector>, at: u64, how: Break) -> Self {
        let shared = Shared { at, how, for_good: false, only: None, count: AtomicU64::new(0), names: Mutex::default(), look: None };
        Self { inner, shared: Arc::new(shared) }
    }

    /// Breaks nothing: for counting and looking.
    pub fn never(inner: Arc<dyn Connector>) -> Self {
        Self::new(inner, u64::MAX, Break::Refused)
    }

    fn change(mut self, change: impl FnOnce(&mut Shared)) -> Self {
        change(Arc::get_mut(&mut self.shared).expect("changed before it is used"));
        self
    }

    pub fn for_good(self) -> Self {
        self.change(|shared| shared.for_good = true)
    }

    /// Counts and breaks operations of this name only.
    pub fn only(self, name: &'static str) -> Self {
        self.change(|shared| shared.only = Some(name))
    }

    /// Called after every operation with its number and name.
    pub fn look(self, look: impl Fn(u64, &'static str) + Send + Sync + 'static) -> Self {
        self.change(|shared| shared.look = Some(Box::new(look)))
    }

    /// Operations so far.
    pub fn operations(&self) -> Vec<&'static str> {
        self.shared.names.lock().unwrap().clone()
    }
}

#[async_trait]
impl Connector for Failing {
    fn endpoint(&self) -> &Endpoint {
        self.inner.endpoint()
    }

    async fn connect(&self) -> Result<Box<dyn Connection>> {
        let link = Arc::new(Link { shared: self.shared.clone(), dead: AtomicBool::new(false) });
        let inner = link.call("connect", self.inner.connect()).await?;
        Ok(Box::new(Tapped::new(inner, link)))
    }
}

#[derive(Debug)]
struct Link {
    shared: Arc<Shared>,
    dead: AtomicBool,
}

impl Tap for Link {
    // Nothing to break where there is nothing to end.
    const EVERY_FINISH: bool = false;

    async fn call<T: Send>(&self, name: &'static str, operation: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let error = |kind| Error::new(kind, name, Subject::Nothing).because("a test broke it");
        if self.dead.load(SeqCst) {
            return Err(error(ErrorKind::NetworkReset).on_lost_connection());
        }
        if self.shared.only.is_some_and(|only| only != name) {
            return operation.await;
        }
        let number = self.shared.count.fetch_add(1, SeqCst);
        self.shared.names.lock().unwrap().push(name);
        let how = self.shared.how;
        let broken = number == self.shared.at || (self.shared.for_good && number >= self.shared.at);
        let done = if !broken || how.does() { Some(operation.await) } else { None };
        if let Some(look) = &self.shared.look {
            look(number, name);
        }
        match done {
            Some(outcome) if !broken => outcome,
            _ if how.loses() => {
                self.dead.store(true, SeqCst);
                Err(error(ErrorKind::NetworkReset).on_lost_connection())
            }
            _ => Err(error(ErrorKind::DestProtocol)),
        }
    }
}
