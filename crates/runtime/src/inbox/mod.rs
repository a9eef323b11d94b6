//! The messages of a watch's queue: receives them while there is room, keeps them hidden while their objects are under way,
//! deletes them when those are done with, and gives the rest back at the end.

mod held;
#[cfg(test)]
mod inbox_tests;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use app::Event;
use app::event::QueueReport;
use futures_util::future::{BoxFuture, join_all};
use integrations::queue::{BATCH, LONGEST_WAIT};
use integrations::{Message, Queue, Written, chain, object_event};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use held::HeldMessages;

/// A message is hidden from others for this long, and again before that is over. A process that dies gives its messages back so.
const HIDDEN: Duration = Duration::from_secs(5 * 60);
/// Between two requests after one failed: at first, and at most. Shorter than half of `HIDDEN`, so that what is held is hidden
/// again in time when the queue is back.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(2 * 60);
/// What giving messages back may take; what was not given back comes again by itself.
const CLOSING: Duration = Duration::from_secs(10);
/// Requests at once that give messages back.
const GIVEN_BACK_AT_ONCE: usize = 8;
/// The wait of one request while messages are held: at the end it is waited for, because a queue may go on with a request that
/// was dropped, and would hand what is given back to nobody.
const SHORT_WAIT: Duration = Duration::from_secs(2);
/// Messages remembered as told or counted already.
const MOST_TOLD: usize = 10_000;

/// The bucket and prefix whose objects a watch sends.
#[derive(Debug, Clone)]
pub struct Ours {
    pub bucket: String,
    pub prefix: String,
}

#[derive(Debug)]
struct State {
    messages: HeldMessages,
    report: QueueReport,
    /// What does not work, by what was tried.
    troubles: BTreeMap<&'static str, String>,
    left: HashSet<String>,
    told: HashSet<&'static str>,
    paused: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// There is something to look at.
    arrived: Notify,
    /// There is something to delete, or receiving is allowed again.
    work: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic happens while it is held")
    }
}

#[derive(Debug)]
pub struct Inbox {
    shared: Arc<Shared>,
    stop: CancellationToken,
    task: JoinSet<()>,
}

impl Inbox {
    /// Nothing is received before `pause(false)`.
    pub fn open(queue: Arc<dyn Queue>, ours: Ours, events: mpsc::Sender<Event>) -> Self {
        Self::hiding(HIDDEN, queue, ours, events)
    }

    fn hiding(hidden: Duration, queue: Arc<dyn Queue>, ours: Ours, events: mpsc::Sender<Event>) -> Self {
        let (report, troubles, left, told) = Default::default();
        let state = Mutex::new(State { messages: HeldMessages::new(hidden), report, troubles, left, told, paused: true });
        let shared = Arc::new(Shared { state, arrived: Notify::new(), work: Notify::new() });
        let (stop, mut task) = (CancellationToken::new(), JoinSet::new());
        let (failures, not_before) = (0, Instant::now());
        let postman = Postman { hidden, queue, ours, events, shared: shared.clone(), stop: stop.clone(), failures, not_before };
        task.spawn(postman.run());
        Self { shared, stop, task }
    }

    /// What is to be looked at now.
    pub fn due(&self) -> Vec<Written> {
        self.shared.state().messages.due(Instant::now())
    }

    /// Waits until there may be something to look at.
    pub async fn arrival(&self) {
        let next = self.shared.state().messages.next_due();
        tokio::select! {
            () = self.shared.arrived.notified() => {}
            () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now).into()), if next.is_some() => {}
        }
    }

    pub fn settle(&self, written: &Written) {
        self.shared.state().messages.settle(written);
        self.shared.work.notify_one();
    }

    /// An event whose object is not one of those that are sent.
    pub fn not_ours(&self, written: &Written) {
        self.shared.state().report.not_ours += 1;
        self.settle(written);
    }

    pub fn superseded(&self, written: &Written) {
        self.shared.state().report.superseded += 1;
        self.settle(written);
    }

    pub fn rest(&self, written: &Written, until: Instant) {
        self.shared.state().messages.rest(written, until);
    }

    pub fn put_off(&self, written: &Written, first: Duration) {
        self.shared.state().messages.put_off(written, first, Instant::now());
    }

    /// While nothing can be sent nothing is received: each handing out counts towards the queue's limit.
    pub fn pause(&self, paused: bool) {
        self.shared.state().paused = paused;
        self.shared.work.notify_one();
    }

    pub fn report(&self) -> QueueReport {
        let state = self.shared.state();
        let waiting_for = state.troubles.values().next().cloned();
        QueueReport { held: state.messages.held(), waiting_for, ..state.report.clone() }
    }

    /// Deletes what is done and gives the rest back.
    pub async fn close(mut self) -> QueueReport {
        self.stop.cancel();
        let _ = tokio::time::timeout(CLOSING, self.task.join_next()).await;
        self.task.shutdown().await;
        self.report()
    }
}

struct Postman {
    hidden: Duration,
    queue: Arc<dyn Queue>,
    ours: Ours,
    events: mpsc::Sender<Event>,
    shared: Arc<Shared>,
    stop: CancellationToken,
    failures: u32,
    not_before: Instant,
}

type Receiving = BoxFuture<'static, integrations::Result<Vec<Message>>>;

impl Postman {
    async fn run(mut self) {
        // Kept over turns of the loop: an answer that nobody reads would hide its messages for nothing.
        let mut receiving: Option<Receiving> = None;
        while !self.stop.is_cancelled() {
            self.look_after().await;
            let (wanted, wait) = {
                let state = self.shared.state();
                let wait = if state.messages.held() > 0 { SHORT_WAIT } else { LONGEST_WAIT };
                (!state.paused && state.messages.has_room(), wait)
            };
            if receiving.is_none() && wanted && Instant::now() >= self.not_before {
                let (queue, hidden) = (self.queue.clone(), self.hidden);
                receiving = Some(Box::pin(async move { queue.receive(wait, hidden).await }));
            }
            let now = Instant::now();
            // Often enough to hide again in time what is held.
            let pause = Some(self.not_before.saturating_duration_since(now)).filter(|pause| !pause.is_zero());
            let pause = pause.unwrap_or(self.hidden).min(self.hidden / 10);
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = self.shared.work.notified() => {}
                () = tokio::time::sleep(pause) => {}
                answer = async { receiving.as_mut().expect("polled only where there is one").await }, if receiving.is_some() => {
                    receiving = None;
                    if let Some(messages) = self.said("receive", answer).await {
                        self.sort(messages).await;
                    }
                }
            }
        }
        let receiving = receiving.filter(|_| self.shared.state().messages.held() > 0);
        if let Some(receiving) = receiving
            && let Ok(Ok(messages)) = tokio::time::timeout(SHORT_WAIT * 2, receiving).await
        {
            self.sort(messages).await;
        }
        self.delete().await;
        let rest = self.shared.state().messages.all();
        for group in rest.chunks(BATCH * GIVEN_BACK_AT_ONCE) {
            let answers = join_all(group.chunks(BATCH).map(|receipts| self.queue.hide(receipts, Duration::ZERO))).await;
            if let Some(error) = answers.into_iter().find_map(Result::err) {
                // They come again by themselves.
                tracing::warn!(error = %chain(&error), "messages could not be given back to the queue");
                break;
            }
        }
    }

    /// Everything but receiving.
    async fn look_after(&mut self) {
        if Instant::now() < self.not_before {
            return;
        }
        self.delete().await;
        let gone = self.shared.state().messages.let_go(Instant::now());
        // Those that rest are tried again by the watch meanwhile; the queue shows them when their hiding is over.
        if !gone.is_empty() {
            tracing::info!(messages = gone.len(), "messages go back to the queue");
        }
        let soon = self.shared.state().messages.to_hide(Instant::now());
        for receipts in soon.chunks(BATCH) {
            let hidden = self.queue.hide(receipts, self.hidden).await;
            if self.said("hold", hidden).await.is_none() {
                break;
            }
            self.shared.state().messages.hidden(receipts, Instant::now());
        }
    }

    async fn delete(&mut self) {
        let mut finished = self.shared.state().messages.finished();
        while !finished.is_empty() {
            let rest = finished.split_off(finished.len().min(BATCH));
            let deleted = self.queue.delete(&finished).await;
            if self.said("delete", deleted).await.is_none() {
                let mut state = self.shared.state();
                state.messages.unfinished(finished);
                state.messages.unfinished(rest);
                return;
            }
            self.shared.state().report.deleted += finished.len() as u64;
            finished = rest;
        }
    }

    /// Tells a failure when it begins and when it is over, and says when to try again.
    async fn said<T>(&mut self, tried: &'static str, outcome: integrations::Result<T>) -> Option<T> {
        let (answer, note) = match outcome {
            Ok(answer) => {
                let mut state = self.shared.state();
                let over = state.troubles.remove(tried).is_some();
                // While anything does not work, all goes slowly: what cannot be deleted would be received for nothing.
                self.failures = if state.troubles.is_empty() { 0 } else { self.failures };
                drop(state);
                (Some(answer), over.then(|| format!("{} answers again", self.queue.name())))
            }
            Err(error) => {
                self.not_before =
                    Instant::now() + FIRST_PAUSE.saturating_mul(2u32.saturating_pow(self.failures.min(10))).min(LONGEST_PAUSE);
                self.failures += 1;
                let text = chain(&error);
                let begins = self.shared.state().troubles.insert(tried, text.clone()).is_none();
                (None, begins.then(|| format!("{text}; listing goes on")))
            }
        };
        if let Some(note) = note {
            let _ = self.events.send(Event::Note(note)).await;
        }
        answer
    }

    /// What is ours is kept, what says nothing to us is deleted, what was not meant for us or cannot be read is left alone.
    async fn sort(&mut self, messages: Vec<Message>) {
        for message in messages {
            let notice = object_event::read(&message.body);
            let strange = match &notice {
                Ok(notice) => notice
                    .buckets
                    .iter()
                    .find(|bucket| **bucket != self.ours.bucket)
                    .map(|bucket| ("bucket", format!("it is about the bucket {}", model::escape_name(bucket)))),
                Err(why) => Some(("form", why.to_string())),
            };
            if let Some((kind, why)) = strange {
                self.leave(&message.id, kind, &why).await;
                continue;
            }
            let Ok(notice) = notice else { continue };
            let (wanted, others): (Vec<_>, Vec<_>) =
                notice.written.into_iter().partition(|written| written.key.as_str().starts_with(&self.ours.prefix));
            let mut state = self.shared.state();
            state.report.received += 1;
            state.report.not_ours += notice.others + others.len() as u64;
            state.messages.take(message, wanted, Instant::now());
            drop(state);
            self.shared.arrived.notify_one();
        }
    }

    /// Not deleted and not shown again before its time: the queue's redrive policy decides, and nobody loses what was theirs.
    async fn leave(&mut self, id: &str, kind: &'static str, why: &str) {
        let first = {
            let mut state = self.shared.state();
            if state.left.len() < MOST_TOLD && state.left.insert(id.to_owned()) {
                state.report.not_understood += 1;
            }
            state.told.insert(kind)
        };
        if first {
            let text =
                format!("message {} of {} is left there: {why}; more of them are only counted", model::escape_name(id), self.queue.name());
            let _ = self.events.send(Event::Note(text)).await;
        }
    }
}
