//! A source and a destination in memory, for tests: they do what real ones do, show what they hold, and fail on request.

mod destination;
mod file;
mod source;

pub use destination::{MemoryConnection, MemoryDestination, MemoryWriter};
pub use source::MemorySource;
