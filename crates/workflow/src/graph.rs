//! A definition as a Mermaid flowchart: states as nodes, machines inside Parallel and Map states as subgraphs.

use std::collections::HashMap;
use std::fmt::Write;

use crate::definition::{Condition, Kind, Machine, Operand, State};

/// Longer conditions are cut: the definition has them whole.
const LONGEST_LABEL: usize = 60;

pub fn mermaid(machine: &Machine) -> String {
    let mut drawing = Drawing { text: "flowchart TD\n".into(), nodes: 0 };
    drawing.machine(machine, 1);
    drawing.text
}

struct Drawing {
    text: String,
    nodes: usize,
}

impl Drawing {
    fn line(&mut self, depth: usize, text: &str) {
        let _ = writeln!(self.text, "{}{text}", "    ".repeat(depth));
    }

    fn id(&mut self) -> String {
        self.nodes += 1;
        format!("n{}", self.nodes)
    }

    fn machine(&mut self, machine: &Machine, depth: usize) {
        let ids: HashMap<&str, String> = machine.states.iter().map(|state| (state.name.as_str(), self.id())).collect();
        let (begin, end) = (self.id(), self.id());
        self.line(depth, &format!("{begin}((\"start\")) --> {}", ids.get(machine.start_at.as_str()).unwrap_or(&end)));
        for state in &machine.states {
            self.state(state, &ids[state.name.as_str()], depth);
        }
        let mut ends = false;
        for state in &machine.states {
            let from = &ids[state.name.as_str()];
            for (to, label, dotted) in edges(state) {
                let Some(to) = ids.get(to) else { continue };
                let arrow = if dotted { "-.->" } else { "-->" };
                let label = if label.is_empty() { String::new() } else { format!("|\"{}\"|", escaped(&label)) };
                self.line(depth, &format!("{from} {arrow}{label} {to}"));
            }
            if state.end || matches!(state.kind, Kind::Succeed) {
                self.line(depth, &format!("{from} --> {end}"));
                ends = true;
            }
        }
        if ends {
            self.line(depth, &format!("{end}(((\"end\")))"));
        }
    }

    fn state(&mut self, state: &State, id: &str, depth: usize) {
        let name = escaped(&state.name);
        match &state.kind {
            Kind::Choice { .. } => self.line(depth, &format!("{id}{{\"{name}\"}}")),
            Kind::Wait(_) => self.line(depth, &format!("{id}[/\"{name}\"/]")),
            Kind::Succeed => self.line(depth, &format!("{id}([\"{name}\"])")),
            Kind::Fail { .. } => self.line(depth, &format!("{id}[[\"{name}\"]]")),
            Kind::Pass { .. } => self.line(depth, &format!("{id}(\"{name}\")")),
            Kind::Task(_) => self.line(depth, &format!("{id}[\"{name}\"]")),
            Kind::Parallel { .. } | Kind::Map(_) => {
                self.line(depth, &format!("subgraph {id}[\"{}: {name}\"]", state.kind.name()));
                let machines = state.machines();
                let several = machines.len() > 1;
                for (index, inner) in machines.into_iter().enumerate() {
                    if several {
                        let branch = self.id();
                        self.line(depth + 1, &format!("subgraph {branch}[\"branch {}\"]", index + 1));
                        self.machine(inner, depth + 2);
                        self.line(depth + 1, "end");
                    } else {
                        self.machine(inner, depth + 1);
                    }
                }
                self.line(depth, "end");
            }
        }
    }
}

/// Where a state leads, with a label, and whether it is an error that leads there.
fn edges(state: &State) -> Vec<(&str, String, bool)> {
    let mut edges: Vec<(&str, String, bool)> = state.next.iter().map(|next| (next.as_str(), String::new(), false)).collect();
    if let Kind::Choice { rules, default } = &state.kind {
        edges.extend(rules.iter().map(|rule| (rule.next.as_str(), label(&rule.condition), false)));
        edges.extend(default.iter().map(|default| (default.as_str(), "otherwise".to_owned(), false)));
    }
    edges.extend(state.catch.iter().map(|catcher| (catcher.next.as_str(), catcher.errors.join(", "), true)));
    edges
}

fn label(condition: &Condition) -> String {
    let text = written(condition, 0);
    match text.char_indices().nth(LONGEST_LABEL) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn written(condition: &Condition, depth: usize) -> String {
    if depth > 3 {
        return "…".into();
    }
    let joined = |conditions: &[Condition], word: &str| {
        conditions.iter().take(8).map(|inner| written(inner, depth + 1)).collect::<Vec<_>>().join(&format!(" {word} "))
    };
    match condition {
        Condition::All(conditions) => joined(conditions, "and"),
        Condition::Any(conditions) => joined(conditions, "or"),
        Condition::Not(inner) => format!("not ({})", written(inner, depth + 1)),
        Condition::Is { variable, what, wanted } => {
            format!("{variable} is {}{}", if *wanted { "" } else { "not " }, format!("{what:?}").to_lowercase())
        }
        Condition::Compare { variable, comparator, operand } => {
            use crate::definition::Comparator;
            let sign = match comparator {
                Comparator::Equals => "=",
                Comparator::LessThan => "<",
                Comparator::LessThanEquals => "≤",
                Comparator::GreaterThan => ">",
                Comparator::GreaterThanEquals => "≥",
                Comparator::Matches => "matches",
            };
            let operand = match operand {
                Operand::Text(text) => text.clone(),
                Operand::Number(number) => number.to_string(),
                Operand::Boolean(value) => value.to_string(),
                Operand::Timestamp(moment) => moment.to_string(),
                Operand::TextAt(path) | Operand::NumberAt(path) | Operand::BooleanAt(path) | Operand::TimestampAt(path) => path.to_string(),
            };
            format!("{variable} {sign} {operand}")
        }
    }
}

/// Nothing of a name may end the label or draw anything.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            c if c.is_alphanumeric() || " .,:_-…≤≥()$=*'/@?!%+[]".contains(c) => escaped.push(c),
            c if c.is_control() => escaped.push(' '),
            c => {
                let _ = write!(escaped, "#{};", u32::from(c));
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_end_its_label() {
        let text = r#"{"StartAt": "a\"]; click b \"x", "States": {"a\"]; click b \"x": {"Type": "Succeed"}}}"#;
        let drawing = mermaid(&Machine::parse(text).unwrap());
        assert!(drawing.contains("([\"a#34;]#59; click b #34;x\"])"), "{drawing}");
    }
}
