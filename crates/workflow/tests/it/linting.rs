//! What lint refuses and warns of, with its place.

use serde_json::{Value, json};
use workflow::{Machine, Severity, lint};

fn findings(definition: &Value) -> Vec<(Severity, &'static str, String)> {
    lint(&definition.to_string()).into_iter().map(|finding| (finding.severity, finding.rule, finding.pointer)).collect()
}

fn errors(definition: &Value) -> Vec<(&'static str, String)> {
    let all = findings(definition).into_iter().filter(|(severity, ..)| *severity == Severity::Error);
    all.map(|(_, rule, pointer)| (rule, pointer)).collect()
}

fn with(state: Value) -> Value {
    json!({"StartAt": "A", "States": {"A": state, "Z": {"Type": "Succeed"}}})
}

fn task(more: Value) -> Value {
    let mut task = json!({"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "Parameters": {"FunctionName": "F"}, "Next": "Z"});
    task.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    with(task)
}

#[test]
fn several_mistakes_are_found_at_once_each_with_its_place() {
    let definition = json!({"StartAt": "B", "Stat": 1, "States": {
        "A": {"Type": "Pass", "Next": "C", "nd": true},
        "X": {"Type": "Wait", "Seconds": 1, "SecondsPath": "$.s", "End": true}}});
    let found = errors(&definition);
    for expected in [
        ("unknown-field", "/Stat"),
        ("unknown-state", "/StartAt"),
        ("unknown-state", "/States/A/Next"),
        ("unknown-field", "/States/A/nd"),
        ("wait-for-what", "/States/X"),
    ] {
        assert!(found.contains(&(expected.0, expected.1.to_owned())), "{expected:?} is not in {found:?}");
    }
}

#[test]
fn each_rule_of_the_language_has_its_name() {
    let pass = json!({"Type": "Pass", "End": true});
    for (definition, rule, place) in [
        (json!([]), "wrong-type", ""),
        (json!({"States": {"A": pass}}), "missing-field", ""),
        (json!({"StartAt": "A", "States": {}}), "no-states", "/States"),
        (json!({"StartAt": "A", "QueryLanguage": "JSONata", "States": {"A": pass}}), "not-supported", "/QueryLanguage"),
        (json!({"StartAt": "A", "Version": "2.0", "States": {"A": pass}}), "bad-version", "/Version"),
        (json!({"StartAt": "A", "States": {"A": pass, "B": pass}}), "unreachable", "/States/B"),
        (json!({"StartAt": "A", "States": {"A": {"Type": "Pass", "Next": "A"}}}), "no-end", "/States/A"),
        (with(json!({"Type": "Pass"})), "no-successor", "/States/A"),
        (with(json!({"Type": "Pass", "Next": "Z", "End": true})), "contradiction", "/States/A/End"),
        (with(json!({"Type": "Walk", "Next": "Z"})), "unknown-type", "/States/A/Type"),
        (with(json!({"Next": "Z"})), "missing-field", "/States/A"),
        (with(json!({"Type": "Pass", "InputPath": "a", "Next": "Z"})), "bad-path", "/States/A/InputPath"),
        (with(json!({"Type": "Pass", "ResultPath": "$.a[*]", "Next": "Z"})), "not-a-reference-path", "/States/A/ResultPath"),
        (
            with(json!({"Type": "Pass", "Parameters": {"a": {"b.$": "States.Nope()"}}, "Next": "Z"})),
            "bad-template",
            "/States/A/Parameters/a/b.$",
        ),
        (with(json!({"Type": "Pass", "Parameters": {"a.$": 1}, "Next": "Z"})), "bad-template", "/States/A/Parameters/a.$"),
        (with(json!({"Type": "Pass", "Assign": {}, "Next": "Z"})), "not-supported", "/States/A/Assign"),
        (with(json!({"Type": "Pass", "Output": 1, "Next": "Z"})), "not-supported", "/States/A/Output"),
        (task(json!({"TimeoutSeconds": 5, "HeartbeatSeconds": 5})), "bad-value", "/States/A/HeartbeatSeconds"),
        (task(json!({"TimeoutSeconds": 0})), "wrong-type", "/States/A/TimeoutSeconds"),
        (task(json!({"TimeoutSeconds": 1, "TimeoutSecondsPath": "$.t"})), "contradiction", "/States/A/TimeoutSecondsPath"),
        (task(json!({"Resource": "lambda"})), "bad-resource", "/States/A/Resource"),
        (task(json!({"Credentials": {}})), "not-supported", "/States/A/Credentials"),
        (task(json!({"Retry": [{}]})), "missing-field", "/States/A/Retry/0"),
        (task(json!({"Retry": [{"ErrorEquals": ["E"], "BackoffRate": 0.5}]})), "wrong-type", "/States/A/Retry/0/BackoffRate"),
        (
            task(json!({"Retry": [{"ErrorEquals": ["E"], "IntervalSeconds": 9, "MaxDelaySeconds": 9}]})),
            "bad-value",
            "/States/A/Retry/0/MaxDelaySeconds",
        ),
        (task(json!({"Retry": [{"ErrorEquals": ["States.ALL", "E"]}]})), "all-alone", "/States/A/Retry/0/ErrorEquals"),
        (
            task(json!({"Catch": [{"ErrorEquals": ["States.ALL"], "Next": "Z"}, {"ErrorEquals": ["E"], "Next": "Z"}]})),
            "all-last",
            "/States/A/Catch/0/ErrorEquals",
        ),
        (task(json!({"Catch": [{"ErrorEquals": ["States.Nope"], "Next": "Z"}]})), "unknown-error", "/States/A/Catch/0/ErrorEquals"),
        (task(json!({"Catch": [{"ErrorEquals": ["E"], "Next": "Y"}]})), "unknown-state", "/States/A/Catch/0/Next"),
        (with(json!({"Type": "Choice", "Choices": [], "Default": "Z"})), "empty-list", "/States/A/Choices"),
        (with(json!({"Type": "Choice", "Choices": [{"Variable": "$.a", "Next": "Z"}]})), "no-comparison", "/States/A/Choices/0"),
        (
            with(json!({"Type": "Choice", "Choices": [{"Variable": "$.a", "IsNull": true, "IsString": true, "Next": "Z"}]})),
            "two-comparisons",
            "/States/A/Choices/0/IsString",
        ),
        (
            with(json!({"Type": "Choice", "Choices": [{"Variable": "$.a", "TimestampEquals": "now", "Next": "Z"}]})),
            "bad-timestamp",
            "/States/A/Choices/0/TimestampEquals",
        ),
        (
            with(json!({"Type": "Choice", "Choices": [{"Not": {"Variable": "$.a", "IsNull": true, "Next": "Z"}, "Next": "Z"}]})),
            "misplaced-next",
            "/States/A/Choices/0/Not/Next",
        ),
        (
            with(json!({"Type": "Choice", "Choices": [{"Condition": "{% true %}", "Next": "Z"}]})),
            "not-supported",
            "/States/A/Choices/0/Condition",
        ),
        (
            with(json!({"Type": "Map", "ItemProcessor": {"StartAt": "Z", "States": {"Z": pass}}, "Next": "Z"})),
            "duplicate-state",
            "/States/Z",
        ),
        (
            with(json!({"Type": "Map", "ItemReader": {}, "ItemProcessor": {"StartAt": "I", "States": {"I": pass}}, "Next": "Z"})),
            "not-supported",
            "/States/A/ItemReader",
        ),
        (with(json!({"Type": "Parallel", "Branches": [], "Next": "Z"})), "empty-list", "/States/A/Branches"),
        (with(json!({"Type": "Fail", "Error": "E", "ErrorPath": "$.e"})), "contradiction", "/States/A/ErrorPath"),
    ] {
        let found = errors(&definition);
        assert!(found.contains(&(rule, place.to_owned())), "{rule} at {place} is not in {found:?}");
        assert!(Machine::parse(&definition.to_string()).is_err());
    }
    assert_eq!(lint("{")[0].rule, "not-json");
    assert_eq!(lint(&" ".repeat(2_000_000))[0].rule, "too-large");
}

#[test]
fn a_name_that_stands_twice_is_refused_instead_of_lost() {
    let text = r#"{"StartAt": "A", "States": {"A": {"Type": "Succeed"}, "A": {"Type": "Fail"}}}"#;
    let found = lint(text);
    assert_eq!((found[0].rule, found[0].pointer.as_str()), ("duplicate-name", "/States/A"));
}

#[test]
fn what_engines_read_differently_is_a_warning_with_a_name() {
    for (definition, rule, place) in [
        (with(json!({"Type": "Pass", "InputPath": "$..a", "Next": "Z"})), "portable-path", "/States/A"),
        (
            task(json!({"Resource": "arn:aws:lambda:eu-west-1:123456789012:function:F", "Parameters": {}})),
            "portable-resource",
            "/States/A/Resource",
        ),
        (
            task(json!({"Parameters": {"FunctionName": "arn:aws:lambda:eu-west-1:1:function:F"}})),
            "portable-function",
            "/States/A/Parameters",
        ),
        (task(json!({"Retry": [{"ErrorEquals": ["E"], "BackoffRate": 2}]})), "portable-rate", "/States/A/Retry/0/BackoffRate"),
        (task(json!({"Catch": [{"ErrorEquals": ["States.Timeout"], "Next": "Z"}]})), "portable-timeout", "/States/A/Catch/0/ErrorEquals"),
        (
            task(json!({"Catch": [{"ErrorEquals": ["States.IntrinsicFailure"], "Next": "Z"}]})),
            "portable-error",
            "/States/A/Catch/0/ErrorEquals",
        ),
        (
            task(json!({"Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken", "Parameters": {"QueueUrl.$": "$.q"}})),
            "token-lost",
            "/States/A/Parameters",
        ),
        (task(json!({"HeartbeatSeconds": 5})), "portable-heartbeat", "/States/A/HeartbeatSeconds"),
        (with(json!({"Type": "Choice", "Choices": [{"Variable": "$.a", "IsNull": true, "Next": "Z"}]})), "no-default", "/States/A"),
    ] {
        let found = findings(&definition);
        assert!(found.contains(&(Severity::Warning, rule, place.to_owned())), "{rule} at {place} is not in {found:?}");
        assert!(Machine::parse(&definition.to_string()).is_ok(), "a warning refuses nothing");
    }
    assert_eq!(findings(&task(json!({"Retry": [{"ErrorEquals": ["E"], "BackoffRate": 2.0}]}))), []);
}
