//! What is remembered of users: preferences in the row of exchange 0, conversations in the rows after it.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::transfers::page_size;
use super::value::{Columns, int, nanos};
use crate::{Error, ErrorKind, Exchange, LONGEST_CONTEXT, Preferences, Result, Store};

const PREFERENCES: u64 = 0;

fn fits(body: &str) -> Result<()> {
    match body.len() <= LONGEST_CONTEXT {
        true => Ok(()),
        false => Err(Error::bare(ErrorKind::Invalid).reason(format!("{} bytes; at most {LONGEST_CONTEXT}", body.len()))),
    }
}

fn put(c: &Connection, user: &str, exchange: u64, body: &str, (at, expires_at): (Timestamp, Timestamp)) -> Result<()> {
    c.prepare_cached("INSERT OR REPLACE INTO user_contexts (user, exchange, body, at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![user, int(exchange), body, nanos(at), nanos(expires_at)])?;
    Ok(())
}

pub(super) fn put_preferences(c: &Connection, preferences: &Preferences) -> Result<()> {
    fits(&preferences.body)?;
    put(c, &preferences.user, PREFERENCES, &preferences.body, (preferences.at, preferences.expires_at))
}

pub(super) fn add_exchange(c: &Connection, user: &str, body: &str, at: Timestamp, expires_at: Timestamp) -> Result<()> {
    fits(body)?;
    let mut statement = c.prepare_cached("SELECT max(exchange) FROM user_contexts WHERE user = ?1")?;
    let last: Option<u64> = statement.query_row([user], |row| row.get::<_, Option<i64>>(0))?.and_then(|last| u64::try_from(last).ok());
    put(c, user, last.unwrap_or(PREFERENCES) + 1, body, (at, expires_at))
}

pub(super) fn forget(c: &Connection, user: &str) -> Result<()> {
    c.prepare_cached("DELETE FROM user_contexts WHERE user = ?1")?.execute([user])?;
    Ok(())
}

pub(super) fn sweep(c: &Connection, now: Timestamp, limit: usize) -> Result<usize> {
    let mut statement = c.prepare_cached(
        "DELETE FROM user_contexts WHERE (user, exchange) IN
             (SELECT user, exchange FROM user_contexts WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
    )?;
    Ok(statement.execute(params![nanos(now), limit as i64])?)
}

fn preferences(c: &Connection, user: &str, now: Timestamp) -> Result<Option<Preferences>> {
    let mut statement =
        c.prepare_cached("SELECT user, body, at, expires_at FROM user_contexts WHERE user = ?1 AND exchange = ?2 AND expires_at > ?3")?;
    let found = statement.query_row(params![user, int(PREFERENCES), nanos(now)], |row| {
        let mut columns = Columns::of(row);
        Ok(Preferences { user: columns.take()?, body: columns.take()?, at: columns.time()?, expires_at: columns.time()? })
    });
    Ok(found.optional()?)
}

fn exchanges(c: &Connection, user: &str, before: Option<u64>, limit: u32, now: Timestamp) -> Result<Vec<Exchange>> {
    let mut statement = c.prepare_cached(
        "SELECT user, exchange, body, at, expires_at FROM user_contexts
         WHERE user = ?1 AND exchange > ?2 AND exchange < ?3 AND expires_at > ?4 ORDER BY exchange DESC LIMIT ?5",
    )?;
    let before = before.map_or(i64::MAX, int);
    let rows = statement.query_map(params![user, int(PREFERENCES), before, nanos(now), page_size(limit)], |row| {
        let mut columns = Columns::of(row);
        Ok(Exchange {
            user: columns.take()?,
            number: columns.number()?,
            body: columns.take()?,
            at: columns.time()?,
            expires_at: columns.time()?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

impl Store {
    /// `None` also for what has expired by `now`, swept or not.
    pub async fn preferences(&self, user: &str, now: Timestamp) -> Result<Option<Preferences>> {
        let key = user.to_owned();
        self.read("read", || format!("the preferences of {user}"), move |c| preferences(c, &key, now)).await
    }

    /// A page, the newest first; without those that have expired by `now`, swept or not.
    pub async fn exchanges(&self, user: &str, before: Option<u64>, limit: u32, now: Timestamp) -> Result<Vec<Exchange>> {
        let key = user.to_owned();
        self.read("read", || format!("the conversation of {user}"), move |c| exchanges(c, &key, before, limit, now)).await
    }
}
