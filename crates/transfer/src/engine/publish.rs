//! Giving a verified file its final name: the gate, the intent, the rename that obeys the policy, and what to do
//! when its answer is lost.

use std::time::Instant;

use model::{Clobber, FileState, IfExists, Publish, RemotePath};
use tracing::{debug, warn};

use super::file::FileRun;
use crate::error::chain;
use crate::meter::Step;
use crate::pool::Seat;
use crate::port::{Delivery, Finished, Intent};
use crate::{Error, ErrorKind, NoClobber, RenameMode, Result};

impl FileRun {
    /// From here on nothing is sent any more: a failure keeps the verified file and only the rename is tried again.
    pub(super) async fn publish(&mut self, seat: &Seat, temp: RemotePath, mut delivery: Delivery) -> Result<Finished> {
        let engine = self.engine.clone();
        let _step = engine.setup.meter.step(Step::Publishing);
        delivery.clobber = self.clobber(seat);
        let intent = Intent { temp, path: self.task.path.clone(), delivery };
        self.verified = Some(intent.clone());
        self.rename(seat, intent).await
    }

    /// What the rename of this policy is worth on this server.
    fn clobber(&self, seat: &Seat) -> Clobber {
        let capabilities = seat.capabilities();
        match self.engine.setup.wishes.if_exists {
            IfExists::Fail | IfExists::Skip if capabilities.no_clobber == NoClobber::Atomic => Clobber::Atomic,
            IfExists::Fail | IfExists::Skip => Clobber::Checked,
            IfExists::ReplaceUnsafe if !capabilities.atomic_replace => Clobber::Unsafe { window_ms: 0 },
            IfExists::Update | IfExists::Replace | IfExists::ReplaceUnsafe => Clobber::Replaced,
        }
    }

    async fn rename(&mut self, seat: &Seat, mut intent: Intent) -> Result<Finished> {
        if let Some(finished) = self.ask_gate().await? {
            self.discard().await;
            return Ok(finished);
        }
        self.recorded = true;
        self.engine.setup.ledger.intent(self.task.number, &intent).await?;
        if self.engine.setup.wishes.publish == Publish::InPlace {
            return Ok(delivered(FileState::Delivered, intent));
        }
        let (temp, path) = (intent.temp.clone(), intent.path.clone());
        let outcome = match intent.delivery.clobber {
            Clobber::Atomic => seat.rename(&temp, &path, RenameMode::NoClobber).await,
            Clobber::Checked => self.rename_after_look(seat, &temp, &path).await,
            Clobber::Replaced => seat.rename(&temp, &path, RenameMode::Replace).await,
            Clobber::Unsafe { .. } => {
                self.rename_aside(seat, &temp, &path).await.map(|window_ms| intent.delivery.clobber = Clobber::Unsafe { window_ms })
            }
        };
        match outcome {
            Ok(()) => self.confirm(seat, intent).await,
            Err(error) if error.kind == ErrorKind::DestExists => self.name_taken(error).await,
            // Our temporary name is gone: either an earlier, unanswered rename did it, or a successor took over.
            Err(error) if error.kind == ErrorKind::DestDirMissing => match self.settle(seat, intent).await? {
                Some(finished) => Ok(finished),
                None => Err(error),
            },
            Err(error) => {
                if error.is_connection_lost() {
                    seat.lost();
                }
                Err(error)
            }
        }
    }

    async fn rename_after_look(&self, seat: &Seat, temp: &RemotePath, path: &RemotePath) -> Result<()> {
        match seat.stat(path).await {
            Ok(Some(_)) => {
                return Err(
                    Error::new(ErrorKind::DestExists, "publish", path).because("a file appeared under this name while ours was sent")
                );
            }
            Ok(None) => {}
            Err(error) if error.is_connection_lost() => return Err(error),
            // A server without stat: the rename itself must refuse.
            Err(error) => debug!(error = %chain(&error), "could not look before the rename"),
        }
        seat.rename(temp, path, RenameMode::NoClobber).await
    }

    /// `replace-unsafe` on a server without atomic replacement: the old file steps aside, comes back if ours cannot
    /// take its place, and is removed afterwards. Returns for how many milliseconds the name was missing.
    async fn rename_aside(&self, seat: &Seat, temp: &RemotePath, path: &RemotePath) -> Result<u64> {
        let aside = temp.sibling(&format!("{}.old", temp.name()))?;
        if seat.stat(path).await?.is_none() {
            seat.rename(temp, path, RenameMode::NoClobber).await?;
            // There is one if an earlier try was cut after the old file stepped aside.
            seat.remove(&aside).await?;
            return Ok(0);
        }
        let begin = Instant::now();
        let moved = match seat.rename(path, &aside, RenameMode::NoClobber).await {
            Ok(()) => true,
            Err(error) if error.is_connection_lost() => return Err(error),
            Err(_) => {
                seat.remove(path).await?;
                false
            }
        };
        if let Err(error) = seat.rename(temp, path, RenameMode::NoClobber).await {
            if moved && let Err(lost) = seat.rename(&aside, path, RenameMode::NoClobber).await {
                warn!(aside = %aside, error = %chain(&lost), "the old file could not be moved back");
            }
            return Err(error);
        }
        let window = begin.elapsed().as_millis() as u64;
        if moved {
            seat.remove(&aside).await?;
        }
        Ok(window)
    }

    /// Servers that store names differently than they were given are found out here, not by the partner.
    async fn confirm(&mut self, seat: &Seat, intent: Intent) -> Result<Finished> {
        if seat.capabilities().exact_names {
            return Ok(delivered(FileState::Delivered, intent));
        }
        match seat.stat(&intent.path).await {
            Ok(Some(meta)) if meta.size == intent.delivery.pin.size => Ok(delivered(FileState::Delivered, intent)),
            Ok(None) => Ok(delivered(FileState::Collected, intent)),
            Ok(Some(meta)) => {
                let mut intent = intent;
                intent.delivery.notes.push(format!("the size was {} just after publishing", meta.size));
                Ok(delivered(FileState::Delivered, intent))
            }
            Err(error) => {
                let mut intent = intent;
                intent.delivery.notes.push(format!("could not look after publishing: {}", chain(&error)));
                Ok(delivered(FileState::Delivered, intent))
            }
        }
    }

    async fn name_taken(&mut self, error: Error) -> Result<Finished> {
        if self.engine.setup.wishes.if_exists == IfExists::Skip {
            self.discard().await;
            return Ok(Finished { state: FileState::Skipped, delivery: None });
        }
        Err(error)
    }

    /// After an intent whose rename may or may not have happened, the temporary file decides: still there means not
    /// renamed. `None`: nothing of ours is left, start over.
    pub(super) async fn settle(&mut self, seat: &Seat, mut intent: Intent) -> Result<Option<Finished>> {
        if self.engine.setup.wishes.publish == Publish::InPlace {
            let there = seat.stat(&intent.path).await?;
            let whole = there.is_some_and(|m| m.size == intent.delivery.pin.size);
            return Ok(whole.then(|| delivered(FileState::Delivered, intent)));
        }
        let setup = &self.engine.setup;
        let own =
            setup.temp_name.path(&intent.path, &setup.transfer, setup.run, self.task.number, intent.delivery.attempts, setup.epoch)?;
        self.attempt = intent.delivery.attempts;
        if intent.temp != own {
            // Fences the process that wrote it: its rename of the old name fails from now on.
            if self.claim(seat, (&intent.temp, intent.delivery.attempts, intent.delivery.epoch), &own).await? {
                intent.temp = own;
                intent.delivery.epoch = setup.epoch;
            }
        }
        if seat.stat(&intent.temp).await?.is_some() {
            self.opened = true;
            self.verified = Some(intent.clone());
            return Box::pin(self.rename(seat, intent)).await.map(Some);
        }
        // Only the holder of the lease may say that the file was delivered.
        setup.ledger.intent(self.task.number, &intent).await?;
        let note = "the answer to the rename was lost; settled by looking";
        intent.delivery.notes.push(note.to_owned());
        match seat.stat(&intent.path).await? {
            Some(meta) if meta.size == intent.delivery.pin.size => Ok(Some(delivered(FileState::Delivered, intent))),
            None => Ok(Some(delivered(FileState::Collected, intent))),
            Some(_) => Ok(None),
        }
    }
}

fn delivered(state: FileState, intent: Intent) -> Finished {
    Finished { state, delivery: Some(Box::new(intent.delivery)) }
}
