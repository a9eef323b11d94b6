//! What is known of a destination's server: every ability with yes, no or nobody-knows, the words that show it, and when
//! and how it was found out. Kept beside the destination; what a later version adds is ignored by an earlier one.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::escape_name;

/// Evidence is the server's own words where there are any, and those have no bound of their own.
const MAX_EVIDENCE: usize = 300;
/// Details that a server tells of itself, and names that could not be removed.
const MAX_LIST: usize = 64;

/// Yes, no, or not known: tried in vain, or not tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tried {
    Yes,
    No,
    #[default]
    #[serde(other)]
    Unknown,
}

impl From<bool> for Tried {
    fn from(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Unknown => "unknown",
        })
    }
}

/// Who found something out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Observer {
    Probe,
    Rehearse,
    #[default]
    #[serde(other)]
    Copy,
}

impl fmt::Display for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Probe => "probe",
            Self::Rehearse => "rehearse",
            Self::Copy => "copy",
        })
    }
}

macro_rules! abilities {
    ($($variant:ident $name:literal $words:literal;)*) => {
        /// Something that a server may be able to do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Ability { $($variant,)* }

        impl Ability {
            pub const ALL: &'static [Ability] = &[$(Ability::$variant,)*];

            /// The name under which it is stored.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it means, for people.
            pub fn words(self) -> &'static str {
                match self { $(Self::$variant => $words,)* }
            }
        }
    };
}

abilities! {
    Write "write" "takes a file";
    Faithful "faithful" "stores what it was sent";
    Stat "stat" "tells the size of a file";
    List "list" "lists the directory";
    Read "read" "lets us read our own files";
    Remove "remove" "lets us remove our own files";
    MakeDirectory "make_directory" "lets us create directories";
    Overwrite "overwrite" "lets us write a file anew";
    Rename "rename" "lets us rename";
    Replace "replace" "replaces a file by a rename, in one step";
    NoClobber "no_clobber" "refuses to rename onto a taken name, by itself";
    ConfirmsWrites "confirms_writes" "confirms each write";
    OffsetWrites "offset_writes" "takes parts at any offset";
    Continues "continues" "goes on with a file at an offset";
    Resumes "resumes" "goes on after a cut";
    Sync "sync" "promises that a file survives its crash";
    SetTimes "set_times" "keeps the time of a file";
    SetMode "set_mode" "takes permissions of a file";
    HashSha256 "hash_sha256" "computes SHA-256";
    HashMd5 "hash_md5" "computes MD5";
    FreeSpace "free_space" "tells its free space";
    KeepsCase "keeps_case" "tells upper case from lower case";
    KeepsSpaces "keeps_spaces" "keeps a space at the end of a name";
    KeepsDots "keeps_dots" "keeps a dot at the end of a name";
    KeepsUnicode "keeps_unicode" "keeps the Unicode form of a name";
    LongNames "long_names" "takes names of 255 bytes";
    Tls13 "tls_1_3" "speaks TLS 1.3";
}

impl fmt::Display for Ability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One thing that was tried, or heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    pub known: Tried,
    /// One sentence; the server's words in it are escaped and cut.
    #[serde(default)]
    pub evidence: String,
    pub at: Timestamp,
    #[serde(default)]
    pub by: Observer,
}

/// Sessions that a server granted at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logins {
    pub granted: u32,
    /// One more was refused; otherwise nobody asked for more.
    pub limited: bool,
    #[serde(default)]
    pub evidence: String,
    pub at: Timestamp,
    #[serde(default)]
    pub by: Observer,
}

/// How fast a scratch file went up over one connection.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    pub bytes: u64,
    pub seconds: f64,
}

impl Throughput {
    pub fn per_second(&self) -> f64 {
        self.bytes as f64 / self.seconds.max(0.000_1)
    }
}

/// What is known of one server under one user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Profile {
    pub v: u32,
    /// The destination's key in the records: protocol, user, host and port.
    pub destination: String,
    pub observed_at: Timestamp,
    pub by: Observer,
    /// As the server calls itself.
    pub software: Option<String>,
    /// Of its host key or certificate.
    pub fingerprint: Option<String>,
    pub address: Option<String>,
    /// Ours on the connection; the partner may see another one.
    pub local_address: Option<String>,
    pub round_trip_ms: f64,
    pub facts: BTreeMap<String, Fact>,
    /// What the protocol knows beyond that, in its own words: limits, extensions, TLS.
    pub details: BTreeMap<String, String>,
    pub logins: Option<Logins>,
    pub free_bytes: Option<u64>,
    pub rate: Option<Throughput>,
    /// Scratch files that could not be removed.
    pub left_behind: Vec<String>,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            v: 1,
            destination: String::new(),
            observed_at: Timestamp::UNIX_EPOCH,
            by: Observer::Copy,
            software: None,
            fingerprint: None,
            address: None,
            local_address: None,
            round_trip_ms: 0.0,
            facts: BTreeMap::new(),
            details: BTreeMap::new(),
            logins: None,
            free_bytes: None,
            rate: None,
            left_behind: Vec::new(),
        }
    }
}

/// Something that is no longer as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    pub what: String,
    pub before: String,
    pub since: Timestamp,
    pub now: String,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} on {:.0}, now {}", self.what, self.before, self.since, self.now)
    }
}

/// Text of a peer, in one bounded line.
pub fn bounded(text: &str) -> String {
    let mut out = escape_name(&text.chars().take(MAX_EVIDENCE).collect::<String>());
    if text.chars().nth(MAX_EVIDENCE).is_some() {
        out.push('…');
    }
    out
}

impl Profile {
    pub fn new(destination: impl Into<String>, by: Observer, now: Timestamp) -> Self {
        Self { destination: destination.into(), by, observed_at: now, ..Self::default() }
    }

    pub fn fact(&self, ability: Ability) -> Option<&Fact> {
        self.facts.get(ability.name())
    }

    pub fn knows(&self, ability: Ability) -> Tried {
        self.fact(ability).map_or(Tried::Unknown, |fact| fact.known)
    }

    /// Notes a fact with the time and observer of this profile.
    pub fn note(&mut self, ability: Ability, known: impl Into<Tried>, evidence: &str, at: Timestamp) {
        let fact = Fact { known: known.into(), evidence: bounded(evidence), at, by: self.by };
        self.facts.insert(ability.name().to_owned(), fact);
    }

    pub fn detail(&mut self, name: &str, value: &str) {
        if self.details.len() < MAX_LIST {
            self.details.insert(name.to_owned(), bounded(value));
        }
    }

    pub fn left(&mut self, path: &str) {
        if self.left_behind.len() < MAX_LIST {
            self.left_behind.push(bounded(path));
        }
    }

    /// Takes what was observed later. What was not looked at this time stays as it was known. Returns what is no longer so.
    pub fn update(&mut self, newer: Profile) -> Vec<Drift> {
        let mut drift = Vec::new();
        let since = self.observed_at;
        for (what, before, now) in
            [("software", &mut self.software, newer.software), ("host key or certificate", &mut self.fingerprint, newer.fingerprint)]
        {
            if let (Some(old), Some(new)) = (before.as_ref(), now.as_ref())
                && old != new
            {
                drift.push(Drift { what: what.to_owned(), before: old.clone(), since, now: new.clone() });
            }
            if now.is_some() {
                *before = now;
            }
        }
        for (name, fact) in newer.facts {
            match self.facts.get(&name) {
                Some(_) if fact.known == Tried::Unknown => continue,
                Some(old) if old.known != fact.known && old.known != Tried::Unknown => drift.push(Drift {
                    what: Ability::ALL.iter().find(|a| a.name() == name).map_or(name.clone(), |a| a.words().to_owned()),
                    before: old.known.to_string(),
                    since: old.at,
                    now: format!("{} ({})", fact.known, fact.evidence),
                }),
                _ => {}
            }
            self.facts.insert(name, fact);
        }
        if let Some(logins) = newer.logins {
            match &self.logins {
                // More than was ever asked for is news, no contradiction.
                Some(old) if old.limited && old.granted != logins.granted => drift.push(Drift {
                    what: "logins at once".to_owned(),
                    before: old.granted.to_string(),
                    since: old.at,
                    now: logins.granted.to_string(),
                }),
                _ => {}
            }
            self.logins = Some(logins);
        }
        self.details.extend(newer.details);
        while self.details.len() > MAX_LIST {
            self.details.pop_last();
        }
        self.address = newer.address.or(self.address.take());
        self.local_address = newer.local_address.or(self.local_address.take());
        self.free_bytes = newer.free_bytes.or(self.free_bytes);
        self.rate = newer.rate.or(self.rate);
        if newer.round_trip_ms > 0.0 {
            self.round_trip_ms = newer.round_trip_ms;
        }
        if newer.by != Observer::Copy {
            self.left_behind = newer.left_behind;
            self.by = newer.by;
        }
        self.observed_at = newer.observed_at;
        if self.destination.is_empty() {
            self.destination = newer.destination;
        }
        drift
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn what_was_not_looked_at_stays_known_and_a_contradiction_is_drift() {
        let mut known = Profile::new("ftp://u@h:21", Observer::Rehearse, at(1));
        known.software = Some("old".into());
        known.note(Ability::Continues, false, "550", at(1));
        known.note(Ability::Read, true, "read back", at(1));
        known.logins = Some(Logins { granted: 2, limited: true, evidence: "421".into(), at: at(1), by: Observer::Rehearse });
        let mut newer = Profile::new("ftp://u@h:21", Observer::Copy, at(9));
        newer.software = Some("new".into());
        newer.note(Ability::Continues, true, "went on", at(9));
        newer.note(Ability::Read, Tried::Unknown, "not tried", at(9));
        newer.logins = Some(Logins { granted: 5, limited: false, evidence: String::new(), at: at(9), by: Observer::Copy });
        let drift = known.update(newer);
        let said: Vec<String> = drift.iter().map(Drift::to_string).collect();
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(said[0].starts_with("software: old on 1970") && said[1].contains("now yes (went on)") && said[2].contains("2 on"));
        assert_eq!((known.knows(Ability::Read), known.knows(Ability::Continues)), (Tried::Yes, Tried::Yes));
        assert_eq!(known.by, Observer::Rehearse);
        assert!(known.clone().update(known).is_empty(), "the same again is no drift");
    }

    #[test]
    fn an_older_version_reads_what_a_newer_one_wrote() {
        let text = r#"{"v":7,"destination":"sftp://u@h:22","invented":{"x":1},"by":"oracle",
            "facts":{"teleports":{"known":"perhaps","evidence":"it said so","at":"2026-01-01T00:00:00Z","by":"oracle","why":[]},
                     "rename":{"known":"no","at":"2026-01-01T00:00:00Z"}}}"#;
        let profile: Profile = serde_json::from_str(text).unwrap();
        assert_eq!((profile.knows(Ability::Rename), profile.facts["teleports"].known), (Tried::No, Tried::Unknown));
        let again: Profile = serde_json::from_str(&serde_json::to_string(&profile).unwrap()).unwrap();
        assert_eq!(again, profile);
    }

    #[test]
    fn words_of_a_server_are_escaped_and_bounded() {
        let mut profile = Profile::new("d", Observer::Probe, at(0));
        profile.note(Ability::Write, false, &format!("\x1b[2J{}", "x".repeat(10_000)), at(0));
        let evidence = &profile.fact(Ability::Write).unwrap().evidence;
        assert!(!evidence.contains('\x1b') && evidence.chars().count() < 400);
        for n in 0..1000 {
            profile.detail(&n.to_string(), "y");
            profile.left("z");
        }
        assert_eq!((profile.details.len(), profile.left_behind.len()), (64, 64));
    }
}
