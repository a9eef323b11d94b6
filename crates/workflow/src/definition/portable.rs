//! What our own definitions keep to, so that every engine runs them alike. Each rule has been seen to matter: engines
//! differ there, or a linter refuses it. Findings are warnings; `workflow lint --portable` makes them errors.

use serde_json::Value;

use super::{Amount, Finding, Kind, Machine, Severity, State, Wait, Words};
use crate::fault;
use crate::path::Path;
use crate::template::{Expression, Template};

/// Errors of the definition itself: engines name the same mistake differently.
const NAMED_DIFFERENTLY: &[&str] =
    &[fault::RUNTIME, fault::PARAMETER_PATH_FAILURE, fault::RESULT_PATH_MATCH_FAILURE, fault::INTRINSIC_FAILURE, fault::BRANCH_FAILED];

pub(super) fn machine(machine: &Machine, text: &Value, findings: &mut Vec<Finding>) {
    for state in &machine.states {
        let mut warn = |rule, place: &str, message: String| {
            findings.push(Finding { severity: Severity::Warning, rule, pointer: format!("{}{place}", state.pointer), message });
        };
        for path in paths(state) {
            if !path.is_portable() {
                warn(
                    "portable-path",
                    "",
                    format!("{path}: only fields, [*] and an index from the start at the end are read alike by every engine"),
                );
            }
        }
        resource(state, &mut warn);
        handlers(state, text, &mut warn);
        state.machines().into_iter().for_each(|inner| self::machine(inner, text, findings));
    }
}

fn resource(state: &State, warn: &mut impl FnMut(&'static str, &str, String)) {
    let Kind::Task(task) = &state.kind else { return };
    let parameter = |name: &str| match &state.parameters {
        Some(Template::Literal(Value::Object(fields))) => fields.get(name).cloned(),
        Some(Template::Object(fields)) => fields.iter().find(|(known, _)| known == name).and_then(|(_, value)| match value {
            Template::Literal(value) => Some(value.clone()),
            _ => None,
        }),
        _ => None,
    };
    match task.resource.arn.as_str() {
        "arn:aws:states:::lambda:invoke" => {
            let plain = |name: &Value| name.as_str().is_some_and(|name| !name.contains(':') && !name.is_empty());
            if !parameter("FunctionName").is_some_and(|name| plain(&name)) {
                let message = "FunctionName is a plain name: an ARN would tie the file to an account and a region".to_owned();
                warn("portable-function", "/Parameters", message);
            }
        }
        "arn:aws:states:::sqs:sendMessage.waitForTaskToken" => {
            if parameter("QueueUrl").is_some() {
                let message = "QueueUrl is given as QueueUrl.$: a literal would tie the file to an account and a region".to_owned();
                warn("portable-queue", "/Parameters", message);
            }
        }
        other => {
            let message = format!("{other}: only lambda:invoke and sqs:sendMessage.waitForTaskToken are had everywhere");
            warn("portable-resource", "/Resource", message);
        }
    }
    if task.heartbeat.is_some() && !task.resource.waits_for_token {
        let message = "a heartbeat comes only from who was given a task token".to_owned();
        warn("portable-heartbeat", "/HeartbeatSeconds", message);
    }
}

fn handlers(state: &State, text: &Value, warn: &mut impl FnMut(&'static str, &str, String)) {
    let lists = state.retry.iter().map(|retrier| &retrier.errors).enumerate().map(|(index, errors)| ("Retry", index, errors));
    let caught = state.catch.iter().map(|catcher| &catcher.errors).enumerate().map(|(index, errors)| ("Catch", index, errors));
    for (field, index, errors) in lists.chain(caught) {
        let place = format!("/{field}/{index}/ErrorEquals");
        for name in errors.iter().filter(|name| NAMED_DIFFERENTLY.contains(&name.as_str())) {
            warn("portable-error", &place, format!("{name}: engines name this mistake differently; only States.ALL catches it everywhere"));
        }
        let (timeout, heartbeat) = (errors.iter().any(|name| name == fault::TIMEOUT), errors.iter().any(|n| n == fault::HEARTBEAT_TIMEOUT));
        if timeout != heartbeat {
            let message = "States.Timeout and States.HeartbeatTimeout are listed together: engines tell them apart differently".to_owned();
            warn("portable-timeout", &place, message);
        }
    }
    for index in 0..state.retry.len() {
        let place = format!("/Retry/{index}/BackoffRate");
        if text.pointer(&format!("{}{place}", state.pointer)).is_some_and(|rate| !rate.is_f64()) {
            warn("portable-rate", &place, "BackoffRate is written with a point, as in 2.0: a public linter refuses 2".into());
        }
    }
}

/// Every path in the fields of a state.
fn paths(state: &State) -> Vec<Path> {
    let mut found = Vec::new();
    for selection in [&state.input_path, &state.output_path, &state.result_path] {
        if let super::Selection::Path(path) = selection {
            found.push(path.clone());
        }
    }
    let mut amount = |value: Option<&Amount>| {
        if let Some(Amount::Path(path)) = value {
            found.push(path.clone());
        }
    };
    match &state.kind {
        Kind::Task(task) => [&task.timeout, &task.heartbeat].into_iter().for_each(|value| amount(value.as_ref())),
        Kind::Map(map) => {
            [Some(&map.max_concurrency), map.tolerated_count.as_ref(), map.tolerated_percentage.as_ref()].into_iter().for_each(amount);
            found.push(map.items_path.clone());
            map.item_selector.iter().for_each(|template| template.paths(&mut found));
        }
        Kind::Choice { rules, .. } => rules.iter().for_each(|rule| rule.condition.paths(&mut found)),
        Kind::Wait(Wait::SecondsPath(path) | Wait::TimestampPath(path)) => found.push(path.clone()),
        Kind::Fail { error, cause } => {
            for words in [error, cause].into_iter().flatten() {
                if let Words::Expression(Expression::Path(path)) = words {
                    found.push(path.clone());
                }
            }
        }
        _ => {}
    }
    for template in [&state.parameters, &state.result_selector].into_iter().flatten() {
        template.paths(&mut found);
    }
    found
}
