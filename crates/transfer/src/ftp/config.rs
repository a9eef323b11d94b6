//! What it takes to reach one FTP server, in clear text or over TLS.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use model::{Endpoint, Protocol};

use crate::road::{Addresses, Proxy};

/// A password; it prints as nothing.
pub use model::Credential as Secret;

/// How a session is protected. What was asked for is what is spoken: nothing falls back to clear text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    Clear,
    /// AUTH TLS before the login (RFC 4217).
    Explicit,
    /// TLS from the first byte.
    Implicit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

/// How the server proves itself, and how we prove ourselves to it by certificate.
#[derive(Debug, Clone, Default)]
pub struct TlsSettings {
    /// PEM files of authorities that are trusted instead of the system's.
    pub ca_files: Vec<PathBuf>,
    /// `SHA256:…` (base64 without padding, or hex) of the server's certificate; when there are any, exactly these are
    /// accepted, whoever signed them and whatever name they carry.
    pub pins: Vec<String>,
    /// `None` is TLS 1.2: it is also tried first, because its sessions can be resumed as often as data connections
    /// need it (facts of the bench, part 5).
    pub minimum: Option<TlsVersion>,
    /// PEM files of the client's certificate chain and its private key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
}

/// One server, one user, and everything needed to prove each to the other.
#[derive(Debug, Clone)]
pub struct FtpConfig {
    /// With port and user filled.
    pub endpoint: Endpoint,
    pub password: Option<Secret>,
    pub security: Security,
    pub tls: TlsSettings,
    /// The server connects to us for data (PORT, EPRT) instead of the other way round.
    pub active: bool,
    pub bind: Option<IpAddr>,
    /// For the control connection and every passive data connection.
    pub proxy: Option<Proxy>,
    /// Which addresses the server may have, for the control connection and every passive data connection.
    pub addresses: Addresses,
    /// From the name look-up to the end of the login.
    pub connect_timeout: Duration,
    /// Without any progress for so long a connection counts as dead.
    pub stall_timeout: Duration,
    /// How long the server may take for the reply to a transfer after it has read all data.
    pub reply_timeout: Duration,
    /// How long the control connection may rest while a file is under way before a NOOP is sent.
    pub keep_alive: Duration,
}

impl FtpConfig {
    /// Defaults for `endpoint`, whose protocol says how the session is protected; no credential yet.
    pub fn new(endpoint: Endpoint) -> Self {
        let security = match endpoint.protocol {
            Protocol::Ftpes => Security::Explicit,
            Protocol::Ftps => Security::Implicit,
            _ => Security::Clear,
        };
        Self {
            endpoint,
            password: None,
            security,
            tls: TlsSettings::default(),
            active: false,
            bind: None,
            proxy: None,
            addresses: Addresses::default(),
            connect_timeout: Duration::from_secs(20),
            stall_timeout: Duration::from_secs(60),
            reply_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(60),
        }
    }
}
