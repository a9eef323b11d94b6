//! What is told of a transfer while it goes: changes and progress line by line, and the events of its workflow.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::transfers::{Execution, HistoryEvent, Progress, Seen, Transfer};
use app::policy::Principal;
use app::requests;
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use jiff::Timestamp;
use model::{TransferId, TransferState};
use serde_json::Value;
use store::Store;

use super::Of;
use super::transfers::{LINES, transfer};
use crate::input::transfer_id;
use crate::{Doors, Refused};

/// Not more often, however much happens.
const EVERY: Duration = Duration::from_millis(500);
/// Events of one execution in an answer.
const EVENTS: u32 = 2_000;

/// Lines until the transfer rests: it has ended, or waits for a person.
pub async fn watch(State(doors): Of, Extension(who): Extension<Principal>, Path(id): Path<String>) -> Result<Response, Refused> {
    let id = transfer_id(&id)?;
    let first = transfer(&doors, requests::show(&doors.store, &who, &id, Timestamp::now()).await?);
    let watch = Watch {
        doors,
        who,
        id,
        queue: VecDeque::from([line(&Seen::Transfer(Box::new(first.clone())))]),
        last: first,
        seq: 0,
        before: None,
    };
    let lines = unfold(watch, |mut watch| async move { watch.next().await.map(|line| (Ok::<_, std::convert::Infallible>(line), watch)) });
    Ok(([(CONTENT_TYPE, HeaderValue::from_static(LINES))], Body::from_stream(lines)).into_response())
}

struct Watch {
    doors: Arc<Doors>,
    who: Principal,
    id: TransferId,
    queue: VecDeque<Bytes>,
    last: Transfer,
    seq: u64,
    /// When the progress before was taken, and its bytes.
    before: Option<(Instant, u64)>,
}

impl Watch {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.queue.pop_front() {
                return Some(line);
            }
            if rests(self.last.state) {
                return None;
            }
            tokio::select! {
                () = self.doors.stop.cancelled() => return None,
                () = tokio::time::sleep(EVERY) => {}
            }
            // Whoever may no longer see it hears no more of it.
            let shown = requests::show(&self.doors.store, &self.who, &self.id, Timestamp::now()).await.ok()?;
            let now = transfer(&self.doors, shown);
            if now != self.last {
                let progressed_only = Transfer { updated_at: now.updated_at, ..self.last.clone() }
                    == Transfer { bytes_transferred: self.last.bytes_transferred, files_done: self.last.files_done, ..now.clone() };
                if !progressed_only {
                    self.queue.push_back(line(&Seen::Transfer(Box::new(now.clone()))));
                }
                self.last = now;
            }
            self.progress();
        }
    }

    fn progress(&mut self) {
        let Some(live) = self.doors.loops.progress(&self.id) else { return };
        self.seq += 1;
        let now = Instant::now();
        let rate =
            self.before.map_or(0.0, |(then, bytes)| live.bytes_done.saturating_sub(bytes) as f64 / (now - then).as_secs_f64().max(0.001));
        self.before = Some((now, live.bytes_done));
        let total = live.bytes_total.max(self.last.bytes_total);
        let percentage = if total == 0 { 0.0 } else { (live.bytes_done as f64 / total as f64 * 1000.0).round() / 10.0 };
        self.queue.push_back(line(&Seen::Progress(Progress {
            transfer_id: self.id.clone(),
            seq: self.seq,
            percentage,
            status: "transferring".to_owned(),
            bytes_transferred: live.bytes_done,
            total,
            rate: rate as u64,
            step: Some(live.step.to_owned()).filter(|step| !step.is_empty()),
            files_done: live.files_done,
            files_total: live.files_total,
        })));
    }
}

/// Nothing more happens by itself.
fn rests(state: TransferState) -> bool {
    state.is_terminal() || matches!(state, TransferState::Paused | TransferState::Held)
}

fn line(seen: &Seen) -> Bytes {
    let mut text = serde_json::to_vec(seen).unwrap_or_default();
    text.push(b'\n');
    Bytes::from(text)
}

/// An execution with its events; `None` if it has not begun.
pub async fn execution(store: &Store, name: &str) -> Result<Option<Execution>, Refused> {
    let Some(record) = store.execution(name).await? else { return Ok(None) };
    let mut rows = Vec::new();
    // A page of the store may be smaller than an answer.
    while rows.len() < EVENTS as usize {
        let after = rows.last().map_or(0, |row: &store::HistoryRow| row.id);
        let page = store.history(name, after, EVENTS - rows.len() as u32).await?;
        if page.is_empty() {
            break;
        }
        rows.extend(page);
    }
    let more = rows.last().is_some_and(|row| row.id < record.last_event);
    let event = |row: store::HistoryRow| {
        let details: Value = serde_json::from_str(&row.body).unwrap_or_default();
        HistoryEvent { id: row.id, timestamp: row.at, kind: row.kind, state: state_of(&details), details }
    };
    Ok(Some(Execution {
        name: record.name,
        status: record.status.as_str().to_owned(),
        started_at: record.started_at,
        finished_at: record.finished_at,
        events: rows.into_iter().map(event).collect(),
        more,
    }))
}

/// The state's name, which Step Functions puts into the details of an event's kind.
fn state_of(details: &Value) -> Option<String> {
    let named = |value: &Value| value.get("name").and_then(Value::as_str).map(str::to_owned);
    named(details).or_else(|| details.as_object()?.iter().filter(|(key, _)| key.starts_with("state")).find_map(|(_, value)| named(value)))
}
