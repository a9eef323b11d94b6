//! The interpreter step by step: time, retries, cancelled tasks, history, redrive.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use workflow::interpreter::Doing;
use workflow::{Command, Event, Execution, Machine, Rejected, Seeded, Status, Step, TaskRequest, fault, step};

use super::{began, machine, start, try_out};

/// An execution driven by hand.
struct Hand {
    machine: Machine,
    execution: Execution,
    now: Timestamp,
    tasks: Vec<TaskRequest>,
    cancelled: Vec<String>,
    history: Vec<String>,
}

impl Hand {
    fn new(definition: &Value, input: Value) -> Self {
        let machine = machine(definition);
        let (execution, first) = Execution::start(&machine, start(input), began(), &mut Seeded::new(1)).unwrap();
        let mut hand = Self { machine, execution, now: began(), tasks: Vec::new(), cancelled: Vec::new(), history: Vec::new() };
        hand.take(first);
        hand
    }

    fn take(&mut self, step: Step) {
        for command in step.commands {
            match command {
                Command::StartTask(task) => self.tasks.push(*task),
                Command::CancelTask { token } => self.cancelled.push(token),
            }
        }
        self.history.extend(step.history.into_iter().map(|event| event.kind));
        for id in step.removed {
            assert!(!self.execution.frames.contains_key(&id));
        }
    }

    fn event(&mut self, event: Event) -> Result<(), Rejected> {
        let step = step(&self.machine, &mut self.execution, event, self.now, &mut Seeded::new(1))?;
        self.take(step);
        Ok(())
    }

    fn wait(&mut self, seconds: i64) {
        self.now = self.now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
        self.event(Event::Clock).unwrap();
    }

    fn task(&mut self) -> TaskRequest {
        self.tasks.remove(0)
    }

    fn succeed(&mut self, task: &TaskRequest, output: Value) {
        self.event(Event::TaskSucceeded { token: task.token.clone(), output }).unwrap();
    }

    fn fail(&mut self, task: &TaskRequest, error: &str) {
        self.event(Event::TaskFailed { token: task.token.clone(), error: error.into(), cause: "c".into() }).unwrap();
    }

    fn error(&self) -> &str {
        match &self.execution.status {
            Status::Failed(fault) | Status::TimedOut(fault) | Status::Aborted(fault) => &fault.error,
            other => panic!("{other:?}"),
        }
    }
}

fn task(more: Value) -> Value {
    let mut task = json!({"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "End": true});
    task.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    task
}

fn one(state: Value) -> Value {
    json!({"StartAt": "A", "States": {"A": state}})
}

#[test]
fn a_retry_waits_longer_each_time_and_never_longer_than_told() {
    let retry = json!([{"ErrorEquals": ["E"], "IntervalSeconds": 2, "BackoffRate": 3.0, "MaxDelaySeconds": 10, "MaxAttempts": 4}]);
    let mut hand = Hand::new(&one(task(json!({"Retry": retry}))), json!({}));
    for expected in [2, 6, 10, 10] {
        let attempt = hand.task();
        hand.fail(&attempt, "E");
        assert!(hand.tasks.is_empty());
        let until = hand.execution.wakes().unwrap();
        assert_eq!(until.duration_since(hand.now).as_secs(), expected);
        hand.wait(expected - 1);
        assert!(hand.tasks.is_empty(), "too early");
        hand.wait(1);
    }
    let last = hand.task();
    assert_eq!(last.attempt, 4);
    hand.fail(&last, "E");
    assert_eq!(hand.error(), "E");
}

#[test]
fn jitter_draws_from_what_is_given() {
    let retry = json!([{"ErrorEquals": ["E"], "IntervalSeconds": 100, "JitterStrategy": "FULL"}]);
    let mut hand = Hand::new(&one(task(json!({"Retry": retry}))), json!({}));
    let attempt = hand.task();
    hand.fail(&attempt, "E");
    let delay = hand.execution.wakes().unwrap().duration_since(hand.now).as_secs_f64();
    assert!(delay > 0.0 && delay < 100.0 && delay.fract() != 0.0, "{delay}");
}

#[test]
fn a_task_that_takes_too_long_is_cancelled_and_its_late_answer_is_not_taken() {
    let mut hand = Hand::new(&one(task(json!({"TimeoutSeconds": 10}))), json!({}));
    let attempt = hand.task();
    hand.wait(9);
    assert_eq!(hand.execution.status, Status::Running);
    hand.wait(1);
    assert_eq!((hand.error(), &hand.cancelled[..]), (fault::TIMEOUT, &[attempt.token.clone()][..]));
    let late = hand.event(Event::TaskSucceeded { token: attempt.token, output: json!(1) });
    assert_eq!(late, Err(Rejected::Ended));
}

#[test]
fn heartbeats_keep_a_task_alive_and_their_absence_has_its_own_error() {
    let state = task(json!({"Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken", "HeartbeatSeconds": 10,
        "Parameters": {"T.$": "$$.Task.Token"}}));
    let mut hand = Hand::new(&one(state), json!({}));
    let attempt = hand.task();
    assert_eq!(attempt.parameters, json!({"T": attempt.token}));
    for _ in 0..5 {
        hand.wait(9);
        hand.event(Event::Heartbeat { token: attempt.token.clone() }).unwrap();
    }
    assert_eq!(hand.event(Event::Heartbeat { token: "guessed".into() }), Err(Rejected::NoSuchTask));
    hand.wait(10);
    assert_eq!(hand.error(), fault::HEARTBEAT_TIMEOUT);
}

#[test]
fn the_failure_of_one_branch_cancels_the_others() {
    let branch = |name: &str| json!({"StartAt": name, "States": {name: task(json!({}))}});
    let definition = one(json!({"Type": "Parallel", "Branches": [branch("X"), branch("Y"), branch("Z")], "End": true}));
    let mut hand = Hand::new(&definition, json!({}));
    let (x, y, z) = (hand.task(), hand.task(), hand.task());
    hand.succeed(&x, json!(1));
    hand.fail(&y, "Mine");
    assert_eq!((hand.error(), &hand.cancelled[..]), ("Mine", &[z.token][..]));
}

#[test]
fn a_map_runs_as_many_items_at_a_time_as_it_may() {
    let processor = json!({"StartAt": "I", "States": {"I": task(json!({}))}});
    let definition = one(json!({"Type": "Map", "MaxConcurrency": 2, "ItemProcessor": processor, "End": true}));
    let mut hand = Hand::new(&definition, json!([1, 2, 3, 4, 5]));
    assert_eq!(hand.tasks.len(), 2);
    // The second item ends first; results keep the order of the items.
    let second = hand.tasks.remove(1);
    hand.succeed(&second, json!("second"));
    assert_eq!(hand.tasks.len(), 2);
    while !hand.tasks.is_empty() {
        let next = hand.task();
        let output = next.frame;
        hand.succeed(&next, json!(output));
    }
    let Status::Succeeded { output } = &hand.execution.status else { panic!() };
    assert_eq!((output[1].clone(), output.as_array().unwrap().len()), (json!("second"), 5));
    assert!(hand.execution.frames.is_empty());
}

#[test]
fn tolerated_failures_leave_no_result_and_one_more_fails_the_map() {
    let processor = json!({"StartAt": "I", "States": {"I": task(json!({}))}});
    let map = |tolerated: u64| one(json!({"Type": "Map", "ToleratedFailureCount": tolerated, "ItemProcessor": processor, "End": true}));
    let mocks = json!({"I": [{"Return": "a"}, {"Throw": {"Error": "E"}}, {"Throw": {"Error": "E"}}, {"Return": "d"}]});
    assert_eq!(try_out(&map(2), json!([1, 2, 3, 4]), &mocks).outcome()["output"], json!(["a", "d"]));
    assert_eq!(try_out(&map(1), json!([1, 2, 3, 4]), &mocks).outcome()["error"], json!(fault::EXCEED_TOLERATED));
    let distributed =
        json!({"ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}, "StartAt": "I", "States": {"I": task(json!({}))}});
    let map = one(json!({"Type": "Map", "ItemProcessor": distributed, "End": true}));
    assert_eq!(try_out(&map, json!([1, 2]), &mocks).outcome()["error"], json!(fault::EXCEED_TOLERATED));
}

#[test]
fn the_history_has_the_events_that_step_functions_writes() {
    let processor = json!({"StartAt": "I", "States": {"I": {"Type": "Pass", "End": true}}});
    let definition = json!({"StartAt": "T", "States": {"T": task(json!({"End": null, "Next": "M"})), "M": {"Type": "Map", "ItemProcessor": processor, "End": true}}});
    let mut definition = definition;
    definition["States"]["T"].as_object_mut().unwrap().remove("End");
    let trial = try_out(&definition, json!({}), &json!({"T": {"Return": [1]}}));
    let kinds: Vec<&str> = trial.history.iter().map(|event| event.kind.as_str()).collect();
    let expected = "ExecutionStarted TaskStateEntered TaskScheduled TaskStarted TaskSucceeded TaskStateExited MapStateEntered \
        MapStateStarted MapIterationStarted PassStateEntered PassStateExited MapIterationSucceeded MapStateSucceeded MapStateExited \
        ExecutionSucceeded";
    assert_eq!(kinds, expected.split_whitespace().collect::<Vec<_>>());
    let ids: Vec<u64> = trial.history.iter().map(|event| event.id).collect();
    assert_eq!(ids, (1..=kinds.len() as u64).collect::<Vec<_>>());
    let entered = serde_json::to_value(&trial.history[1]).unwrap();
    assert_eq!(entered["type"], "TaskStateEntered");
    assert_eq!(entered["previousEventId"], 1);
    assert_eq!(entered["stateEnteredEventDetails"], json!({"name": "T", "input": "{}"}));
}

#[test]
fn a_redrive_begins_at_what_failed_and_keeps_what_was_done() {
    let processor = json!({"StartAt": "I", "States": {"I": task(json!({"Retry": [{"ErrorEquals": ["E"], "MaxAttempts": 1}]}))}});
    let definition = one(json!({"Type": "Map", "ItemProcessor": processor, "End": true}));
    let mut hand = Hand::new(&definition, json!([1, 2, 3]));
    assert_eq!(hand.event(Event::Redrive), Err(Rejected::NotFailed));
    let (first, second) = (hand.task(), hand.task());
    hand.succeed(&first, json!("one"));
    hand.fail(&second, "Other");
    assert_eq!(hand.error(), "Other");
    hand.tasks.clear();
    hand.event(Event::Redrive).unwrap();
    assert_eq!(hand.tasks.len(), 2, "the failed item and the one that was stopped");
    let (second, third) = (hand.task(), hand.task());
    // Its retries are its own again.
    hand.fail(&second, "E");
    hand.wait(1);
    let second = hand.task();
    hand.succeed(&second, json!("two"));
    hand.succeed(&third, json!("three"));
    assert_eq!(hand.execution.status, Status::Succeeded { output: json!(["one", "two", "three"]) });
    assert_eq!(hand.history.iter().filter(|kind| *kind == "ExecutionRedriven").count(), 1);
    assert_eq!(hand.execution.redrives, 1);
}

#[test]
fn an_aborted_execution_cancels_its_tasks_and_can_be_redriven() {
    let mut hand = Hand::new(&one(task(json!({}))), json!({}));
    let attempt = hand.task();
    hand.event(Event::Abort { error: "stop".into(), cause: "told".into() }).unwrap();
    assert_eq!((hand.error(), &hand.cancelled[..]), ("stop", &[attempt.token][..]));
    assert_eq!(hand.execution.wakes(), None);
    hand.event(Event::Redrive).unwrap();
    let again = hand.task();
    hand.succeed(&again, json!(1));
    assert_eq!(hand.execution.status, Status::Succeeded { output: json!(1) });
}

#[test]
fn the_time_of_the_whole_execution_ends_it_also_during_a_wait() {
    let definition = json!({"StartAt": "W", "TimeoutSeconds": 60, "States": {"W": {"Type": "Wait", "Seconds": 90, "End": true}}});
    let outcome = try_out(&definition, json!({}), &json!({})).outcome();
    assert_eq!((&outcome["status"], &outcome["error"]), (&json!("TIMED_OUT"), &json!(fault::TIMEOUT)));
}

#[test]
fn a_loop_without_end_is_ended_by_the_length_of_its_history() {
    let definition = json!({"StartAt": "A", "States": {"A": {"Type": "Pass", "Next": "C"},
        "C": {"Type": "Choice", "Choices": [{"Variable": "$.stop", "IsPresent": true, "Next": "E"}], "Default": "A"}, "E": {"Type": "Succeed"}}});
    let trial = try_out(&definition, json!({}), &json!({}));
    assert_eq!(trial.outcome()["error"], json!(fault::RUNTIME));
    assert!(trial.history.len() >= 25_000 && trial.history.len() < 25_010);
}

#[test]
fn data_that_wraps_itself_again_and_again_ends_before_it_cannot_be_read_any_more() {
    let definition = json!({"StartAt": "A", "States": {"A": {"Type": "Pass", "Parameters": {"a.$": "$"}, "Next": "C"},
        "C": {"Type": "Choice", "Choices": [{"Variable": "$.stop", "IsPresent": true, "Next": "E"}], "Default": "A"}, "E": {"Type": "Succeed"}}});
    let trial = try_out(&definition, json!({}), &json!({}));
    let outcome = trial.outcome();
    assert!(outcome["cause"].as_str().unwrap().contains("levels deep"), "{outcome}");
    let stored = serde_json::to_string(&trial.execution).unwrap();
    assert_eq!(serde_json::from_str::<Execution>(&stored).unwrap(), trial.execution);
}

#[test]
fn too_much_data_is_refused_at_the_start_and_after_a_task_and_all_does_not_catch_it() {
    let large = json!("x".repeat(workflow::MAX_DATA));
    let definition = json!({"StartAt": "A", "States": {
        "A": {"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "B"}], "Next": "B"},
        "B": {"Type": "Succeed"}}});
    let refused = Execution::start(&machine(&definition), start(large.clone()), began(), &mut Seeded::new(1));
    assert_eq!(refused.unwrap_err(), Rejected::InputTooLarge);
    let outcome = try_out(&definition, json!({}), &json!({"A": {"Return": large}})).outcome();
    assert_eq!(outcome["error"], json!(fault::DATA_LIMIT_EXCEEDED));
}

#[test]
fn nothing_is_left_to_be_carried_out_between_steps() {
    let definition = one(json!({"Type": "Parallel", "Branches": [
        {"StartAt": "W", "States": {"W": {"Type": "Wait", "Seconds": 5, "End": true}}},
        {"StartAt": "T", "States": {"T": task(json!({}))}}], "End": true}));
    let hand = Hand::new(&definition, json!({}));
    let doing: Vec<&Doing> = hand.execution.frames.values().map(|frame| &frame.doing).collect();
    assert!(matches!(doing[..], [Doing::Children, Doing::Wait { .. }, Doing::Task { .. }]), "{doing:?}");
}
