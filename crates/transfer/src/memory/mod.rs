//! Sources and destinations in memory, for tests: they do what real ones do, show what they hold, and fail on request.

mod destination;
mod file;
mod source;
mod vast;
mod writer;

pub use destination::{MemoryConnection, MemoryDestination};
pub use source::MemorySource;
pub use vast::{VastCount, VastDestination, VastSource};
pub use writer::MemoryWriter;
