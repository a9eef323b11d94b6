//! Names at the destination. `RemotePath` is built only here, once, from a root, a template and a key,
//! so that no key can leave the root or smuggle a protocol command (cases F1 to F5).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{FileNumber, ObjectKey, TransferId};

/// Longest file name that common file systems take, in bytes (NAME_MAX of ext4, XFS, NTFS in UTF-8 practice).
pub const MAX_NAME_BYTES: usize = 255;
/// Longest path that POSIX systems take, in bytes (PATH_MAX less the final NUL).
pub const MAX_PATH_BYTES: usize = 4095;

/// Why a key cannot become a name at the destination. Always class `dest_name_invalid`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the name {} holds a control character (byte {byte:#04x})", escape_name(name))]
    Control { name: String, byte: u32 },
    #[error("the name {} has a {segment:?} segment, which could leave the destination directory", escape_name(name))]
    Escapes { name: String, segment: &'static str },
    #[error("the name {} has an empty segment (//), which the destination cannot hold as it is", escape_name(name))]
    EmptySegment { name: String },
    #[error("the name {} is {bytes} bytes long; at most {MAX_NAME_BYTES} fit", escape_name(name))]
    NameTooLong { name: String, bytes: usize },
    #[error("the path {} is {bytes} bytes long; at most {MAX_PATH_BYTES} fit", escape_name(name))]
    PathTooLong { name: String, bytes: usize },
    #[error("the destination path {} is not absolute; begin it with /, or with /~/ for the login directory", escape_name(name))]
    NotAbsolute { name: String },
    #[error("the name template {template:?} has an unknown part {part:?}; use {{key}}, {{dir}}, {{base}}, {{date:FORMAT}} or {{version}}")]
    UnknownPart { template: String, part: String },
    #[error("the name template {template:?} yields an empty name for the key {}", escape_name(key))]
    Empty { template: String, key: String },
}

/// Text made safe for a log line, a terminal or a ticket: control and direction-changing characters are escaped.
pub fn escape_name(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let steers = matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
        if c.is_control() || steers { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}

/// An absolute path at the destination, or one below the login directory (`/~/…`). It never holds `..`,
/// an empty segment or a control character other than TAB.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RemotePath(String);

impl RemotePath {
    /// The only way from a key to a path: `root` (a directory) joined with the name that `template` gives the key.
    pub fn resolve(root: &RemotePath, template: &NameTemplate, key: &TemplateInput<'_>) -> Result<Self, NameError> {
        let name = template.render(key)?;
        if name.is_empty() {
            return Err(NameError::Empty { template: template.text.clone(), key: key.relative.to_owned() });
        }
        root.join(&name)
    }

    /// A path typed by the user. A trailing `/` is dropped; ask `Location` whether there was one.
    pub fn from_user(text: &str) -> Result<Self, NameError> {
        if !text.starts_with('/') {
            return Err(NameError::NotAbsolute { name: text.to_owned() });
        }
        let trimmed = text.trim_end_matches('/');
        if trimmed.is_empty() {
            return Ok(Self("/".to_owned()));
        }
        check(&trimmed[1..])?;
        Self(trimmed.to_owned()).checked()
    }

    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// `name` may hold several segments; each is checked.
    pub fn join(&self, name: &str) -> Result<Self, NameError> {
        check(name)?;
        let joined = if self.0 == "/" { format!("/{name}") } else { format!("{}/{name}", self.0) };
        Self(joined).checked()
    }

    fn checked(self) -> Result<Self, NameError> {
        if self.0.len() > MAX_PATH_BYTES {
            return Err(NameError::PathTooLong { bytes: self.0.len(), name: self.0 });
        }
        Ok(self)
    }

    /// The path as FileFerry writes it; `/~/x` is below the login directory.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path as a server takes it: without the leading `/~/` for paths below the login directory.
    pub fn wire(&self) -> &str {
        match self.0.strip_prefix("/~") {
            Some("") => ".",
            Some(rest) if rest.starts_with('/') => &rest[1..],
            _ => &self.0,
        }
    }

    pub fn parent(&self) -> Option<RemotePath> {
        let cut = self.0.rfind('/')?;
        match cut {
            _ if self.0 == "/" || self.0 == "/~" => None,
            0 => Some(Self::root()),
            _ => Some(Self(self.0[..cut].to_owned())),
        }
    }

    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The same directory, another file name.
    pub fn sibling(&self, name: &str) -> Result<Self, NameError> {
        self.parent().unwrap_or_else(Self::root).join(name)
    }

    pub fn starts_with(&self, directory: &RemotePath) -> bool {
        directory.0 == "/" || self.0 == directory.0 || self.0.strip_prefix(&directory.0).is_some_and(|rest| rest.starts_with('/'))
    }
}

impl fmt::Display for RemotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape_name(&self.0))
    }
}

fn check(name: &str) -> Result<(), NameError> {
    if let Some(c) = name.chars().find(|c| c.is_control() && *c != '\t') {
        return Err(NameError::Control { name: name.to_owned(), byte: c as u32 });
    }
    for segment in name.split('/') {
        match segment {
            "" => return Err(NameError::EmptySegment { name: name.to_owned() }),
            "." => return Err(NameError::Escapes { name: name.to_owned(), segment: "." }),
            ".." => return Err(NameError::Escapes { name: name.to_owned(), segment: ".." }),
            long if long.len() > MAX_NAME_BYTES => {
                return Err(NameError::NameTooLong { name: long.to_owned(), bytes: long.len() });
            }
            _ => {}
        }
    }
    Ok(())
}

/// What a template may speak of. `date` formats today's date; it comes from the caller because this crate has no clock.
#[derive(Clone, Copy)]
pub struct TemplateInput<'a> {
    /// The key below the prefix that was named.
    pub relative: &'a str,
    pub version: Option<&'a str>,
    pub now: jiff::Timestamp,
}

impl fmt::Debug for TemplateInput<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TemplateInput({:?})", self.relative)
    }
}

impl<'a> TemplateInput<'a> {
    /// `prefix` is what the user named; a key equal to it keeps its base name.
    pub fn new(key: &'a ObjectKey, prefix: &str, version: Option<&'a str>, now: jiff::Timestamp) -> Self {
        let text = key.as_str();
        let relative = match text.strip_prefix(prefix) {
            Some(rest) if !rest.is_empty() => rest,
            _ => text.rsplit('/').next().unwrap_or(text),
        };
        Self { relative, version, now }
    }
}

/// `--name TEMPLATE`: how a key becomes a name below the destination directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NameTemplate {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Key,
    Dir,
    Base,
    Date(String),
    Version,
}

impl NameTemplate {
    /// The key as it is: `{key}`.
    pub fn keep() -> Self {
        Self { text: "{key}".to_owned(), parts: vec![Part::Key] }
    }

    /// `--flatten`: only the last segment, `{base}`.
    pub fn flatten() -> Self {
        Self { text: "{base}".to_owned(), parts: vec![Part::Base] }
    }

    pub fn parse(text: &str) -> Result<Self, NameError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            if open > 0 {
                parts.push(Part::Text(rest[..open].to_owned()));
            }
            let unknown = |part: &str| NameError::UnknownPart { template: text.to_owned(), part: part.to_owned() };
            let close = rest[open..].find('}').ok_or_else(|| unknown(&rest[open..]))? + open;
            let inner = &rest[open + 1..close];
            parts.push(match inner {
                "key" => Part::Key,
                "dir" => Part::Dir,
                "base" => Part::Base,
                "version" => Part::Version,
                _ => match inner.strip_prefix("date:") {
                    // Formatting once here turns a bad pattern into an error before anything is sent.
                    Some(format)
                        if jiff::fmt::strtime::format(format, &jiff::Zoned::new(jiff::Timestamp::UNIX_EPOCH, jiff::tz::TimeZone::UTC))
                            .is_ok() =>
                    {
                        Part::Date(format.to_owned())
                    }
                    _ => return Err(unknown(&rest[open..=close])),
                },
            });
            rest = &rest[close + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self { text: text.to_owned(), parts })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn render(&self, input: &TemplateInput<'_>) -> Result<String, NameError> {
        let (dir, base) = match input.relative.rsplit_once('/') {
            Some((dir, base)) => (dir, base),
            None => ("", input.relative),
        };
        let mut out = String::new();
        for (index, part) in self.parts.iter().enumerate() {
            match part {
                // `{dir}/{base}` of a key without a directory must not begin with a slash.
                Part::Text(text) if index == 1 && out.is_empty() && self.parts[0] == Part::Dir => {
                    out.push_str(text.strip_prefix('/').unwrap_or(text))
                }
                Part::Text(text) => out.push_str(text),
                Part::Key => out.push_str(input.relative),
                Part::Dir => out.push_str(dir),
                Part::Base => out.push_str(base),
                Part::Version => out.push_str(input.version.unwrap_or("null")),
                Part::Date(format) => {
                    let now = jiff::Zoned::new(input.now, jiff::tz::TimeZone::UTC);
                    let text = jiff::fmt::strtime::format(format, &now)
                        .map_err(|_| NameError::UnknownPart { template: self.text.clone(), part: format.clone() })?;
                    out.push_str(&text);
                }
            }
        }
        Ok(out)
    }
}

impl TryFrom<String> for NameTemplate {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<NameTemplate> for String {
    fn from(template: NameTemplate) -> Self {
        template.text
    }
}

/// The name under which a file is written until it is verified. Never derived from the key; unique per attempt and epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TempName {
    /// `{id}` stands for the unique part; partners may want `tmp/{id}` or a name without a leading dot.
    template: String,
}

impl Default for TempName {
    fn default() -> Self {
        Self { template: ".ff-{id}.part".to_owned() }
    }
}

impl TempName {
    pub fn parse(template: &str) -> Result<Self, NameError> {
        if template.matches("{id}").count() != 1 {
            return Err(NameError::UnknownPart { template: template.to_owned(), part: "exactly one {id}".to_owned() });
        }
        // A directory for each attempt would be left behind, and its file not be known for ours again.
        if template.rsplit('/').next().is_some_and(|name| !name.contains("{id}")) {
            return Err(NameError::UnknownPart { template: template.to_owned(), part: "{id} after its last /".to_owned() });
        }
        check(&template.replace("{id}", "x"))?;
        Ok(Self { template: template.to_owned() })
    }

    pub fn as_str(&self) -> &str {
        &self.template
    }

    /// The temporary path beside `finished` for one attempt and one epoch of it.
    pub fn path(
        &self,
        finished: &RemotePath,
        transfer: &TransferId,
        run: u32,
        file: FileNumber,
        attempt: u32,
        epoch: u32,
    ) -> Result<RemotePath, NameError> {
        let id = format!("{}-{run}-{file}-{attempt}-{epoch}", transfer.short());
        finished.sibling(&self.template.replace("{id}", &id))
    }

    /// What a name that this template makes says of itself; `None` for names of others.
    pub fn read<'a>(&self, name: &'a str) -> Option<TempParts<'a>> {
        let (before, after) = self.around();
        let id = name.strip_prefix(before)?.strip_suffix(after)?;
        let mut fields = id.split('-');
        let transfer = fields.next()?;
        let shaped = is_unique(transfer);
        let mut number = || fields.next()?.parse::<u32>().ok();
        let parts = TempParts { transfer, run: number()?, file: FileNumber(number()?), attempt: number()?, epoch: number()? };
        (shaped && fields.next().is_none()).then_some(parts)
    }

    /// A name for a rehearsal to try things on: that of a run 0, which no transfer has, and without the directory that
    /// some templates put temporary files in, because it may not be there.
    pub fn scratch(&self, directory: &RemotePath, unique: &TransferId, number: u32) -> Result<RemotePath, NameError> {
        let (before, after) = self.around();
        directory.join(&format!("{before}{}-{SCRATCH_RUN}-{number}-{SCRATCH_ATTEMPT}{after}", unique.short()))
    }

    /// Whose scratch file this is, as the 12 characters of the rehearsal's id. Servers change some of the names that a
    /// rehearsal tries: in another case, or without its last character, it is still the same file.
    pub fn scratch_of(&self, name: &str) -> Option<String> {
        let (before, after) = self.around();
        let name = name.to_ascii_lowercase();
        let (unique, rest) = name.strip_prefix(&before.to_ascii_lowercase())?.split_at_checked(12)?;
        let rest = rest.strip_prefix('-')?.strip_prefix(SCRATCH_RUN)?.strip_prefix('-')?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let rest = rest[digits..].strip_prefix('-')?.strip_prefix(SCRATCH_ATTEMPT)?;
        let ending = rest.strip_prefix(&after.to_ascii_lowercase())?;
        let ours = ending.is_empty() || SCRATCH_BEGINNINGS.iter().any(|tried| ending.starts_with(tried));
        (is_unique(unique) && (1..10).contains(&digits) && ours).then(|| unique.to_owned())
    }

    /// What stands before and after the unique part of a file name.
    fn around(&self) -> (&str, &str) {
        let name = self.template.rsplit('/').next().unwrap_or(&self.template);
        name.split_once("{id}").unwrap_or((name, ""))
    }
}

const SCRATCH_RUN: &str = "0";
const SCRATCH_ATTEMPT: &str = "1-1";
/// Added to a scratch name to see what a server makes of case, space, dot and length, and of a character in both its forms:
/// whatever a server normalises to, it changes that one.
pub const SCRATCH_ENDINGS: [&str; 5] = [".Case", ".space ", ".dot.", ".e\u{301}\u{e9}", ".long"];
/// How these begin in lower case, whatever a server made of them.
const SCRATCH_BEGINNINGS: [&str; 6] = [".case", ".space", ".dot", ".e", ".\u{e9}", ".long"];

fn is_unique(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b))
}

/// The parts of a temporary name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TempParts<'a> {
    /// The 12 characters of the transfer's id.
    pub transfer: &'a str,
    pub run: u32,
    pub file: FileNumber,
    pub attempt: u32,
    pub epoch: u32,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resolve(key: &str) -> Result<RemotePath, NameError> {
        let root = RemotePath::from_user("/inbox").unwrap();
        let key = ObjectKey::local(key);
        RemotePath::resolve(&root, &NameTemplate::keep(), &TemplateInput::new(&key, "", None, jiff::Timestamp::UNIX_EPOCH))
    }

    #[test]
    fn refuses_names_that_leave_the_root_or_carry_commands() {
        for key in [
            "../x",
            "a/../../x",
            "/abs",
            "a//b",
            "a\r\nDELE victim",
            "a\nb",
            "nul\0",
            "esc\u{1b}[2J",
            ".",
            "..",
            "a/.",
            "trailing/",
            "\u{85}",
        ] {
            assert!(resolve(key).is_err(), "{key:?}");
        }
    }

    #[test]
    fn keeps_odd_but_legal_names_byte_for_byte() {
        for key in
            ["-rf", " lead", "trail ", "tab\there", "~t", "*", "[x]", "a\\b", "C:\\x", "%2e%2e", "q'\"q", "é", "e\u{301}", "😀", "..."]
        {
            assert_eq!(resolve(key).unwrap().as_str(), format!("/inbox/{key}"));
        }
    }

    #[test]
    fn limits_are_those_of_real_file_systems() {
        assert!(resolve(&"a".repeat(255)).is_ok());
        assert!(matches!(resolve(&"a".repeat(256)), Err(NameError::NameTooLong { bytes: 256, .. })));
    }

    #[test]
    fn templates_render_and_name_their_mistakes() {
        let root = RemotePath::from_user("/in").unwrap();
        let key = ObjectKey::local("out/2026/a.csv");
        let input = TemplateInput::new(&key, "out/", Some("v1"), jiff::Timestamp::UNIX_EPOCH);
        let name = |t: &str| RemotePath::resolve(&root, &NameTemplate::parse(t).unwrap(), &input).unwrap();
        assert_eq!(name("{key}").as_str(), "/in/2026/a.csv");
        assert_eq!(name("{date:%Y%m%d}-{base}").as_str(), "/in/19700101-a.csv");
        assert_eq!(name("{dir}/new-{base}.{version}").as_str(), "/in/2026/new-a.csv.v1");
        assert!(NameTemplate::parse("{nope}").unwrap_err().to_string().contains("{nope}"));
        assert!(NameTemplate::parse("{date:%}").is_err());
    }

    #[test]
    fn the_login_directory_is_relative_on_the_wire() {
        assert_eq!(RemotePath::from_user("/~/in/").unwrap().wire(), "in");
        assert_eq!(RemotePath::from_user("/~").unwrap().wire(), ".");
        assert_eq!(RemotePath::from_user("/~x/in").unwrap().wire(), "/~x/in");
        assert_eq!(RemotePath::from_user("/").unwrap().wire(), "/");
        assert!(RemotePath::from_user("in").is_err());
    }

    #[test]
    fn temporary_names_are_short_unique_and_recognised() {
        let id = TransferId::from_random([255; 10]);
        let temp = TempName::default();
        let finished = RemotePath::from_user("/in/a.csv").unwrap();
        let path = temp.path(&finished, &id, 1, FileNumber(1_234_567), 3, 12).unwrap();
        assert!(path.name().len() <= 48, "{} is {} bytes", path.name(), path.name().len());
        let parts = TempParts { transfer: id.short(), run: 1, file: FileNumber(1_234_567), attempt: 3, epoch: 12 };
        assert_eq!(temp.read(path.name()), Some(parts));
        for name in [
            ".ff-someone-elses.part",
            "a.csv",
            ".ff-777777777777-1-2-3.part",
            ".ff-777777777777-1-2-3-4-5.part",
            ".ff-777777777777-1-2-x-4.part",
        ] {
            assert_eq!(temp.read(name), None, "{name}");
        }
        let staged = TempName::parse("tmp/{id}").unwrap();
        assert_eq!(staged.path(&finished, &id, 1, FileNumber(0), 1, 1).unwrap().parent().unwrap().as_str(), "/in/tmp");
        assert!(TempName::parse("../{id}").is_err());
        assert!(TempName::parse("fixed").is_err());
        assert!(TempName::parse("{id}/fixed").is_err(), "a directory for each attempt would stay");
    }

    #[test]
    fn scratch_names_are_recognised_whatever_a_server_made_of_them_and_others_are_not() {
        let id = TransferId::from_random([7; 10]);
        let directory = RemotePath::from_user("/in").unwrap();
        for template in ["Up-{id}.Part", "tmp/{id}", ".ff-{id}.part"] {
            let temp = TempName::parse(template).unwrap();
            let path = temp.scratch(&directory, &id, 12).unwrap();
            assert_eq!((path.parent().unwrap(), temp.scratch_of(path.name()).as_deref()), (directory.clone(), Some(id.short())));
            assert_eq!(temp.read(path.name()).map(|parts| parts.run), Some(0));
            for ending in SCRATCH_ENDINGS.into_iter().chain([".\u{e9}\u{e9}", ".space", ".longxxxxx"]) {
                let name = format!("{}{ending}", path.name());
                assert_eq!(temp.scratch_of(&name).as_deref(), Some(id.short()), "{name}");
                assert_eq!(temp.scratch_of(&name.to_ascii_uppercase()).as_deref(), Some(id.short()), "{name}");
            }
            let copied = temp.path(&directory.join("x").unwrap(), &id, 1, FileNumber(12), 1, 1).unwrap();
            for name in [copied.name(), &format!("{}.old", path.name()), &format!("x{}", path.name()), "a.csv", ".ff-", "é"] {
                assert_eq!(temp.scratch_of(name), None, "{name}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        // Case F2 asks for 100,000 random keys; `make test-all` raises the count by PROPTEST_CASES.
        #[test]
        fn a_resolved_path_never_leaves_its_root(key in "\\PC*|[./\\\\%a-c\\r\\n\\x00]{0,40}") {
            if let Ok(path) = resolve(&key) {
                prop_assert!(path.as_str().starts_with("/inbox/"));
                prop_assert!(!path.as_str().split('/').skip(1).any(|s| s.is_empty() || s == "." || s == ".."));
                prop_assert!(!path.as_str().contains(['\r', '\n', '\0']));
                prop_assert_eq!(RemotePath::from_user(path.as_str()).unwrap(), path);
            }
        }
    }
}
