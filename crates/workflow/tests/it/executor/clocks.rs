//! Clocks that are set, days on which an hour is missing, machines that sleep: no wait is over too early, twice or never.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use workflow::Status;
use workflow::executor::{Clock, ManualClock, MemoryJournal, Options};

use super::world::{Mishap, Process, Script, new_execution};
use crate::began;

fn waiting(wait: Value) -> Value {
    let mut state = json!({"Type": "Wait", "End": true});
    state.as_object_mut().unwrap().extend(wait.as_object().unwrap().clone());
    json!({"StartAt": "Only", "States": {"Only": state}})
}

/// As in life: a look at the clocks every second.
fn process(stored: &MemoryJournal<Vec<String>>, script: Value, clock: &ManualClock) -> Process {
    Process::begin_with(stored, None, &Script::new(&script), clock, Options::default())
}

/// Steady seconds until the execution ends, at most `most`.
async fn seconds_until_ended(process: &Process, name: &str, most: u64) -> Option<u64> {
    let begin = process.clock.steady();
    for _ in 0..=most {
        process.quiet().await;
        let stored = process.executor.describe(name).await.unwrap().unwrap();
        if stored.status != Status::Running {
            return Some((process.clock.steady() - begin).as_secs());
        }
        process.clock.advance(Duration::from_secs(1));
    }
    None
}

// Mutation: what was counted does not move with the clock (`clock_moved`), or nobody hears that it was set (`timers::run`).
#[tokio::test]
async fn a_wait_of_so_many_seconds_takes_them_whatever_is_done_to_the_wall_clock() {
    for hours in [1, -1, -24 * 365 * 56, 24 * 365 * 20] {
        let (stored, clock) = (MemoryJournal::default(), ManualClock::new(began()));
        let process = process(&stored, json!({}), &clock);
        process.executor.start(new_execution("e", &waiting(json!({"Seconds": 60})), json!({})), Vec::new()).await.unwrap();
        assert_eq!(seconds_until_ended(&process, "e", 20).await, None);
        clock.set_wall(SignedDuration::from_hours(hours));
        assert_eq!(seconds_until_ended(&process, "e", 100).await, Some(39), "{hours} h");
        let history = process.history("e").await;
        assert_eq!(history.iter().filter(|event| event.kind == "WaitStateExited").count(), 1);
        assert_eq!(process.executor.running(), 0);
    }
}

// Mutation: what moved with the clock is not written (`take`).
#[tokio::test]
async fn what_began_before_the_clock_was_set_keeps_its_length_over_a_restart_too() {
    let (stored, clock) = (MemoryJournal::default(), ManualClock::new(began()));
    let first = process(&stored, json!({}), &clock);
    first.executor.start(new_execution("e", &waiting(json!({"Seconds": 60})), json!({})), Vec::new()).await.unwrap();
    first.quiet().await;
    clock.set_wall(SignedDuration::from_hours(-1));
    clock.advance(Duration::from_secs(2));
    first.quiet().await;
    first.die().await;
    let second = process(&stored, json!({}), &clock);
    second.executor.resume().await.unwrap();
    assert_eq!(seconds_until_ended(&second, "e", 100).await, Some(58));
}

// Mutation: a named moment moves with the clock too (`clock_moved`).
#[tokio::test]
async fn a_wait_for_a_named_moment_ends_when_the_wall_clock_shows_it() {
    for (set, expected) in
        [(SignedDuration::from_mins(30), 30 * 60), (SignedDuration::from_mins(-30), 90 * 60), (SignedDuration::from_hours(2), 1)]
    {
        let (stored, clock) = (MemoryJournal::default(), ManualClock::new(began()));
        let process = process(&stored, json!({}), &clock);
        process
            .executor
            .start(new_execution("e", &waiting(json!({"Timestamp": "2026-01-01T01:00:00Z"})), json!({})), Vec::new())
            .await
            .unwrap();
        process.quiet().await;
        clock.set_wall(set);
        let took = seconds_until_ended(&process, "e", 6_000).await.unwrap();
        assert!(took.abs_diff(expected) <= 1, "{set}: {took} s instead of {expected}");
    }
}

// Mutation: seconds are counted on the calendar of some place (`after`).
#[tokio::test]
async fn a_day_without_two_oclock_is_a_day_like_any_other() {
    // Europe loses an hour at 2026-03-29T01:00Z, America at 2026-03-08T07:00Z; executions count in UTC.
    for (begin, named) in [("2026-03-29T00:59:30Z", "2026-03-29T03:00:30+02:00"), ("2026-03-08T06:59:30Z", "2026-03-08T03:00:30-04:00")] {
        let (stored, clock) = (MemoryJournal::default(), ManualClock::new(begin.parse::<Timestamp>().unwrap()));
        let process = process(&stored, json!({}), &clock);
        process.executor.start(new_execution("counted", &waiting(json!({"Seconds": 60})), json!({})), Vec::new()).await.unwrap();
        process.executor.start(new_execution("named", &waiting(json!({"Timestamp": named})), json!({})), Vec::new()).await.unwrap();
        assert_eq!(seconds_until_ended(&process, "counted", 100).await, Some(60));
        assert_eq!(seconds_until_ended(&process, "named", 0).await, Some(0), "{named}");
    }
}

// Mutation: nobody tells an execution that the process was away (`timers::run`).
#[tokio::test]
async fn a_machine_that_slept_fires_what_was_due_once_and_lets_its_tasks_begin_their_time_anew() {
    let (stored, clock) = (MemoryJournal::default(), ManualClock::new(began()));
    let process = process(&stored, json!({"Only": {"Return": 1, "Delay": 7_220}}), &clock);
    let task = json!({"StartAt": "Only", "States": {"Only": {"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "End": true, "TimeoutSeconds": 300}}});
    process.executor.start(new_execution("waits", &waiting(json!({"Seconds": 60})), json!({})), Vec::new()).await.unwrap();
    process.executor.start(new_execution("works", &task, json!({})), Vec::new()).await.unwrap();
    process.quiet().await;
    // Two hours of sleep; wall clock and steady time both go on.
    clock.advance(Duration::from_secs(7_200));
    process.quiet().await;
    assert_eq!(seconds_until_ended(&process, "waits", 0).await, Some(0));
    assert_eq!(process.history("waits").await.iter().filter(|event| event.kind == "WaitStateExited").count(), 1);
    assert!(seconds_until_ended(&process, "works", 100).await.is_some());
    let status = process.executor.describe("works").await.unwrap().unwrap().status;
    assert!(matches!(status, Status::Succeeded { .. }), "{status:?}");
}

// Mutation: a task that is started again has what is left of its first time (`adopt`).
#[tokio::test]
async fn a_machine_that_was_off_times_no_task_out() {
    let (stored, clock) = (MemoryJournal::default(), ManualClock::new(began()));
    let script = json!({"Only": {"Return": 1, "Delay": 20}});
    let task = json!({"StartAt": "Only", "States": {"Only": {"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "End": true, "TimeoutSeconds": 60}}});
    let first = process(&stored, script.clone(), &clock);
    first.executor.start(new_execution("e", &task, json!({})), Vec::new()).await.unwrap();
    first.quiet().await;
    first.die().await;
    clock.advance(Duration::from_secs(86_400));
    let second = process(&stored, script, &clock);
    second.executor.resume().await.unwrap();
    assert_eq!(seconds_until_ended(&second, "e", 100).await, Some(20));
    assert!(matches!(second.executor.ended("e").await, Ok(Status::Succeeded { .. })));
}

// Mutation: what is read after a write that failed brings the old times of tasks back (`keep_task_times`).
#[tokio::test]
async fn a_machine_that_was_off_times_no_task_out_when_its_first_write_fails_too() {
    let (stored, clock) = (MemoryJournal::default(), ManualClock::new(began()));
    let script = Script::new(&json!({"A": {"Return": 1, "Delay": 5}, "B": {"Return": 2, "Delay": 20}}));
    let branch = |name: &str| json!({"StartAt": name, "States": {name: {"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "End": true, "TimeoutSeconds": 60}}});
    let both = json!({"StartAt": "Both", "States": {"Both": {"Type": "Parallel", "Branches": [branch("A"), branch("B")], "End": true}}});
    let first = Process::begin(&stored, None, &script, &clock);
    first.executor.start(new_execution("e", &both, json!({})), Vec::new()).await.unwrap();
    first.quiet().await;
    first.die().await;
    clock.advance(Duration::from_secs(86_400));
    let second = Process::begin_with(&stored, Some((0, Mishap::Fails)), &script, &clock, Options::default());
    second.executor.resume().await.unwrap();
    assert_eq!(seconds_until_ended(&second, "e", 100).await, Some(20));
    assert!(matches!(second.executor.ended("e").await, Ok(Status::Succeeded { .. })));
    assert_eq!(*second.said.0.lock().unwrap(), ["stalled", "going on", "e ended SUCCEEDED"]);
}
