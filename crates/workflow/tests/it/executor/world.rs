//! What an executor lives in, in these tests: a journal whose writes can go wrong, and tasks that answer by a script.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use workflow::executor::{
    Answer, Clock, Creation, Executor, Journal, JournalError, ManualClock, MemoryJournal, NewExecution, Options, Ports, Running, Save,
    Stored, TaskCall, TaskHandler, Watcher,
};
use workflow::{Chance, Fault, HistoryEvent, Status, Step};

/// Each answer of a task carries its token as an effect.
pub type Effects = Vec<String>;

/// What happens to the writes of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// The process dies before, or after, this write.
    DiesBefore,
    DiesAfter,
    /// The write fails once.
    Fails,
    /// It is written, and the answer is lost.
    Unanswered,
}

/// Passes on to a journal in memory; the write of number `at` suffers the mishap.
pub struct Unlucky {
    pub inner: MemoryJournal<Effects>,
    at: Option<(usize, Mishap)>,
    writes: AtomicUsize,
    pub labels: Mutex<Vec<String>>,
    pub dead: AtomicBool,
}

impl Unlucky {
    pub fn new(inner: MemoryJournal<Effects>, at: Option<(usize, Mishap)>) -> Arc<Self> {
        Arc::new(Self { inner, at, writes: AtomicUsize::new(0), labels: Mutex::default(), dead: AtomicBool::new(false) })
    }

    fn alive(&self) -> Result<(), JournalError> {
        if self.dead.load(Ordering::SeqCst) { Err(JournalError::Unavailable("the process is dead".into())) } else { Ok(()) }
    }

    async fn write<T>(&self, label: String, write: impl Future<Output = Result<T, JournalError>>) -> Result<T, JournalError> {
        self.alive()?;
        self.labels.lock().unwrap().push(label);
        let number = self.writes.fetch_add(1, Ordering::SeqCst);
        // A real journal takes its time; whatever does not wait for it is seen.
        tokio::task::yield_now().await;
        let unavailable = || JournalError::Unavailable("no space left".into());
        match self.at.filter(|(at, _)| *at == number).map(|(_, mishap)| mishap) {
            None => write.await,
            Some(Mishap::Fails) => Err(unavailable()),
            Some(Mishap::Unanswered) => write.await.and(Err(unavailable())),
            Some(Mishap::DiesBefore) => {
                self.dead.store(true, Ordering::SeqCst);
                self.alive().and(Err(unavailable()))
            }
            Some(Mishap::DiesAfter) => {
                let written = write.await;
                self.dead.store(true, Ordering::SeqCst);
                written.and(Err(unavailable()))
            }
        }
    }
}

/// What kind of write a step is, as the table of kill points names it.
pub fn label(step: &Step) -> String {
    let kinds: Vec<&str> = step.history.iter().map(|event| event.kind.as_str()).collect();
    let has = |kind: &str| kinds.contains(&kind);
    let follows = || match () {
        () if has("ExecutionSucceeded") || has("ExecutionFailed") => "the end",
        () if has("ParallelStateSucceeded") => "branches gathered",
        () if has("MapStateSucceeded") => "items gathered",
        () if has("ParallelStateStarted") => "branches begin",
        () if has("MapStateStarted") => "items begin",
        () if has("MapIterationSucceeded") => "an item ends",
        () if has("WaitStateEntered") => "a wait begins",
        () if has("TaskScheduled") => "the next task",
        () => "nothing yet",
    };
    match kinds.first().copied() {
        None => "a heartbeat, or the clock was set".into(),
        Some("ExecutionStarted") => "the start".into(),
        Some("ExecutionRedriven") => "a redrive".into(),
        Some("TaskSubmitted") => "a task is handed over".into(),
        Some("TaskSucceeded") => format!("an answer: {}", follows()),
        Some("TaskFailed") if kinds.len() == 1 => "a fault: to be tried again".into(),
        Some("TaskFailed") => format!("a fault: {}", follows()),
        Some("TaskTimedOut") => format!("a timeout: {}", if kinds.len() == 1 { "to be tried again" } else { follows() }),
        Some("TaskScheduled") => "a task is tried again".into(),
        Some("WaitStateExited") => format!("a wait is over: {}", follows()),
        Some(_) if has("ExecutionAborted") => "a stop".into(),
        Some(_) if has("ExecutionTimedOut") => "the execution's time is over".into(),
        Some(other) => format!("{other}?"),
    }
}

#[async_trait]
impl Journal<Effects> for Unlucky {
    async fn create(&self, new: Creation<'_, Effects>) -> Result<(), JournalError> {
        self.write(label(new.step), self.inner.create(new)).await
    }

    async fn save(&self, save: Save<'_, Effects>) -> Result<(), JournalError> {
        self.write(label(save.step), self.inner.save(save)).await
    }

    async fn load(&self, name: &str) -> Result<Option<Stored>, JournalError> {
        self.alive()?;
        self.inner.load(name).await
    }

    async fn open(&self, after: u64, limit: usize) -> Result<Vec<(u64, Stored)>, JournalError> {
        self.alive()?;
        self.inner.open(after, limit).await
    }

    async fn history(&self, name: &str, after: u64, limit: usize) -> Result<Vec<HistoryEvent>, JournalError> {
        self.alive()?;
        self.inner.history(name, after, limit).await
    }
}

/// What the tasks of each state do, call by call; kept from one process to the next, as the world is.
#[derive(Default)]
pub struct Script {
    states: HashMap<String, Vec<Value>>,
    /// Which call of its state a token was; a second run of one token is the same call.
    tokens: Mutex<BTreeMap<String, (String, usize)>>,
    calls: Mutex<HashMap<String, usize>>,
    /// Every start of a task, with its token.
    pub started: Mutex<Vec<(String, bool)>>,
    /// States whose tasks began before the step that starts them was written.
    pub early: Mutex<Vec<String>>,
}

impl Script {
    /// `{"State": [{"Return": …, "Delay": seconds} | {"Throw": …} | {"Panic": …} | {"Hang": true}, …]}`; the last answer stays.
    pub fn new(answers: &Value) -> Arc<Self> {
        let list = |answers: &Value| answers.as_array().cloned().unwrap_or_else(|| vec![answers.clone()]);
        let states = answers.as_object().unwrap().iter().map(|(state, answers)| (state.clone(), list(answers))).collect();
        Arc::new(Self { states, ..Self::default() })
    }

    fn turn(&self, call: &TaskCall) -> Value {
        let mut tokens = self.tokens.lock().unwrap();
        let (state, number) = tokens.entry(call.token.clone()).or_insert_with(|| {
            let mut calls = self.calls.lock().unwrap();
            let number = calls.entry(call.state.clone()).or_default();
            *number += 1;
            (call.state.clone(), *number - 1)
        });
        let answers = self.states.get(state).unwrap_or_else(|| panic!("no script for {state}"));
        answers[(*number).min(answers.len() - 1)].clone()
    }
}

/// One process: what dies with it.
pub struct Tasks {
    script: Arc<Script>,
    clock: ManualClock,
    journal: MemoryJournal<Effects>,
    executor: OnceLock<Executor<Effects>>,
    workers: Mutex<tokio::task::JoinSet<()>>,
    pub calls: AtomicUsize,
}

#[async_trait]
impl TaskHandler<Effects> for Tasks {
    async fn run(&self, call: TaskCall, running: Running<Effects>) -> Answer<Effects> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let stored = self.journal.load(&call.execution).await.unwrap().map(|stored| stored.execution);
        // By its number: the step that starts a task may cancel it as well, and nothing waits for it then.
        let number = call.token.rsplit(':').next().and_then(|number| number.parse::<u64>().ok()).unwrap();
        if !stored.is_some_and(|stored| call.token.starts_with(&stored.start.token_prefix) && number < stored.next_task) {
            self.script.early.lock().unwrap().push(call.state.clone());
        }
        self.script.started.lock().unwrap().push((call.token.clone(), call.again));
        let turn = self.script.turn(&call);
        let answer = match (turn.get("Return"), turn.get("Throw")) {
            (Some(output), _) => Answer::ok(output.clone()),
            (_, Some(thrown)) => Answer::fault(thrown["Error"].as_str().unwrap(), thrown["Cause"].as_str().unwrap_or_default()),
            _ if turn.get("Panic").is_some() => panic!("as scripted"),
            _ => {
                running.cancelled.cancelled().await;
                Answer::fault("Cancelled", "nobody waits")
            }
        };
        let delay = Duration::from_secs(turn["Delay"].as_u64().unwrap_or(0));
        let until = self.clock.steady() + delay;
        if !call.resource.waits_for_token {
            let answer = answer.with(vec![call.token.clone()]);
            self.clock.sleep_until(until).await;
            return answer;
        }
        let (executor, clock, token) = (self.executor.get().unwrap().clone(), self.clock.clone(), call.token.clone());
        let beat = turn["Beat"].as_u64().map(Duration::from_secs);
        self.workers.lock().unwrap().spawn(async move {
            while let Some(beat) = beat.filter(|beat| clock.steady() + *beat < until) {
                clock.sleep_until(clock.steady() + beat).await;
                let _ = executor.heartbeat(&token).await;
            }
            clock.sleep_until(until).await;
            // Nobody may wait any more: a worker that comes too late.
            let _ = match answer.result {
                Ok(output) => executor.succeed(&token, output, vec![token.clone()]).await,
                Err(fault) => executor.fail(&token, fault, vec![token.clone()]).await,
            };
        });
        Answer::ok(json!({"MessageId": "1"}))
    }
}

/// What the executor said unasked.
#[derive(Default)]
pub struct Said(pub Mutex<Vec<String>>);

impl Watcher for Said {
    fn ended(&self, execution: &str, status: &Status) {
        self.0.lock().unwrap().push(format!("{execution} ended {}", status.name()));
    }
    fn dropped(&self, execution: &str, _why: &str) {
        self.0.lock().unwrap().push(format!("{execution} dropped"));
    }
    fn stalled(&self, _why: &str) {
        self.0.lock().unwrap().push("stalled".into());
    }
    fn going_on(&self) {
        self.0.lock().unwrap().push("going on".into());
    }
}

/// Always the same, so that another life draws the same jitter.
pub struct Even;

impl Chance for Even {
    fn number(&mut self) -> u64 {
        1 << 63
    }
}

/// One life of an executor.
pub struct Process {
    pub executor: Executor<Effects>,
    pub journal: Arc<Unlucky>,
    pub tasks: Arc<Tasks>,
    pub clock: ManualClock,
    pub said: Arc<Said>,
}

impl Process {
    pub fn begin(stored: &MemoryJournal<Effects>, mishap: Option<(usize, Mishap)>, script: &Arc<Script>, clock: &ManualClock) -> Self {
        // These tests turn the clock in leaps, which must not look like a machine that slept.
        let options = Options { away_after: Duration::MAX, look: Duration::from_secs(3600), page: 3 };
        Self::begin_with(stored, mishap, script, clock, options)
    }

    pub fn begin_with(
        stored: &MemoryJournal<Effects>,
        mishap: Option<(usize, Mishap)>,
        script: &Arc<Script>,
        clock: &ManualClock,
        options: Options,
    ) -> Self {
        let journal = Unlucky::new(stored.clone(), mishap);
        let tasks = Arc::new(Tasks {
            script: script.clone(),
            clock: clock.clone(),
            journal: stored.clone(),
            executor: OnceLock::new(),
            workers: Mutex::default(),
            calls: AtomicUsize::new(0),
        });
        let said = Arc::new(Said::default());
        let ports = Ports {
            journal: journal.clone(),
            handler: tasks.clone(),
            watcher: said.clone(),
            clock: Arc::new(clock.clone()),
            chance: Box::new(Even),
        };
        let executor = Executor::new(ports, options);
        assert!(tasks.executor.set(executor.clone()).is_ok());
        Self { executor, journal, tasks, clock: clock.clone(), said }
    }

    pub fn is_dead(&self) -> bool {
        self.journal.dead.load(Ordering::SeqCst)
    }

    /// As kill -9 would end it.
    pub async fn die(self) {
        self.journal.dead.store(true, Ordering::SeqCst);
        self.tasks.workers.lock().unwrap().abort_all();
        self.executor.shutdown(Duration::ZERO).await;
    }

    /// Until nothing happens without time passing.
    pub async fn quiet(&self) {
        let seen = || (self.journal.writes.load(Ordering::SeqCst), self.tasks.calls.load(Ordering::SeqCst));
        loop {
            let before = seen();
            for _ in 0..30 {
                tokio::task::yield_now().await;
            }
            if seen() == before {
                return;
            }
        }
    }

    /// Lets time pass until the execution ends, or the process dies.
    pub async fn until_ended(&self, name: &str) -> Option<Status> {
        for _ in 0..20_000 {
            self.quiet().await;
            if self.is_dead() {
                return None;
            }
            match self.journal.inner.load(name).await.unwrap() {
                Some(stored) if stored.execution.status != Status::Running => return Some(stored.execution.status),
                _ => {}
            }
            let next = self.clock.next_sleeper().expect("somebody waits for something");
            self.clock.advance(next.saturating_sub(self.clock.steady()).max(Duration::from_millis(1)));
        }
        panic!("{name} does not end");
    }

    pub async fn history(&self, name: &str) -> Vec<HistoryEvent> {
        self.journal.inner.history(name, 0, usize::MAX).await.unwrap()
    }
}

pub fn new_execution(name: &str, definition: &Value, input: Value) -> NewExecution {
    NewExecution { name: name.into(), machine: "machine".into(), definition: definition.to_string(), input }
}

/// What a history says, whatever the order in which things beside each other happened.
pub fn gist(history: &[HistoryEvent]) -> Vec<String> {
    let mut gist: Vec<String> = history.iter().map(|event| format!("{} {}", event.kind, event.state().unwrap_or_default())).collect();
    gist.sort();
    gist
}

/// Numbers without a gap, and every answered task with exactly one effect.
pub async fn check_books(stored: &MemoryJournal<Effects>) {
    let mut answered = 0;
    for name in stored.names() {
        let history = stored.history(&name, 0, usize::MAX).await.unwrap();
        for (index, event) in history.iter().enumerate() {
            assert_eq!(event.id, index as u64 + 1, "{name} has a gap in its history");
        }
        let ends = history.iter().filter(|event| event.kind.starts_with("Execution") && event.previous_event_id > 0).count();
        let redrives = history.iter().filter(|event| event.kind == "ExecutionRedriven").count();
        assert!(ends <= 1 + 2 * redrives, "{name} ended twice");
        answered += history.iter().filter(|event| ["TaskSucceeded", "TaskFailed"].contains(&event.kind.as_str())).count();
    }
    let effects: Vec<String> = stored.effects().concat().into_iter().filter(|effect| effect.contains(':')).collect();
    let mut once = effects.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), effects.len(), "an effect was written twice");
    assert_eq!(effects.len(), answered, "effects and answers do not agree");
}

pub fn fault(status: &Status) -> Option<&Fault> {
    match status {
        Status::Failed(fault) | Status::TimedOut(fault) | Status::Aborted(fault) => Some(fault),
        _ => None,
    }
}
