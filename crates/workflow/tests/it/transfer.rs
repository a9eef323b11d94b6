//! `workflows/transfer.asl.json`: its states, every path through it, and that other engines and linters take it as ours does.

use serde_json::{Map, Value, json};
use workflow::trial::Trial;
use workflow::{lint, mermaid};

use super::engines::{Engine, public_linters};
use super::{machine, try_out};

const TEXT: &str = include_str!("../../../../workflows/transfer.asl.json");

const DUTIES: [&str; 11] = [
    "ValidateInput",
    "AuthenticateSSO",
    "DownloadFromS3",
    "CheckFileSize",
    "TransferToFTP",
    "ChunkedTransfer",
    "UpdateServiceNow",
    "NotifyUser",
    "CleanupAndLogout",
    "HandleError",
    "TransferComplete",
];

const TAIL: [&str; 3] = ["UpdateServiceNow", "NotifyUser", "CleanupAndLogout"];

pub fn definition() -> Value {
    serde_json::from_str(TEXT).unwrap()
}

pub fn input() -> Value {
    json!({"transfer_id": "aeaqcaibaeaqcaib", "run": 1, "worker_queue": "QUEUE:work"})
}

/// What each state is answered when everything goes well, for a strategy and a mover.
fn well(strategy: &str, mover: &str) -> Map<String, Value> {
    let returned = |value: Value| json!({ "Return": value });
    let finished = json!({"delivered": 2, "failed": 0, "bytes": 300});
    let answers = json!({
        "ValidateInput": returned(json!({"files": 2, "bytes": 300})),
        "AuthenticateSSO": [returned(json!({"attempt": 1})), returned(json!({"attempt": 2})), returned(json!({"attempt": 3}))],
        "DownloadFromS3": returned(json!({"strategy": strategy, "mover": mover, "lanes": [0, 1, 2]})),
        "OpenTransfer": returned(json!({"mover": mover})),
        "SendSlice": returned(json!({"more": false})),
        "SendByWorker": returned(json!({})),
        "FinishTransfer": returned(finished.clone()),
        "OpenChunks": returned(json!({"mover": mover})),
        "SendChunk": returned(json!({"more": false})),
        "SendChunksByWorker": returned(json!({})),
        "FinishChunks": returned(finished),
        "UpdateServiceNow": returned(json!({})),
        "NotifyUser": returned(json!({})),
        "CleanupAndLogout": returned(json!({})),
    });
    answers.as_object().unwrap().clone()
}

fn thrown(error: &str) -> Value {
    json!({"Throw": {"Error": error, "Cause": "because"}})
}

/// A way through the machine: what is answered, and how it must end.
pub struct Way {
    pub name: String,
    pub mocks: Map<String, Value>,
    pub error: Option<&'static str>,
    /// States that must be entered, in this order.
    pub through: Vec<&'static str>,
    /// Takes minutes on an engine whose clock does not jump.
    pub slow: bool,
}

pub fn ways() -> Vec<Way> {
    let mut ways = Vec::new();
    let mut way = |name: &str, strategy: &str, mover: &str, changes: Value, error: Option<&'static str>, through: &[&'static str]| {
        let mut mocks = well(strategy, mover);
        mocks.extend(changes.as_object().unwrap().clone());
        let slow = changes.to_string().contains("Delay");
        ways.push(Way { name: name.into(), mocks, error, through: through.to_vec(), slow });
    };
    let more = |more: bool| json!({"Return": {"more": more}});
    let slices = json!([more(true), more(true), more(false)]);
    let begin = ["ValidateInput", "AuthenticateSSO", "DownloadFromS3", "CheckFileSize"];
    let path = |middle: &[&'static str], end: &'static str| [&begin[..], middle, &TAIL[..], &["HowItEnded", end][..]].concat();
    way("direct", "direct", "slice", json!({}), None, &path(&["TransferToFTP", "SendSlice", "FinishTransfer"], "TransferComplete"));
    way(
        "slices",
        "chunked",
        "slice",
        json!({"SendSlice": slices}),
        None,
        &path(&["SendSlice", "MoreToSend", "SendSlice", "MoreToSend", "SendSlice", "FinishTransfer"], "TransferComplete"),
    );
    way(
        "lanes",
        "parallel",
        "slice",
        json!({"SendChunk": slices}),
        None,
        &path(&["ChunkedTransfer", "SendChunks", "SendChunk", "LaneDone", "FinishChunks"], "TransferComplete"),
    );
    way("worker", "direct", "worker", json!({}), None, &path(&["TransferToFTP", "SendByWorker", "FinishTransfer"], "TransferComplete"));
    way(
        "worker for chunks",
        "parallel",
        "worker",
        json!({}),
        None,
        &path(&["ChunkedTransfer", "SendChunksByWorker", "FinishChunks"], "TransferComplete"),
    );
    way(
        "cancelled",
        "direct",
        "slice",
        json!({"SendSlice": thrown("Cancelled")}),
        Some("Cancelled"),
        &path(&["TransferToFTP", "HandleError"], "TransferFailed"),
    );
    way(
        "held before publishing",
        "direct",
        "slice",
        json!({"FinishTransfer": thrown("Held")}),
        Some("Held"),
        &path(&["TransferToFTP", "FinishTransfer", "HandleError"], "TransferFailed"),
    );
    way(
        "a line that breaks once",
        "direct",
        "slice",
        json!({"SendSlice": [thrown("Transient"), more(false)]}),
        None,
        &path(&["SendSlice", "FinishTransfer"], "TransferComplete"),
    );
    way(
        "a session too late once",
        "direct",
        "slice",
        json!({"DownloadFromS3": [thrown("SessionExpired"), well("direct", "slice")["DownloadFromS3"]]}),
        None,
        &["AuthenticateSSO", "DownloadFromS3", "SessionAgain", "AuthenticateSSO", "DownloadFromS3", "CheckFileSize", "TransferComplete"],
    );
    way(
        "a session too late always",
        "direct",
        "slice",
        json!({"DownloadFromS3": thrown("SessionExpired")}),
        Some("SessionExpired"),
        &[
            "SessionAgain",
            "AuthenticateSSO",
            "SessionAgain",
            "AuthenticateSSO",
            "SessionAgain",
            "GiveUpOnSession",
            "HandleError",
            "CleanupAndLogout",
            "TransferFailed",
        ],
    );
    let silent = json!([{"Return": {}, "Delay": 500}, {"Return": {}, "Delay": 60}]);
    way(
        "a worker that falls silent",
        "direct",
        "worker",
        json!({"SendByWorker": silent}),
        None,
        &path(&["SendByWorker", "FinishTransfer"], "TransferComplete"),
    );
    let nobody = json!({"Return": {}, "Delay": 100_000});
    way(
        "no worker at all",
        "parallel",
        "worker",
        json!({"SendChunksByWorker": nobody}),
        Some("States.HeartbeatTimeout"),
        &path(&["HandleError"], "TransferFailed"),
    );
    for state in TAIL {
        way(
            &format!("{state} fails"),
            "direct",
            "slice",
            json!({state: thrown("Boom")}),
            None,
            &path(&["TransferToFTP"], "TransferComplete"),
        );
    }
    for (state, strategy, mover) in [
        ("ValidateInput", "direct", "slice"),
        ("AuthenticateSSO", "direct", "slice"),
        ("DownloadFromS3", "direct", "slice"),
        ("OpenTransfer", "direct", "slice"),
        ("SendSlice", "direct", "slice"),
        ("SendByWorker", "direct", "worker"),
        ("FinishTransfer", "direct", "slice"),
        ("OpenChunks", "parallel", "slice"),
        ("SendChunk", "parallel", "slice"),
        ("SendChunksByWorker", "parallel", "worker"),
        ("FinishChunks", "parallel", "slice"),
    ] {
        let through = [&[state, "HandleError"][..], &TAIL[..], &["HowItEnded", "TransferFailed"][..]].concat();
        way(&format!("{state} fails"), strategy, mover, json!({state: thrown("Boom")}), Some("Boom"), &through);
        way(
            &format!("{state} and the whole tail fail"),
            strategy,
            mover,
            json!({state: thrown("Boom"), "UpdateServiceNow": thrown("Bang"), "NotifyUser": thrown("Bang"), "CleanupAndLogout": thrown("Bang")}),
            Some("Boom"),
            &through,
        );
    }
    ways
}

/// What lambda:invoke makes of a function's answer; a worker's answer is not wrapped.
pub fn wrapped(mocks: &Map<String, Value>) -> Value {
    let wrap = |(state, answers): (&String, &Value)| {
        let answers = if state.ends_with("ByWorker") { answers.clone() } else { super::wrapped(answers) };
        (state.clone(), answers)
    };
    Value::Object(mocks.iter().map(wrap).collect())
}

fn entered(trial: &Trial) -> Vec<&str> {
    trial.history.iter().filter(|event| event.kind.ends_with("StateEntered")).filter_map(|event| event.state()).collect()
}

#[test]
fn every_path_ends_as_it_should_and_passes_the_tail() {
    for way in ways() {
        let trial = try_out(&definition(), input(), &wrapped(&way.mocks));
        let outcome = trial.outcome();
        let expected = way.error.map_or(json!(["SUCCEEDED", null]), |error| json!(["FAILED", error]));
        assert_eq!(json!([outcome["status"], outcome["error"]]), expected, "{}: {outcome}", way.name);
        if way.error.is_none() {
            assert_eq!(outcome["output"]["result"]["finished"]["delivered"], 2, "{}: {outcome}", way.name);
        }
        let entered = entered(&trial);
        let mut rest = entered.iter();
        for state in &way.through {
            assert!(rest.any(|seen| seen == state), "{}: {state} is not at its place in {entered:?}", way.name);
        }
        for state in TAIL {
            assert_eq!(entered.iter().filter(|seen| **seen == state).count(), 1, "{}: {state} in {entered:?}", way.name);
        }
    }
}

#[test]
fn the_states_are_the_eleven_duties_their_end_in_failure_and_helpers() {
    let definition = definition();
    let names: Vec<&str> = definition["States"].as_object().unwrap().keys().map(String::as_str).collect();
    let helpers: Vec<&&str> = names.iter().filter(|name| !DUTIES.contains(name)).collect();
    assert_eq!(helpers, [&"SessionAgain", &"GiveUpOnSession", &"HowItEnded", &"TransferFailed"]);
    assert!(DUTIES.iter().all(|duty| names.contains(duty)));
    let mut functions: Vec<&str> = TEXT.split("\"FunctionName\": \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    functions.sort_unstable();
    functions.dedup();
    let short: Vec<&str> = functions.iter().map(|name| name.strip_prefix("FileFerry-").unwrap()).collect();
    assert_eq!(
        short,
        ["AuthSSO", "ChunkedTransfer", "Cleanup", "DownloadS3", "NotifyUser", "TransferFTP", "UpdateServiceNow", "ValidateInput"]
    );
}

#[test]
fn a_step_says_its_own_name_to_its_function() {
    let mut open = vec![definition()];
    let mut seen = 0;
    while let Some(machine) = open.pop() {
        for (name, state) in machine["States"].as_object().unwrap() {
            let parameters = &state["Parameters"];
            let step =
                if parameters["MessageBody"].is_object() { &parameters["MessageBody"]["step"] } else { &parameters["Payload"]["step"] };
            if state["Type"] == "Task" {
                assert_eq!(step, name);
                seen += 1;
            }
            open.extend(state["Branches"].as_array().into_iter().flatten().cloned());
            open.extend(state.get("ItemProcessor").cloned());
        }
    }
    assert_eq!(seen, 14);
}

#[test]
fn no_linter_has_anything_to_say() {
    assert_eq!(lint(TEXT), []);
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../workflows/transfer.asl.json");
    for (linter, objections) in public_linters(&file) {
        assert_eq!(objections, "", "{linter}");
    }
}

#[test]
fn it_is_drawn_with_every_state() {
    let drawing = mermaid(&machine(&definition()));
    assert!(DUTIES.iter().all(|duty| drawing.contains(duty)), "{drawing}");
    assert!(drawing.starts_with("flowchart TD\n") && drawing.contains("subgraph") && drawing.contains("-.->"));
}

#[test]
fn two_other_engines_end_the_transfer_as_ours_does() {
    let ways: Vec<Way> = ways().into_iter().filter(|way| !way.slow).collect();
    let case =
        |way: &Way| json!({"name": way.name, "definition": definition(), "input": input(), "mocks": way.mocks, "queues": {"work": null}});
    let cases: Vec<Value> = ways.iter().map(case).collect();
    let mut wrong = Vec::new();
    for engine in [Engine::Moto, Engine::MiniStack] {
        for (way, ended) in ways.iter().zip(engine.run(&cases)) {
            let expected = way.error.map_or(json!(["SUCCEEDED", null]), |error| json!(["FAILED", error]));
            let delivered = way.error.is_some() || ended["output"]["result"]["finished"]["delivered"] == 2;
            if json!([ended["status"], ended["error"]]) != expected || !delivered {
                wrong.push(format!("{} on {}: {ended}", way.name, engine.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
