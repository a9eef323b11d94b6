//! Sessions of ten seconds, and the grants they become.

use jiff::{SignedDuration, Timestamp};
use store::{Conflict, ErrorKind, GrantRecord, Mutation, SessionRecord, SessionRefusal, Store};

use crate::{at, id};

pub fn session(token: &str, second: i64) -> SessionRecord {
    SessionRecord {
        token_hash: token.into(),
        transfer: id(1),
        run: 1,
        user: "ada".into(),
        spec_hash: "spec".into(),
        role: "role/reader".into(),
        created_at: at(second),
        expires_at: at(second + 10),
        consumed_by: None,
    }
}

pub fn mint(token: &str, second: i64) -> Mutation {
    Mutation::CreateSession(Box::new(session(token, second)))
}

fn after(milliseconds: i64) -> Timestamp {
    at(0) + SignedDuration::from_millis(milliseconds)
}

pub fn consume(token: &str, execution: &str, spec: &str, now: Timestamp) -> Mutation {
    Mutation::ConsumeSession { token_hash: token.into(), execution: execution.into(), spec_hash: spec.into(), now }
}

async fn refused(store: &Store, mutation: Mutation) -> SessionRefusal {
    match store.commit(mutation).await.unwrap_err().conflict() {
        Some(Conflict::Session(refusal)) => *refusal,
        other => panic!("{other:?}"),
    }
}

// SEMANTICS S51: "A session is refused from its tenth second on, by the clock, whatever is still on record; before that
// it opens the way for one execution of the request it was given for, and for no other."
// Mutations: the tenth second is within (`is_live`); a clock set back makes it longer; `Store::session` asks no time; whoever has used
// it may come late (`consume`).
#[tokio::test]
async fn a_session_passes_at_9_9_seconds_and_is_refused_from_10_on_whatever_is_in_the_table() {
    let store = Store::open_in_memory().await.unwrap();
    store.commit(mint("t", 0)).await.unwrap();
    for (milliseconds, live) in [(0, true), (9_900, true), (9_999, true), (10_000, false), (10_100, false), (3_600_000, false)] {
        let read = store.session("t", after(milliseconds)).await.unwrap();
        assert_eq!(read.is_some(), live, "read at {milliseconds} ms");
    }
    assert_eq!(refused(&store, consume("t", "e", "spec", after(10_100))).await, SessionRefusal::Expired);
    store.commit(consume("t", "e", "spec", after(9_900))).await.unwrap();
    assert_eq!(refused(&store, consume("t", "e", "spec", after(10_100))).await, SessionRefusal::Expired, "even by the one who had used it");
    // It was never swept, and a clock that is turned back does not bring it to life for longer.
    assert_eq!(store.session("t", after(-1)).await.unwrap(), None);
    assert_eq!(refused(&store, consume("t", "e", "spec", after(-3_600_000))).await, SessionRefusal::Expired);
}

// SEMANTICS S51: "A session is refused from its tenth second on, by the clock, whatever is still on record; before that
// it opens the way for one execution of the request it was given for, and for no other."
// Mutations: `consume` compares no spec, or no execution, or takes nothing twice; `delete` deletes nothing; an error says the hash.
#[tokio::test]
async fn a_session_opens_the_way_for_one_execution_of_one_spec() {
    let store = Store::open_in_memory().await.unwrap();
    store.commit(mint("t", 0)).await.unwrap();
    assert_eq!(store.commit(mint("t", 1)).await.unwrap_err().conflict(), Some(&Conflict::Exists));
    assert_eq!(refused(&store, consume("t", "ff-1", "another", at(1))).await, SessionRefusal::OtherSpec);
    store.commit(consume("t", "ff-1", "spec", at(1))).await.unwrap();
    store.commit(consume("t", "ff-1", "spec", at(2))).await.expect("the second run of the same step passes");
    assert_eq!(refused(&store, consume("t", "ff-2", "spec", at(2))).await, SessionRefusal::Consumed);
    assert_eq!(store.session("t", at(2)).await.unwrap().unwrap().consumed_by.as_deref(), Some("ff-1"));
    for _ in 0..2 {
        store.commit(Mutation::DeleteSession { token_hash: "t".into() }).await.unwrap();
    }
    let error = store.commit(consume("t", "ff-1", "spec", at(2))).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    let error = store.commit(consume("nobodys-hash", "ff-1", "spec", at(2))).await.unwrap_err();
    let said = format!("{error} {error:?}");
    assert!(!said.contains("nobodys"), "no message says the token's hash: {said}");
}

// Mutation: `create` looks at neither length nor use.
#[tokio::test]
async fn a_session_is_never_longer_than_ten_seconds_nor_born_used() {
    let store = Store::open_in_memory().await.unwrap();
    for wrong in [
        SessionRecord { expires_at: at(11), ..session("t", 0) },
        SessionRecord { expires_at: after(10_001), ..session("t", 0) },
        SessionRecord { expires_at: at(-1), ..session("t", 0) },
        SessionRecord { consumed_by: Some("ff-1".into()), ..session("t", 0) },
    ] {
        let error = store.commit(Mutation::CreateSession(Box::new(wrong))).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
    }
}

// Mutations: `put_grant` compares no user, spec or role, or the execution too; `end_grant` ends nothing.
#[tokio::test]
async fn a_grant_is_of_one_user_and_spec_until_it_ends() {
    let store = Store::open_in_memory().await.unwrap();
    let grant = |user: &str, execution: &str| GrantRecord {
        transfer: id(1),
        user: user.into(),
        spec_hash: "spec".into(),
        role: "role/reader".into(),
        execution: execution.into(),
        at: at(1),
    };
    let put = |grant: GrantRecord| Mutation::PutGrant(Box::new(grant));
    store.commit(put(grant("ada", "ff-1"))).await.unwrap();
    store.commit(put(grant("ada", "ff-2"))).await.expect("a later run passes on it");
    assert_eq!(store.grant(&id(1)).await.unwrap(), Some(grant("ada", "ff-1")));
    let ada = || grant("ada", "ff-1");
    for other in
        [grant("bob", "ff-1"), GrantRecord { spec_hash: "another".into(), ..ada() }, GrantRecord { role: "role/admin".into(), ..ada() }]
    {
        assert_eq!(store.commit(put(other)).await.unwrap_err().conflict(), Some(&Conflict::Grant(grant("ada", "ff-1"))));
    }
    for _ in 0..2 {
        store.commit(Mutation::EndGrant { transfer: id(1) }).await.unwrap();
    }
    assert_eq!(store.grant(&id(1)).await.unwrap(), None);
    store.commit(put(grant("bob", "ff-3"))).await.unwrap();
}
