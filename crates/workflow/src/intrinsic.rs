//! Calls such as `States.Format('{}', $.name)`: parsing and printing. What the functions do is in `functions.rs`.

use std::fmt;

use serde_json::{Number, Value};

use crate::cursor::Cursor;
use crate::path::{Path, PathError};

/// "You can nest up to 10 intrinsic functions within a field in your workflows."
const MAX_NESTING: usize = 10;
const MAX_LENGTH: usize = 16_384;
const MAX_ARGUMENTS: usize = 256;

#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub(crate) function: Function,
    pub(crate) arguments: Vec<Argument>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Argument {
    Path(Path),
    Call(Call),
    /// As it stands between the quotes, escapes included: Format must know which braces were escaped.
    Text(String),
    Literal(Value),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Format,
    StringToJson,
    JsonToString,
    Array,
    ArrayPartition,
    ArrayContains,
    ArrayRange,
    ArrayGetItem,
    ArrayLength,
    ArrayUnique,
    Base64Encode,
    Base64Decode,
    Hash,
    JsonMerge,
    MathRandom,
    MathAdd,
    StringSplit,
    Uuid,
}

/// Name, and how many arguments are allowed.
const FUNCTIONS: &[(&str, Function, usize, usize)] = &[
    ("States.Format", Function::Format, 1, MAX_ARGUMENTS),
    ("States.StringToJson", Function::StringToJson, 1, 1),
    ("States.JsonToString", Function::JsonToString, 1, 1),
    ("States.Array", Function::Array, 0, MAX_ARGUMENTS),
    ("States.ArrayPartition", Function::ArrayPartition, 2, 2),
    ("States.ArrayContains", Function::ArrayContains, 2, 2),
    ("States.ArrayRange", Function::ArrayRange, 3, 3),
    ("States.ArrayGetItem", Function::ArrayGetItem, 2, 2),
    ("States.ArrayLength", Function::ArrayLength, 1, 1),
    ("States.ArrayUnique", Function::ArrayUnique, 1, 1),
    ("States.Base64Encode", Function::Base64Encode, 1, 1),
    ("States.Base64Decode", Function::Base64Decode, 1, 1),
    ("States.Hash", Function::Hash, 2, 2),
    ("States.JsonMerge", Function::JsonMerge, 3, 3),
    ("States.MathRandom", Function::MathRandom, 2, 3),
    ("States.MathAdd", Function::MathAdd, 2, 2),
    ("States.StringSplit", Function::StringSplit, 2, 2),
    ("States.UUID", Function::Uuid, 0, 0),
];

impl Function {
    pub(crate) fn name(self) -> &'static str {
        FUNCTIONS.iter().find(|(_, function, ..)| *function == self).map_or("States.?", |(name, ..)| name)
    }
}

impl Call {
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.len() > MAX_LENGTH {
            return Err(PathError { reason: format!("the call is longer than {MAX_LENGTH} bytes"), at: MAX_LENGTH });
        }
        let mut cursor = Cursor::new(text);
        let call = Self::read(&mut cursor)?;
        cursor.spaces();
        if cursor.peek().is_some() {
            return Err(cursor.error("something follows the call"));
        }
        Ok(call)
    }

    fn read(cursor: &mut Cursor) -> Result<Self, PathError> {
        cursor.depth += 1;
        if cursor.depth > MAX_NESTING {
            return Err(cursor.error(format!("functions are nested more than {MAX_NESTING} deep")));
        }
        let begun = cursor.at;
        let name = cursor.while_matches(|c| c.is_ascii_alphanumeric() || c == '.');
        let Some((_, function, least, most)) = FUNCTIONS.iter().find(|(known, ..)| *known == name) else {
            let reason = if name.is_empty() { "a function's name is missing".into() } else { format!("there is no function {name}") };
            return Err(PathError { reason, at: begun });
        };
        cursor.expect("(")?;
        let mut arguments = Vec::new();
        loop {
            cursor.spaces();
            if cursor.take(")") {
                break;
            }
            if !arguments.is_empty() {
                cursor.expect(",")?;
                cursor.spaces();
            }
            if arguments.len() == MAX_ARGUMENTS {
                return Err(cursor.error(format!("there are more than {MAX_ARGUMENTS} arguments")));
            }
            arguments.push(Argument::read(cursor)?);
        }
        if !(*least..=*most).contains(&arguments.len()) {
            let wanted = if least == most { least.to_string() } else { format!("{least} or more") };
            return Err(PathError { reason: format!("{name} takes {wanted} arguments, not {}", arguments.len()), at: begun });
        }
        cursor.depth -= 1;
        Ok(Self { function: *function, arguments })
    }

    /// Every path in it, those of inner calls too.
    pub(crate) fn paths(&self, found: &mut Vec<Path>) {
        for argument in &self.arguments {
            match argument {
                Argument::Path(path) => found.push(path.clone()),
                Argument::Call(call) => call.paths(found),
                Argument::Text(_) | Argument::Literal(_) => {}
            }
        }
    }
}

impl Argument {
    fn read(cursor: &mut Cursor) -> Result<Self, PathError> {
        match cursor.peek() {
            Some('$') => cursor.path().map(Self::Path),
            Some('\'') => {
                cursor.at += 1;
                let mut raw = String::new();
                loop {
                    match cursor.next().ok_or_else(|| cursor.error("the closing quote is missing"))? {
                        '\'' => return Ok(Self::Text(raw)),
                        '\\' => match cursor.next() {
                            Some(c @ ('\'' | '{' | '}' | '\\')) => raw.extend(['\\', c]),
                            _ => return Err(cursor.error("only ' { } and \\ may follow a backslash")),
                        },
                        c => raw.push(c),
                    }
                }
            }
            Some('S') => Call::read(cursor).map(Self::Call),
            _ => {
                let begun = cursor.at;
                let text = cursor.while_matches(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
                match serde_json::from_str::<Value>(&text) {
                    Ok(value @ (Value::Number(_) | Value::Bool(_) | Value::Null)) => Ok(Self::Literal(value)),
                    _ => {
                        let reason = "an argument is a path, a call, a number, true, false, null or a text in single quotes";
                        Err(PathError { reason: reason.into(), at: begun })
                    }
                }
            }
        }
    }
}

/// The text that is meant by one with escapes.
pub(crate) fn unescape(raw: &str) -> String {
    let mut text = String::new();
    let mut characters = raw.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => text.extend(characters.next()),
            c => text.push(c),
        }
    }
    text
}

/// A whole number, where the language rounds what is not one.
pub(crate) fn rounded(number: &Number) -> Option<i64> {
    number.as_i64().or_else(|| {
        let float = number.as_f64()?.round();
        // Every whole float of this range is an i64 exactly.
        (float.abs() < 9e15).then(|| format!("{float:.0}").parse().ok()).flatten()
    })
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.function.name())?;
        for (index, argument) in self.arguments.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            match argument {
                Argument::Path(path) => write!(f, "{path}")?,
                Argument::Call(call) => write!(f, "{call}")?,
                Argument::Text(raw) => write!(f, "'{raw}'")?,
                Argument::Literal(value) => write!(f, "{value}")?,
            }
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_and_printed_as_it_was() {
        for text in [
            "States.Format('{} of {}', $.a, $$.Execution.Name)",
            "States.Array()",
            "States.Array(1, -2.5, true, null, 'it\\'s \\{\\}', States.UUID())",
            "States.ArrayGetItem(States.StringSplit($.key, '/'), 0)",
        ] {
            assert_eq!(Call::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_call_is_refused() {
        for (text, words) in [
            ("States.Nope()", "no function States.Nope"),
            ("States.UUID(1)", "takes 0 arguments"),
            ("States.Hash('a')", "takes 2 arguments"),
            ("States.Format('a", "closing quote"),
            ("States.Format('\\n')", "backslash"),
            ("States.Array(\"a\")", "single quotes"),
            ("States.Array(1 2)", "missing"),
            ("States.Array(1) x", "follows the call"),
        ] {
            let error = Call::parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        let nested = |depth: usize| format!("{}{}", "States.Array(".repeat(depth), ")".repeat(depth));
        assert!(Call::parse(&nested(10)).is_ok() && Call::parse(&nested(11)).is_err());
    }
}
