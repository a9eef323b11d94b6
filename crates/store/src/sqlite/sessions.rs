//! Sessions, which are over by the clock whatever is still here, and grants.

use jiff::Timestamp;
use model::TransferId;
use rusqlite::{Connection, OptionalExtension, params};

use super::value::{Columns, nanos};
use crate::{Conflict, Error, ErrorKind, GrantRecord, LONGEST_SESSION, Result, SessionRecord, SessionRefusal, Store};

pub(super) fn create(c: &Connection, session: &SessionRecord) -> Result<()> {
    let length = session.expires_at.duration_since(session.created_at);
    if length.is_negative() || length.unsigned_abs() > LONGEST_SESSION {
        return Err(Error::bare(ErrorKind::Invalid).reason(format!("a session of {length:#}; at most {LONGEST_SESSION:?}")));
    }
    if session.consumed_by.is_some() {
        return Err(Error::bare(ErrorKind::Invalid).reason("a new session that was used"));
    }
    let inserted = c
        .prepare_cached(
            "INSERT INTO sessions (token_hash, transfer, run, user, spec_hash, role, created_at, expires_at, consumed_by)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, NULL) ON CONFLICT (token_hash) DO NOTHING",
        )?
        .execute(params![
            session.token_hash,
            session.transfer.as_str(),
            session.run,
            session.user,
            session.spec_hash,
            session.role,
            nanos(session.created_at),
            nanos(session.expires_at),
        ])?;
    if inserted == 1 { Ok(()) } else { Err(Conflict::Exists.into()) }
}

pub(super) fn consume(c: &Connection, token_hash: &str, execution: &str, spec_hash: &str, now: Timestamp) -> Result<()> {
    let session = any(c, token_hash)?.ok_or_else(|| Error::bare(ErrorKind::NotFound).reason("there is no such session"))?;
    let refusal = if !session.is_live(now) {
        Some(SessionRefusal::Expired)
    } else if session.spec_hash != spec_hash {
        Some(SessionRefusal::OtherSpec)
    } else if session.consumed_by.as_deref().is_some_and(|by| by != execution) {
        Some(SessionRefusal::Consumed)
    } else {
        None
    };
    if let Some(refusal) = refusal {
        return Err(Conflict::Session(refusal).into());
    }
    c.prepare_cached("UPDATE sessions SET consumed_by = ?2 WHERE token_hash = ?1")?.execute([token_hash, execution])?;
    Ok(())
}

pub(super) fn delete(c: &Connection, token_hash: &str) -> Result<()> {
    c.prepare_cached("DELETE FROM sessions WHERE token_hash = ?1")?.execute([token_hash])?;
    Ok(())
}

pub(super) fn sweep(c: &Connection, now: Timestamp, limit: usize) -> Result<usize> {
    let mut statement = c.prepare_cached(
        "DELETE FROM sessions WHERE token_hash IN (SELECT token_hash FROM sessions WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
    )?;
    Ok(statement.execute(params![nanos(now), limit as i64])?)
}

/// Whatever its age.
fn any(c: &Connection, token_hash: &str) -> Result<Option<SessionRecord>> {
    let mut statement = c.prepare_cached(
        "SELECT token_hash, transfer, run, user, spec_hash, role, created_at, expires_at, consumed_by FROM sessions WHERE token_hash = ?1",
    )?;
    let found = statement.query_row([token_hash], |row| {
        let mut columns = Columns::of(row);
        Ok(SessionRecord {
            token_hash: columns.take()?,
            transfer: columns.word(|text| text.parse().ok())?,
            run: columns.take()?,
            user: columns.take()?,
            spec_hash: columns.take()?,
            role: columns.take()?,
            created_at: columns.time()?,
            expires_at: columns.time()?,
            consumed_by: columns.take()?,
        })
    });
    Ok(found.optional()?)
}

pub(super) fn put_grant(c: &Connection, grant: &GrantRecord) -> Result<()> {
    if let Some(present) = self::grant(c, &grant.transfer)? {
        let same = present.user == grant.user && present.spec_hash == grant.spec_hash && present.role == grant.role;
        return if same { Ok(()) } else { Err(Conflict::Grant(present).into()) };
    }
    c.prepare_cached("INSERT INTO grants (transfer, user, spec_hash, role, execution, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![grant.transfer.as_str(), grant.user, grant.spec_hash, grant.role, grant.execution, nanos(grant.at)])?;
    Ok(())
}

pub(super) fn end_grant(c: &Connection, transfer: &str) -> Result<()> {
    c.prepare_cached("DELETE FROM grants WHERE transfer = ?1")?.execute([transfer])?;
    Ok(())
}

fn grant(c: &Connection, transfer: &TransferId) -> Result<Option<GrantRecord>> {
    let mut statement = c.prepare_cached("SELECT transfer, user, spec_hash, role, execution, at FROM grants WHERE transfer = ?1")?;
    let found = statement.query_row([transfer.as_str()], |row| {
        let mut columns = Columns::of(row);
        Ok(GrantRecord {
            transfer: columns.word(|text| text.parse().ok())?,
            user: columns.take()?,
            spec_hash: columns.take()?,
            role: columns.take()?,
            execution: columns.take()?,
            at: columns.time()?,
        })
    });
    Ok(found.optional()?)
}

impl Store {
    /// `None` also for one that is over at `now`, swept or not.
    pub async fn session(&self, token_hash: &str, now: Timestamp) -> Result<Option<SessionRecord>> {
        let key = token_hash.to_owned();
        let read = move |c: &Connection| Ok(any(c, &key)?.filter(|session| session.is_live(now)));
        self.read("read", || "a session".into(), read).await
    }

    pub async fn grant(&self, transfer: &TransferId) -> Result<Option<GrantRecord>> {
        let key = transfer.clone();
        self.read("read the grant of", || format!("transfer {transfer}"), move |c| grant(c, &key)).await
    }
}
