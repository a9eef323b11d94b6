//! A TCP proxy on a free port of 127.0.0.1 that delays, limits, cuts, stalls and corrupts what passes.
//! Settings apply at once, also to connections that are open.

mod pump;
mod rewrite;
mod settings;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use rewrite::{Opener, PassiveReplies, Rewrite};
pub use settings::{Action, Counted, Direction, How};

use crate::pace::Pacer;
use settings::{Rule, Settings};

/// What has passed through one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// From 1, in the order of acceptance, over all listeners of the proxy.
    pub number: u64,
    pub to_server: u64,
    pub to_client: u64,
    pub open: bool,
    /// Accepted on a listener opened by a rewrite: an FTP data connection.
    pub passive: bool,
}

#[derive(Debug)]
pub(crate) struct Passing {
    number: u64,
    passive: bool,
    bytes: [AtomicU64; 2],
    open: AtomicBool,
}

type MakeRewrite = dyn Fn() -> Box<dyn Rewrite> + Send + Sync;

pub(crate) struct Shared {
    target: SocketAddr,
    /// Whether the proxy's own port is open right now.
    listening: watch::Sender<bool>,
    settings: watch::Sender<Settings>,
    /// Bytes over all connections, per direction.
    totals: [Mutex<u64>; 2],
    pacers: [Pacer; 2],
    connections: Mutex<Vec<Arc<Passing>>>,
    next_rule: AtomicU64,
    rewrites: Mutex<[Option<Arc<MakeRewrite>>; 2]>,
    stop: CancellationToken,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("settings", &*self.settings.borrow()).finish_non_exhaustive()
    }
}

/// The proxy; it stops, and all connections with it, when dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Bound and never listening: keeps the port ours while connections are refused.
    _port: TcpSocket,
    _stop: DropGuard,
}

/// One rule that was added.
#[derive(Debug, Clone)]
pub struct RuleHandle {
    id: u64,
    shared: Arc<Shared>,
}

impl RuleHandle {
    /// Removes the rule; what it stalled goes on.
    pub fn remove(&self) {
        self.shared.settings.send_modify(|settings| settings.rules.retain(|rule| rule.id != self.id));
    }
}

impl FaultProxy {
    /// Starts in front of `target`, on a free port of 127.0.0.1.
    pub async fn start(target: SocketAddr) -> Self {
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            target,
            listening: watch::channel(true).0,
            settings: watch::channel(Settings::default()).0,
            totals: Default::default(),
            pacers: Default::default(),
            connections: Mutex::default(),
            next_rule: AtomicU64::new(1),
            rewrites: Mutex::default(),
            stop: stop.clone(),
        });
        let port = bind("127.0.0.1:0".parse().expect("an address")).expect("a free port on the loopback");
        let address = port.local_addr().expect("a bound socket has an address");
        let listener = listen(address).expect("our own port");
        tokio::spawn(accept(listener, address, shared.clone()));
        Self { address, shared, _port: port, _stop: stop.drop_guard() }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    fn change(&self, change: impl FnOnce(&mut Settings)) -> &Self {
        self.shared.settings.send_modify(change);
        self
    }

    /// Every byte of this direction arrives so much later; bytes under way are as many as they like.
    pub fn latency(&self, direction: Direction, latency: Duration) -> &Self {
        self.change(|settings| settings.lanes[direction.index()].latency = latency)
    }

    /// Half of it each way.
    pub fn round_trip(&self, time: Duration) -> &Self {
        self.latency(Direction::ToServer, time / 2).latency(Direction::ToClient, time / 2)
    }

    /// Limits all connections together.
    pub fn rate(&self, direction: Direction, bytes_per_second: Option<u64>) -> &Self {
        self.change(|settings| settings.lanes[direction.index()].bytes_per_second = bytes_per_second)
    }

    /// Limits each connection.
    pub fn rate_per_connection(&self, direction: Direction, bytes_per_second: Option<u64>) -> &Self {
        self.change(|settings| settings.lanes[direction.index()].bytes_per_second_each = bytes_per_second)
    }

    /// Swallows everything in this direction, ends included, and answers nothing. A connection that lost bytes so stays
    /// dead in this direction when the hole is closed: a stream with a gap would be a lie no network tells.
    pub fn black_hole(&self, direction: Direction, on: bool) -> &Self {
        self.change(|settings| settings.lanes[direction.index()].black_hole = on)
    }

    /// `action` once `bytes` have passed in `direction`.
    pub fn rule(&self, direction: Direction, counted: Counted, bytes: u64, action: Action) -> RuleHandle {
        let id = self.shared.next_rule.fetch_add(1, Ordering::SeqCst);
        self.change(|settings| settings.rules.push(Rule { id, direction, counted, bytes, action }));
        RuleHandle { id, shared: self.shared.clone() }
    }

    /// Ends each connection after `bytes` in `direction`; exactly those bytes are delivered.
    pub fn cut_after(&self, direction: Direction, bytes: u64, how: How) -> RuleHandle {
        self.rule(direction, Counted::PerConnection, bytes, Action::Cut(how))
    }

    pub fn stall_after(&self, direction: Direction, bytes: u64) -> RuleHandle {
        self.rule(direction, Counted::PerConnection, bytes, Action::Stall)
    }

    /// Inverts the byte at `offset` of each connection.
    pub fn corrupt(&self, direction: Direction, offset: u64) -> RuleHandle {
        self.rule(direction, Counted::PerConnection, offset, Action::Corrupt(0xff))
    }

    /// A line that breaks again and again, after so many bytes over all connections.
    pub fn flap_every_bytes(&self, direction: Direction, bytes: u64, how: How) -> RuleHandle {
        self.rule(direction, Counted::OverAllEvery, bytes, Action::Cut(how))
    }

    /// No connection lives longer than this; `None` lets them live.
    pub fn flap_every(&self, lifetime: Option<Duration>, how: How) -> &Self {
        self.change(|settings| settings.lifetime = lifetime.map(|lifetime| (lifetime, how)))
    }

    /// New connections are refused as if nothing listened; the port stays ours. Returns when it is so.
    /// Connections nobody has served yet are reset with the listener.
    pub async fn refuse(&self, on: bool) -> &Self {
        self.change(|settings| settings.refuse = on);
        // The sender lives as long as we do.
        let _ = self.shared.listening.subscribe().wait_for(|listening| *listening != on).await;
        self
    }

    /// Connections beyond this number are accepted and closed at once.
    pub fn max_connections(&self, limit: Option<usize>) -> &Self {
        self.change(|settings| settings.max_connections = limit)
    }

    /// The end of a stream is passed on this much later.
    pub fn close_delay(&self, delay: Duration) -> &Self {
        self.change(|settings| settings.close_delay = delay)
    }

    /// Ends all open connections now. `HalfClose` ends the direction to the client.
    pub fn cut_now(&self, how: How) -> &Self {
        self.change(|settings| {
            settings.cuts += 1;
            settings.last_cut = Some(how);
        })
    }

    /// Back to a proxy that only passes bytes.
    pub fn heal(&self) -> &Self {
        self.change(|settings| *settings = Settings { cuts: settings.cuts, last_cut: settings.last_cut, ..Settings::default() })
    }

    /// Each new connection gets its own rewriter for this direction.
    pub fn rewrite(&self, direction: Direction, make: impl Fn() -> Box<dyn Rewrite> + Send + Sync + 'static) -> &Self {
        self.shared.rewrites.lock().expect("no panic while locked")[direction.index()] = Some(Arc::new(make));
        self
    }

    pub fn connections(&self) -> Vec<Counters> {
        let connections = self.shared.connections.lock().expect("no panic while locked");
        let counters = |passing: &Arc<Passing>| Counters {
            number: passing.number,
            to_server: passing.bytes[0].load(Ordering::SeqCst),
            to_client: passing.bytes[1].load(Ordering::SeqCst),
            open: passing.open.load(Ordering::SeqCst),
            passive: passing.passive,
        };
        connections.iter().map(counters).collect()
    }

    /// Connections accepted since the start, those closed at once included.
    pub fn accepted(&self) -> u64 {
        self.shared.connections.lock().expect("no panic while locked").len() as u64
    }

    pub fn open_connections(&self) -> usize {
        self.shared.open_connections()
    }

    /// Bytes delivered in this direction over all connections.
    pub fn bytes(&self, direction: Direction) -> u64 {
        *self.shared.totals[direction.index()].lock().expect("no panic while locked")
    }
}

impl Shared {
    fn open_connections(&self) -> usize {
        let connections = self.connections.lock().expect("no panic while locked");
        connections.iter().filter(|passing| passing.open.load(Ordering::SeqCst)).count()
    }

    fn register(&self, passive: bool, open: bool) -> Arc<Passing> {
        let mut connections = self.connections.lock().expect("no panic while locked");
        let number = connections.len() as u64 + 1;
        let passing = Arc::new(Passing { number, passive, bytes: Default::default(), open: AtomicBool::new(open) });
        connections.push(passing.clone());
        passing
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Two sockets on one port: the one that listens comes and goes, the other keeps the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    bind(address)?.listen(1024)
}

async fn accept(listener: TcpListener, address: SocketAddr, shared: Arc<Shared>) {
    let mut changes = shared.settings.subscribe();
    let mut listener = Some(listener);
    loop {
        let refuse = changes.borrow_and_update().refuse;
        if refuse {
            listener = None;
        } else if listener.is_none() {
            listener = listen(address).ok();
        }
        shared.listening.send_replace(listener.is_some());
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = changes.changed() => continue,
            accepted = accept_one(listener.as_ref()) => accepted,
        };
        let Ok(client) = accepted else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let limit = changes.borrow().max_connections;
        if limit.is_some_and(|limit| shared.open_connections() >= limit) {
            shared.register(false, false);
            continue;
        }
        let passing = shared.register(false, true);
        tokio::spawn(connect(client, shared.target, shared.clone(), passing));
    }
}

/// A port for one connection to `target`, closed after a minute without one.
async fn open_passive(target: SocketAddr, shared: &Arc<Shared>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let shared = shared.clone();
    tokio::spawn(async move {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = tokio::time::timeout(Duration::from_secs(60), listener.accept()) => accepted,
        };
        drop(listener);
        if let Ok(Ok((client, _))) = accepted {
            let passing = shared.register(true, true);
            connect(client, target, shared, passing).await;
        }
    });
    Ok(address)
}

async fn accept_one(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

async fn connect(client: TcpStream, target: SocketAddr, shared: Arc<Shared>, passing: Arc<Passing>) {
    let run = async {
        let Ok(server) = TcpStream::connect(target).await else {
            // What the target does to us, the client shall see.
            let _ = client.set_zero_linger();
            return;
        };
        if client.set_nodelay(true).is_ok() && server.set_nodelay(true).is_ok() {
            pump::run(client, server, &shared, &passing).await;
        }
    };
    tokio::select! {
        () = shared.stop.cancelled() => {}
        () = run => {}
    }
    passing.open.store(false, Ordering::SeqCst);
}
