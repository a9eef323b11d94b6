//! Files of a manifest. A row's id is its transfer's number times 2^32 plus its own, so that a manifest is one range.

use jiff::Timestamp;
use model::contract::FIRST_COMPANION;
use model::{FileNumber, FileState, ObjectKey, RemotePath, TransferId};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::deliveries;
use super::transfers::{maybe_seq, page_size, seq};
use super::value::{Columns, int, nanos};
use crate::{Conflict, Delivery, Error, ErrorKind, Failure, FileQuery, FileRecord, MAX_FILES, Part, Result, StateCount};

fn row_id(seq: i64, number: FileNumber) -> i64 {
    (seq << 32) | i64::from(number.0)
}

pub(super) fn add(c: &Connection, transfer: &TransferId, files: &[FileRecord]) -> Result<()> {
    if files.len() > MAX_FILES {
        return Err(Error::bare(ErrorKind::Invalid).reason(format!("{} files at once; at most {MAX_FILES}", files.len())));
    }
    let seq = seq(c, transfer)?;
    let mut insert = c.prepare_cached(
        "INSERT INTO files (id, transfer, key, path, size, pin, state, attempt, epoch, checkpoint, intent, error_class, error_text,
             bytes_done, bytes_sent, receipt, original, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
    )?;
    for file in files {
        let inserted = insert.execute(params![
            row_id(seq, file.number),
            seq,
            file.key.as_str(),
            file.path.as_str(),
            int(file.size),
            file.pin,
            file.state.as_str(),
            file.attempt,
            file.epoch,
            file.checkpoint,
            file.intent,
            file.error_class.map(|class| class.name()),
            file.error_text,
            int(file.bytes_done),
            int(file.bytes_sent),
            file.receipt,
            file.original,
            nanos(file.updated_at),
        ]);
        if let Err(error) = inserted {
            return Err(clash(c, seq, file, error)?);
        }
    }
    Ok(())
}

/// Names what a refused row met; any other failure is passed on.
fn clash(c: &Connection, seq: i64, file: &FileRecord, error: rusqlite::Error) -> Result<Error> {
    if error.sqlite_error_code() != Some(rusqlite::ErrorCode::ConstraintViolation) {
        return Err(error.into());
    }
    let mut by_path = c.prepare_cached("SELECT key FROM files WHERE transfer = ?1 AND path = ?2")?;
    let first: Option<String> = by_path.query_row(params![seq, file.path.as_str()], |row| row.get(0)).optional()?;
    // The same key at the same path is one file listed twice, which the key tells better.
    if let Some(first) = first.filter(|first| first != file.key.as_str()) {
        let first = ObjectKey::local(first);
        return Ok(Conflict::Path { path: file.path.clone(), first, second: file.key.clone() }.into());
    }
    let mut by_key = c.prepare_cached("SELECT path FROM files WHERE transfer = ?1 AND key = ?2")?;
    let first = by_key.query_row(params![seq, file.key.as_str()], |row| Columns::of(row).word(|text| RemotePath::from_user(text).ok()));
    Ok(match first.optional()? {
        Some(first) => Conflict::Key { key: file.key.clone(), first, second: file.path.clone() }.into(),
        None => Conflict::Exists.into(),
    })
}

/// What preconditions look at.
struct Head {
    id: i64,
    state: FileState,
    attempt: u32,
    epoch: u32,
}

fn head(c: &Connection, transfer: &TransferId, number: FileNumber) -> Result<Head> {
    let id = row_id(seq(c, transfer)?, number);
    let found = c.prepare_cached("SELECT state, attempt, epoch FROM files WHERE id = ?1")?.query_row([id], |row| {
        let mut columns = Columns::of(row);
        Ok(Head { id, state: columns.word(FileState::from_word)?, attempt: columns.take()?, epoch: columns.take()? })
    });
    found.optional()?.ok_or_else(|| Error::bare(ErrorKind::NotFound).reason("the manifest has no such file"))
}

impl Head {
    fn not_behind(&self, attempt: u32, epoch: u32) -> Result<()> {
        if (attempt, epoch) < (self.attempt, self.epoch) {
            return Err(Conflict::Attempt { attempt: self.attempt, epoch: self.epoch }.into());
        }
        Ok(())
    }

    fn refuse_if(&self, refused: bool) -> Result<()> {
        if refused { Err(Conflict::FileState(self.state).into()) } else { Ok(()) }
    }
}

pub(super) fn replace_pin(c: &Connection, transfer: &TransferId, number: FileNumber, pin: &str, size: u64, at: Timestamp) -> Result<()> {
    let head = head(c, transfer, number)?;
    c.prepare_cached(
        "UPDATE files SET pin = ?2, size = ?3, state = ?4, attempt = attempt + 1, checkpoint = NULL, intent = NULL,
             error_class = NULL, error_text = NULL, bytes_done = 0, original = NULL, updated_at = ?5 WHERE id = ?1",
    )?
    .execute(params![head.id, pin, int(size), FileState::Pending.as_str(), nanos(at)])?;
    Ok(())
}

pub(super) fn begin_attempt(
    c: &Connection,
    transfer: &TransferId,
    number: FileNumber,
    attempt: u32,
    epoch: u32,
    at: Timestamp,
) -> Result<()> {
    let head = head(c, transfer, number)?;
    head.refuse_if(head.state.is_success())?;
    head.not_behind(attempt, epoch)?;
    c.prepare_cached(
        "UPDATE files SET state = ?2, attempt = ?3, epoch = ?4, updated_at = ?5, error_class = NULL, error_text = NULL,
             checkpoint = iif(?6, NULL, checkpoint), intent = iif(?6, NULL, intent), bytes_done = iif(?6, 0, bytes_done) WHERE id = ?1",
    )?
    .execute(params![head.id, FileState::InProgress.as_str(), attempt, epoch, nanos(at), attempt != head.attempt])?;
    Ok(())
}

pub(super) fn set_state(
    c: &Connection,
    transfer: &TransferId,
    number: FileNumber,
    state: FileState,
    error: Option<&Failure>,
    at: Timestamp,
) -> Result<()> {
    let id = head(c, transfer, number)?.id;
    c.prepare_cached("UPDATE files SET state = ?2, error_class = ?3, error_text = ?4, updated_at = ?5 WHERE id = ?1")?.execute(params![
        id,
        state.as_str(),
        error.map(|failure| failure.class.name()),
        error.map(|failure| &failure.text),
        nanos(at)
    ])?;
    Ok(())
}

pub(super) fn save_checkpoint(
    c: &Connection,
    transfer: &TransferId,
    number: FileNumber,
    (attempt, epoch): (u32, u32),
    checkpoint: &str,
    bytes_done: u64,
    at: Timestamp,
) -> Result<()> {
    let head = head(c, transfer, number)?;
    head.refuse_if(head.state.is_terminal())?;
    head.not_behind(attempt, epoch)?;
    // An intent belongs to the temporary file of its attempt.
    c.prepare_cached(
        "UPDATE files SET checkpoint = ?2, bytes_done = ?3, updated_at = ?4, intent = iif(attempt = ?5, intent, NULL), attempt = ?5,
             epoch = ?6 WHERE id = ?1",
    )?
    .execute(params![head.id, checkpoint, int(bytes_done), nanos(at), attempt, epoch])?;
    Ok(())
}

pub(super) fn save_intent(c: &Connection, transfer: &TransferId, number: FileNumber, intent: Option<&str>, at: Timestamp) -> Result<()> {
    let head = head(c, transfer, number)?;
    head.refuse_if(head.state.is_terminal())?;
    c.prepare_cached("UPDATE files SET intent = ?2, updated_at = ?3 WHERE id = ?1")?.execute(params![head.id, intent, nanos(at)])?;
    Ok(())
}

/// How a file ended.
pub(super) struct End<'a> {
    pub(super) state: FileState,
    pub(super) receipt: Option<&'a str>,
    pub(super) bytes_sent: u64,
    pub(super) at: Timestamp,
    pub(super) delivery: Option<&'a Delivery>,
}

pub(super) fn finish(c: &Connection, transfer: &TransferId, number: FileNumber, end: &End<'_>) -> Result<()> {
    if !end.state.is_terminal() {
        return Err(Error::bare(ErrorKind::Invalid).reason(format!("{} is not the end of a file", end.state)));
    }
    let head = head(c, transfer, number)?;
    if head.state.is_success() {
        let mut statement = c.prepare_cached("SELECT receipt FROM files WHERE id = ?1")?;
        let receipt: Option<String> = statement.query_row([head.id], |row| row.get(0))?;
        return head.refuse_if(head.state != end.state || receipt.as_deref() != end.receipt);
    }
    c.prepare_cached(
        "UPDATE files SET state = ?2, receipt = ?3, bytes_sent = ?4, updated_at = ?5, bytes_done = iif(?6, size, bytes_done),
             checkpoint = NULL, intent = NULL, error_class = NULL, error_text = NULL WHERE id = ?1",
    )?
    .execute(params![head.id, end.state.as_str(), end.receipt, int(end.bytes_sent), nanos(end.at), end.state.is_success()])?;
    match end.delivery {
        Some(delivery) => deliveries::record(c, delivery),
        None => Ok(()),
    }
}

pub(super) fn set_original(c: &Connection, transfer: &TransferId, number: FileNumber, original: &str, at: Timestamp) -> Result<()> {
    let head = head(c, transfer, number)?;
    head.refuse_if(!head.state.is_success())?;
    c.prepare_cached("UPDATE files SET original = ?2, updated_at = ?3 WHERE id = ?1")?.execute(params![head.id, original, nanos(at)])?;
    Ok(())
}

pub(super) fn remove(c: &Connection, transfer: &TransferId, numbers: &[FileNumber]) -> Result<()> {
    if numbers.len() > MAX_FILES {
        return Err(Error::bare(ErrorKind::Invalid).reason(format!("{} files at once; at most {MAX_FILES}", numbers.len())));
    }
    let seq = seq(c, transfer)?;
    let mut state = c.prepare_cached("SELECT state FROM files WHERE id = ?1")?;
    let mut delete = c.prepare_cached("DELETE FROM files WHERE id = ?1")?;
    for number in numbers {
        let id = row_id(seq, *number);
        let present = state.query_row([id], |row| Columns::of(row).word(FileState::from_word)).optional()?;
        if present.is_some_and(|present| !present.is_success()) {
            delete.execute([id])?;
        }
    }
    Ok(())
}

const COLUMNS: &str = "key, path, size, pin, state, attempt, epoch, checkpoint, intent, error_class, error_text, bytes_done, bytes_sent,
    receipt, original, updated_at";

fn from_row(row: &Row<'_>, transfer: &TransferId) -> rusqlite::Result<FileRecord> {
    let mut columns = Columns::of(row);
    let id: i64 = columns.take()?;
    Ok(FileRecord {
        transfer: transfer.clone(),
        number: number_of(id),
        key: ObjectKey::local(columns.take::<String>()?),
        path: columns.word(|text| RemotePath::from_user(text).ok())?,
        size: columns.number()?,
        pin: columns.take()?,
        state: columns.word(FileState::from_word)?,
        attempt: columns.take()?,
        epoch: columns.take()?,
        checkpoint: columns.take()?,
        intent: columns.take()?,
        error_class: columns.maybe_word(|text| text.parse().ok())?,
        error_text: columns.take()?,
        bytes_done: columns.number()?,
        bytes_sent: columns.number()?,
        receipt: columns.take()?,
        original: columns.take()?,
        updated_at: columns.time()?,
    })
}

fn number_of(id: i64) -> FileNumber {
    FileNumber((id & 0xffff_ffff) as u32)
}

/// The ids of a part that lie after a cursor, as `first <= id <= last`.
fn range(seq: i64, part: Part, after: Option<FileNumber>) -> (i64, i64) {
    let (begin, last) = match part {
        Part::Everything => (FileNumber(0), FileNumber(u32::MAX)),
        Part::Files => (FileNumber(0), FileNumber(FIRST_COMPANION.0 - 1)),
        Part::Companions => (FIRST_COMPANION, FileNumber(u32::MAX)),
    };
    let first = after.map_or(row_id(seq, begin), |number| row_id(seq, number) + 1).max(row_id(seq, begin));
    (first, row_id(seq, last))
}

/// A transfer that is not there has no files.
pub(super) fn list(c: &Connection, transfer: &TransferId, query: &FileQuery<'_>) -> Result<Vec<FileRecord>> {
    let Some(seq) = maybe_seq(c, transfer)? else { return Ok(Vec::new()) };
    let (first, last) = range(seq, query.part, query.after);
    let limit = page_size(query.limit);
    let Some(states) = query.states else {
        let mut statement =
            c.prepare_cached(&format!("SELECT id, {COLUMNS} FROM files WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT ?3"))?;
        let rows = statement.query_map(params![first, last, limit], |row| from_row(row, transfer))?;
        return Ok(rows.collect::<rusqlite::Result<_>>()?);
    };
    // Each state is in order in its index; one query over all of them would sort the whole manifest for every page.
    let mut ids: Vec<i64> = Vec::new();
    let mut statement =
        c.prepare_cached("SELECT id FROM files WHERE transfer = ?1 AND state = ?2 AND id BETWEEN ?3 AND ?4 ORDER BY id LIMIT ?5")?;
    for state in FileState::ALL.iter().filter(|state| states.contains(state)) {
        for id in statement.query_map(params![seq, state.as_str(), first, last, limit], |row| row.get(0))? {
            ids.push(id?);
        }
    }
    ids.sort_unstable();
    ids.truncate(limit as usize);
    let mut statement = c.prepare_cached(&format!("SELECT id, {COLUMNS} FROM files WHERE id = ?1"))?;
    ids.into_iter().map(|id| Ok(statement.query_row([id], |row| from_row(row, transfer))?)).collect()
}

pub(super) fn get(c: &Connection, transfer: &TransferId, number: FileNumber) -> Result<Option<FileRecord>> {
    let Some(seq) = maybe_seq(c, transfer)? else { return Ok(None) };
    let mut statement = c.prepare_cached(&format!("SELECT id, {COLUMNS} FROM files WHERE id = ?1"))?;
    Ok(statement.query_row([row_id(seq, number)], |row| from_row(row, transfer)).optional()?)
}

pub(super) fn get_state(c: &Connection, transfer: &TransferId, number: FileNumber) -> Result<Option<FileState>> {
    let Some(seq) = maybe_seq(c, transfer)? else { return Ok(None) };
    let mut statement = c.prepare_cached("SELECT state FROM files WHERE id = ?1")?;
    Ok(statement.query_row([row_id(seq, number)], |row| Columns::of(row).word(FileState::from_word)).optional()?)
}

pub(super) fn by_key(c: &Connection, transfer: &TransferId, key: &ObjectKey) -> Result<Option<FileRecord>> {
    let Some(seq) = maybe_seq(c, transfer)? else { return Ok(None) };
    let mut statement = c.prepare_cached(&format!("SELECT id, {COLUMNS} FROM files WHERE transfer = ?1 AND key = ?2"))?;
    Ok(statement.query_row(params![seq, key.as_str()], |row| from_row(row, transfer)).optional()?)
}

/// Of the files; what goes with them is not counted.
pub(super) fn counts(c: &Connection, transfer: &TransferId) -> Result<Vec<StateCount>> {
    let Some(seq) = maybe_seq(c, transfer)? else { return Ok(Vec::new()) };
    let mut statement =
        c.prepare_cached("SELECT state, count(*), sum(size) FROM files WHERE transfer = ?1 AND id < ?2 GROUP BY state ORDER BY state")?;
    let rows = statement.query_map([seq, row_id(seq, FIRST_COMPANION)], |row| {
        let mut columns = Columns::of(row);
        Ok(StateCount { state: columns.word(FileState::from_word)?, files: columns.number()?, bytes: columns.number()? })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn receipts(c: &Connection, transfer: &TransferId, after: Option<FileNumber>, limit: u32) -> Result<Vec<(FileNumber, String)>> {
    let Some(seq) = maybe_seq(c, transfer)? else { return Ok(Vec::new()) };
    let (first, last) = range(seq, Part::Everything, after);
    let mut statement =
        c.prepare_cached("SELECT id, receipt FROM files WHERE id BETWEEN ?1 AND ?2 AND receipt IS NOT NULL ORDER BY id LIMIT ?3")?;
    let rows = statement.query_map(params![first, last, page_size(limit)], |row| Ok((number_of(row.get(0)?), row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
