//! What every `Connector` must do, sentence by sentence of `destination.rs`. A protocol joins by a test that calls
//! `check` with its set-ups; a case whose capability is missing is reported as skipped, with the capability.

mod attributes;
mod directories;
mod file;
mod memory;
mod naming;
mod opening;
mod reading;
mod renaming;
mod session;
mod writing;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use model::RemotePath;
use transfer::{Connection, Connector, CreateOptions, Error, ErrorKind, OpenMode, Writer};

/// A case that takes longer hangs: every wait of an implementation is bounded, and these servers are near.
const CASE_TIMEOUT: Duration = Duration::from_secs(60);

/// A server to check.
pub struct SetUp {
    pub name: String,
    pub connector: Arc<dyn Connector>,
    /// An empty directory that may be written to.
    pub directory: RemotePath,
    /// Keeps the server and its directory alive.
    pub guard: Box<dyn Any + Send + Sync>,
}

pub enum Outcome {
    Passed,
    /// With the capability that was missing.
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
        $(if !$place.connection.capabilities().$capability {
            return Ok(super::Outcome::Skipped(stringify!($capability)));
        })*
    };
}
pub(crate) use needs;

pub const CONTRACT: &[&[Case]] = &[
    opening::CASES,
    writing::CASES,
    reading::CASES,
    renaming::CASES,
    directories::CASES,
    naming::CASES,
    attributes::CASES,
    session::CASES,
];

/// Where one case works: a connection of its own and an empty directory of its own.
pub struct Place {
    pub connector: Arc<dyn Connector>,
    pub connection: Arc<dyn Connection>,
    pub directory: RemotePath,
}

impl Place {
    pub fn path(&self, name: &str) -> RemotePath {
        self.directory.join(name).expect("the suite's names are valid")
    }

    pub async fn connect(&self) -> Result<Arc<dyn Connection>, Wrong> {
        Ok(Arc::from(self.connector.connect().await?))
    }

    pub async fn create(&self, path: &RemotePath) -> Result<Box<dyn Writer>, Wrong> {
        Ok(self.connection.open(path, self.options(OpenMode::CreateNew)).await?)
    }

    /// Also opens for reading, where that is possible.
    pub fn options(&self, mode: OpenMode) -> CreateOptions {
        CreateOptions { mode, read: self.connection.capabilities().read, permissions: None }
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
        if !self.connection.capabilities().read {
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
        let found = self.connection.stat(path).await?.ok_or_else(|| format!("{path} is missing"))?;
        equal(found.size, bytes.len() as u64, "the size")?;
        if let Some(content) = self.get(path).await?
            && content != bytes
        {
            let at = content.iter().zip(bytes).position(|(a, b)| a != b);
            return Err(format!("{path} has other bytes than were written, first at {at:?}").into());
        }
        Ok(())
    }

    pub async fn expect_missing(&self, path: &RemotePath) -> Result<(), Wrong> {
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

/// Runs one case in a directory and over a connection of its own.
pub async fn run(case: &Case, set_up: &SetUp) -> Result<Outcome, String> {
    let work = async {
        let connection: Arc<dyn Connection> = Arc::from(set_up.connector.connect().await?);
        let directory = set_up.directory.join(case.name).map_err(Error::from)?;
        connection.make_directory(&directory).await?;
        (case.run)(Place { connector: set_up.connector.clone(), connection, directory }).await
    };
    match tokio::time::timeout(CASE_TIMEOUT, work).await {
        Ok(result) => result.map_err(|wrong| wrong.0),
        Err(_) => Err(format!("it did not end within {} s", CASE_TIMEOUT.as_secs())),
    }
}

/// Runs every case on every set-up, prints a line for each and one for each set-up, and fails if any case did.
pub async fn check(set_ups: Vec<SetUp>) {
    let mut failures = Vec::new();
    for set_up in set_ups {
        let (mut passed, mut skipped) = (0, BTreeMap::<&str, usize>::new());
        for case in CONTRACT.iter().copied().flatten() {
            let word = match run(case, &set_up).await {
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
        println!("contract {}: {passed} passed, {count} skipped{reasons}", set_up.name);
        drop(set_up.guard);
    }
    assert!(failures.is_empty(), "{} contract cases failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_suite_has_its_cases_under_distinct_names() {
    let names: std::collections::BTreeSet<_> = CONTRACT.iter().copied().flatten().map(|case| case.name).collect();
    assert_eq!(names.len(), CONTRACT.iter().map(|cases| cases.len()).sum::<usize>());
    assert!(names.len() >= 50, "{}", names.len());
}
