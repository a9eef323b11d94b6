//! What is well-formed and still wrong: successors that do not exist, states nobody reaches, ends that never come,
//! catchers in the wrong order.

use std::collections::HashSet;

use super::{Finding, Kind, Machine, Severity, State};
use crate::fault;

/// "The state name must be less than or equal to 80 characters in length."
const MAX_NAME: usize = 80;

pub(super) fn machine(machine: &Machine, findings: &mut Vec<Finding>) {
    let mut names = HashSet::new();
    walk(machine, &mut names, findings);
}

fn push(findings: &mut Vec<Finding>, severity: Severity, rule: &'static str, pointer: &str, message: String) {
    findings.push(Finding { severity, rule, pointer: pointer.to_owned(), message });
}

impl State {
    /// Every state that may follow, and where that is written below the state's own pointer.
    pub(crate) fn successors(&self) -> Vec<(&str, String)> {
        let mut all: Vec<(&str, String)> = Vec::new();
        all.extend(self.next.iter().map(|next| (next.as_str(), "/Next".to_owned())));
        all.extend(self.catch.iter().enumerate().map(|(index, catcher)| (catcher.next.as_str(), format!("/Catch/{index}/Next"))));
        if let Kind::Choice { rules, default } = &self.kind {
            all.extend(rules.iter().enumerate().map(|(index, rule)| (rule.next.as_str(), format!("/Choices/{index}/Next"))));
            all.extend(default.iter().map(|default| (default.as_str(), "/Default".to_owned())));
        }
        all
    }

    /// The machines inside a Parallel or Map state.
    pub(crate) fn machines(&self) -> Vec<&Machine> {
        match &self.kind {
            Kind::Parallel { branches } => branches.iter().collect(),
            Kind::Map(map) => vec![&map.processor],
            _ => Vec::new(),
        }
    }

    fn is_terminal(&self) -> bool {
        self.end || matches!(self.kind, Kind::Succeed | Kind::Fail { .. })
    }
}

fn walk<'a>(machine: &'a Machine, names: &mut HashSet<&'a str>, findings: &mut Vec<Finding>) {
    let error = Severity::Error;
    if machine.state(&machine.start_at).is_none() && !machine.states.is_empty() {
        let message = format!("StartAt names {:?}, which is not among the states", machine.start_at);
        push(findings, error, "unknown-state", &format!("{}/StartAt", machine.pointer), message);
    }
    for state in &machine.states {
        if state.name.chars().count() > MAX_NAME {
            push(findings, error, "long-name", &state.pointer, format!("a state's name has at most {MAX_NAME} characters"));
        }
        if !names.insert(&state.name) {
            let message = format!("another machine of this definition has a state {:?} too; names are unique in the whole", state.name);
            push(findings, error, "duplicate-state", &state.pointer, message);
        }
        for (next, place) in state.successors() {
            if machine.state(next).is_none() {
                let message = format!("{next:?} is not among the states of this machine");
                push(findings, error, "unknown-state", &format!("{}{place}", state.pointer), message);
            }
        }
        if let Kind::Task(task) = &state.kind
            && task.resource.waits_for_token
            && !hands_out_token(state)
        {
            let message = "nobody is given the token: $$.Task.Token is not in Parameters, so no answer can come".to_owned();
            push(findings, Severity::Warning, "token-lost", &format!("{}/Parameters", state.pointer), message);
        }
        if let Kind::Choice { default: None, .. } = &state.kind {
            let message = "without Default an input that no rule matches ends in States.NoChoiceMatched".to_owned();
            push(findings, Severity::Warning, "no-default", &state.pointer, message);
        }
        handlers(state, "Retry", &state.retry.iter().map(|retrier| &retrier.errors[..]).collect::<Vec<_>>(), findings);
        handlers(state, "Catch", &state.catch.iter().map(|catcher| &catcher.errors[..]).collect::<Vec<_>>(), findings);
        state.machines().into_iter().for_each(|inner| walk(inner, names, findings));
    }
    reachable(machine, findings);
}

fn hands_out_token(state: &State) -> bool {
    let mut paths = Vec::new();
    state.parameters.iter().for_each(|template| template.paths(&mut paths));
    paths.iter().any(|path| ["$$", "$$.Task", "$$.Task.Token"].contains(&path.to_string().as_str()))
}

/// Which states can be reached, and from which of them no end can.
fn reachable(machine: &Machine, findings: &mut Vec<Finding>) {
    let mut reached: HashSet<&str> = HashSet::new();
    let mut open = vec![machine.start_at.as_str()];
    while let Some(name) = open.pop() {
        if let Some(state) = machine.state(name)
            && reached.insert(&state.name)
        {
            open.extend(state.successors().into_iter().map(|(next, _)| next));
        }
    }
    let mut ending: HashSet<&str> = machine.states.iter().filter(|state| state.is_terminal()).map(|state| state.name.as_str()).collect();
    // Backwards, because most states lead to one that is written later: one round is mostly enough.
    let mut known = 0;
    while known < ending.len() {
        known = ending.len();
        for state in machine.states.iter().rev() {
            if state.successors().iter().any(|(next, _)| ending.contains(next)) {
                ending.insert(&state.name);
            }
        }
    }
    for state in &machine.states {
        if machine.state(&machine.start_at).is_some() && !reached.contains(state.name.as_str()) {
            push(findings, Severity::Error, "unreachable", &state.pointer, format!("nothing leads to the state {:?}", state.name));
        } else if !ending.contains(state.name.as_str()) {
            push(findings, Severity::Error, "no-end", &state.pointer, format!("from the state {:?} no end can be reached", state.name));
        }
    }
}

/// Order and names of what a Retry or Catch lists.
fn handlers(state: &State, field: &str, lists: &[&[String]], findings: &mut Vec<Finding>) {
    let mut seen: HashSet<&str> = HashSet::new();
    for (index, names) in lists.iter().enumerate() {
        let place = format!("{}/{field}/{index}/ErrorEquals", state.pointer);
        if names.iter().any(|name| name == fault::ALL) {
            if names.len() > 1 {
                push(findings, Severity::Error, "all-alone", &place, "States.ALL must stand alone in its list".into());
            }
            if index + 1 < lists.len() {
                push(findings, Severity::Error, "all-last", &place, format!("States.ALL must be in the last entry of {field}"));
            }
        }
        for name in names.iter() {
            if name.starts_with("States.") && !fault::RESERVED.contains(&name.as_str()) {
                push(
                    findings,
                    Severity::Error,
                    "unknown-error",
                    &place,
                    format!("there is no error {name}; names in States. are reserved"),
                );
            }
            if name == fault::RUNTIME {
                push(findings, Severity::Warning, "never-caught", &place, "States.Runtime always ends the execution".into());
            }
            if !seen.insert(name) {
                push(findings, Severity::Warning, "named-twice", &place, format!("{name} stands in an earlier entry, which wins"));
            }
        }
    }
}
