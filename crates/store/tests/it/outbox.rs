//! The outbox: each message once in the table, in order for its subject, claimed by one.

use store::Delivering::{self, AtLeastOnce, AtMostOnce};
use store::{Conflict, ErrorKind, Mutation, OutboxKey, OutboxMessage, OutboxRecord, OutboxState, SendFailure, Store};

use crate::{at, id};

pub fn key(purpose: &str) -> OutboxKey {
    OutboxKey { transfer: id(1), run: 1, step: "NotifyUser".into(), purpose: purpose.into() }
}

pub fn message(purpose: &str, subject: &str, delivering: Delivering) -> OutboxMessage {
    OutboxMessage {
        key: key(purpose),
        target: "tickets".into(),
        subject: subject.into(),
        body: format!("{{\"say\":\"{purpose}\"}}"),
        delivering,
        at: at(0),
        expires_at: at(1_000),
    }
}

pub fn add(purpose: &str, subject: &str, delivering: Delivering) -> Mutation {
    Mutation::AddOutbox(Box::new(message(purpose, subject, delivering)))
}

pub fn claim(purpose: &str, now: i64) -> Mutation {
    Mutation::ClaimOutbox { key: key(purpose), by: "p1".into(), now: at(now), until: at(now + 60) }
}

pub fn sent(purpose: &str) -> Mutation {
    Mutation::MarkSent { key: key(purpose), at: at(7) }
}

pub fn failed(purpose: &str, attempt: u32, how: SendFailure) -> Mutation {
    Mutation::MarkFailed { key: key(purpose), attempt, how, error: "no answer".into(), at: at(8) }
}

async fn read(store: &Store, purpose: &str) -> OutboxRecord {
    store.outbox_message(&key(purpose)).await.unwrap().unwrap()
}

async fn due(store: &Store, now: i64) -> Vec<String> {
    store.due_outbox(at(now), 0).await.unwrap().into_iter().map(|record| record.key.purpose).collect()
}

async fn conflict(store: &Store, mutation: Mutation) -> Conflict {
    store.commit(mutation).await.unwrap_err().conflict().expect("a conflict").clone()
}

// Mutations: what is there already is written again (`add`); a claim is not counted (`claim`).
#[tokio::test]
async fn a_message_is_in_the_outbox_once_whatever_became_of_it() {
    let store = Store::open_in_memory().await.unwrap();
    store.commit(add("opened", "T1", AtLeastOnce)).await.unwrap();
    store.commit(claim("opened", 0)).await.unwrap();
    store.commit(sent("opened")).await.unwrap();
    let other = OutboxMessage { body: "{}".into(), ..message("opened", "T2", AtMostOnce) };
    store.commit(Mutation::AddOutbox(Box::new(other))).await.unwrap();
    let record = read(&store, "opened").await;
    assert_eq!((record.state, record.subject.as_str(), record.attempts), (OutboxState::Sent, "T1", 1));
    assert_eq!(due(&store, 100).await, [] as [&str; 0]);
    assert_eq!(store.outbox(&[], None, 0, 0).await.unwrap().len(), 1);
}

// Mutations: `due` or `claim` does not ask for earlier ones, or a refused one holds nothing (`holds`); what is claimed, or due later, is
// claimed again; a claimed one is given up (`give_up`).
#[tokio::test]
async fn messages_about_one_subject_go_one_after_the_other_and_hold_no_other_subject() {
    let store = Store::open_in_memory().await.unwrap();
    for (purpose, subject) in [("a1", "T1"), ("a2", "T1"), ("b1", "T2"), ("a3", "T1")] {
        store.commit(add(purpose, subject, AtLeastOnce)).await.unwrap();
    }
    assert_eq!(due(&store, 0).await, ["a1", "b1"]);
    assert_eq!(conflict(&store, claim("a2", 0)).await, Conflict::OutboxOrder(OutboxState::Waiting));
    store.commit(claim("a1", 0)).await.unwrap();
    assert_eq!(conflict(&store, claim("a1", 0)).await, Conflict::Outbox { state: OutboxState::Claimed, attempts: 1 });
    assert_eq!(conflict(&store, claim("a2", 0)).await, Conflict::OutboxOrder(OutboxState::Claimed));
    store.commit(failed("a1", 1, SendFailure::Again { next_at: at(30) })).await.unwrap();
    assert_eq!(due(&store, 20).await, ["b1"], "an earlier one that waits for its time holds its subject");
    assert_eq!(conflict(&store, claim("a1", 29)).await, Conflict::Outbox { state: OutboxState::Waiting, attempts: 1 });
    assert_eq!(store.next_outbox().await.unwrap(), Some(at(0)));
    store.commit(claim("a1", 30)).await.unwrap();
    store.commit(failed("a1", 2, SendFailure::Refused)).await.unwrap();
    assert_eq!(read(&store, "a1").await.error.as_deref(), Some("no answer"));
    assert_eq!(due(&store, 1_000).await, ["b1"], "a refused one holds its subject only");
    assert_eq!(conflict(&store, claim("a2", 40)).await, Conflict::OutboxOrder(OutboxState::Refused));

    store.commit(Mutation::DropOutbox { key: key("a1"), at: at(9) }).await.unwrap();
    assert_eq!(due(&store, 1_000).await, ["a2", "b1"], "given up by a person, it lets the others go on");
    store.commit(claim("a2", 50)).await.unwrap();
    let claimed = store.commit(Mutation::DropOutbox { key: key("a2"), at: at(9) }).await.unwrap_err();
    assert_eq!(claimed.kind, ErrorKind::Conflict);
    store.commit(sent("a2")).await.unwrap();
    assert_eq!(due(&store, 1_000).await, ["b1", "a3"]);
}

// Mutations: `mark_failed` looks at no attempt or state; `mark_sent` takes what nobody has claimed; an at-least-once message may be
// left unconfirmed.
#[tokio::test]
async fn only_the_present_claim_says_how_it_failed_and_anyone_may_say_that_it_was_sent() {
    let store = Store::open_in_memory().await.unwrap();
    store.commit(add("a", "T1", AtLeastOnce)).await.unwrap();
    assert_eq!(conflict(&store, sent("a")).await, Conflict::Outbox { state: OutboxState::Waiting, attempts: 0 });
    assert_eq!(conflict(&store, failed("a", 0, SendFailure::Refused)).await, Conflict::Outbox { state: OutboxState::Waiting, attempts: 0 });
    store.commit(claim("a", 0)).await.unwrap();
    let invalid = store.commit(failed("a", 1, SendFailure::Unconfirmed)).await.unwrap_err();
    assert_eq!(invalid.kind, ErrorKind::Invalid, "an at-least-once message is never left in doubt");
    store.commit(Mutation::LapseClaims { now: at(60), alone: None }).await.unwrap();
    store.commit(claim("a", 61)).await.unwrap();
    let late = failed("a", 1, SendFailure::Refused);
    assert_eq!(conflict(&store, late).await, Conflict::Outbox { state: OutboxState::Claimed, attempts: 2 });
    for _ in 0..2 {
        store.commit(sent("a")).await.unwrap();
    }
    assert_eq!(conflict(&store, failed("a", 2, SendFailure::Refused)).await, Conflict::Outbox { state: OutboxState::Sent, attempts: 2 });
    assert_eq!(store.commit(claim("b", 0)).await.unwrap_err().kind, ErrorKind::NotFound);
}

// Mutations: `lapse` makes one state of both kinds, lets an unconfirmed one hold its subject, or asks neither for the time nor who is
// alone; a late word of the sender is refused (`mark_sent`); `retry` takes what waits, or no unconfirmed one; lists are of all transfers.
#[tokio::test]
async fn what_a_dead_sender_claimed_is_sent_again_or_left_unconfirmed_by_its_kind() {
    let store = Store::open_in_memory().await.unwrap();
    for (purpose, delivering) in [("ticket", AtLeastOnce), ("chat", AtMostOnce)] {
        store.commit(add(purpose, purpose, delivering)).await.unwrap();
        store.commit(claim(purpose, 0)).await.unwrap();
    }
    store.commit(add("chat2", "chat", AtMostOnce)).await.unwrap();
    store.commit(Mutation::LapseClaims { now: at(59), alone: None }).await.unwrap();
    store.commit(Mutation::LapseClaims { now: at(59), alone: Some("p1".into()) }).await.unwrap();
    assert_eq!(due(&store, 59).await, [] as [&str; 0], "the claimer may be alive");
    assert_eq!(store.next_outbox().await.unwrap(), Some(at(0)), "the second chat message waits behind the first");

    store.commit(Mutation::LapseClaims { now: at(59), alone: Some("p2".into()) }).await.unwrap();
    assert_eq!(read(&store, "ticket").await.state, OutboxState::Waiting);
    assert_eq!(read(&store, "chat").await.state, OutboxState::Unconfirmed);
    assert_eq!(due(&store, 59).await, ["chat2", "ticket"], "an unconfirmed one holds nothing back");
    assert_eq!(conflict(&store, claim("chat", 100)).await, Conflict::Outbox { state: OutboxState::Unconfirmed, attempts: 1 });
    store.commit(sent("chat")).await.expect("its sender was alive after all");
    assert_eq!(read(&store, "chat").await.state, OutboxState::Sent);
    store.commit(claim("chat2", 100)).await.unwrap();
    store.commit(failed("chat2", 1, SendFailure::Unconfirmed)).await.unwrap();
    store.commit(Mutation::RetryOutbox { key: key("chat2"), at: at(120) }).await.expect("a person may take the risk");
    assert_eq!(
        conflict(&store, Mutation::RetryOutbox { key: key("chat2"), at: at(1) }).await,
        Conflict::Outbox { state: OutboxState::Waiting, attempts: 1 }
    );
    assert_eq!(due(&store, 120).await, ["ticket", "chat2"]);
    let unsent = store.outbox(&[OutboxState::Waiting], Some(&id(1)), 0, 1).await.unwrap();
    assert_eq!(unsent[0].1.key.purpose, "ticket");
    let next = store.outbox(&[OutboxState::Waiting], Some(&id(1)), unsent[0].0, 0).await.unwrap();
    assert_eq!(next.iter().map(|(_, record)| record.key.purpose.as_str()).collect::<Vec<_>>(), ["chat2"]);
    assert_eq!(store.outbox(&[], Some(&id(2)), 0, 0).await.unwrap(), []);
}

// E5. Mutations: `due`, `claim` or `lapse` look at no time beyond the longest pause: then a message waits until the clock has come
// back to where it was.
#[tokio::test]
async fn a_clock_that_was_set_back_keeps_no_message_and_no_claim_waiting() {
    let store = Store::open_in_memory().await.unwrap();
    let hour = 3_600;
    store.commit(add("a", "T1", AtLeastOnce)).await.unwrap();
    store.commit(claim("a", hour)).await.unwrap();
    store.commit(failed("a", 1, SendFailure::Again { next_at: at(hour + 300) })).await.unwrap();
    assert_eq!(due(&store, hour + 1).await, [] as [&str; 0], "a pause is waited for");
    assert_eq!(due(&store, hour).await, [] as [&str; 0], "also the longest");
    // One hour back, and then to 1970.
    assert_eq!(due(&store, 0).await, ["a"]);
    assert_eq!(store.due_outbox(jiff::Timestamp::UNIX_EPOCH, 0).await.unwrap().len(), 1);
    store.commit(claim("a", 0)).await.unwrap();
    store.commit(Mutation::LapseClaims { now: at(-hour), alone: None }).await.unwrap();
    assert_eq!(read(&store, "a").await.state, OutboxState::Waiting);
    assert_eq!(due(&store, -hour).await, ["a"]);
}
