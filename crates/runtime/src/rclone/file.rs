//! rclone.conf as text: found, read within bounds, cut into sections; `RCLONE_CONFIG_NAME_KEY` variables outweigh it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use model::Credential;

use super::{Places, Unmapped, obscure};
use crate::Failure;

/// People and rclone write this file; anything larger is another one.
const MAX_BYTES: u64 = 1 << 20;
const MAX_SECTIONS: usize = 2000;
const MAX_KEYS: usize = 500;
/// Names listed in a message.
const SHOWN: usize = 20;
const VARIABLE: &str = "RCLONE_CONFIG_";

type Values = BTreeMap<String, String>;

/// Every remote that is known. It prints without values: passwords are among them.
#[derive(Default)]
pub struct Remotes {
    file: Option<PathBuf>,
    sections: BTreeMap<String, Values>,
    variables: Vec<(String, String)>,
}

impl fmt::Debug for Remotes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remotes").field("file", &self.file).field("names", &self.sections.keys()).finish_non_exhaustive()
    }
}

impl Remotes {
    /// The first file that is there counts, alone. None at all is no error: variables may define everything.
    pub fn open(places: &Places) -> Result<Self, Failure> {
        let variable = |name: &str| places.variables.iter().find(|(known, value)| known == name && !value.is_empty());
        let named = places.named.clone().or_else(|| variable("RCLONE_CONFIG").map(|(_, path)| PathBuf::from(path)));
        let usual = || {
            let homes = places.config_home.iter().cloned().chain([places.home.join(".config")]);
            homes.map(|home| home.join("rclone/rclone.conf")).chain([places.home.join(".rclone.conf")]).find(|path| path.is_file())
        };
        let is_named = named.is_some();
        let variables = places.variables.iter().filter(|(name, _)| name.starts_with(VARIABLE)).cloned().collect();
        let Some(path) = named.or_else(usual) else { return Ok(Self { variables, ..Self::default() }) };
        let path = std::path::absolute(&path).unwrap_or(path);
        let fail = |why: String| Failure {
            next: Some("name another file with --rclone-config or RCLONE_CONFIG; `rclone config file` shows rclone's own".into()),
            ..Failure::usage(format!("{}: {why}", path.display()))
        };
        let mut bytes = Vec::new();
        match std::fs::File::open(&path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)) {
            // rclone itself takes a file that is not there for an empty one.
            Err(error) if error.kind() == ErrorKind::NotFound && !is_named => return Ok(Self { variables, ..Self::default() }),
            Err(error) => return Err(fail(format!("cannot be read: {error}"))),
            Ok(_) if bytes.len() as u64 > MAX_BYTES => return Err(fail("is too large for an rclone.conf".to_owned())),
            Ok(_) => {}
        }
        let text = String::from_utf8(bytes).map_err(|_| fail("is not UTF-8".to_owned()))?;
        if is_encrypted(&text) {
            return Err(Failure {
                next: Some("write it out with `(umask 077; rclone config show > FILE)` and name that file with --rclone-config".into()),
                ..Failure::usage(format!("{} is encrypted with a password of rclone's, which is not asked for here", path.display()))
            });
        }
        let sections = sections(&text).map_err(fail)?;
        Ok(Self { file: Some(path), sections, variables })
    }

    /// Sections that stand in no file.
    pub(super) fn of(sections: BTreeMap<String, Values>) -> Self {
        Self { sections, ..Self::default() }
    }

    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// For messages.
    pub fn names(&self) -> String {
        let names: Vec<String> = self.sections.keys().take(SHOWN).map(|name| model::escape_name(name)).collect();
        let more = self.sections.len().saturating_sub(SHOWN);
        match (names.is_empty(), more) {
            (true, _) => "no names".to_owned(),
            (false, 0) => names.join(", "),
            (false, more) => format!("{} and {more} more", names.join(", ")),
        }
    }

    pub fn section(&self, name: &str) -> Option<Section> {
        let known = self.sections.get(name);
        let mut values = known.cloned().unwrap_or_default();
        // rclone's own rule for names of variables.
        let prefix = format!("{VARIABLE}{}_", name.to_uppercase().replace('-', "_"));
        for (variable, value) in &self.variables {
            if let Some(key) = variable.strip_prefix(&prefix).filter(|key| !key.is_empty()) {
                values.insert(key.to_lowercase(), value.clone());
            }
        }
        (known.is_some() || values.contains_key("type")).then(|| Section { name: name.to_owned(), values })
    }
}

/// One remote.
pub struct Section {
    pub name: String,
    values: Values,
}

impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Section").field("name", &self.name).field("keys", &self.values.keys()).finish()
    }
}

impl Section {
    pub fn kind(&self) -> &str {
        self.text("type").unwrap_or_default()
    }

    /// A value that is set.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub fn truth(&self, key: &str) -> bool {
        self.text(key).is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "true" | "1" | "t" | "yes" | "on"))
    }

    /// What is set, is no refusal, and is not among `mapped`.
    pub fn others(&self, mapped: &[&str]) -> impl Iterator<Item = &str> {
        let told = |key: &str| !matches!(key, "type" | "description") && !mapped.contains(&key);
        let set = |value: &str| !matches!(value.to_ascii_lowercase().as_str(), "" | "false");
        self.values.iter().filter(move |(key, value)| told(key) && set(value)).map(|(key, _)| key.as_str())
    }

    /// The same for sections in which nothing else means anything here.
    pub fn unmapped(&self, mapped: &[&str]) -> Vec<Unmapped> {
        self.others(mapped).map(|key| Unmapped { remote: self.name.clone(), key: key.to_owned(), why: "has no meaning here" }).collect()
    }

    /// A secret in the form in which it is used; the error does not repeat it.
    pub fn secret(&self, key: &str) -> Result<Credential, &'static str> {
        let value = self.text(key).ok_or("it is not set")?;
        match key {
            "pass" | "key_file_pass" => obscure::reveal(value),
            // Written in one line, with the characters \n between its own.
            "key_pem" => Ok(Credential::new(value.replace("\\n", "\n"))),
            // We take keys in base64; rclone has them as they are.
            "sse_customer_key" => Ok(Credential::new(BASE64.encode(value.as_bytes()))),
            "sse_customer_key_base64" | "access_key_id" | "secret_access_key" | "session_token" => Ok(Credential::new(value)),
            // The password in an address.
            "socks_proxy" | "http_proxy" => {
                let (_, password) = super::map::proxy(key, value).map_err(|_| "it is no address of a proxy")?;
                password.ok_or("there is no password in it")
            }
            _ => Err("it is no secret"),
        }
    }
}

fn is_encrypted(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';']));
    lines.next().is_some_and(|line| line.starts_with("RCLONE_ENCRYPT_V"))
}

/// `[name]` and `key = value`; `#` and `;` begin a comment at the beginning of a line. A name that comes twice goes on.
pub(super) fn sections(text: &str) -> Result<BTreeMap<String, Values>, String> {
    let mut sections: BTreeMap<String, Values> = BTreeMap::new();
    let mut current: Option<String> = None;
    for (index, line) in text.lines().enumerate() {
        let line = if index == 0 { line.trim_start_matches('\u{feff}') } else { line }.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(rest) = line.strip_prefix('[') {
            let name = rest.strip_suffix(']').ok_or_else(|| format!("line {} has a [ without ]", index + 1))?;
            sections.entry(name.to_owned()).or_default();
            if sections.len() > MAX_SECTIONS {
                return Err(format!("it has more than {MAX_SECTIONS} sections"));
            }
            current = Some(name.to_owned());
            continue;
        }
        // Neither key nor value is repeated: a line that is no setting may be a part of a key.
        let Some((key, value)) = line.split_once('=') else { return Err(format!("line {} is neither a section nor a setting", index + 1)) };
        let Some(values) = current.as_ref().and_then(|name| sections.get_mut(name)) else {
            return Err(format!("line {} stands before the first section", index + 1));
        };
        values.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        if values.len() > MAX_KEYS {
            return Err(format!("a section has more than {MAX_KEYS} settings"));
        }
    }
    Ok(sections)
}
