//! Requests: what makes a transfer governed, and the keys by which clients repeat them.

use model::{ErrorClass, TransferState};
use store::{
    Approval, Batch, Conflict, ErrorKind, IdempotencyRecord, Mutation, QueueCount, Request, RequestQuery, RequestRecord, Store, Waiting,
    Wish,
};

use crate::{at, id, transfer};

pub const DAY: i64 = 86_400;

pub fn request(n: u8) -> RequestRecord {
    RequestRecord {
        transfer: id(n),
        user: "ada".into(),
        connector: "partner".into(),
        source: "exports".into(),
        priority: 5,
        spec_hash: "spec".into(),
        approval: Approval { policy: "second-person".into(), approved_by: None, approved_at: None },
        user_ticket: None,
        audit_ticket: None,
        wish: Wish::None,
        waiting: None,
        execution: None,
        created_at: at(n.into()),
        updated_at: at(n.into()),
        expires_at: at(i64::from(n) + 90 * DAY),
    }
}

pub fn governed(record: RequestRecord) -> Batch {
    let n = (0..=255).find(|n| id(*n) == record.transfer).unwrap();
    Batch::new().push(Mutation::CreateTransfer(transfer(n))).push(Mutation::CreateRequest(Box::new(record)))
}

pub fn state(n: u8, state: TransferState) -> Mutation {
    Mutation::SetTransferState { transfer: id(n), state, error: None, at: at(1), expect: None }
}

async fn read(store: &Store, n: u8) -> Request {
    store.request(&id(n), at(100)).await.unwrap().unwrap()
}

// Mutations: any priority is taken; a second request for a transfer is taken in silence (`create`).
#[tokio::test]
async fn a_request_belongs_to_a_transfer_and_follows_its_state() {
    let store = Store::open_in_memory().await.unwrap();
    let alone = Mutation::CreateRequest(Box::new(request(1)));
    assert_eq!(store.commit(alone.clone()).await.unwrap_err().kind, ErrorKind::NotFound, "there is no such transfer");
    let urgent = Mutation::CreateRequest(Box::new(RequestRecord { priority: 10, ..request(1) }));
    store.commit(governed(request(1))).await.unwrap();
    assert_eq!(store.commit(alone).await.unwrap_err().conflict(), Some(&Conflict::Exists));
    assert_eq!(store.commit(urgent).await.unwrap_err().kind, ErrorKind::Invalid);
    assert_eq!(read(&store, 1).await, Request { record: request(1), state: TransferState::Pending, run: 1 });
    store.commit(state(1, TransferState::Held)).await.unwrap();
    store.commit(Mutation::StartRun { transfer: id(1), run: 2, pid: 1, at: at(2) }).await.unwrap();
    let now = read(&store, 1).await;
    assert_eq!((now.state, now.run), (TransferState::Held, 2));
    store.commit(state(1, TransferState::Failed)).await.unwrap();
    store.commit(Mutation::DeleteTransfer { transfer: id(1) }).await.unwrap();
    assert_eq!(store.request(&id(1), at(0)).await.unwrap(), None, "it goes with its transfer");
}

// Mutations: an approval is overwritten; one ticket is forgotten when the other is set; a class stays when the reason changes; what has
// no request is changed in silence (`changed`).
#[tokio::test]
async fn each_part_of_a_request_is_changed_by_itself() {
    let store = Store::open_in_memory().await.unwrap();
    store.commit(governed(request(1))).await.unwrap();
    let approve = |by: &str| Mutation::ApproveRequest { transfer: id(1), by: by.into(), at: at(7) };
    store.commit(approve("grace")).await.unwrap();
    assert_eq!(store.commit(approve("alan")).await.unwrap_err().conflict(), Some(&Conflict::Approved("grace".into())));
    let tickets = |user: Option<&str>, audit: Option<&str>| Mutation::SetTickets {
        transfer: id(1),
        user: user.map(Into::into),
        audit: audit.map(Into::into),
        at: at(8),
    };
    store.commit(tickets(Some("T1"), None)).await.unwrap();
    store.commit(tickets(None, Some("T2"))).await.unwrap();
    let waiting = Waiting { class: Some(ErrorClass::TicketUnavailable), reason: "the ticket system does not answer".into() };
    store.commit(Mutation::SetWaiting { transfer: id(1), waiting: Some(waiting.clone()), at: at(9) }).await.unwrap();
    let execution = Some("ff-x-1".to_owned());
    store.commit(Mutation::SetRequestExecution { transfer: id(1), execution: execution.clone(), at: at(10) }).await.unwrap();
    let expected = RequestRecord {
        approval: Approval { approved_by: Some("grace".into()), approved_at: Some(at(7)), ..request(1).approval },
        user_ticket: Some("T1".into()),
        audit_ticket: Some("T2".into()),
        waiting: Some(waiting),
        execution,
        updated_at: at(10),
        ..request(1)
    };
    assert_eq!(read(&store, 1).await.record, expected);
    let plain = Waiting { class: None, reason: "no slot is free".into() };
    store.commit(Mutation::SetWaiting { transfer: id(1), waiting: Some(plain.clone()), at: at(11) }).await.unwrap();
    assert_eq!(read(&store, 1).await.record.waiting, Some(plain));

    store.commit(Mutation::CreateTransfer(transfer(2))).await.unwrap();
    for mutation in [
        Mutation::ApproveRequest { transfer: id(2), by: "x".into(), at: at(0) },
        Mutation::SetTickets { transfer: id(2), user: None, audit: None, at: at(0) },
        Mutation::SetWaiting { transfer: id(2), waiting: None, at: at(0) },
        Mutation::SetRequestExecution { transfer: id(2), execution: None, at: at(0) },
        Mutation::SetWish { transfer: id(2), wish: Wish::Cancel, expect: None, at: at(0) },
    ] {
        assert_eq!(store.commit(mutation).await.unwrap_err().kind, ErrorKind::NotFound, "a copy is not governed");
    }
}

// Mutations: `set_wish` expects nothing; what has ended takes wishes; or not even that there is none.
#[tokio::test]
async fn a_wish_is_taken_while_the_transfer_can_still_obey_it() {
    let store = Store::open_in_memory().await.unwrap();
    store.commit(governed(request(1))).await.unwrap();
    let wish = |wish, expect: Option<&[Wish]>| Mutation::SetWish { transfer: id(1), wish, expect: expect.map(<[Wish]>::to_vec), at: at(3) };
    store.commit(wish(Wish::Cancel, None)).await.unwrap();
    let error = store.commit(wish(Wish::Pause, Some(&[Wish::None, Wish::Hold]))).await.unwrap_err();
    assert_eq!(error.conflict(), Some(&Conflict::Wish(Wish::Cancel)), "a pause does not undo a cancel");
    store.commit(state(1, TransferState::Cancelled)).await.unwrap();
    let late = store.commit(wish(Wish::Pause, None)).await.unwrap_err();
    assert_eq!(late.conflict(), Some(&Conflict::TransferState(TransferState::Cancelled)));
    store.commit(wish(Wish::None, Some(&[Wish::Cancel]))).await.unwrap();
    assert_eq!(read(&store, 1).await.record.wish, Wish::None);
}

// Mutations: priority, age or state is left out of the question.
#[tokio::test]
async fn the_queue_of_a_connector_goes_by_priority_and_then_by_age() {
    let store = Store::open_in_memory().await.unwrap();
    for (n, priority, connector) in
        [(1, 5, "partner"), (2, 9, "partner"), (3, 5, "partner"), (4, 9, "other"), (5, 0, "partner"), (6, 5, "partner")]
    {
        store.commit(governed(RequestRecord { priority, connector: connector.into(), ..request(n) })).await.unwrap();
    }
    store.commit(state(3, TransferState::InProgress)).await.unwrap();
    let queue = async |limit| store.queue("partner", limit).await.unwrap().into_iter().map(|one| one.record.transfer).collect::<Vec<_>>();
    assert_eq!(queue(0).await, [id(2), id(1), id(6), id(5)]);
    assert_eq!(queue(1).await, [id(2)]);
    let counts = [("other", 1), ("partner", 4)].map(|(connector, pending)| QueueCount { connector: connector.into(), pending });
    assert_eq!(store.queues().await.unwrap(), counts);
}

/// Mutation: the class of what they wait for, or the state, is left out of the question.
#[tokio::test]
async fn what_is_held_is_found_by_connector_and_by_what_it_waits_for() {
    let store = Store::open_in_memory().await.unwrap();
    let (closed, denied) = (Some(ErrorClass::WindowClosed), Some(ErrorClass::PolicyDenied));
    for (n, connector, class) in [
        (1, "partner", closed),
        (2, "partner", denied),
        (3, "partner", None),
        (4, "other", closed),
        (5, "partner", closed),
        (6, "third", closed),
    ] {
        let waiting = Some(Waiting { class, reason: "r".into() });
        store.commit(governed(RequestRecord { connector: connector.into(), waiting, ..request(n) })).await.unwrap();
        store.commit(state(n, if n >= 5 { TransferState::Pending } else { TransferState::Held })).await.unwrap();
    }
    let held = async |classes: &[ErrorClass]| {
        store.held("partner", classes, 0).await.unwrap().into_iter().map(|one| one.record.transfer).collect::<Vec<_>>()
    };
    assert_eq!(held(&[ErrorClass::WindowClosed]).await, [id(1)]);
    assert_eq!(held(&[ErrorClass::WindowClosed, ErrorClass::PolicyDenied]).await, [id(1), id(2)]);
    assert_eq!(store.connectors_held_for(&[ErrorClass::WindowClosed]).await.unwrap(), ["other", "partner"]);
    assert_eq!(store.connectors_held_for(&[ErrorClass::PolicyDenied]).await.unwrap(), ["partner"]);
}

// Mutations: an ended request is always shown (`get`), or an open one only for its time; `follow` does not say that it has ended.
#[tokio::test]
async fn requests_are_listed_by_user_connector_state_and_page_and_not_after_their_time() {
    let store = Store::open_in_memory().await.unwrap();
    for (n, user) in [(1, "ada"), (2, "bob"), (3, "ada"), (4, "ada")] {
        let connector = if n == 4 { "other" } else { "partner" }.into();
        store.commit(governed(RequestRecord { user: user.into(), connector, ..request(n) })).await.unwrap();
    }
    store.commit(state(3, TransferState::Completed)).await.unwrap();
    let listed = async |query| store.requests(query).await.unwrap().into_iter().map(|one| one.record.transfer).collect::<Vec<_>>();
    let of_ada = RequestQuery { user: Some("ada".into()), ..Default::default() };
    assert_eq!(listed(RequestQuery::default()).await, [id(4), id(3), id(2), id(1)]);
    assert_eq!(listed(of_ada.clone()).await, [id(4), id(3), id(1)]);
    assert_eq!(listed(RequestQuery { before: Some(id(4)), limit: 1, ..of_ada.clone() }).await, [id(3)]);
    assert_eq!(listed(RequestQuery { connector: Some("other".into()), ..Default::default() }).await, [id(4)]);
    assert_eq!(listed(RequestQuery { states: vec![TransferState::Pending], ..of_ada.clone() }).await, [id(4), id(1)]);
    // Nothing was swept.
    assert_eq!(listed(RequestQuery { now: Some(at(3 + 90 * DAY)), ..of_ada }).await, [id(4), id(1)]);
    assert_eq!(store.request(&id(3), at(3 + 90 * DAY)).await.unwrap(), None);
    assert!(store.request(&id(3), at(2 + 90 * DAY)).await.unwrap().is_some());
    assert!(store.request(&id(1), at(400 * DAY)).await.unwrap().is_some(), "one that has not ended is never too old");
}

// Mutations: `put_idempotency` compares no input or no transfer; a key counts for ever (`idempotency`).
#[tokio::test]
async fn a_key_stands_for_one_transfer_until_it_expires() {
    let store = Store::open_in_memory().await.unwrap();
    let put = |hash: &str, n, now: i64| {
        let (key, request_hash) = ("ada/key".to_owned(), hash.to_owned());
        IdempotencyRecord { key, request_hash, transfer: id(n), created_at: at(now), expires_at: at(now + DAY) }
    };
    store.commit(governed(request(1)).push(Mutation::PutIdempotency(put("a", 1, 0)))).await.unwrap();
    store.commit(Mutation::PutIdempotency(put("a", 1, 5))).await.unwrap();
    assert_eq!(store.idempotency("ada/key", at(6)).await.unwrap(), Some(put("a", 1, 0)), "saying it again changes nothing");
    for (hash, n) in [("a", 2), ("b", 1)] {
        let error = store.commit(Mutation::PutIdempotency(put(hash, n, 5))).await.unwrap_err();
        assert_eq!(error.conflict(), Some(&Conflict::Idempotency(put("a", 1, 0))));
    }
    assert_eq!(store.idempotency("ada/key", at(DAY)).await.unwrap(), None);
    store.commit(Mutation::PutIdempotency(put("b", 2, DAY))).await.unwrap();
    assert_eq!(store.idempotency("ada/key", at(DAY)).await.unwrap(), Some(put("b", 2, DAY)));
}
