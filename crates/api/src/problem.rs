//! Every error of the service as one body: RFC 9457, with the class and the next step that an error of ours has.

use serde::{Deserialize, Serialize};

pub const MEDIA_TYPE: &str = "application/problem+json";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A name that never changes, for programs.
    #[serde(rename = "type")]
    pub kind: String,
    /// What kind of problem, in a few words.
    pub title: String,
    pub status: u16,
    /// What happened, with its causes.
    pub detail: String,
    /// An error class (`fileferry explain CLASS`), or one of `invalid`, `unknown`, `conflict`, `denied` and `unsupported`.
    pub code: String,
    /// What to do, in one sentence.
    pub next: String,
}

impl Problem {
    pub fn new(status: u16, title: &str, code: &str, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:fileferry:problem:{code}"),
            title: title.to_owned(),
            status,
            detail: detail.into(),
            code: code.to_owned(),
            next: next.into(),
        }
    }
}
