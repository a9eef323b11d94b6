//! The contents that we write ourselves, as a source: checksum, done and control files from memory, a manifest from a file.

use std::collections::HashMap;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Mutex;

use async_trait::async_trait;
use model::{ErrorClass, ObjectKey};
use transfer::{ListingOptions, Pages, Pin, Source, StoredChecksum};

/// What a companion holds. A manifest of a million files does not belong in memory.
#[derive(Debug, Clone)]
pub enum Content {
    Text(String),
    File(PathBuf),
}

/// Companions wait here from being written until they are delivered.
#[derive(Debug)]
pub struct CompanionSource {
    bucket: String,
    waiting: Mutex<HashMap<ObjectKey, (Pin, Content)>>,
}

impl CompanionSource {
    pub fn new(bucket: &str) -> Self {
        Self { bucket: bucket.to_owned(), waiting: Mutex::default() }
    }

    /// `identity` stands for what the companion speaks of: the same one about another version is another.
    pub fn write(&self, key: ObjectKey, content: Content, size: u64, identity: &str) -> Pin {
        let pin = Pin {
            key: key.clone(),
            size,
            etag: Some(format!("\"{identity}\"")),
            version: None,
            modified: None,
            checksum: StoredChecksum::default(),
        };
        self.waiting.lock().expect("no panic while holding the lock").insert(key, (pin.clone(), content));
        pin
    }

    pub fn forget(&self, key: &ObjectKey) {
        self.waiting.lock().expect("no panic while holding the lock").remove(key);
    }

    fn find(&self, key: &ObjectKey) -> transfer::Result<(Pin, Content)> {
        let found = self.waiting.lock().expect("no panic while holding the lock").get(key).cloned();
        found.ok_or_else(|| transfer::Error::new(ErrorClass::Internal, "find the companion", key))
    }
}

struct Nothing;

#[async_trait]
impl Pages for Nothing {
    async fn next(&mut self) -> transfer::Result<Option<transfer::Listing>> {
        Ok(None)
    }
}

#[async_trait]
impl Source for CompanionSource {
    fn store(&self) -> &'static str {
        "fileferry"
    }

    fn bucket(&self) -> &str {
        &self.bucket
    }

    fn list(&self, _: ListingOptions) -> Box<dyn Pages + '_> {
        Box::new(Nothing)
    }

    async fn pin(&self, key: &ObjectKey, _: Option<&str>) -> transfer::Result<Pin> {
        Ok(self.find(key)?.0)
    }

    async fn read(&self, pin: &Pin, range: Range<u64>) -> transfer::Result<bytes::Bytes> {
        let unreadable = |e: std::io::Error| transfer::Error::new(ErrorClass::Internal, "read our own", &pin.key).because(e);
        match self.find(&pin.key)?.1 {
            Content::Text(text) => {
                let bytes = bytes::Bytes::from(text);
                let range = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
                let range = range.filter(|(start, end)| start <= end && *end <= bytes.len());
                let (start, end) = range.ok_or_else(|| unreadable(std::io::ErrorKind::UnexpectedEof.into()))?;
                Ok(bytes.slice(start..end))
            }
            // A piece of our own file, most likely still in the page cache.
            Content::File(path) => {
                let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(0)];
                let file = std::fs::File::open(path).map_err(unreadable)?;
                file.read_exact_at(&mut bytes, range.start).map_err(unreadable)?;
                Ok(bytes.into())
            }
        }
    }
}
