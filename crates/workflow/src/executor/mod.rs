//! Runs executions for good: a step is written in one commit, together with what the task did, before anything follows
//! from it. It knows nothing of what tasks do, nor where a journal keeps what it is given.

mod clock;
mod drive;
mod manual;
mod memory;
mod port;
mod task;
mod timers;
mod view;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use clock::{Clock, SystemClock};
pub use manual::ManualClock;
pub use memory::MemoryJournal;
pub use port::{Answer, Creation, Effects, Journal, JournalError, Save, Stored, TaskCall, TaskHandler, Watcher};
pub use task::Running;
pub use view::{Description, Standing};

use self::clock::Timeline;
use self::drive::{Happening, Live};
use self::timers::Timers;
use crate::interpreter::{Event, Execution, HistoryEvent, Start, Status};
use crate::{Chance, Fault, Machine, Refused};

/// What an executor works with.
pub struct Ports<E: Effects> {
    pub journal: Arc<dyn Journal<E>>,
    pub handler: Arc<dyn TaskHandler<E>>,
    pub watcher: Arc<dyn Watcher>,
    pub clock: Arc<dyn Clock>,
    /// Task tokens are drawn from it, so it must not be guessed.
    pub chance: Box<dyn Chance + Send>,
}

impl<E: Effects> fmt::Debug for Ports<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports").finish_non_exhaustive()
    }
}

#[derive(Debug, Clone)]
pub struct Options {
    /// Whoever wakes so much later than meant was away; the time of running tasks begins anew.
    pub away_after: Duration,
    /// How often the clocks are looked at where nothing is due.
    pub look: Duration,
    /// How many executions are read at once when an executor takes up its work.
    pub page: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { away_after: Duration::from_secs(30), look: Duration::from_secs(1), page: 500 }
    }
}

/// An execution to be started.
#[derive(Debug, Clone, PartialEq)]
pub struct NewExecution {
    pub name: String,
    /// Name of the state machine.
    pub machine: String,
    /// The text of its definition.
    pub definition: String,
    pub input: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// It ran already, with the same input: nothing was written.
    pub already: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Definition(#[from] Refused),
    #[error("{0:?} is not a name of an execution: 1 to 80 letters, digits, '-', '_' and '.'")]
    Name(String),
    #[error("an execution of this name has ended, or runs with another input")]
    Exists,
    #[error("there is no execution of this name")]
    NotFound,
    #[error("no task waits for this answer")]
    NoSuchTask,
    #[error("the execution has ended")]
    Ended,
    #[error("the execution has not failed")]
    NotFailed,
    #[error("the input is too large, or nested too deep")]
    InputTooLarge,
    #[error("what should be written with it cannot be: {0}")]
    Refused(Fault),
    #[error("the execution is carried on elsewhere")]
    Dropped,
    #[error("the journal takes no writes: {0}")]
    Unavailable(String),
    #[error("the executor is stopping")]
    Stopping,
}

impl From<JournalError> for Error {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Exists => Self::Exists,
            JournalError::Conflict(_) => Self::Dropped,
            JournalError::Refused(fault) => Self::Refused(fault),
            JournalError::Unavailable(why) => Self::Unavailable(why),
        }
    }
}

/// Carries on many executions at once. Clones share them.
pub struct Executor<E: Effects> {
    core: Arc<Core<E>>,
}

impl<E: Effects> Clone for Executor<E> {
    fn clone(&self) -> Self {
        Self { core: self.core.clone() }
    }
}

impl<E: Effects> fmt::Debug for Executor<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").field("running", &self.running()).finish_non_exhaustive()
    }
}

struct Core<E: Effects> {
    journal: Arc<dyn Journal<E>>,
    handler: Arc<dyn TaskHandler<E>>,
    watcher: Arc<dyn Watcher>,
    timeline: Timeline,
    chance: Mutex<Box<dyn Chance + Send>>,
    options: Options,
    live: Mutex<HashMap<Arc<str>, Arc<Live<E>>>>,
    definitions: Mutex<HashMap<Arc<str>, Weak<Definition>>>,
    timers: Timers<E>,
    /// Steps under way.
    drives: Arc<watch::Sender<usize>>,
    /// Tasks that somebody carries out.
    tasks: Arc<watch::Sender<usize>>,
    /// No new work is begun.
    stopping: CancellationToken,
    /// Nothing is waited for any longer.
    closed: CancellationToken,
    is_stalled: AtomicBool,
}

/// A definition that was read once for all executions which run it.
struct Definition {
    text: Arc<str>,
    machine: Machine,
}

impl<E: Effects> Executor<E> {
    /// Must be called inside a tokio runtime. What is open in the journal waits for [`Self::resume`].
    pub fn new(ports: Ports<E>, options: Options) -> Self {
        let core = Arc::new(Core {
            journal: ports.journal,
            handler: ports.handler,
            watcher: ports.watcher,
            timeline: Timeline::new(ports.clock),
            chance: Mutex::new(ports.chance),
            options,
            live: Mutex::new(HashMap::new()),
            definitions: Mutex::new(HashMap::new()),
            timers: Timers::default(),
            drives: Arc::new(watch::Sender::new(0)),
            tasks: Arc::new(watch::Sender::new(0)),
            stopping: CancellationToken::new(),
            closed: CancellationToken::new(),
            is_stalled: AtomicBool::new(false),
        });
        tokio::spawn(timers::run(Arc::downgrade(&core)));
        Self { core }
    }

    /// Takes up every open execution of the journal: its tasks are started again under the same tokens, and their time
    /// begins anew. Says how many there were.
    pub async fn resume(&self) -> Result<usize, Error> {
        let (mut after, mut count) = (0, 0);
        loop {
            let page = self.core.journal.open(after, self.core.options.page).await?;
            let Some((last, _)) = page.last() else { return Ok(count) };
            after = *last;
            for (_, stored) in page {
                let name = stored.execution.start.name.clone();
                match self.core.adopt(stored) {
                    Ok(new) => count += usize::from(new),
                    // One that cannot be carried on keeps no other from it.
                    Err(error) => self.core.watcher.dropped(&name, &error.to_string()),
                }
            }
        }
    }

    /// As StartExecution: the same name with the same input is the same execution as long as it runs, and refused afterwards.
    /// The effects are written together with the execution, or not at all.
    pub async fn start(&self, new: NewExecution, effects: E) -> Result<Started, Error> {
        let core = &self.core;
        if core.stopping.is_cancelled() {
            return Err(Error::Stopping);
        }
        check_name(&new.name)?;
        let definition = core.definition(&new.definition)?;
        let token_prefix = format!("{}:{}:", new.name, core.chance().uuid());
        let start = Start {
            id: format!("arn:aws:states:local:000000000000:execution:{}:{}", new.machine, new.name),
            role: "arn:aws:iam::000000000000:role/local".to_owned(),
            machine_id: format!("arn:aws:states:local:000000000000:stateMachine:{}", new.machine),
            name: new.name,
            machine_name: new.machine,
            input: new.input,
            token_prefix,
        };
        let name = start.name.clone();
        let moment = core.timeline.now();
        let (execution, step) = Execution::start(&definition.machine, start, moment.now, &mut core.chance())?;
        let creation = Creation { definition: &definition.text, execution: &execution, step: &step, effects: &effects, at: moment.now };
        match core.journal.create(creation).await {
            Ok(()) => {
                core.take_in(definition, execution, moment.moved, step.commands);
                Ok(Started { already: false })
            }
            Err(JournalError::Exists) => {
                let stored = core.journal.load(&name).await?.ok_or(Error::NotFound)?;
                let same = stored.execution.status == Status::Running && stored.execution.start.input == execution.start.input;
                if same { Ok(Started { already: true }) } else { Err(Error::Exists) }
            }
            Err(JournalError::Unavailable(why)) => {
                // It may have been written all the same, and then it must not lie there until the next start.
                tokio::spawn(core.clone().settle(name, execution.start.token_prefix));
                Err(Error::Unavailable(why))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// As StopExecution: the execution ends at once, its tasks are cancelled. One that has ended stays as it is.
    pub async fn stop(&self, name: &str, error: &str, cause: &str) -> Result<(), Error> {
        let event = Event::Abort { error: error.to_owned(), cause: cause.to_owned() };
        match self.core.find(name) {
            Some(live) => match self.core.tell(&live, event, E::default()).await {
                Err(Error::Ended) => Ok(()),
                told => told,
            },
            None => match self.core.journal.load(name).await?.ok_or(Error::NotFound)?.execution.status {
                Status::Running => Err(Error::Dropped),
                _ => Ok(()),
            },
        }
    }

    /// As RedriveExecution: goes on from where it failed.
    pub async fn redrive(&self, name: &str) -> Result<(), Error> {
        if self.core.stopping.is_cancelled() {
            return Err(Error::Stopping);
        }
        loop {
            if let Some(live) = self.core.find(name) {
                match self.core.tell(&live, Event::Redrive, E::default()).await {
                    // It ended while the wish was on its way, and is in memory no more.
                    Err(Error::Ended) => continue,
                    told => return told,
                }
            }
            let stored = self.core.journal.load(name).await?.ok_or(Error::NotFound)?;
            match stored.execution.status {
                Status::Running => return Err(Error::Dropped),
                Status::Succeeded { .. } => return Err(Error::NotFailed),
                _ => {}
            }
            let definition = self.core.definition(&stored.definition)?;
            let moved = self.core.timeline.now().moved;
            self.core.insert(definition, stored.execution, moved);
        }
    }

    /// A task ended well. `Ok` when that is written, with the effects; `NoSuchTask` when nobody waits for it any more, and
    /// then the effects are not written.
    pub async fn succeed(&self, token: &str, output: Value, effects: E) -> Result<(), Error> {
        self.answer(token, Event::TaskSucceeded { token: token.to_owned(), output }, effects).await
    }

    pub async fn fail(&self, token: &str, fault: Fault, effects: E) -> Result<(), Error> {
        // What fails because the process ends is started again.
        if self.core.stopping.is_cancelled() {
            return Err(Error::Stopping);
        }
        self.answer(token, Event::TaskFailed { token: token.to_owned(), error: fault.error, cause: fault.cause }, effects).await
    }

    async fn answer(&self, token: &str, event: Event, effects: E) -> Result<(), Error> {
        let live = self.core.waiting_for(token)?;
        match self.core.tell(&live, event, effects).await {
            Err(Error::Ended) => Err(Error::NoSuchTask),
            told => told,
        }
    }

    /// The task of this token is alive. May be said often: at most ten times in HeartbeatSeconds it is written.
    pub async fn heartbeat(&self, token: &str) -> Result<(), Error> {
        self.core.heartbeat(token).await
    }

    /// Waits until an execution ends.
    pub async fn ended(&self, name: &str) -> Result<Status, Error> {
        let Some(live) = self.core.find(name) else {
            return match self.core.journal.load(name).await?.ok_or(Error::NotFound)?.execution.status {
                Status::Running => Err(Error::Dropped),
                status => Ok(status),
            };
        };
        let mut end = live.end.subscribe();
        tokio::select! {
            end = end.wait_for(Option::is_some) => end.ok().and_then(|end| end.clone()).unwrap_or(Err(Error::Stopping)),
            () = self.core.closed.cancelled() => Err(Error::Stopping),
        }
    }

    /// Executions in memory.
    pub fn running(&self) -> usize {
        self.core.live().len()
    }

    /// Returns when no step is under way. Tasks may still run.
    pub async fn settled(&self) {
        // The sender lives as long as the executor, so that waiting cannot fail.
        let _ = self.core.drives.subscribe().wait_for(|count| *count == 0).await;
    }

    /// When something happens by itself next.
    pub fn next_timer(&self) -> Option<jiff::Timestamp> {
        self.core.timers.next()
    }

    pub async fn history(&self, name: &str, after: u64, limit: usize) -> Result<Vec<HistoryEvent>, Error> {
        Ok(self.core.journal.history(name, after, limit).await?)
    }

    /// Nothing new is begun, tasks are cancelled and given so long to answer. What does not answer, or fails, stays as it
    /// is stored, and is started again by the next executor.
    pub async fn shutdown(&self, grace: Duration) {
        let core = &self.core;
        core.stopping.cancel();
        let all: Vec<_> = core.live().values().cloned().collect();
        for live in &all {
            live.desk().running.values().for_each(|entry| entry.cancelled.cancel());
        }
        let until = tokio::time::Instant::now() + grace;
        // Too late is no error here, nor is a journal that takes no writes.
        let _ = tokio::time::timeout_at(until, core.tasks.subscribe().wait_for(|count| *count == 0)).await;
        for live in &all {
            live.desk().running.values().for_each(|entry| entry.call.abort());
        }
        let _ = tokio::time::timeout_at(until, self.settled()).await;
        core.closed.cancel();
        self.settled().await;
    }
}

impl<E: Effects> Core<E> {
    fn live(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Live<E>>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, name: &str) -> Option<Arc<Live<E>>> {
        self.live().get(name).cloned()
    }

    fn chance(&self) -> Shared<'_> {
        Shared(&self.chance)
    }

    fn definition(&self, text: &str) -> Result<Arc<Definition>, Error> {
        let mut known = self.definitions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(definition) = known.get(text).and_then(Weak::upgrade) {
            return Ok(definition);
        }
        known.retain(|_, definition| definition.strong_count() > 0);
        let definition = Arc::new(Definition { text: text.into(), machine: Machine::parse(text)? });
        known.insert(definition.text.clone(), Arc::downgrade(&definition));
        Ok(definition)
    }

    /// Puts an execution into memory, unless it is there.
    fn insert(&self, definition: Arc<Definition>, execution: Execution, moved: jiff::SignedDuration) -> (Arc<Live<E>>, bool) {
        let name: Arc<str> = execution.start.name.as_str().into();
        let mut all = self.live();
        if let Some(known) = all.get(&name) {
            return (known.clone(), false);
        }
        let live = Live::new(name.clone(), definition, drive::Standing { execution, moved });
        all.insert(name, live.clone());
        (live, true)
    }

    /// An execution whose first step is written.
    fn take_in(
        self: &Arc<Self>,
        definition: Arc<Definition>,
        execution: Execution,
        moved: jiff::SignedDuration,
        commands: Vec<crate::Command>,
    ) {
        let status = execution.status.clone();
        if status != Status::Running {
            return self.watcher.ended(&execution.start.name, &status);
        }
        let (live, _) = self.insert(definition, execution, moved);
        self.carry_out(&live, commands);
        // Whoever drives it last tells the timers.
        self.push(&live, Happening::clock());
    }

    /// An open execution as it was stored. False if it is in memory already.
    fn adopt(self: &Arc<Self>, stored: Stored) -> Result<bool, Error> {
        let Stored { definition, mut execution } = stored;
        let definition = self.definition(&definition)?;
        let moment = self.timeline.now();
        execution.tasks_begin_anew(moment.now);
        let tasks = execution.open_tasks(&definition.machine);
        let (live, new) = self.insert(definition, execution, moment.moved);
        if new {
            tasks.into_iter().for_each(|(request, _)| self.start_task(&live, request, true));
            self.push(&live, Happening::clock());
        }
        Ok(new)
    }

    /// Finds out whether an execution was created although the journal did not say so.
    async fn settle(self: Arc<Self>, name: String, token_prefix: String) {
        let mut pause = drive::FIRST_PAUSE;
        while !self.stopping.is_cancelled() {
            match self.journal.load(&name).await {
                Ok(Some(stored)) if stored.execution.start.token_prefix == token_prefix => {
                    if stored.execution.status == Status::Running
                        && let Err(error) = self.adopt(stored)
                    {
                        self.watcher.dropped(&name, &error.to_string());
                    }
                    return;
                }
                Ok(_) => return,
                Err(_) => self.rest(&mut pause).await,
            }
        }
    }

    fn tell_all(self: &Arc<Self>, what: impl Fn() -> Happening<E>) {
        let all: Vec<_> = self.live().values().cloned().collect();
        all.iter().for_each(|live| self.push(live, what()));
    }
}

/// The executor's chance, a number at a time.
struct Shared<'a>(&'a Mutex<Box<dyn Chance + Send>>);

impl Chance for Shared<'_> {
    fn number(&mut self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).number()
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let fits = (1..=80).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if fits { Ok(()) } else { Err(Error::Name(name.to_owned())) }
}
