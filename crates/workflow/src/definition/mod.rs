//! A state machine as the interpreter needs it: one type per state, every path and call already read.
//! `read.rs` makes it from JSON, `lint.rs` looks at what is well-formed and still wrong.

mod choice;
mod json;
mod lint;
mod places;
mod portable;
mod read;

use std::collections::HashMap;

use serde_json::Value;

pub(crate) use choice::timestamp;
pub use choice::{Comparator, Condition, Operand, Rule};

use crate::path::Path;
use crate::template::{Expression, Template};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The definition is refused.
    Error,
    /// Not every engine runs it alike, or it is probably not meant.
    Warning,
}

/// What is wrong with a definition, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    /// A short name that does not change, such as `unknown-field`.
    pub rule: &'static str,
    /// JSON pointer into the definition (RFC 6901).
    pub pointer: String,
    pub message: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let severity = if self.severity == Severity::Error { "error" } else { "warning" };
        let place = if self.pointer.is_empty() { "/" } else { &self.pointer };
        write!(f, "{place}: {severity}: {} [{}]", self.message, self.rule)
    }
}

/// A definition that was refused, with all reasons.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the definition is not valid: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Refused(pub Vec<Finding>);

/// Everything that is wrong or doubtful in a definition, errors first.
pub fn lint(text: &str) -> Vec<Finding> {
    let mut findings = match json::parse(text) {
        Err(findings) => findings,
        Ok(value) => {
            let (machine, mut findings) = read::definition(&value);
            if let Some(machine) = machine {
                lint::machine(&machine, &mut findings);
                portable::machine(&machine, &value, &mut findings);
            }
            findings
        }
    };
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// A machine at the top, in a Parallel branch, or in a Map.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    pub(crate) pointer: String,
    pub comment: Option<String>,
    pub start_at: String,
    /// In the order of the text.
    pub states: Vec<State>,
    pub(crate) by_name: HashMap<String, usize>,
    pub timeout_seconds: Option<u64>,
    /// A Map's machine whose items are executions of their own on AWS.
    pub distributed: bool,
}

impl Machine {
    /// Reads and checks a definition; warnings do not refuse it.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let value = json::parse(text).map_err(Refused)?;
        let (machine, mut findings) = read::definition(&value);
        if let Some(machine) = &machine {
            lint::machine(machine, &mut findings);
        }
        findings.retain(|finding| finding.severity == Severity::Error);
        match machine {
            Some(machine) if findings.is_empty() => Ok(machine),
            _ => Err(Refused(findings)),
        }
    }

    pub fn state(&self, name: &str) -> Option<&State> {
        self.by_name.get(name).and_then(|index| self.states.get(*index))
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct State {
    pub name: String,
    pub(crate) pointer: String,
    pub comment: Option<String>,
    pub kind: Kind,
    pub input_path: Selection,
    pub output_path: Selection,
    pub parameters: Option<Template>,
    pub result_selector: Option<Template>,
    pub result_path: Selection,
    pub retry: Vec<Retrier>,
    pub catch: Vec<Catcher>,
    /// None where the state ends its machine, or is of a kind that names its successors elsewhere.
    pub next: Option<String>,
    pub end: bool,
}

/// A path, or `null`.
#[derive(Debug, Clone, PartialEq)]
pub enum Selection {
    Path(Path),
    /// `null`: an empty object for InputPath and OutputPath, no place at all for ResultPath.
    Nothing,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Task(Task),
    Choice { rules: Vec<Rule>, default: Option<String> },
    Wait(Wait),
    Pass { result: Option<Value> },
    Parallel { branches: Vec<Machine> },
    Map(Box<Map>),
    Succeed,
    Fail { error: Option<Words>, cause: Option<Words> },
}

impl Kind {
    /// The value of `Type`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Task(_) => "Task",
            Self::Choice { .. } => "Choice",
            Self::Wait(_) => "Wait",
            Self::Pass { .. } => "Pass",
            Self::Parallel { .. } => "Parallel",
            Self::Map(_) => "Map",
            Self::Succeed => "Succeed",
            Self::Fail { .. } => "Fail",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    pub resource: Resource,
    pub timeout: Option<Amount>,
    pub heartbeat: Option<Amount>,
}

/// What a Task asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// The whole ARN, as written.
    pub arn: String,
    /// `lambda`, `sqs`, `states` …; the service of a plain ARN otherwise.
    pub service: String,
    /// `invoke`, `sendMessage` …; what follows the service otherwise.
    pub action: String,
    /// `.waitForTaskToken`: the answer comes from whoever is given the token.
    pub waits_for_token: bool,
    /// An optimised integration (`arn:aws:states:::…`), or the function, activity or other thing itself.
    pub integration: bool,
}

/// A number in the definition, or where to find it.
#[derive(Debug, Clone, PartialEq)]
pub enum Amount {
    Fixed(u64),
    Path(Path),
}

/// A text in the definition, or where to find it.
#[derive(Debug, Clone, PartialEq)]
pub enum Words {
    Fixed(String),
    Expression(Expression),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Wait {
    Seconds(u64),
    SecondsPath(Path),
    Timestamp(jiff::Timestamp),
    TimestampPath(Path),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Map {
    pub items_path: Path,
    pub item_selector: Option<Template>,
    pub processor: Machine,
    /// 0 is no limit of its own.
    pub max_concurrency: Amount,
    pub tolerated_count: Option<Amount>,
    pub tolerated_percentage: Option<Amount>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Retrier {
    pub errors: Vec<String>,
    pub interval_seconds: u64,
    pub max_attempts: u64,
    pub backoff_rate: f64,
    pub max_delay_seconds: Option<u64>,
    pub full_jitter: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Catcher {
    pub errors: Vec<String>,
    pub result_path: Selection,
    pub next: String,
}
