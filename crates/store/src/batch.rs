//! What can be written: typed mutations, each with its precondition, gathered in a `Batch` that happens whole or not at all.

use jiff::Timestamp;
use model::{ErrorClass, FileNumber, FileState, RemotePath, TransferId, TransferState};

use crate::{Delivery, FileRecord, Lease, Parked, TransferRecord};

/// The most mutations of one batch: what a DynamoDB transaction holds, so that both stores keep one contract.
pub const MAX_MUTATIONS: usize = 100;
/// The most rows of one `AddFiles` or `RemoveFiles`.
pub const MAX_FILES: usize = 1_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub class: ErrorClass,
    pub text: String,
}

/// Who asks for a lease, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseClaim {
    pub resource: String,
    pub holder: String,
    pub pid: u32,
    pub process_start: String,
    pub host: String,
    pub expires_at: Timestamp,
}

/// A batch under this guard fails with `LeaseLost` unless the lease has exactly this holder and epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseGuard {
    pub resource: String,
    pub holder: String,
    pub epoch: u32,
}

impl From<&Lease> for LeaseGuard {
    fn from(lease: &Lease) -> Self {
        Self { resource: lease.resource.clone(), holder: lease.holder.clone(), epoch: lease.epoch }
    }
}

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
    /// always one more than the last, also after a release; [`Committed::leases`] has it.
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
    /// `Conflict` if it is not open, or still is at `now`.
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
}

/// Mutations that happen together or not at all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    pub(crate) guards: Vec<LeaseGuard>,
    pub(crate) mutations: Vec<Mutation>,
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn guarded_by(mut self, guard: LeaseGuard) -> Self {
        self.guards.push(guard);
        self
    }

    #[must_use = "a batch does nothing until it is committed"]
    pub fn push(mut self, mutation: Mutation) -> Self {
        self.mutations.push(mutation);
        self
    }

    pub fn len(&self) -> usize {
        self.mutations.len()
    }

    pub fn is_empty(&self) -> bool {
        self.mutations.is_empty()
    }
}

impl Extend<Mutation> for Batch {
    fn extend<I: IntoIterator<Item = Mutation>>(&mut self, mutations: I) {
        self.mutations.extend(mutations);
    }
}

impl From<Mutation> for Batch {
    fn from(mutation: Mutation) -> Self {
        Self::new().push(mutation)
    }
}

/// What a commit answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// The leases that the batch acquired, in its order.
    pub leases: Vec<Lease>,
}

impl Mutation {
    /// The words of an error about it: what was done, to what.
    pub(crate) fn operation(&self) -> &'static str {
        match self {
            Self::CreateTransfer(_) => "record",
            Self::SetTransferState { .. } | Self::SetFileState { .. } => "set the state of",
            Self::SetTransferTotals { .. } => "record the totals of",
            Self::StartRun { .. } => "start a run of",
            Self::DeleteTransfer { .. } => "delete",
            Self::AddFiles { .. } => "add files to",
            Self::ReplacePin { .. } => "replace the source version of",
            Self::BeginAttempt { .. } => "begin an attempt of",
            Self::SaveCheckpoint { .. } => "save the checkpoint of",
            Self::SaveIntent { .. } => "save the intent of",
            Self::FinishFile { .. } => "finish",
            Self::SetOriginal { .. } => "record the original of",
            Self::RemoveFiles { .. } => "remove files from",
            Self::MarkCollected { .. } => "mark as collected",
            Self::AcquireLease { .. } => "acquire the lease on",
            Self::RenewLease { .. } => "renew the lease on",
            Self::ReleaseLease { .. } => "release the lease on",
            Self::Park { .. } => "park",
            Self::Unpark { .. } => "unpark",
            Self::BreakerFailure { .. } | Self::BreakerSuccess { .. } | Self::BreakerProbe { .. } => "record the breaker of",
            Self::SaveProfile { .. } => "save the profile of",
        }
    }

    pub(crate) fn subject(&self) -> String {
        match self {
            Self::CreateTransfer(TransferRecord { id: transfer, .. })
            | Self::SetTransferState { transfer, .. }
            | Self::SetTransferTotals { transfer, .. }
            | Self::StartRun { transfer, .. }
            | Self::DeleteTransfer { transfer }
            | Self::AddFiles { transfer, .. }
            | Self::RemoveFiles { transfer, .. } => format!("transfer {transfer}"),
            Self::ReplacePin { transfer, number, .. }
            | Self::BeginAttempt { transfer, number, .. }
            | Self::SetFileState { transfer, number, .. }
            | Self::SaveCheckpoint { transfer, number, .. }
            | Self::SaveIntent { transfer, number, .. }
            | Self::FinishFile { transfer, number, .. }
            | Self::SetOriginal { transfer, number, .. } => format!("file {number} of transfer {transfer}"),
            Self::MarkCollected { path, .. } => path.as_str().to_owned(),
            Self::AcquireLease { claim, .. } => claim.resource.clone(),
            Self::RenewLease { guard, .. } | Self::ReleaseLease { guard } => guard.resource.clone(),
            Self::Park { destination, .. }
            | Self::Unpark { destination }
            | Self::BreakerFailure { destination, .. }
            | Self::BreakerSuccess { destination }
            | Self::BreakerProbe { destination, .. }
            | Self::SaveProfile { destination, .. } => destination.clone(),
        }
    }

    /// How much work it is for the one writer, in rows.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::AddFiles { files, .. } => files.len().max(1),
            Self::RemoveFiles { numbers, .. } => numbers.len().max(1),
            _ => 1,
        }
    }
}
