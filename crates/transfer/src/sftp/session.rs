//! One SFTP channel. A sender task writes messages one after another, so that they are never interleaved; a
//! receiver task hands each reply to the request with its id and watches that something moves. What the bytes
//! travel over is a `link`.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::error::{Failure, Lost, OK, StatusError};
use super::wire::{Assembler, Attributes, Fields, Limits, Malformed, Name, Outgoing, Reply, Request, Version};
use crate::ErrorKind;
use crate::error::BoxError;

/// Bytes of writes that may wait for their confirmation. OpenSSH's own channel window is 2 MiB: more would only
/// lie in our memory, less would leave long lines idle.
const IN_FLIGHT: usize = 2 * 1024 * 1024;
/// A write counts as at least this much, which bounds their number.
const LEAST_COST: usize = 1024;
/// Requests other than writes that may wait for their answer.
const REQUESTS: usize = 256;
/// Payload of a write where the server does not tell its limits: one SSH packet of 32 KiB holds all of it.
const SAFE_WRITE: usize = 32_704;
/// 128 KiB is where larger requests stop being faster.
const LARGEST_REQUEST: usize = 128 * 1024;
const SAFE_READ: usize = 32 * 1024;
/// Open handles where the server does not tell its limit, and at most.
const SAFE_HANDLES: usize = 64;
const MOST_HANDLES: usize = 256;
/// Room for the header of a request within a server's largest packet.
const HEADER_ROOM: u64 = 1024;
/// A large payload is handed over in pieces of this size, so that progress is seen on slow lines.
const HANDED_OVER: usize = 32 * 1024;
/// The longest that leaving in good order may take.
pub(super) const GOODBYE: Duration = Duration::from_secs(5);

/// What came over a link.
#[derive(Debug)]
pub(super) enum Event {
    Data(Bytes),
    /// A sign of life without data.
    Sign,
    Ended,
}

/// The way out. `send` returns when the bytes are on their way.
pub(super) trait Outbound: Send + 'static {
    fn send(&mut self, data: Bytes) -> impl Future<Output = Result<(), BoxError>> + Send;
    fn finish(&mut self) -> impl Future<Output = ()> + Send;
}

/// The way in. `receive` may be dropped and called again without losing anything.
pub(super) trait Inbound: Send + 'static {
    fn receive(&mut self) -> impl Future<Output = Event> + Send;
    /// Why the link ended; asked once, after `Event::Ended`.
    fn reason(&mut self) -> impl Future<Output = Lost> + Send;
    /// Leaves in good order, within `GOODBYE`.
    fn leave(&mut self) -> impl Future<Output = ()> + Send;
}

#[derive(Debug)]
enum Message {
    Request(Outgoing),
    Finish,
}

#[derive(Debug)]
struct Waiter {
    reply: oneshot::Sender<Reply>,
    /// Given back when the answer is there, also when nobody waits for it any more.
    _permit: Option<OwnedSemaphorePermit>,
}

#[derive(Debug, Default)]
struct Table {
    waiters: HashMap<u32, Waiter>,
    last_id: u32,
    lost: Option<Lost>,
}

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    outbox: mpsc::UnboundedSender<Message>,
    bytes: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    handles: Arc<Semaphore>,
    began: Instant,
    /// Milliseconds from `began` to the last byte in either direction.
    moved: AtomicU64,
    stop: CancellationToken,
    ended: CancellationToken,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self) {
        self.moved.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn fail(&self, lost: Lost) {
        let mut table = self.table();
        if table.lost.is_none() {
            table.lost = Some(lost);
        }
        // Dropping the senders wakes every waiter, which then finds the reason in the table.
        table.waiters.clear();
        drop(table);
        for semaphore in [&self.bytes, &self.requests, &self.handles] {
            semaphore.close();
        }
        self.stop.cancel();
    }

    fn lost(&self) -> Lost {
        self.table().lost.clone().unwrap_or_else(|| Lost::reset("the connection ended"))
    }

    fn submit(&self, request: &Request<'_>, permit: Option<OwnedSemaphorePermit>) -> Result<oneshot::Receiver<Reply>, Lost> {
        let (reply, receiver) = oneshot::channel();
        let mut table = self.table();
        if let Some(lost) = &table.lost {
            return Err(lost.clone());
        }
        if table.waiters.is_empty() {
            // Silence while nothing was asked is no stall.
            self.mark();
        }
        let mut id = table.last_id.wrapping_add(1);
        while table.waiters.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        table.last_id = id;
        table.waiters.insert(id, Waiter { reply, _permit: permit });
        drop(table);
        // A closed outbox means that the session has failed meanwhile, which the receiver reports.
        let _ = self.outbox.send(Message::Request(request.encode(id)));
        Ok(receiver)
    }

    fn dispatch(&self, packet: Bytes) -> Result<(), Lost> {
        let (id, reply) = Reply::decode(packet).map_err(Lost::protocol)?;
        let Some(waiter) = self.table().waiters.remove(&id) else {
            return Err(Lost::protocol(format!("an answer to request {id}, which is not open")));
        };
        if let Err(Reply::Handle(handle)) = waiter.reply.send(reply) {
            // Whoever asked for it is gone; the server must not keep it open.
            let _ = self.submit(&Request::Close { handle: &handle }, None);
        }
        Ok(())
    }
}

/// A working SFTP channel. Cheap to share behind an `Arc`; it ends when `end` is called or the link does.
#[derive(Debug)]
pub(super) struct Session {
    shared: Arc<Shared>,
    pub version: Version,
    pub round_trip: Duration,
    pub max_write: usize,
    pub max_read: usize,
    pub max_handles: usize,
}

impl Session {
    /// Shakes hands and starts the tasks. The caller bounds the time.
    pub async fn start<O: Outbound, I: Inbound>(mut outbound: O, mut inbound: I, stall_timeout: Duration) -> Result<Self, Lost> {
        let asked = Instant::now();
        let mut assembler = Assembler::default();
        let first = {
            // A server that refuses the subsystem never opens its window: sending alone would wait for ever.
            let mut sending = pin!(outbound.send(super::wire::init()));
            let mut sent = false;
            loop {
                let event = tokio::select! {
                    biased;
                    outcome = &mut sending, if !sent => {
                        outcome.map_err(|error| Lost::reset("the connection ended").because(error))?;
                        sent = true;
                        continue;
                    }
                    event = inbound.receive() => event,
                };
                match event {
                    Event::Data(_) if !sent => return Err(Lost::protocol("it speaks before it is asked")),
                    Event::Data(data) => {
                        assembler.push(data);
                        if let Some(packet) = assembler.next().map_err(Lost::protocol)? {
                            break packet;
                        }
                    }
                    Event::Sign => {}
                    Event::Ended => return Err(inbound.reason().await),
                }
            }
        };
        let version = Version::decode(first).map_err(Lost::protocol)?;
        if version.number != 3 {
            return Err(Lost::protocol(format!("it speaks SFTP version {}, not 3", version.number)));
        }
        let mut round_trip = asked.elapsed();

        let (outbox, queue) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            table: Mutex::default(),
            outbox,
            bytes: Arc::new(Semaphore::new(IN_FLIGHT)),
            requests: Arc::new(Semaphore::new(REQUESTS)),
            handles: Arc::new(Semaphore::new(MOST_HANDLES)),
            began: Instant::now(),
            moved: AtomicU64::new(0),
            stop: CancellationToken::new(),
            ended: CancellationToken::new(),
        });
        tokio::spawn(send(Arc::clone(&shared), queue, outbound));
        tokio::spawn(receive(Arc::clone(&shared), inbound, assembler, stall_timeout));

        let mut session = Self { shared, version, round_trip, max_write: SAFE_WRITE, max_read: SAFE_READ, max_handles: SAFE_HANDLES };
        let mut limits = Limits::default();
        if session.version.limits {
            let asked = Instant::now();
            match session.extended(Request::Limits, Fields::limits).await {
                Ok(told) => limits = told,
                Err(Failure::Status(_)) => {}
                Err(Failure::Lost(lost)) => return Err(lost),
            }
            // The first answer includes the start of a process; this one does not.
            round_trip = round_trip.min(asked.elapsed());
        }
        session.round_trip = round_trip;
        session.apply(limits);
        Ok(session)
    }

    fn apply(&mut self, limits: Limits) {
        let packet = if limits.packet == 0 { u64::MAX } else { limits.packet.saturating_sub(HEADER_ROOM) };
        let request = |told: u64, safe: usize| {
            let most = if told == 0 { safe as u64 } else { told.min(LARGEST_REQUEST as u64) };
            // Less than 1 KiB at a time is no offer but a way to keep us busy.
            most.min(packet).max(1024) as usize
        };
        self.max_write = request(limits.write, SAFE_WRITE);
        self.max_read = request(limits.read, SAFE_READ);
        if limits.handles > 0 {
            self.max_handles = limits.handles.min(MOST_HANDLES as u64) as usize;
        }
        self.shared.handles.forget_permits(MOST_HANDLES - self.max_handles);
    }

    pub fn is_over(&self) -> bool {
        self.shared.table().lost.is_some()
    }

    /// Why the session is over.
    pub fn lost(&self) -> Lost {
        self.shared.lost()
    }

    /// One request and its answer.
    pub async fn call(&self, request: Request<'_>) -> Result<Reply, Lost> {
        let permit = self.permit(&self.shared.requests, 1).await?;
        let receiver = self.submit(&request, Some(permit))?;
        self.answer(receiver).await
    }

    /// Sends a request whose permit was taken before. From here on it counts until it is answered, whoever waits.
    pub fn submit(&self, request: &Request<'_>, permit: Option<OwnedSemaphorePermit>) -> Result<oneshot::Receiver<Reply>, Lost> {
        self.shared.submit(request, permit)
    }

    pub async fn answer(&self, receiver: oneshot::Receiver<Reply>) -> Result<Reply, Lost> {
        receiver.await.map_err(|_| self.shared.lost())
    }

    /// Room for a write of `length` bytes among those in flight; first come, first served.
    pub async fn room(&self, length: usize) -> Result<OwnedSemaphorePermit, Lost> {
        let cost = length.clamp(LEAST_COST, IN_FLIGHT) as u32;
        self.permit(&self.shared.bytes, cost).await
    }

    pub async fn request_permit(&self) -> Result<OwnedSemaphorePermit, Lost> {
        self.permit(&self.shared.requests, 1).await
    }

    /// The right to hold one open handle.
    pub async fn handle_permit(&self) -> Result<OwnedSemaphorePermit, Lost> {
        self.permit(&self.shared.handles, 1).await
    }

    async fn permit(&self, semaphore: &Arc<Semaphore>, count: u32) -> Result<OwnedSemaphorePermit, Lost> {
        Arc::clone(semaphore).acquire_many_owned(count).await.map_err(|_| self.shared.lost())
    }

    /// An answer that cannot belong to the request: nothing this server confirms can be trusted any more.
    pub fn distrust(&self, what: impl Into<BoxError>) -> Failure {
        let lost = Lost::protocol(what);
        self.shared.fail(lost.clone());
        Failure::Lost(lost)
    }

    /// Reads a reply for which only success has meaning.
    pub fn expect_ok(&self, reply: Reply) -> Result<(), Failure> {
        match reply {
            Reply::Status(StatusError { code: OK, .. }) => Ok(()),
            other => Err(self.refusal(other)),
        }
    }

    /// The failure in a reply that is not the one wanted.
    pub fn refusal(&self, reply: Reply) -> Failure {
        match reply {
            Reply::Status(status) if status.code != OK => Failure::Status(status),
            Reply::Status(_) => self.distrust("an OK where an answer was asked for"),
            _ => self.distrust("an answer that does not fit its request"),
        }
    }

    pub async fn ok(&self, request: Request<'_>) -> Result<(), Failure> {
        let reply = self.call(request).await?;
        self.expect_ok(reply)
    }

    pub async fn handle(&self, request: Request<'_>) -> Result<Bytes, Failure> {
        match self.call(request).await? {
            Reply::Handle(handle) => Ok(handle),
            other => Err(self.refusal(other)),
        }
    }

    pub async fn attributes(&self, request: Request<'_>) -> Result<Attributes, Failure> {
        match self.call(request).await? {
            Reply::Attributes(attributes) => Ok(attributes),
            other => Err(self.refusal(other)),
        }
    }

    pub async fn names(&self, request: Request<'_>) -> Result<Vec<Name>, Failure> {
        match self.call(request).await? {
            Reply::Names(names) => Ok(names),
            other => Err(self.refusal(other)),
        }
    }

    pub async fn extended<T>(&self, request: Request<'_>, read: impl FnOnce(Fields) -> Result<T, Malformed>) -> Result<T, Failure> {
        match self.call(request).await? {
            Reply::Extended(fields) => read(fields).map_err(|error| self.distrust(error)),
            other => Err(self.refusal(other)),
        }
    }

    /// Ends the session at once; open requests fail as lost.
    pub fn end(&self) {
        self.shared.fail(Lost::reset("the connection was closed"));
    }

    /// Ends the session in good order.
    pub async fn close(&self) {
        let _ = self.shared.outbox.send(Message::Finish);
        if tokio::time::timeout(GOODBYE, self.shared.ended.cancelled()).await.is_err() {
            self.end();
        }
    }
}

async fn send<O: Outbound>(shared: Arc<Shared>, mut queue: mpsc::UnboundedReceiver<Message>, mut outbound: O) {
    let work = async {
        while let Some(message) = queue.recv().await {
            let Message::Request(Outgoing { header, mut payload }) = message else {
                outbound.finish().await;
                shared.fail(Lost::reset("the connection was closed"));
                break;
            };
            let mut part = header;
            loop {
                if let Err(error) = outbound.send(part).await {
                    return Lost::reset("the connection ended").because(error);
                }
                shared.mark();
                if payload.is_empty() {
                    break;
                }
                part = payload.split_to(payload.len().min(HANDED_OVER));
            }
        }
        Lost::reset("the connection was closed")
    };
    tokio::select! {
        lost = work => {
            // The receiver may know better why: give it the time to say so.
            let _ = tokio::time::timeout(Duration::from_millis(500), shared.stop.cancelled()).await;
            shared.fail(lost);
        }
        () = shared.stop.cancelled() => {}
    }
}

async fn receive<I: Inbound>(shared: Arc<Shared>, mut inbound: I, mut assembler: Assembler, stall_timeout: Duration) {
    let mut ticks = tokio::time::interval((stall_timeout / 8).clamp(Duration::from_millis(5), Duration::from_secs(5)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let drain = |assembler: &mut Assembler| -> Result<(), Lost> {
        while let Some(packet) = assembler.next().map_err(Lost::protocol)? {
            shared.dispatch(packet)?;
        }
        Ok(())
    };
    // A hostile server may have sent more than its VERSION already.
    let mut outcome = drain(&mut assembler);
    while outcome.is_ok() {
        outcome = tokio::select! {
            () = shared.stop.cancelled() => Err(shared.lost()),
            event = inbound.receive() => {
                shared.mark();
                match event {
                    Event::Data(data) => {
                        assembler.push(data);
                        drain(&mut assembler)
                    }
                    Event::Sign => Ok(()),
                    Event::Ended => Err(inbound.reason().await),
                }
            }
            _ = ticks.tick() => stalled(&shared, stall_timeout),
        };
    }
    if let Err(lost) = outcome {
        shared.fail(lost);
    }
    let _ = tokio::time::timeout(GOODBYE, inbound.leave()).await;
    shared.ended.cancel();
}

fn stalled(shared: &Shared, limit: Duration) -> Result<(), Lost> {
    let silent = shared.began.elapsed().saturating_sub(Duration::from_millis(shared.moved.load(Ordering::Relaxed)));
    let waiting = shared.table().waiters.len();
    if waiting == 0 || silent < limit {
        return Ok(());
    }
    Err(Lost::new(ErrorKind::NetworkStalled, format!("nothing moved for {} s while {waiting} requests were waiting", silent.as_secs())))
}

#[cfg(test)]
#[path = "session_tests.rs"]
pub(super) mod tests;
