//! The audit of the store: entries come with what they tell of, and only with it; chains and seals fit together.

use model::audit::{self, Entry, Report, Seal, Verifier};
use model::receipt::SigningKey;
use model::{FileNumber, FileState, TransferState};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use store::{AuditCursor, Batch, ErrorKind, Failure, Mutation, Store, Wish};

use crate::requests::request;
use crate::{add, at, finish, id, transfer};

fn key() -> SigningKey {
    SigningKey::from_seed(&[5; 32]).unwrap()
}

async fn entries(store: &Store, chain: &str) -> Vec<Entry> {
    let lines = store.audit(Some(chain), AuditCursor::default(), 0).await.unwrap();
    lines.iter().map(|line| serde_json::from_str(&line.line).unwrap()).collect()
}

async fn of(store: &Store, n: u8) -> Vec<Entry> {
    entries(store, &audit::transfer_chain(&id(n))).await
}

/// All of it, as `audit verify` reads it.
async fn verified(store: &Store) -> Report {
    let mut verifier = Verifier::default();
    for (_, line) in store.seals(0, 0).await.unwrap() {
        verifier.seal(&line, |fingerprint| fingerprint == key().fingerprint());
    }
    let mut after = AuditCursor::default();
    loop {
        let page = store.audit(None, after, 2).await.unwrap();
        let Some(last) = page.last() else { return verifier.finish() };
        after = last.into();
        page.iter().for_each(|line| verifier.entry(&line.line));
    }
}

async fn seal(store: &Store) {
    let heads = store.unsealed(0).await.unwrap();
    let last = store.last_seal().await.unwrap();
    let (number, prev) = last.map_or((1, None), |(number, line)| (number + 1, Some(audit::hash(&line))));
    let line = Seal::line(&key(), number, at(60), prev, heads.clone()).unwrap();
    store.commit(Mutation::PutSeal { number, line, heads }).await.unwrap();
}

fn state(n: u8, state: TransferState, second: i64) -> Mutation {
    let error = (state == TransferState::Failed)
        .then(|| Failure { class: model::ErrorClass::DestNoSpace, text: "the disk of the partner is full".into() });
    Mutation::SetTransferState { transfer: id(n), state, error, at: at(second), expect: None }
}

fn governed(n: u8) -> Batch {
    Batch::new().push(Mutation::CreateTransfer(transfer(n))).push(Mutation::CreateRequest(Box::new(request(n)))).by("mia")
}

fn events(entries: &[Entry]) -> Vec<String> {
    let word = |entry: &Entry| match entry.detail.get("to").or(entry.detail.get("wish")).or(entry.detail.get("state")) {
        Some(to) => format!("{} {}", entry.event, to.as_str().unwrap_or_default()),
        None => entry.event.clone(),
    };
    entries.iter().map(word).collect()
}

// SEMANTICS S84: "Every change of a transfer of the service stands in its chain of the audit, in the order in which it happened, with
// who asked for it; it is written with the change or not at all."
// Mutations: `audited` does not call `enter`; `enter` tells also where nothing has changed; `Batch::by` is not handed on.
#[tokio::test]
async fn a_chain_tells_what_was_done_with_a_transfer_and_by_whom() {
    let store = Store::open_in_memory().await.unwrap();
    store.commit(governed(1)).await.unwrap();
    store.commit(state(1, TransferState::InProgress, 1)).await.unwrap();
    // Again: no change, so nothing to tell.
    store.commit(state(1, TransferState::InProgress, 2)).await.unwrap();
    store.commit(add(1, 0..2)).await.unwrap();
    store.commit(Batch::from(Mutation::SetWish { transfer: id(1), wish: Wish::Pause, expect: None, at: at(3) }).by("max")).await.unwrap();
    store.commit(finish(1, 0)).await.unwrap();
    store.commit(finish(1, 0)).await.unwrap();
    let failed = Failure { class: model::ErrorClass::DestDenied, text: "x".repeat(5_000) };
    store
        .commit(Mutation::SetFileState { transfer: id(1), number: FileNumber(1), state: FileState::Failed, error: Some(failed), at: at(4) })
        .await
        .unwrap();
    store.commit(state(1, TransferState::Failed, 5)).await.unwrap();
    let entries = of(&store, 1).await;
    assert_eq!(
        events(&entries),
        ["requested", "state in_progress", "wish pause", "file delivered", "file failed", "state failed"].map(String::from)
    );
    assert_eq!(
        entries.iter().map(|entry| entry.by.as_str()).collect::<Vec<_>>(),
        ["mia", "fileferry", "max", "fileferry", "fileferry", "fileferry"]
    );
    assert_eq!(entries[3].detail["receipt_sha256"], audit::hash("{\"file\":0}").as_str());
    assert_eq!((&entries[5].detail["from"], &entries[5].detail["class"]), (&json!("in_progress"), &json!("dest_no_space")));
    assert_eq!(entries[4].detail["error"].as_str().unwrap().len(), 300);
    assert!(verified(&store).await.problems.is_empty());
}

#[tokio::test]
async fn what_is_refused_or_not_governed_leaves_no_entry() {
    let store = Store::open_in_memory().await.unwrap();
    store.commit(Mutation::CreateTransfer(transfer(2))).await.unwrap();
    store.commit(add(2, 0..1)).await.unwrap();
    store.commit(finish(2, 0)).await.unwrap();
    store.commit(state(2, TransferState::Completed, 1)).await.unwrap();
    assert!(of(&store, 2).await.is_empty(), "a copy of somebody's own machine has its receipts");

    store.commit(governed(1)).await.unwrap();
    let expect = Some(vec![TransferState::Paused]);
    let refused = Mutation::SetTransferState { transfer: id(1), state: TransferState::InProgress, error: None, at: at(1), expect };
    // The first of the two would have been told; the batch is undone whole.
    let batch = Batch::new().push(Mutation::SetWish { transfer: id(1), wish: Wish::Cancel, expect: None, at: at(1) }).push(refused);
    assert_eq!(store.commit(batch).await.unwrap_err().kind, ErrorKind::Conflict);
    assert_eq!(events(&of(&store, 1).await), ["requested"]);
}

#[tokio::test]
async fn settings_stand_in_the_chain_of_their_day_without_their_secrets() {
    let store = Store::open_in_memory().await.unwrap();
    let body = r#"{"url":"sftp://u@h/","server":{"password_from":"local:key"}}"#.to_owned();
    let sealed = b"sealed bytes".to_vec();
    store.commit(Mutation::PutSecret { name: "key".into(), sealed, expect: None, by: "mia".into(), at: at(0) }).await.unwrap();
    store.commit(Mutation::PutConnector { name: "p".into(), body, expect: None, by: "mia".into(), at: at(1) }).await.unwrap();
    // The next day.
    let (by, at) = ("max".to_owned(), at(86_400));
    store.commit(Mutation::RemoveConnector { name: "p".into(), expect: 1, by, at }).await.unwrap();
    store.commit(Mutation::AddAudit { transfer: None, event: "service_stopped".into(), detail: Map::new(), at }).await.unwrap();
    let first = entries(&store, "day:2023-11-14").await;
    assert_eq!(events(&first), ["secret_saved", "connector_saved"]);
    assert_eq!(
        (first[1].by.as_str(), &first[1].detail["version"], &first[1].detail["settings"]["url"]),
        ("mia", &json!(1), &json!("sftp://u@h/"))
    );
    let second = entries(&store, "day:2023-11-15").await;
    assert_eq!((events(&second), second[0].by.as_str()), (vec!["connector_removed".into(), "service_stopped".into()], "max"));
    let all = store.audit(None, AuditCursor::default(), 0).await.unwrap();
    assert!(all.iter().all(|line| !line.line.contains("sealed bytes")));
    assert_eq!((verified(&store).await.chains, verified(&store).await.problems.len()), (2, 0));
}

// Mutations: `put_seal` marks nothing (`sealed` stays 0); or marks `seq` instead of what the seal names.
#[tokio::test]
async fn a_seal_covers_what_it_names_and_its_number_is_given_once() {
    let store = Store::open_in_memory().await.unwrap();
    store.commit(governed(1)).await.unwrap();
    store.commit(governed(2)).await.unwrap();
    let heads = store.unsealed(0).await.unwrap();
    assert_eq!(heads.len(), 2);
    // Between the look and the seal one of them has gone on.
    store.commit(state(1, TransferState::InProgress, 1)).await.unwrap();
    let line = Seal::line(&key(), 1, at(60), None, heads.clone()).unwrap();
    let put = Mutation::PutSeal { number: 1, line, heads };
    store.commit(put.clone()).await.unwrap();
    assert_eq!(store.commit(put).await.unwrap_err().kind, ErrorKind::Conflict);
    let left = store.unsealed(0).await.unwrap();
    assert_eq!(left.iter().map(|head| (head.chain.clone(), head.seq)).collect::<Vec<_>>(), [(audit::transfer_chain(&id(1)), 2)]);
    assert_eq!(verified(&store).await.unsealed, 1);
    seal(&store).await;
    let report = verified(&store).await;
    assert_eq!((report.seals, report.unsealed, report.problems.len(), report.unknown_keys.len()), (2, 0, 0, 0));
    assert!(store.unsealed(0).await.unwrap().is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Create(u8),
    State(u8, TransferState),
    Wish(u8, Wish),
    Finish(u8, u32),
    Seal,
}

fn step() -> impl Strategy<Value = Step> {
    let n = || 0..3u8;
    let state = || proptest::sample::select(TransferState::ALL.to_vec());
    prop_oneof![
        1 => n().prop_map(Step::Create),
        6 => (n(), state()).prop_map(|(n, state)| Step::State(n, state)),
        2 => (n(), proptest::sample::select(vec![Wish::None, Wish::Pause, Wish::Cancel])).prop_map(|(n, wish)| Step::Wish(n, wish)),
        2 => (n(), 0..3u32).prop_map(|(n, number)| Step::Finish(n, number)),
        1 => Just(Step::Seal),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever happens, the chains hold every transition that the records went through, and verify.
    #[test]
    fn chains_have_every_transition(steps in proptest::collection::vec(step(), 1..40)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let store = Store::open_in_memory().await.unwrap();
            let mut seen: std::collections::BTreeMap<u8, Vec<TransferState>> = Default::default();
            for (second, step) in steps.into_iter().enumerate() {
                let second = second as i64;
                match step {
                    Step::Create(n) => {
                        if store.commit(governed(n)).await.is_ok() {
                            store.commit(add(n, 0..3)).await.unwrap();
                            seen.insert(n, vec![TransferState::Pending]);
                        }
                    }
                    Step::State(n, to) => {
                        if store.commit(state(n, to, second)).await.is_ok() {
                            let states = seen.get_mut(&n).unwrap();
                            if states.last() != Some(&to) {
                                states.push(to);
                            }
                        }
                    }
                    Step::Wish(n, wish) => {
                        let _ = store.commit(Mutation::SetWish { transfer: id(n), wish, expect: None, at: at(second) }).await;
                    }
                    Step::Finish(n, number) => {
                        let _ = store.commit(finish(n, number)).await;
                    }
                    Step::Seal => seal(&store).await,
                }
            }
            for (n, states) in seen {
                let told: Vec<Value> = of(&store, n).await.into_iter().filter(|e| e.event == "state").map(|e| e.detail["to"].clone()).collect();
                let states: Vec<Value> = states[1..].iter().map(|state| json!(state.as_str())).collect();
                assert_eq!(told, states);
            }
            let report = verified(&store).await;
            assert!(report.problems.is_empty(), "{report:?}");
        });
    }
}

// Someone with the database in hand.
#[tokio::test]
async fn a_row_that_was_changed_behind_the_stores_back_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    let store = Store::open(&file).await.unwrap();
    for n in 1..4 {
        store.commit(governed(n)).await.unwrap();
        store.commit(state(n, TransferState::InProgress, 1)).await.unwrap();
        store.commit(state(n, TransferState::Completed, 2)).await.unwrap();
    }
    seal(&store).await;
    let chain = audit::transfer_chain(&id(2));
    let change = |sql: &str| rusqlite::Connection::open(&file).unwrap().execute(sql, [&chain]).unwrap();
    let place = |report: Report| report.problems.first().map(|problem| (problem.chain == chain, problem.seq));
    assert_eq!(place(verified(&store).await), None);
    let kept = store.audit(Some(&chain), AuditCursor::default(), 0).await.unwrap();
    for (sql, seq) in [
        ("UPDATE audit SET line = replace(line, 'in_progress', 'failed') WHERE chain = ?1 AND seq = 2", 3),
        ("DELETE FROM audit WHERE chain = ?1 AND seq = 2", 3),
        ("DELETE FROM audit WHERE chain = ?1 AND seq = 3", 2),
        ("DELETE FROM audit WHERE chain = ?1", 3),
    ] {
        assert!(change(sql) > 0);
        assert_eq!(place(verified(&store).await), Some((true, seq)), "{sql}");
        // As it was.
        change("DELETE FROM audit WHERE chain = ?1");
        let connection = rusqlite::Connection::open(&file).unwrap();
        for line in &kept {
            connection.execute("INSERT INTO audit VALUES (?1, ?2, ?3)", rusqlite::params![line.chain, line.seq as i64, line.line]).unwrap();
        }
    }
    assert_eq!(place(verified(&store).await), None);
}
