//! Which listed objects are sent: patterns, sizes, ages; and lists of keys (`--files-from`).
//!
//! Patterns are matched against the key below the prefix that was named, byte for byte and with case.
//! One without `/` is matched against the last segment alone, so `*.csv` finds `2026/a.csv`. One with `/` is
//! matched against the whole of it: `2026/*.csv`, and `/a.csv` only at the top. `*` and `?` stop at `/`, `**` does not,
//! `{a,b}` and `[a-z]` are alternatives, `\` takes the next character as it is. A pattern that ends in `/` means
//! everything below. An object is sent if it fits an `include` (or there is none) and no `exclude`.

use std::io::BufRead;
use std::time::Duration;

use globset::{GlobBuilder, GlobMatcher};
use model::ObjectKey;
use serde::Deserialize;

use crate::Object;

/// Longest line of a list; a key has at most 1024 bytes, JSON may escape each of them.
const MAX_LINE: usize = 16 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Send,
    /// The key ends in `/`: a console's way to show an empty folder. It holds no file.
    FolderMarker,
    /// `by` is the pattern or limit, as the user wrote it.
    Excluded {
        by: String,
    },
}

#[derive(Debug, thiserror::Error)]
#[error("the pattern {pattern:?} cannot be understood: {reason}")]
pub struct PatternError {
    pattern: String,
    reason: String,
}

#[derive(Debug, Clone)]
struct Pattern {
    text: String,
    matcher: GlobMatcher,
    base_name_only: bool,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, PatternError> {
        let bad = |reason: String| PatternError { pattern: text.to_owned(), reason };
        if text.is_empty() {
            return Err(bad("it is empty".to_owned()));
        }
        let below = if text.ends_with('/') { format!("{text}**") } else { text.to_owned() };
        let base_name_only = !below.contains('/');
        let matcher = GlobBuilder::new(below.strip_prefix('/').unwrap_or(&below))
            .literal_separator(true)
            .backslash_escape(true)
            .build()
            .map_err(|e| bad(e.kind().to_string()))?
            .compile_matcher();
        Ok(Self { text: text.to_owned(), matcher, base_name_only })
    }

    fn fits(&self, relative: &str) -> bool {
        let subject = if self.base_name_only { relative.rsplit('/').next().unwrap_or(relative) } else { relative };
        self.matcher.is_match(subject)
    }
}

/// What the user wants of a listing. The default is everything.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
    pub min_size: Option<u64>,
    pub max_size: Option<u64>,
    /// Only objects at least this old.
    pub min_age: Option<Duration>,
    /// Only objects at most this old.
    pub max_age: Option<Duration>,
}

impl Selection {
    pub fn new<S: AsRef<str>>(include: &[S], exclude: &[S]) -> Result<Self, PatternError> {
        let parse = |list: &[S]| list.iter().map(|text| Pattern::parse(text.as_ref())).collect::<Result<Vec<_>, _>>();
        Ok(Self { include: parse(include)?, exclude: parse(exclude)?, ..Self::default() })
    }

    /// `relative` is the key below the prefix that the user named.
    pub fn decide(&self, relative: &str, object: &Object, now: jiff::Timestamp) -> Decision {
        if object.key.is_folder_marker() {
            return Decision::FolderMarker;
        }
        let excluded = |by: String| Decision::Excluded { by };
        if let Some(pattern) = self.exclude.iter().find(|pattern| pattern.fits(relative)) {
            return excluded(format!("--exclude {}", pattern.text));
        }
        if !self.include.is_empty() && !self.include.iter().any(|pattern| pattern.fits(relative)) {
            return excluded("no --include fits".to_owned());
        }
        if let Some(min) = self.min_size.filter(|min| object.size < *min) {
            return excluded(format!("--min-size {min}B"));
        }
        if let Some(max) = self.max_size.filter(|max| object.size > *max) {
            return excluded(format!("--max-size {max}B"));
        }
        if self.min_age.is_none() && self.max_age.is_none() {
            return Decision::Send;
        }
        let Some(modified) = object.modified else {
            return excluded("its age is not known".to_owned());
        };
        // An object from the future (a store whose clock is ahead) has no age yet.
        let age = Duration::try_from(now.duration_since(modified)).unwrap_or(Duration::ZERO);
        if let Some(min) = self.min_age.filter(|min| age < *min) {
            return excluded(format!("--min-age {}s", min.as_secs()));
        }
        if let Some(max) = self.max_age.filter(|max| age > *max) {
            return excluded(format!("--max-age {}s", max.as_secs()));
        }
        Decision::Send
    }
}

/// One line of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub key: ObjectKey,
    pub version: Option<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("line {line} of the list of files: {reason}")]
pub struct ListError {
    pub line: u64,
    reason: String,
}

/// Reads a key per line, or `{"key": …, "versionId": …}`; both may be mixed and empty lines are passed over.
/// A key that begins with `{"` or holds a line break needs the JSON form. Stops after the first error.
pub fn files_from<R: BufRead>(reader: R) -> FilesFrom<R> {
    FilesFrom { reader, line: 0, ended: false }
}

#[derive(Debug)]
pub struct FilesFrom<R> {
    reader: R,
    line: u64,
    ended: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonLine {
    key: String,
    #[serde(default, rename = "versionId", alias = "version")]
    version_id: Option<String>,
}

impl<R: BufRead> FilesFrom<R> {
    /// The next line without its end; `None` at the end of the list.
    fn line(&mut self) -> Result<Option<String>, String> {
        let mut bytes = Vec::new();
        let mut limited = std::io::Read::take(&mut self.reader, MAX_LINE as u64 + 1);
        if limited.read_until(b'\n', &mut bytes).map_err(|e| format!("it cannot be read: {e}"))? == 0 {
            return Ok(None);
        }
        self.line += 1;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        } else if bytes.len() > MAX_LINE {
            return Err(format!("it is longer than {MAX_LINE} bytes"));
        }
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
        let text = if self.line == 1 { text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text) } else { text };
        Ok(Some(text))
    }

    fn wanted(&mut self) -> Result<Option<Wanted>, String> {
        while let Some(text) = self.line()? {
            if text.is_empty() {
                continue;
            }
            // Neither `{"` nor the space some writers put there is how keys usually begin.
            let json = text.strip_prefix('{').is_some_and(|rest| rest.trim_start().starts_with('"'));
            let line = if json {
                serde_json::from_str(&text).map_err(|e| format!("it looks like JSON but is not {{\"key\": …, \"versionId\": …}}: {e}"))?
            } else {
                JsonLine { key: text, version_id: None }
            };
            let key = ObjectKey::new(line.key).map_err(|e| e.to_string())?;
            return Ok(Some(Wanted { key, version: line.version_id.filter(|version| !version.is_empty()) }));
        }
        Ok(None)
    }
}

impl<R: BufRead> Iterator for FilesFrom<R> {
    type Item = Result<Wanted, ListError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match self.wanted() {
            Ok(Some(wanted)) => Some(Ok(wanted)),
            Ok(None) => {
                self.ended = true;
                None
            }
            Err(reason) => {
                self.ended = true;
                Some(Err(ListError { line: self.line.max(1), reason }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: jiff::Timestamp = jiff::Timestamp::constant(1_000_000, 0);

    fn object(key: &str, size: u64, age: i64) -> Object {
        Object {
            key: ObjectKey::new(key).unwrap(),
            size,
            etag: None,
            version: None,
            modified: jiff::Timestamp::from_second(NOW.as_second() - age).ok(),
            archived: false,
        }
    }

    fn sent(include: &[&str], exclude: &[&str], key: &str) -> bool {
        Selection::new(include, exclude).unwrap().decide(key, &object(key, 1, 1), NOW) == Decision::Send
    }

    #[test]
    fn patterns_without_a_slash_look_at_the_last_segment() {
        assert!(sent(&["*.csv"], &[], "a.csv"));
        assert!(sent(&["*.csv"], &[], "2026/01/a.csv"));
        assert!(!sent(&["*.csv"], &[], "a.csv/b"));
        assert!(!sent(&["a"], &[], "a/b"));
    }

    #[test]
    fn patterns_with_a_slash_look_at_the_whole_key() {
        assert!(sent(&["2026/*.csv"], &[], "2026/a.csv"));
        assert!(!sent(&["2026/*.csv"], &[], "old/2026/a.csv"));
        assert!(!sent(&["2026/*.csv"], &[], "2026/01/a.csv"));
        assert!(sent(&["2026/**/*.csv"], &[], "2026/01/02/a.csv"));
        assert!(sent(&["/a.csv"], &[], "a.csv"));
        assert!(!sent(&["/a.csv"], &[], "x/a.csv"));
        assert!(sent(&["logs/"], &[], "logs/x/y"));
        assert!(!sent(&["logs/"], &[], "logs2/x"));
    }

    #[test]
    fn exclude_wins_and_is_named() {
        let selection = Selection::new(&["*.csv"], &["tmp*"]).unwrap();
        let decision = selection.decide("tmp1.csv", &object("tmp1.csv", 1, 1), NOW);
        assert_eq!(decision, Decision::Excluded { by: "--exclude tmp*".into() });
        assert!(sent(&[], &[], "anything"));
    }

    #[test]
    fn odd_keys_are_only_text() {
        assert!(sent(&["\\*"], &[], "*"));
        assert!(!sent(&["\\*"], &[], "a"));
        assert!(sent(&["-rf"], &[], "-rf"));
        assert!(sent(&["*é.{csv,txt}"], &[], "é.txt"));
        assert!(!sent(&["*.CSV"], &[], "a.csv"));
        let error = Selection::new(&["a[b"], &[]).unwrap_err().to_string();
        assert!(error.contains("a[b"), "{error}");
    }

    #[test]
    fn sizes_and_ages_are_inclusive() {
        let mut selection = Selection { min_size: Some(10), max_size: Some(20), ..Selection::default() };
        let decide = |s: &Selection, size, age| s.decide("k", &object("k", size, age), NOW) == Decision::Send;
        assert_eq!([9, 10, 20, 21].map(|size| decide(&selection, size, 0)), [false, true, true, false]);
        selection = Selection { min_age: Some(Duration::from_secs(10)), max_age: Some(Duration::from_secs(20)), ..Selection::default() };
        assert_eq!([-5, 9, 10, 20, 21].map(|age| decide(&selection, 1, age)), [false, false, true, true, false]);
        let ageless = Object { modified: None, ..object("k", 1, 0) };
        assert!(matches!(selection.decide("k", &ageless, NOW), Decision::Excluded { .. }));
    }

    #[test]
    fn folder_markers_are_told_apart() {
        assert_eq!(Selection::default().decide("x/", &object("out/x/", 0, 0), NOW), Decision::FolderMarker);
    }

    fn read(text: &[u8]) -> Result<Vec<Wanted>, ListError> {
        files_from(text).collect()
    }

    #[test]
    fn lists_hold_keys_and_json_lines() {
        let text = "\u{feff}a b\r\n\n{\"key\":\"x\\ny\",\"versionId\":\"v1\"}\n{date}.csv\n#not a comment\n{\"key\":\"k\"}";
        let lines = read(text.as_bytes()).unwrap();
        let shown: Vec<_> = lines.iter().map(|w| (w.key.as_str(), w.version.as_deref())).collect();
        assert_eq!(shown, [("a b", None), ("x\ny", Some("v1")), ("{date}.csv", None), ("#not a comment", None), ("k", None)]);
    }

    #[test]
    fn mistakes_name_their_line_and_lines_are_bounded() {
        for (text, line) in [
            (b"a\n{\"key\":1}\n".to_vec(), 2),
            (b"a\nb\n\xff\n".to_vec(), 3),
            ([b"a\n".to_vec(), vec![b'x'; MAX_LINE + 1]].concat(), 2),
            ([vec![b'x'; 1025], b"\n".to_vec()].concat(), 1),
            (b"{\"key\":\"a\",\"verzion\":\"x\"}".to_vec(), 1),
            (b"{\"key\":\"\"}".to_vec(), 1),
        ] {
            let error = read(&text).unwrap_err();
            assert_eq!(error.line, line, "{error}");
            assert!(error.to_string().starts_with(&format!("line {line} ")));
        }
    }
}
