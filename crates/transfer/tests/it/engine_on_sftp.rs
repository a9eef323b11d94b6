//! The engine against every SFTP server that tests can start: what is delivered, what it claims, and how it ends where a
//! server refuses what publishing needs.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use model::{Clobber, FileState, Grade, IfExists, Publish};
use testkit::asyncssh::AsyncsshOptions;
use testkit::sftp::Behaviour;
use testkit::sshd::SshdOptions;
use transfer::memory::MemorySource;
use transfer::port::Delivery;
use transfer::{Capabilities, Connector, CreateOptions, ErrorKind, NoClobber, OpenMode};

use crate::harness::{Ferry, Kept, pattern};
use crate::servers::{Need, Partner, asyncssh, openssh, sandbox};

const SMALL: usize = 200;

/// An empty file, many small ones below a directory, one of several ranges, one that goes over several connections.
static LOAD: LazyLock<(MemorySource, Vec<String>)> = LazyLock::new(|| {
    let source = MemorySource::new();
    let mut keys = Vec::new();
    let mut put = |key: String, size: usize| {
        source.put(&key, pattern(size));
        keys.push(key);
    };
    put("empty".to_owned(), 0);
    (0..SMALL).for_each(|number| put(format!("small/{number:03}"), number * 37 + 1));
    put("medium".to_owned(), 30_000_000);
    put("large".to_owned(), 90_000_000);
    (source, keys)
});

struct Run<'a> {
    partner: &'a Partner,
    ferry: Ferry,
    disk: PathBuf,
    keys: Vec<&'a str>,
}

impl<'a> Run<'a> {
    fn new(partner: &'a Partner, directory: &str, keys: Vec<&'a str>, if_exists: IfExists) -> Self {
        let root = partner.make_directory(directory);
        let mut ferry = Ferry::new(Arc::new(LOAD.0.clone()), partner.connector(), root.as_str());
        ferry.wishes.if_exists = if_exists;
        if partner.few_logins {
            // More than it grants: the refusal must lower the number and fail no file.
            ferry.tuning.connections = Some(4);
        }
        Self { partner, ferry, disk: partner.disk.join(directory), keys }
    }

    /// Puts an older file under a name, as if the partner had it already.
    fn put_old(&self, key: &str) {
        let path = self.disk.join(key);
        std::fs::write(&path, b"old").unwrap();
        let owner = std::fs::metadata(&self.disk).unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }

    fn is_old(&self, key: &str) -> bool {
        std::fs::read(self.disk.join(key)).unwrap() == b"old"
    }

    async fn go(&self) {
        let begun = Instant::now();
        loop {
            match self.ferry.run(&self.keys).await {
                Ok(()) => return,
                // The server has not cleared the session before away yet.
                Err(error) if self.partner.few_logins && error.kind == ErrorKind::DestAuth && begun.elapsed() < Duration::from_secs(5) => {}
                Err(error) => panic!("{}: {}", self.partner.name, transfer::error::chain(&error)),
            }
        }
    }

    fn kept(&self, key: &str) -> Kept {
        let number = self.keys.iter().position(|k| *k == key).expect("a key of this run");
        self.ferry.records.kept(number as u32)
    }

    /// The delivery of a file that is there, whole.
    fn delivered(&self, key: &str) -> Box<Delivery> {
        let (name, kept) = (&self.partner.name, self.kept(key));
        let finished = kept.finished.unwrap_or_else(|| panic!("{name}: {key} was not delivered: {:?}", kept.failed));
        assert_eq!(finished.state, FileState::Delivered, "{name}: {key}");
        let there = std::fs::read(self.disk.join(key)).unwrap();
        assert!(there == LOAD.0.bytes(key).unwrap(), "{name}: {key} is not what was sent");
        finished.delivery.expect("a delivered file has its facts")
    }

    fn failed(&self, key: &str) -> (ErrorKind, String, Option<PathBuf>) {
        let (name, kept) = (&self.partner.name, self.kept(key));
        let (kind, text, path) = kept.failed.unwrap_or_else(|| panic!("{name}: {key} did not fail: {:?}", kept.finished));
        (kind, text, path.map(|path| self.disk.join(path.as_str().strip_prefix(self.ferry.root.as_str()).unwrap().trim_start_matches('/'))))
    }

    fn no_temporary_file_is_left(&self) {
        let left = temporary(&self.disk);
        assert!(left.is_empty(), "{}: {left:?}", self.partner.name);
    }
}

fn temporary(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(temporary(&path));
        } else if path.file_name().unwrap().to_str().unwrap().contains(".ff-") {
            found.push(path);
        }
    }
    found
}

async fn capabilities(partner: &Partner) -> Capabilities {
    let connection = partner.connector().connect().await.unwrap();
    let found = connection.capabilities().clone();
    connection.close().await.unwrap();
    found
}

async fn check(partner: Partner) {
    let begun = Instant::now();
    let capabilities = capabilities(&partner).await;
    everything(&partner, &capabilities).await;
    an_existing_file(&partner, &capabilities).await;
    println!("engine on {}: {:.1} s", partner.name, begun.elapsed().as_secs_f64());
}

async fn everything(partner: &Partner, capabilities: &Capabilities) {
    let keys: Vec<&str> = LOAD.1.iter().map(String::as_str).collect();
    let mut run = Run::new(partner, "everything", keys.clone(), IfExists::Fail);
    run.go().await;
    if !partner.has(Need::Rename) {
        for key in &keys {
            let (kind, text, kept) = run.failed(key);
            assert_eq!(kind, ErrorKind::DestPublishFailed, "{}: {text}", partner.name);
            assert!(text.contains("--publish in-place"), "{}: {text}", partner.name);
            let kept = kept.expect("the verified file is kept");
            assert!(std::fs::read(kept).unwrap() == LOAD.0.bytes(key).unwrap(), "{}: {key}", partner.name);
            assert!(!run.disk.join(key).exists(), "{}: {key}", partner.name);
        }
        run.ferry.wishes.publish = Publish::InPlace;
        run.go().await;
    }
    for key in &keys {
        let delivery = run.delivered(key);
        let grade = if partner.has(Need::Read) { Grade::ReadBack } else { Grade::Acknowledged };
        assert_eq!(delivery.grade, grade, "{}: {key}", partner.name);
        assert_eq!(delivery.mode, run.ferry.wishes.publish);
        assert_eq!(delivery.synced, capabilities.sync, "{}: {key}", partner.name);
        assert!(delivery.identity.host_key.as_deref().is_some_and(|key| key.starts_with("SHA256:")));
        let in_place = delivery.notes.iter().any(|note| note.contains("written in place"));
        assert_eq!(in_place, !partner.has(Need::Rename), "{}: {:?}", partner.name, delivery.notes);
        if partner.has(Need::Rename) {
            let clobber = if capabilities.no_clobber == NoClobber::Atomic { Clobber::Atomic } else { Clobber::Checked };
            assert_eq!(delivery.clobber, clobber, "{}: {key}", partner.name);
        }
    }
    run.no_temporary_file_is_left();
}

async fn an_existing_file(partner: &Partner, capabilities: &Capabilities) {
    for key in ["small/007", "medium"] {
        let directory = |policy: IfExists| format!("{policy}-{}", key.replace('/', "-"));
        let run = |policy: IfExists| {
            let run = Run::new(partner, &directory(policy), vec![key], policy);
            if key.starts_with("small/") {
                crate::servers::make_directory(&run.disk, "small", partner.mode);
            }
            run.put_old(key);
            run
        };
        let skip = run(IfExists::Skip);
        skip.go().await;
        if partner.has(Need::Rename) || partner.has(Need::Stat) {
            assert_eq!(skip.kept(key).finished.map(|f| f.state), Some(FileState::Skipped), "{}: {:?}", partner.name, skip.kept(key).failed);
        }
        assert!(skip.is_old(key));
        skip.no_temporary_file_is_left();

        let fail = run(IfExists::Fail);
        fail.go().await;
        let (kind, text, kept) = fail.failed(key);
        assert_eq!(kind, ErrorKind::DestExists, "{}: {text}", partner.name);
        assert!(fail.is_old(key));
        if partner.has(Need::Stat) {
            fail.no_temporary_file_is_left();
        } else {
            assert!(kept.is_some_and(|path| path.exists()), "found out at the rename, the sent file is kept");
        }

        let mut replace = run(IfExists::Replace);
        if !partner.has(Need::Rename) {
            replace.ferry.wishes.publish = Publish::InPlace;
        }
        replace.go().await;
        if partner.has(Need::Rename) && !(capabilities.atomic_replace && partner.has(Need::Replace)) {
            if partner.has(Need::Stat) || !capabilities.atomic_replace {
                let (kind, text, _) = replace.failed(key);
                assert_eq!(kind, ErrorKind::DestExists, "{}: {text}", partner.name);
                assert!(text.contains("replace-unsafe"), "{}: {text}", partner.name);
            }
            assert!(replace.is_old(key));
            replace.ferry.wishes.if_exists = IfExists::ReplaceUnsafe;
            replace.go().await;
            assert!(matches!(replace.delivered(key).clobber, Clobber::Unsafe { .. }), "{}", partner.name);
        } else {
            let delivery = replace.delivered(key);
            if partner.has(Need::Rename) {
                assert_eq!(delivery.clobber, Clobber::Replaced, "{}", partner.name);
            }
        }
        replace.no_temporary_file_is_left();
    }
}

async fn check_openssh(first: usize, step: usize) {
    for (name, options) in testkit::sshd::set_ups().into_iter().skip(first).step_by(step) {
        if let Some(partner) = openssh(name, options).await {
            check(partner).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssh_gets_everything_in_the_first_set_ups() {
    check_openssh(0, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssh_gets_everything_in_the_second_set_ups() {
    check_openssh(1, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asyncssh_gets_everything() {
    for (name, options) in [("plain", AsyncsshOptions::default()), ("refuses posix-rename", AsyncsshOptions { refuses_posix_rename: true })]
    {
        if let Some(partner) = asyncssh(name, options).await {
            check(partner).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sandbox_gets_everything_in_the_even_set_ups() {
    for (name, behaviour) in Behaviour::set_ups().into_iter().step_by(2) {
        check(sandbox(name, behaviour).await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sandbox_gets_everything_in_the_odd_set_ups() {
    for (name, behaviour) in Behaviour::set_ups().into_iter().skip(1).step_by(2) {
        check(sandbox(name, behaviour).await).await;
    }
}

/// Keys are exchanged anew every 64 MB while writes and reads are on their way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_and_fifty_six_mebibytes_survive_new_keys_both_ways() {
    let options = SshdOptions { rekey_limit: Some("64M".to_owned()), ..SshdOptions::default() };
    let Some(partner) = openssh("rekey every 64 MB", options).await else { return };
    let content = bytes::Bytes::from(pattern(256 << 20));
    let connection = partner.connector().connect().await.unwrap();
    let path = partner.directory.join("big").unwrap();
    let options = CreateOptions { mode: OpenMode::CreateNew, read: true, permissions: None };
    let writer = connection.open(&path, options).await.unwrap();
    for step in (0..content.len()).step_by(16 << 20) {
        let pieces = (step..step + (16 << 20)).step_by(1 << 20);
        let writes = pieces.map(|at| writer.write_at(at as u64, content.slice(at..at + (1 << 20))));
        futures_util::future::try_join_all(writes).await.unwrap();
    }
    for step in (0..content.len()).step_by(4 << 20) {
        let reads = (step..step + (4 << 20)).step_by(256 << 10).map(|at| writer.read_at(at as u64, 256 << 10));
        let blocks = futures_util::future::try_join_all(reads).await.unwrap();
        assert!(blocks.concat() == content[step..step + (4 << 20)], "other bytes were read at {step}");
    }
    writer.close().await.unwrap();
    assert!(std::fs::read(partner.disk.join("big")).unwrap() == content, "other bytes were stored");
}
