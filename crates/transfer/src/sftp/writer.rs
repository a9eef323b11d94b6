//! An open remote file. Writes and reads are cut into requests that are all on their way at once.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use model::RemotePath;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::error::{EOF, Failure};
use super::probe;
use super::session::Session;
use super::wire::{Attributes, Reply, Request};
use crate::destination::Writer;
use crate::{Error, ErrorKind, Result};

/// The port's bound for one read.
const MAX_READ: usize = 256 * 1024;

pub struct SftpWriter {
    session: Arc<Session>,
    path: RemotePath,
    handle: Bytes,
    writable: bool,
    readable: bool,
    closed: AtomicBool,
    /// The right to this handle; travels with the request that closes it.
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl std::fmt::Debug for SftpWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SftpWriter").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SftpWriter {
    pub(super) fn new(
        session: Arc<Session>,
        path: RemotePath,
        handle: Bytes,
        writable: bool,
        readable: bool,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self { session, path, handle, writable, readable, closed: AtomicBool::new(false), permit: Mutex::new(Some(permit)) }
    }

    fn refuse(&self, kind: ErrorKind, operation: &'static str, why: &'static str) -> Error {
        Error::new(kind, operation, &self.path).because(why)
    }

    fn check_open(&self, operation: &'static str) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(self.refuse(ErrorKind::Internal, operation, "the file is closed")) } else { Ok(()) }
    }

    fn take_permit(&self) -> Option<OwnedSemaphorePermit> {
        self.permit.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn send_close(&self) -> Result<(), Failure> {
        let receiver = self.session.submit(&Request::Close { handle: &self.handle }, self.take_permit())?;
        let reply = self.session.answer(receiver).await?;
        self.session.expect_ok(reply)
    }

    /// Sends all of `data` and returns when every packet that was sent is answered, also after a failure: nothing
    /// of this call may reach the file after it has returned.
    async fn write_all(&self, mut offset: u64, mut data: Bytes) -> Result<(), Failure> {
        let mut waiting: VecDeque<oneshot::Receiver<Reply>> = VecDeque::new();
        let mut outcome = Ok(());
        while !data.is_empty() && outcome.is_ok() {
            let length = data.len().min(self.session.max_write);
            let room = self.session.room(length).await?;
            let piece = data.split_to(length);
            waiting.push_back(self.session.submit(&Request::Write { handle: &self.handle, offset, data: piece }, Some(room))?);
            offset += length as u64;
            while let Some(answered) = waiting.front_mut().map(oneshot::Receiver::try_recv) {
                match answered {
                    Ok(reply) => outcome = outcome.and(self.session.expect_ok(reply)),
                    Err(TryRecvError::Empty) => break,
                    // The session is over, and with it every packet of this call.
                    Err(TryRecvError::Closed) => return Err(self.session.lost().into()),
                }
                waiting.pop_front();
            }
        }
        for receiver in waiting {
            let reply = self.session.answer(receiver).await?;
            outcome = outcome.and(self.session.expect_ok(reply));
        }
        outcome
    }

    async fn ask(&self, offset: u64, length: usize) -> Result<oneshot::Receiver<Reply>, Failure> {
        let permit = self.session.request_permit().await?;
        Ok(self.session.submit(&Request::Read { handle: &self.handle, offset, length: length as u32 }, Some(permit))?)
    }

    /// The bytes of one answer; `None` at the end of the file.
    async fn piece(&self, receiver: oneshot::Receiver<Reply>, asked: usize) -> Result<Option<Bytes>, Failure> {
        match self.session.answer(receiver).await? {
            Reply::Data(data) if data.is_empty() => Err(self.session.distrust("an empty answer to a read")),
            Reply::Data(data) if data.len() > asked => Err(self.session.distrust("more bytes than were asked for")),
            Reply::Data(data) => Ok(Some(data)),
            Reply::Status(status) if status.code == EOF => Ok(None),
            other => Err(self.session.refusal(other)),
        }
    }

    async fn read_all(&self, offset: u64, length: usize) -> Result<Bytes, Failure> {
        // Even pieces: 256 KiB of a server that gives 255 at a time is better asked for as 128 and 128.
        let size = length.div_ceil(length.div_ceil(self.session.max_read).max(1));
        let mut waiting = VecDeque::new();
        let mut asked = 0;
        while asked < length {
            let part = size.min(length - asked);
            waiting.push_back((part, self.ask(offset + asked as u64, part).await?));
            asked += part;
        }
        let alone = waiting.len() == 1;
        let mut out = BytesMut::new();
        while let Some((mut part, receiver)) = waiting.pop_front() {
            let mut answer = self.piece(receiver, part).await?;
            if alone && answer.as_ref().is_some_and(|data| data.len() == part) {
                return Ok(answer.unwrap_or_default());
            }
            // A server may answer with less than there is; only its EOF is the end.
            loop {
                let Some(data) = answer else { return Ok(out.freeze()) };
                out.reserve(length - out.len());
                out.extend_from_slice(&data);
                part -= data.len();
                if part == 0 {
                    break;
                }
                let receiver = self.ask(offset + out.len() as u64, part).await?;
                answer = self.piece(receiver, part).await?;
            }
        }
        Ok(out.freeze())
    }
}

impl Drop for SftpWriter {
    fn drop(&mut self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            // Nobody waits for the answer; the handle's permit is free again when it comes.
            let _ = self.session.submit(&Request::Close { handle: &self.handle }, self.take_permit());
        }
    }
}

#[async_trait]
impl Writer for SftpWriter {
    async fn write_at(&self, offset: u64, data: Bytes) -> Result<()> {
        const OPERATION: &str = "write";
        self.check_open(OPERATION)?;
        if !self.writable {
            return Err(self.refuse(ErrorKind::DestDenied, OPERATION, "the file was opened for reading only"));
        }
        if offset.checked_add(data.len() as u64).is_none() {
            return Err(self.refuse(ErrorKind::Internal, OPERATION, "the offset is beyond what a file can have"));
        }
        match self.write_all(offset, data).await {
            Ok(()) => Ok(()),
            Err(failure) => Err(probe::after_write(&self.session, failure, OPERATION, &self.path, self.session.max_write).await),
        }
    }

    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        const OPERATION: &str = "read";
        self.check_open(OPERATION)?;
        if !self.readable {
            return Err(self.refuse(ErrorKind::DestDenied, OPERATION, "the file was not opened for reading"));
        }
        let length = length.min(MAX_READ);
        if offset.checked_add(length as u64).is_none() {
            return Err(self.refuse(ErrorKind::Internal, OPERATION, "the offset is beyond what a file can have"));
        }
        if length == 0 {
            return Ok(Bytes::new());
        }
        self.read_all(offset, length).await.map_err(|failure| failure.into_error(OPERATION, &self.path, ErrorKind::DestProtocol))
    }

    async fn size(&self) -> Result<u64> {
        const OPERATION: &str = "ask for the size of";
        self.check_open(OPERATION)?;
        let attributes = self
            .session
            .attributes(Request::StatHandle { handle: &self.handle })
            .await
            .map_err(|failure| failure.into_error(OPERATION, &self.path, ErrorKind::DestProtocol))?;
        attributes.size.ok_or_else(|| self.refuse(ErrorKind::DestProtocol, OPERATION, "the server tells no size"))
    }

    async fn sync(&self) -> Result<()> {
        const OPERATION: &str = "sync";
        self.check_open(OPERATION)?;
        if !self.session.version.fsync {
            return Err(self.refuse(ErrorKind::DestProtocol, OPERATION, "the server does not offer fsync"));
        }
        match self.session.ok(Request::Sync { handle: &self.handle }).await {
            Ok(()) => Ok(()),
            Err(failure) => Err(probe::after_write(&self.session, failure, OPERATION, &self.path, 1).await),
        }
    }

    async fn set_attributes(&self, modified: Option<jiff::Timestamp>, permissions: Option<u32>) -> Result<()> {
        const OPERATION: &str = "set the attributes of";
        self.check_open(OPERATION)?;
        let Some(attributes) = attributes(&self.path, modified, permissions)? else { return Ok(()) };
        self.session
            .ok(Request::SetHandleAttributes { handle: &self.handle, attributes })
            .await
            .map_err(|failure| failure.into_error(OPERATION, &self.path, ErrorKind::DestDenied))
    }

    async fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        match self.send_close().await {
            Ok(()) => Ok(()),
            Err(failure) => Err(probe::after_write(&self.session, failure, "close", &self.path, 1).await),
        }
    }
}

/// What to set, or `None` for nothing.
pub(super) fn attributes(path: &RemotePath, modified: Option<jiff::Timestamp>, permissions: Option<u32>) -> Result<Option<Attributes>> {
    let times = match modified {
        None => None,
        Some(time) => {
            let seconds = u32::try_from(time.as_second()).map_err(|_| {
                Error::new(ErrorKind::DestDenied, "set the time of", path).because("SFTP version 3 knows times from 1970 to 2106 only")
            })?;
            Some((seconds, seconds))
        }
    };
    let attributes = Attributes { size: None, permissions: permissions.map(|mode| mode & 0o7777), times };
    Ok((attributes != Attributes::default()).then_some(attributes))
}
