//! Beginning, continuing and ending a transfer: which record a command belongs to, and who holds it.

use jiff::{SignedDuration, Timestamp};
use model::{ErrorClass, RemotePath, TransferId, TransferState};
use store::{Batch, Conflict, Lease, LeaseClaim, LeaseGuard, Mutation, Store, TransferRecord};

use crate::error::{Error, Result};
use crate::spec::CopySpec;

/// How long a lease lasts without being renewed; a process that is stopped for longer is taken over.
pub const LEASE: SignedDuration = SignedDuration::from_secs(30);

/// This process, as leases name it.
#[derive(Debug, Clone)]
pub struct Holder {
    pub name: String,
    pub pid: u32,
    /// Boot and start time: with the pid they tell a living process from a recycled number.
    pub process_start: String,
    pub host: String,
    /// How long its leases last without being renewed; `LEASE` but in tests.
    pub lease: SignedDuration,
}

/// A transfer that this process holds.
#[derive(Debug, Clone)]
pub struct Held {
    pub record: TransferRecord,
    pub lease: Lease,
    /// It was begun by an earlier command and is continued.
    pub resumed: bool,
}

impl Held {
    pub fn guard(&self) -> LeaseGuard {
        LeaseGuard::from(&self.lease)
    }
}

/// Two commands with the same source, destination and naming are the same copy.
pub fn identity(spec: &CopySpec, destination: &str) -> String {
    let options = &spec.options;
    let endpoint = spec.s3.endpoint.as_deref().unwrap_or("");
    let text = [
        "copy",
        endpoint,
        &spec.source,
        destination,
        options.name.as_str(),
        options.temp_name.as_str(),
        options.publish.as_str(),
        options.files_from.as_deref().unwrap_or(""),
    ]
    .join("\n");
    data_encoding::HEXLOWER.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()).as_ref())
}

pub fn new_id() -> Result<TransferId> {
    let mut bytes = [0u8; 10];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::new(ErrorClass::Internal, "the system gave no randomness for a transfer id"))?;
    Ok(TransferId::from_random(bytes))
}

/// Takes the unfinished transfer of the same identity, or begins a new one. `dead` says whether a holder is gone.
pub async fn begin(
    store: &Store,
    spec: &CopySpec,
    destination: &str,
    holder: &Holder,
    now: Timestamp,
    dead: impl Fn(&Lease) -> bool,
) -> Result<Held> {
    let identity = identity(spec, destination);
    // Two commands started at the same moment must not both create a record.
    let door = format!("copy:{identity}");
    let entered = LeaseGuard::from(&acquire(store, &door, None, holder, now, &dead).await?);
    // Whoever was stopped inside the door for so long that another one went through it must not go on in there.
    let outcome = match unfinished(store, &identity).await {
        Ok(Some(record)) => take_through(store, record, Some(&entered), holder, now, &dead).await,
        Ok(None) => create(store, spec, &identity, destination, &entered, holder, now).await,
        Err(error) => Err(error),
    };
    match store.commit(Mutation::ReleaseLease { guard: entered }).await.map_err(Error::from) {
        Err(error) if error.class != ErrorClass::LeaseLost => Err(error),
        _ => outcome,
    }
}

async fn unfinished(store: &Store, identity: &str) -> Result<Option<TransferRecord>> {
    let query = store::TransferQuery { identity: Some(identity.to_owned()), limit: 1, ..Default::default() };
    let newest = store.transfers(query).await?.into_iter().next();
    Ok(newest.filter(|t| is_open(t.state)))
}

/// Whether running the command again continues this transfer instead of beginning another one.
pub fn is_open(state: TransferState) -> bool {
    !matches!(state, TransferState::Completed | TransferState::Cancelled)
}

async fn create(
    store: &Store,
    spec: &CopySpec,
    identity: &str,
    destination: &str,
    entered: &LeaseGuard,
    holder: &Holder,
    now: Timestamp,
) -> Result<Held> {
    let id = new_id()?;
    let spec_text =
        serde_json::to_string(spec).map_err(|e| Error::new(ErrorClass::Internal, format!("the request cannot be stored: {e}")))?;
    let record = TransferRecord {
        id: id.clone(),
        run: 1,
        identity: identity.to_owned(),
        source: spec.source.clone(),
        destination: destination.to_owned(),
        spec: spec_text,
        state: TransferState::InProgress,
        error_class: None,
        error_text: None,
        files_total: 0,
        bytes_total: 0,
        listed: false,
        pid: holder.pid,
        created_at: now,
        updated_at: now,
        finished_at: None,
    };
    let claim = claim(&lease_name(&id), holder, now)?;
    let batch = Batch::new().guarded_by(entered.clone()).push(Mutation::CreateTransfer(record.clone())).push(Mutation::AcquireLease {
        claim,
        now,
        take_over: None,
    });
    let committed = store.commit(batch).await?;
    let lease = committed.leases.into_iter().next().ok_or_else(|| Error::new(ErrorClass::Internal, "the store gave no lease"))?;
    Ok(Held { record, lease, resumed: false })
}

/// Continues a transfer under a new epoch.
pub async fn take(store: &Store, record: TransferRecord, holder: &Holder, now: Timestamp, dead: impl Fn(&Lease) -> bool) -> Result<Held> {
    take_through(store, record, None, holder, now, &dead).await
}

async fn take_through(
    store: &Store,
    record: TransferRecord,
    entered: Option<&LeaseGuard>,
    holder: &Holder,
    now: Timestamp,
    dead: &impl Fn(&Lease) -> bool,
) -> Result<Held> {
    let lease = acquire(store, &lease_name(&record.id), entered, holder, now, dead).await?;
    let guard = LeaseGuard::from(&lease);
    let batch = Batch::new().guarded_by(guard).push(Mutation::SetTransferState {
        transfer: record.id.clone(),
        state: TransferState::InProgress,
        error: None,
        at: now,
        expect: None,
    });
    store.commit(batch).await?;
    // What the record says now, not what it said before the lease was ours.
    let record =
        store.transfer(&record.id).await?.ok_or_else(|| Error::new(ErrorClass::Internal, format!("transfer {} is gone", record.id)))?;
    Ok(Held { record, lease, resumed: true })
}

/// Takes the lease on something that is not a transfer, for as long as the caller renews it.
pub async fn hold(store: &Store, resource: &str, holder: &Holder, now: Timestamp, dead: &impl Fn(&Lease) -> bool) -> Result<Lease> {
    acquire(store, resource, None, holder, now, dead).await
}

async fn acquire(
    store: &Store,
    resource: &str,
    entered: Option<&LeaseGuard>,
    holder: &Holder,
    now: Timestamp,
    dead: &impl Fn(&Lease) -> bool,
) -> Result<Lease> {
    let claim = claim(resource, holder, now)?;
    let ask = |take_over| {
        let batch = entered.map_or_else(Batch::new, |guard| Batch::new().guarded_by(guard.clone()));
        batch.push(Mutation::AcquireLease { claim: claim.clone(), now, take_over })
    };
    let error = match store.commit(ask(None)).await {
        Ok(committed) => return first(committed),
        Err(error) => error,
    };
    let present = match error.conflict() {
        Some(Conflict::Lease(lease)) => lease.clone(),
        _ => return Err(error.into()),
    };
    if dead(&present) {
        return first(store.commit(ask(Some((present.holder, present.epoch)))).await?);
    }
    let mut busy = Error::new(ErrorClass::LeaseLost, format!("process {} is running the same copy", present.pid))
        .next("follow it with --attach, or wait until it has ended");
    busy.held_by = Some(present.pid);
    Err(busy)
}

fn first(committed: store::Committed) -> Result<Lease> {
    committed.leases.into_iter().next().ok_or_else(|| Error::new(ErrorClass::Internal, "the store gave no lease"))
}

fn claim(resource: &str, holder: &Holder, now: Timestamp) -> Result<LeaseClaim> {
    let expires_at = now.checked_add(holder.lease).map_err(|e| Error::new(ErrorClass::Internal, e.to_string()))?;
    Ok(LeaseClaim {
        resource: resource.to_owned(),
        holder: holder.name.clone(),
        pid: holder.pid,
        process_start: holder.process_start.clone(),
        host: holder.host.clone(),
        expires_at,
    })
}

pub fn lease_name(id: &TransferId) -> String {
    format!("transfer:{id}")
}

/// Keeps the lease for another period. `lease_lost` means: stop at once.
pub async fn renew(store: &Store, guard: &LeaseGuard, lease: SignedDuration, now: Timestamp) -> Result<()> {
    let expires_at = now.checked_add(lease).map_err(|e| Error::new(ErrorClass::Internal, e.to_string()))?;
    store.commit(Mutation::RenewLease { guard: guard.clone(), expires_at }).await?;
    Ok(())
}

/// Whether another process has taken this transfer over, and perhaps ended it already.
pub async fn is_lost(store: &Store, held: &Held) -> Result<bool> {
    let present = store.lease(&held.lease.resource).await?;
    Ok(present.is_none_or(|lease| lease.holder != held.lease.holder || lease.epoch != held.lease.epoch))
}

/// Lets the lease go and leaves everything else as it is: somebody else goes on at once.
pub async fn let_go(store: &Store, guard: LeaseGuard) -> Result<()> {
    match store.commit(Mutation::ReleaseLease { guard }).await.map_err(Error::from) {
        Err(error) if error.class != ErrorClass::LeaseLost => Err(error),
        _ => Ok(()),
    }
}

/// Records how the transfer ended and lets the lease go.
pub async fn end(store: &Store, held: &Held, state: TransferState, error: Option<&Error>, now: Timestamp) -> Result<()> {
    let failure = error.map(|e| store::Failure { class: e.class, text: e.message.clone() });
    let batch = Batch::new()
        .guarded_by(held.guard())
        .push(Mutation::SetTransferState { transfer: held.record.id.clone(), state, error: failure, at: now, expect: None })
        .push(Mutation::ReleaseLease { guard: held.guard() });
    store.commit(batch).await?;
    Ok(())
}

/// The destination as records know it: protocol, user, host and port, without path or password.
pub fn destination_key(endpoint: &model::Endpoint) -> String {
    format!(
        "{}://{}@{}:{}",
        endpoint.protocol,
        endpoint.user.as_deref().unwrap_or(""),
        endpoint.host,
        endpoint.port.unwrap_or(endpoint.protocol.default_port())
    )
}

/// The directory and the template under which keys become names: a destination with a trailing `/` is a directory,
/// otherwise it is the name of the one file.
#[derive(Debug, Clone)]
pub struct Naming {
    pub root: RemotePath,
    pub template: model::NameTemplate,
    /// What is cut from the front of every key.
    pub prefix: String,
    /// The exact name of the one file.
    pub exact: Option<RemotePath>,
    pub now: Timestamp,
}

impl Naming {
    pub fn path(&self, key: &model::ObjectKey, version: Option<&str>) -> std::result::Result<RemotePath, model::NameError> {
        match &self.exact {
            Some(path) => Ok(path.clone()),
            None => RemotePath::resolve(&self.root, &self.template, &model::TemplateInput::new(key, &self.prefix, version, self.now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Options, S3Settings, ServerSettings};

    fn holder(name: &str) -> Holder {
        Holder { name: name.to_owned(), pid: 1, process_start: "boot:1".to_owned(), host: "here".to_owned(), lease: LEASE }
    }

    #[tokio::test]
    async fn who_was_stopped_inside_the_door_begins_and_takes_nothing_any_more() {
        let store = Store::open_in_memory().await.unwrap();
        let (source, destination) = ("s3://b/p/".to_owned(), "file:///in/".to_owned());
        let spec =
            CopySpec { source, destination, s3: S3Settings::default(), server: ServerSettings::default(), options: Options::default() };
        let (now, alive) = (Timestamp::now(), |_: &Lease| false);
        let door = format!("copy:{}", identity(&spec, "d"));
        let stopped = acquire(&store, &door, None, &holder("one"), now, &alive).await.unwrap();
        let stopped = LeaseGuard::from(&stopped);

        let later = now.checked_add(LEASE + SignedDuration::from_secs(1)).unwrap();
        let second = begin(&store, &spec, "d", &holder("two"), later, alive).await.unwrap();
        let late = create(&store, &spec, &identity(&spec, "d"), "d", &stopped, &holder("one"), now).await.unwrap_err();
        assert_eq!(late.class, ErrorClass::LeaseLost);
        end(&store, &second, TransferState::Completed, None, later).await.unwrap();
        let late = take_through(&store, second.record.clone(), Some(&stopped), &holder("one"), now, &alive).await.unwrap_err();
        assert_eq!(late.class, ErrorClass::LeaseLost);

        let transfers = store.transfers(store::TransferQuery::default()).await.unwrap();
        assert_eq!(transfers.iter().map(|t| t.state).collect::<Vec<_>>(), [TransferState::Completed]);
        assert!(store.leases().await.unwrap().is_empty());
    }
}
