//! `copy` and `resume`: lists the source into the manifest, runs the engine over it under a lease, and says how it ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use app::event::{ErrorReport, Summary};
use app::ledger::Tally;
use app::{CopySpec, Event, transfers};
use jiff::{SignedDuration, Timestamp};
use model::{Credential, ErrorClass, FileState, TransferId, TransferState};
use store::{FileQuery, Store};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use transfer::meter::Meter;

use crate::contract::Besides;
use crate::ends::{Ends, with_staging_directory};
use crate::open::{self, Login};
use crate::passage::{Passage, own_records};
use crate::round::Round;
use crate::select::Counts;
use crate::{Control, CopyMode, Failure, Place, attach, process};

/// Progress is told four times a second.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// Copies what the spec names. An interrupted copy of the same spec is continued.
pub async fn copy(
    place: &Place,
    spec: CopySpec,
    password: Option<Credential>,
    mode: CopyMode,
    events: mpsc::Sender<Event>,
    control: Control,
) -> Result<Summary, Failure> {
    copy_round(place, spec, password, mode, events, control, None).await
}

pub(crate) async fn copy_round(
    place: &Place,
    spec: CopySpec,
    password: Option<Credential>,
    mode: CopyMode,
    events: mpsc::Sender<Event>,
    control: Control,
    round: Option<Round>,
) -> Result<Summary, Failure> {
    let spec = with_staging_directory(spec)?;
    // Mistakes in the request come before anything is recorded.
    let login = if mode.dry_run { Login::Never } else { Login::Now };
    let ends = Ends::open(place, spec, password, login).await?;
    if mode.dry_run {
        return crate::dry_run::dry_run(place, &ends, events).await;
    }
    let store = place.store().await?;
    let (spec, shown) = (&ends.spec, open::parse(&ends.spec.destination)?.to_string());
    let held = match transfers::begin(&store, spec, &shown, &process::holder(place.lease), ends.naming.now, process::is_dead).await {
        Ok(held) => held,
        Err(error) if error.held_by.is_some() && mode.attach => return attach::follow(&store, spec, &shown, events, control).await,
        Err(error) => return Err(error.into()),
    };
    let passage = Passage { state: place.state.clone(), store, ends: Arc::new(ends), held, events, round };
    Ok(Run { passage, lease: place.lease, control }.carry_out(true).await)
}

/// Continues interrupted transfers as they were asked for; `None` is every unfinished one.
pub async fn resume(
    place: &Place,
    id: Option<TransferId>,
    password: Option<Credential>,
    events: mpsc::Sender<Event>,
    control: Control,
) -> Result<Vec<Summary>, Failure> {
    let store = place.store().await?;
    let mut summaries = Vec::new();
    for record in crate::history::unfinished(&store, id.as_ref()).await? {
        if control.stop.is_cancelled() {
            break;
        }
        let ends = Ends::open(place, crate::stored_spec(&record)?, password.clone(), Login::Now).await?;
        let listed = record.listed;
        let held = match transfers::take(&store, record, &process::holder(place.lease), ends.naming.now, process::is_dead).await {
            Ok(held) => held,
            // With no id given, a copy that is being run right now is simply not ours to resume.
            Err(error) if error.held_by.is_some() && id.is_none() => {
                let _ = events.send(Event::Note(error.message)).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let (state, store, events) = (place.state.clone(), store.clone(), events.clone());
        let passage = Passage { state, store, ends: Arc::new(ends), held, events, round: None };
        summaries.push(Run { passage, lease: place.lease, control: control.clone() }.carry_out(!listed).await);
    }
    Ok(summaries)
}

/// One run of a transfer from the command line.
struct Run {
    passage: Passage,
    lease: SignedDuration,
    control: Control,
}

impl Run {
    /// Runs a held transfer and records how it ended. Never an error: what went wrong is in the summary.
    async fn carry_out(self, list: bool) -> Summary {
        let Passage { store, held, ends, .. } = &self.passage;
        let options = &ends.spec.options;
        let begun = Instant::now();
        let stop = self.control.stop.child_token();
        let mut background = JoinSet::new();
        background.spawn(keep_lease(store.clone(), held.guard(), self.lease, stop.clone()));
        let timed_out = CancellationToken::new();
        if let Some(limit) = options.max_duration {
            let (stop, timed_out) = (stop.clone(), timed_out.clone());
            background.spawn(async move {
                tokio::time::sleep(limit).await;
                timed_out.cancel();
                stop.cancel();
            });
        }
        let (mut tally, mut besides) = (Tally::default(), Besides::default());
        let outcome = self.deliver(list, &stop, &mut tally, &mut besides).await;
        background.shutdown().await;

        let mut error = outcome.err();
        // The engine was stopped because another process has the lease; nobody asked for an interruption.
        if error.as_ref().is_some_and(|e| e.class == ErrorClass::Cancelled)
            && !self.control.stop.is_cancelled()
            && transfers::is_lost(store, held).await.unwrap_or(false)
        {
            error = Some(
                app::Error::new(ErrorClass::LeaseLost, "another process has taken this copy over")
                    .next("nothing: the other process goes on with it; `fileferry history` shows how far it is"),
            );
        }
        if timed_out.is_cancelled() && error.as_ref().is_some_and(|e| e.class == ErrorClass::Cancelled) {
            error = Some(app::Error::new(ErrorClass::Cancelled, "--max-duration is over; the rest waits for a resume"));
        }
        let left = self.left().await;
        let waiting = self.waiting().await;
        let state = state_of(&tally, left, waiting, error.as_ref());
        if let Err(lost) = transfers::end(store, held, state, error.as_ref(), Timestamp::now()).await
            && error.is_none()
        {
            error = Some(lost);
        }
        let mut summary = blank_summary(Some(held.record.id.clone()), state);
        tally.fill(&mut summary);
        summary.companions = besides.companions.succeeded();
        summary.companions_failed = besides.companions.ended() - summary.companions;
        (summary.removed, summary.source_kept) = (besides.removed, besides.kept);
        for (class, count) in &besides.companions.errors {
            *summary.errors.entry(class.name().to_owned()).or_default() += count;
        }
        tally.companions_failed(&besides.companions);
        summary.files = tally.ended() + left;
        summary.not_finished = left;
        summary.seconds = begun.elapsed().as_secs_f64();
        summary.exit_code = exit_code(&tally, error.as_ref(), options.fail_if_empty);
        if timed_out.is_cancelled() && summary.exit_code == ErrorClass::Cancelled.exit_code() {
            summary.exit_code = ErrorClass::NetworkStalled.exit_code();
        }
        summary.error = error.map(|e| {
            let mut report = ErrorReport::new(e.class, e.message);
            report.next = e.next.unwrap_or(report.next);
            report
        });
        summary
    }

    /// Whether something is left that the same command must go on with: a file that rests, or what goes with one.
    async fn waiting(&self) -> bool {
        let unfinished = [FileState::Failed, FileState::Held, FileState::PublishPending, FileState::Pending, FileState::InProgress];
        let query = FileQuery { states: Some(&unfinished), limit: 1, ..FileQuery::default() };
        self.passage.store.files(self.id(), query).await.is_ok_and(|files| !files.is_empty())
    }

    /// Files of the manifest that are neither done nor given up.
    async fn left(&self) -> u64 {
        let counts = self.passage.store.counts(self.id()).await.unwrap_or_default();
        counts.iter().filter(|c| matches!(c.state, FileState::Pending | FileState::InProgress)).map(|c| c.files).sum()
    }

    fn id(&self) -> &TransferId {
        &self.passage.held.record.id
    }

    async fn deliver(&self, list: bool, stop: &CancellationToken, tally: &mut Tally, besides: &mut Besides) -> app::Result<()> {
        let passage = &self.passage;
        let meter = Arc::new(Meter::default());
        let (totals, counts) = if list { passage.list(tally, stop).await? } else { (passage.recorded().await?, Counts::default()) };
        meter.expect(totals.files - totals.done_files, totals.bytes - totals.done_bytes);
        passage.tell_plan(totals, counts).await;
        if totals.files == 0 && tally.ended() == 0 && !passage.held.resumed {
            return Ok(());
        }
        let acquaintance = passage.acquaintance().await;
        let dock = passage.dock(meter.clone(), &acquaintance);
        let mut opened = passage.open(&dock, acquaintance, meter.clone(), &own_records, stop.clone()).await?;
        let mut watching = JoinSet::new();
        watching.spawn(tell_progress(self.id().clone(), meter, passage.events.clone()));
        let mut outcome = opened.send(passage, None).await;
        if outcome.is_ok() {
            outcome = opened.at_the_end().await;
        }
        watching.shutdown().await;
        opened.settle(passage, outcome.is_ok()).await;
        dock.pool().close().await;
        let (files, companions) = opened.tallies();
        tally.merge(files);
        besides.companions = companions;
        if outcome.is_ok() {
            opened.originals(besides).await?;
        }
        outcome
    }
}

/// Renews the lease until the run ends; a lease that is lost stops it at once.
pub(crate) async fn keep_lease(store: Store, guard: store::LeaseGuard, lease: SignedDuration, stop: CancellationToken) {
    // Two renewals may fail before the lease runs out.
    let every = lease.unsigned_abs() / 3;
    loop {
        tokio::time::sleep(every).await;
        match transfers::renew(&store, &guard, lease, Timestamp::now()).await {
            Err(error) if error.class == ErrorClass::LeaseLost => return stop.cancel(),
            Err(error) => tracing::warn!(error = %error.message, "the lease could not be renewed"),
            Ok(()) => {}
        }
    }
}

async fn tell_progress(id: TransferId, meter: Arc<Meter>, events: mpsc::Sender<Event>) {
    loop {
        tokio::time::sleep(PROGRESS_EVERY).await;
        // Lossy: a watcher that is behind gets the next one.
        let _ = events.try_send(Event::Progress { transfer_id: id.clone(), snapshot: meter.snapshot() });
    }
}

pub(crate) fn blank_summary(id: Option<TransferId>, state: TransferState) -> Summary {
    Summary {
        v: 1,
        kind: "summary",
        transfer_id: id,
        state,
        files: 0,
        delivered: 0,
        unchanged: 0,
        skipped: 0,
        collected: 0,
        superseded: 0,
        publish_pending: 0,
        held: 0,
        failed: 0,
        not_finished: 0,
        bytes: 0,
        bytes_sent: 0,
        bytes_resumed: 0,
        seconds: 0.0,
        companions: 0,
        companions_failed: 0,
        removed: 0,
        source_kept: 0,
        errors: Default::default(),
        error: None,
        exit_code: 0,
    }
}

fn state_of(tally: &Tally, left: u64, waiting: bool, error: Option<&app::Error>) -> TransferState {
    match error {
        Some(error) if error.class == ErrorClass::Cancelled => TransferState::Paused,
        Some(_) => TransferState::Failed,
        None if left > 0 => TransferState::Paused,
        None if waiting && tally.failed + tally.held + tally.publish_pending == 0 => TransferState::CompletedWithErrors,
        None if tally.failed + tally.held + tally.publish_pending == 0 => TransferState::Completed,
        None if tally.succeeded() > 0 => TransferState::CompletedWithErrors,
        None if tally.failed == 0 => TransferState::Held,
        None => TransferState::Failed,
    }
}

/// One file: its own class; several: 6 as soon as one failed.
fn exit_code(tally: &Tally, error: Option<&app::Error>, fail_if_empty: bool) -> u8 {
    if let Some(error) = error {
        return error.class.exit_code();
    }
    let unsuccessful = tally.failed + tally.held + tally.publish_pending;
    match (unsuccessful, tally.ended()) {
        (_, 0) if fail_if_empty => ErrorClass::SourceMissing.exit_code(),
        (0, _) => 0,
        (1, 1) => tally.errors.keys().next().map_or(ErrorClass::Internal.exit_code(), |class| class.exit_code()),
        _ => 6,
    }
}
