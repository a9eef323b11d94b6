//! TransferToFTP and ChunkedTransfer: the steps in which the ferry moves bytes, from opening to the last name.

use model::{ErrorClass, FileState};
use serde_json::json;
use store::{FileQuery, FileRecord, Part, RequestRecord};

use super::Tasks;
use super::plan::mover;
use super::step::{Done, Step, Stopped};
use crate::error::{Error, Result};
use crate::hindrance::Hindrance;

const PAGE: u32 = 500;
const NAMELESS: &[FileState] = &[FileState::Pending, FileState::InProgress, FileState::PublishPending, FileState::Held];

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

    pub(super) async fn finish(&self, step: &Step, request: &RequestRecord) -> Result<Done, Stopped> {
        self.waits_for_connector(step, request).await?;
        self.ferry.finish(&step.transfer).await?;
        // The gate may have refused the last names.
        self.waits_for_connector(step, request).await?;
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

    /// What has no name yet waits until the connector may be used again; where nothing is left, nobody waits.
    async fn waits_for_connector(&self, step: &Step, request: &RequestRecord) -> Result<(), Stopped> {
        let Some(hindrance) = Hindrance::at(&self.store, &request.connector, self.clock.wall()).await? else { return Ok(()) };
        let mut after = None;
        loop {
            let query = FileQuery { part: Part::Everything, after, states: Some(NAMELESS), limit: PAGE };
            let page = self.store.files(&step.transfer, query).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.number);
            // Held for another reason, a file waits for a person and keeps nobody else.
            if page.iter().any(|file| file.state != FileState::Held || file.error_class == Some(hindrance.class)) {
                return Err(Stopped::Held(hindrance.error()));
            }
        }
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
