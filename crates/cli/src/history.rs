//! `history`, `history prune`, and `explain ID`: what this machine's records say.

use std::time::Duration;

use model::{ByteCount, TransferId};
use runtime::HistoryEntry;
use serde_json::{Value, json};

use crate::environment::Environment;
use crate::output::Screen;
use crate::report::files;
use crate::trouble::Trouble;
use crate::{backend, exit};

pub async fn show(limit: usize, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    let entries = backend::history(&environment.place(screen), limit).await?;
    if entries.is_empty() {
        screen.note("nothing was copied from this machine yet");
    }
    for entry in &entries {
        screen.say(&line(entry));
        screen.object(&object(entry));
    }
    Ok(exit::DONE)
}

pub async fn prune(older_than: Duration, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    let forgotten = backend::prune(&environment.place(screen), older_than).await?;
    screen.say(&format!("{forgotten} forgotten"));
    screen.object(&json!({"v": 1, "type": "pruned", "transfers": forgotten}));
    Ok(exit::DONE)
}

/// One transfer in full: how it stands, and its files that need attention first.
pub async fn explain(id: &TransferId, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    let runtime::Explained { entry, files: mut reports, known } = backend::explain_transfer(&environment.place(screen), id).await?;
    screen.say(&line(&entry));
    let mut described = object(&entry);
    described["known"] = json!(known);
    screen.object(&described);
    if let Some((class, message)) = &entry.error {
        screen.say(&format!("  {class}: {message}"));
        screen.say(&format!("  whose move: {}", class.whose_move()));
        screen.say(&format!("  next: {}", class.next_step()));
    }
    for text in &known {
        screen.say(&format!("  {text}"));
    }
    reports.sort_by_key(|report| (report.error.is_none(), report.file));
    for report in &reports {
        screen.say(&format!("{:<15} {:>11}  {}", report.status.as_str(), ByteCount(report.size).to_string(), report.path));
        if let Some(error) = &report.error {
            screen.say(&format!("  {}: {}", error.class, error.message));
            screen.say(&format!("  whose move: {}; next: {}", error.whose_move, error.next));
        }
        screen.object(report);
    }
    Ok(exit::DONE)
}

fn line(entry: &HistoryEntry) -> String {
    format!(
        "{}  {:.0}  {:<21}  {}/{} ({})  {} -> {}",
        entry.id,
        entry.created_at,
        entry.state.as_str(),
        entry.files_done,
        files(entry.files_total),
        ByteCount(entry.bytes_total),
        entry.source,
        entry.destination
    )
}

fn object(entry: &HistoryEntry) -> Value {
    json!({
        "v": 1, "type": "transfer", "transfer_id": entry.id, "run": entry.run, "state": entry.state,
        "source": entry.source, "destination": entry.destination,
        "files_done": entry.files_done, "files_total": entry.files_total, "bytes_total": entry.bytes_total,
        "created_at": entry.created_at, "finished_at": entry.finished_at,
        "error": entry.error.as_ref().map(|(class, message)| json!({"class": class, "message": message})),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_is_one_line_and_one_object() {
        let entry = HistoryEntry {
            id: TransferId::from_random([1; 10]),
            run: 1,
            state: model::TransferState::Paused,
            source: "s3://b/p/".into(),
            destination: "sftp://h/in/".into(),
            files_done: 2,
            files_total: 3,
            bytes_total: 1 << 20,
            created_at: jiff::Timestamp::UNIX_EPOCH,
            finished_at: None,
            error: Some((model::ErrorClass::NetworkReset, "cut".into())),
        };
        assert_eq!(
            line(&entry),
            "aeaqcaibaeaqcaib  1970-01-01T00:00:00Z  paused                 2/3 files (1.0 MiB)  s3://b/p/ -> sftp://h/in/"
        );
        assert_eq!(object(&entry)["error"]["class"], "network_reset");
    }
}
