//! What an FTP server of the tests is asked to be, and the set-ups on which the contract suite runs.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::certificates::CertificateKind;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FtpProgram {
    Vsftpd,
    Proftpd,
    PureFtpd,
    Pyftpdlib,
}

impl FtpProgram {
    pub const ALL: [Self; 4] = [Self::Vsftpd, Self::Proftpd, Self::PureFtpd, Self::Pyftpdlib];

    pub fn name(self) -> &'static str {
        match self {
            Self::Vsftpd => "vsftpd",
            Self::Proftpd => "ProFTPD",
            Self::PureFtpd => "Pure-FTPd",
            Self::Pyftpdlib => "pyftpdlib",
        }
    }

    /// The set-ups on which the contract suite runs, as far as this program can be set up so.
    pub fn set_ups(self) -> Vec<(&'static str, FtpServerOptions)> {
        let plain = FtpServerOptions::default;
        let explicit = || FtpServerOptions { security: FtpSecurity::Explicit { required: true }, ..plain() };
        let all = [
            ("plain", plain()),
            ("IPv6", FtpServerOptions { ipv6: true, ..plain() }),
            ("permissive", FtpServerOptions { permissive: true, ..plain() }),
            ("write-only", FtpServerOptions { write_only: true, ..plain() }),
            ("no rename", FtpServerOptions { no_rename: true, ..plain() }),
            ("no SIZE", FtpServerOptions { no_size: true, ..plain() }),
            ("two sessions an address", FtpServerOptions { max_per_ip: Some(2), ..plain() }),
            ("explicit TLS", explicit()),
            ("explicit TLS 1.2", FtpServerOptions { tls_version: FtpTlsVersion::Only12, ..explicit() }),
            ("explicit TLS 1.3", FtpServerOptions { tls_version: FtpTlsVersion::Only13, ..explicit() }),
            ("explicit TLS, sessions reused", FtpServerOptions { require_session_reuse: true, ..explicit() }),
            ("explicit TLS, permissive", FtpServerOptions { permissive: true, ..explicit() }),
            ("implicit TLS", FtpServerOptions { security: FtpSecurity::Implicit, ..plain() }),
        ];
        all.into_iter().filter(|(_, options)| options.lacking_in(self).is_none()).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FtpSecurity {
    #[default]
    Clear,
    /// AUTH TLS; where it is required, clear text is refused for logins and for data.
    Explicit {
        required: bool,
    },
    Implicit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FtpTlsVersion {
    #[default]
    Any,
    Only12,
    Only13,
}

#[derive(Debug, Clone, Default)]
pub struct FtpServerOptions {
    pub security: FtpSecurity,
    pub tls_version: FtpTlsVersion,
    pub certificate: CertificateKind,
    /// Data connections must resume the TLS session of their control connection.
    pub require_session_reuse: bool,
    pub client_certificate_required: bool,
    /// Listens on `::1` instead of 127.0.0.1.
    pub ipv6: bool,
    /// Listens here instead; of no use with `ipv6`.
    pub address: Option<IpAddr>,
    /// What ProFTPD forbids unless told otherwise: overwriting, and resuming an upload. The others always allow it.
    pub permissive: bool,
    /// Sessions from one address.
    pub max_per_ip: Option<u32>,
    /// A drop box: nothing can be read or listed.
    pub write_only: bool,
    pub no_rename: bool,
    /// SIZE is refused; MLST may still tell it.
    pub no_size: bool,
    /// How long a data connection may rest.
    pub data_timeout: Option<Duration>,
    /// How long a session may rest between commands.
    pub idle_timeout: Option<Duration>,
    /// The directory for uploads, such as a small file system; a temporary one otherwise.
    pub root: Option<PathBuf>,
    /// Further lines of configuration (vsftpd, ProFTPD) or arguments (Pure-FTPd).
    pub configuration: Vec<String>,
}

impl FtpServerOptions {
    /// The first of these options that the program does not have.
    pub fn lacking_in(&self, program: FtpProgram) -> Option<&'static str> {
        use FtpProgram::{Proftpd, PureFtpd, Pyftpdlib};
        let timeouts = self.data_timeout.is_some() || self.idle_timeout.is_some();
        let lacking = [
            (self.security == FtpSecurity::Implicit && program == PureFtpd, "implicit TLS"),
            (self.tls_version == FtpTlsVersion::Only13 && program == PureFtpd, "TLS 1.3 alone"),
            (self.require_session_reuse && matches!(program, PureFtpd | Pyftpdlib), "a demand for session reuse"),
            (self.client_certificate_required && program == PureFtpd, "client certificates"),
            (self.permissive && program != Proftpd, "a choice about overwriting"),
            (self.write_only && program == PureFtpd, "a right to write without reading"),
            (self.no_size && program == PureFtpd, "a switch for SIZE"),
            (timeouts && program == PureFtpd, "timeouts in seconds"),
            (!self.configuration.is_empty() && program == Pyftpdlib, "configuration lines"),
        ];
        lacking.into_iter().find_map(|(wanted, name)| wanted.then_some(name))
    }

    pub fn tls(&self) -> bool {
        self.security != FtpSecurity::Clear
    }
}
