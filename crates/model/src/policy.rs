//! What the user may decide: what to do when the name exists, how much proof, how to publish.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ByteCount;

macro_rules! words {
    ($(#[$meta:meta])* $type:ident { $($variant:ident $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $type { $(#[serde(rename = $word)] $variant,)* }

        impl $type {
            pub const WORDS: &'static [&'static str] = &[$($word,)*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(format!("{text:?} is not one of {}", Self::WORDS.join(", "))),
                }
            }
        }
    };
}

words! {
    /// What to do when the final name is taken by something this transfer did not put there.
    IfExists {
        Fail "fail",
        Skip "skip",
        Update "update",
        Replace "replace",
        ReplaceUnsafe "replace-unsafe",
    }
}

words! {
    /// How a finished file gets its final name.
    Publish {
        Rename "rename",
        StagingDir "staging-dir",
        InPlace "in-place",
    }
}

words! {
    /// How strong the proof of a delivery is, weakest first in `Grade::strength`.
    Grade {
        ServerHash "server-hash",
        ReadBack "read-back",
        Sampled "sampled",
        Acknowledged "acknowledged",
        Size "size",
        None "none",
    }
}

impl Grade {
    /// A higher number is a stronger proof.
    pub fn strength(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Size => 1,
            Self::Acknowledged => 2,
            Self::Sampled => 3,
            Self::ReadBack => 4,
            Self::ServerHash => 5,
        }
    }

    pub fn satisfies(self, minimum: Grade) -> bool {
        self.strength() >= minimum.strength()
    }
}

/// What `--verify` asks for: the best that is affordable, or a minimum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Verify {
    Auto,
    AtLeast(Grade),
}

impl From<Verify> for String {
    fn from(verify: Verify) -> Self {
        verify.to_string()
    }
}

impl TryFrom<String> for Verify {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Verify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::AtLeast(grade) => grade.fmt(f),
        }
    }
}

impl FromStr for Verify {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse().map(Self::AtLeast).map_err(|_| format!("{text:?} is not one of auto, {}", Grade::WORDS.join(", ")))
    }
}

words! {
    /// The size class of a file (ST06): it names how the bytes travel and, in the workflow, which state carries it.
    Strategy {
        Direct "direct",
        Chunked "chunked",
        Parallel "parallel",
    }
}

/// The cut points between strategies, inclusive (ST01, ST02).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thresholds {
    pub small: ByteCount,
    pub large: ByteCount,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { small: ByteCount(104_857_600), large: ByteCount(1_073_741_824) }
    }
}

impl Thresholds {
    pub fn strategy(&self, size: ByteCount) -> Strategy {
        if size <= self.small {
            Strategy::Direct
        } else if size <= self.large {
            Strategy::Chunked
        } else {
            Strategy::Parallel
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stronger_grade_satisfies_a_weaker_one() {
        assert!(Grade::ReadBack.satisfies(Grade::Size));
        assert!(!Grade::Size.satisfies(Grade::Acknowledged));
        assert_eq!("auto".parse(), Ok(Verify::Auto));
        assert_eq!("read-back".parse(), Ok(Verify::AtLeast(Grade::ReadBack)));
        assert!("md5".parse::<Verify>().unwrap_err().contains("server-hash"));
    }

    #[test]
    fn thresholds_are_inclusive() {
        let cut = Thresholds::default();
        assert_eq!(cut.strategy(ByteCount(104_857_600)), Strategy::Direct);
        assert_eq!(cut.strategy(ByteCount(104_857_601)), Strategy::Chunked);
        assert_eq!(cut.strategy(ByteCount(1_073_741_824)), Strategy::Chunked);
        assert_eq!(cut.strategy(ByteCount(1_073_741_825)), Strategy::Parallel);
    }
}
