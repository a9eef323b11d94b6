//! Reads the part of OpenSSH's ssh_config that a file transfer needs. The first value found wins, as there.

use std::path::{Path, PathBuf};

use model::escape_name;

use super::known_hosts::{matches_pattern, read_bounded};
use crate::error::{Error, ErrorKind, Result, Subject};

const MAX_DEPTH: usize = 8;
const MAX_FILES: usize = 128;
const MAX_LINE_BYTES: usize = 16 << 10;
const MAX_IDENTITIES: usize = 64;
const MAX_NOTES: usize = 20;

/// What ssh_config says about one host, unexpanded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostSettings {
    pub host_name: Option<String>,
    pub port: Option<u16>,
    pub user: Option<String>,
    /// All of them count, not only the first.
    pub identity_files: Vec<String>,
    pub identities_only: Option<bool>,
    pub identity_agent: Option<String>,
    pub user_known_hosts: Option<Vec<String>>,
    pub host_key_alias: Option<String>,
    /// What was seen and not obeyed.
    pub notes: Vec<String>,
}

/// Looks `host` (as the user wrote it) up in `files`, strongest first. A missing file is no error; a line that cannot be
/// understood is, and names file and line.
pub fn lookup(host: &str, home: Option<&Path>, files: &[PathBuf]) -> Result<HostSettings> {
    let mut reader = Reader { host, home, settings: HostSettings::default(), files: 0, proxied: false };
    for file in files {
        let base = file.parent().map(Path::to_owned).unwrap_or_default();
        reader.file(file, &base, 0)?;
    }
    Ok(reader.settings)
}

struct Reader<'a> {
    host: &'a str,
    home: Option<&'a Path>,
    settings: HostSettings,
    files: usize,
    proxied: bool,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, base: &Path, depth: usize) -> Result<()> {
        self.files += 1;
        if depth > MAX_DEPTH || self.files > MAX_FILES {
            return Err(wrong(path, None, "there are too many included files"));
        }
        let bytes = match read_bounded(path) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(()),
            Err(error) => return Err(wrong(path, None, error)),
        };
        let mut active = true;
        for (index, line) in bytes.split(|&b| b == b'\n').enumerate() {
            let at = |why: &str| wrong(path, Some(index + 1), why.to_owned());
            if line.len() > MAX_LINE_BYTES {
                return Err(at("the line is too long"));
            }
            let line = std::str::from_utf8(line).map_err(|_| at("the line is not UTF-8"))?;
            let words = words(line).ok_or_else(|| at("a quotation mark is missing"))?;
            let Some((keyword, values)) = words.split_first() else { continue };
            let keyword = keyword.to_ascii_lowercase();
            match keyword.as_str() {
                "host" => {
                    active = self.host_matches(values);
                    continue;
                }
                "match" => {
                    active = false;
                    self.note(format!("{}:{}: Match blocks are not supported and were skipped", path.display(), index + 1));
                    continue;
                }
                _ if !active => continue,
                _ => {}
            }
            if keyword == "include" {
                if values.is_empty() {
                    return Err(at("Include has no file"));
                }
                for value in values {
                    for included in self.included(value, base) {
                        self.file(&included, base, depth + 1)?;
                    }
                }
                continue;
            }
            self.setting(&keyword, values, path, index + 1).map_err(|why| at(&why))?;
        }
        Ok(())
    }

    fn setting(&mut self, keyword: &str, values: &[String], path: &Path, line: usize) -> Result<(), String> {
        let value = || values.first().filter(|v| !v.is_empty()).cloned().ok_or_else(|| format!("{keyword} has no value"));
        let settings = &mut self.settings;
        match keyword {
            "hostname" => set(&mut settings.host_name, value()?),
            "user" => set(&mut settings.user, value()?),
            "hostkeyalias" => set(&mut settings.host_key_alias, value()?),
            "identityagent" => set(&mut settings.identity_agent, value()?),
            "port" => {
                let text = value()?;
                match text.parse() {
                    Ok(0) | Err(_) => return Err(format!("the port {text:?} is not a number from 1 to 65535")),
                    Ok(port) => set(&mut settings.port, port),
                }
            }
            "identityfile" => {
                let text = value()?;
                if settings.identity_files.len() >= MAX_IDENTITIES {
                    return Err(format!("there are more than {MAX_IDENTITIES} IdentityFile lines"));
                }
                if !settings.identity_files.contains(&text) {
                    settings.identity_files.push(text);
                }
            }
            "identitiesonly" => match value()?.to_ascii_lowercase().as_str() {
                "yes" | "true" => set(&mut settings.identities_only, true),
                "no" | "false" => set(&mut settings.identities_only, false),
                other => return Err(format!("IdentitiesOnly is yes or no, not {other:?}")),
            },
            "userknownhostsfile" => {
                value()?;
                set(&mut settings.user_known_hosts, values.to_vec());
            }
            "proxyjump" | "proxycommand" if !self.proxied => {
                self.proxied = true;
                if !value()?.eq_ignore_ascii_case("none") {
                    let name = if keyword == "proxyjump" { "ProxyJump" } else { "ProxyCommand" };
                    self.note(format!("{}:{line}: {name} is not supported yet; the server is reached directly", path.display()));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn host_matches(&self, patterns: &[String]) -> bool {
        let mut found = false;
        for pattern in patterns {
            match pattern.strip_prefix('!') {
                Some(negated) if matches_pattern(negated, self.host) => return false,
                Some(_) => {}
                None => found |= matches_pattern(pattern, self.host),
            }
        }
        found
    }

    /// The files an `Include` names, in order of name; wildcards may stand in the last part of the path.
    fn included(&self, value: &str, base: &Path) -> Vec<PathBuf> {
        let path = match (value.strip_prefix("~/"), self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => base.join(value),
        };
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !name.contains(['*', '?']) {
            return vec![path];
        }
        let Some(directory) = path.parent().and_then(|parent| std::fs::read_dir(parent).ok()) else { return Vec::new() };
        let mut found: Vec<_> = directory
            .take(10_000)
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .filter(|entry| !entry.starts_with('.') && matches_pattern(&name, entry))
            .map(|entry| path.with_file_name(entry))
            .collect();
        found.sort();
        found
    }

    fn note(&mut self, text: String) {
        if self.settings.notes.len() < MAX_NOTES {
            self.settings.notes.push(escape_name(&text));
        }
    }
}

fn set<T>(slot: &mut Option<T>, value: T) {
    slot.get_or_insert(value);
}

fn wrong(path: &Path, line: Option<usize>, why: impl Into<crate::error::BoxError>) -> Error {
    let place = line.map(|line| format!(":{line}")).unwrap_or_default();
    Error::new(ErrorKind::DestAuth, "read the ssh_config", Subject::Setting(format!("{}{place}", path.display()))).because(why)
}

/// The words of a line: keyword, `=` or blanks, values; double quotes hold blanks together and `#` begins a comment.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() && !rest.starts_with('#') {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => {
                // `=` ends the keyword only; a value may hold it.
                let end = rest.find(|c: char| c.is_whitespace() || (words.is_empty() && c == '=')).unwrap_or(rest.len());
                rest.split_at(end)
            }
        };
        words.push(word.to_owned());
        rest = after.trim_start();
        if words.len() == 1 {
            rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
        }
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(host: &str, text: &str) -> Result<HostSettings> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        std::fs::write(&path, text).unwrap();
        lookup(host, Some(directory.path()), &[path])
    }

    #[test]
    fn the_first_value_wins_and_identities_add_up() {
        let text = "# c\nHost partner\n\tHostName=real.example\n  Port 2222\n IdentityFile \"~/a key\"\n\nHost *\n Port 22\n User all\n identityfile ~/b # why\n";
        let settings = read("partner", text).unwrap();
        assert_eq!(
            (settings.host_name.as_deref(), settings.port, settings.user.as_deref()),
            (Some("real.example"), Some(2222), Some("all"))
        );
        assert_eq!(settings.identity_files, ["~/a key", "~/b"]);
        assert_eq!(read("other", text).unwrap().port, Some(22));
    }

    #[test]
    fn patterns_and_negations_choose_blocks() {
        let text = "Host *.example !bad.example\n User a\nHost h?\n User b\n";
        assert_eq!(read("x.example", text).unwrap().user.as_deref(), Some("a"));
        assert_eq!(read("bad.example", text).unwrap().user, None);
        assert_eq!(read("h1", text).unwrap().user.as_deref(), Some("b"));
    }

    #[test]
    fn match_blocks_and_proxies_are_reported() {
        let settings =
            read("h", "Match exec true\n User evil\nHost h\n User good\n ProxyJump bastion\n ProxyCommand x\n Ciphers x\n").unwrap();
        assert_eq!(settings.user.as_deref(), Some("good"));
        assert_eq!(settings.notes.len(), 2, "{:?}", settings.notes);
        assert!(settings.notes[0].contains(":1: Match") && settings.notes[1].contains("ProxyJump"));
        assert!(read("h", "ProxyJump none\nProxyJump b\n").unwrap().notes.is_empty());
    }

    #[test]
    fn mistakes_name_file_and_line() {
        for (text, word) in
            [("\nPort x\n", "config:2"), ("User \"a\n", "quotation"), ("IdentitiesOnly maybe\n", "yes or no"), ("User\n", "no value")]
        {
            let error = crate::error::chain(&read("h", text).unwrap_err());
            assert!(error.contains(word) && error.contains("config:"), "{error}");
        }
    }

    #[test]
    fn included_files_are_read_in_their_block_and_a_loop_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::create_dir(path("d")).unwrap();
        std::fs::write(path("d/1.conf"), "User first\nHost else\n Port 1\n").unwrap();
        std::fs::write(path("d/2.conf"), "User second\nHostName two\n").unwrap();
        std::fs::write(path("config"), "Host h\n Include d/*.conf\n Port 7\nHost g\n Include ~/d/2.conf\n").unwrap();
        let read = |host| lookup(host, Some(directory.path()), &[path("config")]).unwrap();
        let settings = read("h");
        assert_eq!((settings.user.as_deref(), settings.host_name.as_deref(), settings.port), (Some("first"), Some("two"), Some(7)));
        assert_eq!(read("g").user.as_deref(), Some("second"));
        std::fs::write(path("config"), "Include config\n").unwrap();
        assert!(lookup("h", None, &[path("config")]).is_err());
    }
}
