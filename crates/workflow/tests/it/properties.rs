//! Random paths, definitions, inputs and answers: what is printed is read back, nothing panics, and the same events
//! make the same frames, also when they went through JSON in between.

use proptest::prelude::*;
use serde_json::{Value, json};
use workflow::interpreter::Doing;
use workflow::trial::{Mocks, run, run_watched};
use workflow::{Call, Event, Execution, Frame, Machine, Path, Seeded, Status, lint, step};

use super::{began, start};

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,3}", "[ -~]{1,4}", Just("é".to_owned()), Just("a'b\\".to_owned())]
}

fn quoted(name: &str) -> String {
    format!("['{}']", name.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn path_step() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-c]".prop_map(|name| format!(".{name}")),
        2 => name().prop_map(|name| quoted(&name)),
        2 => (-3..3_i64).prop_map(|index| format!("[{index}]")),
        1 => Just("[*]".to_owned()),
        1 => Just(".*".to_owned()),
        1 => "[a-c]".prop_map(|name| format!("..{name}")),
        1 => (prop::option::of(-3..3_i64), prop::option::of(-3..3_i64), prop::option::of(1..3_i64)).prop_map(|(start, end, step)| {
            let shown = |n: Option<i64>| n.map_or(String::new(), |n| n.to_string());
            format!("[{}:{}{}]", shown(start), shown(end), step.map_or(String::new(), |step| format!(":{step}")))
        }),
        1 => (0..3_i64, 0..3_i64).prop_map(|(a, b)| format!("[{a},{b}]")),
        1 => filter().prop_map(|filter| format!("[?({filter})]")),
    ]
}

fn filter() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "[a-c]".prop_map(|name| format!("@.{name}")),
        ("[a-c]", prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">="]), -3..3_i64)
            .prop_map(|(name, sign, n)| format!("@.{name} {sign} {n}")),
        ("[a-c]", name()).prop_map(|(field, text)| format!("@.{field} == '{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))),
        "[a-c]".prop_map(|name| format!("@.{name} in [1, 'x', null]")),
    ];
    leaf.prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) && ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) || ({b})")),
            inner.prop_map(|a| format!("!({a})")),
        ]
    })
}

fn path() -> impl Strategy<Value = String> {
    (prop::bool::weighted(0.1), prop::collection::vec(path_step(), 0..5))
        .prop_map(|(context, steps)| format!("{}{}", if context { "$$" } else { "$" }, steps.concat()))
}

pub fn data() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-5..20_i64).prop_map(Value::from),
        (-40..40_i32).prop_map(|n| json!(f64::from(n) / 4.0)),
        "[a-c]{0,2}".prop_map(Value::from),
        Just(json!("2026-01-01T00:00:05Z")),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec(("[a-c]", inner), 0..4).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn call() -> impl Strategy<Value = String> {
    let names = ["Format", "StringToJson", "JsonToString", "Array", "ArrayPartition", "ArrayContains", "ArrayRange", "ArrayGetItem"];
    let more =
        ["ArrayLength", "ArrayUnique", "Base64Encode", "Base64Decode", "Hash", "JsonMerge", "MathRandom", "MathAdd", "StringSplit", "UUID"];
    let names: Vec<&str> = names.into_iter().chain(more).collect();
    let leaf = prop_oneof![
        path(),
        (-5..2000_i64).prop_map(|n| n.to_string()),
        Just("'SHA-256'".to_owned()),
        Just("'{} \\{ {}'".to_owned()),
        Just("null".to_owned()),
        Just("true".to_owned()),
    ];
    leaf.prop_recursive(3, 12, 3, move |inner| {
        (prop::sample::select(names.clone()), prop::collection::vec(inner, 0..4))
            .prop_map(|(name, arguments)| format!("States.{name}({})", arguments.join(", ")))
    })
}

/// A state that mostly makes sense; the successor is filled in later.
fn state(depth: u32) -> BoxedStrategy<Value> {
    let expression = || prop_oneof![path(), call()];
    let selection = || prop_oneof![3 => Just(json!("$")), 1 => path().prop_map(Value::from), 1 => Just(Value::Null)];
    let reference =
        || prop_oneof![Just(json!("$")), Just(json!("$.a")), Just(json!("$.b[0]")), Just(Value::Null), path().prop_map(Value::from)];
    let errors = || prop::sample::select(vec!["E", "F", "States.ALL", "States.TaskFailed", "States.Timeout", "States.Runtime"]);
    let pass = (selection(), selection(), reference(), expression()).prop_map(|(input, output, result, expression)| {
        json!({"Type": "Pass", "InputPath": input, "OutputPath": output, "ResultPath": result, "Parameters": {"a.$": expression, "b": [1, {"c": 2}]}})
    });
    let task = (reference(), errors(), 0..3_u64, prop::option::of(1..9_u64)).prop_map(|(result, error, attempts, timeout)| {
        let mut task = json!({"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "ResultPath": result,
            "Retry": [{"ErrorEquals": [error], "MaxAttempts": attempts, "JitterStrategy": "FULL"}], "Catch": [{"ErrorEquals": [error], "Next": "LAST"}]});
        if let Some(timeout) = timeout {
            task["TimeoutSeconds"] = json!(timeout);
        }
        task
    });
    let wait = prop_oneof![
        (0..9_u64).prop_map(|seconds| json!({"Type": "Wait", "Seconds": seconds})),
        path().prop_map(|path| json!({"Type": "Wait", "SecondsPath": path})),
        path().prop_map(|path| json!({"Type": "Wait", "TimestampPath": path})),
    ];
    let choice =
        (path(), prop::sample::select(vec!["IsPresent", "IsNull", "IsString"]), path(), -3..9_i64).prop_map(|(first, test, second, n)| {
            json!({"Type": "Choice", "Choices": [{"Variable": first, test: true, "Next": "LAST"},
            {"Not": {"Variable": second, "NumericLessThan": n}, "Next": "NEXT"}], "Default": "NEXT"})
        });
    let fail = expression().prop_map(|expression| json!({"Type": "Fail", "Error": "E", "CausePath": expression}));
    if depth == 0 {
        return prop_oneof![3 => pass, 3 => task, 2 => wait, 2 => choice, 1 => fail].boxed();
    }
    let inner = || states(depth - 1);
    let parallel = (prop::collection::vec(inner(), 1..3), errors()).prop_map(
        |(branches, error)| json!({"Type": "Parallel", "Branches": branches, "Catch": [{"ErrorEquals": [error], "Next": "LAST"}]}),
    );
    let map = (inner(), prop_oneof![Just("$".to_owned()), Just("$.a".to_owned()), path()], 0..3_u64, errors()).prop_map(|(inner, items, limit, error)| {
        json!({"Type": "Map", "ItemProcessor": inner, "ItemsPath": items, "MaxConcurrency": limit, "ItemSelector": {"a.$": "$$.Map.Item.Value"},
            "Retry": [{"ErrorEquals": [error], "MaxAttempts": 1}]})
    });
    prop_oneof![3 => pass, 3 => task, 2 => wait, 2 => choice, 1 => fail, 2 => parallel, 2 => map].boxed()
}

/// Machines whose states follow each other; `prefix` keeps the names of different machines apart.
pub fn states(depth: u32) -> BoxedStrategy<Value> {
    prop::collection::vec(state(depth), 1..4).prop_map(|states| json!({ "States": states })).boxed()
}

pub fn named(machine: &Value, prefix: &str) -> Value {
    let states = machine["States"].as_array().unwrap();
    let mut named = serde_json::Map::new();
    for (index, state) in states.iter().enumerate() {
        let mut state = state.clone();
        let next = format!("{prefix}{}", index + 1);
        let last = format!("{prefix}{}", states.len());
        for place in ["Branches", "ItemProcessor"] {
            match state.get(place).cloned() {
                Some(Value::Array(inner)) => {
                    state[place] =
                        inner.iter().enumerate().map(|(n, inner)| self::named(inner, &format!("{prefix}{index}b{n}-"))).collect();
                }
                Some(inner) => state[place] = self::named(&inner, &format!("{prefix}{index}m-")),
                None => {}
            }
        }
        let mut text = serde_json::to_string(&state["Choices"]).unwrap().replace("\"NEXT\"", &json!(next).to_string());
        text = text.replace("\"LAST\"", &json!(last).to_string());
        if state["Type"] == "Choice" {
            state["Choices"] = serde_json::from_str(&text).unwrap();
            state["Default"] = json!(next);
        } else if state["Type"] != "Fail" {
            state["Next"] = json!(next);
        }
        if let Some(catch) = state.get_mut("Catch") {
            catch[0]["Next"] = json!(last);
        }
        named.insert(format!("{prefix}{index}"), state);
    }
    named.insert(format!("{prefix}{}", states.len()), json!({"Type": "Succeed"}));
    json!({"StartAt": format!("{prefix}0"), "States": named})
}

pub fn task_names(machine: &Value, found: &mut Vec<String>) {
    for (name, state) in machine["States"].as_object().unwrap() {
        if state["Type"] == "Task" {
            found.push(name.clone());
        }
        let branches = state["Branches"].as_array().into_iter().flatten();
        branches.chain(state.get("ItemProcessor")).for_each(|inner| task_names(inner, found));
    }
}

pub fn answers() -> impl Strategy<Value = Vec<Value>> {
    let answer = prop_oneof![
        3 => (data(), 0..12_u64).prop_map(|(data, delay)| json!({"Return": data, "Delay": delay})),
        2 => prop::sample::select(vec!["E", "F", "States.Timeout"]).prop_map(|error| json!({"Throw": {"Error": error, "Cause": "c"}})),
    ];
    prop::collection::vec(answer, 1..4)
}

/// What may happen to an execution from outside, in any order.
#[derive(Debug, Clone)]
enum Happening {
    Answer { which: usize, with: Result<Value, &'static str> },
    Heartbeat(usize),
    Stranger,
    Later(i64),
    Abort,
    Redrive,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => (any::<usize>(), data()).prop_map(|(which, data)| Happening::Answer { which, with: Ok(data) }),
        3 => (any::<usize>(), prop::sample::select(vec!["E", "F", "States.Permissions"])).prop_map(|(which, error)| Happening::Answer { which, with: Err(error) }),
        1 => any::<usize>().prop_map(Happening::Heartbeat),
        1 => Just(Happening::Stranger),
        4 => (0..40_i64).prop_map(Happening::Later),
        1 => Just(Happening::Abort),
        2 => Just(Happening::Redrive),
    ]
}

/// What must be so of an execution between two steps, whatever happened.
fn check(execution: &Execution) {
    let mut tokens = std::collections::HashSet::new();
    let running = execution.status == Status::Running;
    for frame in execution.frames.values() {
        assert!(frame.parent.is_none_or(|parent| execution.frames.contains_key(&parent)), "{frame:?} has lost its parent");
        match &frame.doing {
            Doing::Task { token, .. } => assert!(running && tokens.insert(token), "{frame:?}"),
            Doing::Wait { .. } | Doing::Retry { .. } => assert!(running, "{frame:?} waits in an execution that has ended"),
            Doing::Ready => panic!("{frame:?} was not carried out"),
            Doing::Children | Doing::Done { .. } | Doing::Failed(_) | Doing::Aborted => {}
        }
        if let (true, Doing::Children, Some(group)) = (running, &frame.doing, &frame.group) {
            let children: Vec<&Frame> = execution.frames.values().filter(|child| child.parent == Some(frame.id)).collect();
            let open = children.iter().filter(|child| !matches!(child.doing, Doing::Done { .. } | Doing::Failed(_))).count() as u64;
            assert_eq!((children.len() as u64, open), (group.started, group.running), "{group:?}");
            assert!(group.running > 0 && group.running <= group.limit.max(group.total), "{group:?}");
        }
    }
    assert!(
        !running || execution.frames.values().any(|frame| frame.wakes().is_some() || matches!(frame.doing, Doing::Task { .. })),
        "nothing can happen any more: {execution:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_path_is_read_as_it_was_printed(text in path(), value in data()) {
        let path = Path::parse(&text).unwrap();
        let printed = path.to_string();
        let again = Path::parse(&printed).map_err(|e| TestCaseError::fail(format!("{text} printed as {printed}: {e}")))?;
        prop_assert_eq!(&again, &path, "{} printed as {}", text, printed);
        prop_assert_eq!(again.find(&value), path.find(&value));
    }

    #[test]
    fn a_call_is_read_as_it_was_printed(text in call()) {
        if let Ok(call) = Call::parse(&text) {
            prop_assert_eq!(Call::parse(&call.to_string()), Ok(call));
        }
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text in "\\PC{0,60}", shaped in "[$@.\\[\\]()?*:,'\"a-c0-9 <>=&|!\\\\-]{0,40}") {
        for text in [&text, &shaped, &format!("${shaped}"), &format!("States.Format('{shaped}', {text})")] {
            let _ = Path::parse(text);
            let _ = Call::parse(text);
            let _ = lint(text);
            let _ = Mocks::parse(text, None, None);
        }
    }

    #[test]
    fn random_definitions_never_panic_and_the_same_events_make_the_same_frames(
        machine in states(2), input in data(), answers in answers(), seed in any::<u64>()
    ) {
        let definition = named(&machine, "s");
        let text = definition.to_string();
        let _ = lint(&text);
        let Ok(machine) = Machine::parse(&text) else { return Ok(()) };
        let mut tasks = Vec::new();
        task_names(&definition, &mut tasks);
        let mocks: serde_json::Map<String, Value> = tasks.into_iter().map(|name| (name, json!(answers))).collect();
        let mocks = Mocks::parse(&Value::Object(mocks).to_string(), None, None).unwrap();
        let plain = run(&machine, start(input.clone()), &mocks, began(), &mut Seeded::new(seed)).unwrap();
        let mut steps = 0;
        let through_json = run_watched(&machine, start(input), &mocks, began(), &mut Seeded::new(seed), |execution: &mut Execution, step| {
            let stored = serde_json::to_string(execution).unwrap();
            let read: Execution = serde_json::from_str(&stored).unwrap();
            assert_eq!(&read, execution, "storing the frames changes nothing");
            *execution = read;
            for event in &step.history {
                let stored = serde_json::to_string(event).unwrap();
                assert_eq!(&serde_json::from_str::<workflow::HistoryEvent>(&stored).unwrap(), event);
            }
            assert!(step.touched.iter().all(|id| execution.frames.contains_key(id)));
            steps += 1;
        }).unwrap();
        prop_assert_eq!(plain, through_json, "after {} steps", steps);
    }

    #[test]
    fn whatever_happens_in_whatever_order_the_frames_stay_in_order(
        machine in states(2), input in data(), happenings in prop::collection::vec(happening(), 1..40)
    ) {
        let Ok(machine) = Machine::parse(&named(&machine, "s").to_string()) else { return Ok(()) };
        let (mut now, mut chance) = (began(), Seeded::new(3));
        let (mut execution, _) = Execution::start(&machine, start(input), now, &mut chance).unwrap();
        check(&execution);
        for happening in happenings {
            let tokens: Vec<String> = execution.frames.values().filter_map(|frame| match &frame.doing {
                Doing::Task { token, .. } => Some(token.clone()),
                _ => None,
            }).collect();
            let token = |which: usize| tokens.get(which % tokens.len().max(1)).cloned().unwrap_or_default();
            let event = match happening {
                Happening::Answer { which, with: Ok(output) } => Event::TaskSucceeded { token: token(which), output },
                Happening::Answer { which, with: Err(error) } => Event::TaskFailed { token: token(which), error: error.into(), cause: "c".into() },
                Happening::Heartbeat(which) => Event::Heartbeat { token: token(which) },
                Happening::Stranger => Event::TaskSucceeded { token: "a stranger's".into(), output: Value::Null },
                Happening::Later(seconds) => {
                    now = now.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap();
                    Event::Clock
                }
                Happening::Abort => Event::Abort { error: "stop".into(), cause: String::new() },
                Happening::Redrive => Event::Redrive,
            };
            let before = execution.clone();
            match step(&machine, &mut execution, event, now, &mut chance) {
                Ok(step) => {
                    assert!(step.touched.iter().all(|id| execution.frames.contains_key(id)));
                    assert!(step.removed.iter().all(|id| !execution.frames.contains_key(id)));
                    // What is not named as changed may be left as it is stored.
                    for (id, frame) in &execution.frames {
                        assert!(step.touched.contains(id) || before.frames.get(id) == Some(frame), "{frame:?} changed unsaid");
                    }
                    assert!(before.frames.keys().all(|id| execution.frames.contains_key(id) || step.removed.contains(id)));
                }
                Err(_) => prop_assert_eq!(&execution, &before, "a refused event changes nothing"),
            }
            check(&execution);
        }
    }
}
