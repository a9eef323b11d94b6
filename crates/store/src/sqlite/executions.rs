//! Executions: a head with frames and history. `save_step` is the hot path: one update by name, one row a frame, one for the events of a step.

use std::borrow::Cow;

use model::ExecutionStatus;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::transfers::page_size;
use super::value::{Columns, int, nanos, time_from};
use crate::{
    Conflict, CreateExecution, Error, ErrorKind, ExecutionQuery, ExecutionRecord, Frame, HistoryRow, OpenExecution, Result, SaveStep, Store,
};

pub(super) fn create(c: &Connection, new: &CreateExecution) -> Result<()> {
    let record = &new.record;
    let inserted = c
        .prepare_cached(
            "INSERT INTO executions (name, transfer, definition, status, head, wakes, last_event, started_at, updated_at, finished_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (name) DO NOTHING",
        )?
        .execute(params![
            record.name,
            record.transfer.as_ref().map(|transfer| transfer.as_str()),
            record.definition,
            record.status.as_str(),
            record.head,
            record.wakes.map(nanos),
            int(record.last_event),
            nanos(record.started_at),
            nanos(record.updated_at),
            record.finished_at.map(nanos),
        ])?;
    if inserted == 0 {
        return Err(Conflict::Exists.into());
    }
    let seq = c.last_insert_rowid();
    c.prepare_cached("INSERT INTO definitions (hash, text) VALUES (?1, ?2) ON CONFLICT (hash) DO NOTHING")?
        .execute(params![record.definition, &*new.definition_text])?;
    put_frames(c, seq, &new.frames)?;
    add_history(c, seq, &new.history)
}

pub(super) fn save_step(c: &Connection, step: &SaveStep) -> Result<()> {
    let finished = step.status.is_terminal().then(|| nanos(step.at));
    let seq: Option<i64> = c
        .prepare_cached(
            "UPDATE executions SET status = ?3, head = ?4, wakes = ?5, last_event = ?6, updated_at = ?7, finished_at = ?8
             WHERE name = ?1 AND last_event = ?2 RETURNING seq",
        )?
        .query_row(
            params![
                step.name,
                int(step.expect_event),
                step.status.as_str(),
                step.head,
                step.wakes.map(nanos),
                int(step.last_event),
                nanos(step.at),
                finished
            ],
            |row| row.get(0),
        )
        .optional()?;
    let Some(seq) = seq else {
        let present = present(c, &step.name)?;
        return Err(Conflict::Execution { status: present.status, last_event: present.last_event }.into());
    };
    put_frames(c, seq, &step.frames)?;
    if !step.removed.is_empty() {
        let mut remove = c.prepare_cached("DELETE FROM frames WHERE execution = ?1 AND id = ?2")?;
        for id in &step.removed {
            remove.execute([seq, int(*id)])?;
        }
    }
    add_history(c, seq, &step.history)
}

fn put_frames(c: &Connection, seq: i64, frames: &[Frame]) -> Result<()> {
    let mut put = c.prepare_cached(
        "INSERT INTO frames (execution, id, body) VALUES (?1, ?2, ?3)
         ON CONFLICT (execution, id) DO UPDATE SET body = excluded.body",
    )?;
    for frame in frames {
        put.execute(params![seq, int(frame.id), frame.body])?;
    }
    Ok(())
}

/// Id, time, kind, body.
type Event<'a> = (u64, i64, Cow<'a, str>, Cow<'a, str>);

/// Events of an execution are counted below this.
const EVENTS: u64 = 1 << 24;

/// Where the step that ends with this event is kept: after all earlier ones of its execution.
fn place(seq: i64, event: u64) -> Result<i64> {
    match event < EVENTS {
        true => Ok(seq * EVENTS as i64 + event as i64),
        false => Err(Error::bare(ErrorKind::Invalid).reason(format!("event {event}; an execution has less than {EVENTS}"))),
    }
}

/// The events of one step are one row. Earlier versions wrote a row for each into `history`.
fn add_history(c: &Connection, seq: i64, history: &[HistoryRow]) -> Result<()> {
    let Some(last) = history.last() else { return Ok(()) };
    let events: Vec<Event<'_>> = history.iter().map(|row| (row.id, nanos(row.at), (&*row.kind).into(), (&*row.body).into())).collect();
    let events = serde_json::to_string(&events).expect("numbers and texts are plain data");
    c.prepare_cached("INSERT INTO steps (place, events) VALUES (?1, ?2)")?.execute(params![place(seq, last.id)?, events])?;
    Ok(())
}

struct Present {
    seq: i64,
    status: ExecutionStatus,
    last_event: u64,
}

fn maybe_present(c: &Connection, name: &str) -> Result<Option<Present>> {
    let mut statement = c.prepare_cached("SELECT seq, status, last_event FROM executions WHERE name = ?1")?;
    let found = statement.query_row([name], |row| {
        let mut columns = Columns::of(row);
        Ok(Present { seq: columns.take()?, status: columns.word(ExecutionStatus::from_word)?, last_event: columns.number()? })
    });
    Ok(found.optional()?)
}

fn present(c: &Connection, name: &str) -> Result<Present> {
    maybe_present(c, name)?.ok_or_else(|| Error::bare(ErrorKind::NotFound).reason(format!("there is no execution {name}")))
}

pub(super) fn delete(c: &Connection, name: &str) -> Result<()> {
    let present = present(c, name)?;
    if !present.status.is_terminal() {
        return Err(Conflict::Execution { status: present.status, last_event: present.last_event }.into());
    }
    delete_row(c, present.seq).map(drop)
}

/// Says how many rows are gone.
fn delete_row(c: &Connection, seq: i64) -> Result<usize> {
    let frames = c.prepare_cached("DELETE FROM frames WHERE execution = ?1")?.execute([seq])?;
    let history = c.prepare_cached("DELETE FROM history WHERE execution = ?1")?.execute([seq])?;
    let steps = c.prepare_cached("DELETE FROM steps WHERE place >= ?1 AND place < ?2")?.execute([place(seq, 0)?, place(seq + 1, 0)?])?;
    let own = c.prepare_cached("DELETE FROM executions WHERE seq = ?1")?.execute([seq])?;
    Ok(frames + history + steps + own)
}

/// The ended ones of a transfer, one after the other until `limit` rows are gone; says how many are.
pub(super) fn sweep(c: &Connection, transfer: &str, limit: usize) -> Result<usize> {
    let mut gone = 0;
    let mut next = c.prepare_cached("SELECT seq FROM executions WHERE transfer = ?1 AND finished_at IS NOT NULL LIMIT 1")?;
    while gone < limit {
        let Some(seq) = next.query_row([transfer], |row| row.get(0)).optional()? else { break };
        gone += delete_row(c, seq)?;
    }
    Ok(gone)
}

const COLUMNS: &str = "seq, name, transfer, definition, status, head, wakes, last_event, started_at, updated_at, finished_at";

fn from_row(row: &Row<'_>) -> rusqlite::Result<(i64, ExecutionRecord)> {
    let mut columns = Columns::of(row);
    let seq = columns.take()?;
    let record = ExecutionRecord {
        name: columns.take()?,
        transfer: columns.maybe_word(|text| text.parse().ok())?,
        definition: columns.take()?,
        status: columns.word(ExecutionStatus::from_word)?,
        head: columns.take()?,
        wakes: columns.maybe_time()?,
        last_event: columns.number()?,
        started_at: columns.time()?,
        updated_at: columns.time()?,
        finished_at: columns.maybe_time()?,
    };
    Ok((seq, record))
}

fn get(c: &Connection, name: &str) -> Result<Option<(i64, ExecutionRecord)>> {
    let mut statement = c.prepare_cached(&format!("SELECT {COLUMNS} FROM executions WHERE name = ?1"))?;
    Ok(statement.query_row([name], from_row).optional()?)
}

fn frames(c: &Connection, seq: i64) -> Result<Vec<Frame>> {
    let mut statement = c.prepare_cached("SELECT id, body FROM frames WHERE execution = ?1 ORDER BY id")?;
    let rows = statement.query_map([seq], |row| {
        let mut columns = Columns::of(row);
        Ok(Frame { id: columns.number()?, body: columns.take()? })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn open(c: &Connection, after: u64, limit: u32) -> Result<Vec<OpenExecution>> {
    let mut statement = c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM executions INDEXED BY executions_open WHERE finished_at IS NULL AND seq > ?1 ORDER BY seq LIMIT ?2"
    ))?;
    let rows = statement.query_map(params![int(after), page_size(limit)], from_row)?.collect::<rusqlite::Result<Vec<_>>>()?;
    rows.into_iter().map(|(seq, record)| Ok(OpenExecution { number: seq.unsigned_abs(), record, frames: frames(c, seq)? })).collect()
}

fn list(c: &Connection, query: &ExecutionQuery) -> Result<Vec<ExecutionRecord>> {
    let before = match &query.before {
        Some(name) => present(c, name)?.seq,
        None => i64::MAX,
    };
    // Two statements, because an OR over the parameter would keep SQLite from the index.
    let transfer = if query.transfer.is_some() { "transfer = ?2" } else { "?2 IS NULL" };
    let mut statement = c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM executions
         WHERE seq < ?1 AND {transfer} AND (?3 OR status IN (SELECT value FROM json_each(?4)))
         ORDER BY seq DESC LIMIT ?5"
    ))?;
    let words: Vec<&str> = query.statuses.iter().map(|status| status.as_str()).collect();
    let words = serde_json::to_string(&words).expect("words of states are plain text");
    let transfer = query.transfer.as_ref().map(|transfer| transfer.as_str());
    let rows = statement.query_map(params![before, transfer, query.statuses.is_empty(), words, page_size(query.limit)], from_row)?;
    Ok(rows.map(|row| row.map(|(_, record)| record)).collect::<rusqlite::Result<_>>()?)
}

fn history(c: &Connection, name: &str, after: u64, limit: u32) -> Result<Vec<HistoryRow>> {
    let Some(Present { seq, .. }) = maybe_present(c, name)? else { return Ok(Vec::new()) };
    let limit = page_size(limit) as usize;
    let mut statement = c.prepare_cached("SELECT id, at, kind, body FROM history WHERE execution = ?1 AND id > ?2 ORDER BY id LIMIT ?3")?;
    let rows = statement.query_map(params![seq, int(after), limit as i64], |row| {
        let mut columns = Columns::of(row);
        Ok(HistoryRow { id: columns.number()?, at: columns.time()?, kind: columns.take()?, body: columns.take()? })
    })?;
    let mut found = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut statement = c.prepare_cached("SELECT events FROM steps WHERE place > ?1 AND place < ?2 ORDER BY place")?;
    let mut rows = statement.query([place(seq, after.min(EVENTS - 1))?, place(seq + 1, 0)?])?;
    while found.len() < limit
        && let Some(row) = rows.next()?
    {
        let events: String = row.get(0)?;
        let events: Vec<Event<'_>> = serde_json::from_str(&events).map_err(|e| Error::bare(ErrorKind::Corrupt).because(e))?;
        // A page may begin, and end, among those of one step.
        let events = events.into_iter().filter(|(id, ..)| *id > after);
        found.extend(events.map(|(id, at, kind, body)| HistoryRow { id, at: time_from(at), kind: kind.into(), body: body.into() }));
    }
    found.truncate(limit);
    Ok(found)
}

impl Store {
    pub async fn execution(&self, name: &str) -> Result<Option<ExecutionRecord>> {
        let key = name.to_owned();
        let read = move |c: &Connection| Ok(get(c, &key)?.map(|(_, record)| record));
        self.read("read", || format!("execution {name}"), read).await
    }

    /// With its frames, whether it has ended or not.
    pub async fn execution_with_frames(&self, name: &str) -> Result<Option<OpenExecution>> {
        let key = name.to_owned();
        let read = move |c: &Connection| {
            let Some((seq, record)) = get(c, &key)? else { return Ok(None) };
            Ok(Some(OpenExecution { number: seq.unsigned_abs(), record, frames: frames(c, seq)? }))
        };
        self.read("read", || format!("execution {name}"), read).await
    }

    /// Those that have not ended, in the order of their making: one page, from after the number of the last one (0 at first).
    pub async fn open_executions(&self, after: u64, limit: u32) -> Result<Vec<OpenExecution>> {
        self.read("list", || "the open executions".into(), move |c| open(c, after, limit)).await
    }

    pub async fn executions(&self, query: ExecutionQuery) -> Result<Vec<ExecutionRecord>> {
        self.read("list", || "the executions".into(), move |c| list(c, &query)).await
    }

    /// A page of events, from after this id (0 at first). An execution that is not there has none.
    pub async fn history(&self, name: &str, after: u64, limit: u32) -> Result<Vec<HistoryRow>> {
        let key = name.to_owned();
        self.read("read the history of", || format!("execution {name}"), move |c| history(c, &key, after, limit)).await
    }

    /// The text of this SHA-256.
    pub async fn definition(&self, hash: &str) -> Result<Option<String>> {
        let key = hash.to_owned();
        let read = move |c: &Connection| {
            let mut statement = c.prepare_cached("SELECT text FROM definitions WHERE hash = ?1")?;
            Ok(statement.query_row([key], |row| row.get(0)).optional()?)
        };
        self.read("read", || format!("definition {hash}"), read).await
    }
}
