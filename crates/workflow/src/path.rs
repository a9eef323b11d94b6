//! JSONPath as Step Functions has it: printing, and what a path finds. `cursor.rs` reads the text, `filter.rs` holds `[?(…)]`.

use std::fmt;

use serde_json::Value;

use crate::cursor::{Cursor, is_name};
use crate::filter::{Filter, Outlook};

/// More is not written by hand; what a definition gives is bounded like everything else.
const MAX_LENGTH: usize = 4096;
pub(crate) const MAX_STEPS: usize = 256;
/// What one path may find; recursive descent multiplies.
const MAX_FOUND: usize = 100_000;

/// A path below `$` (data) or `$$` (context object).
#[derive(Debug, Clone, PartialEq)]
pub struct Path {
    pub context: bool,
    pub(crate) steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    Field(String),
    Index(i64),
    Wildcard,
    /// Everything below, the place itself included; what follows is looked for in all of it.
    Descend,
    Slice(Option<i64>, Option<i64>, Option<i64>),
    Fields(Vec<String>),
    Indexes(Vec<i64>),
    Filter(Filter),
}

/// A text is not a path; `at` counts characters from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a JSONPath: {reason} at character {at}")]
pub struct PathError {
    pub reason: String,
    pub at: usize,
}

/// What a path leads to.
#[derive(Debug, Clone, PartialEq)]
pub enum Found<'a> {
    /// The path names one place, and it is there.
    One(&'a Value),
    /// The path may name many places; none is no error.
    Many(Vec<&'a Value>),
}

impl Found<'_> {
    pub fn into_value(self) -> Value {
        match self {
            Self::One(value) => value.clone(),
            Self::Many(values) => Value::Array(values.into_iter().cloned().collect()),
        }
    }
}

/// Why a path leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    NotThere,
    TooMany,
}

impl Path {
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.len() > MAX_LENGTH {
            return Err(PathError { reason: format!("it is longer than {MAX_LENGTH} bytes"), at: MAX_LENGTH });
        }
        let mut cursor = Cursor::new(text);
        let path = cursor.path()?;
        if cursor.peek().is_some() {
            return Err(cursor.error("something follows the path"));
        }
        Ok(path)
    }

    /// `$`.
    pub fn whole() -> Self {
        Self { context: false, steps: Vec::new() }
    }

    pub fn is_whole(&self) -> bool {
        !self.context && self.steps.is_empty()
    }

    /// Names exactly one place: only fields and indexes. Such a path may stand in ResultPath.
    pub fn is_reference(&self) -> bool {
        !self.context && self.steps.iter().all(|step| matches!(step, Step::Field(_)) || matches!(step, Step::Index(n) if *n >= 0))
    }

    fn is_definite(&self) -> bool {
        self.steps.iter().all(|step| matches!(step, Step::Field(_) | Step::Index(_)))
    }

    /// Uses nothing but fields, `[*]` and, at its end, an index from the start: what every engine reads alike.
    pub fn is_portable(&self) -> bool {
        self.steps.iter().enumerate().all(|(place, step)| match step {
            Step::Field(_) | Step::Wildcard => true,
            Step::Index(n) => *n >= 0 && place + 1 == self.steps.len(),
            _ => false,
        })
    }

    pub fn find<'a>(&self, root: &'a Value) -> Result<Found<'a>, Missing> {
        let mut places = vec![root];
        let mut many = false;
        for step in &self.steps {
            let mut next = Vec::new();
            for place in &places {
                step.from(place, root, &mut next)?;
                if next.len() > MAX_FOUND {
                    return Err(Missing::TooMany);
                }
            }
            many |= !matches!(step, Step::Field(_) | Step::Index(_));
            // Before the first step that may find many, a place that is missing is an error.
            if next.is_empty() && !many {
                return Err(Missing::NotThere);
            }
            if !step.is_possible(&places) && places.len() == 1 && self.before_is_definite(step) {
                return Err(Missing::NotThere);
            }
            places = next;
        }
        match (self.is_definite(), places.first()) {
            (true, Some(place)) => Ok(Found::One(place)),
            (true, None) => Err(Missing::NotThere),
            (false, _) => Ok(Found::Many(places)),
        }
    }

    /// Whether everything before this step names one place.
    fn before_is_definite(&self, step: &Step) -> bool {
        let before = self.steps.iter().take_while(|other| !std::ptr::eq(*other, step));
        before.into_iter().all(|other| matches!(other, Step::Field(_) | Step::Index(_)))
    }

    /// Puts `value` where the path points, making objects on the way. Arrays are changed, never made or lengthened.
    pub(crate) fn put(&self, root: &mut Value, value: Value) -> Result<(), ()> {
        let mut place = root;
        for step in &self.steps {
            place = match step {
                Step::Field(name) => {
                    let object = place.as_object_mut().ok_or(())?;
                    object.entry(name.clone()).or_insert_with(|| Value::Object(serde_json::Map::new()))
                }
                Step::Index(index) => {
                    let array = place.as_array_mut().ok_or(())?;
                    usize::try_from(*index).ok().and_then(|index| array.get_mut(index)).ok_or(())?
                }
                _ => return Err(()),
            };
        }
        *place = value;
        Ok(())
    }
}

impl Step {
    /// What this step finds in one place.
    fn from<'a>(&self, place: &'a Value, root: &'a Value, found: &mut Vec<&'a Value>) -> Result<(), Missing> {
        match self {
            Self::Field(name) => found.extend(place.get(name.as_str())),
            Self::Index(index) => found.extend(place.as_array().and_then(|array| array.get(position(*index, array.len())?))),
            Self::Fields(names) => found.extend(names.iter().filter_map(|name| place.get(name.as_str()))),
            Self::Indexes(indexes) => {
                if let Some(array) = place.as_array() {
                    found.extend(indexes.iter().filter_map(|index| array.get(position(*index, array.len())?)));
                }
            }
            Self::Wildcard => found.extend(children(place)),
            Self::Slice(start, end, step) => {
                if let Some(array) = place.as_array() {
                    let length = i64::try_from(array.len()).unwrap_or(i64::MAX);
                    let bound = |n: i64| if n < 0 { n.saturating_add(length).max(0) } else { n.min(length) };
                    let (start, end) = (bound(start.unwrap_or(0)), bound(end.unwrap_or(length)));
                    let stride = usize::try_from(step.unwrap_or(1)).unwrap_or(1).max(1);
                    let (start, end) = (usize::try_from(start).unwrap_or(0), usize::try_from(end).unwrap_or(0));
                    found.extend(array.iter().take(end).skip(start).step_by(stride));
                }
            }
            Self::Descend => {
                let mut open = vec![place];
                while let Some(place) = open.pop() {
                    found.push(place);
                    if found.len() > MAX_FOUND {
                        return Err(Missing::TooMany);
                    }
                    let below: Vec<&Value> = children(place).collect();
                    open.extend(below.into_iter().rev());
                }
            }
            Self::Filter(filter) => {
                let matches = |candidate: &&Value| filter.matches(&Outlook { here: candidate, root });
                match place {
                    Value::Array(items) => found.extend(items.iter().filter(matches)),
                    // One object is looked at like a list of one.
                    Value::Object(_) => found.extend(Some(place).filter(matches)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Whether the places are of a kind in which this step can look at all.
    fn is_possible(&self, places: &[&Value]) -> bool {
        places.iter().all(|place| match self {
            Self::Field(_) | Self::Fields(_) => place.is_object(),
            Self::Index(_) | Self::Indexes(_) | Self::Slice(..) => place.is_array(),
            Self::Wildcard | Self::Filter(_) => place.is_array() || place.is_object(),
            Self::Descend => true,
        })
    }
}

fn children(place: &Value) -> impl Iterator<Item = &Value> {
    let items = place.as_array().into_iter().flatten();
    items.chain(place.as_object().into_iter().flat_map(|object| object.values()))
}

fn position(index: i64, length: usize) -> Option<usize> {
    if index >= 0 { usize::try_from(index).ok() } else { length.checked_sub(usize::try_from(index.unsigned_abs()).ok()?) }
}

/// As it must be written so that it is read back as the same.
pub(crate) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.context { "$$" } else { "$" })?;
        write_steps(&self.steps, f)
    }
}

pub(crate) fn write_steps(steps: &[Step], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let number = |n: &Option<i64>| n.map_or(String::new(), |n| n.to_string());
    for (index, step) in steps.iter().enumerate() {
        let descends = index > 0 && steps[index - 1] == Step::Descend;
        match step {
            Step::Field(name) if !name.is_empty() && name.chars().all(is_name) => {
                // After `..` the name stands alone.
                if !descends {
                    f.write_str(".")?;
                }
                f.write_str(name)?;
            }
            Step::Field(name) => write!(f, "[{}]", quote(name))?,
            Step::Index(n) => write!(f, "[{n}]")?,
            Step::Wildcard => f.write_str("[*]")?,
            Step::Descend => f.write_str("..")?,
            Step::Slice(start, end, None) => write!(f, "[{}:{}]", number(start), number(end))?,
            Step::Slice(start, end, step) => write!(f, "[{}:{}:{}]", number(start), number(end), number(step))?,
            Step::Fields(names) => write!(f, "[{}]", names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(","))?,
            Step::Indexes(all) => write!(f, "[{}]", all.iter().map(i64::to_string).collect::<Vec<_>>().join(","))?,
            Step::Filter(filter) => write!(f, "[?({filter})]")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn find(path: &str, value: &Value) -> Result<Value, Missing> {
        Path::parse(path).unwrap_or_else(|e| panic!("{path}: {e}")).find(value).map(Found::into_value)
    }

    #[test]
    fn a_path_finds_what_it_names() {
        let value = json!({"a": {"b": [1, 2, 3, 4], "c d": "x", "e-f": null}, "l": [{"n": 1}, {"n": 5, "m": 2}, {"o": 1}]});
        for (path, expected) in [
            ("$", value.clone()),
            ("$.a.b[0]", json!(1)),
            ("$.a.b[-1]", json!(4)),
            ("$['a']['c d']", json!("x")),
            ("$.a.e-f", json!(null)),
            ("$.a.b[*]", json!([1, 2, 3, 4])),
            ("$.a.b[1:3]", json!([2, 3])),
            ("$.a.b[-2:]", json!([3, 4])),
            ("$.a.b[::2]", json!([1, 3])),
            ("$.a.b[0,3]", json!([1, 4])),
            ("$.a['b','c d']", json!([[1, 2, 3, 4], "x"])),
            ("$.l[*].n", json!([1, 5])),
            ("$..n", json!([1, 5])),
            ("$.l[?(@.n > 2)]", json!([{"n": 5, "m": 2}])),
            ("$.l[?(@.n && @.m == 2)].n", json!([5])),
            ("$.l[?(!@.n)]", json!([{"o": 1}])),
            ("$.l[?(@.x)]", json!([])),
            ("$..b[0]", json!([1])),
        ] {
            assert_eq!(find(path, &value), Ok(expected), "{path}");
        }
    }

    #[test]
    fn a_place_that_is_not_there_is_an_error_only_where_one_place_is_named() {
        let value = json!({"a": [1], "s": "text"});
        for path in ["$.b", "$.a[1]", "$.a[-2]", "$.a.x", "$.b[*]", "$.b[0:1]", "$.s[*]", "$.b[?(@.x)]"] {
            assert_eq!(find(path, &value), Err(Missing::NotThere), "{path}");
        }
        for path in ["$.a[5:]", "$.a[*].x", "$..zzz", "$.a[?(@.x == 1)]"] {
            assert_eq!(find(path, &value), Ok(json!([])), "{path}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused_with_its_place() {
        for (path, at) in [("", 0), ("a.b", 0), ("$.", 2), ("$.a[", 4), ("$.a[1", 5), ("$.a.length()", 10), ("$.a b", 3), ("$.a[::0]", 7)] {
            assert_eq!(Path::parse(path).unwrap_err().at, at, "{path}");
        }
        assert!(Path::parse(&"$.a".repeat(2000)).is_err());
    }

    #[test]
    fn a_result_is_put_where_the_path_points() {
        let put = |path: &str, mut root: Value| Path::parse(path).unwrap().put(&mut root, json!(7)).map(|()| root);
        assert_eq!(put("$.a.b", json!({"x": 1})), Ok(json!({"x": 1, "a": {"b": 7}})));
        assert_eq!(put("$", json!({"x": 1})), Ok(json!(7)));
        assert_eq!(put("$.l[1]", json!({"l": [1, 2]})), Ok(json!({"l": [1, 7]})));
        for (path, root) in [("$.a", json!("text")), ("$.l[2]", json!({"l": [1]})), ("$.a.b", json!({"a": 1}))] {
            assert_eq!(put(path, root), Err(()), "{path}");
        }
    }

    #[test]
    fn recursive_descent_is_bounded() {
        let mut value = json!(1);
        for _ in 0..100 {
            value = json!([value, 1, 2]);
        }
        assert_eq!(find("$..[*]..[*]..[*]..[*]", &value), Err(Missing::TooMany));
    }
}
