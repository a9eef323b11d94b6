//! Carries one execution on: what happened to it, one thing after the other, each as a step that is written before anything
//! follows from it. At most one driver per execution; nobody drives one to which nothing happens.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{oneshot, watch};

use super::port::{Effects, JournalError, Save};
use super::task::Entry;
use super::{Core, Definition, Error};
use crate::Fault;
use crate::interpreter::{Command, Event, Execution, Rejected, Status, Step, step};

/// An execution in memory.
pub(super) struct Live<E> {
    pub name: Arc<str>,
    pub definition: Arc<Definition>,
    desk: Mutex<Desk<E>>,
    /// How it ended, here.
    pub end: watch::Sender<Option<Result<Status, Error>>>,
}

/// What lies ready for the driver.
pub(super) struct Desk<E> {
    pub waiting: VecDeque<Happening<E>>,
    /// None while somebody drives.
    pub standing: Option<Box<Standing>>,
    pub running: HashMap<String, Entry>,
    /// The earliest time for which the timers know of this execution.
    pub registered: Option<Timestamp>,
    /// Ended, or carried on elsewhere.
    pub gone: bool,
}

pub(super) struct Standing {
    pub execution: Execution,
    /// How far its times have followed the wall clock; see [`super::clock::Timeline`].
    pub moved: SignedDuration,
}

impl<E> Live<E> {
    pub(super) fn new(name: Arc<str>, definition: Arc<Definition>, standing: Standing) -> Arc<Self> {
        let desk =
            Desk { waiting: VecDeque::new(), standing: Some(Box::new(standing)), running: HashMap::new(), registered: None, gone: false };
        Arc::new(Self { name, definition, desk: Mutex::new(desk), end: watch::Sender::new(None) })
    }

    pub(super) fn desk(&self) -> MutexGuard<'_, Desk<E>> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts what is under way, also when it panics.
pub(super) struct Counted(Arc<watch::Sender<usize>>);

impl Counted {
    pub(super) fn one_more(count: &Arc<watch::Sender<usize>>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Something that happened to an execution.
pub(super) struct Happening<E> {
    what: What,
    effects: E,
    /// Why its effects were not written, and it counts as a failed task.
    refused: Option<Fault>,
    answer: Option<oneshot::Sender<Result<(), Error>>>,
}

enum What {
    Event(Event),
    /// The process was away: the time of its tasks begins anew.
    Away,
}

impl<E: Effects> Happening<E> {
    pub(super) fn event(event: Event, effects: E, answer: Option<oneshot::Sender<Result<(), Error>>>) -> Self {
        Self { what: What::Event(event), effects, refused: None, answer }
    }

    pub(super) fn clock() -> Self {
        Self::event(Event::Clock, E::default(), None)
    }

    pub(super) fn away() -> Self {
        Self { what: What::Away, effects: E::default(), refused: None, answer: None }
    }

    fn answer(self, answer: Result<(), Error>) {
        if let Some(sender) = self.answer {
            let answer = self.refused.map_or(answer, |fault| Err(Error::Refused(fault)));
            // Whoever asked may have gone.
            let _ = sender.send(answer);
        }
    }
}

/// What one happening made of an execution.
enum Taken {
    Stands,
    /// Not here any more.
    Gone,
}

/// Where a step whose write failed was found to stand.
enum Found {
    Written,
    Stands(Box<Execution>),
    Gone,
}

pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

impl<E: Effects> Core<E> {
    /// Puts something on the desk of an execution, and sees to it that somebody drives.
    pub(super) fn push(self: &Arc<Self>, live: &Arc<Live<E>>, happening: Happening<E>) {
        let standing = {
            let mut desk = live.desk();
            if desk.gone {
                drop(desk);
                return happening.answer(Err(Error::Ended));
            }
            desk.waiting.push_back(happening);
            desk.standing.take()
        };
        if let Some(standing) = standing {
            let drive = Counted::one_more(&self.drives);
            tokio::spawn(self.clone().drive(live.clone(), standing, drive));
        }
    }

    async fn drive(self: Arc<Self>, live: Arc<Live<E>>, mut standing: Box<Standing>, _drive: Counted) {
        loop {
            let happening = {
                let mut desk = live.desk();
                match desk.waiting.pop_front() {
                    Some(happening) => happening,
                    None => {
                        let wakes = standing.execution.wakes();
                        desk.standing = Some(standing);
                        self.timers.register(&live, &mut desk, wakes);
                        break;
                    }
                }
            };
            match self.take(&live, &mut standing, happening).await {
                Taken::Stands if standing.execution.status == Status::Running => {}
                Taken::Stands => {
                    self.forget(&live, Ok(standing.execution.status.clone()));
                    break;
                }
                Taken::Gone => break,
            }
        }
    }

    async fn take(self: &Arc<Self>, live: &Arc<Live<E>>, standing: &mut Standing, mut happening: Happening<E>) -> Taken {
        let mut pause = FIRST_PAUSE;
        let clock = self.timeline.clock();
        let began = clock.steady();
        loop {
            if self.closed.is_cancelled() {
                happening.answer(Err(Error::Stopping));
                return Taken::Stands;
            }
            let moment = self.timeline.now();
            let by = moment.moved - standing.moved;
            let follows_clock = !by.is_zero() && standing.execution.status == Status::Running;
            let event = match &happening.what {
                _ if follows_clock => Event::ClockMoved { by },
                What::Event(event) => event.clone(),
                What::Away => {
                    standing.execution.tasks_begin_anew(moment.now);
                    return Taken::Stands;
                }
            };
            let expect_event = standing.execution.last_event;
            let stepped = step(&live.definition.machine, &mut standing.execution, event, moment.now, &mut self.chance());
            let done = match stepped {
                Ok(done) => done,
                Err(rejected) => {
                    happening.answer(Err(rejected.into()));
                    return Taken::Stands;
                }
            };
            let execution = &standing.execution;
            let idle = done.history.is_empty() && done.touched.is_empty() && done.removed.is_empty();
            if idle && !(follows_clock && execution.deadline.is_some()) {
                standing.moved = moment.moved;
                if follows_clock {
                    continue;
                }
                happening.answer(Ok(()));
                return Taken::Stands;
            }
            let none = E::default();
            let effects = if follows_clock { &none } else { &happening.effects };
            let save = Save { expect_event, execution, step: &done, effects, at: moment.now };
            let found = match self.journal.save(save).await {
                Ok(()) => Found::Written,
                Err(JournalError::Refused(fault)) if happening.fail(&fault) => self.look_up(live, execution, &done).await,
                Err(JournalError::Unavailable(why) | JournalError::Refused(Fault { cause: why, .. })) => {
                    self.stalled(&why);
                    self.rest(&mut pause).await;
                    self.look_up(live, execution, &done).await
                }
                Err(why @ (JournalError::Conflict(_) | JournalError::Exists)) => {
                    self.drop_execution(live, &why.to_string());
                    Found::Gone
                }
            };
            match found {
                Found::Written => {
                    self.going_on();
                    standing.moved = moment.moved;
                    if follows_clock {
                        continue;
                    }
                    self.written(live, &standing.execution, &happening, done);
                    happening.answer(Ok(()));
                    return Taken::Stands;
                }
                Found::Stands(mut execution) => {
                    execution.keep_task_times(&standing.execution);
                    standing.execution = *execution;
                    if clock.steady().saturating_sub(began) > self.options.away_after {
                        // Nothing went on while nothing could be written.
                        standing.execution.tasks_begin_anew(self.timeline.now().now);
                    }
                }
                Found::Gone => {
                    let why = if self.closed.is_cancelled() { Error::Stopping } else { Error::Dropped };
                    happening.answer(Err(why));
                    return Taken::Gone;
                }
            }
        }
    }

    /// What follows from a step, now that it is written.
    fn written(self: &Arc<Self>, live: &Arc<Live<E>>, execution: &Execution, happening: &Happening<E>, done: Step) {
        if let What::Event(Event::TaskSucceeded { token, .. } | Event::TaskFailed { token, .. }) = &happening.what {
            live.desk().running.remove(token);
        }
        self.carry_out(live, done.commands);
        if execution.status != Status::Running {
            self.watcher.ended(&live.name, &execution.status);
        }
    }

    pub(super) fn carry_out(self: &Arc<Self>, live: &Arc<Live<E>>, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::StartTask(request) => self.start_task(live, *request, false),
                Command::CancelTask { token } => {
                    if let Some(entry) = live.desk().running.remove(&token) {
                        entry.cancelled.cancel();
                    }
                }
            }
        }
    }

    /// After a write of which nobody knows whether it happened, or which did not: what is stored decides.
    async fn look_up(self: &Arc<Self>, live: &Arc<Live<E>>, attempted: &Execution, done: &Step) -> Found {
        let mut pause = FIRST_PAUSE;
        loop {
            if self.closed.is_cancelled() {
                return Found::Gone;
            }
            match self.journal.load(&live.name).await {
                Ok(Some(stored)) => {
                    let stored = stored.execution;
                    let frames = done.touched.iter().all(|id| stored.frames.get(id) == attempted.frames.get(id))
                        && done.removed.iter().all(|id| !stored.frames.contains_key(id));
                    return if frames && stored.head() == attempted.head() { Found::Written } else { Found::Stands(Box::new(stored)) };
                }
                Ok(None) => {
                    self.drop_execution(live, "it is not in the journal any more");
                    return Found::Gone;
                }
                Err(why) => {
                    self.stalled(&why.to_string());
                    self.rest(&mut pause).await;
                }
            }
        }
    }

    pub(super) async fn rest(&self, pause: &mut Duration) {
        let clock = self.timeline.clock();
        tokio::select! {
            () = clock.sleep_until(clock.steady() + *pause) => {}
            () = self.closed.cancelled() => {}
        }
        *pause = (*pause * 2).min(LONGEST_PAUSE);
    }

    fn stalled(&self, why: &str) {
        if !self.is_stalled.swap(true, Ordering::Relaxed) {
            self.watcher.stalled(why);
        }
    }

    fn going_on(&self) {
        if self.is_stalled.load(Ordering::Relaxed) && self.is_stalled.swap(false, Ordering::Relaxed) {
            self.watcher.going_on();
        }
    }

    fn drop_execution(&self, live: &Arc<Live<E>>, why: &str) {
        self.forget(live, Err(Error::Dropped));
        self.watcher.dropped(&live.name, why);
    }

    /// The execution is no longer in memory; whatever still runs or waits for it is told.
    fn forget(&self, live: &Arc<Live<E>>, end: Result<Status, Error>) {
        let (waiting, running) = {
            let mut desk = live.desk();
            desk.gone = true;
            (std::mem::take(&mut desk.waiting), std::mem::take(&mut desk.running))
        };
        {
            let mut all = self.live();
            if all.get(&live.name).is_some_and(|known| Arc::ptr_eq(known, live)) {
                all.remove(&live.name);
            }
        }
        running.into_values().for_each(|entry| entry.cancelled.cancel());
        let answer = if end.is_ok() { Error::Ended } else { Error::Dropped };
        waiting.into_iter().for_each(|happening| happening.answer(Err(answer.clone())));
        live.end.send_replace(Some(end));
    }
}

impl<E: Effects> Happening<E> {
    /// The effects of a task's answer were refused: the task has failed. False where nothing is left to be refused.
    fn fail(&mut self, fault: &Fault) -> bool {
        let What::Event(event) = &mut self.what else { return false };
        let (Event::TaskSubmitted { token, .. } | Event::TaskSucceeded { token, .. } | Event::TaskFailed { token, .. }) = event else {
            return false;
        };
        (self.effects, self.refused) = (E::default(), Some(fault.clone()));
        *event = Event::TaskFailed { token: std::mem::take(token), error: fault.error.clone(), cause: fault.cause.clone() };
        true
    }
}

impl From<Rejected> for Error {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::NoSuchTask => Self::NoSuchTask,
            Rejected::Ended => Self::Ended,
            Rejected::NotFailed => Self::NotFailed,
            Rejected::InputTooLarge => Self::InputTooLarge,
        }
    }
}
