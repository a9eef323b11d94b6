//! The body of every answer: bytes of a content, with the faults that concern a body.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::Frame;
use tokio::time::{Instant, Sleep};

use super::Content;
use super::connection::{EndAfterFlush, Ending};
use crate::pace::{Pacer, piece};

/// Where in the body something happens, counted from the body's first byte.
#[derive(Debug, Clone, Default)]
pub(crate) struct BodyFaults {
    pub cut: Option<(u64, Ending)>,
    /// `None` as the duration is for ever.
    pub stall: Option<(u64, Option<Duration>)>,
    /// Offset in the object, not in the body.
    pub flip: Option<u64>,
    pub bytes_per_second: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Body {
    content: Content,
    start: u64,
    at: u64,
    end: u64,
    faults: BodyFaults,
    /// After the last byte the connection is ended, because the headers promised more.
    promised_more: bool,
    end_connection: EndAfterFlush,
    ended: bool,
    own_pace: Pacer,
    shared_pace: Option<(Arc<Pacer>, u64)>,
    waiting: Option<Pin<Box<Sleep>>>,
    pub sent: Arc<AtomicU64>,
    /// Held while the answer is under way; what it counts is the server's business.
    _in_flight: Option<super::InFlight>,
}

impl Body {
    pub fn new(content: Content, range: Range<u64>, end_connection: EndAfterFlush) -> Self {
        Self {
            content,
            start: range.start,
            at: range.start,
            end: range.end,
            faults: BodyFaults::default(),
            promised_more: false,
            end_connection,
            ended: false,
            own_pace: Pacer::new(),
            shared_pace: None,
            waiting: None,
            sent: Arc::default(),
            _in_flight: None,
        }
    }

    pub fn with_faults(mut self, faults: BodyFaults, promised_more: bool) -> Self {
        self.faults = faults;
        self.promised_more = promised_more;
        self
    }

    pub fn paced(&mut self, pace: Arc<Pacer>, bytes_per_second: u64) {
        self.shared_pace = Some((pace, bytes_per_second));
    }

    pub fn observed(&mut self, sent: Arc<AtomicU64>, in_flight: super::InFlight) {
        self.sent = sent;
        self._in_flight = Some(in_flight);
    }

    fn wait_until(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let mut sleep = Box::pin(tokio::time::sleep_until(deadline));
        let poll = sleep.as_mut().poll(cx);
        self.waiting = Some(sleep);
        poll
    }

    fn end_connection(&mut self, ending: Ending) {
        if !self.ended {
            self.ended = true;
            self.end_connection.set(ending);
        }
    }

    /// The next bytes, up to the next place where something happens.
    fn next_piece(&mut self) -> Bytes {
        let mut to = self.end.min(self.at + self.content.frame());
        for limit in [self.faults.bytes_per_second, self.shared_pace.as_ref().map(|(_, rate)| *rate)].into_iter().flatten() {
            to = to.min(self.at + piece(limit) as u64);
        }
        for mark in [self.faults.cut.map(|(mark, _)| mark), self.faults.stall.map(|(mark, _)| mark)].into_iter().flatten() {
            if self.start + mark > self.at {
                to = to.min(self.start + mark);
            }
        }
        let bytes = self.content.read(self.at..to);
        match self.faults.flip {
            Some(flip) if (self.at..to).contains(&flip) => {
                let mut flipped = BytesMut::from(bytes.as_ref());
                flipped[(flip - self.at) as usize] ^= 0xff;
                flipped.freeze()
            }
            _ => bytes,
        }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn is_end_stream(&self) -> bool {
        self.at >= self.end && !self.promised_more && self.faults.cut.is_none() && self.faults.stall.is_none()
    }

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let body = &mut *self;
        if let Some(sleep) = body.waiting.as_mut() {
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            body.waiting = None;
        }
        let done = body.at - body.start;
        if let Some((mark, ending)) = body.faults.cut
            && done >= mark
        {
            body.end_connection(ending);
            return Poll::Pending;
        }
        if let Some((mark, duration)) = body.faults.stall
            && done >= mark
        {
            match duration {
                None => return Poll::Pending,
                Some(duration) => {
                    body.faults.stall = None;
                    if body.wait_until(Instant::now() + duration, cx).is_pending() {
                        return Poll::Pending;
                    }
                    body.waiting = None;
                }
            }
        }
        if body.at >= body.end {
            if body.promised_more {
                body.end_connection(Ending::Fin);
                return Poll::Pending;
            }
            return Poll::Ready(None);
        }
        let bytes = body.next_piece();
        body.at += bytes.len() as u64;
        body.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let own = body.faults.bytes_per_second.map(|rate| body.own_pace.book(bytes.len() as u64, rate));
        let shared = body.shared_pace.as_ref().map(|(pace, rate)| pace.book(bytes.len() as u64, *rate));
        if let Some(deadline) = own.max(shared) {
            // The bytes go now and the next ones wait, which keeps the rate without holding bytes back.
            body.waiting = Some(Box::pin(tokio::time::sleep_until(deadline)));
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}
