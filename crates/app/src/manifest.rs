//! The manifest: what a listing shows becomes the files of a transfer. A continued transfer is compared with the
//! source as it is now, key by key, so that memory stays bounded.

use jiff::Timestamp;
use model::contract::{FIRST_COMPANION, sidecar_key};
use model::{CompanionName, ErrorClass, FileNumber, FileState, NameError, ObjectKey, RemotePath};
use store::{Batch, Conflict, FileRecord, Mutation, Part, Store};
use transfer::{Object, Pin};

use crate::companion::{self, CompanionPin};
use crate::error::{Error, Result};
use crate::spec::Options;
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
    options: &'a Options,
    /// The same for what goes with the files, from `FIRST_COMPANION` on.
    next_companion: u32,
    seen_companions: Vec<bool>,
    totals: Totals,
}

impl<'a> Manifest<'a> {
    pub async fn open(store: &'a Store, held: &'a Held, naming: &'a Naming, options: &'a Options) -> Result<Manifest<'a>> {
        let (mut next, mut next_companion) = (0, FIRST_COMPANION.0);
        if held.resumed {
            for (part, next) in [(Part::Files, &mut next), (Part::Companions, &mut next_companion)] {
                let mut after = None;
                loop {
                    let page = store.files(&held.record.id, store::FileQuery { part, after, limit: 1_000, ..Default::default() }).await?;
                    // Those of the whole transfer have the last numbers of all.
                    let Some(last) = page.iter().rfind(|f| f.number < companion::MANIFEST) else { break };
                    after = Some(last.number);
                    *next = last.number.0 + 1;
                }
            }
        }
        let seen = vec![false; next as usize];
        let seen_companions = vec![false; (next_companion - FIRST_COMPANION.0) as usize];
        let (waiting, totals) = Default::default();
        Ok(Self { store, held, naming, next, waiting, seen, options, next_companion, seen_companions, totals })
    }

    /// Takes one object into the manifest, or says why it cannot have a name.
    pub async fn add(&mut self, object: Object, now: Timestamp) -> Result<Option<Unnameable>> {
        let path = match self.naming.path(&object.key, object.version.as_deref()) {
            Ok(path) => path,
            Err(error) => return Ok(Some(Unnameable { key: object.key, size: object.size, error })),
        };
        let beside = match self.beside(&path, &object.key) {
            Ok(beside) => beside,
            Err(error) => return Ok(Some(Unnameable { key: object.key, size: object.size, error })),
        };
        let archived = object.archived;
        let pin = Pin::from(object);
        self.totals.files += 1;
        self.totals.bytes += pin.size;
        if !self.seen.is_empty()
            && let Some(known) = self.store.file_by_key(&self.held.record.id, &pin.key).await?
        {
            let number = known.number;
            let again = self.meet(known, &pin, now).await?;
            for (key, path) in beside {
                self.meet_companion(number, key, path, again, now).await?;
            }
            return Ok(None);
        }
        if self.next >= FIRST_COMPANION.0 {
            return Err(Error::new(ErrorClass::Internal, "a transfer cannot hold more than 2^31 files"));
        }
        let number = FileNumber(self.next);
        let mut record = self.blank(number, pin.key.clone(), path, pin.size, json(&pin)?, now);
        // Known before anything is asked of the store; the engine gives it back as the file's failure.
        record.error_class = archived.then_some(ErrorClass::SourceArchived);
        self.next += 1;
        self.waiting.push(record);
        for (key, path) in beside {
            self.add_companion(number, key, path, now)?;
        }
        if self.waiting.len() >= store::MAX_FILES {
            self.flush().await?;
        }
        Ok(None)
    }

    /// Keys and paths of what goes with a file.
    fn beside(&self, path: &RemotePath, key: &ObjectKey) -> std::result::Result<Vec<(ObjectKey, RemotePath)>, NameError> {
        let begun = self.held.record.created_at;
        let named = |sidecar: &model::Sidecar| {
            let name = sidecar.name.render(path.name(), begun).unwrap_or_default();
            Ok((sidecar_key(sidecar, key), path.sibling(&name)?))
        };
        self.options.sidecars.iter().map(named).collect()
    }

    fn blank(&self, number: FileNumber, key: ObjectKey, path: RemotePath, size: u64, pin: String, now: Timestamp) -> FileRecord {
        FileRecord {
            transfer: self.held.record.id.clone(),
            number,
            key,
            path,
            size,
            pin,
            state: FileState::Pending,
            attempt: 1,
            epoch: 0,
            checkpoint: None,
            intent: None,
            error_class: None,
            error_text: None,
            bytes_done: 0,
            bytes_sent: 0,
            receipt: None,
            original: None,
            updated_at: now,
        }
    }

    fn add_companion(&mut self, of: FileNumber, key: ObjectKey, path: RemotePath, now: Timestamp) -> Result<()> {
        let number = FileNumber(self.next_companion);
        if number >= companion::MANIFEST {
            return Err(Error::new(ErrorClass::Internal, "a transfer cannot hold more than 2^31 sidecars"));
        }
        self.next_companion += 1;
        let record = self.blank(number, key, path, 0, json(&CompanionPin { of: Some(of) })?, now);
        self.waiting.push(record);
        Ok(())
    }

    /// A sidecar of a known file. One that was delivered is wanted again when its file has a new version.
    async fn meet_companion(&mut self, of: FileNumber, key: ObjectKey, path: RemotePath, again: bool, now: Timestamp) -> Result<()> {
        let Some(known) = self.store.file_by_key(&self.held.record.id, &key).await? else {
            return self.add_companion(of, key, path, now);
        };
        if let Some(seen) = known.number.0.checked_sub(FIRST_COMPANION.0).and_then(|n| self.seen_companions.get_mut(n as usize)) {
            *seen = true;
        }
        if again && known.state.is_success() {
            let pin = json(&CompanionPin { of: Some(of) })?;
            let change = Mutation::ReplacePin { transfer: known.transfer, number: known.number, pin, size: 0, at: now };
            self.store.commit(Batch::new().guarded_by(self.held.guard()).push(change)).await?;
        }
        Ok(())
    }

    /// A key that the transfer knows already: the same bytes keep their progress, others start from nothing.
    /// Whether it is to be delivered from nothing.
    async fn meet(&mut self, known: FileRecord, pin: &Pin, now: Timestamp) -> Result<bool> {
        if let Some(seen) = self.seen.get_mut(known.number.0 as usize) {
            *seen = true;
        }
        let before: Pin = parse(&known.pin)?;
        if before.same_bytes(pin) {
            if known.state.is_success() {
                self.totals.done_files += 1;
                self.totals.done_bytes += known.size;
            }
            return Ok(false);
        }
        let change = Mutation::ReplacePin { transfer: known.transfer, number: known.number, pin: json(pin)?, size: pin.size, at: now };
        self.store.commit(Batch::new().guarded_by(self.held.guard()).push(change)).await?;
        Ok(true)
    }

    async fn flush(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let files = std::mem::take(&mut self.waiting);
        for files in files.chunks(store::MAX_FILES) {
            self.insert(files.to_vec()).await?;
        }
        Ok(())
    }

    async fn insert(&self, files: Vec<FileRecord>) -> Result<()> {
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

    /// What was added was only a part of the source: nothing is forgotten because it was not among it.
    pub fn in_part(mut self) -> Self {
        self.seen.fill(true);
        self.seen_companions.fill(true);
        self
    }

    /// The listing is complete: what the source no longer has is forgotten, and the totals are recorded.
    pub async fn complete(mut self, now: Timestamp) -> Result<Totals> {
        self.flush().await?;
        let id = self.held.record.id.clone();
        let unseen = |seen: &[bool], first: u32| -> Vec<FileNumber> {
            seen.iter().enumerate().filter(|(_, seen)| !**seen).map(|(n, _)| FileNumber(first + n as u32)).collect()
        };
        let mut gone = unseen(&self.seen, 0);
        for number in unseen(&self.seen_companions, FIRST_COMPANION.0) {
            if !self.is_still_wanted(number).await? {
                gone.push(number);
            }
        }
        for numbers in gone.chunks(store::MAX_FILES) {
            let change = Mutation::RemoveFiles { transfer: id.clone(), numbers: numbers.to_vec() };
            self.store.commit(Batch::new().guarded_by(self.held.guard()).push(change)).await?;
        }
        self.at_the_end(companion::MANIFEST, self.options.manifest.as_ref(), now).await?;
        self.at_the_end(companion::DONE, self.options.done.as_ref(), now).await?;
        // More than was listed, where what was delivered has left the source since.
        let counts = self.store.counts(&id).await?;
        let totals = Mutation::SetTransferTotals {
            transfer: id,
            files_total: counts.iter().map(|c| c.files).sum(),
            bytes_total: counts.iter().map(|c| c.bytes).sum(),
            listed: true,
            at: now,
        };
        self.store.commit(Batch::new().guarded_by(self.held.guard()).push(totals)).await?;
        Ok(self.totals)
    }
}

impl Manifest<'_> {
    /// A sidecar whose file the source does not show any more is owed all the same if the file was delivered.
    async fn is_still_wanted(&self, number: FileNumber) -> Result<bool> {
        let id = &self.held.record.id;
        let Some(record) = self.store.file(id, number).await?.filter(|r| !r.state.is_success()) else { return Ok(false) };
        let Some(of) = parse::<CompanionPin>(&record.pin)?.of else { return Ok(false) };
        let Some(file) = self.store.file(id, of).await?.filter(|f| f.state.is_success()) else { return Ok(false) };
        Ok(self.options.sidecars.iter().any(|sidecar| sidecar_key(sidecar, &file.key) == record.key))
    }

    /// The record of a file that speaks of the whole transfer: wanted again where there is something new to speak of.
    async fn at_the_end(&self, number: FileNumber, name: Option<&CompanionName>, now: Timestamp) -> Result<()> {
        let transfer = self.held.record.id.clone();
        let known = self.store.file(&transfer, number).await?;
        let guarded = |mutation| Batch::new().guarded_by(self.held.guard()).push(mutation);
        let delivered = known.as_ref().is_some_and(|k| k.state.is_success());
        if known.is_some() && !delivered && (name.is_none() || known.as_ref().is_some_and(|k| k.intent.is_none())) {
            self.store.commit(guarded(Mutation::RemoveFiles { transfer: transfer.clone(), numbers: vec![number] })).await?;
        } else if known.is_some() {
            if name.is_some() && delivered && self.totals.files > self.totals.done_files {
                let pin = json(&CompanionPin { of: None })?;
                self.store.commit(guarded(Mutation::ReplacePin { transfer, number, pin, size: 0, at: now })).await?;
            }
            return Ok(());
        }
        let (Some(name), true) = (name, self.totals.files > 0) else { return Ok(()) };
        let what = if number == companion::DONE { "done" } else { "manifest" };
        let rendered = name.render("", self.held.record.created_at).map_err(|e| Error::new(ErrorClass::DestNameInvalid, e))?;
        let path = self.naming.root.join(&rendered).map_err(transfer::Error::from)?;
        let key = ObjectKey::local(format!("{what} {name} of {}", self.held.record.source));
        self.insert(vec![self.blank(number, key, path, 0, json(&CompanionPin { of: None })?, now)]).await
    }
}

pub(crate) fn json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::new(ErrorClass::Internal, format!("a record cannot be stored: {e}")))
}

pub(crate) fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::new(ErrorClass::Internal, format!("a stored record cannot be read: {e}")))
}
