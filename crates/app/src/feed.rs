//! Hands the manifest to the engine, page by page, with what earlier deliveries are known under each name.

use std::collections::{HashSet, VecDeque};

use async_trait::async_trait;
use jiff::Timestamp;
use model::{FileNumber, FileState, ObjectKey};
use store::{Batch, FileQuery, FileRecord, Mutation, Part, Store};
use tokio::sync::Mutex;
use transfer::Pin;
use transfer::port::{Feed, FileTask, Previous, SizeClass};

use crate::error::{Result, through_engine};
use crate::manifest::parse;
use crate::transfers::Held;

const PAGE: u32 = 500;
/// Everything that is not where it should be; a file that failed is tried again by the next command.
pub(crate) const OPEN: &[FileState] =
    &[FileState::Pending, FileState::InProgress, FileState::PublishPending, FileState::Held, FileState::Failed];

#[derive(Debug)]
pub struct ManifestFeed {
    store: Store,
    held: Held,
    destination: String,
    source: String,
    small_up_to: u64,
    states: &'static [FileState],
    /// Left for a later run.
    resting: HashSet<ObjectKey>,
    small: Mutex<Cursor>,
    large: Mutex<Cursor>,
}

#[derive(Debug, Default)]
struct Cursor {
    after: Option<FileNumber>,
    ready: VecDeque<FileTask>,
    ended: bool,
}

impl ManifestFeed {
    /// `source` names store and bucket as deliveries record them.
    pub fn new(store: Store, held: Held, destination: String, source: String, small_up_to: u64) -> Self {
        let (resting, small, large) = Default::default();
        Self { store, held, destination, source, small_up_to, states: OPEN, resting, small, large }
    }

    pub fn without(mut self, resting: HashSet<ObjectKey>) -> Self {
        self.resting = resting;
        self
    }

    /// Only files in these states, instead of everything that is not where it should be.
    pub fn only(mut self, states: &'static [FileState]) -> Self {
        self.states = states;
        self
    }

    pub(crate) fn states(&self) -> &'static [FileState] {
        self.states
    }

    pub fn small_up_to(&self) -> u64 {
        self.small_up_to
    }

    async fn fill(&self, cursor: &mut Cursor, class: SizeClass) -> Result<()> {
        while cursor.ready.is_empty() && !cursor.ended {
            let query = FileQuery { part: Part::Files, after: cursor.after, states: Some(self.states), limit: PAGE };
            let page = self.store.files(&self.held.record.id, query).await?;
            cursor.ended = page.is_empty();
            cursor.after = page.last().map(|f| f.number).or(cursor.after);
            let fits = |f: &FileRecord| (f.size <= self.small_up_to) == (class == SizeClass::Small) && !self.resting.contains(&f.key);
            let wanted: Vec<FileRecord> = page.into_iter().filter(fits).collect();
            begin(&self.store, &self.held, &wanted).await?;
            let paths: Vec<_> = wanted.iter().map(|f| f.path.clone()).collect();
            let deliveries = self.store.deliveries(&self.destination, &paths).await?;
            for file in wanted {
                let pin: Pin = parse(&file.pin)?;
                let previous = deliveries.iter().find(|d| d.path == file.path);
                cursor.ready.push_back(task(&file, pin, previous, &self.source)?);
            }
        }
        Ok(())
    }

    /// This file, if it is still to be delivered.
    pub async fn one(&self, number: FileNumber) -> Result<Option<FileTask>> {
        let Some(file) = self.store.file(&self.held.record.id, number).await? else { return Ok(None) };
        begin(&self.store, &self.held, std::slice::from_ref(&file)).await?;
        let previous = self.store.delivery(&self.destination, &file.path).await?;
        task(&file, parse(&file.pin)?, previous.as_ref(), &self.source).map(Some)
    }
}

/// What the engine is to do with a record; `previous` is our last delivery under its name.
pub(crate) fn task(file: &FileRecord, pin: Pin, previous: Option<&store::Delivery>, source: &str) -> Result<FileTask> {
    let previous = previous.map(|d| Previous {
        size: d.size,
        same_source: d.source == source && d.key == file.key && crate::delivery::is_version_of(d, &pin),
    });
    Ok(FileTask {
        number: file.number,
        pin,
        path: file.path.clone(),
        attempt: attempt(file),
        checkpoint: file.checkpoint.as_deref().map(parse).transpose()?,
        intent: file.intent.as_deref().map(parse).transpose()?,
        previous,
    })
}

/// Files that an earlier run gave up are opened again, under this epoch.
pub(crate) async fn begin(store: &Store, held: &Held, files: &[FileRecord]) -> Result<()> {
    let again: Vec<_> = files.iter().filter(|f| f.state != FileState::Pending && f.state != FileState::InProgress).collect();
    for files in again.chunks(store::MAX_MUTATIONS) {
        let mut batch = Batch::new().guarded_by(held.guard());
        batch.extend(files.iter().map(|f| Mutation::BeginAttempt {
            transfer: f.transfer.clone(),
            number: f.number,
            attempt: attempt(f),
            epoch: held.lease.epoch,
            at: Timestamp::now(),
        }));
        store.commit(batch).await?;
    }
    Ok(())
}

/// Opens again what an earlier run gave up, so that from here on a file that has failed has failed in this run.
pub async fn reopen(store: &Store, held: &Held) -> Result<()> {
    const GIVEN_UP: &[FileState] = &[FileState::PublishPending, FileState::Held, FileState::Failed];
    let mut after = None;
    loop {
        let query = FileQuery { part: Part::Files, after, states: Some(GIVEN_UP), limit: PAGE };
        let page = store.files(&held.record.id, query).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.number);
        begin(store, held, &page).await?;
    }
}

/// A file that was given up with nothing to continue gets a new temporary name.
fn attempt(file: &FileRecord) -> u32 {
    let nothing_left = file.checkpoint.is_none() && file.intent.is_none();
    let given_up = matches!(file.state, FileState::Failed | FileState::Held);
    file.attempt.max(1) + u32::from(given_up && nothing_left)
}

#[async_trait]
impl Feed for ManifestFeed {
    async fn next(&self, class: SizeClass) -> transfer::Result<Option<FileTask>> {
        let mut cursor = match class {
            SizeClass::Small => &self.small,
            SizeClass::Large => &self.large,
        }
        .lock()
        .await;
        self.fill(&mut cursor, class).await.map_err(|e| through_engine("read the manifest", e))?;
        Ok(cursor.ready.pop_front())
    }
}
