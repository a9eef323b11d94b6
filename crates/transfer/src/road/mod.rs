//! The road to a server: one TCP connection, direct or through a proxy. What is spoken over it afterwards is the
//! protocols' own; `socks` and `connect` speak with the proxy, `addresses` says where a connection may lead.

mod addresses;
mod connect;
mod socks;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use addresses::{Addresses, Resolver, SystemResolver, not_public};
use model::{Credential, ErrorClass, ProxyAddress, ProxyKind};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

const MAX_ADDRESSES: usize = 8;
/// A quick refusal of one address leaves the rest of the time to the others, a silent one must not take it all.
const MIN_ADDRESS_TIME: Duration = Duration::from_secs(3);
/// What is reported must be reported before the deadline of all.
const MARGIN: Duration = Duration::from_millis(50);
/// RFC 1035 allows names of 253 characters, and SOCKS has one byte for their length.
const MAX_NAME: usize = 253;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AddressFamily {
    #[default]
    Any,
    V4,
    V6,
}

impl AddressFamily {
    fn has(self, address: &SocketAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// A proxy with the login at it. It prints without the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    pub address: ProxyAddress,
    pub password: Option<Credential>,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// How to get to one server.
#[derive(Debug, Clone, Copy)]
pub struct Road<'a> {
    /// A name, or an address with or without brackets.
    pub host: &'a str,
    pub port: u16,
    pub family: AddressFamily,
    /// The local address to connect from.
    pub bind: Option<IpAddr>,
    pub proxy: Option<&'a Proxy>,
    pub addresses: &'a Addresses,
}

/// The other end of a connection, as whoever makes the last step is told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Address(SocketAddr),
    /// The proxy resolves it.
    Name(String, u16),
}

impl Target {
    pub fn with_port(&self, port: u16) -> Self {
        match self {
            Self::Address(address) => Self::Address(SocketAddr::new(address.ip(), port)),
            Self::Name(name, _) => Self::Name(name.clone(), port),
        }
    }

    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Name(..) => None,
        }
    }

    /// Known to be an address of IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.address().is_some_and(|address| address.is_ipv6())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{}:{port}", model::escape_name(name)),
        }
    }
}

/// What stands in the way, in words for a person.
#[derive(Debug)]
pub struct Obstacle {
    text: String,
    /// Whose fault it is: nobody gets there now, or nobody may.
    pub kind: ErrorClass,
    /// Trying again is no use, and may lock an account at the proxy.
    pub permanent: bool,
}

impl Obstacle {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), kind: ErrorClass::DestUnreachable, permanent: false }
    }

    fn permanent(text: impl Into<String>) -> Self {
        Self { permanent: true, ..Self::new(text) }
    }

    fn forbidden(text: impl Into<String>) -> Self {
        Self { kind: ErrorClass::PolicyDenied, ..Self::permanent(text) }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Obstacle {}

#[derive(Debug)]
pub struct Reached {
    pub tcp: TcpStream,
    pub target: Target,
    /// What the last step took.
    pub round_trip: Duration,
}

/// A connection to the first address of the server that answers. A server with any address that is not allowed is
/// connected to at none: a name that leads to two places leads to the wrong one sooner or later.
pub async fn reach(road: Road<'_>, deadline: Instant) -> Result<Reached, Obstacle> {
    let host = road.host.trim_start_matches('[').trim_end_matches(']');
    let targets: Vec<Target> = match (road.proxy, host.parse::<IpAddr>()) {
        (Some(proxy), Err(_)) if proxy.address.kind != ProxyKind::Socks5 => {
            // It becomes a line of a request, or has one byte for its length.
            if host.len() > MAX_NAME || host.contains(|c: char| c.is_control() || c.is_whitespace()) {
                return Err(Obstacle::permanent(format!("{:?} is no name that a proxy could resolve", model::escape_name(host))));
            }
            vec![Target::Name(host.to_owned(), road.port)]
        }
        // The local end is the proxy's neighbour, and the family of the server's address is its own.
        (Some(_), _) => look_up(&road, host, None, deadline).await?,
        (None, _) => look_up(&road, host, road.bind, deadline).await?,
    };
    for target in &targets {
        allowed(target, road.addresses)?;
    }
    let mut reasons = Vec::new();
    for (index, target) in targets.iter().enumerate() {
        let started = Instant::now();
        let left = deadline.saturating_duration_since(started);
        let share = left / (targets.len() - index) as u32;
        let until = started + share.max(MIN_ADDRESS_TIME).min(left.saturating_sub(MARGIN));
        match dial(target, road.bind, road.proxy, road.addresses, until).await {
            Ok((tcp, round_trip)) => return Ok(Reached { tcp, target: target.clone(), round_trip }),
            Err(obstacle) if obstacle.permanent => return Err(obstacle),
            Err(obstacle) if road.proxy.is_some() => reasons.push(obstacle.text),
            Err(obstacle) => reasons.push(format!("{target}: {obstacle}")),
        }
    }
    Err(Obstacle::new(reasons.join(", ")))
}

async fn look_up(road: &Road<'_>, host: &str, bind: Option<IpAddr>, deadline: Instant) -> Result<Vec<Target>, Obstacle> {
    let found = resolve(&*road.addresses.resolver, host, road.port, deadline).await?;
    let wanted = |address: &SocketAddr| road.family.has(address) && bind.is_none_or(|bind| bind.is_ipv4() == address.is_ipv4());
    let targets: Vec<Target> = found.into_iter().filter(wanted).take(MAX_ADDRESSES).map(Target::Address).collect();
    if targets.is_empty() {
        return Err(Obstacle::new(format!("{} has no address of the wanted family", model::escape_name(host))));
    }
    Ok(targets)
}

async fn resolve(resolver: &dyn Resolver, host: &str, port: u16, deadline: Instant) -> Result<Vec<SocketAddr>, Obstacle> {
    let shown = model::escape_name(host);
    match tokio::time::timeout_at(deadline, resolver.look_up(host, port)).await {
        Err(_) => Err(Obstacle::new(format!("the name {shown} was not resolved in time"))),
        Ok(Err(error)) => Err(Obstacle::new(format!("the name {shown} was not resolved: {error}"))),
        Ok(Ok(found)) => Ok(found),
    }
}

/// What a name behind a proxy or a jump host means is decided there; an address means the same to everybody.
fn allowed(target: &Target, addresses: &Addresses) -> Result<(), Obstacle> {
    let Some(address) = target.address() else { return Ok(()) };
    match addresses.refuses(address.ip()) {
        None => Ok(()),
        Some(what) => Err(Obstacle::forbidden(format!("{} is {what}, and allow_private is false", address.ip()))),
    }
}

/// Whether a host that somebody else connects to may be: only where it is written as an address is that known here.
pub fn may_name(host: &str, addresses: &Addresses) -> Result<(), Obstacle> {
    match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(address) => allowed(&Target::Address(SocketAddr::new(address, 0)), addresses),
        Err(_) => Ok(()),
    }
}

/// One connection to exactly this target, and what its last step took.
pub async fn dial(
    target: &Target,
    bind: Option<IpAddr>,
    proxy: Option<&Proxy>,
    addresses: &Addresses,
    until: Instant,
) -> Result<(TcpStream, Duration), Obstacle> {
    allowed(target, addresses)?;
    let started = Instant::now();
    let Some(proxy) = proxy else {
        let Target::Address(address) = target else {
            return Err(Obstacle::permanent(format!("{target} is a name, and there is no proxy to resolve it")));
        };
        return match tokio::time::timeout_at(until, open(*address, bind)).await {
            Ok(Ok(tcp)) => Ok((tcp, started.elapsed())),
            Ok(Err(error)) => Err(Obstacle::new(error.to_string())),
            Err(_) => Err(Obstacle::new(format!("no answer within {:.1} s", started.elapsed().as_secs_f32()))),
        };
    };
    let told = |why: Obstacle| Obstacle { text: format!("the proxy {proxy} {why}"), ..why };
    let mut tcp = to_proxy(proxy, bind, until).await?;
    let asked = Instant::now();
    let speaking = async {
        match proxy.address.kind {
            ProxyKind::Socks5 | ProxyKind::Socks5h => socks::ask(&mut tcp, target, proxy).await,
            ProxyKind::Http => connect::ask(&mut tcp, target, proxy).await,
        }
    };
    match tokio::time::timeout_at(until, speaking).await {
        Ok(Ok(())) => Ok((tcp, asked.elapsed())),
        Ok(Err(why)) => Err(told(why)),
        Err(_) => {
            let seconds = started.elapsed().as_secs_f32();
            Err(told(Obstacle::new(format!("did not open the way to {target} within {seconds:.1} s"))))
        }
    }
}

async fn to_proxy(proxy: &Proxy, bind: Option<IpAddr>, until: Instant) -> Result<TcpStream, Obstacle> {
    // A proxy is this machine's own neighbour: which addresses servers may have says nothing about it.
    let found = resolve(&SystemResolver, &proxy.address.host, proxy.address.port, until).await;
    let mut addresses = found.map_err(|why| Obstacle::new(format!("the proxy {proxy} cannot be reached: {why}")))?;
    addresses.retain(|address| bind.is_none_or(|bind| bind.is_ipv4() == address.is_ipv4()));
    addresses.truncate(MAX_ADDRESSES);
    if addresses.is_empty() {
        return Err(Obstacle::new(format!("the proxy {proxy} cannot be reached: it has no address of the wanted family")));
    }
    let mut reasons = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        let share = until.saturating_duration_since(Instant::now()) / (addresses.len() - index) as u32;
        match tokio::time::timeout(share, open(*address, bind)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => reasons.push(format!("{address}: {error}")),
            Err(_) => reasons.push(format!("{address}: no answer")),
        }
    }
    Err(Obstacle::new(format!("the proxy {proxy} cannot be reached: {}", reasons.join(", "))))
}

/// A TCP connection to `address`, from `bind` if that is given.
async fn open(address: SocketAddr, bind: Option<IpAddr>) -> std::io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(bind) = bind {
        socket.bind(SocketAddr::new(bind, 0))?;
    }
    let tcp = socket.connect(address).await?;
    tune(&tcp)?;
    Ok(tcp)
}

/// What every connection is set to: nothing is held back to be sent together, and a peer that vanished is noticed also
/// while a connection is silent.
pub fn tune(tcp: &TcpStream) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)))
}

/// A proxy hung up, or the network did.
fn broken(step: &str, error: std::io::Error) -> Obstacle {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match error.kind() {
        UnexpectedEof | ConnectionReset | BrokenPipe => Obstacle::new(format!("closed the connection {step}")),
        _ => Obstacle::new(format!("was lost {step}: {error}")),
    }
}

#[cfg(test)]
#[path = "road_tests.rs"]
mod tests;
