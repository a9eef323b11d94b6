//! SFTP version 3 over SSH: our own small client. `connect` logs in, `session` speaks over one channel, `wire`
//! knows the packets, `connection` and `writer` answer the port of the engine.

pub mod config;
pub mod connect;
mod connection;
mod error;
mod link;
mod probe;
mod session;
mod wire;
mod writer;

pub use config::SftpConfig;
pub use connection::{SftpConnection, SftpConnector};
pub use error::StatusError;
pub use writer::SftpWriter;
