//! FTP (RFC 959, 2389, 2428, 3659) and FTP over TLS (RFC 4217): our own small client.

mod config;

pub use config::{FtpConfig, Secret, Security, TlsSettings, TlsVersion};
