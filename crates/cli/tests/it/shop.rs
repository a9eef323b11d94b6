//! A store, a partner and the program between them, for the tests of whole copies.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use testkit::s3::{Bucket, S3Server};
use testkit::sftp::SftpServer;

use super::*;

pub struct Shop {
    pub home: Home,
    pub server: S3Server,
    pub bucket: Bucket,
}

/// No copy of these tests takes longer.
const LONGEST: Duration = Duration::from_secs(60);

pub async fn shop() -> Shop {
    let home = Home::new();
    std::fs::create_dir(home.path("out")).unwrap();
    let server = S3Server::start().await;
    let bucket = server.bucket("b");
    Shop { home, server, bucket }
}

impl Shop {
    /// `fileferry COMMAND… --s3-endpoint … --json` with credentials in the environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let endpoint = self.server.endpoint();
        let mut command = self.home.command(arguments);
        if arguments[0] == "copy" {
            command.args(["--s3-endpoint", &endpoint]);
        }
        command.arg("--json").env("AWS_ACCESS_KEY_ID", "AKIATEST").env("AWS_SECRET_ACCESS_KEY", "secret").env("AWS_REGION", "us-east-1");
        command.env("AWS_EC2_METADATA_DISABLED", "true").env("RUST_BACKTRACE", "0");
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        ended(self.start(self.command(arguments)))
    }

    pub fn start(&self, mut command: Command) -> Child {
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The URL of the directory `out`.
    pub fn out(&self) -> String {
        format!("file://{}/", text(&self.home.path("out")))
    }

    /// Everything below `out`, by the bytes of its path.
    pub fn files(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        files_below(&self.home.path("out"))
    }
}

/// Waits for a program whose output is small, and kills one that hangs.
pub fn ended(mut child: Child) -> Ran {
    let (pid, done) = (child.id(), std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let watched = done.clone();
    std::thread::spawn(move || {
        let begin = Instant::now();
        while begin.elapsed() < LONGEST {
            std::thread::sleep(Duration::from_millis(50));
            if watched.load(std::sync::atomic::Ordering::SeqCst) {
                return;
            }
        }
        signal(pid, "KILL");
    });
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    done.store(true, std::sync::atomic::Ordering::SeqCst);
    let ran = Ran::of(output);
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
    ran
}

pub fn signal(pid: u32, name: &str) {
    let done = Command::new("/bin/kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(done.success());
}

pub fn wait_until(what: &str, happened: impl Fn() -> bool) {
    let begin = Instant::now();
    while !happened() {
        assert!(begin.elapsed() < Duration::from_secs(30), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn files_below(root: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// URL, flags and root directory of a partner's upload directory.
pub struct Partner {
    pub url: String,
    pub flags: Vec<String>,
}

pub fn sandbox(server: &SftpServer) -> Partner {
    std::fs::create_dir_all(server.file("/in")).unwrap();
    let url = format!("sftp://{}@{}/in/", server.user(), server.address());
    let flags = vec!["--identity".into(), text(server.client_key()).into(), "--host-key".into(), server.host_key_fingerprint()];
    Partner { url, flags }
}

impl Partner {
    pub fn arguments<'a>(&'a self, source: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let flags = self.flags.iter().map(String::as_str);
        ["copy", source, &self.url].into_iter().chain(flags).chain(more.iter().copied()).collect()
    }
}

impl Ran {
    pub fn summary(&self) -> serde_json::Value {
        self.objects().pop().unwrap_or_else(|| panic!("no line at all: {}", self.err))
    }

    /// Key and class of the files that failed.
    pub fn failed(&self) -> Vec<(String, String)> {
        let failed = self.objects().into_iter().filter(|line| line["type"] == "file" && line["error"].is_object());
        failed.map(|line| (line["key"].as_str().unwrap().to_owned(), line["error"]["class"].as_str().unwrap().to_owned())).collect()
    }
}
