//! The built-in ticket register.

use jiff::Timestamp;
use model::{TicketKind, TicketState, TransferId};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};

use super::value::{Columns, int, nanos};
use crate::{Conflict, Error, ErrorKind, NewTicket, Result, Store, TicketNote, TicketRecord};

pub(super) fn open(c: &Connection, ticket: &NewTicket) -> Result<TicketRecord> {
    c.prepare_cached(
        "INSERT INTO tickets (correlation_id, kind, transfer, spec_hash, state, urgency, assigned, opened_by, title, opened_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?10) ON CONFLICT (correlation_id) DO NOTHING",
    )?
    .execute(params![
        ticket.correlation_id,
        ticket.kind.as_str(),
        ticket.transfer.as_str(),
        ticket.spec_hash,
        TicketState::New.as_str(),
        ticket.urgency,
        ticket.group,
        ticket.opened_by,
        ticket.title,
        nanos(ticket.at),
    ])?;
    one(c, "correlation_id = ?1", &ticket.correlation_id)?.ok_or_else(|| Error::bare(ErrorKind::NotFound))
}

pub(super) fn set_state(c: &Connection, number: u64, state: TicketState, expect: Option<&[TicketState]>, at: Timestamp) -> Result<()> {
    let mut statement = c.prepare_cached("SELECT state FROM tickets WHERE number = ?1")?;
    let present = statement.query_row([int(number)], |row| Columns::of(row).word(TicketState::from_word)).optional()?;
    let present = present.ok_or_else(no_ticket)?;
    if expect.is_some_and(|expect| !expect.contains(&present)) {
        return Err(Conflict::Ticket(present).into());
    }
    c.prepare_cached("UPDATE tickets SET state = ?2, updated_at = ?3 WHERE number = ?1")?.execute(params![
        int(number),
        state.as_str(),
        nanos(at)
    ])?;
    Ok(())
}

pub(super) fn add_note(c: &Connection, number: u64, note: &TicketNote) -> Result<()> {
    if !c.prepare_cached("SELECT 1 FROM tickets WHERE number = ?1")?.exists([int(number)])? {
        return Err(no_ticket());
    }
    let added = c
        .prepare_cached(
            "INSERT INTO notes (ticket, key, at, author, text) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (ticket, key) DO NOTHING",
        )?
        .execute(params![int(number), note.key, nanos(note.at), note.author, note.text])?;
    if added == 1 {
        c.prepare_cached("UPDATE tickets SET updated_at = ?2 WHERE number = ?1")?.execute(params![int(number), nanos(note.at)])?;
    }
    Ok(())
}

fn no_ticket() -> Error {
    Error::bare(ErrorKind::NotFound).reason("the register has no such ticket")
}

const COLUMNS: &str =
    "number, correlation_id, kind, transfer, spec_hash, state, urgency, assigned, opened_by, title, opened_at, updated_at";

fn from_row(row: &Row<'_>) -> rusqlite::Result<TicketRecord> {
    let mut columns = Columns::of(row);
    Ok(TicketRecord {
        number: columns.number()?,
        correlation_id: columns.take()?,
        kind: columns.word(TicketKind::from_word)?,
        transfer: columns.word(|text| text.parse().ok())?,
        spec_hash: columns.take()?,
        state: columns.word(TicketState::from_word)?,
        urgency: columns.take()?,
        group: columns.take()?,
        opened_by: columns.take()?,
        title: columns.take()?,
        opened_at: columns.time()?,
        updated_at: columns.time()?,
    })
}

fn one(c: &Connection, which: &'static str, value: impl ToSql) -> Result<Option<TicketRecord>> {
    let mut statement = c.prepare_cached(&format!("SELECT {COLUMNS} FROM tickets WHERE {which}"))?;
    Ok(statement.query_row([value], from_row).optional()?)
}

fn notes(c: &Connection, number: u64) -> Result<Vec<TicketNote>> {
    let mut statement = c.prepare_cached("SELECT key, at, author, text FROM notes WHERE ticket = ?1 ORDER BY seq")?;
    let rows = statement.query_map([int(number)], |row| {
        let mut columns = Columns::of(row);
        Ok(TicketNote { key: columns.take()?, at: columns.time()?, author: columns.take()?, text: columns.take()? })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

impl Store {
    pub async fn ticket(&self, number: u64) -> Result<Option<TicketRecord>> {
        self.read("read", || format!("ticket {number}"), move |c| one(c, "number = ?1", int(number))).await
    }

    pub async fn ticket_by_correlation(&self, correlation_id: &str) -> Result<Option<TicketRecord>> {
        let key = correlation_id.to_owned();
        self.read("read", || format!("ticket {correlation_id}"), move |c| one(c, "correlation_id = ?1", key)).await
    }

    /// In the order of their numbers.
    pub async fn tickets(&self, transfer: &TransferId) -> Result<Vec<TicketRecord>> {
        let key = transfer.clone();
        let list = move |c: &Connection| {
            let mut statement = c.prepare_cached(&format!("SELECT {COLUMNS} FROM tickets WHERE transfer = ?1 ORDER BY number"))?;
            Ok(statement.query_map([key.as_str()], from_row)?.collect::<rusqlite::Result<_>>()?)
        };
        self.read("list the tickets of", || format!("transfer {transfer}"), list).await
    }

    /// In the order of their adding.
    pub async fn ticket_notes(&self, number: u64) -> Result<Vec<TicketNote>> {
        self.read("list the notes of", || format!("ticket {number}"), move |c| notes(c, number)).await
    }
}
