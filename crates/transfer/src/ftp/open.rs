//! Opening a transfer: where its data connection will be, the command, and the server's word that it begins.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::connect::Shared;
use super::control::{Command, Control};
use super::error::{Failure, Lost};
use super::passive;
use super::reply::Reply;
use super::session::{Line, Session};
use super::stream::{Data, Stream};
use super::tls::{Origin, TlsSession};
use super::transfer::{REASON_TIME, Transfer};
use crate::ErrorKind;
use crate::error::BoxError;
use crate::road::{Target, dial, tune};

/// vsftpd lets a second writer of a file wait until the first has ended, which an orphaned one does late.
const BEGIN_TIME: Duration = Duration::from_secs(20);
/// A refusal of a data connection that resumed no session comes at once.
const OBJECTION_TIME: Duration = Duration::from_millis(300);

/// Where the next data connection will be.
#[derive(Debug)]
pub(super) enum Place {
    At(Target),
    Here(TcpListener),
}

/// What to open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub owner: u64,
    pub verb: &'static str,
    /// Nothing for a listing of the working directory.
    pub path: &'a [u8],
    pub offset: u64,
    pub upload: bool,
    /// The name was free a moment ago.
    pub fresh: bool,
}

impl Session {
    /// Asks `looks` and arranges a data connection, in one round trip. Where `offset` is not 0, REST is asked too and
    /// must be followed by the transfer.
    pub async fn prepare(&self, line: &mut Line, looks: &[Command], offset: u64) -> Result<(Vec<Reply>, Place), Failure> {
        let known = &self.shared.known;
        if known.wants_resumption.load(Ordering::Relaxed) && line.tls.as_ref().is_some_and(TlsSession::is_used_up) {
            self.log_in_again(line).await?;
        }
        let mut looks = looks.to_vec();
        let count = looks.len();
        loop {
            let control = line.control()?;
            let (target, local) = (control.target.clone(), control.local);
            let extended = target.is_ipv6() || !known.no_extended.load(Ordering::Relaxed);
            let mut listener = None;
            let arrange = if self.shared.config.active {
                let here = TcpListener::bind(SocketAddr::new(local.ip(), 0)).await.and_then(|l| Ok((l.local_addr()?, l)));
                let (address, bound) =
                    here.map_err(|e| Failure::refused(ErrorKind::DestUnreachable, format!("no port to listen on: {e}")))?;
                listener = Some(bound);
                passive::announcement(address, extended)
            } else {
                if extended { "EPSV" } else { "PASV" }.to_owned()
            };
            looks.push(Command::word(&arrange));
            // An offset that was never used would make a hole at the beginning of the next file.
            let rest = offset > 0 || line.offset_pending;
            let restart = Command::word(&format!("REST {offset}"));
            line.offset_pending |= rest;
            // A server that is to connect to us answers when it has, and pyftpdlib answers what comes behind before that.
            let apart = self.shared.config.active;
            if rest && !apart {
                looks.push(restart.clone());
            }
            let mut replies = line.ask_all(&looks).await?;
            let rest = match rest {
                true if apart => Some(line.ask(restart).await?),
                true => replies.pop(),
                false => None,
            };
            line.offset_pending &= offset > 0;
            let reply = replies.pop().expect("each command has its reply");
            // The answer to EPSV or PASV is like no other's. Where another stands in its place, one answer too many may have
            // come before it: then it comes now, as the answer to a question that every server knows.
            let named = |reply: &Reply| matches!(reply.code, 227 | 229);
            if listener.is_none() && !named(&reply) && (rest.as_ref().is_some_and(named) || named(&line.ask(Command::word("NOOP")).await?))
            {
                return line.note(Err(Lost::protocol("it answered more than it was asked")));
            }
            if let Some(refused) = rest.filter(|reply| !reply.is_intermediate()) {
                return Err(refused.into());
            }
            if reply.is_negative() && extended && !target.is_ipv6() && (500..600).contains(&reply.code) {
                known.no_extended.store(true, Ordering::Relaxed);
                // The answers so far are of this moment; asking again costs nothing that matters.
                looks.truncate(count);
                continue;
            }
            if !reply.is_positive() {
                return Err(reply.into());
            }
            // Another success is the answer to something else.
            if listener.is_none() && reply.code != if extended { 229 } else { 227 } {
                return Err(Failure::refused(ErrorKind::DestProtocol, format!("it names no port for data: {reply}")));
            }
            let place = match listener {
                Some(listener) => Place::Here(listener),
                None => {
                    let text = reply.lines.concat();
                    let port = if extended { passive::extended(&text) } else { passive::classic(&text) };
                    let Some(port) = port else {
                        return Err(Failure::refused(ErrorKind::DestProtocol, format!("it names no port for data: {reply}")));
                    };
                    Place::At(target.with_port(port))
                }
            };
            replies.truncate(count);
            return Ok((replies, place));
        }
    }

    /// Opens a transfer on a free line. Where a server wants data connections to resume a session and none was left, it
    /// logs in again and tries once more.
    pub async fn begin(&self, line: &mut Line, place: Option<Place>, wanted: Wanted<'_>) -> Result<(), Failure> {
        let place = match place {
            Some(place) => place,
            None => self.prepare(line, &[], wanted.offset).await?.1,
        };
        match self.start(line, place, wanted).await {
            Err(failure) => self.begin_again(line, failure, wanted).await,
            Ok(()) => Ok(()),
        }
    }

    async fn start(&self, line: &mut Line, place: Place, wanted: Wanted<'_>) -> Result<(), Failure> {
        let bound = self.shared.config.stall_timeout.min(BEGIN_TIME);
        let command = if wanted.path.is_empty() { Command::word(wanted.verb) } else { Command::new(wanted.verb, wanted.path)? };
        let tls = line.tls.clone();
        let control = line.control()?;
        let peer = control.peer;
        let result = async {
            control.send(&[command], bound).await?;
            let opening = open(&self.shared, place, peer, tls.as_ref(), bound);
            match tokio::time::timeout(bound, both(control, opening)).await {
                Ok(result) => result,
                Err(_) => {
                    let why = format!("the server did not begin the transfer within {} s", bound.as_secs());
                    Err(Failure::Lost(Lost::new(ErrorKind::NetworkStalled, why)))
                }
            }
        }
        .await;
        let Wanted { owner, upload, offset, .. } = wanted;
        let (mut data, mut reply) = match result {
            Ok(opened) => opened,
            Err(Failure::Lost(lost)) => return line.note(Err(lost)),
            Err(failure) => return Err(failure),
        };
        let origin = line.tls.as_ref().zip(data.stream.tls()).map_or(Origin::Control, |(tls, data)| tls.origin(data));
        let known = &self.shared.known;
        let doubtful = match origin {
            Origin::Control => false,
            Origin::Data => !known.takes_data_tickets.load(Ordering::Relaxed),
            Origin::Nowhere => !known.takes_any_session.load(Ordering::Relaxed),
        };
        line.origin = origin;
        if doubtful && reply.is_none() {
            let bound = OBJECTION_TIME + 2 * self.identity.round_trip;
            let result = objection(line.control()?, &mut data, upload, bound).await;
            match line.note(result)? {
                Some(objection) if objection.is_negative() => return Err(objection.into()),
                other => reply = other,
            }
        }
        line.offset_pending = false;
        // Nothing of the file was sent yet, so this is no word about it.
        if upload && let Some(early) = reply.take_if(|reply| reply.is_positive()) {
            return line.note(Err(Lost::protocol(format!("it calls an upload complete that has not begun; {early}"))));
        }
        line.transfer = Some(Transfer::new(owner, upload, offset, data, reply));
        Ok(())
    }

    /// Remembers what a transfer that went well says about this server.
    pub fn went_well(&self, origin: Origin) {
        match origin {
            Origin::Control => {}
            Origin::Data => self.shared.known.takes_data_tickets.store(true, Ordering::Relaxed),
            Origin::Nowhere => self.shared.known.takes_any_session.store(true, Ordering::Relaxed),
        }
    }

    /// Opens a transfer again after a login of its own, if that is what the server's refusal asks for.
    pub async fn begin_again(&self, line: &mut Line, failure: Failure, wanted: Wanted<'_>) -> Result<(), Failure> {
        match failure {
            Failure::Reply(reply, _) if line.tls.is_some() && matches!(reply.code, 425 | 522) => {
                self.learn(line, &reply);
                self.log_in_again(line).await?;
                if wanted.fresh {
                    // The refused stream has left an empty file, over which some servers let nobody write.
                    line.ask(Command::new("DELE", wanted.path)?).await?;
                }
                let place = self.prepare(line, &[], wanted.offset).await?.1;
                self.start(line, place, wanted).await
            }
            failure => Err(failure),
        }
    }

    /// Remembers that a data connection was refused for the TLS session that it resumed, or did not resume.
    pub fn learn(&self, line: &Line, reply: &Reply) {
        let known = &self.shared.known;
        if line.tls.is_some() && matches!(reply.code, 425 | 522) {
            known.wants_resumption.store(true, Ordering::Relaxed);
            known.takes_any_session.store(false, Ordering::Relaxed);
            if line.origin == Origin::Data {
                known.refuses_data_tickets.store(true, Ordering::Relaxed);
                known.takes_data_tickets.store(false, Ordering::Relaxed);
            }
        }
    }
}

/// The data connection itself, protected like the control connection.
async fn open(shared: &Shared, place: Place, peer: SocketAddr, tls: Option<&TlsSession>, bound: Duration) -> Result<Data, Failure> {
    let broken = |what: String, error: BoxError| Failure::Lost(Lost::new(ErrorKind::NetworkReset, what).because(error));
    let tcp = match place {
        Place::At(target) => {
            let proxy = shared.config.proxy.as_ref();
            // What stands in a proxy's way is told before the time of all is over.
            let until = Instant::now() + if proxy.is_some() { bound * 3 / 4 } else { bound };
            let (tcp, _) = dial(&target, shared.config.bind, proxy, &shared.config.addresses, until).await.map_err(|obstacle| {
                let way = if proxy.is_some() { "proxy or firewall" } else { "firewall" };
                let what = format!("no data connection to {target}; a {way} may not let the server's passive ports through");
                broken(what, obstacle.into())
            })?;
            tcp
        }
        Place::Here(listener) => {
            accept(&listener, peer).await.map_err(|error| broken("the server's data connection did not come".to_owned(), error.into()))?
        }
    };
    match tls {
        None => Ok(Data::new(Stream::Clear(tcp))),
        Some(tls) => match tls.connect_data(tcp).await {
            Ok(stream) => Ok(Data::new(Stream::Tls(Box::new(stream)))),
            Err(error) => {
                let judged = matches!(error.get_ref().and_then(|e| e.downcast_ref()), Some(rustls::Error::InvalidCertificate(_)));
                let kind = if judged { ErrorKind::DestTls } else { ErrorKind::NetworkReset };
                Err(Failure::Lost(Lost::new(kind, format!("no protected data connection: {}", tls.explain(&error)))))
            }
        },
    }
}

/// The server's no to a data connection that did not resume the session it wanted. ProFTPD first ends that connection,
/// and says why only when we have ended it too.
async fn objection(control: &mut Control, data: &mut Data, upload: bool, bound: Duration) -> Result<Option<Reply>, Lost> {
    let mut first = [0];
    tokio::select! {
        biased;
        reply = control.last_reply() => return reply.map(Some),
        // What is downloaded must not be taken from the stream here.
        read = data.stream.read(&mut first), if upload => {
            if let Ok(1..) = read {
                return Err(Lost::protocol("it sends data while it is sent a file"));
            }
        }
        () = tokio::time::sleep(bound) => return Ok(None),
    }
    let _ = data.stream.shutdown().await;
    control.last_reply_within(REASON_TIME).await.map(Some)
}

/// Only the server itself may connect to us.
async fn accept(listener: &TcpListener, peer: SocketAddr) -> io::Result<TcpStream> {
    loop {
        let (tcp, from) = listener.accept().await?;
        if from.ip().to_canonical() == peer.ip().to_canonical() {
            tune(&tcp)?;
            return Ok(tcp);
        }
    }
}

/// The data connection and the server's word that it begins. Some servers give the word first and some shake hands first.
async fn both(control: &mut Control, opening: impl Future<Output = Result<Data, Failure>>) -> Result<(Data, Option<Reply>), Failure> {
    tokio::pin!(opening);
    let (mut data, mut begun, mut last) = (None, false, None);
    loop {
        tokio::select! {
            biased;
            reply = control.reply(), if last.is_none() => {
                let reply = reply?;
                match reply.code {
                    100..200 => begun = true,
                    // A short file may be over before its data connection is ready.
                    200..300 if begun => last = Some(reply),
                    _ => return Err(reply.into()),
                }
            }
            opened = &mut opening, if data.is_none() => match opened {
                Ok(opened) => data = Some(opened),
                Err(failure) => {
                    // The server may say why, which is better than our own guess.
                    return match tokio::time::timeout(Duration::from_secs(5), control.last_reply()).await {
                        Ok(Ok(reply)) if reply.is_negative() && last.is_none() => Err(reply.into()),
                        _ => Err(failure),
                    };
                }
            }
        }
        if begun && let Some(data) = data.take() {
            return Ok((data, last));
        }
    }
}
