//! Answers of tasks that are not there. Two forms are read: the MockConfigFile of Step Functions Local, and a plain one in
//! which each state has an answer, or a list of answers in turn.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::fault::Fault;
use crate::value::kind;

#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Return(Value),
    Throw(Fault),
}

/// What each task state answers, call by call.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Mocks(BTreeMap<String, Vec<Turn>>);

#[derive(Debug, Clone, PartialEq)]
struct Turn {
    first: u64,
    /// None: all further calls.
    last: Option<u64>,
    /// Seconds until the answer.
    delay: i64,
    answer: Answer,
}

/// A file of mocks that cannot be read, with the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct MockError {
    pub place: String,
    pub reason: String,
}

fn wrong<T>(place: impl Into<String>, reason: impl Into<String>) -> Result<T, MockError> {
    Err(MockError { place: place.into(), reason: reason.into() })
}

impl Mocks {
    /// `machine` and `case` choose in a MockConfigFile; each may be left out where there is only one.
    pub fn parse(text: &str, machine: Option<&str>, case: Option<&str>) -> Result<Self, MockError> {
        let value: Value = match serde_json::from_str(text) {
            Ok(value) => value,
            Err(error) => return wrong("/", format!("not JSON: {error}")),
        };
        let Some(object) = value.as_object() else { return wrong("/", format!("this must be an object, not {}", kind(&value))) };
        if object.contains_key("StateMachines") {
            return Self::from_local(object, machine, case);
        }
        if let Some(case) = case {
            return wrong("/", format!("the test case {case} was asked for, and only a file with StateMachines has test cases"));
        }
        let states = object.iter().map(|(name, answers)| Ok((name.clone(), plain(&format!("/{name}"), answers)?)));
        states.collect::<Result<_, _>>().map(Self)
    }

    fn from_local(file: &Map<String, Value>, machine: Option<&str>, case: Option<&str>) -> Result<Self, MockError> {
        let machines = member(file, "", "StateMachines")?;
        let (name, machine) = one(machines, machine, "/StateMachines", "state machine", true)?;
        let place = format!("/StateMachines/{name}");
        let Some(machine) = machine.as_object() else { return wrong(place, "this must be an object") };
        let (name, chosen) = one(member(machine, &place, "TestCases")?, case, &place, "test case", false)?;
        let place = format!("{place}/TestCases/{name}");
        let Some(states) = chosen.as_object() else { return wrong(place, "this must be an object") };
        let empty = Map::new();
        let responses = file.get("MockedResponses").and_then(Value::as_object).unwrap_or(&empty);
        let mut mocks = BTreeMap::new();
        for (state, response) in states {
            let Some(response) = response.as_str() else {
                return wrong(format!("{place}/{state}"), "this must be a name in MockedResponses");
            };
            let Some(turns) = responses.get(response).and_then(Value::as_object) else {
                return wrong(format!("{place}/{state}"), format!("there is no {response} in MockedResponses"));
            };
            let mut read = Vec::new();
            for (range, answer) in turns {
                let place = format!("/MockedResponses/{response}/{range}");
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                let (Ok(first), Ok(last)) = (first.parse(), last.parse()) else {
                    return wrong(place, "calls are numbered \"0\" or \"1-2\"");
                };
                let (delay, answer) = single(&place, answer)?;
                read.push(Turn { first, last: Some(last), delay, answer });
            }
            mocks.insert(state.clone(), read);
        }
        Ok(Self(mocks))
    }

    pub(super) fn answer(&self, state: &str, call: u64) -> Option<(i64, &Answer)> {
        let turns = self.0.get(state)?;
        let turn = turns.iter().find(|turn| turn.first <= call && turn.last.is_none_or(|last| call <= last))?;
        Some((turn.delay, &turn.answer))
    }

    pub(super) fn states(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

fn member<'a>(object: &'a Map<String, Value>, place: &str, name: &str) -> Result<&'a Map<String, Value>, MockError> {
    match object.get(name).and_then(Value::as_object) {
        Some(member) => Ok(member),
        None => wrong(format!("{place}/{name}"), "this must be there, and an object"),
    }
}

/// The one that is named, or the only one. `or_only`: a name that is not there still means the only one.
fn one<'a>(
    all: &'a Map<String, Value>,
    named: Option<&str>,
    place: &str,
    what: &str,
    or_only: bool,
) -> Result<(&'a String, &'a Value), MockError> {
    let mut found = all.iter();
    match (named.and_then(|named| all.get_key_value(named)), found.next(), found.next()) {
        (Some(found), ..) => Ok(found),
        (None, Some(only), None) if named.is_none() || or_only => Ok(only),
        (None, None, _) => wrong(place, format!("there is no {what}")),
        _ => {
            let names: Vec<&str> = all.keys().map(String::as_str).collect();
            wrong(place, format!("which {what}? There are {}; choose one with FILE#NAME", names.join(", ")))
        }
    }
}

fn plain(place: &str, answers: &Value) -> Result<Vec<Turn>, MockError> {
    let list = match answers {
        Value::Array(list) if list.is_empty() => return wrong(place, "the list of answers is empty"),
        Value::Array(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    let mut turns = Vec::new();
    for (index, answer) in (0..).zip(list) {
        let (delay, answer) = single(&format!("{place}/{index}"), answer)?;
        // The last answer is also that to every further call.
        let last = (index + 1 < list.len() as u64).then_some(index);
        turns.push(Turn { first: index, last, delay, answer });
    }
    Ok(turns)
}

fn single(place: &str, answer: &Value) -> Result<(i64, Answer), MockError> {
    let Some(object) = answer.as_object() else { return wrong(place, format!("an answer is an object, not {}", kind(answer))) };
    if let Some(name) = object.keys().find(|name| !["Return", "Throw", "Delay"].contains(&name.as_str())) {
        return wrong(place, format!("an answer has Return or Throw, and perhaps Delay, not {name}"));
    }
    let delay = match object.get("Delay") {
        None => 0,
        Some(delay) => match delay.as_i64().filter(|delay| *delay >= 0) {
            Some(delay) => delay,
            None => return wrong(place, "Delay is a whole number of seconds"),
        },
    };
    match (object.get("Return"), object.get("Throw")) {
        (Some(output), None) => Ok((delay, Answer::Return(output.clone()))),
        (None, Some(thrown)) => {
            let text = |name: &str| thrown.get(name).map(|value| value.as_str().map(str::to_owned)).unwrap_or(Some(String::new()));
            match (text("Error").filter(|error| !error.is_empty()), text("Cause")) {
                (Some(error), Some(cause)) => Ok((delay, Answer::Throw(Fault { error, cause }))),
                _ => wrong(place, "Throw needs the texts Error and Cause"),
            }
        }
        _ => wrong(place, "an answer has either Return or Throw"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_turn_and_the_last_one_stays() {
        let mocks =
            Mocks::parse(r#"{"A": [{"Throw": {"Error": "E"}}, {"Return": 1}], "B": {"Return": 2, "Delay": 9}}"#, None, None).unwrap();
        assert_eq!(mocks.answer("A", 0), Some((0, &Answer::Throw(Fault::new("E", "")))));
        assert_eq!(mocks.answer("A", 1), mocks.answer("A", 7));
        assert_eq!(mocks.answer("B", 3), Some((9, &Answer::Return(2.into()))));
        assert_eq!(mocks.answer("C", 0), None);
    }

    #[test]
    fn the_file_of_step_functions_local_is_read() {
        let text = r#"{"StateMachines": {"M": {"TestCases": {"Happy": {"A": "fine"}, "Sad": {"A": "flaky"}}}},
            "MockedResponses": {"fine": {"0": {"Return": {"x": 1}}}, "flaky": {"0-1": {"Throw": {"Error": "E", "Cause": "c"}}, "2": {"Return": 3}}}}"#;
        let sad = Mocks::parse(text, Some("other"), Some("Sad")).unwrap();
        assert_eq!(sad.answer("A", 1), Some((0, &Answer::Throw(Fault::new("E", "c")))));
        assert_eq!((sad.answer("A", 2), sad.answer("A", 3)), (Some((0, &Answer::Return(3.into()))), None));
        assert!(Mocks::parse(text, None, None).unwrap_err().to_string().contains("Happy, Sad"));
        assert!(Mocks::parse(text, None, Some("Nope")).is_err());
    }

    #[test]
    fn a_wrong_file_is_refused_with_its_place() {
        for (text, words) in [
            ("[", "not JSON"),
            ("[]", "an object"),
            (r#"{"A": 1}"#, "/A/0"),
            (r#"{"A": []}"#, "empty"),
            (r#"{"A": {"Return": 1, "Throw": {"Error": "E"}}}"#, "either"),
            (r#"{"A": {"Throw": {}}}"#, "Error and Cause"),
            (r#"{"A": {"Returns": 1}}"#, "Returns"),
            (r#"{"A": {"Return": 1, "Delay": -1}}"#, "seconds"),
        ] {
            let error = Mocks::parse(text, None, None).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
