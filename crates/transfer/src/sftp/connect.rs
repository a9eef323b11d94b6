//! Opens an SSH session: name, TCP, key exchange, proof of the server, login; all within one deadline.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use russh::client::{self, DisconnectReason, Handle};
use russh::keys::PublicKeyOrCertificate;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ahead::Ahead;
use super::auth;
use super::config::SftpConfig;
use super::trust::{Refusal, RefusalReason, Trust, legacy_notes, preferred};
use super::way::{Hop, Link, ShutOnDrop, Socket, Wire};
use crate::destination::ServerIdentity;
use crate::error::{Error, ErrorKind, Result};
use crate::road::{self, Obstacle, Road};

const MAX_GREETING_BYTES: usize = 512;
/// Messages of a channel that wait for whoever reads it. A session over a jump host does not read while it writes, and
/// what waits for it must not keep the session under it from learning that the window is open again.
const WAITING_ON_A_HOP: usize = 16 << 10;

/// A session that is proved on both sides and has no channel yet.
pub struct Opened {
    pub handle: Handle<ClientHandler>,
    pub identity: ServerIdentity,
    /// Ends the session at once, also when the server no longer takes what we send. Dropping it does nothing.
    pub socket: Socket,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// Opens a session and logs in. The host is proved before any credential is sent.
/// Errors: `dest_unreachable`, `dest_host_key`, `dest_auth`, `dest_protocol`, `network_stalled`, `network_reset`.
pub async fn open_session(config: &SftpConfig) -> Result<Opened> {
    open_with(config, None).await
}

/// Likewise, over a session that was begun already, if there is one.
pub(super) async fn open_ahead(config: &SftpConfig, ahead: &Ahead) -> Result<Opened> {
    match ahead.take().await {
        Some(opened) => opened,
        None => open_with(config, Some(ahead)).await,
    }
}

async fn open_with(config: &SftpConfig, ahead: Option<&Ahead>) -> Result<Opened> {
    let mut hops: Vec<Hop> = Vec::new();
    let mut notes = Vec::new();
    for jump in &config.jumps {
        let (Opened { handle, identity, socket }, observed) = open_one(jump, hops.last(), None).await?;
        let name = jump.name();
        notes.push(format!("reached through the {name} with host key {}", identity.host_key.as_deref().unwrap_or("unknown")));
        hops.push(Hop { handle, observed, name, socket });
    }
    let (mut opened, _) = open_one(config, hops.last(), ahead).await?;
    if let Some(proxy) = &config.proxy {
        notes.insert(0, format!("reached through the proxy {proxy}"));
    }
    opened.identity.notes.append(&mut notes);
    opened.socket = opened.socket.over(hops);
    Ok(opened)
}

/// One session: with the server, or with a jump host on the way to it.
async fn open_one(config: &SftpConfig, hop: Option<&Hop>, ahead: Option<&Ahead>) -> Result<(Opened, Arc<Observed>)> {
    let deadline = Instant::now() + config.connect_timeout;
    let for_trust = config.clone();
    let trust = tokio::task::spawn_blocking(move || Trust::load(&for_trust))
        .await
        .map_err(|e| failed(config, ErrorKind::Internal).because(e))??;
    let trust = Arc::new(trust);
    let mut skip: Vec<String> = Vec::new();
    let mut first: Option<Box<Refusal>> = None;
    loop {
        let (keys, certificates) = trust.host_key_algorithms(&skip);
        if keys.is_empty() {
            break;
        }
        let preferred = preferred(config.algorithms, keys, certificates);
        let way = match hop {
            Some(hop) => jump(config, hop, deadline).await,
            None => reach(config, deadline).await,
        };
        let way = match way {
            Ok(way) => way,
            Err(_) if first.is_some() => break,
            Err(error) => return Err(error),
        };
        if let Some(ahead) = ahead.filter(|_| hop.is_none()) {
            ahead.reached(way.round_trip, config, &trust, &preferred);
        }
        match handshake(config, way, trust.clone(), preferred, deadline).await {
            Ok(shaken) => {
                let finished = finish(config, shaken, deadline).await;
                if let (Ok(_), Some(ahead)) = (&finished, ahead) {
                    ahead.prove();
                }
                return finished;
            }
            Err(Failure::Refused(refusal)) => {
                let again =
                    trust.may_ask_for_another_key() && refusal.reason == RefusalReason::Changed && !skip.contains(&refusal.algorithm);
                skip.push(refusal.algorithm.clone());
                match &mut first {
                    None => first = Some(refusal),
                    Some(first) => first.notes.push(format!("it also presented {} {}", refusal.algorithm, refusal.fingerprint)),
                }
                if !again {
                    break;
                }
            }
            // The server has no key of a type that is not ruled out yet.
            Err(Failure::Other(_)) if first.is_some() => break,
            Err(Failure::Other(error)) => return Err(error),
        }
    }
    let refusal = first.map(|refusal| *refusal);
    let operation = if config.jump_host { "trust the" } else { "trust the server" };
    let error = Error::new(ErrorKind::DestHostKey, operation, config.server());
    Err(match refusal {
        Some(refusal) => error.because(refusal),
        None => error.because("no host key algorithm is left to offer"),
    })
}

/// A session whose server is proved and whose user is not.
pub(super) struct Shaken {
    handle: Handle<ClientHandler>,
    observed: Arc<Observed>,
    address: Option<SocketAddr>,
    local_address: Option<std::net::IpAddr>,
    round_trip: Duration,
    socket: ShutOnDrop,
}

pub(super) enum Failure {
    Refused(Box<Refusal>),
    Other(Error),
}

/// A further session, up to where it logs in.
pub(super) async fn begin(config: &SftpConfig, trust: Arc<Trust>, preferred: russh::Preferred) -> Result<Shaken, Failure> {
    let deadline = Instant::now() + config.connect_timeout;
    let way = reach(config, deadline).await.map_err(Failure::Other)?;
    handshake(config, way, trust, preferred, deadline).await
}

async fn handshake(
    config: &SftpConfig,
    way: Way,
    trust: Arc<Trust>,
    preferred: russh::Preferred,
    deadline: Instant,
) -> Result<Shaken, Failure> {
    let Way { wire, socket, peer, address, local_address, round_trip } = way;
    let socket = ShutOnDrop(Some(socket));
    let observed = Arc::new(Observed::default());
    let link = Link::new(wire, observed.clone(), config.stall_timeout);
    let handler = ClientHandler { observed: observed.clone(), trust };
    let connecting = client::connect_stream(Arc::new(client_config(config, preferred)), link, handler);
    match tokio::time::timeout_at(deadline, connecting).await {
        Ok(Ok(handle)) => Ok(Shaken { handle, observed, address, local_address, round_trip, socket }),
        Ok(Err(error)) => {
            let refusal = observed.state().refusal.take();
            Err(refusal.map_or_else(|| Failure::Other(handshake_error(config, &peer, &error, &observed)), Failure::Refused))
        }
        Err(_) => {
            let heard = observed.received();
            let why = match heard {
                0 => format!("{peer} accepted the connection and said nothing within {} s", config.connect_timeout.as_secs()),
                _ => format!("{peer} did not finish the key exchange within {} s", config.connect_timeout.as_secs()),
            };
            Err(Failure::Other(failed(config, ErrorKind::NetworkStalled).because(why)))
        }
    }
}

pub(super) async fn finish(config: &SftpConfig, shaken: Shaken, deadline: Instant) -> Result<(Opened, Arc<Observed>)> {
    let Shaken { mut handle, observed, address, local_address, round_trip, mut socket } = shaken;
    let mut notes = config.notes.clone();
    notes.append(&mut observed.state().notes.clone());
    notes.extend(auth::log_in(&mut handle, config, &observed, deadline).await?);
    let state = observed.state();
    let identity = ServerIdentity {
        host_key: state.trusted.clone(),
        software: state.software.clone(),
        address,
        local_address,
        round_trip,
        notes,
        facts: Vec::new(),
    };
    drop(state);
    let socket = socket.0.take().expect("the socket is taken here only");
    Ok((Opened { handle, identity, socket }, observed))
}

fn client_config(config: &SftpConfig, preferred: russh::Preferred) -> client::Config {
    // The stall timeout is the judge of slow links; unanswered keepalives are for servers that vanish without a word,
    // and must not strike first while our own data fills the line before them.
    let interval = config.keepalive.unwrap_or_default().as_secs().max(1);
    let patience = (config.stall_timeout.as_secs() / interval + 1) as usize;
    client::Config {
        client_id: russh::SshId::Standard(concat!("SSH-2.0-FileFerry_", env!("CARGO_PKG_VERSION")).into()),
        window_size: 4 << 20,
        maximum_packet_size: 32 << 10,
        channel_buffer_size: if config.jump_host { WAITING_ON_A_HOP } else { 256 },
        preferred,
        inactivity_timeout: None,
        keepalive_interval: config.keepalive,
        keepalive_max: patience.max(3),
        gex: client::GexParams::new(2048, 4096, 8192).expect("the sizes are in order and not below 2048"),
        nodelay: true,
        ..client::Config::default()
    }
}

fn failed(config: &SftpConfig, kind: ErrorKind) -> Error {
    Error::new(kind, "connect to", config.server())
}

/// A wire to somebody who has not proved anything yet.
struct Way {
    wire: Wire,
    socket: Socket,
    /// As messages name it.
    peer: String,
    address: Option<SocketAddr>,
    /// Ours, where it is one that the server may see.
    local_address: Option<std::net::IpAddr>,
    round_trip: Duration,
}

/// Over the network, direct or through the proxy.
async fn reach(config: &SftpConfig, deadline: Instant) -> Result<Way> {
    let road = Road {
        host: config.host(),
        port: config.port(),
        family: config.family,
        bind: config.bind,
        proxy: config.proxy.as_ref(),
        addresses: &config.addresses,
    };
    let unreachable = |why: crate::error::BoxError| failed(config, ErrorKind::DestUnreachable).because(why);
    let reached = road::reach(road, deadline).await.map_err(|obstacle| blocked(config, obstacle))?;
    let local_address = reached.tcp.local_addr().ok().map(|local| local.ip()).filter(|_| config.proxy.is_none());
    let (wire, socket) = Wire::tcp(reached.tcp).map_err(|error| unreachable(error.into()))?;
    let peer = reached.target.to_string();
    Ok(Way { wire, socket, peer, address: reached.target.address(), local_address, round_trip: reached.round_trip })
}

fn blocked(config: &SftpConfig, obstacle: Obstacle) -> Error {
    let (error, permanent) = (failed(config, obstacle.kind), obstacle.permanent);
    let error = error.because(obstacle);
    if permanent { error.exhausted() } else { error }
}

/// Through the jump host, which resolves the name.
async fn jump(config: &SftpConfig, hop: &Hop, deadline: Instant) -> Result<Way> {
    let unreachable = |why: String| failed(config, ErrorKind::DestUnreachable).because(why);
    let host = config.host().trim_start_matches('[').trim_end_matches(']');
    road::may_name(host, &config.addresses).map_err(|obstacle| blocked(config, obstacle))?;
    let started = Instant::now();
    // sshd writes the origin to its log; the address of this machine is not its business.
    let opening = hop.handle.channel_open_direct_tcpip(host, u32::from(config.port()), "127.0.0.1", 0);
    let channel = match tokio::time::timeout_at(deadline, opening).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(russh::Error::ChannelOpenFailure(reason))) => {
            return Err(unreachable(format!("the {} opens no connection to {host}:{} ({reason:?})", hop.name, config.port())));
        }
        Ok(Err(_)) => {
            let error = failed(config, ErrorKind::NetworkReset).because(format!("the connection to the {} ended", hop.name));
            return Err(error.on_lost_connection());
        }
        Err(_) => {
            let seconds = config.connect_timeout.as_secs();
            return Err(unreachable(format!("the {} did not answer whether it connects within {seconds} s", hop.name)));
        }
    };
    let (wire, socket) = Wire::through(hop, channel.into_stream());
    let peer = format!("{host}:{} behind the {}", config.port(), hop.name);
    Ok(Way { wire, socket, peer, address: None, local_address: None, round_trip: started.elapsed() })
}

/// What went wrong before the login, in the words of the network or of the server.
fn handshake_error(config: &SftpConfig, peer: &str, error: &russh::Error, observed: &Observed) -> Error {
    use std::io::ErrorKind as Io;
    let greeting = observed.state().greeting.clone();
    let no_ssh = !greeting.is_empty() && !greeting.split(|&b| b == b'\n').any(|line| line.starts_with(b"SSH-"));
    let first_bytes =
        || format!("{peer} does not speak SSH; its first bytes are \"{}\"", greeting[..greeting.len().min(120)].escape_ascii());
    let closed = matches!(error, russh::Error::Disconnect | russh::Error::HUP)
        || matches!(error, russh::Error::IO(e) if matches!(e.kind(), Io::UnexpectedEof | Io::ConnectionReset | Io::BrokenPipe | Io::ConnectionAborted));
    let (kind, why) = match error {
        russh::Error::Version => (ErrorKind::DestProtocol, first_bytes()),
        _ if no_ssh => (ErrorKind::DestProtocol, first_bytes()),
        _ if closed && greeting.is_empty() => {
            (ErrorKind::DestUnreachable, format!("{peer} closed the connection before its greeting; it may limit connections or addresses"))
        }
        _ if closed => match observed.ended() {
            Some(Ended::Message { code, text }) if code == russh::Disconnect::KeyExchangeFailed as u32 => {
                (ErrorKind::DestProtocol, format!("{peer} ended the key exchange: {:?}", shorten(&text)))
            }
            Some(Ended::Message { text, .. }) => (ErrorKind::DestUnreachable, format!("{peer} ended the session: {:?}", shorten(&text))),
            _ => (ErrorKind::NetworkReset, format!("{peer} closed the connection during the key exchange")),
        },
        russh::Error::NoCommonAlgo { kind, theirs, .. } => {
            let theirs: Vec<_> = theirs.iter().take(20).map(|name| shorten(name)).collect();
            let kind = format!("{kind:?}").to_lowercase();
            let hint = "--ssh-algorithms legacy offers older ones";
            (ErrorKind::DestProtocol, format!("no {kind} algorithm in common; the server has {}; {hint}", theirs.join(", ")))
        }
        russh::Error::WrongServerSig => (ErrorKind::DestHostKey, "the server could not prove that it holds its host key".to_owned()),
        russh::Error::IO(error) => (ErrorKind::NetworkReset, error.to_string()),
        other => (ErrorKind::DestProtocol, shorten(&other.to_string())),
    };
    failed(config, kind).because(why)
}

fn shorten(text: &str) -> String {
    model::escape_name(&text.chars().take(200).collect::<String>())
}

/// How a session ended.
#[derive(Debug, Clone)]
pub(super) enum Ended {
    /// The server said why; the code is RFC 4253's.
    Message {
        code: u32,
        text: String,
    },
    Closed,
    Failed(String),
}

/// What the session's own task saw, for those who wait outside it.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// The session's task is over.
    pub over: CancellationToken,
    received: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    greeting: Vec<u8>,
    refusal: Option<Box<Refusal>>,
    trusted: Option<String>,
    software: Option<String>,
    notes: Vec<String>,
    banner: Option<String>,
    ended: Option<Ended>,
}

impl Observed {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Books what came from the server; the first bytes are kept for messages.
    pub fn saw(&self, new: &[u8]) {
        let so_far = self.received.fetch_add(new.len() as u64, Ordering::Relaxed);
        if so_far < MAX_GREETING_BYTES as u64 {
            let mut state = self.state();
            let room = MAX_GREETING_BYTES.saturating_sub(state.greeting.len()).min(new.len());
            state.greeting.extend_from_slice(&new[..room]);
        }
    }

    /// Bytes that came from the server so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub fn banner(&self) -> Option<String> {
        self.state().banner.clone()
    }

    pub fn ended(&self) -> Option<Ended> {
        self.state().ended.clone()
    }
}

/// Answers russh's questions. It trusts by `Trust` only and opens nothing that the server asks for.
pub struct ClientHandler {
    observed: Arc<Observed>,
    trust: Arc<Trust>,
}

impl std::fmt::Debug for ClientHandler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientHandler")
    }
}

impl Drop for ClientHandler {
    /// Its task owns it, so this is the end of the session, whatever ended it.
    fn drop(&mut self) {
        self.observed.over.cancel();
    }
}

/// A server may ask a client to open channels to itself; russh agrees unless told otherwise.
macro_rules! refuse_channels {
    ($($name:ident($($argument:ty),*);)*) => {$(
        async fn $name(
            &mut self,
            _: russh::Channel<client::Msg>,
            $(_: $argument,)*
            reply: client::ChannelOpenHandle,
            _: &mut client::Session,
        ) -> Result<(), russh::Error> {
            reply.reject(russh::ChannelOpenFailure::AdministrativelyProhibited).await;
            Ok(())
        }
    )*};
}

impl client::Handler for ClientHandler {
    type Error = russh::Error;

    async fn check_server_key(&mut self, presented: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_secs()).unwrap_or_default();
        let mut state = self.observed.state();
        match self.trust.decide(presented, now) {
            Ok(fingerprint) => {
                state.trusted = Some(fingerprint);
                Ok(true)
            }
            Err(refusal) => {
                state.refusal = Some(refusal);
                Ok(false)
            }
        }
    }

    async fn kex_done(&mut self, _: Option<&[u8]>, names: &russh::Names, session: &mut client::Session) -> Result<(), russh::Error> {
        let mut state = self.observed.state();
        // Later exchanges renew the keys; the first one describes the session.
        if state.software.is_none() {
            state.software = Some(shorten(&String::from_utf8_lossy(session.remote_sshid())));
            state.notes = legacy_notes(names);
        }
        Ok(())
    }

    async fn auth_banner(&mut self, banner: &str, _: &mut client::Session) -> Result<(), russh::Error> {
        self.observed.state().banner = Some(shorten(banner));
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<russh::Error>) -> Result<(), russh::Error> {
        let (ended, result) = match reason {
            DisconnectReason::ReceivedDisconnect(said) => {
                let text = shorten(&said.message);
                let parting = std::io::Error::other(format!("the server ended the session: {text:?}"));
                (Ended::Message { code: said.reason_code as u32, text }, Err(parting.into()))
            }
            // A refusal that leaves no method; the login has it already, and it is no loss of the connection.
            DisconnectReason::Error(error @ russh::Error::NoAuthMethod) => return Err(error),
            // `Link` gave up on a write.
            DisconnectReason::Error(russh::Error::IO(error)) if error.kind() == std::io::ErrorKind::TimedOut => {
                (Ended::Failed("the network takes no more data".to_owned()), Err(russh::Error::InactivityTimeout))
            }
            DisconnectReason::Error(error) => {
                let end = matches!(&error, russh::Error::IO(e) if e.kind() == std::io::ErrorKind::UnexpectedEof);
                let closed = end || matches!(error, russh::Error::Disconnect | russh::Error::HUP);
                (if closed { Ended::Closed } else { Ended::Failed(shorten(&error.to_string())) }, Err(error))
            }
        };
        self.observed.state().ended = Some(ended);
        result
    }

    refuse_channels! {
        server_channel_open_forwarded_tcpip(&str, u32, &str, u32);
        server_channel_open_forwarded_streamlocal(&str);
        server_channel_open_agent_forward();
        server_channel_open_session();
        server_channel_open_direct_tcpip(&str, u32, &str, u32);
        server_channel_open_direct_streamlocal(&str);
        server_channel_open_x11(&str, u32);
    }
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
