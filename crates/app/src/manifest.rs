//! The manifest: what a listing shows becomes the files of a transfer. A continued transfer is compared with the
//! source as it is now, key by key, so that memory stays bounded.

use jiff::Timestamp;
use model::{ErrorClass, FileNumber, FileState, NameError, ObjectKey};
use store::{Batch, Conflict, FileRecord, Mutation, Store};
use transfer::{Object, Pin};

use crate::error::{Error, Result};
use crate::transfers::{Held, Naming};

/// Counts of a manifest, for the plan and for progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub files: u64,
    pub bytes: u64,
    /// Already delivered by an earlier run of this transfer.
    pub done_files: u64,
    pub done_bytes: u64,
}

/// A key that cannot be delivered under any name.
#[derive(Debug, Clone)]
pub struct Unnameable {
    pub key: ObjectKey,
    pub size: u64,
    pub error: NameError,
}

#[derive(Debug)]
pub struct Manifest<'a> {
    store: &'a Store,
    held: &'a Held,
    naming: &'a Naming,
    next: u32,
    waiting: Vec<FileRecord>,
    /// By number: the source still has it. Empty for a new transfer.
    seen: Vec<bool>,
    totals: Totals,
}

impl<'a> Manifest<'a> {
    pub async fn open(store: &'a Store, held: &'a Held, naming: &'a Naming) -> Result<Manifest<'a>> {
        let mut next = 0;
        let mut seen = Vec::new();
        if held.resumed {
            let mut after = None;
            loop {
                let page = store.files(&held.record.id, store::FileQuery { after, states: None, limit: 1_000 }).await?;
                let Some(last) = page.last() else { break };
                after = Some(last.number);
                next = last.number.0 + 1;
            }
            seen = vec![false; next as usize];
        }
        Ok(Self { store, held, naming, next, waiting: Vec::new(), seen, totals: Totals::default() })
    }

    /// Takes one object into the manifest, or says why it cannot have a name.
    pub async fn add(&mut self, object: Object, now: Timestamp) -> Result<Option<Unnameable>> {
        let path = match self.naming.path(&object.key, object.version.as_deref()) {
            Ok(path) => path,
            Err(error) => return Ok(Some(Unnameable { key: object.key, size: object.size, error })),
        };
        let archived = object.archived;
        let pin = Pin::from(object);
        self.totals.files += 1;
        self.totals.bytes += pin.size;
        if !self.seen.is_empty()
            && let Some(known) = self.store.file_by_key(&self.held.record.id, &pin.key).await?
        {
            self.meet(known, &pin, now).await?;
            return Ok(None);
        }
        let record = FileRecord {
            transfer: self.held.record.id.clone(),
            number: FileNumber(self.next),
            key: pin.key.clone(),
            path,
            size: pin.size,
            pin: json(&pin)?,
            state: FileState::Pending,
            attempt: 1,
            epoch: 0,
            checkpoint: None,
            intent: None,
            // Known before anything is asked of the store; the engine gives it back as the file's failure.
            error_class: archived.then_some(ErrorClass::SourceArchived),
            error_text: None,
            bytes_done: 0,
            bytes_sent: 0,
            receipt: None,
            updated_at: now,
        };
        self.next += 1;
        self.waiting.push(record);
        if self.waiting.len() >= store::MAX_FILES {
            self.flush().await?;
        }
        Ok(None)
    }

    /// A key that the transfer knows already: the same bytes keep their progress, others start from nothing.
    async fn meet(&mut self, known: FileRecord, pin: &Pin, now: Timestamp) -> Result<()> {
        if let Some(seen) = self.seen.get_mut(known.number.0 as usize) {
            *seen = true;
        }
        let before: Pin = parse(&known.pin)?;
        if before.same_bytes(pin) {
            if known.state.is_success() {
                self.totals.done_files += 1;
                self.totals.done_bytes += known.size;
            }
            return Ok(());
        }
        let change = Mutation::ReplacePin { transfer: known.transfer, number: known.number, pin: json(pin)?, size: pin.size, at: now };
        self.store.commit(Batch::new().guarded_by(self.held.guard()).push(change)).await?;
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let files = std::mem::take(&mut self.waiting);
        let batch = Batch::new().guarded_by(self.held.guard()).push(Mutation::AddFiles { transfer: self.held.record.id.clone(), files });
        match self.store.commit(batch).await {
            Ok(_) => Ok(()),
            Err(error) => match error.conflict() {
                Some(Conflict::Path { path, first, second }) => Err(Error::new(
                    ErrorClass::DestExists,
                    format!("two keys would be delivered as {path}: {first} and {second}; nothing was sent"),
                )
                .next("give them different names with --name, or leave one out with --exclude")),
                _ => Err(error.into()),
            },
        }
    }

    /// The listing is complete: what the source no longer has is forgotten, and the totals are recorded.
    pub async fn complete(mut self, now: Timestamp) -> Result<Totals> {
        self.flush().await?;
        let id = self.held.record.id.clone();
        let gone: Vec<FileNumber> = self.seen.iter().enumerate().filter(|(_, seen)| !**seen).map(|(n, _)| FileNumber(n as u32)).collect();
        for numbers in gone.chunks(store::MAX_FILES) {
            let change = Mutation::RemoveFiles { transfer: id.clone(), numbers: numbers.to_vec() };
            self.store.commit(Batch::new().guarded_by(self.held.guard()).push(change)).await?;
        }
        let totals = Mutation::SetTransferTotals {
            transfer: id,
            files_total: self.totals.files,
            bytes_total: self.totals.bytes,
            listed: true,
            at: now,
        };
        self.store.commit(Batch::new().guarded_by(self.held.guard()).push(totals)).await?;
        Ok(self.totals)
    }
}

pub(crate) fn json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::new(ErrorClass::Internal, format!("a record cannot be stored: {e}")))
}

pub(crate) fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::new(ErrorClass::Internal, format!("a stored record cannot be read: {e}")))
}
