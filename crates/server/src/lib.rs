//! The service's doors: HTTP on a Unix socket, where the kernel says who is calling. Handlers read their input, call one use
//! case and wrap its answer; what may be done is decided in `app`.

mod input;
mod listen;
mod peer;
mod problem;
mod routes;

use std::path::PathBuf;
use std::sync::Arc;

use app::secrets::Vault;
use jiff::Timestamp;
pub use listen::{listen, serve};
use model::TransferId;
pub use peer::{Grants, uid_of};
pub use problem::Refused;
pub use routes::router;
use runtime::Place;
use store::Store;
use tokio_util::sync::CancellationToken;

/// What the doors tell the loops, and hear from them.
pub trait Loops: Send + Sync + 'static {
    /// Something was submitted, approved, resumed or is wished for.
    fn wake(&self);
    /// Somebody wished for the end or a pause of a transfer that may be under way.
    fn wish(&self, transfer: &TransferId);
    /// How far a transfer is that is being sent right now.
    fn progress(&self, transfer: &TransferId) -> Option<Progress>;
}

/// The latest of a transfer under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    pub bytes_done: u64,
    pub bytes_total: u64,
    pub files_done: u64,
    pub files_total: u64,
    pub step: &'static str,
}

/// What every handler works with.
pub struct Doors {
    pub store: Store,
    pub vault: Arc<Vault>,
    /// Where the keys of the vault are.
    pub key_file: PathBuf,
    pub place: Place,
    pub loops: Arc<dyn Loops>,
    pub grants: Grants,
    pub started_at: Timestamp,
    /// Fingerprint of the key that signs receipts.
    pub receipt_key: String,
    /// One change of keys at a time.
    pub rekeying: tokio::sync::Mutex<()>,
    /// Streams end when the service does.
    pub stop: CancellationToken,
}

impl std::fmt::Debug for Doors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Doors({:?})", self.place)
    }
}

impl Loops for runtime::Service {
    fn wake(&self) {
        self.wake();
    }

    fn wish(&self, transfer: &TransferId) {
        self.wish(transfer);
    }

    fn progress(&self, transfer: &TransferId) -> Option<Progress> {
        let seen = self.progress(transfer)?;
        Some(Progress {
            bytes_done: seen.bytes_done,
            bytes_total: seen.bytes_total,
            files_done: seen.files_done,
            files_total: seen.files_total,
            step: seen.step,
        })
    }
}
