//! What administrators set up: connectors, sources, secrets. Each has a version, so that nobody overwrites unseen changes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A connector or a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingRecord {
    pub name: String,
    /// From 1; one more with each change.
    pub version: u32,
    /// JSON; secrets in it are references.
    pub body: String,
    pub updated_by: String,
    pub updated_at: Timestamp,
}

/// A secret, sealed by a key that the store does not have. It is not serialisable, and its debug form shows no bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretRecord {
    pub name: String,
    /// From 1; one more with each change.
    pub version: u32,
    pub sealed: Vec<u8>,
    pub updated_by: String,
    pub updated_at: Timestamp,
}

impl std::fmt::Debug for SecretRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretRecord").field("name", &self.name).field("version", &self.version).finish_non_exhaustive()
    }
}
