//! kill -9 of a real process with the SQLite store, again and again, while executions run. Afterwards every execution has
//! ended once, every effect is there once, and no transition is lost.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use app::journal::StoreJournal;
use serde_json::{Value, json};
use store::{ExecutionQuery, Store};
use workflow::executor::Journal;
use workflow::trial::{Mocks, run};
use workflow::{HistoryEvent, Machine, Seeded, Start};

use super::killed_child::{DEFINITION, DIRECTORY, LIFE, answer, input};

/// The same moments each time, as far as a machine allows.
fn moments(seed: u64) -> impl Iterator<Item = Duration> {
    let mut chance = Seeded::new(seed);
    std::iter::from_fn(move || Some(Duration::from_micros(workflow::Chance::below(&mut chance, 250_000))))
}

fn begin(directory: &Path, life: &str) -> Child {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["killed_child::a_process_that_is_killed", "--exact", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(LIFE, life)
        .stdout(Stdio::null())
        .spawn();
    child.unwrap()
}

fn lines(file: &Path) -> Vec<String> {
    // What a kill left without its line break was never said.
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect()
}

fn gist<'a>(history: impl IntoIterator<Item = &'a HistoryEvent>) -> Vec<String> {
    let told = history.into_iter().filter(|event| event.kind != "TaskSubmitted");
    let mut gist: Vec<String> = told.map(|event| format!("{} {}", event.kind, event.state().unwrap_or_default())).collect();
    gist.sort();
    gist
}

/// What the history of an execution must say: the interpreter alone, with the same answers.
fn model(name: &str) -> Vec<String> {
    let answers = ["ValidateInput", "AuthenticateSSO", "DownloadFromS3", "OpenTransfer", "SendSlice", "SendByWorker", "FinishTransfer"];
    let more = ["OpenChunks", "SendChunk", "SendChunksByWorker", "FinishChunks", "UpdateServiceNow", "NotifyUser", "CleanupAndLogout"];
    let mocks = answers.into_iter().chain(more).map(|state| {
        let output = answer(name, state);
        let wrapped = if state.ends_with("ByWorker") { output } else { json!({"Payload": output, "StatusCode": 200}) };
        (state.to_owned(), json!({ "Return": wrapped }))
    });
    let mocks = Mocks::parse(&Value::Object(mocks.collect()).to_string(), None, None).unwrap();
    let start = Start { input: input(name), name: name.into(), token_prefix: "t".into(), ..Start::default() };
    let began = "2026-01-01T00:00:00Z".parse().unwrap();
    gist(&run(&Machine::parse(DEFINITION).unwrap(), start, &mocks, began, &mut Seeded::new(1)).unwrap().history)
}

// Mutations: effects are written in a batch of their own (`save`); commands are carried out before their step is written.
#[test]
fn killed_for_real_again_and_again_each_execution_ends_once_and_nothing_is_lost_or_doubled() {
    let kills = if std::env::var_os("FILEFERRY_SLOW").is_some() { 500 } else { 40 };
    let directory = tempfile::tempdir().unwrap();
    let mut struck = 0;
    for (life, moment) in (0..kills).zip(moments(17)) {
        let mut child = begin(directory.path(), &life.to_string());
        // From the first sign of life, so that every kill finds executions running.
        let began = Instant::now();
        while lines(&directory.path().join("lives")).last().map(String::as_str) != Some(&life.to_string()) {
            assert!(began.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none(), "life {life} does not begin");
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(moment);
        struck += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let mut last = begin(directory.path(), "last");
    let began = Instant::now();
    let status = loop {
        match last.try_wait().unwrap() {
            Some(status) => break status,
            None if began.elapsed() < Duration::from_secs(120) => std::thread::sleep(Duration::from_millis(20)),
            None => {
                last.kill().unwrap();
                panic!("what was open does not end");
            }
        }
    };
    assert!(status.success());
    assert_eq!(struck, kills, "every kill must find a process that lives");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (executions, answers, again) = runtime.block_on(look_through(directory.path()));
    eprintln!("{kills} kills: {executions} executions, {answers} answers of tasks, {again} tasks started again");
    assert!(executions >= kills / 2 && again > 0);
}

async fn look_through(directory: &Path) -> (usize, usize, usize) {
    assert_eq!(lines(&directory.join("violations")), Vec::<String>::new(), "tasks that began before they were written");
    let store = Store::open(directory.join("state.db")).await.unwrap();
    let journal = StoreJournal::new(store.clone(), None);
    let (mut names, mut before) = (Vec::new(), None);
    loop {
        let page = store.executions(ExecutionQuery { before: before.take(), ..ExecutionQuery::default() }).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.name.clone());
        for record in page {
            assert_eq!(record.status.as_str(), "SUCCEEDED", "{}", record.name);
            names.push(record.name);
        }
    }
    for created in lines(&directory.join("created")) {
        assert!(names.contains(&created), "{created} was said to be started, and is lost");
    }
    let mut effects: BTreeMap<String, u64> = BTreeMap::new();
    let mut answers = 0;
    for name in &names {
        let history = Journal::history(&journal, name, 0, 1_000).await.unwrap();
        assert!(history.iter().zip(1..).all(|(event, number)| event.id == number), "{name} has a gap in its history");
        assert_eq!(gist(&history), model(name), "{name}");
        for learnt in store.learning(name, "started").await.unwrap() {
            assert_eq!(learnt.transfers, 1, "{name} was started twice");
            *effects.entry(name.clone()).or_default() += 1;
        }
        let answered = history.iter().filter(|event| event.kind == "TaskSucceeded").count();
        let written: u64 = store
            .learning(name, "answered")
            .await
            .unwrap()
            .iter()
            .map(|learnt| {
                assert_eq!(learnt.transfers, 1, "the answer {} of {name} was written twice", learnt.outcome);
                learnt.transfers
            })
            .sum();
        assert_eq!(written as usize, answered, "answers and effects of {name}");
        answers += answered;
    }
    assert_eq!(effects.len(), names.len());
    store.close().await.unwrap();
    let mut begun = lines(&directory.join("begun"));
    let all = begun.len();
    begun.sort();
    begun.dedup();
    (names.len(), answers, all - begun.len())
}
