//! `~/.netrc`: user names and passwords of FTP servers, in the form that ftp, curl and others share. Read only where
//! neither flag nor URL has said enough.

use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use model::Credential;

/// People write this file; anything larger is another one.
const MAX_BYTES: u64 = 256 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `None` is the `default` entry.
    machine: Option<String>,
    login: Option<String>,
    password: Option<Credential>,
}

/// What the file says about one server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Login {
    pub user: Option<String>,
    pub password: Option<Credential>,
}

/// The login for `host`, as `user` if the user is known already. A missing file says nothing.
/// A password in a file that others may read is an error: whoever wrote it there believes it to be a secret.
pub fn login(path: &Path, host: &str, user: Option<&str>) -> Result<Login, String> {
    let fail = |what: &str| format!("{} {what}", path.display());
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Login::default()),
        Err(error) => return Err(fail(&format!("cannot be read: {error}"))),
    };
    let metadata = file.metadata().map_err(|error| fail(&format!("cannot be read: {error}")))?;
    if !metadata.is_file() {
        return Ok(Login::default());
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| fail(&format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(fail("is too large for a netrc file"));
    }
    let text = String::from_utf8(bytes).map_err(|_| fail("is not UTF-8"))?;
    let found = choose(&entries(&text), host, user);
    if found.password.is_some() && metadata.mode() & 0o077 != 0 {
        return Err(fail(&format!(
            "holds a password for {} and may be read by others (mode {:04o}); run `chmod 600` on it, and change the password if it is not \
             yours alone any more",
            model::escape_name(host),
            metadata.mode() & 0o7777
        )));
    }
    Ok(found)
}

/// The first entry of this machine that fits the user, else the default entry. Nobody becomes `anonymous` by default:
/// that name counts only where the URL says it.
fn choose(entries: &[Entry], host: &str, user: Option<&str>) -> Login {
    let fits = |entry: &&Entry| match (&entry.login, user) {
        (Some(login), Some(user)) => login == user,
        _ => true,
    };
    let own = entries.iter().filter(|e| e.machine.as_deref().is_some_and(|machine| machine.eq_ignore_ascii_case(host))).find(fits);
    let default = || {
        let named = |entry: &&Entry| user.is_some() || !matches!(entry.login.as_deref(), Some("anonymous" | "ftp"));
        entries.iter().filter(|e| e.machine.is_none()).filter(fits).find(named)
    };
    own.or_else(default).map_or_else(Login::default, |entry| Login { user: entry.login.clone(), password: entry.password.clone() })
}

/// Words that mean nothing here are passed over, as every reader of this format does.
fn entries(text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut words = Words { rest: text };
    while let Some(word) = words.next(true) {
        match word.as_str() {
            "machine" => {
                if let Some(machine) = words.next(false) {
                    entries.push(Entry { machine: Some(machine), login: None, password: None });
                }
            }
            "default" => entries.push(Entry { machine: None, login: None, password: None }),
            "login" | "user" => {
                let login = words.next(false);
                if let Some(entry) = entries.last_mut() {
                    entry.login = login;
                }
            }
            "password" | "passwd" => {
                let password = words.next(false).map(Credential::new);
                if let Some(entry) = entries.last_mut() {
                    entry.password = password;
                }
            }
            "account" => drop(words.next(false)),
            // A macro ends at the first empty line.
            "macdef" => words.skip_paragraph(),
            _ => {}
        }
    }
    entries
}

struct Words<'a> {
    rest: &'a str,
}

impl Words<'_> {
    /// The next word; in quotes it may hold blanks. `#` begins a comment only where a keyword may stand: passwords begin
    /// with anything.
    fn next(&mut self, keyword: bool) -> Option<String> {
        loop {
            self.rest = self.rest.trim_start();
            if !(keyword && self.rest.starts_with('#')) {
                break;
            }
            self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
        }
        if self.rest.is_empty() {
            return None;
        }
        match self.rest.strip_prefix('"') {
            Some(quoted) if !keyword => Some(self.quoted(quoted.len())),
            _ => {
                let end = self.rest.find(char::is_whitespace).unwrap_or(self.rest.len());
                let (word, rest) = self.rest.split_at(end);
                self.rest = rest;
                Some(word.to_owned())
            }
        }
    }

    /// Up to the closing quote, or to the end of the line where there is none.
    fn quoted(&mut self, length: usize) -> String {
        let text = &self.rest[self.rest.len() - length..];
        let mut word = String::new();
        let mut characters = text.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.rest = &text[at + 1..];
                    return word;
                }
                '\n' => {
                    self.rest = &text[at..];
                    return word;
                }
                '\\' => match characters.next() {
                    Some((_, 'n')) => word.push('\n'),
                    Some((_, 'r')) => word.push('\r'),
                    Some((_, 't')) => word.push('\t'),
                    Some((_, other)) => word.push(other),
                    None => {}
                },
                other => word.push(other),
            }
        }
        self.rest = "";
        word
    }

    fn skip_paragraph(&mut self) {
        let rest = self.rest;
        let mut at = rest.find('\n').map_or(rest.len(), |line| line + 1);
        while at < rest.len() {
            let end = rest[at..].find('\n').map_or(rest.len(), |line| at + line + 1);
            if rest[at..end].trim().is_empty() {
                break;
            }
            at = end;
        }
        self.rest = &rest[at..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const FILE: &str = "# ours\nmachine ftp.example login bob password #p%w\n\
        machine ftp.example\n\tlogin eve\n\tpassword \"two words\\\" é\"\n\
        macdef init\n  machine ftp.example login mallory password no\n  default\n\n\
        machine other.example account x password only port 21\n\
        default login anonymous password me@home\n";

    fn chosen(text: &str, host: &str, user: Option<&str>) -> (Option<String>, Option<String>) {
        let login = choose(&entries(text), host, user);
        (login.user, login.password.map(|p| p.expose().to_owned()))
    }

    fn text(user: &str, password: &str) -> (Option<String>, Option<String>) {
        (Some(user.to_owned()), Some(password.to_owned()))
    }

    #[test]
    fn the_first_entry_of_the_machine_counts_unless_the_user_is_known() {
        assert_eq!(chosen(FILE, "FTP.example", None), text("bob", "#p%w"));
        assert_eq!(chosen(FILE, "ftp.example", Some("eve")), text("eve", "two words\" é"));
        assert_eq!(chosen(FILE, "ftp.example", Some("mallory")), (None, None), "a macro is no entry");
        assert_eq!(chosen(FILE, "other.example", Some("anybody")), (None, Some("only".into())));
    }

    #[test]
    fn nobody_becomes_anonymous_by_default() {
        assert_eq!(chosen(FILE, "new.example", None), (None, None));
        assert_eq!(chosen(FILE, "new.example", Some("anonymous")), text("anonymous", "me@home"));
        assert_eq!(chosen("default login bob password x", "new.example", None), text("bob", "x"));
    }

    #[test]
    fn broken_files_say_what_they_can() {
        for text in
            ["machine", "machine h login", "login a password b", "password", "macdef", "macdef x", "machine h password \"open", "\"", "#"]
        {
            let (user, password) = chosen(text, "h", None);
            assert!(user.is_none() && password.is_none_or(|p| p == "open"), "{text}");
        }
    }

    #[test]
    fn a_password_that_others_may_read_is_refused_and_a_user_name_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".netrc");
        assert_eq!(login(&path, "h", None), Ok(Login::default()), "no file");
        std::fs::write(&path, "machine h login bob password hunter2\nmachine i login eve\n").unwrap();
        for (mode, refused) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            match login(&path, "h", None) {
                Ok(found) => assert!(!refused && found.user.as_deref() == Some("bob"), "{mode:o}"),
                Err(message) => assert!(refused && message.contains("chmod 600") && !message.contains("hunter2"), "{message}"),
            }
        }
        assert_eq!(login(&path, "i", None).unwrap().user.as_deref(), Some("eve"));
        std::fs::write(&path, vec![b'x'; MAX_BYTES as usize + 1]).unwrap();
        assert!(login(&path, "h", None).is_err());
    }
}
