//! What the eighteen intrinsic functions do.

use data_encoding::{BASE64, HEXLOWER};
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::chance::{Chance, Seeded};
use crate::fault::Fault;
use crate::intrinsic::{Argument, Call, Function, rounded, unescape};
use crate::template::Scope;
use crate::value;

/// "Step Functions … arrays up to 1000 items", "up to 10,000 characters".
const MAX_RANGE: i64 = 1000;
const MAX_CHARACTERS: usize = 10_000;

type Outcome = Result<Value, Fault>;

impl Call {
    pub(crate) fn evaluate(&self, scope: &Scope<'_>, chance: &mut dyn Chance) -> Outcome {
        // The first argument of Format keeps its escapes until the braces are filled.
        if self.function == Function::Format {
            return self.format(scope, chance);
        }
        let mut values = Vec::with_capacity(self.arguments.len());
        for argument in &self.arguments {
            values.push(argument.evaluate(self, scope, chance)?);
        }
        self.apply(&values, chance)
    }

    fn wrong(&self, reason: impl std::fmt::Display) -> Fault {
        Fault::intrinsic(format!("{}: {reason}", self.function.name()))
    }

    fn text<'v>(&self, value: &'v Value, what: &str) -> Result<&'v str, Fault> {
        value.as_str().ok_or_else(|| self.wrong(format!("{what} must be a text, not {}", value::kind(value))))
    }

    fn array<'v>(&self, value: &'v Value) -> Result<&'v Vec<Value>, Fault> {
        value.as_array().ok_or_else(|| self.wrong(format!("the first argument must be an array, not {}", value::kind(value))))
    }

    fn whole(&self, value: &Value, what: &str) -> Result<i64, Fault> {
        let number = value.as_number().and_then(rounded);
        number.ok_or_else(|| self.wrong(format!("{what} must be a number, not {}", value::kind(value))))
    }

    fn short<'v>(&self, text: &'v str) -> Result<&'v str, Fault> {
        match text.chars().count() {
            0..=MAX_CHARACTERS => Ok(text),
            more => Err(self.wrong(format!("{more} characters are more than {MAX_CHARACTERS}"))),
        }
    }

    fn apply(&self, values: &[Value], chance: &mut dyn Chance) -> Outcome {
        match (self.function, values) {
            (Function::StringToJson, [text]) => match self.text(text, "the argument")? {
                // An empty text stands for nothing.
                text if text.trim().is_empty() => Ok(Value::Null),
                text => serde_json::from_str(text).map_err(|error| self.wrong(format!("the text is not JSON: {error}"))),
            },
            (Function::JsonToString, [value]) => Ok(Value::String(value.to_string())),
            (Function::Array, values) => Ok(Value::Array(values.to_vec())),
            (Function::ArrayPartition, [array, size]) => {
                let size = self.whole(size, "the size of a chunk")?;
                let size = usize::try_from(size).ok().filter(|size| *size > 0);
                let size = size.ok_or_else(|| self.wrong("the size of a chunk must be at least 1"))?;
                Ok(self.array(array)?.chunks(size).map(|chunk| Value::Array(chunk.to_vec())).collect())
            }
            (Function::ArrayContains, [array, wanted]) => Ok(Value::Bool(self.array(array)?.iter().any(|item| value::equal(item, wanted)))),
            (Function::ArrayRange, [first, last, step]) => self.range(first, last, step),
            (Function::ArrayGetItem, [array, index]) => {
                let (array, index) = (self.array(array)?, self.whole(index, "the index")?);
                let item = usize::try_from(index).ok().and_then(|index| array.get(index));
                item.cloned().ok_or_else(|| self.wrong(format!("there is no item {index} in an array of {}", array.len())))
            }
            (Function::ArrayLength, [array]) => Ok(json!(self.array(array)?.len())),
            (Function::ArrayUnique, [array]) => {
                let mut unique: Vec<Value> = Vec::new();
                for item in self.array(array)? {
                    if !unique.iter().any(|seen| value::equal(seen, item)) {
                        unique.push(item.clone());
                    }
                }
                Ok(Value::Array(unique))
            }
            (Function::Base64Encode, [text]) => Ok(Value::String(BASE64.encode(self.short(self.text(text, "the argument")?)?.as_bytes()))),
            (Function::Base64Decode, [text]) => {
                let bytes = BASE64.decode(self.short(self.text(text, "the argument")?)?.as_bytes());
                let bytes = bytes.map_err(|error| self.wrong(format!("the text is not base64: {error}")))?;
                String::from_utf8(bytes).map(Value::String).map_err(|_| self.wrong("what is encoded is not UTF-8"))
            }
            (Function::Hash, [data, algorithm]) => self.hash(data, self.text(algorithm, "the algorithm")?),
            (Function::JsonMerge, [left, right, deep]) => match (left, right, deep) {
                (_, _, Value::Bool(true)) => Err(self.wrong("only the shallow merge is supported: the third argument must be false")),
                (Value::Object(left), Value::Object(right), Value::Bool(false)) => {
                    let mut merged = left.clone();
                    merged.extend(right.clone());
                    Ok(Value::Object(merged))
                }
                _ => Err(self.wrong("the arguments must be two objects and false")),
            },
            (Function::MathRandom, [first, end, seed @ ..]) => {
                let (first, end) = (self.whole(first, "the start")?, self.whole(end, "the end")?);
                let span = end.checked_sub(first).filter(|span| *span > 0);
                let span = span.ok_or_else(|| self.wrong("the end must be greater than the start"))?;
                let drawn = match seed.first() {
                    Some(seed) => Seeded::new(self.whole(seed, "the seed")?.unsigned_abs()).below(span.unsigned_abs()),
                    None => chance.below(span.unsigned_abs()),
                };
                Ok(json!(first.saturating_add(i64::try_from(drawn).unwrap_or(0))))
            }
            (Function::MathAdd, [left, right]) => {
                let sum = self.whole(left, "the first argument")?.checked_add(self.whole(right, "the second argument")?);
                sum.map(|sum| json!(sum)).ok_or_else(|| self.wrong("the sum is too large"))
            }
            (Function::StringSplit, [text, signs]) => {
                let (text, signs) = (self.text(text, "the first argument")?, self.text(signs, "the second argument")?);
                let parts = text.split(|c| signs.contains(c)).filter(|part| !part.is_empty());
                Ok(parts.map(|part| Value::String(part.to_owned())).collect())
            }
            (Function::Uuid, []) => Ok(Value::String(chance.uuid())),
            _ => Err(self.wrong("the number of arguments is wrong")),
        }
    }

    fn range(&self, first: &Value, last: &Value, step: &Value) -> Outcome {
        let (first, last) = (self.whole(first, "the first value")?, self.whole(last, "the last value")?);
        let step = self.whole(step, "the step")?;
        if step == 0 {
            return Err(self.wrong("the step must not be 0"));
        }
        let mut items = Vec::new();
        let mut next = Some(first);
        while let Some(item) = next.filter(|item| if step > 0 { *item <= last } else { *item >= last }) {
            if items.len() as i64 == MAX_RANGE {
                return Err(self.wrong(format!("the array would have more than {MAX_RANGE} items")));
            }
            items.push(json!(item));
            next = item.checked_add(step);
        }
        Ok(Value::Array(items))
    }

    fn hash(&self, data: &Value, algorithm: &str) -> Outcome {
        let text = match data {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let bytes = self.short(&text)?.as_bytes();
        let digest = match algorithm {
            "MD5" => HEXLOWER.encode(&md5::Md5::digest(bytes)),
            "SHA-1" => HEXLOWER.encode(&sha1::Sha1::digest(bytes)),
            "SHA-256" => HEXLOWER.encode(&sha2::Sha256::digest(bytes)),
            "SHA-384" => HEXLOWER.encode(&sha2::Sha384::digest(bytes)),
            "SHA-512" => HEXLOWER.encode(&sha2::Sha512::digest(bytes)),
            other => return Err(self.wrong(format!("{other} is not one of MD5, SHA-1, SHA-256, SHA-384, SHA-512"))),
        };
        Ok(Value::String(digest))
    }

    fn format(&self, scope: &Scope<'_>, chance: &mut dyn Chance) -> Outcome {
        let mut arguments = self.arguments.iter();
        let raw = match arguments.next() {
            Some(Argument::Text(raw)) => raw.clone(),
            Some(other) => self.text(&other.evaluate(self, scope, chance)?, "the template")?.to_owned(),
            None => return Err(self.wrong("the template is missing")),
        };
        let mut text = String::new();
        let mut characters = raw.chars().peekable();
        while let Some(c) = characters.next() {
            match c {
                '\\' => text.extend(characters.next()),
                '{' if characters.next_if_eq(&'}').is_some() => {
                    let argument = arguments.next().ok_or_else(|| self.wrong("the template has more {} than there are arguments"))?;
                    match argument.evaluate(self, scope, chance)? {
                        Value::String(value) => text.push_str(&value),
                        other => text.push_str(&other.to_string()),
                    }
                }
                '{' | '}' => return Err(self.wrong("a brace that does not stand for an argument must be escaped")),
                c => text.push(c),
            }
            if text.len() > crate::MAX_DATA {
                return Err(self.wrong("the text becomes too long"));
            }
        }
        match arguments.next() {
            Some(_) => Err(self.wrong("there are more arguments than {} in the template")),
            None => Ok(Value::String(text)),
        }
    }
}

impl Argument {
    fn evaluate(&self, call: &Call, scope: &Scope<'_>, chance: &mut dyn Chance) -> Outcome {
        match self {
            Self::Literal(value) => Ok(value.clone()),
            Self::Text(raw) => Ok(Value::String(unescape(raw))),
            Self::Call(inner) => inner.evaluate(scope, chance),
            Self::Path(path) => scope.find(path).map_err(|_| call.wrong(format!("the path {path} leads nowhere in {}", scope.shown(path)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(text: &str, input: Value) -> Result<Value, String> {
        let scope = Scope::of(&input);
        Call::parse(text).unwrap_or_else(|e| panic!("{text}: {e}")).evaluate(&scope, &mut Seeded::new(7)).map_err(|fault| {
            assert_eq!(fault.error, crate::fault::INTRINSIC_FAILURE);
            fault.cause
        })
    }

    #[test]
    fn each_function_does_what_its_page_says() {
        let input =
            json!({"n": 5, "f": 2.5, "s": "a,b;c", "a": [1, 2, 2, 3, "x"], "o": {"k": [1]}, "j": "{\"z\":1}", "u": {"k": 2, "m": 3}});
        for (text, expected) in [
            ("States.Format('{}: {} \\{\\} {}', $.n, $.s, $.o)", json!("5: a,b;c {} {\"k\":[1]}")),
            ("States.StringToJson($.j)", json!({"z": 1})),
            ("States.JsonToString($.o)", json!("{\"k\":[1]}")),
            ("States.Array($.n, 'it\\'s', null)", json!([5, "it's", null])),
            ("States.ArrayPartition($.a, 2)", json!([[1, 2], [2, 3], ["x"]])),
            ("States.ArrayContains($.a, 2.0)", json!(true)),
            ("States.ArrayRange(1, 9, 2)", json!([1, 3, 5, 7, 9])),
            ("States.ArrayRange(3, 1, -1)", json!([3, 2, 1])),
            ("States.ArrayGetItem($.a, 4)", json!("x")),
            ("States.ArrayLength($.a)", json!(5)),
            ("States.ArrayUnique($.a)", json!([1, 2, 3, "x"])),
            ("States.Base64Encode('Data to encode')", json!("RGF0YSB0byBlbmNvZGU=")),
            ("States.Base64Decode('RGF0YQ==')", json!("Data")),
            ("States.Hash('input data', 'SHA-1')", json!("aaff4a450a104cd177d28d18d74485e8cae074b7")),
            ("States.Hash('', 'MD5')", json!("d41d8cd98f00b204e9800998ecf8427e")),
            ("States.JsonMerge($.o, $.u, false)", json!({"k": 2, "m": 3})),
            ("States.MathAdd($.n, -1)", json!(4)),
            ("States.StringSplit($.s, ',;')", json!(["a", "b", "c"])),
            ("States.MathRandom(3, 4)", json!(3)),
        ] {
            assert_eq!(call(text, input.clone()), Ok(expected), "{text}");
        }
        let uuid = call("States.UUID()", json!({})).unwrap();
        assert_eq!((uuid.as_str().unwrap().len(), &uuid.as_str().unwrap()[14..15]), (36, "4"));
        assert_eq!(call("States.MathRandom(1, 1000, 42)", json!({})), call("States.MathRandom(1, 1000, 42)", json!({})));
    }

    #[test]
    fn a_function_that_cannot_answer_fails_with_a_reason() {
        let input = json!({"a": [1], "s": "text", "big": "x".repeat(10_001)});
        for text in [
            "States.Format('{}')",
            "States.Format('x', 1)",
            "States.Format('{', 1)",
            "States.StringToJson('{')",
            "States.ArrayPartition($.a, 0)",
            "States.ArrayRange(1, 1001, 1)",
            "States.ArrayRange(1, 2, 0)",
            "States.ArrayGetItem($.a, 1)",
            "States.ArrayLength($.s)",
            "States.Base64Encode($.big)",
            "States.Base64Decode('*')",
            "States.Hash('a', 'CRC')",
            "States.JsonMerge($.s, $.s, false)",
            "States.MathAdd('a', 1)",
            "States.MathAdd(9223372036854775807, 1)",
            "States.MathRandom(2, 2)",
            "States.Array($.missing)",
        ] {
            assert!(call(text, input.clone()).is_err(), "{text}");
        }
    }
}
