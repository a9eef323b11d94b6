//! Real OpenSSH servers: own keys, own configuration, a free port, gone when dropped.
//!
//! A root test run logs in as the unprivileged user `ferrytest` where `scripts/install-test-servers` made one, because
//! permissions do not bind root; otherwise as whoever runs the tests. Passwords would need an account with a known
//! password on the machine, and a limit on logins needs PAM: for both use `crate::sftp`.

use std::fs::Permissions;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use russh::keys::{HashAlg, PublicKey};
use tempfile::TempDir;

use crate::process::{Process, free_port};
use crate::sftp::key_at;

const SSHD: &str = "/usr/sbin/sshd";
const SFTP_SERVER: &str = "/usr/lib/openssh/sftp-server";
/// Made by `scripts/install-test-servers`.
const TEST_USER: &str = "ferrytest";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKeyKind {
    Ed25519,
    Ecdsa,
    Rsa,
}

impl HostKeyKind {
    fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::Ecdsa => "ecdsa",
            Self::Rsa => "rsa",
        }
    }
}

#[derive(Debug, Clone)]
pub struct SshdOptions {
    /// Requests that sftp-server refuses (its `-P`): `rename`, `posix-rename`, `fsync`, `statvfs`, `limits`, `stat`, …
    /// A refused extension is not announced either.
    pub denied_requests: Vec<String>,
    /// The separate sftp-server program instead of the one inside sshd.
    pub external_server: bool,
    /// Descriptors for one SFTP session; implies `external_server`. limits@openssh.com announces five less.
    pub open_files: Option<u32>,
    /// `RekeyLimit`, such as `64M`.
    pub rekey_limit: Option<String>,
    /// `MaxSessions`: channels of one connection.
    pub max_sessions: Option<u32>,
    /// `MaxStartups`: connections that have not logged in yet, such as `2:100:2`.
    pub max_startups: String,
    pub ciphers: Option<String>,
    pub host_keys: Vec<HostKeyKind>,
    /// `AuthenticationMethods`; keys only, see above. `publickey,publickey` wants both client keys, one after the other.
    pub authentication_methods: Option<String>,
    /// The first host key also has a certificate, see `Sshd::certificate_authority_line`.
    pub host_certificate: bool,
    /// Clients are let in by certificate only, see `Sshd::client_certificate`.
    pub user_certificate: bool,
    /// The directory for uploads cannot be listed (0300).
    pub write_only: bool,
    /// Logs in as whoever runs the tests, also as root: for tests that put files into the directory themselves.
    pub own_account: bool,
    /// No SFTP at all, only the login.
    pub without_sftp: bool,
    pub address: IpAddr,
    /// Further lines of sshd_config, before the others: the first value of a setting counts.
    pub configuration: Vec<String>,
}

impl Default for SshdOptions {
    fn default() -> Self {
        Self {
            denied_requests: Vec::new(),
            external_server: false,
            open_files: None,
            rekey_limit: None,
            max_sessions: None,
            max_startups: "100:30:200".to_owned(),
            ciphers: None,
            host_keys: vec![HostKeyKind::Ed25519],
            authentication_methods: None,
            host_certificate: false,
            user_certificate: false,
            write_only: false,
            own_account: false,
            without_sftp: false,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            configuration: Vec::new(),
        }
    }
}

impl SshdOptions {
    pub fn denying(requests: &[&str]) -> Self {
        Self { denied_requests: requests.iter().map(|name| (*name).to_owned()).collect(), ..Self::default() }
    }
}

/// The set-ups on which the contract suite runs.
pub fn set_ups() -> Vec<(&'static str, SshdOptions)> {
    let extensions = ["posix-rename", "fsync", "statvfs", "fstatvfs", "hardlink", "limits", "lsetstat", "expand-path", "copy-data"];
    vec![
        ("plain", SshdOptions::default()),
        ("separate sftp-server", SshdOptions { external_server: true, ..SshdOptions::default() }),
        ("no posix-rename", SshdOptions::denying(&["posix-rename"])),
        ("no fsync", SshdOptions::denying(&["fsync"])),
        ("no extensions", SshdOptions::denying(&extensions)),
        ("no rename", SshdOptions::denying(&["rename", "posix-rename", "hardlink"])),
        ("no stat", SshdOptions::denying(&["stat", "lstat", "fstat"])),
        ("write-only directory", SshdOptions { write_only: true, ..SshdOptions::default() }),
        ("few handles", SshdOptions { open_files: Some(16), ..SshdOptions::default() }),
        ("one channel a connection", SshdOptions { max_sessions: Some(1), ..SshdOptions::default() }),
        ("rekey every 64 MB", SshdOptions { rekey_limit: Some("64M".to_owned()), ..SshdOptions::default() }),
    ]
}

struct Account {
    name: String,
    owner: Option<(u32, u32)>,
}

#[derive(Debug)]
pub struct Sshd {
    process: Process,
    home: TempDir,
    address: SocketAddr,
    user: String,
    directory: PathBuf,
    host_keys: Vec<PublicKey>,
}

impl Sshd {
    pub async fn start(options: SshdOptions) -> anyhow::Result<Self> {
        ensure!(Path::new(SSHD).exists(), "{SSHD} is missing: install the package openssh-server with `make setup`");
        let account = account(options.write_only, options.own_account)?;
        let home = tempfile::Builder::new().prefix("sshd-").tempdir()?;
        // The user that logs in must get through to the upload directory and read authorized_keys.
        std::fs::set_permissions(home.path(), Permissions::from_mode(0o755))?;
        let directory = home.path().join("files");
        std::fs::create_dir(&directory)?;
        if let Some((user, group)) = account.owner {
            std::os::unix::fs::chown(&directory, Some(user), Some(group))?;
        }
        let mode = if options.write_only { 0o300 } else { 0o755 };
        std::fs::set_permissions(&directory, Permissions::from_mode(mode))?;

        let mut host_keys = Vec::new();
        for kind in &options.host_keys {
            host_keys.push(host_key(&home.path().join(format!("host_{}", kind.name())), *kind)?);
        }
        client_keys(home.path(), &options)?;
        if options.host_certificate {
            let first = options.host_keys.first().context("a host certificate needs a host key")?;
            let key = home.path().join(format!("host_{}.pub", first.name()));
            sign(home.path(), &key, &["-h", "-n", "127.0.0.1,localhost"])?;
        }
        if options.user_certificate {
            sign(home.path(), &home.path().join("client_key.pub"), &["-n", &account.name])?;
        }
        if rustix::process::geteuid().is_root() {
            // Where sshd locks up the part of itself that talks to strangers; Debian makes it when the service starts.
            std::fs::create_dir_all("/run/sshd").context("create sshd's privilege separation directory")?;
        }
        let mut last = anyhow::anyhow!("no port was tried");
        for _ in 0..5 {
            let port = free_port()?;
            let address = SocketAddr::new(options.address, port);
            let configuration = configuration(home.path(), &directory, address, &options);
            std::fs::write(home.path().join("sshd_config"), configuration)?;
            match launch(home.path(), address).await {
                Ok(process) => return Ok(Self { process, home, address, user: account.name, directory, host_keys }),
                // Somebody else may have taken the port in between; anything else will fail again and be told.
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    /// The directory for uploads, which is also where a session begins. Paths of clients are paths of this machine.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A private key that is let in; the public half lies beside it as `.pub`.
    pub fn client_key(&self) -> PathBuf {
        self.home.path().join("client_key")
    }

    /// Another key that is let in.
    pub fn second_client_key(&self) -> PathBuf {
        self.home.path().join("second_key")
    }

    /// With `SshdOptions::user_certificate`.
    pub fn client_certificate(&self) -> PathBuf {
        self.home.path().join("client_key-cert.pub")
    }

    /// `SHA256:…` of the first host key.
    pub fn host_key_fingerprint(&self) -> String {
        self.host_keys.first().map(|key| key.fingerprint(HashAlg::Sha256).to_string()).unwrap_or_default()
    }

    /// Lines for a known_hosts file, one for each host key.
    pub fn known_hosts_lines(&self) -> Vec<String> {
        let (host, port) = (self.address.ip(), self.address.port());
        self.host_keys.iter().filter_map(|key| Some(format!("[{host}]:{port} {}", key.to_openssh().ok()?))).collect()
    }

    /// The first host key, without a name before it.
    pub fn host_key_line(&self) -> String {
        self.host_keys.first().and_then(|key| key.to_openssh().ok()).unwrap_or_default()
    }

    /// The listener; sessions are its descendants.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The line that trusts the host's certificate (`SshdOptions::host_certificate`).
    pub fn certificate_authority_line(&self) -> anyhow::Result<String> {
        let key = std::fs::read_to_string(self.home.path().join("authority.pub"))?;
        Ok(format!("@cert-authority [{}]:{} {}", self.address.ip(), self.address.port(), key.trim()))
    }

    /// What sshd has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Logins so far, by sshd's own log.
    pub fn logins(&self) -> usize {
        self.log().lines().filter(|line| line.contains("Accepted ")).count()
    }

    /// Pids of the processes that serve sessions.
    pub fn sessions(&mut self) -> Vec<i32> {
        self.process.descendants()
    }

    /// SIGKILL to every session; the server goes on listening. Returns how many processes there were.
    pub fn kill_sessions(&mut self) -> usize {
        self.process.kill_descendants()
    }

    /// SIGKILL to the listener alone: sessions go on, nobody new gets in.
    pub fn kill_listener(&mut self) {
        self.process.kill();
    }

    /// SIGKILL to the listener and every session, as when the machine goes down.
    pub fn kill_server(&mut self) {
        self.process.kill();
        self.process.kill_descendants();
    }

    /// Starts again on the same port with the same keys. The server must have been killed.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        ensure!(!self.process.is_running(), "sshd is still running");
        self.process = launch(self.home.path(), self.address).await?;
        Ok(())
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.kill_server();
        // Otherwise its owner could not empty it.
        let _ = std::fs::set_permissions(&self.directory, Permissions::from_mode(0o700));
    }
}

async fn launch(home: &Path, address: SocketAddr) -> anyhow::Result<Process> {
    let mut command = Command::new(SSHD);
    command.arg("-D").arg("-e").arg("-f").arg(home.join("sshd_config"));
    let mut process = Process::spawn(&mut command, &home.join("log"))?;
    process.wait_until(Duration::from_secs(10), |process| process.log().contains("Server listening").then_some(())).await?;
    // The log may be that of an earlier start.
    process.wait_until(Duration::from_secs(10), |_| TcpStream::connect(address).ok().map(drop)).await?;
    ensure!(process.is_running(), "sshd ended; its log: {}", process.log());
    Ok(process)
}

fn account(unprivileged: bool, own_account: bool) -> anyhow::Result<Account> {
    let accounts = std::fs::read_to_string("/etc/passwd")?;
    let mut accounts = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|fields| fields.len() > 3);
    let own = rustix::process::geteuid();
    if own.is_root() && !own_account {
        if let Some(fields) = accounts.find(|fields| fields[0] == TEST_USER) {
            return Ok(Account { name: TEST_USER.to_owned(), owner: Some((fields[2].parse()?, fields[3].parse()?)) });
        }
        ensure!(!unprivileged, "permissions do not bind root: make the user {TEST_USER} with `make setup`");
        return Ok(Account { name: "root".to_owned(), owner: None });
    }
    let own = own.as_raw().to_string();
    let fields = accounts.find(|fields| fields[2] == own).context("the user who runs the tests is not in /etc/passwd")?;
    Ok(Account { name: fields[0].to_owned(), owner: None })
}

fn host_key(path: &Path, kind: HostKeyKind) -> anyhow::Result<PublicKey> {
    if kind == HostKeyKind::Ed25519 {
        return Ok(key_at(path, "test host")?.public_key().clone());
    }
    let bits = if kind == HostKeyKind::Rsa { "2048" } else { "256" };
    keygen(Command::new("ssh-keygen").args(["-q", "-N", "", "-t", kind.name(), "-b", bits, "-f"]).arg(path))?;
    Ok(PublicKey::read_openssh_file(path.with_extension("pub"))?)
}

fn client_keys(home: &Path, options: &SshdOptions) -> anyhow::Result<()> {
    let first = key_at(&home.join("client_key"), "test client")?;
    let second = key_at(&home.join("second_key"), "second test client")?;
    if options.host_certificate || options.user_certificate {
        key_at(&home.join("authority"), "test authority")?;
    }
    let lines = format!("{}\n{}\n", first.public_key().to_openssh()?, second.public_key().to_openssh()?);
    std::fs::write(home.join("authorized_keys"), if options.user_certificate { String::new() } else { lines })?;
    Ok(())
}

/// Makes `KEY-cert.pub` beside `KEY.pub`, signed by the authority of this server.
fn sign(home: &Path, key: &Path, options: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("ssh-keygen");
    keygen(command.args(["-q", "-I", "test", "-V", "-5m:+1d", "-s"]).arg(home.join("authority")).args(options).arg(key))
}

fn keygen(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().context("run ssh-keygen: install the package openssh-client with `make setup`")?;
    if !output.status.success() {
        bail!("ssh-keygen failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn configuration(home: &Path, directory: &Path, address: SocketAddr, options: &SshdOptions) -> String {
    let home = home.display();
    let mut lines = options.configuration.clone();
    for kind in &options.host_keys {
        lines.push(format!("HostKey {home}/host_{}", kind.name()));
    }
    if let (true, Some(kind)) = (options.host_certificate, options.host_keys.first()) {
        lines.push(format!("HostCertificate {home}/host_{}-cert.pub", kind.name()));
    }
    if options.user_certificate {
        lines.push(format!("TrustedUserCAKeys {home}/authority.pub"));
    }
    let mut server = format!("-d {}", directory.display());
    if !options.denied_requests.is_empty() {
        server += &format!(" -P {}", options.denied_requests.join(","));
    }
    let subsystem = match options.open_files {
        Some(limit) => format!("ulimit -n {limit}; exec {SFTP_SERVER} {server}"),
        None if options.external_server => format!("{SFTP_SERVER} {server}"),
        None => format!("internal-sftp {server}"),
    };
    lines.extend([
        format!("Port {}", address.port()),
        format!("ListenAddress {}", address.ip()),
        format!("AuthorizedKeysFile {home}/authorized_keys"),
        format!("MaxStartups {}", options.max_startups),
    ]);
    if !options.without_sftp {
        lines.push(format!("Subsystem sftp {subsystem}"));
    }
    let optional = [
        ("RekeyLimit", options.rekey_limit.clone()),
        ("MaxSessions", options.max_sessions.map(|limit| limit.to_string())),
        ("Ciphers", options.ciphers.clone()),
        ("AuthenticationMethods", options.authentication_methods.clone()),
    ];
    lines.extend(optional.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?))));
    // The home directory belongs to whoever runs the tests, so its modes must not be judged; nothing of the machine's
    // own configuration may decide a test.
    for line in [
        "PidFile none",
        "UsePAM no",
        "StrictModes no",
        "UseDNS no",
        "PermitRootLogin yes",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PrintMotd no",
        "X11Forwarding no",
        "AllowTcpForwarding no",
    ] {
        lines.push(line.to_owned());
    }
    lines.join("\n") + "\n"
}
