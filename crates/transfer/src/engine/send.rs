//! Files of more than one range: one reader brings ranges in order, several lanes write them at their offsets, proof
//! runs behind the write on the same handle, and the sheet remembers what is where.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use model::{FileNumber, Grade, RemotePath};
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::Inner;
use super::file::{FileRun, cancelled};
use super::queue::{Parcel, Queue};
use crate::digest::{crc64, crc64_and};
use crate::error::chain;
use crate::limit::LIMITED_BLOCK;
use crate::plan::{FAR_CONNECTIONS, Plan};
use crate::pool::Seat;
use crate::sheet::Sheet;
use crate::source::Pin;
use crate::{Capabilities, CreateOptions, Error, ErrorKind, OpenMode, Result, Subject, Writer};

/// Ranges in flight on one lane: one is being written while the one before is being proved…
const HANDS_PER_LANE: usize = 2;
/// …and on a far line, where ranges are small, another waits for its last confirmations.
const HANDS_PER_FAR_LANE: usize = 3;
/// A sync is asked for after so many bytes or so much time, whichever comes first; it bounds what must be looked at
/// again after a lost connection.
const SYNC_BYTES: u64 = 256 << 20;
const SYNC_EVERY: Duration = Duration::from_secs(5);
/// Confirmed data that no stored checkpoint knows yet, per lane; what a kill costs beside what is in flight.
const CHECKPOINT_BYTES: u64 = 16 << 20;
const CHECKPOINT_WAIT: Duration = Duration::from_secs(5);
/// A checkpoint comes at the latest so long after the one before, where there is anything new.
const CHECKPOINT_REST: Duration = Duration::from_secs(1);
const SYNC_LOOK: Duration = Duration::from_millis(250);

/// What the reader, the lanes and the keeper of one file share.
pub(super) struct Work {
    engine: Arc<Inner>,
    number: FileNumber,
    pin: Pin,
    temp: RemotePath,
    attempt: u32,
    grade: Grade,
    streams: bool,
    sheet: Mutex<Sheet>,
    queue: Queue,
    /// Something worth a checkpoint happened.
    dirty: Notify,
    /// The error that ended this attempt; the first one counts.
    error: Mutex<Option<Error>>,
    lanes: Mutex<Vec<Arc<Lane>>>,
    bytes_sent: AtomicU64,
    /// Of these, how many a stored checkpoint knows; `kept` tells of more.
    bytes_kept: AtomicU64,
    kept: Notify,
    /// A stored record names the temporary file, or may.
    recorded: AtomicBool,
    /// Of this file, until everything has been read.
    turn: Mutex<Option<OwnedSemaphorePermit>>,
}

/// An open handle on one connection.
pub(super) struct Lane {
    pub seat: Arc<Seat>,
    pub writer: Box<dyn Writer>,
    /// While the handle works, the server has not restarted since then.
    opened: Instant,
}

impl Lane {
    /// To be called when the handle was just opened.
    pub fn new(seat: Arc<Seat>, writer: Box<dyn Writer>) -> Self {
        Self { seat, writer, opened: Instant::now() }
    }
}

impl Work {
    fn sheet(&self) -> MutexGuard<'_, Sheet> {
        self.sheet.lock().expect("no panic while holding the lock")
    }

    fn fail(&self, error: Error) {
        self.error.lock().expect("no panic while holding the lock").get_or_insert(error);
        self.queue.close();
    }

    fn live_lane(&self) -> Option<Arc<Lane>> {
        self.lanes.lock().expect("no panic while holding the lock").first().cloned()
    }

    fn drop_lane(&self, lane: &Arc<Lane>) {
        self.lanes.lock().expect("no panic while holding the lock").retain(|l| !Arc::ptr_eq(l, lane));
    }

    /// Brings the missing ranges in order, a few at once, through the digests and into the queue. While one is digested
    /// the next ones go on arriving.
    async fn read_all(&self, ahead: usize) -> Result<()> {
        // Bounded by the budget that each of them holds.
        let (read, mut digesting) = mpsc::unbounded_channel();
        let digested = async {
            while let Some(parcel) = digesting.recv().await {
                self.digest(&parcel).await?;
                self.queue.push(parcel);
            }
            Ok(())
        };
        tokio::try_join!(self.read_ahead(ahead, read), digested)?;
        // A stream keeps its turn: it has a connection for itself, which its end needs.
        if !self.streams {
            self.turn.lock().expect("no panic while holding the lock").take();
        }
        Ok(())
    }

    async fn read_ahead(&self, ahead: usize, read: mpsc::UnboundedSender<Parcel>) -> Result<()> {
        let missing = self.sheet().missing();
        let mut missing = missing.into_iter();
        let mut reads = FuturesOrdered::new();
        loop {
            while reads.len() < ahead
                && let Some(index) = missing.next()
            {
                let range = self.sheet().range(index);
                reads.push_back(async move {
                    let reserved = self.engine.budget.range(range.end - range.start).await;
                    let data = self.engine.read_range(&self.pin, range.clone()).await?;
                    Ok::<_, Error>(Parcel { index, offset: range.start, data, written: false, _reserved: reserved })
                });
            }
            let Some(parcel) = reads.next().await else { return Ok(()) };
            // Nobody takes it after an error, which ends both.
            let _ = read.send(parcel?);
        }
    }

    async fn digest(&self, parcel: &Parcel) -> Result<()> {
        let (ahead, mut digests) = {
            let sheet = self.sheet();
            (sheet.is_ahead(parcel.index), sheet.digests())
        };
        if !ahead {
            let crc = crc64(&parcel.data);
            return match self.sheet().read(parcel.index, &parcel.data, crc) {
                true => Ok(()),
                false => Err(Error::new(ErrorKind::SourceChanged, "read the source again", &self.pin.key)
                    .because("the store returned other bytes for the same version than before the interruption")),
            };
        }
        let crc = match digests.is_empty() {
            true => crc64(&parcel.data),
            false => {
                // SHA-256 of a range takes milliseconds; other files must not wait for it.
                let data = parcel.data.clone();
                let digesting = tokio::task::spawn_blocking(move || (crc64_and(&data, &mut digests), digests));
                let crc;
                (crc, digests) =
                    digesting.await.map_err(|e| Error::new(ErrorKind::Internal, "compute the digest", Subject::Nothing).because(e))?;
                crc
            }
        };
        self.sheet().read_hashed(parcel.index, &parcel.data, crc, digests);
        Ok(())
    }

    /// Takes parcels until there are none; a parcel that this lane could not deliver goes back to the others.
    async fn hand(&self, lane: &Arc<Lane>) -> Result<()> {
        while let Some((mut parcel, load)) = self.next_for(lane).await {
            if let Err(error) = self.carry(lane, &mut parcel, load).await {
                if error.is_connection_lost() {
                    lane.seat.lost();
                    self.drop_lane(lane);
                    if std::mem::take(&mut parcel.written) {
                        // Not proved yet, so it would have to be looked at again; sending it is as cheap.
                        let lost = self.sheet().lost(parcel.index);
                        self.engine.setup.meter.undone(lost);
                    }
                }
                self.queue.give_back(parcel);
                return Err(error);
            }
            if self.sheet().is_complete() {
                self.queue.close();
            }
        }
        Ok(())
    }

    /// The next parcel for this lane. Over a far line each connection takes only as much as keeps it busy: in the hands of
    /// one that has enough already a parcel waits while others have nothing to do.
    async fn next_for(&self, lane: &Lane) -> Option<(Parcel, Option<OwnedSemaphorePermit>)> {
        if !self.engine.is_far() || self.streams {
            return self.queue.pop().await.map(|parcel| (parcel, None));
        }
        loop {
            let size = self.queue.wait().await?;
            let load = lane.seat.load(size).await;
            if let Some(parcel) = self.queue.take() {
                return Some((parcel, Some(load)));
            }
        }
    }

    async fn carry(&self, lane: &Lane, parcel: &mut Parcel, load: Option<OwnedSemaphorePermit>) -> Result<()> {
        let length = parcel.data.len() as u64;
        if !parcel.written {
            self.wait_for_checkpoint().await;
            let limiter = &self.engine.limiter;
            if limiter.is_limited() {
                for at in (0..parcel.data.len()).step_by(LIMITED_BLOCK) {
                    let block = parcel.data.slice(at..(at + LIMITED_BLOCK).min(parcel.data.len()));
                    limiter.take(block.len()).await;
                    lane.writer.write_at(parcel.offset + at as u64, block).await?;
                }
            } else {
                lane.writer.write_at(parcel.offset, parcel.data.clone()).await?;
            }
            parcel.written = true;
            drop(load);
            self.sheet().written(parcel.index);
            self.bytes_sent.fetch_add(length, Relaxed);
            self.engine.setup.meter.sent(length);
            self.engine.setup.meter.done(length);
        }
        // A stream is proved when it is whole: reading would end it.
        if !self.streams {
            let proof = self.engine.prove(&*lane.writer, self.grade, parcel.offset, &parcel.data).await?;
            self.sheet().proved(parcel.index, proof);
        }
        self.dirty.notify_one();
        Ok(())
    }

    /// Looks again at what an earlier connection had confirmed and a restart of the server may have lost.
    /// Returns how many ranges are not there.
    async fn look_at_suspects(&self, lane: &Lane, readable: bool) -> Result<u64> {
        let suspects = self.sheet().suspects();
        let mut missing = 0;
        for (index, crc) in suspects {
            if self.engine.halt.is_cancelled() {
                return Err(cancelled());
            }
            let range = self.sheet().range(index);
            let length = range.end - range.start;
            let there = if readable { self.engine.remote_crc(&*lane.writer, range).await? == (crc, length) } else { false };
            if there {
                self.sheet().cleared(index);
            } else {
                missing += 1;
                let lost = self.sheet().lost(index);
                self.engine.setup.meter.undone(lost);
                debug!(file = %self.number, range = index, "a confirmed range was lost and is sent again");
            }
        }
        Ok(missing)
    }

    /// After one of several connections was lost: the others go on while one of them looks whether everything is there.
    async fn look_again(&self, lane: &Lane, readable: bool) -> Result<()> {
        match self.look_at_suspects(lane, readable).await {
            Ok(0) => {}
            // What was sent already has left the reader; the next attempt reads it again.
            Ok(_) => self.fail(Error::new(ErrorKind::NetworkReset, "keep what was sent to", &self.temp)),
            // Another look may have found everything already.
            Err(_) if self.queue.is_closed() => {}
            Err(error) => self.fail(error),
        }
        if self.sheet().is_complete() {
            self.queue.close();
        }
        Ok(())
    }

    /// Keeps checkpoints current. A store that cannot write now delays them; only a lost lease ends the attempt.
    async fn keep(&self) {
        let mut last: Option<Instant> = None;
        loop {
            self.dirty.notified().await;
            // One for every range would be a quarter of a million writes for a terabyte. Half the interval leaves time for the
            // write before data has to wait for it.
            while let Some(rest) = last.and_then(|last| CHECKPOINT_REST.checked_sub(last.elapsed()))
                && self.unkept_bytes() < self.interval() / 2
            {
                tokio::select! {
                    () = tokio::time::sleep(rest) => {}
                    () = self.dirty.notified() => {}
                }
            }
            last = Some(Instant::now());
            if let Err(error) = self.checkpoint().await {
                if error.kind == ErrorKind::LeaseLost {
                    return self.fail(error);
                }
                warn!(file = %self.number, error = %chain(&error), "checkpoint not saved");
                tokio::time::sleep(Duration::from_secs(1)).await;
                self.dirty.notify_one();
            }
        }
    }

    async fn checkpoint(&self) -> Result<()> {
        let sent = self.bytes_sent.load(Relaxed);
        let (checkpoint, done) = {
            let sheet = self.sheet();
            (sheet.checkpoint(&self.pin, &self.temp, self.attempt, self.engine.setup.epoch), sheet.confirmed_bytes())
        };
        // Also if the answer is never heard.
        let before = self.recorded.swap(true, Relaxed);
        let outcome = self.engine.setup.ledger.checkpoint(self.number, &checkpoint, done).await;
        match &outcome {
            Ok(()) => {
                self.bytes_kept.fetch_max(sent, Relaxed);
                self.kept.notify_waiters();
            }
            Err(error) if error.kind == ErrorKind::LeaseLost => self.recorded.store(before, Relaxed),
            Err(_) => {}
        }
        outcome
    }

    /// Confirmed bytes that no stored checkpoint knows.
    fn unkept_bytes(&self) -> u64 {
        self.bytes_sent.load(Relaxed).saturating_sub(self.bytes_kept.load(Relaxed))
    }

    /// What a kill may cost.
    fn interval(&self) -> u64 {
        CHECKPOINT_BYTES * self.lanes.lock().expect("no panic while holding the lock").len().max(1) as u64
    }

    /// Data waits for its checkpoints, so that a kill costs no more than one interval per lane. A store that cannot
    /// write slows the file down and does not stop it.
    async fn wait_for_checkpoint(&self) {
        let interval = self.interval();
        let waiting = async {
            loop {
                let kept = self.kept.notified();
                if self.unkept_bytes() <= interval {
                    return;
                }
                self.dirty.notify_one();
                kept.await;
            }
        };
        if tokio::time::timeout(CHECKPOINT_WAIT, waiting).await.is_err() {
            debug!(file = %self.number, "checkpoints are late");
        }
    }

    /// Asks for a sync often enough that little has to be looked at again after a lost connection.
    async fn sync_now_and_then(&self) {
        let mut last = Instant::now();
        loop {
            tokio::time::sleep(SYNC_LOOK).await;
            let waiting = self.sheet().unsynced_bytes();
            if waiting == 0 || (waiting < SYNC_BYTES && last.elapsed() < SYNC_EVERY) {
                continue;
            }
            let Some(lane) = self.live_lane() else { continue };
            let covered = self.sheet().before_sync(lane.opened);
            if lane.writer.sync().await.is_ok() {
                self.sheet().synced(&covered);
                self.dirty.notify_one();
            }
            last = Instant::now();
        }
    }
}

impl FileRun {
    /// Moves what the sheet misses over as many lanes as the plan and the server allow. Returns a live lane.
    pub(super) async fn move_ranges(&mut self, first: Lane, plan: &Plan, temp: &RemotePath, capabilities: &Capabilities) -> Result<Lane> {
        let engine = self.engine.clone();
        let sheet = self.sheet.take().expect("ranges are moved after the sheet was made");
        let work = Arc::new(Work {
            number: self.task.number,
            pin: self.task.pin.clone(),
            temp: temp.clone(),
            attempt: self.attempt,
            grade: plan.grade,
            streams: sheet.notes().is_some(),
            sheet: Mutex::new(sheet),
            queue: Queue::default(),
            dirty: Notify::new(),
            error: Mutex::new(None),
            lanes: Mutex::new(Vec::new()),
            bytes_sent: AtomicU64::new(0),
            bytes_kept: AtomicU64::new(0),
            kept: Notify::new(),
            recorded: AtomicBool::new(self.recorded),
            turn: Mutex::new(self.turn.take()),
            engine,
        });
        let outcome = self.run_lanes(&work, first, plan, capabilities).await;
        self.turn.give_back(work.turn.lock().expect("no panic while holding the lock").take());
        self.bytes_sent += work.bytes_sent.load(Relaxed);
        // All tasks that held the work are gone or aborted; what they knew is in the sheet.
        let alive = work.live_lane();
        {
            let mut sheet = work.sheet();
            if alive.is_none() {
                sheet.connection_lost();
            } else if outcome.is_err() {
                sheet.attempt_ended();
            }
        }
        // The end of a stream may fail long after its last byte left; what was handed over is known until then.
        if (outcome.is_err() || work.streams)
            && let Err(error) = work.checkpoint().await
        {
            warn!(file = %self.task.number, error = %chain(&error), "checkpoint not saved");
        }
        self.recorded = work.recorded.load(Relaxed);
        let placeholder = Sheet::new(0, 1, model::DigestSet { sha256: false, md5: false }, false, false);
        self.sheet = Some(std::mem::replace(&mut *work.sheet(), placeholder));
        outcome
    }

    async fn run_lanes(&mut self, work: &Arc<Work>, first: Lane, plan: &Plan, capabilities: &Capabilities) -> Result<Lane> {
        let engine = self.engine.clone();
        let first = Arc::new(first);
        if let Err(error) = work.look_at_suspects(&first, capabilities.read).await {
            return Err(self.read_refused(error));
        }
        if self.task.checkpoint.take().is_some() {
            self.bytes_resumed = work.sheet().confirmed_bytes();
        }

        let hands_per_lane = match (capabilities.offset_writes, plan.connections) {
            (false, _) => 1,
            (true, ..FAR_CONNECTIONS) if !engine.is_far() => HANDS_PER_LANE,
            (true, _) => HANDS_PER_FAR_LANE,
        };
        let ahead = (plan.connections as usize * 2).clamp(3, 8);
        let (more, mut lanes) = mpsc::channel(1);
        let mut background = JoinSet::new();
        background.spawn({
            let work = work.clone();
            async move {
                if let Err(error) = work.read_all(ahead).await {
                    work.fail(error);
                }
            }
        });
        background.spawn({
            let work = work.clone();
            async move { work.keep().await }
        });
        if capabilities.sync {
            let work = work.clone();
            background.spawn(async move { work.sync_now_and_then().await });
        }
        background.spawn({
            let (work, held, wanted, readable) = (work.clone(), first.seat.id(), plan.connections, capabilities.read);
            async move { open_more(&work, held, wanted, readable, more).await }
        });

        let mut hands = JoinSet::new();
        let mut last_error = None;
        add_lane(&mut hands, work, first.clone(), hands_per_lane);
        if work.sheet().is_complete() {
            work.queue.close();
        }
        loop {
            tokio::select! {
                Some(lane) = lanes.recv() => {
                    let lane: Arc<Lane> = lane;
                    self.connections.insert(lane.seat.id());
                    add_lane(&mut hands, work, lane, hands_per_lane);
                }
                ended = hands.join_next() => match ended {
                    None => break,
                    Some(Ok(Ok(()))) => {}
                    // Other lanes may still finish the file, but not over what a restart of the server took with it.
                    Some(Ok(Err(error))) if error.is_connection_lost() => {
                        last_error = Some(error);
                        work.sheet().connection_lost();
                        if let Some(lane) = work.live_lane() {
                            let (work, readable) = (work.clone(), capabilities.read);
                            hands.spawn(async move { work.look_again(&lane, readable).await });
                        }
                    }
                    Some(Ok(Err(error))) => work.fail(self.read_refused(error)),
                    Some(Err(error)) => work.fail(Error::new(ErrorKind::Internal, "send", Subject::Nothing).because(error)),
                },
                _ = engine.halt.cancelled(), if !work.queue.is_closed() => {
                    work.fail(cancelled());
                    hands.abort_all();
                }
            }
        }
        background.shutdown().await;
        drop(first);
        if let Some(error) = work.error.lock().expect("no panic while holding the lock").take() {
            return Err(error);
        }
        if last_error.is_some()
            && let Some(survivor) = work.live_lane()
        {
            // The lost connection may have died with the server, and the survivor opened after its return.
            work.sheet().other_connection_lost(survivor.opened);
            if let Err(error) = work.look_at_suspects(&survivor, capabilities.read).await {
                return Err(self.read_refused(error));
            }
        }
        if !work.sheet().is_complete() {
            return Err(last_error.unwrap_or_else(|| Error::new(ErrorKind::NetworkReset, "send", &self.task.path)));
        }
        self.close_all_but_one(work).await
    }

    /// Late write errors appear at close, so every lane's handle is closed; the last one serves the final checks.
    async fn close_all_but_one(&mut self, work: &Work) -> Result<Lane> {
        let mut lanes = std::mem::take(&mut *work.lanes.lock().expect("no panic while holding the lock"));
        let kept = lanes.pop().ok_or_else(|| Error::new(ErrorKind::NetworkReset, "finish", &self.task.path))?;
        let closed = futures_util::future::join_all(lanes.iter().map(|lane| lane.writer.close())).await;
        for (lane, closed) in lanes.iter().zip(closed) {
            if let Err(error) = closed {
                if error.is_connection_lost() {
                    lane.seat.lost();
                }
                work.sheet().connection_lost();
                return Err(error);
            }
        }
        match Arc::try_unwrap(kept) {
            Ok(lane) => Ok(lane),
            // Every task that held it has ended; opening again would be right all the same.
            Err(shared) => {
                let options = CreateOptions { mode: OpenMode::Existing, read: self.readable, permissions: None };
                let writer = shared.seat.open(&work.temp, options).await?;
                Ok(Lane::new(shared.seat.clone(), writer))
            }
        }
    }
}

fn add_lane(hands: &mut JoinSet<Result<()>>, work: &Arc<Work>, lane: Arc<Lane>, count: usize) {
    work.lanes.lock().expect("no panic while holding the lock").push(lane.clone());
    for _ in 0..count {
        let (work, lane) = (work.clone(), lane.clone());
        hands.spawn(async move { work.hand(&lane).await });
    }
}

/// Opens the temporary file over further connections, until the server grants no more.
async fn open_more(work: &Arc<Work>, first: u64, wanted: u64, readable: bool, lanes: mpsc::Sender<Arc<Lane>>) {
    work.engine.pool.expect(wanted);
    let mut held = vec![first];
    let mut opening = JoinSet::new();
    while (held.len() as u64) < wanted && !work.queue.is_closed() {
        let Some(seat) = work.engine.pool.another(&held).await else { break };
        held.push(seat.id());
        let options = CreateOptions { mode: OpenMode::Existing, read: readable, permissions: None };
        let (work, lanes) = (work.clone(), lanes.clone());
        opening.spawn(async move {
            match seat.open(&work.temp, options).await {
                // Nobody takes it when the file has ended meanwhile.
                Ok(writer) => drop(lanes.send(Arc::new(Lane::new(Arc::new(seat), writer))).await),
                Err(error) => {
                    debug!(error = %chain(&error), "a further connection could not open the file");
                    if error.is_connection_lost() {
                        seat.lost();
                    }
                }
            }
        });
    }
    drop(lanes);
    while opening.join_next().await.is_some() {}
}
