//! Connections to one destination, shared by everything that runs. One connection proves the login before others
//! open; a refusal after a good login lowers the number for good and never fails a file.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::{debug, info};

use crate::engine::Tuning;
use crate::error::chain;
use crate::meter::Meter;
use crate::port::Logins;
use crate::{Connection, Connector, Error, ErrorKind, Result, Subject, plan};

/// From this round trip on a server counts as far: one TCP window no longer fills the line, and questions are dear.
pub const FAR: Duration = Duration::from_millis(10);
/// Measured: two connections fill a near server. Each has about 2 MiB in flight, and 1 Gbit/s over 50 ms holds 7 MB with what
/// queues: four fill such a line only as long as none of them ever waits.
const NEAR_CONNECTIONS: usize = 2;
const FAR_CONNECTIONS: usize = 5;
/// Where each is one stream, which has more in flight, and partners count them.
const FAR_STREAMS: usize = 4;
/// How many connections a copy begins with. `wanted` is what it was told; where a connection serves one file at a time it is
/// the most, as is `lanes`, for their number grows by itself.
pub fn first_connections(far: bool, one_file_each: bool, wanted: Option<usize>, lanes: usize) -> usize {
    let usual = match (far, one_file_each) {
        (true, false) => FAR_CONNECTIONS,
        (true, true) => FAR_STREAMS,
        (false, _) => NEAR_CONNECTIONS,
    };
    if one_file_each { usual.min(lanes).min(wanted.unwrap_or(lanes)) } else { wanted.unwrap_or(usual) }
}

/// Whether a file of this size travels over all of so many connections of a far line.
fn is_wide(size: u64, connections: usize) -> bool {
    let connections = connections as u64;
    connections >= plan::FAR_CONNECTIONS && size >= plan::parallel_from(connections)
}

/// Where a connection serves one file at a time, their number doubles while that brings at least so much more…
const WORTH_IT: f64 = 1.15;
/// …judged after so long, and at least so many round trips.
const RAMP_LOOK: Duration = Duration::from_millis(100);
const RAMP_ROUND_TRIPS: u32 = 8;
/// A small file costs about as much as so many bytes.
const FILE_COST: u64 = 64 << 10;
/// The first wait after a refused connection while there is none; it doubles up to the last. Many files that miss the
/// same server would otherwise spend the breaker's patience in a moment.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(4);
/// A connection has 2 MiB in flight; with so much it never waits for the next range. Of ranges above half of it two are enough.
const ENOUGH: u64 = 3 << 20;
/// The parts in which that is counted.
const LOAD: u32 = 24;
/// So many files share a connection before another one is opened.
const SPREAD: usize = 4;
/// A large file waits so long for a connection that it has for itself, then it goes on over a shared one.
const OWN_WAIT: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub struct Pool {
    connector: Arc<dyn Connector>,
    logins: Arc<dyn Logins>,
    meter: Arc<Meter>,
    wanted: Option<usize>,
    /// Connections at most where each serves one file at a time.
    lanes: usize,
    far: Duration,
    state: Mutex<State>,
    changed: Notify,
}

impl std::fmt::Debug for dyn Logins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Logins")
    }
}

#[derive(Debug, Default)]
struct State {
    members: Vec<Arc<Member>>,
    opening: usize,
    /// How many connections to have; known after the first.
    target: usize,
    /// What `target` may grow to.
    limit: usize,
    /// What an earlier run was granted when it was refused more.
    expected: Option<usize>,
    /// What this run was granted when it was refused more, and how that was said.
    granted: Option<(usize, String)>,
    ramp: Option<Ramp>,
    /// A login succeeded, so a later refusal is about their number.
    proven: bool,
    next_id: u64,
    opened: u64,
    /// Connections that failed in a row while there was none, and when the next one may be tried.
    misses: u32,
    not_before: Option<Instant>,
    notes: Vec<String>,
    /// Fewer were granted than were asked for, with the words of a refusal; told when no other is being opened.
    short: Option<Option<String>>,
    /// The login or the host was refused: nobody tries again, or the account would be locked.
    refused: Option<ErrorKind>,
}

impl State {
    /// To be called by whoever has just opened or failed to open a connection, and is still counted in `opening`.
    fn tell_shortness(&mut self) {
        if self.opening > 1 {
            return;
        }
        let Some(refusal) = self.short.take() else { return };
        let live = self.members.iter().filter(|m| !m.lost.load(Relaxed)).count();
        self.granted = refusal.map(|words| (live, words)).or(self.granted.take());
        self.notes.push(format!("the server granted {live} connection(s) at once; going on with these"));
    }
}

/// How much the present number of connections brings.
#[derive(Debug)]
struct Ramp {
    since: Instant,
    work: u64,
    /// Of the number before, per second.
    rate: f64,
    look: Duration,
}

#[derive(Debug)]
struct Member {
    id: u64,
    connection: Arc<dyn Connection>,
    users: Mutex<usize>,
    lost: AtomicBool,
    /// What is left of `LOAD`.
    load: Arc<Semaphore>,
    /// Another connection was lost: this one is asked before it is given to anybody again.
    doubtful: AtomicBool,
}

/// A place on a connection. Dropping it gives the place back.
#[derive(Debug)]
pub struct Seat {
    pool: Arc<Pool>,
    member: Arc<Member>,
}

impl Deref for Seat {
    type Target = dyn Connection;

    fn deref(&self) -> &Self::Target {
        &*self.member.connection
    }
}

impl Seat {
    pub fn id(&self) -> u64 {
        self.member.id
    }

    /// The right to load this connection with a range of this size, until it is confirmed. One that has enough takes no more
    /// while others stand idle.
    pub async fn load(&self, size: u64) -> OwnedSemaphorePermit {
        let share = (size * u64::from(LOAD)).div_ceil(ENOUGH.max(2 * size).max(1)).max(1) as u32;
        self.member.load.clone().acquire_many_owned(share).await.expect("it is never closed")
    }

    /// The connection is gone; nobody else shall get it.
    pub fn lost(&self) {
        if !self.member.lost.swap(true, Relaxed) {
            debug!(connection = self.member.id, "connection lost");
            // A restarted server took all of them: each found dead only in use would cost its file one of three tries.
            self.pool.lock().members.iter().for_each(|member| member.doubtful.store(true, Relaxed));
        }
    }
}

impl Seat {
    /// Whether the connection is still of use; asks only where there is a doubt.
    async fn answers(&self) -> bool {
        if !self.member.doubtful.load(Relaxed) {
            return true;
        }
        match self.ping().await {
            Err(error) if error.is_connection_lost() => {
                self.lost();
                false
            }
            _ => {
                self.member.doubtful.store(false, Relaxed);
                true
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        *self.member.users.lock().expect("no panic while holding the lock") -= 1;
        // One place became free, so one of those who wait can go on.
        self.pool.changed.notify_one();
    }
}

impl Pool {
    pub fn new(connector: Arc<dyn Connector>, logins: Arc<dyn Logins>, meter: Arc<Meter>, tuning: &Tuning) -> Arc<Self> {
        let state = State { target: 1, limit: 1, ..State::default() };
        let (wanted, lanes, far) = (tuning.connections, tuning.lanes.max(1), tuning.far);
        Arc::new(Self { connector, logins, meter, wanted, lanes, far, state: Mutex::new(state), changed: Notify::new() })
    }

    pub fn connector(&self) -> &dyn Connector {
        &*self.connector
    }

    /// How many connections this pool means to use, once the first one told how far the server is.
    pub fn target(&self) -> usize {
        self.lock().target
    }

    /// An earlier run was refused more sessions than this; nobody asks for more.
    pub fn expect_logins(&self, logins: Option<usize>) {
        self.lock().expected = logins.map(|logins| logins.max(1));
    }

    /// How many sessions this server granted when it refused one more, and its words.
    pub fn granted(&self) -> Option<(usize, String)> {
        self.lock().granted.clone()
    }

    /// Something that one of its connections found out and the user should know.
    pub fn note(&self, text: &str) {
        self.lock().notes.push(text.to_owned());
    }

    /// What the user should know of this server, each once.
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().notes)
    }

    /// A place on the least busy connection, opening one where that helps.
    pub async fn seat(self: &Arc<Self>) -> Result<Seat> {
        self.seat_among(None).await
    }

    /// A place for a large file of this size: on a connection of its own as long as more of them may be opened. Several that
    /// share one share what one connection has in flight, which is little over a far line. A file that will travel over all
    /// of them begins on whichever there is.
    pub async fn seat_apart(self: &Arc<Self>, size: u64) -> Result<Seat> {
        self.seat_among(Some(size)).await
    }

    async fn seat_among(self: &Arc<Self>, large: Option<u64>) -> Result<Seat> {
        loop {
            let seat = self.any_seat(large).await?;
            if seat.answers().await {
                return Ok(seat);
            }
        }
    }

    async fn any_seat(self: &Arc<Self>, mut large: Option<u64>) -> Result<Seat> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let (seat, grow, apart) = {
                let mut state = self.lock();
                let seat = self.least_busy(&mut state, &[]);
                if seat.is_none() {
                    self.ramp(&mut state);
                }
                // Where so many files have the least busy connection, another one is opened.
                let files = if large.is_some_and(|size| !is_wide(size, state.target)) { 1 } else { SPREAD };
                let busy = seat.as_ref().is_none_or(|s| *s.member.users.lock().expect("no panic while holding the lock") > files);
                let room = state.members.len() + state.opening < state.target;
                let grow = busy && room && (state.proven || state.opening == 0);
                if grow {
                    state.opening += 1;
                }
                (seat, grow, files == 1)
            };
            if grow && seat.is_none() && large.is_some_and(|size| size >= plan::FAR_PARALLEL_FROM) {
                self.foresee();
            }
            match (seat, grow) {
                (Some(seat), true) if apart => {
                    drop(seat);
                    let pool = self.clone();
                    // Opened in any case: the next one finds it.
                    let opening = tokio::spawn(async move { pool.open().await });
                    match tokio::time::timeout(OWN_WAIT, opening).await {
                        Ok(Ok(Ok(seat))) => return Ok(seat),
                        _ => large = None,
                    }
                }
                (Some(seat), true) => {
                    // The file starts on what there is; the next ones find the new connection.
                    let pool = self.clone();
                    tokio::spawn(async move { pool.open().await.map(drop) });
                    return Ok(seat);
                }
                (Some(seat), false) => return Ok(seat),
                (None, true) => match self.open().await {
                    Ok(seat) => return Ok(seat),
                    Err(_) if self.has_members() => continue,
                    Err(error) => return Err(error),
                },
                (None, false) => changed.await,
            }
        }
    }

    /// The first connection is about to be opened for a large file: over a far line others will follow at once.
    fn foresee(&self) {
        let state = self.lock();
        let most = self.wanted.unwrap_or(FAR_CONNECTIONS).min(state.expected.unwrap_or(usize::MAX));
        if !state.proven && most > 1 {
            self.connector.expect(most - 1);
        }
    }

    /// Begins to open so many connections in all, as far as the server is known to grant them: whoever needs them soon need
    /// not wait for one login after another.
    pub fn expect(self: &Arc<Self>, connections: u64) {
        let missing = {
            let mut state = self.lock();
            let wanted = state.target.min(connections as usize);
            let missing = if state.proven { wanted.saturating_sub(state.members.len() + state.opening) } else { 0 };
            state.opening += missing;
            missing
        };
        for _ in 0..missing {
            let pool = self.clone();
            tokio::spawn(async move { pool.open().await.map(drop) });
        }
    }

    /// A place on a connection not in `held`, for another lane of one file. `None` when the server grants no more.
    pub async fn another(self: &Arc<Self>, held: &[u64]) -> Option<Seat> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = self.lock();
                if let Some(seat) = self.least_busy(&mut state, held) {
                    return Some(seat);
                }
                if state.members.len() + state.opening < state.target {
                    state.opening += 1;
                    break;
                }
                if state.opening == 0 {
                    return None;
                }
            }
            changed.await;
        }
        self.open().await.ok()
    }

    /// Every connection is busy: doubles their number if the last doubling was worth it.
    fn ramp(&self, state: &mut State) {
        let (full, work) = (state.members.len() >= state.target && state.opening == 0, self.work());
        let (true, Some(ramp)) = (full && state.target < state.limit, &mut state.ramp) else { return };
        let elapsed = ramp.since.elapsed();
        if elapsed < ramp.look || work == ramp.work {
            return;
        }
        let rate = (work - ramp.work) as f64 / elapsed.as_secs_f64();
        if rate >= ramp.rate * WORTH_IT {
            ramp.rate = rate;
            state.target = (state.target * 2).min(state.limit);
        } else {
            debug!(connections = state.target, "more connections bring nothing");
            state.limit = state.target;
        }
    }

    fn work(&self) -> u64 {
        let now = self.meter.snapshot();
        now.bytes_sent + now.files_done * FILE_COST
    }

    /// Nobody has used it for a while: each session is asked before it is given to anybody again.
    pub fn rested(&self) {
        self.lock().members.iter().for_each(|member| member.doubtful.store(true, Relaxed));
    }

    /// The login or the host was refused, and this pool will not try again.
    pub fn is_refused(&self) -> bool {
        self.lock().refused.is_some()
    }

    /// Ends all sessions in good order.
    pub async fn close(&self) {
        let members = std::mem::take(&mut self.lock().members);
        // Together: each takes a round trip or two.
        let closing = members.iter().map(|member| async {
            if let Err(error) = member.connection.close().await {
                debug!(error = %chain(&error), "connection did not close in good order");
            }
        });
        futures_util::future::join_all(closing).await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while holding the lock")
    }

    fn has_members(&self) -> bool {
        self.lock().members.iter().any(|m| !m.lost.load(Relaxed))
    }

    fn least_busy(self: &Arc<Self>, state: &mut State, held: &[u64]) -> Option<Seat> {
        state.members.retain(|m| !m.lost.load(Relaxed));
        self.meter.connections(state.members.len() as u64);
        let users = |m: &Arc<Member>| *m.users.lock().expect("no panic while holding the lock");
        let member = state
            .members
            .iter()
            .filter(|m| !held.contains(&m.id) && users(m) < m.connection.capabilities().multiplex)
            .min_by_key(|m| users(m))?
            .clone();
        *member.users.lock().expect("no panic while holding the lock") += 1;
        Some(Seat { pool: self.clone(), member })
    }

    /// Opens one connection; the caller has counted it in `opening`.
    async fn open(self: &Arc<Self>) -> Result<Seat> {
        // Counted down also when the caller is dropped half-way.
        let _counted = Opening { pool: self };
        let not_before = self.lock().not_before;
        if let Some(at) = not_before {
            tokio::time::sleep_until(at).await;
        }
        self.logins.before_connect().await?;
        let refused = self.lock().refused;
        if let Some(kind) = refused {
            return Err(Error::new(kind, "log in at", Subject::Server(self.connector.endpoint().to_string()))
                .because("it was refused a moment ago and is not tried again"));
        }
        let outcome = self.connector.connect().await;
        let alive = self.has_members();
        match &outcome {
            Ok(connection) => self.logins.after_connect(Ok(connection.identity())).await,
            // Beside a live session of the same login this is a refusal of number, not of the login.
            Err(_) if alive => {}
            Err(error) => self.logins.after_connect(Err(error)).await,
        }
        let mut state = self.lock();
        match outcome {
            Ok(connection) => {
                let connection: Arc<dyn Connection> = Arc::from(connection);
                if !state.proven {
                    let round_trip = connection.identity().round_trip;
                    let one_file_each = connection.capabilities().multiplex == 1;
                    state.target = first_connections(round_trip >= self.far, one_file_each, self.wanted, self.lanes);
                    state.limit = state.target;
                    if one_file_each {
                        state.limit = self.lanes.min(self.wanted.unwrap_or(self.lanes));
                        let look = RAMP_LOOK.max(round_trip * RAMP_ROUND_TRIPS);
                        state.ramp = Some(Ramp { since: Instant::now(), work: self.work(), rate: 0.0, look });
                    }
                    if let Some(most) = state.expected {
                        (state.target, state.limit) = (state.target.min(most), state.limit.min(most));
                    }
                    state.notes.extend(connection.identity().notes.iter().cloned());
                }
                state.proven = true;
                state.misses = 0;
                state.not_before = None;
                state.next_id += 1;
                state.opened += 1;
                let member = Arc::new(Member {
                    id: state.next_id,
                    connection,
                    users: Mutex::new(1),
                    load: Arc::new(Semaphore::new(LOAD as usize)),
                    lost: AtomicBool::new(false),
                    doubtful: AtomicBool::new(false),
                });
                state.members.push(member.clone());
                let work = self.work();
                if let Some(ramp) = &mut state.ramp {
                    (ramp.since, ramp.work) = (Instant::now(), work);
                }
                self.meter.connections(state.members.len() as u64);
                state.tell_shortness();
                Ok(Seat { pool: self.clone(), member })
            }
            Err(error) => {
                if !alive && matches!(error.kind, ErrorKind::DestAuth | ErrorKind::DestHostKey | ErrorKind::DestTls) {
                    state.refused = Some(error.kind);
                }
                let live = state.members.iter().filter(|m| !m.lost.load(Relaxed)).count();
                // Those that are still being opened may be granted.
                let most = live + state.opening.saturating_sub(1);
                if live > 0 && state.target > most {
                    (state.target, state.limit) = (most, most);
                    // A line that broke says nothing about how many sessions there may be.
                    let refusal = matches!(error.kind, ErrorKind::DestAuth | ErrorKind::DestUnreachable);
                    state.short = Some(refusal.then(|| chain(&error)));
                    info!(granted = most, error = %chain(&error), "the server grants no more connections");
                }
                state.tell_shortness();
                if live == 0 {
                    state.not_before = Some(Instant::now() + FIRST_WAIT.saturating_mul(1 << state.misses.min(8)).min(LONGEST_WAIT));
                    state.misses += 1;
                }
                Err(error)
            }
        }
    }
}

struct Opening<'a> {
    pool: &'a Arc<Pool>,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.pool.lock().opening -= 1;
        self.pool.changed.notify_waiters();
    }
}
