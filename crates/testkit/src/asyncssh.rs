//! The SFTP server of asyncssh: a second implementation of the protocol, in Python, with other habits than OpenSSH's.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use russh::keys::{HashAlg, PublicKey};
use tempfile::TempDir;

use crate::process::Process;
use crate::sftp::{key_at, random};

const SCRIPT: &str = include_str!("../python/asyncssh_server.py");

#[derive(Debug, Clone, Default)]
pub struct AsyncsshOptions {
    /// Announces posix-rename@openssh.com and then refuses it.
    pub refuses_posix_rename: bool,
}

/// A running server; clients see its directory as `/`.
#[derive(Debug)]
pub struct Asyncssh {
    process: Process,
    home: TempDir,
    port: u16,
    password: String,
    host_key: PublicKey,
}

impl Asyncssh {
    pub const USER: &str = "partner";

    pub async fn start(options: AsyncsshOptions) -> anyhow::Result<Self> {
        let python = virtual_environment().join("bin/python");
        ensure!(python.exists(), "the Python package asyncssh is not installed for tests: run `make setup`");
        let home = tempfile::Builder::new().prefix("asyncssh-").tempdir()?;
        std::fs::create_dir(home.path().join("files"))?;
        let host_key = key_at(&home.path().join("host_key"), "test host")?.public_key().clone();
        key_at(&home.path().join("client_key"), "test client")?;
        let password = data_encoding::HEXLOWER.encode(&random::<12>()?);
        let script = home.path().join("asyncssh_server.py");
        std::fs::write(&script, SCRIPT)?;
        let mut command = Command::new(python);
        command.arg(&script).arg(home.path()).arg(Self::USER).env("SFTP_PASSWORD", &password);
        if options.refuses_posix_rename {
            command.arg("--refuse-posix-rename");
        }
        let mut process = Process::spawn(&mut command, &home.path().join("log"))?;
        let announced = |process: &Process| process.log().lines().find_map(|line| line.strip_prefix("port ")?.parse().ok());
        let port = process.wait_until(Duration::from_secs(30), announced).await?;
        Ok(Self { process, home, port, password, host_key })
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    pub fn user(&self) -> &str {
        Self::USER
    }

    pub fn password(&self) -> &str {
        &self.password
    }

    /// A private key that is let in.
    pub fn client_key(&self) -> PathBuf {
        self.home.path().join("client_key")
    }

    /// What clients see as `/`.
    pub fn root(&self) -> PathBuf {
        self.home.path().join("files")
    }

    pub fn host_key_fingerprint(&self) -> String {
        self.host_key.fingerprint(HashAlg::Sha256).to_string()
    }

    pub fn known_hosts_line(&self) -> String {
        format!("[127.0.0.1]:{} {}", self.port, self.host_key.to_openssh().expect("an Ed25519 key has a text form"))
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    /// SIGKILL.
    pub fn kill_server(&mut self) {
        self.process.kill();
    }
}

/// `FILEFERRY_TEST_VENV`, or `.cache/venv` of the workspace, where `scripts/install-test-servers` puts it.
pub(crate) fn virtual_environment() -> PathBuf {
    match std::env::var_os("FILEFERRY_TEST_VENV") {
        Some(path) => path.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/venv"),
    }
}
