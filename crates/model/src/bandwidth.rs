//! `--bwlimit`: one rate, or a timetable of rates by local time, as rclone users write it:
//! `08:00,512K 12:30,10M 18:00,30M 23:00,off`, with days `Mon-08:00,512K Sat-10:00,off`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{ParseSizeError, Rate};

const DAY: u32 = 24 * 60;
const WEEK: u32 = 7 * DAY;
const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
const MAX_ENTRIES: usize = 500;

/// How fast data may flow, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bandwidth {
    text: String,
    /// Minute of the week, from Monday 00:00 local time, and the rate from then on. One entry is a rate for always.
    changes: BTreeMap<u32, Option<u64>>,
}

impl Bandwidth {
    pub fn steady(rate: Rate) -> Self {
        let text = rate.0.map_or_else(|| "off".to_owned(), |rate| format!("{rate}B"));
        Self { text, changes: BTreeMap::from([(0, rate.0)]) }
    }

    /// Bytes per second at a minute of the week, counted from Monday 00:00 local time; `None` is no limit.
    pub fn at(&self, minute: u32) -> Option<u64> {
        let since = self.changes.range(..=minute % WEEK).next_back();
        // Before the first change of the week the last one of the week before holds.
        since.or_else(|| self.changes.iter().next_back()).and_then(|(_, rate)| *rate)
    }

    /// Whether there is ever a limit.
    pub fn is_off(&self) -> bool {
        self.changes.values().all(Option::is_none)
    }

    /// The rate changes with the time.
    pub fn changes(&self) -> bool {
        self.changes.len() > 1
    }
}

impl Default for Bandwidth {
    fn default() -> Self {
        Self::steady(Rate(None))
    }
}

impl From<Option<u64>> for Bandwidth {
    /// Bytes per second for always.
    fn from(rate: Option<u64>) -> Self {
        Self::steady(Rate(rate))
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Bandwidth {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Self, ParseSizeError> {
        let text = text.trim();
        if !text.contains(',') {
            return refuse_pair(text).and_then(|text| text.parse()).map(Self::steady);
        }
        let entries: Vec<&str> = text.split_whitespace().collect();
        if entries.len() > MAX_ENTRIES {
            return Err(ParseSizeError::new(format!("a timetable has at most {MAX_ENTRIES} entries")));
        }
        let (mut daily, mut weekly) = (BTreeMap::new(), BTreeMap::new());
        for entry in entries {
            let (day, minute, rate) = self::entry(entry)?;
            let known = match day {
                Some(day) => weekly.insert(day * DAY + minute, rate),
                None => daily.insert(minute, rate),
            };
            if known.is_some() {
                return Err(ParseSizeError::new(format!("the time of {entry:?} stands in the timetable twice")));
            }
        }
        let mut changes = BTreeMap::new();
        for (minute, rate) in daily {
            changes.extend((0..7).map(|day| (day * DAY + minute, rate)));
        }
        // An entry for a day outweighs one for every day.
        changes.extend(weekly);
        Ok(Self { text: text.to_owned(), changes })
    }
}

/// Day, minute of the day and rate.
fn entry(text: &str) -> Result<(Option<u32>, u32, Option<u64>), ParseSizeError> {
    let bad = |what: &str| {
        ParseSizeError::new(format!("{text:?} {what}; a timetable is written 08:00,512K 18:00,30M 23:00,off, with days Mon-08:00,512K"))
    };
    let (time, rate) = text.split_once(',').ok_or_else(|| bad("has no rate"))?;
    let (day, time) = match time.split_once('-') {
        None => (None, time),
        Some((name, time)) => {
            let name = name.to_ascii_lowercase();
            let day = DAYS.iter().position(|day| *day == name || day[..3] == name).ok_or_else(|| bad("begins with no day"))?;
            (Some(day as u32), time)
        }
    };
    let number = |digits: &str, below: u32| {
        let value = digits.parse::<u32>().ok().filter(|_| digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit()));
        value.filter(|value| *value < below)
    };
    let (hours, minutes) = time.split_once(':').ok_or_else(|| bad("has no time"))?;
    let (Some(hours), Some(minutes)) = (number(hours, 24), number(minutes, 60)) else { return Err(bad("has a time that is none")) };
    let rate: Rate = refuse_pair(rate)?.parse()?;
    Ok((day, hours * 60 + minutes, rate.0))
}

/// rclone also takes `UP:DOWN`.
fn refuse_pair(text: &str) -> Result<&str, ParseSizeError> {
    match text.split_once(':') {
        Some((up, _)) if !up.is_empty() => {
            Err(ParseSizeError::new(format!("{text:?} is a pair; there is one rate here, of what is sent: write {up}")))
        }
        _ => Ok(text),
    }
}

impl Serialize for Bandwidth {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Bandwidth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// Before there were timetables a rate was stored as its number.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Stored {
            Rate(Option<u64>),
            Text(String),
        }
        match Stored::deserialize(deserializer)? {
            Stored::Rate(rate) => Ok(Self::steady(Rate(rate))),
            Stored::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: u32, hour: u32, minute: u32) -> u32 {
        day * DAY + hour * 60 + minute
    }

    #[test]
    fn every_day_has_its_hours() {
        let plan: Bandwidth = "08:00,512K 12:30,10M 18:00,30M/s 23:00,off".parse().unwrap();
        for day in 0..7 {
            for (hour, minute, rate) in [
                (0, 0, None),
                (7, 59, None),
                (8, 0, Some(512 << 10)),
                (12, 29, Some(512 << 10)),
                (12, 30, Some(10 << 20)),
                (22, 59, Some(30 << 20)),
                (23, 0, None),
            ] {
                assert_eq!(plan.at(at(day, hour, minute)), rate, "day {day}, {hour}:{minute}");
            }
        }
        assert!(plan.changes() && !plan.is_off());
    }

    #[test]
    fn days_have_hours_of_their_own_and_the_week_is_a_circle() {
        let plan: Bandwidth = "Mon-08:00,512K saturday-10:00,off".parse().unwrap();
        assert_eq!(plan.at(at(0, 7, 59)), None, "since Saturday");
        assert_eq!(plan.at(at(0, 8, 0)), Some(512 << 10));
        assert_eq!(plan.at(at(5, 9, 59)), Some(512 << 10));
        assert_eq!(plan.at(at(6, 23, 59)), None);
        let mixed: Bandwidth = "08:00,1M Sun-08:00,2M Sat-10:00,off".parse().unwrap();
        assert_eq!((mixed.at(at(6, 8, 0)), mixed.at(at(5, 9, 0)), mixed.at(at(5, 11, 0))), (Some(2 << 20), Some(1 << 20), None));
        assert_eq!(mixed.at(at(0, 0, 0)), Some(2 << 20), "the night to Monday is still Sunday's");
    }

    #[test]
    fn one_rate_is_for_always_and_mistakes_are_named() {
        assert_eq!("8M".parse::<Bandwidth>().unwrap().at(5_000), Some(8 << 20));
        assert!("off".parse::<Bandwidth>().unwrap().is_off());
        assert!(!"08:00,1M".parse::<Bandwidth>().unwrap().is_off());
        for (text, word) in [
            ("10", "unit"),
            ("08:00,512", "unit"),
            ("8:00,1M", "time that is none"),
            ("24:00,1M", "time that is none"),
            ("08:60,1M", "time that is none"),
            ("+8:00,1M", "time that is none"),
            ("Mo-08:00,1M", "no day"),
            ("08:00,1M 09:00", "no rate"),
            ("08:00,1M 08:00,2M", "twice"),
            ("08:00,1M:2M", "pair"),
            ("1M:off", "pair"),
            ("0800,1M", "no time"),
            ("08:00,0B", "never finish"),
        ] {
            let said = text.parse::<Bandwidth>().unwrap_err().to_string();
            assert!(said.contains(word), "{text}: {said}");
        }
    }

    #[test]
    fn what_was_stored_is_read_again_also_as_a_number() {
        let plan: Bandwidth = "08:00,512K 18:00,off".parse().unwrap();
        let stored = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Bandwidth>(&stored).unwrap(), plan);
        assert_eq!(serde_json::from_str::<Bandwidth>("1048576").unwrap().at(0), Some(1 << 20));
        assert_eq!(serde_json::from_str::<Bandwidth>("null").unwrap(), Bandwidth::default());
        let steady: Bandwidth = "1M".parse().unwrap();
        assert_eq!(serde_json::from_str::<Bandwidth>(&serde_json::to_string(&steady).unwrap()).unwrap(), steady);
    }
}
