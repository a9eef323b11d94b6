//! Senders of the outbox that are killed between claim, send and mark. What is promised, by the kind of the target:
//! at-least-once: each message arrives, twice at most once a kill, and counts once by its key;
//! at-most-once: no message arrives twice; where nobody knows whether it did, it says `unconfirmed`.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use store::{Batch, Delivering, Mutation, OutboxKey, OutboxMessage, OutboxRecord, OutboxState, Store};

use crate::{at, id};

const PLACE: &str = "STORE_TEST_OUTBOX";
const ROUND: &str = "STORE_TEST_ROUND";
/// One line of the sink. Lines never cross a page: a kill can cut a write in two only between pages.
const LINE: usize = 64;
/// Messages that each round adds, by subject.
const PER_ROUND: [(&str, Delivering, u32); 3] =
    [("ticket", Delivering::AtLeastOnce, 1), ("webhook", Delivering::AtLeastOnce, 1), ("chat", Delivering::AtMostOnce, 1)];

fn key(subject: &str, number: u32) -> OutboxKey {
    OutboxKey { transfer: id(1), run: number, step: subject.into(), purpose: "tell".into() }
}

fn state_file(place: &Path) -> PathBuf {
    place.join("state.db")
}

/// The target: it keeps what it was sent, and knows no key again.
fn sink(place: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(place.join("sink")).unwrap()
}

/// What the children of the test below do; without their setting it is nothing. Sends whatever is due, and says when it
/// has claimed, sent and marked each message; it ends when it is told of a last round and all is done.
#[tokio::test]
async fn child_that_sends() {
    let Some(place) = std::env::var_os(PLACE).map(PathBuf::from) else { return };
    let round = std::env::var(ROUND).unwrap();
    let store = Store::open(state_file(&place)).await.unwrap();
    let mut sink = sink(&place);
    let by = format!("sender-{round}");
    store.commit(Mutation::LapseClaims { now: Timestamp::now(), alone: Some(by.clone()) }).await.unwrap();
    loop {
        let now = Timestamp::now();
        let due = store.due_outbox(now, 10).await.unwrap();
        if due.is_empty() {
            if round == "last" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for OutboxRecord { key, .. } in due {
            let until = now + jiff::SignedDuration::from_secs(600);
            store.commit(Mutation::ClaimOutbox { key: key.clone(), by: by.clone(), now, until }).await.unwrap();
            println!("\nat claimed");
            let line = format!("{:<width$}\n", format!("{} {}", key.step, key.run), width = LINE - 1);
            sink.write_all(line.as_bytes()).unwrap();
            sink.sync_data().unwrap();
            println!("\nat sent");
            store.commit(Mutation::MarkSent { key, at: now }).await.unwrap();
            println!("\nat marked");
        }
    }
}

fn spawn(place: &Path, round: &str) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "outbox_kills::child_that_sends", "--nocapture", "--test-threads=1"])
        .env(PLACE, place)
        .env(ROUND, round)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    (child, stdout)
}

/// A small generator of its own: a seed that fails is tried again by its number.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Kills after so many words and a moment more. What the child had got done by then, nobody knows: that is the point.
fn kill_after(mut child: Child, stdout: BufReader<ChildStdout>, words: u64, moment: Duration) {
    let mut said = 0;
    for line in stdout.lines() {
        said += u64::from(line.unwrap_or_default().starts_with("at "));
        if said == words {
            std::thread::sleep(moment);
            child.kill().unwrap();
            break;
        }
    }
    let status = child.wait().unwrap();
    assert!(said == words && !status.success(), "the child ended by itself after {said} of {words} words: {status}");
}

fn messages(round: u32) -> Batch {
    let mut batch = Batch::new();
    for (subject, delivering, count) in PER_ROUND {
        batch.extend((0..count).map(|n| {
            Mutation::AddOutbox(Box::new(OutboxMessage {
                key: key(subject, round * count + n),
                target: "sink".into(),
                subject: subject.into(),
                body: "{}".into(),
                delivering,
                at: at(0),
                expires_at: at(1_000_000_000),
            }))
        }));
    }
    batch
}

/// How often each message arrived, and the order in which those of a subject did for the first time.
fn arrived(place: &Path) -> (BTreeMap<OutboxKey, u32>, BTreeMap<String, Vec<u32>>) {
    let (mut counts, mut order) = (BTreeMap::new(), BTreeMap::<String, Vec<u32>>::new());
    let text = std::fs::read_to_string(place.join("sink")).unwrap();
    assert_eq!(text.len() % LINE, 0, "each line is whole");
    for line in text.lines() {
        let (subject, number) = line.trim_end().split_once(' ').unwrap();
        let number = number.parse().unwrap();
        let count = counts.entry(key(subject, number)).or_insert(0);
        *count += 1;
        if *count == 1 {
            order.entry(subject.to_owned()).or_default().push(number);
        }
    }
    (counts, order)
}

async fn all(store: &Store) -> Vec<OutboxRecord> {
    let (mut records, mut after) = (Vec::new(), 0);
    loop {
        let page = store.outbox(&[], None, after, 0).await.unwrap();
        let Some((last, _)) = page.last() else { return records };
        after = *last;
        records.extend(page.into_iter().map(|(_, record)| record));
    }
}

// SEMANTICS S52: "A message to a ticket system or a webhook is sent at least once, whatever dies between; one to a chat
// or by mail at most once, and where nobody knows whether it arrived it is `unconfirmed`."
// Mutations: what a dead one had claimed is sent again whatever its kind (`lapse`), or before its claim lapses; a claim is not counted;
// earlier messages are not waited for (`due`).
#[tokio::test]
async fn whatever_is_killed_between_claim_send_and_mark_each_kind_of_message_keeps_its_promise() {
    let kills: u32 = if std::env::var("FILEFERRY_SLOW").is_ok_and(|value| value == "1") { 1_000 } else { 150 };
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    let store = Store::open(state_file(place)).await.unwrap();
    sink(place);
    let mut chance = Chance(20_261_130);
    for round in 0..kills {
        store.commit(messages(round)).await.unwrap();
        let (child, stdout) = spawn(place, &round.to_string());
        // Three new messages are nine words, whatever was left over; every second kill hits the first message.
        let most = if chance.below(2) == 0 { 3 } else { 7 };
        let words = 1 + chance.below(most);
        let moment = Duration::from_micros(chance.below(1_500));
        tokio::task::spawn_blocking(move || kill_after(child, stdout, words, moment)).await.unwrap();
    }
    let (mut last, _stdout) = spawn(place, "last");
    assert!(last.wait().unwrap().success());

    let (arrived, order) = arrived(place);
    let records = all(&store).await;
    let (mut twice, mut unconfirmed) = (0, [0, 0]);
    for record in &records {
        let times = arrived.get(&record.key).copied().unwrap_or(0);
        let told = format!("{} is {} after {} attempts and arrived {times} times", record.key, record.state, record.attempts);
        assert!(times <= record.attempts, "nothing is sent without a claim on record: {told}");
        match (record.delivering, record.state) {
            (Delivering::AtLeastOnce, OutboxState::Sent) => {
                assert!(times >= 1, "{told}");
                twice += times - 1;
            }
            (Delivering::AtMostOnce, OutboxState::Sent) => assert_eq!((times, record.attempts), (1, 1), "{told}"),
            (Delivering::AtMostOnce, OutboxState::Unconfirmed) => {
                assert!(times <= 1 && record.attempts == 1, "{told}");
                unconfirmed[times as usize] += 1;
            }
            _ => panic!("{told}"),
        }
    }
    let added: u32 = PER_ROUND.iter().map(|(_, _, count)| count * kills).sum();
    assert_eq!(records.len() as u32, added);
    assert!(arrived.keys().all(|key| records.iter().any(|record| record.key == *key)), "nothing arrived that nobody wrote");
    for (subject, numbers) in order {
        assert!(numbers.is_sorted(), "messages about {subject} arrived in another order: {numbers:?}");
    }
    let lost = unconfirmed.iter().sum::<u32>();
    assert!(twice + lost <= kills, "a kill leaves one message in doubt: {twice} sent again, {lost} unconfirmed");
    println!("{kills} kills, {added} messages: {twice} sent again, {} unconfirmed and arrived, {} and not", unconfirmed[1], unconfirmed[0]);
}
