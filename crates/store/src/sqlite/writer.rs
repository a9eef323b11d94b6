//! The one writer of a process: a thread that gathers what waits, carries each batch out in a savepoint of one
//! transaction, commits once and answers every caller. Sixty-four callers so share one wait for the disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{deliveries, destinations, files, leases, open_writer, transfers};
use crate::{Batch, Committed, Error, ErrorKind, MAX_MUTATIONS, Mutation, Result};

/// Bounds how long one transaction keeps other processes out.
const GROUP_BATCHES: usize = 256;
const GROUP_ROWS: usize = 10_000;
/// Callers beyond it wait for room.
const QUEUE: usize = 1_024;

pub(super) type Read = Box<dyn FnOnce(&Connection) + Send>;

pub(super) enum Job {
    Commit(Request),
    /// Reads of an in-memory store, which has this one connection.
    Read(Read),
    Close(oneshot::Sender<()>),
}

pub(super) struct Request {
    pub(super) batch: Batch,
    pub(super) answer: oneshot::Sender<Result<Committed>>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) batches: AtomicU64,
    pub(super) commits: AtomicU64,
}

pub(super) struct Writer {
    /// `None` in memory.
    path: Option<PathBuf>,
    busy_limit: Duration,
    /// `None` after it could not be rolled back; the next group opens another.
    connection: Option<Connection>,
    counters: Arc<Counters>,
}

impl Writer {
    pub(super) fn start(
        connection: Connection,
        path: Option<PathBuf>,
        busy_limit: Duration,
        counters: Arc<Counters>,
    ) -> std::io::Result<mpsc::Sender<Job>> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let writer = Self { path, busy_limit, connection: Some(connection), counters };
        std::thread::Builder::new().name("store-writer".into()).spawn(move || writer.run(receiver))?;
        Ok(sender)
    }

    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.blocking_recv() {
            let mut group = Vec::new();
            let mut rows = 0;
            let mut next = Some(first);
            let mut other = None;
            while let Some(job) = next.take() {
                match job {
                    Job::Commit(request) => {
                        rows += request.batch.mutations.iter().map(Mutation::weight).sum::<usize>();
                        group.push(request);
                    }
                    job => {
                        other = Some(job);
                        break;
                    }
                }
                if group.len() < GROUP_BATCHES && rows < GROUP_ROWS {
                    next = jobs.try_recv().ok();
                }
            }
            self.commit(group);
            match other {
                Some(Job::Read(read)) => {
                    if let Some(connection) = &self.connection {
                        read(connection);
                    }
                }
                Some(Job::Close(done)) => {
                    drop(self.connection.take());
                    // Nobody waits if the caller gave up; the file is closed all the same.
                    let _ = done.send(());
                    return;
                }
                Some(Job::Commit(_)) | None => {}
            }
        }
    }

    fn commit(&mut self, group: Vec<Request>) {
        if group.is_empty() {
            return;
        }
        self.counters.batches.fetch_add(group.len() as u64, Ordering::Relaxed);
        let (batches, callers): (Vec<Batch>, Vec<_>) = group.into_iter().map(|request| (request.batch, request.answer)).unzip();
        let answers = match self.transact(&batches) {
            Ok(answers) => answers,
            // What did not fit together may fit alone: a large manifest must not fail the small receipts beside it.
            Err(error) if error.kind == ErrorKind::Full && batches.len() > 1 => {
                batches.chunks(1).map(|one| self.transact(one)?.pop().unwrap_or(Err(error.clone()))).collect()
            }
            Err(error) => vec![Err(error); batches.len()],
        };
        for (caller, answer) in callers.into_iter().zip(answers) {
            // A caller that went away does not undo what it asked for.
            let _ = caller.send(answer.map_err(|error| error.at("write to", || "the state file".into())));
        }
    }

    /// One transaction. `Err` means that nothing of the group was committed.
    fn transact(&mut self, batches: &[Batch]) -> Result<Vec<Result<Committed>>> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => match &self.path {
                Some(path) => open_writer(path, self.busy_limit)?,
                None => return Err(Error::bare(ErrorKind::Closed)),
            },
        };
        let result = carry_out(&connection, batches);
        if result.is_ok() {
            self.counters.commits.fetch_add(1, Ordering::Relaxed);
        } else if !connection.is_autocommit() && connection.execute_batch("ROLLBACK").is_err() {
            return result;
        }
        self.connection = Some(connection);
        result
    }
}

fn carry_out(connection: &Connection, batches: &[Batch]) -> Result<Vec<Result<Committed>>> {
    // IMMEDIATE, because a reader that turns writer is refused at once instead of waiting its turn.
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let mut answers = Vec::with_capacity(batches.len());
    for batch in batches {
        connection.prepare_cached("SAVEPOINT batch")?.execute([])?;
        let answer = apply(connection, batch);
        if connection.is_autocommit() {
            // A full disk or a failed read makes SQLite undo the whole transaction, the other batches with it.
            return Err(answer.err().unwrap_or_else(|| Error::bare(ErrorKind::Io).reason("the transaction was rolled back")));
        }
        if answer.is_err() {
            connection.prepare_cached("ROLLBACK TO batch")?.execute([])?;
        }
        connection.prepare_cached("RELEASE batch")?.execute([])?;
        answers.push(answer);
    }
    connection.prepare_cached("COMMIT")?.execute([])?;
    Ok(answers)
}

fn apply(c: &Connection, batch: &Batch) -> Result<Committed> {
    if batch.mutations.len() > MAX_MUTATIONS {
        let text = format!("{} mutations in one batch; at most {MAX_MUTATIONS}", batch.mutations.len());
        return Err(Error::new(ErrorKind::Invalid, "commit", "the batch").reason(text));
    }
    for guard in &batch.guards {
        leases::check(c, guard)?;
    }
    let mut committed = Committed::default();
    for mutation in &batch.mutations {
        apply_one(c, mutation, &mut committed).map_err(|error| error.at(mutation.operation(), || mutation.subject()))?;
    }
    Ok(committed)
}

fn apply_one(c: &Connection, mutation: &Mutation, committed: &mut Committed) -> Result<()> {
    match mutation {
        Mutation::CreateTransfer(record) => transfers::create(c, record),
        Mutation::SetTransferState { transfer, state, error, at, expect } => {
            transfers::set_state(c, transfer, *state, error.as_ref(), *at, expect.as_deref())
        }
        Mutation::SetTransferTotals { transfer, files_total, bytes_total, listed, at } => {
            transfers::set_totals(c, transfer, *files_total, *bytes_total, *listed, *at)
        }
        Mutation::StartRun { transfer, run, pid, at } => transfers::start_run(c, transfer, *run, *pid, *at),
        Mutation::DeleteTransfer { transfer } => transfers::delete(c, transfer),

        Mutation::AddFiles { transfer, files } => files::add(c, transfer, files),
        Mutation::ReplacePin { transfer, number, pin, size, at } => files::replace_pin(c, transfer, *number, pin, *size, *at),
        Mutation::BeginAttempt { transfer, number, attempt, epoch, at } => {
            files::begin_attempt(c, transfer, *number, *attempt, *epoch, *at)
        }
        Mutation::SetFileState { transfer, number, state, error, at } => {
            files::set_state(c, transfer, *number, *state, error.as_ref(), *at)
        }
        Mutation::SaveCheckpoint { transfer, number, attempt, epoch, checkpoint, bytes_done, at } => {
            files::save_checkpoint(c, transfer, *number, (*attempt, *epoch), checkpoint, *bytes_done, *at)
        }
        Mutation::SaveIntent { transfer, number, intent, at } => files::save_intent(c, transfer, *number, intent.as_deref(), *at),
        Mutation::FinishFile { transfer, number, state, receipt, bytes_sent, at, delivery } => {
            let (receipt, delivery) = (receipt.as_deref(), delivery.as_ref());
            files::finish(c, transfer, *number, &files::End { state: *state, receipt, bytes_sent: *bytes_sent, at: *at, delivery })
        }
        Mutation::SetOriginal { transfer, number, original, at } => files::set_original(c, transfer, *number, original, *at),
        Mutation::RemoveFiles { transfer, numbers } => files::remove(c, transfer, numbers),
        Mutation::MarkCollected { destination, path, transfer } => deliveries::mark_collected(c, destination, path, transfer),

        Mutation::AcquireLease { claim, now, take_over } => {
            committed.leases.push(leases::acquire(c, claim, *now, take_over.as_ref())?);
            Ok(())
        }
        Mutation::RenewLease { guard, expires_at } => leases::renew(c, guard, *expires_at),
        Mutation::ReleaseLease { guard } => leases::release(c, guard),

        Mutation::Park { destination, parked } => destinations::park(c, destination, parked),
        Mutation::Unpark { destination } => destinations::unpark(c, destination),
        Mutation::BreakerFailure { destination, threshold, open_until } => {
            destinations::breaker_failure(c, destination, *threshold, *open_until)
        }
        Mutation::BreakerSuccess { destination } => destinations::breaker_success(c, destination),
        Mutation::BreakerProbe { destination, now, open_until } => destinations::breaker_probe(c, destination, *now, *open_until),
        Mutation::SaveProfile { destination, profile } => destinations::save_profile(c, destination, profile.as_deref()),
    }
}
