//! FTP (RFC 959, 2389, 2428, 3659) and FTP over TLS (RFC 4217): our own small client.

mod config;
mod features;
mod passive;
mod reply;
#[doc(hidden)]
pub mod fuzzing;
mod listing;

pub use config::{FtpConfig, Secret, Security, TlsSettings, TlsVersion};
