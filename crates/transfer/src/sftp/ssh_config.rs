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
    /// All of them count, not only the first.
    pub certificate_files: Vec<String>,
    /// Hosts on the way, or `none`.
    pub proxy_jump: Option<String>,
    /// What was seen and not obeyed.
    pub notes: Vec<String>,
}

/// Whom the settings are for, as far as that is known before they are read.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// As the user wrote it.
    pub host: &'a str,
    pub user: Option<&'a str>,
    pub local_user: Option<&'a str>,
}

/// Looks a host up in `files`, strongest first. A missing file is no error; a line that cannot be understood is, and
/// names file and line. Nothing is ever executed.
pub fn lookup(asked: Asked<'_>, home: Option<&Path>, files: &[PathBuf]) -> Result<HostSettings> {
    let mut reader =
        Reader { asked, home, settings: HostSettings::default(), files: 0, proxied: false, last_pass: false, wants_last_pass: false };
    reader.pass(files)?;
    if reader.wants_last_pass {
        // What the first pass found stays; `Host` is compared with the real name now.
        reader.last_pass = true;
        reader.files = 0;
        reader.pass(files)?;
    }
    Ok(reader.settings)
}

/// The same for one text without a place of its own: for the fuzzers.
pub(super) fn lookup_text(asked: Asked<'_>, text: &[u8]) -> Result<HostSettings> {
    let nowhere = Path::new("/nonexistent");
    let mut reader =
        Reader { asked, home: None, settings: HostSettings::default(), files: 0, proxied: false, last_pass: false, wants_last_pass: false };
    reader.text(text, nowhere, nowhere, 0)?;
    if reader.wants_last_pass {
        reader.last_pass = true;
        reader.text(text, nowhere, nowhere, 0)?;
    }
    Ok(reader.settings)
}

struct Reader<'a> {
    asked: Asked<'a>,
    home: Option<&'a Path>,
    settings: HostSettings,
    files: usize,
    proxied: bool,
    last_pass: bool,
    /// A `Match final` was seen.
    wants_last_pass: bool,
}

impl Reader<'_> {
    fn pass(&mut self, files: &[PathBuf]) -> Result<()> {
        for file in files {
            let base = file.parent().map(Path::to_owned).unwrap_or_default();
            self.file(file, &base, 0)?;
        }
        Ok(())
    }

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
        self.text(&bytes, path, base, depth)
    }

    fn text(&mut self, bytes: &[u8], path: &Path, base: &Path, depth: usize) -> Result<()> {
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
                    active = self.criteria_hold(values, path, index + 1).map_err(|why| at(&why))?;
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
            "certificatefile" => {
                let text = value()?;
                if settings.certificate_files.len() >= MAX_IDENTITIES {
                    return Err(format!("there are more than {MAX_IDENTITIES} CertificateFile lines"));
                }
                if !settings.certificate_files.contains(&text) {
                    settings.certificate_files.push(text);
                }
            }
            // Whichever of the two comes first rules the other out.
            "proxyjump" if !self.proxied => {
                self.proxied = true;
                set(&mut settings.proxy_jump, value()?);
            }
            "proxycommand" if !self.proxied => {
                self.proxied = true;
                if !value()?.eq_ignore_ascii_case("none") {
                    self.note(format!(
                        "{}:{line}: ProxyCommand is not run; use ProxyJump or --jump for a host on the way, --proxy for SOCKS5 or HTTP",
                        path.display()
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The name that is connected to, as far as the settings so far tell.
    fn host(&self) -> String {
        let asked = self.asked.host;
        self.settings.host_name.as_ref().map_or_else(|| asked.to_owned(), |name| name.replace("%h", asked).replace("%%", "%"))
    }

    fn host_matches(&self, patterns: &[String]) -> bool {
        let host = if self.last_pass { self.host() } else { self.asked.host.to_owned() };
        matches_list(patterns.iter().map(String::as_str), &host)
    }

    /// Whether a `Match` line chooses this host. Criteria after one that does not hold are not looked at.
    fn criteria_hold(&mut self, words: &[String], path: &Path, line: usize) -> Result<bool, String> {
        if words.is_empty() {
            return Err("Match has no criteria".to_owned());
        }
        let mut words = words.iter();
        let mut holds = true;
        while let Some(word) = words.next() {
            let (negated, word) = word.strip_prefix('!').map_or((false, word.as_str()), |word| (true, word));
            // `host=a` and `host a` are the same.
            let (name, attached) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value.to_owned())));
            let name = name.to_ascii_lowercase();
            let mut argument = || attached.clone().or_else(|| words.next().cloned()).ok_or_else(|| format!("Match {name} has no value"));
            let list = |text: String, value: &str| matches_list(text.split(','), value);
            let result = match name.as_str() {
                "all" => true,
                "final" => {
                    self.wants_last_pass = true;
                    self.last_pass
                }
                // Names are not made canonical here, so that this holds only where everything is read again.
                "canonical" => self.last_pass,
                "host" => list(argument()?, &self.host()),
                "originalhost" => list(argument()?, self.asked.host),
                "localuser" => {
                    let text = argument()?;
                    self.asked.local_user.is_some_and(|user| list(text, user))
                }
                "user" => {
                    let user = self.asked.user.or(self.settings.user.as_deref()).or(self.asked.local_user).map(str::to_owned);
                    let text = argument()?;
                    user.is_some_and(|user| list(text, &user))
                }
                "exec" | "localnetwork" | "tagged" | "command" | "version" | "sessiontype" => {
                    argument()?;
                    if holds {
                        let why = if name == "exec" { "is never executed" } else { "is not supported" };
                        self.note(format!("{}:{line}: Match {name} {why}; the block was skipped", path.display()));
                    }
                    holds = false;
                    continue;
                }
                _ => return Err(format!("Match has the unknown criterion {:?}", escape_name(word))),
            };
            holds &= result != negated;
        }
        Ok(holds)
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
        let text = escape_name(&text);
        if self.settings.notes.len() < MAX_NOTES && !self.settings.notes.contains(&text) {
            self.settings.notes.push(text);
        }
    }
}

/// OpenSSH's pattern lists: one that fits chooses, one with `!` that fits rules out.
fn matches_list<'a>(patterns: impl Iterator<Item = &'a str>, text: &str) -> bool {
    let mut found = false;
    for pattern in patterns {
        match pattern.strip_prefix('!') {
            Some(negated) if matches_pattern(negated, text) => return false,
            Some(_) => {}
            None => found |= matches_pattern(pattern, text),
        }
    }
    found
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
        lookup(Asked { host, user: None, local_user: Some("local") }, Some(directory.path()), &[path])
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
    fn match_blocks_choose_by_host_user_and_pass() {
        let user = |text: &str| read("h1", text).unwrap().user;
        for (text, chosen) in [
            ("Match all\n User a\n", true),
            ("Match host h*,!h2\n User a\n", true),
            ("Match host=h1 localuser=local\n User a\n", true),
            ("Match host h*,!h1\n User a\n", false),
            ("Match !host h2 originalhost h1\n User a\n", true),
            ("HostName real\nMatch host h1\n User a\n", false),
            ("HostName %h.example\nMatch host h1.example\n User a\n", true),
            ("HostName real\nMatch originalhost h1\n User a\n", true),
            ("Match user local\n User a\n", true),
            ("Match localuser other\n User a\n", false),
            ("Match canonical\n User a\n", false),
            ("Match final host real\n User a\nMatch all\n HostName real\n", true),
            ("Match final\n Port 1\nHost real\n User a\nHost h1\n HostName real\n", true),
            ("Host real\n User a\nHost h1\n HostName real\n", false),
            ("Match host x exec \"touch /tmp/never\"\n User a\n", false),
        ] {
            assert_eq!(user(text).is_some(), chosen, "{text}");
        }
        assert!(read("h", "Match host x exec false\n User a\n").unwrap().notes.is_empty(), "what cannot hold is not asked");
        for text in ["Match\n", "Match host\n", "Match hots x\n"] {
            assert!(read("h", text).is_err(), "{text}");
        }
    }

    #[test]
    fn commands_are_reported_and_never_run() {
        let directory = tempfile::tempdir().unwrap();
        let trace = directory.path().join("trace");
        let text =
            format!("Match exec \"touch {0}\"\n User evil\nHost h\n User good\n ProxyCommand touch {0}\n Ciphers x\n", trace.display());
        let settings = read("h", &text).unwrap();
        assert_eq!((settings.user.as_deref(), trace.exists()), (Some("good"), false));
        assert_eq!(settings.notes.len(), 2, "{:?}", settings.notes);
        assert!(settings.notes[0].contains(":1: Match exec is never") && settings.notes[1].contains("--jump"));
    }

    #[test]
    fn the_first_of_jump_and_command_counts() {
        let settings = read("h", "ProxyJump a,b\nProxyCommand x\nProxyJump c\nCertificateFile ~/c1\nCertificateFile ~/c2\n").unwrap();
        assert_eq!((settings.proxy_jump.as_deref(), settings.notes.len()), (Some("a,b"), 0));
        assert_eq!(settings.certificate_files, ["~/c1", "~/c2"]);
        assert_eq!(read("h", "ProxyCommand none\nProxyJump b\n").unwrap().proxy_jump, None);
        assert_eq!(read("h", "ProxyJump none\nProxyJump b\n").unwrap().proxy_jump.as_deref(), Some("none"));
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
        let asked = |host| Asked { host, user: None, local_user: None };
        let read = |host| lookup(asked(host), Some(directory.path()), &[path("config")]).unwrap();
        let settings = read("h");
        assert_eq!((settings.user.as_deref(), settings.host_name.as_deref(), settings.port), (Some("first"), Some("two"), Some(7)));
        assert_eq!(read("g").user.as_deref(), Some("second"));
        std::fs::write(path("config"), "Include config\n").unwrap();
        assert!(lookup(asked("h"), None, &[path("config")]).is_err());
    }
}
