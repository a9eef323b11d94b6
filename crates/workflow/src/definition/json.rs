//! JSON as a definition needs it: a name that stands twice in one object is an error with its place, because the
//! second would silently replace the first.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{Finding, Severity};

/// "The maximum size of a state machine definition is 1 MB."
const MAX_BYTES: usize = 1_048_576;

/// One step of a JSON pointer.
pub fn below(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}

pub fn parse(text: &str) -> Result<Value, Vec<Finding>> {
    let whole = |rule, message| vec![Finding { severity: Severity::Error, rule, pointer: String::new(), message }];
    if text.len() > MAX_BYTES {
        return Err(whole("too-large", format!("the definition has {} bytes, more than {MAX_BYTES}", text.len())));
    }
    let twice = RefCell::new(Vec::new());
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Place { pointer: String::new(), twice: &twice }.deserialize(&mut reader);
    let value = value.and_then(|value| reader.end().map(|()| value)).map_err(|error| whole("not-json", format!("not JSON: {error}")))?;
    let twice = twice.into_inner();
    if twice.is_empty() {
        return Ok(value);
    }
    let finding = |pointer| Finding {
        severity: Severity::Error,
        rule: "duplicate-name",
        pointer,
        message: "this name stands twice in the same object".into(),
    };
    Err(twice.into_iter().map(finding).collect())
}

struct Place<'a> {
    pointer: String,
    twice: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(Place { pointer: format!("{}/{}", self.pointer, array.len()), twice: self.twice })? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let pointer = below(&self.pointer, &name);
            if object.contains_key(&name) {
                self.twice.borrow_mut().push(pointer.clone());
            }
            let value = fields.next_value_seed(Place { pointer, twice: self.twice })?;
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}
