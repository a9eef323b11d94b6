//! `workflow lint`, `workflow run` and `workflow graph` as a person or a script meets them.

use std::io::Write as _;
use std::process::Stdio;

use super::{Home, Ran, text};

const HELLO: &str = r#"{"StartAt": "Greet", "States": {
    "Greet": {"Type": "Pass", "Parameters": {"greeting.$": "States.Format('Hello {}', $.name)"}, "Next": "Sleep"},
    "Sleep": {"Type": "Wait", "Seconds": 86400, "End": true}}}"#;

const TASK: &str = r#"{"StartAt": "Ask", "States": {"Ask": {"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke",
    "Parameters": {"FunctionName": "F", "Payload.$": "$"}, "Retry": [{"ErrorEquals": ["Busy"], "MaxAttempts": 2}], "End": true}}}"#;

fn transfer() -> String {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../workflows/transfer.asl.json").display().to_string()
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn our_own_definitions_are_without_a_finding() {
    let ran = Home::new().run(&["workflow", "lint", "--portable", &transfer()]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "1 definition, errors: 0, warnings: 0\n"), "{}", ran.err);
}

#[test]
fn lint_names_place_reason_and_rule_and_ends_with_1() {
    let home = Home::new();
    let bad = home.write("bad.asl.json", r#"{"StartAt": "A", "States": {"A": {"Type": "Pass", "Next": "B", "comment": 1}}}"#);
    let ran = home.run(&["workflow", "lint", text(&bad)]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.out.contains("bad.asl.json:/States/A/Next: error: \"B\" is not among") && ran.out.contains("[unknown-state]"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("did you mean Comment?"), "{}", ran.out);
    let ran = home.run(&["workflow", "lint", text(&bad), &transfer(), "--json"]);
    let objects = ran.objects();
    assert!(objects.iter().any(|line| line["type"] == "finding" && line["pointer"] == "/States/A/Next" && line["severity"] == "error"));
    let last = objects.last().unwrap();
    assert_eq!((&last["type"], &last["files"], &last["exit_code"]), (&"lint".into(), &2.into(), &1.into()));
}

#[test]
fn what_engines_run_differently_is_a_warning_until_portable_is_asked_for() {
    let home = Home::new();
    let file = home.write("a.asl.json", r#"{"StartAt": "A", "States": {"A": {"Type": "Pass", "InputPath": "$..a", "End": true}}}"#);
    assert_eq!(home.run(&["workflow", "lint", text(&file)]).code, 0);
    let ran = home.run(&["workflow", "lint", "--portable", text(&file)]);
    assert!(ran.code == 1 && ran.out.contains("[portable-path]"), "{}", ran.out);
}

#[test]
fn a_definition_is_run_without_waiting_for_its_waits() {
    let home = Home::new();
    let file = home.write("hello.asl.json", HELLO);
    let ran = home.run(&["workflow", "run", text(&file), "--input", r#"{"name":"Ann"}"#]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(json(&ran.out), json(r#"{"status":"SUCCEEDED","output":{"greeting":"Hello Ann"},"error":null,"cause":null}"#));
    let input = home.write("input.json", r#"{"name":"Bob"}"#);
    let ran = home.run(&["workflow", "run", text(&file), "--input", &format!("@{}", text(&input)), "--json", "--history"]);
    let objects = ran.objects();
    assert_eq!(objects[0]["event"]["type"], "ExecutionStarted");
    let last = objects.last().unwrap();
    assert_eq!((&last["type"], &last["output"]["greeting"], &last["seconds"]), (&"run".into(), &"Hello Bob".into(), &86400.0.into()));
    let mut child =
        home.command(&["workflow", "run", text(&file), "--input", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"{\"name\":\"Cid\"}").unwrap();
    assert!(Ran::of(child.wait_with_output().unwrap()).out.contains("Hello Cid"));
}

#[test]
fn tasks_are_answered_by_mocks_of_either_form() {
    let home = Home::new();
    let file = home.write("ask.asl.json", TASK);
    let plain = home.write("plain.json", r#"{"Ask": [{"Throw": {"Error": "Busy", "Cause": "x"}}, {"Return": {"Payload": 7}}]}"#);
    let ran = home.run(&["workflow", "run", text(&file), "--mocks", text(&plain)]);
    assert_eq!((ran.code, &json(&ran.out)["output"]["Payload"]), (0, &7.into()), "{}", ran.err);
    let local = home.write(
        "local.json",
        r#"{"StateMachines": {"ask": {"TestCases": {"Happy": {"Ask": "fine"}, "Sad": {"Ask": "broken"}}}}, "MockedResponses": {
            "fine": {"0": {"Return": {"Payload": 1}}}, "broken": {"0-2": {"Throw": {"Error": "Busy", "Cause": "always"}}}}}"#,
    );
    let ran = home.run(&["workflow", "run", text(&file), "--mocks", &format!("{}#Sad", text(&local)), "--json"]);
    let ended = &ran.objects()[0];
    assert_eq!((ran.code, &ended["status"], &ended["error"], &ended["cause"]), (7, &"FAILED".into(), &"Busy".into(), &"always".into()));
    let ran = home.run(&["workflow", "run", text(&file), "--mocks", text(&local)]);
    assert!(ran.code == 1 && ran.err.contains("Happy, Sad"), "{}", ran.err);
}

#[test]
fn what_cannot_be_run_is_refused_with_what_to_do() {
    let home = Home::new();
    let file = home.write("ask.asl.json", TASK);
    let unknown = home.write("unknown.json", r#"{"Axe": {"Return": 1}}"#);
    let bad = home.write("bad.asl.json", r#"{"StartAt": "A", "States": {"A": {"Type": "Pass"}}}"#);
    for (arguments, words) in [
        (vec!["run", text(&file)], "no mock for that call"),
        (vec!["run", text(&file), "--mocks", text(&unknown)], "\"Axe\", which is not a task state"),
        (vec!["run", text(&file), "--input", "{"], "the input is not JSON"),
        (vec!["run", "nowhere.json"], "could not read nowhere.json"),
        (vec!["run", text(&bad)], "neither Next nor End"),
        (vec!["graph", text(&bad)], "workflow lint"),
    ] {
        let ran = home.run(&[&["workflow"], &arguments[..]].concat());
        assert!(ran.code == 1 && ran.err.contains(words) && ran.out.is_empty(), "{arguments:?}: {} {}", ran.code, ran.err);
    }
}

#[test]
fn a_definition_is_drawn() {
    let ran = Home::new().run(&["workflow", "graph", &transfer()]);
    assert!(
        ran.code == 0 && ran.out.starts_with("flowchart TD\n") && ran.out.contains("\"ChunkedTransfer\"")
            || ran.out.contains("Parallel: ChunkedTransfer")
    );
    assert!(ran.out.lines().filter(|line| line.trim() == "end").count() == ran.out.matches("subgraph").count());
}
