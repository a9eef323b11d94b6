//! config.yaml: where it is found, which keys it may hold, and how its settings become defaults of the flags.
//! Flags override the environment, which overrides the file.

use std::fmt;
use std::path::{Path, PathBuf};

use model::{ByteCount, Thresholds};

use crate::yaml::{self, Entry, Value};

/// More than any sensible configuration; a wrong file given by mistake is not read whole.
const MAX_BYTES: u64 = 1 << 20;

/// The long flags that are settings. In the file they stand in `copy:` with `_` for `-`.
pub const SETTINGS: &[&str] = &[
    "s3-endpoint",
    "s3-region",
    "profile",
    "path-style",
    "request-payer",
    "no-sign-request",
    "sse-customer-key-from",
    "identity",
    "password-from",
    "known-hosts",
    "host-key",
    "ssh-algorithms",
    "ca-file",
    "tls-pin",
    "tls-min",
    "client-cert",
    "client-key",
    "active",
    "bind",
    "proxy",
    "proxy-password-from",
    "allow-private",
    "jump",
    "connect-timeout",
    "stall-timeout",
    "include",
    "exclude",
    "min-size",
    "max-size",
    "min-age",
    "max-age",
    "name",
    "flatten",
    "verify",
    "digest",
    "if-exists",
    "publish",
    "temp-name",
    "preserve-time",
    "chmod",
    "mkdir",
    "fail-if-empty",
    "sidecar",
    "manifest",
    "done",
    "order",
    "after",
    "after-grade",
    "connections",
    "transfers",
    "lanes",
    "chunk-size",
    "buffer",
    "bwlimit",
    "retries",
    "max-duration",
    "receipt",
    "no-progress",
];

const TRANSFER: &[&str] =
    &["small_file_threshold", "large_file_threshold", "default_chunk_size", "max_parallel_threads", "enable_compression", "buffer"];

/// The other blocks of the documents. This version checks them; the service will use them.
const BLOCKS: &[(&str, &[&str])] = &[
    ("servicenow", &["instance_url", "username", "password", "default_assignment_group", "user_ticket_urgency", "audit_ticket_urgency"]),
    ("sso", &["start_url", "region", "account_id", "role_name", "session_duration"]),
    (
        "dynamodb",
        &[
            "region",
            "active_sessions_table",
            "user_context_table",
            "transfer_requests_table",
            "agent_learning_table",
            "s3_file_cache_table",
        ],
    ),
    ("step_functions", &["state_machine_arn"]),
];

const REFERENCES: &[&str] = &["env:", "file:", "local:", "aws-sm:", "aws-ssm:"];

#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub path: Option<PathBuf>,
    pub settings: Vec<Setting>,
    pub thresholds: Thresholds,
}

/// One flag's value from the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// Long name of the flag.
    pub long: &'static str,
    pub values: Vec<String>,
    /// As it stands in the file: `copy.chunk_size`.
    pub key: String,
    pub line: u64,
}

#[derive(Debug, PartialEq)]
pub struct ConfigError {
    pub file: PathBuf,
    pub line: Option<u64>,
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for ConfigError {}

/// The places in their order; the first file that is there counts, alone.
pub fn places(working: &Path, config_home: Option<&Path>) -> Vec<PathBuf> {
    let mut places = vec![working.join("fileferry.yaml")];
    places.extend(config_home.map(|home| home.join("fileferry/config.yaml")));
    places.push(PathBuf::from("/etc/fileferry/config.yaml"));
    places
}

/// Reads `named`, which must be there, or the first of `places`.
pub fn load(named: Option<&Path>, places: &[PathBuf], variable: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    let none = || Config { path: None, settings: Vec::new(), thresholds: Thresholds::default() };
    let path = match named {
        Some(path) => path.to_owned(),
        None => match places.iter().find(|path| path.is_file()) {
            Some(path) => path.clone(),
            None => return Ok(none()),
        },
    };
    let fail = |message: String| ConfigError { file: path.clone(), line: None, message };
    let size = std::fs::metadata(&path).map_err(|e| fail(format!("cannot be read: {e}")))?.len();
    if size > MAX_BYTES {
        return Err(fail(format!("is {}, too large for a configuration", ByteCount(size))));
    }
    let text = std::fs::read_to_string(&path).map_err(|e| fail(format!("cannot be read: {e}")))?;
    read(&path, &text, variable)
}

pub fn read(path: &Path, text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    let mut reader =
        Reader { path, variable, config: Config { path: Some(path.to_owned()), settings: Vec::new(), thresholds: Thresholds::default() } };
    let entries = yaml::parse(text).map_err(|m| ConfigError { file: path.to_owned(), line: m.line, message: m.message })?;
    for block in entries {
        reader.block(block)?;
    }
    Ok(reader.config)
}

struct Reader<'a> {
    path: &'a Path,
    variable: &'a dyn Fn(&str) -> Option<String>,
    config: Config,
}

impl Reader<'_> {
    fn fail<T>(&self, line: u64, message: impl Into<String>) -> Result<T, ConfigError> {
        Err(ConfigError { file: self.path.to_owned(), line: Some(line), message: message.into() })
    }

    fn block(&mut self, block: Entry) -> Result<(), ConfigError> {
        let known = || ["copy", "transfer"].into_iter().chain(BLOCKS.iter().map(|(name, _)| *name));
        if !known().any(|name| name == block.key) {
            return self.fail(block.line, unknown("block", &block.key, known()));
        }
        let entries = match block.value {
            Value::Nothing => return Ok(()),
            Value::Block(entries) => entries,
            _ => return self.fail(block.line, format!("{} is a block; its keys stand indented below it", block.key)),
        };
        for entry in entries {
            match block.key.as_str() {
                "copy" => self.copy(entry)?,
                "transfer" => self.transfer(entry)?,
                name => {
                    let keys = BLOCKS.iter().find(|(block, _)| *block == name).map_or(&[][..], |(_, keys)| keys);
                    self.other(name, keys, entry)?;
                }
            }
        }
        let Thresholds { small, large } = self.config.thresholds;
        if small > large {
            return self.fail(block.line, "transfer.small_file_threshold is above transfer.large_file_threshold");
        }
        Ok(())
    }

    fn copy(&mut self, entry: Entry) -> Result<(), ConfigError> {
        let long = entry.key.replace('_', "-");
        let Some(long) = SETTINGS.iter().find(|known| **known == long) else {
            if long == "password" {
                return self.fail(entry.line, "a password does not belong into this file; write password_from: env:NAME or file:PATH");
            }
            let keys: Vec<String> = SETTINGS.iter().map(|known| known.replace('-', "_")).collect();
            return self.fail(entry.line, unknown("key of copy", &entry.key, keys.iter().map(String::as_str)));
        };
        let key = format!("copy.{}", entry.key);
        let values = self.values(&key, entry.line, entry.value)?;
        self.set(long, values, key, entry.line)
    }

    fn transfer(&mut self, entry: Entry) -> Result<(), ConfigError> {
        if !TRANSFER.contains(&entry.key.as_str()) {
            return self.fail(entry.line, unknown("key of transfer", &entry.key, TRANSFER.iter().copied()));
        }
        let key = format!("transfer.{}", entry.key);
        let value = self.one(&key, entry.line, entry.value)?;
        // The documents give plain numbers of bytes here; sizes with a unit are understood as well.
        let bytes = || match value.parse::<u64>() {
            Ok(count) => Ok(ByteCount(count)),
            Err(_) => value.parse::<ByteCount>().or_else(|e| self.fail(entry.line, format!("{key}: {e}"))),
        };
        match entry.key.as_str() {
            "small_file_threshold" => self.config.thresholds.small = bytes()?,
            "large_file_threshold" => self.config.thresholds.large = bytes()?,
            "default_chunk_size" => return self.set("chunk-size", vec![format!("{}B", bytes()?.get())], key, entry.line),
            "buffer" => return self.set("buffer", vec![format!("{}B", bytes()?.get())], key, entry.line),
            "max_parallel_threads" => return self.set("transfers", vec![value], key, entry.line),
            _ => match value.as_str() {
                "false" => {}
                "true" => {
                    return self.fail(
                        entry.line,
                        "transfer.enable_compression is not in this version: a delivered file would not be what its name says; \
                         see `fileferry explain dest_name_invalid` for naming, and set it to false",
                    );
                }
                _ => return self.fail(entry.line, format!("{key} is true or false")),
            },
        }
        Ok(())
    }

    fn other(&mut self, block: &str, keys: &[&str], entry: Entry) -> Result<(), ConfigError> {
        if !keys.contains(&entry.key.as_str()) {
            return self.fail(entry.line, unknown(&format!("key of {block}"), &entry.key, keys.iter().copied()));
        }
        let key = format!("{block}.{}", entry.key);
        if key == "servicenow.password" {
            return match &entry.value {
                Value::One(text) if is_reference(text) => Ok(()),
                _ => self.fail(
                    entry.line,
                    "servicenow.password is a literal password; write a reference instead: env:NAME, file:PATH, local:NAME, \
                     aws-sm:NAME#key or aws-ssm:/path",
                ),
            };
        }
        let value = self.one(&key, entry.line, entry.value)?;
        let within = |low: u64, high: u64| value.parse::<u64>().is_ok_and(|number| (low..=high).contains(&number));
        match entry.key.as_str() {
            "session_duration" if !within(1, 10) => self.fail(entry.line, format!("{key} is {value}; a session lasts 1 to 10 seconds")),
            "user_ticket_urgency" | "audit_ticket_urgency" if !within(1, 3) => {
                self.fail(entry.line, format!("{key} is {value}; an urgency is 1, 2 or 3"))
            }
            _ => Ok(()),
        }
    }

    fn set(&mut self, long: &'static str, values: Vec<String>, key: String, line: u64) -> Result<(), ConfigError> {
        if let Some(earlier) = self.config.settings.iter().find(|s| s.long == long) {
            let message = format!("{key} says again what {} in line {} says; keep one", earlier.key, earlier.line);
            return self.fail(line, message);
        }
        self.config.settings.push(Setting { long, values, key, line });
        Ok(())
    }

    fn one(&self, key: &str, line: u64, value: Value) -> Result<String, ConfigError> {
        let mut values = self.values(key, line, value)?;
        match (values.pop(), values.is_empty()) {
            (Some(value), true) => Ok(value),
            _ => self.fail(line, format!("{key} takes one value")),
        }
    }

    fn values(&self, key: &str, line: u64, value: Value) -> Result<Vec<String>, ConfigError> {
        let texts = match value {
            Value::One(text) => vec![text],
            Value::Many(texts) => texts,
            Value::Nothing => return self.fail(line, format!("{key} has no value")),
            Value::Block(_) => return self.fail(line, format!("{key} takes a value, not a block")),
        };
        let texts = texts.iter().map(|text| expand(text, self.variable)).collect::<Result<Vec<_>, _>>();
        let texts = texts.or_else(|message| self.fail(line, format!("{key}: {message}")))?;
        if texts.iter().any(|text| holds_password(text)) {
            return self.fail(line, format!("{key} holds a password in a URL; leave it out and use a reference such as env:NAME"));
        }
        Ok(texts)
    }
}

/// `${NAME}` becomes the variable's value; `$${` stands for a literal `${`. Done after YAML is read, so that
/// a value cannot become structure.
fn expand(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at - 1]);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let end = rest[at..].find('}').ok_or_else(|| "${ is not closed by }".to_owned())? + at;
        let name = &rest[at + 2..end];
        out.push_str(&variable(name).ok_or_else(|| format!("the environment variable {name} is not set"))?);
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// A secret's place rather than the secret. `${NAME}` alone is read as `env:NAME`.
fn is_reference(text: &str) -> bool {
    let named = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    REFERENCES.iter().any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
        || named.is_some_and(|name| !name.is_empty() && !name.contains(['{', '}', '$']))
}

/// Whether a URL has a user name and a password before its host.
pub fn holds_password(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else { return false };
    let authority = rest.split('/').next().unwrap_or(rest);
    authority.rsplit_once('@').is_some_and(|(userinfo, _)| userinfo.contains(':'))
}

fn unknown<'a>(what: &str, given: &str, known: impl Iterator<Item = &'a str>) -> String {
    let given_text = model::escape_name(given);
    match model::nearest(given, known) {
        Some(name) => format!("{given_text:?} is not a {what}; did you mean {name:?}?"),
        None => format!("{given_text:?} is not a {what}; see docs/reference.md"),
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
