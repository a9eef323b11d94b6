//! From JSON to machines and states. What is wrong in one state does not hide what is wrong in the next.

use std::collections::HashMap;

use serde_json::Value;

use super::places::{Fields, Findings};
use super::{Amount, Catcher, Finding, Kind, Machine, Map, Resource, Retrier, Selection, State, Task, Wait, choice};
use crate::path::Path;

/// 99,999,999 s is a little more than three years, the longest time the language knows.
const MAX_SECONDS: u64 = 99_999_999;
/// "MaxDelaySeconds … must be greater than 0 and less than 31622400."
const MAX_DELAY: u64 = 31_622_399;
const MAX_MACHINE_STATES: usize = 10_000;

/// Which fields besides those of its kind a state may have.
const NOT_JSONATA: &str = "it belongs to JSONata, and only the JSONPath dialect is supported";

pub(super) fn definition(value: &Value) -> (Option<Machine>, Vec<Finding>) {
    let findings = Findings::default();
    let machine = machine(value, "", Place::Top, &findings);
    (machine, findings.into_vec())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Top,
    Branch,
    Processor,
}

fn machine(value: &Value, pointer: &str, place: Place, findings: &Findings) -> Option<Machine> {
    let fields = Fields::of(value, pointer, findings)?;
    query_language(&fields);
    let comment = fields.text("Comment").map(str::to_owned);
    let (mut timeout_seconds, mut distributed) = (None, false);
    if place == Place::Top {
        timeout_seconds = fields.whole("TimeoutSeconds", 1, MAX_SECONDS);
        if let Some(version) = fields.text("Version").filter(|version| *version != "1.0") {
            fields.error("bad-version", "Version", format!("the version is 1.0, not {version}"));
        }
    }
    if place == Place::Processor
        && let Some(config) = fields.get("ProcessorConfig")
        && let Some(config) = Fields::of(config, &fields.place("ProcessorConfig"), findings)
    {
        distributed = one_of(&config, "Mode", &["INLINE", "DISTRIBUTED"]) == Some("DISTRIBUTED");
        one_of(&config, "ExecutionType", &["STANDARD", "EXPRESS"]);
        config.finish("ProcessorConfig");
    }
    let start_at = fields.text("StartAt");
    if !fields.has("StartAt") {
        fields.missing("StartAt");
    }
    let mut states = Vec::new();
    let mut by_name = HashMap::new();
    match fields.get("States").map(|states| Fields::of(states, &fields.place("States"), findings)) {
        None => fields.missing("States"),
        Some(None) => {}
        Some(Some(written)) => {
            if written.object.is_empty() || written.object.len() > MAX_MACHINE_STATES {
                fields.error("no-states", "States", format!("there must be 1 to {MAX_MACHINE_STATES} states"));
            }
            for (name, value) in written.object.iter().take(MAX_MACHINE_STATES) {
                if let Some(state) = state(name, value, &written.place(name), findings) {
                    by_name.insert(name.clone(), states.len());
                    states.push(state);
                }
            }
        }
    }
    fields.finish(if place == Place::Top { "a state machine" } else { "a machine within a state" });
    Some(Machine { pointer: pointer.to_owned(), comment, start_at: start_at?.to_owned(), states, by_name, timeout_seconds, distributed })
}

fn one_of(fields: &Fields<'_>, name: &'static str, allowed: &[&'static str]) -> Option<&'static str> {
    let text = fields.text(name)?;
    let found = allowed.iter().find(|known| **known == text).copied();
    if found.is_none() {
        fields.error("bad-value", name, format!("{name} is {}, not {text:?}", allowed.join(" or ")));
    }
    found
}

fn query_language(fields: &Fields<'_>) {
    if let Some(language) = fields.text("QueryLanguage").filter(|language| *language != "JSONPath") {
        let message = if language == "JSONata" { NOT_JSONATA.to_owned() } else { format!("there is no query language {language:?}") };
        fields.error("not-supported", "QueryLanguage", message);
    }
}

fn state(name: &str, value: &Value, pointer: &str, findings: &Findings) -> Option<State> {
    let fields = Fields::of(value, pointer, findings)?;
    query_language(&fields);
    for jsonata in ["Arguments", "Output", "Items"] {
        fields.refuse(jsonata, NOT_JSONATA);
    }
    fields.refuse("Assign", "variables are not; keep what later states need in the data by ResultPath");
    let comment = fields.text("Comment").map(str::to_owned);
    let Some(kind_name) = fields.text("Type") else {
        if !fields.has("Type") {
            fields.missing("Type");
        }
        return None;
    };
    let whole = Selection::Path(Path::whole());
    let mut state = State {
        name: name.to_owned(),
        pointer: pointer.to_owned(),
        comment,
        kind: Kind::Succeed,
        input_path: whole.clone(),
        output_path: whole.clone(),
        parameters: None,
        result_selector: None,
        result_path: whole,
        retry: Vec::new(),
        catch: Vec::new(),
        next: None,
        end: false,
    };
    let kind = match kind_name {
        "Task" => task(&fields).map(Kind::Task),
        "Choice" => choices(&fields),
        "Wait" => wait(&fields).map(Kind::Wait),
        "Pass" => Some(Kind::Pass { result: fields.get("Result").cloned() }),
        "Parallel" => parallel(&fields),
        "Map" => map(&fields).map(|map| Kind::Map(Box::new(map))),
        "Succeed" => Some(Kind::Succeed),
        "Fail" => Some(Kind::Fail { error: fields.words("Error", "ErrorPath"), cause: fields.words("Cause", "CausePath") }),
        other => {
            fields.error("unknown-type", "Type", format!("there is no type of state {other:?}"));
            return None;
        }
    };
    if kind_name != "Fail" {
        state.input_path = fields.selection("InputPath", false);
        state.output_path = fields.selection("OutputPath", false);
    }
    if matches!(kind_name, "Task" | "Pass" | "Parallel") {
        state.parameters = fields.template("Parameters");
    }
    if matches!(kind_name, "Task" | "Pass" | "Parallel" | "Map") {
        state.result_path = fields.selection("ResultPath", true);
    }
    if matches!(kind_name, "Task" | "Parallel" | "Map") {
        state.result_selector = fields.template("ResultSelector");
        state.retry = list(&fields, "Retry", retrier);
        state.catch = list(&fields, "Catch", catcher);
    }
    if !matches!(kind_name, "Choice" | "Succeed" | "Fail") {
        state.next = fields.text("Next").map(str::to_owned);
        state.end = fields.boolean("End").unwrap_or(false);
        match (fields.has("Next"), fields.has("End")) {
            (false, false) => fields.error("no-successor", "", format!("the state {name} has neither Next nor End")),
            (true, true) => fields.error("contradiction", "End", "Next and End exclude each other"),
            (false, true) if !state.end => fields.error("bad-value", "End", "End is true, or it is not there"),
            _ => {}
        }
    }
    fields.finish(&format!("a state of type {kind_name}"));
    state.kind = kind?;
    Some(state)
}

fn list<T>(fields: &Fields<'_>, name: &'static str, read: impl Fn(&Fields<'_>) -> Option<T>) -> Vec<T> {
    let Some(items) = fields.array(name) else { return Vec::new() };
    let one = |(index, item): (usize, &Value)| {
        let item = Fields::of(item, &format!("{}/{index}", fields.place(name)), fields.findings)?;
        item.refuse("Assign", "variables are not");
        item.refuse("Output", NOT_JSONATA);
        let read = read(&item);
        let _ = item.text("Comment");
        item.finish(if name == "Retry" { "a retrier" } else { "a catcher" });
        read
    };
    items.iter().enumerate().filter_map(one).collect()
}

fn errors(fields: &Fields<'_>) -> Option<Vec<String>> {
    let Some(items) = fields.array("ErrorEquals") else {
        if !fields.has("ErrorEquals") {
            fields.missing("ErrorEquals");
        }
        return None;
    };
    let names: Option<Vec<String>> = items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
    match names {
        Some(names) if !names.is_empty() => Some(names),
        _ => {
            fields.error("wrong-type", "ErrorEquals", "ErrorEquals must be a list of one or more error names");
            None
        }
    }
}

fn retrier(fields: &Fields<'_>) -> Option<Retrier> {
    let errors = errors(fields);
    let interval_seconds = fields.whole("IntervalSeconds", 1, MAX_SECONDS).unwrap_or(1);
    let max_attempts = fields.whole("MaxAttempts", 0, MAX_SECONDS).unwrap_or(3);
    let backoff_rate = fields.number("BackoffRate", 1.0).unwrap_or(2.0);
    let max_delay_seconds = fields.whole("MaxDelaySeconds", 1, MAX_DELAY);
    if max_delay_seconds.is_some_and(|most| most <= interval_seconds) {
        fields.error("bad-value", "MaxDelaySeconds", "MaxDelaySeconds must be greater than IntervalSeconds");
    }
    let full_jitter = one_of(fields, "JitterStrategy", &["FULL", "NONE"]) == Some("FULL");
    Some(Retrier { errors: errors?, interval_seconds, max_attempts, backoff_rate, max_delay_seconds, full_jitter })
}

fn catcher(fields: &Fields<'_>) -> Option<Catcher> {
    let errors = errors(fields);
    let result_path = fields.selection("ResultPath", true);
    let next = fields.text("Next");
    if !fields.has("Next") {
        fields.missing("Next");
    }
    Some(Catcher { errors: errors?, result_path, next: next?.to_owned() })
}

fn task(fields: &Fields<'_>) -> Option<Task> {
    fields.refuse("Credentials", "every task runs with the rights of the one who started the execution");
    let timeout = fields.amount("TimeoutSeconds", "TimeoutSecondsPath", 1, MAX_SECONDS);
    let heartbeat = fields.amount("HeartbeatSeconds", "HeartbeatSecondsPath", 1, MAX_SECONDS);
    if let (Some(Amount::Fixed(timeout)), Some(Amount::Fixed(heartbeat))) = (&timeout, &heartbeat)
        && heartbeat >= timeout
    {
        fields.error("bad-value", "HeartbeatSeconds", "HeartbeatSeconds must be smaller than TimeoutSeconds");
    }
    let Some(arn) = fields.text("Resource") else {
        if !fields.has("Resource") {
            fields.missing("Resource");
        }
        return None;
    };
    match resource(arn) {
        Some(resource) => Some(Task { resource, timeout, heartbeat }),
        None => {
            fields.error("bad-resource", "Resource", format!("{arn:?} is not an ARN such as arn:aws:states:::lambda:invoke"));
            None
        }
    }
}

fn resource(arn: &str) -> Option<Resource> {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let ["arn", _, service, region, account, rest] = parts[..] else { return None };
    if service.is_empty() || rest.is_empty() || arn.contains(char::is_whitespace) {
        return None;
    }
    if service == "states" && region.is_empty() && account.is_empty() {
        let (rest, waits_for_token) = rest.strip_suffix(".waitForTaskToken").map_or((rest, false), |rest| (rest, true));
        let (service, action) = rest.rsplit_once(':')?;
        let service = service.strip_prefix("aws-sdk:").unwrap_or(service);
        return Some(Resource {
            arn: arn.to_owned(),
            service: service.to_owned(),
            action: action.to_owned(),
            waits_for_token,
            integration: true,
        });
    }
    Some(Resource { arn: arn.to_owned(), service: service.to_owned(), action: rest.to_owned(), waits_for_token: false, integration: false })
}

fn choices(fields: &Fields<'_>) -> Option<Kind> {
    let default = fields.text("Default").map(str::to_owned);
    let Some(rules) = fields.array("Choices") else {
        if !fields.has("Choices") {
            fields.missing("Choices");
        }
        return None;
    };
    if rules.is_empty() {
        fields.error("empty-list", "Choices", "Choices needs at least one rule");
    }
    let place = fields.place("Choices");
    let read = |(index, rule)| choice::read_rule(rule, &format!("{place}/{index}"), fields.findings);
    let rules: Vec<_> = rules.iter().enumerate().filter_map(read).collect();
    Some(Kind::Choice { rules, default })
}

fn wait(fields: &Fields<'_>) -> Option<Wait> {
    let names = ["Seconds", "SecondsPath", "Timestamp", "TimestampPath"];
    let given: Vec<&str> = names.into_iter().filter(|name| fields.has(name)).collect();
    match given[..] {
        ["Seconds"] => fields.whole("Seconds", 0, MAX_SECONDS).map(Wait::Seconds),
        ["SecondsPath"] => fields.path("SecondsPath").map(Wait::SecondsPath),
        ["TimestampPath"] => fields.path("TimestampPath").map(Wait::TimestampPath),
        ["Timestamp"] => {
            let text = fields.text("Timestamp")?;
            let moment = choice::timestamp(text);
            if moment.is_none() {
                fields.error("bad-timestamp", "Timestamp", format!("{text:?} is not a time such as 2026-03-14T01:59:00Z"));
            }
            moment.map(Wait::Timestamp)
        }
        _ => {
            names.iter().for_each(|name| _ = fields.get(name));
            fields.error("wait-for-what", "", format!("a Wait state has exactly one of {}", names.join(", ")));
            None
        }
    }
}

fn parallel(fields: &Fields<'_>) -> Option<Kind> {
    let Some(written) = fields.array("Branches") else {
        if !fields.has("Branches") {
            fields.missing("Branches");
        }
        return None;
    };
    if written.is_empty() {
        fields.error("empty-list", "Branches", "Branches needs at least one machine");
    }
    let place = fields.place("Branches");
    let read = |(index, branch)| machine(branch, &format!("{place}/{index}"), Place::Branch, fields.findings);
    let branches: Vec<Machine> = written.iter().enumerate().filter_map(read).collect();
    (branches.len() == written.len()).then_some(Kind::Parallel { branches })
}

fn map(fields: &Fields<'_>) -> Option<Map> {
    for (name, reason) in [
        ("ItemReader", "items come from the input of the state, by ItemsPath"),
        ("ItemBatcher", "make the batches in the input"),
        ("ResultWriter", "results are the output of the state"),
    ] {
        fields.refuse(name, reason);
    }
    let _ = fields.text("Label");
    let (new, old) = (fields.get("ItemProcessor"), fields.get("Iterator"));
    let processor = match (new, old) {
        (Some(value), None) => machine(value, &fields.place("ItemProcessor"), Place::Processor, fields.findings),
        (None, Some(value)) => machine(value, &fields.place("Iterator"), Place::Processor, fields.findings),
        (Some(_), Some(_)) => {
            fields.error("contradiction", "Iterator", "ItemProcessor and Iterator exclude each other");
            None
        }
        (None, None) => {
            fields.missing("ItemProcessor");
            None
        }
    };
    // Before ItemSelector there was Parameters, with the same meaning.
    let (selector, parameters) = (fields.template("ItemSelector"), fields.template("Parameters"));
    if selector.is_some() && parameters.is_some() {
        fields.error("contradiction", "Parameters", "ItemSelector and Parameters exclude each other");
    }
    let items_path = fields.path("ItemsPath").unwrap_or_else(Path::whole);
    let max_concurrency = fields.amount("MaxConcurrency", "MaxConcurrencyPath", 0, 10_000).unwrap_or(Amount::Fixed(0));
    let tolerated_count = fields.amount("ToleratedFailureCount", "ToleratedFailureCountPath", 0, 10_000_000);
    let tolerated_percentage = fields.amount("ToleratedFailurePercentage", "ToleratedFailurePercentagePath", 0, 100);
    Some(Map {
        items_path,
        item_selector: selector.or(parameters),
        processor: processor?,
        max_concurrency,
        tolerated_count,
        tolerated_percentage,
    })
}
