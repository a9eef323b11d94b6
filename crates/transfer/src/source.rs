//! The port on the reading side: a bucket, or a directory of this machine.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use model::{Crc64, ObjectKey};
use serde::{Deserialize, Serialize};

use crate::Result;

/// One object as a listing shows it. A listing says nothing of versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    pub key: ObjectKey,
    pub size: u64,
    pub etag: Option<String>,
    /// Set only when the caller named a version (`--files-from` with versionId).
    pub version: Option<String>,
    pub modified: Option<jiff::Timestamp>,
    /// The object must be restored from its archive class before it can be read.
    pub archived: bool,
}

/// A checksum that the store keeps of the whole object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StoredChecksum {
    /// CRC-64/NVME of the full object; never a composite.
    pub crc64nvme: Option<Crc64>,
    /// SHA-256 of the full object in hexadecimal; never a composite.
    pub sha256: Option<String>,
}

/// Exactly which bytes are to be delivered. Sent with every read and compared in every answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    pub key: ObjectKey,
    pub size: u64,
    pub etag: Option<String>,
    pub version: Option<String>,
    pub modified: Option<jiff::Timestamp>,
    pub checksum: StoredChecksum,
}

impl Pin {
    /// Whether `other` names the same bytes of the same object.
    pub fn same_bytes(&self, other: &Pin) -> bool {
        self.key == other.key
            && self.size == other.size
            && self.etag == other.etag
            && (self.version == other.version || self.version.is_none() || other.version.is_none())
            && (self.etag.is_some() || self.modified == other.modified)
    }
}

impl From<Object> for Pin {
    /// Small files are pinned from the listing: a HEAD each would double their cost.
    fn from(object: Object) -> Self {
        Self {
            key: object.key,
            size: object.size,
            etag: object.etag,
            version: object.version,
            modified: object.modified,
            checksum: StoredChecksum::default(),
        }
    }
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListingOptions {
    /// Everything whose key begins with this.
    pub prefix: String,
    /// `ls`: stop at the next `/` and report the common prefixes as folders.
    pub delimited: bool,
}

/// One page of a listing.
#[derive(Debug, Default)]
pub struct Listing {
    pub objects: Vec<Object>,
    /// Common prefixes, only when `delimited`.
    pub folders: Vec<String>,
}

fn keeps_originals(key: &ObjectKey) -> crate::Error {
    crate::Error::new(crate::ErrorKind::PolicyDenied, "remove", key).because("this source keeps its originals")
}

/// A listing in pages, so that a million keys need the memory of a thousand.
#[async_trait]
pub trait Pages: Send {
    /// The next page; `None` after the last.
    async fn next(&mut self) -> Result<Option<Listing>>;
}

/// One version of an object that was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    pub key: ObjectKey,
    pub version: String,
    pub size: u64,
    pub etag: Option<String>,
    /// Of what was delivered, in hexadecimal.
    pub crc64nvme: Option<String>,
}

/// Where an original is copied to before it is deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    pub bucket: String,
    pub key: String,
}

#[async_trait]
pub trait Source: Send + Sync + std::fmt::Debug {
    /// `s3` or `file`, for receipts.
    fn store(&self) -> &'static str;

    /// Bucket name; empty for files of this machine.
    fn bucket(&self) -> &str;

    /// Starts a listing in the store's order. Errors: `source_missing` (no such bucket or directory), `source_denied`.
    fn list(&self, options: ListingOptions) -> Box<dyn Pages + '_>;

    /// Looks at one object and returns what to read from now on: its current version where there are versions.
    /// Errors: `source_missing`, `source_denied`, `source_archived`.
    async fn pin(&self, key: &ObjectKey, version: Option<&str>) -> Result<Pin>;

    /// Reads `range` (within the pinned size) completely; a short answer is `source_truncated`, other bytes than the
    /// pinned ones are `source_changed`, also when the store ignores conditions: the answer's ETag, version and total
    /// size are compared. An empty range of an empty object still checks the pin.
    /// Does not retry; errors say whether that could help.
    async fn read(&self, pin: &Pin, range: Range<u64>) -> Result<Bytes>;

    /// The version that the store said it served for this pin, where it says so; kept for receipts.
    fn served_version(&self, _pin: &Pin) -> Option<String> {
        None
    }

    /// Whether single versions can be removed here, asked without changing anything. `example` is one of the objects.
    /// Errors: `policy_denied` (no versions), `source_denied` (no permission).
    async fn can_remove(&self, example: &ObjectKey) -> Result<()> {
        Err(keeps_originals(example))
    }

    /// Deletes exactly this version; one that is gone already is deleted.
    async fn remove(&self, key: &ObjectKey, _version: &str) -> Result<()> {
        Err(keeps_originals(key))
    }

    /// Copies exactly this version and makes sure of the copy. Returns the key it got there, which is another than the
    /// wanted one where that is taken. The original stays.
    async fn archive(&self, original: &Original, _to: &Archive) -> Result<String> {
        Err(keeps_originals(&original.key))
    }
}
