//! One transfer over a data connection: how it is opened, carried, brought to its end or cut, and what the server says
//! of it on the control connection meanwhile.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::connect::Shared;
use super::control::{Command, Control};
use super::error::{Failure, Lost};
use super::passive;
use super::reply::Reply;
use super::session::{Line, Session};
use super::stream::{Data, Stream, dial, tune};
use super::tls::{Origin, TlsSession};
use crate::ErrorKind;

/// What is handed to a socket at once.
pub(super) const PIECE: usize = 256 * 1024;
/// vsftpd lets a second writer of a file wait until the first has ended, which an orphaned one does late.
const BEGIN_TIME: Duration = Duration::from_secs(20);
/// After a data connection broke, the reason comes on the control connection, if it comes.
const REASON_TIME: Duration = Duration::from_secs(10);
/// What a server sends while it is being written to is nothing but the end of TLS.
const MAX_DRAIN: usize = 1 << 20;
const DRAIN_STEP: usize = 16 * 1024;
/// A refusal of a data connection that resumed no session comes at once.
const OBJECTION_TIME: Duration = Duration::from_millis(300);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(5);
/// What is known of NOOPs during transfers on this server (`Known::keep_alive`).
const ANSWERED: u8 = 1;
const NOT_ANSWERED: u8 = 2;

/// The transfer that occupies a line.
#[derive(Debug)]
pub(super) struct Transfer {
    pub owner: u64,
    pub upload: bool,
    /// The offset of the next byte.
    pub position: u64,
    /// Somebody was interrupted in the middle of a step: what was sent is not known.
    pub busy: bool,
    data: Data,
    /// The server's last word, if it came before the end of the data.
    reply: Option<Reply>,
    kept_alive: Option<Instant>,
}

/// Where the next data connection will be.
#[derive(Debug)]
pub(super) enum Place {
    At(SocketAddr),
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
            let (peer, local) = (control.peer, control.local);
            let extended = peer.is_ipv6() || !known.no_extended.load(Ordering::Relaxed);
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
            if rest {
                line.offset_pending = true;
                looks.push(Command::word(&format!("REST {offset}")));
            }
            let mut replies = line.ask_all(&looks).await?;
            let rest = if rest { replies.pop() } else { None };
            line.offset_pending &= offset > 0;
            let reply = replies.pop().expect("each command has its reply");
            if let Some(refused) = rest.filter(|reply| !reply.is_intermediate()) {
                return Err(refused.into());
            }
            if reply.is_negative() && extended && peer.is_ipv4() && (500..600).contains(&reply.code) {
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
                    Place::At(SocketAddr::new(peer.ip(), port))
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
            Err(Failure::Reply(reply, _)) if line.tls.is_some() && matches!(reply.code, 425 | 522) => {
                self.learn(line, &reply);
                self.log_in_again(line).await?;
                let place = self.prepare(line, &[], wanted.offset).await?.1;
                self.start(line, place, wanted).await
            }
            result => result,
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
            let opening = open(&self.shared, place, peer, tls.as_ref());
            match tokio::time::timeout(bound, both(control, opening)).await {
                Ok(result) => result,
                Err(_) => {
                    let why = format!("the server did not begin the transfer within {} s", bound.as_secs());
                    Err(Failure::Lost(Lost::new(ErrorKind::NetworkStalled, why)))
                }
            }
        }
        .await;
        let (data, mut reply) = match result {
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
            match tokio::time::timeout(bound, line.control()?.reply()).await {
                Ok(Ok(objection)) if objection.is_negative() => return Err(objection.into()),
                Ok(Ok(other)) => reply = Some(other),
                Ok(Err(lost)) => return line.note(Err(lost)),
                Err(_) => {}
            }
        }
        line.offset_pending = false;
        let Wanted { owner, upload, offset, .. } = wanted;
        // Nothing of the file was sent yet, so this is no word about it.
        if upload && let Some(early) = reply.take_if(|reply| reply.is_positive()) {
            return line.note(Err(Lost::protocol(format!("it calls an upload complete that has not begun; {early}"))));
        }
        line.transfer = Some(Transfer { owner, upload, position: offset, busy: false, data, reply, kept_alive: None });
        Ok(())
    }

    /// Remembers what a transfer that went well says about this server.
    fn went_well(&self, origin: Origin) {
        match origin {
            Origin::Control => {}
            Origin::Data => self.shared.known.takes_data_tickets.store(true, Ordering::Relaxed),
            Origin::Nowhere => self.shared.known.takes_any_session.store(true, Ordering::Relaxed),
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
async fn open(shared: &Shared, place: Place, peer: SocketAddr, tls: Option<&TlsSession>) -> Result<Data, Failure> {
    let broken = |what: String, error: io::Error| Failure::Lost(Lost::new(ErrorKind::NetworkReset, what).because(error));
    let tcp = match place {
        Place::At(address) => dial(address, shared.config.bind).await.map_err(|error| {
            broken(format!("no data connection to {address}; a firewall may not let the server's passive ports through"), error)
        })?,
        Place::Here(listener) => {
            accept(&listener, peer).await.map_err(|error| broken("the server's data connection did not come".to_owned(), error))?
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

/// One step of a data connection.
enum Step<'a> {
    Write(&'a [u8]),
    Flush,
    Shutdown,
    /// At most so many more bytes.
    Read(&'a mut Vec<u8>, usize),
}

impl Step<'_> {
    async fn take(&mut self, stream: &mut Stream) -> io::Result<usize> {
        match self {
            Self::Write(bytes) => stream.write(bytes).await,
            Self::Flush => stream.flush().await.map(|()| 0),
            Self::Shutdown => stream.shutdown().await.map(|()| 0),
            Self::Read(buffer, room) => stream.take(*room as u64).read_buf(*buffer).await,
        }
    }
}

enum Event {
    Data(io::Result<usize>),
    Reply(Result<Reply, Lost>),
    Late,
}

impl Transfer {
    /// Waits for a step of the data connection, for a word of the server, or until nothing has happened for `stall`.
    async fn step(&mut self, shared: &Shared, control: &mut Control, stall: Duration, mut step: Step<'_>) -> Event {
        let started = Instant::now();
        loop {
            let now = Instant::now();
            let Some(left) = stall.checked_sub(now - started).filter(|left| !left.is_zero()) else { return Event::Late };
            let until_keep_alive = match (shared.known.keep_alive.load(Ordering::Relaxed), self.kept_alive) {
                (NOT_ANSWERED, _) => None,
                // The first one is a question: is a NOOP answered while a file is under way?
                (_, Some(sent)) if control.keep_alive_waits() => match KEEP_ALIVE_ANSWER.checked_sub(now - sent) {
                    Some(left) => Some(left),
                    None => {
                        shared.known.keep_alive.store(NOT_ANSWERED, Ordering::Relaxed);
                        None
                    }
                },
                (known, sent) => {
                    if sent.is_some() && known != ANSWERED {
                        shared.known.keep_alive.store(ANSWERED, Ordering::Relaxed);
                    }
                    Some(shared.config.keep_alive.saturating_sub(now - control.active))
                }
            };
            if until_keep_alive == Some(Duration::ZERO) && !control.keep_alive_waits() {
                self.kept_alive = Some(now);
                if let Err(lost) = control.keep_alive(KEEP_ALIVE_ANSWER).await {
                    return Event::Reply(Err(lost));
                }
                continue;
            }
            let wait = until_keep_alive.map_or(left, |keep| keep.max(Duration::from_millis(10)).min(left));
            let over = self.reply.is_some();
            tokio::select! {
                biased;
                reply = control.last_reply(), if !over => return Event::Reply(reply),
                done = step.take(&mut self.data.stream) => return Event::Data(done),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

impl Line {
    /// The transfer of `owner`, if it is still on the line.
    pub fn transfer_of(&self, owner: u64) -> Option<&Transfer> {
        self.transfer.as_ref().filter(|transfer| transfer.owner == owner)
    }

    fn parts(&mut self) -> Result<(&mut Control, &mut Transfer), Failure> {
        let lost = self.lost();
        match (&mut self.control, &mut self.transfer) {
            (Some(control), Some(transfer)) => Ok((control, transfer)),
            (None, _) => Err(lost.into()),
            (_, None) => Err(Failure::refused(ErrorKind::NetworkReset, "the transfer was cut")),
        }
    }

    /// Hands `bytes` to the data connection.
    pub async fn write(&mut self, session: &Session, mut bytes: &[u8]) -> Result<(), Failure> {
        let stall = session.shared.config.stall_timeout;
        let (control, transfer) = self.parts()?;
        if transfer.busy {
            self.transfer = None;
            return Err(Failure::refused(ErrorKind::NetworkReset, "an earlier write was interrupted"));
        }
        transfer.busy = true;
        loop {
            let piece = &bytes[..bytes.len().min(PIECE)];
            let event = if piece.is_empty() {
                // What TLS still holds is not in the kernel's hands.
                transfer.step(&session.shared, control, stall, Step::Flush).await
            } else {
                transfer.step(&session.shared, control, stall, Step::Write(piece)).await
            };
            if session.closed.load(Ordering::Acquire) {
                return self.note(Err(Lost::closed()));
            }
            match event {
                Event::Data(Ok(0)) if piece.is_empty() => break,
                Event::Data(Ok(0)) => return Err(self.broke(io::ErrorKind::WriteZero.into()).await),
                Event::Data(Ok(written)) => {
                    bytes = &bytes[written..];
                    transfer.position += written as u64;
                }
                Event::Data(Err(error)) => return Err(self.broke(error).await),
                event => return Err(self.interrupted(event, stall)),
            }
        }
        transfer.busy = false;
        Ok(())
    }

    /// The server spoke, or nobody did, before the data were over.
    fn interrupted(&mut self, event: Event, stall: Duration) -> Failure {
        self.transfer = None;
        match event {
            Event::Reply(Ok(reply)) if reply.is_negative() => reply.into(),
            Event::Reply(Ok(reply)) => Failure::refused(ErrorKind::DestProtocol, format!("the data were not over; {reply}")),
            Event::Reply(Err(lost)) => {
                self.lose(lost.clone());
                lost.into()
            }
            Event::Data(_) | Event::Late => {
                let lost = Lost::stalled("progress of the data", stall);
                self.lose(lost.clone());
                lost.into()
            }
        }
    }

    /// A data connection broke. A full disk looks like this too, and only the control connection tells.
    async fn broke(&mut self, error: io::Error) -> Failure {
        let bound = REASON_TIME.min(self.bound);
        let mut transfer = self.transfer.take();
        let early = transfer.as_mut().and_then(|transfer| transfer.reply.take());
        drop(transfer);
        let reply = match (early, self.control()) {
            (Some(reply), _) => Ok(reply),
            (None, Ok(control)) => control.last_reply_within(bound).await,
            (None, Err(lost)) => Err(lost),
        };
        match reply {
            Ok(reply) if reply.is_negative() => reply.into(),
            Ok(reply) => Failure::refused(ErrorKind::NetworkReset, format!("the data connection broke ({error}), and {reply}")),
            Err(lost) => {
                let lost = Lost::new(ErrorKind::NetworkReset, format!("the data connection broke: {error}")).because(lost);
                self.lose(lost.clone());
                lost.into()
            }
        }
    }

    /// Ends an upload in good order and returns when the server has said that it has everything.
    pub async fn finish(&mut self, session: &Session) -> Result<(), Failure> {
        let (stall, reply_time) = (session.shared.config.stall_timeout, session.shared.config.reply_timeout);
        let (control, transfer) = self.parts()?;
        if transfer.busy {
            self.transfer = None;
            return Err(Failure::refused(ErrorKind::NetworkReset, "an earlier write was interrupted"));
        }
        transfer.busy = true;
        let protected = transfer.data.stream.tls().is_some();
        match transfer.step(&session.shared, control, stall, Step::Shutdown).await {
            Event::Data(Ok(_)) => {}
            Event::Data(Err(error)) => return Err(self.broke(error).await),
            event => return Err(self.interrupted(event, stall)),
        }
        // Until the server's own end has come: with something unread a close would be a reset, and TLS 1.3 always sends
        // something, so that the end of a file was lost with it. The reply alone will do as well.
        let mut scrap = Vec::with_capacity(DRAIN_STEP);
        let mut drained = 0;
        let mut end = None;
        while end.is_none() && transfer.reply.is_none() {
            match transfer.step(&session.shared, control, stall, Step::Read(&mut scrap, DRAIN_STEP)).await {
                Event::Data(Ok(0)) => end = Some(Ok(())),
                Event::Data(Err(error)) => end = Some(Err(error)),
                Event::Data(Ok(length)) => {
                    scrap.clear();
                    drained += length;
                    if drained > MAX_DRAIN {
                        return self.note(Err(Lost::protocol("it sends data while it is sent a file")));
                    }
                }
                Event::Reply(Ok(reply)) => transfer.reply = Some(reply),
                event => return Err(self.interrupted(event, stall)),
            }
        }
        let reply = match transfer.reply.take() {
            Some(reply) => {
                if protected && end.is_none() {
                    // Tickets for the next data connection may still be on their way.
                    let _ = tokio::time::timeout(Duration::from_secs(1), read_out(&mut transfer.data.stream, &mut scrap)).await;
                }
                Ok(reply)
            }
            None => match tokio::time::timeout(reply_time, control.last_reply()).await {
                Ok(reply) => reply,
                Err(_) => Err(Lost::stalled("the server's word that it has the whole file", reply_time)),
            },
        };
        let transfer = self.transfer.take();
        match self.note(reply)? {
            reply if reply.is_positive() => {
                if let Some(transfer) = transfer {
                    transfer.data.ended();
                }
                session.went_well(self.origin);
                Ok(())
            }
            reply => Err(reply.into()),
        }
    }

    /// At most `length` bytes; fewer only at the end of the file. The flag tells whether the end was reached.
    pub async fn read(&mut self, session: &Session, path: &[u8], length: usize) -> Result<(Vec<u8>, bool), Failure> {
        let stall = session.shared.config.stall_timeout;
        let (control, transfer) = self.parts()?;
        transfer.busy = true;
        let mut out = Vec::with_capacity(length);
        let mut end = None;
        while out.len() < length && end.is_none() {
            let room = length - out.len();
            let event = transfer.step(&session.shared, control, stall, Step::Read(&mut out, room)).await;
            match event {
                Event::Data(Ok(0)) => end = Some(Ok(())),
                Event::Data(Ok(_)) => {}
                Event::Data(Err(error)) => end = Some(Err(error)),
                // The last word may come before the last byte.
                Event::Reply(Ok(reply)) if reply.is_positive() => transfer.reply = Some(reply),
                event => return Err(self.interrupted(event, stall)),
            }
        }
        transfer.position += out.len() as u64;
        transfer.busy = false;
        let cut = match end {
            None => return Ok((out, false)),
            Some(Ok(())) => false,
            // Without the end of TLS this may be somebody else's end: only the size can tell.
            Some(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => true,
            Some(Err(error)) => return Err(self.broke(error).await),
        };
        let mut transfer = self.transfer.take().expect("it was there a moment ago");
        let _ = tokio::time::timeout(Duration::from_secs(5), transfer.data.stream.shutdown()).await;
        let reply = match transfer.reply.take() {
            Some(reply) => reply,
            None => {
                let reply = self.control()?.last_reply_within(session.shared.config.reply_timeout).await;
                self.note(reply)?
            }
        };
        if !reply.is_positive() {
            return Err(reply.into());
        }
        session.went_well(self.origin);
        if cut {
            let size = self.ask(Command::new("SIZE", path)?).await?;
            if size.code != 213 || super::look::number(size.first()) != Some(transfer.position) {
                return Err(Failure::refused(ErrorKind::NetworkReset, "the data ended without the end that TLS prescribes"));
            }
        }
        transfer.data.ended();
        Ok((out, true))
    }

    /// Gives the line back from a file that is being read, or from a transfer that was interrupted.
    pub async fn end_reading(&mut self) -> Result<(), Failure> {
        let Some(mut transfer) = self.transfer.take() else { return Ok(()) };
        let bound = REASON_TIME.min(self.bound);
        if !transfer.upload && !transfer.busy {
            // Mostly all has been read but the end itself, and an end in good order is better than a cut.
            let mut scrap = Vec::with_capacity(DRAIN_STEP);
            let ending = read_out(&mut transfer.data.stream, &mut scrap);
            if let Ok(Ok(true)) = tokio::time::timeout(Duration::from_millis(200), ending).await {
                let _ = tokio::time::timeout(Duration::from_secs(1), transfer.data.stream.shutdown()).await;
                transfer.data.ended();
                if self.control()?.is_waiting() {
                    let reply = self.control()?.last_reply_within(bound).await;
                    self.note(reply)?;
                }
                return Ok(());
            }
        }
        drop(transfer);
        if self.control()?.is_waiting() {
            let reply = self.control()?.last_reply_within(bound).await;
            self.note(reply)?;
        }
        Ok(())
    }
}

/// Whether the end of a stream is near; it is read up to there.
async fn read_out(stream: &mut Stream, scrap: &mut Vec<u8>) -> io::Result<bool> {
    let mut seen = 0;
    while seen <= PIECE {
        scrap.clear();
        match stream.take(DRAIN_STEP as u64).read_buf(scrap).await? {
            0 => return Ok(true),
            length => seen += length,
        }
    }
    Ok(false)
}
