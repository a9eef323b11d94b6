//! What an attempt that failed leaves at the destination, and what it takes away.

use model::{FileState, Nature, Publish, RemotePath};
use tracing::warn;

use super::file::FileRun;
use super::stream::TRIAL;
use crate::error::chain;
use crate::pool::Seat;
use crate::port::Failed;
use crate::{Error, ErrorKind, Result};

impl FileRun {
    /// Forgets this attempt: removes its temporary file and takes a new name.
    pub(super) async fn start_over(&mut self, seat: Option<&Seat>) -> Result<()> {
        self.engine.setup.meter.undone(self.counted());
        // The records first: while they name the file it must be there, see `deliver`.
        self.engine.setup.ledger.restart(self.task.number, self.attempt + 1).await?;
        self.discard(seat).await;
        self.discard_trial(seat).await;
        self.discard_inherited(seat).await;
        self.attempt += 1;
        self.opened = false;
        self.recorded = false;
        self.task.checkpoint = None;
        self.sheet = None;
        self.verified = None;
        self.bytes_resumed = 0;
        Ok(())
    }

    /// Removes the temporary file, if that can be done soon; `clean` finds it otherwise.
    pub(super) async fn discard(&mut self, seat: Option<&Seat>) {
        if !self.opened || self.engine.setup.wishes.publish == Publish::InPlace {
            return;
        }
        let Ok(temp) = self.temp() else { return };
        self.opened = !self.remove_soon(seat, &temp).await;
    }

    /// Removes the scratch file of a trial whose line was cut.
    async fn discard_trial(&mut self, seat: Option<&Seat>) {
        if self.trial_left
            && let Ok(trial) = self.attempt_path(TRIAL)
        {
            self.trial_left = !self.remove_soon(seat, &trial).await;
        }
    }

    /// Removes what an earlier process left under a name of its own epoch, where it could not be continued.
    async fn discard_inherited(&self, seat: Option<&Seat>) {
        if self.engine.setup.wishes.publish == Publish::InPlace {
            return;
        }
        let Some(checkpoint) = &self.task.checkpoint else { return };
        if self.temp().is_ok_and(|own| own != checkpoint.temp) {
            self.remove_soon(seat, &checkpoint.temp).await;
        }
    }

    /// Over `held`, the place that the caller has: another one may not be had before that is given back. Two tries, because
    /// the first may find out that its connection is gone.
    async fn remove_soon(&self, held: Option<&Seat>, temp: &RemotePath) -> bool {
        let removal = async {
            let other;
            let seat = match held {
                Some(seat) => seat,
                None => {
                    other = self.engine.pool.seat().await?;
                    &other
                }
            };
            match seat.remove(temp).await {
                Err(error) if error.is_connection_lost() => {
                    seat.lost();
                    self.engine.pool.seat().await?.remove(temp).await
                }
                outcome => outcome,
            }
        };
        match tokio::time::timeout(std::time::Duration::from_secs(10), removal).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => warn!(path = %temp, error = %chain(&error), "a temporary file was left behind"),
            Err(_) => warn!(path = %temp, "a temporary file was left behind: the server did not answer"),
        }
        false
    }

    /// Decides what stays at the destination after a failure.
    pub(super) async fn give_up(&mut self, error: Error) -> Failed {
        let resumable = (self.sheet.is_some() || self.task.checkpoint.is_some()) && error.kind.is_retryable();
        let publish_pending = self.verified.is_some()
            && matches!(
                error.kind,
                ErrorKind::DestPublishFailed | ErrorKind::DestDenied | ErrorKind::DestExists | ErrorKind::DestDirMissing
            );
        let inspected = error.kind == ErrorKind::IntegrityMismatch;
        self.discard_trial(None).await;
        // While an intent is on record, a missing file would mean that it was published.
        let keep = resumable || publish_pending || inspected || self.verified.is_some();
        if !keep {
            self.discard(None).await;
            self.discard_inherited(None).await;
        }
        let state = match error.kind {
            // Where a rename is never allowed, nothing is pending: another way to publish must be chosen.
            ErrorKind::DestPublishFailed if publish_pending && error.is_retryable() => FileState::PublishPending,
            kind if kind.nature() == Nature::Held => FileState::Held,
            _ => FileState::Failed,
        };
        let digests = match &self.verified {
            Some(intent) => [("crc64nvme", Some(intent.delivery.crc64nvme.to_string())), ("sha256", intent.delivery.sha256.clone())]
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value?)))
                .collect(),
            None => Vec::new(),
        };
        let kept = match &self.verified {
            Some(intent) if keep => Some(intent.temp.clone()),
            _ if keep && self.opened => self.temp().ok(),
            _ => None,
        };
        Failed { state, error, bytes_sent: self.bytes_sent, kept, digests }
    }
}
