//! Moves bytes: reads a pinned source in ranges, writes a temporary file at the destination, proves it and
//! gives it its final name. Knows nothing of databases, tickets or the command line: it reports to the ports
//! in `port`, and `app` answers them.

pub mod budget;
mod buffers;
pub mod destination;
pub mod digest;
pub mod engine;
pub mod error;
pub mod ftp;
pub mod limit;
pub mod local;
pub mod memory;
pub mod meter;
pub mod plan;
pub mod pool;
pub mod port;
pub mod rehearse;
pub mod retry;
pub mod road;
pub mod s3;
pub mod select;
pub mod sftp;
pub mod sheet;
pub mod source;
pub mod stream;

pub use destination::{
    Capabilities, Connection, Connector, CreateOptions, Entry, Metadata, NoClobber, OpenMode, RenameMode, ServerFact, ServerIdentity,
    Writer,
};
pub use error::{Error, ErrorKind, Result, Subject};
pub use source::{Archive, Listing, ListingOptions, Object, Original, Pages, Pin, Source, StoredChecksum};
