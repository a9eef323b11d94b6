//! Reads a directory, or one file, of this machine. Keys are paths below it, with `/`.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use model::ObjectKey;
use rustix::fs::{Mode, OFlags};

use super::{blocking, timestamp};
use crate::{Error, ErrorKind, Listing, ListingOptions, Object, Pages, Pin, Result, Source, StoredChecksum, Subject};

const PAGE: usize = 1000;
/// Deeper trees are loops that the inode check cannot see (bind mounts).
const MAX_DEPTH: usize = 200;
const MAX_SKIPPED: usize = 1000;

/// A name in the tree that is not sent, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    pub path: PathBuf,
    pub why: &'static str,
}

#[derive(Debug)]
pub struct LocalSource {
    root: PathBuf,
    /// The one file that this source holds, when it is not a directory.
    only: Option<String>,
    skipped: Arc<Mutex<Vec<Skipped>>>,
}

impl LocalSource {
    /// `path` is a directory or a file. Errors: `source_missing`, `source_denied`.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let looked = path.clone();
        let metadata = blocking(move || std::fs::metadata(&looked).map_err(|e| read_failed("look at", &looked, &e))).await?;
        if metadata.is_dir() {
            return Ok(Self { root: path, only: None, skipped: Arc::default() });
        }
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| not_utf8(&path))?.to_owned();
        let root = path.parent().map_or_else(|| PathBuf::from("/"), Path::to_path_buf);
        Ok(Self { root, only: Some(name), skipped: Arc::default() })
    }

    /// What listings so far left out: special files, broken links, loops (the first thousand).
    pub fn skipped(&self) -> Vec<Skipped> {
        self.skipped.lock().expect("no panic happens while it is held").clone()
    }

    /// The file of a key. Keys come from listings, lists and databases, so nothing is joined unseen.
    fn path(&self, key: &ObjectKey) -> Result<PathBuf> {
        let text = key.as_str();
        let escapes = text.contains('\0') || text.split('/').any(|segment| matches!(segment, "" | "." | ".."));
        if escapes || self.only.as_deref().is_some_and(|only| only != text) {
            return Err(Error::new(ErrorKind::SourceMissing, "find a file for the key", key));
        }
        Ok(self.root.join(text))
    }
}

fn subject(path: &Path) -> Subject {
    Subject::Object(path.to_string_lossy().into_owned())
}

fn not_utf8(path: &Path) -> Error {
    Error::new(ErrorKind::DestNameInvalid, "use the file name", subject(path))
        .because("it is not UTF-8, so no receipt could name it; rename it or leave it out")
}

fn read_failed(operation: &'static str, path: &Path, error: &std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory | std::io::ErrorKind::InvalidFilename => ErrorKind::SourceMissing,
        std::io::ErrorKind::UnexpectedEof => ErrorKind::SourceTruncated,
        _ => ErrorKind::SourceDenied,
    };
    Error::new(kind, operation, subject(path)).because(std::io::Error::new(error.kind(), error.to_string()))
}

/// Changes whenever the file is written, replaced or restored, as far as a file system can tell.
fn etag(metadata: &Metadata) -> String {
    format!("{}-{}-{}", i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()), metadata.size(), metadata.ino())
}

fn object(key: String, metadata: &Metadata) -> Object {
    Object {
        key: ObjectKey::local(key),
        size: metadata.size(),
        etag: Some(etag(metadata)),
        version: None,
        modified: timestamp(metadata.mtime(), metadata.mtime_nsec()),
        archived: false,
    }
}

/// Opens without waiting for a writer, should the name have become a pipe.
fn open_regular(path: &Path) -> Result<(File, Metadata)> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| read_failed("open", path, &e.into()))?;
    let file = File::from(file);
    let metadata = file.metadata().map_err(|e| read_failed("look at", path, &e))?;
    if !metadata.is_file() {
        return Err(Error::new(ErrorKind::SourceMissing, "read", subject(path)).because("it is not a regular file"));
    }
    Ok((file, metadata))
}

fn read_range(path: &Path, pin: &Pin, range: Range<u64>) -> Result<Bytes> {
    let changed = || Error::new(ErrorKind::SourceChanged, "read", subject(path)).because("the file was changed after it was pinned");
    let (file, metadata) = open_regular(path)?;
    let same = |metadata: &Metadata| pin.etag.as_deref() == Some(&etag(metadata)) && pin.size == metadata.size();
    if !same(&metadata) {
        return Err(changed());
    }
    let length = usize::try_from(range.end - range.start).map_err(|e| Error::new(ErrorKind::Internal, "read", subject(path)).because(e))?;
    let mut buffer = vec![0; length];
    let result = file.read_exact_at(&mut buffer, range.start);
    // Looked at again afterwards: what was written in between must not be taken for the pinned bytes.
    let after = file.metadata().map_err(|e| read_failed("look at", path, &e))?;
    if !same(&after) {
        return Err(changed());
    }
    result.map_err(|e| read_failed("read", path, &e))?;
    Ok(Bytes::from(buffer))
}

#[async_trait]
impl Source for LocalSource {
    fn store(&self) -> &'static str {
        "file"
    }

    fn bucket(&self) -> &str {
        ""
    }

    fn list(&self, options: ListingOptions) -> Box<dyn Pages + '_> {
        Box::new(LocalPages {
            walk: Some(Walk {
                root: self.root.clone(),
                only: self.only.clone(),
                options,
                levels: Vec::new(),
                started: false,
                skipped: self.skipped.clone(),
            }),
        })
    }

    async fn pin(&self, key: &ObjectKey, version: Option<&str>) -> Result<Pin> {
        if let Some(version) = version {
            let text = format!("files of this machine have no versions, and {version:?} was asked for");
            return Err(Error::new(ErrorKind::SourceMissing, "look at", key).because(text));
        }
        let (path, key) = (self.path(key)?, key.as_str().to_owned());
        blocking(move || {
            let (_, metadata) = open_regular(&path)?;
            Ok(Pin::from(object(key, &metadata)))
        })
        .await
    }

    async fn read(&self, pin: &Pin, range: Range<u64>) -> Result<Bytes> {
        if range.start > range.end || range.end > pin.size {
            return Err(Error::new(ErrorKind::Internal, "read", &pin.key).because("the range lies outside the file"));
        }
        let (path, pin) = (self.path(&pin.key)?, Pin { checksum: StoredChecksum::default(), ..pin.clone() });
        blocking(move || read_range(&path, &pin, range)).await
    }
}

struct LocalPages {
    /// Absent after the last page, and after an error.
    walk: Option<Walk>,
}

#[async_trait]
impl Pages for LocalPages {
    async fn next(&mut self) -> Result<Option<Listing>> {
        let Some(mut walk) = self.walk.take() else { return Ok(None) };
        let (listing, walk) = blocking(move || {
            let listing = walk.page()?;
            Ok((listing, walk))
        })
        .await?;
        let empty = listing.objects.is_empty() && listing.folders.is_empty();
        if !walk.levels.is_empty() {
            self.walk = Some(walk);
        }
        Ok(if empty { None } else { Some(listing) })
    }
}

struct Entry {
    name: OsString,
    directory: bool,
}

struct Level {
    /// Key prefix of this directory, empty or ending in `/`.
    prefix: String,
    /// Device and inode, to see loops of links.
    identity: (u64, u64),
    /// In reverse order: the next one is last.
    entries: Vec<Entry>,
}

/// A depth-first walk that holds the names of the directories on its way and nothing else.
struct Walk {
    root: PathBuf,
    only: Option<String>,
    options: ListingOptions,
    levels: Vec<Level>,
    started: bool,
    skipped: Arc<Mutex<Vec<Skipped>>>,
}

impl Walk {
    fn page(&mut self) -> Result<Listing> {
        let mut listing = Listing::default();
        if let Some(only) = &self.only {
            let (_, metadata) = open_regular(&self.root.join(only))?;
            if only.starts_with(&self.options.prefix) {
                listing.objects.push(object(only.clone(), &metadata));
            }
            return Ok(listing);
        }
        if !self.started {
            self.started = true;
            self.enter(String::new())?;
        }
        while listing.objects.len() + listing.folders.len() < PAGE {
            let Some(level) = self.levels.last_mut() else { break };
            let Some(entry) = level.entries.pop() else {
                self.levels.pop();
                continue;
            };
            let Some(name) = entry.name.to_str() else {
                return Err(not_utf8(&self.root.join(&level.prefix).join(&entry.name)));
            };
            let key = format!("{}{name}", level.prefix);
            if entry.directory {
                self.directory(format!("{key}/"), &mut listing)?;
            } else if key.starts_with(&self.options.prefix) {
                self.file(key, &mut listing)?;
            }
        }
        Ok(listing)
    }

    fn directory(&mut self, key: String, listing: &mut Listing) -> Result<()> {
        let prefix = &self.options.prefix;
        if self.options.delimited && key.starts_with(prefix.as_str()) && key.len() > prefix.len() {
            listing.folders.push(key);
            Ok(())
        } else if key.starts_with(prefix.as_str()) || prefix.starts_with(&key) {
            self.enter(key)
        } else {
            Ok(())
        }
    }

    fn file(&mut self, key: String, listing: &mut Listing) -> Result<()> {
        let path = self.root.join(&key);
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => listing.objects.push(object(key, &metadata)),
            Ok(_) => self.skip(path, "not a regular file"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.skip(path, "gone, or a link to nothing"),
            Err(error) if errno_is_loop(&error) => self.skip(path, "a loop of links"),
            Err(error) => return Err(read_failed("look at", &path, &error)),
        }
        Ok(())
    }

    fn enter(&mut self, prefix: String) -> Result<()> {
        let path = self.root.join(&prefix);
        let metadata = std::fs::metadata(&path).map_err(|e| read_failed("look at", &path, &e))?;
        let identity = (metadata.dev(), metadata.ino());
        if self.levels.len() >= MAX_DEPTH || self.levels.iter().any(|level| level.identity == identity) {
            self.skip(path, "a loop of directories");
            return Ok(());
        }
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(|e| read_failed("list", &path, &e))? {
            let entry = entry.map_err(|e| read_failed("list", &path, &e))?;
            let kind = entry.file_type().map_err(|e| read_failed("look at", &entry.path(), &e))?;
            let directory = kind.is_dir() || (kind.is_symlink() && std::fs::metadata(entry.path()).is_ok_and(|m| m.is_dir()));
            entries.push(Entry { name: entry.file_name(), directory });
        }
        // A directory sorts as its name and `/`, so that the whole listing is in the byte order of its keys.
        let order = |entry: &Entry| {
            let mut name = entry.name.clone();
            if entry.directory {
                name.push("/");
            }
            name
        };
        entries.sort_by_cached_key(order);
        entries.reverse();
        self.levels.push(Level { prefix, identity, entries });
        Ok(())
    }

    fn skip(&self, path: PathBuf, why: &'static str) {
        tracing::warn!(path = %model::escape_name(&path.to_string_lossy()), why, "left out of the listing");
        let mut skipped = self.skipped.lock().expect("no panic happens while it is held");
        if skipped.len() < MAX_SKIPPED {
            skipped.push(Skipped { path, why });
        }
    }
}

fn errno_is_loop(error: &std::io::Error) -> bool {
    super::errno(error) == rustix::io::Errno::LOOP
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    async fn everything(source: &LocalSource, options: ListingOptions) -> Result<(Vec<String>, Vec<String>)> {
        let (mut keys, mut folders) = (vec![], vec![]);
        let mut pages = source.list(options);
        while let Some(page) = pages.next().await? {
            keys.extend(page.objects.into_iter().map(|o| o.key.as_str().to_owned()));
            folders.extend(page.folders);
        }
        Ok((keys, folders))
    }

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for name in files {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        directory
    }

    #[tokio::test]
    async fn lists_in_the_byte_order_of_keys_and_by_prefix() {
        let directory = tree(&["a.b", "a/z", "a/b/c", "b", "out/1", "out/2"]);
        let source = LocalSource::open(directory.path()).await.unwrap();
        let (keys, _) = everything(&source, ListingOptions::default()).await.unwrap();
        let mut sorted = keys.clone();
        sorted.sort();
        assert_eq!((keys.len(), keys), (6, sorted));
        let options = ListingOptions { prefix: "out/".into(), delimited: false };
        assert_eq!(everything(&source, options).await.unwrap().0, ["out/1", "out/2"]);
        let options = ListingOptions { prefix: "a/".into(), delimited: true };
        assert_eq!(everything(&source, options).await.unwrap(), (vec!["a/z".to_owned()], vec!["a/b/".to_owned()]));
        let options = ListingOptions { prefix: "".into(), delimited: true };
        assert_eq!(everything(&source, options).await.unwrap().1, ["a/", "out/"]);
    }

    #[tokio::test]
    async fn more_files_than_a_page_are_all_listed() {
        let names: Vec<String> = (0..2500).map(|n| format!("{n:05}")).collect();
        let directory = tree(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let source = LocalSource::open(directory.path()).await.unwrap();
        assert_eq!(everything(&source, ListingOptions::default()).await.unwrap().0, names);
    }

    #[tokio::test]
    async fn links_are_followed_and_loops_and_pipes_left_out() {
        let directory = tree(&["a", "sub/b"]);
        let root = directory.path();
        std::os::unix::fs::symlink(root.join("a"), root.join("link")).unwrap();
        std::os::unix::fs::symlink(root, root.join("sub/up")).unwrap();
        std::os::unix::fs::symlink("nothing", root.join("broken")).unwrap();
        std::os::unix::fs::symlink("self", root.join("self")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, root.join("pipe"), Mode::RUSR).unwrap();
        let source = LocalSource::open(root).await.unwrap();
        assert_eq!(everything(&source, ListingOptions::default()).await.unwrap().0, ["a", "link", "sub/b"]);
        assert_eq!(source.skipped().len(), 4, "{:?}", source.skipped());
        let error = source.pin(&ObjectKey::local("pipe"), None).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::SourceMissing);
    }

    #[tokio::test]
    async fn a_name_that_is_not_utf8_is_an_error_that_names_it() {
        let directory = tree(&["a"]);
        std::fs::write(directory.path().join(std::ffi::OsStr::from_bytes(b"bad\xff")), "").unwrap();
        let source = LocalSource::open(directory.path()).await.unwrap();
        let error = everything(&source, ListingOptions::default()).await.unwrap_err();
        assert!(error.to_string().contains("bad\u{fffd}"), "{error}");
    }

    #[tokio::test]
    async fn a_file_changed_after_the_pin_is_never_mixed() {
        let directory = tree(&["a"]);
        let path = directory.path().join("a");
        std::fs::write(&path, "0123456789").unwrap();
        let source = LocalSource::open(&path).await.unwrap();
        let pin = source.pin(&ObjectKey::local("a"), None).await.unwrap();
        assert_eq!(source.read(&pin, 2..5).await.unwrap(), "234");
        assert_eq!(source.read(&pin, 10..10).await.unwrap(), "");
        for change in ["9876543210", "longer than before", ""] {
            let other = directory.path().join("other");
            std::fs::write(&other, change).unwrap();
            std::fs::rename(&other, &path).unwrap();
            assert_eq!(source.read(&pin, 0..5).await.unwrap_err().kind, ErrorKind::SourceChanged, "{change:?}");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(source.read(&pin, 0..5).await.unwrap_err().kind, ErrorKind::SourceMissing);
        assert_eq!(source.read(&pin, 0..11).await.unwrap_err().kind, ErrorKind::Internal);
    }

    #[tokio::test]
    async fn keys_cannot_leave_the_directory() {
        let directory = tree(&["in/a", "secret"]);
        let source = LocalSource::open(directory.path().join("in")).await.unwrap();
        for key in ["../secret", "/etc/passwd", "a/../a", "./a", ""] {
            assert_eq!(source.pin(&ObjectKey::local(key), None).await.unwrap_err().kind, ErrorKind::SourceMissing, "{key}");
        }
        let one = LocalSource::open(directory.path().join("in/a")).await.unwrap();
        assert!(one.pin(&ObjectKey::local("a"), None).await.is_ok());
        assert!(one.pin(&ObjectKey::local("b"), None).await.is_err());
    }
}
