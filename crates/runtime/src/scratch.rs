//! Which rehearsals of this machine may have scratch files at a server. Each holds a lease from before its first file until
//! its last one is gone, so that what a killed one left is known for what it is.

use std::collections::BTreeSet;

use app::transfers::{self, Holder};
use jiff::{SignedDuration, Timestamp};
use model::{RemotePath, TransferId};
use store::{Lease, LeaseGuard, Mutation, Store};

use crate::process;

/// No rehearsal lasts so long.
const LONGEST: SignedDuration = SignedDuration::from_hours(1);
const REHEARSAL: &str = "rehearsal:";

/// Says that this process is about to make scratch files with that id.
pub(crate) async fn begin(store: &Store, id: &TransferId, server: &str, directory: &RemotePath) -> app::Result<Lease> {
    let holder = Holder { lease: LONGEST, ..process::holder(LONGEST) };
    transfers::hold(store, &format!("{REHEARSAL}{id}:{server}{}", directory.as_str()), &holder, Timestamp::now(), &process::is_dead).await
}

/// Nothing of it is left, or nothing more can be done about it.
pub(crate) async fn end(store: &Store, lease: &Lease) -> app::Result<()> {
    store.commit(Mutation::ReleaseLease { guard: LeaseGuard::from(lease) }).await?;
    Ok(())
}

/// The rehearsals on record: those that were killed in this directory, and the ids of those that are under way anywhere.
#[derive(Debug, Default)]
pub(crate) struct Rehearsals {
    pub gone: Vec<Lease>,
    pub alive: BTreeSet<String>,
}

impl Rehearsals {
    pub async fn on_record(store: &Store, server: &str, directory: &RemotePath) -> app::Result<Self> {
        let mut found = Self::default();
        let now = Timestamp::now();
        for lease in store.leases().await? {
            let Some(id) = id_of(&lease) else { continue };
            if !process::is_dead(&lease) && lease.expires_at > now {
                found.alive.insert(id.short().to_owned());
            } else if lease.resource == format!("{REHEARSAL}{id}:{server}{}", directory.as_str()) {
                found.gone.push(lease);
            }
        }
        Ok(found)
    }

    pub fn gone_ids(&self) -> BTreeSet<String> {
        self.gone.iter().filter_map(id_of).map(|id| id.short().to_owned()).collect()
    }
}

fn id_of(lease: &Lease) -> Option<TransferId> {
    lease.resource.strip_prefix(REHEARSAL)?.split_once(':')?.0.parse().ok()
}
