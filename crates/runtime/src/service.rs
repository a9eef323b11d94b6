//! The service: the executor and the loops around it, on one store. What it begins survives it: the next start goes on.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use app::journal::{StoreJournal, SystemChance};
use app::outbox::Outlets;
use app::register::Register;
use app::tasks::{Minted, TaskSettings, Tasks};
use app::transfers::Holder;
use integrations::{FileNotifier, LogNotifier, Notifier, TicketSystem};
use jiff::{SignedDuration, Timestamp};
use model::TransferId;
use store::{Mutation, Store};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use transfer::meter::Snapshot;
use workflow::Status;
use workflow::executor::{Clock, Executor, Options, Ports, SystemClock, Watcher};

use crate::handler::{Handler, Handling};
use crate::harbour::Harbour;
use crate::open::{ByAddress, Opening};
use crate::sealer::{self, Sealer};
use crate::{Failure, Place, admission, keys, outbox, process, sweeper};

/// Running transfers are given so long to write their checkpoints.
const GRACE: Duration = Duration::from_secs(20);

/// The copy of the audit's seals, where no other place is named.
pub const SEALS: &str = "audit-seals.jsonl";

/// How a service works. The defaults are what `fileferry serve` does without a configuration.
#[derive(Clone)]
pub struct ServiceSettings {
    /// Transfers under way at once, whatever their connectors allow.
    pub transfers: usize,
    /// So long one slice sends at most. The definition gives a step 900 s.
    pub slice: Duration,
    pub session: SignedDuration,
    /// A transfer does not begin on an older user ticket.
    pub ticket_max_age: SignedDuration,
    pub notifiers: Vec<NotifierKind>,
    /// What a transfer that failed has left at the destination stays so long.
    pub keep_temporary: SignedDuration,
    /// Instead of the built-in register.
    pub tickets: Option<Arc<dyn TicketSystem>>,
    /// The audit is sealed so often.
    pub seal_every: Duration,
    /// Copy of the seals; [`SEALS`] in the data directory where nothing is said.
    pub seals: Option<PathBuf>,
    pub opening: Arc<dyn Opening>,
    /// By which windows open and sessions end.
    #[doc(hidden)]
    pub clock: Arc<dyn Clock>,
    /// Called with the name of every step before it runs, and again when it is over and nothing of it is written yet. For
    /// tests that end the process there.
    #[doc(hidden)]
    pub step_hook: Option<Arc<StepHook>>,
}

#[doc(hidden)]
pub type StepHook = dyn Fn(&str, bool) + Send + Sync;

/// Who tells people.
#[derive(Debug, Clone)]
pub enum NotifierKind {
    Log,
    File(PathBuf),
}

impl std::fmt::Debug for ServiceSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceSettings").field("transfers", &self.transfers).field("notifiers", &self.notifiers).finish_non_exhaustive()
    }
}

impl Default for ServiceSettings {
    fn default() -> Self {
        Self {
            transfers: 100,
            slice: Duration::from_secs(600),
            session: SignedDuration::from_secs(10),
            ticket_max_age: SignedDuration::from_hours(7 * 24),
            notifiers: vec![NotifierKind::Log],
            keep_temporary: SignedDuration::from_hours(7 * 24),
            tickets: None,
            seal_every: Duration::from_secs(60),
            seals: None,
            clock: Arc::new(SystemClock::default()),
            opening: Arc::new(ByAddress),
            step_hook: None,
        }
    }
}

/// A running service; clones share it.
#[derive(Clone)]
pub struct Service {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub store: Store,
    pub settings: ServiceSettings,
    pub executor: Executor<Vec<Mutation>>,
    pub harbour: Arc<Harbour>,
    pub tasks: Arc<Tasks>,
    pub outlets: Outlets,
    pub holder: Holder,
    pub sealer: Sealer,
    /// Somebody may begin.
    pub wake: Arc<Notify>,
    /// Something is in the outbox.
    pub told: Arc<Notify>,
    loops: Mutex<JoinSet<()>>,
    pub stop: CancellationToken,
    /// Nothing comes any more from what was under way.
    last: CancellationToken,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Service({:?})", self.inner.executor)
    }
}

/// Hands on what the executor tells.
#[derive(Clone)]
pub(crate) struct Ended(mpsc::UnboundedSender<(String, Status)>);

impl Watcher for Ended {
    fn ended(&self, execution: &str, status: &Status) {
        // After the last loop nobody listens; the next start looks for itself.
        let _ = self.0.send((execution.to_owned(), status.clone()));
    }

    fn dropped(&self, execution: &str, why: &str) {
        tracing::error!(execution, why, "an execution is carried on by another process, and only one may use this directory");
    }

    fn stalled(&self, why: &str) {
        tracing::error!(why, "the records cannot be written; everything waits until they can");
    }

    fn going_on(&self) {
        tracing::info!("the records can be written again");
    }
}

impl Service {
    /// Goes on with what an earlier service has left, then begins what waits. Only one service may use a store.
    /// `stop` ends it: what is under way is checkpointed and left to the next start, and [`Self::join`] returns.
    pub async fn start(place: Place, store: Store, settings: ServiceSettings, stop: CancellationToken) -> Result<Self, Failure> {
        let holder = process::holder(place.lease);
        let tickets = settings.tickets.clone().unwrap_or_else(|| Arc::new(Register::new(store.clone())));
        let (events, heard) = mpsc::channel(1_024);
        let clock = settings.clock.clone();
        let harbour = Harbour::new(
            place.clone(),
            store.clone(),
            holder.clone(),
            tickets.clone(),
            clock.clone(),
            events,
            settings.opening.clone(),
            settings.slice,
            stop.clone(),
        );
        let notifiers = notifiers(&settings);
        let tasks = Arc::new(Tasks {
            store: store.clone(),
            ferry: harbour.clone(),
            tickets: tickets.clone(),
            clock: clock.clone(),
            key: keys::session_key(&place.state).map_err(|e| Failure::of(model::ErrorClass::Internal, e.to_string()))?,
            minted: Minted::default(),
            settings: TaskSettings {
                session: settings.session.min(SignedDuration::try_from(store::LONGEST_SESSION).unwrap_or_default()),
                ticket_max_age: settings.ticket_max_age,
                notifiers: notifiers.keys().cloned().collect(),
            },
        });
        let (wake, told): (Arc<Notify>, Arc<Notify>) = Default::default();
        let (to, ended) = mpsc::unbounded_channel();
        let handler = Arc::new(Handler {
            tasks: tasks.clone(),
            harbour: harbour.clone(),
            executor: OnceLock::new(),
            told: told.clone(),
            hook: settings.step_hook.clone(),
        });
        let ports = Ports {
            journal: Arc::new(StoreJournal::new(store.clone(), None)),
            handler: Arc::new(Handling(handler.clone())),
            watcher: Arc::new(Ended(to)),
            clock: clock.clone(),
            chance: Box::new(SystemChance),
        };
        let executor = Executor::new(ports, Options::default());
        let _ = handler.executor.set(executor.clone());
        // Whoever claimed a message before is gone: the store is ours alone.
        store.commit(Mutation::LapseClaims { now: clock.wall(), alone: Some(holder.name.clone()) }).await?;
        let key = keys::load_or_create(&place.state).map_err(|e| Failure::of(model::ErrorClass::Internal, e.to_string()))?;
        let copy = settings.seals.clone().unwrap_or_else(|| place.state.join(SEALS));
        let inner = Arc::new(Inner {
            sealer: Sealer { key, copy },
            store,
            settings,
            executor,
            harbour,
            tasks,
            outlets: Outlets { clock, tickets, notifiers },
            holder,
            wake,
            told,
            loops: Mutex::default(),
            stop,
            last: CancellationToken::new(),
        });
        sealer::note(&inner, "service_started").await;
        let resumed = inner.executor.resume().await.map_err(|e| Failure::of(model::ErrorClass::Internal, e.to_string()))?;
        if resumed > 0 {
            tracing::info!(resumed, "going on with the transfers of an earlier run");
        }
        {
            let mut loops = inner.loops.lock().expect("no panic while holding the lock");
            loops.spawn(admission::run(inner.clone()));
            loops.spawn(outbox::run(inner.clone()));
            loops.spawn(sweeper::run(inner.clone()));
            loops.spawn(sealer::run(inner.clone()));
            loops.spawn(sweeper::after_ends(inner.clone(), ended));
            loops.spawn(listen(heard, inner.last.clone()));
        }
        Ok(Self { inner })
    }

    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Something was submitted, approved, resumed or retried: looks at once.
    pub fn wake(&self) {
        self.inner.wake.notify_one();
    }

    /// Somebody wished something for a transfer that is under way: its step looks at once.
    pub fn wish(&self, transfer: &TransferId) {
        self.inner.harbour.wish(transfer);
        self.wake();
    }

    /// The latest there is to know, while the transfer is being sent.
    pub fn progress(&self, transfer: &TransferId) -> Option<Snapshot> {
        self.inner.harbour.progress(transfer)
    }

    /// Removes what ended transfers have left at their destinations for too long, as happens every hour by itself.
    pub async fn clear_leftovers(&self, now: Timestamp) -> Result<(), Failure> {
        Ok(sweeper::leftovers(&self.inner, &mut HashSet::new(), now).await?)
    }

    /// Returns after `stop`, when everything under way is checkpointed and given back.
    pub async fn join(self) {
        let inner = self.inner;
        inner.stop.cancelled().await;
        inner.executor.shutdown(GRACE).await;
        inner.harbour.close().await;
        inner.last.cancel();
        let mut loops = std::mem::take(&mut *inner.loops.lock().expect("no panic while holding the lock"));
        while loops.join_next().await.is_some() {}
        sealer::note(&inner, "service_stopped").await;
        sealer::seal(&inner).await;
    }
}

fn notifiers(settings: &ServiceSettings) -> BTreeMap<String, Arc<dyn Notifier>> {
    let named = |kind: &NotifierKind| -> (String, Arc<dyn Notifier>) {
        match kind {
            NotifierKind::Log => ("log".to_owned(), Arc::new(LogNotifier)),
            NotifierKind::File(path) => (format!("file:{}", path.display()), Arc::new(FileNotifier::new(path.clone()))),
        }
    };
    settings.notifiers.iter().map(named).collect()
}

/// What a running copy tells goes to the log; the records have the rest.
async fn listen(mut heard: mpsc::Receiver<app::Event>, last: CancellationToken) {
    while let Some(Some(event)) = last.run_until_cancelled(heard.recv()).await {
        match event {
            app::Event::Note(text) => tracing::info!("{text}"),
            app::Event::File(report) => {
                if let Some(error) = report.error {
                    tracing::info!(transfer = %report.transfer_id, key = %report.key, class = %error.class, "{}", error.message);
                }
            }
            _ => {}
        }
    }
}
