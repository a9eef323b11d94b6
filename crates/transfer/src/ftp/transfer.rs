//! One transfer over a data connection: how it is carried, brought to its end or cut, and what the server says of it on
//! the control connection meanwhile.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::connect::Shared;
use super::control::{Command, Control};
use super::error::{Failure, Lost};
use super::reply::Reply;
use super::session::{Line, Session};
use super::stream::{Data, Stream};
use crate::ErrorKind;

/// What is handed to a socket at once.
pub(super) const PIECE: usize = 256 * 1024;
/// After a data connection broke, the reason comes on the control connection, if it comes.
pub(super) const REASON_TIME: Duration = Duration::from_secs(10);
/// What a server sends while it is being written to is nothing but the end of TLS.
const MAX_DRAIN: usize = 1 << 20;
const DRAIN_STEP: usize = 16 * 1024;
/// Whether a stream is at its end shows so soon, or it is cut.
const NEAR_END: Duration = Duration::from_millis(200);
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
    begun: Instant,
    from: u64,
}

/// What kernels and a slow server may still hold of a stream when we have handed over its last byte.
const HELD: u64 = 8 << 20;
/// The average rate of a stream seems higher than the line by what is held.
const DOUBT: f64 = 4.0;
const LONGEST_DRAIN: Duration = Duration::from_secs(600);

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
    /// A transfer that the server has begun, and perhaps ended already with `reply`.
    pub fn new(owner: u64, upload: bool, position: u64, data: Data, reply: Option<Reply>) -> Self {
        Self { owner, upload, position, busy: false, data, reply, kept_alive: None, begun: Instant::now(), from: position }
    }

    /// How long the rest of a stream may need to get out of the buffers on the way. It is progress that nobody sees.
    fn drain_time(&self) -> Duration {
        let sent = self.position.saturating_sub(self.from).max(1);
        let part = sent.min(HELD) as f64 / sent as f64;
        self.begun.elapsed().mul_f64(part * DOUBT).min(LONGEST_DRAIN)
    }

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
            // Somebody on the way has ended the stream, and the server took that for the end of the file.
            Event::Reply(Ok(reply)) => Failure::refused(ErrorKind::NetworkReset, format!("the data were not over; {reply}")),
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
        let mut transfer = self.transfer.take();
        let early = transfer.as_mut().and_then(|transfer| transfer.reply.take());
        drop(transfer);
        let reply = match (early, self.control()) {
            (Some(reply), _) => Ok(reply),
            (None, Ok(control)) => control.last_reply_within(REASON_TIME).await,
            (None, Err(lost)) => Err(lost),
        };
        match reply {
            Ok(reply) if reply.is_negative() => reply.into(),
            Ok(reply) => Failure::refused(ErrorKind::NetworkReset, format!("the data connection broke ({error}), and {reply}")),
            Err(lost) => {
                // Silence is not a cut: pyftpdlib says nothing any more when its disk is full.
                let lost = Lost::new(lost.kind, format!("the data connection broke: {error}")).because(lost);
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
        match transfer.step(&session.shared, control, stall, Step::Shutdown).await {
            Event::Data(Ok(_)) => {}
            Event::Data(Err(error)) => return Err(self.broke(error).await),
            event => return Err(self.interrupted(event, stall)),
        }
        let stall = stall + transfer.drain_time();
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
                // A server that spoke early may still be reading, and TLS tickets for the next connection may be under way.
                if reply.is_positive() && end.is_none() {
                    let _ = tokio::time::timeout(REASON_TIME, read_out(&mut transfer.data.stream, &mut scrap)).await;
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
        let mut scrap = Vec::with_capacity(DRAIN_STEP);
        // Mostly all has been read but the end itself, and an end in good order is better than a cut.
        let whole = !transfer.upload
            && !transfer.busy
            && matches!(tokio::time::timeout(NEAR_END, read_out(&mut transfer.data.stream, &mut scrap)).await, Ok(Ok(true)));
        if whole {
            let _ = tokio::time::timeout(Duration::from_secs(1), transfer.data.stream.shutdown()).await;
            transfer.data.ended();
        } else {
            drop(transfer);
        }
        while self.control()?.is_waiting() {
            let result = self.control()?.last_word().await;
            self.note(result)?;
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
