//! What the engine reports, written down: checkpoints, intents, results and receipts, each in one batch under the
//! lease, and told to whoever watches.

use std::sync::Mutex;

use async_trait::async_trait;
use jiff::Timestamp;
use model::{ErrorClass, FileNumber, FileState, IfExists, RemotePath};
use store::{Batch, Mutation, Store};
use tokio::sync::mpsc;
use transfer::Pin;
use transfer::port::{Delivery, Failed, Finished, Intent, Ledger, PublishGate, Verdict};
use transfer::sheet::Checkpoint;

use crate::delivery::Letterhead;
use crate::error::{Error, through_engine, to_engine};
use crate::event::{ErrorReport, Event, FileReport, Summary};
use crate::follow::Follow;
use crate::manifest::json;

pub struct StoreLedger {
    store: Store,
    letterhead: Letterhead,
    destination: String,
    if_exists: IfExists,
    events: mpsc::Sender<Event>,
    source: std::sync::Arc<dyn transfer::Source>,
    begun: Timestamp,
    tally: Mutex<Tally>,
    /// What is known of the server, to explain failures with.
    known: Mutex<Option<model::Profile>>,
    /// What the lines are called: `file`, or `companion` for what goes with one.
    kind: &'static str,
    follow: Option<std::sync::Arc<dyn Follow>>,
}

impl std::fmt::Debug for StoreLedger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoreLedger({})", self.letterhead.held.record.id)
    }
}

/// How many files of this run ended how.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub delivered: u64,
    pub unchanged: u64,
    pub skipped: u64,
    pub collected: u64,
    pub superseded: u64,
    pub publish_pending: u64,
    pub held: u64,
    pub failed: u64,
    pub bytes: u64,
    pub bytes_sent: u64,
    pub bytes_resumed: u64,
    pub errors: std::collections::BTreeMap<ErrorClass, u64>,
}

impl Tally {
    pub fn ended(&self) -> u64 {
        self.succeeded() + self.publish_pending + self.held + self.failed
    }

    pub fn succeeded(&self) -> u64 {
        self.delivered + self.unchanged + self.skipped + self.collected + self.superseded
    }

    /// Adds what another part of the run counted.
    pub fn merge(&mut self, other: Tally) {
        self.delivered += other.delivered;
        self.unchanged += other.unchanged;
        self.skipped += other.skipped;
        self.collected += other.collected;
        self.superseded += other.superseded;
        self.publish_pending += other.publish_pending;
        self.held += other.held;
        self.failed += other.failed;
        self.bytes += other.bytes;
        self.bytes_sent += other.bytes_sent;
        self.bytes_resumed += other.bytes_resumed;
        for (class, count) in other.errors {
            *self.errors.entry(class).or_default() += count;
        }
    }

    fn count(&mut self, state: FileState) {
        match state {
            FileState::Delivered => self.delivered += 1,
            FileState::Unchanged => self.unchanged += 1,
            FileState::Skipped => self.skipped += 1,
            FileState::Collected => self.collected += 1,
            FileState::Superseded => self.superseded += 1,
            FileState::PublishPending => self.publish_pending += 1,
            FileState::Held => self.held += 1,
            _ => self.failed += 1,
        }
    }

    /// Failures of what goes with the files end the transfer as the files' own would.
    pub fn companions_failed(&mut self, companions: &Tally) {
        self.failed += companions.ended() - companions.succeeded();
        for (class, count) in &companions.errors {
            *self.errors.entry(*class).or_default() += count;
        }
    }

    /// A failure that no file record stands for, such as a key without a possible name.
    pub fn count_failure(&mut self, class: ErrorClass) {
        self.failed += 1;
        *self.errors.entry(class).or_default() += 1;
    }

    pub fn fill(&self, summary: &mut Summary) {
        summary.delivered = self.delivered;
        summary.unchanged = self.unchanged;
        summary.skipped = self.skipped;
        summary.collected = self.collected;
        summary.superseded = self.superseded;
        summary.publish_pending = self.publish_pending;
        summary.held = self.held;
        summary.failed = self.failed;
        summary.bytes = self.bytes;
        summary.bytes_sent = self.bytes_sent;
        summary.bytes_resumed = self.bytes_resumed;
        summary.errors = self.errors.iter().map(|(class, n)| (class.name().to_owned(), *n)).collect();
    }
}

impl StoreLedger {
    pub fn new(
        store: Store,
        letterhead: Letterhead,
        destination: String,
        if_exists: IfExists,
        source: std::sync::Arc<dyn transfer::Source>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let (tally, known) = Default::default();
        Self {
            store,
            letterhead,
            destination,
            if_exists,
            events,
            source,
            begun: Timestamp::now(),
            tally,
            known,
            kind: "file",
            follow: None,
        }
    }

    /// Failures are explained with what is known of the server.
    pub fn explain_with(&self, known: Option<model::Profile>) {
        *self.known.lock().expect("no panic while holding the lock") = known;
    }

    /// Its files are those that go with others.
    pub fn of_companions(mut self) -> Self {
        self.kind = "companion";
        self
    }

    /// `follow` is told of every file that has ended, after that was recorded.
    pub fn followed_by(mut self, follow: std::sync::Arc<dyn Follow>) -> Self {
        self.follow = Some(follow);
        self
    }

    fn ended(&self, file: FileNumber, state: FileState, class: Option<ErrorClass>) {
        if let Some(follow) = &self.follow {
            follow.ended(file, state, class);
        }
    }

    pub fn tally(&self) -> Tally {
        self.tally.lock().expect("no panic while holding the lock").clone()
    }

    async fn commit(&self, operation: &'static str, mutation: Mutation) -> transfer::Result<()> {
        let batch = Batch::new().guarded_by(self.letterhead.held.guard()).push(mutation);
        self.store.commit(batch).await.map(drop).map_err(|e| to_engine(operation, e))
    }

    async fn tell(&self, event: Event) {
        // Nobody watching is no reason to stop.
        let _ = self.events.send(event).await;
    }

    async fn report(&self, number: FileNumber, status: FileState) -> transfer::Result<FileReport> {
        let id = &self.letterhead.held.record.id;
        let file = self.store.file(id, number).await.map_err(|e| to_engine("read the manifest", e))?;
        let (key, path, size) = file.map_or_else(Default::default, |f| (f.key.to_string(), f.path.to_string(), f.size));
        Ok(FileReport {
            v: 1,
            kind: self.kind,
            transfer_id: id.clone(),
            file: number,
            status,
            key,
            path,
            size,
            error: None,
            kept: None,
            verification: None,
            seconds: Timestamp::now().duration_since(self.begun).as_secs_f64(),
        })
    }

    async fn delivered(&self, number: FileNumber, state: FileState, delivery: &Delivery, path: RemotePath) -> Result<Event, Error> {
        let now = Timestamp::now();
        let version = self.source.served_version(&delivery.pin);
        let (receipt, line) = self.letterhead.receipt(self.kind, number, &path, state, delivery, version.clone(), now)?;
        let finish = Mutation::FinishFile {
            transfer: self.letterhead.held.record.id.clone(),
            number,
            state,
            receipt: Some(line.clone()),
            bytes_sent: delivery.bytes_sent,
            at: now,
            delivery: Some(self.letterhead.record(&self.destination, &path, state, delivery, version, now)),
        };
        self.store.commit(Batch::new().guarded_by(self.letterhead.held.guard()).push(finish)).await?;
        let report = FileReport {
            v: 1,
            kind: self.kind,
            transfer_id: receipt.transfer_id.clone(),
            file: number,
            status: state,
            key: receipt.source.key.to_string(),
            path: path.to_string(),
            size: receipt.size,
            error: None,
            kept: None,
            verification: Some(receipt.verification.grade.to_string()),
            seconds: receipt.finished_at.duration_since(receipt.started_at).as_secs_f64(),
        };
        Ok(Event::Receipt { line, report })
    }
}

#[async_trait]
impl Ledger for StoreLedger {
    async fn checkpoint(&self, file: FileNumber, checkpoint: &Checkpoint, bytes_done: u64) -> transfer::Result<()> {
        let stored =
            json(checkpoint).map_err(|e| transfer::Error::new(e.class, "store the checkpoint", transfer::Subject::Nothing).because(e))?;
        let save = Mutation::SaveCheckpoint {
            transfer: self.letterhead.held.record.id.clone(),
            number: file,
            attempt: checkpoint.attempt,
            epoch: checkpoint.epoch,
            checkpoint: stored,
            bytes_done,
            at: Timestamp::now(),
        };
        self.commit("save the checkpoint", save).await
    }

    async fn restart(&self, file: FileNumber, attempt: u32) -> transfer::Result<()> {
        let held = &self.letterhead.held;
        let begin = Mutation::BeginAttempt {
            transfer: held.record.id.clone(),
            number: file,
            attempt,
            epoch: held.lease.epoch,
            at: Timestamp::now(),
        };
        self.commit("begin a new attempt", begin).await
    }

    async fn intent(&self, file: FileNumber, intent: &Intent) -> transfer::Result<()> {
        let stored = json(intent).map_err(|e| transfer::Error::new(e.class, "store the intent", transfer::Subject::Nothing).because(e))?;
        let save = Mutation::SaveIntent {
            transfer: self.letterhead.held.record.id.clone(),
            number: file,
            intent: Some(stored),
            at: Timestamp::now(),
        };
        self.commit("record the intent to publish", save).await
    }

    async fn finished(&self, file: FileNumber, finished: Finished) -> transfer::Result<()> {
        let event = match &finished.delivery {
            Some(delivery) => {
                let path = self.store.file(&self.letterhead.held.record.id, file).await.map_err(|e| to_engine("read the manifest", e))?;
                let path = path
                    .ok_or_else(|| transfer::Error::new(ErrorClass::Internal, "find the file in the manifest", transfer::Subject::Nothing))?
                    .path;
                let event = self.delivered(file, finished.state, delivery, path).await;
                event.map_err(|e| through_engine("record the delivery", e))?
            }
            None => {
                let end = Mutation::FinishFile {
                    transfer: self.letterhead.held.record.id.clone(),
                    number: file,
                    state: finished.state,
                    receipt: None,
                    bytes_sent: 0,
                    at: Timestamp::now(),
                    delivery: None,
                };
                self.commit("record the result", end).await?;
                Event::File(self.report(file, finished.state).await?)
            }
        };
        {
            let mut tally = self.tally.lock().expect("no panic while holding the lock");
            tally.count(finished.state);
            if let Some(delivery) = &finished.delivery {
                tally.bytes += delivery.pin.size;
                tally.bytes_sent += delivery.bytes_sent;
                tally.bytes_resumed += delivery.bytes_resumed;
            }
        }
        self.tell(event).await;
        self.ended(file, finished.state, None);
        Ok(())
    }

    async fn failed(&self, file: FileNumber, failed: &Failed) -> transfer::Result<()> {
        let message = transfer::error::chain(&failed.error);
        let state = Mutation::SetFileState {
            transfer: self.letterhead.held.record.id.clone(),
            number: file,
            state: failed.state,
            error: Some(store::Failure { class: failed.error.kind, text: message.clone() }),
            at: Timestamp::now(),
        };
        self.commit("record the failure", state).await?;
        let mut report = self.report(file, failed.state).await?;
        let digests: String = failed.digests.iter().map(|(name, value)| format!("; {name} {value}")).collect();
        let mut error = ErrorReport::new(failed.error.kind, format!("{message}{digests}"));
        let known = self.known.lock().expect("no panic while holding the lock").clone();
        if let Some(advice) = known.and_then(|known| crate::advice::for_failure(&known, failed.error.kind)) {
            error.next = format!("{}; {advice}", error.next);
        }
        report.error = Some(error);
        report.kept = failed.kept.as_ref().map(|p| p.to_string());
        {
            let mut tally = self.tally.lock().expect("no panic while holding the lock");
            tally.count(failed.state);
            tally.bytes_sent += failed.bytes_sent;
            *tally.errors.entry(failed.error.kind).or_default() += 1;
        }
        self.tell(Event::File(report)).await;
        self.ended(file, failed.state, Some(failed.error.kind));
        Ok(())
    }
}

#[async_trait]
impl PublishGate for StoreLedger {
    /// On the command line the person who typed the command is the approval; what is left to ask is whether we
    /// ourselves have published something newer under this name in the meantime.
    async fn may_publish(&self, _file: FileNumber, pin: &Pin, path: &RemotePath) -> transfer::Result<Verdict> {
        if matches!(self.if_exists, IfExists::Fail | IfExists::Skip) {
            return Ok(Verdict::Go);
        }
        let newest = self.store.delivery(&self.destination, path).await.map_err(|e| to_engine("read the deliveries", e))?;
        let newer = newest.is_some_and(|d| {
            let same_object = d.source == self.letterhead.source() && d.key == pin.key;
            same_object
                && !crate::delivery::is_version_of(&d, pin)
                && matches!((d.modified, pin.modified), (Some(there), Some(ours)) if there > ours)
        });
        Ok(if newer { Verdict::Superseded } else { Verdict::Go })
    }
}
