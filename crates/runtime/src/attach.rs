//! `--attach`: follows a copy that another process runs, from what it records.

use std::time::{Duration, Instant};

use app::event::Summary;
use app::{CopySpec, Event, transfers};
use model::FileState;
use store::{Store, TransferQuery};
use tokio::sync::mpsc;
use transfer::meter::Snapshot;

use crate::copy::blank_summary;
use crate::{Control, Failure};

const LOOK_EVERY: Duration = Duration::from_millis(500);

pub async fn follow(
    store: &Store,
    spec: &CopySpec,
    destination: &str,
    events: mpsc::Sender<Event>,
    control: Control,
) -> Result<Summary, Failure> {
    let begun = Instant::now();
    let identity = transfers::identity(spec, destination);
    loop {
        let query = TransferQuery { identity: Some(identity.clone()), limit: 1, ..TransferQuery::default() };
        let Some(record) = store.transfers(query).await?.into_iter().next() else {
            return Err(Failure::of(model::ErrorClass::Internal, "the copy to follow is not in the records any more".to_owned()));
        };
        let counts = store.counts(&record.id).await?;
        let files = |wanted: &dyn Fn(FileState) -> bool| counts.iter().filter(|c| wanted(c.state)).map(|c| c.files).sum::<u64>();
        let one = |state| files(&|s| s == state);
        let held = store.lease(&transfers::lease_name(&record.id)).await?.is_some_and(|l| !crate::process::is_dead(&l));
        if !held || control.stop.is_cancelled() {
            let mut summary = blank_summary(Some(record.id), record.state);
            summary.files = record.files_total;
            summary.delivered = one(FileState::Delivered);
            summary.unchanged = one(FileState::Unchanged);
            summary.skipped = one(FileState::Skipped);
            summary.collected = one(FileState::Collected);
            summary.superseded = one(FileState::Superseded);
            summary.publish_pending = one(FileState::PublishPending);
            summary.held = one(FileState::Held);
            summary.failed = one(FileState::Failed);
            summary.not_finished = one(FileState::Pending) + one(FileState::InProgress);
            summary.bytes = record.bytes_total;
            summary.seconds = begun.elapsed().as_secs_f64();
            summary.exit_code = match (summary.failed + summary.held + summary.publish_pending, summary.not_finished) {
                (0, 0) => 0,
                (0, _) => record.error_class.map_or(5, |class| class.exit_code()),
                _ => 6,
            };
            return Ok(summary);
        }
        let snapshot = Snapshot {
            files_total: record.files_total,
            files_done: files(&FileState::is_success),
            files_failed: one(FileState::Failed),
            bytes_total: record.bytes_total,
            bytes_done: counts.iter().filter(|c| c.state.is_success()).map(|c| c.bytes).sum(),
            bytes_sent: 0,
            bytes_proved: 0,
            connections: 0,
            retries: 0,
            step: "followed",
        };
        let _ = events.send(Event::Progress { transfer_id: record.id, snapshot }).await;
        tokio::select! {
            _ = tokio::time::sleep(LOOK_EVERY) => {}
            _ = control.stop.cancelled() => {}
        }
    }
}
