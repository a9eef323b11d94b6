//! The partner's server of a row, and how each contender is told to reach it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use testkit::ftp::{FtpProgram, FtpSecurity, FtpServer, FtpServerOptions, FtpTlsVersion};
use testkit::sshd::{Sshd, SshdOptions};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    OpenSsh,
    Vsftpd,
    Proftpd,
    ProftpdTls,
    VsftpdTls12,
    VsftpdTls13,
}

impl Server {
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenSsh => "SFTP OpenSSH",
            Self::Vsftpd => "FTP vsftpd",
            Self::Proftpd => "FTP ProFTPD",
            Self::ProftpdTls => "FTPS ProFTPD",
            Self::VsftpdTls12 => "FTPS vsftpd, TLS 1.2, sessions reused",
            Self::VsftpdTls13 => "FTPS vsftpd, TLS 1.3, sessions reused",
        }
    }

    pub fn is_sftp(self) -> bool {
        self == Self::OpenSsh
    }

    pub fn is_tls(self) -> bool {
        matches!(self, Self::ProftpdTls | Self::VsftpdTls12 | Self::VsftpdTls13)
    }
}

#[derive(Debug)]
enum Program {
    OpenSsh(Box<Sshd>),
    Ftp(Box<FtpServer>),
}

#[derive(Debug)]
pub struct Partner {
    pub server: Server,
    program: Program,
    /// Where clients connect to; a stand-in for the far line may be in between.
    pub address: SocketAddr,
}

impl Partner {
    /// `logins`: sessions that the server grants one address.
    pub async fn start(server: Server, address: Option<IpAddr>, logins: Option<u32>) -> Result<Self> {
        let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let plain = FtpServerOptions { address: Some(address), max_per_ip: logins, ..FtpServerOptions::default() };
        let explicit = FtpSecurity::Explicit { required: true };
        let tls = FtpServerOptions { security: explicit, require_session_reuse: true, ..plain.clone() };
        let (program, options) = match server {
            Server::OpenSsh => {
                let options = SshdOptions { address, ..SshdOptions::default() };
                let sshd = Sshd::start(options).await?;
                return Ok(Self { server, address: sshd.address(), program: Program::OpenSsh(Box::new(sshd)) });
            }
            Server::Vsftpd => (FtpProgram::Vsftpd, plain),
            Server::Proftpd => (FtpProgram::Proftpd, plain),
            Server::ProftpdTls => (FtpProgram::Proftpd, tls),
            Server::VsftpdTls12 => (FtpProgram::Vsftpd, FtpServerOptions { tls_version: FtpTlsVersion::Only12, ..tls }),
            Server::VsftpdTls13 => (FtpProgram::Vsftpd, FtpServerOptions { tls_version: FtpTlsVersion::Only13, ..tls }),
        };
        let ftp = FtpServer::start(program, options).await?;
        Ok(Self { server, address: ftp.address(), program: Program::Ftp(Box::new(ftp)) })
    }

    pub fn pid(&self) -> u32 {
        match &self.program {
            Program::OpenSsh(server) => server.pid(),
            Program::Ftp(server) => server.pid(),
        }
    }

    /// Processes that serve sessions now.
    pub fn sessions(&mut self) -> usize {
        match &mut self.program {
            Program::OpenSsh(server) => server.sessions().len(),
            Program::Ftp(server) => server.sessions().len(),
        }
    }

    pub fn passive_ports(&self) -> Option<RangeInclusive<u16>> {
        match &self.program {
            Program::OpenSsh(_) => None,
            Program::Ftp(server) => Some(server.passive_ports()),
        }
    }

    /// The directory to deliver into: on this machine, and as clients name it.
    pub fn target(&self) -> (PathBuf, String) {
        match &self.program {
            Program::OpenSsh(server) => (server.directory().join("in"), server.directory().join("in").display().to_string()),
            Program::Ftp(server) => (server.root().join("in"), format!("{}/in", server.directory().trim_end_matches('/'))),
        }
    }

    fn user(&self) -> &str {
        match &self.program {
            Program::OpenSsh(server) => server.user(),
            Program::Ftp(server) => server.user(),
        }
    }

    /// `sftp://user@host:port/path/`
    pub fn url(&self) -> String {
        let scheme = match self.server {
            server if server.is_sftp() => "sftp",
            server if server.is_tls() => "ftpes",
            _ => "ftp",
        };
        format!("{scheme}://{}@{}{}/", self.user(), self.address, self.target().1)
    }

    /// Trust and credentials, and no other flag.
    pub fn for_ferry(&self, command: &mut Command, home: &Path) -> Result<()> {
        match &self.program {
            Program::OpenSsh(server) => {
                let known_hosts = home.join("known_hosts");
                let key = server.host_key_line();
                std::fs::write(&known_hosts, format!("[{}]:{} {key}\n", self.address.ip(), self.address.port()))?;
                command.arg("--known-hosts").arg(known_hosts).arg("--identity").arg(server.client_key());
            }
            Program::Ftp(server) => {
                command.args(["--password-from", "env:BENCH_PASSWORD"]).env("BENCH_PASSWORD", server.password());
                if self.server.is_tls() {
                    command.arg("--ca-file").arg(server.certificates().authority_file());
                }
            }
        }
        Ok(())
    }

    /// The destination as rclone names it, with the flags that reach it.
    pub fn for_rclone(&self, command: &mut Command, rclone: &Path) -> Result<()> {
        let kind = self.rclone_kind();
        command.args([format!("--{kind}-host"), self.address.ip().to_string()]);
        command.args([format!("--{kind}-port"), self.address.port().to_string()]);
        command.args([&format!("--{kind}-user"), self.user()]);
        match &self.program {
            Program::OpenSsh(server) => {
                command.arg("--sftp-key-file").arg(server.client_key());
            }
            Program::Ftp(server) => {
                let obscured = Command::new(rclone).args(["obscure", server.password()]).output()?;
                command.args(["--ftp-pass", String::from_utf8(obscured.stdout).context("text")?.trim()]);
                if self.server.is_tls() {
                    command.args(["--ftp-explicit-tls", "--ftp-no-check-certificate"]);
                }
            }
        }
        Ok(())
    }

    pub fn rclone_kind(&self) -> &'static str {
        if self.server.is_sftp() { "sftp" } else { "ftp" }
    }
}
