//! What a partner may want besides the files: checksum, done and control files beside each, a list and a mark at the
//! end, an order, and what becomes of the original.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{FileNumber, ObjectKey};

/// Files that go with others have numbers from here on in a manifest.
pub const FIRST_COMPANION: FileNumber = FileNumber(1 << 31);

/// Longest text of a control file, before its placeholders are filled in.
pub const MAX_CONTROL_BYTES: usize = 16 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SidecarKind {
    Sha256,
    Md5,
    Done,
    Ctl,
}

impl SidecarKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Md5 => "md5",
            Self::Done => "done",
            Self::Ctl => "ctl",
        }
    }
}

/// `--sidecar KIND[:NAME]`, for `ctl` with `@FILE`: one small file beside each delivered one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sidecar {
    pub kind: SidecarKind,
    pub name: CompanionName,
    /// Where the text of a control file is read from, once.
    pub file: Option<String>,
    /// That text, with placeholders.
    pub text: Option<String>,
}

impl fmt::Display for Sidecar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.as_str(), self.name)
    }
}

impl FromStr for Sidecar {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let word = text.split([':', '@']).next().unwrap_or_default();
        let kind = [SidecarKind::Sha256, SidecarKind::Md5, SidecarKind::Done, SidecarKind::Ctl]
            .into_iter()
            .find(|kind| kind.as_str() == word)
            .ok_or_else(|| format!("{word:?} is not one of sha256, md5, done, ctl"))?;
        let rest = &text[word.len()..];
        let (name, file) = match kind {
            SidecarKind::Ctl => match rest.split_once('@') {
                Some((name, file)) if !file.is_empty() => (name, Some(file.to_owned())),
                _ => return Err("a control file needs its text: ctl:{name}.ctl@FILE".to_owned()),
            },
            _ => (rest, None),
        };
        let standard = format!("{{name}}.{word}");
        let name = match name.strip_prefix(':') {
            Some(name) => name,
            None if name.is_empty() => &standard,
            None => return Err(format!("write {word}:NAME")),
        };
        if !name.contains("{name}") {
            return Err(format!("the name {name:?} would be the same for every file; it must hold {{name}}"));
        }
        Ok(Self { kind, name: name.parse()?, file, text: None })
    }
}

/// The name of a file that goes with others: text with `{name}` (of a sidecar's file) and `{date:%Y%m%d}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CompanionName(String);

impl CompanionName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn render(&self, name: &str, at: jiff::Timestamp) -> Result<String, String> {
        expand(&self.0, at, |word| (word == "name").then(|| name.to_owned()))
    }
}

impl fmt::Display for CompanionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for CompanionName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = Self(text.to_owned());
        let shown = name.render("x", jiff::Timestamp::UNIX_EPOCH)?;
        let bad = shown.is_empty() || shown == "." || shown == ".." || shown.contains('/') || shown.chars().any(char::is_control);
        if bad { Err(format!("{text:?} is not the name of a file in the same directory")) } else { Ok(name) }
    }
}

impl TryFrom<String> for CompanionName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<CompanionName> for String {
    fn from(name: CompanionName) -> Self {
        name.0
    }
}

/// Fills in `{word}` and `{date:FORMAT}` (UTC). Other braces stay as they are, so that JSON can be a template; a word
/// that nobody knows is an error, because it is a slip of the pen.
pub fn expand(text: &str, at: jiff::Timestamp, value: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        out.push_str(&rest[..open]);
        rest = &rest[open..];
        let inner = rest[1..].split_once('}').map(|(inner, _)| inner);
        match inner {
            Some(inner) if inner.starts_with("date:") => {
                let zoned = jiff::Zoned::new(at, jiff::tz::TimeZone::UTC);
                let date = jiff::fmt::strtime::format(&inner[5..], &zoned).map_err(|e| format!("{{{inner}}}: {e}"))?;
                out.push_str(&date);
                rest = &rest[inner.len() + 2..];
            }
            Some(inner) if !inner.is_empty() && inner.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) => {
                out.push_str(&value(inner).ok_or_else(|| format!("nothing is known as {{{inner}}} here"))?);
                rest = &rest[inner.len() + 2..];
            }
            _ => {
                out.push('{');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// A line that `sha256sum -c` or `md5sum -c` reads. As they do, names with a backslash or a line break are escaped.
pub fn sum_line(digest: &str, name: &str) -> String {
    if name.contains(['\\', '\n', '\r']) {
        let escaped = name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
        format!("\\{digest}  {escaped}\n")
    } else {
        format!("{digest}  {name}\n")
    }
}

/// In which order files get their final names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// As the source lists them, or as `--files-from` does.
    Listing,
    Key,
    /// Smallest first.
    Size,
    /// Oldest first.
    Age,
}

impl Order {
    pub const WORDS: &'static [(&'static str, Order)] =
        &[("listing", Self::Listing), ("key", Self::Key), ("size", Self::Size), ("age", Self::Age)];
}

impl FromStr for Order {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::WORDS.iter().find(|(word, _)| *word == text);
        known.map(|(_, order)| *order).ok_or_else(|| format!("{text:?} is not one of listing, key, size, age"))
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::WORDS.iter().find(|(_, order)| order == self).map_or("", |(word, _)| word))
    }
}

/// What becomes of an object that was delivered and proved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum After {
    #[default]
    Keep,
    Delete,
    Archive {
        bucket: String,
        /// Empty, or ends in `/`.
        prefix: String,
    },
}

impl FromStr for After {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "keep" => Ok(Self::Keep),
            "delete" => Ok(Self::Delete),
            _ => {
                let place = text.strip_prefix("archive=").ok_or_else(|| "write keep, delete or archive=s3://BUCKET/PREFIX/".to_owned())?;
                match crate::Location::parse(place) {
                    Ok(crate::Location::S3 { bucket, text }) if text.is_empty() || text.ends_with('/') => {
                        Ok(Self::Archive { bucket, prefix: text })
                    }
                    Ok(crate::Location::S3 { .. }) => Err(format!("{place} names one object; end the prefix in /")),
                    _ => Err(format!("{place} is not s3://BUCKET/PREFIX/")),
                }
            }
        }
    }
}

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => f.write_str("keep"),
            Self::Delete => f.write_str("delete"),
            Self::Archive { bucket, prefix } => write!(f, "archive=s3://{bucket}/{prefix}"),
        }
    }
}

impl TryFrom<String> for After {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<After> for String {
    fn from(after: After) -> Self {
        after.to_string()
    }
}

/// The key under which a sidecar stands in a manifest: it cannot be that of an object of the same transfer.
pub fn sidecar_key(sidecar: &Sidecar, of: &ObjectKey) -> ObjectKey {
    ObjectKey::local(format!("{sidecar} of {}", of.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sidecars_are_read_with_and_without_a_name() {
        let sidecar: Sidecar = "sha256".parse().unwrap();
        assert_eq!((sidecar.kind, sidecar.name.as_str()), (SidecarKind::Sha256, "{name}.sha256"));
        let sidecar: Sidecar = "done:{name}.ok".parse().unwrap();
        assert_eq!(sidecar.name.render("a.csv", jiff::Timestamp::UNIX_EPOCH).unwrap(), "a.csv.ok");
        let sidecar: Sidecar = "ctl:{date:%Y}-{name}.ctl@/etc/x@y.txt".parse().unwrap();
        assert_eq!((sidecar.name.as_str(), sidecar.file.as_deref()), ("{date:%Y}-{name}.ctl", Some("/etc/x@y.txt")));
        assert_eq!("ctl@letter".parse::<Sidecar>().unwrap().name.as_str(), "{name}.ctl");
        for bad in ["sha512", "md5:x", "ctl", "ctl:{name}", "done:{nam}{name}", "done:../{name}", "sha256{name}", "md5:{name}/x"] {
            assert!(bad.parse::<Sidecar>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_template_may_be_json_and_a_slip_is_an_error() {
        let value = |word: &str| (word == "size").then(|| "9".to_owned());
        let at = jiff::Timestamp::UNIX_EPOCH;
        assert_eq!(expand(r#"{"size": {size}, "on": "{date:%Y-%m-%d}"}"#, at, value).unwrap(), r#"{"size": 9, "on": "1970-01-01"}"#);
        assert!(expand("{szie}", at, value).unwrap_err().contains("szie"));
        assert_eq!(expand("{ } {", at, value).unwrap(), "{ } {");
    }

    #[test]
    fn afterwards_is_read_back_as_it_was_written() {
        for text in ["keep", "delete", "archive=s3://b/sent/", "archive=s3://b/"] {
            assert_eq!(text.parse::<After>().unwrap().to_string(), text);
        }
        for bad in ["move", "archive=", "archive=s3://b/one", "archive=sftp://h/x/"] {
            assert!(bad.parse::<After>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sums_are_written_as_the_tools_read_them() {
        assert_eq!(sum_line("ab", "a b"), "ab  a b\n");
        assert_eq!(sum_line("ab", "a\\b"), "\\ab  a\\\\b\n");
    }
}
