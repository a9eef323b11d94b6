//! Opens an SSH session: name, TCP, key exchange, proof of the server, login; all within one deadline.

use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use russh::client::{self, DisconnectReason, Handle};
use russh::keys::PublicKeyOrCertificate;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, Sleep};

use super::auth;
use super::config::{AddressFamily, SftpConfig};
use super::trust::{Refusal, RefusalReason, Trust, legacy_notes, preferred};
use crate::destination::ServerIdentity;
use crate::error::{Error, ErrorKind, Result};

const MAX_ADDRESSES: usize = 8;
const MAX_GREETING_BYTES: usize = 512;
/// A quick refusal of one address leaves the rest of the time to the others, a silent one must not take it all.
const MIN_ADDRESS_TIME: Duration = Duration::from_secs(3);

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

/// The TCP connection under a session.
#[derive(Debug)]
pub struct Socket(std::net::TcpStream);

impl Socket {
    /// Whoever reads or writes this connection gets an error now. russh's task cannot be ended otherwise while the
    /// peer keeps its window shut, because it then no longer looks whether its handle is gone.
    pub fn shut(&self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Opens a session and logs in. The host is proved before any credential is sent.
/// Errors: `dest_unreachable`, `dest_host_key`, `dest_auth`, `dest_protocol`, `network_stalled`, `network_reset`.
pub async fn open_session(config: &SftpConfig) -> Result<Opened> {
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
        match handshake(config, trust.clone(), preferred, deadline).await {
            Ok(shaken) => return finish(config, shaken, deadline).await,
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
    let error = Error::new(ErrorKind::DestHostKey, "trust the server", config.server());
    Err(match refusal {
        Some(refusal) => error.because(refusal),
        None => error.because("no host key algorithm is left to offer"),
    })
}

struct Shaken {
    handle: Handle<ClientHandler>,
    observed: Arc<Observed>,
    address: SocketAddr,
    local_address: Option<std::net::IpAddr>,
    round_trip: Duration,
    socket: ShutOnDrop,
}

enum Failure {
    Refused(Box<Refusal>),
    Other(Error),
}

/// Until a session is handed over, giving up must also end russh's task.
struct ShutOnDrop(Option<Socket>);

impl Drop for ShutOnDrop {
    fn drop(&mut self) {
        if let Some(socket) = &self.0 {
            socket.shut();
        }
    }
}

async fn handshake(config: &SftpConfig, trust: Arc<Trust>, preferred: russh::Preferred, deadline: Instant) -> Result<Shaken, Failure> {
    let (stream, address, round_trip) = reach(config, deadline).await.map_err(Failure::Other)?;
    let local_address = stream.local_addr().ok().map(|local| local.ip());
    let observed = Arc::new(Observed::default());
    let split = || -> std::io::Result<_> {
        let stream = stream.into_std()?;
        let socket = Socket(stream.try_clone()?);
        Ok((TcpStream::from_std(stream)?, ShutOnDrop(Some(socket))))
    };
    let (stream, socket) = split().map_err(|error| Failure::Other(failed(config, ErrorKind::DestUnreachable).because(error)))?;
    let link = Link { stream, observed: observed.clone(), stall: config.stall_timeout, stalled: None };
    let handler = ClientHandler { observed: observed.clone(), trust };
    let connecting = client::connect_stream(Arc::new(client_config(config, preferred)), link, handler);
    match tokio::time::timeout_at(deadline, connecting).await {
        Ok(Ok(handle)) => Ok(Shaken { handle, observed, address, local_address, round_trip, socket }),
        Ok(Err(error)) => {
            let refusal = observed.state().refusal.take();
            Err(refusal.map_or_else(|| Failure::Other(handshake_error(config, address, &error, &observed)), Failure::Refused))
        }
        Err(_) => {
            let heard = observed.received();
            let why = match heard {
                0 => format!("{address} accepted the connection and said nothing within {} s", config.connect_timeout.as_secs()),
                _ => format!("{address} did not finish the key exchange within {} s", config.connect_timeout.as_secs()),
            };
            Err(Failure::Other(failed(config, ErrorKind::NetworkStalled).because(why)))
        }
    }
}

async fn finish(config: &SftpConfig, shaken: Shaken, deadline: Instant) -> Result<Opened> {
    let Shaken { mut handle, observed, address, local_address, round_trip, mut socket } = shaken;
    let mut notes = config.notes.clone();
    notes.append(&mut observed.state().notes.clone());
    notes.extend(auth::log_in(&mut handle, config, &observed, deadline).await?);
    let state = observed.state();
    let identity = ServerIdentity {
        host_key: state.trusted.clone(),
        software: state.software.clone(),
        address: Some(address),
        local_address,
        round_trip,
        notes,
        facts: Vec::new(),
    };
    drop(state);
    let socket = socket.0.take().expect("the socket is taken here only");
    Ok(Opened { handle, identity, socket })
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
        channel_buffer_size: 256,
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

/// A TCP connection to the first address that answers.
async fn reach(config: &SftpConfig, deadline: Instant) -> Result<(TcpStream, SocketAddr, Duration)> {
    let unreachable = |why: String| failed(config, ErrorKind::DestUnreachable).because(why);
    let host = config.host().trim_start_matches('[').trim_end_matches(']');
    let found = match tokio::time::timeout_at(deadline, tokio::net::lookup_host((host, config.port()))).await {
        Err(_) => return Err(unreachable(format!("the name {host} was not resolved in time"))),
        Ok(Err(error)) => return Err(unreachable(format!("the name {host} was not resolved: {error}"))),
        Ok(Ok(found)) => found,
    };
    let wanted = |address: &SocketAddr| {
        let family = match config.family {
            AddressFamily::Any => true,
            AddressFamily::V4 => address.is_ipv4(),
            AddressFamily::V6 => address.is_ipv6(),
        };
        family && config.bind.is_none_or(|bind| bind.is_ipv4() == address.is_ipv4())
    };
    let addresses: Vec<SocketAddr> = found.filter(wanted).take(MAX_ADDRESSES).collect();
    if addresses.is_empty() {
        return Err(unreachable(format!("{host} has no address of the wanted family")));
    }
    let mut reasons = Vec::new();
    for (index, &address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / (addresses.len() - index) as u32;
        let started = Instant::now();
        match tokio::time::timeout(share.max(MIN_ADDRESS_TIME).min(left), dial(config, address)).await {
            Ok(Ok(stream)) => return Ok((stream, address, started.elapsed())),
            Ok(Err(error)) => reasons.push(format!("{address}: {error}")),
            Err(_) => reasons.push(format!("{address}: no answer within {:.1} s", started.elapsed().as_secs_f32())),
        }
    }
    Err(unreachable(reasons.join(", ")))
}

async fn dial(config: &SftpConfig, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    socket.set_keepalive(true)?;
    if let Some(bind) = config.bind {
        socket.bind(SocketAddr::new(bind, 0))?;
    }
    socket.connect(address).await
}

/// What went wrong before the login, in the words of the network or of the server.
fn handshake_error(config: &SftpConfig, address: SocketAddr, error: &russh::Error, observed: &Observed) -> Error {
    use std::io::ErrorKind as Io;
    let greeting = observed.state().greeting.clone();
    let no_ssh = !greeting.is_empty() && !greeting.split(|&b| b == b'\n').any(|line| line.starts_with(b"SSH-"));
    let first_bytes =
        || format!("{address} does not speak SSH; its first bytes are \"{}\"", greeting[..greeting.len().min(120)].escape_ascii());
    let closed = matches!(error, russh::Error::Disconnect | russh::Error::HUP)
        || matches!(error, russh::Error::IO(e) if matches!(e.kind(), Io::UnexpectedEof | Io::ConnectionReset | Io::BrokenPipe | Io::ConnectionAborted));
    let (kind, why) = match error {
        russh::Error::Version => (ErrorKind::DestProtocol, first_bytes()),
        _ if no_ssh => (ErrorKind::DestProtocol, first_bytes()),
        _ if closed && greeting.is_empty() => (
            ErrorKind::DestUnreachable,
            format!("{address} closed the connection before its greeting; it may limit connections or addresses"),
        ),
        _ if closed => match observed.ended() {
            Some(Ended::Message { code, text }) if code == russh::Disconnect::KeyExchangeFailed as u32 => {
                (ErrorKind::DestProtocol, format!("{address} ended the key exchange: {:?}", shorten(&text)))
            }
            Some(Ended::Message { text, .. }) => (ErrorKind::DestUnreachable, format!("{address} ended the session: {:?}", shorten(&text))),
            _ => (ErrorKind::NetworkReset, format!("{address} closed the connection during the key exchange")),
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

/// The TCP stream as russh sees it: remembers the first bytes for messages, and fails a write that makes no progress,
/// for which russh has no clock of its own.
struct Link {
    stream: TcpStream,
    observed: Arc<Observed>,
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for Link {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let new = &buffer.filled()[before..];
        let so_far = self.observed.received.fetch_add(new.len() as u64, Ordering::Relaxed);
        if so_far < MAX_GREETING_BYTES as u64 {
            let mut state = self.observed.state();
            let room = MAX_GREETING_BYTES.saturating_sub(state.greeting.len()).min(new.len());
            state.greeting.extend_from_slice(&new[..room]);
        }
        Poll::Ready(Ok(()))
    }
}

impl Link {
    fn watched<T>(&mut self, cx: &mut Context<'_>, result: Poll<std::io::Result<T>>) -> Poll<std::io::Result<T>> {
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        let stall = self.stall;
        let clock = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        match clock.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(std::io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, data);
        self.watched(cx, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
