//! The audit: chains of lines that each name the one before by its hash, and seals that sign how far the chains have come.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::TransferId;
use crate::receipt::{self, ReceiptError, SigningKey};

/// The version of both kinds of lines.
const VERSION: u32 = 1;
const SEAL: &str = "audit-seal";
/// Problems that a report tells one by one; the others are counted.
const TOLD: usize = 100;
/// The most heads of one seal, so that a seal stays below what a row of any store holds.
pub const MAX_HEADS: usize = 1_000;

/// What happened, one JSON line of a chain. Field order is the order on the line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub v: u32,
    #[serde(rename = "type")]
    pub kind: EntryKind,
    pub chain: String,
    /// From 1 on, without a gap.
    pub seq: u64,
    pub at: Timestamp,
    /// The user who asked for it, or `fileferry`.
    pub by: String,
    pub event: String,
    pub detail: Map<String, Value>,
    /// Hash of the line before.
    pub prev: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    #[serde(rename = "audit")]
    Audit,
}

/// Who did what the service does by itself.
pub const SERVICE: &str = "fileferry";

/// The chain of one transfer.
pub fn transfer_chain(transfer: &TransferId) -> String {
    format!("transfer:{transfer}")
}

/// The chain of what belongs to no transfer, one a day by UTC.
pub fn day_chain(at: Timestamp) -> String {
    format!("day:{}", at.strftime("%Y-%m-%d"))
}

/// By which the next line and the seals name a line, without its end.
pub fn hash(line: &str) -> String {
    HEXLOWER.encode(digest(&SHA256, line.as_bytes()).as_ref())
}

impl Entry {
    /// The next one of its chain, after the line with this number and hash.
    pub fn after(chain: String, last: Option<(u64, String)>, by: &str, at: Timestamp, event: &str, detail: Map<String, Value>) -> Self {
        let (seq, prev) = last.map_or((1, None), |(seq, hash)| (seq + 1, Some(hash)));
        Self { v: VERSION, kind: EntryKind::Audit, chain, seq, at, by: by.to_owned(), event: event.to_owned(), detail, prev }
    }

    /// # Panics
    /// Never: an entry is plain data.
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("an entry is plain data")
    }
}

/// How far a chain has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    pub chain: String,
    pub seq: u64,
    pub hash: String,
}

/// Signed: these chains have come so far. A line of its own, with the signature as last member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    pub v: u32,
    #[serde(rename = "type")]
    pub kind: String,
    /// From 1 on. Missing numbers are a problem, except where records were put back from a backup.
    pub number: u64,
    pub at: Timestamp,
    /// Hash of the seal before, signature included.
    pub prev: Option<String>,
    pub heads: Vec<Head>,
    /// Fingerprint of the key that signed this line.
    pub signed_by: String,
}

impl Seal {
    /// The line of the next seal.
    pub fn line(key: &SigningKey, number: u64, at: Timestamp, prev: Option<String>, heads: Vec<Head>) -> Result<String, ReceiptError> {
        let seal = Self { v: VERSION, kind: SEAL.to_owned(), number, at, prev, heads, signed_by: key.fingerprint() };
        key.sign_line(&serde_json::to_string(&seal).map_err(|e| ReceiptError::NotReceipt(e.to_string()))?)
    }

    /// The seal of a line that is intact. Whether its key is trusted is the caller's question.
    pub fn read(line: &str) -> Result<Self, String> {
        let opened = receipt::open_line(line).map_err(|error| match error {
            ReceiptError::NotReceipt(why) => format!("it is no seal: {why}"),
            other => other.to_string(),
        })?;
        let seal: Self = serde_json::from_str(&opened.body).map_err(|e| format!("it is no seal: {e}"))?;
        if !opened.fits || seal.signed_by != opened.fingerprint || seal.kind != SEAL {
            return Err(format!("the signature does not fit: it was changed, or signed by another key than {}", seal.signed_by));
        }
        Ok(seal)
    }
}

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The chain, or `seals`.
    pub chain: String,
    pub seq: u64,
    pub what: String,
}

/// What a verification has found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub chains: u64,
    pub entries: u64,
    pub seals: u64,
    /// Entries that no seal covers: written since the last one.
    pub unsealed: u64,
    /// Keys that have signed seals and are not trusted.
    pub unknown_keys: Vec<String>,
    /// The first hundred; `problem_count` has all.
    pub problems: Vec<Problem>,
    pub problem_count: u64,
}

/// Checks lines against each other and against seals. First all seals by their numbers, then the entries chain by chain.
#[derive(Debug, Default)]
pub struct Verifier {
    report: Report,
    /// For each chain what seals say of it, by number of the entry.
    sealed: BTreeMap<String, BTreeMap<u64, (String, u64)>>,
    last_seal: Option<(u64, String)>,
    present: Option<Present>,
}

#[derive(Debug)]
struct Present {
    chain: String,
    seq: u64,
    hash: String,
    /// What seals say of later entries than those seen.
    to_come: BTreeMap<u64, (String, u64)>,
    /// The last entry that a seal speaks of.
    covered: u64,
}

impl Verifier {
    /// The next seal, of the store or of the copy outside.
    pub fn seal(&mut self, line: &str, is_trusted: impl Fn(&str) -> bool) {
        let expected = self.last_seal.as_ref().map_or(1, |(number, _)| number.saturating_add(1));
        let seal = match Seal::read(line) {
            Ok(seal) => seal,
            Err(why) => return self.problem("seals", expected, why),
        };
        self.report.seals += 1;
        if !is_trusted(&seal.signed_by) && !self.report.unknown_keys.contains(&seal.signed_by) {
            self.report.unknown_keys.push(seal.signed_by.clone());
        }
        if seal.number != expected {
            self.problem("seals", seal.number, format!("seal {expected} was expected here"));
        }
        if seal.prev.as_ref() != self.last_seal.as_ref().map(|(_, hash)| hash) {
            self.problem("seals", seal.number, "it does not follow from the seal before".to_owned());
        }
        self.last_seal = Some((seal.number, hash(line)));
        for head in seal.heads {
            let claims = self.sealed.entry(head.chain.clone()).or_default();
            // The first claim stands: who rewrites a chain and has it sealed again replaces nothing.
            let (first, number) = claims.entry(head.seq).or_insert_with(|| (head.hash.clone(), seal.number));
            if *first != head.hash {
                let what = format!("seals {number} and {} speak of different entries", seal.number);
                self.problem(&head.chain, head.seq, what);
            }
        }
    }

    /// The next line of a chain, without its end.
    pub fn entry(&mut self, line: &str) {
        let entry: Entry = match serde_json::from_str(line) {
            Ok(entry) => entry,
            Err(error) => {
                let (chain, seq) = self.present.as_ref().map_or(("?".to_owned(), 0), |last| (last.chain.clone(), last.seq + 1));
                return self.problem(&chain, seq, format!("the line is no entry: {error}"));
            }
        };
        if self.present.as_ref().is_none_or(|present| present.chain != entry.chain) {
            self.end_chain();
            let to_come = self.sealed.remove(&entry.chain).unwrap_or_default();
            let covered = to_come.keys().next_back().copied().unwrap_or(0);
            self.report.chains += 1;
            self.present = Some(Present { chain: entry.chain.clone(), seq: 0, hash: String::new(), to_come, covered });
        }
        let mut found = Vec::new();
        let Some(present) = &mut self.present else { return };
        if entry.seq != present.seq + 1 {
            found.push(format!("entry {} was expected here", present.seq + 1));
        }
        if entry.prev != (present.seq > 0).then(|| present.hash.clone()) {
            found.push(
                "it does not follow from the entry before: one of the two was changed, or something between them is missing".to_owned(),
            );
        }
        (present.seq, present.hash) = (entry.seq, hash(line));
        if let Some((sealed, number)) = present.to_come.remove(&entry.seq)
            && sealed != present.hash
        {
            found.push(format!("it is not the entry that seal {number} speaks of"));
        }
        self.report.entries += 1;
        self.report.unsealed += u64::from(entry.seq > present.covered);
        for what in found {
            self.problem(&entry.chain, entry.seq, what);
        }
    }

    /// After the last entry.
    pub fn finish(mut self) -> Report {
        self.end_chain();
        for (chain, heads) in std::mem::take(&mut self.sealed) {
            if let Some((seq, (_, number))) = heads.into_iter().next_back() {
                self.problem(&chain, seq, format!("the whole chain is missing; seal {number} speaks of {seq} entries"));
            }
        }
        self.report
    }

    fn end_chain(&mut self) {
        let Some(present) = self.present.take() else { return };
        if let Some((seq, (_, number))) = present.to_come.into_iter().next_back()
            && seq > present.seq
        {
            let what = format!("the end is missing: there are {} entries, and seal {number} speaks of {seq}", present.seq);
            self.problem(&present.chain, present.seq, what);
        }
    }

    fn problem(&mut self, chain: &str, seq: u64, what: String) {
        self.report.problem_count += 1;
        if self.report.problems.len() < TOLD {
            self.report.problems.push(Problem { chain: chain.to_owned(), seq, what });
        }
    }
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
