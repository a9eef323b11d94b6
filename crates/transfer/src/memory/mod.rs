//! A source and a destination in memory, for tests: they do what real ones do, show what they hold, and fail on request.

mod destination;
mod file;
mod source;
mod writer;

pub use destination::{MemoryConnection, MemoryDestination};
pub use source::MemorySource;
pub use writer::MemoryWriter;
