//! The rules of a Choice state: reading them, and whether one holds.

use std::cmp::Ordering;

use jiff::Timestamp;
use serde_json::{Number, Value};

use super::places::{Fields, Findings};
use crate::fault::Fault;
use crate::path::Path;
use crate::template::Scope;
use crate::value;

/// "And", "Or" and "Not" may hold each other this deep.
const MAX_DEPTH: usize = 32;

#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub condition: Condition,
    pub next: String,
    pub comment: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Compare { variable: Path, comparator: Comparator, operand: Operand },
    Is { variable: Path, what: Is, wanted: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparator {
    Equals,
    LessThan,
    LessThanEquals,
    GreaterThan,
    GreaterThanEquals,
    Matches,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Is {
    Present,
    Null,
    Numeric,
    String,
    Boolean,
    Timestamp,
}

/// What the variable is compared with: its type is part of the operator's name.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    Text(String),
    Number(Number),
    Boolean(bool),
    Timestamp(Timestamp),
    TextAt(Path),
    NumberAt(Path),
    BooleanAt(Path),
    TimestampAt(Path),
}

const COMPARATORS: &[(&str, Comparator)] = &[
    ("Equals", Comparator::Equals),
    ("LessThan", Comparator::LessThan),
    ("LessThanEquals", Comparator::LessThanEquals),
    ("GreaterThan", Comparator::GreaterThan),
    ("GreaterThanEquals", Comparator::GreaterThanEquals),
];

const TESTS: &[(&str, Is)] = &[
    ("IsPresent", Is::Present),
    ("IsNull", Is::Null),
    ("IsNumeric", Is::Numeric),
    ("IsString", Is::String),
    ("IsBoolean", Is::Boolean),
    ("IsTimestamp", Is::Timestamp),
];

/// The names are made of a type, a comparison and perhaps `Path`; the static text is what `Fields` remembers.
const OPERATORS: &[&str] = &[
    "StringEquals",
    "StringEqualsPath",
    "StringLessThan",
    "StringLessThanPath",
    "StringLessThanEquals",
    "StringLessThanEqualsPath",
    "StringGreaterThan",
    "StringGreaterThanPath",
    "StringGreaterThanEquals",
    "StringGreaterThanEqualsPath",
    "StringMatches",
    "NumericEquals",
    "NumericEqualsPath",
    "NumericLessThan",
    "NumericLessThanPath",
    "NumericLessThanEquals",
    "NumericLessThanEqualsPath",
    "NumericGreaterThan",
    "NumericGreaterThanPath",
    "NumericGreaterThanEquals",
    "NumericGreaterThanEqualsPath",
    "BooleanEquals",
    "BooleanEqualsPath",
    "TimestampEquals",
    "TimestampEqualsPath",
    "TimestampLessThan",
    "TimestampLessThanPath",
    "TimestampLessThanEquals",
    "TimestampLessThanEqualsPath",
    "TimestampGreaterThan",
    "TimestampGreaterThanPath",
    "TimestampGreaterThanEquals",
    "TimestampGreaterThanEqualsPath",
];

pub(super) fn read_rule(value: &Value, pointer: &str, findings: &Findings) -> Option<Rule> {
    let fields = Fields::of(value, pointer, findings)?;
    fields.refuse("Condition", "it belongs to JSONata, and only JSONPath is");
    fields.refuse("Assign", "variables are not; use ResultPath");
    let condition = read_condition(&fields, 0);
    let next = fields.text("Next");
    if !fields.has("Next") {
        fields.missing("Next");
    }
    let comment = fields.text("Comment").map(str::to_owned);
    fields.finish("a rule of a Choice state");
    Some(Rule { condition: condition?, next: next?.to_owned(), comment })
}

fn read_condition(fields: &Fields<'_>, depth: usize) -> Option<Condition> {
    if depth > MAX_DEPTH {
        fields.error("too-deep", "", format!("conditions are nested more than {MAX_DEPTH} deep"));
        return None;
    }
    let inner = |value: &Value, pointer: &str| {
        let inner = Fields::of(value, pointer, fields.findings)?;
        if inner.get("Next").is_some() {
            inner.error("misplaced-next", "Next", "only the outermost condition of a rule has Next");
        }
        let _ = inner.text("Comment");
        let condition = read_condition(&inner, depth + 1);
        inner.finish("a condition");
        condition
    };
    let list = |name: &'static str| {
        let items = fields.array(name)?;
        if items.is_empty() {
            fields.error("empty-list", name, format!("{name} needs at least one condition"));
        }
        let read = |(index, item)| inner(item, &format!("{}/{index}", fields.place(name)));
        items.iter().enumerate().map(read).collect::<Option<Vec<_>>>()
    };
    let mut operators = Vec::new();
    operators.extend(["And", "Or", "Not"].into_iter().filter(|name| fields.has(name)));
    operators.extend(OPERATORS.iter().copied().filter(|name| fields.has(name)));
    operators.extend(TESTS.iter().map(|(name, _)| *name).filter(|name| fields.has(name)));
    match operators[..] {
        ["And"] => Some(Condition::All(list("And")?)),
        ["Or"] => Some(Condition::Any(list("Or")?)),
        ["Not"] => Some(Condition::Not(Box::new(inner(fields.get("Not")?, &fields.place("Not"))?))),
        [name] => {
            let variable = fields.path("Variable");
            if !fields.has("Variable") {
                fields.missing("Variable");
            }
            if let Some((_, what)) = TESTS.iter().find(|(known, _)| *known == name) {
                return Some(Condition::Is { variable: variable?, what: *what, wanted: fields.boolean(name)? });
            }
            let (comparator, operand) = read_operand(fields, name)?;
            Some(Condition::Compare { variable: variable?, comparator, operand })
        }
        [] => {
            fields.error("no-comparison", "", "a comparison such as StringEquals is missing, or And, Or or Not");
            None
        }
        [_, second, ..] => {
            // All are known; only their number is wrong.
            operators.iter().for_each(|name| _ = fields.get(name));
            fields.error("two-comparisons", second, "a condition has exactly one comparison; combine several with And or Or");
            None
        }
    }
}

fn read_operand(fields: &Fields<'_>, name: &'static str) -> Option<(Comparator, Operand)> {
    let (rest, at_path) = name.strip_suffix("Path").map_or((name, false), |rest| (rest, true));
    let kind = ["String", "Numeric", "Boolean", "Timestamp"].into_iter().find(|kind| rest.starts_with(kind))?;
    let comparator = match &rest[kind.len()..] {
        "Matches" => Comparator::Matches,
        comparison => COMPARATORS.iter().find(|(known, _)| *known == comparison)?.1,
    };
    let operand = match (kind, at_path) {
        ("String", false) => Operand::Text(fields.text(name)?.to_owned()),
        ("Boolean", false) => Operand::Boolean(fields.boolean(name)?),
        ("Numeric", false) => match fields.get(name)? {
            Value::Number(number) => Operand::Number(number.clone()),
            other => {
                fields.error("wrong-type", name, format!("{name} must be a number, not {}", value::kind(other)));
                return None;
            }
        },
        ("Timestamp", false) => {
            let text = fields.text(name)?;
            match timestamp(text) {
                Some(moment) => Operand::Timestamp(moment),
                None => {
                    fields.error("bad-timestamp", name, format!("{text:?} is not a time such as 2026-03-14T01:59:00Z"));
                    return None;
                }
            }
        }
        ("String", true) => Operand::TextAt(fields.path(name)?),
        ("Boolean", true) => Operand::BooleanAt(fields.path(name)?),
        ("Numeric", true) => Operand::NumberAt(fields.path(name)?),
        _ => Operand::TimestampAt(fields.path(name)?),
    };
    Some((comparator, operand))
}

/// RFC 3339 with a capital T and, without an offset, a capital Z.
pub fn timestamp(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let zoned = text.ends_with('Z') || text.get(10..).is_some_and(|time| time.contains(['+', '-']));
    (bytes.get(10) == Some(&b'T') && zoned && !text.contains('[')).then(|| text.parse().ok()).flatten()
}

impl Condition {
    /// `Err` only where a path that must be there leads nowhere.
    pub(crate) fn holds(&self, scope: &Scope<'_>) -> Result<bool, Fault> {
        match self {
            Self::All(conditions) => {
                for condition in conditions {
                    if !condition.holds(scope)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Self::Any(conditions) => {
                for condition in conditions {
                    if condition.holds(scope)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Self::Not(condition) => Ok(!condition.holds(scope)?),
            Self::Is { variable, what: Is::Present, wanted } => Ok(scope.find(variable).is_ok() == *wanted),
            Self::Is { variable, what, wanted } => Ok(what.is(&look_up(variable, scope)?) == *wanted),
            Self::Compare { variable, comparator, operand } => Ok(comparator.holds(&look_up(variable, scope)?, &operand.resolved(scope)?)),
        }
    }

    pub(crate) fn paths(&self, found: &mut Vec<Path>) {
        match self {
            Self::All(conditions) | Self::Any(conditions) => conditions.iter().for_each(|condition| condition.paths(found)),
            Self::Not(condition) => condition.paths(found),
            Self::Is { variable, .. } => found.push(variable.clone()),
            Self::Compare { variable, operand, .. } => {
                found.push(variable.clone());
                match operand {
                    Operand::TextAt(path) | Operand::NumberAt(path) | Operand::BooleanAt(path) | Operand::TimestampAt(path) => {
                        found.push(path.clone());
                    }
                    _ => {}
                }
            }
        }
    }
}

fn look_up(path: &Path, scope: &Scope<'_>) -> Result<Value, Fault> {
    scope
        .find(path)
        .map_err(|_| Fault::runtime(format!("Invalid path '{path}': The choice state's condition path references an invalid value.")))
}

impl Is {
    fn is(self, value: &Value) -> bool {
        match self {
            Self::Present => true,
            Self::Null => value.is_null(),
            Self::Numeric => value.is_number(),
            Self::String => value.is_string(),
            Self::Boolean => value.is_boolean(),
            Self::Timestamp => value.as_str().and_then(timestamp).is_some(),
        }
    }
}

impl Operand {
    /// With paths replaced by what they lead to; a value of another type compares as nothing does.
    fn resolved(&self, scope: &Scope<'_>) -> Result<Option<Self>, Fault> {
        Ok(match self {
            Self::TextAt(path) => look_up(path, scope)?.as_str().map(|text| Self::Text(text.to_owned())),
            Self::NumberAt(path) => look_up(path, scope)?.as_number().cloned().map(Self::Number),
            Self::BooleanAt(path) => look_up(path, scope)?.as_bool().map(Self::Boolean),
            Self::TimestampAt(path) => look_up(path, scope)?.as_str().and_then(timestamp).map(Self::Timestamp),
            literal => Some(literal.clone()),
        })
    }
}

impl Comparator {
    fn holds(self, left: &Value, right: &Option<Operand>) -> bool {
        let order = match (left, right) {
            (Value::String(left), Some(Operand::Text(pattern))) if self == Self::Matches => return matches_pattern(left, pattern),
            (Value::String(left), Some(Operand::Text(right))) => Some(left.as_str().cmp(right)),
            (Value::Number(left), Some(Operand::Number(right))) => value::compare_numbers(left, right),
            (Value::Bool(left), Some(Operand::Boolean(right))) => Some(left.cmp(right)),
            (Value::String(left), Some(Operand::Timestamp(right))) => timestamp(left).map(|left| left.cmp(right)),
            _ => None,
        };
        order.is_some_and(|order| match self {
            Self::Equals => order == Ordering::Equal,
            Self::LessThan => order == Ordering::Less,
            Self::LessThanEquals => order != Ordering::Greater,
            Self::GreaterThan => order == Ordering::Greater,
            Self::GreaterThanEquals => order != Ordering::Less,
            Self::Matches => false,
        })
    }
}

/// `*` stands for any number of characters, `\*` for a star, `\\` for a backslash.
fn matches_pattern(text: &str, pattern: &str) -> bool {
    // Some(character) to be there as it is, None for a star.
    let mut wanted = Vec::new();
    let mut characters = pattern.chars();
    while let Some(c) = characters.next() {
        match c {
            '*' => wanted.push(None),
            '\\' => wanted.push(Some(characters.next().unwrap_or('\\'))),
            c => wanted.push(Some(c)),
        }
    }
    let text: Vec<char> = text.chars().collect();
    // The last star seen, and how much of the text it has swallowed: enough to go back to, so this stays fast.
    let (mut at, mut of, mut star) = (0, 0, None);
    while at < text.len() {
        match wanted.get(of) {
            Some(Some(c)) if *c == text[at] => (at, of) = (at + 1, of + 1),
            Some(None) => {
                star = Some((at, of));
                of += 1;
            }
            _ => match star {
                Some((begun, place)) => {
                    star = Some((begun + 1, place));
                    (at, of) = (begun + 1, place + 1);
                }
                None => return false,
            },
        }
    }
    wanted[of..].iter().all(Option::is_none)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_matches_any_number_of_characters() {
        for (text, pattern, expected) in [
            ("log-1.txt", "log-*.txt", true),
            ("log-.txt", "log-*.txt", true),
            ("log-1.csv", "log-*.txt", false),
            ("a*b", "a\\*b", true),
            ("axb", "a\\*b", false),
            ("a\\b", "a\\\\b", true),
            ("aXbXc", "*X*", true),
            ("", "*", true),
            ("abc", "abc", true),
            ("abcd", "abc", false),
            ("mississippi", "m*iss*ip*i", true),
        ] {
            assert_eq!(matches_pattern(text, pattern), expected, "{text} {pattern}");
        }
        assert!(!matches_pattern(&"a".repeat(20_000), &format!("{}b", "a*".repeat(100))));
    }

    #[test]
    fn a_time_has_a_date_a_t_and_a_zone() {
        for text in ["2026-03-14T01:59:00Z", "2026-03-14T01:59:00.123+02:00"] {
            assert!(timestamp(text).is_some(), "{text}");
        }
        for text in ["2026-03-14", "2026-03-14 01:59:00Z", "2026-03-14T01:59:00", "", "2026-13-14T01:59:00Z", "été2026-03T+"] {
            assert!(timestamp(text).is_none(), "{text}");
        }
    }
}
