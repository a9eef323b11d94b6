//! One line of a directory listing: MLSD and MLST facts (RFC 3659, part 7) and the two shapes of LIST that servers
//! still send, `ls -l` and DOS. Every line is the server's word: nothing here panics, allocates more than the line is
//! long, or changes a byte of a name.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

/// Longer lines are no entry: file systems end at 255 bytes a name and 4 KiB a path.
const MAX_LINE: usize = 16 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Link,
    /// A device, a socket, or nothing was said.
    Other,
}

/// What one line says. The name is as the server sent it: MLST answers with a whole path, and a hostile server may put
/// `/` or control characters anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: Vec<u8>,
    /// Never that of a directory or a link: their own length is not what anybody asks for.
    pub size: Option<u64>,
    /// From facts in UTC; from LIST in the server's own zone, which it does not tell, read as if it were UTC.
    pub modified: Option<Timestamp>,
    pub kind: Kind,
    /// The listed directory itself or the one above it.
    pub current_or_parent: bool,
}

/// One line of an MLSD listing, or the middle line of an MLST reply with its leading space.
pub fn facts(line: &[u8]) -> Option<Listed> {
    let line = bare(line)?;
    let line = line.strip_prefix(b" ").unwrap_or(line);
    let (facts, name) = split_facts(line)?;
    let mut listed = Listed { name: name.to_vec(), size: None, modified: None, kind: Kind::Other, current_or_parent: is_dots(name) };
    for (fact, value) in each_fact(facts) {
        if fact.eq_ignore_ascii_case(b"type") {
            (listed.kind, listed.current_or_parent) = match value.to_ascii_lowercase().as_slice() {
                b"file" => (Kind::File, listed.current_or_parent),
                b"dir" => (Kind::Directory, listed.current_or_parent),
                b"cdir" | b"pdir" => (Kind::Directory, true),
                // `OS.unix=slink:TARGET`, `OS.unix=symlink`, `OS.unix=slink`.
                other if other.starts_with(b"os.unix=slink") || other.starts_with(b"os.unix=symlink") => (Kind::Link, false),
                _ => (Kind::Other, listed.current_or_parent),
            };
        } else if fact.eq_ignore_ascii_case(b"size") {
            listed.size = number(value);
        } else if fact.eq_ignore_ascii_case(b"modify") {
            listed.modified = std::str::from_utf8(value).ok().and_then(time_value);
        }
    }
    if matches!(listed.kind, Kind::Directory | Kind::Link) {
        listed.size = None;
    }
    Some(listed)
}

/// One line of a LIST listing. `now` decides the year where a line has a time of day in its place.
pub fn listed(line: &[u8], now: Timestamp) -> Option<Listed> {
    let line = bare(line)?;
    unix(line, now).or_else(|| dos(line))
}

/// `YYYYMMDDHHMMSS[.fff]`, always UTC (RFC 3659, 2.3).
pub fn time_value(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (text, None),
    };
    if whole.len() != 14 || !whole.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanoseconds = match fraction {
        None => 0,
        Some(digits) if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) => return None,
        // Digits below a nanosecond are dropped, missing ones are zeros.
        Some(digits) => digits.bytes().chain(std::iter::repeat(b'0')).take(9).fold(0, |sum, b| sum * 10 + i32::from(b - b'0')),
    };
    let part = |from: usize, to: usize| whole[from..to].parse::<i16>().ok();
    let small = |from: usize| whole[from..from + 2].parse::<i8>().ok();
    // The grammar allows second 60, the calendar does not.
    let second = small(12)?;
    let second = if second == 60 { 59 } else { second };
    instant(DateTime::new(part(0, 4)?, small(4)?, small(6)?, small(8)?, small(10)?, second, nanoseconds).ok()?)
}

/// The line without its end. A line break inside means that the caller did not split, and then nothing is certain.
fn bare(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    (line.len() <= MAX_LINE && !line.contains(&b'\n')).then_some(line)
}

/// A line without any fact says nothing that a caller could act on. Facts end at the first `; `. Where that does not give sound facts, the server may have left out the last `;`: then
/// they end at the first space.
fn split_facts(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = |at: usize| (&line[..at], &line[at + 1..]);
    let regular = line.windows(2).position(|pair| pair == b"; ").map(|at| at + 1);
    let lenient = line.iter().position(|b| *b == b' ');
    let (facts, name) = [regular, lenient].into_iter().flatten().map(end).find(|(facts, _)| is_sound(facts))?;
    (!name.is_empty()).then_some((facts, name))
}

fn each_fact(facts: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    facts.split(|b| *b == b';').filter_map(|fact| {
        let equals = fact.iter().position(|b| *b == b'=')?;
        Some((&fact[..equals], &fact[equals + 1..]))
    })
}

/// Every fact is `NAME=VALUE`. Only a type may hold a space: the target of a link stands in it on some servers.
fn is_sound(facts: &[u8]) -> bool {
    let facts = facts.strip_suffix(b";").unwrap_or(facts);
    facts.split(|b| *b == b';').all(|fact| match fact.iter().position(|b| *b == b'=') {
        None | Some(0) => false,
        Some(at) => !fact.contains(&b' ') || (fact[..at].eq_ignore_ascii_case(b"type") && !fact[..at].contains(&b' ')),
    })
}

/// `-rw-r--r--   1 owner    group        9000 Nov 20 12:00 name`. Owner and group may be missing, numeric or hold
/// spaces, so the size is found from the date that follows it.
fn unix(line: &[u8], now: Timestamp) -> Option<Listed> {
    let (kind_letter, permissions) = (line.first()?, line.get(1..10)?);
    let kind = match kind_letter {
        b'-' => Kind::File,
        b'd' => Kind::Directory,
        b'l' => Kind::Link,
        b'b' | b'c' | b'p' | b's' | b'D' => Kind::Other,
        _ => return None,
    };
    if !permissions.iter().all(|b| b"rwxsStTlL-".contains(b)) {
        return None;
    }
    // A fixed window of words: the date stands in the first ten, owners with spaces included.
    let mut words = [Word::default(); 16];
    let mut count = 0;
    for (slot, word) in words.iter_mut().zip(Words { line, at: 0 }) {
        *slot = word;
        count += 1;
    }
    let words = &words[..count];
    for (index, size) in words.iter().enumerate().skip(1) {
        let Some(length) = number(size.text(line)) else { continue };
        let following = |n: usize| words.get(index + n).map(|word| word.text(line));
        let (modified, last) = match (following(1), following(2), following(3)) {
            (Some(month), Some(day), Some(year)) if let Some(time) = calendar(month, day, year, now) => (Some(time), index + 3),
            (Some(date), Some(time), _) if let Some(time) = iso(date, time) => (Some(time), index + 2),
            _ => continue,
        };
        // Exactly one space: what follows it belongs to the name.
        let mut name = line.get(words[last].end + 1..)?;
        if kind == Kind::Link {
            name = link_name(name, length);
        }
        if name.is_empty() {
            return None;
        }
        let size = (kind == Kind::File).then_some(length);
        return Some(Listed { name: name.to_vec(), size, modified, kind, current_or_parent: is_dots(name) });
    }
    None
}

/// `NAME -> TARGET`. A name may hold an arrow too; the length of a link is that of its target, and tells which one it is.
fn link_name(text: &[u8], length: u64) -> &[u8] {
    const ARROW: &[u8] = b" -> ";
    let by_length =
        usize::try_from(length).ok().and_then(|length| text.len().checked_sub(length)).and_then(|at| text[..at].strip_suffix(ARROW));
    match by_length {
        Some(name) if !name.is_empty() => name,
        _ => match text.windows(ARROW.len()).position(|window| window == ARROW) {
            Some(at) if at > 0 => &text[..at],
            _ => text,
        },
    }
}

/// `11-20-26  12:00PM       <DIR>          name` or `11-20-2026  13:00   1234 name`.
fn dos(line: &[u8]) -> Option<Listed> {
    let mut words = Words { line, at: 0 };
    let (date, time, size) = (words.next()?, words.next()?, words.next()?);
    let modified = dos_time(date.text(line), time.text(line))?;
    let after = line.get(size.end + 1..)?;
    let (kind, length, name) = match size.text(line) {
        b"<DIR>" => (Kind::Directory, None, after_label(line, size)),
        b"<JUNCTION>" | b"<SYMLINK>" | b"<SYMLINKD>" => (Kind::Link, None, after_label(line, size)),
        digits => (Kind::File, Some(number(digits)?), after),
    };
    if name.is_empty() {
        return None;
    }
    Some(Listed { name: name.to_vec(), size: length, modified: Some(modified), kind, current_or_parent: is_dots(name) })
}

/// IIS pads `<DIR>` to fifteen columns, so that names line up with those after a size; others put fewer spaces.
fn after_label(line: &[u8], label: Word) -> &[u8] {
    const COLUMNS: usize = 15;
    let rest = &line[label.end..];
    let padding = COLUMNS.saturating_sub(label.end - label.start);
    match rest.get(..padding) {
        Some(spaces) if padding > 0 && rest.len() > padding && spaces.iter().all(|b| *b == b' ') => &rest[padding..],
        _ => rest.trim_ascii_start(),
    }
}

/// `MM-DD-YY` or `MM-DD-YYYY`, and `hh:mmAM`, `hh:mmPM` or `HH:MM`.
fn dos_time(date: &[u8], time: &[u8]) -> Option<Timestamp> {
    let mut fields = date.split(|b| *b == b'-');
    let (month, day, year) = (fields.next()?, fields.next()?, fields.next()?);
    if fields.next().is_some() || !(1..=2).contains(&month.len()) || !(1..=2).contains(&day.len()) {
        return None;
    }
    let year = match (year.len(), number(year)?) {
        (2, year) if year < 70 => 2000 + year,
        (2, year) => 1900 + year,
        (4, year) => year,
        _ => return None,
    };
    let (clock, half) = match time.len().checked_sub(2).map(|at| time.split_at(at)) {
        Some((clock, half)) if half.eq_ignore_ascii_case(b"am") => (clock, Some(0)),
        Some((clock, half)) if half.eq_ignore_ascii_case(b"pm") => (clock, Some(12)),
        _ => (time, None),
    };
    let (hour, minute) = hour_and_minute(clock)?;
    let hour = match half {
        Some(_) if hour > 12 => return None,
        Some(noon) => hour % 12 + noon,
        None => hour,
    };
    let day = Date::new(year.try_into().ok()?, number(month)?.try_into().ok()?, number(day)?.try_into().ok()?).ok()?;
    instant(day.at(hour, minute, 0, 0))
}

/// `Nov 20 12:00` or `Nov 20 2026`. A time of day means the last twelve months; a day ahead of `now` is a zone, not a year.
fn calendar(month: &[u8], day: &[u8], year: &[u8], now: Timestamp) -> Option<Timestamp> {
    const MONTHS: [&[u8]; 12] = [b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec"];
    let month = month.to_ascii_lowercase();
    let month = i8::try_from(MONTHS.iter().position(|name| *name == month)? + 1).ok()?;
    let day = i8::try_from(number(day).filter(|_| day.len() <= 2)?).ok()?;
    let at = |year: i16, hour, minute| Date::new(year, month, day).ok().and_then(|date| instant(date.at(hour, minute, 0, 0)));
    if let Some((hour, minute)) = hour_and_minute(year) {
        let this_year = TimeZone::UTC.to_datetime(now).year();
        let latest = now.checked_add(jiff::SignedDuration::from_hours(24)).ok()?;
        // Further back only for the 29th of February.
        return (0..8).filter_map(|back| at(this_year - back, hour, minute)).find(|time| *time <= latest);
    }
    (year.len() == 4).then(|| number(year)).flatten().and_then(|year| at(year.try_into().ok()?, 0, 0))
}

/// `2026-11-20 12:00`, as `ls --time-style=long-iso` writes it.
fn iso(date: &[u8], time: &[u8]) -> Option<Timestamp> {
    let [year, month, day] = [date.get(..4)?, date.get(5..7)?, date.get(8..)?];
    if date.len() != 10 || date[4] != b'-' || date[7] != b'-' {
        return None;
    }
    let date = Date::new(number(year)?.try_into().ok()?, number(month)?.try_into().ok()?, number(day)?.try_into().ok()?).ok()?;
    let (hour, minute) = hour_and_minute(time.get(..5)?)?;
    instant(date.at(hour, minute, 0, 0))
}

fn hour_and_minute(clock: &[u8]) -> Option<(i8, i8)> {
    let colon = clock.iter().position(|b| *b == b':')?;
    let (hour, minute) = (&clock[..colon], &clock[colon + 1..]);
    if !(1..=2).contains(&hour.len()) || minute.len() != 2 {
        return None;
    }
    let (hour, minute) = (number(hour)?, number(minute)?);
    (hour < 24 && minute < 60).then_some((hour as i8, minute as i8))
}

fn instant(time: DateTime) -> Option<Timestamp> {
    TimeZone::UTC.to_timestamp(time).ok()
}

/// Digits only: no sign, no blank, nothing that does not fit.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn is_dots(name: &[u8]) -> bool {
    name == b"." || name == b".."
}

/// Where a word stands in its line.
#[derive(Debug, Clone, Copy, Default)]
struct Word {
    start: usize,
    end: usize,
}

impl Word {
    fn text(self, line: &[u8]) -> &[u8] {
        &line[self.start..self.end]
    }
}

struct Words<'a> {
    line: &'a [u8],
    at: usize,
}

impl Iterator for Words<'_> {
    type Item = Word;

    fn next(&mut self) -> Option<Word> {
        let start = self.at + self.line[self.at..].iter().position(|b| *b != b' ')?;
        let end = self.line[start..].iter().position(|b| *b == b' ').map_or(self.line.len(), |length| start + length);
        self.at = end;
        Some(Word { start, end })
    }
}

#[cfg(test)]
#[path = "listing_tests.rs"]
mod tests;
