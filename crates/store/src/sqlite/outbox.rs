//! The outbox: messages in the order of their making, each target and subject on its own.

use jiff::Timestamp;
use model::TransferId;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::transfers::page_size;
use super::value::{Columns, nanos};
use crate::{
    Conflict, Delivering, Error, ErrorKind, LONGEST_PAUSE, OutboxKey, OutboxMessage, OutboxRecord, OutboxState, Result, SendFailure, Store,
};

/// The latest time that a message waits for. What lies beyond it was put off before the clock was set back.
fn farthest(now: Timestamp) -> Timestamp {
    now.checked_add(LONGEST_PAUSE).unwrap_or(Timestamp::MAX)
}

/// While it is so, later ones for the same subject stay back.
fn holds(state: OutboxState) -> bool {
    matches!(state, OutboxState::Waiting | OutboxState::Claimed | OutboxState::Refused)
}

pub(super) fn add(c: &Connection, message: &OutboxMessage) -> Result<()> {
    c.prepare_cached(
        "INSERT INTO outbox (transfer, run, step, purpose, target, subject, body, delivering, state, holds, attempts, next_at, created_at,
             updated_at, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'waiting', 1, 0, ?9, ?9, ?9, ?10) ON CONFLICT (transfer, run, step, purpose) DO NOTHING",
    )?
    .execute(params![
        message.key.transfer.as_str(),
        message.key.run,
        message.key.step,
        message.key.purpose,
        message.target,
        message.subject,
        message.body,
        message.delivering.as_str(),
        nanos(message.at),
        nanos(message.expires_at),
    ])?;
    Ok(())
}

fn find(c: &Connection, key: &OutboxKey) -> Result<Option<(i64, OutboxRecord)>> {
    let mut statement =
        c.prepare_cached(&format!("SELECT {COLUMNS} FROM outbox WHERE transfer = ?1 AND run = ?2 AND step = ?3 AND purpose = ?4"))?;
    Ok(statement.query_row(params![key.transfer.as_str(), key.run, key.step, key.purpose], from_row).optional()?)
}

fn present(c: &Connection, key: &OutboxKey) -> Result<(i64, OutboxRecord)> {
    find(c, key)?.ok_or_else(|| Error::bare(ErrorKind::NotFound).reason("the outbox has no such message"))
}

fn conflict(record: &OutboxRecord) -> Error {
    Conflict::Outbox { state: record.state, attempts: record.attempts }.into()
}

pub(super) fn claim(c: &Connection, key: &OutboxKey, by: &str, now: Timestamp, until: Timestamp) -> Result<()> {
    let (seq, record) = present(c, key)?;
    if record.state != OutboxState::Waiting || (record.next_at > now && record.next_at <= farthest(now)) {
        return Err(conflict(&record));
    }
    let mut earlier =
        c.prepare_cached("SELECT state FROM outbox WHERE target = ?1 AND subject = ?2 AND seq < ?3 AND holds = 1 ORDER BY seq LIMIT 1")?;
    let earlier = earlier.query_row(params![record.target, record.subject, seq], |row| Columns::of(row).word(OutboxState::from_word));
    if let Some(state) = earlier.optional()? {
        return Err(Conflict::OutboxOrder(state).into());
    }
    c.prepare_cached(
        "UPDATE outbox SET state = 'claimed', attempts = attempts + 1, claimed_by = ?2, claimed_until = ?3, updated_at = ?4 WHERE seq = ?1",
    )?
    .execute(params![seq, by, nanos(until), nanos(now)])?;
    Ok(())
}

struct Outcome<'a> {
    state: OutboxState,
    next_at: Option<Timestamp>,
    error: Option<&'a str>,
    at: Timestamp,
}

fn settle(c: &Connection, seq: i64, outcome: &Outcome<'_>) -> Result<()> {
    c.prepare_cached(
        "UPDATE outbox SET state = ?2, holds = ?3, next_at = coalesce(?4, next_at), error = ?5, updated_at = ?6, claimed_by = NULL,
             claimed_until = NULL WHERE seq = ?1",
    )?
    .execute(params![
        seq,
        outcome.state.as_str(),
        holds(outcome.state),
        outcome.next_at.map(nanos),
        outcome.error,
        nanos(outcome.at)
    ])?;
    Ok(())
}

pub(super) fn mark_sent(c: &Connection, key: &OutboxKey, at: Timestamp) -> Result<()> {
    let (seq, record) = present(c, key)?;
    if record.attempts == 0 {
        return Err(conflict(&record));
    }
    if record.state == OutboxState::Sent {
        return Ok(());
    }
    settle(c, seq, &Outcome { state: OutboxState::Sent, next_at: None, error: None, at })
}

pub(super) fn mark_failed(c: &Connection, key: &OutboxKey, attempt: u32, how: SendFailure, error: &str, at: Timestamp) -> Result<()> {
    let (seq, record) = present(c, key)?;
    if record.state != OutboxState::Claimed || record.attempts != attempt {
        return Err(conflict(&record));
    }
    let (state, next_at) = match how {
        SendFailure::Again { next_at } => (OutboxState::Waiting, Some(next_at)),
        SendFailure::Refused => (OutboxState::Refused, None),
        SendFailure::Unconfirmed if record.delivering == Delivering::AtMostOnce => (OutboxState::Unconfirmed, None),
        SendFailure::Unconfirmed => {
            return Err(Error::bare(ErrorKind::Invalid).reason("an at-least-once message is sent again, not left unconfirmed"));
        }
    };
    settle(c, seq, &Outcome { state, next_at, error: Some(error), at })
}

pub(super) fn lapse(c: &Connection, now: Timestamp, alone: Option<&str>) -> Result<()> {
    c.prepare_cached(
        "UPDATE outbox SET state = iif(delivering = 'at-least-once', 'waiting', 'unconfirmed'), holds = delivering = 'at-least-once',
             next_at = iif(delivering = 'at-least-once', ?1, next_at), error = 'the sender did not say what became of it', updated_at = ?1,
             claimed_by = NULL, claimed_until = NULL
         WHERE state = 'claimed' AND (claimed_until <= ?1 OR claimed_until > ?3 OR (?2 IS NOT NULL AND claimed_by IS NOT ?2))",
    )?
    .execute(params![nanos(now), alone, nanos(farthest(now))])?;
    Ok(())
}

pub(super) fn retry(c: &Connection, key: &OutboxKey, at: Timestamp) -> Result<()> {
    let (seq, record) = present(c, key)?;
    if !matches!(record.state, OutboxState::Refused | OutboxState::Unconfirmed) {
        return Err(conflict(&record));
    }
    settle(c, seq, &Outcome { state: OutboxState::Waiting, next_at: Some(at), error: record.error.as_deref(), at })
}

pub(super) fn give_up(c: &Connection, key: &OutboxKey) -> Result<()> {
    let (seq, record) = present(c, key)?;
    if record.state == OutboxState::Claimed {
        return Err(conflict(&record));
    }
    c.prepare_cached("DELETE FROM outbox WHERE seq = ?1")?.execute([seq])?;
    Ok(())
}

pub(super) fn sweep(c: &Connection, now: Timestamp, limit: usize) -> Result<usize> {
    let mut statement = c.prepare_cached(
        "DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox WHERE holds = 0 AND expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
    )?;
    Ok(statement.execute(params![nanos(now), limit as i64])?)
}

const COLUMNS: &str = "seq, transfer, run, step, purpose, target, subject, body, delivering, state, attempts, next_at, claimed_by,
    claimed_until, error, created_at, updated_at, expires_at";

fn from_row(row: &Row<'_>) -> rusqlite::Result<(i64, OutboxRecord)> {
    let mut columns = Columns::of(row);
    let seq = columns.take()?;
    let record = OutboxRecord {
        key: OutboxKey {
            transfer: columns.word(|text| text.parse().ok())?,
            run: columns.take()?,
            step: columns.take()?,
            purpose: columns.take()?,
        },
        target: columns.take()?,
        subject: columns.take()?,
        body: columns.take()?,
        delivering: columns.word(Delivering::from_word)?,
        state: columns.word(OutboxState::from_word)?,
        attempts: columns.take()?,
        next_at: columns.time()?,
        claimed_by: columns.take()?,
        claimed_until: columns.maybe_time()?,
        error: columns.take()?,
        created_at: columns.time()?,
        updated_at: columns.time()?,
        expires_at: columns.time()?,
    };
    Ok((seq, record))
}

fn due(c: &Connection, now: Timestamp, limit: u32) -> Result<Vec<OutboxRecord>> {
    let mut statement = c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM outbox AS late WHERE state = 'waiting' AND (next_at <= ?1 OR next_at > ?3)
             AND NOT EXISTS (SELECT 1 FROM outbox AS early WHERE early.target = late.target AND early.subject = late.subject
                 AND early.seq < late.seq AND early.holds = 1)
         ORDER BY next_at, seq LIMIT ?2"
    ))?;
    let rows = statement.query_map(params![nanos(now), page_size(limit), nanos(farthest(now))], from_row)?;
    Ok(rows.map(|row| row.map(|(_, record)| record)).collect::<rusqlite::Result<_>>()?)
}

fn next_due(c: &Connection) -> Result<Option<Timestamp>> {
    let mut statement = c.prepare_cached(
        "SELECT min(due) FROM (SELECT min(next_at) AS due FROM outbox WHERE state = 'waiting'
             UNION ALL SELECT min(claimed_until) FROM outbox WHERE state = 'claimed')",
    )?;
    Ok(statement.query_row([], |row| Columns::of(row).maybe_time())?)
}

fn list(c: &Connection, states: &[OutboxState], transfer: Option<&TransferId>, after: u64, limit: u32) -> Result<Vec<(u64, OutboxRecord)>> {
    // Another statement for a transfer, because an OR over the parameter would keep SQLite from the index.
    let of = if transfer.is_some() { "transfer = ?2" } else { "?2 IS NULL" };
    let mut statement = c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM outbox WHERE seq > ?1 AND {of} AND (?3 OR state IN (SELECT value FROM json_each(?4))) ORDER BY seq LIMIT ?5"
    ))?;
    let words: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
    let words = serde_json::to_string(&words).expect("words of states are plain text");
    let transfer = transfer.map(|transfer| transfer.as_str());
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    let rows = statement.query_map(params![after, transfer, states.is_empty(), words, page_size(limit)], from_row)?;
    Ok(rows.map(|row| row.map(|(seq, record)| (seq.unsigned_abs(), record))).collect::<rusqlite::Result<_>>()?)
}

impl Store {
    pub async fn outbox_message(&self, key: &OutboxKey) -> Result<Option<OutboxRecord>> {
        let wanted = key.clone();
        let read = move |c: &Connection| Ok(find(c, &wanted)?.map(|(_, record)| record));
        self.read("read", || key.to_string(), read).await
    }

    /// What may be claimed at `now`, the one that has waited longest first: at most one of each target and subject.
    pub async fn due_outbox(&self, now: Timestamp, limit: u32) -> Result<Vec<OutboxRecord>> {
        self.read("list", || "what is due in the outbox".into(), move |c| due(c, now, limit)).await
    }

    /// When to look again: the soonest time at which a message is due or a claim lapses. Those held back are counted too.
    pub async fn next_outbox(&self) -> Result<Option<Timestamp>> {
        self.read("read", || "the outbox".into(), next_due).await
    }

    /// A page in the order of their making, each with its number; the last one's is the cursor of the next (0 at first).
    /// No states: all of them.
    pub async fn outbox(
        &self,
        states: &[OutboxState],
        transfer: Option<&TransferId>,
        after: u64,
        limit: u32,
    ) -> Result<Vec<(u64, OutboxRecord)>> {
        let (states, transfer) = (states.to_vec(), transfer.cloned());
        self.read("list", || "the outbox".into(), move |c| list(c, &states, transfer.as_ref(), after, limit)).await
    }
}
