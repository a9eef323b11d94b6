//! One file from manifest to final name: looks, plans, sends, proves, publishes, and tries again where that helps.

use std::collections::BTreeSet;
use std::sync::Arc;

use model::{FileState, Grade, IfExists, Publish, RemotePath};
use tracing::debug;

use super::Inner;
use super::turn::Turn;
use crate::error::chain;
use crate::meter::Step;
use crate::plan::{self, Plan, Question};
use crate::pool::Seat;
use crate::port::{Delivery, FileTask, Finished, Identity, Intent, Verdict};
use crate::retry::Patience;
use crate::sheet::{ProofCount, Sheet};
use crate::{Capabilities, Error, ErrorKind, Result, Subject};

/// So often a file that starts over gets new patience.
const FRESH_STARTS: u32 = 3;

/// What is known of a file while this process works on it.
pub(super) struct FileRun {
    pub engine: Arc<Inner>,
    pub task: FileTask,
    pub attempt: u32,
    /// The temporary file exists, as far as we know.
    pub opened: bool,
    /// This process has made the file it writes to. In place that is the one under the final name.
    pub created: bool,
    /// The records name it, so that whoever takes this transfer over may count on it.
    pub recorded: bool,
    pub sheet: Option<Sheet>,
    /// Everything is sent and proved; only the publish is missing.
    pub verified: Option<Intent>,
    /// `false` once the server refused to let us read our own file.
    pub readable: bool,
    pub mismatches: u32,
    /// Refusals to go on with a cut stream.
    pub refusals: u32,
    /// Connections lost while finding out whether this server goes on with a file.
    pub probe_losses: u32,
    /// The scratch file of that may still be there.
    pub trial_left: bool,
    /// How the attempt before this one ended, which stream it was and from which byte on, and where an earlier one had
    /// stopped growing.
    pub last_failure: Option<ErrorKind>,
    pub stream: (u32, u64),
    pub stopped_at: Option<(u64, (u32, u64))>,
    /// Where two streams in a row have stopped.
    pub probably_full: Option<u64>,
    /// The server called a file of this length whole.
    pub short_at: Option<u64>,
    pub looked: bool,
    pub pinned: bool,
    pub turn: Turn,
    pub bytes_sent: u64,
    pub bytes_resumed: u64,
    pub connections: BTreeSet<u64>,
    pub notes: Vec<String>,
    pub started_at: jiff::Timestamp,
    pub identity: Identity,
    /// What the server's receipts must say of it: clear text, a legacy algorithm, something that it lacks.
    pub server_notes: Vec<String>,
}

/// Delivers one file and tells the ledger how it ended. A stopped file is left as it is, for a resume.
pub(super) async fn deliver(engine: Arc<Inner>, task: FileTask, turn: Turn) {
    let number = task.number;
    let size = task.pin.size;
    let mut file = FileRun::new(engine.clone(), task, turn);
    let meter = engine.setup.meter.clone();
    let told = match file.run().await {
        Ok(finished) => {
            let already = file.counted();
            meter.done(size.saturating_sub(already));
            meter.file_finished(true);
            engine.setup.ledger.finished(number, finished).await
        }
        Err(error) if error.kind == ErrorKind::Cancelled || Inner::concerns_all(&error) => {
            // A file that no record names is ours alone. One that is named belongs to the successor, who may be about
            // to take it over: removing it would look as if it had been published and collected.
            if error.kind == ErrorKind::LeaseLost && !file.recorded {
                file.discard(None).await;
            }
            if error.kind == ErrorKind::Cancelled {
                engine.interrupted.store(true, std::sync::atomic::Ordering::Relaxed);
            } else {
                engine.halt(error);
            }
            return;
        }
        Err(error) => {
            let failed = file.give_up(error).await;
            meter.file_finished(false);
            engine.setup.ledger.failed(number, &failed).await
        }
    };
    if let Err(error) = told {
        engine.halt(error);
    }
}

impl FileRun {
    fn new(engine: Arc<Inner>, task: FileTask, turn: Turn) -> Self {
        Self {
            attempt: task.attempt,
            opened: false,
            created: false,
            recorded: task.checkpoint.is_some() || task.intent.is_some(),
            sheet: None,
            verified: None,
            readable: true,
            mismatches: 0,
            refusals: 0,
            probe_losses: 0,
            trial_left: false,
            last_failure: None,
            stream: (0, 0),
            stopped_at: None,
            probably_full: None,
            short_at: None,
            looked: false,
            pinned: false,
            turn,
            bytes_sent: 0,
            bytes_resumed: 0,
            connections: BTreeSet::new(),
            notes: Vec::new(),
            started_at: jiff::Timestamp::now(),
            identity: Identity::default(),
            server_notes: Vec::new(),
            engine,
            task,
        }
    }

    /// Bytes of this file that the meter already counts as done.
    pub(super) fn counted(&self) -> u64 {
        self.sheet.as_ref().map_or(0, Sheet::confirmed_bytes)
    }

    /// How far this attempt has come. What is sent a second time is no progress, or a server that always fails at
    /// the same point would be tried for ever.
    fn progress(&self) -> u64 {
        let size = self.task.pin.size;
        match &self.sheet {
            _ if self.verified.is_some() => 2 * size + 1,
            Some(sheet) => sheet.progress(),
            None => self.bytes_sent.min(size),
        }
    }

    async fn run(&mut self) -> Result<Finished> {
        let mut patience = Patience::new(self.engine.setup.tuning.backoff);
        let (mut attempt, mut fresh_starts, mut went_on) = (self.attempt, 0, false);
        loop {
            let error = match self.attempt().await {
                Ok(finished) => return Ok(finished),
                Err(error) => error,
            };
            debug!(file = %self.task.number, error = %chain(&error), "attempt ended");
            self.last_failure = Some(error.kind);
            match error.kind {
                ErrorKind::IntegrityMismatch if self.mismatches == 0 => {
                    self.mismatches = 1;
                    self.notes.push(format!("sent again from the start: {}", chain(&error)));
                    self.start_over(None).await?;
                }
                _ if error.is_retryable() && error.kind != ErrorKind::LeaseLost => {
                    if attempt != self.attempt && fresh_starts < FRESH_STARTS {
                        (attempt, fresh_starts) = (self.attempt, fresh_starts + 1);
                        patience.start_over();
                    }
                    // From here on progress is what the server has; before it was what it had been given. Once, or a server
                    // that loses what it went on with would be tried for ever.
                    if !went_on && self.sheet.as_ref().is_some_and(|sheet| sheet.found().is_some()) {
                        went_on = true;
                        patience.start_over();
                    }
                    let Some(wait) = patience.after_failure(self.progress()) else { return Err(self.given_up(error)) };
                    self.engine.setup.meter.retried();
                    self.engine.pause(wait).await?;
                }
                _ => return Err(error),
            }
        }
    }

    /// One try. Everything learnt stays in `self`, so that the next one goes on from there.
    async fn attempt(&mut self) -> Result<Finished> {
        let meter = self.engine.setup.meter.clone();
        if let Some(intent) = self.verified.clone().or_else(|| self.task.intent.take()) {
            let _step = meter.step(Step::Publishing);
            self.verified = Some(intent.clone());
            let seat = self.seat().await?;
            return match self.settle(&seat, intent).await? {
                Some(finished) => Ok(finished),
                None => {
                    self.start_over(None).await?;
                    Err(Error::new(ErrorKind::DestPublishFailed, "find the verified file", &self.task.path))
                }
            };
        }
        let preparing = meter.step(Step::Preparing);
        tokio::select! {
            () = self.turn.wait() => {}
            _ = self.engine.halt.cancelled() => return Err(cancelled()),
        }
        if self.task.pin.size > self.engine.range_size || self.task.checkpoint.is_some() {
            self.pin().await?;
        }
        let seat = Arc::new(self.seat().await?);
        self.connections.insert(seat.id());
        self.identity = Identity::from(seat.identity());
        self.server_notes.clone_from(&seat.identity().notes);
        self.engine.meet(seat.identity());
        self.server_notes.extend(self.engine.changed.lock().expect("no panic while holding the lock").iter().cloned());
        if self.engine.setup.wishes.publish != Publish::InPlace {
            self.doubt_renames(&seat).await?;
        }
        drop(preparing);
        let outcome =
            if self.task.pin.size > self.engine.range_size { self.send_ranges(&seat).await } else { self.send_whole(&seat).await };
        if let Err(error) = &outcome
            && error.is_connection_lost()
        {
            seat.lost();
        }
        outcome
    }

    async fn seat(&self) -> Result<Seat> {
        let (pool, size) = (&self.engine.pool, self.task.pin.size);
        let seat = async { if size > self.engine.range_size { pool.seat_apart(size).await } else { pool.seat().await } };
        tokio::select! {
            seat = seat => seat,
            _ = self.engine.halt.cancelled() => Err(cancelled()),
        }
    }

    /// Looks at the source once more before anything of a large file is sent. A resumed file must still be the same.
    async fn pin(&mut self) -> Result<()> {
        if self.pinned {
            return Ok(());
        }
        let now = self.engine.look_at(&self.task.pin).await?;
        if !self.task.pin.same_bytes(&now) {
            return Err(Error::new(ErrorKind::SourceChanged, "read the source", &self.task.pin.key).because(format!(
                "it was {} ({} bytes) when this transfer began and is {} ({} bytes) now",
                self.task.pin.etag.as_deref().unwrap_or("without ETag"),
                self.task.pin.size,
                now.etag.as_deref().unwrap_or("without ETag"),
                now.size
            )));
        }
        if let Some(checkpoint) = &mut self.task.checkpoint {
            if !checkpoint.pin.same_bytes(&now) {
                return Err(Error::new(ErrorKind::SourceChanged, "read the source", &self.task.pin.key)
                    .because("it changed since the interrupted attempt"));
            }
            checkpoint.pin = now.clone();
        }
        self.task.pin = now;
        self.pinned = true;
        Ok(())
    }

    /// What this server can do for this file, less what it has refused so far.
    pub(super) fn capabilities(&self, seat: &Seat) -> Capabilities {
        let mut capabilities = seat.capabilities().clone();
        capabilities.read &= self.readable;
        capabilities.offset_writes &= self.engine.offsets_work().unwrap_or(true);
        // A digest that was refused or wrong before is asked for again only by whoever insists on it.
        if self.engine.setup.wishes.verify == model::Verify::Auto {
            capabilities.hashes.retain(|algorithm| match algorithm {
                model::Algorithm::Sha256 => !self.engine.refused_before(model::Ability::HashSha256),
                model::Algorithm::Md5 => !self.engine.refused_before(model::Ability::HashMd5),
                model::Algorithm::Crc64nvme => true,
            });
        }
        capabilities
    }

    pub(super) fn plan(&self, capabilities: &Capabilities, resumed: bool) -> Result<Plan> {
        let setup = &self.engine.setup;
        let plan = plan::plan(&Question {
            size: self.task.pin.size,
            verify: setup.wishes.verify,
            digests: setup.wishes.digests,
            publish: setup.wishes.publish,
            capabilities,
            thresholds: setup.tuning.thresholds,
            connections: setup.tuning.connections.map_or(self.engine.pool.target() as u64, |c| c as u64),
            resumed,
            after_mismatch: self.mismatches > 0,
        })?;
        if setup.wishes.if_exists == IfExists::Replace && !capabilities.atomic_replace && setup.wishes.publish != Publish::InPlace {
            debug!("this server has no atomic replacement; an existing file will be an error");
        }
        Ok(plan)
    }

    /// Where the bytes go until they are proved.
    pub(super) fn temp(&self) -> Result<RemotePath> {
        match self.engine.setup.wishes.publish {
            Publish::InPlace => Ok(self.task.path.clone()),
            _ => self.attempt_path(self.attempt),
        }
    }

    /// The temporary name of an attempt of this process.
    pub(super) fn attempt_path(&self, attempt: u32) -> Result<RemotePath> {
        let setup = &self.engine.setup;
        Ok(setup.temp_name.path(&self.task.path, &setup.transfer, setup.run, self.task.number, attempt, setup.epoch)?)
    }

    /// The facts of this delivery, as far as they are known before the rename.
    pub(super) fn delivery(
        &self,
        plan: &Plan,
        digests: (Option<String>, Option<String>),
        crc: model::Crc64,
        proof: ProofCount,
        synced: bool,
    ) -> Delivery {
        let (sha256, md5) = digests;
        let (algorithm, value) = match plan.grade {
            Grade::ServerHash => match plan.server_hash {
                Some(model::Algorithm::Md5) => (Some("md5".into()), md5.clone()),
                _ => (Some("sha256".into()), sha256.clone()),
            },
            Grade::ReadBack | Grade::Sampled => (Some("crc64nvme".into()), Some(crc.to_string())),
            _ => (None, None),
        };
        Delivery {
            pin: self.task.pin.clone(),
            crc64nvme: crc,
            sha256,
            md5,
            grade: plan.grade,
            algorithm,
            value,
            proof,
            mode: self.engine.setup.wishes.publish,
            clobber: model::Clobber::Checked,
            synced,
            attempts: self.attempt,
            epoch: self.engine.setup.epoch,
            connections: self.connections.len() as u32,
            bytes_sent: self.bytes_sent,
            bytes_resumed: self.bytes_resumed,
            started_at: self.started_at,
            identity: self.identity.clone(),
            notes: self.server_notes.iter().chain(&self.notes).chain(&plan.notes).cloned().collect(),
        }
    }

    /// Compares the source's own checksums with what was read.
    pub(super) fn check_source(&self, crc: model::Crc64, sha256: Option<&str>) -> Result<()> {
        let stored = &self.task.pin.checksum;
        let differs = |name: &str, theirs: String, ours: String| {
            Err(Error::new(ErrorKind::IntegrityMismatch, "read the source", &self.task.pin.key)
                .because(format!("the store's {name} is {theirs}, the bytes it sent give {ours}")))
        };
        if let Some(theirs) = stored.crc64nvme
            && theirs != crc
        {
            return differs("crc64nvme", theirs.to_string(), crc.to_string());
        }
        match (&stored.sha256, sha256) {
            (Some(theirs), Some(ours)) if theirs != ours => differs("sha256", theirs.clone(), ours.to_owned()),
            _ => Ok(()),
        }
    }

    /// Asks the gate whether this file may get its final name now.
    pub(super) async fn ask_gate(&self) -> Result<Option<Finished>> {
        let setup = &self.engine.setup;
        match setup.gate.may_publish(self.task.number, &self.task.pin, &self.task.path).await? {
            Verdict::Go => Ok(None),
            Verdict::Superseded => Ok(Some(Finished { state: FileState::Superseded, delivery: None })),
            Verdict::Refused(error) => Err(error),
        }
    }
}

pub(super) fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "go on", Subject::Nothing)
}
