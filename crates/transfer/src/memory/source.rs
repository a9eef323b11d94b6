//! A bucket in memory, with or without versions.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use model::{Crc64, ObjectKey};

use crate::{Error, ErrorKind, Listing, ListingOptions, Object, Pages, Pin, Result, Source, StoredChecksum, Subject};

#[derive(Debug, Clone)]
struct Stored {
    bytes: Bytes,
    etag: String,
    version: Option<String>,
    modified: jiff::Timestamp,
    archived: bool,
}

#[derive(Debug)]
struct State {
    /// Newest last. Without versions, one each.
    objects: BTreeMap<String, Vec<Stored>>,
    versioned: bool,
    checksums: bool,
    page: usize,
    writes: i64,
    reads: Vec<(String, Range<u64>)>,
}

/// Clones share the objects.
#[derive(Debug, Clone)]
pub struct MemorySource {
    state: Arc<Mutex<State>>,
}

impl Default for MemorySource {
    fn default() -> Self {
        Self::new()
    }
}

impl MemorySource {
    /// A bucket called `memory`, without versions, that keeps a CRC-64/NVME of each object.
    pub fn new() -> Self {
        let state = State { objects: BTreeMap::new(), versioned: false, checksums: true, page: 1000, writes: 0, reads: vec![] };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Keeps versions from now on.
    pub fn versioned(self) -> Self {
        self.state().versioned = true;
        self
    }

    /// Tells no checksum of whole objects, as for old multipart uploads.
    pub fn without_checksums(self) -> Self {
        self.state().checksums = false;
        self
    }

    /// Objects per page of a listing.
    pub fn page_size(self, objects: usize) -> Self {
        self.state().page = objects.max(1);
        self
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic happens while it is held")
    }

    /// Writes an object; the one before becomes an older version, or is gone.
    pub fn put(&self, key: &str, bytes: impl Into<Bytes>) {
        let mut state = self.state();
        state.writes += 1;
        let number = state.writes;
        let stored = Stored {
            bytes: bytes.into(),
            etag: format!("\"e{number}\""),
            version: state.versioned.then(|| format!("v{number}")),
            modified: jiff::Timestamp::from_second(1_700_000_000 + number).expect("a small number of seconds"),
            archived: false,
        };
        let versioned = state.versioned;
        let versions = state.objects.entry(key.to_owned()).or_default();
        if !versioned {
            versions.clear();
        }
        versions.push(stored);
    }

    /// Removes an object with all its versions.
    pub fn remove(&self, key: &str) {
        self.state().objects.remove(key);
    }

    /// Moves the newest version to an archive class, or back.
    pub fn set_archived(&self, key: &str, archived: bool) {
        if let Some(stored) = self.state().objects.get_mut(key).and_then(|versions| versions.last_mut()) {
            stored.archived = archived;
        }
    }

    pub fn bytes(&self, key: &str) -> Option<Bytes> {
        self.state().objects.get(key).and_then(|versions| versions.last()).map(|stored| stored.bytes.clone())
    }

    /// Every range that was read, in order, with its key.
    pub fn reads(&self) -> Vec<(String, Range<u64>)> {
        self.state().reads.clone()
    }

    /// Bytes read in all, to see what was read twice.
    pub fn bytes_read(&self) -> u64 {
        self.state().reads.iter().map(|(_, range)| range.end - range.start).sum()
    }
}

impl State {
    fn find(&self, operation: &'static str, key: &ObjectKey, version: Option<&str>) -> Result<&Stored> {
        let missing = || Error::new(ErrorKind::SourceMissing, operation, key);
        let versions = self.objects.get(key.as_str()).ok_or_else(missing)?;
        let found = match version {
            Some(version) => versions.iter().find(|stored| stored.version.as_deref() == Some(version)),
            None => versions.last(),
        };
        let found = found.ok_or_else(missing)?;
        if found.archived {
            return Err(Error::new(ErrorKind::SourceArchived, operation, key));
        }
        Ok(found)
    }
}

#[async_trait]
impl Source for MemorySource {
    fn store(&self) -> &'static str {
        "memory"
    }

    fn bucket(&self) -> &str {
        "memory"
    }

    fn list(&self, options: ListingOptions) -> Box<dyn Pages + '_> {
        Box::new(MemoryPages { source: self, options, after: None, finished: false })
    }

    async fn pin(&self, key: &ObjectKey, version: Option<&str>) -> Result<Pin> {
        let state = self.state();
        let stored = state.find("look at", key, version)?;
        let crc = state.checksums.then(|| Crc64(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &stored.bytes)));
        Ok(Pin {
            key: key.clone(),
            size: stored.bytes.len() as u64,
            etag: Some(stored.etag.clone()),
            version: stored.version.clone(),
            modified: Some(stored.modified),
            checksum: StoredChecksum { crc64nvme: crc, sha256: None },
        })
    }

    async fn read(&self, pin: &Pin, range: Range<u64>) -> Result<Bytes> {
        tokio::task::yield_now().await;
        let mut state = self.state();
        if range.start > range.end || range.end > pin.size {
            return Err(Error::new(ErrorKind::Internal, "read", &pin.key).because("the range lies outside the object"));
        }
        let stored = state.find("read", &pin.key, pin.version.as_deref())?;
        if pin.etag.as_ref() != Some(&stored.etag) || stored.bytes.len() as u64 != pin.size {
            return Err(Error::new(ErrorKind::SourceChanged, "read", &pin.key));
        }
        let bytes = stored.bytes.slice(range.start as usize..range.end as usize);
        state.reads.push((pin.key.as_str().to_owned(), range));
        Ok(bytes)
    }

    fn served_version(&self, pin: &Pin) -> Option<String> {
        pin.version.clone().or_else(|| {
            let state = self.state();
            state.objects.get(pin.key.as_str())?.iter().find(|stored| Some(&stored.etag) == pin.etag.as_ref())?.version.clone()
        })
    }
}

struct MemoryPages<'a> {
    source: &'a MemorySource,
    options: ListingOptions,
    after: Option<String>,
    finished: bool,
}

#[async_trait]
impl Pages for MemoryPages<'_> {
    async fn next(&mut self) -> Result<Option<Listing>> {
        if self.finished {
            return Ok(None);
        }
        let state = self.source.state();
        let prefix = self.options.prefix.as_str();
        let mut listing = Listing::default();
        let mut last = None;
        let mut left = state.page;
        let mut more = false;
        for (key, versions) in &state.objects {
            if !key.starts_with(prefix) || self.after.as_ref().is_some_and(|after| key <= after) {
                continue;
            }
            let Some(stored) = versions.last() else { continue };
            let folder = self.options.delimited.then(|| key[prefix.len()..].find('/').map(|cut| &key[..prefix.len() + cut + 1])).flatten();
            if folder.is_some() && folder == listing.folders.last().map(String::as_str) {
                last = Some(key.clone());
                continue;
            }
            // A folder that the page before has reported.
            if let (Some(folder), Some(after)) = (folder, &self.after)
                && after.starts_with(folder)
            {
                last = Some(key.clone());
                continue;
            }
            if left == 0 {
                more = true;
                break;
            }
            left -= 1;
            last = Some(key.clone());
            match folder {
                Some(folder) => listing.folders.push(folder.to_owned()),
                None => listing.objects.push(Object {
                    key: ObjectKey::new(key.clone()).map_err(|e| Error::new(ErrorKind::Internal, "list", Subject::Nothing).because(e))?,
                    size: stored.bytes.len() as u64,
                    etag: Some(stored.etag.clone()),
                    version: None,
                    modified: Some(stored.modified),
                    archived: stored.archived,
                }),
            }
        }
        drop(state);
        self.finished = !more;
        self.after = last.or(self.after.take());
        Ok(Some(listing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> ObjectKey {
        ObjectKey::new(text).unwrap()
    }

    #[tokio::test]
    async fn a_replaced_object_is_changed_and_a_pinned_version_stays() {
        let plain = MemorySource::new();
        plain.put("a", "one");
        let pin = plain.pin(&key("a"), None).await.unwrap();
        plain.put("a", "two");
        assert_eq!(plain.read(&pin, 0..3).await.unwrap_err().kind, ErrorKind::SourceChanged);
        let versioned = MemorySource::new().versioned();
        versioned.put("a", "one");
        let pin = versioned.pin(&key("a"), None).await.unwrap();
        versioned.put("a", "two");
        assert_eq!(versioned.read(&pin, 0..3).await.unwrap(), "one");
        assert_eq!(versioned.bytes_read(), 3);
        versioned.set_archived("a", true);
        assert_eq!(versioned.pin(&key("a"), None).await.unwrap_err().kind, ErrorKind::SourceArchived);
    }

    #[tokio::test]
    async fn pages_cover_every_key_and_folder_once() {
        let source = MemorySource::new().page_size(2);
        for name in ["a/1", "a/2", "a/3", "b", "c/1", "d", "e"] {
            source.put(name, "");
        }
        for (delimited, objects, folders) in [(false, 7, 0), (true, 3, 2)] {
            let mut pages = source.list(ListingOptions { prefix: String::new(), delimited });
            let (mut keys, mut names) = (vec![], vec![]);
            while let Some(page) = pages.next().await.unwrap() {
                keys.extend(page.objects.into_iter().map(|o| o.key));
                names.extend(page.folders);
            }
            assert_eq!((keys.len(), names.len()), (objects, folders), "{keys:?} {names:?}");
        }
    }
}
