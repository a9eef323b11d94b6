//! Identifiers. Their randomness comes from the caller, so this crate stays without I/O.

use std::fmt;
use std::str::FromStr;

use data_encoding::{Encoding, Specification};
use serde::{Deserialize, Serialize};

/// Lower-case RFC 4648 base32: safe in file names on every server, also those that fold case.
fn base32() -> &'static Encoding {
    static ENCODING: std::sync::OnceLock<Encoding> = std::sync::OnceLock::new();
    ENCODING.get_or_init(|| {
        let mut spec = Specification::new();
        spec.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
        spec.encoding().expect("a 32-symbol alphabet is a valid specification")
    })
}

/// Names one approved delivery: 16 base32 characters, 80 random bits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TransferId(String);

impl TransferId {
    pub fn from_random(bytes: [u8; 10]) -> Self {
        Self(base32().encode(&bytes))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 12 characters (60 bits) that mark a temporary name as belonging to this transfer.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a transfer id; it has 16 characters, a-z and 2-7 (see `fileferry history`)")]
pub struct ParseIdError(String);

impl FromStr for TransferId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let fits = text.len() == 16 && base32().decode(text.as_bytes()).is_ok();
        if fits { Ok(Self(text.to_owned())) } else { Err(ParseIdError(text.to_owned())) }
    }
}

impl TryFrom<String> for TransferId {
    type Error = ParseIdError;

    fn try_from(text: String) -> Result<Self, ParseIdError> {
        text.parse()
    }
}

impl From<TransferId> for String {
    fn from(id: TransferId) -> Self {
        id.0
    }
}

impl fmt::Display for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The place of a file in its transfer's manifest, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileNumber(pub u32);

impl fmt::Display for FileNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_a_round_trip_and_refuse_other_text() {
        let id = TransferId::from_random([7; 10]);
        assert_eq!(id.as_str().len(), 16);
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        assert!("ABCDEFGHIJKLMNOP".parse::<TransferId>().is_err());
        assert!("short".parse::<TransferId>().is_err());
    }
}
