//! The transfers that this process holds between the steps of their workflows. A step finds its transfer here with its
//! lease and its engine; where there is none, after a restart or an interruption, it takes the transfer over.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex as Lock};
use std::time::Duration;

use app::Event;
use app::ledger::Tally;
use app::manifest::Totals;
use app::tasks::{Ferry, Governed, Keep, Stopped, may_go_on};
use app::transfers::{self, Holder};
use async_trait::async_trait;
use integrations::TicketSystem;
use jiff::Timestamp;
use model::{ErrorClass, FileState, TransferId};
use store::{Lease, Store};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use transfer::meter::{Meter, Snapshot};
use transfer::port::PublishGate;
use workflow::executor::Clock;

use crate::beside::beside;
use crate::contract::Besides;
use crate::copy::keep_lease;
use crate::docks::{Berth, Docks};
use crate::open::Opening;
use crate::passage::{Opened, Passage};
use crate::{Place, clean, stored_spec};

/// Wishes and the connector are looked at so often while bytes travel, besides when somebody says that there is a wish.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What a run has not given up.
const LEFT: &[FileState] = &[FileState::Pending, FileState::InProgress];
const VERIFIED: &[FileState] = &[FileState::PublishPending];

pub(crate) struct Harbour {
    place: Place,
    store: Store,
    holder: Holder,
    tickets: Arc<dyn TicketSystem>,
    /// By which the windows of connectors open and close.
    clock: Arc<dyn Clock>,
    docks: Arc<Docks>,
    events: mpsc::Sender<Event>,
    /// So long one slice sends at most.
    slice: Duration,
    stop: CancellationToken,
    moored: Lock<HashMap<TransferId, Arc<Mooring>>>,
}

impl std::fmt::Debug for Harbour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Harbour({:?})", self.place)
    }
}

/// One transfer: one step at a time works on it.
#[derive(Debug, Default)]
struct Mooring {
    aboard: Mutex<Option<Aboard>>,
    /// Something else than the bytes wants to be looked at at once: a wish, or an interruption.
    disturbed: Notify,
    interrupted: AtomicBool,
    meter: Lock<Option<Arc<Meter>>>,
}

#[derive(Debug)]
struct Aboard {
    passage: Passage,
    /// Cancelled when another process has taken the transfer over, and with the whole process.
    alive: CancellationToken,
    keeper: AbortHandle,
    ready: Option<Ready>,
    /// A step has begun to send and has not come back: whoever goes on takes the transfer anew.
    under_way: bool,
}

impl Drop for Aboard {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// What was noticed beside a sending.
#[derive(Debug, Default)]
struct Seen {
    stopped: Option<Stopped>,
    interrupted: bool,
    /// The slice is over.
    cut: bool,
}

#[derive(Debug)]
struct Ready {
    opened: Opened,
    _berth: Berth,
    meter: Arc<Meter>,
    stop: CancellationToken,
}

impl Harbour {
    #[allow(clippy::too_many_arguments, reason = "each is a different thing that only the service has")]
    pub fn new(
        place: Place,
        store: Store,
        holder: Holder,
        tickets: Arc<dyn TicketSystem>,
        clock: Arc<dyn Clock>,
        events: mpsc::Sender<Event>,
        opening: Arc<dyn Opening>,
        slice: Duration,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let docks = Arc::new(Docks::new(opening));
        Arc::new(Self { place, store, holder, tickets, clock, docks, events, slice, stop, moored: Lock::default() })
    }

    pub fn docks(&self) -> &Docks {
        &self.docks
    }

    /// Somebody wished something for a running transfer: its step looks at once.
    pub fn wish(&self, transfer: &TransferId) {
        if let Some(mooring) = self.moored().get(transfer) {
            mooring.disturbed.notify_one();
        }
    }

    /// Nobody waits for the step of this transfer any more; it ends at a place from which it can be gone on with.
    pub fn interrupt(&self, transfer: &TransferId) {
        if let Some(mooring) = self.moored().get(transfer) {
            mooring.interrupted.store(true, Relaxed);
            mooring.disturbed.notify_one();
        }
    }

    /// `None` where nothing of it is being sent by this process.
    pub fn progress(&self, transfer: &TransferId) -> Option<Snapshot> {
        let mooring = self.moored().get(transfer)?.clone();
        let meter = mooring.meter.lock().expect("no panic while holding the lock").clone();
        meter.map(|meter| meter.snapshot())
    }

    fn moored(&self) -> std::sync::MutexGuard<'_, HashMap<TransferId, Arc<Mooring>>> {
        self.moored.lock().expect("no panic while holding the lock")
    }

    fn mooring(&self, transfer: &TransferId) -> Arc<Mooring> {
        self.moored().entry(transfer.clone()).or_default().clone()
    }

    /// Takes the transfer, unless an earlier step holds it.
    async fn board<'a>(&self, aboard: &'a mut Option<Aboard>, transfer: &TransferId) -> Result<&'a mut Aboard, Stopped> {
        if aboard.as_ref().is_some_and(|aboard| aboard.alive.is_cancelled() || aboard.under_way) {
            self.let_go(aboard).await;
        }
        if self.stop.is_cancelled() {
            return Err(Stopped::Interrupted);
        }
        if aboard.is_none() {
            let record = self.store.transfer(transfer).await?;
            let record = record.ok_or_else(|| app::Error::new(ErrorClass::Internal, format!("transfer {transfer} is gone")))?;
            let ends = self.docks.ends(&self.place, stored_spec(&record).map_err(app_error)?).await.map_err(app_error)?;
            // One service has this store, and one step at a time its transfer: whoever is on record is an earlier service, or
            // a step of ours that could not give it back because nothing could be written.
            let earlier = |_: &Lease| true;
            let held = transfers::take(&self.store, record, &self.holder, Timestamp::now(), earlier).await?;
            let alive = self.stop.child_token();
            let keeper = tokio::spawn(keep_lease(self.store.clone(), held.guard(), self.holder.lease, alive.clone())).abort_handle();
            let (state, store, events) = (self.place.state.clone(), self.store.clone(), self.events.clone());
            let passage = Passage { state, store, ends: Arc::new(ends), held, events, round: None };
            *aboard = Some(Aboard { passage, alive, keeper, ready: None, under_way: false });
        }
        Ok(aboard.as_mut().expect("it was put there above"))
    }

    /// Opens what sending needs, unless an earlier step has.
    async fn make_ready(&self, aboard: &mut Aboard, mooring: &Mooring, anew: bool) -> Result<(), Stopped> {
        if aboard.ready.as_ref().is_some_and(|ready| !anew && !ready.stop.is_cancelled()) {
            return Ok(());
        }
        aboard.ready = None;
        let passage = &aboard.passage;
        let acquaintance = passage.acquaintance().await;
        let berth = self.docks.enter(passage, &acquaintance);
        let meter = Arc::new(berth.meter());
        let totals = passage.recorded().await?;
        meter.expect(totals.files - totals.done_files, totals.bytes - totals.done_bytes);
        let stop = aboard.alive.child_token();
        let governed = Governed::of(&self.store, self.clock.clone(), &passage.held.record.id, self.tickets.clone()).await?;
        let governed = Arc::new(governed);
        let gate = move |ledger| -> Arc<dyn PublishGate> { governed.gate(ledger) };
        let opened = passage.open(&berth.dock, acquaintance, meter.clone(), &gate, stop.clone()).await?;
        *mooring.meter.lock().expect("no panic while holding the lock") = Some(meter.clone());
        aboard.ready = Some(Ready { opened, _berth: berth, meter, stop });
        Ok(())
    }

    /// Lets the transfer go, so that the next step takes it under a new epoch as another process would.
    async fn let_go(&self, aboard: &mut Option<Aboard>) {
        let Some(leaving) = aboard.take() else { return };
        let guard = leaving.passage.held.guard();
        drop(leaving);
        if let Err(error) = transfers::let_go(&self.store, guard).await {
            tracing::warn!(error = %error.message, "a lease was not given back; it runs out by itself");
        }
    }

    /// Checkpoints are written by then: every lease is given back and the sessions end in good order.
    pub async fn close(&self) {
        let moored: Vec<Arc<Mooring>> = self.moored().drain().map(|(_, mooring)| mooring).collect();
        for mooring in moored {
            self.let_go(&mut *mooring.aboard.lock().await).await;
        }
        self.docks.close().await;
    }

    /// Removes the temporary files of a transfer that nobody goes on with.
    async fn clear(&self, passage: &Passage) -> app::Result<()> {
        let berth = self.docks.enter(passage, &passage.acquaintance().await);
        let seat = berth.dock.pool().seat().await?;
        let (ends, id) = (&passage.ends, &passage.held.record.id);
        let cleared = clean::remove_over(&*seat, &self.store, &ends.spec.options.temp_name, &ends.naming.root, id).await;
        if cleared.is_err() {
            seat.lost();
        }
        cleared
    }

    /// The same for one that has ended: whoever goes on with it all the same begins its files anew. Whether it was done.
    pub async fn clear_of(&self, transfer: &TransferId) -> bool {
        let mooring = self.mooring(transfer);
        // No step of a new run begins meanwhile.
        let _aboard = mooring.aboard.lock().await;
        let cleared = async {
            let record = self.store.transfer(transfer).await?;
            let record = record.ok_or_else(|| app::Error::new(ErrorClass::Internal, format!("transfer {transfer} is gone")))?;
            if !record.state.is_terminal() {
                return Ok(());
            }
            let ends = self.docks.ends(&self.place, stored_spec(&record).map_err(app_error)?).await.map_err(app_error)?;
            let connection = ends.destination.connector.connect().await?;
            clean::remove_and_forget(&*connection, &self.store, &ends.spec.options.temp_name, &ends.naming.root, transfer).await?;
            Ok::<(), app::Error>(connection.close().await?)
        };
        let outcome = cleared.await;
        let mut moored = self.moored();
        // Nobody else waits for it: this one and the map's.
        if Arc::strong_count(&mooring) == 2 {
            moored.remove(transfer);
        }
        if let Err(error) = &outcome {
            tracing::warn!(%transfer, error = %error.message, "temporary files could not be removed; they are looked for again");
        }
        outcome.is_ok()
    }

    /// What stopped a step that was stopped: what was seen beside it, this process's end, a lost lease, or the end of a slice.
    async fn why_stopped(&self, aboard: &Aboard, transfer: &TransferId, seen: Option<Stopped>) -> Result<(), Stopped> {
        if let Some(stopped) = seen {
            return Err(stopped);
        }
        if self.stop.is_cancelled() {
            return Err(Stopped::Interrupted);
        }
        if transfers::is_lost(&self.store, &aboard.passage.held).await.unwrap_or(false) {
            return Err(app::Error::new(ErrorClass::LeaseLost, format!("another process has taken transfer {transfer} over")).into());
        }
        Ok(())
    }

    /// Looks after a sending: shows that it is alive, and stops it for a wish, for its connector, for an interruption and at
    /// the end of its slice. It ends with the sending, not by itself.
    async fn watch(
        &self,
        mooring: &Mooring,
        transfer: &TransferId,
        alive: &(dyn Fn() + Send + Sync),
        stop: &CancellationToken,
        seen: &mut Seen,
    ) -> Infallible {
        let deadline = Instant::now() + self.slice;
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                _ = tokio::time::sleep_until(deadline), if !seen.cut => seen.cut = true,
                _ = look.tick() => alive(),
                _ = mooring.disturbed.notified() => seen.interrupted |= mooring.interrupted.swap(false, Relaxed),
            }
            if seen.stopped.is_none()
                && let Err(stopped @ (Stopped::Asked(_) | Stopped::Held(_))) = may_go_on(&self.store, transfer, self.clock.wall()).await
            {
                seen.stopped = Some(stopped);
            }
            if seen.stopped.is_some() || seen.interrupted || seen.cut {
                stop.cancel();
            }
        }
    }

    async fn send_slice(
        &self,
        mooring: &Mooring,
        aboard: &mut Aboard,
        transfer: &TransferId,
        alive: &(dyn Fn() + Send + Sync),
    ) -> Result<bool, Stopped> {
        let mut ready = aboard.ready.take().expect("it was made ready");
        aboard.under_way = true;
        let passage = &aboard.passage;
        let moved = |meter: &Meter| {
            let seen = meter.snapshot();
            (seen.bytes_sent, seen.bytes_proved, seen.files_done + seen.files_failed)
        };
        let before = moved(&ready.meter);
        let mut seen = Seen::default();
        let watching = self.watch(mooring, transfer, alive, &ready.stop, &mut seen);
        let outcome = beside(ready.opened.send(passage, Some(LEFT)), watching).await;
        ready.opened.settle(passage, outcome.is_ok()).await;
        let after = moved(&ready.meter);
        aboard.under_way = false;
        match outcome {
            Ok(()) => {
                aboard.ready = Some(ready);
                Ok(false)
            }
            Err(error) if error.class == ErrorClass::Cancelled => {
                self.why_stopped(aboard, transfer, seen.stopped).await?;
                if seen.interrupted {
                    return Err(Stopped::Interrupted);
                }
                if seen.cut && before == after {
                    let text = format!("{} s went by and not one byte was taken", self.slice.as_secs());
                    return Err(app::Error::new(ErrorClass::NetworkStalled, text).into());
                }
                Ok(true)
            }
            Err(error) => {
                self.docks.forget_destination(&passage.ends.spec, error.class);
                Err(error.into())
            }
        }
    }
}

#[async_trait]
impl Ferry for Harbour {
    async fn list(&self, transfer: &TransferId) -> Result<Totals, Stopped> {
        let mooring = self.mooring(transfer);
        let mut aboard = mooring.aboard.lock().await;
        let passage = &self.board(&mut aboard, transfer).await?.passage;
        if passage.held.record.listed {
            return Ok(passage.recorded().await?);
        }
        let mut tally = Tally::default();
        let outcome = passage.list(&mut tally, &self.stop).await;
        match outcome {
            Ok((totals, _)) if tally.failed == 0 => Ok(totals),
            Ok(_) => {
                let text = format!("{} keys cannot have a name at the destination; nothing was sent", tally.failed);
                Err(app::Error::new(ErrorClass::DestNameInvalid, text).into())
            }
            Err(error) => {
                self.why_stopped(aboard.as_ref().expect("it is aboard"), transfer, None).await?;
                Err(error.into())
            }
        }
    }

    async fn open(&self, transfer: &TransferId) -> Result<(), Stopped> {
        let mooring = self.mooring(transfer);
        let mut aboard = mooring.aboard.lock().await;
        let aboard = self.board(&mut aboard, transfer).await?;
        app::feed::reopen(&self.store, &aboard.passage.held).await?;
        self.make_ready(aboard, &mooring, false).await?;
        let ready = aboard.ready.as_ref().expect("it was made ready");
        // One connection proves the login before anything is sent.
        if let Err(error) = ready.opened.engine.pool().seat().await {
            self.docks.forget_destination(&aboard.passage.ends.spec, error.kind);
            aboard.ready = None;
            return Err(app::Error::from(error).into());
        }
        Ok(())
    }

    async fn send(&self, transfer: &TransferId, alive: &(dyn Fn() + Send + Sync)) -> Result<bool, Stopped> {
        let mooring = self.mooring(transfer);
        let mut aboard = mooring.aboard.lock().await;
        let boarded = self.board(&mut aboard, transfer).await?;
        self.make_ready(boarded, &mooring, false).await?;
        let outcome = self.send_slice(&mooring, boarded, transfer, alive).await;
        if !matches!(outcome, Ok(false)) {
            // Whoever goes on does so under a new epoch, for which everything unconfirmed is suspect.
            self.let_go(&mut aboard).await;
        }
        outcome
    }

    async fn finish(&self, transfer: &TransferId) -> Result<(), Stopped> {
        let mooring = self.mooring(transfer);
        let mut aboard = mooring.aboard.lock().await;
        let boarded = self.board(&mut aboard, transfer).await?;
        let counts = self.store.counts(transfer).await?;
        let verified = counts.iter().any(|count| VERIFIED.contains(&count.state) && count.files > 0);
        self.make_ready(boarded, &mooring, verified).await?;
        let passage = &boarded.passage;
        let ready = boarded.ready.as_mut().expect("it was made ready");
        let finished = async {
            if verified {
                ready.opened.send(passage, Some(VERIFIED)).await?;
            }
            ready.opened.at_the_end().await
        }
        .await;
        ready.opened.settle(passage, finished.is_ok()).await;
        let outcome = match finished {
            Ok(()) => ready.opened.originals(&mut Besides::default()).await,
            Err(error) => Err(error),
        };
        boarded.ready = None;
        if let Err(error) = outcome {
            if error.class == ErrorClass::Cancelled {
                self.why_stopped(boarded, transfer, None).await?;
            }
            return Err(error.into());
        }
        Ok(())
    }

    async fn release(&self, transfer: &TransferId, keep: Keep) {
        let mooring = self.mooring(transfer);
        {
            let mut aboard = mooring.aboard.lock().await;
            if keep == Keep::Nothing
                && let Ok(boarded) = self.board(&mut aboard, transfer).await
                && let Err(error) = self.clear(&boarded.passage).await
            {
                tracing::warn!(%transfer, error = %error.message, "temporary files were left; they are looked for again");
            }
            self.let_go(&mut aboard).await;
        }
        self.moored().remove(transfer);
    }
}

fn app_error(failure: crate::Failure) -> app::Error {
    let mut error = app::Error::new(failure.class, failure.message);
    error.next = failure.next;
    error
}

#[cfg(test)]
mod tests {
    use app::register::Register;
    use model::TransferState;
    use store::{Mutation, TransferRecord};
    use workflow::executor::SystemClock;

    use super::*;
    use crate::open::ByAddress;
    use crate::process;

    async fn harbour(store: &Store, id: &TransferId) -> Arc<Harbour> {
        let (at, nowhere) = (Timestamp::now(), std::path::PathBuf::from("/nonexistent"));
        let record = TransferRecord {
            id: id.clone(),
            run: 1,
            identity: id.to_string(),
            source: String::new(),
            destination: String::new(),
            spec: "{}".into(),
            state: TransferState::Pending,
            error_class: None,
            error_text: None,
            files_total: 0,
            bytes_total: 0,
            listed: false,
            pid: 0,
            created_at: at,
            updated_at: at,
            finished_at: None,
        };
        store.commit(Mutation::CreateTransfer(record)).await.unwrap();
        let lease = transfers::LEASE;
        let place = Place { state: nowhere.clone(), home: nowhere, login_name: None, ssh_agent: None, lease, prompt: None, sealed: None };
        let tickets = Arc::new(Register::new(store.clone()));
        let (clock, opening) = (Arc::new(SystemClock::default()), Arc::new(ByAddress));
        let (events, stop) = (mpsc::channel(1).0, CancellationToken::new());
        Harbour::new(place, store.clone(), process::holder(lease), tickets, clock, events, opening, Duration::from_secs(1), stop)
    }

    // Mutation: `clear_of` leaves every mooring, or drops one that somebody waits for: two steps of one transfer would hold two.
    #[tokio::test]
    async fn a_mooring_goes_with_what_was_cleared_unless_a_step_waits_for_it() {
        let store = Store::open_in_memory().await.unwrap();
        let id = TransferId::from_random([7; 10]);
        let harbour = harbour(&store, &id).await;
        assert!(harbour.clear_of(&id).await);
        assert!(harbour.moored().is_empty(), "nobody waits for it");
        let waiting = harbour.mooring(&id);
        assert!(harbour.clear_of(&id).await);
        assert!(Arc::ptr_eq(&waiting, &harbour.mooring(&id)));
    }
}
