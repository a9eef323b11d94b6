//! One proxied connection: each direction reads ahead into a delay line and delivers when the time has come.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::rewrite::{Opener, Rewrite};
use super::settings::{Action, Counted, Direction, How, Rule, Scope, Settings};
use super::{Passing, Shared};
use crate::pace::{Pacer, piece};

/// Bytes under way in one direction: the product of any bandwidth and delay a test asks for.
const DELAY_LINE: usize = 32 << 20;
const READ: usize = 256 << 10;
/// How long an orderly end waits for the other side, discarding what it still sends.
const LINGER: Duration = Duration::from_secs(2);

enum Item {
    Bytes(Instant, Bytes),
    End { at: Instant, reset: bool },
}

/// Why a direction stopped.
enum Stop {
    /// The end of the stream was passed on.
    Ended,
    Cut(How),
}

pub(super) async fn run(mut client: TcpStream, mut server: TcpStream, shared: &Arc<Shared>, passing: &Arc<Passing>) {
    let how = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        let up = lane(Direction::ToServer, client_read, server_write, shared, passing);
        let down = lane(Direction::ToClient, server_read, client_write, shared, passing);
        let both = async {
            tokio::pin!(up, down);
            let (mut up_done, mut down_done) = (false, false);
            while !(up_done && down_done) {
                let stop = tokio::select! {
                    stop = &mut up, if !up_done => { up_done = true; stop }
                    stop = &mut down, if !down_done => { down_done = true; stop }
                };
                if let Stop::Cut(how) = stop
                    && how != How::HalfClose
                {
                    return how;
                }
            }
            How::Fin
        };
        tokio::select! {
            how = both => how,
            how = cut_from_outside(shared, passing.passive) => how,
        }
    };
    match how {
        How::Rst => {
            let _ = (client.set_zero_linger(), server.set_zero_linger());
        }
        How::HalfClose => {
            let _ = client.shutdown().await;
            let _ = tokio::io::copy(&mut client, &mut server).await;
        }
        How::Fin => end_orderly(client, server).await,
    }
}

/// Closing with unread bytes makes a reset of an orderly end, so they are read and thrown away for a while.
async fn end_orderly(mut client: TcpStream, mut server: TcpStream) {
    let _ = (client.shutdown().await, server.shutdown().await);
    let mut nowhere = (tokio::io::sink(), tokio::io::sink());
    let drain = async { tokio::join!(tokio::io::copy(&mut client, &mut nowhere.0), tokio::io::copy(&mut server, &mut nowhere.1)) };
    let _ = tokio::time::timeout(LINGER, drain).await;
}

async fn cut_from_outside(shared: &Shared, passive: bool) -> How {
    let born = Instant::now();
    let mut changes = shared.settings.subscribe();
    let cuts = changes.borrow_and_update().cuts;
    loop {
        let lifetime = {
            let settings = changes.borrow_and_update();
            if let Some(how) = settings.cut_since(cuts, passive) {
                return how;
            }
            settings.lifetime
        };
        let too_old = async {
            match lifetime {
                Some((lifetime, how)) => {
                    sleep_until(born + lifetime).await;
                    how
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = changes.changed() => {}
            how = too_old => return how,
        }
    }
}

async fn lane(direction: Direction, mut from: ReadHalf<'_>, to: WriteHalf<'_>, shared: &Arc<Shared>, passing: &Arc<Passing>) -> Stop {
    let (send, receive) = mpsc::unbounded_channel();
    let under_way = UnderWay::default();
    // What passes as data is nobody's reply: held back for the end of a line, it would never arrive.
    let make = if passing.passive { None } else { shared.rewrites.lock().expect("no panic while locked")[direction.index()].clone() };
    let changes = shared.settings.subscribe();
    let forgotten = changes.borrow().forgotten(passing.passive);
    let mut writer = Writer {
        direction,
        to,
        shared,
        passing,
        changes,
        own_paces: Default::default(),
        forgotten,
        rewrite: make.map(|make| make()),
        swallowing: false,
    };
    let deliver = writer.deliver(receive, &under_way);
    let read = read_ahead(&mut from, send, &under_way, shared.settings.subscribe(), direction, passing.passive);
    tokio::pin!(deliver);
    tokio::select! {
        stop = &mut deliver => return stop,
        () = read => {}
    }
    deliver.await
}

/// Bytes of one direction that were read and not yet delivered.
#[derive(Default)]
struct UnderWay {
    bytes: AtomicUsize,
    fewer: Notify,
}

impl UnderWay {
    fn delivered(&self, count: usize) {
        self.bytes.fetch_sub(count, Ordering::SeqCst);
        self.fewer.notify_one();
    }
}

/// As much as the line can hold: with a rate its product with the delay, so that nobody sees bytes accepted long before
/// they pass.
fn capacity(settings: &Settings, direction: Direction, passive: bool) -> usize {
    let lanes = settings.lanes(passive, direction);
    let latency = settings.latency(passive, direction);
    match lanes.iter().flat_map(|lane| [lane.bytes_per_second, lane.bytes_per_second_each]).flatten().min() {
        Some(rate) => ((rate as f64 * (latency.as_secs_f64() + 0.02)) as usize + (16 << 10)).min(DELAY_LINE),
        None if latency.is_zero() => 1 << 20,
        None => DELAY_LINE,
    }
}

async fn read_ahead(
    from: &mut ReadHalf<'_>,
    send: mpsc::UnboundedSender<Item>,
    under_way: &UnderWay,
    mut changes: watch::Receiver<Settings>,
    direction: Direction,
    passive: bool,
) {
    let mut buffer = BytesMut::new();
    loop {
        let capacity = capacity(&changes.borrow_and_update(), direction, passive);
        let room = capacity.saturating_sub(under_way.bytes.load(Ordering::SeqCst)).min(READ);
        if room == 0 {
            tokio::select! {
                () = under_way.fewer.notified() => {}
                _ = changes.changed() => {}
            }
            continue;
        }
        buffer.reserve(room);
        let (count, reset) = match from.read_buf(&mut (&mut buffer).limit(room)).await {
            Ok(count) => (count, false),
            Err(_) => (0, true),
        };
        if count == 0 {
            let _ = send.send(Item::End { at: Instant::now(), reset });
            return;
        }
        under_way.bytes.fetch_add(count, Ordering::SeqCst);
        if send.send(Item::Bytes(Instant::now(), buffer.split().freeze())).is_err() {
            return;
        }
    }
}

struct Writer<'a> {
    direction: Direction,
    to: WriteHalf<'a>,
    shared: &'a Arc<Shared>,
    passing: &'a Arc<Passing>,
    changes: watch::Receiver<Settings>,
    /// For the rates of each connection: of all, and of its kind.
    own_paces: [Pacer; 2],
    /// As counted when the connection began.
    forgotten: u64,
    rewrite: Option<Box<dyn Rewrite>>,
    swallowing: bool,
}

impl Writer<'_> {
    async fn deliver(&mut self, mut receive: mpsc::UnboundedReceiver<Item>, under_way: &UnderWay) -> Stop {
        while let Some(item) = receive.recv().await {
            match item {
                Item::Bytes(at, bytes) => {
                    self.wait_for(at, |_| Duration::ZERO).await;
                    let count = bytes.len();
                    let bytes = match self.rewrite.as_mut() {
                        None => bytes,
                        Some(rewrite) => rewrite.rewrite(bytes, &Opener::new(self.shared)).await,
                    };
                    if let Some(stop) = self.pass(bytes).await {
                        return stop;
                    }
                    under_way.delivered(count);
                }
                Item::End { at, reset } => {
                    self.wait_for(at, |settings| settings.close_delay).await;
                    if self.in_black_hole() {
                        std::future::pending::<()>().await;
                    }
                    if reset {
                        return Stop::Cut(How::Rst);
                    }
                    let _ = self.to.shutdown().await;
                    return Stop::Ended;
                }
            }
        }
        Stop::Ended
    }

    /// Waits until what was read at `read_at` is due, by the latency of now.
    async fn wait_for(&mut self, read_at: Instant, more: impl Fn(&Settings) -> Duration) {
        loop {
            let delay = {
                let settings = self.changes.borrow_and_update();
                settings.latency(self.passing.passive, self.direction) + more(&settings)
            };
            if delay.is_zero() {
                return;
            }
            tokio::select! {
                () = sleep_until(read_at + delay) => return,
                _ = self.changes.changed() => {}
            }
        }
    }

    fn in_black_hole(&mut self) -> bool {
        let settings = self.changes.borrow_and_update();
        let passive = self.passing.passive;
        self.swallowing |= settings.black_hole(passive, self.direction) || settings.forgotten(passive) != self.forgotten;
        self.swallowing
    }

    /// Delivers `bytes` piece by piece, each up to the next place where something is to happen.
    async fn pass(&mut self, mut bytes: Bytes) -> Option<Stop> {
        while !bytes.is_empty() {
            if self.in_black_hole() {
                return None;
            }
            let passive = self.passing.passive;
            let rates = {
                let settings = self.changes.borrow();
                settings.lanes(passive, self.direction).map(|lane| [lane.bytes_per_second, lane.bytes_per_second_each])
            };
            let mut limit = rates.iter().flatten().flatten().map(|rate| piece(*rate)).min().unwrap_or(usize::MAX).min(bytes.len());
            let due = self.book(&mut limit);
            let mut part = bytes.split_to(limit);
            if let Some(Action::Corrupt(mask)) = due.map(|rule| rule.action) {
                part = corrupt_last(&part, mask);
            }
            let shared = [Scope::All, Scope::of(passive)].map(|scope| &self.shared.pacers[scope.index()][self.direction.index()]);
            let paces = (0..2).flat_map(|kind| [(shared[kind], rates[kind][0]), (&self.own_paces[kind], rates[kind][1])]);
            let deadline = paces.filter_map(|(pace, rate)| rate.map(|rate| pace.book(part.len() as u64, rate))).max();
            if let Some(deadline) = deadline {
                sleep_until(deadline).await;
            }
            if self.to.write_all_buf(&mut part).await.is_err() {
                return Some(Stop::Cut(How::Rst));
            }
            match due.map(|rule| (rule.id, rule.action)) {
                None | Some((_, Action::Corrupt(_))) => {}
                Some((rule, Action::Stall)) => self.stall(rule).await,
                Some((_, Action::Cut(how))) => {
                    if how == How::HalfClose {
                        let _ = self.to.shutdown().await;
                    }
                    return Some(Stop::Cut(how));
                }
            }
        }
        None
    }

    /// Takes as many of `limit` bytes as may pass up to the next rule and counts them as passed. The rule is returned
    /// when its byte is the last of them; the count is under a lock, so one connection alone reaches a shared mark.
    fn book(&mut self, limit: &mut usize) -> Option<Rule> {
        let index = self.direction.index();
        let mut totals = self.shared.totals[index].lock().expect("no panic while locked");
        let own = self.passing.bytes[index].load(Ordering::SeqCst);
        let mut next = None;
        let passive = self.passing.passive;
        let ours = |rule: &&Rule| rule.direction == self.direction && rule.scope.holds(passive);
        for rule in self.changes.borrow().rules.iter().filter(ours) {
            let position = match rule.counted {
                Counted::PerConnection => own,
                Counted::PerPassiveConnection if self.passing.passive => own,
                Counted::OnConnection(number) if number == self.passing.number => own,
                Counted::PerPassiveConnection | Counted::OnConnection(_) => continue,
                Counted::OverAll | Counted::OverAllEvery => totals[rule.scope.index()],
            };
            let mark = match (rule.counted, rule.action) {
                (Counted::OverAllEvery, _) => (position / rule.bytes.max(1) + 1) * rule.bytes.max(1),
                (_, Action::Corrupt(_)) => rule.bytes + 1,
                _ => rule.bytes,
            };
            // Marks already behind do not happen; a mark at 0 is before the first byte.
            let ahead = mark > position || (mark == 0 && position == 0);
            if ahead && mark - position <= *limit as u64 {
                *limit = (mark - position) as usize;
                next = Some(*rule);
            }
        }
        for scope in [Scope::All, Scope::of(passive)] {
            totals[scope.index()] += *limit as u64;
        }
        self.passing.bytes[index].fetch_add(*limit as u64, Ordering::SeqCst);
        next
    }

    async fn stall(&mut self, rule: u64) {
        while self.changes.borrow_and_update().rules.iter().any(|other| other.id == rule) {
            if self.changes.changed().await.is_err() {
                return;
            }
        }
    }
}

fn corrupt_last(part: &Bytes, mask: u8) -> Bytes {
    let mut changed = BytesMut::from(part.as_ref());
    if let Some(last) = changed.last_mut() {
        *last ^= mask;
    }
    changed.freeze()
}
