//! What administrators set up, what the register and the statistics keep, and the sweep.

use std::time::Duration;

use model::{TicketKind, TicketState, TransferState};
use store::{
    Batch, CachedObject, Conflict, Delivering, ErrorKind, GrantRecord, IdempotencyRecord, LearningRecord, Lesson, MAX_SWEEP, Mutation,
    NewTicket, SettingRecord, Store, TicketNote,
};

use crate::requests::{DAY, governed, request, state};
use crate::{at, executions, finish, id, outbox, sessions};

fn connector(body: &str, expect: Option<u32>) -> Mutation {
    Mutation::PutConnector { name: "partner".into(), body: body.into(), expect, by: "root".into(), at: at(1) }
}

// Mutations: `put` or `remove` compares no version; sources lie among the connectors; `{:?}` shows what is sealed.
#[tokio::test]
async fn a_setting_is_changed_only_by_who_has_seen_the_present_one() {
    let store = Store::open_in_memory().await.unwrap();
    store.commit(connector("{\"a\":1}", None)).await.unwrap();
    assert_eq!(store.commit(connector("{}", None)).await.unwrap_err().conflict(), Some(&Conflict::Version(1)));
    assert_eq!(store.commit(connector("{}", Some(7))).await.unwrap_err().conflict(), Some(&Conflict::Version(1)));
    store.commit(connector("{\"a\":2}", Some(1))).await.unwrap();
    let expected =
        SettingRecord { name: "partner".into(), version: 2, body: "{\"a\":2}".into(), updated_by: "root".into(), updated_at: at(1) };
    assert_eq!(store.connector("partner").await.unwrap(), Some(expected.clone()));
    assert_eq!(store.connectors().await.unwrap(), [expected]);
    assert_eq!(store.source("partner").await.unwrap(), None, "sources are others");

    let source = Mutation::PutSource { name: "exports".into(), body: "{}".into(), expect: Some(3), by: "root".into(), at: at(1) };
    assert_eq!(store.commit(source).await.unwrap_err().conflict(), Some(&Conflict::Version(0)), "there is none");
    let secret =
        |sealed: &[u8], expect| Mutation::PutSecret { name: "key".into(), sealed: sealed.to_vec(), expect, by: "root".into(), at: at(2) };
    store.commit(secret(b"\x00sealed\xff", None)).await.unwrap();
    let read = store.secret("key").await.unwrap().unwrap();
    assert_eq!((read.version, read.sealed.as_slice()), (1, b"\x00sealed\xff".as_slice()));
    assert!(!format!("{read:?}").contains("sealed"), "{read:?}");
    assert_eq!(store.secrets().await.unwrap(), [read]);
    let remove = |expect| Mutation::RemoveSecret { name: "key".into(), expect, by: "admin".into(), at: at(3) };
    assert_eq!(store.commit(remove(9)).await.unwrap_err().conflict(), Some(&Conflict::Version(1)));
    store.commit(remove(1)).await.unwrap();
    assert_eq!(store.commit(remove(1)).await.unwrap_err().kind, ErrorKind::NotFound);
}

// Mutation: `remove` does not ask who uses it, or for connectors only.
#[tokio::test]
async fn a_connector_and_a_source_stay_while_a_transfer_that_has_not_ended_is_for_them() {
    let store = Store::open_in_memory().await.unwrap();
    store.commit(connector("{}", None)).await.unwrap();
    store
        .commit(Mutation::PutSource { name: "exports".into(), body: "{}".into(), expect: None, by: "root".into(), at: at(1) })
        .await
        .unwrap();
    store.commit(governed(request(1))).await.unwrap();
    let removals = [
        Mutation::RemoveConnector { name: "partner".into(), expect: 1, by: "admin".into(), at: at(3) },
        Mutation::RemoveSource { name: "exports".into(), expect: 1, by: "admin".into(), at: at(3) },
    ];
    for removal in removals.clone() {
        assert_eq!(store.commit(removal).await.unwrap_err().conflict(), Some(&Conflict::InUse(id(1))));
    }
    store.commit(state(1, TransferState::Completed)).await.unwrap();
    for removal in removals {
        store.commit(removal).await.unwrap();
    }
    assert_eq!(store.connectors().await.unwrap(), []);
    assert_eq!(store.sources().await.unwrap(), []);
}

// Mutations: one holder takes two; one more than the limit is taken; all connectors share one count; `release` releases nothing.
#[tokio::test]
async fn slots_are_taken_up_to_the_limit_and_once_by_each() {
    let store = Store::open_in_memory().await.unwrap();
    let take = |n, connector: &str| Mutation::TakeSlot { connector: connector.into(), holder: id(n), limit: 2, at: at(n.into()) };
    for n in [1, 2, 1] {
        store.commit(take(n, "partner")).await.unwrap();
    }
    assert_eq!(store.commit(take(3, "partner")).await.unwrap_err().conflict(), Some(&Conflict::Slots { taken: 2 }));
    store.commit(take(3, "other")).await.unwrap();
    let partner = |n: &[u8]| n.iter().map(|n| ("partner".to_owned(), id(*n))).collect::<Vec<_>>();
    assert_eq!(store.slots(Some("partner")).await.unwrap(), partner(&[1, 2]));
    assert_eq!(store.slots(None).await.unwrap().len(), 3);
    for _ in 0..2 {
        store.commit(Mutation::ReleaseSlot { connector: "partner".into(), holder: id(1) }).await.unwrap();
    }
    store.commit(take(3, "partner")).await.unwrap();
    assert_eq!(store.slots(Some("partner")).await.unwrap(), partner(&[2, 3]));
}

pub fn ticket(n: u8, kind: TicketKind) -> NewTicket {
    NewTicket {
        correlation_id: format!("ff:{}:{kind}", id(n)),
        kind,
        transfer: id(n),
        spec_hash: "spec".into(),
        urgency: 2,
        group: "DataOps".into(),
        opened_by: "ada".into(),
        title: "Deliver".into(),
        at: at(1),
    }
}

// Mutations: a second opening or a second note changes the first; `set_state` expects nothing; a note does not touch its ticket.
#[tokio::test]
async fn a_ticket_is_opened_once_for_its_correlation_and_a_note_is_added_once_for_its_key() {
    let store = Store::open_in_memory().await.unwrap();
    let open = |kind| Mutation::OpenTicket(Box::new(ticket(1, kind)));
    let pair = store.commit(Batch::new().push(open(TicketKind::User)).push(open(TicketKind::Audit))).await.unwrap().tickets;
    assert_eq!(pair.iter().map(|ticket| (ticket.number, ticket.kind)).collect::<Vec<_>>(), [(1, TicketKind::User), (2, TicketKind::Audit)]);
    assert_eq!(pair[0].state, TicketState::New);
    let again = store.commit(Mutation::OpenTicket(Box::new(NewTicket { title: "x".into(), ..ticket(1, TicketKind::User) }))).await.unwrap();
    assert_eq!(again.tickets, pair[..1]);
    assert_eq!(store.tickets(&id(1)).await.unwrap(), pair);
    assert_eq!(store.ticket_by_correlation(&pair[1].correlation_id).await.unwrap().as_ref(), Some(&pair[1]));

    let set = |state, expect: &[TicketState]| Mutation::SetTicketState { number: 1, state, expect: Some(expect.to_vec()), at: at(2) };
    store.commit(set(TicketState::InProgress, &[TicketState::New])).await.unwrap();
    let error = store.commit(set(TicketState::Closed, &[TicketState::New, TicketState::Resolved])).await.unwrap_err();
    assert_eq!(error.conflict(), Some(&Conflict::Ticket(TicketState::InProgress)));
    let note = |key: &str, text: &str| TicketNote { key: key.into(), at: at(3), author: "fileferry".into(), text: text.into() };
    for (key, text) in [("b", "begun"), ("a", "done"), ("b", "begun twice")] {
        store.commit(Mutation::AddNote { number: 1, note: note(key, text) }).await.unwrap();
    }
    assert_eq!(store.ticket_notes(1).await.unwrap(), [note("b", "begun"), note("a", "done")]);
    let read = store.ticket(1).await.unwrap().unwrap();
    assert_eq!((read.state, read.updated_at), (TicketState::InProgress, at(3)));
    for missing in [
        Mutation::AddNote { number: 9, note: note("a", "x") },
        Mutation::SetTicketState { number: 9, state: TicketState::New, expect: None, at: at(1) },
    ] {
        assert_eq!(store.commit(missing).await.unwrap_err().kind, ErrorKind::NotFound);
    }
}

// Mutation: a second transfer does not count (`add`).
#[tokio::test]
async fn lessons_add_up_by_type_size_and_outcome() {
    let store = Store::open_in_memory().await.unwrap();
    let lesson = |outcome: &str, seconds| Lesson {
        transfer_type: "sftp".into(),
        size_category: "small".into(),
        outcome: outcome.into(),
        duration: Duration::from_millis(1_500) * seconds,
        bytes: 10,
        retries: 1,
    };
    for (outcome, seconds) in [("completed", 1), ("dest_auth", 1), ("completed", 3)] {
        store.commit(Mutation::AddLearning(lesson(outcome, seconds))).await.unwrap();
    }
    let sum = |outcome: &str, transfers, seconds| LearningRecord {
        transfer_type: "sftp".into(),
        size_category: "small".into(),
        outcome: outcome.into(),
        transfers,
        duration: Duration::from_millis(1_500) * seconds,
        bytes: 10 * transfers,
        retries: transfers,
    };
    assert_eq!(store.learning("sftp", "small").await.unwrap(), [sum("completed", 2, 4), sum("dest_auth", 1, 1)]);
    assert_eq!(store.learning("sftp", "large").await.unwrap(), []);
}

fn cached(n: u8) -> CachedObject {
    CachedObject { key: format!("bucket#{n}"), body: "{}".into(), expires_at: at(DAY) }
}

// Mutation: one look or the other takes what has expired (`cached`, `cached_of`).
#[tokio::test]
async fn what_is_remembered_of_an_object_counts_for_its_time_only() {
    let store = Store::open_in_memory().await.unwrap();
    store.commit(Mutation::PutCached(cached(1))).await.unwrap();
    assert_eq!(store.cached_object("bucket#1", at(DAY - 1)).await.unwrap(), Some(cached(1)));
    assert_eq!(store.cached_object("bucket#1", at(DAY)).await.unwrap(), None, "it was not swept");
    store.commit(Mutation::PutCached(CachedObject { expires_at: at(2 * DAY), ..cached(1) })).await.unwrap();
    assert!(store.cached_object("bucket#1", at(DAY)).await.unwrap().is_some());
    store.commit(Mutation::PutCached(cached(2))).await.unwrap();
    let keys = ["bucket#1", "bucket#2", "bucket#3"].map(str::to_owned);
    let found = async |now| store.cached_objects(&keys, at(now)).await.unwrap().into_iter().map(|object| object.key).collect::<Vec<_>>();
    assert_eq!(found(DAY).await, ["bucket#1"], "the other one's time is over");
    assert_eq!(found(DAY - 1).await.len(), 2);
    for _ in 0..2 {
        store.commit(Mutation::DropCached { key: "bucket#1".into() }).await.unwrap();
    }
    assert_eq!(store.cached_object("bucket#1", at(0)).await.unwrap(), None);
}

// Mutations: parts of the sweep take more than the limit or any limit; sessions go early; messages go that hold others; requests that
// are open or open executions go; a grant or a history stays.
#[tokio::test]
async fn the_sweep_takes_what_has_expired_in_bounded_steps_and_leaves_receipts_and_open_transfers() {
    let store = Store::open_in_memory().await.unwrap();
    for n in 1..=3 {
        let idempotency =
            IdempotencyRecord { key: n.to_string(), request_hash: "h".into(), transfer: id(n), created_at: at(0), expires_at: at(DAY) };
        let (user, spec_hash, role, execution) = ("ada".into(), "spec".into(), "role".into(), "ff".into());
        let grant = GrantRecord { transfer: id(n), user, spec_hash, role, execution, at: at(1) };
        let batch = governed(request(n))
            .push(executions::create(n, 1))
            .push(Mutation::PutCached(cached(n)))
            .push(Mutation::PutIdempotency(idempotency))
            .push(Mutation::PutGrant(Box::new(grant)))
            .push(sessions::mint(&n.to_string(), 0));
        store.commit(batch).await.unwrap();
    }
    // The first has ended; the second as well, but its execution stands open; the third is under way.
    store.commit(Mutation::AddFiles { transfer: id(1), files: vec![crate::file(1, 0)] }).await.unwrap();
    store.commit(finish(1, 0)).await.unwrap();
    let ended = executions::step(1, 1, 2, model::ExecutionStatus::Succeeded);
    store.commit(Batch::new().push(Mutation::SaveStep(Box::new(ended))).push(state(1, TransferState::Completed))).await.unwrap();
    store.commit(state(2, TransferState::Failed)).await.unwrap();
    for (purpose, subject) in [("sent", "a"), ("waiting", "b")] {
        store.commit(outbox::add(purpose, subject, Delivering::AtLeastOnce)).await.unwrap();
    }
    store.commit(outbox::claim("sent", 0)).await.unwrap();
    store.commit(outbox::sent("sent")).await.unwrap();

    let sweep = async |now, limit| store.commit(Mutation::Sweep { now, limit }).await.unwrap().swept;
    assert_eq!(sweep(at(9), 100).await, 0);
    assert_eq!(sweep(at(10), 2).await, 2, "no more than asked for");
    assert_eq!(sweep(at(10), 2).await, 1);
    assert_eq!(sweep(at(DAY), 100).await, 7, "three objects, three keys, one message");
    assert_eq!(store.outbox(&[], None, 0, 0).await.unwrap().len(), 1);
    assert_eq!(sweep(at(100 * DAY), 1).await, 5, "one execution at a time, whole: its record, two frames, the events of two steps");
    assert_eq!(sweep(at(100 * DAY), 100).await, 2, "the requests");
    assert_eq!(sweep(at(100 * DAY), 100).await, 0);

    assert_eq!(store.execution(&executions::record(1, 1).name).await.unwrap(), None);
    assert!(store.execution(&executions::record(2, 1).name).await.unwrap().is_some(), "an open execution is never swept");
    assert_eq!(store.grant(&id(1)).await.unwrap(), None);
    assert!(store.grant(&id(3)).await.unwrap().is_some());
    assert!(store.request(&id(3), at(100 * DAY)).await.unwrap().is_some());
    assert_eq!(store.receipts(&id(1), None, 0).await.unwrap().len(), 1, "receipts have a life of their own");
    assert!(store.transfer(&id(1)).await.unwrap().is_some());
    let much = store.commit(Mutation::Sweep { now: at(0), limit: MAX_SWEEP + 1 }).await.unwrap_err();
    assert_eq!(much.kind, ErrorKind::Invalid);
}
