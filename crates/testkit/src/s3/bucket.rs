//! Buckets and the versions of their objects.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, OnceLock};

use crc_fast::CrcAlgorithm;
use data_encoding::{BASE64, HEXLOWER};
use jiff::Timestamp;
use md5::Digest as _;

use super::Content;
use super::content::mix;

/// A checksum S3 keeps with an object and shows when asked (`x-amz-checksum-mode: ENABLED`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Checksum {
    #[default]
    None,
    /// CRC-64/NVME of the whole object, computed when somebody looks.
    Crc64Nvme,
    /// SHA-256 of the whole object, computed when somebody looks.
    Sha256,
    /// A checksum of the parts' checksums, `…-N`: says nothing about the bytes in one piece.
    CompositeSha256,
    /// Exactly this, true or not: `algorithm` as in `x-amz-checksum-ALGORITHM`, `kind` is FULL_OBJECT or COMPOSITE.
    Stated { algorithm: String, value: String, kind: String },
}

/// Server-side encryption as answers and requests show it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Encryption {
    #[default]
    None,
    Aes256,
    Kms(String),
    /// SSE-C: reads must carry the key, whose base64 MD5 is given here.
    CustomerKey {
        key_md5: String,
    },
}

/// What an object is besides its bytes. `..Default::default()` is a plain small object.
#[derive(Debug, Clone, Default)]
pub struct ObjectOptions {
    /// `GLACIER` and `DEEP_ARCHIVE` refuse reads until restored.
    pub storage_class: Option<String>,
    /// A restored copy of an archived object exists.
    pub restored: bool,
    /// An ETag as a multipart upload of this many parts leaves it; it is never an MD5.
    pub multipart_parts: Option<u32>,
    /// Exactly this ETag, without quotes.
    pub etag: Option<String>,
    pub checksum: Checksum,
    pub encryption: Encryption,
    pub content_type: Option<String>,
    /// `Content-Encoding`; the bytes are stored as given.
    pub content_encoding: Option<String>,
    pub metadata: Vec<(String, String)>,
    pub modified: Option<Timestamp>,
}

/// One version of an object.
#[derive(Debug)]
pub(crate) struct Version {
    pub id: Option<String>,
    /// `None` is a delete marker.
    pub content: Option<Content>,
    pub options: ObjectOptions,
    pub modified: Timestamp,
    etag: OnceLock<String>,
    checksum: OnceLock<Option<(String, String, String)>>,
}

impl Version {
    pub fn new(id: Option<String>, content: Option<Content>, options: ObjectOptions) -> Self {
        let modified = options.modified.unwrap_or_else(Timestamp::now);
        Self { id, content, options, modified, etag: OnceLock::new(), checksum: OnceLock::new() }
    }

    /// The same version with other bytes: what a lying store serves.
    pub fn with_other_bytes(&self, content: Content) -> Self {
        let other = Self::new(self.id.clone(), Some(content), self.options.clone());
        other.etag.set(self.etag().to_owned()).expect("just made");
        Self { modified: self.modified, ..other }
    }

    /// Without quotes. An ETag that is no MD5 always ends in `-N`, as S3's do.
    pub fn etag(&self) -> &str {
        self.etag.get_or_init(|| {
            let Some(content) = &self.content else { return String::new() };
            match (&self.options.etag, self.options.multipart_parts) {
                (Some(etag), _) => etag.clone(),
                (None, None) if content.is_cheap() => content.md5(),
                // Nobody should wait for the MD5 of a gigabyte; such objects come from multipart uploads anyway.
                (None, parts) => {
                    let parts = parts.map_or_else(|| content.len().div_ceil(8 << 20).clamp(1, 10_000), u64::from);
                    format!("{}-{parts}", HEXLOWER.encode(&content.identity()))
                }
            }
        })
    }

    /// Algorithm, value and kind. Reads the whole content the first time.
    pub fn checksum(&self) -> Option<&(String, String, String)> {
        let content = self.content.as_ref()?;
        let full = |algorithm: &str, value: String| Some((algorithm.to_owned(), value, "FULL_OBJECT".to_owned()));
        self.checksum
            .get_or_init(|| match &self.options.checksum {
                Checksum::None => None,
                Checksum::Crc64Nvme => full("crc64nvme", BASE64.encode(&content.crc(CrcAlgorithm::Crc64Nvme).to_be_bytes())),
                Checksum::Sha256 => full("sha256", BASE64.encode(&content.sha256_bytes())),
                Checksum::CompositeSha256 => {
                    let parts = self.options.multipart_parts.unwrap_or(1);
                    let value = BASE64.encode(&sha2::Sha256::digest(content.identity()));
                    Some(("sha256".to_owned(), format!("{value}-{parts}"), "COMPOSITE".to_owned()))
                }
                Checksum::Stated { algorithm, value, kind } => Some((algorithm.clone(), value.clone(), kind.clone())),
            })
            .as_ref()
    }

    /// Algorithm and kind as listings show them, without computing anything.
    pub fn checksum_names(&self) -> Option<(String, String)> {
        let names = |algorithm: &str, kind: &str| Some((algorithm.to_ascii_uppercase(), kind.to_owned()));
        match &self.options.checksum {
            Checksum::None => None,
            Checksum::Crc64Nvme => names("CRC64NVME", "FULL_OBJECT"),
            Checksum::Sha256 => names("SHA256", "FULL_OBJECT"),
            Checksum::CompositeSha256 => names("SHA256", "COMPOSITE"),
            Checksum::Stated { algorithm, kind, .. } => names(algorithm, kind),
        }
    }

    pub fn is_archived(&self) -> bool {
        matches!(self.options.storage_class.as_deref(), Some("GLACIER" | "DEEP_ARCHIVE")) && !self.options.restored
    }
}

/// Key and size of the object at a place in the listing.
type Entry = dyn Fn(u64) -> (String, u64) + Send + Sync;

pub(crate) enum Objects {
    /// Versions of each key, oldest first.
    Stored(BTreeMap<String, Vec<Arc<Version>>>),
    /// Computed from the index, in ascending order of keys.
    Synthetic { count: u64, entry: Arc<Entry> },
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stored(objects) => write!(f, "{} keys", objects.len()),
            Self::Synthetic { count, .. } => write!(f, "{count} synthetic keys"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Versioning {
    Never,
    Enabled,
    Suspended,
}

#[derive(Debug)]
pub(crate) struct BucketState {
    pub objects: Objects,
    pub versioning: Versioning,
    pub region: String,
    pub requester_pays: bool,
    pub listing_denied: bool,
    pub created: Timestamp,
    next_version: u64,
}

impl BucketState {
    pub fn new(objects: Objects) -> Self {
        Self {
            objects,
            versioning: Versioning::Never,
            region: "us-east-1".to_owned(),
            requester_pays: false,
            listing_denied: false,
            created: Timestamp::now(),
            next_version: 0,
        }
    }

    fn new_version_id(&mut self) -> Option<String> {
        match self.versioning {
            Versioning::Never => None,
            Versioning::Suspended => Some("null".to_owned()),
            Versioning::Enabled => {
                self.next_version += 1;
                Some(format!("{:016x}{:016x}", mix(self.next_version), mix(!self.next_version)))
            }
        }
    }

    /// Adds a version, or replaces the one without an id. `None` as content is a delete marker.
    pub fn add(&mut self, key: &str, content: Option<Content>, options: ObjectOptions) -> Arc<Version> {
        let id = self.new_version_id();
        let version = Arc::new(Version::new(id.clone(), content, options));
        if let Objects::Stored(objects) = &mut self.objects {
            let versions = objects.entry(key.to_owned()).or_default();
            match id.as_deref() {
                None => versions.clear(),
                // A version "null" replaces the earlier "null", also one from before versioning.
                Some("null") => versions.retain(|version| !matches!(version.id.as_deref(), None | Some("null"))),
                Some(_) => {}
            }
            versions.push(version.clone());
        }
        version
    }

    /// As DELETE does: a delete marker where there are versions. Returns the marker or the version removed.
    pub fn delete(&mut self, key: &str, id: Option<&str>) -> Option<Arc<Version>> {
        if id.is_none() && self.versioning != Versioning::Never {
            return Some(self.add(key, None, ObjectOptions::default()));
        }
        let Objects::Stored(objects) = &mut self.objects else { return None };
        let versions = objects.get_mut(key)?;
        let removed = match id {
            None => versions.pop(),
            Some(id) => versions.iter().position(|version| version.id.as_deref().unwrap_or("null") == id).map(|at| versions.remove(at)),
        };
        if versions.is_empty() {
            objects.remove(key);
        }
        removed
    }

    /// Replaces the current version in place.
    pub fn overwrite_silently(&mut self, key: &str, content: Content) {
        if let Objects::Stored(objects) = &mut self.objects
            && let Some(current) = objects.get_mut(key).and_then(|versions| versions.last_mut())
        {
            *current = Arc::new(current.with_other_bytes(content));
        }
    }

    pub fn current(&self, key: &str) -> Option<Arc<Version>> {
        match &self.objects {
            Objects::Stored(objects) => objects.get(key)?.last().cloned(),
            Objects::Synthetic { count, entry } => {
                let index = first_index(*count, entry, |candidate| candidate >= key);
                (index < *count)
                    .then(|| entry(index))
                    .filter(|(found, _)| found == key)
                    .map(|(_, size)| synthetic(index, size, self.created))
            }
        }
    }

    pub fn version(&self, key: &str, id: &str) -> Option<Arc<Version>> {
        match &self.objects {
            Objects::Stored(objects) => objects.get(key)?.iter().find(|version| version.id.as_deref().unwrap_or("null") == id).cloned(),
            Objects::Synthetic { .. } => (id == "null").then(|| self.current(key)).flatten(),
        }
    }

    /// Live objects with keys in `from..`, in order, computed as they are taken.
    pub fn starting_at<'a>(&'a self, from: Bound<&str>) -> Box<dyn Iterator<Item = (String, Arc<Version>)> + 'a> {
        match &self.objects {
            Objects::Stored(objects) => Box::new(objects.range::<str, _>((from, Bound::Unbounded)).filter_map(|(key, versions)| {
                let current = versions.last()?;
                current.content.as_ref().map(|_| (key.clone(), current.clone()))
            })),
            Objects::Synthetic { count, entry } => {
                let begin = match from {
                    Bound::Unbounded => 0,
                    Bound::Included(key) => first_index(*count, entry, |candidate| candidate >= key),
                    Bound::Excluded(key) => first_index(*count, entry, |candidate| candidate > key),
                };
                Box::new((begin..*count).map(move |index| {
                    let (key, size) = entry(index);
                    (key, synthetic(index, size, self.created))
                }))
            }
        }
    }
}

fn synthetic(index: u64, size: u64, modified: Timestamp) -> Arc<Version> {
    let options = ObjectOptions { modified: Some(modified), ..Default::default() };
    Arc::new(Version::new(None, Some(Content::generated(index, size)), options))
}

fn first_index(count: u64, entry: &Arc<Entry>, reached: impl Fn(&str) -> bool) -> u64 {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if reached(&entry(middle).0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}
