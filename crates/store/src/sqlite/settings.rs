//! Connectors, sources and secrets: three tables of one shape, changed by version.

use jiff::Timestamp;
use rusqlite::types::FromSql;
use rusqlite::{Connection, OptionalExtension, ToSql, params};

use super::requests;
use super::value::{Columns, nanos};
use crate::{Conflict, Error, ErrorKind, Result, SecretRecord, SettingRecord, Store};

#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Connector,
    Source,
    Secret,
}

impl Kind {
    fn table(self) -> &'static str {
        match self {
            Self::Connector => "connectors",
            Self::Source => "sources",
            Self::Secret => "secrets",
        }
    }

    /// The column of requests that names it.
    fn column(self) -> Option<&'static str> {
        match self {
            Self::Connector => Some("connector"),
            Self::Source => Some("source"),
            Self::Secret => None,
        }
    }
}

fn version(c: &Connection, kind: Kind, name: &str) -> Result<Option<u32>> {
    let mut statement = c.prepare_cached(&format!("SELECT version FROM {} WHERE name = ?1", kind.table()))?;
    Ok(statement.query_row([name], |row| row.get(0)).optional()?)
}

pub(super) fn put(
    c: &Connection,
    kind: Kind,
    name: &str,
    body: &dyn ToSql,
    expect: Option<u32>,
    (by, at): (&str, Timestamp),
) -> Result<()> {
    let present = version(c, kind, name)?;
    if present != expect {
        return Err(Conflict::Version(present.unwrap_or(0)).into());
    }
    c.prepare_cached(&format!(
        "INSERT OR REPLACE INTO {} (name, version, body, updated_by, updated_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        kind.table()
    ))?
    .execute(params![name, present.unwrap_or(0).saturating_add(1), body, by, nanos(at)])?;
    Ok(())
}

pub(super) fn remove(c: &Connection, kind: Kind, name: &str, expect: u32) -> Result<()> {
    let present = version(c, kind, name)?.ok_or_else(|| Error::bare(ErrorKind::NotFound).reason("there is none of this name"))?;
    if present != expect {
        return Err(Conflict::Version(present).into());
    }
    if let Some(column) = kind.column()
        && let Some(transfer) = requests::user_of(c, column, name)?
    {
        return Err(Conflict::InUse(transfer).into());
    }
    c.prepare_cached(&format!("DELETE FROM {} WHERE name = ?1", kind.table()))?.execute([name])?;
    Ok(())
}

/// Name, version, body, by, at.
type Row<B> = (String, u32, B, String, Timestamp);

fn rows<B: FromSql>(c: &Connection, kind: Kind, name: Option<&str>) -> Result<Vec<Row<B>>> {
    let mut statement = c.prepare_cached(&format!(
        "SELECT name, version, body, updated_by, updated_at FROM {} WHERE ?1 IS NULL OR name = ?1 ORDER BY name",
        kind.table()
    ))?;
    let rows = statement.query_map([name], |row| {
        let mut columns = Columns::of(row);
        Ok((columns.take()?, columns.take()?, columns.take()?, columns.take()?, columns.time()?))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn setting((name, version, body, updated_by, updated_at): Row<String>) -> SettingRecord {
    SettingRecord { name, version, body, updated_by, updated_at }
}

fn secret((name, version, sealed, updated_by, updated_at): Row<Vec<u8>>) -> SecretRecord {
    SecretRecord { name, version, sealed, updated_by, updated_at }
}

impl Store {
    pub async fn connector(&self, name: &str) -> Result<Option<SettingRecord>> {
        let key = name.to_owned();
        let read = move |c: &Connection| Ok(rows(c, Kind::Connector, Some(&key))?.pop().map(setting));
        self.read("read", || format!("connector {name}"), read).await
    }

    /// All, by name.
    pub async fn connectors(&self) -> Result<Vec<SettingRecord>> {
        let list = |c: &Connection| Ok(rows(c, Kind::Connector, None)?.into_iter().map(setting).collect());
        self.read("list", || "the connectors".into(), list).await
    }

    pub async fn source(&self, name: &str) -> Result<Option<SettingRecord>> {
        let key = name.to_owned();
        let read = move |c: &Connection| Ok(rows(c, Kind::Source, Some(&key))?.pop().map(setting));
        self.read("read", || format!("source {name}"), read).await
    }

    /// All, by name.
    pub async fn sources(&self) -> Result<Vec<SettingRecord>> {
        let list = |c: &Connection| Ok(rows(c, Kind::Source, None)?.into_iter().map(setting).collect());
        self.read("list", || "the sources".into(), list).await
    }

    pub async fn secret(&self, name: &str) -> Result<Option<SecretRecord>> {
        let key = name.to_owned();
        let read = move |c: &Connection| Ok(rows(c, Kind::Secret, Some(&key))?.pop().map(secret));
        self.read("read", || format!("secret {name}"), read).await
    }

    /// All, by name, sealed as they are.
    pub async fn secrets(&self) -> Result<Vec<SecretRecord>> {
        let list = |c: &Connection| Ok(rows(c, Kind::Secret, None)?.into_iter().map(secret).collect());
        self.read("list", || "the secrets".into(), list).await
    }
}
