//! Leases: who works on what, fenced by epochs.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::value::{Columns, nanos};
use crate::{Conflict, Error, ErrorKind, Lease, LeaseClaim, LeaseGuard, Result};

pub(super) fn acquire(c: &Connection, claim: &LeaseClaim, now: Timestamp, take_over: Option<&(String, u32)>) -> Result<Lease> {
    let held = held(c, &claim.resource)?;
    if let Some(lease) = held {
        let seen_dead = take_over.is_some_and(|(holder, epoch)| *holder == lease.holder && *epoch == lease.epoch);
        if lease.expires_at > now && !seen_dead {
            return Err(Conflict::Lease(lease).into());
        }
    }
    let epoch: u32 = c
        .prepare_cached(
            "INSERT INTO leases (resource, holder, pid, process_start, host, epoch, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, 1, ?6)
             ON CONFLICT (resource) DO UPDATE SET holder = excluded.holder, pid = excluded.pid,
                 process_start = excluded.process_start, host = excluded.host, epoch = epoch + 1, expires_at = excluded.expires_at
             RETURNING epoch",
        )?
        .query_row(params![claim.resource, claim.holder, claim.pid, claim.process_start, claim.host, nanos(claim.expires_at)], |row| {
            row.get(0)
        })?;
    let claim = claim.clone();
    Ok(Lease {
        resource: claim.resource,
        holder: claim.holder,
        pid: claim.pid,
        process_start: claim.process_start,
        host: claim.host,
        epoch,
        expires_at: claim.expires_at,
    })
}

pub(super) fn renew(c: &Connection, guard: &LeaseGuard, expires_at: Timestamp) -> Result<()> {
    let changed = c
        .prepare_cached("UPDATE leases SET expires_at = ?4 WHERE resource = ?1 AND holder = ?2 AND epoch = ?3")?
        .execute(params![guard.resource, guard.holder, guard.epoch, nanos(expires_at)])?;
    kept(changed == 1)
}

pub(super) fn release(c: &Connection, guard: &LeaseGuard) -> Result<()> {
    let changed = c
        .prepare_cached("UPDATE leases SET holder = NULL WHERE resource = ?1 AND holder = ?2 AND epoch = ?3")?
        .execute(params![guard.resource, guard.holder, guard.epoch])?;
    kept(changed == 1)
}

/// The holder and epoch decide, not the time: an expired lease that nobody took is still ours.
pub(super) fn check(c: &Connection, guard: &LeaseGuard) -> Result<()> {
    let exists = c.prepare_cached("SELECT 1 FROM leases WHERE resource = ?1 AND holder = ?2 AND epoch = ?3")?.exists(params![
        guard.resource,
        guard.holder,
        guard.epoch
    ])?;
    kept(exists).map_err(|error| error.at("keep the lease on", || guard.resource.clone()))
}

fn kept(still: bool) -> Result<()> {
    if still { Ok(()) } else { Err(Error::bare(ErrorKind::LeaseLost).reason("another holder has it, or it was released")) }
}

const COLUMNS: &str = "resource, holder, pid, process_start, host, epoch, expires_at";

fn from_row(row: &Row<'_>) -> rusqlite::Result<Lease> {
    let mut columns = Columns::of(row);
    Ok(Lease {
        resource: columns.take()?,
        holder: columns.take()?,
        pid: columns.take()?,
        process_start: columns.take()?,
        host: columns.take()?,
        epoch: columns.take()?,
        expires_at: columns.time()?,
    })
}

pub(super) fn held(c: &Connection, resource: &str) -> Result<Option<Lease>> {
    let mut statement = c.prepare_cached(&format!("SELECT {COLUMNS} FROM leases WHERE resource = ?1 AND holder IS NOT NULL"))?;
    Ok(statement.query_row([resource], from_row).optional()?)
}

pub(super) fn all_held(c: &Connection) -> Result<Vec<Lease>> {
    let mut statement = c.prepare_cached(&format!("SELECT {COLUMNS} FROM leases WHERE holder IS NOT NULL ORDER BY resource"))?;
    Ok(statement.query_map([], from_row)?.collect::<rusqlite::Result<_>>()?)
}
