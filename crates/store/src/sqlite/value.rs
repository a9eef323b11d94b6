//! Between the types of `model` and the columns of SQLite.

use std::error::Error as StdError;

use jiff::Timestamp;
use rusqlite::Row;
use rusqlite::types::{FromSql, Type};

#[derive(Debug, thiserror::Error)]
#[error("the column holds {0:?}, which no version of this program writes")]
struct Unknown(String);

/// SQLite's integers end at 2^63 - 1, which no object's size reaches.
pub(super) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Nanoseconds since 1970. Times outside 1677 to 2262 become the nearest that fits.
pub(super) fn nanos(time: Timestamp) -> i64 {
    time.as_nanosecond().clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// Reads a row from left to right, in the order of its column list.
pub(super) struct Columns<'r, 's> {
    row: &'r Row<'s>,
    next: usize,
}

impl<'r, 's> Columns<'r, 's> {
    pub(super) fn of(row: &'r Row<'s>) -> Self {
        Self { row, next: 0 }
    }

    pub(super) fn take<T: FromSql>(&mut self) -> rusqlite::Result<T> {
        let value = self.row.get(self.next)?;
        self.next += 1;
        Ok(value)
    }

    pub(super) fn number(&mut self) -> rusqlite::Result<u64> {
        let at = self.next;
        let value: i64 = self.take()?;
        u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(at, value))
    }

    pub(super) fn time(&mut self) -> rusqlite::Result<Timestamp> {
        let value: i64 = self.take()?;
        Ok(time_from(value))
    }

    pub(super) fn maybe_time(&mut self) -> rusqlite::Result<Option<Timestamp>> {
        Ok(self.take::<Option<i64>>()?.map(time_from))
    }

    pub(super) fn word<T>(&mut self, parse: impl FnOnce(&str) -> Option<T>) -> rusqlite::Result<T> {
        let at = self.next;
        let text: String = self.take()?;
        parse(&text).ok_or_else(|| unknown(at, Unknown(text)))
    }

    pub(super) fn maybe_word<T>(&mut self, parse: impl FnOnce(&str) -> Option<T>) -> rusqlite::Result<Option<T>> {
        let at = self.next;
        let Some(text) = self.take::<Option<String>>()? else { return Ok(None) };
        parse(&text).map(Some).ok_or_else(|| unknown(at, Unknown(text)))
    }
}

pub(super) fn time_from(nanos: i64) -> Timestamp {
    Timestamp::from_nanosecond(nanos.into()).expect("64 bits of nanoseconds lie within the range of a timestamp")
}

fn unknown(column: usize, error: impl StdError + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}
