//! The ports that `app` answers: where checkpoints, intents and results go, who may publish, which logins are left.

use async_trait::async_trait;
use model::{Clobber, Crc64, FileNumber, FileState, Grade, IfExists, Publish, RemotePath};
use serde::{Deserialize, Serialize};

use crate::sheet::{Checkpoint, ProofCount};
use crate::source::Pin;
use crate::{Error, Result, ServerIdentity};

/// One file to deliver, as the manifest has it.
#[derive(Debug, Clone)]
pub struct FileTask {
    pub number: FileNumber,
    /// What the listing said. Files of more than one range are looked at again before they start.
    pub pin: Pin,
    pub path: RemotePath,
    pub attempt: u32,
    pub checkpoint: Option<Checkpoint>,
    /// A publish that an earlier process may or may not have carried out.
    pub intent: Option<Intent>,
    /// What our records say we delivered under this name before.
    pub previous: Option<Previous>,
}

/// A delivery of an earlier transfer under the same name.
#[derive(Debug, Clone)]
pub struct Previous {
    pub size: u64,
    /// The same source version as this file's pin.
    pub same_source: bool,
}

/// What is about to be renamed, with everything the receipt needs if the answer is lost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    pub temp: RemotePath,
    pub path: RemotePath,
    pub delivery: Delivery,
}

/// The facts of a delivery; `app` makes the receipt from them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    pub pin: Pin,
    pub crc64nvme: Crc64,
    pub sha256: Option<String>,
    pub md5: Option<String>,
    pub grade: Grade,
    pub algorithm: Option<String>,
    pub value: Option<String>,
    pub proof: ProofCount,
    pub mode: Publish,
    pub clobber: Clobber,
    pub synced: bool,
    pub attempts: u32,
    pub epoch: u32,
    pub connections: u32,
    pub bytes_sent: u64,
    pub bytes_resumed: u64,
    pub started_at: jiff::Timestamp,
    pub identity: Identity,
    pub notes: Vec<String>,
}

/// The part of a server's identity that goes on receipts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub host_key: Option<String>,
    pub software: Option<String>,
}

impl From<&ServerIdentity> for Identity {
    fn from(identity: &ServerIdentity) -> Self {
        Self { host_key: identity.host_key.clone(), software: identity.software.clone() }
    }
}

/// How a file ended well.
#[derive(Debug, Clone)]
pub struct Finished {
    /// `delivered`, `collected`, `unchanged`, `skipped` or `superseded`.
    pub state: FileState,
    /// Present for `delivered` and `collected`.
    pub delivery: Option<Box<Delivery>>,
}

/// How a file ended otherwise.
#[derive(Debug)]
pub struct Failed {
    pub state: FileState,
    pub error: Error,
    pub bytes_sent: u64,
    /// A temporary file that was kept, with its digests if it was verified or found different.
    pub kept: Option<RemotePath>,
    pub digests: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeClass {
    /// Fits in one range.
    Small,
    Large,
}

/// The manifest, handed out piece by piece.
#[async_trait]
pub trait Feed: Send + Sync {
    /// The next file of this class; `None` when there is none left.
    async fn next(&self, class: SizeClass) -> Result<Option<FileTask>>;
}

/// Where the engine leaves what must survive it. Every call fails with `lease_lost` once another process has
/// taken the transfer over; the engine then stops writing and publishes nothing.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Stored before `Ok`. The engine does not wait for it in the data path and calls it again with a newer one.
    async fn checkpoint(&self, file: FileNumber, checkpoint: &Checkpoint, bytes_done: u64) -> Result<()>;

    /// The file starts over: an older checkpoint must never be used again.
    async fn restart(&self, file: FileNumber, attempt: u32) -> Result<()>;

    /// Stored before `Ok`; the rename follows. Also takes the lease on the final path.
    async fn intent(&self, file: FileNumber, intent: &Intent) -> Result<()>;

    async fn finished(&self, file: FileNumber, finished: Finished) -> Result<()>;

    async fn failed(&self, file: FileNumber, failed: &Failed) -> Result<()>;
}

#[derive(Debug)]
pub enum Verdict {
    Go,
    /// A newer version of the same object was published by us in the meantime.
    Superseded,
    /// A definite no: the verified file is kept and the transfer held.
    Refused(Error),
}

/// Asked between verify and publish.
#[async_trait]
pub trait PublishGate: Send + Sync {
    async fn may_publish(&self, file: FileNumber, pin: &Pin, path: &RemotePath) -> Result<Verdict>;
}

/// The logins of a destination, shared by every process: parking after a refused login, the breaker.
#[async_trait]
pub trait Logins: Send + Sync {
    /// `dest_auth` while parked, `dest_unreachable` while the breaker is open.
    async fn before_connect(&self) -> Result<()>;

    async fn after_connect(&self, outcome: std::result::Result<&ServerIdentity, &Error>);
}

/// What the user asked of every file of a transfer.
#[derive(Debug, Clone)]
pub struct Wishes {
    pub if_exists: IfExists,
    pub publish: Publish,
    pub verify: model::Verify,
    pub digests: model::DigestSet,
    pub resend: bool,
    pub preserve_time: bool,
    pub permissions: Option<u32>,
    /// Create missing directories below the destination directory.
    pub make_directories: bool,
    /// Also create the destination directory itself.
    pub make_root: bool,
}
