//! A session: the control connection, the one transfer that may run beside it, and whose that transfer is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

use super::connect::{Opened, Shared, open_session};
use super::control::{Command, Control};
use super::error::{Failure, Lost};
use super::features::Features;
use super::reply::Reply;
use super::tls::{Origin, TlsSession};
use super::transfer::Transfer;
use crate::{Capabilities, ErrorKind, NoClobber, ServerIdentity};

/// What writers and the connection share.
#[derive(Debug)]
pub(super) struct Session {
    pub shared: Arc<Shared>,
    pub features: Features,
    pub home: Option<Vec<u8>>,
    pub identity: ServerIdentity,
    pub capabilities: Capabilities,
    line: Mutex<Line>,
    /// Set by `close`, for whoever is in the middle of something.
    pub closed: AtomicBool,
    next_owner: AtomicU64,
    /// Files that were dropped while somebody else held the line.
    abandoned: StdMutex<Vec<u64>>,
}

/// The line to the server, used by one request at a time.
#[derive(Debug)]
pub(super) struct Line {
    pub control: Option<Control>,
    pub tls: Option<TlsSession>,
    pub transfer: Option<Transfer>,
    /// What the last data connection resumed.
    pub origin: Origin,
    lost: Option<Lost>,
    /// The server remembers an offset (REST) that no transfer has used.
    pub offset_pending: bool,
    /// RNFR was sent and RNTO was not: ProFTPD takes nothing else then.
    pub half_renamed: bool,
    /// Commands may be sent before earlier ones are answered.
    together: bool,
    bound: Duration,
}

impl Session {
    pub fn new(shared: Arc<Shared>, opened: Opened) -> Self {
        let Opened { control, tls, features, home, identity } = opened;
        let capabilities = Capabilities {
            offset_writes: false,
            confirms_writes: false,
            continues: features.rest_stream,
            read: true,
            sync: false,
            no_clobber: NoClobber::Checked,
            // By RNTO; servers that refuse to replace say so then, and the file is kept.
            atomic_replace: true,
            exact_names: false,
            set_times: features.set_time || features.set_time_by_query,
            set_mode: features.set_mode,
            hashes: features.digests.iter().map(|digester| digester.algorithm).collect(),
            multiplex: 1,
            max_write: super::transfer::PIECE,
            free_space: features.free_space,
        };
        let bound = shared.config.stall_timeout;
        let together = shared.together();
        let line = Line {
            control: Some(control),
            tls,
            transfer: None,
            origin: Origin::Control,
            lost: None,
            offset_pending: false,
            half_renamed: false,
            together,
            bound,
        };
        Self {
            shared,
            features,
            home,
            identity,
            capabilities,
            line: Mutex::new(line),
            closed: AtomicBool::new(false),
            next_owner: AtomicU64::new(1),
            abandoned: StdMutex::new(Vec::new()),
        }
    }

    pub fn next_owner(&self) -> u64 {
        self.next_owner.fetch_add(1, Ordering::Relaxed)
    }

    /// The line as it is, for the owner of the transfer on it.
    pub async fn line(&self) -> MutexGuard<'_, Line> {
        let mut line = self.line.lock().await;
        if self.closed.load(Ordering::Acquire) {
            line.lose(Lost::closed());
        }
        if line.half_renamed {
            line.lose(Lost::new(ErrorKind::NetworkReset, "a rename was interrupted half way"));
        }
        line.forget(&mut self.abandoned.lock().unwrap_or_else(PoisonError::into_inner));
        line
    }

    /// The line, free for a request. A file that is being read gives way and goes on later.
    pub async fn free_line(&self) -> Result<MutexGuard<'_, Line>, Failure> {
        let mut line = self.line().await;
        line.make_free().await?;
        Ok(line)
    }

    /// Ends what `owner` left unfinished, so that the server does not take it for whole.
    pub fn abandon(&self, owner: u64) {
        match self.line.try_lock() {
            Ok(mut line) => line.forget(&mut vec![owner]),
            Err(_) => self.abandoned.lock().unwrap_or_else(PoisonError::into_inner).push(owner),
        }
    }

    /// The path as the server takes it: absolute wherever the login directory is known, because the working directory
    /// changes while directories are looked at.
    pub fn wire(&self, path: &model::RemotePath) -> Vec<u8> {
        let wire = path.wire();
        match &self.home {
            Some(home) if wire == "." => home.clone(),
            Some(home) if !wire.starts_with('/') => {
                let mut absolute = home.clone();
                if absolute.last() != Some(&b'/') {
                    absolute.push(b'/');
                }
                absolute.extend_from_slice(wire.as_bytes());
                absolute
            }
            _ => wire.as_bytes().to_vec(),
        }
    }

    /// A new login in place of the old one, with TLS sessions that data connections can resume.
    pub async fn log_in_again(&self, line: &mut Line) -> Result<(), Failure> {
        line.transfer = None;
        if let Some(control) = line.control.take() {
            control.quit().await;
        }
        match open_session(&self.shared).await {
            Ok(opened) => {
                line.control = Some(opened.control);
                line.tls = opened.tls;
                line.offset_pending = false;
                Ok(())
            }
            Err(error) => {
                let lost = Lost::new(error.kind, "the second login failed").because(error);
                line.lose(lost.clone());
                Err(lost.into())
            }
        }
    }

    pub async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        // Whoever writes sees the flag after its next piece.
        let Ok(mut line) = tokio::time::timeout(Duration::from_secs(2), self.line.lock()).await else { return };
        line.transfer = None;
        if let Some(control) = line.control.take() {
            control.quit().await;
        }
        line.lose(Lost::closed());
    }
}

impl Line {
    /// Nothing more is said on this line.
    pub fn lose(&mut self, lost: Lost) {
        self.transfer = None;
        self.control = None;
        self.lost.get_or_insert(lost);
    }

    fn forget(&mut self, owners: &mut Vec<u64>) {
        for owner in owners.drain(..) {
            if self.transfer.as_ref().is_some_and(|transfer| transfer.owner == owner) {
                self.transfer = None;
            }
        }
    }

    pub fn lost(&self) -> Lost {
        self.lost.clone().unwrap_or_else(Lost::closed)
    }

    pub fn control(&mut self) -> Result<&mut Control, Lost> {
        match &mut self.control {
            Some(control) => Ok(control),
            None => Err(self.lost.clone().unwrap_or_else(Lost::closed)),
        }
    }

    /// Keeps in mind that the line is lost, if that is what happened.
    pub fn note<T>(&mut self, result: Result<T, Lost>) -> Result<T, Failure> {
        result.map_err(|lost| {
            self.lose(lost.clone());
            Failure::Lost(lost)
        })
    }

    pub async fn make_free(&mut self) -> Result<(), Failure> {
        match &self.transfer {
            None => Ok(()),
            Some(transfer) if transfer.upload && !transfer.busy => {
                Err(Failure::refused(ErrorKind::DestProtocol, "a transfer is still running on this connection"))
            }
            Some(_) => self.end_reading().await,
        }
    }

    pub async fn ask(&mut self, command: Command) -> Result<Reply, Failure> {
        self.ask_within(command, self.bound).await
    }

    pub async fn ask_within(&mut self, command: Command, bound: Duration) -> Result<Reply, Failure> {
        let result = self.control()?.ask(command, bound).await;
        self.note(result)
    }

    /// The replies to several commands, one each, in one round trip where the server takes them together.
    pub async fn ask_all(&mut self, commands: &[Command]) -> Result<Vec<Reply>, Failure> {
        let (together, bound) = (self.together, self.bound);
        let result = self.control()?.ask_all(commands, together, bound).await;
        self.note(result)
    }
}
