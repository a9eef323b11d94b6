//! One scene: a store with its objects, one destination behind a proxy that can be cut, a home for the program's
//! records, and the program itself as a child.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use testkit::asyncssh::{Asyncssh, AsyncsshOptions};
use testkit::proxy::{Direction, FaultProxy, How};
use testkit::s3::{Content, S3Server};
use testkit::sftp::{Behaviour, NameEventKind, SftpServer, Verdict};
use testkit::sshd::{Sshd, SshdOptions};

use crate::strike::Point;

pub const BUCKET: &str = "outbound";
/// Short enough that nobody waits long for a take-over, long enough for a busy machine to renew it.
const LEASE: Duration = Duration::from_millis(1_500);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Sandbox,
    OpenSsh,
    Asyncssh,
    File,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::OpenSsh => "OpenSSH",
            Self::Asyncssh => "asyncssh",
            Self::File => "file",
        }
    }
}

/// What is to arrive under one name, and what lay there before.
#[derive(Debug, Clone)]
pub struct Expected {
    pub name: String,
    pub content: Content,
    pub sha256: String,
    pub old: Content,
}

/// Objects below one prefix.
#[derive(Debug)]
pub struct Collection {
    pub prefix: String,
    pub files: Vec<Expected>,
    pub total: u64,
    pub small_total: u64,
}

impl Collection {
    /// One big file, one of twenty mebibytes, many small ones, an empty one.
    pub fn fill(s3: &S3Server, number: u64, big: u64) -> Self {
        let bucket = s3.bucket(BUCKET);
        let prefix = format!("set{number}/");
        let mut sizes = vec![("big.bin".to_owned(), big), ("middle.bin".to_owned(), 20 * 1_000_000 + 17), ("empty".to_owned(), 0)];
        sizes.extend((0..150u64).map(|i| (format!("small/{}/{i:03}.txt", i % 5), 100 + i * i * 7 % 90_000)));
        let mut files = Vec::new();
        for (index, (name, size)) in sizes.into_iter().enumerate() {
            let content = Content::generated(number * 1_000 + index as u64, size);
            bucket.put(&format!("{prefix}{name}"), content.clone());
            let old = Content::generated(500_000 + index as u64, size / 2 + 3);
            files.push(Expected { name, sha256: content.sha256(), content, old });
        }
        let total = files.iter().map(|f| f.content.len()).sum();
        let small_total = files[2..].iter().map(|f| f.content.len()).sum();
        Self { prefix, files, total, small_total }
    }
}

enum Server {
    Sandbox(SftpServer),
    OpenSsh(Sshd),
    Asyncssh(Asyncssh),
    File,
}

pub struct Stage {
    pub collection: Arc<Collection>,
    pub replace: bool,
    /// Where the files arrive, as a directory of this machine.
    pub directory: PathBuf,
    pub home: tempfile::TempDir,
    /// What the watcher of the sandbox saw and should not have seen.
    pub seen: Arc<Mutex<Vec<String>>>,
    pub tripped: Arc<Trip>,
    s3: Arc<S3Server>,
    server: Server,
    proxy: Option<FaultProxy>,
    url: String,
    login: Option<(PathBuf, String)>,
    program: PathBuf,
    runs: AtomicU64,
}

/// The strike that waits at the sandbox server for its request.
#[derive(Debug, Default)]
pub struct Trip {
    state: Mutex<Option<Armed>>,
    pub pid: AtomicI32,
    pub fired: AtomicBool,
}

#[derive(Debug, Clone)]
pub struct Armed {
    pub point: Point,
    pub left: u64,
    pub signal: Option<Signal>,
    pub verdict: Verdict,
}

impl Trip {
    pub fn arm(&self, armed: Option<Armed>) {
        *self.state.lock().unwrap() = armed;
        self.fired.store(false, SeqCst);
    }
}

impl Stage {
    pub async fn set(kind: Kind, s3: Arc<S3Server>, collection: Arc<Collection>, replace: bool, program: &Path) -> anyhow::Result<Self> {
        let home = tempfile::Builder::new().prefix("kill-").tempdir()?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let tripped = Arc::new(Trip::default());
        let (server, address, user, directory, path, login) = match kind {
            Kind::Sandbox => {
                let behaviour = Behaviour { tracks_unsynced: true, ..Behaviour::default() };
                let server = SftpServer::builder().behaviour(behaviour).start().await?;
                let directory = server.file("/inbox");
                std::fs::create_dir(&directory)?;
                let login = (server.client_key().to_owned(), server.host_key_fingerprint());
                let (address, user) = (server.address(), server.user().to_owned());
                (Server::Sandbox(server), Some(address), user, directory, "/inbox/".to_owned(), Some(login))
            }
            Kind::OpenSsh => {
                let server = Sshd::start(SshdOptions::default()).await?;
                let directory = server.directory().to_owned();
                let path = format!("{}/", directory.display());
                let login = (server.client_key(), server.host_key_fingerprint());
                let (address, user) = (server.address(), server.user().to_owned());
                (Server::OpenSsh(server), Some(address), user, directory, path, Some(login))
            }
            Kind::Asyncssh => {
                let server = Asyncssh::start(AsyncsshOptions::default()).await?;
                let directory = server.root().join("inbox");
                std::fs::create_dir(&directory)?;
                let login = (server.client_key(), server.host_key_fingerprint());
                let (address, user) = (server.address(), server.user().to_owned());
                (Server::Asyncssh(server), Some(address), user, directory, "/inbox/".to_owned(), Some(login))
            }
            Kind::File => {
                let directory = home.path().join("inbox");
                std::fs::create_dir(&directory)?;
                let path = format!("{}/", directory.display());
                (Server::File, None, String::new(), directory, path, None)
            }
        };
        let proxy = match address {
            Some(address) => Some(FaultProxy::start(address).await),
            None => None,
        };
        let url = match &proxy {
            Some(proxy) => format!("sftp://{user}@{}{path}", proxy.address()),
            None => format!("file://{path}"),
        };
        if replace {
            lay_out(&directory, &collection)?;
        }
        let stage = Self {
            collection,
            replace,
            directory,
            home,
            seen,
            tripped,
            s3,
            server,
            proxy,
            url,
            login,
            program: program.to_owned(),
            runs: AtomicU64::new(0),
        };
        stage.watch();
        Ok(stage)
    }

    /// The sandbox tells of names and asks before operations.
    fn watch(&self) {
        let Server::Sandbox(server) = &self.server else { return };
        let (seen, expected) = (self.seen.clone(), self.collection.clone());
        server.watch(move |event| {
            let Some(name) = event.path.strip_prefix("/inbox/") else { return };
            let Some(file) = expected.files.iter().find(|f| f.name == name) else { return };
            let trouble = match &event.kind {
                NameEventKind::RenamedFrom(_) => {
                    let size = event.file.metadata().map(|m| m.len()).ok();
                    (size != Some(file.content.len())).then(|| format!("published with {size:?} bytes"))
                }
                NameEventKind::Removed => Some("removed".to_owned()),
                other => Some(format!("{other:?}")),
            };
            if let Some(trouble) = trouble {
                seen.lock().unwrap().push(format!("{name}: {trouble}"));
            }
        });
        let trip = self.tripped.clone();
        server.on(move |operation| {
            let mut state = trip.state.lock().unwrap();
            let Some(armed) = state.as_mut().filter(|armed| armed.point.matches(operation)) else { return Verdict::Proceed };
            if armed.left > 0 {
                armed.left -= 1;
                return Verdict::Proceed;
            }
            if let Some(signal) = armed.signal {
                send(trip.pid.load(SeqCst), signal);
            }
            let verdict = armed.verdict.clone();
            *state = None;
            trip.fired.store(true, SeqCst);
            verdict
        });
    }

    /// Starts the copy.
    pub fn start(&self) -> anyhow::Result<Running> {
        let number = self.runs.fetch_add(1, SeqCst);
        let log = |what: &str| self.home.path().join(format!("{what}-{number}"));
        let (out, err) = (log("out"), log("err"));
        let home = self.home.path();
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .arg("copy")
            .arg(format!("s3://{BUCKET}/{}", self.collection.prefix))
            .arg(&self.url)
            .args(["--json", "--no-progress", "--connect-timeout", "10s", "--stall-timeout", "20s", "-vv"])
            .args(["--if-exists", if self.replace { "replace" } else { "fail" }])
            .arg("--receipt")
            .arg(self.receipts())
            .env("HOME", home)
            .env("XDG_STATE_HOME", home.join("state"))
            .env("XDG_CONFIG_HOME", home.join("config"))
            .env("AWS_ACCESS_KEY_ID", "sandbox")
            .env("AWS_SECRET_ACCESS_KEY", "sandbox")
            .env("AWS_REGION", "us-east-1")
            .env("FILEFERRY_S3_ENDPOINT", self.s3.endpoint())
            .env("FILEFERRY_TEST_LEASE_MS", LEASE.as_millis().to_string())
            .stdin(Stdio::null())
            .stdout(File::create(&out)?)
            .stderr(File::create(&err)?);
        if let Some((key, fingerprint)) = &self.login {
            command.arg("--identity").arg(key).arg("--host-key").arg(fingerprint);
        }
        let child = command.spawn()?;
        Ok(Running { pid: child.id() as i32, child, begun: Instant::now(), out, err, ended: None })
    }

    pub fn receipts(&self) -> PathBuf {
        self.home.path().join("receipts.jsonl")
    }

    pub fn database(&self) -> PathBuf {
        self.home.path().join("state/fileferry/fileferry.db")
    }

    /// File bytes that reached the destination, as counted there, or at the proxy with what SSH adds to them.
    pub fn arrived(&self) -> u64 {
        match (&self.server, &self.proxy) {
            (Server::Sandbox(server), _) => server.recorder().bytes_written(),
            (_, Some(proxy)) => proxy.bytes(Direction::ToServer),
            _ => self.served(),
        }
    }

    /// Bytes of the two large objects that the store has sent.
    pub fn served(&self) -> u64 {
        self.collection.files[..2].iter().map(|f| self.s3.bytes_served(&format!("{}{}", self.collection.prefix, f.name))).sum()
    }

    pub fn objects_read(&self) -> usize {
        self.s3.requests_for(testkit::s3::Operation::GetObject).len()
    }

    pub fn end_sessions(&mut self) {
        match &mut self.server {
            Server::Sandbox(server) => server.kill_connections(),
            Server::OpenSsh(server) => {
                server.kill_sessions();
            }
            _ => self.cut(How::Rst),
        }
    }

    pub async fn restart(&mut self, pause: Duration) -> anyhow::Result<()> {
        if let Server::OpenSsh(server) = &mut self.server {
            server.kill_server();
            tokio::time::sleep(pause).await;
            server.restart().await?;
        }
        Ok(())
    }

    pub fn cut(&self, how: How) {
        if let Some(proxy) = &self.proxy {
            proxy.cut_now(how);
        }
    }

    /// Cuts the line at exactly this byte.
    pub fn cut_at(&self, direction: Direction, how: How, more: u64) {
        if let Some(proxy) = &self.proxy {
            let at = proxy.bytes(direction) + more;
            proxy.rule(direction, testkit::proxy::Counted::OverAll, at, testkit::proxy::Action::Cut(how));
        }
    }

    pub fn heal(&self) {
        if let Some(proxy) = &self.proxy {
            proxy.heal();
        }
    }

    pub fn crash(&self, loss: testkit::sftp::Loss) -> anyhow::Result<()> {
        if let Server::Sandbox(server) = &self.server {
            server.crash(loss)?;
        }
        Ok(())
    }

    /// What the servers have to say, for the report of a violation.
    pub fn server_log(&self) -> String {
        let log = match &self.server {
            Server::OpenSsh(server) => server.log(),
            Server::Asyncssh(server) => server.log(),
            _ => String::new(),
        };
        log.lines().rev().take(5).collect::<Vec<_>>().join(" | ")
    }
}

fn lay_out(directory: &Path, collection: &Collection) -> anyhow::Result<()> {
    // The server may run as another user, who must be able to write here as well.
    let like = std::fs::metadata(directory)?;
    for file in &collection.files {
        let path = directory.join(&file.name);
        let mut missing = Vec::new();
        let mut parent = path.parent();
        while let Some(at) = parent.filter(|at| !at.exists()) {
            missing.push(at.to_owned());
            parent = at.parent();
        }
        for at in missing.iter().rev() {
            std::fs::create_dir(at)?;
            own(at, &like)?;
        }
        std::fs::write(&path, file.old.bytes())?;
        own(&path, &like)?;
    }
    Ok(())
}

fn own(path: &Path, like: &std::fs::Metadata) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    std::os::unix::fs::chown(path, Some(like.uid()), Some(like.gid()))
}

/// A child that dies with the test.
#[derive(Debug)]
pub struct Running {
    child: Child,
    pub pid: i32,
    pub begun: Instant,
    pub out: PathBuf,
    pub err: PathBuf,
    pub ended: Option<ExitStatus>,
}

impl Running {
    pub fn signal(&mut self, signal: Signal) {
        if self.has_ended().is_none() {
            send(self.pid, signal);
        }
    }

    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Waits for its end; `None` when it took longer than allowed and had to be killed.
    pub async fn end(&mut self, limit: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + limit;
        loop {
            if let Some(status) = self.has_ended() {
                return Some(status);
            }
            if Instant::now() > until {
                self.signal(Signal::KILL);
                let _ = self.child.wait();
                return None;
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.err).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().filter(|l| !l.is_empty()).take(4).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    pub fn summary(&self) -> Option<serde_json::Value> {
        let text = std::fs::read_to_string(&self.out).ok()?;
        let mut objects = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        objects.rfind(|o| o["type"] == "summary")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::KILL.as_raw())
}

pub fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // Gone in the meantime is as good.
        let _ = kill_process(pid, signal);
    }
}

pub const PAST_THE_LEASE: Duration = LEASE.saturating_add(Duration::from_millis(150));
