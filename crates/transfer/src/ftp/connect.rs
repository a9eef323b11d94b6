//! Opens a session: name, TCP, TLS, proof of the server, login and what it offers; all within one deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::config::{FtpConfig, Security, TlsVersion};
use super::control::{Command, Control};
use super::error::{Failure, Lost, class_of_login};
use super::features::{Features, working_directory};
use super::reply::Reply;
use super::stream::Stream;
use super::tls::{TlsSession, Trust, wants_another_version};
use crate::destination::{ServerFact, ServerIdentity};
use crate::road::{self, AddressFamily, Reached, Road};
use crate::{Error, ErrorKind, Result, Subject};

/// Servers that drop what comes in one piece leave a batch unanswered; this share of the time is lost to find out.
const BATCH_SHARE: u32 = 4;

/// What the connections of one connector have learned of their server.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Commands sent in one write are not all answered.
    pub one_by_one: AtomicBool,
    /// EPSV (or EPRT) is refused.
    pub no_extended: AtomicBool,
    /// TLS 1.2 is refused.
    pub newer_tls: AtomicBool,
    /// A data connection was refused because it did not resume a session.
    pub wants_resumption: AtomicBool,
    /// A data connection that resumed nothing has carried a file.
    pub takes_any_session: AtomicBool,
    /// A data connection that resumed an earlier data connection has carried a file, or was refused.
    pub takes_data_tickets: AtomicBool,
    pub refuses_data_tickets: AtomicBool,
    /// What became of a NOOP during a transfer.
    pub keep_alive: AtomicU8,
}

/// A connector's own: everything that does not change from session to session.
#[derive(Debug)]
pub(super) struct Shared {
    pub config: FtpConfig,
    /// `None` in clear text.
    pub trust: Option<Trust>,
    pub known: Known,
}

impl Shared {
    pub fn server(&self) -> Subject {
        Subject::Server(self.config.endpoint.to_string())
    }

    fn failed(&self, kind: ErrorKind) -> Error {
        Error::new(kind, "connect to", self.server())
    }

    pub fn together(&self) -> bool {
        !self.known.one_by_one.load(Ordering::Relaxed)
    }
}

/// A session that is logged in, in binary mode, with protected data connections where TLS is spoken.
#[derive(Debug)]
pub(super) struct Opened {
    pub control: Control,
    pub tls: Option<TlsSession>,
    pub features: Features,
    /// Where the login begins, if that is a path as we know them.
    pub home: Option<Vec<u8>>,
    pub identity: ServerIdentity,
}

enum Attempt {
    /// Something was learned of the server; a new connection can do better.
    Again(&'static str),
    Failed(Error),
}

impl From<Error> for Attempt {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

pub(super) async fn open_session(shared: &Arc<Shared>) -> Result<Opened> {
    let deadline = Instant::now() + shared.config.connect_timeout;
    let mut why = "";
    // There are two things to learn: how commands are taken and which TLS is spoken.
    for _ in 0..3 {
        let attempt = tokio::time::timeout_at(deadline, attempt(shared, deadline)).await;
        match attempt {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(Attempt::Failed(error))) => return Err(error),
            Ok(Err(Attempt::Again(reason))) => why = reason,
            Err(_) => {
                let bound = shared.config.connect_timeout.as_secs_f32();
                let why = format!("it did not finish greeting, TLS and login within {bound} s");
                return Err(shared.failed(ErrorKind::NetworkStalled).because(why));
            }
        }
    }
    Err(shared.failed(ErrorKind::DestProtocol).because(why))
}

async fn attempt(shared: &Arc<Shared>, deadline: Instant) -> Result<Opened, Attempt> {
    let config = &shared.config;
    let Reached { tcp, target, .. } = reach(shared, deadline).await?;
    // Of a way through a proxy this is no address that the server sees.
    let local_address = tcp.local_addr().ok().map(|local| local.ip()).filter(|_| config.proxy.is_none());
    let tls = match &shared.trust {
        None => None,
        Some(trust) => {
            let newer = shared.known.newer_tls.load(Ordering::Relaxed);
            let session = trust.session(if newer { TlsVersion::V1_3 } else { trust.minimum() })?;
            if shared.known.refuses_data_tickets.load(Ordering::Relaxed) {
                session.use_control_tickets_only();
            }
            Some(session)
        }
    };
    let (stream, waiting_for_tls) = match (&tls, config.security) {
        (Some(tls), Security::Implicit) => (protect(shared, tls, tcp).await?, None),
        (Some(tls), _) => (Stream::Clear(tcp), Some(tls)),
        (None, _) => (Stream::Clear(tcp), None),
    };
    let mut control = Control::new(stream, target).map_err(|error| shared.failed(ErrorKind::NetworkReset).because(error))?;
    let greeting = greet(shared, &mut control).await?;
    if let Some(tls) = waiting_for_tls {
        control = upgrade(shared, tls, control).await?;
    }
    log_in(shared, &mut control).await?;
    let mut opened = settle_terms(shared, control, tls, &greeting).await?;
    opened.identity.local_address = local_address;
    opened.identity.facts = facts(shared, &opened);
    Ok(opened)
}

/// A TCP connection to the server, direct or through the proxy.
async fn reach(shared: &Shared, deadline: Instant) -> Result<Reached> {
    let config = &shared.config;
    let road = Road {
        host: &config.endpoint.host,
        port: config.endpoint.port.unwrap_or(config.endpoint.protocol.default_port()),
        family: AddressFamily::Any,
        bind: config.bind,
        proxy: config.proxy.as_ref(),
        addresses: &config.addresses,
    };
    road::reach(road, deadline).await.map_err(|obstacle| {
        let (error, permanent) = (shared.failed(obstacle.kind), obstacle.permanent);
        let error = error.because(obstacle);
        if permanent { error.exhausted() } else { error }
    })
}

async fn greet(shared: &Shared, control: &mut Control) -> Result<Reply> {
    let target = control.target.clone();
    let reply = control.greeting().await.map_err(|lost| {
        let kind = if lost.kind == ErrorKind::DestProtocol { lost.kind } else { ErrorKind::DestUnreachable };
        let hint = match shared.config.security {
            Security::Explicit | Security::Clear => "",
            Security::Implicit => "; if the server expects AUTH TLS, use ftpes://",
        };
        shared.failed(kind).because(format!("{target} did not greet: {}{hint}", crate::error::chain(&lost)))
    })?;
    if reply.code == 220 {
        return Ok(reply);
    }
    let kind = if reply.is_negative() { ErrorKind::DestUnreachable } else { ErrorKind::DestProtocol };
    Err(shared.failed(kind).because(reply))
}

/// TLS on a connection, with the server proved when it returns.
async fn protect(shared: &Shared, tls: &TlsSession, tcp: TcpStream) -> Result<Stream, Attempt> {
    match tls.connect(tcp).await {
        Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
        Err(error) if tls.version == TlsVersion::V1_2 && wants_another_version(&error) => {
            shared.known.newer_tls.store(true, Ordering::Relaxed);
            Err(Attempt::Again("the server speaks neither TLS 1.2 nor 1.3 with us"))
        }
        Err(error) => {
            // Where TLS itself found nothing wrong it is the network that failed, or a port that speaks something else.
            let broken = error.get_ref().is_none_or(|inner| !inner.is::<rustls::Error>());
            let kind = if broken { ErrorKind::DestUnreachable } else { ErrorKind::DestTls };
            let hint = if shared.config.security == Security::Implicit && tls.presented().is_none() {
                "; if the server expects AUTH TLS, use ftpes://"
            } else {
                ""
            };
            Err(shared.failed(kind).because(format!("{}{hint}", tls.explain(&error))).into())
        }
    }
}

/// AUTH TLS. Whatever else the server says, nothing of the login is sent in clear text.
async fn upgrade(shared: &Shared, tls: &TlsSession, mut control: Control) -> Result<Control, Attempt> {
    let lost = |lost: Lost| Attempt::Failed(lost.into_error("protect the connection to", shared.server()));
    let reply = control.ask(Command::word("AUTH TLS"), shared.config.connect_timeout).await.map_err(lost)?;
    if reply.code != 234 {
        let refused = Error::new(ErrorKind::DestTls, "protect the connection to", shared.server());
        return Err(refused.because(format!("AUTH TLS was refused, and nothing is sent without it: {reply}")).into());
    }
    let target = control.target.clone();
    let tcp = match control.into_stream().map_err(lost)? {
        Stream::Clear(tcp) => tcp,
        Stream::Tls(_) => unreachable!("AUTH TLS is sent in clear text only"),
    };
    let stream = protect(shared, tls, tcp).await?;
    Ok(Control::new(stream, target).map_err(|error| shared.failed(ErrorKind::NetworkReset).because(error))?)
}

async fn log_in(shared: &Shared, control: &mut Control) -> Result<()> {
    const OPERATION: &str = "log in to";
    let config = &shared.config;
    let bound = config.connect_timeout;
    let lost = |lost: Lost| {
        // "421 too many connections" ends a session that has not begun.
        let kind = if lost.kind == ErrorKind::NetworkReset { ErrorKind::DestUnreachable } else { lost.kind };
        Error::new(kind, OPERATION, shared.server()).because(lost).on_lost_connection()
    };
    let refused = |reply: Reply| {
        let kind = class_of_login(&reply, config.security == Security::Clear);
        let error = Error::new(kind, OPERATION, shared.server());
        match kind {
            ErrorKind::DestTls => error.because(format!("{reply}; use ftpes:// for this server")),
            _ if reply.code == 332 => error.because(format!("the server wants an account besides user and password (ACCT): {reply}")),
            _ => error.because(reply),
        }
    };
    let invalid = |failure: Failure| failure.into_error(OPERATION, shared.server(), ErrorKind::DestAuth);
    let user = config.endpoint.user.as_deref().unwrap_or("anonymous");
    let reply = control.ask(Command::new("USER", user).map_err(invalid)?, bound).await.map_err(lost)?;
    match reply.code {
        // 232: a certificate was proof enough (RFC 4217, section 15.3).
        230 | 232 => return Ok(()),
        331 => {}
        _ => return Err(refused(reply)),
    }
    let Some(password) = &config.password else {
        return Err(
            Error::new(ErrorKind::DestAuth, OPERATION, shared.server()).because("the server asks for a password, and none was given")
        );
    };
    let reply = control.ask(Command::new("PASS", password.expose()).map_err(invalid)?, bound).await.map_err(lost)?;
    match reply.code {
        202 | 230 => Ok(()),
        _ => Err(refused(reply)),
    }
}

/// Everything between the login and the first file, in as few round trips as the server takes.
async fn settle_terms(shared: &Shared, mut control: Control, tls: Option<TlsSession>, greeting: &Reply) -> Result<Opened, Attempt> {
    const OPERATION: &str = "agree on terms with";
    let config = &shared.config;
    let lost = |lost: Lost| Attempt::Failed(lost.into_error(OPERATION, shared.server()));
    let mut batch = Vec::new();
    if tls.is_some() {
        batch.extend([Command::word("PBSZ 0"), Command::word("PROT P")]);
    }
    // PWD comes last: no other command is answered with 257, so that this answer shows whether each had exactly one.
    batch.extend([Command::word("FEAT"), Command::word("TYPE I"), Command::word("SITE HELP"), Command::word("PWD")]);
    let together = shared.together();
    let bound = if together { config.connect_timeout / BATCH_SHARE } else { config.connect_timeout };
    let started = Instant::now();
    let mut replies = match control.ask_all(&batch, together, bound).await {
        Ok(replies) => replies.into_iter(),
        Err(why) if together && why.kind == ErrorKind::NetworkStalled => {
            shared.known.one_by_one.store(true, Ordering::Relaxed);
            return Err(Attempt::Again("the server does not answer"));
        }
        Err(why) => return Err(lost(why)),
    };
    let mut round_trip = started.elapsed() / if together { 1 } else { batch.len() as u32 };
    let mut next = || replies.next().expect("each command has its reply");
    if tls.is_some() {
        next();
        let reply = next();
        if !reply.is_positive() {
            let refused = Error::new(ErrorKind::DestTls, OPERATION, shared.server());
            return Err(refused.because(format!("it refuses to protect data (PROT P), and nothing is sent without that: {reply}")).into());
        }
    }
    let mut features = Features::read(&next(), &greeting.lines.concat());
    let binary = next();
    if !binary.is_positive() {
        let refused = Error::new(ErrorKind::DestProtocol, OPERATION, shared.server());
        return Err(refused.because(format!("it refuses binary transfers (TYPE I): {binary}")).into());
    }
    features.site_help(&next());
    let directory = next();
    let home = working_directory(&directory);

    // Whoever stores names as UTF-8 is told that we send them so. Without an answer like PWD's own the count is in doubt: a
    // question alone settles it.
    if features.utf8 || directory.code != 257 {
        let started = Instant::now();
        let alone = if features.utf8 { Command::word("OPTS UTF8 ON") } else { Command::word("NOOP") };
        let answer = control.ask(alone, config.connect_timeout).await.map_err(lost)?;
        if directory.code == 214 || (directory.code != 257 && answer.code == 257) {
            // SITE HELP's, and PWD's: the batch had one answer too many, and from here on each would be taken for the next one.
            return Err(lost(Lost::protocol(format!("it answered more than it was asked; {answer}"))));
        }
        round_trip = round_trip.min(started.elapsed());
    }

    let mut notes = Vec::new();
    if let Some(proxy) = &config.proxy {
        notes.push(format!("reached through the proxy {proxy}"));
    }
    if config.security == Security::Clear {
        notes.push("in clear text: the password and every byte can be read on the way".to_owned());
    }
    if !features.rest_stream {
        notes.push("the server cannot continue an interrupted upload".to_owned());
    }
    let software = String::from_utf8_lossy(greeting.lines.iter().find(|line| !line.is_empty()).map_or(&[][..], Vec::as_slice));
    let software: String = software.trim().chars().take(200).collect();
    let host_key = control.stream().tls().and_then(|_| tls.as_ref()?.presented());
    let software = Some(software).filter(|text| !text.is_empty());
    let address = control.target.address();
    let identity = ServerIdentity { host_key, software, address, round_trip, notes, ..ServerIdentity::default() };
    Ok(Opened { control, tls, features, home, identity })
}

/// What this login shows, and what earlier ones of the same connector have learned.
fn facts(shared: &Shared, opened: &Opened) -> Vec<ServerFact> {
    let fact = |name: &'static str, value: &str| ServerFact { name, value: value.to_owned() };
    let (features, known) = (&opened.features, &shared.known);
    let mut offered: Vec<&str> = [
        (features.machine_lists, "MLSD"),
        (features.size, "SIZE"),
        (features.rest_stream, "REST"),
        (features.utf8, "UTF8"),
        (features.set_time, "MFMT"),
        (features.set_time_by_query, "MDTM with a time"),
        (features.set_mode, "SITE CHMOD"),
        (features.free_space, "AVBL"),
    ]
    .into_iter()
    .filter_map(|(on, name)| on.then_some(name))
    .collect();
    offered.extend(features.digests.iter().map(|digester| digester.algorithm.name()));
    let mut facts = vec![fact("features", &if offered.is_empty() { "none that is used".to_owned() } else { offered.join(" ") })];
    if !shared.together() {
        facts.push(fact("commands", "one at a time: it does not answer several that come together"));
    }
    if known.no_extended.load(Ordering::Relaxed) {
        facts.push(fact("data_ports", "PASV: EPSV is refused"));
    }
    if let Some(tls) = &opened.tls {
        facts.push(fact("tls", if tls.version == TlsVersion::V1_3 { "TLS 1.3" } else { "TLS 1.2" }));
        let reuse = match (known.wants_resumption.load(Ordering::Relaxed), known.takes_any_session.load(Ordering::Relaxed)) {
            (true, _) => "required: a data connection without it was refused",
            (false, true) => "not required: a data connection without it carried a file",
            (false, false) => "used: data connections resume the session of their login",
        };
        facts.push(fact("tls_session_reuse", reuse));
    }
    facts
}
