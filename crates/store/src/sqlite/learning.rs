//! What was learnt of transfers, what is remembered of objects, and the sweep of everything that expires.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::value::{Columns, int, nanos};
use super::{contexts, outbox, requests, sessions};
use crate::{CachedObject, Error, ErrorKind, LearningRecord, Lesson, MAX_SWEEP, Result, Store};

pub(super) fn add(c: &Connection, lesson: &Lesson) -> Result<()> {
    c.prepare_cached(
        "INSERT INTO learning (transfer_type, size_category, outcome, transfers, milliseconds, bytes, retries)
         VALUES (?1, ?2, ?3, 1, ?4, ?5, ?6)
         ON CONFLICT (transfer_type, size_category, outcome) DO UPDATE SET transfers = transfers + 1,
             milliseconds = milliseconds + excluded.milliseconds, bytes = bytes + excluded.bytes, retries = retries + excluded.retries",
    )?
    .execute(params![
        lesson.transfer_type,
        lesson.size_category,
        lesson.outcome,
        i64::try_from(lesson.duration.as_millis()).unwrap_or(i64::MAX),
        int(lesson.bytes),
        int(lesson.retries),
    ])?;
    Ok(())
}

pub(super) fn put_cached(c: &Connection, object: &CachedObject) -> Result<()> {
    c.prepare_cached("INSERT OR REPLACE INTO cached_objects (key, body, expires_at) VALUES (?1, ?2, ?3)")?.execute(params![
        object.key,
        object.body,
        nanos(object.expires_at)
    ])?;
    Ok(())
}

pub(super) fn drop_cached(c: &Connection, key: &str) -> Result<()> {
    c.prepare_cached("DELETE FROM cached_objects WHERE key = ?1")?.execute([key])?;
    Ok(())
}

fn sweep_cached(c: &Connection, now: Timestamp, limit: usize) -> Result<usize> {
    let mut statement = c.prepare_cached(
        "DELETE FROM cached_objects WHERE key IN (SELECT key FROM cached_objects WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
    )?;
    Ok(statement.execute(params![nanos(now), limit as i64])?)
}

fn sweep_idempotency(c: &Connection, now: Timestamp, limit: usize) -> Result<usize> {
    let mut statement = c.prepare_cached(
        "DELETE FROM idempotency WHERE key IN (SELECT key FROM idempotency WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
    )?;
    Ok(statement.execute(params![nanos(now), limit as i64])?)
}

/// One step of cleaning; what protects most comes first.
pub(super) fn sweep(c: &Connection, now: Timestamp, limit: u32) -> Result<u64> {
    if limit > MAX_SWEEP {
        return Err(Error::bare(ErrorKind::Invalid).reason(format!("{limit} rows at once; at most {MAX_SWEEP}")));
    }
    let limit = limit as usize;
    let mut gone = 0;
    for part in [sessions::sweep, sweep_cached, sweep_idempotency, contexts::sweep, outbox::sweep, requests::sweep] {
        if gone < limit {
            gone += part(c, now, limit - gone)?;
        }
    }
    Ok(gone as u64)
}

fn learnt(c: &Connection, transfer_type: &str, size_category: &str) -> Result<Vec<LearningRecord>> {
    let mut statement = c.prepare_cached(
        "SELECT transfer_type, size_category, outcome, transfers, milliseconds, bytes, retries FROM learning
         WHERE transfer_type = ?1 AND size_category = ?2 ORDER BY outcome",
    )?;
    let rows = statement.query_map([transfer_type, size_category], |row| {
        let mut columns = Columns::of(row);
        Ok(LearningRecord {
            transfer_type: columns.take()?,
            size_category: columns.take()?,
            outcome: columns.take()?,
            transfers: columns.number()?,
            duration: Duration::from_millis(columns.number()?),
            bytes: columns.number()?,
            retries: columns.number()?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn cached(c: &Connection, key: &str, now: Timestamp) -> Result<Option<CachedObject>> {
    let mut statement = c.prepare_cached("SELECT key, body, expires_at FROM cached_objects WHERE key = ?1 AND expires_at > ?2")?;
    Ok(statement.query_row(params![key, nanos(now)], from_row).optional()?)
}

fn cached_of(c: &Connection, keys: &str, now: Timestamp) -> Result<Vec<CachedObject>> {
    let mut statement = c.prepare_cached(
        "SELECT key, body, expires_at FROM cached_objects WHERE key IN (SELECT value FROM json_each(?1)) AND expires_at > ?2",
    )?;
    let rows = statement.query_map(params![keys, nanos(now)], from_row)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<CachedObject> {
    let mut columns = Columns::of(row);
    Ok(CachedObject { key: columns.take()?, body: columns.take()?, expires_at: columns.time()? })
}

impl Store {
    /// One record an outcome.
    pub async fn learning(&self, transfer_type: &str, size_category: &str) -> Result<Vec<LearningRecord>> {
        let (kind, size) = (transfer_type.to_owned(), size_category.to_owned());
        self.read("read", || format!("what was learnt of {transfer_type}"), move |c| learnt(c, &kind, &size)).await
    }

    /// `bucket#key`. `None` also for what has expired by `now`, swept or not.
    pub async fn cached_object(&self, key: &str, now: Timestamp) -> Result<Option<CachedObject>> {
        let wanted = key.to_owned();
        self.read("read what is remembered of", || key.to_owned(), move |c| cached(c, &wanted, now)).await
    }

    /// The same of several objects, in no order.
    pub async fn cached_objects(&self, keys: &[String], now: Timestamp) -> Result<Vec<CachedObject>> {
        let wanted = serde_json::to_string(keys).expect("keys are plain text");
        self.read("read what is remembered of", || format!("{} objects", keys.len()), move |c| cached_of(c, &wanted, now)).await
    }
}
