//! Names from rclone.conf: `partner:inbox/` becomes a URL and settings, and what could not be taken over is told.
//! Secrets stay in the file: settings hold references (`rclone:NAME#KEY#FILE`), which `secret` leads back here.

mod file;
#[doc(hidden)]
pub mod fuzzing;
mod map;
mod obscure;

use std::path::{Path, PathBuf};

use app::{S3Settings, ServerSettings};
use model::Credential;
use transfer::s3::AccessKey;

pub use file::{Remotes, Section};
pub use map::TYPES;

use crate::Failure;

/// An alias of an alias of …
const MAX_ALIASES: usize = 8;

/// Where rclone.conf is looked for, and what else may stand for it.
#[derive(Clone)]
pub struct Places {
    /// From a flag; it must be there.
    pub named: Option<PathBuf>,
    pub home: PathBuf,
    pub config_home: Option<PathBuf>,
    /// What relative local paths are relative to.
    pub working: PathBuf,
    /// `RCLONE_CONFIG` and `RCLONE_CONFIG_NAME_KEY`.
    pub variables: Vec<(String, String)>,
}

impl std::fmt::Debug for Places {
    /// Variables may hold passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Places").field("named", &self.named).field("home", &self.home).finish_non_exhaustive()
    }
}

/// What a name stands for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Remote {
    pub url: String,
    pub s3: S3Settings,
    pub server: ServerSettings,
    pub unmapped: Vec<Unmapped>,
}

/// A setting that has no effect here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmapped {
    pub remote: String,
    pub key: String,
    pub why: &'static str,
}

/// `NAME:PATH`; `None` for what is a URL, or no address of this kind at all.
pub fn split(text: &str) -> Option<(&str, &str)> {
    if text.contains("://") {
        return None;
    }
    text.split_once(':').filter(|(name, _)| !name.contains('/'))
}

/// What an address stands for; `None` where it is not written as a name and a path. `pinned`: a flag says which certificate
/// is accepted.
pub fn expand(text: &str, places: &Places, pinned: bool) -> Result<Option<Remote>, Failure> {
    if split(text).is_none() {
        return Ok(None);
    }
    let remotes = Remotes::open(places)?;
    let mut unmapped = Vec::new();
    let mut text = text.to_owned();
    for _ in 0..=MAX_ALIASES {
        let Some((name, path)) = split(&text) else {
            let url = local(&text, &places.working)?;
            return Ok(Some(Remote { url, unmapped, ..Remote::default() }));
        };
        if name.is_empty() || name.contains([',', '=']) {
            return Err(Failure::usage(format!(
                "{} gives rclone settings on the command line, which is not supported; put them into rclone.conf, or write a URL",
                model::escape_name(&text)
            )));
        }
        let Some(section) = remotes.section(name) else { return Err(unknown(name, &remotes)) };
        match section.kind() {
            "alias" => {
                unmapped.extend(section.unmapped(&["remote"]));
                let Some(target) = section.text("remote") else {
                    return Err(Failure::usage(format!("{name} in rclone.conf is an alias without a remote")));
                };
                text = join(target, path);
            }
            "local" => {
                unmapped.extend(section.unmapped(&[]));
                let url = local(path, &places.working)?;
                return Ok(Some(Remote { url, unmapped, ..Remote::default() }));
            }
            _ => {
                let mut remote = map::remote(&section, path, &remotes, &places.home, pinned)?;
                unmapped.append(&mut remote.unmapped);
                return Ok(Some(Remote { unmapped, ..remote }));
            }
        }
    }
    Err(Failure::usage(format!("the aliases in rclone.conf lead in a circle at {}", model::escape_name(&text))))
}

/// A path below what an alias stands for.
fn join(remote: &str, path: &str) -> String {
    if path.is_empty() || remote.ends_with(':') {
        return format!("{remote}{path}");
    }
    format!("{}/{}", remote.trim_end_matches('/'), path.trim_start_matches('/'))
}

fn local(path: &str, working: &Path) -> Result<String, Failure> {
    if path.is_empty() {
        return Err(Failure::usage("a local path is empty".to_owned()));
    }
    let absolute = working.join(path);
    let text = absolute.to_str().ok_or_else(|| Failure::usage("a local path is not UTF-8".to_owned()))?;
    Ok(format!("file://{text}"))
}

fn unknown(name: &str, remotes: &Remotes) -> Failure {
    let shown = model::escape_name(name);
    let where_from = match remotes.file() {
        Some(file) => format!("{} has {}", file.display(), remotes.names()),
        None => format!("there is no rclone.conf ({})", remotes.names()),
    };
    Failure {
        next: Some(
            "write a URL such as s3://BUCKET/KEY, sftp://USER@HOST/PATH or file:///PATH, or name another file with --rclone-config".into(),
        ),
        ..Failure::usage(format!("{shown}: is neither a URL nor a name from rclone.conf; {where_from}"))
    }
}

/// A reference as records keep it.
fn reference(name: &str, key: &str, file: Option<&Path>) -> String {
    format!("rclone:{name}#{key}#{}", file.map(|path| path.display().to_string()).unwrap_or_default())
}

/// A reference to one value: `NAME`, `NAME#KEY` or `NAME#KEY#FILE`; the key is `pass` where none is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretPlace {
    pub name: String,
    pub key: String,
    pub file: Option<PathBuf>,
}

impl SecretPlace {
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '#');
        let name = parts.next().filter(|name| !name.is_empty())?;
        let key = parts.next().filter(|key| !key.is_empty()).unwrap_or("pass");
        let file = parts.next().filter(|file| !file.is_empty()).map(PathBuf::from);
        Some(Self { name: name.to_owned(), key: key.to_owned(), file })
    }

    /// Looks the value up now. The error names the place and never the value.
    pub fn resolve(&self) -> Result<Credential, String> {
        let remotes = Remotes::open(&self.places()).map_err(|failure| failure.message)?;
        let name = &self.name;
        let section = remotes.section(name).ok_or_else(|| format!("rclone.conf has no {}", model::escape_name(name)))?;
        section.secret(&self.key).map_err(|why| format!("rclone.conf: {}: {}: {why}", model::escape_name(name), self.key))
    }

    /// The access key whose secret this is.
    pub fn access_key(&self) -> Result<AccessKey, String> {
        let value = |key: &str| Self { key: key.to_owned(), ..self.clone() }.resolve();
        Ok(AccessKey {
            id: value("access_key_id")?.expose().to_owned(),
            secret: value("secret_access_key")?,
            // Most have none.
            session_token: value("session_token").ok(),
        })
    }

    fn places(&self) -> Places {
        let directory = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = directory("HOME").unwrap_or_else(|| PathBuf::from("/"));
        Places {
            named: self.file.clone(),
            config_home: directory("XDG_CONFIG_HOME"),
            working: PathBuf::from("/"),
            home,
            variables: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .filter(|(name, _)| name.starts_with("RCLONE_CONFIG"))
                .collect(),
        }
    }
}

#[cfg(test)]
#[path = "rclone_tests.rs"]
mod tests;
