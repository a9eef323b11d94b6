//! Payload templates: JSON in which a field `name.$` is filled from a path or an intrinsic call.

use std::cell::{Cell, OnceCell};
use std::fmt;

use serde_json::{Map, Value};

use crate::chance::Chance;
use crate::fault::{Fault, PARAMETER_PATH_FAILURE};
use crate::intrinsic::Call;
use crate::path::{Missing, Path, PathError};
use crate::value;

/// Several times what may leave a state.
const MOST_BROUGHT: usize = 8 * crate::MAX_DATA;

/// A field's text with `.$`: where its value comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Expression {
    Path(Path),
    Call(Call),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Template {
    Literal(Value),
    Array(Vec<Template>),
    /// Fields in their order; an expression carries the name without `.$`.
    Object(Vec<(String, Template)>),
    Expression(Expression),
}

/// What paths look into: `$`, and `$$`, which is made when somebody asks.
pub struct Scope<'a> {
    pub(crate) data: &'a Value,
    context: OnceCell<Value>,
    make_context: Option<&'a dyn Fn() -> Value>,
    /// Bytes of JSON that paths have brought so far: a template may name the whole input a thousand times.
    brought: Cell<usize>,
}

impl fmt::Debug for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scope({})", self.data)
    }
}

impl<'a> Scope<'a> {
    pub fn of(data: &'a Value) -> Self {
        Self { data, context: OnceCell::new(), make_context: None, brought: Cell::new(0) }
    }

    pub fn with_context(data: &'a Value, make_context: &'a dyn Fn() -> Value) -> Self {
        Self { data, context: OnceCell::new(), make_context: Some(make_context), brought: Cell::new(0) }
    }

    fn root(&self, path: &Path) -> &Value {
        if path.context { self.context.get_or_init(|| self.make_context.map_or(Value::Null, |make| make())) } else { self.data }
    }

    pub fn find(&self, path: &Path) -> Result<Value, Missing> {
        let found = path.find(self.root(path))?.into_value();
        self.brought.set(self.brought.get().saturating_add(value::size(&found, MOST_BROUGHT)));
        if self.brought.get() > MOST_BROUGHT { Err(Missing::TooMany) } else { Ok(found) }
    }

    /// The data a path did not lead through, short enough for a cause.
    pub fn shown(&self, path: &Path) -> String {
        const LONGEST: usize = 1024;
        let text = self.root(path).to_string();
        match text.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("'{}…'", &text[..end]),
            None => format!("'{text}'"),
        }
    }
}

impl Expression {
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.starts_with('$') { Path::parse(text).map(Self::Path) } else { Call::parse(text).map(Self::Call) }
    }

    pub(crate) fn paths(&self, found: &mut Vec<Path>) {
        match self {
            Self::Path(path) => found.push(path.clone()),
            Self::Call(call) => call.paths(found),
        }
    }

    /// `field` is named in the cause when the path leads nowhere.
    pub(crate) fn evaluate(&self, field: &str, error: &str, scope: &Scope<'_>, chance: &mut dyn Chance) -> Result<Value, Fault> {
        match self {
            Self::Call(call) => call.evaluate(scope, chance),
            Self::Path(path) => scope.find(path).map_err(|_| {
                let data = scope.shown(path);
                Fault::new(error, format!("The JSONPath '{path}' specified for the field '{field}' could not be found in the input {data}"))
            }),
        }
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.fmt(f),
            Self::Call(call) => call.fmt(f),
        }
    }
}

impl Template {
    /// Reads a template; every place that is wrong is told to `wrong` with its pointer below `pointer`.
    pub(crate) fn read(value: &Value, pointer: &str, wrong: &mut dyn FnMut(String, String)) -> Self {
        match value {
            Value::Array(items) => {
                let read = |(index, item)| Self::read(item, &format!("{pointer}/{index}"), wrong);
                Self::Array(items.iter().enumerate().map(read).collect::<Vec<_>>()).simplified()
            }
            Value::Object(fields) => {
                let mut read: Vec<(String, Self)> = Vec::with_capacity(fields.len());
                for (name, value) in fields {
                    let place = format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"));
                    let (name, template) = match name.strip_suffix(".$") {
                        None => (name.as_str(), Self::read(value, &place, wrong)),
                        Some(name) => match value.as_str().map(Expression::parse) {
                            Some(Ok(expression)) => (name, Self::Expression(expression)),
                            Some(Err(error)) => {
                                wrong(place.clone(), error.to_string());
                                continue;
                            }
                            None => {
                                let reason = format!("a field that ends in .$ holds a path or a call, not {}", value::kind(value));
                                wrong(place.clone(), reason);
                                continue;
                            }
                        },
                    };
                    if read.iter().any(|(known, _)| known == name) {
                        wrong(place, format!("the field {name} is there twice, with and without .$"));
                    }
                    read.push((name.to_owned(), template));
                }
                Self::Object(read).simplified()
            }
            literal => Self::Literal(literal.clone()),
        }
    }

    /// What holds no expression is one literal.
    fn simplified(self) -> Self {
        let literal = |template: &Self| match template {
            Self::Literal(value) => Some(value.clone()),
            _ => None,
        };
        match &self {
            Self::Array(items) => match items.iter().map(literal).collect::<Option<Vec<Value>>>() {
                Some(values) => Self::Literal(Value::Array(values)),
                None => self,
            },
            Self::Object(fields) => {
                let fields = fields.iter().map(|(name, template)| Some((name.clone(), literal(template)?)));
                match fields.collect::<Option<Map<String, Value>>>() {
                    Some(values) => Self::Literal(Value::Object(values)),
                    None => self,
                }
            }
            _ => self,
        }
    }

    pub fn paths(&self, found: &mut Vec<Path>) {
        match self {
            Self::Literal(_) => {}
            Self::Array(items) => items.iter().for_each(|item| item.paths(found)),
            Self::Object(fields) => fields.iter().for_each(|(_, template)| template.paths(found)),
            Self::Expression(expression) => expression.paths(found),
        }
    }

    pub(crate) fn evaluate(&self, scope: &Scope<'_>, chance: &mut dyn Chance) -> Result<Value, Fault> {
        match self {
            Self::Literal(value) => Ok(value.clone()),
            Self::Array(items) => items.iter().map(|item| item.evaluate(scope, chance)).collect(),
            Self::Expression(expression) => expression.evaluate("", PARAMETER_PATH_FAILURE, scope, chance),
            Self::Object(fields) => {
                let mut object = Map::with_capacity(fields.len());
                for (name, template) in fields {
                    let value = match template {
                        Self::Expression(expression) => expression.evaluate(&format!("{name}.$"), PARAMETER_PATH_FAILURE, scope, chance)?,
                        other => other.evaluate(scope, chance)?,
                    };
                    object.insert(name.clone(), value);
                }
                Ok(Value::Object(object))
            }
        }
    }
}
