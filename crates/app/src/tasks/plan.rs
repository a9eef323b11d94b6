//! DownloadFromS3: consumes the session and plans. No byte of a file passes a state.

use std::collections::HashMap;

use jiff::SignedDuration;
use model::{ByteCount, ErrorClass, Strategy};
use serde::Serialize;
use serde_json::json;
use store::{Batch, CachedObject, FileQuery, FileRecord, Mutation, Part, RequestRecord};
use transfer::Pin;

use super::Tasks;
use super::step::{Done, Step, Stopped};
use crate::error::{Error, Result};
use crate::manifest::{json as text_of, parse};
use crate::spec::CopySpec;

/// Above this a transfer takes hours, and a worker of its own sends it in one go.
pub const WORKER_ABOVE: u64 = 100 << 30;
/// What was seen of a source serves listings for so long.
const CACHED_FOR: SignedDuration = SignedDuration::from_hours(24);
/// Objects of one transfer that are kept for listings.
const CACHED: usize = 1_000;

/// What the cache said of the objects that were seen; kept in the history of the execution.
#[derive(Debug, Default, Serialize)]
struct Looked {
    /// Remembered as they are.
    hits: usize,
    /// Remembered as they are no more, and replaced.
    stale: usize,
    /// Not remembered, or for longer than that counts.
    misses: usize,
}

impl Looked {
    fn all(&self) -> usize {
        self.hits + self.stale + self.misses
    }
}

impl Tasks {
    pub(super) async fn plan(&self, step: &Step, request: &RequestRecord) -> Result<Done, Stopped> {
        self.consume(step, request).await?;
        let record = self.store.transfer(&step.transfer).await?;
        let record = record.ok_or_else(|| Error::new(ErrorClass::Internal, format!("transfer {} is gone", step.transfer)))?;
        let spec: CopySpec = parse(&record.spec)?;
        let (mut largest, mut looked, mut after) = (0, Looked::default(), None);
        loop {
            let query = FileQuery { part: Part::Files, after, limit: 1_000, ..FileQuery::default() };
            let page = self.store.files(&step.transfer, query).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.number);
            largest = page.iter().map(|file| file.size).fold(largest, u64::max);
            // A later run goes on with the pins of the first one, which tell nothing of what is there now.
            if step.run == 1 && looked.all() < CACHED {
                self.revalidate(&spec, &page, &mut looked).await?;
            }
        }
        let strategy = spec.options.thresholds.strategy(ByteCount(largest));
        let mover = mover(record.bytes_total);
        // One process drives all connections of a transfer, so it is one lane.
        Ok(Done::with(json!({"strategy": word(strategy), "mover": mover, "lanes": [0], "cache": looked})))
    }

    /// Compares what is remembered of these objects with what this run has just seen of them, by version and ETag: what says
    /// the same stays, everything else is replaced. It never goes the other way: sizes are those that were seen.
    async fn revalidate(&self, spec: &CopySpec, files: &[FileRecord], looked: &mut Looked) -> Result<()> {
        let Some(bucket) = spec.source.strip_prefix("s3://").and_then(|rest| rest.split('/').next()) else { return Ok(()) };
        let now = self.clock.wall();
        let expires_at = now.checked_add(CACHED_FOR).map_err(|e| Error::new(ErrorClass::Internal, e.to_string()))?;
        for files in files.chunks(store::MAX_MUTATIONS) {
            let keys: Vec<String> = files.iter().map(|file| cache_key(bucket, file)).collect();
            let remembered = self.store.cached_objects(&keys, now).await?;
            let remembered: HashMap<&str, &str> = remembered.iter().map(|object| (object.key.as_str(), object.body.as_str())).collect();
            let mut batch = Batch::new();
            for (file, key) in files.iter().zip(keys) {
                let seen: Pin = parse(&file.pin)?;
                match remembered.get(key.as_str()) {
                    // One that an earlier version of this program wrote and that cannot be read says something else.
                    Some(body) if parse::<Pin>(body).is_ok_and(|known| known.same_bytes(&seen)) => {
                        looked.hits += 1;
                        continue;
                    }
                    Some(_) => looked.stale += 1,
                    None => looked.misses += 1,
                }
                batch = batch.push(Mutation::PutCached(CachedObject { key, body: text_of(&seen)?, expires_at }));
            }
            if !batch.is_empty() {
                self.store.commit(batch).await?;
            }
        }
        Ok(())
    }
}

pub(super) fn cache_key(bucket: &str, file: &FileRecord) -> String {
    format!("{bucket}#{}", file.key.as_str())
}

/// Who moves so many bytes.
pub fn mover(bytes: u64) -> &'static str {
    if bytes > WORKER_ABOVE { "worker" } else { "slice" }
}

fn word(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Direct => "direct",
        Strategy::Chunked => "chunked",
        Strategy::Parallel => "parallel",
    }
}
