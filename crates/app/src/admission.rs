//! Who begins next. A transfer waits here, before its execution starts, for its approval, the window and a slot at its
//! connector; nothing between its session and its first byte waits for anything.

use std::collections::BTreeMap;

use jiff::Timestamp;
use model::{TransferId, TransferState};
use serde_json::{Value, json};
use store::{Mutation, OutboxState, Request, RequestRecord, Store, Waiting};

use crate::connectors::{ConnectorSettings, DEFAULT_LIMIT};
use crate::error::Result;
use crate::hindrance::{self, Hindrance};
use crate::requests;
use crate::settings;
use crate::tasks::TICKETS;

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
    let mut again_at = release(store, now).await?;
    for queue in store.queues().await? {
        let connector = connector(store, &queue.connector).await?;
        if let Some(hindrance) = Hindrance::of(connector.as_ref(), now) {
            again_at = earlier(again_at, hindrance.ends_at);
            say(store, store.queue(&queue.connector, LOOKED_AT).await?, &hindrance.waiting(), now).await?;
            continue;
        }
        let taken = store.slots(Some(&queue.connector)).await?;
        let slots = connector.and_then(|connector| connector.limit).unwrap_or(DEFAULT_LIMIT);
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
    settings::load(store, &name).await
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

/// Lets what was held for its connector go on once nothing is in its way any more: in its next run, on the same grant.
/// When a window opens for which some still wait.
async fn release(store: &Store, now: Timestamp) -> Result<Option<Timestamp>> {
    let mut again_at = None;
    for name in store.connectors_held_for(&hindrance::CLASSES).await? {
        let mut held = store.held(&name, &hindrance::CLASSES, 0).await?;
        held.retain(|request| request.record.waiting.as_ref().is_some_and(Hindrance::is_what_holds));
        match Hindrance::at(store, &name, now).await? {
            Some(hindrance) if !held.is_empty() => {
                again_at = earlier(again_at, hindrance.ends_at);
                say(store, held, &hindrance.waiting(), now).await?;
            }
            Some(_) => {}
            None => {
                for request in held {
                    if is_untold(store, &request).await? {
                        let class = request.record.waiting.as_ref().and_then(|waiting| waiting.class);
                        say(store, vec![request], &Waiting { class, reason: hindrance::UNTOLD.to_owned() }, now).await?;
                        continue;
                    }
                    match store.commit(requests::another_run(&request, TransferState::Pending, None, now)).await {
                        // Somebody has cancelled or resumed it meanwhile.
                        Err(error) if error.conflict().is_some() => {}
                        outcome => drop(outcome?),
                    }
                }
            }
        }
    }
    Ok(again_at)
}

/// The next run takes the tickets off hold; what puts them there must have arrived.
async fn is_untold(store: &Store, request: &Request) -> Result<bool> {
    let under_way = [OutboxState::Waiting, OutboxState::Claimed];
    let messages = store.outbox(&under_way, Some(&request.record.transfer), 0, 100).await?;
    Ok(messages.iter().any(|(_, message)| message.target == TICKETS))
}

fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    one.into_iter().chain(other).min()
}

/// Says why these wait, where it is not said yet.
async fn say(store: &Store, waiting: Vec<Request>, why: &Waiting, now: Timestamp) -> Result<()> {
    for request in waiting.into_iter().filter(|request| request.record.waiting.as_ref() != Some(why)) {
        let transfer = request.record.transfer;
        store.commit(Mutation::SetWaiting { transfer, waiting: Some(why.clone()), at: now }).await?;
    }
    Ok(())
}
