//! Tasks under way: handing them to the handler, taking their answers, and telling them that nobody waits any more.

use std::any::Any;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::drive::{Counted, Happening, Live};
use super::port::{Answer, Effects, TaskCall};
use super::{Core, Error};
use crate::interpreter::{Event, TaskRequest};
use crate::{definition::Resource, fault};

/// A task that was started and whose answer is awaited; whoever carries it out keeps this until it is done.
/// A shutdown waits for all of them.
pub struct Running<E: Effects> {
    /// Nobody waits for the answer any more, or the process is about to end.
    pub cancelled: CancellationToken,
    held: Arc<Held<E>>,
}

struct Held<E: Effects> {
    core: Weak<Core<E>>,
    token: String,
    _count: Counted,
}

impl<E: Effects> Clone for Running<E> {
    fn clone(&self) -> Self {
        Self { cancelled: self.cancelled.clone(), held: self.held.clone() }
    }
}

impl<E: Effects> fmt::Debug for Running<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("cancelled", &self.cancelled.is_cancelled()).finish_non_exhaustive()
    }
}

impl<E: Effects> Running<E> {
    /// The task is alive. May be said often: at most ten times in HeartbeatSeconds it is written.
    pub async fn heartbeat(&self) -> Result<(), Error> {
        let core = self.held.core.upgrade().ok_or(Error::Stopping)?;
        core.heartbeat(&self.held.token).await
    }

    /// The process is about to end: the task will be started again with the same token.
    pub fn is_shutdown(&self) -> bool {
        self.held.core.upgrade().is_none_or(|core| core.stopping.is_cancelled())
    }
}

/// What is kept of a task that an execution waits for.
pub(super) struct Entry {
    pub cancelled: CancellationToken,
    /// Of the call to the handler; a task that was handed over goes on without it.
    pub call: AbortHandle,
    heartbeat_seconds: Option<u64>,
    /// Steady time of the last heartbeat that was written.
    beat: Option<Duration>,
}

impl<E: Effects> Core<E> {
    pub(super) fn start_task(self: &Arc<Self>, live: &Arc<Live<E>>, request: TaskRequest, again: bool) {
        let mut desk = live.desk();
        // Looked at under the lock, under which a shutdown cancels what is there.
        if desk.gone || self.stopping.is_cancelled() {
            return;
        }
        let cancelled = CancellationToken::new();
        let held = Held { core: Arc::downgrade(self), token: request.token.clone(), _count: Counted::one_more(&self.tasks) };
        let running = Running { cancelled: cancelled.clone(), held: Arc::new(held) };
        let (token, heartbeat_seconds) = (request.token.clone(), request.heartbeat_seconds);
        let (core, live) = (self.clone(), live.clone());
        let call = tokio::spawn(async move {
            let (token, resource) = (request.token.clone(), request.resource.clone());
            let call = call_of(&live.name, request, again);
            let kept = running.clone();
            let answer = AssertUnwindSafe(core.handler.run(call, running)).catch_unwind().await;
            let answer = answer.unwrap_or_else(|panic| panicked(&resource, &*panic));
            core.answered(&live, token, &resource, answer);
            // The answer is on its way before a shutdown may think that nothing is.
            drop(kept);
        });
        desk.running.insert(token, Entry { cancelled, call: call.abort_handle(), heartbeat_seconds, beat: None });
    }

    fn answered(self: &Arc<Self>, live: &Arc<Live<E>>, token: String, resource: &Resource, answer: Answer<E>) {
        let event = match answer.result {
            // What went wrong because the process ends is no failure: the task runs again.
            Err(_) if self.stopping.is_cancelled() => return,
            Err(fault) => Event::TaskFailed { token, error: fault.error, cause: fault.cause },
            Ok(output) if resource.waits_for_token => Event::TaskSubmitted { token, output },
            Ok(output) => Event::TaskSucceeded { token, output: wrapped(resource, output) },
        };
        self.push(live, Happening::event(event, answer.effects, None));
    }

    /// Tells an execution what happened, and waits until it is written.
    pub(super) async fn tell(self: &Arc<Self>, live: &Arc<Live<E>>, event: Event, effects: E) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        self.push(live, Happening::event(event, effects, Some(answer)));
        answered.await.unwrap_or(Err(Error::Stopping))
    }

    /// The execution in which somebody waits for a token.
    pub(super) fn waiting_for(&self, token: &str) -> Result<Arc<Live<E>>, Error> {
        let name = token.split_once(':').map_or("", |(name, _)| name);
        let live = self.find(name).ok_or(Error::NoSuchTask)?;
        let waits = live.desk().running.contains_key(token);
        if waits { Ok(live) } else { Err(Error::NoSuchTask) }
    }

    pub(super) async fn heartbeat(self: &Arc<Self>, token: &str) -> Result<(), Error> {
        let live = self.waiting_for(token)?;
        let now = self.timeline.clock().steady();
        {
            let mut desk = live.desk();
            let entry = desk.running.get_mut(token).ok_or(Error::NoSuchTask)?;
            let Some(seconds) = entry.heartbeat_seconds else { return Ok(()) };
            let tenth = Duration::from_millis(seconds.saturating_mul(100));
            if entry.beat.is_some_and(|beat| now.saturating_sub(beat) < tenth) {
                return Ok(());
            }
            entry.beat = Some(now);
        }
        self.tell(&live, Event::Heartbeat { token: token.to_owned() }, E::default()).await
    }
}

fn call_of(execution: &str, request: TaskRequest, again: bool) -> TaskCall {
    let mut parameters = request.parameters;
    let (mut take, resource) = (|name: &str| parameters.get_mut(name).map(Value::take), request.resource);
    let (function, payload) = match (resource.integration, resource.service.as_str(), resource.action.as_str()) {
        (true, "lambda", "invoke") => (take("FunctionName"), take("Payload").unwrap_or_else(|| json!({}))),
        (true, "sqs", "sendMessage") => (take("QueueUrl"), take("MessageBody").unwrap_or(Value::Null)),
        _ => (None, parameters),
    };
    let function = function.as_ref().and_then(Value::as_str).unwrap_or(&resource.arn).to_owned();
    TaskCall {
        execution: execution.to_owned(),
        state: request.state,
        token: request.token,
        function,
        payload,
        resource,
        attempt: request.attempt,
        deadline: request.deadline,
        heartbeat_seconds: request.heartbeat_seconds,
        again,
    }
}

/// What a state receives of what a function answered.
fn wrapped(resource: &Resource, output: Value) -> Value {
    let invoked = resource.integration && resource.service == "lambda" && resource.action == "invoke";
    if invoked { json!({"Payload": output, "StatusCode": 200}) } else { output }
}

fn panicked<E: Default>(resource: &Resource, panic: &(dyn Any + Send)) -> Answer<E> {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    // As AWS calls a function that fell over. Not States.Runtime, which nothing catches: the tail must run.
    let error = if resource.service == "lambda" { "Lambda.Unknown" } else { fault::TASK_FAILED };
    Answer::fault(error, format!("the task panicked: {}", text.unwrap_or("without a word")))
}
