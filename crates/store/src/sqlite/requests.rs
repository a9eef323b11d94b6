//! Requests, and the keys by which clients repeat them. A request's row has its transfer's number and follows its state.

use jiff::Timestamp;
use model::{ErrorClass, TransferId, TransferState};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::transfers::{maybe_seq, page_size, seq};
use super::value::{Columns, nanos};
use super::{executions, sessions};
use crate::{
    Approval, Conflict, Error, ErrorKind, IdempotencyRecord, QueueCount, Request, RequestQuery, RequestRecord, Result, Store, Waiting, Wish,
};

const HIGHEST_PRIORITY: u8 = 9;

pub(super) fn create(c: &Connection, record: &RequestRecord) -> Result<()> {
    if record.priority > HIGHEST_PRIORITY {
        return Err(Error::bare(ErrorKind::Invalid).reason(format!("priority {}; at most {HIGHEST_PRIORITY}", record.priority)));
    }
    let seq = seq(c, &record.transfer)?;
    let inserted = c
        .prepare_cached(
            "INSERT INTO requests (transfer, state, open, user, connector, source, priority, spec_hash, policy, approved_by, approved_at,
                 user_ticket, audit_ticket, wish, waiting, waiting_class, execution, created_at, updated_at, expires_at)
             SELECT seq, state, finished_at IS NULL, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18
             FROM transfers WHERE seq = ?1
             ON CONFLICT (transfer) DO NOTHING",
        )?
        .execute(params![
            seq,
            record.user,
            record.connector,
            record.source,
            record.priority,
            record.spec_hash,
            record.approval.policy,
            record.approval.approved_by,
            record.approval.approved_at.map(nanos),
            record.user_ticket,
            record.audit_ticket,
            record.wish.as_str(),
            record.waiting.as_ref().map(|waiting| &waiting.reason),
            record.waiting.as_ref().and_then(|waiting| waiting.class).map(|class| class.name()),
            record.execution,
            nanos(record.created_at),
            nanos(record.updated_at),
            nanos(record.expires_at),
        ])?;
    if inserted == 1 { Ok(()) } else { Err(Conflict::Exists.into()) }
}

/// The transfer went to another state.
pub(super) fn follow(c: &Connection, seq: i64, state: TransferState) -> Result<()> {
    c.prepare_cached("UPDATE requests SET state = ?2, open = ?3 WHERE transfer = ?1")?.execute(params![
        seq,
        state.as_str(),
        !state.is_terminal()
    ])?;
    Ok(())
}

fn no_request(id: &TransferId) -> Error {
    Error::bare(ErrorKind::NotFound).reason(format!("transfer {id} has no request"))
}

fn changed(rows: usize, id: &TransferId) -> Result<()> {
    if rows == 1 { Ok(()) } else { Err(no_request(id)) }
}

pub(super) fn approve(c: &Connection, id: &TransferId, by: &str, at: Timestamp) -> Result<()> {
    let seq = seq(c, id)?;
    let mut statement = c.prepare_cached("SELECT approved_by FROM requests WHERE transfer = ?1")?;
    let present: Option<String> = statement.query_row([seq], |row| row.get(0)).optional()?.ok_or_else(|| no_request(id))?;
    if let Some(present) = present {
        return Err(Conflict::Approved(present).into());
    }
    c.prepare_cached("UPDATE requests SET approved_by = ?2, approved_at = ?3, updated_at = ?3 WHERE transfer = ?1")?.execute(params![
        seq,
        by,
        nanos(at)
    ])?;
    Ok(())
}

pub(super) fn set_tickets(c: &Connection, id: &TransferId, user: Option<&str>, audit: Option<&str>, at: Timestamp) -> Result<()> {
    let rows = c
        .prepare_cached(
            "UPDATE requests SET user_ticket = coalesce(?2, user_ticket), audit_ticket = coalesce(?3, audit_ticket), updated_at = ?4
             WHERE transfer = ?1",
        )?
        .execute(params![seq(c, id)?, user, audit, nanos(at)])?;
    changed(rows, id)
}

pub(super) fn set_wish(c: &Connection, id: &TransferId, wish: Wish, expect: Option<&[Wish]>, at: Timestamp) -> Result<()> {
    let seq = seq(c, id)?;
    let mut statement = c.prepare_cached("SELECT wish, state FROM requests WHERE transfer = ?1")?;
    let present = statement.query_row([seq], |row| {
        let mut columns = Columns::of(row);
        Ok((columns.word(Wish::from_word)?, columns.word(TransferState::from_word)?))
    });
    let (present, state) = present.optional()?.ok_or_else(|| no_request(id))?;
    if expect.is_some_and(|expect| !expect.contains(&present)) {
        return Err(Conflict::Wish(present).into());
    }
    if wish != Wish::None && state.is_terminal() {
        return Err(Conflict::TransferState(state).into());
    }
    c.prepare_cached("UPDATE requests SET wish = ?2, updated_at = ?3 WHERE transfer = ?1")?.execute(params![
        seq,
        wish.as_str(),
        nanos(at)
    ])?;
    Ok(())
}

pub(super) fn set_waiting(c: &Connection, id: &TransferId, waiting: Option<&Waiting>, at: Timestamp) -> Result<()> {
    let (reason, class) = (waiting.map(|waiting| &waiting.reason), waiting.and_then(|waiting| waiting.class));
    let rows = c
        .prepare_cached("UPDATE requests SET waiting = ?2, waiting_class = ?3, updated_at = ?4 WHERE transfer = ?1")?
        .execute(params![seq(c, id)?, reason, class.map(|class| class.name()), nanos(at)])?;
    changed(rows, id)
}

pub(super) fn set_execution(c: &Connection, id: &TransferId, execution: Option<&str>, at: Timestamp) -> Result<()> {
    let rows = c.prepare_cached("UPDATE requests SET execution = ?2, updated_at = ?3 WHERE transfer = ?1")?.execute(params![
        seq(c, id)?,
        execution,
        nanos(at)
    ])?;
    changed(rows, id)
}

/// The transfer that has not ended and has this connector or source.
pub(super) fn user_of(c: &Connection, column: &'static str, name: &str) -> Result<Option<TransferId>> {
    let mut statement = c.prepare_cached(&format!("SELECT id FROM {TABLES} WHERE open = 1 AND r.{column} = ?1 ORDER BY seq LIMIT 1"))?;
    Ok(statement.query_row([name], |row| Columns::of(row).word(|text| text.parse().ok())).optional()?)
}

pub(super) fn put_idempotency(c: &Connection, record: &IdempotencyRecord) -> Result<()> {
    if let Some(present) = idempotency(c, &record.key, record.created_at)? {
        let same = present.request_hash == record.request_hash && present.transfer == record.transfer;
        return if same { Ok(()) } else { Err(Conflict::Idempotency(present).into()) };
    }
    c.prepare_cached(
        "INSERT OR REPLACE INTO idempotency (key, request_hash, transfer, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![
        record.key,
        record.request_hash,
        record.transfer.as_str(),
        nanos(record.created_at),
        nanos(record.expires_at)
    ])?;
    Ok(())
}

fn idempotency(c: &Connection, key: &str, now: Timestamp) -> Result<Option<IdempotencyRecord>> {
    let mut statement =
        c.prepare_cached("SELECT key, request_hash, transfer, created_at, expires_at FROM idempotency WHERE key = ?1 AND expires_at > ?2")?;
    let found = statement.query_row(params![key, nanos(now)], |row| {
        let mut columns = Columns::of(row);
        Ok(IdempotencyRecord {
            key: columns.take()?,
            request_hash: columns.take()?,
            transfer: columns.word(|text| text.parse().ok())?,
            created_at: columns.time()?,
            expires_at: columns.time()?,
        })
    });
    Ok(found.optional()?)
}

/// Of ended transfers: their executions first, then the grant and the request itself. Says how many rows are gone.
pub(super) fn sweep(c: &Connection, now: Timestamp, limit: usize) -> Result<usize> {
    let mut next = c.prepare_cached(
        "SELECT transfer, id FROM requests JOIN transfers ON seq = transfer WHERE open = 0 AND expires_at <= ?1 ORDER BY expires_at LIMIT 1",
    )?;
    let mut delete = c.prepare_cached("DELETE FROM requests WHERE transfer = ?1")?;
    let mut gone = 0;
    while gone < limit {
        let found = next.query_row([nanos(now)], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let Some((seq, id)): Option<(i64, String)> = found else { break };
        gone += executions::sweep(c, &id, limit - gone)?;
        if gone < limit {
            sessions::end_grant(c, &id)?;
            gone += delete.execute([seq])?;
        }
    }
    Ok(gone)
}

const COLUMNS: &str =
    "id, user, connector, r.source, priority, spec_hash, policy, approved_by, approved_at, user_ticket, audit_ticket, wish,
    waiting, waiting_class, execution, r.created_at, r.updated_at, expires_at, r.state, run";
const TABLES: &str = "requests r JOIN transfers t ON t.seq = r.transfer";

fn from_row(row: &Row<'_>) -> rusqlite::Result<Request> {
    let mut columns = Columns::of(row);
    let record = RequestRecord {
        transfer: columns.word(|text| text.parse().ok())?,
        user: columns.take()?,
        connector: columns.take()?,
        source: columns.take()?,
        priority: columns.take()?,
        spec_hash: columns.take()?,
        approval: Approval { policy: columns.take()?, approved_by: columns.take()?, approved_at: columns.maybe_time()? },
        user_ticket: columns.take()?,
        audit_ticket: columns.take()?,
        wish: columns.word(Wish::from_word)?,
        waiting: match (columns.take()?, columns.maybe_word(|text| text.parse().ok())?) {
            (Some(reason), class) => Some(Waiting { class, reason }),
            (None, _) => None,
        },
        execution: columns.take()?,
        created_at: columns.time()?,
        updated_at: columns.time()?,
        expires_at: columns.time()?,
    };
    Ok(Request { record, state: columns.word(TransferState::from_word)?, run: columns.take()? })
}

fn get(c: &Connection, id: &TransferId, now: Timestamp) -> Result<Option<Request>> {
    let Some(seq) = maybe_seq(c, id)? else { return Ok(None) };
    let mut statement =
        c.prepare_cached(&format!("SELECT {COLUMNS} FROM {TABLES} WHERE r.transfer = ?1 AND (open = 1 OR expires_at > ?2)"))?;
    Ok(statement.query_row(params![seq, nanos(now)], from_row).optional()?)
}

fn list(c: &Connection, query: &RequestQuery) -> Result<Vec<Request>> {
    let before = match &query.before {
        Some(id) => seq(c, id)?,
        None => i64::MAX,
    };
    // Another statement for a user, because an OR over the parameter would keep SQLite from the index.
    let user = if query.user.is_some() { "user = ?2" } else { "?2 IS NULL" };
    let mut statement = c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM {TABLES}
         WHERE r.transfer < ?1 AND {user} AND (?3 IS NULL OR connector = ?3) AND (?4 OR r.state IN (SELECT value FROM json_each(?5)))
             AND (?6 IS NULL OR open = 1 OR expires_at > ?6)
         ORDER BY r.transfer DESC LIMIT ?7"
    ))?;
    let words: Vec<&str> = query.states.iter().map(|state| state.as_str()).collect();
    let words = serde_json::to_string(&words).expect("words of states are plain text");
    let rows = statement.query_map(
        params![before, query.user, query.connector, query.states.is_empty(), words, query.now.map(nanos), page_size(query.limit)],
        from_row,
    )?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn queue(c: &Connection, connector: &str, limit: u32) -> Result<Vec<Request>> {
    let mut statement = c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM {TABLES} WHERE open = 1 AND connector = ?1 AND r.state = 'pending'
         ORDER BY priority DESC, r.created_at, r.transfer LIMIT ?2"
    ))?;
    let rows = statement.query_map(params![connector, page_size(limit)], from_row)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn queues(c: &Connection) -> Result<Vec<QueueCount>> {
    let mut statement = c.prepare_cached(
        "SELECT connector, count(*) FROM requests WHERE open = 1 AND state = 'pending' GROUP BY connector ORDER BY connector",
    )?;
    let rows = statement.query_map([], |row| {
        let mut columns = Columns::of(row);
        Ok(QueueCount { connector: columns.take()?, pending: columns.number()? })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn held(c: &Connection, connector: &str, classes: &str, limit: u32) -> Result<Vec<Request>> {
    let mut statement = c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM {TABLES} WHERE open = 1 AND connector = ?1 AND r.state = 'held'
             AND waiting_class IN (SELECT value FROM json_each(?2))
         ORDER BY r.created_at, r.transfer LIMIT ?3"
    ))?;
    let rows = statement.query_map(params![connector, classes, page_size(limit)], from_row)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn connectors_held_for(c: &Connection, classes: &str) -> Result<Vec<String>> {
    let mut statement = c.prepare_cached(
        "SELECT DISTINCT connector FROM requests
         WHERE open = 1 AND state = 'held' AND waiting_class IN (SELECT value FROM json_each(?1)) ORDER BY connector",
    )?;
    let rows = statement.query_map([classes], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn names(classes: &[ErrorClass]) -> String {
    let names: Vec<&str> = classes.iter().map(|class| class.name()).collect();
    serde_json::to_string(&names).expect("names of classes are plain text")
}

impl Store {
    /// `None` also for one whose transfer has ended and that has expired by `now`, swept or not.
    pub async fn request(&self, id: &TransferId, now: Timestamp) -> Result<Option<Request>> {
        let key = id.clone();
        self.read("read the request of", || format!("transfer {id}"), move |c| get(c, &key, now)).await
    }

    pub async fn requests(&self, query: RequestQuery) -> Result<Vec<Request>> {
        self.read("list", || "the requests".into(), move |c| list(c, &query)).await
    }

    /// Those of a connector whose transfer is pending: by priority, then the oldest first.
    pub async fn queue(&self, connector: &str, limit: u32) -> Result<Vec<Request>> {
        let key = connector.to_owned();
        self.read("list the queue of", || format!("connector {connector}"), move |c| queue(c, &key, limit)).await
    }

    /// Connectors that some pending transfer is for.
    pub async fn queues(&self) -> Result<Vec<QueueCount>> {
        self.read("count", || "the queues".into(), queues).await
    }

    /// Those of a connector whose transfer is held for a reason of one of these classes, the oldest first.
    pub async fn held(&self, connector: &str, classes: &[ErrorClass], limit: u32) -> Result<Vec<Request>> {
        let (key, names) = (connector.to_owned(), names(classes));
        self.read("list what is held for", || format!("connector {connector}"), move |c| held(c, &key, &names, limit)).await
    }

    /// Connectors that have such transfers.
    pub async fn connectors_held_for(&self, classes: &[ErrorClass]) -> Result<Vec<String>> {
        let names = names(classes);
        self.read("list", || "the connectors of held transfers".into(), move |c| connectors_held_for(c, &names)).await
    }

    /// `None` also for a key that has expired by `now`, swept or not.
    pub async fn idempotency(&self, key: &str, now: Timestamp) -> Result<Option<IdempotencyRecord>> {
        let wanted = key.to_owned();
        self.read("read", || "the key of a request".into(), move |c| idempotency(c, &wanted, now)).await
    }
}
