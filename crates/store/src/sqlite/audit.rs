//! The audit: a mutation that changes what an auditor asks for leaves its entry in the same savepoint, by itself. A batch
//! cannot forget one, and none is left of what did not happen.

use jiff::Timestamp;
use model::audit::{self, Entry, Head, MAX_HEADS};
use model::{FileNumber, FileState, TransferId};
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Map, Value, json};

use super::transfers::page_size;
use super::value::{Columns, int};
use crate::{AuditCursor, AuditLine, Conflict, Error, ErrorKind, Failure, Mutation, Result, SendFailure, Store, Wish};

/// Of an error's text, so that one sentence of a partner's server does not fill a chain.
const LONGEST_TEXT: usize = 300;

/// Where the entry of a mutation goes, and how it was before.
pub(super) struct Before {
    chain: String,
    /// The state that the mutation sets, as it was.
    was: Option<String>,
    changes: u64,
}

/// `None` where nothing is told: no auditor asks for it, or the transfer is not governed.
pub(super) fn before(c: &Connection, mutation: &Mutation) -> Result<Option<Before>> {
    use Mutation as M;
    let of = |transfer: &TransferId| Some(audit::transfer_chain(transfer));
    let (chain, was) = match mutation {
        M::CreateRequest(record) => (of(&record.transfer), None),
        M::SetTransferState { transfer, .. } => match governed(c, transfer)? {
            Some((state, _)) => (of(transfer), Some(state)),
            None => (None, None),
        },
        M::SetWish { transfer, .. } => match governed(c, transfer)? {
            Some((_, wish)) => (of(transfer), Some(wish)),
            None => (None, None),
        },
        M::FinishFile { transfer, number, .. } | M::SetFileState { transfer, number, .. } => match governed(c, transfer)? {
            Some(_) => (of(transfer), file_state(c, transfer, *number)?),
            None => (None, None),
        },
        M::SetTicketState { number, .. } => match ticket(c, *number)? {
            Some((transfer, state)) => (of(&transfer), Some(state)),
            None => (None, None),
        },
        M::ApproveRequest { transfer, .. }
        | M::StartRun { transfer, .. }
        | M::SetTickets { transfer, .. }
        | M::ReplacePin { transfer, .. }
        | M::SetOriginal { transfer, .. } => (governed(c, transfer)?.and_then(|_| of(transfer)), None),
        M::CreateSession(session) => (of(&session.transfer), None),
        M::PutGrant(grant) => (of(&grant.transfer), None),
        M::MarkSent { key, .. } | M::MarkFailed { key, .. } | M::RetryOutbox { key, .. } | M::DropOutbox { key, .. } => {
            (of(&key.transfer), None)
        }
        M::PutConnector { at, .. }
        | M::RemoveConnector { at, .. }
        | M::PutSource { at, .. }
        | M::RemoveSource { at, .. }
        | M::PutSecret { at, .. }
        | M::RemoveSecret { at, .. }
        | M::ForgetUser { at, .. } => (Some(audit::day_chain(*at)), None),
        M::AddAudit { transfer, at, .. } => (Some(transfer.as_ref().map_or_else(|| audit::day_chain(*at), audit::transfer_chain)), None),
        _ => (None, None),
    };
    Ok(chain.map(|chain| Before { chain, was, changes: c.total_changes() }))
}

/// After the mutation: its entry, if it has changed anything.
pub(super) fn enter(c: &Connection, mutation: &Mutation, before: Before, by: Option<&str>) -> Result<()> {
    let changed = c.total_changes() != before.changes || matches!(mutation, Mutation::AddAudit { .. });
    let Some(told) = changed.then(|| told(mutation, before.was.as_deref())).flatten() else { return Ok(()) };
    append(c, before.chain, told.by.or(by).unwrap_or(audit::SERVICE), &told)
}

struct Told<'a> {
    event: &'a str,
    at: Timestamp,
    /// Where the mutation says so itself.
    by: Option<&'a str>,
    detail: Map<String, Value>,
}

/// What an entry says of a mutation that has changed something.
fn told<'a>(mutation: &'a Mutation, was: Option<&str>) -> Option<Told<'a>> {
    use Mutation as M;
    let tell = |event: &'a str, at: Timestamp, detail: Value| {
        let Value::Object(mut detail) = detail else { return None };
        detail.retain(|_, value| !value.is_null());
        Some(Told { event, at, by: None, detail })
    };
    let setting =
        |event: &'a str, detail: Value, (by, at): (&'a str, Timestamp)| tell(event, at, detail).map(|told| Told { by: Some(by), ..told });
    let saved = |event: &'a str, kind: &str, name: &str, (body, expect): (&str, Option<u32>), by: (&'a str, Timestamp)| {
        // Secrets in it are references.
        let settings: Value = serde_json::from_str(body).unwrap_or_else(|_| body.into());
        setting(event, json!({kind: name, "version": next(expect), "settings": settings}), by)
    };
    match mutation {
        M::CreateRequest(record) => {
            let detail = json!({
                "user": record.user, "connector": record.connector, "source": record.source, "spec_hash": record.spec_hash,
                "priority": record.priority, "policy": record.approval.policy, "user_ticket": record.user_ticket,
                "audit_ticket": record.audit_ticket,
            });
            tell("requested", record.created_at, detail)
        }
        M::ApproveRequest { by, at, .. } => tell("approved", *at, json!({"by": by})).map(|told| Told { by: Some(by), ..told }),
        M::SetTransferState { state, error, at, .. } => {
            let same = was == Some(state.as_str());
            if same { None } else { tell("state", *at, failed(json!({"from": was, "to": state}), error.as_ref())) }
        }
        M::StartRun { run, at, .. } => tell("run", *at, json!({"run": run})),
        M::SetWish { wish, at, .. } => {
            let new = *wish != Wish::None && was != Some(wish.as_str());
            if new { tell("wish", *at, json!({"wish": wish.as_str()})) } else { None }
        }
        M::SetTickets { user, audit, at, .. } => tell("tickets", *at, json!({"user_ticket": user, "audit_ticket": audit})),
        M::SetTicketState { number, state, at, .. } => {
            let same = was == Some(state.as_str());
            if same { None } else { tell("ticket", *at, json!({"number": number, "from": was, "to": state})) }
        }
        M::CreateSession(session) => {
            let detail = json!({"run": session.run, "user": session.user, "role": session.role, "expires_at": session.expires_at});
            tell("session", session.created_at, detail)
        }
        M::PutGrant(grant) => tell("grant", grant.at, json!({"user": grant.user, "role": grant.role, "execution": grant.execution})),
        M::FinishFile { number, state, receipt, at, delivery, .. } => {
            let receipt = receipt.as_deref().map(audit::hash);
            let path = delivery.as_ref().map(|delivery| delivery.path.as_str());
            tell("file", *at, json!({"file": number, "state": state, "path": path, "receipt_sha256": receipt}))
        }
        M::SetFileState { number, state, error, at, .. } => {
            let under_way = matches!(state, FileState::Pending | FileState::InProgress);
            let told = !under_way && was != Some(state.as_str());
            if told { tell("file", *at, failed(json!({"file": number, "state": state}), error.as_ref())) } else { None }
        }
        M::ReplacePin { number, size, at, .. } => tell("source_changed", *at, json!({"file": number, "size": size})),
        M::SetOriginal { number, original, at, .. } => tell("original", *at, json!({"file": number, "original": original})),
        M::MarkSent { key, at } => tell("told", *at, json!({"step": key.step, "purpose": key.purpose})),
        M::MarkFailed { key, how, error, at, .. } => {
            let event = match how {
                SendFailure::Again { .. } => return None,
                SendFailure::Refused => "telling_refused",
                SendFailure::Unconfirmed => "telling_unconfirmed",
            };
            tell(event, *at, json!({"step": key.step, "purpose": key.purpose, "error": short(error)}))
        }
        M::RetryOutbox { key, at } => tell("telling_retried", *at, json!({"step": key.step, "purpose": key.purpose})),
        M::DropOutbox { key, at } => tell("telling_dropped", *at, json!({"step": key.step, "purpose": key.purpose})),
        M::PutConnector { name, body, expect, by, at } => saved("connector_saved", "connector", name, (body, *expect), (by, *at)),
        M::PutSource { name, body, expect, by, at } => saved("source_saved", "source", name, (body, *expect), (by, *at)),
        // Not even a hash of what is sealed.
        M::PutSecret { name, expect, by, at, .. } => setting("secret_saved", json!({"secret": name, "version": next(*expect)}), (by, *at)),
        M::RemoveConnector { name, by, at, .. } => setting("connector_removed", json!({"connector": name}), (by, *at)),
        M::RemoveSource { name, by, at, .. } => setting("source_removed", json!({"source": name}), (by, *at)),
        M::RemoveSecret { name, by, at, .. } => setting("secret_removed", json!({"secret": name}), (by, *at)),
        M::ForgetUser { user, at } => tell("user_forgotten", *at, json!({"user": user})),
        M::AddAudit { event, detail, at, .. } => Some(Told { event, at: *at, by: None, detail: detail.clone() }),
        _ => None,
    }
}

fn next(version: Option<u32>) -> u32 {
    version.unwrap_or(0).saturating_add(1)
}

fn failed(mut detail: Value, error: Option<&Failure>) -> Value {
    if let Some(error) = error {
        detail["class"] = error.class.name().into();
        detail["error"] = short(&error.text).into();
    }
    detail
}

fn short(text: &str) -> String {
    text.chars().take(LONGEST_TEXT).collect()
}

/// State and wish of a transfer that has a request.
fn governed(c: &Connection, transfer: &TransferId) -> Result<Option<(String, String)>> {
    let mut statement =
        c.prepare_cached("SELECT r.state, r.wish FROM requests r JOIN transfers t ON t.seq = r.transfer WHERE t.id = ?1")?;
    Ok(statement.query_row([transfer.as_str()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}

fn file_state(c: &Connection, transfer: &TransferId, number: FileNumber) -> Result<Option<String>> {
    Ok(super::files::get_state(c, transfer, number)?.map(|state| state.as_str().to_owned()))
}

fn ticket(c: &Connection, number: u64) -> Result<Option<(TransferId, String)>> {
    let mut statement = c.prepare_cached("SELECT transfer, state FROM tickets WHERE number = ?1")?;
    let found = statement.query_row([int(number)], |row| {
        let mut columns = Columns::of(row);
        Ok((columns.word(|text| text.parse().ok())?, columns.take()?))
    });
    Ok(found.optional()?)
}

fn append(c: &Connection, chain: String, by: &str, told: &Told<'_>) -> Result<()> {
    let mut statement = c.prepare_cached("SELECT seq, hash FROM audit_heads WHERE chain = ?1")?;
    let last = statement.query_row([&chain], |row| {
        let mut columns = Columns::of(row);
        Ok((columns.number()?, columns.take()?))
    });
    let entry = Entry::after(chain, last.optional()?, by, told.at, told.event, told.detail.clone());
    let line = entry.line();
    c.prepare_cached("INSERT INTO audit (chain, seq, line) VALUES (?1, ?2, ?3)")?.execute(params![entry.chain, int(entry.seq), line])?;
    c.prepare_cached(
        "INSERT INTO audit_heads (chain, seq, hash, sealed) VALUES (?1, ?2, ?3, 0)
         ON CONFLICT (chain) DO UPDATE SET seq = excluded.seq, hash = excluded.hash",
    )?
    .execute(params![entry.chain, int(entry.seq), audit::hash(&line)])?;
    Ok(())
}

/// What a seal covers is marked with it.
pub(super) fn put_seal(c: &Connection, number: u64, line: &str, heads: &[Head]) -> Result<()> {
    if heads.len() > MAX_HEADS {
        return Err(Error::bare(ErrorKind::Invalid).reason(format!("a seal over {} chains; at most {MAX_HEADS}", heads.len())));
    }
    if last_seal(c)?.is_some_and(|(last, _)| number <= last) {
        return Err(Conflict::Exists.into());
    }
    c.prepare_cached("INSERT INTO seals (number, line) VALUES (?1, ?2)")?.execute(params![int(number), line])?;
    let mut mark = c.prepare_cached("UPDATE audit_heads SET sealed = max(sealed, ?2) WHERE chain = ?1")?;
    for head in heads {
        mark.execute(params![head.chain, int(head.seq)])?;
    }
    Ok(())
}

fn last_seal(c: &Connection) -> Result<Option<(u64, String)>> {
    let mut statement = c.prepare_cached("SELECT number, line FROM seals ORDER BY number DESC LIMIT 1")?;
    Ok(statement.query_row([], seal_of).optional()?)
}

fn seal_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<(u64, String)> {
    let mut columns = Columns::of(row);
    Ok((columns.number()?, columns.take()?))
}

fn seals(c: &Connection, after: u64, limit: u32) -> Result<Vec<(u64, String)>> {
    let mut statement = c.prepare_cached("SELECT number, line FROM seals WHERE number > ?1 ORDER BY number LIMIT ?2")?;
    let rows = statement.query_map(params![int(after), page_size(limit)], seal_of)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn unsealed(c: &Connection, limit: u32) -> Result<Vec<Head>> {
    let mut statement = c.prepare_cached("SELECT chain, seq, hash FROM audit_heads WHERE seq > sealed ORDER BY chain LIMIT ?1")?;
    let rows = statement.query_map([page_size(limit)], |row| {
        let mut columns = Columns::of(row);
        Ok(Head { chain: columns.take()?, seq: columns.number()?, hash: columns.take()? })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn lines(c: &Connection, chain: Option<&str>, after: &AuditCursor, limit: u32) -> Result<Vec<AuditLine>> {
    let sql = match chain {
        Some(_) => "SELECT chain, seq, line FROM audit WHERE chain = ?3 AND (chain, seq) > (?1, ?2) ORDER BY chain, seq LIMIT ?4",
        None => "SELECT chain, seq, line FROM audit WHERE (chain, seq) > (?1, ?2) AND ?3 IS NULL ORDER BY chain, seq LIMIT ?4",
    };
    let mut statement = c.prepare_cached(sql)?;
    let rows = statement.query_map(params![after.chain, int(after.seq), chain, page_size(limit)], |row| {
        let mut columns = Columns::of(row);
        Ok(AuditLine { chain: columns.take()?, seq: columns.number()?, line: columns.take()? })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

impl Store {
    /// A page in the order of chains and numbers, of one chain or of all.
    pub async fn audit(&self, chain: Option<&str>, after: AuditCursor, limit: u32) -> Result<Vec<AuditLine>> {
        let chain = chain.map(str::to_owned);
        self.read("read", || "the audit".into(), move |c| lines(c, chain.as_deref(), &after, limit)).await
    }

    /// Chains that have come further than any seal says.
    pub async fn unsealed(&self, limit: u32) -> Result<Vec<Head>> {
        self.read("read", || "the heads of the audit".into(), move |c| unsealed(c, limit)).await
    }

    pub async fn last_seal(&self) -> Result<Option<(u64, String)>> {
        self.read("read", || "the last seal".into(), last_seal).await
    }

    /// A page in their order, with their numbers.
    pub async fn seals(&self, after: u64, limit: u32) -> Result<Vec<(u64, String)>> {
        self.read("read", || "the seals".into(), move |c| seals(c, after, limit)).await
    }
}
