//! Amounts of bytes and rates: how they are read from people and shown to them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes. Shown with binary units (`1.5 GiB`), written to JSON as a plain number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteCount(pub u64);

impl ByteCount {
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }

    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        if unit == 0 { write!(f, "{} B", self.0) } else { write!(f, "{value:.1} {}", UNITS[unit]) }
    }
}

/// Why a size, rate or duration was not understood. The text names what was given and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseSizeError(String);

impl ParseSizeError {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }
}

impl FromStr for ByteCount {
    type Err = ParseSizeError;

    /// Reads `10M`, `10MiB`, `1.5G`, `512K`, `100B`. K, M, G and T are binary (1024). A bare number is
    /// refused: rclone reads it as KiB and everyone else as bytes.
    fn from_str(text: &str) -> Result<Self, ParseSizeError> {
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let bad = || ParseSizeError(format!("{text:?} is not a size; write for example 10M, 1.5G or 100B"));
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "b" => 1,
            "k" | "ki" | "kib" => 1 << 10,
            "m" | "mi" | "mib" => 1 << 20,
            "g" | "gi" | "gib" => 1 << 30,
            "t" | "ti" | "tib" => 1 << 40,
            "" if number == "0" => 1,
            "" if !number.is_empty() => {
                return Err(ParseSizeError(format!("{text:?} has no unit; write {number}B for bytes or {number}M for MiB")));
            }
            _ => return Err(bad()),
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(factor).map(ByteCount).ok_or_else(bad);
        }
        let value: f64 = number.parse().map_err(|_| bad())?;
        let bytes = value * factor as f64;
        if bytes.is_finite() && bytes < 1e18 { Ok(ByteCount(bytes as u64)) } else { Err(bad()) }
    }
}

/// Bytes per second; `off` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate(pub Option<u64>);

impl FromStr for Rate {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Self, ParseSizeError> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("off") {
            return Ok(Rate(None));
        }
        let amount = text.strip_suffix("/s").unwrap_or(text);
        match amount.parse::<ByteCount>()? {
            ByteCount(0) => Err(ParseSizeError(format!("{text:?} would never finish; write off for no limit"))),
            ByteCount(n) => Ok(Rate(Some(n))),
        }
    }
}

/// Reads `90s`, `15m`, `2h`, `1d`, `500ms`. A bare number is refused.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, ParseSizeError> {
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let bad = || ParseSizeError(format!("{text:?} is not a duration; write for example 90s, 15m, 2h or 1d"));
    let count: u64 = number.parse().map_err(|_| bad())?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(bad()),
    };
    count.checked_mul(millis).map(std::time::Duration::from_millis).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_binary_units_and_refuses_bare_numbers() {
        assert_eq!("10M".parse(), Ok(ByteCount(10 << 20)));
        assert_eq!("10MiB".parse(), Ok(ByteCount(10 << 20)));
        assert_eq!("1.5K".parse(), Ok(ByteCount(1536)));
        assert_eq!("100B".parse(), Ok(ByteCount(100)));
        assert!("100".parse::<ByteCount>().unwrap_err().to_string().contains("100B"));
        assert!("99999999T".parse::<ByteCount>().is_err());
        assert!("-1M".parse::<ByteCount>().is_err());
    }

    #[test]
    fn shows_sizes_the_way_people_read_them() {
        assert_eq!(ByteCount(0).to_string(), "0 B");
        assert_eq!(ByteCount(1536).to_string(), "1.5 KiB");
        assert_eq!(ByteCount::gib(1).to_string(), "1.0 GiB");
    }

    #[test]
    fn reads_rates_and_durations() {
        assert_eq!("off".parse(), Ok(Rate(None)));
        assert_eq!("8M/s".parse(), Ok(Rate(Some(8 << 20))));
        assert!("0B".parse::<Rate>().is_err());
        assert_eq!(parse_duration("2h").unwrap().as_secs(), 7200);
        assert!(parse_duration("90").is_err());
    }
}
