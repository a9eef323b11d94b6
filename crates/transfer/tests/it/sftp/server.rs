//! An OpenSSH server of this machine, started for one test on a free port and killed by its pid.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use model::{Endpoint, Protocol, RemotePath};
use rustix::process::{Pid, Signal, kill_process};
use transfer::sftp::{Identity, SftpConfig, SftpConnector};

pub struct Sshd {
    process: Child,
    home: tempfile::TempDir,
    port: u16,
}

impl Sshd {
    /// `None` when this machine has no sshd.
    pub fn start() -> Option<Self> {
        Self::start_with("Subsystem sftp internal-sftp\n")
    }

    pub fn start_without_sftp() -> Option<Self> {
        Self::start_with("")
    }

    fn start_with(extra: &str) -> Option<Self> {
        if !Path::new("/usr/sbin/sshd").exists() {
            eprintln!("skipped: /usr/sbin/sshd is not installed");
            return None;
        }
        // Privilege separation needs its directory when started as root, and refuses to make it.
        let _ = std::fs::create_dir_all("/run/sshd");
        let home = tempfile::tempdir().unwrap();
        for key in ["host", "user"] {
            let file = home.path().join(key);
            let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&file).status().unwrap();
            assert!(made.success());
        }
        std::fs::create_dir(home.path().join("files")).unwrap();
        for _ in 0..5 {
            if let Some((process, port)) = launch(home.path(), extra) {
                return Some(Self { process, home, port });
            }
        }
        panic!("sshd found no free port five times");
    }

    pub fn files(&self) -> std::path::PathBuf {
        self.home.path().join("files")
    }

    pub fn path(&self, name: &str) -> RemotePath {
        RemotePath::from_user(self.files().join(name).to_str().unwrap()).unwrap()
    }

    pub fn connector(&self, stall_timeout: Duration) -> SftpConnector {
        let public = std::fs::read_to_string(self.home.path().join("host.pub")).unwrap();
        let host_key = russh::keys::parse_public_key_base64(public.split(' ').nth(1).unwrap()).unwrap();
        let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
        let endpoint =
            Endpoint { protocol: Protocol::Sftp, host: "127.0.0.1".into(), port: Some(self.port), user: Some(user.trim().into()) };
        let mut config = SftpConfig::new(endpoint);
        config.stall_timeout = stall_timeout;
        config.identities = vec![Identity { path: self.home.path().join("user"), passphrase: None, named: true }];
        config.host_key_pins = vec![host_key.fingerprint(russh::keys::HashAlg::Sha256).to_string()];
        SftpConnector::new(config)
    }

    /// The processes that serve sessions: children of ours, and theirs.
    pub fn sessions(&self) -> Vec<Pid> {
        let mut found = children(self.process.id());
        let mut next = 0;
        while next < found.len() {
            found.extend(children(found[next]));
            next += 1;
        }
        found.into_iter().filter_map(|pid| Pid::from_raw(pid as i32)).collect()
    }

    pub fn signal_sessions(&self, signal: Signal) {
        for pid in self.sessions() {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.signal_sessions(Signal::KILL);
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn launch(home: &Path, extra: &str) -> Option<(Child, u16)> {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = home.join("config");
    let shown = home.display();
    std::fs::set_permissions(home.join("host"), std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(
        &config,
        format!(
            "ListenAddress 127.0.0.1\nHostKey {shown}/host\nAuthorizedKeysFile {shown}/user.pub\nPidFile none\nUsePAM no\n\
             StrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\n{extra}"
        ),
    )
    .unwrap();
    let mut process = Command::new("/usr/sbin/sshd")
        .args(["-D", "-e", "-p", &port.to_string(), "-f"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(process.stderr.take().unwrap());
    let mut line = String::new();
    while log.read_line(&mut line).unwrap() > 0 {
        if line.contains("Server listening") {
            // Its log must be read on, or it blocks.
            std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
            return Some((process, port));
        }
    }
    eprintln!("sshd did not start: {line}");
    let _ = process.wait();
    None
}
