//! The workflow crate from outside: behaviour of the interpreter, conformance with engines that are not ours, random
//! definitions, and the definitions of this repository.

mod conformance;
mod engines;
mod execution;
mod executor;
mod linting;
mod properties;
mod transfer;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use workflow::trial::{Mocks, Trial, run};
use workflow::{Machine, Seeded, Start};

fn began() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn start(input: Value) -> Start {
    Start {
        input,
        id: "arn:aws:states:us-east-1:000000000000:execution:machine:run".into(),
        name: "run".into(),
        machine_name: "machine".into(),
        token_prefix: "token-".into(),
        ..Start::default()
    }
}

fn machine(definition: &Value) -> Machine {
    Machine::parse(&definition.to_string()).unwrap_or_else(|refused| panic!("{refused}\n{definition:#}"))
}

fn try_out(definition: &Value, input: Value, mocks: &Value) -> Trial {
    let mocks = Mocks::parse(&mocks.to_string(), None, None).unwrap();
    run(&machine(definition), start(input), &mocks, began(), &mut Seeded::new(1)).unwrap_or_else(|e| panic!("{e}\n{definition:#}"))
}

/// Mocks of task states from answers of functions and queues: lambda:invoke wraps what a function returns.
fn mocks_of(definition: &Value, functions: &Value, queues: &Value) -> Value {
    let mut mocks = Map::new();
    gather(definition, functions, queues, &mut mocks);
    Value::Object(mocks)
}

fn gather(machine: &Value, functions: &Value, queues: &Value, mocks: &mut Map<String, Value>) {
    for (name, state) in machine["States"].as_object().into_iter().flatten() {
        if let Some(answers) = state["Parameters"]["FunctionName"].as_str().and_then(|function| functions.get(function)) {
            mocks.insert(name.clone(), wrapped(answers));
        } else if state["Resource"].as_str().is_some_and(|resource| resource.ends_with(".waitForTaskToken")) {
            let answers = queues.as_object().and_then(|queues| queues.values().next());
            mocks.extend(answers.map(|answers| (name.clone(), answers.clone())));
        }
        for inner in state["Branches"].as_array().into_iter().flatten().chain([&state["ItemProcessor"], &state["Iterator"]]) {
            gather(inner, functions, queues, mocks);
        }
    }
}

fn wrapped(answers: &Value) -> Value {
    match answers {
        Value::Array(answers) => answers.iter().map(wrapped).collect(),
        one => {
            let mut one = one.clone();
            if let Some(payload) = one.get("Return").cloned() {
                one["Return"] = json!({"Payload": payload, "StatusCode": 200});
            }
            one
        }
    }
}
