//! The tasks of the workflow, one file for each duty: decisions become outputs and changes that are committed together
//! with the step. What moves bytes, keeps time and runs things are ports that the runtime answers.

mod cleanup;
mod gate;
mod moving;
mod notify;
mod outcome;
mod plan;
mod session;
#[cfg(test)]
mod session_tests;
mod step;
mod tickets;
mod validate;

use std::sync::Arc;

use async_trait::async_trait;
use integrations::TicketSystem;
use jiff::{SignedDuration, Timestamp};
use model::{ErrorClass, TransferId};
use store::{Batch, Delivering, Mutation, OutboxMessage, RequestRecord, Store, Wish};

pub use cleanup::size_category;
pub use gate::Governed;
pub use notify::NoticeWords;
pub use outcome::Outcome;
pub use plan::{WORKER_ABOVE, mover};
pub use session::{Minted, SessionKey};
pub use step::{Done, Step, Stopped, class_of};
pub use tickets::{TARGET as TICKETS, TicketWords};

use workflow::executor::Clock;

use crate::error::{Error, Result};
use crate::hindrance::Hindrance;
use crate::manifest::Totals;

/// The definition that all transfers run.
pub const DEFINITION: &str = include_str!("../../../../workflows/transfer.asl.json");

/// What comes after every end, in this order.
const TAIL: [&str; 3] = ["UpdateServiceNow", "NotifyUser", "CleanupAndLogout"];
/// What was told stays in the outbox for so long.
const KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What a transfer leaves at the destination when its run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nobody goes on with it: its temporary files are removed.
    Nothing,
    /// What can be gone on with stays.
    Unfinished,
}

/// Moves the bytes. Every call may come a second time, from this process or from the next one.
#[async_trait]
pub trait Ferry: Send + Sync {
    /// Takes the source into the manifest, unless an earlier call has: from here on its versions are pinned.
    async fn list(&self, transfer: &TransferId) -> Result<Totals, Stopped>;

    /// The destination lets us in. Files that an earlier run gave up are open again.
    async fn open(&self, transfer: &TransferId) -> Result<(), Stopped>;

    /// Sends until nothing is left, or for as long as one call may take; whether there is more. Having moved nothing is an
    /// error. `alive` is called again and again meanwhile.
    async fn send(&self, transfer: &TransferId, alive: &(dyn Fn() + Send + Sync)) -> Result<bool, Stopped>;

    /// Tries again to publish what is verified, then publishes what comes last; the originals go as agreed.
    async fn finish(&self, transfer: &TransferId) -> Result<(), Stopped>;

    /// Lets the transfer go. What cannot be removed now is found later.
    async fn release(&self, transfer: &TransferId, keep: Keep);
}

#[derive(Debug, Clone)]
pub struct TaskSettings {
    /// How long a session lives; `store::LONGEST_SESSION` at most.
    pub session: SignedDuration,
    /// A transfer does not begin on an older user ticket.
    pub ticket_max_age: SignedDuration,
    /// Targets of the outbox that every notice goes to.
    pub notifiers: Vec<String>,
}

/// Everything that the tasks need.
pub struct Tasks {
    pub store: Store,
    pub ferry: Arc<dyn Ferry>,
    pub tickets: Arc<dyn TicketSystem>,
    pub clock: Arc<dyn Clock>,
    pub key: SessionKey,
    pub minted: Minted,
    pub settings: TaskSettings,
}

impl std::fmt::Debug for Tasks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tasks({:?})", self.settings)
    }
}

/// Whether a transfer that is under way may go on: nobody has wished otherwise, and its connector may be used.
pub async fn may_go_on(store: &Store, transfer: &TransferId, now: Timestamp) -> Result<(), Stopped> {
    let request = find(store, transfer, now).await?;
    obeyed(&request)?;
    match Hindrance::at(store, &request.connector, now).await? {
        None => Ok(()),
        Some(hindrance) => Err(Stopped::Held(hindrance.error())),
    }
}

fn obeyed(request: &RequestRecord) -> Result<(), Stopped> {
    match request.wish {
        Wish::None => Ok(()),
        wish => Err(Stopped::Asked(wish)),
    }
}

async fn find(store: &Store, transfer: &TransferId, now: Timestamp) -> Result<RequestRecord> {
    let request = store.request(transfer, now).await?;
    request.map(|request| request.record).ok_or_else(|| Error::new(ErrorClass::Internal, format!("transfer {transfer} was not asked for")))
}

impl Tasks {
    /// Carries out a step. `alive` is called from time to time by one that takes long.
    pub async fn run(&self, step: &Step, alive: &(dyn Fn() + Send + Sync)) -> Result<Done, Stopped> {
        let request = self.request(step).await?;
        match step.name.as_str() {
            "UpdateServiceNow" => return self.update_tickets(step, &request).await,
            "NotifyUser" => return self.notify(step).await,
            "CleanupAndLogout" => return self.cleanup(step, &request).await,
            _ => {}
        }
        match step.name.as_str() {
            // What is delivered already need not wait until the connector may be used again.
            "FinishTransfer" | "FinishChunks" => obeyed(&request)?,
            _ => self.obey(step).await?,
        }
        match step.name.as_str() {
            "ValidateInput" => self.validate(step, &request).await,
            "AuthenticateSSO" => self.authenticate(step, &request).await,
            "DownloadFromS3" => self.plan(step, &request).await,
            "OpenTransfer" | "OpenChunks" => self.open(step).await,
            "SendSlice" | "SendChunk" => self.send(step, alive).await,
            "SendByWorker" | "SendChunksByWorker" => self.send_all(step, alive).await,
            "FinishTransfer" | "FinishChunks" => self.finish(step, &request).await,
            other => Err(Error::new(ErrorClass::Internal, format!("there is no task for the state {other}")).into()),
        }
    }

    /// The tail of an execution that ended without it: aborted, out of time, or by a fault of the definition. The same
    /// keys are used, so that what it has said already is not said again.
    pub async fn tail(&self, transfer: &TransferId, run: u32, error: &str, cause: &str) -> Result<(), Stopped> {
        let data = serde_json::json!({"error": {"Error": error, "Cause": cause}});
        for name in TAIL {
            let (transfer, execution) = (transfer.clone(), crate::binding::execution_name(transfer, run));
            let step = Step { name: name.to_owned(), transfer, run, execution, data: data.clone() };
            let done = self.run(&step, &|| {}).await?;
            let mut batch = Batch::new();
            batch.extend(done.effects);
            if !batch.is_empty() {
                self.store.commit(batch).await?;
            }
        }
        Ok(())
    }

    async fn request(&self, step: &Step) -> Result<RequestRecord> {
        find(&self.store, &step.transfer, self.clock.wall()).await
    }

    /// What has happened in the meantime goes before everything but the tail.
    pub(crate) async fn obey(&self, step: &Step) -> Result<(), Stopped> {
        may_go_on(&self.store, &step.transfer, self.clock.wall()).await
    }

    /// Something to be told outside, once however often the step runs.
    fn message(&self, step: &Step, purpose: &str, to: (&str, &str), body: String, delivering: Delivering) -> Result<Mutation> {
        let at = self.clock.wall();
        let expires_at = at.checked_add(KEPT).map_err(|e| Error::new(ErrorClass::Internal, e.to_string()))?;
        let (target, subject) = (to.0.to_owned(), to.1.to_owned());
        let message = OutboxMessage { key: step.key(purpose), target, subject, body, delivering, at, expires_at };
        Ok(Mutation::AddOutbox(Box::new(message)))
    }
}
