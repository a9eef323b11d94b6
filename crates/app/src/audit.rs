//! The audit as people meet it: who may read it, and the seals over how far it has come.

use jiff::Timestamp;
use model::audit::{self, MAX_HEADS, Seal};
use model::receipt::SigningKey;
use model::{ErrorClass, TransferId};
use serde_json::{Map, Value};
use store::{AuditCursor, AuditLine, Mutation, Store};

use crate::error::{Error, Result};
use crate::policy::{Action, Principal};
use crate::requests;

/// Signs how far the chains have come since the last seal, in as many seals as it takes. `outside` is the last one of the copy
/// that is kept elsewhere: where records were put back it has come further, and its numbers are not given again.
pub async fn seal(store: &Store, key: &SigningKey, outside: Option<&(u64, String)>, now: Timestamp) -> Result<u64> {
    let mut made = 0;
    loop {
        let heads = store.unsealed(MAX_HEADS as u32).await?;
        if heads.is_empty() {
            return Ok(made);
        }
        let more = heads.len() == MAX_HEADS;
        let own = store.last_seal().await?.map(|(number, line)| (number, audit::hash(&line)));
        let last = match (own, outside) {
            (Some(own), Some(outside)) if outside.0 > own.0 => Some(outside.clone()),
            (None, outside) => outside.cloned(),
            (own, _) => own,
        };
        let (number, prev) = last.map_or((1, None), |(number, hash)| (number.saturating_add(1), Some(hash)));
        let line = Seal::line(key, number, now, prev, heads.clone()).map_err(|e| Error::new(ErrorClass::Internal, e.to_string()))?;
        store.commit(Mutation::PutSeal { number, line, heads }).await?;
        made += 1;
        if !more {
            return Ok(made);
        }
    }
}

/// The entry of something that belongs to no transfer.
pub fn noted(event: &str, detail: Map<String, Value>, at: Timestamp) -> Mutation {
    Mutation::AddAudit { transfer: None, event: event.to_owned(), detail, at }
}

/// A page of everything, chain by chain, for whoever reads the whole audit.
pub async fn entries(store: &Store, who: &Principal, after: AuditCursor, limit: u32) -> Result<Vec<AuditLine>> {
    who.may(Action::Audit)?;
    Ok(store.audit(None, after, limit).await?)
}

/// A page of the seals, with their numbers.
pub async fn seals(store: &Store, who: &Principal, after: u64, limit: u32) -> Result<Vec<(u64, String)>> {
    who.may(Action::Audit)?;
    Ok(store.seals(after, limit).await?)
}

/// Whether the chain of this transfer may be read: by whoever sees the transfer, and by whoever reads the whole audit, also
/// when the record of the transfer is gone.
pub async fn may_read(store: &Store, who: &Principal, id: &TransferId, now: Timestamp) -> Result<()> {
    let whole = who.may(Action::Audit).is_ok();
    let there = whole && !store.audit(Some(&audit::transfer_chain(id)), AuditCursor::default(), 1).await?.is_empty();
    if there { Ok(()) } else { requests::show(store, who, id, now).await.map(drop) }
}

/// A page of the chain of one transfer; see [`may_read`].
pub async fn of_transfer(store: &Store, id: &TransferId, after: AuditCursor, limit: u32) -> Result<Vec<AuditLine>> {
    Ok(store.audit(Some(&audit::transfer_chain(id)), after, limit).await?)
}
