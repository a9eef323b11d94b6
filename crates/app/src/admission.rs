//! Who begins next. A transfer waits here, before its execution starts, for its approval, the window and a slot at its
//! connector; nothing between its session and its first byte waits for anything.

use std::collections::BTreeMap;

use jiff::Timestamp;
use model::{ErrorClass, TransferId, TransferState};
use serde_json::{Value, json};
use store::{Mutation, RequestRecord, Store, Waiting};

use crate::connectors::{self, ConnectorSettings, DEFAULT_LIMIT};
use crate::error::Result;

/// Requests of one connector that are looked at in one round.
const LOOKED_AT: u32 = 200;

/// One transfer that may begin now, with the changes that belong to its beginning.
#[derive(Debug)]
pub struct Admitted {
    pub request: RequestRecord,
    pub run: u32,
    pub execution: String,
    pub input: Value,
    pub effects: Vec<Mutation>,
}

/// What one look at the queues has found.
#[derive(Debug, Default)]
pub struct Admission {
    pub admitted: Vec<Admitted>,
    /// When a window opens that somebody waits for.
    pub again_at: Option<Timestamp>,
}

/// Chooses at most `room` transfers: one of each connector in turn, at each by priority, and among equals of the user who
/// has the fewest under way.
pub async fn choose(store: &Store, room: usize, worker_queue: &str, now: Timestamp) -> Result<Admission> {
    let mut lines = Vec::new();
    let mut again_at: Option<Timestamp> = None;
    for queue in store.queues().await? {
        let Some(connector) = connector(store, &queue.connector).await? else {
            wait_all(store, &queue.connector, ErrorClass::PolicyDenied, "its connector is not there any more", now).await?;
            continue;
        };
        if !connector.enabled {
            wait_all(store, &queue.connector, ErrorClass::PolicyDenied, "its connector is disabled", now).await?;
            continue;
        }
        if let Some(window) = connector.window.as_ref().filter(|window| !window.is_open(now)) {
            let opens = window.opens_at(now);
            let reason = opens.map_or("the window is closed".to_owned(), |at| format!("the window opens at {at}"));
            wait_all(store, &queue.connector, ErrorClass::WindowClosed, &reason, now).await?;
            again_at = [again_at, opens].into_iter().flatten().min();
            continue;
        }
        let taken = store.slots(Some(&queue.connector)).await?;
        let slots = connector.limit.unwrap_or(DEFAULT_LIMIT);
        let free = (slots as usize).saturating_sub(taken.len());
        if free > 0 {
            lines.push(line(store, &queue.connector, slots, free, &taken).await?);
        }
    }
    let mut admitted = Vec::new();
    // One of each in turn, so that a long queue at one connector keeps nobody else waiting.
    while admitted.len() < room && lines.iter().any(|line| !line.is_empty()) {
        for line in &mut lines {
            if admitted.len() < room && !line.is_empty() {
                let (request, run, slots) = line.remove(0);
                admitted.push(admit(request, run, slots, worker_queue, now));
            }
        }
    }
    Ok(Admission { admitted, again_at })
}

async fn connector(store: &Store, name: &str) -> Result<Option<ConnectorSettings>> {
    let Ok(name) = name.parse() else { return Ok(None) };
    connectors::load(store, &name).await
}

type Line = Vec<(RequestRecord, u32, u32)>;

/// Those of one connector that may have its free slots, in their order.
async fn line(store: &Store, name: &str, slots: u32, free: usize, taken: &[(String, TransferId)]) -> Result<Line> {
    let mut under_way: BTreeMap<String, usize> = BTreeMap::new();
    for (_, holder) in taken {
        if let Some(request) = store.request(holder, Timestamp::now()).await? {
            *under_way.entry(request.record.user).or_default() += 1;
        }
    }
    let mut waiting = store.queue(name, LOOKED_AT).await?;
    let mut chosen = Vec::new();
    while chosen.len() < free && !waiting.is_empty() {
        let most = waiting.iter().map(|request| request.record.priority).max().unwrap_or(0);
        let fewest = |user: &str| under_way.get(user).copied().unwrap_or(0);
        // The first of several that are equal: the queue has the oldest first.
        let next = waiting
            .iter()
            .enumerate()
            .filter(|(_, request)| request.record.priority == most)
            .min_by_key(|(_, request)| fewest(&request.record.user))
            .map(|(at, _)| at)
            .unwrap_or(0);
        let request = waiting.remove(next);
        *under_way.entry(request.record.user.clone()).or_default() += 1;
        chosen.push((request.record, request.run, slots));
    }
    Ok(chosen)
}

fn admit(request: RequestRecord, run: u32, slots: u32, worker_queue: &str, now: Timestamp) -> Admitted {
    let transfer = request.transfer.clone();
    let execution = crate::binding::execution_name(&transfer, run);
    let input = json!({"transfer_id": transfer, "run": run, "worker_queue": worker_queue});
    let effects = vec![
        Mutation::TakeSlot { connector: request.connector.clone(), holder: transfer.clone(), limit: slots, at: now },
        Mutation::SetTransferState {
            transfer: transfer.clone(),
            state: TransferState::InProgress,
            error: None,
            at: now,
            expect: Some(vec![TransferState::Pending]),
        },
        Mutation::SetRequestExecution { transfer: transfer.clone(), execution: Some(execution.clone()), at: now },
        Mutation::SetWaiting { transfer, waiting: None, at: now },
    ];
    Admitted { request, run, execution, input, effects }
}

/// Says why those of a connector wait, where it is not said yet.
async fn wait_all(store: &Store, connector: &str, class: ErrorClass, reason: &str, now: Timestamp) -> Result<()> {
    let waiting = Waiting { class: Some(class), reason: reason.to_owned() };
    for request in store.queue(connector, LOOKED_AT).await? {
        if request.record.waiting.as_ref() != Some(&waiting) {
            let transfer = request.record.transfer;
            store.commit(Mutation::SetWaiting { transfer, waiting: Some(waiting.clone()), at: now }).await?;
        }
    }
    Ok(())
}
