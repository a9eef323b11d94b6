//! What becomes of requests: one batch each, safe to repeat, seen by whom they belong to.

use super::*;
use crate::connectors::ConnectorSettings;
use crate::error::Refusal;
use crate::policy::Role;
use serde_json::json;

fn who(user: &str, role: Role) -> Principal {
    Principal { user: user.to_owned(), role }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

async fn service(connector: serde_json::Value) -> Store {
    let store = Store::open_in_memory().await.unwrap();
    let admin = who("admin", Role::Admin);
    let mut settings = json!({"url": "sftp://u@h/in/"});
    settings.as_object_mut().unwrap().append(&mut connector.as_object().unwrap().clone());
    let connector = ConnectorSettings::read(&settings).unwrap();
    settings::put(&store, &admin, &name("partner"), connector, Some(0), Timestamp::now()).await.unwrap();
    let source = SourceSettings::read(&json!({"bucket": "b", "prefixes": ["out/"]})).unwrap();
    settings::put(&store, &admin, &name("orders"), source, Some(0), Timestamp::now()).await.unwrap();
    store
}

fn asked(wanted: Wanted) -> Submission {
    Submission { source: name("orders"), wanted, connector: name("partner"), path: String::new(), priority: 0, changes: Changes::default() }
}

fn one() -> Submission {
    asked(Wanted::Key("out/a.csv".into()))
}

// Mutations: `reached` leaves the wish for private addresses open; tickets do not say what they approve.
#[tokio::test]
async fn a_request_is_there_with_its_tickets_and_names_its_spec() {
    let store = service(json!({"server": {"host_keys": ["SHA256:x"]}, "options": {"retries": 7}})).await;
    let ann = who("ann", Role::Operator);
    let Submitted { shown, replayed } = submit(&store, &ann, one(), None, Timestamp::now()).await.unwrap();
    assert!(!replayed && shown.transfer.state == TransferState::Pending);
    let spec: CopySpec = serde_json::from_str(&shown.transfer.spec).unwrap();
    assert_eq!((spec.source.as_str(), spec.destination.as_str()), ("s3://b/out/a.csv", "sftp://u@h/in/"));
    assert_eq!((spec.server.host_keys.len(), spec.options.retries, spec.server.allow_private), (1, 7, Some(false)));
    let tickets = store.tickets(&shown.transfer.id).await.unwrap();
    let numbers: Vec<String> = tickets.iter().map(|ticket| register::shown(ticket.number)).collect();
    assert_eq!(numbers, [shown.request.user_ticket.unwrap(), shown.request.audit_ticket.unwrap()]);
    assert!(tickets.iter().all(|ticket| ticket.spec_hash == shown.request.spec_hash && ticket.opened_by == "ann"));
}

// SEMANTICS S70: "The same idempotency key with the same input is the same transfer, also after a crash; with another input it is
// refused."
// Mutations: a key is forgotten, is everybody's, or stands for any input (`submit`, `replay`).
#[tokio::test]
async fn a_key_stands_for_one_request() {
    let store = service(json!({})).await;
    let (ann, now) = (who("ann", Role::Operator), Timestamp::now());
    let first = submit(&store, &ann, one(), Some("k"), now).await.unwrap();
    let again = submit(&store, &ann, one(), Some("k"), now).await.unwrap();
    assert!(again.replayed && again.shown.transfer.id == first.shown.transfer.id);
    let other = submit(&store, &ann, asked(Wanted::Key("out/b.csv".into())), Some("k"), now).await.unwrap_err();
    assert_eq!(other.refusal, Some(Refusal::Conflict));
    let bob = submit(&store, &who("bob", Role::Operator), one(), Some("k"), now).await.unwrap();
    assert_ne!(bob.shown.transfer.id, first.shown.transfer.id, "keys belong to those who chose them");
    assert_eq!(store.tickets(&first.shown.transfer.id).await.unwrap().len(), 2, "one pair, however often it was asked");
}

// Mutations: `spec` does not ask `covers`, takes a prefix within a name, a folder, no key or one twice; several files get one name
// (`destination`); `changed` takes less proof or an unsafe replacement; any priority is taken. A path that leads out is refused twice.
#[tokio::test]
async fn what_leads_outside_is_refused_before_anything_is_recorded() {
    let store = service(json!({"options": {"verify": "read-back"}})).await;
    let ann = who("ann", Role::Operator);
    let with = |path: &str, changes: Changes, wanted: Wanted| Submission { path: path.into(), changes, ..asked(wanted) };
    let key = || Wanted::Key("out/a".into());
    let weaker = Changes { verify: Some(Verify::AtLeast(Grade::Size)), ..Changes::default() };
    let unsafely = Changes { if_exists: Some(IfExists::ReplaceUnsafe), ..Changes::default() };
    for (submission, refusal) in [
        (asked(Wanted::Key("other/a".into())), Refusal::Denied),
        (asked(Wanted::Prefix(String::new())), Refusal::Denied),
        (asked(Wanted::Prefix("out/2026".into())), Refusal::Invalid),
        (asked(Wanted::Keys(vec![])), Refusal::Invalid),
        (asked(Wanted::Keys(vec!["out/a".into(), "out/a".into()])), Refusal::Invalid),
        (asked(Wanted::Key("out/".into())), Refusal::Invalid),
        (asked(Wanted::Key("".into())), Refusal::Invalid),
        (with("../x/", Changes::default(), key()), Refusal::Invalid),
        (with("a/../../x/", Changes::default(), key()), Refusal::Invalid),
        (with("/etc/", Changes::default(), key()), Refusal::Invalid),
        (with("name", Changes::default(), Wanted::Prefix("out/".into())), Refusal::Invalid),
        (with("", weaker, key()), Refusal::Denied),
        (with("", unsafely, key()), Refusal::Denied),
        (Submission { priority: 10, ..one() }, Refusal::Invalid),
        (Submission { connector: name("nobody"), ..one() }, Refusal::Unknown),
        (Submission { source: name("nothing"), ..one() }, Refusal::Unknown),
    ] {
        let error = submit(&store, &ann, submission.clone(), None, Timestamp::now()).await.unwrap_err();
        assert_eq!(error.refusal, Some(refusal), "{submission:?}: {error}");
    }
    assert!(list(&store, &who("admin", Role::Admin), None, 10, Timestamp::now()).await.unwrap().is_empty());
    let stronger = Changes { verify: Some(Verify::AtLeast(Grade::ServerHash)), ..Changes::default() };
    submit(&store, &ann, with("a/b.csv", stronger, key()), None, Timestamp::now()).await.unwrap();
}

// Mutations: everybody sees each request (`sees`, `list`); an auditor or a viewer may steer (`may`).
#[tokio::test]
async fn transfers_of_others_answer_as_unknown_ones() {
    let store = service(json!({})).await;
    let now = Timestamp::now();
    let id = submit(&store, &who("ann", Role::Operator), one(), None, now).await.unwrap().shown.transfer.id;
    for stranger in [who("bob", Role::Operator), who("eve", Role::Viewer)] {
        assert_eq!(show(&store, &stranger, &id, now).await.unwrap_err().refusal, Some(Refusal::Unknown));
        assert!(list(&store, &stranger, None, 10, now).await.unwrap().is_empty());
    }
    assert_eq!(cancel(&store, &who("bob", Role::Operator), &id, now).await.unwrap_err().refusal, Some(Refusal::Unknown));
    assert!(show(&store, &who("audit", Role::Auditor), &id, now).await.is_ok());
    assert_eq!(cancel(&store, &who("audit", Role::Auditor), &id, now).await.unwrap_err().refusal, Some(Refusal::Denied));
    assert_eq!(submit(&store, &who("eve", Role::Viewer), one(), None, now).await.unwrap_err().refusal, Some(Refusal::Denied));
}

// SEMANTICS S71: "With `--approval second-person` nothing of a transfer begins before somebody else has approved it."
// Mutations: `approve` does not ask who asked, or whether it was approved; `again` lets go on what nobody has approved, held or paused.
#[tokio::test]
async fn nobody_approves_what_they_have_asked_for() {
    let store = service(json!({"approval": "second-person"})).await;
    let (ann, bob, now) = (who("ann", Role::Operator), who("bob", Role::Operator), Timestamp::now());
    let shown = submit(&store, &ann, one(), None, now).await.unwrap().shown;
    let id = shown.transfer.id;
    assert_eq!((shown.transfer.state, shown.request.waiting.unwrap().reason.as_str()), (TransferState::Held, WAITS_FOR_APPROVAL));
    assert_eq!(approve(&store, &ann, &id, now).await.unwrap_err().refusal, Some(Refusal::Denied));
    assert_eq!(resume(&store, &ann, &id, now).await.unwrap_err().refusal, Some(Refusal::Conflict));
    pause(&store, &ann, &id, now).await.unwrap();
    assert_eq!(resume(&store, &ann, &id, now).await.unwrap().transfer.state, TransferState::Held, "a pause is no way around it");
    let approved = approve(&store, &bob, &id, now).await.unwrap();
    assert_eq!((approved.transfer.state, approved.request.approval.approved_by.as_deref()), (TransferState::Pending, Some("bob")));
    assert_eq!(approve(&store, &bob, &id, now).await.unwrap_err().refusal, Some(Refusal::Conflict));

    // What is held for another reason waits for no approval, and none lets it go on.
    let (store, admin) = (service(json!({})).await, who("admin", Role::Admin));
    let transfer = submit(&store, &ann, one(), None, now).await.unwrap().shown.transfer.id;
    let held = Mutation::SetTransferState { transfer: transfer.clone(), state: TransferState::Held, error: None, at: now, expect: None };
    store.commit(held).await.unwrap();
    assert_eq!(approve(&store, &admin, &transfer, now).await.unwrap_err().refusal, Some(Refusal::Conflict));
}

// Mutations: `stop` ends at once what is under way, or leaves tickets open; a run that never began is counted (`another_run`).
#[tokio::test]
async fn a_running_transfer_is_asked_to_stop_and_a_waiting_one_stops() {
    let store = service(json!({})).await;
    let (ann, now) = (who("ann", Role::Operator), Timestamp::now());
    let id = submit(&store, &ann, one(), None, now).await.unwrap().shown.transfer.id;
    let begin = |execution: Option<String>| {
        let state = TransferState::InProgress;
        let set =
            Mutation::SetTransferState { transfer: id.clone(), state, error: None, at: now, expect: Some(vec![TransferState::Pending]) };
        store.commit(Batch::new().push(set).push(Mutation::SetRequestExecution { transfer: id.clone(), execution, at: now }))
    };
    assert_eq!(pause(&store, &ann, &id, now).await.unwrap().transfer.state, TransferState::Paused);
    let resumed = resume(&store, &ann, &id, now).await.unwrap();
    assert_eq!((resumed.transfer.state, resumed.transfer.run), (TransferState::Pending, 1), "a run that never began is still to come");
    begin(Some(binding::execution_name(&id, 1))).await.unwrap();
    let wished = pause(&store, &ann, &id, now).await.unwrap();
    assert_eq!((wished.transfer.state, wished.request.wish), (TransferState::InProgress, Wish::Pause));
    assert_eq!(retry(&store, &ann, &id, now).await.unwrap_err().refusal, Some(Refusal::Conflict));
    let end = Mutation::SetTransferState { transfer: id.clone(), state: TransferState::Paused, error: None, at: now, expect: None };
    store.commit(end).await.unwrap();
    let resumed = resume(&store, &ann, &id, now).await.unwrap();
    assert_eq!((resumed.transfer.run, resumed.request.wish), (2, Wish::None));
    let cancelled = cancel(&store, &ann, &id, now).await.unwrap();
    assert_eq!(cancelled.transfer.state, TransferState::Cancelled);
    let tickets = store.tickets(&id).await.unwrap();
    assert!(tickets.iter().all(|ticket| ticket.state == model::TicketState::Canceled), "nothing is left open");
    assert_eq!(cancel(&store, &ann, &id, now).await.unwrap().transfer.state, TransferState::Cancelled, "saying it again changes nothing");
    assert_eq!(resume(&store, &ann, &id, now).await.unwrap_err().refusal, Some(Refusal::Conflict));
}
