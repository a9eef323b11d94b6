//! DownloadFromS3: consumes the session and plans. No byte of a file passes a state.

use jiff::SignedDuration;
use model::{ByteCount, ErrorClass, Strategy};
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

impl Tasks {
    pub(super) async fn plan(&self, step: &Step, request: &RequestRecord) -> Result<Done, Stopped> {
        self.consume(step, request).await?;
        let record = self.store.transfer(&step.transfer).await?;
        let record = record.ok_or_else(|| Error::new(ErrorClass::Internal, format!("transfer {} is gone", step.transfer)))?;
        let spec: CopySpec = parse(&record.spec)?;
        let (mut largest, mut cached, mut after) = (0, 0, None);
        loop {
            let query = FileQuery { part: Part::Files, after, limit: 1_000, ..FileQuery::default() };
            let page = self.store.files(&step.transfer, query).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.number);
            largest = page.iter().map(|file| file.size).fold(largest, u64::max);
            if cached < CACHED {
                cached += page.len();
                self.remember(&spec, &page).await?;
            }
        }
        let strategy = spec.options.thresholds.strategy(ByteCount(largest));
        let mover = mover(record.bytes_total);
        // One process drives all connections of a transfer, so it is one lane.
        Ok(Done::with(json!({"strategy": word(strategy), "mover": mover, "lanes": [0]})))
    }

    /// Keeps what the listing has just shown. An entry that says the same stays good; one that says something else is replaced.
    async fn remember(&self, spec: &CopySpec, files: &[FileRecord]) -> Result<()> {
        let Some(bucket) = spec.source.strip_prefix("s3://").and_then(|rest| rest.split('/').next()) else { return Ok(()) };
        let now = self.clock.wall();
        let expires_at = now.checked_add(CACHED_FOR).map_err(|e| Error::new(ErrorClass::Internal, e.to_string()))?;
        for files in files.chunks(store::MAX_MUTATIONS) {
            let mut batch = Batch::new();
            for file in files {
                let pin: Pin = parse(&file.pin)?;
                let key = cache_key(bucket, file);
                batch = batch.push(Mutation::PutCached(CachedObject { key, body: text_of(&pin)?, expires_at }));
            }
            self.store.commit(batch).await?;
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
