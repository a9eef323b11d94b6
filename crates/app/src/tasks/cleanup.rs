//! CleanupAndLogout: ends the session and, where nobody may go on, the grant; gives back slot and lease; adds what was
//! learnt; and writes down how the transfer ended.

use jiff::SignedDuration;
use model::{ErrorClass, FileState, TransferState};
use store::{FileQuery, IdempotencyRecord, Lesson, Mutation, Part, RequestRecord, Waiting, Wish};

use super::outcome::Outcome;
use super::plan::cache_key;
use super::step::{Done, Step, Stopped};
use super::{Keep, Tasks};
use crate::error::{Error, Result};
use crate::manifest::parse;
use crate::spec::CopySpec;

/// A transfer that was learnt from is remembered for so long.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(90 * 24);
/// Entries of the cache that one step removes; the others end by themselves.
const FORGOTTEN: u32 = 50;

impl Tasks {
    pub(super) async fn cleanup(&self, step: &Step, request: &RequestRecord) -> Result<Done, Stopped> {
        let outcome = Outcome::of(&self.store, step).await?;
        // A cancelled transfer is never gone on with; of every other one the unfinished files may be.
        let keep = if outcome.state == TransferState::Cancelled { Keep::Nothing } else { Keep::Unfinished };
        self.ferry.release(&step.transfer, keep).await;
        let now = self.clock.wall();
        let transfer = step.transfer.clone();
        let mut effects = self.sessions(step);
        if !outcome.may_go_on() {
            effects.push(Mutation::EndGrant { transfer: transfer.clone() });
        }
        effects.push(Mutation::ReleaseSlot { connector: request.connector.clone(), holder: transfer.clone() });
        effects.extend(self.forgotten(step).await?);
        effects.extend(self.learnt(&outcome).await?);
        let error = outcome.error.as_ref().map(|(class, text)| store::Failure { class: *class, text: text.clone() });
        let error = error.filter(|_| outcome.state != TransferState::Completed);
        let waits = matches!(outcome.state, TransferState::Held | TransferState::Paused);
        let waiting = outcome.error.as_ref().filter(|_| waits);
        let waiting = waiting.map(|(class, reason)| Waiting { class: Some(*class), reason: reason.clone() });
        effects.push(Mutation::SetWaiting { transfer: transfer.clone(), waiting, at: now });
        effects.push(Mutation::SetWish { transfer: transfer.clone(), wish: Wish::None, expect: None, at: now });
        effects.push(Mutation::SetTransferState { transfer, state: outcome.state, error, at: now, expect: None });
        Ok(Done { effects, ..Done::default() })
    }

    /// Listings must not show an original that went with its delivery.
    async fn forgotten(&self, step: &Step) -> Result<Vec<Mutation>> {
        let Some(record) = self.store.transfer(&step.transfer).await? else { return Ok(Vec::new()) };
        let spec: CopySpec = parse(&record.spec)?;
        let Some(bucket) = spec.source.strip_prefix("s3://").and_then(|rest| rest.split('/').next()) else { return Ok(Vec::new()) };
        if spec.options.after == model::After::Keep {
            return Ok(Vec::new());
        }
        let query = FileQuery { part: Part::Files, states: Some(&[FileState::Delivered]), limit: FORGOTTEN, ..FileQuery::default() };
        let files = self.store.files(&step.transfer, query).await?;
        let gone = files.iter().filter(|file| file.original.is_some());
        Ok(gone.map(|file| Mutation::DropCached { key: cache_key(bucket, file) }).collect())
    }

    /// Once for each transfer that has come to an end, however often it is tried again: how long, how much, and how it went.
    async fn learnt(&self, outcome: &Outcome) -> Result<Vec<Mutation>> {
        let now = self.clock.wall();
        let (record, key) = (&outcome.record, format!("learning:{}", outcome.record.id));
        if !outcome.state.is_terminal() || self.store.idempotency(&key, now).await?.is_some() {
            return Ok(Vec::new());
        }
        let expires_at = now.checked_add(REMEMBERED).map_err(|e| Error::new(ErrorClass::Internal, e.to_string()))?;
        let (request_hash, transfer) = (String::new(), record.id.clone());
        let once = Mutation::PutIdempotency(IdempotencyRecord { key, request_hash, transfer, created_at: now, expires_at });
        let lesson = Lesson {
            transfer_type: record.destination.split("://").next().unwrap_or_default().to_owned(),
            size_category: size_category(record.bytes_total).to_owned(),
            outcome: outcome.error.as_ref().map_or(outcome.state.as_str(), |(class, _)| class.name()).to_owned(),
            duration: now.duration_since(record.created_at).max(SignedDuration::ZERO).unsigned_abs(),
            bytes: outcome.bytes,
            retries: u64::from(outcome.run - 1),
        };
        Ok(vec![once, Mutation::AddLearning(lesson)])
    }
}

/// Cut where the strategies are cut.
pub fn size_category(bytes: u64) -> &'static str {
    match bytes {
        0..=104_857_600 => "small",
        104_857_601..=1_073_741_824 => "medium",
        _ if bytes <= super::plan::WORKER_ABOVE => "large",
        _ => "very_large",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_fall_into_the_categories_of_the_strategies() {
        let cases = [(0, "small"), (104_857_600, "small"), (104_857_601, "medium"), (1 << 30, "medium"), ((1 << 30) + 1, "large")];
        for (bytes, category) in cases.into_iter().chain([(100 << 30, "large"), ((100 << 30) + 1, "very_large")]) {
            assert_eq!(size_category(bytes), category, "{bytes}");
        }
    }
}
