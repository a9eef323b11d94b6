//! Files that travel as one stream to a server that confirms nothing before its end: going on where a stream was cut,
//! finding out whether a server lets us, and the proof that follows when the file is whole.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use model::{Grade, Publish, RemotePath};
use tracing::{debug, info, warn};

use super::file::FileRun;
use crate::digest::combine;
use crate::error::chain;
use crate::plan::Plan;
use crate::pool::Seat;
use crate::sheet::{ProofCount, Sheet};
use crate::stream::{Boundary, ReadBack};
use crate::{Capabilities, CreateOptions, Error, ErrorKind, OpenMode, Result, Writer};

/// A server may still be writing what an earlier connection brought: the size must stay the same for so many of the
/// first wait before a retry (2 s by default).
const STILL: u32 = 4;
/// So often a growing file is looked at before the stream goes on from where it is now.
const LOOKS: usize = 5;
/// A seam that does not hold what was sent is left for an earlier one, so often.
const SEAMS: usize = 3;
const NOT_SUPPORTED: &str = "this server cannot go on with an interrupted file (resume=not_supported); it would start over";
/// Refusals to go on before the file starts over.
const REFUSALS: u32 = 2;
/// The part of a stream that is read back between two notes of how far it came: what a cut costs.
const READ_BACK_STEP: u64 = 256 << 10;
/// These notes are stored so often.
const READ_BACK_STORED: u64 = 64 << 20;
/// So many connections may be lost while finding out whether a server goes on with a file.
const PROBE_LOSSES: u32 = 2;
/// That costs eight round trips. Where they are long, files below this size are sent first, and the server is tried when one
/// of them was cut.
const TRIED_FIRST_FROM: u64 = 4 << 30;
/// The attempt whose name the scratch file of that trial has. No file is sent under it: attempts count from 1.
pub(super) const TRIAL: u32 = 0;

fn is_cut(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NetworkReset | ErrorKind::DestUnreachable)
}

impl FileRun {
    /// Opens the temporary file where a cut stream goes on; `None` when it must start over.
    pub(super) async fn reopen_stream(
        &mut self,
        seat: &Arc<Seat>,
        plan: &Plan,
        capabilities: &Capabilities,
    ) -> Result<Option<Box<dyn Writer>>> {
        if self.sheet.is_some() || self.task.checkpoint.is_some() {
            self.learn_to_continue(seat).await?;
        }
        let sampled = plan.grade == Grade::Sampled;
        let fresh = self.sheet.is_none();
        let before = self.counted();
        let temp = match (self.sheet.is_some(), self.task.checkpoint.clone()) {
            (true, _) => self.temp()?,
            (false, None) => return Ok(None),
            (false, Some(checkpoint)) => {
                self.attempt = checkpoint.attempt;
                let Some(sheet) = Sheet::resume_stream(&checkpoint, plan.digests, sampled) else { return Ok(None) };
                let temp = self.temp()?;
                if !self.take_over(seat, &checkpoint, &temp).await? {
                    return Ok(None);
                }
                self.opened = true;
                self.sheet = Some(sheet);
                temp
            }
        };
        let outcome = self.find_place(seat, &temp, capabilities).await;
        match &outcome {
            Ok(Some(_)) => {
                self.engine.setup.meter.undone(before);
                self.engine.setup.meter.done(self.counted());
            }
            // What was not continued is not counted either.
            Ok(None) | Err(_) if fresh => self.sheet = None,
            _ => {}
        }
        outcome
    }

    /// Finds the last boundary that the server still has, puts the sheet there, and opens the file behind it.
    async fn find_place(&mut self, seat: &Arc<Seat>, temp: &RemotePath, capabilities: &Capabilities) -> Result<Option<Box<dyn Writer>>> {
        let Some(there) = self.settled_size(seat, temp).await? else { return Ok(None) };
        self.suspect_full_disk(there)?;
        let size = self.task.pin.size;
        let mut upper = there.min(size);
        for _ in 0..SEAMS {
            let boundary = self.sheet.as_ref().and_then(|s| s.notes()?.up_to(upper).cloned());
            let Some(boundary) = boundary else { return Ok(None) };
            let whole = boundary.offset == size;
            let refused = self.refusals >= REFUSALS || !capabilities.continues || self.engine.continues() == Some(false);
            if !capabilities.read || (!whole && refused) {
                return Ok(None);
            }
            if !self.seam_holds(seat, temp, &boundary).await? {
                if !self.readable {
                    return Ok(None);
                }
                debug!(file = %self.task.number, offset = boundary.offset, "the seam does not hold what was sent");
                upper = boundary.offset.saturating_sub(1);
                continue;
            }
            let mode = if whole { OpenMode::Existing } else { OpenMode::Continue(boundary.offset) };
            let options = CreateOptions { mode, read: capabilities.read, permissions: None };
            let writer = match seat.open(temp, options).await {
                Ok(writer) => writer,
                Err(error) => {
                    self.refusals += 1;
                    if error.is_connection_lost() {
                        return Err(error);
                    }
                    debug!(error = %chain(&error), "the server does not go on with a cut file");
                    if matches!(error.kind, ErrorKind::DestDenied | ErrorKind::DestProtocol) {
                        self.engine.learn_continues(false, &chain(&error));
                    }
                    return Ok(None);
                }
            };
            let placed = self.sheet.as_mut().is_some_and(|sheet| sheet.go_back_to(&boundary));
            if !placed {
                return Ok(None);
            }
            self.begin_stream(boundary.offset);
            info!(file = %self.task.number, offset = boundary.offset, "going on with the cut stream");
            return Ok(Some(writer));
        }
        Ok(None)
    }

    /// The size of the file once nobody writes to it any more; `None` when it is gone or cannot be looked at.
    async fn settled_size(&self, seat: &Seat, temp: &RemotePath) -> Result<Option<u64>> {
        let mut last = None;
        for _ in 0..LOOKS {
            let now = match seat.stat(temp).await {
                Ok(Some(found)) if !found.directory => found.size,
                Ok(_) => return Ok(None),
                Err(error) if error.is_connection_lost() => return Err(error),
                Err(_) => return Ok(None),
            };
            if last == Some(now) || now >= self.task.pin.size {
                return Ok(Some(now));
            }
            last = Some(now);
            self.engine.pause(self.engine.setup.tuning.backoff.base * STILL).await?;
        }
        Ok(last)
    }

    /// A stream begins, or goes on, at this byte.
    pub(super) fn begin_stream(&mut self, offset: u64) {
        self.stream = (self.stream.0 + 1, offset);
    }

    /// Servers hide a full disk behind other words, or silence: a file that two streams could not bring beyond the same
    /// byte most likely met one, if something was sent in between. Where the line was cut, the streams must have begun at
    /// different bytes, or it may be the connections that are equally long; and as it may be the line after all, it is
    /// said only when every try has ended so.
    fn suspect_full_disk(&mut self, there: u64) -> Result<()> {
        let Some(kind) = self.last_failure else { return Ok(()) };
        let cut = is_cut(kind);
        let (number, from) = self.stream;
        let before = self.stopped_at.replace((there, self.stream));
        let again = before.is_some_and(|(stopped, (n, f))| stopped == there && n != number && (!cut || f != from));
        // A later stream from where another one began says neither yes nor no.
        self.probably_full = (again || self.probably_full == Some(there)).then_some(there).filter(|there| *there < self.task.pin.size);
        match self.probably_full {
            Some(there) if !cut => Err(self.full_disk(there)),
            _ => Ok(()),
        }
    }

    fn full_disk(&self, there: u64) -> Error {
        Error::new(ErrorKind::DestNoSpace, "write", &self.task.path)
            .because(format!("the file stopped growing at {there} bytes twice: the server's disk or this account's quota is probably full"))
    }

    /// The error with which a file is given up.
    pub(super) fn given_up(&self, error: Error) -> Error {
        match self.probably_full {
            Some(there) if is_cut(error.kind) => self.full_disk(there),
            _ => error,
        }
    }

    /// A server calls what a cut left of a file whole, as if we had ended it there: then the rest is sent. The same length
    /// again is no cut any more.
    fn short(&mut self, there: u64) -> Result<()> {
        if there >= self.task.pin.size || self.short_at == Some(there) {
            return Ok(());
        }
        self.short_at = Some(there);
        Err(Error::new(ErrorKind::NetworkReset, "send", &self.task.path)
            .because(format!("the server calls the file whole and has {there} of {} bytes", self.task.pin.size)))
    }

    pub(super) async fn check_length(&mut self, writer: &dyn Writer) -> Result<()> {
        match writer.size().await {
            Ok(there) => self.short(there),
            Err(error) if error.is_connection_lost() => Err(error),
            // Not every server tells; the proof will.
            Err(_) => Ok(()),
        }
    }

    /// Whether the bytes before a boundary are the ones that were sent.
    async fn seam_holds(&mut self, seat: &Seat, temp: &RemotePath, boundary: &Boundary) -> Result<bool> {
        let reader = match seat.open_read(temp).await {
            Ok(reader) => reader,
            Err(error) => return self.unreadable(error),
        };
        let range = boundary.offset - boundary.tail_length..boundary.offset;
        let read = match self.engine.remote_crc(&*reader, range).await {
            Ok(read) => read,
            Err(error) => return self.unreadable(error),
        };
        reader.close().await?;
        Ok(read == (boundary.tail_crc, boundary.tail_length))
    }

    fn unreadable(&mut self, error: Error) -> Result<bool> {
        match error.kind {
            _ if error.is_connection_lost() => Err(error),
            ErrorKind::DestDenied => {
                self.readable = false;
                Ok(false)
            }
            ErrorKind::DestDirMissing => Ok(false),
            _ => Err(error),
        }
    }

    /// Before the first byte of a large file: does this server go on with a file at an offset, as it says? Where asking is
    /// dear and the file is not, that waits for a cut (`reopen_stream`). What the server does not offer is said in any case.
    pub(super) async fn learn_to_continue_first(&mut self, seat: &Arc<Seat>) -> Result<()> {
        let capabilities = self.capabilities(seat);
        let offered = capabilities.continues && capabilities.read;
        let dear = seat.identity().round_trip >= self.engine.setup.tuning.far && self.task.pin.size < TRIED_FIRST_FROM;
        if offered && dear { Ok(()) } else { self.learn_to_continue(seat).await }
    }

    /// Finds out whether this server goes on with a file at an offset: on a scratch file, which is removed again; once per
    /// server.
    pub(super) async fn learn_to_continue(&mut self, seat: &Arc<Seat>) -> Result<()> {
        let capabilities = self.capabilities(seat);
        if !capabilities.is_stream() || self.engine.setup.wishes.publish == Publish::InPlace {
            return Ok(());
        }
        let engine = self.engine.clone();
        let _others_wait = engine.learning.lock().await;
        let trial = self.attempt_path(TRIAL)?;
        if self.trial_left {
            match seat.remove(&trial).await {
                Err(error) if error.is_connection_lost() => return Err(error),
                removed => self.trial_left = removed.is_err(),
            }
        }
        if self.engine.continues().is_some() {
            return Ok(());
        }
        let works = match capabilities.continues && capabilities.read {
            true => {
                let opened = std::mem::take(&mut self.opened);
                let outcome = self.try_to_continue(seat, &trial).await;
                self.opened = opened;
                if outcome.as_ref().is_err_and(Error::is_connection_lost) {
                    // A server that cannot even be asked may still take a file.
                    self.trial_left = true;
                    self.probe_losses += 1;
                    if self.probe_losses >= PROBE_LOSSES {
                        self.engine.learn_continues(false, "the connection was lost whenever it was tried");
                        self.engine.pool.note(NOT_SUPPORTED);
                    }
                } else if let Err(error) = seat.remove(&trial).await {
                    // Asked also where it was not opened: a server may refuse what it has made already.
                    self.trial_left = true;
                    return Err(outcome.err().unwrap_or(error));
                }
                outcome?
            }
            false if capabilities.continues => Err("nobody may read whether it is right".to_owned()),
            false => Err("not offered".to_owned()),
        };
        match &works {
            Ok(()) => self.engine.learn_continues(true, "a temporary file was continued and read back"),
            Err(words) => self.engine.learn_continues(false, words),
        }
        if works.is_err() {
            self.engine.pool.note(NOT_SUPPORTED);
        }
        Ok(())
    }

    /// What speaks against it, if it does not work.
    async fn try_to_continue(&mut self, seat: &Arc<Seat>, trial: &RemotePath) -> Result<std::result::Result<(), String>> {
        const MARK: &[u8] = b"fileferry resume";
        let length = MARK.len() as u64;
        let refused = |error: Error| {
            if error.is_connection_lost() || error.kind == ErrorKind::DestNoSpace { Err(error) } else { Ok(Err(chain(&error))) }
        };
        let writer = self.open_new(seat, trial).await?;
        writer.write_at(0, Bytes::from_static(MARK)).await?;
        writer.close().await?;
        let options = CreateOptions { mode: OpenMode::Continue(length), read: true, permissions: None };
        let writer = match seat.open(trial, options).await {
            Ok(writer) => writer,
            Err(error) => return refused(error),
        };
        let continued = async {
            writer.write_at(length, Bytes::from_static(MARK)).await?;
            writer.finish().await
        };
        if let Err(error) = continued.await {
            return refused(error);
        }
        let read = match writer.read_at(0, 2 * MARK.len() + 1).await {
            Ok(read) => read,
            Err(error) if error.kind == ErrorKind::DestDenied => {
                self.readable = false;
                writer.close().await?;
                return Ok(Err(chain(&error)));
            }
            Err(error) => return refused(error),
        };
        writer.close().await?;
        let whole = read[..] == [MARK, MARK].concat()[..];
        Ok(if whole { Ok(()) } else { Err("it took the rest and did not put it where it belongs".to_owned()) })
    }

    /// The proof of a whole stream, read from the destination: everything, or the samples that were noted on the way.
    pub(super) async fn prove_stream(&mut self, writer: &dyn Writer, grade: Grade) -> Result<ProofCount> {
        match grade {
            Grade::ReadBack => self.read_back(writer).await,
            Grade::Sampled => self.compare_samples(writer).await,
            _ => Ok(ProofCount::default()),
        }
    }

    async fn read_back(&mut self, writer: &dyn Writer) -> Result<ProofCount> {
        let engine = self.engine.clone();
        let temp = self.temp()?;
        let sheet = self.sheet.as_mut().expect("a stream that was sent has a sheet");
        let size = self.task.pin.size;
        let mut done = sheet.notes().map_or_else(ReadBack::default, |n| n.read_back);
        let mut stored = done.bytes;
        while done.bytes < size {
            let step = done.bytes..(done.bytes + READ_BACK_STEP).min(size);
            let wanted = step.end - step.start;
            let (crc, length) = engine.remote_crc(writer, step).await?;
            engine.setup.meter.proved(length);
            done = ReadBack { bytes: done.bytes + length, crc: combine(done.crc, crc, length) };
            if length < wanted {
                self.short(done.bytes)?;
                return Err(Error::new(ErrorKind::IntegrityMismatch, "prove the content of", &self.task.path)
                    .because(format!("the destination returned {} of the {size} bytes sent", done.bytes)));
            }
            sheet.read_back(done);
            // A boundary tells early, and where.
            let known = sheet.notes().and_then(|n| n.up_to(done.bytes)).filter(|b| b.offset == done.bytes).map(|b| b.crc);
            if known.is_some_and(|crc| crc != done.crc) {
                break;
            }
            if done.bytes - stored >= READ_BACK_STORED {
                stored = done.bytes;
                let checkpoint = sheet.checkpoint(&self.task.pin, &temp, self.attempt, engine.setup.epoch);
                let saved = engine.setup.ledger.checkpoint(self.task.number, &checkpoint, size).await;
                match saved {
                    Err(error) if error.kind == ErrorKind::LeaseLost => return Err(error),
                    Err(error) => warn!(file = %self.task.number, error = %chain(&error), "checkpoint not saved"),
                    Ok(()) => {}
                }
            }
        }
        if done.bytes == size && done.crc == sheet.crc() {
            return Ok(ProofCount { bytes: size, blocks: size.div_ceil(READ_BACK_STEP) });
        }
        sheet.read_back(ReadBack::default());
        let sent = if done.bytes == size { sheet.crc().to_string() } else { "other bytes".to_owned() };
        Err(Error::new(ErrorKind::IntegrityMismatch, "prove the content of", &self.task.path)
            .because(format!("of the first {} bytes there crc64nvme is {}, of those sent {sent}", done.bytes, done.crc)))
    }

    async fn compare_samples(&mut self, writer: &dyn Writer) -> Result<ProofCount> {
        let sheet = self.sheet.as_ref().expect("a stream that was sent has a sheet");
        let samples = sheet.notes().map(|n| n.samples.clone()).unwrap_or_default();
        let mut count = ProofCount::default();
        for sample in samples {
            let Some(sent) = sample.crc else { continue };
            let (there, length) = self.engine.remote_crc(writer, sample.offset..sample.offset + sample.length).await?;
            self.engine.setup.meter.proved(length);
            if (there, length) != (sent, sample.length) {
                return Err(Error::new(ErrorKind::IntegrityMismatch, "prove the content of", &self.task.path).because(format!(
                    "of the {} bytes from {} there crc64nvme is {there}, of those sent {sent}",
                    sample.length, sample.offset
                )));
            }
            count.bytes += length;
            count.blocks += 1;
        }
        Ok(count)
    }

    /// Whether a refused proof is worth a second try, after a moment: a weaker grade must not come of a hiccup.
    pub(super) async fn may_read_after_all(&self, error: &Error) -> Result<bool> {
        if error.kind != ErrorKind::DestDenied || !self.readable || self.engine.reads_refused.load(Relaxed) {
            return Ok(false);
        }
        self.engine.pause(self.engine.setup.tuning.backoff.base).await?;
        Ok(true)
    }

    /// The proof that was planned turned out to be refused, though the file is there: is one without reading good enough?
    pub(super) fn prove_without_reading(&mut self, seat: &Seat, error: Error, resumed: bool) -> Result<Plan> {
        if error.kind != ErrorKind::DestDenied || !self.readable {
            return Err(error);
        }
        self.readable = false;
        self.engine.reads_refused.store(true, Relaxed);
        self.engine.learn(model::Ability::Read, false, || chain(&error));
        let capabilities = self.capabilities(seat);
        self.plan(&capabilities, resumed)
    }
}
