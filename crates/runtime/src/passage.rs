//! The steps of one held transfer, the same for a copy and for the tasks of a workflow: list, open, send, finish.
//! Who holds it, for how long, and what its end means, is the caller's.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use app::delivery::Letterhead;
use app::event::{ErrorReport, FileReport, PlanReport};
use app::feed::ManifestFeed;
use app::ledger::{StoreLedger, Tally};
use app::logins::StoreLogins;
use app::manifest::{Manifest, Totals};
use app::profiles;
use app::spec::Mkdir;
use app::transfers::{self, Held};
use app::{CopySpec, Event};
use jiff::Timestamp;
use model::{ByteCount, DigestSet, ErrorClass, FileNumber, FileState, Strategy, TransferId};
use store::Store;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use transfer::Source;
use transfer::engine::{Dock, Engine, Known, Setup, Tuning};
use transfer::meter::Meter;
use transfer::port::{Logins, PublishGate, Wishes};
use transfer::retry::Backoff;

use crate::contract::{Agreed, Besides};
use crate::ends::Ends;
use crate::round::Round;
use crate::select::Counts;
use crate::sweep::{self, Whose};

const PROGRAM: &str = concat!("fileferry ", env!("CARGO_PKG_VERSION"));

/// A transfer that this process holds, with both its ends.
#[derive(Debug)]
pub(crate) struct Passage {
    /// Where the signing key and the files that go with others are kept.
    pub state: PathBuf,
    pub store: Store,
    pub ends: Arc<Ends>,
    pub held: Held,
    pub events: mpsc::Sender<Event>,
    /// What a watch has chosen, instead of a listing.
    pub round: Option<Round>,
}

/// What is known of a server before it is spoken to.
#[derive(Debug, Default)]
pub(crate) struct Acquaintance {
    profile: Option<model::Profile>,
    pub known: Known,
}

/// Who is asked before a file gets its name. The ledger itself answers for what we have published.
pub(crate) type Gate = dyn Fn(Arc<StoreLedger>) -> Arc<dyn PublishGate> + Send + Sync;

impl Passage {
    /// Lists the source into the manifest. Keys that cannot have a name fail here, before anything is connected.
    pub async fn list(&self, tally: &mut Tally, stop: &CancellationToken) -> app::Result<(Totals, Counts)> {
        let ends = &self.ends;
        let mut manifest = Manifest::open(&self.store, &self.held, &ends.naming, &ends.spec.options).await?;
        let mut counts = Counts::default();
        let mut objects = match &self.round {
            Some(round) => ends.chooser.given(&ends.source, round.objects.clone()),
            None => ends.chooser.objects(&ends.source),
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
                    transfer_id: self.held.record.id.clone(),
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
    pub async fn recorded(&self) -> app::Result<Totals> {
        let counts = self.store.counts(&self.held.record.id).await?;
        let done = counts.iter().filter(|c| c.state.is_success());
        Ok(Totals {
            files: counts.iter().map(|c| c.files).sum(),
            bytes: counts.iter().map(|c| c.bytes).sum(),
            done_files: done.clone().map(|c| c.files).sum(),
            done_bytes: done.map(|c| c.bytes).sum(),
        })
    }

    pub async fn tell_plan(&self, totals: Totals, counts: Counts) {
        let mut plan = plan_report(&self.ends.spec, totals.files, totals.bytes, &counts);
        plan.transfer_id = self.held.record.id.clone();
        plan.run = self.held.record.run;
        plan.resumed = self.held.resumed;
        let _ = self.events.send(Event::Plan(plan)).await;
    }

    pub fn logins(&self) -> Arc<dyn Logins> {
        let destination = &self.ends.destination;
        let (key, credential) = (destination.key.clone(), destination.credential.clone());
        Arc::new(StoreLogins::new(self.store.clone(), key, credential, self.ends.spec.options.retry_auth))
    }

    /// What earlier looks at this server have shown; what that means is said before anything is sent.
    pub async fn acquaintance(&self) -> Acquaintance {
        let profile = profiles::load(&self.store, &self.ends.destination.key).await;
        let profile = profile.inspect_err(|error| tracing::warn!(error = %error.message, "the profile cannot be read")).ok().flatten();
        let Some(profile) = profile else { return Acquaintance::default() };
        for warning in profiles::warnings(&profile, &self.ends.spec.options, Timestamp::now()) {
            let _ = self.events.send(Event::Note(warning)).await;
        }
        let known = profiles::known(&profile, Timestamp::now());
        Acquaintance { profile: Some(profile), known }
    }

    /// A dock of its own, for a process that delivers nothing else there.
    pub fn dock(&self, meter: Arc<Meter>, acquaintance: &Acquaintance) -> Dock {
        let tuning = tuning(&self.ends.spec.options);
        Dock::new(self.ends.destination.connector.clone(), self.logins(), meter, &tuning, acquaintance.known.logins)
    }

    /// Everything that sending needs. What would refuse the originals' removal is found out here, before anything is sent.
    pub async fn open(
        &self,
        dock: &Dock,
        acquaintance: Acquaintance,
        meter: Arc<Meter>,
        gate: &Gate,
        stop: CancellationToken,
    ) -> app::Result<Opened> {
        let Ends { spec, source, destination, naming, .. } = &*self.ends;
        let options = &spec.options;
        let letterhead = Letterhead {
            held: self.held.clone(),
            endpoint: destination.endpoint.clone(),
            store: source.source.store().to_owned(),
            bucket: source.source.bucket().to_owned(),
            program: PROGRAM.to_owned(),
            key: Arc::new(crate::keys::load_or_create(&self.state).map_err(|e| app::Error::new(ErrorClass::Internal, e.to_string()))?),
        };
        let source_name = letterhead.source();
        let agreed = Agreed::new(
            self.store.clone(),
            self.held.clone(),
            options.clone(),
            letterhead.clone(),
            destination.key.clone(),
            naming,
            source.source.clone(),
            self.events.clone(),
            &self.state,
        )
        .await?;
        agreed.may_begin().await?;
        let ledger = StoreLedger::new(
            self.store.clone(),
            letterhead,
            destination.key.clone(),
            options.if_exists,
            source.source.clone(),
            self.events.clone(),
        );
        let ledger = Arc::new(ledger.followed_by(agreed.following.clone()));
        ledger.explain_with(acquaintance.profile);
        let logins = self.logins();
        let setup = |source: Arc<dyn Source>, ledger: Arc<StoreLedger>, meter: Arc<Meter>| Setup {
            transfer: self.held.record.id.clone(),
            run: self.held.record.run,
            epoch: self.held.lease.epoch,
            source,
            connector: destination.connector.clone(),
            ledger: ledger.clone(),
            gate: gate(ledger),
            logins: logins.clone(),
            meter,
            wishes: wishes(options),
            tuning: tuning(options),
            root: naming.root.clone(),
            temp_name: options.temp_name.clone(),
            stop: stop.clone(),
        };
        let engine = Engine::at(dock, setup(source.source.clone(), ledger.clone(), meter.clone()), acquaintance.known);
        let (companions, their_source) = agreed.beside();
        let beside = engine.beside(setup(their_source, companions.clone(), Arc::default()));
        Ok(Opened { agreed, engine, beside, ledger, companions, source_name, stop })
    }

    async fn feed(&self, small_up_to: u64, source_name: &str) -> app::Result<(ManifestFeed, HashSet<model::ObjectKey>)> {
        let (store, held, key) = (self.store.clone(), self.held.clone(), self.ends.destination.key.clone());
        let resting = match &self.round {
            Some(round) => round.left_for_later(&self.store, &self.held).await?,
            None => HashSet::new(),
        };
        Ok((ManifestFeed::new(store, held, key, source_name.to_owned(), small_up_to), resting))
    }
}

/// A transfer that is ready to be sent: the partner's contract, the engine and the ledger.
pub(crate) struct Opened {
    agreed: Agreed,
    pub engine: Engine,
    beside: Engine,
    ledger: Arc<StoreLedger>,
    companions: Arc<StoreLedger>,
    source_name: String,
    stop: CancellationToken,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opened({:?})", self.engine)
    }
}

impl Opened {
    /// Delivers what is in `states` (everything that is not where it should be, where nothing is said), and with each
    /// file what goes with it. After a stop it is `cancelled`, and the rest waits.
    pub async fn send(&mut self, passage: &Passage, states: Option<&'static [FileState]>) -> app::Result<()> {
        let (feed, resting) = passage.feed(self.engine.small_up_to(), &self.source_name).await?;
        let feed = match states {
            Some(states) => feed.only(states),
            None => feed,
        };
        let feed = self.agreed.feed(feed, resting).await?;
        Ok(self.agreed.deliver(&self.engine, &self.beside, feed).await?)
    }

    /// Manifest and done file, when everything else is where it should be.
    pub async fn at_the_end(&self) -> app::Result<()> {
        self.agreed.at_the_end(&self.beside).await
    }

    /// What is done over the connections after the last file, and kept of what was learnt. Never an error.
    pub async fn settle(&self, passage: &Passage, succeeded: bool) {
        let Passage { store, held, ends, events, .. } = passage;
        let options = &ends.spec.options;
        for note in self.engine.pool().take_notes() {
            let _ = events.send(Event::Note(note)).await;
        }
        // An earlier process may have died with temporary files open; this one knows which are of no more use.
        if held.lease.epoch > 1 && succeeded {
            sweep::after_run(Whose::Earlier, store, held, &self.engine, options, &ends.naming).await;
        }
        if !succeeded && transfers::is_lost(store, held).await.unwrap_or(false) {
            sweep::after_run(Whose::Own, store, held, &self.engine, options, &ends.naming).await;
        }
        self.remember(passage).await;
    }

    /// Keeps what this run found out. What has changed since the last look is said; it never makes a copy fail.
    async fn remember(&self, passage: &Passage) {
        let destination = &passage.ends.destination;
        if destination.endpoint.protocol == model::Protocol::File {
            return;
        }
        let Some(newer) = profiles::learned(&destination.key, &self.engine.learned(), Timestamp::now()) else { return };
        match profiles::observe(&passage.store, newer).await {
            Ok((_, drift)) => {
                for text in profiles::drift_notes(&drift) {
                    let _ = passage.events.send(Event::Note(text)).await;
                }
            }
            Err(error) => tracing::warn!(error = %error.message, "what was learnt of the server could not be kept"),
        }
    }

    /// The originals of what was delivered with enough proof.
    pub async fn originals(&self, besides: &mut Besides) -> app::Result<()> {
        self.agreed.originals(&self.stop, besides).await
    }

    /// How the files ended, and what goes with them.
    pub fn tallies(&self) -> (Tally, Tally) {
        (self.ledger.tally(), self.companions.tally())
    }
}

/// What may be published is decided by our own records alone.
pub(crate) fn own_records(ledger: Arc<StoreLedger>) -> Arc<dyn PublishGate> {
    ledger
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

pub(crate) fn tuning(options: &app::Options) -> Tuning {
    Tuning {
        connections: options.connections.map(|n| n.max(1) as usize),
        transfers: options.transfers.max(1) as usize,
        lanes: options.lanes.max(1) as usize,
        range_size: options.chunk_size.get(),
        budget: options.buffer.get(),
        bandwidth: options.bwlimit.clone(),
        backoff: Backoff { attempts: options.retries.max(1), ..Backoff::default() },
        far: transfer::pool::FAR,
        thresholds: options.thresholds,
    }
}
