//! The one writer of a process: a thread that gathers what waits, carries each batch out in a savepoint of one
//! transaction, commits once and answers every caller. Sixty-four callers so share one wait for the disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::Options;
use super::settings::Kind;
use super::{
    audit, contexts, deliveries, destinations, executions, files, learning, leases, open_writer, outbox, requests, sessions, settings,
    slots, tickets, transfers,
};
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
    options: Options,
    /// `None` after it could not be rolled back; the next group opens another.
    connection: Option<Connection>,
    counters: Arc<Counters>,
}

impl Writer {
    pub(super) fn start(
        connection: Connection,
        path: Option<PathBuf>,
        options: Options,
        counters: Arc<Counters>,
    ) -> std::io::Result<mpsc::Sender<Job>> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let writer = Self { path, options, connection: Some(connection), counters };
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
                Some(path) => open_writer(path, &self.options)?,
                None => return Err(Error::bare(ErrorKind::Closed)),
            },
        };
        let result = carry_out(&connection, batches);
        if result.is_ok() {
            self.counters.commits.fetch_add(1, Ordering::Relaxed);
            if !self.options.commit_delay.is_zero() {
                std::thread::sleep(self.options.commit_delay);
            }
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
        audited(c, mutation, batch.by.as_deref(), &mut committed).map_err(|error| error.at(mutation.operation(), || mutation.subject()))?;
    }
    Ok(committed)
}

fn audited(c: &Connection, mutation: &Mutation, by: Option<&str>, committed: &mut Committed) -> Result<()> {
    let before = audit::before(c, mutation)?;
    apply_one(c, mutation, committed)?;
    match before {
        Some(before) => audit::enter(c, mutation, before, by),
        None => Ok(()),
    }
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

        Mutation::CreateExecution(new) => executions::create(c, new),
        Mutation::SaveStep(step) => executions::save_step(c, step),
        Mutation::DeleteExecution { name } => executions::delete(c, name),

        Mutation::CreateRequest(record) => requests::create(c, record),
        Mutation::ApproveRequest { transfer, by, at } => requests::approve(c, transfer, by, *at),
        Mutation::SetTickets { transfer, user, audit, at } => requests::set_tickets(c, transfer, user.as_deref(), audit.as_deref(), *at),
        Mutation::SetWish { transfer, wish, expect, at } => requests::set_wish(c, transfer, *wish, expect.as_deref(), *at),
        Mutation::SetWaiting { transfer, waiting, at } => requests::set_waiting(c, transfer, waiting.as_ref(), *at),
        Mutation::SetRequestExecution { transfer, execution, at } => requests::set_execution(c, transfer, execution.as_deref(), *at),
        Mutation::PutIdempotency(record) => requests::put_idempotency(c, record),

        Mutation::CreateSession(session) => sessions::create(c, session),
        Mutation::ConsumeSession { token_hash, execution, spec_hash, now } => sessions::consume(c, token_hash, execution, spec_hash, *now),
        Mutation::DeleteSession { token_hash } => sessions::delete(c, token_hash),
        Mutation::PutGrant(grant) => sessions::put_grant(c, grant),
        Mutation::EndGrant { transfer } => sessions::end_grant(c, transfer.as_str()),

        Mutation::TakeSlot { connector, holder, limit, at } => slots::take(c, connector, holder, *limit, *at),
        Mutation::ReleaseSlot { connector, holder } => slots::release(c, connector, holder),

        Mutation::AddOutbox(message) => outbox::add(c, message),
        Mutation::ClaimOutbox { key, by, now, until } => outbox::claim(c, key, by, *now, *until),
        Mutation::MarkSent { key, at } => outbox::mark_sent(c, key, *at),
        Mutation::MarkFailed { key, attempt, how, error, at } => outbox::mark_failed(c, key, *attempt, *how, error, *at),
        Mutation::LapseClaims { now, alone } => outbox::lapse(c, *now, alone.as_deref()),
        Mutation::RetryOutbox { key, at } => outbox::retry(c, key, *at),
        Mutation::DropOutbox { key, .. } => outbox::give_up(c, key),

        Mutation::OpenTicket(ticket) => {
            committed.tickets.push(tickets::open(c, ticket)?);
            Ok(())
        }
        Mutation::SetTicketState { number, state, expect, at } => tickets::set_state(c, *number, *state, expect.as_deref(), *at),
        Mutation::AddNote { number, note } => tickets::add_note(c, *number, note),

        Mutation::PutConnector { name, body, expect, by, at } => settings::put(c, Kind::Connector, name, body, *expect, (by, *at)),
        Mutation::RemoveConnector { name, expect, .. } => settings::remove(c, Kind::Connector, name, *expect),
        Mutation::PutSource { name, body, expect, by, at } => settings::put(c, Kind::Source, name, body, *expect, (by, *at)),
        Mutation::RemoveSource { name, expect, .. } => settings::remove(c, Kind::Source, name, *expect),
        Mutation::PutSecret { name, sealed, expect, by, at } => settings::put(c, Kind::Secret, name, sealed, *expect, (by, *at)),
        Mutation::RemoveSecret { name, expect, .. } => settings::remove(c, Kind::Secret, name, *expect),

        Mutation::AddLearning(lesson) => learning::add(c, lesson),
        Mutation::PutCached(object) => learning::put_cached(c, object),
        Mutation::DropCached { key } => learning::drop_cached(c, key),
        Mutation::PutPreferences(preferences) => contexts::put_preferences(c, preferences),
        Mutation::AddExchange { user, body, at, expires_at } => contexts::add_exchange(c, user, body, *at, *expires_at),
        Mutation::ForgetUser { user, .. } => contexts::forget(c, user),

        // Nothing but its entry.
        Mutation::AddAudit { .. } => Ok(()),
        Mutation::PutSeal { number, line, heads } => audit::put_seal(c, *number, line, heads),
        Mutation::Sweep { now, limit } => {
            committed.swept += learning::sweep(c, *now, *limit)?;
            Ok(())
        }
    }
}
