//! One scene: a store with its objects, one destination behind a proxy that can be cut, a home for the program's
//! records, and the program itself as a child.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use testkit::ftp::FtpServerOptions;
use testkit::ftp_sandbox::Action;
use testkit::proxy::{Counted, Direction, FaultProxy, How, Scope};
use testkit::s3::{Content, S3Server};
use testkit::sftp::{Loss, NameEvent, NameEventKind, Verdict};

use crate::chance::Chance;
use crate::running::{Running, send};
use crate::server::{Kind, Login, Server, Started};
use crate::strike::Point;

pub const BUCKET: &str = "outbound";
/// Short enough that nobody waits long for a take-over, long enough for a busy machine to renew it.
const LEASE: Duration = Duration::from_millis(1_500);
pub const PAST_THE_LEASE: Duration = LEASE.saturating_add(Duration::from_millis(150));
/// From here on a file may be cut and go on.
const LARGE: u64 = 1 << 20;

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
        let prefix = format!("set{number}/");
        let mut sizes = vec![("big.bin".to_owned(), big), ("middle.bin".to_owned(), 20 * 1_000_000 + 17), ("empty".to_owned(), 0)];
        sizes.extend((0..150u64).map(|i| (format!("small/{}/{i:03}.txt", i % 5), 100 + i * i * 7 % 90_000)));
        Self::of(s3, prefix, number, sizes)
    }

    /// One file, `data.bin`.
    pub fn one(s3: &S3Server, number: u64, size: u64) -> Self {
        Self::of(s3, format!("one{number}/"), number, vec![("data.bin".to_owned(), size)])
    }

    fn of(s3: &S3Server, prefix: String, number: u64, sizes: Vec<(String, u64)>) -> Self {
        let bucket = s3.bucket(BUCKET);
        let mut files = Vec::new();
        for (index, (name, size)) in sizes.into_iter().enumerate() {
            let content = Content::generated(number * 1_000 + index as u64, size);
            bucket.put(&format!("{prefix}{name}"), content.clone());
            let old = Content::generated(500_000 + index as u64, size / 2 + 3);
            files.push(Expected { name, sha256: content.sha256(), content, old });
        }
        let total = files.iter().map(|f| f.content.len()).sum();
        let small_total = files.iter().map(|f| f.content.len()).filter(|size| *size < LARGE).sum();
        Self { prefix, files, total, small_total }
    }

    pub fn large(&self) -> impl Iterator<Item = &Expected> {
        self.files.iter().filter(|file| file.content.len() >= LARGE)
    }
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
    login: Login,
    flags: Vec<String>,
    stall_timeout: String,
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

    /// At an operation: what the server shall do, if this is the one.
    fn trips(&self, is_meant: impl Fn(Point) -> bool) -> Option<Verdict> {
        let mut state = self.state.lock().unwrap();
        let armed = state.as_mut().filter(|armed| is_meant(armed.point))?;
        if armed.left > 0 {
            armed.left -= 1;
            return None;
        }
        if let Some(signal) = armed.signal {
            send(self.pid.load(SeqCst), signal);
        }
        let verdict = armed.verdict.clone();
        *state = None;
        self.fired.store(true, SeqCst);
        Some(verdict)
    }
}

/// What a stage is made of.
pub struct Setting<'a> {
    pub kind: Kind,
    pub s3: Arc<S3Server>,
    pub collection: Arc<Collection>,
    pub replace: bool,
    pub program: &'a Path,
    pub stall_timeout: &'a str,
    /// More flags of the program.
    pub flags: Vec<String>,
}

impl Stage {
    pub async fn set(setting: Setting<'_>) -> anyhow::Result<Self> {
        Self::with(setting, |_| {}).await
    }

    /// `change` has the last word about an FTP server's options.
    pub async fn with(setting: Setting<'_>, change: impl FnOnce(&mut FtpServerOptions)) -> anyhow::Result<Self> {
        let Setting { kind, s3, collection, replace, program, stall_timeout, flags } = setting;
        let home = tempfile::Builder::new().prefix("kill-").tempdir()?;
        let Started { server, directory, path, scheme, user, address, passive, login } = Started::start(kind, home.path(), change).await?;
        let proxy = match (address, passive) {
            (Some(address), Some(passive)) => Some(FaultProxy::mirror(address, passive).await?),
            (Some(address), None) => Some(FaultProxy::start(address).await),
            (None, _) => None,
        };
        let url = match &proxy {
            Some(proxy) => format!("{scheme}://{user}@{}{path}", proxy.address()),
            None => format!("{scheme}://{path}"),
        };
        if replace {
            lay_out(&directory, &collection)?;
        }
        let stage = Self {
            collection,
            replace,
            directory,
            home,
            seen: Arc::default(),
            tripped: Arc::default(),
            s3,
            server,
            proxy,
            url,
            login,
            flags,
            stall_timeout: stall_timeout.to_owned(),
            program: program.to_owned(),
            runs: AtomicU64::new(0),
        };
        stage.watch();
        Ok(stage)
    }

    /// A sandbox tells of names and asks before operations.
    fn watch(&self) {
        let (seen, expected) = (self.seen.clone(), self.collection.clone());
        let watcher = move |event: &NameEvent| {
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
        };
        let trip = self.tripped.clone();
        match &self.server {
            Server::Sandbox(server) => {
                server.watch(watcher);
                server.on(move |operation| trip.trips(|point| point.matches(operation)).unwrap_or(Verdict::Proceed));
            }
            Server::FtpSandbox(server) => {
                server.watch(watcher);
                server.on(move |operation| match trip.trips(|point| point.matches_ftp(operation)) {
                    Some(Verdict::Disconnect) => Action::Disconnect,
                    Some(Verdict::DoneThenDisconnect) => Action::DoneThenDisconnect,
                    Some(Verdict::Delay(time)) => Action::Delay(time),
                    _ => Action::Proceed,
                });
            }
            _ => {}
        }
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
            .args(["--json", "--no-progress", "--connect-timeout", "10s", "--stall-timeout", &self.stall_timeout, "-vv"])
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
        match &self.login {
            Login::Nothing => {}
            Login::Key { identity, host_key } => {
                command.arg("--identity").arg(identity).arg("--host-key").arg(host_key);
            }
            Login::Password { password, authority } => {
                command.args(["--password-from", "env:PARTNER_PASSWORD"]).env("PARTNER_PASSWORD", password);
                if let Some(authority) = authority {
                    command.arg("--ca-file").arg(authority);
                }
            }
        }
        command.args(&self.flags);
        Ok(Running::new(command.spawn()?, out, err))
    }

    pub fn receipts(&self) -> PathBuf {
        self.home.path().join("receipts.jsonl")
    }

    pub fn database(&self) -> PathBuf {
        self.home.path().join("state/fileferry/fileferry.db")
    }

    /// File bytes that reached the destination: as counted by a sandbox itself, or at the proxy, with what encryption and
    /// logins add to them.
    pub fn arrived(&self) -> u64 {
        match (&self.server, &self.proxy) {
            (Server::Sandbox(server), _) => server.recorder().bytes_written(),
            (Server::FtpSandbox(server), _) => server.recorder().bytes_received(),
            (Server::Ftp(_), Some(proxy)) => proxy.on(Scope::Data).bytes(Direction::ToServer),
            (_, Some(proxy)) => proxy.bytes(Direction::ToServer),
            _ => self.served(),
        }
    }

    /// What passed the proxy.
    pub fn passed(&self, scope: Scope, direction: Direction) -> u64 {
        self.proxy.as_ref().map_or(0, |proxy| proxy.on(scope).bytes(direction))
    }

    /// Bytes of the large objects that the store has sent.
    pub fn served(&self) -> u64 {
        self.collection.large().map(|f| self.s3.bytes_served(&format!("{}{}", self.collection.prefix, f.name))).sum()
    }

    pub fn objects_read(&self) -> usize {
        self.s3.requests_for(testkit::s3::Operation::GetObject).len()
    }

    pub fn end_sessions(&mut self) {
        if !self.server.end_sessions() {
            self.cut(Scope::All, How::Rst);
        }
    }

    pub async fn restart(&mut self, pause: Duration) -> anyhow::Result<()> {
        self.server.kill();
        // Clients that come while it starts would keep it from being seen idle.
        if let Some(proxy) = &self.proxy {
            proxy.refuse(true).await;
        }
        tokio::time::sleep(pause).await;
        let restarted = self.server.restart().await;
        if let Some(proxy) = &self.proxy {
            proxy.refuse(false).await;
        }
        restarted
    }

    pub fn cut(&self, scope: Scope, how: How) {
        if let Some(proxy) = &self.proxy {
            proxy.on(scope).cut_now(how);
        }
    }

    /// Cuts the line at exactly this byte; returns its number.
    pub fn cut_at(&self, scope: Scope, direction: Direction, how: How, more: u64) -> u64 {
        let at = self.passed(scope, direction) + more;
        if let Some(proxy) = &self.proxy {
            proxy.on(scope).rule(direction, Counted::OverAll, at, testkit::proxy::Action::Cut(how));
        }
        at
    }

    /// How many bytes a second the whole line carries, each way.
    pub fn line_rate(&self, bytes_per_second: u64) {
        if let Some(proxy) = &self.proxy {
            proxy.rate(Direction::ToServer, Some(bytes_per_second)).rate(Direction::ToClient, Some(bytes_per_second));
        }
    }

    pub fn heal(&self) {
        if let Some(proxy) = &self.proxy {
            proxy.heal();
        }
    }

    pub async fn crash(&self, loss: Loss, chance: &mut Chance) -> anyhow::Result<()> {
        let whole: Vec<u64> = self.collection.files.iter().map(|file| file.content.len()).collect();
        self.server.crash(loss, &self.directory, &whole, chance).await
    }

    /// Proofs that failed in any run: the next start heals them, but without a reboot nothing wrong may have been written.
    pub fn failed_proofs(&self) -> Vec<String> {
        let logs = (0..self.runs.load(SeqCst)).map(|number| self.home.path().join(format!("err-{number}")));
        let texts = logs.map(|log| std::fs::read_to_string(log).unwrap_or_default());
        let lines = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
        lines.filter(|line| line.contains("could not prove the content")).map(|line| format!("a proof failed: {line}")).collect()
    }

    /// Where a promise was broken, logs and records are kept on demand.
    pub fn keep(&mut self, violations: &[String]) {
        if !violations.is_empty() && std::env::var_os("FILEFERRY_KEEP").is_some() {
            println!("kept: {}", self.home.path().display());
            let _ = std::fs::write(self.home.path().join("server.log"), self.server.log());
            self.home.disable_cleanup(true);
        }
    }

    /// What the server said last, the latest first.
    pub fn server_log(&self) -> String {
        self.server.log().lines().rev().take(5).collect::<Vec<_>>().join(" | ")
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
