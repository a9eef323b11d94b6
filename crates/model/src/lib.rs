//! The nouns of FileFerry: ids, names, sizes, digests, policies, error classes, receipts.
//! No I/O and no clock; every other crate may use this one and it uses none of them.

pub mod audit;
mod bandwidth;
mod class;
pub mod contract;
mod digest;
#[doc(hidden)]
pub mod fuzzing;
mod id;
mod key;
mod location;
mod name;
mod path;
mod policy;
pub mod profile;
mod proxy;
pub mod receipt;
mod size;
pub mod sshsig;
mod state;
mod ticket;
mod window;

pub use bandwidth::Bandwidth;
pub use class::{ErrorClass, Nature, ParseClassError};
pub use contract::{After, CompanionName, Order, Sidecar, SidecarKind};
pub use digest::{Algorithm, Crc64, Digest, DigestSet, ParseDigestError};
pub use id::{FileNumber, ParseIdError, TransferId};
pub use key::{ObjectKey, ObjectKeyError};
pub use location::{Credential, Endpoint, Location, LocationError, Protocol};
pub use name::{Name, ParseNameError, nearest};
pub use path::{
    MAX_NAME_BYTES, MAX_PATH_BYTES, NameError, NameTemplate, RemotePath, SCRATCH_ENDINGS, TempName, TempParts, TemplateInput, escape_name,
};
pub use policy::{Grade, IfExists, Publish, Strategy, Thresholds, Verify};
pub use profile::{Ability, Drift, Fact, Logins, Observer, Profile, Throughput, Tried};
pub use proxy::{ParseProxyError, ProxyAddress, ProxyKind};
pub use receipt::{Clobber, Receipt};
pub use size::{ByteCount, ParseSizeError, Rate, parse_duration};
pub use state::{ExecutionStatus, FileState, TicketState, TransferState};
pub use ticket::TicketKind;
pub use window::{ParseWindowError, Window};
