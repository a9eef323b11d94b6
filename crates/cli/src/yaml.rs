//! A configuration file as blocks of keys with their lines: text in, no meaning yet.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// What stands after a key. Numbers and booleans stay text: the flags' own parsers read them.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Nothing,
    One(String),
    Many(Vec<String>),
    Block(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub key: String,
    pub line: u64,
    pub value: Value,
}

/// A mistake in the text itself.
#[derive(Debug)]
pub struct Mistake {
    pub line: Option<u64>,
    pub message: String,
}

pub fn parse(text: &str) -> Result<Vec<Entry>, Mistake> {
    // A snippet of the file in a message could show a secret that does not belong there.
    let options = serde_saphyr::options! { with_snippet: false };
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Vec::new());
    }
    match serde_saphyr::from_str_with_options::<Node>(text, options) {
        Ok(Node::Block(entries)) => entries.into_iter().map(|(key, value)| entry(text, key, value)).collect(),
        Ok(_) => Err(Mistake { line: Some(1), message: "the file holds no blocks; begin with `copy:`".to_owned() }),
        Err(error) => Err(Mistake { line: error.location().map(|l| l.line()), message: error.to_string() }),
    }
}

/// What the parser hands over. A number is kept as its place in the text: read as a number, the account
/// 012345678901 would lose a digit.
enum Node {
    Nothing,
    Number,
    Text(String),
    List(Vec<Spanned<Node>>),
    Block(Vec<(Spanned<String>, Spanned<Node>)>),
}

fn entry(source: &str, key: Spanned<String>, value: Spanned<Node>) -> Result<Entry, Mistake> {
    let line = key.referenced.line();
    let value = match value.value {
        Node::Nothing => Value::Nothing,
        Node::List(items) => Value::Many(items.into_iter().map(|item| scalar(source, item)).collect::<Result<_, _>>()?),
        Node::Block(entries) => Value::Block(entries.into_iter().map(|(key, value)| entry(source, key, value)).collect::<Result<_, _>>()?),
        _ => Value::One(scalar(source, value)?),
    };
    Ok(Entry { key: key.value, line, value })
}

fn scalar(source: &str, node: Spanned<Node>) -> Result<String, Mistake> {
    let mistake = |message: &str| Mistake { line: Some(node.referenced.line()), message: message.to_owned() };
    match node.value {
        Node::Text(text) => Ok(text),
        Node::Number => {
            let span = node.defined.span();
            let range = span.byte_offset().zip(span.byte_len()).map(|(start, length)| start as usize..(start + length) as usize);
            let text = range.and_then(|range| source.get(range)).ok_or_else(|| mistake("put this number into quotes"))?;
            Ok(text.trim().to_owned())
        }
        _ => Err(mistake("a list holds plain values only")),
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, a list or a block")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Nothing)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Nothing)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Text(value.to_string()))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Number)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Number)
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Block(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_with_their_lines_and_values_as_text() {
        let entries =
            parse("# ours\ncopy:\n  chunk_size: 8M\n  transfers: 7\n  resend: true\n  include:\n    - '*.csv'\n    - a\nsso:\n").unwrap();
        let Value::Block(copy) = &entries[0].value else { panic!() };
        let one = |text: &str| Value::One(text.to_owned());
        assert_eq!((copy[0].line, copy[0].key.as_str(), &copy[0].value), (3, "chunk_size", &one("8M")));
        assert_eq!((&copy[1].value, &copy[2].value), (&one("7"), &one("true")));
        assert_eq!(copy[3].value, Value::Many(vec!["*.csv".into(), "a".into()]));
        assert_eq!((entries[1].line, &entries[1].value), (9, &Value::Nothing));
    }

    #[test]
    fn numbers_keep_the_form_in_which_they_were_written() {
        let Value::Block(sso) = &parse("sso:\n  account_id: 012345678901 # ours\n  ids: [007, 1.50]\n  mode: 0640\n").unwrap()[0].value
        else {
            panic!()
        };
        assert_eq!(sso[0].value, Value::One("012345678901".into()));
        assert_eq!(sso[1].value, Value::Many(vec!["007".into(), "1.50".into()]));
        assert_eq!(sso[2].value, Value::One("0640".into()));
    }

    #[test]
    fn broken_text_is_named_with_its_line() {
        assert_eq!(parse("copy:\n  a: [1\n").unwrap_err().line.map(|l| l > 1), Some(true));
        assert!(parse("copy:\n  a: 1\n  a: 2\n").is_err(), "a key that stands twice");
        assert!(parse("").unwrap().is_empty());
    }
}
