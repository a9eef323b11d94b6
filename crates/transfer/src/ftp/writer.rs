//! An open remote file: a stream of bytes to it, or streams of bytes from it, over the one line of its session.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use model::RemotePath;

use super::connection::{ask_mode, ask_time, judge_time, positive, set_mode, set_time};
use super::control::Command;
use super::error::{Failure, class_of_upload};
use super::open::Wanted;
use super::session::{Line, Session};
use crate::destination::Writer;
use crate::{Error, ErrorKind, Result};

/// The port's bound for one read.
const MAX_READ: usize = 256 * 1024;

/// How far the writing of a file has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing is open: the first write opens the stream.
    Ready,
    Writing,
    /// The server has said that it has everything.
    Finished,
    /// It is not whole and cannot become it through this writer.
    Failed(ErrorKind),
}

pub struct FtpWriter {
    session: Arc<Session>,
    path: RemotePath,
    wire: Vec<u8>,
    owner: u64,
    writable: bool,
    readable: bool,
    permissions: Option<u32>,
    closed: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    /// The end of the file, where a stream from it has reached it.
    end: Option<u64>,
}

impl std::fmt::Debug for FtpWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FtpWriter").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Purpose {
    pub writable: bool,
    pub readable: bool,
    pub permissions: Option<u32>,
}

impl FtpWriter {
    pub(super) fn new(session: Arc<Session>, path: RemotePath, owner: u64, stage: Stage, purpose: Purpose) -> Self {
        let wire = session.wire(&path);
        let Purpose { writable, readable, permissions } = purpose;
        let (closed, state) = (AtomicBool::new(false), Mutex::new(State { stage, end: None }));
        Self { session, path, wire, owner, writable, readable, permissions, closed, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stage(&self) -> Stage {
        self.state().stage
    }

    fn refuse(&self, kind: ErrorKind, operation: &'static str, why: &'static str) -> Error {
        Error::new(kind, operation, &self.path).because(why)
    }

    fn check_open(&self, operation: &'static str) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(self.refuse(ErrorKind::Internal, operation, "the file is closed")) } else { Ok(()) }
    }

    /// The error of a stream that did not come to its end.
    fn failed(&self, line: &Line, failure: Failure, operation: &'static str) -> Error {
        let failure = match failure {
            Failure::Reply(reply, None) => {
                self.session.learn(line, &reply);
                let kind = class_of_upload(&reply);
                Failure::Reply(reply, Some(kind))
            }
            other => other,
        };
        self.state().stage = Stage::Failed(failure.kind().unwrap_or(ErrorKind::NetworkReset));
        failure.into_error(operation, &self.path, ErrorKind::DestProtocol)
    }

    async fn write_all(&self, line: &mut Line, offset: u64, data: &[u8]) -> Result<(), Failure> {
        match self.stage() {
            Stage::Ready => {
                line.make_free().await?;
                let wanted = Wanted { owner: self.owner, verb: "STOR", path: &self.wire, offset, upload: true, fresh: false };
                match self.session.begin(line, None, wanted).await {
                    Ok(()) => {}
                    Err(failure) => return Err(self.session.explain(line, failure, &self.path).await),
                }
                let mut state = self.state();
                state.stage = Stage::Writing;
                state.end = None;
            }
            Stage::Writing => {}
            Stage::Finished => return Err(Failure::refused(ErrorKind::Internal, "the stream was ended")),
            Stage::Failed(kind) => return Err(Failure::refused(kind, "the stream was cut")),
        }
        match line.transfer_of(self.owner) {
            None => return Err(self.gone(line)),
            Some(transfer) if transfer.position != offset => {
                let why = format!("a stream is written in order: the next byte is {}, not {offset}", transfer.position);
                return Err(Failure::refused(ErrorKind::DestProtocol, why));
            }
            Some(_) => {}
        }
        line.write(&self.session, data).await
    }

    fn gone(&self, line: &mut Line) -> Failure {
        match line.control() {
            Err(lost) => lost.into(),
            Ok(_) => Failure::refused(ErrorKind::NetworkReset, "the transfer was cut"),
        }
    }

    /// Ends the stream if there is one.
    async fn end_stream(&self, line: &mut Line) -> Result<(), Failure> {
        match self.stage() {
            Stage::Ready | Stage::Finished => return Ok(()),
            Stage::Failed(kind) => return Err(Failure::refused(kind, "the stream was cut")),
            Stage::Writing => {}
        }
        if line.transfer_of(self.owner).is_none() {
            return Err(self.gone(line));
        }
        line.finish(&self.session).await?;
        self.state().stage = Stage::Finished;
        if let Some(mode) = self.permissions {
            // A wish for the new file, as on servers that take it with the name: a refusal is no failure of the file.
            match set_mode(line, &self.wire, mode).await {
                Err(Failure::Lost(lost)) => return Err(lost.into()),
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    /// The line, after the stream on it has come to its end.
    async fn ended_line(&self, operation: &'static str) -> Result<tokio::sync::MutexGuard<'_, Line>> {
        self.check_open(operation)?;
        let mut line = self.session.line().await;
        let ended = self.end_stream(&mut line).await;
        ended.map_err(|failure| self.failed(&line, failure, "finish"))?;
        line.make_free().await.map_err(|failure| failure.into_error(operation, &self.path, ErrorKind::DestProtocol))?;
        Ok(line)
    }

    async fn read_some(&self, line: &mut Line, offset: u64, length: usize) -> Result<Bytes, Failure> {
        if self.state().end.is_some_and(|end| offset >= end) {
            return Ok(Bytes::new());
        }
        let follows = line.transfer_of(self.owner).is_some_and(|t| !t.upload && !t.busy && t.position == offset);
        let wanted = Wanted { owner: self.owner, verb: "RETR", path: &self.wire, offset, upload: false, fresh: false };
        if !follows {
            line.make_free().await?;
            if let Err(failure) = self.session.begin(line, None, wanted).await {
                // Servers refuse to begin beyond the end in words of their own.
                if matches!(failure, Failure::Reply(..))
                    && offset > 0
                    && let Ok(Some(found)) = self.session.look(line, &self.path).await
                    && found.size <= offset
                {
                    return Ok(Bytes::new());
                }
                return Err(failure);
            }
        }
        let (bytes, end) = match line.read(&self.session, &self.wire, length).await {
            Err(failure) if !follows => {
                self.session.begin_again(line, failure, wanted).await?;
                line.read(&self.session, &self.wire, length).await?
            }
            result => result?,
        };
        if end && !bytes.is_empty() {
            self.state().end = Some(offset + bytes.len() as u64);
        }
        Ok(bytes.into())
    }
}

impl Drop for FtpWriter {
    fn drop(&mut self) {
        if !self.closed.load(Ordering::Acquire) {
            self.session.abandon(self.owner);
        }
    }
}

#[async_trait]
impl Writer for FtpWriter {
    async fn write_at(&self, offset: u64, data: Bytes) -> Result<()> {
        const OPERATION: &str = "write";
        self.check_open(OPERATION)?;
        if !self.writable {
            return Err(self.refuse(ErrorKind::DestDenied, OPERATION, "the file was opened for reading only"));
        }
        if offset.checked_add(data.len() as u64).is_none() {
            return Err(self.refuse(ErrorKind::Internal, OPERATION, "the offset is beyond what a file can have"));
        }
        if data.is_empty() {
            return Ok(());
        }
        let mut line = self.session.line().await;
        self.write_all(&mut line, offset, &data).await.map_err(|failure| self.failed(&line, failure, OPERATION))
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
        let mut line = self.session.line().await;
        let ended = self.end_stream(&mut line).await;
        ended.map_err(|failure| self.failed(&line, failure, "finish"))?;
        match self.read_some(&mut line, offset, length).await {
            Ok(bytes) => Ok(bytes),
            Err(failure) => {
                let failure = self.session.explain(&mut line, failure, &self.path).await;
                Err(failure.into_error(OPERATION, &self.path, ErrorKind::DestProtocol))
            }
        }
    }

    async fn size(&self) -> Result<u64> {
        const OPERATION: &str = "ask for the size of";
        let mut line = self.ended_line(OPERATION).await?;
        let failed = |failure: Failure| failure.into_error(OPERATION, &self.path, ErrorKind::DestDirMissing);
        let reply = line.ask(Command::new("SIZE", &self.wire).map_err(failed)?).await.map_err(failed)?;
        if let Some(size) = super::look::number(reply.first()).filter(|_| reply.code == 213) {
            return Ok(size);
        }
        match self.session.look(&mut line, &self.path).await.map_err(failed)? {
            Some(found) if !found.directory => Ok(found.size),
            _ => Err(failed(Failure::Reply(reply, None))),
        }
    }

    async fn sync(&self) -> Result<()> {
        Err(self.refuse(ErrorKind::DestProtocol, "sync", "FTP has no word for it"))
    }

    async fn set_attributes(&self, modified: Option<jiff::Timestamp>, permissions: Option<u32>) -> Result<()> {
        const OPERATION: &str = "set the attributes of";
        let mut line = self.ended_line(OPERATION).await?;
        let work = async {
            if let Some(time) = modified {
                set_time(&self.session, &mut line, &self.wire, time).await?;
            }
            match permissions {
                Some(mode) => set_mode(&mut line, &self.wire, mode).await,
                None => Ok(()),
            }
        };
        work.await.map_err(|failure| failure.into_error(OPERATION, &self.path, ErrorKind::DestDenied))
    }

    async fn settle(&self, modified: Option<jiff::Timestamp>, permissions: Option<u32>) -> (Result<()>, Result<u64>) {
        const ATTRIBUTES: &str = "set the attributes of";
        let asked = || -> Result<Vec<Command>, Failure> {
            let mut commands = Vec::new();
            if let Some(time) = modified {
                commands.push(ask_time(&self.session, &self.wire, time)?);
            }
            if let Some(mode) = permissions {
                commands.push(ask_mode(&self.wire, mode)?);
            }
            Ok(commands)
        };
        let mut commands = match asked() {
            Ok(commands) => commands,
            Err(failure) => return (Err(failure.into_error(ATTRIBUTES, &self.path, ErrorKind::DestDenied)), self.size().await),
        };
        let together = async {
            let mut line = self.ended_line("ask for the size of").await?;
            let failed = |failure: Failure| failure.into_error("ask for the size of", &self.path, ErrorKind::DestDirMissing);
            commands.push(Command::new("SIZE", &self.wire).map_err(failed)?);
            line.ask_all(&commands).await.map_err(failed)
        };
        let mut replies = match together.await {
            Ok(replies) => replies,
            Err(error) => return (Ok(()), Err(error)),
        };
        let size = replies.pop().filter(|reply| reply.code == 213).and_then(|reply| super::look::number(reply.first()));
        let mut replies = replies.into_iter();
        let mut attributes = Ok(());
        if modified.is_some()
            && let Some(reply) = replies.next()
        {
            attributes = judge_time(&self.session, reply);
        }
        if let Some(reply) = replies.next() {
            attributes = attributes.and(positive(reply));
        }
        let attributes = attributes.map_err(|failure| failure.into_error(ATTRIBUTES, &self.path, ErrorKind::DestDenied));
        match size {
            Some(size) => (attributes, Ok(size)),
            None => (attributes, self.size().await),
        }
    }

    async fn finish(&self) -> Result<()> {
        const OPERATION: &str = "finish";
        self.check_open(OPERATION)?;
        let mut line = self.session.line().await;
        self.end_stream(&mut line).await.map_err(|failure| self.failed(&line, failure, OPERATION))
    }

    async fn close(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut line = self.session.line().await;
        let ended = self.end_stream(&mut line).await.map_err(|failure| self.failed(&line, failure, "close"));
        // A reader gives the line back; what was read before is not in doubt.
        if line.transfer_of(self.owner).is_some_and(|transfer| !transfer.upload) {
            let _ = line.end_reading().await;
        }
        self.closed.store(true, Ordering::Release);
        ended
    }
}
