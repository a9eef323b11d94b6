//! Six kinds of damage × five servers: what is changed on the line or on the partner's disk, between the last byte sent and
//! the proof, must be found before the final name exists. Every test prints its rows of `docs/operations/corruption.md`.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use model::{Algorithm, Digest, Endpoint, Grade, RemotePath, Verify};
use testkit::ftp::FtpProgram;
use testkit::proxy::{Direction, FaultProxy, Scope};
use testkit::sshd::SshdOptions;
use transfer::memory::MemorySource;
use transfer::retry::Backoff;
use transfer::{
    Capabilities, Connection, Connector, CreateOptions, Entry, ErrorKind, Metadata, RenameMode, Result, ServerIdentity, Writer,
};

use crate::harness::{Ferry, pattern};
use crate::servers::ftp::{FtpPartner, config_at};
use crate::servers::openssh;

const SIZE: usize = 1_300_000;
const RANGE: u64 = 512 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Damage {
    /// On the way: a byte of what is handed to the connection.
    Flipped,
    Byte,
    Zeros,
    Swapped,
    Cut,
    Appended,
}

impl Damage {
    const ALL: [Self; 6] = [Self::Flipped, Self::Byte, Self::Zeros, Self::Swapped, Self::Cut, Self::Appended];

    fn name(self) -> &'static str {
        match self {
            Self::Flipped => "a bit flipped on the way",
            Self::Byte => "a byte changed on the disk",
            Self::Zeros => "64 KiB of zeros",
            Self::Swapped => "two blocks swapped",
            Self::Cut => "the end cut off",
            Self::Appended => "bytes appended",
        }
    }

    /// Only the length tells of these, and every grade but `none` looks at it.
    fn changes_the_length(self) -> bool {
        matches!(self, Self::Cut | Self::Appended)
    }

    /// Near the end, so that it lies in what was written last: SFTP proves earlier ranges while later ones travel.
    fn strike(self, path: &Path) {
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let size = file.metadata().unwrap().len();
        let block = |at: u64, length: usize| {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, at).unwrap();
            bytes
        };
        match self {
            Self::Flipped => {}
            Self::Byte => file.write_all_at(&[block(size - 100_000, 1)[0] ^ 1], size - 100_000).unwrap(),
            Self::Zeros => file.write_all_at(&vec![0; 64 << 10], size - 150_000).unwrap(),
            Self::Swapped => {
                let (one, two) = (block(size - 120_000, 4096), block(size - 60_000, 4096));
                file.write_all_at(&two, size - 120_000).unwrap();
                file.write_all_at(&one, size - 60_000).unwrap();
            }
            Self::Cut => file.set_len(size - 5_000).unwrap(),
            Self::Appended => file.write_all_at(&[7; 5_000], size).unwrap(),
        }
    }
}

/// Damages what passes through a connector, up to so many times.
#[derive(Debug)]
struct Spoiler {
    damage: Damage,
    disk: PathBuf,
    left: AtomicU32,
}

impl Spoiler {
    fn take(&self) -> bool {
        self.left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok()
    }

    /// The temporary file, once the server has all of it.
    fn strike_if_whole(&self) {
        let whole = std::fs::read_dir(&self.disk).unwrap().map(|entry| entry.unwrap().path()).find(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.contains(".ff-") && path.metadata().is_ok_and(|metadata| metadata.len() == SIZE as u64)
        });
        if let Some(path) = whole.filter(|_| self.take()) {
            self.damage.strike(&path);
        }
    }
}

#[derive(Debug)]
struct Spoiling {
    inner: Arc<dyn Connector>,
    spoiler: Arc<Spoiler>,
}

#[async_trait]
impl Connector for Spoiling {
    fn endpoint(&self) -> &Endpoint {
        self.inner.endpoint()
    }

    async fn connect(&self) -> Result<Box<dyn Connection>> {
        Ok(Box::new(SpoilingConnection { inner: self.inner.connect().await?, spoiler: self.spoiler.clone() }))
    }
}

#[derive(Debug)]
struct SpoilingConnection {
    inner: Box<dyn Connection>,
    spoiler: Arc<Spoiler>,
}

#[async_trait]
impl Connection for SpoilingConnection {
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn identity(&self) -> &ServerIdentity {
        self.inner.identity()
    }

    async fn stat(&self, path: &RemotePath) -> Result<Option<Metadata>> {
        self.inner.stat(path).await
    }

    async fn list(&self, path: &RemotePath, limit: usize) -> Result<Vec<Entry>> {
        self.inner.list(path, limit).await
    }

    async fn make_directory(&self, path: &RemotePath) -> Result<()> {
        self.inner.make_directory(path).await
    }

    async fn remove_directory(&self, path: &RemotePath) -> Result<()> {
        self.inner.remove_directory(path).await
    }

    async fn open(&self, path: &RemotePath, options: CreateOptions) -> Result<Box<dyn Writer>> {
        let inner = self.inner.open(path, options).await?;
        let stream = self.capabilities().is_stream();
        Ok(Box::new(SpoilingWriter { inner, spoiler: self.spoiler.clone(), stream, written: AtomicU64::new(0) }))
    }

    async fn open_read(&self, path: &RemotePath) -> Result<Box<dyn Writer>> {
        self.inner.open_read(path).await
    }

    async fn rename(&self, from: &RemotePath, to: &RemotePath, mode: RenameMode) -> Result<()> {
        self.inner.rename(from, to, mode).await
    }

    async fn remove(&self, path: &RemotePath) -> Result<()> {
        self.inner.remove(path).await
    }

    async fn set_attributes(&self, path: &RemotePath, modified: Option<jiff::Timestamp>, permissions: Option<u32>) -> Result<()> {
        self.inner.set_attributes(path, modified, permissions).await
    }

    async fn hash(&self, path: &RemotePath, algorithm: Algorithm) -> Result<Option<Digest>> {
        self.inner.hash(path, algorithm).await
    }

    async fn free_space(&self, path: &RemotePath) -> Result<Option<u64>> {
        self.inner.free_space(path).await
    }

    async fn ping(&self) -> Result<()> {
        self.inner.ping().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

#[derive(Debug)]
struct SpoilingWriter {
    inner: Box<dyn Writer>,
    spoiler: Arc<Spoiler>,
    stream: bool,
    written: AtomicU64,
}

#[async_trait]
impl Writer for SpoilingWriter {
    async fn write_at(&self, offset: u64, data: Bytes) -> Result<()> {
        let mut data = data;
        let (length, at) = (data.len() as u64, SIZE as u64 - 100_000);
        let spoiler = &self.spoiler;
        if spoiler.damage == Damage::Flipped && (offset..offset + length).contains(&at) && spoiler.take() {
            let mut other = data.to_vec();
            other[(at - offset) as usize] ^= 4;
            data = Bytes::from(other);
        }
        self.inner.write_at(offset, data).await?;
        // Everything is confirmed, and the last range is about to be looked at.
        let written = self.written.fetch_add(length, SeqCst) + length;
        if !self.stream && spoiler.damage != Damage::Flipped && written >= SIZE as u64 {
            spoiler.strike_if_whole();
        }
        Ok(())
    }

    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        self.inner.read_at(offset, length).await
    }

    async fn size(&self) -> Result<u64> {
        self.inner.size().await
    }

    async fn sync(&self) -> Result<()> {
        self.inner.sync().await
    }

    async fn set_attributes(&self, modified: Option<jiff::Timestamp>, permissions: Option<u32>) -> Result<()> {
        self.inner.set_attributes(modified, permissions).await
    }

    async fn finish(&self) -> Result<()> {
        self.inner.finish().await?;
        if self.stream && self.spoiler.damage != Damage::Flipped {
            self.spoiler.strike_if_whole();
        }
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

/// A server, where its files lie, and a way to make a directory for a case.
struct Place<'a> {
    name: &'a str,
    connector: Arc<dyn Connector>,
    disk: PathBuf,
    make_directory: &'a dyn Fn(&str) -> RemotePath,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Never published: held with both digests, or sent again whole.
    Caught,
    Missed,
    /// This server cannot give the grade.
    Refused,
}

impl Place<'_> {
    async fn deliver(&self, connector: Arc<dyn Connector>, directory: &str, grade: Grade) -> (Ferry, PathBuf) {
        let root = (self.make_directory)(directory);
        let source = MemorySource::new();
        source.put("a", pattern(SIZE));
        let mut ferry = Ferry::new(Arc::new(source), connector, root.as_str());
        ferry.wishes.verify = Verify::AtLeast(grade);
        ferry.tuning.range_size = RANGE;
        ferry.tuning.connections = Some(1);
        ferry.tuning.backoff = Backoff { attempts: 3, base: Duration::from_millis(5), cap: Duration::from_millis(20) };
        tokio::time::timeout(Duration::from_secs(60), ferry.run(&["a"])).await.expect("every wait is bounded").unwrap();
        (ferry, self.disk.join(directory).join("a"))
    }

    async fn one(&self, damage: Damage, grade: Grade, times: u32) -> End {
        let what = format!("{}: {}, {grade}, {times}", self.name, damage.name());
        let directory = format!("{damage:?}-{grade}-{times}");
        let spoiler = Arc::new(Spoiler { damage, disk: self.disk.join(&directory), left: AtomicU32::new(times) });
        let spoiling = Arc::new(Spoiling { inner: self.connector.clone(), spoiler: spoiler.clone() });
        let (ferry, path) = self.deliver(spoiling, &directory, grade).await;
        let kept = ferry.records.kept(0);
        if kept.failed.as_ref().is_some_and(|failed| failed.0 == ErrorKind::DestDenied) {
            assert!(!path.exists(), "{what}: refused, and the name is there");
            return End::Refused;
        }
        assert!(spoiler.left.load(SeqCst) < times, "{what}: nothing was damaged");
        let whole = std::fs::read(&path).ok().map(|there| there == pattern(SIZE));
        match (&kept.finished, &kept.failed) {
            (Some(_), _) if whole == Some(true) => {
                assert_eq!(spoiler.left.load(SeqCst), 0, "{what}: it had more to damage");
                End::Caught
            }
            (Some(_), _) => End::Missed,
            (None, Some((kind, text, temporary))) => {
                assert_eq!(*kind, ErrorKind::IntegrityMismatch, "{what}: {text}");
                assert_eq!((whole, temporary.is_some()), (None, true), "{what}: held without its final name, for inspection");
                End::Caught
            }
            (None, None) => panic!("{what}: it has no end"),
        }
    }

    /// All kinds at all grades; whoever looks at the whole content must miss none.
    async fn all(&self) {
        let grades = [Grade::ServerHash, Grade::ReadBack, Grade::Sampled, Grade::Acknowledged, Grade::Size];
        for damage in Damage::ALL {
            let mut row = BTreeMap::new();
            for (column, grade) in grades.into_iter().enumerate() {
                let end = self.one(damage, grade, 2).await;
                if end == End::Missed {
                    assert!(!grade.satisfies(Grade::ReadBack), "{}: {} passed {grade}", self.name, damage.name());
                    assert!(!damage.changes_the_length(), "{}: {} passed {grade}", self.name, damage.name());
                }
                row.insert(column, end);
            }
            assert_eq!(row[&1], End::Caught, "{}: {}", self.name, damage.name());
            assert_eq!(self.one(damage, Grade::ReadBack, 1).await, End::Caught, "{}: {}, once", self.name, damage.name());
            let cells: Vec<&str> = row
                .values()
                .map(|end| match end {
                    End::Caught => "caught",
                    End::Missed => "missed",
                    End::Refused => "—",
                })
                .collect();
            println!("| {} | {} | {} |", self.name, damage.name(), cells.join(" | "));
        }
    }
}

async fn on_ftp(program: FtpProgram) {
    let set_ups = program.set_ups();
    let (name, options) = set_ups.iter().find(|(name, _)| *name == "permissive").unwrap_or(&set_ups[0]).clone();
    let Some(partner) = FtpPartner::start(program, name, options).await else { return };
    let place = Place {
        name: program.name(),
        connector: partner.connector(),
        disk: partner.disk().to_owned(),
        make_directory: &|name| partner.make_directory(name),
    };
    place.all().await;

    // The same on the line itself: every data connection has one byte inverted.
    let proxy = FaultProxy::mirror(partner.server.address(), partner.server.passive_ports()).await.unwrap();
    proxy.on(Scope::Data).corrupt(Direction::ToServer, SIZE as u64 - 100_000);
    let connector = Arc::new(transfer::ftp::FtpConnector::new(config_at(&partner.server, proxy.address())).unwrap());
    let (ferry, path) = place.deliver(connector, "line", Grade::ReadBack).await;
    let kept = ferry.records.kept(0);
    assert_eq!(kept.failed.map(|failed| failed.0), Some(ErrorKind::IntegrityMismatch), "{name}");
    assert!(!path.exists(), "{name}");
}

// SEMANTICS S9: "Where the content at the destination differs from what was read, the file is sent once more from the start;
// if it differs again it is `held`, without its final name, and the temporary file is kept for inspection."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_on_openssh_is_found_before_the_name_exists() {
    let Some(partner) = openssh("plain", SshdOptions::default()).await else { return };
    let place = Place {
        name: "OpenSSH",
        connector: partner.connector(),
        disk: partner.disk.clone(),
        make_directory: &|name| partner.make_directory(name),
    };
    place.all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_on_vsftpd_is_found_before_the_name_exists() {
    on_ftp(FtpProgram::Vsftpd).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_on_proftpd_is_found_before_the_name_exists() {
    on_ftp(FtpProgram::Proftpd).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_on_pure_ftpd_is_found_before_the_name_exists() {
    on_ftp(FtpProgram::PureFtpd).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_on_pyftpdlib_is_found_before_the_name_exists() {
    on_ftp(FtpProgram::Pyftpdlib).await;
}
