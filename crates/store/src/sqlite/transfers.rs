//! Transfers: one row per approved delivery.

use jiff::Timestamp;
use model::{TransferId, TransferState};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::requests;
use super::value::{Columns, int, nanos};
use crate::{Conflict, Error, ErrorKind, Failure, Result, TransferQuery, TransferRecord};

/// The most records of one page.
pub(super) const PAGE: u32 = 1_000;

pub(super) fn page_size(limit: u32) -> u32 {
    if limit == 0 { PAGE } else { limit.min(PAGE) }
}

/// The row's number, by which its files refer to it.
pub(super) fn seq(c: &Connection, id: &TransferId) -> Result<i64> {
    maybe_seq(c, id)?.ok_or_else(|| Error::bare(ErrorKind::NotFound).reason(format!("there is no transfer {id}")))
}

pub(super) fn maybe_seq(c: &Connection, id: &TransferId) -> Result<Option<i64>> {
    Ok(c.prepare_cached("SELECT seq FROM transfers WHERE id = ?1")?.query_row([id.as_str()], |row| row.get(0)).optional()?)
}

pub(super) fn create(c: &Connection, record: &TransferRecord) -> Result<()> {
    if maybe_seq(c, &record.id)?.is_some() {
        return Err(Conflict::Exists.into());
    }
    c.prepare_cached(
        "INSERT INTO transfers (id, run, identity, source, destination, spec, state, error_class, error_text, files_total,
             bytes_total, listed, pid, created_at, updated_at, finished_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
    )?
    .execute(params![
        record.id.as_str(),
        record.run,
        record.identity,
        record.source,
        record.destination,
        record.spec,
        record.state.as_str(),
        record.error_class.map(|class| class.name()),
        record.error_text,
        int(record.files_total),
        int(record.bytes_total),
        record.listed,
        record.pid,
        nanos(record.created_at),
        nanos(record.updated_at),
        record.finished_at.map(nanos),
    ])?;
    Ok(())
}

pub(super) fn set_state(
    c: &Connection,
    id: &TransferId,
    state: TransferState,
    error: Option<&Failure>,
    at: Timestamp,
    expect: Option<&[TransferState]>,
) -> Result<()> {
    let seq = seq(c, id)?;
    if let Some(expect) = expect {
        let present = present_state(c, seq)?;
        if !expect.contains(&present) {
            return Err(Conflict::TransferState(present).into());
        }
    }
    c.prepare_cached(
        "UPDATE transfers SET state = ?2, error_class = ?3, error_text = ?4, updated_at = ?5, finished_at = iif(?6, ?5, NULL)
         WHERE seq = ?1",
    )?
    .execute(params![
        seq,
        state.as_str(),
        error.map(|failure| failure.class.name()),
        error.map(|failure| &failure.text),
        nanos(at),
        state.is_terminal()
    ])?;
    requests::follow(c, seq, state)
}

pub(super) fn set_totals(c: &Connection, id: &TransferId, files: u64, bytes: u64, listed: bool, at: Timestamp) -> Result<()> {
    let seq = seq(c, id)?;
    c.prepare_cached("UPDATE transfers SET files_total = ?2, bytes_total = ?3, listed = ?4, updated_at = ?5 WHERE seq = ?1")?
        .execute(params![seq, int(files), int(bytes), listed, nanos(at)])?;
    Ok(())
}

pub(super) fn start_run(c: &Connection, id: &TransferId, run: u32, pid: u32, at: Timestamp) -> Result<()> {
    let seq = seq(c, id)?;
    let present: u32 = c.prepare_cached("SELECT run FROM transfers WHERE seq = ?1")?.query_row([seq], |row| row.get(0))?;
    if present.checked_add(1) != Some(run) {
        return Err(Conflict::Run(present).into());
    }
    c.prepare_cached("UPDATE transfers SET run = ?2, pid = ?3, updated_at = ?4 WHERE seq = ?1")?.execute(params![
        seq,
        run,
        pid,
        nanos(at)
    ])?;
    Ok(())
}

pub(super) fn delete(c: &Connection, id: &TransferId) -> Result<()> {
    let seq = seq(c, id)?;
    let present = present_state(c, seq)?;
    if !present.is_terminal() {
        return Err(Conflict::TransferState(present).into());
    }
    c.prepare_cached("DELETE FROM transfers WHERE seq = ?1")?.execute([seq])?;
    Ok(())
}

fn present_state(c: &Connection, seq: i64) -> Result<TransferState> {
    let mut statement = c.prepare_cached("SELECT state FROM transfers WHERE seq = ?1")?;
    Ok(statement.query_row([seq], |row| Columns::of(row).word(TransferState::from_word))?)
}

const COLUMNS: &str = "id, run, identity, source, destination, spec, state, error_class, error_text, files_total, bytes_total, listed, pid,
    created_at, updated_at, finished_at";

fn from_row(row: &Row<'_>) -> rusqlite::Result<TransferRecord> {
    let mut columns = Columns::of(row);
    Ok(TransferRecord {
        id: columns.word(|text| text.parse().ok())?,
        run: columns.take()?,
        identity: columns.take()?,
        source: columns.take()?,
        destination: columns.take()?,
        spec: columns.take()?,
        state: columns.word(TransferState::from_word)?,
        error_class: columns.maybe_word(|text| text.parse().ok())?,
        error_text: columns.take()?,
        files_total: columns.number()?,
        bytes_total: columns.number()?,
        listed: columns.take()?,
        pid: columns.take()?,
        created_at: columns.time()?,
        updated_at: columns.time()?,
        finished_at: columns.maybe_time()?,
    })
}

pub(super) fn get(c: &Connection, id: &TransferId) -> Result<Option<TransferRecord>> {
    let mut statement = c.prepare_cached(&format!("SELECT {COLUMNS} FROM transfers WHERE id = ?1"))?;
    Ok(statement.query_row([id.as_str()], from_row).optional()?)
}

pub(super) fn list(c: &Connection, query: &TransferQuery) -> Result<Vec<TransferRecord>> {
    let before = match &query.before {
        Some(id) => seq(c, id)?,
        None => i64::MAX,
    };
    // Two statements, because an OR over the parameter would keep SQLite from the index.
    let identity = if query.identity.is_some() { "identity = ?2" } else { "?2 IS NULL" };
    let mut statement = c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM transfers
         WHERE seq < ?1 AND {identity} AND (?3 OR state IN (SELECT value FROM json_each(?4)))
         ORDER BY seq DESC LIMIT ?5"
    ))?;
    let words: Vec<&str> = query.states.iter().map(|state| state.as_str()).collect();
    let words = serde_json::to_string(&words).expect("words of states are plain text");
    let rows = statement.query_map(params![before, query.identity, query.states.is_empty(), words, page_size(query.limit)], from_row)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn unfinished_by_identity(c: &Connection, identity: &str) -> Result<Vec<TransferRecord>> {
    let states = TransferState::ALL.iter().copied().filter(|state| !state.is_terminal()).collect();
    list(c, &TransferQuery { states, identity: Some(identity.to_owned()), ..TransferQuery::default() })
}
