//! Files that fit in one range: read, opened and looked at in one round trip, then written, proved and published.
//! Many of them run at once over few connections.

use model::Grade;

use super::file::FileRun;
use super::open::Seen;
use crate::digest::{StreamDigests, crc64};
use crate::error::chain;
use crate::limit::LIMITED_BLOCK;
use crate::meter::Step;
use crate::pool::Seat;
use crate::port::Finished;
use crate::{Error, ErrorKind, Result, Writer};

impl FileRun {
    pub(super) async fn send_whole(&mut self, seat: &Seat) -> Result<Finished> {
        let engine = self.engine.clone();
        let sending = engine.setup.meter.step(Step::Sending);
        let capabilities = self.capabilities(seat);
        // Known to refuse our own reads or digests: find out before a byte is sent.
        self.plan(&capabilities, false)?;
        if self.opened && capabilities.is_stream() {
            // A cut stream may still be written to by the server: it gets no second writer, the file another name.
            self.start_over(Some(seat)).await?;
        }
        let temp = self.temp()?;
        let size = self.task.pin.size;
        let wishes = &engine.setup.wishes;
        if self.likely_there() && !self.looked {
            let existing = self.looked_at(seat.stat(&self.task.path).await)?;
            if let Some(finished) = self.judge(existing, &capabilities)? {
                return Ok(finished);
            }
            self.looked = true;
        }

        let _memory = engine.budget.range(size).await;
        let pin = self.task.pin.clone();
        let mut seen = (!self.looked).then_some(Seen::NotYet);
        let (data, writer) = tokio::join!(engine.read_range(&pin, 0..size), self.open_looking(seat, &temp, &mut seen));
        let (writer, data) = (writer?, data?);
        if let Some(Seen::Found(found)) = seen
            && let existing = self.looked_at(found)
            && wishes.publish != model::Publish::InPlace
        {
            self.looked = true;
            match self.judge(existing?, &capabilities) {
                Ok(None) => {}
                Ok(Some(finished)) => {
                    writer.close().await?;
                    self.discard(Some(seat)).await;
                    return Ok(finished);
                }
                Err(error) => {
                    writer.close().await?;
                    return Err(error);
                }
            }
        }
        // Opening may have taught us that this directory cannot be read.
        let capabilities = self.capabilities(seat);
        let mut plan = self.plan(&capabilities, false)?;

        let crc = crc64(&data);
        let mut digests = StreamDigests::new(plan.digests);
        digests.update(&data);
        let digests = digests.finish();
        if let Err(error) = self.check_source(crc, digests.0.as_deref()) {
            writer.close().await?;
            return Err(error);
        }

        if size > 0 {
            if engine.limiter.is_limited() {
                for at in (0..data.len()).step_by(LIMITED_BLOCK) {
                    let block = data.slice(at..(at + LIMITED_BLOCK).min(data.len()));
                    engine.limiter.take(block.len()).await;
                    writer.write_at(at as u64, block).await.inspect_err(|e| self.note_loss(seat, e))?;
                }
            } else {
                writer.write_at(0, data.clone()).await.inspect_err(|e| self.note_loss(seat, e))?;
            }
        }
        self.bytes_sent += size;
        engine.setup.meter.sent(size);
        drop(sending);

        let _verifying = engine.setup.meter.step(Step::Verifying);
        writer.finish().await.inspect_err(|e| self.note_loss(seat, e))?;
        let mut proof = engine.prove(&*writer, plan.grade, 0, &data).await;
        if let Err(error) = &proof
            && self.may_read_after_all(error).await?
        {
            proof = engine.prove(&*writer, plan.grade, 0, &data).await;
        }
        let proof = match proof {
            Ok(proof) => proof,
            Err(error) => {
                plan = self.prove_without_reading(seat, error, false)?;
                Default::default()
            }
        };
        drop(data);
        let synced = self.finish_file(&*writer, &capabilities, plan.grade).await?;
        writer.close().await?;
        if plan.grade == Grade::ServerHash {
            self.compare_server_hash(seat, &temp, &plan, &digests).await?;
        }
        drop(_memory);
        let delivery = self.delivery(&plan, digests, crc, proof, synced);
        self.publish(seat, temp, delivery).await
    }

    /// Sync, time, permissions, and the size that the server sees: one round trip where the server takes them together.
    pub(super) async fn finish_file(&mut self, writer: &dyn Writer, capabilities: &crate::Capabilities, grade: Grade) -> Result<bool> {
        let engine = self.engine.clone();
        let sync = async { if capabilities.sync { writer.sync().await.map(|()| true) } else { Ok(false) } };
        let wishes = &engine.setup.wishes;
        let modified = self.task.pin.modified.filter(|_| wishes.preserve_time && capabilities.set_times);
        let permissions = wishes.permissions.filter(|_| capabilities.set_mode);
        let (synced, (attributes, size)) = tokio::join!(sync, writer.settle(modified, permissions));
        // A refusal of these is a note on the receipt, never a failure.
        self.notes.extend(attributes.err().map(|refused| format!("time or permissions were not set: {}", chain(&refused))));
        match size {
            Ok(there) if there == self.task.pin.size => {}
            Ok(there) => {
                return Err(Error::new(ErrorKind::IntegrityMismatch, "prove the size of", &self.task.path)
                    .because(format!("{} bytes were sent and the destination has {there}", self.task.pin.size)));
            }
            // Servers without stat: a note, unless the size was to be the proof.
            Err(error) if error.is_connection_lost() || grade == Grade::Size => return Err(error),
            Err(_) => self.notes.push("the server does not tell the size of a file".to_owned()),
        }
        synced
    }

    /// Reading back was refused although opening for it was not: go on with the proof that is left.
    pub(super) fn read_refused(&mut self, error: Error) -> Error {
        if matches!(error.kind, ErrorKind::DestDenied) && self.readable {
            self.readable = false;
            return Error::new(ErrorKind::DestProtocol, "read back", &self.task.path).because(error);
        }
        error
    }

    pub(super) fn note_loss(&self, seat: &Seat, error: &Error) {
        if error.is_connection_lost() {
            seat.lost();
        }
    }

    pub(super) async fn compare_server_hash(
        &self,
        seat: &Seat,
        temp: &model::RemotePath,
        plan: &crate::plan::Plan,
        digests: &(Option<String>, Option<String>),
    ) -> Result<()> {
        let Some(algorithm) = plan.server_hash else { return Ok(()) };
        let ours = match algorithm {
            model::Algorithm::Md5 => digests.1.as_deref(),
            _ => digests.0.as_deref(),
        };
        let theirs = seat.hash(temp, algorithm).await?.map(|d| d.hex());
        if theirs.as_deref() == ours && ours.is_some() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::IntegrityMismatch, "prove the content of", temp).because(format!(
            "{algorithm} sent {}, the server computes {}",
            ours.unwrap_or("none"),
            theirs.as_deref().unwrap_or("none")
        )))
    }
}
