//! An experiment that is kept: the same batches on SQLite and, as TransactWriteItems, on the DynamoDB that moto plays. Each
//! is taken or refused by both, and what can be read afterwards agrees. `docs/decisions/0010` says what it has taught.

mod mapping;
mod server;

use std::collections::BTreeMap;

use model::ExecutionStatus::{Failed, Running, Succeeded};
use serde_json::{Value, json};
use store::Delivering::{AtLeastOnce, AtMostOnce};
use store::{Batch, ErrorKind, Mutation, SaveStep, SendFailure, Store};

use self::server::Dynamo;
use crate::executions::{self, create, frame, record};
use crate::outbox::{self, add, claim, failed, key, sent};
use crate::sessions::{consume, mint};
use crate::{at, id};

/// Taken, or refused by a precondition.
fn on_dynamo(db: &Dynamo, batch: &[Mutation]) -> bool {
    let mut items = Vec::new();
    for mutation in batch {
        match mapping::items(db, mutation) {
            Ok(more) => items.extend(more),
            Err(mapping::Refused) => return false,
        }
    }
    if items.is_empty() {
        return true;
    }
    match db.call("TransactWriteItems", &json!({"TransactItems": items})) {
        Ok(_) => true,
        Err(error) if error.contains("ConditionalCheckFailed") => false,
        Err(error) => panic!("{error}\n{batch:?}"),
    }
}

async fn on_sqlite(store: &Store, batch: &[Mutation]) -> bool {
    let mut whole = Batch::new();
    whole.extend(batch.iter().cloned());
    match store.commit(whole).await {
        Ok(_) => true,
        Err(error) if matches!(error.kind, ErrorKind::Conflict | ErrorKind::NotFound) => false,
        Err(error) => panic!("{error:?}\n{batch:?}"),
    }
}

fn take(n: u8) -> Mutation {
    Mutation::TakeSlot { connector: "partner".into(), holder: id(n), limit: 2, at: at(n.into()) }
}

fn release(n: u8) -> Mutation {
    Mutation::ReleaseSlot { connector: "partner".into(), holder: id(n) }
}

fn grant(user: &str, execution: &str) -> Mutation {
    let (user, execution, spec_hash, role) = (user.into(), execution.into(), "spec".into(), "role".into());
    Mutation::PutGrant(Box::new(store::GrantRecord { transfer: id(1), user, spec_hash, role, execution, at: at(1) }))
}

fn idempotency(hash: &str, n: u8, second: i64) -> Mutation {
    let (key, request_hash) = ("ada/1".into(), hash.into());
    let record = store::IdempotencyRecord { key, request_hash, transfer: id(n), created_at: at(second), expires_at: at(second + 100) };
    Mutation::PutIdempotency(record)
}

fn step(expect: u64, status: model::ExecutionStatus) -> SaveStep {
    executions::step(1, 1, expect, status)
}

fn save(step: SaveStep) -> Mutation {
    Mutation::SaveStep(Box::new(step))
}

/// Each with whether it is taken.
fn batches() -> Vec<(bool, Vec<Mutation>)> {
    let late = SaveStep { frames: vec![frame(9, "zombie")], removed: vec![1], ..step(2, Failed) };
    let removing = SaveStep { frames: vec![frame(3, "third")], removed: vec![1, 2], ..step(4, Running) };
    vec![
        // Sessions.
        (true, vec![mint("t", 0)]),
        (false, vec![mint("t", 1)]),
        (false, vec![consume("t", "ff-1", "another", at(1))]),
        (false, vec![consume("t", "ff-1", "spec", at(10))]),
        (false, vec![consume("t", "ff-1", "spec", at(-1))]),
        (true, vec![consume("t", "ff-1", "spec", at(9)), grant("ada", "ff-1")]),
        (true, vec![consume("t", "ff-1", "spec", at(9)), grant("ada", "ff-1")]),
        (false, vec![consume("t", "ff-2", "spec", at(9)), grant("bob", "ff-2")]),
        (false, vec![consume("unknown", "ff-1", "spec", at(1))]),
        (true, vec![Mutation::DeleteSession { token_hash: "t".into() }]),
        (true, vec![Mutation::DeleteSession { token_hash: "t".into() }]),
        (true, vec![mint("u", 20)]),
        // Grants.
        (false, vec![grant("bob", "ff-1")]),
        (true, vec![grant("ada", "ff-2")]),
        (true, vec![Mutation::EndGrant { transfer: id(1) }]),
        (true, vec![grant("bob", "ff-3")]),
        // Slots.
        (true, vec![take(1)]),
        (true, vec![take(2)]),
        (true, vec![take(1)]),
        (false, vec![take(3), idempotency("lost", 3, 0)]),
        (true, vec![release(1)]),
        (true, vec![release(1)]),
        (true, vec![take(3)]),
        (true, vec![release(2)]),
        (true, vec![release(3)]),
        (true, vec![take(4)]),
        // Messages.
        (true, vec![add("a1", "T1", AtLeastOnce)]),
        (true, vec![add("a2", "T1", AtLeastOnce), add("c1", "C1", AtMostOnce)]),
        (true, vec![add("a1", "T1", AtLeastOnce)]),
        (false, vec![sent("a1")]),
        (false, vec![claim("a2", 1)]),
        (true, vec![claim("a1", 1), claim("c1", 1)]),
        (false, vec![claim("a1", 1)]),
        (false, vec![failed("a1", 7, SendFailure::Refused)]),
        (true, vec![failed("a1", 1, SendFailure::Again { next_at: at(30) })]),
        (false, vec![claim("a1", 29)]),
        (true, vec![claim("a1", 30)]),
        (true, vec![sent("a1")]),
        (true, vec![sent("a1")]),
        (true, vec![claim("a2", 31)]),
        (true, vec![failed("a2", 1, SendFailure::Refused), failed("c1", 1, SendFailure::Unconfirmed)]),
        (true, vec![add("a3", "T1", AtLeastOnce)]),
        (false, vec![claim("a3", 40)]),
        (false, vec![claim("none", 1)]),
        // Executions.
        (true, vec![create(1, 1), take(5)]),
        (false, vec![create(1, 1)]),
        (true, vec![save(step(2, Running))]),
        (false, vec![save(late), add("d1", "D", AtLeastOnce)]),
        (true, vec![save(removing), add("d2", "D", AtLeastOnce)]),
        (true, vec![save(step(6, Succeeded)), release(5)]),
        (false, vec![save(executions::step(2, 1, 2, Running))]),
        // Keys of requests.
        (true, vec![idempotency("h", 1, 0)]),
        (true, vec![idempotency("h", 1, 5)]),
        (false, vec![idempotency("h", 2, 5)]),
        (false, vec![idempotency("other", 1, 5)]),
        (true, vec![idempotency("other", 2, 100)]),
        (false, vec![idempotency("h", 1, 150), take(9)]),
    ]
}

/// What both can be asked for, in one form.
type Seen = BTreeMap<String, Value>;

async fn seen_by_sqlite(store: &Store) -> Seen {
    let mut seen = Seen::new();
    for token in ["t", "u"] {
        let session = store.session(token, at(21)).await.unwrap();
        seen.insert(format!("session {token}"), json!(session.map(|session| (session.spec_hash, session.consumed_by))));
    }
    seen.insert("grant".into(), json!(store.grant(&id(1)).await.unwrap().map(|grant| (grant.user, grant.execution))));
    let mut holders: Vec<String> = store.slots(Some("partner")).await.unwrap().into_iter().map(|(_, holder)| holder.to_string()).collect();
    holders.sort();
    seen.insert("slots".into(), json!(holders));
    for (_, message) in store.outbox(&[], None, 0, 0).await.unwrap() {
        seen.insert(format!("message {}", message.key.purpose), json!([message.state.as_str(), message.attempts]));
    }
    for n in [1, 2] {
        let execution = store.execution_with_frames(&record(n, 1).name).await.unwrap();
        let history = store.history(&record(n, 1).name, 0, 0).await.unwrap();
        let bodies: Vec<String> = history.into_iter().map(|event| event.body).collect();
        let value = execution.map(|one| {
            let frames: Vec<String> = one.frames.into_iter().map(|frame| frame.body).collect();
            json!([one.record.status.as_str(), one.record.last_event, frames, bodies])
        });
        seen.insert(format!("execution {n}"), json!(value));
    }
    let kept = store.idempotency("ada/1", at(100)).await.unwrap().unwrap();
    seen.insert("key".into(), json!([kept.request_hash, kept.transfer]));
    seen
}

fn seen_by_dynamo(db: &Dynamo) -> Seen {
    let mut seen = Seen::new();
    for token in ["t", "u"] {
        let session = db.get(&format!("session#{token}"), "-");
        let value = if session.is_null() { Value::Null } else { json!([session["spec"], session["consumed_by"]]) };
        seen.insert(format!("session {token}"), value);
    }
    let grant = db.get(&format!("grant#{}", id(1)), "-");
    seen.insert("grant".into(), json!([grant["granted"], grant["execution"]]));
    seen.insert("slots".into(), db.get("slots#partner", "-")["holders"].clone());
    for purpose in ["a1", "a2", "a3", "c1", "d1", "d2"] {
        let message = db.get(&mapping::message(&key(purpose)), "-");
        if !message.is_null() {
            seen.insert(format!("message {purpose}"), json!([message["state"], message["attempts"]]));
        }
    }
    for n in [1, 2] {
        let pk = format!("execution#{}", record(n, 1).name);
        let bodies = |prefix: &str| db.query(&pk, prefix).into_iter().map(|item| item["body"].clone()).collect::<Vec<_>>();
        let head = db.get(&pk, "head");
        let value =
            if head.is_null() { Value::Null } else { json!([head["status"], head["last_event"], bodies("frame#"), bodies("event#")]) };
        seen.insert(format!("execution {n}"), value);
    }
    let kept = db.get("key#ada/1", "-");
    seen.insert("key".into(), json!([kept["hash"], kept["transfer"]]));
    seen
}

#[tokio::test]
async fn the_same_batches_are_taken_and_refused_by_both_stores_and_leave_the_same() {
    let db = Dynamo::start();
    let store = Store::open_in_memory().await.unwrap();
    let batches = batches();
    assert!(batches.len() >= 30 && batches.iter().filter(|(taken, _)| !taken).count() >= 15);
    for (number, (taken, batch)) in batches.iter().enumerate() {
        assert_eq!(on_sqlite(&store, batch).await, *taken, "SQLite, batch {number}: {batch:?}");
        assert_eq!(on_dynamo(&db, batch), *taken, "DynamoDB, batch {number}: {batch:?}");
    }
    assert_eq!(seen_by_sqlite(&store).await, seen_by_dynamo(&db));
}

/// What a batch may not do there, although SQLite lets it.
#[tokio::test]
async fn one_item_twice_and_more_than_a_hundred_are_refused_there() {
    let db = Dynamo::start();
    let twice = [add("a1", "T1", AtLeastOnce), add("a2", "T1", AtLeastOnce)];
    let items: Vec<Value> = twice.iter().flat_map(|mutation| mapping::items(&db, mutation).unwrap_or_default()).collect();
    let refused = db.call("TransactWriteItems", &json!({"TransactItems": items})).unwrap_err();
    assert!(refused.contains("multiple operations on one item"), "{refused}");
    assert!(db.get(&mapping::message(&outbox::key("a1")), "-").is_null(), "nothing of it happened");
    let wide = SaveStep { frames: (0..101).map(|n| frame(n, "{}")).collect(), ..step(2, Running) };
    let items = mapping::items(&db, &save(wide)).unwrap_or_default();
    let refused = db.call("TransactWriteItems", &json!({"TransactItems": items})).unwrap_err();
    assert!(refused.contains("ValidationException"), "{refused}");
}
