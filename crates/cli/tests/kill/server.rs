//! The destinations of scenes: which servers there are, how each is started, and how it is hurt.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use testkit::asyncssh::{Asyncssh, AsyncsshOptions};
use testkit::ftp::{FtpProgram, FtpSecurity, FtpServer, FtpServerOptions};
use testkit::ftp_sandbox::{self, SessionReuse};
use testkit::sftp::{Behaviour, Loss, SftpServer};
use testkit::sshd::{Sshd, SshdOptions};

use crate::chance::Chance;

/// One scene or one cell runs on one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Sandbox,
    OpenSsh,
    Asyncssh,
    File,
    FtpSandbox,
    Vsftpd,
    VsftpdTls,
    ProftpdDefault,
    ProftpdTls,
    PureFtpd,
    PureFtpdTls,
    PyftpdlibTls,
}

impl Kind {
    /// The seed's remainder chooses; one round visits every destination.
    pub const ALL: [Self; 12] = [
        Self::Sandbox,
        Self::VsftpdTls,
        Self::OpenSsh,
        Self::ProftpdTls,
        Self::FtpSandbox,
        Self::Asyncssh,
        Self::PureFtpdTls,
        Self::File,
        Self::PyftpdlibTls,
        Self::Vsftpd,
        Self::ProftpdDefault,
        Self::PureFtpd,
    ];

    pub fn of(seed: u64) -> Self {
        Self::ALL[(seed % Self::ALL.len() as u64) as usize]
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::OpenSsh => "OpenSSH",
            Self::Asyncssh => "asyncssh",
            Self::File => "file",
            Self::FtpSandbox => "FTPS sandbox",
            Self::Vsftpd => "vsftpd, clear",
            Self::VsftpdTls => "vsftpd, sessions reused",
            Self::ProftpdDefault => "ProFTPD, its defaults",
            Self::ProftpdTls => "ProFTPD, permissive",
            Self::PureFtpd => "Pure-FTPd, clear",
            Self::PureFtpdTls => "Pure-FTPd, TLS",
            Self::PyftpdlibTls => "pyftpdlib, TLS",
        }
    }

    /// What `FILEFERRY_KILL_SERVERS` chooses by.
    pub fn family(self) -> &'static str {
        match self {
            Self::Sandbox | Self::OpenSsh | Self::Asyncssh => "sftp",
            Self::File => "file",
            _ => "ftp",
        }
    }

    pub fn is_ftp(self) -> bool {
        self.family() == "ftp"
    }

    /// Somebody else's program that speaks FTP.
    pub fn ftp(self) -> Option<(FtpProgram, FtpServerOptions)> {
        let clear = FtpServerOptions::default;
        let tls = || FtpServerOptions { security: FtpSecurity::Explicit { required: true }, ..clear() };
        let reused = || FtpServerOptions { require_session_reuse: true, ..tls() };
        match self {
            Self::Vsftpd => Some((FtpProgram::Vsftpd, clear())),
            Self::VsftpdTls => Some((FtpProgram::Vsftpd, reused())),
            Self::ProftpdDefault => Some((FtpProgram::Proftpd, reused())),
            Self::ProftpdTls => Some((FtpProgram::Proftpd, FtpServerOptions { permissive: true, ..tls() })),
            Self::PureFtpd => Some((FtpProgram::PureFtpd, clear())),
            Self::PureFtpdTls => Some((FtpProgram::PureFtpd, tls())),
            Self::PyftpdlibTls => Some((FtpProgram::Pyftpdlib, tls())),
            _ => None,
        }
    }

    /// Why it cannot be played here.
    pub fn lacking(self) -> Option<&'static str> {
        let pure = self.ftp().is_some_and(|(program, _)| program == FtpProgram::PureFtpd);
        (pure && !rustix::process::geteuid().is_root()).then_some("Pure-FTPd serves only when started by root")
    }

    /// A cut upload can go on where it was.
    pub fn resumes(self) -> bool {
        self != Self::ProftpdDefault
    }

    /// A file may take the place of another one.
    pub fn replaces(self) -> bool {
        self != Self::ProftpdDefault
    }
}

/// How the program proves itself and the server to each other.
#[derive(Debug)]
pub enum Login {
    Nothing,
    Key { identity: PathBuf, host_key: String },
    Password { password: String, authority: Option<PathBuf> },
}

pub enum Server {
    Sandbox(SftpServer),
    OpenSsh(Sshd),
    Asyncssh(Asyncssh),
    FtpSandbox(ftp_sandbox::FtpServer),
    Ftp(Box<FtpServer>),
    File,
}

/// A server that listens, and how it is reached.
pub struct Started {
    pub server: Server,
    /// Where the files arrive, as a directory of this machine.
    pub directory: PathBuf,
    /// The same as clients name it, with `/` at the end.
    pub path: String,
    pub scheme: &'static str,
    pub user: String,
    pub address: Option<SocketAddr>,
    /// Ports of data connections that a proxy can mirror.
    pub passive: Option<RangeInclusive<u16>>,
    pub login: Login,
}

impl Started {
    /// `change` has the last word about an FTP server's options.
    pub async fn start(kind: Kind, home: &Path, change: impl FnOnce(&mut FtpServerOptions)) -> anyhow::Result<Self> {
        let inbox = |directory: PathBuf| std::fs::create_dir(&directory).map(|()| directory);
        if let Some((program, mut options)) = kind.ftp() {
            change(&mut options);
            let tls = options.tls();
            let server = FtpServer::start(program, options).await?;
            let authority = tls.then(|| server.certificates().authority_file());
            return Ok(Self {
                directory: server.root().to_owned(),
                path: format!("{}/", server.directory().trim_end_matches('/')),
                scheme: if tls { "ftpes" } else { "ftp" },
                user: server.user().to_owned(),
                address: Some(server.address()),
                passive: Some(server.passive_ports()),
                login: Login::Password { password: server.password().to_owned(), authority },
                server: Server::Ftp(Box::new(server)),
            });
        }
        let started = match kind {
            Kind::Sandbox => {
                let behaviour = Behaviour { tracks_unsynced: true, ..Behaviour::default() };
                let server = SftpServer::builder().behaviour(behaviour).start().await?;
                Self {
                    directory: inbox(server.file("/inbox"))?,
                    path: "/inbox/".to_owned(),
                    scheme: "sftp",
                    user: server.user().to_owned(),
                    address: Some(server.address()),
                    passive: None,
                    login: Login::Key { identity: server.client_key().to_owned(), host_key: server.host_key_fingerprint() },
                    server: Server::Sandbox(server),
                }
            }
            Kind::OpenSsh => {
                let server = Sshd::start(SshdOptions::default()).await?;
                Self {
                    directory: server.directory().to_owned(),
                    path: format!("{}/", server.directory().display()),
                    scheme: "sftp",
                    user: server.user().to_owned(),
                    address: Some(server.address()),
                    passive: None,
                    login: Login::Key { identity: server.client_key(), host_key: server.host_key_fingerprint() },
                    server: Server::OpenSsh(server),
                }
            }
            Kind::Asyncssh => {
                let server = Asyncssh::start(AsyncsshOptions::default()).await?;
                Self {
                    directory: inbox(server.root().join("inbox"))?,
                    path: "/inbox/".to_owned(),
                    scheme: "sftp",
                    user: server.user().to_owned(),
                    address: Some(server.address()),
                    passive: None,
                    login: Login::Key { identity: server.client_key(), host_key: server.host_key_fingerprint() },
                    server: Server::Asyncssh(server),
                }
            }
            Kind::FtpSandbox => {
                let server = ftp_sandbox::FtpServer::builder().behaviour(nasty()).start().await?;
                Self {
                    directory: inbox(server.file("/inbox"))?,
                    path: "/inbox/".to_owned(),
                    scheme: "ftpes",
                    user: server.user().to_owned(),
                    address: Some(server.address()),
                    passive: None,
                    login: Login::Password { password: server.password().to_owned(), authority: Some(server.authority().to_owned()) },
                    server: Server::FtpSandbox(server),
                }
            }
            _ => {
                let directory = inbox(home.join("inbox"))?;
                Self {
                    path: format!("{}/", directory.display()),
                    directory,
                    scheme: "file",
                    user: String::new(),
                    address: None,
                    passive: None,
                    login: Login::Nothing,
                    server: Server::File,
                }
            }
        };
        Ok(started)
    }
}

/// Able, strict about TLS, and with what hurts most when a client counts wrongly: it stores on after its session has
/// died, keeps what lies behind an upload, and takes an offset beyond the end, which leaves a hole.
fn nasty() -> ftp_sandbox::Behaviour {
    ftp_sandbox::Behaviour {
        restart: ftp_sandbox::Restart { beyond_end: true, keeps_tail: true, ..ftp_sandbox::Restart::default() },
        tls_required: true,
        session_reuse: SessionReuse::Required(522),
        close_notify_required: true,
        orphan: true,
        ..ftp_sandbox::Behaviour::default()
    }
}

impl Server {
    /// Ends every session and lets the server go on; `false` where it cannot be told to.
    pub fn end_sessions(&mut self) -> bool {
        match self {
            Self::Sandbox(server) => server.kill_connections(),
            Self::FtpSandbox(server) => server.kill_connections(),
            Self::OpenSsh(server) => drop(server.kill_sessions()),
            Self::Ftp(server) => return server.kill_sessions() > 0,
            _ => return false,
        }
        true
    }

    /// SIGKILL to the server and its sessions.
    pub fn kill(&mut self) {
        match self {
            Self::OpenSsh(server) => server.kill_server(),
            Self::Ftp(server) => server.kill_server(),
            _ => {}
        }
    }

    pub async fn restart(&mut self) -> anyhow::Result<()> {
        match self {
            Self::OpenSsh(server) => server.restart().await,
            Self::Ftp(server) => server.restart().await,
            _ => Ok(()),
        }
    }

    /// The machine of a sandbox goes down and comes back.
    pub async fn crash(&self, loss: Loss, directory: &Path, whole: &[u64], chance: &mut Chance) -> anyhow::Result<()> {
        match self {
            Self::Sandbox(server) => server.crash(loss)?,
            Self::FtpSandbox(server) => {
                server.kill_connections();
                // Whoever is in the middle of a block still writes it.
                tokio::time::sleep(Duration::from_millis(20)).await;
                lose(loss, directory, whole, chance)?;
            }
            _ => {}
        }
        Ok(())
    }

    pub fn log(&self) -> String {
        match self {
            Self::OpenSsh(server) => server.log(),
            Self::Asyncssh(server) => server.log(),
            Self::Ftp(server) => server.log(),
            _ => String::new(),
        }
    }
}

/// FTP has no sync: an unfinished file may lose everything from some place on. Nothing is taken from a file that has
/// one of the sizes of a whole one, or is small: it may have been acknowledged, and no client could know.
fn lose(loss: Loss, directory: &Path, whole: &[u64], chance: &mut Chance) -> anyhow::Result<()> {
    use std::os::unix::fs::FileExt as _;
    for entry in std::fs::read_dir(directory)?.flatten() {
        let Ok(size) = entry.metadata().map(|metadata| metadata.len()) else { continue };
        let name = entry.file_name();
        if size < 1 << 20 || whole.contains(&size) || !name.to_string_lossy().ends_with(".part") {
            continue;
        }
        let Ok(file) = std::fs::File::options().write(true).open(entry.path()) else { continue };
        let from = (size as f64 * chance.fraction()) as u64;
        match loss {
            Loss::Nothing => {}
            Loss::Gone => file.set_len(from)?,
            Loss::Zeroed => file.write_all_at(&vec![0; (size - from) as usize], from)?,
        }
    }
    Ok(())
}
