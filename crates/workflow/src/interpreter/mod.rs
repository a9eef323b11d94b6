//! "What next?": from a definition, an execution, an event and the time to the execution's next state, the commands that
//! follow and the events of its history. Nothing else goes in, so the same events make the same frames.

mod children;
mod context;
mod history;
mod kept;
mod outcome;
mod states;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use history::HistoryEvent;
pub use kept::Head;

use crate::chance::Chance;
use crate::definition::{Machine, Resource, State};
use crate::fault::{self, Fault};
use crate::value;
use crate::{MAX_DATA, MAX_DEPTH, MAX_HISTORY};

/// Numbers the frames of one execution, in the order of their making.
pub type FrameId = u64;

/// All there is to know about an execution besides its definition and its history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Execution {
    pub start: Start,
    pub started: Timestamp,
    /// When TimeoutSeconds of the whole machine is over.
    pub deadline: Option<Timestamp>,
    pub status: Status,
    pub redrives: u32,
    pub frames: BTreeMap<FrameId, Frame>,
    pub next_frame: FrameId,
    pub next_task: u64,
    /// Number of the last history event.
    pub last_event: u64,
}

/// What an execution is started with.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Start {
    pub input: Value,
    /// `$$.Execution.Id`, `.Name` and `.RoleArn`.
    pub id: String,
    pub name: String,
    pub role: String,
    /// `$$.StateMachine.Id` and `.Name`.
    pub machine_id: String,
    pub machine_name: String,
    /// Task tokens are this text and a number. Whoever has a token can end a task, so it must not be guessed.
    pub token_prefix: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Status {
    Running,
    Succeeded { output: Value },
    Failed(Fault),
    TimedOut(Fault),
    Aborted(Fault),
}

impl Status {
    /// As AWS writes it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Succeeded { .. } => "SUCCEEDED",
            Self::Failed(_) => "FAILED",
            Self::TimedOut(_) => "TIMED_OUT",
            Self::Aborted(_) => "ABORTED",
        }
    }
}

/// One place at which an execution stands: at the top, in a branch of a Parallel, or in an item of a Map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    pub id: FrameId,
    /// The frame whose Parallel or Map state this one belongs to.
    pub parent: Option<FrameId>,
    /// Number of the branch or item.
    pub index: u64,
    pub state: String,
    /// The raw input of the state.
    pub input: Value,
    pub entered: Timestamp,
    /// Attempts used up, by retrier.
    pub retries: Vec<u64>,
    pub retry_count: u64,
    /// The state's entry is not yet in the history.
    pub fresh: bool,
    pub doing: Doing,
    /// Children of a Parallel or Map state.
    pub group: Option<Group>,
    pub last_event: u64,
    pub entered_event: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Doing {
    /// To be carried out in this step; never seen between steps.
    Ready,
    Task {
        token: String,
        timeout_seconds: Option<u64>,
        deadline: Option<Timestamp>,
        heartbeat_seconds: Option<u64>,
        heartbeat_by: Option<Timestamp>,
        /// Whoever was given the token has taken it.
        submitted: bool,
        /// Kept, because filling them in a second time could draw other random numbers.
        parameters: Value,
    },
    Wait {
        until: Timestamp,
        /// The moment was named, and not counted from the state's entry: it stays where it is when the clock is set.
        named: bool,
    },
    Retry {
        at: Timestamp,
    },
    Children,
    Done {
        output: Value,
    },
    Failed(Fault),
    Aborted,
}

/// How far a Parallel or Map state is. The results are in the frames of its children.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub total: u64,
    pub started: u64,
    pub running: u64,
    pub failed: u64,
    /// Most children at a time.
    pub limit: u64,
    /// How many may fail; None: the first failure is the state's own.
    pub tolerated: Option<u64>,
}

impl Frame {
    /// When something happens to this frame by itself.
    pub fn wakes(&self) -> Option<Timestamp> {
        match &self.doing {
            Doing::Wait { until, .. } => Some(*until),
            Doing::Retry { at } => Some(*at),
            Doing::Task { deadline, heartbeat_by, .. } => [*deadline, *heartbeat_by].into_iter().flatten().min(),
            _ => None,
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// Time passed: whatever is due by `now` happens.
    Clock,
    /// A task with a token was handed over; only the history is told.
    TaskSubmitted {
        token: String,
        output: Value,
    },
    TaskSucceeded {
        token: String,
        output: Value,
    },
    TaskFailed {
        token: String,
        error: String,
        cause: String,
    },
    Heartbeat {
        token: String,
    },
    /// Ends the execution at once; running tasks are cancelled.
    Abort {
        error: String,
        cause: String,
    },
    /// Goes on from the state that failed.
    Redrive,
    /// The clock was set by so much; what was counted from its old time moves with it.
    ClockMoved {
        by: SignedDuration,
    },
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    StartTask(Box<TaskRequest>),
    /// Nobody waits for this task any more.
    CancelTask {
        token: String,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct TaskRequest {
    pub frame: FrameId,
    pub state: String,
    /// Names this attempt; the answer carries it.
    pub token: String,
    pub resource: Resource,
    pub parameters: Value,
    /// 0 the first time.
    pub attempt: u64,
    pub deadline: Option<Timestamp>,
    pub heartbeat_seconds: Option<u64>,
}

/// What one event led to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Step {
    pub commands: Vec<Command>,
    pub history: Vec<HistoryEvent>,
    /// Frames that are new or changed.
    pub touched: BTreeSet<FrameId>,
    /// Frames that are gone.
    pub removed: BTreeSet<FrameId>,
}

/// An event that the execution does not take. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("no task waits for this answer")]
    NoSuchTask,
    #[error("the execution has ended")]
    Ended,
    #[error("the execution has not failed")]
    NotFailed,
    #[error("the input has more than {MAX_DATA} bytes, or more than {MAX_DEPTH} levels")]
    InputTooLarge,
}

impl Execution {
    /// A new execution and what it does first.
    pub fn start(machine: &Machine, start: Start, now: Timestamp, chance: &mut dyn Chance) -> Result<(Self, Step), Rejected> {
        if !value::is_at_most_deep(&start.input, MAX_DEPTH) || value::size(&start.input, MAX_DATA) > MAX_DATA {
            return Err(Rejected::InputTooLarge);
        }
        let input = start.input.clone();
        let mut execution = Self {
            start,
            started: now,
            deadline: machine.timeout_seconds.map(|seconds| after(now, seconds)),
            status: Status::Running,
            redrives: 0,
            frames: BTreeMap::new(),
            next_frame: 1,
            next_task: 1,
            last_event: 0,
        };
        let mut run = Run::new(machine, &mut execution, now, chance);
        run.execution_started(&input);
        run.add_frame(None, 0, &machine.start_at, input, 1);
        let step = run.settle();
        Ok((execution, step))
    }

    /// When the next thing happens by itself.
    pub fn wakes(&self) -> Option<Timestamp> {
        if self.status != Status::Running {
            return None;
        }
        self.frames.values().filter_map(Frame::wakes).chain(self.deadline).min()
    }
}

/// The one function: changes the execution by what happened and says what follows.
pub fn step(machine: &Machine, execution: &mut Execution, event: Event, now: Timestamp, chance: &mut dyn Chance) -> Result<Step, Rejected> {
    let running = execution.status == Status::Running;
    match &event {
        Event::Redrive if !matches!(execution.status, Status::Failed(_) | Status::TimedOut(_) | Status::Aborted(_)) => {
            return Err(Rejected::NotFailed);
        }
        Event::Redrive => {}
        _ if !running => return Err(Rejected::Ended),
        _ => {}
    }
    let mut run = Run::new(machine, execution, now, chance);
    match event {
        Event::Clock => run.clock(),
        Event::TaskSubmitted { token, output } => {
            let id = run.task_frame(&token)?;
            run.task_submitted(id, &output);
        }
        Event::Heartbeat { token } => {
            let id = run.task_frame(&token)?;
            run.heartbeat(id);
        }
        Event::TaskSucceeded { token, output } => {
            let id = run.task_frame(&token)?;
            run.task_succeeded(id, output);
        }
        Event::TaskFailed { token, error, cause } => {
            let id = run.task_frame(&token)?;
            run.task_failed(id, Fault { error, cause });
        }
        Event::Abort { error, cause } => run.end(Status::Aborted(Fault { error, cause })),
        Event::Redrive => run.redrive(),
        Event::ClockMoved { by } => run.clock_moved(by),
    }
    Ok(run.settle())
}

/// A moment so many seconds later; the end of time where there is none.
fn after(now: Timestamp, seconds: u64) -> Timestamp {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

/// One step under way.
struct Run<'a> {
    machine: &'a Machine,
    execution: &'a mut Execution,
    now: Timestamp,
    chance: &'a mut dyn Chance,
    ready: VecDeque<FrameId>,
    done: Step,
}

impl<'a> Run<'a> {
    fn new(machine: &'a Machine, execution: &'a mut Execution, now: Timestamp, chance: &'a mut dyn Chance) -> Self {
        Self { machine, execution, now, chance, ready: VecDeque::new(), done: Step::default() }
    }

    /// Carries out what is ready until everything waits.
    fn settle(mut self) -> Step {
        while let Some(id) = self.ready.pop_front() {
            if self.execution.status != Status::Running {
                break;
            }
            if self.execution.last_event >= MAX_HISTORY {
                let cause = format!("The execution reached the maximum number of history events ({MAX_HISTORY}).");
                self.end(Status::Failed(Fault::runtime(cause)));
                break;
            }
            if self.execution.frames.get(&id).is_some_and(|frame| frame.doing == Doing::Ready) {
                self.enter(id);
            }
        }
        let removed = std::mem::take(&mut self.done.removed);
        self.done.touched.retain(|id| !removed.contains(id));
        self.done.removed = removed;
        self.done
    }

    fn add_frame(&mut self, parent: Option<FrameId>, index: u64, state: &str, input: Value, last_event: u64) -> FrameId {
        let id = self.execution.next_frame;
        self.execution.next_frame += 1;
        let frame = Frame {
            id,
            parent,
            index,
            state: state.to_owned(),
            input,
            entered: self.now,
            retries: Vec::new(),
            retry_count: 0,
            fresh: true,
            doing: Doing::Ready,
            group: None,
            last_event,
            entered_event: last_event,
        };
        self.execution.frames.insert(id, frame);
        self.done.touched.insert(id);
        self.ready.push_back(id);
        id
    }

    fn frame(&mut self, id: FrameId) -> &mut Frame {
        self.done.touched.insert(id);
        self.execution.frames.get_mut(&id).expect("frames are removed only when nobody refers to them")
    }

    /// The state at which a frame stands; None where execution and definition do not belong together.
    fn state(&self, id: FrameId) -> Option<&'a State> {
        let frame = self.execution.frames.get(&id)?;
        context::machine_of(self.machine, self.execution, frame)?.state(&frame.state)
    }

    fn task_frame(&self, token: &str) -> Result<FrameId, Rejected> {
        let waits = |frame: &&Frame| matches!(&frame.doing, Doing::Task { token: own, .. } if own == token);
        self.execution.frames.values().find(waits).map(|frame| frame.id).ok_or(Rejected::NoSuchTask)
    }

    /// Everything below a frame. Children have higher numbers than their parents.
    fn descendants(&self, id: FrameId) -> Vec<FrameId> {
        let mut below = BTreeSet::from([id]);
        for frame in self.execution.frames.range(id + 1..).map(|(_, frame)| frame) {
            if frame.parent.is_some_and(|parent| below.contains(&parent)) {
                below.insert(frame.id);
            }
        }
        below.remove(&id);
        below.into_iter().collect()
    }

    /// Stops what a frame waits for; what is done stays done.
    fn abort(&mut self, id: FrameId) {
        let now_aborted = match self.execution.frames.get(&id).map(|frame| &frame.doing) {
            Some(Doing::Task { token, .. }) => {
                self.done.commands.push(Command::CancelTask { token: token.clone() });
                self.frame_event(id, "TaskStateAborted", None);
                true
            }
            Some(Doing::Wait { .. }) => {
                self.frame_event(id, "WaitStateAborted", None);
                true
            }
            Some(Doing::Ready | Doing::Retry { .. }) => true,
            _ => false,
        };
        if now_aborted {
            self.frame(id).doing = Doing::Aborted;
        }
    }

    fn remove_descendants(&mut self, id: FrameId) {
        for below in self.descendants(id) {
            self.abort(below);
            self.execution.frames.remove(&below);
            self.done.removed.insert(below);
        }
        self.frame(id).group = None;
    }

    /// The execution is over. After a failure its frames stay, so that it can be redriven.
    fn end(&mut self, status: Status) {
        let all: Vec<FrameId> = self.execution.frames.keys().copied().collect();
        if matches!(status, Status::Succeeded { .. }) {
            self.done.removed.extend(all);
            self.execution.frames.clear();
        } else {
            all.into_iter().for_each(|id| self.abort(id));
        }
        self.execution_ended(&status);
        self.execution.status = status;
        self.ready.clear();
    }

    fn clock(&mut self) {
        if let Some(deadline) = self.execution.deadline.filter(|deadline| *deadline <= self.now) {
            let cause = format!("The execution did not end by {deadline}");
            return self.end(Status::TimedOut(Fault::new(fault::TIMEOUT, cause)));
        }
        let mut due: Vec<(Timestamp, FrameId)> =
            self.execution.frames.values().filter_map(|frame| Some((frame.wakes()?, frame.id))).filter(|(at, _)| *at <= self.now).collect();
        due.sort_unstable();
        for (_, id) in due {
            // What an earlier one led to may have ended the later one.
            match self.execution.frames.get(&id).filter(|frame| frame.wakes().is_some_and(|at| at <= self.now)).map(|frame| &frame.doing) {
                Some(Doing::Wait { .. }) => self.wait_is_over(id),
                Some(Doing::Retry { .. }) => self.make_ready(id),
                Some(Doing::Task { deadline, .. }) => {
                    let whole = deadline.is_some_and(|deadline| deadline <= self.now);
                    self.task_timed_out(id, whole);
                }
                _ => {}
            }
        }
    }

    fn make_ready(&mut self, id: FrameId) {
        self.frame(id).doing = Doing::Ready;
        self.ready.push_back(id);
    }

    /// Every frame that failed or was stopped begins its state anew; what was done stays done.
    fn redrive(&mut self) {
        self.execution.status = Status::Running;
        self.execution.redrives = self.execution.redrives.saturating_add(1);
        self.execution.deadline = self.machine.timeout_seconds.map(|seconds| after(self.now, seconds));
        self.execution_redriven();
        let all: Vec<FrameId> = self.execution.frames.keys().copied().collect();
        for id in all {
            // A Map that only had to gather its results may have gone on already.
            if !self.execution.frames.contains_key(&id) {
                continue;
            }
            let frame = self.frame(id);
            let stopped = matches!(frame.doing, Doing::Failed(_) | Doing::Aborted);
            if frame.group.is_some() {
                self.regroup(id);
            } else if stopped {
                (frame.retries, frame.retry_count) = (vec![0; frame.retries.len()], 0);
                self.make_ready(id);
            }
        }
    }
}
