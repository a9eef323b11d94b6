//! The course of a file of more than one range: look, open or take over, send, finish, publish.

use std::sync::Arc;

use model::{Grade, Publish, RemotePath};
use tracing::{debug, info};

use super::file::FileRun;
use super::publish::is_there;
use super::send::Lane;
use crate::error::chain;
use crate::meter::Step;
use crate::plan::Plan;
use crate::pool::Seat;
use crate::port::Finished;
use crate::sheet::{Checkpoint, Sheet};
use crate::{CreateOptions, Error, ErrorKind, OpenMode, RenameMode, Result, Writer};

impl FileRun {
    pub(super) async fn send_ranges(&mut self, seat: &Arc<Seat>) -> Result<Finished> {
        let engine = self.engine.clone();
        let capabilities = self.capabilities(seat);
        let resumed = self.sheet.is_some() || self.task.checkpoint.is_some();
        // Their logins take longer than everything that comes before they are of use.
        if !self.likely_there()
            && let Ok(plan) = self.plan(&capabilities, resumed)
        {
            engine.pool.expect(plan.connections);
        }
        if !self.looked {
            let existing = self.looked_at(seat.stat(&self.task.path).await)?;
            // In place, our own unfinished file stands there on a resume.
            let ours = resumed && engine.setup.wishes.publish == Publish::InPlace;
            if !ours && let Some(finished) = self.judge(existing, &capabilities)? {
                return Ok(finished);
            }
            self.looked = true;
        }
        let plan = self.plan(&capabilities, resumed)?;
        let preparing = engine.setup.meter.step(Step::Preparing);
        engine.pool.expect(plan.connections);
        let writer = match self.reopen(seat, &plan).await? {
            Some(writer) => writer,
            None => self.open_fresh(seat).await?,
        };
        drop(preparing);
        // Opening may have taught us that this directory cannot be read, or that offsets do not work.
        let capabilities = self.capabilities(seat);
        let plan = self.plan(&capabilities, resumed)?;
        let temp = self.temp()?;

        let lane = {
            let _sending = engine.setup.meter.step(Step::Sending);
            let lane = self.move_ranges(Lane::new(seat.clone(), writer), &plan, &temp, &capabilities).await?;
            lane.writer.finish().await.inspect_err(|e| self.note_loss(&lane.seat, e))?;
            lane
        };

        let _verifying = engine.setup.meter.step(Step::Verifying);
        let sheet = self.sheet.as_ref().expect("a file that was sent has a sheet");
        let (crc, mut proof, digests) = (sheet.crc(), sheet.proof(), sheet.digests().finish());
        let streamed = sheet.notes().is_some();
        self.check_source(crc, digests.0.as_deref())?;
        let mut plan = plan;
        if streamed {
            self.check_length(&*lane.writer).await.inspect_err(|e| self.note_loss(&lane.seat, e))?;
            let mut proved = self.prove_stream(&*lane.writer, plan.grade).await;
            if let Err(error) = &proved
                && self.may_read_after_all(error).await?
            {
                proved = self.prove_stream(&*lane.writer, plan.grade).await;
            }
            match proved {
                Ok(count) => proof = count,
                Err(error) => plan = self.prove_without_reading(&lane.seat, error, resumed)?,
            }
        }
        let finished = async {
            let synced = self.finish_file(&*lane.writer, &capabilities, plan.grade).await?;
            lane.writer.close().await?;
            Ok::<bool, Error>(synced)
        }
        .await;
        let synced = match finished {
            Ok(synced) => synced,
            Err(error) => {
                if let Some(sheet) = &mut self.sheet {
                    sheet.connection_lost();
                }
                return Err(error);
            }
        };
        if plan.grade == Grade::ServerHash {
            self.compare_server_hash(&lane.seat, &temp, &plan, &digests).await?;
        }
        let delivery = self.delivery(&plan, digests, crc, proof, synced);
        self.publish(&lane.seat, temp, delivery).await
    }

    /// A fresh temporary file and an empty sheet; before several ranges are on their way, on one lane or on many, this
    /// server must have shown that offsets are honoured.
    async fn open_fresh(&mut self, seat: &Arc<Seat>) -> Result<Box<dyn Writer>> {
        if self.sheet.is_some() || self.task.checkpoint.is_some() {
            info!(file = %self.task.number, "the interrupted attempt cannot be continued; starting over");
            self.notes.push("an interrupted attempt could not be continued; sent again from the start".to_owned());
            self.opened = true;
            self.start_over(Some(seat)).await?;
        }
        if self.opened && self.capabilities(seat).is_stream() {
            // A cut stream may still be written to by the server: it gets no second writer, the file another name.
            self.start_over(Some(seat)).await?;
        }
        let temp = self.temp()?;
        self.learn_to_continue_first(seat).await?;
        let mut writer = self.open_new(seat, &temp).await?;
        if seat.capabilities().offset_writes && self.engine.offsets_work().is_none() {
            let work = offsets_work(&*writer, self.readable && seat.capabilities().read).await?;
            self.engine.learn_offsets(work);
            if !work {
                self.notes.push("this server does not honour write offsets; sent as one stream".to_owned());
                writer.close().await?;
                seat.remove(&temp).await?;
                writer = self.open_new(seat, &temp).await?;
            }
        }
        self.begin_stream(0);
        let capabilities = self.capabilities(seat);
        let plan = self.plan(&capabilities, false)?;
        let size = self.task.pin.size;
        // One stream has one range in hand, and nothing waits for confirmations.
        let range_size =
            if capabilities.is_stream() { self.engine.range_size } else { self.engine.range_size_over(plan.connections, size) };
        let needs_proof = matches!(plan.grade, Grade::ReadBack | Grade::Sampled);
        self.sheet = Some(match capabilities.is_stream() {
            true => Sheet::stream(size, range_size, plan.digests, plan.grade == Grade::Sampled),
            false => Sheet::new(size, range_size, plan.digests, needs_proof, capabilities.sync),
        });
        Ok(writer)
    }

    /// Opens the temporary file of an interrupted attempt; `None` when it must start over.
    async fn reopen(&mut self, seat: &Arc<Seat>, plan: &Plan) -> Result<Option<Box<dyn Writer>>> {
        let capabilities = self.capabilities(seat);
        if capabilities.is_stream() {
            return self.reopen_stream(seat, plan, &capabilities).await;
        }
        if !capabilities.offset_writes {
            return Ok(None);
        }
        let options = CreateOptions { mode: OpenMode::Existing, read: capabilities.read, permissions: None };
        if self.sheet.is_some() {
            return self.open_existing(seat, &self.temp()?, options, 0).await;
        }
        let Some(checkpoint) = self.task.checkpoint.clone() else { return Ok(None) };
        let needs_proof = matches!(plan.grade, Grade::ReadBack | Grade::Sampled);
        self.attempt = checkpoint.attempt;
        let Some(sheet) = Sheet::resume(&checkpoint, plan.digests, needs_proof, capabilities.sync) else { return Ok(None) };
        let temp = self.temp()?;
        if !self.take_over(seat, &checkpoint, &temp).await? {
            return Ok(None);
        }
        let least = (checkpoint.settled * checkpoint.range_size).min(checkpoint.pin.size);
        let Some(writer) = self.open_existing(seat, &temp, options, least).await? else { return Ok(None) };
        self.engine.setup.meter.done(sheet.confirmed_bytes());
        self.sheet = Some(sheet);
        self.opened = true;
        Ok(Some(writer))
    }

    async fn open_existing(
        &mut self,
        seat: &Arc<Seat>,
        temp: &RemotePath,
        options: CreateOptions,
        least: u64,
    ) -> Result<Option<Box<dyn Writer>>> {
        match seat.open(temp, options).await {
            Ok(writer) => match writer.size().await {
                Ok(size) if size < least => {
                    writer.close().await?;
                    Ok(None)
                }
                Err(error) if error.is_connection_lost() => Err(error),
                _ => Ok(Some(writer)),
            },
            Err(error) if error.kind == ErrorKind::DestDirMissing => Ok(None),
            Err(error) if error.kind == ErrorKind::DestDenied && options.read => {
                self.readable = false;
                Err(Error::new(ErrorKind::DestProtocol, "read back", temp).because(error))
            }
            Err(error) => Err(error),
        }
    }

    /// Renames the file of an earlier epoch to our own name. That does not stop a writer of that epoch, whose bytes are
    /// the same at the same offsets, but it makes its publish fail. `false`: not possible, start over.
    pub(super) async fn take_over(&mut self, seat: &Arc<Seat>, checkpoint: &Checkpoint, temp: &RemotePath) -> Result<bool> {
        let setup = &self.engine.setup;
        if setup.wishes.publish == Publish::InPlace || &checkpoint.temp == temp {
            return Ok(true);
        }
        self.claim(seat, (&checkpoint.temp, checkpoint.attempt, checkpoint.epoch), temp).await
    }

    /// Gives the temporary file of an attempt this epoch's name, whatever earlier epoch has it. `false`: there is none,
    /// or the server refuses.
    pub(super) async fn claim(&self, seat: &Seat, known: (&RemotePath, u32, u32), temp: &RemotePath) -> Result<bool> {
        let setup = &self.engine.setup;
        // The newest name first: an earlier take-over may have been cut before it was written down.
        if is_there(seat, temp).await? {
            return Ok(true);
        }
        let (recorded, attempt, since) = known;
        for epoch in (since..setup.epoch).rev() {
            let old = match epoch {
                e if e == since => recorded.clone(),
                e => setup.temp_name.path(&self.task.path, &setup.transfer, setup.run, self.task.number, attempt, e)?,
            };
            match seat.rename(&old, temp, RenameMode::NoClobber).await {
                Ok(()) => return Ok(true),
                Err(error) if error.kind == ErrorKind::DestDirMissing => continue,
                Err(error) if error.is_connection_lost() || error.is_retryable() && error.kind != ErrorKind::DestPublishFailed => {
                    return Err(error);
                }
                Err(error) => {
                    debug!(error = %chain(&error), "the server does not let us rename");
                    return Ok(false);
                }
            }
        }
        Ok(false)
    }
}

/// Writes a mark at an offset of our own, still empty temporary file and looks where it went. Real data overwrites it.
async fn offsets_work(writer: &dyn Writer, readable: bool) -> Result<bool> {
    const AT: u64 = 64 << 10;
    const MARK: &[u8] = b"fileferry offset";
    if let Err(error) = writer.write_at(AT, bytes::Bytes::from_static(MARK)).await {
        return if error.is_connection_lost() || error.kind == ErrorKind::DestNoSpace { Err(error) } else { Ok(false) };
    }
    let read = async { if readable { Some(writer.read_at(AT, MARK.len()).await) } else { None } };
    let (size, read) = tokio::join!(writer.size(), read);
    let placed = match size {
        Ok(size) => size == AT + MARK.len() as u64,
        Err(error) if error.is_connection_lost() => return Err(error),
        Err(_) => readable,
    };
    let Some(read) = read.filter(|_| placed) else { return Ok(placed) };
    match read {
        Ok(read) => Ok(&read[..] == MARK),
        Err(error) if error.is_connection_lost() => Err(error),
        Err(_) => Ok(placed),
    }
}
