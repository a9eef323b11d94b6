//! TransferToFTP and ChunkedTransfer: the steps in which the ferry moves bytes, from opening to the last name.

use model::{ErrorClass, FileState};
use serde_json::json;
use store::{FileQuery, FileRecord, Part};

use super::Tasks;
use super::plan::mover;
use super::step::{Done, Step, Stopped};
use crate::error::{Error, Result};

impl Tasks {
    pub(super) async fn open(&self, step: &Step) -> Result<Done, Stopped> {
        self.ferry.open(&step.transfer).await?;
        let record = self.store.transfer(&step.transfer).await?;
        Ok(Done::with(json!({"mover": mover(record.map_or(0, |record| record.bytes_total))})))
    }

    /// As much as fits into one call.
    pub(super) async fn send(&self, step: &Step, alive: &(dyn Fn() + Send + Sync)) -> Result<Done, Stopped> {
        let more = self.ferry.send(&step.transfer, alive).await?;
        Ok(Done::with(json!({"more": more})))
    }

    /// One slice after the other until nothing is left.
    pub(super) async fn send_all(&self, step: &Step, alive: &(dyn Fn() + Send + Sync)) -> Result<Done, Stopped> {
        while self.ferry.send(&step.transfer, alive).await? {
            self.obey(step).await?;
        }
        Ok(Done::with(json!({"more": false})))
    }

    pub(super) async fn finish(&self, step: &Step) -> Result<Done, Stopped> {
        self.ferry.finish(&step.transfer).await?;
        let counts = self.store.counts(&step.transfer).await?;
        let (mut delivered, mut bytes, mut failed) = (0, 0, 0);
        for count in counts {
            match count.state.is_success() {
                true => (delivered, bytes) = (delivered + count.files, bytes + count.bytes),
                false => failed += count.files,
            }
        }
        if let Some(file) = self.first(step, &[FileState::Held]).await?
            && (delivered == 0 || file.error_class.is_some_and(is_ticket))
        {
            return Err(Stopped::Held(of_file(&file, failed)));
        }
        if delivered == 0
            && failed > 0
            && let Some(file) = self.first(step, &[FileState::Failed, FileState::PublishPending, FileState::Held]).await?
        {
            return Err(match file.state {
                FileState::Failed => Stopped::GaveUp(of_file(&file, failed)),
                _ => Stopped::Held(of_file(&file, failed)),
            });
        }
        Ok(Done::with(json!({"delivered": delivered, "failed": failed, "bytes": bytes})))
    }

    async fn first(&self, step: &Step, states: &[FileState]) -> Result<Option<FileRecord>> {
        let query = FileQuery { part: Part::Files, states: Some(states), limit: 1, ..FileQuery::default() };
        Ok(self.store.files(&step.transfer, query).await?.into_iter().next())
    }
}

fn is_ticket(class: ErrorClass) -> bool {
    matches!(class, ErrorClass::TicketInvalid | ErrorClass::TicketUnavailable | ErrorClass::WindowClosed | ErrorClass::PolicyDenied)
}

/// The failure of one file as that of the transfer.
fn of_file(file: &FileRecord, all: u64) -> Error {
    let class = file.error_class.unwrap_or(ErrorClass::Internal);
    let message = file.error_text.clone().unwrap_or_else(|| format!("{} is {}", file.key, file.state));
    Error::new(class, if all > 1 { format!("{message}; so or otherwise {all} files") } else { message })
}
