//! The condition of a path's `[?(…)]`: comparisons, existence, `in`, and their combinations.

use std::cmp::Ordering;
use std::fmt;

use serde_json::Value;

use crate::cursor::Cursor;
use crate::path::{Found, Path, PathError, Step, quote, write_steps};
use crate::value;

const MAX_DEPTH: usize = 32;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Filter {
    Any(Vec<Filter>),
    All(Vec<Filter>),
    Not(Box<Filter>),
    Exists(Operand),
    Compare(Operand, Comparison, Operand),
    In(Operand, bool, Vec<Value>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

/// Longer signs first, so that `<=` is not read as `<`.
const SIGNS: &[(&str, Comparison)] = &[
    ("==", Comparison::Equal),
    ("!=", Comparison::NotEqual),
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
];

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operand {
    /// `@…`, from the item that is looked at.
    Here(Vec<Step>),
    /// `$…`, from the root of the data.
    Root(Path),
    Literal(Value),
}

/// What a filter sees: one item, and the data in which it lies.
#[derive(Debug)]
pub(crate) struct Outlook<'a> {
    pub here: &'a Value,
    pub root: &'a Value,
}

impl Filter {
    pub(crate) fn read(cursor: &mut Cursor) -> Result<Self, PathError> {
        cursor.depth += 1;
        if cursor.depth > MAX_DEPTH {
            return Err(cursor.error(format!("filters are nested more than {MAX_DEPTH} deep")));
        }
        let mut any = vec![Self::all(cursor)?];
        loop {
            cursor.spaces();
            if !cursor.take("||") {
                break;
            }
            any.push(Self::all(cursor)?);
        }
        cursor.depth -= 1;
        Ok(if any.len() == 1 { any.remove(0) } else { Self::Any(any) })
    }

    fn all(cursor: &mut Cursor) -> Result<Self, PathError> {
        let mut all = vec![Self::one(cursor)?];
        loop {
            cursor.spaces();
            if !cursor.take("&&") {
                break;
            }
            all.push(Self::one(cursor)?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Self::All(all) })
    }

    fn one(cursor: &mut Cursor) -> Result<Self, PathError> {
        cursor.spaces();
        if cursor.take("!") {
            cursor.depth += 1;
            if cursor.depth > MAX_DEPTH {
                return Err(cursor.error(format!("filters are nested more than {MAX_DEPTH} deep")));
            }
            let inner = Self::one(cursor)?;
            cursor.depth -= 1;
            return Ok(Self::Not(Box::new(inner)));
        }
        if cursor.take("(") {
            let inner = Self::read(cursor)?;
            cursor.spaces();
            cursor.expect(")")?;
            return Ok(inner);
        }
        let left = Operand::read(cursor)?;
        cursor.spaces();
        if let Some((_, comparison)) = SIGNS.iter().find(|(sign, _)| cursor.take(sign)) {
            cursor.spaces();
            return Ok(Self::Compare(left, *comparison, Operand::read(cursor)?));
        }
        let word = cursor.while_matches(|c| c.is_ascii_alphabetic() || c == '=' || c == '~');
        match word.as_str() {
            "" => match left {
                Operand::Literal(_) => Err(cursor.error("a comparison is missing")),
                path => Ok(Self::Exists(path)),
            },
            "in" | "nin" => {
                cursor.spaces();
                cursor.expect("[")?;
                let mut list = Vec::new();
                loop {
                    cursor.spaces();
                    if cursor.take("]") {
                        return Ok(Self::In(left, word == "in", list));
                    }
                    if !list.is_empty() {
                        cursor.expect(",")?;
                        cursor.spaces();
                    }
                    list.push(literal(cursor)?);
                }
            }
            other => Err(cursor.error(format!("the operator {other} is not supported"))),
        }
    }

    pub(crate) fn matches(&self, outlook: &Outlook<'_>) -> bool {
        match self {
            Self::Any(filters) => filters.iter().any(|filter| filter.matches(outlook)),
            Self::All(filters) => filters.iter().all(|filter| filter.matches(outlook)),
            Self::Not(filter) => !filter.matches(outlook),
            Self::Exists(operand) => operand.value(outlook).is_some(),
            Self::In(operand, wanted, list) => {
                let value = operand.value(outlook);
                value.is_some_and(|found| list.iter().any(|item| value::equal(item, &found)) == *wanted)
            }
            Self::Compare(left, comparison, right) => match (left.value(outlook), right.value(outlook)) {
                (Some(left), Some(right)) => comparison.holds(&left, &right),
                (None, None) => false,
                _ => *comparison == Comparison::NotEqual,
            },
        }
    }
}

impl Comparison {
    fn holds(self, left: &Value, right: &Value) -> bool {
        match self {
            Self::Equal => value::equal(left, right),
            Self::NotEqual => !value::equal(left, right),
            _ => {
                let order = match (left, right) {
                    (Value::Number(left), Value::Number(right)) => value::compare_numbers(left, right),
                    (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
                    _ => None,
                };
                order.is_some_and(|order| match self {
                    Self::Less => order == Ordering::Less,
                    Self::AtMost => order != Ordering::Greater,
                    Self::Greater => order == Ordering::Greater,
                    _ => order != Ordering::Less,
                })
            }
        }
    }
}

impl Operand {
    fn read(cursor: &mut Cursor) -> Result<Self, PathError> {
        match cursor.peek() {
            Some('@') => {
                cursor.expect("@")?;
                Ok(Self::Here(cursor.steps()?))
            }
            Some('$') => match cursor.path()? {
                path if path.context => Err(cursor.error("a filter cannot look into the context object")),
                path => Ok(Self::Root(path)),
            },
            _ => literal(cursor).map(Self::Literal),
        }
    }

    fn value(&self, outlook: &Outlook<'_>) -> Option<Value> {
        let found = match self {
            Self::Literal(value) => return Some(value.clone()),
            Self::Root(path) => path.find(outlook.root).ok()?,
            Self::Here(steps) => Path { context: false, steps: steps.clone() }.find(outlook.here).ok()?,
        };
        match found {
            Found::Many(none) if none.is_empty() => None,
            found => Some(found.into_value()),
        }
    }
}

fn literal(cursor: &mut Cursor) -> Result<Value, PathError> {
    if matches!(cursor.peek(), Some('\'' | '"')) {
        return cursor.quoted().map(Value::String);
    }
    let text = cursor.while_matches(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    match serde_json::from_str(&text) {
        Ok(value @ (Value::Number(_) | Value::Bool(_) | Value::Null)) => Ok(value),
        _ => Err(cursor.error("a path, a number, a quoted text, true, false or null is missing")),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        other => other.to_string(),
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |filters: &[Filter], sign: &str| filters.iter().map(|filter| format!("({filter})")).collect::<Vec<_>>().join(sign);
        match self {
            Self::Any(filters) => f.write_str(&joined(filters, " || ")),
            Self::All(filters) => f.write_str(&joined(filters, " && ")),
            Self::Not(filter) => write!(f, "!({filter})"),
            Self::Exists(operand) => write!(f, "{operand}"),
            Self::Compare(left, comparison, right) => {
                let sign = SIGNS.iter().find(|(_, known)| known == comparison).map_or("==", |(sign, _)| sign);
                write!(f, "{left} {sign} {right}")
            }
            Self::In(operand, wanted, list) => {
                let list = list.iter().map(shown).collect::<Vec<_>>().join(", ");
                write!(f, "{operand} {} [{list}]", if *wanted { "in" } else { "nin" })
            }
        }
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(steps) => {
                f.write_str("@")?;
                write_steps(steps, f)
            }
            Self::Root(path) => write!(f, "{path}"),
            Self::Literal(value) => f.write_str(&shown(value)),
        }
    }
}
