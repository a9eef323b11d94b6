//! Reading one JSON object of a definition field by field: what is missing, of the wrong kind or unknown becomes a finding
//! with its place, and reading goes on.

use std::cell::RefCell;
use std::collections::HashSet;

use serde_json::{Map, Value};

use super::json::below;
use super::{Amount, Finding, Selection, Severity, Words};
use crate::path::Path;
use crate::template::{Expression, Template};
use crate::value;

/// Where findings are gathered. A definition that is wrong everywhere is not listed to its end.
const MAX_FINDINGS: usize = 1000;

#[derive(Debug, Default)]
pub struct Findings(RefCell<Vec<Finding>>);

impl Findings {
    pub fn error(&self, rule: &'static str, pointer: impl Into<String>, message: impl Into<String>) {
        let mut findings = self.0.borrow_mut();
        if findings.len() < MAX_FINDINGS {
            findings.push(Finding { severity: Severity::Error, rule, pointer: pointer.into(), message: message.into() });
        }
    }

    pub fn into_vec(self) -> Vec<Finding> {
        self.0.into_inner()
    }
}

/// One object; `finish` says which of its fields nobody asked for.
#[derive(Debug)]
pub struct Fields<'a> {
    pub object: &'a Map<String, Value>,
    pub pointer: String,
    pub findings: &'a Findings,
    asked: RefCell<HashSet<&'static str>>,
}

impl<'a> Fields<'a> {
    pub fn of(value: &'a Value, pointer: &str, findings: &'a Findings) -> Option<Self> {
        let Some(object) = value.as_object() else {
            findings.error("wrong-type", pointer, format!("this must be an object, not {}", value::kind(value)));
            return None;
        };
        Some(Self { object, pointer: pointer.to_owned(), findings, asked: RefCell::default() })
    }

    pub fn place(&self, name: &str) -> String {
        below(&self.pointer, name)
    }

    pub fn has(&self, name: &str) -> bool {
        self.object.contains_key(name)
    }

    pub fn get(&self, name: &'static str) -> Option<&'a Value> {
        self.asked.borrow_mut().insert(name);
        self.object.get(name)
    }

    pub fn error(&self, rule: &'static str, name: &str, message: impl Into<String>) {
        let pointer = if name.is_empty() { self.pointer.clone() } else { self.place(name) };
        self.findings.error(rule, pointer, message);
    }

    pub fn missing(&self, name: &'static str) {
        self.error("missing-field", "", format!("the field {name} is missing"));
    }

    /// A field whose value `read` understands; otherwise a finding that says what was `wanted`.
    fn read<T>(&self, name: &'static str, wanted: &str, read: impl Fn(&'a Value) -> Option<T>) -> Option<T> {
        let value = self.get(name)?;
        let found = read(value);
        if found.is_none() {
            let shown = match value {
                Value::Number(_) | Value::Bool(_) => value.to_string(),
                other => value::kind(other).to_owned(),
            };
            self.error("wrong-type", name, format!("{name} must be {wanted}, not {shown}"));
        }
        found
    }

    pub fn text(&self, name: &'static str) -> Option<&'a str> {
        self.read(name, "a text", Value::as_str)
    }

    pub fn boolean(&self, name: &'static str) -> Option<bool> {
        self.read(name, "true or false", Value::as_bool)
    }

    pub fn array(&self, name: &'static str) -> Option<&'a Vec<Value>> {
        self.read(name, "an array", Value::as_array)
    }

    pub fn whole(&self, name: &'static str, least: u64, most: u64) -> Option<u64> {
        let wanted = format!("a whole number from {least} to {most}");
        self.read(name, &wanted, |value| value.as_u64().filter(|number| (least..=most).contains(number)))
    }

    pub fn number(&self, name: &'static str, least: f64) -> Option<f64> {
        self.read(name, &format!("a number of at least {least}"), |value| value.as_f64().filter(|number| *number >= least))
    }

    pub fn path(&self, name: &'static str) -> Option<Path> {
        let text = self.text(name)?;
        Path::parse(text).map_err(|error| self.error("bad-path", name, format!("{text:?} is {error}"))).ok()
    }

    /// A path that names one place of the data; ResultPath may be nothing else.
    pub fn reference(&self, name: &'static str) -> Option<Path> {
        let path = self.path(name)?;
        if path.is_reference() {
            return Some(path);
        }
        let message = format!("{path} is not a reference path: it must name one place of the input by fields and indexes");
        self.error("not-a-reference-path", name, message);
        None
    }

    /// A path or null; `$` where nothing is given.
    pub fn selection(&self, name: &'static str, reference: bool) -> Selection {
        match self.get(name) {
            Some(Value::Null) => Selection::Nothing,
            Some(_) => {
                let path = if reference { self.reference(name) } else { self.path(name) };
                Selection::Path(path.unwrap_or_else(Path::whole))
            }
            None => Selection::Path(Path::whole()),
        }
    }

    pub fn template(&self, name: &'static str) -> Option<Template> {
        let value = self.get(name)?;
        let mut wrong = |pointer: String, message: String| self.findings.error("bad-template", pointer, message);
        Some(Template::read(value, &self.place(name), &mut wrong))
    }

    /// `name` or `name_path`, never both.
    pub fn amount(&self, name: &'static str, path: &'static str, least: u64, most: u64) -> Option<Amount> {
        let (fixed, path_there) = (self.whole(name, least, most), self.has(path));
        if self.has(name) && path_there {
            self.error("contradiction", path, format!("{name} and {path} exclude each other"));
        }
        match fixed {
            Some(fixed) => Some(Amount::Fixed(fixed)),
            None => self.path(path).map(Amount::Path),
        }
    }

    pub fn words(&self, name: &'static str, path: &'static str) -> Option<Words> {
        let (fixed, expression) = (self.text(name), self.text(path));
        if fixed.is_some() && expression.is_some() {
            self.error("contradiction", path, format!("{name} and {path} exclude each other"));
        }
        match (fixed, expression) {
            (Some(fixed), _) => Some(Words::Fixed(fixed.to_owned())),
            (None, Some(text)) => match Expression::parse(text) {
                Ok(expression) => Some(Words::Expression(expression)),
                Err(error) => {
                    self.error("bad-path", path, error.to_string());
                    None
                }
            },
            (None, None) => None,
        }
    }

    /// Fields that are refused by name, with the reason.
    pub fn refuse(&self, name: &'static str, reason: &str) {
        if self.get(name).is_some() {
            self.error("not-supported", name, format!("{name} is not supported: {reason}"));
        }
    }

    pub fn finish(self, of: &str) {
        let asked = self.asked.borrow();
        for name in self.object.keys().filter(|name| !asked.contains(name.as_str())) {
            let near = asked.iter().find(|known| known.eq_ignore_ascii_case(name));
            let hint = near.map_or(String::new(), |known| format!(": did you mean {known}?"));
            self.error("unknown-field", name, format!("{of} has no field {name}{hint}"));
        }
    }
}
