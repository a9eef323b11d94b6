//! What goes over the wire between `fileferry` and its service: request, answer and event bodies, and the client that speaks
//! them over a Unix socket. Names here are those of the records; units are in the names or the types.

pub mod client;
pub mod connectors;
pub mod health;
pub mod problem;
pub mod secrets;
pub mod sources;
pub mod transfers;

pub use client::{Client, ClientError};
pub use problem::Problem;

/// The socket in a data directory.
pub const SOCKET: &str = "fileferry.sock";
/// The most that a request may hold.
pub const LONGEST_BODY: usize = 1 << 20;
