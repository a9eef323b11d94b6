//! The same cases on our interpreter, on moto and on MiniStack. Where another engine disagrees, the case says which, and
//! carries the sentence of the documentation that decides, or "not documented:" where none does.

use std::collections::HashMap;

use super::engines::Engine;
use super::{mocks_of, try_out};
use serde_json::{Value, json};

/// Whose word decides: AWS's documentation, and the specification of the language where that says nothing.
const AUTHORITIES: [&str; 2] = ["https://docs.aws.amazon.com/", "https://states-language.net/spec.html"];

fn cases() -> Vec<Value> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let read = |file| -> Vec<Value> { serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap() };
    files.into_iter().flat_map(read).collect()
}

/// What must be so of what came out: every member of `expect`.
fn differs(expect: &Value, seen: &Value) -> Option<String> {
    let wrong = expect.as_object().unwrap().iter().find(|(name, value)| seen.get(name.as_str()) != Some(value))?;
    let mut shown = seen.to_string();
    shown.truncate(shown.char_indices().nth(300).map_or(shown.len(), |(end, _)| end));
    Some(format!("{} is not {}: {shown}", wrong.0, wrong.1))
}

#[test]
fn our_interpreter_does_what_every_case_says() {
    let cases = cases();
    assert!(cases.len() >= 80, "{}", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let mocks = mocks_of(&case["definition"], &case["functions"], &case["queues"]);
        let input = case.get("input").cloned().unwrap_or(json!({}));
        let outcome = try_out(&case["definition"], input, &mocks).outcome();
        wrong.extend(differs(&case["expect"], &outcome).map(|difference| format!("{}: {difference}", case["name"])));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let names: std::collections::HashSet<_> = cases.iter().map(|case| case["name"].to_string()).collect();
    assert_eq!(names.len(), cases.len(), "names are unique");
}

#[test]
fn two_other_engines_agree_or_the_documentation_decides_against_them() {
    let cases = cases();
    let run = |engine: Engine| engine.run(&cases);
    let (moto, ministack) = std::thread::scope(|scope| {
        let moto = scope.spawn(|| run(Engine::Moto));
        let ministack = run(Engine::MiniStack);
        (moto.join().unwrap(), ministack)
    });
    let mut wrong = Vec::new();
    let mut agreeing: HashMap<&str, usize> = HashMap::new();
    for (case, (moto, ministack)) in cases.iter().zip(moto.iter().zip(&ministack)) {
        let mut all = true;
        for (engine, ended) in [(Engine::Moto, moto), (Engine::MiniStack, ministack)] {
            assert_eq!(ended["name"], case["name"]);
            let disagrees = &case["disagrees"];
            let expected = disagrees["engines"].as_array().into_iter().flatten().any(|name| *name == json!(engine.name()));
            match (differs(&case["expect"], ended), expected) {
                (None, false) => *agreeing.entry(engine.name()).or_default() += 1,
                (Some(_), true) => {
                    all = false;
                    let cited = disagrees["sentence"].as_str().is_some_and(|sentence| sentence.len() > 20);
                    let page = disagrees["page"].as_str().unwrap_or_default();
                    let page = AUTHORITIES.iter().any(|authority| page.starts_with(authority));
                    assert!(cited && page, "{} gives no reason", case["name"]);
                }
                (Some(difference), false) => wrong.push(format!("{} on {}: {difference}", case["name"], engine.name())),
                (None, true) => wrong.push(format!("{} on {}: agrees, and the case says it does not", case["name"], engine.name())),
            }
        }
        *agreeing.entry("both").or_default() += usize::from(all);
    }
    println!("{} cases; agreeing: {agreeing:?}", cases.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(agreeing["both"] >= 60, "{agreeing:?}");
}
