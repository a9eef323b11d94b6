//! How a run of a transfer ended, as tickets and notices tell it and as the transfer's record keeps it.

use std::fmt::Write as _;

use jiff::Timestamp;
use model::{ErrorClass, FileState, Nature, TransferState, escape_name};
use store::{FileQuery, Part, Store, TransferRecord};

use super::step::{Step, class_of};
use crate::error::{Error, Result};

/// Names of files in a notice; more are counted.
const NAMED: u32 = 20;
const UNSUCCESSFUL: &[FileState] =
    &[FileState::Failed, FileState::Held, FileState::PublishPending, FileState::Pending, FileState::InProgress];

#[derive(Debug)]
pub struct Outcome {
    pub record: TransferRecord,
    pub run: u32,
    pub state: TransferState,
    pub error: Option<(ErrorClass, String)>,
    pub delivered: u64,
    pub bytes: u64,
    pub unsuccessful: u64,
    /// Key and class of the first that are not where they should be.
    pub named: Vec<(String, Option<ErrorClass>)>,
}

impl Outcome {
    pub async fn of(store: &Store, step: &Step) -> Result<Self> {
        let record = store.transfer(&step.transfer).await?;
        let record = record.ok_or_else(|| Error::new(ErrorClass::Internal, format!("transfer {} is gone", step.transfer)))?;
        let counts = store.counts(&step.transfer).await?;
        let done = || counts.iter().filter(|count| count.state.is_success());
        let (delivered, bytes) = (done().map(|count| count.files).sum(), done().map(|count| count.bytes).sum());
        let unsuccessful = counts.iter().map(|count| count.files).sum::<u64>() - delivered;
        let query = FileQuery { part: Part::Files, states: Some(UNSUCCESSFUL), limit: NAMED, ..FileQuery::default() };
        let named = store.files(&step.transfer, query).await?.into_iter().map(|file| (file.key.to_string(), file.error_class)).collect();
        let error = match &step.data["error"] {
            serde_json::Value::Object(error) => {
                let text = |field: &str| error.get(field).and_then(|value| value.as_str()).unwrap_or_default();
                Some((text("Error").to_owned(), class_of(text("Error"), text("Cause"))))
            }
            _ => None,
        };
        let state = match &error {
            None if unsuccessful == 0 => TransferState::Completed,
            None => TransferState::CompletedWithErrors,
            Some((name, _)) if name == "Cancelled" => TransferState::Cancelled,
            Some((name, _)) if name == "Paused" => TransferState::Paused,
            Some((name, (class, _))) if name == "Held" || class.nature() == Nature::Held => TransferState::Held,
            Some(_) => TransferState::Failed,
        };
        Ok(Self { record, run: step.run, state, error: error.map(|(_, error)| error), delivered, bytes, unsuccessful, named })
    }

    /// Whether somebody may still go on with it, inside the same approval.
    pub fn may_go_on(&self) -> bool {
        !matches!(self.state, TransferState::Completed | TransferState::Cancelled)
    }

    pub fn title(&self) -> String {
        let state = self.state.as_str().replace('_', " ");
        format!("transfer {} {state}: {} delivered, {} not", self.record.id, self.delivered, self.unsuccessful)
    }

    pub fn text(&self, now: Timestamp) -> String {
        let mut text = String::new();
        let seconds = now.duration_since(self.record.created_at).as_secs();
        let _ = writeln!(text, "{} to {}", escape_name(&self.record.source), escape_name(&self.record.destination));
        let _ = writeln!(
            text,
            "run {}; {} files of {} delivered, {} bytes, {seconds} s since the request",
            self.run,
            self.delivered,
            self.delivered + self.unsuccessful,
            self.bytes
        );
        if let Some((class, message)) = &self.error {
            let _ = writeln!(text, "{class}: {message}");
            let _ = writeln!(text, "whose move: {}; next: {}", class.whose_move(), class.next_step());
        }
        for (key, class) in &self.named {
            let _ = writeln!(text, "not delivered: {key}{}", class.map(|class| format!(" ({class})")).unwrap_or_default());
        }
        let more = self.unsuccessful - self.named.len() as u64;
        if more > 0 {
            let _ = writeln!(text, "and {more} more");
        }
        text
    }
}
