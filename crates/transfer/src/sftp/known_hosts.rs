//! Reads OpenSSH known_hosts files: which keys are on record for one host, which are revoked, and which
//! authorities may vouch for it. Decides nothing; `trust` does.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use model::escape_name;
use russh::keys::{PublicKey, parse_public_key_base64};

use crate::error::{Error, ErrorKind, Result, Subject};

const MAX_FILE_BYTES: u64 = 16 << 20;
// An RSA key of 16,384 bits takes 2.8 KB; the rest is room for host lists.
const MAX_LINE_BYTES: usize = 32 << 10;
const MAX_NOTES: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    Key,
    Revoked,
    Authority,
}

/// One line that applies to the host asked for.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub marker: Marker,
    pub key: PublicKey,
    pub file: Arc<PathBuf>,
    pub line: usize,
    /// Found under the bare host name although the port is not 22; such a key is good, a different one proves nothing.
    pub without_port: bool,
}

/// The names under which a server is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostLabel {
    /// `host`, or `[host]:port` when the port is not 22.
    pub name: String,
    /// `host` alone, when `name` has a port.
    pub without_port: Option<String>,
}

impl HostLabel {
    pub fn new(host: &str, port: u16) -> Self {
        let host = host.to_lowercase();
        if port == 22 {
            Self { name: host, without_port: None }
        } else {
            Self { name: format!("[{host}]:{port}"), without_port: Some(host) }
        }
    }

    /// A `HostKeyAlias`, which is used as it stands and without a port.
    pub fn alias(name: &str) -> Self {
        Self { name: name.to_lowercase(), without_port: None }
    }

    /// The host as certificates name it.
    pub fn principal(&self) -> &str {
        self.without_port.as_deref().unwrap_or(&self.name)
    }
}

/// What the files say about one host.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownHosts {
    pub entries: Vec<Entry>,
    /// Lines that were skipped, for the user.
    pub notes: Vec<String>,
    /// The files that exist and were read.
    pub read: Vec<PathBuf>,
}

impl KnownHosts {
    /// Reads what `files` say about `label`. A file that is not there is no error; one that cannot be read is a note,
    /// because less knowledge can only lead to refusal.
    pub fn read(files: &[PathBuf], label: &HostLabel) -> Result<Self> {
        let mut known = Self::default();
        for path in files {
            let text = match read_bounded(path) {
                Ok(Some(text)) => text,
                Ok(None) => continue,
                Err(error) if error.kind() == std::io::ErrorKind::FileTooLarge => {
                    return Err(Error::new(ErrorKind::DestHostKey, "read the known hosts in", Subject::Path(path.display().to_string()))
                        .because(format!("the file is larger than {} MiB", MAX_FILE_BYTES >> 20)));
                }
                Err(error) => {
                    known.note(format!("{} was not read: {error}", path.display()));
                    continue;
                }
            };
            known.read.push(path.clone());
            known.parse(&text, Arc::new(path.clone()), label);
        }
        Ok(known)
    }

    fn note(&mut self, text: String) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(escape_name(&text));
        }
    }

    pub fn parse(&mut self, text: &[u8], file: Arc<PathBuf>, label: &HostLabel) {
        for (index, line) in text.split(|&b| b == b'\n').enumerate() {
            let number = index + 1;
            if line.len() > MAX_LINE_BYTES {
                self.note(format!("{}:{number} was skipped: the line is too long", file.display()));
                continue;
            }
            let line = String::from_utf8_lossy(line);
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match entry(line, label) {
                Ok(None) => {}
                Ok(Some((marker, key, without_port))) => {
                    self.entries.push(Entry { marker, key, file: file.clone(), line: number, without_port });
                }
                Err(reason) => self.note(format!("{}:{number} was skipped: {reason}", file.display())),
            }
        }
    }

    /// The keys on record; those under `[host]:port` hide those under the bare name.
    pub fn keys(&self) -> impl Iterator<Item = &Entry> {
        let exact = self.entries.iter().any(|e| e.marker == Marker::Key && !e.without_port);
        self.entries.iter().filter(move |e| e.marker == Marker::Key && (!exact || !e.without_port))
    }

    pub fn authorities(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|e| e.marker == Marker::Authority)
    }

    pub fn revoked(&self, key: &PublicKey) -> Option<&Entry> {
        self.entries.iter().find(|e| e.marker == Marker::Revoked && e.key.key_data() == key.key_data())
    }
}

/// The meaning of one line for `label`: `None` when it is about other hosts.
fn entry(line: &str, label: &HostLabel) -> Result<Option<(Marker, PublicKey, bool)>, String> {
    let mut fields = line.split_ascii_whitespace();
    let mut next = || fields.next().ok_or_else(|| "a field is missing".to_owned());
    let mut hosts = next()?;
    let marker = match hosts.strip_prefix('@') {
        None => Marker::Key,
        Some(name) => {
            hosts = next()?;
            match name {
                "revoked" => Marker::Revoked,
                "cert-authority" => Marker::Authority,
                _ => return Err(format!("the marker @{name} is unknown")),
            }
        }
    };
    let without_port = if names(hosts, &label.name)? {
        false
    } else if let Some(bare) = &label.without_port
        && names(hosts, bare)?
    {
        true
    } else {
        return Ok(None);
    };
    let (algorithm, blob) = (next()?, next()?);
    let key = parse_public_key_base64(blob).map_err(|_| format!("its {algorithm} key cannot be read"))?;
    if key.algorithm().as_str() != algorithm {
        return Err(format!("it says {algorithm} and holds a key of type {}", key.algorithm().as_str()));
    }
    Ok(Some((marker, key, without_port)))
}

/// Whether a host field names `host`. One matching `!pattern` outweighs everything else in the list.
fn names(field: &str, host: &str) -> Result<bool, String> {
    if let Some(hashed) = field.strip_prefix('|') {
        let mut parts = hashed.split('|');
        let (Some("1"), Some(salt), Some(hash), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err("its host name is hashed in an unknown way".to_owned());
        };
        let decode = |text: &str| BASE64.decode(text.as_bytes()).map_err(|_| "its hashed host name is damaged".to_owned());
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &decode(salt)?);
        return Ok(hmac::verify(&key, host.as_bytes(), &decode(hash)?).is_ok());
    }
    let mut found = false;
    for pattern in field.split(',').filter(|p| !p.is_empty()) {
        match pattern.strip_prefix('!') {
            Some(negated) if matches_pattern(&negated.to_lowercase(), host) => return Ok(false),
            Some(_) => {}
            None => found |= matches_pattern(&pattern.to_lowercase(), host),
        }
    }
    Ok(found)
}

/// OpenSSH's patterns: `*` is any text, `?` any one character, everything else itself.
pub(super) fn matches_pattern(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where to go on when the text after the last `*` does not fit: one character further.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(&c) if c == '?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match &mut retry {
                Some((after, from)) => {
                    *from += 1;
                    (p, t) = (*after, *from);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

/// The bytes of a small file; `None` when there is none.
pub(super) fn read_bounded(path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const TWO: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIILIZZMMaOnhqzK+6YEyVXQ3ww7zlYNqrJ6/Yq0NRDfY";

    fn known(text: &str, host: &str, port: u16) -> KnownHosts {
        let mut known = KnownHosts::default();
        known.parse(text.as_bytes(), Arc::new(PathBuf::from("known_hosts")), &HostLabel::new(host, port));
        known
    }

    fn lines(known: &KnownHosts) -> Vec<usize> {
        known.keys().map(|e| e.line).collect()
    }

    #[test]
    fn lists_wildcards_and_negations_choose_the_lines() {
        let text = format!("# c\n\na.example,b.example {ONE}\n*.example,!c.example {TWO} comment\nd?.test {ONE}\n");
        assert_eq!(lines(&known(&text, "B.Example", 22)), [3, 4]);
        assert_eq!(lines(&known(&text, "x.example", 22)), [4]);
        assert!(lines(&known(&text, "c.example", 22)).is_empty());
        assert_eq!(lines(&known(&text, "d1.test", 22)), [5]);
        assert!(lines(&known(&text, "d12.test", 22)).is_empty());
    }

    #[test]
    fn a_port_is_part_of_the_name_and_the_bare_name_serves_only_without_it() {
        let text = format!("[h.example]:2222 {ONE}\nh.example {TWO}\n");
        assert_eq!(lines(&known(&text, "h.example", 2222)), [1]);
        assert_eq!(lines(&known(&text, "h.example", 22)), [2]);
        let other = known(&text, "h.example", 2200);
        assert_eq!(lines(&other), [2]);
        assert!(other.entries[0].without_port);
        assert_eq!(lines(&known(&format!("[::1]:2222 {ONE}\n"), "::1", 2222)), [1]);
    }

    #[test]
    fn hashed_names_are_recognised() {
        let salt = [7u8; 20];
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
        let hash = hmac::sign(&key, b"[h.example]:2222");
        let text = format!("|1|{}|{} {ONE}\n|1|zz|zz {ONE}\n|2|a|b {ONE}\n", BASE64.encode(&salt), BASE64.encode(hash.as_ref()));
        let found = known(&text, "h.example", 2222);
        assert_eq!(lines(&found), [1]);
        assert_eq!(found.notes.len(), 2, "{:?}", found.notes);
        assert!(lines(&known(&text, "other", 2222)).is_empty());
    }

    #[test]
    fn markers_are_kept_apart_and_strange_lines_are_noted() {
        let text =
            format!("@revoked * {ONE}\n@cert-authority *.example {TWO}\n@new h {ONE}\nh.example\nh.example ssh-rsa {}\n", &ONE[12..]);
        let found = known(&text, "h.example", 22);
        assert!(found.keys().next().is_none());
        assert_eq!(found.authorities().map(|e| e.line).collect::<Vec<_>>(), [2]);
        assert_eq!(found.revoked(&parse_public_key_base64(&ONE[12..]).unwrap()).unwrap().line, 1);
        assert!(found.revoked(&parse_public_key_base64(&TWO[12..]).unwrap()).is_none());
        assert_eq!(found.notes.len(), 3, "{:?}", found.notes);
        assert!(found.notes[2].contains("known_hosts:5"));
    }

    #[test]
    fn patterns_with_many_stars_end() {
        assert!(!matches_pattern(&"*a".repeat(60), &"a".repeat(59)));
        assert!(matches_pattern("*.*.example", "a.b.example"));
        assert!(matches_pattern("**", ""));
    }

    #[test]
    fn a_huge_file_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("known");
        std::fs::File::create(&path).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
        let error = KnownHosts::read(&[path], &HostLabel::new("h", 22)).unwrap_err();
        assert!(crate::error::chain(&error).contains("known"), "{error}");
        let nothing = KnownHosts::read(&[directory.path().join("absent")], &HostLabel::new("h", 22)).unwrap();
        assert!(nothing.entries.is_empty() && nothing.notes.is_empty() && nothing.read.is_empty());
    }
}
