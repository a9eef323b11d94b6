//! Sources: a bucket with the prefixes that may be read.

use jiff::Timestamp;
use model::Name;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A source as it is on record. `settings` holds `bucket`, `prefixes` and `s3`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Source {
    pub name: Name,
    pub version: u32,
    pub settings: Value,
    pub updated_by: String,
    pub updated_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutSource {
    pub settings: Value,
    /// Replace exactly this version; 0: only if there is none; absent: whatever is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sources {
    pub sources: Vec<Source>,
}
