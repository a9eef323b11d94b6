//! Scripted faults: which requests they meet, and what then happens.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Content, Ending, S3Error};

/// What a request asks for, by S3's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    ListBuckets,
    CreateBucket,
    HeadBucket,
    GetBucketLocation,
    GetBucketVersioning,
    ListObjects,
    HeadObject,
    GetObject,
    PutObject,
    CopyObject,
    DeleteObject,
    CreateMultipartUpload,
    UploadPart,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    Unknown,
}

/// What happens to a matched request. Offsets in a body count from the first byte of that answer's body.
#[derive(Debug, Clone)]
pub enum Effect {
    /// This refusal in place of an answer.
    Error(S3Error),
    /// The connection ends without an answer.
    NoAnswer(Ending),
    /// The answer comes this much later.
    Delay(Duration),
    /// Headers promise everything; the connection ends after this many bytes of the body.
    Cut {
        after: u64,
        ending: Ending,
    },
    /// Nothing more after this many bytes, for a while or for ever; the connection stays open.
    Stall {
        after: u64,
        duration: Option<Duration>,
    },
    /// `Content-Length` says this. Fewer bytes than asked for is a short answer that looks complete;
    /// more than there are ends with the connection.
    ContentLength(u64),
    /// The byte at this offset of the object is inverted.
    FlipByte(u64),
    /// `If-Match` and the other preconditions count for nothing.
    IgnoreConditions,
    /// `Range` counts for nothing: the whole object with status 200.
    IgnoreRange,
    /// `versionId` counts for nothing: the current version is served.
    IgnoreVersion,
    /// Before the request is served somebody puts this in place of the object.
    Replace(Content),
    /// As `Replace`, but ETag, version and date stay: a store that lies.
    ReplaceSilently(Content),
    /// Somebody deletes the object before the request is served.
    Delete,
    BytesPerSecond(u64),
}

#[derive(Clone)]
enum KeyPattern {
    Exact(String),
    Prefix(String),
    Matching(Arc<dyn Fn(&str) -> bool + Send + Sync>),
}

impl fmt::Debug for KeyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(key) => write!(f, "{key:?}"),
            Self::Prefix(prefix) => write!(f, "{prefix:?}*"),
            Self::Matching(_) => f.write_str("matching"),
        }
    }
}

/// A fault: by default it meets every request, for ever.
#[derive(Debug, Clone)]
pub struct Fault {
    effect: Effect,
    operation: Option<Operation>,
    bucket: Option<String>,
    key: Option<KeyPattern>,
    range_start: Option<u64>,
    skip: u64,
    times: u64,
}

impl Fault {
    pub fn new(effect: Effect) -> Self {
        Self { effect, operation: None, bucket: None, key: None, range_start: None, skip: 0, times: u64::MAX }
    }

    pub fn error(error: S3Error) -> Self {
        Self::new(Effect::Error(error))
    }

    pub fn operation(mut self, operation: Operation) -> Self {
        self.operation = Some(operation);
        self
    }

    /// Only GETs of objects.
    pub fn on_get(self) -> Self {
        self.operation(Operation::GetObject)
    }

    pub fn bucket(mut self, bucket: &str) -> Self {
        self.bucket = Some(bucket.to_owned());
        self
    }

    pub fn key(mut self, key: &str) -> Self {
        self.key = Some(KeyPattern::Exact(key.to_owned()));
        self
    }

    pub fn key_prefix(mut self, prefix: &str) -> Self {
        self.key = Some(KeyPattern::Prefix(prefix.to_owned()));
        self
    }

    pub fn key_matching(mut self, matches: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.key = Some(KeyPattern::Matching(Arc::new(matches)));
        self
    }

    /// Only requests whose range begins at this byte; a request without a range begins at 0.
    pub fn range_start(mut self, offset: u64) -> Self {
        self.range_start = Some(offset);
        self
    }

    /// Lets the first `count` matching requests pass.
    pub fn after(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// Meets `count` requests, then no more.
    pub fn times(mut self, count: u64) -> Self {
        self.times = count;
        self
    }

    pub fn once(self) -> Self {
        self.times(1)
    }

    /// Only the `n`th matching request, counted from 1.
    pub fn nth(self, n: u64) -> Self {
        self.after(n.saturating_sub(1)).times(1)
    }

    fn concerns(&self, asked: &Asked<'_>) -> bool {
        self.operation.is_none_or(|operation| operation == asked.operation)
            && self.bucket.as_deref().is_none_or(|bucket| bucket == asked.bucket)
            && self.range_start.is_none_or(|start| start == asked.range_start)
            && match &self.key {
                None => true,
                Some(KeyPattern::Exact(key)) => key == asked.key,
                Some(KeyPattern::Prefix(prefix)) => asked.key.starts_with(prefix.as_str()),
                Some(KeyPattern::Matching(matches)) => matches(asked.key),
            }
    }
}

/// What of a request decides about faults.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub operation: Operation,
    pub bucket: &'a str,
    pub key: &'a str,
    pub range_start: u64,
}

#[derive(Debug)]
struct Armed {
    id: u64,
    fault: Fault,
    seen: u64,
    hits: Arc<AtomicU64>,
}

/// The faults of one server.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<(u64, Vec<Armed>)>>);

/// One added fault: says how often it happened.
#[derive(Debug, Clone)]
pub struct FaultHandle {
    id: u64,
    hits: Arc<AtomicU64>,
    faults: Faults,
}

impl FaultHandle {
    /// Requests that met this fault; a test that asserts on it cannot pass because the fault never happened.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::SeqCst)
    }

    pub fn remove(&self) {
        self.faults.0.lock().expect("no panic while locked").1.retain(|armed| armed.id != self.id);
    }
}

impl Faults {
    pub fn add(&self, fault: Fault) -> FaultHandle {
        let mut armed = self.0.lock().expect("no panic while locked");
        armed.0 += 1;
        let (id, hits) = (armed.0, Arc::<AtomicU64>::default());
        armed.1.push(Armed { id, fault, seen: 0, hits: hits.clone() });
        FaultHandle { id, hits, faults: self.clone() }
    }

    pub fn clear(&self) {
        self.0.lock().expect("no panic while locked").1.clear();
    }

    /// The effects on this request, in the order in which they were added.
    pub(crate) fn meet(&self, asked: &Asked<'_>) -> Vec<Effect> {
        let mut effects = Vec::new();
        for armed in &mut self.0.lock().expect("no panic while locked").1 {
            if !armed.fault.concerns(asked) {
                continue;
            }
            armed.seen += 1;
            if armed.seen > armed.fault.skip && armed.seen - armed.fault.skip <= armed.fault.times {
                armed.hits.fetch_add(1, Ordering::SeqCst);
                effects.push(armed.fault.effect.clone());
            }
        }
        effects
    }
}
