//! `watch`: round after round sends what is new in a prefix, each version of an object once. What was delivered stands in
//! the records; what failed is remembered here, so that it is tried again later and keeps nobody waiting.

use std::time::{Duration, Instant};

use app::event::{Summary, WatchReport};
use app::transfers;
use app::{CopySpec, Event};
use jiff::Timestamp;
use model::{Credential, ErrorClass};
use store::{LeaseGuard, Mutation, Store, TransferQuery};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::copy::{Round, copy_round, keep_lease};
use crate::open::{self, Login};
use crate::outlook::{Outlook, Seen};
use crate::select::Chooser;
use crate::{Control, CopyMode, Failure, Place, process};

/// The longest pause while nothing can be done at all.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy)]
pub struct WatchMode {
    /// From the end of one round to the next.
    pub every: Duration,
    /// An object that changed within this time is left for a later round.
    pub settle: Duration,
    /// One round and no more.
    pub once: bool,
    pub health_every: Duration,
}

/// How a watch ended.
#[derive(Debug)]
pub struct Watched {
    pub rounds: u64,
    /// Of the last round that sent anything; `None` where none did.
    pub last: Option<Summary>,
}

/// Watches until it is stopped. Mistakes in the request end it; a store or server that is away does not.
pub async fn watch(
    place: &Place,
    spec: CopySpec,
    password: Option<Credential>,
    mode: WatchMode,
    events: mpsc::Sender<Event>,
    control: Control,
) -> Result<Watched, Failure> {
    let store = place.store().await?;
    let shown = open::parse(&spec.destination)?.to_string();
    let identity = transfers::identity(&spec, &shown);
    let (holder, now) = (process::holder(place.lease), Timestamp::now());
    let lease = transfers::hold(&store, &format!("watch:{identity}"), &holder, now, &process::is_dead).await;
    let lease = lease.map_err(|mut error| {
        if let Some(pid) = error.held_by {
            error.message = format!("process {pid} is watching this source for this destination");
            error.next = Some("nothing: it does the work; end it first if this one is to take its place".to_owned());
        }
        error
    })?;
    let guard = LeaseGuard::from(&lease);
    let mut background = JoinSet::new();
    background.spawn(keep_lease(store.clone(), guard.clone(), place.lease, control.stop.clone()));
    let watcher = Watcher {
        place,
        spec,
        password,
        mode,
        events,
        control,
        store: store.clone(),
        identity,
        outlook: Outlook::new(mode.settle),
        report: WatchReport { v: 1, kind: "watch", state: "watching", ..WatchReport::default() },
        last: None,
    };
    let outcome = watcher.run().await;
    background.shutdown().await;
    let released = store.commit(Mutation::ReleaseLease { guard }).await.map_err(Failure::from);
    match released {
        Err(lost) if lost.class == ErrorClass::LeaseLost => {
            Err(Failure { message: "another process has taken this watch over".to_owned(), next: None, ..lost })
        }
        _ => outcome,
    }
}

struct Watcher<'a> {
    place: &'a Place,
    spec: CopySpec,
    password: Option<Credential>,
    mode: WatchMode,
    events: mpsc::Sender<Event>,
    control: Control,
    store: Store,
    identity: String,
    outlook: Outlook,
    report: WatchReport,
    last: Option<Summary>,
}

impl Watcher<'_> {
    async fn run(mut self) -> Result<Watched, Failure> {
        let (mut failures, mut health) = (0u32, Instant::now());
        // What an earlier process was interrupted in is gone on with, whether or not there is anything new.
        let mut unfinished = self.is_unfinished().await?;
        self.tell().await;
        loop {
            let outcome = self.round(unfinished).await;
            self.report.rounds += 1;
            // A refused login is tried again by whoever asked for it, once, and not by every round.
            self.spec.options.retry_auth = false;
            let trouble = match outcome {
                Ok(more) => {
                    unfinished = false;
                    if more && !self.mode.once && !self.control.stop.is_cancelled() {
                        (failures, self.report.waiting_for) = (0, None);
                        continue;
                    }
                    None
                }
                Err(failure) if failure.exit_code == 1 || self.mode.once => return Err(failure),
                Err(failure) => Some(failure.message),
            };
            unfinished |= trouble.is_some();
            let pause = match &trouble {
                None => self.mode.every,
                Some(_) => (self.mode.every * 2u32.saturating_pow(failures.min(10))).min(LONGEST_PAUSE.max(self.mode.every)),
            };
            failures = if trouble.is_some() { failures + 1 } else { 0 };
            let state = if trouble.is_some() { "waiting" } else { "watching" };
            let changed = self.report.waiting_for.is_some() != trouble.is_some();
            (self.report.state, self.report.waiting_for) = (state, trouble);
            if changed {
                self.tell().await;
            }
            if self.mode.once || self.control.stop.is_cancelled() {
                break;
            }
            let until = Instant::now() + pause;
            while Instant::now() < until && !self.control.stop.is_cancelled() {
                let next = until.min(health + self.mode.health_every);
                tokio::select! {
                    _ = tokio::time::sleep_until(next.into()) => {}
                    _ = self.control.stop.cancelled() => {}
                }
                if Instant::now() >= health + self.mode.health_every {
                    health = Instant::now();
                    self.tell().await;
                }
            }
            if self.control.stop.is_cancelled() {
                break;
            }
        }
        self.report.state = "stopped";
        self.tell().await;
        Ok(Watched { rounds: self.report.rounds, last: self.last })
    }

    async fn tell(&self) {
        let _ = self.events.send(Event::Watch(self.report.clone())).await;
    }

    async fn is_unfinished(&self) -> Result<bool, Failure> {
        let query = TransferQuery { identity: Some(self.identity.clone()), limit: 1, ..Default::default() };
        Ok(self.store.transfers(query).await?.first().is_some_and(|t| transfers::is_open(t.state)))
    }

    /// Looks, and sends what is to be sent. `true`: there is more that did not fit into one round.
    async fn round(&mut self, unfinished: bool) -> Result<bool, Failure> {
        let seen = self.look().await?;
        (self.report.settling, self.report.given_up) = (seen.settling, seen.given_up);
        for note in seen.notes {
            let _ = self.events.send(Event::Note(note)).await;
        }
        let again = self.outlook.companions_due(Instant::now());
        if seen.fresh > 0 || unfinished || again {
            self.send(Round { objects: seen.objects, resting: seen.resting }).await?;
        }
        self.report.retrying = self.outlook.retrying();
        Ok(seen.more)
    }

    async fn look(&mut self) -> Result<Seen, Failure> {
        let source = open::source(&self.spec.source, &self.spec.s3, &self.spec.options, self.place).await?;
        let destination = open::destination(&self.spec.destination, &self.spec.server, &self.spec.options, None, Login::Never, self.place)?;
        if source.single.is_some() {
            return Err(Failure::usage(format!("{} names one object; watch a prefix, which ends in /", self.spec.source)));
        }
        let naming = open::naming(&self.spec, &source, &destination, Timestamp::now())?;
        let chooser = Chooser::new(&self.spec.options, &source, &naming)?;
        Ok(self.outlook.look(&self.store, &source, &destination.key, &naming, &chooser, &self.control.stop).await?)
    }

    async fn send(&mut self, round: Round) -> Result<(), Failure> {
        let (inner, mut heard) = mpsc::channel(256);
        let password = self.password.clone();
        let copy = copy_round(self.place, self.spec.clone(), password, CopyMode::default(), inner, self.control.clone(), Some(round));
        tokio::pin!(copy);
        let outcome = loop {
            tokio::select! {
                Some(event) = heard.recv() => self.hear(event).await,
                outcome = &mut copy => break outcome,
            }
        };
        heard.close();
        while let Some(event) = heard.recv().await {
            self.hear(event).await;
        }
        let summary = outcome?;
        self.outlook.companions_ended(summary.companions_failed > 0, Instant::now());
        let trouble = summary.error.as_ref().filter(|e| e.class != ErrorClass::Cancelled).map(|e| (e.class, e.message.clone()));
        let _ = self.events.send(Event::Round(Box::new(summary.clone()))).await;
        self.last = Some(summary);
        match trouble {
            Some((class, message)) => Err(Failure::of(class, message)),
            None => Ok(()),
        }
    }

    async fn hear(&mut self, event: Event) {
        match &event {
            Event::Receipt { report, .. } if report.kind == "file" => {
                self.report.delivered += 1;
                self.report.last_delivery = Some(Timestamp::now());
                self.outlook.delivered(&report.key);
            }
            Event::File(report) if report.kind == "file" => match &report.error {
                Some(error) => self.outlook.failed(&report.key, error.class, Instant::now()),
                None => self.outlook.settled_otherwise(&report.key, report.status),
            },
            _ => {}
        }
        let _ = self.events.send(event).await;
    }
}
