//! Connectors: a partner's server with everything a delivery there needs.

use jiff::Timestamp;
use model::Name;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A connector as it is on record. `settings` holds `url`, `server`, `options`, `limit`, `approval`, `max_age`,
/// `when_tickets_unreachable`, `group`, `window` and `enabled`; references to secrets, never secrets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Connector {
    pub name: Name,
    pub version: u32,
    pub settings: Value,
    pub updated_by: String,
    pub updated_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutConnector {
    pub settings: Value,
    /// Replace exactly this version; 0: only if there is none; absent: whatever is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Connectors {
    pub connectors: Vec<Connector>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trust {
    /// `SHA256:…` of the host key or of the certificate.
    pub fingerprint: String,
}

/// What a look at the server has shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tested {
    /// A verdict in a few lines.
    pub verdict: Vec<String>,
    /// The profile of the server, as `probe --json` prints it.
    pub profile: Value,
    pub notes: Vec<String>,
}
