//! A TCP proxy on the loopback that delays, limits, cuts, stalls and corrupts what passes.
//! Settings apply at once, also to connections that are open.

mod pump;
mod rewrite;
mod scoped;
mod settings;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use rewrite::{Opener, PassiveReplies, Rewrite};
pub use scoped::Scoped;
pub use settings::{Action, Counted, Direction, How, Scope};

use crate::pace::Pacer;
use settings::Settings;

/// What has passed through one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// From 1, in the order of acceptance, over all listeners of the proxy.
    pub number: u64,
    pub to_server: u64,
    pub to_client: u64,
    pub open: bool,
    /// An FTP data connection: accepted on a listener opened by a rewrite, or on a mirrored passive port.
    pub passive: bool,
}

#[derive(Debug)]
pub(crate) struct Passing {
    number: u64,
    passive: bool,
    bytes: [AtomicU64; 2],
    open: AtomicBool,
}

/// Where mirrored servers are found: another address of the loopback, so that the port numbers can be the same.
const MIRROR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

type MakeRewrite = dyn Fn() -> Box<dyn Rewrite> + Send + Sync;

pub(crate) struct Shared {
    target: SocketAddr,
    /// Ports of the proxy's own that are open right now: for control, for data.
    listening: watch::Sender<[usize; 2]>,
    settings: watch::Sender<Settings>,
    /// Bytes over all connections, per direction, then per scope.
    totals: [Mutex<[u64; 3]>; 2],
    /// Per scope, then per direction.
    pacers: [[Pacer; 2]; 3],
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
    /// Bound and never listening: they keep the ports ours while connections are refused. The first is for control.
    ports: Vec<TcpSocket>,
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
        Self::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), target, &[]).expect("a free port on the loopback")
    }

    /// Starts in front of an FTP server on 127.0.0.1, on the same ports of 127.0.0.2: its control port and each of its
    /// passive ports. So data connections pass through it although TLS hides which ports they go to.
    pub async fn mirror(control: SocketAddr, passive: RangeInclusive<u16>) -> io::Result<Self> {
        if control.ip() != IpAddr::V4(Ipv4Addr::LOCALHOST) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "only servers on 127.0.0.1 can be mirrored"));
        }
        let ports: Vec<u16> = passive.collect();
        Self::listen(SocketAddr::from((MIRROR, control.port())), control, &ports)
    }

    fn listen(address: SocketAddr, target: SocketAddr, passive: &[u16]) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            target,
            listening: watch::channel([1, passive.len()]).0,
            settings: watch::channel(Settings::default()).0,
            totals: Default::default(),
            pacers: Default::default(),
            connections: Mutex::default(),
            next_rule: AtomicU64::new(1),
            rewrites: Mutex::default(),
            stop: stop.clone(),
        });
        let mut ports = vec![bind(address)?];
        let address = ports[0].local_addr()?;
        tokio::spawn(accept(listen(address)?, Way { address, target, passive: false }, shared.clone()));
        for port in passive {
            let way = Way { address: SocketAddr::new(address.ip(), *port), target: SocketAddr::new(target.ip(), *port), passive: true };
            ports.push(bind(way.address)?);
            tokio::spawn(accept(listen(way.address)?, way, shared.clone()));
        }
        Ok(Self { address, shared, ports, _stop: stop.drop_guard() })
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

    /// The same settings for some connections only.
    pub fn on(&self, scope: Scope) -> Scoped<'_> {
        Scoped::new(self, scope)
    }

    /// Every byte of this direction arrives so much later; bytes under way are as many as they like.
    pub fn latency(&self, direction: Direction, latency: Duration) -> &Self {
        self.on(Scope::All).latency(direction, latency);
        self
    }

    /// Half of it each way.
    pub fn round_trip(&self, time: Duration) -> &Self {
        self.latency(Direction::ToServer, time / 2).latency(Direction::ToClient, time / 2)
    }

    /// Limits all connections together.
    pub fn rate(&self, direction: Direction, bytes_per_second: Option<u64>) -> &Self {
        self.on(Scope::All).rate(direction, bytes_per_second);
        self
    }

    /// Limits each connection.
    pub fn rate_per_connection(&self, direction: Direction, bytes_per_second: Option<u64>) -> &Self {
        self.on(Scope::All).rate_per_connection(direction, bytes_per_second);
        self
    }

    /// Swallows everything in this direction, ends included, and answers nothing. A connection that lost bytes so stays
    /// dead in this direction when the hole is closed: a stream with a gap would be a lie no network tells.
    pub fn black_hole(&self, direction: Direction, on: bool) -> &Self {
        self.on(Scope::All).black_hole(direction, on);
        self
    }

    /// `action` once `bytes` have passed in `direction`.
    pub fn rule(&self, direction: Direction, counted: Counted, bytes: u64, action: Action) -> RuleHandle {
        self.on(Scope::All).rule(direction, counted, bytes, action)
    }

    /// Ends each connection after `bytes` in `direction`; exactly those bytes are delivered.
    pub fn cut_after(&self, direction: Direction, bytes: u64, how: How) -> RuleHandle {
        self.on(Scope::All).cut_after(direction, bytes, how)
    }

    pub fn stall_after(&self, direction: Direction, bytes: u64) -> RuleHandle {
        self.on(Scope::All).stall_after(direction, bytes)
    }

    /// Inverts the byte at `offset` of each connection.
    pub fn corrupt(&self, direction: Direction, offset: u64) -> RuleHandle {
        self.on(Scope::All).corrupt(direction, offset)
    }

    /// A line that breaks again and again, after so many bytes over all connections.
    pub fn flap_every_bytes(&self, direction: Direction, bytes: u64, how: How) -> RuleHandle {
        self.rule(direction, Counted::OverAllEvery, bytes, Action::Cut(how))
    }

    /// No connection lives longer than this; `None` lets them live.
    pub fn flap_every(&self, lifetime: Option<Duration>, how: How) -> &Self {
        self.change(|settings| settings.lifetime = lifetime.map(|lifetime| (lifetime, how)))
    }

    /// New connections are refused as if nothing listened; the ports stay ours. Returns when it is so.
    /// Connections nobody has served yet are reset with the listener.
    pub async fn refuse(&self, on: bool) -> &Self {
        self.on(Scope::All).refuse(on).await;
        self
    }

    /// Connections beyond this number are accepted and closed at once; FTP data connections do not count.
    pub fn max_connections(&self, limit: Option<usize>) -> &Self {
        self.change(|settings| settings.max_connections = limit)
    }

    /// The end of a stream is passed on this much later.
    pub fn close_delay(&self, delay: Duration) -> &Self {
        self.change(|settings| settings.close_delay = delay)
    }

    /// Ends all open connections now. `HalfClose` ends the direction to the client.
    pub fn cut_now(&self, how: How) -> &Self {
        self.on(Scope::All).cut_now(how);
        self
    }

    /// Back to a proxy that only passes bytes.
    pub fn heal(&self) -> &Self {
        self.change(|settings| {
            let (cuts, last_cut, forgotten) = (settings.cuts, settings.last_cut, settings.forgotten);
            *settings = Settings { cuts, last_cut, forgotten, ..Settings::default() };
        })
    }

    /// Each new connection gets its own rewriter for this direction; FTP data connections get none.
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
        self.connections().iter().filter(|counters| counters.open).count()
    }

    /// Bytes delivered in this direction over all connections.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.on(Scope::All).bytes(direction)
    }
}

impl Shared {
    fn open_control_connections(&self) -> usize {
        let connections = self.connections.lock().expect("no panic while locked");
        connections.iter().filter(|passing| !passing.passive && passing.open.load(Ordering::SeqCst)).count()
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

/// One port of the proxy and where it leads.
#[derive(Debug, Clone, Copy)]
struct Way {
    address: SocketAddr,
    target: SocketAddr,
    passive: bool,
}

async fn accept(listener: TcpListener, way: Way, shared: Arc<Shared>) {
    let mut changes = shared.settings.subscribe();
    let mut listener = Some(listener);
    loop {
        let refuse = changes.borrow_and_update().refuses(way.passive);
        if refuse == listener.is_some() {
            listener = if refuse { None } else { listen(way.address).ok() };
            if refuse != listener.is_some() {
                let count = |open: &mut [usize; 2]| {
                    let open = &mut open[usize::from(way.passive)];
                    *open = if refuse { *open - 1 } else { *open + 1 };
                };
                shared.listening.send_modify(count);
            }
        }
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
        if !way.passive && limit.is_some_and(|limit| shared.open_control_connections() >= limit) {
            shared.register(false, false);
            continue;
        }
        let passing = shared.register(way.passive, true);
        tokio::spawn(connect(client, way.target, shared.clone(), passing));
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
