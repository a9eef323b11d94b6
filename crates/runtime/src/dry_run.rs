//! `--dry-run`: lists and plans, connects to no destination and records nothing.

use app::event::{PlannedFile, Summary};
use app::transfers::Naming;
use app::{CopySpec, Event};
use model::TransferState;
use tokio::sync::mpsc;

use crate::Failure;
use crate::copy::{blank_summary, plan_report};
use crate::open::SourceSide;
use crate::select::{Chooser, Counts};

/// Files shown; more are counted.
const SHOWN: usize = 1_000;

pub async fn dry_run(
    spec: &CopySpec,
    source: &SourceSide,
    naming: &Naming,
    chooser: &Chooser,
    events: mpsc::Sender<Event>,
) -> Result<Summary, Failure> {
    let mut counts = Counts::default();
    let mut objects = chooser.objects(source);
    let (mut files, mut bytes, mut listing, mut failed) = (0, 0, Vec::new(), 0);
    while let Some(page) = objects.next(&mut counts).await? {
        for object in page {
            match naming.path(&object.key, object.version.as_deref()) {
                Ok(path) => {
                    files += 1;
                    bytes += object.size;
                    if listing.len() < SHOWN {
                        listing.push(PlannedFile { key: object.key.to_string(), path: path.to_string(), size: object.size });
                    }
                }
                Err(error) => {
                    failed += 1;
                    let _ = events.send(Event::Note(format!("would fail: {error}"))).await;
                }
            }
        }
    }
    let mut plan = plan_report(spec, files, bytes, &counts);
    plan.dry_run = true;
    plan.more = files - listing.len() as u64;
    plan.listing = listing;
    let _ = events.send(Event::Plan(plan)).await;
    let mut summary = blank_summary(None, TransferState::Pending);
    summary.files = files;
    summary.failed = failed;
    summary.exit_code = if failed > 0 { 6 } else { 0 };
    Ok(summary)
}
