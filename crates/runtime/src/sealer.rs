//! Seals the audit every minute, and keeps a copy of the seals in a file, which belongs where nobody who can change the
//! records can change it.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::audit::{self, Seal};
use model::receipt::SigningKey;
use serde_json::{Map, Value, json};

use crate::service::Inner;

/// More than any seal: the last whole one is in here.
const TAIL: u64 = 1 << 20;
/// Seals written out at once.
const PAGE: u32 = 100;

/// The number and hash of a seal.
type Place = (u64, String);

/// The copy of the seals outside the records, a line each.
#[derive(Debug)]
pub(crate) struct Sealer {
    pub key: SigningKey,
    pub copy: PathBuf,
}

pub(crate) async fn run(inner: Arc<Inner>) {
    if let Err(error) = compare(&inner).await {
        tracing::warn!(copy = %inner.sealer.copy.display(), error = error.message, "the copy of the seals was not compared with the records");
    }
    loop {
        seal(&inner).await;
        tokio::select! {
            _ = inner.stop.cancelled() => return,
            _ = tokio::time::sleep(inner.settings.seal_every) => {}
        }
    }
}

/// What is not sealed yet, and what the copy does not have yet. Whatever fails is tried again the next time.
pub(crate) async fn seal(inner: &Inner) {
    if let Err(error) = try_to_seal(inner).await {
        tracing::warn!(copy = %inner.sealer.copy.display(), error = error.message, "the audit was not sealed; it is tried again");
    }
}

async fn try_to_seal(inner: &Inner) -> app::Result<()> {
    let copy = inner.sealer.copy.clone();
    let failed = |e: std::io::Error| app::Error::new(model::ErrorClass::Internal, format!("the copy of the seals: {e}"));
    let outside = last_of(&copy).await.map_err(failed);
    // Sealed all the same where the copy cannot be read: what has come so far is bound, and the copy catches up.
    app::audit::seal(&inner.store, &inner.sealer.key, outside.as_ref().ok().and_then(Option::as_ref), inner.settings.clock.wall()).await?;
    let mut written = outside?.map_or(0, |(number, _)| number);
    loop {
        let page = inner.store.seals(written, PAGE).await?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        written = *last;
        let copy = copy.clone();
        let lines: String = page.into_iter().flat_map(|(_, line)| [line, "\n".to_owned()]).collect();
        let wrote = tokio::task::spawn_blocking(move || append(&copy, &lines)).await;
        wrote.unwrap_or_else(|e| Err(std::io::Error::other(e))).map_err(failed)?;
    }
}

/// Said once at the start, and put on record: the copy knows seals that the records do not have, or other ones.
async fn compare(inner: &Inner) -> app::Result<()> {
    let failed = |e: std::io::Error| app::Error::new(model::ErrorClass::Internal, e.to_string());
    let Some((number, hash)) = last_of(&inner.sealer.copy).await.map_err(failed)? else { return Ok(()) };
    let own = inner.store.seals(number.saturating_sub(1), 1).await?.into_iter().find(|(own, _)| *own == number);
    if own.is_some_and(|(_, line)| audit::hash(&line) == hash) {
        return Ok(());
    }
    tracing::error!(
        seal = number,
        copy = %inner.sealer.copy.display(),
        "the copy of the seals does not go with these records: they were put back from a backup, or the copy is of another service; \
         `fileferry audit verify` tells what is missing"
    );
    let detail = Map::from_iter([("copy_has_seal".to_owned(), Value::from(number))]);
    inner.store.commit(app::audit::noted("records_put_back", detail, inner.settings.clock.wall())).await?;
    Ok(())
}

/// Who began or ended the service, for the chain of the day.
pub(crate) async fn note(inner: &Inner, event: &str) {
    let Value::Object(detail) = json!({"program": concat!("fileferry ", env!("CARGO_PKG_VERSION")), "process": std::process::id()}) else {
        return;
    };
    if let Err(error) = inner.store.commit(app::audit::noted(event, detail, inner.settings.clock.wall())).await {
        tracing::warn!(event, error = %transfer::error::chain(&error), "not entered into the audit");
    }
}

async fn last_of(copy: &Path) -> std::io::Result<Option<Place>> {
    let copy = copy.to_owned();
    tokio::task::spawn_blocking(move || last(&copy)).await.unwrap_or_else(|e| Err(std::io::Error::other(e)))
}

/// The last whole seal. A line that was cut short by a crash is followed by a whole one.
fn last(copy: &Path) -> std::io::Result<Option<Place>> {
    let mut file = match File::open(copy) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let lines = std::str::from_utf8(&text[..whole]).unwrap_or_default().lines().rev();
    Ok(lines.filter_map(|line| Some((Seal::read(line).ok()?.number, audit::hash(line)))).next())
}

/// Only ever appends, so that the file may be one that allows nothing else.
fn append(copy: &Path, lines: &str) -> std::io::Result<()> {
    if let Some(directory) = copy.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let broken = match File::open(copy) {
        Ok(mut file) if file.metadata()?.len() > 0 => {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            last != *b"\n"
        }
        Ok(_) => false,
        Err(e) if e.kind() == ErrorKind::NotFound => false,
        Err(e) => return Err(e),
    };
    let mut file = OpenOptions::new().append(true).create(true).mode(0o640).open(copy)?;
    let text = if broken { format!("\n{lines}") } else { lines.to_owned() };
    file.write_all(text.as_bytes())?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(number: u64) -> String {
        let key = SigningKey::from_seed(&[3; 32]).unwrap();
        Seal::line(&key, number, jiff::Timestamp::UNIX_EPOCH, None, Vec::new()).unwrap()
    }

    #[test]
    fn a_line_that_was_cut_short_is_followed_by_a_whole_one() {
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("audit/seals.jsonl");
        assert_eq!(last(&copy).unwrap(), None);
        append(&copy, &format!("{}\n", seal(1))).unwrap();
        // A crash in the middle of the second.
        append(&copy, &seal(2)[..40]).unwrap();
        assert_eq!(last(&copy).unwrap().unwrap().0, 1);
        append(&copy, &format!("{}\n", seal(2))).unwrap();
        assert_eq!(last(&copy).unwrap(), Some((2, audit::hash(&seal(2)))));
        let text = std::fs::read_to_string(&copy).unwrap();
        assert_eq!(text.lines().count(), 3);
        // A line that is whole but for its end counts when it has its end.
        append(&copy, &seal(3)).unwrap();
        assert_eq!(last(&copy).unwrap().unwrap().0, 2);
    }
}
