//! Slots of connectors: how many transfers are under way to each, and which.

use jiff::Timestamp;
use model::TransferId;
use rusqlite::{Connection, params};

use super::value::{Columns, nanos};
use crate::{Conflict, Result, Store};

pub(super) fn take(c: &Connection, connector: &str, holder: &TransferId, limit: u32, at: Timestamp) -> Result<()> {
    if c.prepare_cached("SELECT 1 FROM slots WHERE connector = ?1 AND holder = ?2")?.exists([connector, holder.as_str()])? {
        return Ok(());
    }
    let mut statement = c.prepare_cached("SELECT count(*) FROM slots WHERE connector = ?1")?;
    let taken: u32 = statement.query_row([connector], |row| row.get(0))?;
    if taken >= limit {
        return Err(Conflict::Slots { taken }.into());
    }
    c.prepare_cached("INSERT INTO slots (connector, holder, at) VALUES (?1, ?2, ?3)")?.execute(params![
        connector,
        holder.as_str(),
        nanos(at)
    ])?;
    Ok(())
}

pub(super) fn release(c: &Connection, connector: &str, holder: &TransferId) -> Result<()> {
    c.prepare_cached("DELETE FROM slots WHERE connector = ?1 AND holder = ?2")?.execute([connector, holder.as_str()])?;
    Ok(())
}

fn holders(c: &Connection, connector: Option<&str>) -> Result<Vec<(String, TransferId)>> {
    let mut statement =
        c.prepare_cached("SELECT connector, holder FROM slots WHERE ?1 IS NULL OR connector = ?1 ORDER BY connector, at, holder")?;
    let rows = statement.query_map([connector], |row| {
        let mut columns = Columns::of(row);
        Ok((columns.take()?, columns.word(|text| text.parse().ok())?))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

impl Store {
    /// Connector and holder of every slot that is taken, of one connector or of all.
    pub async fn slots(&self, connector: Option<&str>) -> Result<Vec<(String, TransferId)>> {
        let key = connector.map(str::to_owned);
        self.read("list", || "the slots".into(), move |c| holders(c, key.as_deref())).await
    }
}
