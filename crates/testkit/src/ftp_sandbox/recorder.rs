//! What the server saw, in order: connections, commands, answers, data connections. Tests assert with it what was
//! never sent, and wait for what must come.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::sftp::{Gauge, lock};

/// Events beyond this many are counted and not kept, so that a long demonstration stays small.
const MAX_EVENTS: usize = 200_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Connected {
        connection: u64,
        peer: SocketAddr,
    },
    /// The control connection finished a handshake.
    Secured {
        connection: u64,
        tls: TlsSeen,
    },
    /// A handshake on the control connection that came to nothing.
    HandshakeFailed {
        connection: u64,
        error: String,
    },
    /// A command line as it came, PASS as `PASS ***`.
    Command {
        connection: u64,
        line: String,
        /// The line came over TLS.
        secure: bool,
    },
    /// The last line of an answer, up to 200 bytes of it.
    Answer {
        connection: u64,
        line: String,
    },
    /// A data connection, when it is over.
    Data(DataSeen),
    /// A script expected something else; PASS without its argument.
    Unexpected {
        connection: u64,
        expected: String,
        line: String,
    },
    Closed {
        connection: u64,
        /// Bytes that the client's side took on the control connection, before encryption.
        sent: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSeen {
    /// `1.2` or `1.3`.
    pub version: &'static str,
    pub resumed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataSeen {
    pub connection: u64,
    /// The command it served; empty where it ended before that was known.
    pub verb: String,
    pub path: String,
    /// Bytes of content, in either direction.
    pub bytes: u64,
    pub tls: Option<TlsSeen>,
    pub end: DataEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataEnd {
    /// The client said close_notify, as the end of a protected stream must be.
    CloseNotify,
    /// The client's FIN, without close_notify.
    Fin,
    /// RST, or anything else that breaks a stream.
    Reset,
    /// The server ended it: downloads, listings, refusals.
    Server,
    /// The control connection died meanwhile.
    Abandoned,
    /// No handshake.
    HandshakeFailed,
}

#[derive(Debug)]
pub struct Recorder {
    events: Mutex<Vec<Event>>,
    changed: watch::Sender<u64>,
    /// TCP connections, logged in or not.
    pub connections: Gauge,
    /// Those let in.
    pub logins: Gauge,
    pub refused_logins: AtomicUsize,
    /// Passwords that were sent, right or wrong.
    pub passwords: AtomicUsize,
    /// Those among them that were sent in clear text.
    pub clear_passwords: AtomicUsize,
    pub data_connections: Gauge,
    operations: AtomicU64,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            events: Mutex::default(),
            changed: watch::Sender::new(0),
            connections: Gauge::default(),
            logins: Gauge::default(),
            refused_logins: AtomicUsize::default(),
            passwords: AtomicUsize::default(),
            clear_passwords: AtomicUsize::default(),
            data_connections: Gauge::default(),
            operations: AtomicU64::default(),
            bytes_received: AtomicU64::default(),
            bytes_sent: AtomicU64::default(),
        }
    }
}

impl Recorder {
    /// What happened so far, in order; the first 200,000 events.
    pub fn events(&self) -> Vec<Event> {
        lock(&self.events).clone()
    }

    pub fn count(&self, choose: impl Fn(&Event) -> bool) -> usize {
        lock(&self.events).iter().filter(|event| choose(event)).count()
    }

    /// The command lines of every connection, in order.
    pub fn commands(&self) -> Vec<String> {
        self.lines(|_| true)
    }

    pub fn commands_of(&self, connection: u64) -> Vec<String> {
        self.lines(|number| number == connection)
    }

    fn lines(&self, choose: impl Fn(u64) -> bool) -> Vec<String> {
        let line = |event: &Event| match event {
            Event::Command { connection, line, .. } if choose(*connection) => Some(line.clone()),
            _ => None,
        };
        lock(&self.events).iter().filter_map(line).collect()
    }

    /// The data connections that are over.
    pub fn data(&self) -> Vec<DataSeen> {
        let data = |event: &Event| match event {
            Event::Data(data) => Some(data.clone()),
            _ => None,
        };
        lock(&self.events).iter().filter_map(data).collect()
    }

    /// Waits until an event was recorded that `choose` accepts, now or before, and returns the first. `None` when it
    /// has not come in this time.
    pub async fn wait(&self, timeout: Duration, choose: impl Fn(&Event) -> bool) -> Option<Event> {
        let mut changes = self.changed.subscribe();
        let seen = async {
            loop {
                changes.borrow_and_update();
                let found = lock(&self.events).iter().find(|event| choose(event)).cloned();
                if let Some(event) = found {
                    return event;
                }
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(timeout, seen).await.ok()
    }

    /// Commands and greetings, also those that were not kept.
    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::SeqCst)
    }

    /// Content that uploads brought, before any lie of the server.
    pub fn bytes_received(&self) -> u64 {
        self.bytes_received.load(Ordering::SeqCst)
    }

    /// Content of downloads and listings.
    pub fn bytes_sent(&self) -> u64 {
        self.bytes_sent.load(Ordering::SeqCst)
    }

    /// Forgets events and byte counts; the gauges and the numbering of operations go on.
    pub fn clear(&self) {
        lock(&self.events).clear();
        self.bytes_received.store(0, Ordering::SeqCst);
        self.bytes_sent.store(0, Ordering::SeqCst);
    }

    pub(crate) fn saw(&self, event: Event) {
        {
            let mut events = lock(&self.events);
            if events.len() < MAX_EVENTS {
                events.push(event);
            }
        }
        self.changed.send_modify(|number| *number += 1);
    }

    pub(crate) fn next_operation(&self) -> u64 {
        self.operations.fetch_add(1, Ordering::SeqCst)
    }

    pub(crate) fn received(&self, bytes: u64) {
        self.bytes_received.fetch_add(bytes, Ordering::SeqCst);
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.bytes_sent.fetch_add(bytes, Ordering::SeqCst);
    }
}
