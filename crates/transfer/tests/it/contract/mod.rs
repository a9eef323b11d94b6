//! What every `Connector` must do, sentence by sentence of `destination.rs`. A protocol joins by a test that calls
//! `check` with its set-ups; a case is reported as skipped, with the reason, where a capability is missing or where the
//! set-up says that its server lacks something on purpose.

mod attributes;
mod directories;
mod file;
mod ftp;
mod memory;
mod naming;
mod opening;
mod reading;
mod renaming;
mod session;
mod sftp;
mod together;
mod writing;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use model::RemotePath;
use transfer::{Capabilities, Connection, Connector, CreateOptions, Error, ErrorKind, OpenMode, Writer};

use crate::servers::{Lacks, Need, make_directory};

/// A case that takes longer hangs: every wait of an implementation is bounded, and these servers are near.
const CASE_TIMEOUT: Duration = Duration::from_secs(60);

/// A server to check.
pub struct SetUp {
    pub name: String,
    pub connector: Arc<dyn Connector>,
    /// An empty directory that may be written to.
    pub directory: RemotePath,
    /// What this server lacks on purpose and cannot say of itself, each with how it does so.
    pub lacks: Lacks,
    /// Where the suite must make its directories itself, because the server's own would undo the set-up.
    pub disk: Option<(PathBuf, u32)>,
    /// A login that is refused while an earlier one is being cleared away is tried again for a moment.
    pub few_logins: bool,
    /// Keeps the server and its directory alive.
    pub guard: Box<dyn Any + Send + Sync>,
}

impl SetUp {
    /// A server that can do what its capabilities say.
    pub fn able(name: &str, connector: Arc<dyn Connector>, directory: RemotePath, guard: Box<dyn Any + Send + Sync>) -> Self {
        Self { name: name.to_owned(), connector, directory, lacks: Lacks::new(), disk: None, few_logins: false, guard }
    }

    fn lacking(&self) -> Vec<Need> {
        self.lacks.iter().map(|(need, _)| *need).collect()
    }
}

pub enum Outcome {
    Passed,
    /// With what was missing.
    Skipped(&'static str),
}

/// Why a case failed, in words.
#[derive(Debug)]
pub struct Wrong(String);

impl From<Error> for Wrong {
    fn from(error: Error) -> Self {
        Self(format!("[{}] {}", error.kind, transfer::error::chain(&error)))
    }
}

impl From<&str> for Wrong {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Wrong {
    fn from(text: String) -> Self {
        Self(text)
    }
}

pub type Check = Result<Outcome, Wrong>;

pub struct Case {
    pub name: &'static str,
    pub run: fn(Place) -> BoxFuture<'static, Check>,
}

/// Names each function of a list as a case.
macro_rules! cases {
    ($($name:ident,)*) => {
        pub const CASES: &[super::Case] = &[$(super::Case { name: stringify!($name), run: |place| Box::pin($name(place)) },)*];
    };
}
pub(crate) use cases;

/// Ends a case as skipped unless the server has what it needs.
macro_rules! needs {
    ($place:expr, $($capability:ident),*) => {
        $(if !$place.capabilities().$capability {
            return Ok(super::Outcome::Skipped(stringify!($capability)));
        })*
    };
}
pub(crate) use needs;

/// Ends a case as skipped where the set-up lacks something on purpose.
macro_rules! wants {
    ($place:expr, $($need:ident),*) => {
        $(if !$place.has(crate::servers::Need::$need) {
            return Ok(super::Outcome::Skipped(crate::servers::Need::$need.name()));
        })*
    };
}
pub(crate) use wants;

pub const CONTRACT: &[&[Case]] = &[
    opening::CASES,
    writing::CASES,
    reading::CASES,
    renaming::CASES,
    directories::CASES,
    naming::CASES,
    attributes::CASES,
    session::CASES,
    together::CASES,
];

/// Where one case works: a connection of its own and an empty directory of its own.
pub struct Place {
    pub connector: Arc<dyn Connector>,
    pub connection: Arc<dyn Connection>,
    pub directory: RemotePath,
    lacks: Vec<Need>,
    few_logins: bool,
}

impl Place {
    pub fn has(&self, need: Need) -> bool {
        !self.lacks.contains(&need)
    }

    /// What the server says of itself, less what the set-up takes away.
    pub fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.connection.capabilities().clone();
        capabilities.read &= self.has(Need::Read);
        capabilities.atomic_replace &= self.has(Need::Replace);
        capabilities
    }

    /// The same place over another connection.
    pub fn over(&self, connection: Arc<dyn Connection>) -> Self {
        let (connector, directory) = (self.connector.clone(), self.directory.clone());
        Self { connector, connection, directory, lacks: self.lacks.clone(), few_logins: self.few_logins }
    }

    pub fn path(&self, name: &str) -> RemotePath {
        self.directory.join(name).expect("the suite's names are valid")
    }

    pub async fn connect(&self) -> Result<Arc<dyn Connection>, Wrong> {
        Ok(connect(&*self.connector, self.few_logins).await?)
    }

    pub async fn create(&self, path: &RemotePath) -> Result<Box<dyn Writer>, Wrong> {
        Ok(self.connection.open(path, self.options(OpenMode::CreateNew)).await?)
    }

    /// Also opens for reading, where that is possible.
    pub fn options(&self, mode: OpenMode) -> CreateOptions {
        CreateOptions { mode, read: self.capabilities().read, permissions: None }
    }

    /// Creates a file in order, as every destination can.
    pub async fn put(&self, path: &RemotePath, bytes: &[u8]) -> Result<(), Wrong> {
        let writer = self.create(path).await?;
        let step = self.connection.capabilities().max_write.max(1);
        for (number, chunk) in bytes.chunks(step).enumerate() {
            writer.write_at((number * step) as u64, Bytes::copy_from_slice(chunk)).await?;
        }
        Ok(writer.close().await?)
    }

    /// The whole file; where nothing can be read, its size as that many zeros is compared by `expect`.
    async fn get(&self, path: &RemotePath) -> Result<Option<Vec<u8>>, Wrong> {
        if !self.capabilities().read {
            return Ok(None);
        }
        let reader = self.connection.open_read(path).await?;
        let mut bytes = Vec::new();
        loop {
            let block = reader.read_at(bytes.len() as u64, 64 * 1024).await?;
            if block.is_empty() {
                break;
            }
            bytes.extend_from_slice(&block);
        }
        reader.close().await?;
        Ok(Some(bytes))
    }

    /// The file has this size, and this content where content can be read.
    pub async fn expect(&self, path: &RemotePath, bytes: &[u8]) -> Result<(), Wrong> {
        if self.has(Need::Stat) {
            let found = self.connection.stat(path).await?.ok_or_else(|| format!("{path} is missing"))?;
            equal(found.size, bytes.len() as u64, "the size")?;
        }
        if let Some(content) = self.get(path).await?
            && content != bytes
        {
            let at = content.iter().zip(bytes).position(|(a, b)| a != b);
            return Err(format!("{path} has other bytes than were written, first at {at:?}").into());
        }
        Ok(())
    }

    /// It is a directory; where nothing can be looked at, it holds a file.
    pub async fn expect_directory(&self, path: &RemotePath) -> Result<(), Wrong> {
        if self.has(Need::Stat) {
            return holds(self.connection.stat(path).await?.is_some_and(|m| m.directory), &format!("{path} should be a directory"));
        }
        self.put(&path.join("inside").map_err(Error::from)?, b"x").await
    }

    pub async fn expect_missing(&self, path: &RemotePath) -> Result<(), Wrong> {
        if !self.has(Need::Stat) {
            return refused(self.connection.open_read(path).await, &[ErrorKind::DestDirMissing]);
        }
        match self.connection.stat(path).await? {
            None => Ok(()),
            Some(_) => Err(format!("{path} should not exist").into()),
        }
    }
}

pub fn equal<T: PartialEq + Debug>(found: T, wanted: T, what: &str) -> Result<(), Wrong> {
    if found == wanted { Ok(()) } else { Err(format!("{what} is {found:?} and should be {wanted:?}").into()) }
}

pub fn holds(condition: bool, what: &str) -> Result<(), Wrong> {
    if condition { Ok(()) } else { Err(what.into()) }
}

/// The result is an error of one of these classes.
pub fn refused<T>(result: Result<T, Error>, kinds: &[ErrorKind]) -> Result<(), Wrong> {
    match result {
        Ok(_) => Err(format!("it succeeded and should have been {kinds:?}").into()),
        Err(error) if kinds.contains(&error.kind) => Ok(()),
        Err(error) => Err(format!("it should have been {kinds:?} and was {}", Wrong::from(error).0).into()),
    }
}

/// Bytes without a period, so that a block in the wrong place is seen.
pub fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend_from_slice(&(state >> 16).to_le_bytes()[..6]);
    }
    out.truncate(length);
    out
}

/// A session. Where few are granted, one that is being cleared away may still count.
async fn connect(connector: &dyn Connector, few_logins: bool) -> Result<Arc<dyn Connection>, Error> {
    let begun = Instant::now();
    loop {
        match connector.connect().await {
            Ok(connection) => return Ok(Arc::from(connection)),
            Err(_) if few_logins && begun.elapsed() < Duration::from_secs(5) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(error) => return Err(error),
        }
    }
}

/// Runs one case in a directory of its own, over the connection of the case before where that still answers: a login
/// for each of a hundred cases is most of the time on a real server.
pub async fn run(case: &Case, set_up: &SetUp, session: &mut Option<Arc<dyn Connection>>) -> Result<Outcome, String> {
    let work = async {
        let connection = match session.take() {
            Some(earlier) if earlier.ping().await.is_ok() => earlier,
            _ => connect(&*set_up.connector, set_up.few_logins).await?,
        };
        *session = Some(connection.clone());
        let directory = set_up.directory.join(case.name).map_err(Error::from)?;
        match &set_up.disk {
            Some((disk, mode)) => make_directory(disk, case.name, Some(*mode)),
            None => connection.make_directory(&directory).await?,
        }
        let (connector, few_logins) = (set_up.connector.clone(), set_up.few_logins);
        (case.run)(Place { connector, connection, directory, lacks: set_up.lacking(), few_logins }).await
    };
    match tokio::time::timeout(CASE_TIMEOUT, work).await {
        Ok(result) => result.map_err(|wrong| wrong.0),
        Err(_) => Err(format!("it did not end within {} s", CASE_TIMEOUT.as_secs())),
    }
}

/// Runs every case on every set-up, one after the other, and fails if any case did.
pub async fn check(set_ups: Vec<SetUp>) {
    let mut all = Vec::new();
    for set_up in set_ups {
        all.append(&mut failures(set_up).await);
    }
    assert!(all.is_empty(), "{} contract cases failed:\n{}", all.len(), all.join("\n"));
}

/// Runs every case on one set-up, prints a line for each and one for all, and returns what failed.
pub async fn failures(set_up: SetUp) -> Vec<String> {
    let mut failures = Vec::new();
    let (mut passed, mut skipped) = (0, BTreeMap::<&str, usize>::new());
    let mut session = None;
    let begun = Instant::now();
    for case in CONTRACT.iter().copied().flatten() {
        let word = match run(case, &set_up, &mut session).await {
            Ok(Outcome::Passed) => {
                passed += 1;
                "ok".to_owned()
            }
            Ok(Outcome::Skipped(capability)) => {
                *skipped.entry(capability).or_default() += 1;
                format!("skipped, needs {capability}")
            }
            Err(reason) => {
                failures.push(format!("{}: {}: {reason}", set_up.name, case.name));
                format!("FAILED: {reason}")
            }
        };
        println!("  {} {} ... {word}", set_up.name, case.name);
    }
    let count: usize = skipped.values().sum();
    let reasons: Vec<_> = skipped.iter().map(|(capability, count)| format!("{capability} {count}")).collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    println!("contract {}: {passed} passed, {count} skipped{reasons}, {:.1} s", set_up.name, begun.elapsed().as_secs_f64());
    for (need, how) in &set_up.lacks {
        println!("contract {}: lacks {} on purpose: {how}", set_up.name, need.name());
    }
    drop(set_up.guard);
    failures
}

#[test]
fn the_suite_has_its_cases_under_distinct_names() {
    let names: std::collections::BTreeSet<_> = CONTRACT.iter().copied().flatten().map(|case| case.name).collect();
    assert_eq!(names.len(), CONTRACT.iter().map(|cases| cases.len()).sum::<usize>());
    assert!(names.len() >= 50, "{}", names.len());
}
