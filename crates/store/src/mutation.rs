//! What can be written: typed mutations, each with its precondition. Their comments are the contract of every store.

use jiff::Timestamp;
use model::audit::Head;
use model::{FileNumber, FileState, RemotePath, TicketState, TransferId, TransferState};
use serde_json::{Map, Value};

use crate::{
    CachedObject, CreateExecution, Delivery, Failure, FileRecord, GrantRecord, IdempotencyRecord, LeaseClaim, LeaseGuard, Lesson,
    NewTicket, OutboxKey, OutboxMessage, Parked, Preferences, RequestRecord, SaveStep, SendFailure, SessionRecord, TicketNote,
    TransferRecord, Waiting, Wish,
};

/// The most rows of one `AddFiles` or `RemoveFiles`.
pub const MAX_FILES: usize = 1_000;
/// The most rows of one `Sweep`.
pub const MAX_SWEEP: u32 = 1_000;

/// One change. A record that is named and missing is `NotFound`; a precondition that does not hold is `Conflict`.
#[derive(Debug, Clone, PartialEq)]
pub enum Mutation {
    /// `Conflict` if the id is taken.
    CreateTransfer(TransferRecord),
    /// Replaces the error; sets `finished_at` for terminal states and clears it for others.
    /// `Conflict` unless the present state is in `expect`.
    SetTransferState {
        transfer: TransferId,
        state: TransferState,
        error: Option<Failure>,
        at: Timestamp,
        expect: Option<Vec<TransferState>>,
    },
    SetTransferTotals {
        transfer: TransferId,
        files_total: u64,
        bytes_total: u64,
        listed: bool,
        at: Timestamp,
    },
    /// `Conflict` unless `run` follows the present one.
    StartRun {
        transfer: TransferId,
        run: u32,
        pid: u32,
        at: Timestamp,
    },
    /// The transfer must be terminal; its files go with it, its deliveries stay.
    DeleteTransfer {
        transfer: TransferId,
    },

    /// At most [`MAX_FILES`], all put into this transfer whatever their own field says. `Conflict` names the path and
    /// both keys if two keys meet in one path.
    AddFiles {
        transfer: TransferId,
        files: Vec<FileRecord>,
    },
    /// The source has another version: a new attempt from nothing, pending, also where an earlier version was delivered;
    /// that one's receipt stays until the new version has its own.
    ReplacePin {
        transfer: TransferId,
        number: FileNumber,
        pin: String,
        size: u64,
        at: Timestamp,
    },
    /// The file is in progress by this writer. A new attempt drops checkpoint and intent, a new epoch keeps them.
    /// Neither ever goes back, and a delivered file is not begun again.
    BeginAttempt {
        transfer: TransferId,
        number: FileNumber,
        attempt: u32,
        epoch: u32,
        at: Timestamp,
    },
    /// Replaces the error. Checkpoint and intent stay.
    SetFileState {
        transfer: TransferId,
        number: FileNumber,
        state: FileState,
        error: Option<Failure>,
        at: Timestamp,
    },
    /// `Conflict` if the file is finished, or has been at a later attempt or epoch: then a zombie writes. A later one
    /// than the recorded is recorded.
    SaveCheckpoint {
        transfer: TransferId,
        number: FileNumber,
        attempt: u32,
        epoch: u32,
        checkpoint: String,
        bytes_done: u64,
        at: Timestamp,
    },
    /// `Conflict` if the file is finished.
    SaveIntent {
        transfer: TransferId,
        number: FileNumber,
        intent: Option<String>,
        at: Timestamp,
    },
    /// Ends the file: clears checkpoint, intent and error, keeps the receipt, records the delivery. Saying it again
    /// changes nothing; another end for a file that succeeded is a `Conflict`.
    FinishFile {
        transfer: TransferId,
        number: FileNumber,
        state: FileState,
        receipt: Option<String>,
        bytes_sent: u64,
        at: Timestamp,
        delivery: Option<Delivery>,
    },
    /// What became of the source object of a delivered file. `Conflict` if the file was not delivered.
    SetOriginal {
        transfer: TransferId,
        number: FileNumber,
        original: String,
        at: Timestamp,
    },
    /// Removes those of the numbers that have not succeeded; at most [`MAX_FILES`].
    RemoveFiles {
        transfer: TransferId,
        numbers: Vec<FileNumber>,
    },
    /// The partner took away what `transfer` published there. `NotFound` if a newer delivery took its place.
    MarkCollected {
        destination: String,
        path: RemotePath,
        transfer: TransferId,
    },

    /// `Conflict` with the present lease while its holder lives, unless `take_over` names exactly that holder and
    /// epoch, which the caller has seen dead. A lease is not entered twice, not even by its holder. The epoch is
    /// always one more than the last, also after a release; [`crate::Committed::leases`] has it.
    AcquireLease {
        claim: LeaseClaim,
        now: Timestamp,
        take_over: Option<(String, u32)>,
    },
    /// `LeaseLost` unless it is still held so.
    RenewLease {
        guard: LeaseGuard,
        expires_at: Timestamp,
    },
    /// `LeaseLost` unless it is still held so.
    ReleaseLease {
        guard: LeaseGuard,
    },

    Park {
        destination: String,
        parked: Parked,
    },
    Unpark {
        destination: String,
    },
    /// Counts one failure; from `threshold` in a row on, the breaker is open until `open_until`.
    BreakerFailure {
        destination: String,
        threshold: u32,
        open_until: Timestamp,
    },
    BreakerSuccess {
        destination: String,
    },
    /// Claims the one probe of a breaker whose time is over, and keeps it open for others until `open_until`.
    /// `Conflict` if it is not open, or still is at `now`. One that is to be open longer than that began under another clock.
    BreakerProbe {
        destination: String,
        now: Timestamp,
        open_until: Timestamp,
    },
    /// What was learnt of the server, or `None` to forget it.
    SaveProfile {
        destination: String,
        profile: Option<String>,
    },

    /// `Conflict` if the name is taken.
    CreateExecution(Box<CreateExecution>),
    /// One step, whole. `Conflict` unless `last_event` is what the step began with: then another has gone on.
    SaveStep(Box<SaveStep>),
    /// With its frames and its history. `Conflict` unless it has ended.
    DeleteExecution {
        name: String,
    },

    /// Makes an existing transfer governed. `Conflict` if it is already. The priority is at most 9.
    CreateRequest(Box<RequestRecord>),
    /// `Conflict` if it was approved already.
    ApproveRequest {
        transfer: TransferId,
        by: String,
        at: Timestamp,
    },
    /// Sets those that are given.
    SetTickets {
        transfer: TransferId,
        user: Option<String>,
        audit: Option<String>,
        at: Timestamp,
    },
    /// `Conflict` unless the present wish is in `expect`, or, for any other wish than none, if the transfer has ended.
    SetWish {
        transfer: TransferId,
        wish: Wish,
        expect: Option<Vec<Wish>>,
        at: Timestamp,
    },
    SetWaiting {
        transfer: TransferId,
        waiting: Option<Waiting>,
        at: Timestamp,
    },
    SetRequestExecution {
        transfer: TransferId,
        execution: Option<String>,
        at: Timestamp,
    },
    /// No change if the key stands for this transfer already. `Conflict` with the present record if it stands for
    /// another one, until that record has expired.
    PutIdempotency(IdempotencyRecord),

    /// `Conflict` if the token is known; `Invalid` if it lasts longer than [`crate::LONGEST_SESSION`] or was used before.
    CreateSession(Box<SessionRecord>),
    /// `Conflict` if it is over at `now`, was given for another spec, or was used by another execution. The same
    /// execution passes again until it is over; after that it rests on its grant.
    ConsumeSession {
        token_hash: String,
        execution: String,
        spec_hash: String,
        now: Timestamp,
    },
    /// Succeeds if it is gone already.
    DeleteSession {
        token_hash: String,
    },
    /// `Conflict` if the transfer has a grant of another user or spec; one of the same stays as it is.
    PutGrant(Box<GrantRecord>),
    /// Succeeds if there is none.
    EndGrant {
        transfer: TransferId,
    },

    /// `Conflict` with how many are taken, if as many as `limit` are. Who holds one passes, and has still one.
    TakeSlot {
        connector: String,
        holder: TransferId,
        limit: u32,
        at: Timestamp,
    },
    /// Succeeds if it is not held.
    ReleaseSlot {
        connector: String,
        holder: TransferId,
    },

    /// No change if the key is there, whatever became of it.
    AddOutbox(Box<OutboxMessage>),
    /// Counts an attempt. `Conflict` unless it waits, its time has come or lies beyond [`crate::LONGEST_PAUSE`], and nothing
    /// earlier for the same target and subject waits, is claimed or was refused.
    ClaimOutbox {
        key: OutboxKey,
        by: String,
        now: Timestamp,
        until: Timestamp,
    },
    /// The truth even from one whose claim has lapsed; saying it again changes nothing. `Conflict` if it was never claimed.
    MarkSent {
        key: OutboxKey,
        at: Timestamp,
    },
    /// `Conflict` unless this attempt is the present claim. `Invalid` where `how` is not for its kind of target.
    MarkFailed {
        key: OutboxKey,
        attempt: u32,
        how: SendFailure,
        error: String,
        at: Timestamp,
    },
    /// Claims whose time is over or lies beyond [`crate::LONGEST_PAUSE`], and, if `alone` names a claimer, those of everybody else: it must be the only one alive.
    /// At-least-once messages wait again from `now` on, at-most-once ones are `unconfirmed`.
    LapseClaims {
        now: Timestamp,
        alone: Option<String>,
    },
    /// A person sends it again: it waits from `at` on. `Conflict` unless it was refused or is unconfirmed.
    RetryOutbox {
        key: OutboxKey,
        at: Timestamp,
    },
    /// A person gives it up: it is gone, and what comes later for its subject goes on. `Conflict` while it is claimed.
    DropOutbox {
        key: OutboxKey,
        at: Timestamp,
    },

    /// Answers in [`crate::Committed::tickets`], with the present ticket if the correlation is known: then no change.
    OpenTicket(Box<NewTicket>),
    /// `Conflict` unless the present state is in `expect`.
    SetTicketState {
        number: u64,
        state: TicketState,
        expect: Option<Vec<TicketState>>,
        at: Timestamp,
    },
    /// No change if the ticket has a note of this key.
    AddNote {
        number: u64,
        note: TicketNote,
    },

    /// The next version. `Conflict` with the present version unless it is `expect`; `None`: there is none.
    PutConnector {
        name: String,
        body: String,
        expect: Option<u32>,
        by: String,
        at: Timestamp,
    },
    /// `Conflict` unless it has this version, or while a transfer that has not ended is for it.
    RemoveConnector {
        name: String,
        expect: u32,
        by: String,
        at: Timestamp,
    },
    /// As `PutConnector`.
    PutSource {
        name: String,
        body: String,
        expect: Option<u32>,
        by: String,
        at: Timestamp,
    },
    /// As `RemoveConnector`.
    RemoveSource {
        name: String,
        expect: u32,
        by: String,
        at: Timestamp,
    },
    /// As `PutConnector`.
    PutSecret {
        name: String,
        sealed: Vec<u8>,
        expect: Option<u32>,
        by: String,
        at: Timestamp,
    },
    /// `Conflict` unless it has this version. Who refers to it is for the caller to know.
    RemoveSecret {
        name: String,
        expect: u32,
        by: String,
        at: Timestamp,
    },

    /// Counts every time: it belongs into the batch of the step that learnt it.
    AddLearning(Lesson),
    /// Takes the place of what is remembered of the same object.
    PutCached(CachedObject),
    /// Succeeds if nothing is remembered.
    DropCached {
        key: String,
    },
    /// `Invalid` beyond [`crate::LONGEST_CONTEXT`].
    PutPreferences(Preferences),
    /// The next exchange of the user's conversation. `Invalid` beyond [`crate::LONGEST_CONTEXT`].
    AddExchange {
        user: String,
        body: String,
        at: Timestamp,
        expires_at: Timestamp,
    },
    /// Preferences and conversation. Succeeds if there is nothing.
    ForgetUser {
        user: String,
        at: Timestamp,
    },

    /// An entry of the audit for what no mutation shows: into the chain of the transfer, or of the day. What mutations show
    /// they enter themselves.
    AddAudit {
        transfer: Option<TransferId>,
        event: String,
        detail: Map<String, Value>,
        at: Timestamp,
    },
    /// A signed line over these heads, which count as sealed with it. At most [`model::audit::MAX_HEADS`]. `Conflict` unless
    /// the number is higher than the last.
    PutSeal {
        number: u64,
        line: String,
        heads: Vec<Head>,
    },
    /// Removes at most about `limit` rows of what has expired by `now`: sessions, remembered objects, idempotency keys, what is
    /// remembered of users, sent and unconfirmed messages, requests whose transfer has ended together with their executions and grants. Transfers, files,
    /// receipts, deliveries and the audit stay. At most [`MAX_SWEEP`].
    Sweep {
        now: Timestamp,
        limit: u32,
    },
}
