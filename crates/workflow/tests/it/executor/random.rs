//! Random definitions and answers on the executor, with deaths, failed writes and clocks that are set: the model is the
//! interpreter alone, which has none of these.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use workflow::trial::{Mocks, run};
use workflow::{Machine, Status};

use super::kills::{Played, Scene, Trouble, play, runtime};
use super::world::{Even, Mishap, gist};
use crate::properties::{answers, data, named, states, task_names};
use crate::{began, start, wrapped};

fn mishap() -> impl Strategy<Value = Mishap> {
    prop::sample::select(vec![Mishap::DiesBefore, Mishap::DiesAfter, Mishap::Fails, Mishap::Unanswered])
}

fn trouble() -> impl Strategy<Value = Trouble> {
    let write = || prop::option::of((0..12_usize, mishap()));
    let clock = prop::option::of((1..4_usize, prop::sample::select(vec![3600, -3600, 60, -60, 86_400])));
    (write(), write(), prop::option::of(1..5_usize), prop::option::of(1..5_usize), clock).prop_map(
        |(write, second, killed_at_rest, shut_down_at_rest, clock_set_at_rest)| Trouble {
            write,
            second,
            killed_at_rest,
            shut_down_at_rest,
            clock_set_at_rest,
        },
    )
}

/// A definition whose outcome depends on nothing but answers: no context object, in which times are, and no answer in the very
/// second of a timeout.
fn scene(machine: &Value, input: Value, answers: &[Value]) -> Option<Scene> {
    let mut definition = named(machine, "s");
    let text = definition.to_string().replace("$$", "$");
    definition = serde_json::from_str(&text).unwrap();
    odd_timeouts(&mut definition);
    Machine::parse(&definition.to_string()).ok()?;
    let mut tasks = Vec::new();
    task_names(&definition, &mut tasks);
    let even = |answer: &Value| {
        let mut answer = answer.clone();
        if let Some(delay) = answer.get("Delay").and_then(Value::as_u64) {
            answer["Delay"] = json!(delay / 2 * 2);
        }
        answer
    };
    let answers: Vec<Value> = answers.iter().map(even).collect();
    let script: Map<String, Value> = tasks.into_iter().map(|name| (name, json!(answers))).collect();
    Some(Scene { name: "random", definition, input, script: Value::Object(script), ..Scene::default() })
}

fn odd_timeouts(value: &mut Value) {
    if let Some(seconds) = value.get("TimeoutSeconds").and_then(Value::as_u64) {
        value["TimeoutSeconds"] = json!(seconds | 1);
    }
    match value {
        Value::Array(items) => items.iter_mut().for_each(odd_timeouts),
        Value::Object(fields) => fields.values_mut().for_each(odd_timeouts),
        _ => {}
    }
}

fn alone(scene: &Scene) -> (Status, Vec<String>) {
    let answers = scene.script.as_object().unwrap().iter().map(|(state, answers)| (state.clone(), wrapped(answers)));
    let mocks = Mocks::parse(&Value::Object(answers.collect()).to_string(), None, None).unwrap();
    let machine = Machine::parse(&scene.definition.to_string()).unwrap();
    let trial = run(&machine, start(scene.input.clone()), &mocks, began(), &mut Even).unwrap();
    (trial.status, gist(&trial.history))
}

/// The write that something happens to is one of those that there are.
fn played(scene: &Scene, trouble: Trouble) -> Played {
    runtime().block_on(async {
        let writes = play(scene, Trouble::default()).await.labels.len();
        let write = trouble.write.map(|(at, mishap)| (at % writes, mishap));
        play(scene, Trouble { write, ..trouble }).await
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() })]

    // Mutations that turn it red: the answer of a task is given without its effects, or they are written in a commit of their
    // own; a step is not looked up after a write that failed; commands are carried out before their step is written; the tasks
    // of an execution are not started again.
    #[test]
    fn whatever_dies_and_fails_states_in_a_row_end_as_the_interpreter_alone_ends_them(
        machine in states(0), input in data(), answers in answers(), trouble in trouble()
    ) {
        let Some(scene) = scene(&machine, input, &answers) else { return Ok(()) };
        let (status, gist) = alone(&scene);
        let ended = played(&scene, trouble);
        prop_assert_eq!((&ended.status, &ended.gist), (&status, &gist), "{:?}", trouble);
    }

    // What runs beside each other may end in another order when it is started again, and so fail at another place: only the
    // books must be right, which `play` looks into. Mutations: the same.
    #[test]
    fn whatever_dies_and_fails_branches_and_items_end_once_and_their_books_are_right(
        machine in states(1), input in data(), answers in answers(), trouble in trouble()
    ) {
        let Some(scene) = scene(&machine, input, &answers) else { return Ok(()) };
        prop_assert_ne!(played(&scene, trouble).status, Status::Running);
    }
}
