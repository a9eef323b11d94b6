//! The process dies, or a write fails, at every point of an execution in turn. It must end as it would have ended.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use workflow::Status;
use workflow::executor::{Clock, Error, ManualClock, MemoryJournal};

use super::world::{Mishap, Process, Script, check_books, fault, gist, new_execution};
use crate::transfer::{definition, input, ways, wrapped};
use crate::{began, try_out};

const NAME: &str = "ff-aeaqcaibaeaqcaib-1";
const MISHAPS: [Mishap; 4] = [Mishap::DiesBefore, Mishap::DiesAfter, Mishap::Fails, Mishap::Unanswered];

/// An execution and what people do to it.
#[derive(Clone, Default)]
pub struct Scene {
    pub name: &'static str,
    pub definition: Value,
    pub input: Value,
    pub script: Value,
    /// Stopped when nothing happens any more without time passing.
    pub stopped: bool,
    /// Goes on from where it failed.
    pub redriven: bool,
    /// So many seconds are added to the wall clock when it first waits.
    pub clock_set: i64,
}

/// What may go wrong in a play besides one write.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trouble {
    pub write: Option<(usize, Mishap)>,
    /// In the life after the first death.
    pub second: Option<(usize, Mishap)>,
    /// The process is killed the so-manieth time that only time could make something happen.
    pub killed_at_rest: Option<usize>,
    /// The same, and the process is asked to end.
    pub shut_down_at_rest: Option<usize>,
    /// The wall clock is set then, by so many seconds.
    pub clock_set_at_rest: Option<(usize, i64)>,
}

pub struct Played {
    pub status: Status,
    pub gist: Vec<String>,
    pub labels: Vec<String>,
    pub rests: usize,
}

pub async fn play(scene: &Scene, trouble: Trouble) -> Played {
    let (stored, script, clock) = (MemoryJournal::default(), Script::new(&scene.script), ManualClock::new(began()));
    let mut process = Process::begin(&stored, trouble.write, &script, &clock);
    let (mut lives, mut rests, mut labels, mut clock_set) = (1, 0, Vec::new(), scene.clock_set);
    loop {
        let mut asked = false;
        loop {
            process.quiet().await;
            if process.is_dead() {
                break;
            }
            let status = process.executor.describe(NAME).await.unwrap().map(|description| description.status);
            let has = |kind: &str, history: &[workflow::HistoryEvent]| history.iter().any(|event| event.kind == kind);
            match status {
                // Whoever started it tries again until it is there, as a request would be retried.
                None => {
                    let _ = process.executor.start(new_execution(NAME, &scene.definition, scene.input.clone()), Vec::new()).await;
                    continue;
                }
                // Once a life; a write that fails is tried again when time has passed, which nobody may wait for here.
                Some(Status::Running) if scene.stopped && !asked => {
                    let executor = process.executor.clone();
                    tokio::spawn(async move { executor.stop(NAME, "Stopped", "by hand").await });
                    asked = true;
                    continue;
                }
                Some(Status::Failed(_)) if scene.redriven && !asked && !has("ExecutionRedriven", &process.history(NAME).await) => {
                    let executor = process.executor.clone();
                    tokio::spawn(async move { executor.redrive(NAME).await });
                    asked = true;
                    continue;
                }
                // Whoever did not hear that the last write went well looks once more.
                Some(status)
                    if status != Status::Running
                        && process.executor.running() == 0
                        && (!scene.redriven || has("ExecutionRedriven", &process.history(NAME).await)) =>
                {
                    labels.extend(process.journal.labels.lock().unwrap().drain(..));
                    check_books(&stored).await;
                    assert_eq!(*script.early.lock().unwrap(), [] as [&str; 0], "{}: begun before it was written, {trouble:?}", scene.name);
                    return Played { status, gist: gist(&process.history(NAME).await), labels, rests };
                }
                _ => {}
            }
            rests += 1;
            if trouble.killed_at_rest == Some(rests) {
                break;
            }
            if trouble.shut_down_at_rest == Some(rests) {
                let ending = process.executor.clone();
                let turned = clock.clone();
                // Half of the tasks answer within the grace.
                tokio::join!(ending.shutdown(Duration::from_millis(5)), async move { turned.advance(Duration::from_secs(1)) });
                break;
            }
            if clock_set != 0 {
                clock.set_wall(jiff::SignedDuration::from_secs(std::mem::take(&mut clock_set)));
            }
            if let Some((_, by)) = trouble.clock_set_at_rest.filter(|(at, _)| *at == rests) {
                clock.set_wall(jiff::SignedDuration::from_secs(by));
            }
            let next = clock.next_sleeper().expect("somebody waits for something");
            clock.advance(next.saturating_sub(clock.steady()).max(Duration::from_millis(1)));
            let seen = process.journal.labels.lock().unwrap().len();
            assert!(
                rests < 2_000,
                "{}: no end with {trouble:?}, {} running, {seen} writes, said {:?}",
                scene.name,
                process.executor.running(),
                process.said.0.lock().unwrap()
            );
        }
        labels.extend(process.journal.labels.lock().unwrap().drain(..));
        process.die().await;
        process = Process::begin(&stored, trouble.second.filter(|_| lives == 1), &script, &clock);
        lives += 1;
        match process.executor.resume().await {
            Ok(_) | Err(Error::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Plays a scene undisturbed, then with each trouble in turn; returns the kinds of writes that were hit.
fn every_trouble(scene: &Scene, mishaps: &[Mishap]) -> BTreeSet<String> {
    runtime().block_on(async {
        let calm = play(scene, Trouble::default()).await;
        let mut hit = BTreeSet::new();
        let writes = (0..calm.labels.len())
            .flat_map(|at| mishaps.iter().map(move |mishap| Trouble { write: Some((at, *mishap)), ..Trouble::default() }));
        let twice = (0..calm.labels.len()).map(|at| Trouble {
            write: Some((at, Mishap::DiesAfter)),
            second: Some((0, Mishap::DiesAfter)),
            ..Trouble::default()
        });
        let killed = (1..=calm.rests).map(|at| Trouble { killed_at_rest: Some(at), ..Trouble::default() });
        let shut_down = (1..=calm.rests).map(|at| Trouble { shut_down_at_rest: Some(at), ..Trouble::default() });
        for trouble in writes.chain(twice).chain(killed).chain(shut_down) {
            let played = play(scene, trouble).await;
            assert_eq!(played.status, calm.status, "{}: {trouble:?}", scene.name);
            assert_eq!(played.gist, calm.gist, "{}: {trouble:?}", scene.name);
            let place = |moment: &str| trouble.write.map(|(at, _)| format!("{moment} {}", calm.labels[at]));
            match trouble.write {
                Some((_, Mishap::DiesBefore)) => hit.extend(place("before")),
                Some((_, Mishap::DiesAfter)) => hit.extend(place("after")),
                _ => {}
            }
        }
        hit
    })
}

// Mutations: the effects of a task are written in a commit of their own, or not at all; the commands of a step are carried out
// before it is written, at the start too; a write that failed is not looked up; no clock is looked at after a restart (`adopt`);
// an execution that was created without an answer is not looked for (`settle`).
#[test]
fn every_state_of_the_transfer_failed_repeated_and_killed_in_turn_ends_as_the_interpreter_alone_ends_it() {
    for way in ways() {
        let scene = Scene {
            name: "transfer",
            definition: definition(),
            input: input(),
            script: Value::Object(way.mocks.clone()),
            ..Scene::default()
        };
        let alone = try_out(&definition(), input(), &wrapped(&way.mocks));
        let calm = runtime().block_on(play(&scene, Trouble::default()));
        assert_eq!(calm.status, alone.status, "{}", way.name);
        let told = |gist: Vec<String>| -> Vec<String> { gist.into_iter().filter(|event| !event.starts_with("TaskSubmitted")).collect() };
        assert_eq!(told(calm.gist), gist(&alone.history), "{}", way.name);
        // A way that waits for silent workers has thousands of rests and nothing new at them.
        let mishaps = if way.slow { &MISHAPS[..2] } else { &MISHAPS };
        every_trouble(&scene, mishaps);
    }
}

fn scene(name: &'static str, definition: Value, script: Value) -> Scene {
    Scene { name, definition, input: json!({"items": [1, 2, 3]}), script, ..Scene::default() }
}

fn scenes() -> Vec<Scene> {
    let task = |next: Value| {
        let mut task =
            json!({"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "Parameters": {"FunctionName": "f", "Payload": {}}});
        task.as_object_mut().unwrap().extend(next.as_object().unwrap().clone());
        task
    };
    let end = || task(json!({"End": true}));
    let machine = |name: &str, state: Value| json!({"StartAt": name, "States": {name: state, "Last": task(json!({"End": true}))}});
    let one = |name: &str| json!({"StartAt": name, "States": {name: task(json!({"End": true}))}});
    let handed = |more: Value| {
        let mut state = json!({"Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken", "Next": "Last",
            "Parameters": {"QueueUrl": "q", "MessageBody": {"token.$": "$$.Task.Token"}}});
        state.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        state
    };
    let fine = json!({"Return": 1, "Delay": 2});
    let thrown = json!({"Throw": {"Error": "Boom", "Cause": "because"}});
    let retry = json!([{"ErrorEquals": ["Boom", "States.Timeout", "States.HeartbeatTimeout"], "IntervalSeconds": 3, "MaxAttempts": 1, "BackoffRate": 1.0}]);
    let catch = json!([{"ErrorEquals": ["States.ALL"], "Next": "Last"}]);
    let parallel = json!({"Type": "Parallel", "Branches": [one("A"), {"StartAt": "W", "States": {"W": {"Type": "Wait", "Seconds": 4, "Next": "B"}, "B": end()}}], "Next": "Last"});
    let map = json!({"Type": "Map", "ItemsPath": "$.items", "MaxConcurrency": 2, "ItemProcessor": one("Item"), "ResultPath": "$.done", "Next": "Last"});
    let before = |state: Value| json!({"StartAt": "First", "States": {"First": task(json!({"Next": "Then", "ResultPath": null})), "Then": state, "Last": end()}});
    let mut scenes = vec![
        scene("two tasks", machine("First", task(json!({"Next": "Last"}))), json!({"First": fine, "Last": fine})),
        scene(
            "tried again",
            machine("First", task(json!({"Next": "Last", "Retry": retry}))),
            json!({"First": [thrown, fine], "Last": fine}),
        ),
        scene("caught", machine("First", task(json!({"Next": "Last", "Catch": catch}))), json!({"First": thrown, "Last": fine})),
        scene("not caught", one("First"), json!({"First": thrown})),
        scene(
            "timed out",
            machine("First", task(json!({"Next": "Last", "TimeoutSeconds": 5, "Retry": retry}))),
            json!({"First": [{"Hang": true}, fine], "Last": fine}),
        ),
        scene(
            "timed out and caught",
            machine("First", task(json!({"Next": "Last", "TimeoutSeconds": 5, "Catch": catch}))),
            json!({"First": {"Hang": true}, "Last": fine}),
        ),
        scene("timed out at the end", one("First"), json!({"First": fine})),
        scene("waits", before(json!({"Type": "Wait", "Seconds": 60, "Next": "Last"})), json!({"First": fine, "Last": fine})),
        scene("waits at the end", json!({"StartAt": "W", "States": {"W": {"Type": "Wait", "Seconds": 60, "End": true}}}), json!({})),
        scene("branches", before(parallel.clone()), json!({"First": fine, "A": fine, "B": fine, "Last": fine})),
        scene("a branch fails", before(parallel), json!({"First": fine, "A": fine, "B": thrown, "Last": fine})),
        scene("items", before(map), json!({"First": fine, "Item": [fine, {"Return": 2, "Delay": 3}], "Last": fine})),
        scene(
            "handed over",
            before(handed(json!({"HeartbeatSeconds": 10}))),
            json!({"First": fine, "Then": {"Return": 3, "Delay": 20, "Beat": 4}, "Last": fine}),
        ),
        scene(
            "silent",
            machine("First", handed(json!({"HeartbeatSeconds": 10, "Retry": retry}))),
            json!({"First": [{"Return": 3, "Delay": 30}, fine], "Last": fine}),
        ),
        scene("the worker fails", machine("First", handed(json!({"Catch": catch}))), json!({"First": thrown, "Last": fine})),
    ];
    let mut timed = scene("too long", one("First"), json!({"First": {"Hang": true}}));
    timed.definition["TimeoutSeconds"] = json!(30);
    let mut stopped = scene("stopped", one("First"), json!({"First": {"Hang": true}}));
    stopped.stopped = true;
    let mut redriven = scene("redriven", one("First"), json!({"First": [thrown, fine]}));
    redriven.redriven = true;
    let mut set =
        scene("the clock is set", before(json!({"Type": "Wait", "Seconds": 60, "Next": "Last"})), json!({"First": fine, "Last": fine}));
    set.clock_set = 3600;
    scenes.extend([timed, stopped, redriven, set]);
    scenes
}

/// "Killed at any of these points, an execution ends as it would have ended": the table of docs/operations/durability.md.
/// Mutations: those above; what fails because the process ends counts as a failure (`answered`); a heartbeat is written too rarely.
#[test]
fn killed_at_each_named_point_an_execution_ends_as_it_would_have_ended() {
    let mut hit = BTreeSet::new();
    for scene in scenes() {
        hit.extend(every_trouble(&scene, &MISHAPS));
    }
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations/durability.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| write: "));
    let named: BTreeSet<String> =
        rows.flat_map(|row| ["before", "after"].map(|moment| format!("{moment} {}", row.split(" |").next().unwrap()))).collect();
    assert_eq!(hit, named, "the points that were hit, and those that the page names");
    assert!(hit.len() >= 30, "{}", hit.len());
}

// Mutation: of a fault, only that there was one is stored (`Execution::from_parts`).
#[test]
fn what_is_killed_fails_with_the_same_words() {
    let scene = scenes().into_iter().find(|scene| scene.name == "not caught").unwrap();
    let played = runtime().block_on(play(&scene, Trouble { write: Some((1, Mishap::DiesAfter)), ..Trouble::default() }));
    assert_eq!(fault(&played.status).map(|fault| fault.error.as_str()), Some("Boom"));
}
