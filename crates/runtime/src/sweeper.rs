//! Looks after what ended: executions that ended without their tail, slots whose transfer is over, temporary files that
//! nobody will go on with, records whose time is over, and sessions that nobody uses.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use app::tasks::Stopped;
use jiff::{SignedDuration, Timestamp};
use model::{FileState, TransferId, TransferState};
use store::{FileQuery, Mutation, RequestQuery};
use tokio::sync::mpsc::UnboundedReceiver;
use workflow::Status;

use crate::service::Inner;

const TIDY_EVERY: Duration = Duration::from_secs(5);
/// Of those, one in so many looks at slots and ends that were missed, and sweeps the records.
const SWEEP_EACH: u32 = 12;
const LEFTOVERS_EACH: u32 = 720;
const SWEPT_AT_ONCE: u32 = 1_000;
/// What could not be removed is tried again for so long.
const TRIED_FOR: SignedDuration = SignedDuration::from_hours(30 * 24);

pub(crate) async fn run(inner: Arc<Inner>) {
    let mut cleared = HashSet::new();
    for turn in 0u32.. {
        if turn.is_multiple_of(SWEEP_EACH)
            && let Err(error) = sweep(&inner).await
        {
            tracing::warn!(error = %error.message, "the records were not swept");
        }
        if turn % LEFTOVERS_EACH == LEFTOVERS_EACH - 1
            && let Err(error) = leftovers(&inner, &mut cleared, inner.settings.clock.wall()).await
        {
            tracing::warn!(error = %error.message, "temporary files were not looked for");
        }
        inner.harbour.docks().tidy().await;
        tokio::select! {
            _ = inner.stop.cancelled() => return,
            _ = tokio::time::sleep(TIDY_EVERY) => {}
        }
    }
}

async fn sweep(inner: &Inner) -> app::Result<()> {
    missed(inner).await?;
    orphans(inner).await?;
    let now = inner.settings.clock.wall();
    while inner.store.commit(Mutation::Sweep { now, limit: SWEPT_AT_ONCE }).await?.swept >= u64::from(SWEPT_AT_ONCE) {}
    Ok(())
}

/// Transfers under way whose execution has ended: this process, or the one before, did not come to look.
async fn missed(inner: &Inner) -> app::Result<()> {
    let mut before = None;
    loop {
        let query = RequestQuery { states: vec![TransferState::InProgress], before, ..RequestQuery::default() };
        let page = inner.store.requests(query).await?;
        let Some(last) = page.last() else { return Ok(()) };
        before = Some(last.record.transfer.clone());
        for request in page {
            let Some(name) = request.record.execution else { continue };
            let Some(execution) = inner.store.execution(&name).await? else { continue };
            if execution.status.is_terminal() {
                let (error, cause) = ("States.Runtime", format!("the execution {name} has ended as {}", execution.status));
                after_end(inner, &request.record.transfer, request.run, error, &cause).await;
            }
        }
    }
}

/// Slots whose transfer is not under way.
async fn orphans(inner: &Inner) -> app::Result<()> {
    for (connector, holder) in inner.store.slots(None).await? {
        let under_way = inner.store.transfer(&holder).await?.is_some_and(|transfer| transfer.state == TransferState::InProgress);
        if !under_way {
            tracing::info!(connector, transfer = %holder, "a slot was still taken by a transfer that is over");
            inner.store.commit(Mutation::ReleaseSlot { connector, holder }).await?;
            inner.wake.notify_one();
        }
    }
    Ok(())
}

/// Told of every end. Those that passed the tail have set their transfer's state; the others get their tail here.
pub(crate) async fn after_ends(inner: Arc<Inner>, mut ended: UnboundedReceiver<(String, Status)>) {
    loop {
        let (execution, status) = tokio::select! {
            _ = inner.stop.cancelled() => return,
            told = ended.recv() => match told {
                Some(told) => told,
                None => return,
            },
        };
        inner.wake.notify_one();
        inner.told.notify_one();
        let Some((transfer, run)) = read_name(&execution) else { continue };
        let (error, cause) = match status {
            Status::Running => continue,
            Status::Succeeded { .. } => ("States.Runtime".to_owned(), "the tail was not reached".to_owned()),
            Status::Failed(fault) | Status::TimedOut(fault) | Status::Aborted(fault) => (fault.error, fault.cause),
        };
        after_end(&inner, &transfer, run, &error, &cause).await;
    }
}

async fn after_end(inner: &Inner, transfer: &TransferId, run: u32, error: &str, cause: &str) {
    let left = match inner.store.transfer(transfer).await {
        Ok(record) => record.is_some_and(|record| record.state == TransferState::InProgress && record.run == run),
        Err(error) => {
            tracing::warn!(%transfer, error = %transfer::error::chain(&error), "an end was not looked after");
            return;
        }
    };
    if !left {
        return;
    }
    match inner.tasks.tail(transfer, run, error, cause).await {
        Ok(()) | Err(Stopped::Interrupted) => {}
        Err(stopped) => tracing::warn!(%transfer, ?stopped, "the tail of a transfer is tried again"),
    }
    inner.wake.notify_one();
    inner.told.notify_one();
}

fn read_name(execution: &str) -> Option<(TransferId, u32)> {
    let (transfer, run) = execution.strip_prefix("ff-")?.rsplit_once('-')?;
    Some((transfer.parse().ok()?, run.parse().ok()?))
}

/// Temporary files of transfers that ended: of cancelled ones where that failed at once, of others after their time. What
/// is verified or held was kept for a person, and goes at the same time.
pub(crate) async fn leftovers(inner: &Inner, cleared: &mut HashSet<(TransferId, u32)>, now: Timestamp) -> app::Result<()> {
    let ends = [TransferState::Failed, TransferState::CompletedWithErrors, TransferState::Cancelled];
    let unfinished: Vec<FileState> = FileState::ALL.iter().copied().filter(|state| !state.is_success()).collect();
    let mut before = None;
    loop {
        let query = RequestQuery { states: ends.to_vec(), before, ..RequestQuery::default() };
        let page = inner.store.requests(query).await?;
        let Some(last) = page.last() else { return Ok(()) };
        before = Some(last.record.transfer.clone());
        for request in page {
            let transfer = request.record.transfer;
            let Some(record) = inner.store.transfer(&transfer).await? else { continue };
            let kept = if request.state == TransferState::Cancelled { SignedDuration::ZERO } else { inner.settings.keep_temporary };
            let age = record.finished_at.map(|at| now.duration_since(at));
            let run = (transfer, record.run);
            if !age.is_some_and(|age| age >= kept && age < kept + TRIED_FOR) || cleared.contains(&run) {
                continue;
            }
            let query = FileQuery { states: Some(&unfinished), ..FileQuery::default() };
            let files = inner.store.files(&run.0, query).await?;
            let is_left = files.iter().any(|file| file.checkpoint.is_some() || file.intent.is_some() || file.attempt > 1);
            if !is_left || inner.harbour.clear_of(&run.0).await {
                cleared.insert(run);
            }
        }
    }
}
