//! Whether the service is there.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok` whenever there is an answer at all.
    pub status: String,
    pub version: String,
    pub pid: u32,
    pub started_at: Timestamp,
    /// Fingerprint of the key that signs receipts here.
    pub receipt_key: String,
    /// Who the caller is to the service.
    pub user: String,
    pub role: String,
}
