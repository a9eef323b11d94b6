//! Digests as values. Computing them is the work of the `transfer` crate.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    Sha256,
    Md5,
    Crc64nvme,
}

impl Algorithm {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Md5 => "md5",
            Self::Crc64nvme => "crc64nvme",
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Md5 => 16,
            Self::Crc64nvme => 8,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        match text.to_ascii_lowercase().replace('-', "").as_str() {
            "sha256" => Ok(Self::Sha256),
            "md5" => Ok(Self::Md5),
            "crc64nvme" => Ok(Self::Crc64nvme),
            _ => Err(ParseDigestError(format!("{text:?} is not a digest; choose sha256, md5 or crc64nvme"))),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseDigestError(String);

/// One digest of a whole file, shown and stored as lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    bytes: Vec<u8>,
}

impl Digest {
    pub fn new(algorithm: Algorithm, bytes: Vec<u8>) -> Result<Self, ParseDigestError> {
        if bytes.len() == algorithm.bytes() {
            Ok(Self { algorithm, bytes })
        } else {
            Err(ParseDigestError(format!("a {algorithm} digest has {} bytes, not {}", algorithm.bytes(), bytes.len())))
        }
    }

    pub fn from_hex(algorithm: Algorithm, text: &str) -> Result<Self, ParseDigestError> {
        let bytes = HEXLOWER
            .decode(text.trim().to_ascii_lowercase().as_bytes())
            .map_err(|_| ParseDigestError(format!("{text:?} is not hexadecimal")))?;
        Self::new(algorithm, bytes)
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn hex(&self) -> String {
        HEXLOWER.encode(&self.bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

/// A CRC-64/NVME value, the checksum that S3 keeps of full objects by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Crc64(pub u64);

impl Crc64 {
    pub fn digest(self) -> Digest {
        Digest { algorithm: Algorithm::Crc64nvme, bytes: self.0.to_be_bytes().to_vec() }
    }

    /// The form in which S3 states it: base64 of the big-endian bytes.
    pub fn from_base64(text: &str) -> Option<Self> {
        let bytes: [u8; 8] = BASE64.decode(text.trim().as_bytes()).ok()?.try_into().ok()?;
        Some(Self(u64::from_be_bytes(bytes)))
    }

    pub fn base64(self) -> String {
        BASE64.encode(&self.0.to_be_bytes())
    }
}

impl fmt::Display for Crc64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Which digests to compute beside CRC-64/NVME, which is always computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestSet {
    pub sha256: bool,
    pub md5: bool,
}

impl Default for DigestSet {
    fn default() -> Self {
        Self { sha256: true, md5: false }
    }
}

impl DigestSet {
    /// What `--digest` (repeatable) asks for; naming only `crc64nvme` switches SHA-256 off.
    pub fn from_list(list: &[Algorithm]) -> Self {
        if list.is_empty() {
            return Self::default();
        }
        Self { sha256: list.contains(&Algorithm::Sha256), md5: list.contains(&Algorithm::Md5) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_check_their_length() {
        assert!(Digest::new(Algorithm::Sha256, vec![0; 32]).is_ok());
        assert!(Digest::new(Algorithm::Sha256, vec![0; 31]).is_err());
        assert_eq!(Digest::from_hex(Algorithm::Md5, "00112233445566778899AABBCCDDEEFF").unwrap().hex(), "00112233445566778899aabbccddeeff");
    }

    #[test]
    fn crc_uses_the_form_of_s3() {
        let crc = Crc64(0x0102_0304_0506_0708);
        assert_eq!(Crc64::from_base64(&crc.base64()), Some(crc));
        assert_eq!(crc.to_string(), "0102030405060708");
    }
}
