//! OpenSSH as the account that runs the tests, so that they can put files where the server works.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use model::RemotePath;
use rustix::process::{Pid, Signal, kill_process};
use testkit::sshd::SshdOptions;
use transfer::sftp::SftpConnector;

use crate::servers::{or_skip, sshd_config};

pub struct Sshd {
    server: Mutex<testkit::sshd::Sshd>,
    files: PathBuf,
}

impl Sshd {
    /// `None` when this machine has no sshd and tests may be skipped for that.
    pub async fn start() -> Option<Self> {
        Self::start_with(SshdOptions { own_account: true, ..SshdOptions::default() }).await
    }

    pub async fn start_without_sftp() -> Option<Self> {
        Self::start_with(SshdOptions { own_account: true, without_sftp: true, ..SshdOptions::default() }).await
    }

    async fn start_with(options: SshdOptions) -> Option<Self> {
        let server = or_skip(testkit::sshd::Sshd::start(options).await)?;
        let files = server.directory().to_owned();
        Some(Self { server: Mutex::new(server), files })
    }

    pub fn files(&self) -> PathBuf {
        self.files.clone()
    }

    pub fn path(&self, name: &str) -> RemotePath {
        RemotePath::from_user(self.files.join(name).to_str().unwrap()).unwrap()
    }

    pub fn connector(&self, stall_timeout: Duration) -> SftpConnector {
        let mut config = sshd_config(&self.server.lock().unwrap());
        config.stall_timeout = stall_timeout;
        SftpConnector::new(config)
    }

    /// The processes that serve sessions.
    pub fn sessions(&self) -> Vec<i32> {
        self.server.lock().unwrap().sessions()
    }

    pub fn signal_sessions(&self, signal: Signal) {
        for pid in self.sessions().into_iter().filter_map(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }
}
