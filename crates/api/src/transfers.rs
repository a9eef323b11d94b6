//! Transfers: what is asked, how they stand, what is told while they go.

use jiff::Timestamp;
use model::{ByteCount, ErrorClass, IfExists, Name, NameTemplate, TransferId, TransferState, Verify};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The header that makes a submission safe to repeat.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The header of an answer that an earlier request with the same key has had.
pub const REPLAYED: &str = "idempotent-replayed";

/// Exactly one of `source_key`, `source_keys` and `source_prefix` says what is sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubmitTransfer {
    /// The name of a source.
    pub source: Name,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_keys: Option<Vec<String>>,
    /// Everything below; ends in `/`, or is empty for the whole bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_prefix: Option<String>,
    /// The name of a connector.
    pub connector: Name,
    /// Below the connector's directory; one that ends in `/` is a directory, otherwise the name of the one file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_path: Option<String>,
    /// 0 to 9; higher ones begin first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    #[serde(default)]
    pub options: TransferOptions,
}

/// What one transfer may decide for itself; everything else is the connector's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TransferOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub if_exists: Option<IfExists>,
    /// Not weaker than the connector's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<NameTemplate>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_size: Option<ByteCount>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<ByteCount>,
    /// `90s`, `15m`, `2h`, `1d`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_age: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<String>,
    /// Send again what was delivered.
    #[serde(skip_serializing_if = "is_false")]
    pub resend: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub fail_if_empty: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    pub transfer_id: TransferId,
    pub run: u32,
    pub state: TransferState,
    /// Why it waits, where it waits.
    pub waiting: Option<String>,
    /// `cancel`, `pause` or `hold`, until the running transfer has obeyed.
    pub wish: Option<String>,
    pub error: Option<TransferError>,
    pub user: String,
    pub source: String,
    pub source_url: String,
    pub connector: String,
    pub destination: String,
    pub priority: u8,
    pub approval: Approval,
    pub user_ticket: Option<String>,
    pub audit_ticket: Option<String>,
    /// The execution of its present run.
    pub execution: Option<String>,
    pub files_total: u64,
    pub files_done: u64,
    pub files_failed: u64,
    pub bytes_total: u64,
    pub bytes_transferred: u64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub finished_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferError {
    pub class: ErrorClass,
    pub message: String,
    pub whose_move: String,
    pub next: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// `auto` or `second-person`.
    pub policy: String,
    pub approved_by: Option<String>,
    pub approved_at: Option<Timestamp>,
}

/// Newest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Transfers {
    pub transfers: Vec<Transfer>,
    /// `before` of the next page, where there is one.
    pub next: Option<TransferId>,
}

/// `Seen` is one line of a watch: the whole transfer at first and whenever it changes, and its progress in between.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Seen {
    Transfer(Box<Transfer>),
    Progress(Progress),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub transfer_id: TransferId,
    pub seq: u64,
    pub percentage: f64,
    pub status: String,
    pub bytes_transferred: u64,
    pub total: u64,
    /// Bytes per second.
    pub rate: u64,
    /// What is being done: listing, sending, proving, …
    pub step: Option<String>,
    pub files_done: u64,
    pub files_total: u64,
}

/// The executions of a transfer, the oldest run first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    pub executions: Vec<Execution>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Execution {
    pub name: String,
    pub status: String,
    pub started_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    pub events: Vec<HistoryEvent>,
    /// There are more events than an answer holds.
    pub more: bool,
}

/// An event of a workflow in the form of Step Functions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HistoryEvent {
    pub id: u64,
    pub timestamp: Timestamp,
    #[serde(rename = "type")]
    pub kind: String,
    /// The state it is about.
    pub state: Option<String>,
    pub details: Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_submission_says_what_it_must_and_nothing_unknown() {
        let text = r#"{"source":"s","source_key":"a","connector":"c","options":{"if_exists":"update","min_size":10}}"#;
        let read: SubmitTransfer = serde_json::from_str(text).unwrap();
        assert_eq!((read.options.if_exists, read.options.min_size), (Some(IfExists::Update), Some(ByteCount(10))));
        for bad in [r#"{"source":"s"}"#, r#"{"source":"S","connector":"c"}"#, r#"{"source":"s","connector":"c","host":"h"}"#] {
            assert!(serde_json::from_str::<SubmitTransfer>(bad).is_err(), "{bad}");
        }
        let line = Seen::Progress(Progress {
            transfer_id: TransferId::from_random([1; 10]),
            seq: 1,
            percentage: 50.0,
            status: "transferring".into(),
            bytes_transferred: 1,
            total: 2,
            rate: 3,
            step: None,
            files_done: 0,
            files_total: 1,
        });
        let text = serde_json::to_string(&line).unwrap();
        assert!(text.starts_with(r#"{"type":"progress""#), "{text}");
        assert_eq!(serde_json::from_str::<Seen>(&text).unwrap(), line);
    }
}
