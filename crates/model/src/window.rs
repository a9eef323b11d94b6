//! The hours in which a partner takes files, in the partner's own time.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _, Zoned};
use serde::{Deserialize, Serialize};

const DAYS: [(&str, Weekday); 7] = [
    ("Mon", Weekday::Monday),
    ("Tue", Weekday::Tuesday),
    ("Wed", Weekday::Wednesday),
    ("Thu", Weekday::Thursday),
    ("Fri", Weekday::Friday),
    ("Sat", Weekday::Saturday),
    ("Sun", Weekday::Sunday),
];

/// `[DAYS ]HH:MM-HH:MM[ ZONE]`: `22:00-04:00`, `Mon-Fri 08:00-18:00 Europe/Berlin`. A window over midnight belongs to the
/// day on which it opens. Without a zone: UTC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    text: String,
    /// Days on which it opens.
    days: Vec<Weekday>,
    from: Time,
    to: Time,
    zone: TimeZone,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseWindowError(String);

impl Window {
    pub fn is_open(&self, now: Timestamp) -> bool {
        let local = now.to_zoned(self.zone.clone());
        let (today, time) = (local.date().weekday(), local.time());
        let opens_on = |day: Weekday| self.days.contains(&day);
        if self.from < self.to {
            return opens_on(today) && self.from <= time && time < self.to;
        }
        (opens_on(today) && time >= self.from) || (opens_on(today.previous()) && time < self.to)
    }

    /// When it opens next; `None` only where the calendar ends.
    pub fn opens_at(&self, now: Timestamp) -> Option<Timestamp> {
        let local = now.to_zoned(self.zone.clone());
        let opening = |days: i64| -> Option<Zoned> {
            let date = local.date().checked_add(days.days()).ok()?;
            // A time that a clock change leaves out opens at what comes in its place.
            self.days.contains(&date.weekday()).then(|| date.to_datetime(self.from).to_zoned(self.zone.clone()).ok()).flatten()
        };
        (0..=8).filter_map(opening).map(|at| at.timestamp()).find(|at| *at > now)
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Window {
    type Err = ParseWindowError;

    fn from_str(text: &str) -> Result<Self, ParseWindowError> {
        let bad = |why: &str| {
            ParseWindowError(format!("{:?} is not a window: {why}; write 22:00-04:00 or Mon-Fri 08:00-18:00 Europe/Berlin", short(text)))
        };
        let mut words = text.split_whitespace().peekable();
        let begins_with_day = words.peek().is_some_and(|word| DAYS.iter().any(|(name, _)| word.starts_with(name)));
        let days = match begins_with_day {
            true => days(words.next().unwrap_or_default()).ok_or_else(|| bad("its days are not days"))?,
            false => DAYS.iter().map(|(_, day)| *day).collect(),
        };
        let (from, to) = words.next().and_then(|hours| hours.split_once('-')).ok_or_else(|| bad("it has no hours"))?;
        let time = |text: &str| Time::strptime("%H:%M", text).map_err(|_| bad("its hours are not hours"));
        let (from, to) = (time(from)?, time(to)?);
        if from == to {
            return Err(bad("it opens and closes at the same time"));
        }
        let zone = match words.next() {
            None => TimeZone::UTC,
            // A machine without tzdata still understands the rule written out: CET-1CEST,M3.5.0,M10.5.0/3.
            Some(name) => TimeZone::get(name)
                .or_else(|_| TimeZone::posix(name))
                .map_err(|_| bad("its time zone is not known on this machine (is tzdata installed?)"))?,
        };
        match words.next() {
            Some(_) => Err(bad("it has too many words")),
            None => Ok(Self { text: text.split_whitespace().collect::<Vec<_>>().join(" "), days, from, to, zone }),
        }
    }
}

/// `Mon-Fri`, `Sat,Sun`, `Mon`.
fn days(text: &str) -> Option<Vec<Weekday>> {
    let place = |name: &str| DAYS.iter().position(|(known, _)| *known == name);
    let mut found = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (place(first)?, place(last)?);
        let count = (last + DAYS.len() - first) % DAYS.len();
        found.extend((0..=count).map(|offset| DAYS[(first + offset) % DAYS.len()].1));
    }
    Some(found)
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

impl TryFrom<String> for Window {
    type Error = ParseWindowError;

    fn try_from(text: String) -> Result<Self, ParseWindowError> {
        text.parse()
    }
}

impl From<Window> for String {
    fn from(window: Window) -> Self {
        window.text
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rule of Europe/Berlin, for machines without tzdata.
    const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_opens() {
        let window: Window = "Fri 22:00-04:00".parse().unwrap();
        // 2026-01-02 is a Friday.
        assert!(!window.is_open(at("2026-01-02T03:00:00Z")));
        assert!(window.is_open(at("2026-01-02T22:00:00Z")));
        assert!(window.is_open(at("2026-01-03T03:59:59Z")));
        assert!(!window.is_open(at("2026-01-03T04:00:00Z")));
        assert_eq!(window.opens_at(at("2026-01-03T04:00:00Z")), Some(at("2026-01-09T22:00:00Z")));
    }

    #[test]
    fn hours_are_those_of_the_partner_also_when_clocks_change() {
        let window: Window = format!("08:00-18:00 {BERLIN}").parse().unwrap();
        assert!(window.is_open(at("2026-01-05T07:00:00Z")) && !window.is_open(at("2026-07-05T16:00:00Z")));
        assert!(window.is_open(at("2026-07-05T06:00:00Z")));
        // 02:30 does not exist on 2026-03-29; what comes in its place opens.
        let missing: Window = format!("02:30-05:00 {BERLIN}").parse().unwrap();
        let opens = missing.opens_at(at("2026-03-29T00:00:00Z")).unwrap();
        assert!(opens > at("2026-03-29T00:59:59Z") && missing.is_open(opens), "{opens}");
    }

    #[test]
    fn a_window_reads_back_from_its_text_and_mistakes_are_named() {
        for text in ["22:00-04:00", &format!("Mon-Fri 08:00-18:00 {BERLIN}"), "Sat,Sun 00:00-12:00"] {
            let window: Window = text.parse().unwrap();
            assert_eq!(window.to_string().parse::<Window>().unwrap(), window);
        }
        for text in
            ["", "8-18", "Mon 08:00-08:00", "08:00-18:00 Atlantis/Capital", "Fri-Noday 08:00-09:00", "08:00-25:00", "08:00-09:00 UTC x"]
        {
            assert!(text.parse::<Window>().is_err(), "{text:?}");
        }
        assert!("Fri-Mon 08:00-09:00".parse::<Window>().unwrap().is_open(at("2026-01-05T08:30:00Z")));
    }
}
