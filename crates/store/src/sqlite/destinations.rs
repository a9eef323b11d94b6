//! Destinations: parked credentials, the breaker, what was learnt of the server. A row begins with its first word.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::value::{Columns, nanos};
use crate::{Conflict, DestinationRecord, Parked, Result};

pub(super) fn park(c: &Connection, key: &str, parked: &Parked) -> Result<()> {
    c.prepare_cached(
        "INSERT INTO destinations (key, parked_credential, parked_reason, parked_at) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (key) DO UPDATE SET parked_credential = excluded.parked_credential,
             parked_reason = excluded.parked_reason, parked_at = excluded.parked_at",
    )?
    .execute(params![key, parked.credential, parked.reason, nanos(parked.at)])?;
    Ok(())
}

pub(super) fn unpark(c: &Connection, key: &str) -> Result<()> {
    c.prepare_cached("UPDATE destinations SET parked_credential = NULL, parked_reason = NULL, parked_at = NULL WHERE key = ?1")?
        .execute([key])?;
    Ok(())
}

pub(super) fn breaker_failure(c: &Connection, key: &str, threshold: u32, open_until: Timestamp) -> Result<()> {
    c.prepare_cached(
        "INSERT INTO destinations (key, breaker_failures, breaker_open_until) VALUES (?1, 1, iif(?2 <= 1, ?3, NULL))
         ON CONFLICT (key) DO UPDATE SET breaker_failures = min(breaker_failures + 1, 1000000),
             breaker_open_until = iif(breaker_failures + 1 >= ?2, ?3, breaker_open_until)",
    )?
    .execute(params![key, threshold, nanos(open_until)])?;
    Ok(())
}

pub(super) fn breaker_success(c: &Connection, key: &str) -> Result<()> {
    c.prepare_cached("UPDATE destinations SET breaker_failures = 0, breaker_open_until = NULL WHERE key = ?1")?.execute([key])?;
    Ok(())
}

pub(super) fn breaker_probe(c: &Connection, key: &str, now: Timestamp, open_until: Timestamp) -> Result<()> {
    let claimed = c
        .prepare_cached(
            "UPDATE destinations SET breaker_open_until = ?3 WHERE key = ?1 AND (breaker_open_until <= ?2 OR breaker_open_until > ?3)",
        )?
        .execute(params![key, nanos(now), nanos(open_until)])?;
    if claimed == 1 { Ok(()) } else { Err(Conflict::Breaker.into()) }
}

pub(super) fn save_profile(c: &Connection, key: &str, profile: Option<&str>) -> Result<()> {
    c.prepare_cached("INSERT INTO destinations (key, profile) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET profile = excluded.profile")?
        .execute(params![key, profile])?;
    Ok(())
}

pub(super) fn get(c: &Connection, key: &str) -> Result<Option<DestinationRecord>> {
    let mut statement = c.prepare_cached(
        "SELECT key, parked_credential, parked_reason, parked_at, breaker_failures, breaker_open_until, profile
         FROM destinations WHERE key = ?1",
    )?;
    let found = statement.query_row([key], |row| {
        let mut columns = Columns::of(row);
        let key = columns.take()?;
        let parked = (columns.take()?, columns.take()?, columns.maybe_time()?);
        Ok(DestinationRecord {
            key,
            parked: match parked {
                (Some(credential), Some(reason), Some(at)) => Some(Parked { credential, reason, at }),
                _ => None,
            },
            breaker_failures: columns.take()?,
            breaker_open_until: columns.maybe_time()?,
            profile: columns.take()?,
        })
    });
    Ok(found.optional()?)
}
