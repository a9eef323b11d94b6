//! Deliveries: the newest of ours at each path of each destination.

use model::{ObjectKey, RemotePath, TransferId};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::value::{Columns, int, nanos};
use crate::{Delivery, Error, ErrorKind, Result};

/// An older delivery never takes the place of a newer one, in whatever order they are recorded.
pub(super) fn record(c: &Connection, delivery: &Delivery) -> Result<()> {
    c.prepare_cached(
        "INSERT INTO deliveries (destination, path, source, key, version, etag, size, modified, sha256, crc64nvme,
             published_at, transfer, collected) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
         ON CONFLICT (destination, path) DO UPDATE SET source = excluded.source, key = excluded.key,
             version = excluded.version, etag = excluded.etag, size = excluded.size, modified = excluded.modified,
             sha256 = excluded.sha256, crc64nvme = excluded.crc64nvme, published_at = excluded.published_at,
             transfer = excluded.transfer, collected = excluded.collected
         WHERE excluded.published_at >= published_at",
    )?
    .execute(params![
        delivery.destination,
        delivery.path.as_str(),
        delivery.source,
        delivery.key.as_str(),
        delivery.version,
        delivery.etag,
        int(delivery.size),
        delivery.modified.map(nanos),
        delivery.sha256,
        delivery.crc64nvme,
        nanos(delivery.published_at),
        delivery.transfer.as_str(),
        delivery.collected,
    ])?;
    Ok(())
}

pub(super) fn mark_collected(c: &Connection, destination: &str, path: &RemotePath, transfer: &TransferId) -> Result<()> {
    let changed = c
        .prepare_cached("UPDATE deliveries SET collected = 1 WHERE destination = ?1 AND path = ?2 AND transfer = ?3")?
        .execute(params![destination, path.as_str(), transfer.as_str()])?;
    if changed == 1 { Ok(()) } else { Err(Error::bare(ErrorKind::NotFound)) }
}

pub(super) fn get(c: &Connection, destination: &str, path: &RemotePath) -> Result<Option<Delivery>> {
    let mut statement = c.prepare_cached(
        "SELECT destination, path, source, key, version, etag, size, modified, sha256, crc64nvme, published_at, transfer, collected
         FROM deliveries WHERE destination = ?1 AND path = ?2",
    )?;
    Ok(statement.query_row(params![destination, path.as_str()], from_row).optional()?)
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<Delivery> {
    let mut columns = Columns::of(row);
    Ok(Delivery {
        destination: columns.take()?,
        path: columns.word(|text| RemotePath::from_user(text).ok())?,
        source: columns.take()?,
        key: ObjectKey::local(columns.take::<String>()?),
        version: columns.take()?,
        etag: columns.take()?,
        size: columns.number()?,
        modified: columns.maybe_time()?,
        sha256: columns.take()?,
        crc64nvme: columns.take()?,
        published_at: columns.time()?,
        transfer: columns.word(|text| text.parse().ok())?,
        collected: columns.take()?,
    })
}
