//! `watch`: round after round sends what is new in a prefix, each version of an object once. What was delivered stands in
//! the records; what failed is remembered here, so that it is tried again later and keeps nobody waiting. A queue of the
//! store's events makes rounds of a few named objects between the listings; it is never the only way to be found.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use app::event::{Summary, WatchReport};
use app::transfers;
use app::{CopySpec, Event};
use integrations::sqs::{AccessKey, QueueAddress, SqsConfig, SqsQueue};
use jiff::Timestamp;
use model::{Credential, ErrorClass, Location, ObjectKey};
use store::{LeaseGuard, Mutation, Store, TransferQuery};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::copy::{copy_round, keep_lease};
use crate::inbox::{Inbox, Ours};
use crate::open::{self, DestinationSide, Login, SourceSide};
use crate::outlook::{Found, Named, Outlook, Seen};
use crate::round::Round;
use crate::select::Chooser;
use crate::{Control, CopyMode, Failure, Place, process};

/// The longest pause while nothing can be done at all.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// The first pause where listings are rare because there is a queue.
const RETRY_WITH_QUEUE: Duration = Duration::from_secs(5);
/// Objects of one round that events named; the next follows at once.
const LOOKED_AT_IN_A_ROUND: usize = 1_000;

#[derive(Debug, Clone)]
pub struct WatchMode {
    /// From the end of one round to the next.
    pub every: Duration,
    /// An object that changed within this time is left for a later round.
    pub settle: Duration,
    /// One round and no more.
    pub once: bool,
    pub health_every: Duration,
    /// URL, ARN or name of a queue of SQS that the bucket's events go to.
    pub queue: Option<String>,
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
    let queue = mode.queue.as_deref().map(|text| queue(text, &spec, &mode)).transpose()?;
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
    let (mut background, settle) = (JoinSet::new(), mode.settle);
    background.spawn(keep_lease(store.clone(), guard.clone(), place.lease, control.stop.clone()));
    let inbox = queue.map(|(queue, ours)| Inbox::open(Arc::new(queue), ours, events.clone()));
    let mut watcher = Watcher {
        place,
        spec,
        password,
        mode,
        events,
        control,
        store: store.clone(),
        identity,
        outlook: Outlook::new(settle),
        inbox,
        heard: HashMap::new(),
        unreached: None,
        reached: false,
        report: WatchReport { v: 1, kind: "watch", state: "watching", ..WatchReport::default() },
        last: None,
    };
    let outcome = watcher.run().await;
    if let Some(inbox) = watcher.inbox.take() {
        watcher.report.queue = Some(inbox.close().await);
    }
    let outcome = match outcome {
        Ok(()) => {
            watcher.report.state = "stopped";
            watcher.tell().await;
            Ok(Watched { rounds: watcher.report.rounds, last: watcher.last })
        }
        Err(failure) => Err(failure),
    };
    background.shutdown().await;
    let released = store.commit(Mutation::ReleaseLease { guard }).await.map_err(Failure::from);
    match released {
        Err(lost) if lost.class == ErrorClass::LeaseLost => {
            Err(Failure { message: "another process has taken this watch over".to_owned(), next: None, ..lost })
        }
        _ => outcome,
    }
}

/// Checks what was asked for; asks nobody yet.
fn queue(text: &str, spec: &CopySpec, mode: &WatchMode) -> Result<(SqsQueue, Ours), Failure> {
    let address: QueueAddress = text.parse().map_err(|e| Failure::usage(format!("{e}")))?;
    let Location::S3 { bucket, text: prefix } = open::parse(&spec.source)? else {
        return Err(Failure::usage(format!("--queue brings events of a bucket, and {} is none", spec.source)));
    };
    if mode.once {
        return Err(Failure::usage("--once takes one round by listing, and --queue is for a watch that goes on".to_owned()));
    }
    // A listing says nothing of versions: one version would get two names.
    if spec.options.name.as_str().contains("{version}") {
        return Err(Failure::usage("--name with {version} and --queue would give one version two names".to_owned()));
    }
    let key = |key: transfer::s3::AccessKey| AccessKey { id: key.id, secret: key.secret, session_token: key.session_token };
    let access_key = spec.s3.access_key_from.as_deref().map(open::access_key).transpose()?.map(key);
    let config = SqsConfig { queue: address, region: spec.s3.region.clone(), profile: spec.s3.profile.clone(), access_key };
    Ok((SqsQueue::new(config), Ours { bucket, prefix }))
}

/// What the next round is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Listing,
    Events,
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
    inbox: Option<Inbox>,
    /// Files that ended in this round by key; `true`: the object was another one by then.
    heard: HashMap<String, bool>,
    /// Why a file of this round did not reach the partner, and whether any ended otherwise.
    unreached: Option<String>,
    reached: bool,
    report: WatchReport,
    last: Option<Summary>,
}

impl Watcher<'_> {
    async fn run(&mut self) -> Result<(), Failure> {
        let (mut failures, mut health) = (0u32, Instant::now());
        // What an earlier process was interrupted in is gone on with, whether or not there is anything new.
        let mut unfinished = self.is_unfinished().await?;
        self.tell().await;
        let (mut turn, mut next_listing) = (Turn::Listing, Instant::now());
        loop {
            self.heard.clear();
            let outcome = match turn {
                Turn::Listing => self.round(unfinished).await,
                Turn::Events => self.events().await,
            };
            self.report.rounds += 1;
            // A refused login is tried again by whoever asked for it, once, and not by every round.
            self.spec.options.retry_auth = false;
            let (more, trouble) = match outcome {
                Ok(more) => (more && !self.mode.once && !self.control.stop.is_cancelled(), None),
                Err(failure) if failure.exit_code == 1 || self.mode.once => return Err(failure),
                Err(failure) => (false, Some(failure.message)),
            };
            unfinished = trouble.is_some() || (unfinished && turn == Turn::Events);
            match &trouble {
                Some(_) => {
                    // With a queue listings are rare, and events wait for the end of the trouble.
                    let every = if self.inbox.is_some() { self.mode.every.min(RETRY_WITH_QUEUE) } else { self.mode.every };
                    let pause = every * 2u32.saturating_pow(failures.min(10));
                    next_listing = Instant::now() + pause.min(LONGEST_PAUSE.max(every));
                }
                None if more => next_listing = Instant::now(),
                None if turn == Turn::Listing => next_listing = Instant::now() + self.mode.every,
                None => {}
            }
            failures = if trouble.is_some() { failures + 1 } else { 0 };
            let well = trouble.is_none();
            if let Some(inbox) = &self.inbox {
                inbox.pause(!well);
            }
            let state = if well { "watching" } else { "waiting" };
            let changed = self.report.waiting_for.is_some() == well;
            (self.report.state, self.report.waiting_for) = (state, trouble);
            if changed && !more {
                self.tell().await;
            }
            if self.mode.once && !more {
                break;
            }
            match self.wait(next_listing, turn, well, &mut health).await {
                Some(next) => turn = next,
                None => break,
            }
        }
        Ok(())
    }

    /// Waits for the next listing or for something named, whichever comes first, and in turns where both are there; `None`: stopped.
    async fn wait(&mut self, next_listing: Instant, last: Turn, well: bool, health: &mut Instant) -> Option<Turn> {
        loop {
            if self.control.stop.is_cancelled() {
                return None;
            }
            if Instant::now() >= *health + self.mode.health_every {
                *health = Instant::now();
                self.tell().await;
            }
            let is_due = well && self.inbox.as_ref().is_some_and(|inbox| !inbox.due().is_empty());
            let is_time = Instant::now() >= next_listing;
            match (is_due, is_time) {
                (true, true) if last == Turn::Events => return Some(Turn::Listing),
                (true, _) => return Some(Turn::Events),
                (_, true) => return Some(Turn::Listing),
                _ => {}
            }
            let until = next_listing.min(*health + self.mode.health_every);
            tokio::select! {
                _ = tokio::time::sleep_until(until.into()) => {}
                _ = self.control.stop.cancelled() => {}
                _ = arrival(self.inbox.as_ref()), if well => {}
            }
        }
    }

    async fn tell(&mut self) {
        if let Some(inbox) = &self.inbox {
            self.report.queue = Some(inbox.report());
        }
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
            self.send(Round { objects: seen.objects, resting: seen.resting, in_part: false }).await?;
        }
        self.report.retrying = self.outlook.retrying();
        Ok(seen.more)
    }

    async fn look(&mut self) -> Result<Seen, Failure> {
        let (source, destination) = self.ends().await?;
        let naming = open::naming(&self.spec, &source, &destination, Timestamp::now())?;
        let chooser = Chooser::new(&self.spec.options, &source, &naming)?;
        Ok(self.outlook.look(&self.store, &source, &destination.key, &naming, &chooser, &self.control.stop).await?)
    }

    async fn ends(&self) -> Result<(SourceSide, DestinationSide), Failure> {
        let source = open::source(&self.spec.source, &self.spec.s3, &self.spec.options, self.place).await?;
        let destination = open::destination(&self.spec.destination, &self.spec.server, &self.spec.options, None, Login::Never, self.place)?;
        if source.single.is_some() {
            return Err(Failure::usage(format!("{} names one object; watch a prefix, which ends in /", self.spec.source)));
        }
        Ok((source, destination))
    }

    /// Sends what the queue's messages name, and nothing else. `true`: nothing could be looked at, and a listing must tell why.
    async fn events(&mut self) -> Result<bool, Failure> {
        let Named { objects, found, notes, unseen } = self.look_at_named().await?;
        for note in notes {
            let _ = self.events.send(Event::Note(note)).await;
        }
        let Some(inbox) = &self.inbox else { return Ok(unseen) };
        let mut sent = Vec::new();
        for (written, found) in found {
            match found {
                Found::Send(key) => sent.push((written, key)),
                Found::Later(at) => inbox.rest(&written, at),
                Found::PutOff(first) => inbox.put_off(&written, first),
                Found::Done => inbox.settle(&written),
                Found::NotOurs => inbox.not_ours(&written),
                Found::Superseded => inbox.superseded(&written),
            }
        }
        if objects.is_empty() {
            return Ok(unseen);
        }
        let outcome = self.send(Round { objects, in_part: true, ..Round::default() }).await;
        let heard = |key: &ObjectKey| self.heard.get(&key.to_string()).copied();
        for (written, key) in &sent {
            // A round that broke off is repeated as soon as there is hope; what ended before is done with.
            if outcome.is_err() && heard(key).is_none() {
                continue;
            }
            let Some(inbox) = &self.inbox else { break };
            match self.outlook.became(key, heard(key), Instant::now()) {
                Found::Later(at) => inbox.rest(written, at),
                Found::PutOff(first) => inbox.put_off(written, first),
                _ => inbox.settle(written),
            }
        }
        self.report.retrying = self.outlook.retrying();
        outcome.map(|()| unseen)
    }

    async fn look_at_named(&mut self) -> Result<Named, Failure> {
        let mut wanted = self.inbox.as_ref().map(Inbox::due).unwrap_or_default();
        // A look at many takes long, and a stop waits for it.
        wanted.truncate(LOOKED_AT_IN_A_ROUND);
        if wanted.is_empty() {
            return Ok(Named::default());
        }
        let (source, destination) = self.ends().await?;
        let naming = open::naming(&self.spec, &source, &destination, Timestamp::now())?;
        let chooser = Chooser::new(&self.spec.options, &source, &naming)?;
        Ok(self.outlook.look_at(&self.store, &source, &destination.key, &naming, &chooser, wanted, &self.control.stop).await?)
    }

    async fn send(&mut self, round: Round) -> Result<(), Failure> {
        let (inner, mut heard) = mpsc::channel(256);
        let password = self.password.clone();
        let copy = copy_round(self.place, self.spec.clone(), password, CopyMode::default(), inner, self.control.clone(), Some(round));
        tokio::pin!(copy);
        self.unreached = None;
        self.reached = false;
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
        if let Some((class, message)) = trouble {
            return Err(Failure::of(class, message));
        }
        match self.unreached.take().filter(|_| !self.reached && !self.mode.once) {
            Some(message) => {
                // One wait for all of them, instead of one for each.
                for (shown, _) in self.heard.drain() {
                    self.outlook.due_again(&shown);
                }
                Err(Failure::of(ErrorClass::DestUnreachable, message))
            }
            None => Ok(()),
        }
    }

    async fn hear(&mut self, event: Event) {
        match &event {
            Event::Receipt { report, .. } if report.kind == "file" => {
                self.report.delivered += 1;
                self.report.last_delivery = Some(Timestamp::now());
                self.reached = true;
                self.outlook.delivered(&report.key);
                self.heard.insert(report.key.clone(), false);
            }
            Event::File(report) if report.kind == "file" => {
                let class = report.error.as_ref().map(|error| error.class);
                match &report.error {
                    Some(error) if error.class == ErrorClass::DestUnreachable => {
                        self.unreached.get_or_insert_with(|| error.message.clone());
                    }
                    _ => self.reached = true,
                }
                match class {
                    Some(class) => self.outlook.failed(&report.key, class, Instant::now()),
                    None => self.outlook.settled_otherwise(&report.key, report.status),
                }
                let changed = matches!(class, Some(ErrorClass::SourceChanged | ErrorClass::SourceMissing));
                self.heard.insert(report.key.clone(), changed);
            }
            _ => {}
        }
        let _ = self.events.send(event).await;
    }
}

/// Never, where there is no queue.
async fn arrival(inbox: Option<&Inbox>) {
    match inbox {
        Some(inbox) => inbox.arrival().await,
        None => std::future::pending().await,
    }
}
