//! `copy` and `resume`: lists the source into the manifest, runs the engine over it under a lease, and says how it ended.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use app::delivery::Letterhead;
use app::event::{ErrorReport, FileReport, PlanReport, Summary};
use app::feed::ManifestFeed;
use app::ledger::{StoreLedger, Tally};
use app::logins::StoreLogins;
use app::manifest::{Manifest, Totals};
use app::profiles;
use app::spec::Mkdir;
use app::transfers::{self, Held, Naming};
use app::{CopySpec, Event};
use jiff::{SignedDuration, Timestamp};
use model::{ByteCount, Credential, DigestSet, ErrorClass, FileNumber, FileState, Publish, Strategy, TempName, TransferId, TransferState};
use store::{FileQuery, Store};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use transfer::Source;
use transfer::engine::{Engine, Setup, Tuning};
use transfer::meter::Meter;
use transfer::port::{Logins, Wishes};
use transfer::retry::Backoff;

use crate::contract::{Agreed, Besides};
use crate::open::{self, DestinationSide, Login, SourceSide};
use crate::round::Round;
use crate::select::{Chooser, Counts};
use crate::sweep::{self, Whose};
use crate::{Control, CopyMode, Failure, Place, attach, process};

/// Progress is told four times a second.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
const PROGRAM: &str = concat!("fileferry ", env!("CARGO_PKG_VERSION"));

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
    let destination = open::destination(&spec.destination, &spec.server, &spec.options, password, login, place)?;
    let source = open::source(&spec.source, &spec.s3, &spec.options, place).await?;
    let now = Timestamp::now();
    let naming = open::naming(&spec, &source, &destination, now)?;
    let chooser = Chooser::new(&spec.options, &source, &naming)?;
    if mode.dry_run {
        return crate::dry_run::dry_run(place, &spec, &source, &destination, &naming, &chooser, events).await;
    }
    let store = place.store().await?;
    let shown = open::parse(&spec.destination)?.to_string();
    let held = match transfers::begin(&store, &spec, &shown, &process::holder(place.lease), now, process::is_dead).await {
        Ok(held) => held,
        Err(error) if error.held_by.is_some() && mode.attach => return attach::follow(&store, &spec, &shown, events, control).await,
        Err(error) => return Err(error.into()),
    };
    let run = Run { place, spec: &spec, source, destination, naming, chooser, store, events, control, round };
    Ok(run.carry_out(held, true).await)
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
        let spec: CopySpec = crate::stored_spec(&record)?;
        let destination = open::destination(&spec.destination, &spec.server, &spec.options, password.clone(), Login::Now, place)?;
        let source = open::source(&spec.source, &spec.s3, &spec.options, place).await?;
        let now = Timestamp::now();
        let naming = open::naming(&spec, &source, &destination, now)?;
        let chooser = Chooser::new(&spec.options, &source, &naming)?;
        let listed = record.listed;
        let held = match transfers::take(&store, record, &process::holder(place.lease), now, process::is_dead).await {
            Ok(held) => held,
            // With no id given, a copy that is being run right now is simply not ours to resume.
            Err(error) if error.held_by.is_some() && id.is_none() => {
                let _ = events.send(Event::Note(error.message)).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let run = Run {
            place,
            spec: &spec,
            source,
            destination,
            naming,
            chooser,
            store: store.clone(),
            events: events.clone(),
            control: control.clone(),
            round: None,
        };
        summaries.push(run.carry_out(held, !listed).await);
    }
    Ok(summaries)
}

/// `--publish staging-dir` without a `--temp-name` that names a directory means `tmp/` beside the final name.
fn with_staging_directory(mut spec: CopySpec) -> Result<CopySpec, Failure> {
    let options = &mut spec.options;
    if options.publish == Publish::StagingDir && !options.temp_name.as_str().contains('/') {
        options.temp_name = TempName::parse("tmp/{id}.part").map_err(transfer::Error::from)?;
    }
    Ok(spec)
}

struct Run<'a> {
    place: &'a Place,
    spec: &'a CopySpec,
    source: SourceSide,
    destination: DestinationSide,
    naming: Naming,
    chooser: Chooser,
    store: Store,
    events: mpsc::Sender<Event>,
    control: Control,
    /// What a watch has chosen, instead of a listing.
    round: Option<Round>,
}

impl Run<'_> {
    /// Runs a held transfer and records how it ended. Never an error: what went wrong is in the summary.
    async fn carry_out(self, held: Held, list: bool) -> Summary {
        let begun = Instant::now();
        let stop = self.control.stop.child_token();
        let mut background = JoinSet::new();
        background.spawn(keep_lease(self.store.clone(), held.guard(), self.place.lease, stop.clone()));
        let timed_out = CancellationToken::new();
        if let Some(limit) = self.spec.options.max_duration {
            let (stop, timed_out) = (stop.clone(), timed_out.clone());
            background.spawn(async move {
                tokio::time::sleep(limit).await;
                timed_out.cancel();
                stop.cancel();
            });
        }
        let (mut tally, mut besides) = (Tally::default(), Besides::default());
        let outcome = self.deliver(&held, list, &stop, &mut tally, &mut besides).await;
        background.shutdown().await;

        let mut error = outcome.err();
        // The engine was stopped because another process has the lease; nobody asked for an interruption.
        if error.as_ref().is_some_and(|e| e.class == ErrorClass::Cancelled)
            && !self.control.stop.is_cancelled()
            && transfers::is_lost(&self.store, &held).await.unwrap_or(false)
        {
            error = Some(
                app::Error::new(ErrorClass::LeaseLost, "another process has taken this copy over")
                    .next("nothing: the other process goes on with it; `fileferry history` shows how far it is"),
            );
        }
        if timed_out.is_cancelled() && error.as_ref().is_some_and(|e| e.class == ErrorClass::Cancelled) {
            error = Some(app::Error::new(ErrorClass::Cancelled, "--max-duration is over; the rest waits for a resume"));
        }
        let left = self.left(&held).await;
        let waiting = self.waiting(&held).await;
        let state = state_of(&tally, left, waiting, error.as_ref());
        if let Err(lost) = transfers::end(&self.store, &held, state, error.as_ref(), Timestamp::now()).await
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
        summary.exit_code = exit_code(&tally, error.as_ref(), self.spec.options.fail_if_empty);
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
    async fn waiting(&self, held: &Held) -> bool {
        let unfinished = [FileState::Failed, FileState::Held, FileState::PublishPending, FileState::Pending, FileState::InProgress];
        let query = FileQuery { states: Some(&unfinished), limit: 1, ..FileQuery::default() };
        self.store.files(&held.record.id, query).await.is_ok_and(|files| !files.is_empty())
    }

    /// Files of the manifest that are neither done nor given up.
    async fn left(&self, held: &Held) -> u64 {
        let counts = self.store.counts(&held.record.id).await.unwrap_or_default();
        counts.iter().filter(|c| matches!(c.state, FileState::Pending | FileState::InProgress)).map(|c| c.files).sum()
    }

    async fn deliver(
        &self,
        held: &Held,
        list: bool,
        stop: &CancellationToken,
        tally: &mut Tally,
        besides: &mut Besides,
    ) -> app::Result<()> {
        let options = &self.spec.options;
        let meter = Arc::new(Meter::default());
        let (totals, counts) = if list { self.list(held, tally, stop).await? } else { (self.recorded(held).await?, Counts::default()) };
        meter.expect(totals.files - totals.done_files, totals.bytes - totals.done_bytes);
        self.tell_plan(held, totals, counts).await;
        if totals.files == 0 && tally.ended() == 0 && !held.resumed {
            return Ok(());
        }

        let letterhead = Letterhead {
            held: held.clone(),
            endpoint: self.destination.endpoint.clone(),
            store: self.source.source.store().to_owned(),
            bucket: self.source.source.bucket().to_owned(),
            program: PROGRAM.to_owned(),
            key: Arc::new(
                crate::keys::load_or_create(&self.place.state).map_err(|e| app::Error::new(ErrorClass::Internal, e.to_string()))?,
            ),
        };
        let source_name = letterhead.source();
        let mut agreed = Agreed::new(
            self.store.clone(),
            held.clone(),
            options.clone(),
            letterhead.clone(),
            self.destination.key.clone(),
            &self.naming,
            self.source.source.clone(),
            self.events.clone(),
            &self.place.state,
        )
        .await?;
        agreed.may_begin().await?;
        let ledger = StoreLedger::new(
            self.store.clone(),
            letterhead,
            self.destination.key.clone(),
            options.if_exists,
            self.source.source.clone(),
            self.events.clone(),
        );
        let ledger = Arc::new(ledger.followed_by(agreed.following.clone()));
        let logins: Arc<dyn Logins> = Arc::new(StoreLogins::new(
            self.store.clone(),
            self.destination.key.clone(),
            self.destination.credential.clone(),
            options.retry_auth,
        ));
        let known = self.known().await;
        ledger.explain_with(known.clone());
        let known = known.map(|profile| profiles::known(&profile, Timestamp::now())).unwrap_or_default();
        let setup = |source: Arc<dyn Source>, ledger: Arc<StoreLedger>, meter: Arc<Meter>| Setup {
            transfer: held.record.id.clone(),
            run: held.record.run,
            epoch: held.lease.epoch,
            source,
            connector: self.destination.connector.clone(),
            ledger: ledger.clone(),
            gate: ledger,
            logins: logins.clone(),
            meter,
            wishes: wishes(options),
            tuning: tuning(options),
            root: self.naming.root.clone(),
            temp_name: options.temp_name.clone(),
            stop: stop.clone(),
        };
        let engine = Engine::knowing(setup(self.source.source.clone(), ledger.clone(), meter.clone()), known);
        let (companions, their_source) = agreed.beside();
        let beside = engine.beside(setup(their_source, companions.clone(), Arc::default()));
        let feed = ManifestFeed::new(self.store.clone(), held.clone(), self.destination.key.clone(), source_name, engine.small_up_to());
        let resting = match &self.round {
            Some(round) => round.left_for_later(&self.store, held).await?,
            None => HashSet::new(),
        };
        let feed = agreed.feed(feed, resting).await?;
        let mut watching = JoinSet::new();
        watching.spawn(tell_progress(held.record.id.clone(), meter, self.events.clone()));
        let mut outcome = agreed.deliver(&engine, &beside, feed).await.map_err(app::Error::from);
        if outcome.is_ok() {
            outcome = agreed.at_the_end(&beside).await;
        }
        watching.shutdown().await;
        for note in engine.pool().take_notes() {
            let _ = self.events.send(Event::Note(note)).await;
        }
        // An earlier process may have died with temporary files open; this one knows which are of no more use.
        if held.lease.epoch > 1 && outcome.is_ok() {
            sweep::after_run(Whose::Earlier, &self.store, held, &engine, options, &self.naming).await;
        }
        if outcome.is_err() && transfers::is_lost(&self.store, held).await.unwrap_or(false) {
            sweep::after_run(Whose::Own, &self.store, held, &engine, options, &self.naming).await;
        }
        engine.pool().close().await;
        self.remember(&engine).await;
        tally.merge(ledger.tally());
        besides.companions = companions.tally();
        if outcome.is_ok() {
            agreed.originals(stop, besides).await?;
        }
        outcome
    }

    /// What earlier looks at this server have shown; what that means is said before anything is sent.
    async fn known(&self) -> Option<model::Profile> {
        let known = profiles::load(&self.store, &self.destination.key).await;
        let known = known.inspect_err(|error| tracing::warn!(error = %error.message, "the profile cannot be read")).ok().flatten()?;
        for warning in profiles::warnings(&known, &self.spec.options, Timestamp::now()) {
            let _ = self.events.send(Event::Note(warning)).await;
        }
        Some(known)
    }

    /// Keeps what this run found out. What has changed since the last look is said; it never makes a copy fail.
    async fn remember(&self, engine: &Engine) {
        if self.destination.endpoint.protocol == model::Protocol::File {
            return;
        }
        let Some(newer) = profiles::learned(&self.destination.key, &engine.learned(), Timestamp::now()) else { return };
        match profiles::observe(&self.store, newer).await {
            Ok((_, drift)) => {
                for text in profiles::drift_notes(&drift) {
                    let _ = self.events.send(Event::Note(text)).await;
                }
            }
            Err(error) => tracing::warn!(error = %error.message, "what was learnt of the server could not be kept"),
        }
    }

    /// Lists the source into the manifest. Keys that cannot have a name fail here, before anything is connected.
    async fn list(&self, held: &Held, tally: &mut Tally, stop: &CancellationToken) -> app::Result<(Totals, Counts)> {
        let mut manifest = Manifest::open(&self.store, held, &self.naming, &self.spec.options).await?;
        let mut counts = Counts::default();
        let mut objects = match &self.round {
            Some(round) => self.chooser.given(&self.source, round.objects.clone()),
            None => self.chooser.objects(&self.source),
        };
        let mut unnamed = 0;
        while let Some(page) = objects.next(&mut counts).await? {
            if stop.is_cancelled() {
                return Err(app::Error::new(ErrorClass::Cancelled, "stopped while listing"));
            }
            for object in page {
                let Some(bad) = manifest.add(object, Timestamp::now()).await? else { continue };
                tally.count_failure(ErrorClass::DestNameInvalid);
                unnamed += 1;
                let report = FileReport {
                    v: 1,
                    kind: "file",
                    transfer_id: held.record.id.clone(),
                    file: FileNumber(u32::MAX - unnamed + 1),
                    status: FileState::Failed,
                    key: bad.key.to_string(),
                    path: String::new(),
                    size: bad.size,
                    error: Some(ErrorReport::new(ErrorClass::DestNameInvalid, bad.error.to_string())),
                    kept: None,
                    verification: None,
                    seconds: 0.0,
                };
                let _ = self.events.send(Event::File(report)).await;
            }
        }
        if self.round.as_ref().is_some_and(|round| round.in_part) {
            manifest = manifest.in_part();
        }
        let totals = manifest.complete(Timestamp::now()).await?;
        Ok((totals, counts))
    }

    /// The totals of a manifest that an earlier run completed.
    async fn recorded(&self, held: &Held) -> app::Result<Totals> {
        let counts = self.store.counts(&held.record.id).await?;
        let done = counts.iter().filter(|c| c.state.is_success());
        Ok(Totals {
            files: counts.iter().map(|c| c.files).sum(),
            bytes: counts.iter().map(|c| c.bytes).sum(),
            done_files: done.clone().map(|c| c.files).sum(),
            done_bytes: done.map(|c| c.bytes).sum(),
        })
    }

    async fn tell_plan(&self, held: &Held, totals: Totals, counts: Counts) {
        let mut plan = plan_report(self.spec, totals.files, totals.bytes, &counts);
        plan.transfer_id = held.record.id.clone();
        plan.run = held.record.run;
        plan.resumed = held.resumed;
        let _ = self.events.send(Event::Plan(plan)).await;
    }
}

pub(crate) fn plan_report(spec: &CopySpec, files: u64, bytes: u64, counts: &Counts) -> PlanReport {
    PlanReport {
        v: 1,
        kind: "plan",
        transfer_id: TransferId::from_random([0; 10]),
        run: 1,
        resumed: false,
        source: spec.source.clone(),
        destination: spec.destination.clone(),
        files,
        bytes,
        excluded: counts.excluded,
        folder_markers: counts.folder_markers.clone(),
        files_direct: counts.by_strategy[0],
        files_chunked: counts.by_strategy[1],
        files_parallel: counts.by_strategy[2],
        verify: spec.options.least_proof().to_string(),
        proof_bytes: counts.proof_bytes,
        if_exists: spec.options.if_exists.to_string(),
        publish: spec.options.publish.to_string(),
        companions: files * spec.options.sidecars.len() as u64
            + if files > 0 { u64::from(spec.options.manifest.is_some()) + u64::from(spec.options.done.is_some()) } else { 0 },
        order: spec.options.order.map(|order| order.to_string()),
        after: spec.options.after.to_string(),
        dry_run: false,
        listing: Vec::new(),
        more: 0,
        known: None,
    }
}

/// Which of the three counters a size belongs to.
pub(crate) fn strategy_index(spec: &app::Options, size: u64) -> usize {
    match spec.thresholds.strategy(ByteCount(size)) {
        Strategy::Direct => 0,
        Strategy::Chunked => 1,
        Strategy::Parallel => 2,
    }
}

fn wishes(options: &app::Options) -> Wishes {
    Wishes {
        if_exists: options.if_exists,
        publish: options.publish,
        verify: options.least_proof(),
        digests: DigestSet::from_list(&options.wanted_digests()),
        resend: options.resend,
        preserve_time: options.preserve_time,
        permissions: options.chmod,
        make_directories: options.mkdir != Mkdir::Never,
        make_root: options.mkdir == Mkdir::All,
    }
}

fn tuning(options: &app::Options) -> Tuning {
    Tuning {
        connections: options.connections.map(|n| n.max(1) as usize),
        transfers: options.transfers.max(1) as usize,
        lanes: options.lanes.max(1) as usize,
        range_size: options.chunk_size.get(),
        budget: options.buffer.get(),
        bandwidth: options.bwlimit.clone(),
        backoff: Backoff { attempts: options.retries.max(1), ..Backoff::default() },
        thresholds: options.thresholds,
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
