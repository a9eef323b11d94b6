//! A batch: mutations that happen whole or not at all, perhaps under the guard of leases.

use jiff::Timestamp;
use model::ErrorClass;

use crate::{Lease, Mutation, TicketRecord};

/// The most mutations of one batch: what a DynamoDB transaction holds, so that both stores keep one contract.
pub const MAX_MUTATIONS: usize = 100;

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

/// Mutations that happen together or not at all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    pub(crate) guards: Vec<LeaseGuard>,
    pub(crate) by: Option<String>,
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

    /// The user who asked for it, as the audit has it. Otherwise the service did it by itself.
    #[must_use = "a batch does nothing until it is committed"]
    pub fn by(mut self, user: &str) -> Self {
        self.by = Some(user.to_owned());
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
    /// The tickets that the batch opened or found open, in its order.
    pub tickets: Vec<TicketRecord>,
    /// Rows that its sweeps removed; as many as their limit means that there may be more.
    pub swept: u64,
}
