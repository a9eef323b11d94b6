//! FTP (RFC 959, 2389, 2428, 3659) and FTP over TLS (RFC 4217): our own small client. `connect` proves the server and
//! logs in, `control` owns the replies, `open` and `transfer` carry data, `connection` and `writer` answer the port of the engine.

mod config;
mod connect;
mod connection;
mod control;
mod error;
mod features;
#[doc(hidden)]
pub mod fuzzing;
mod list;
mod listing;
mod look;
mod open;
mod passive;
mod reply;
mod session;
mod stream;
mod tls;
mod transfer;
mod writer;

pub use config::{FtpConfig, Secret, Security, TlsSettings, TlsVersion};
pub use connection::{FtpConnection, FtpConnector};
pub use writer::FtpWriter;
