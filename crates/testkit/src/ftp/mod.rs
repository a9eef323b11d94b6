//! Real FTP servers on free ports of the loopback: vsftpd, ProFTPD, Pure-FTPd and pyftpdlib, plain and over TLS.
//!
//! All serve as the unprivileged user `ferrytest` when root runs the tests, otherwise as whoever does; Pure-FTPd serves
//! for root only. The programs are unpacked by `scripts/install-test-servers`, not installed.

mod options;
mod ports;
mod proftpd;
mod pure_ftpd;
mod pyftpdlib;
mod vsftpd;

use std::fs::Permissions;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub use options::{FtpProgram, FtpSecurity, FtpServerOptions, FtpTlsVersion};

use crate::certificates::{CertificateFiles, Certificates};
use crate::process::Process;
use ports::PortBlock;

/// Made by `scripts/install-test-servers`.
const TEST_USER: &str = "ferrytest";
const USER: &str = "partner";
const PASSWORD: &str = "Lark-4711-upload";
/// SHA-256 crypt of the password, salt `fileferrytest`.
const PASSWORD_HASH: &str = "$5$fileferrytest$IxP0Eg3UBj5tZB0EV6CBlX4D9QbTtn/sJ7CEN.lCVP4";
const READY: Duration = Duration::from_secs(20);

/// As whom servers run and files are theirs.
#[derive(Debug)]
struct Account {
    name: String,
    user: u32,
    group: u32,
    group_name: String,
    /// We are root and must become somebody else.
    other: bool,
}

/// What a program is set up with.
struct Site<'a> {
    home: &'a Path,
    root: &'a Path,
    address: SocketAddr,
    passive: RangeInclusive<u16>,
    account: &'a Account,
    certificate: Option<&'a CertificateFiles>,
    authority: PathBuf,
}

impl Site<'_> {
    /// Writes a file that only the server may read.
    fn write(&self, path: &Path, text: &str) -> anyhow::Result<()> {
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        self.account.give(path)
    }

    /// A file of an unpacked server, where the server's user can reach it: the clone may lie in somebody's closed home.
    fn reachable(&self, path: &str) -> anyhow::Result<PathBuf> {
        let path = installed(path)?;
        let open = |above: &Path| above.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0);
        if !self.account.other || path.ancestors().skip(1).all(open) {
            return Ok(path);
        }
        let copy = self.home.join(path.file_name().context("a file")?);
        std::fs::copy(&path, &copy).with_context(|| format!("copy {}", path.display()))?;
        std::fs::set_permissions(&copy, Permissions::from_mode(0o755))?;
        Ok(copy)
    }

    /// For programs that leave the choice of a TLS version to OpenSSL.
    fn openssl_configuration(&self, options: &FtpServerOptions) -> anyhow::Result<Option<PathBuf>> {
        let version = match options.tls_version {
            FtpTlsVersion::Any => return Ok(None),
            FtpTlsVersion::Only12 => "TLSv1.2",
            FtpTlsVersion::Only13 => "TLSv1.3",
        };
        let path = self.home.join("openssl.cnf");
        let text = format!(
            "openssl_conf = all\n[all]\nssl_conf = tls\n[tls]\nsystem_default = default\n\
             [default]\nMinProtocol = {version}\nMaxProtocol = {version}\n"
        );
        self.write(&path, &text)?;
        Ok(Some(path))
    }
}

impl Account {
    fn find() -> anyhow::Result<Self> {
        let accounts = std::fs::read_to_string("/etc/passwd")?;
        let own = rustix::process::geteuid();
        let own_id = own.as_raw().to_string();
        let wanted = |fields: &Vec<&str>| fields.len() > 3 && if own.is_root() { fields[0] == TEST_USER } else { fields[2] == own_id };
        let fields = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(wanted);
        let fields = fields.with_context(|| format!("no account to run FTP servers as: make the user {TEST_USER} with `make setup`"))?;
        let groups = std::fs::read_to_string("/etc/group")?;
        let mut groups = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let group_name = groups.find(|group| group.get(2) == Some(&fields[3])).context("the account's group has no name")?[0].to_owned();
        Ok(Self { name: fields[0].to_owned(), user: fields[2].parse()?, group: fields[3].parse()?, group_name, other: own.is_root() })
    }

    fn give(&self, path: &Path) -> anyhow::Result<()> {
        if self.other {
            chown(path, Some(self.user), Some(self.group)).with_context(|| format!("give away {}", path.display()))?;
        }
        Ok(())
    }
}

/// A running server; it ends, with all its sessions, when dropped.
#[derive(Debug)]
pub struct FtpServer {
    program: FtpProgram,
    process: Process,
    command: Command,
    options: FtpServerOptions,
    home: TempDir,
    root: PathBuf,
    address: SocketAddr,
    ports: PortBlock,
    certificates: Certificates,
    certificate: Option<CertificateFiles>,
}

impl FtpServer {
    /// Starts `program`; what it cannot do is an error that says so.
    pub async fn start(program: FtpProgram, options: FtpServerOptions) -> anyhow::Result<Self> {
        if let Some(lacking) = options.lacking_in(program) {
            bail!("{} has no {lacking}", program.name());
        }
        ensure!(
            program != FtpProgram::PureFtpd || rustix::process::geteuid().is_root(),
            "Pure-FTPd serves only when started by root: run the tests as root after `make setup`, or without it"
        );
        let account = Account::find()?;
        let home = tempfile::Builder::new().prefix("ftp-").tempdir()?;
        std::fs::set_permissions(home.path(), Permissions::from_mode(0o755))?;
        account.give(home.path())?;
        let root = match &options.root {
            Some(root) => root.canonicalize().with_context(|| format!("use {}", root.display()))?,
            None => {
                std::fs::create_dir(home.path().join("files"))?;
                home.path().join("files")
            }
        };
        account.give(&root)?;
        let (certificates, certificate) = certificates(&options, &account)?;
        let loopback = if options.ipv6 { IpAddr::V6(Ipv6Addr::LOCALHOST) } else { IpAddr::V4(Ipv4Addr::LOCALHOST) };
        let host = options.address.unwrap_or(loopback);
        let mut last = anyhow::anyhow!("no port was tried");
        for _ in 0..3 {
            let ports = PortBlock::claim(host)?;
            let address = SocketAddr::new(host, ports.control());
            let site = Site {
                home: home.path(),
                root: &root,
                address,
                passive: ports.passive(),
                account: &account,
                certificate: certificate.as_ref(),
                authority: certificates.authority_file(),
            };
            let mut command = match program {
                FtpProgram::Vsftpd => vsftpd::command(&site, &options)?,
                FtpProgram::Proftpd => proftpd::command(&site, &options)?,
                FtpProgram::PureFtpd => pure_ftpd::command(&site, &options)?,
                FtpProgram::Pyftpdlib => pyftpdlib::command(&site, &options)?,
            };
            command.current_dir(home.path());
            // Pure-FTPd must begin as root; Python may lie where only root gets to, and changes the user itself.
            if account.other && matches!(program, FtpProgram::Vsftpd | FtpProgram::Proftpd) {
                command.uid(account.user).gid(account.group);
            }
            site.write(&home.path().join("log"), "")?;
            match launch(&mut command, home.path(), address, &options).await {
                Ok(process) => {
                    return Ok(Self { program, process, command, options, home, root, address, ports, certificates, certificate });
                }
                // Somebody outside of these tests may have taken the port in between.
                Err(error) => last = error.context(format!("start {}", program.name())),
            }
        }
        Err(last)
    }

    pub fn program(&self) -> FtpProgram {
        self.program
    }

    pub fn options(&self) -> &FtpServerOptions {
        &self.options
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The program that was started; sessions are its descendants.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ports of data connections.
    pub fn passive_ports(&self) -> RangeInclusive<u16> {
        self.ports.passive()
    }

    pub fn user(&self) -> &str {
        if self.program == FtpProgram::Vsftpd { vsftpd::USER } else { USER }
    }

    /// Any other is refused.
    pub fn password(&self) -> &str {
        PASSWORD
    }

    /// The directory for uploads on this machine.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The same directory as clients name it, which is also where a session begins.
    pub fn directory(&self) -> &str {
        match self.program {
            FtpProgram::PureFtpd | FtpProgram::Pyftpdlib => "/",
            FtpProgram::Vsftpd | FtpProgram::Proftpd => self.root.to_str().expect("temporary paths are UTF-8"),
        }
    }

    /// The authority that signed the server's certificate and whose client certificates are accepted.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// What is shown to clients, with TLS.
    pub fn certificate(&self) -> Option<&CertificateFiles> {
        self.certificate.as_ref()
    }

    /// What the server has logged; with vsftpd also every command and reply.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Pids of the processes that serve sessions; pyftpdlib has none.
    pub fn sessions(&mut self) -> Vec<i32> {
        self.process.descendants()
    }

    /// SIGKILL to every session; the server goes on listening. Returns how many processes there were.
    pub fn kill_sessions(&mut self) -> usize {
        self.process.kill_descendants()
    }

    /// SIGKILL to the listener and every session, as when the machine goes down.
    pub fn kill_server(&mut self) {
        self.process.kill();
        self.process.kill_descendants();
    }

    /// Starts again on the same ports with the same files. The server must have been killed.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        ensure!(!self.process.is_running(), "the server is still running");
        self.process = launch(&mut self.command, self.home.path(), self.address, &self.options).await?;
        Ok(())
    }
}

fn certificates(options: &FtpServerOptions, account: &Account) -> anyhow::Result<(Certificates, Option<CertificateFiles>)> {
    let certificates = Certificates::new()?;
    std::fs::set_permissions(certificates.directory(), Permissions::from_mode(0o755))?;
    if !options.tls() {
        return Ok((certificates, None));
    }
    let files = certificates.server(options.certificate)?;
    for path in [&files.key, &files.both] {
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        account.give(path)?;
    }
    Ok((certificates, Some(files)))
}

async fn launch(command: &mut Command, home: &Path, address: SocketAddr, options: &FtpServerOptions) -> anyhow::Result<Process> {
    let mut process = Process::spawn(command, &home.join("log"))?;
    let implicit = options.security == FtpSecurity::Implicit;
    let greeted = async {
        while greet(address, implicit).await.is_err() {
            ensure!(process.is_running(), "the server ended while starting");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // A visit that is not over yet would count among the sessions of this address.
        while !process.descendants().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    };
    let greeted = match tokio::time::timeout(READY, greeted).await {
        Ok(greeted) => greeted,
        Err(_) => Err(anyhow::anyhow!("it was not ready in {READY:?}")),
    };
    greeted.with_context(|| format!("its log: {}", process.log()))?;
    Ok(process)
}

/// One visit: the greeting, a goodbye, and the end. Over TLS only that somebody listens.
async fn greet(address: SocketAddr, implicit: bool) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    if implicit {
        return Ok(());
    }
    let mut reply = Vec::new();
    // The last line of a greeting has a space after the code.
    while !reply.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"220 ")) {
        ensure!(stream.read_buf(&mut reply).await? > 0 && reply.len() < 64 << 10, "no greeting");
    }
    stream.write_all(b"QUIT\r\n").await?;
    while stream.read_buf(&mut reply).await? > 0 {
        reply.clear();
    }
    Ok(())
}

/// A file below `FILEFERRY_TEST_FTP_SERVERS`, or `.cache/ftp-servers` of the workspace, where
/// `scripts/install-test-servers` unpacks the servers.
fn installed(path: &str) -> anyhow::Result<PathBuf> {
    let directory = match std::env::var_os("FILEFERRY_TEST_FTP_SERVERS") {
        Some(path) => path.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/ftp-servers"),
    };
    let path = directory.join(path);
    let path = path.canonicalize().with_context(|| format!("{} is missing: unpack the FTP servers with `make setup`", path.display()))?;
    Ok(path)
}
