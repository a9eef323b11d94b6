//! The audit as it is read back; its lines and seals are `model::audit`'s.

/// A line of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditLine {
    pub chain: String,
    pub seq: u64,
    /// Exactly as its hash is taken.
    pub line: String,
}

/// Where a page of the audit begins: after this entry, in the order of chains and numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditCursor {
    pub chain: String,
    pub seq: u64,
}

impl From<&AuditLine> for AuditCursor {
    fn from(line: &AuditLine) -> Self {
        Self { chain: line.chain.clone(), seq: line.seq }
    }
}
