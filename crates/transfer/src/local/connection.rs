//! `file:///…` as a destination. A session is only a switch: everything goes through the kernel at once.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use model::{Algorithm, Digest, Endpoint, Protocol, RemotePath};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::writer::{LocalWriter, times};
use super::{blocking, errno, failed, timestamp};
use crate::{
    Capabilities, Connection, Connector, CreateOptions, Entry, Error, ErrorKind, Metadata, NoClobber, OpenMode, RenameMode, Result,
    ServerIdentity, Writer,
};

#[derive(Debug)]
pub struct LocalConnector {
    endpoint: Endpoint,
    home: Option<PathBuf>,
    /// A file system was met that cannot refuse to overwrite in one step; later connections say so.
    checked_only: Arc<AtomicBool>,
}

impl LocalConnector {
    /// `/~/…` is below $HOME.
    pub fn new() -> Self {
        Self::with_home(std::env::home_dir())
    }

    /// `/~/…` is below `home`.
    pub fn with_home(home: Option<PathBuf>) -> Self {
        Self {
            endpoint: Endpoint { protocol: Protocol::File, host: String::new(), port: None, user: None },
            home: home.filter(|home| home.is_absolute()),
            checked_only: Arc::default(),
        }
    }
}

impl Default for LocalConnector {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Connector for LocalConnector {
    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    async fn connect(&self) -> Result<Box<dyn Connection>> {
        let no_clobber = if self.checked_only.load(Ordering::Acquire) { NoClobber::Checked } else { NoClobber::Atomic };
        Ok(Box::new(LocalConnection {
            capabilities: Capabilities {
                offset_writes: true,
                confirms_writes: true,
                continues: false,
                read: true,
                sync: true,
                no_clobber,
                atomic_replace: true,
                exact_names: true,
                set_times: true,
                set_mode: true,
                hashes: vec![],
                multiplex: 16,
                max_write: 1 << 20,
                free_space: true,
            },
            identity: ServerIdentity { software: Some("files of this machine".to_owned()), ..ServerIdentity::default() },
            home: self.home.clone(),
            checked_only: self.checked_only.clone(),
            gone: Arc::default(),
        }))
    }
}

#[derive(Debug)]
pub struct LocalConnection {
    capabilities: Capabilities,
    identity: ServerIdentity,
    home: Option<PathBuf>,
    checked_only: Arc<AtomicBool>,
    gone: Arc<AtomicBool>,
}

impl LocalConnection {
    fn place(&self, path: &RemotePath) -> Result<PathBuf> {
        if self.gone.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::NetworkReset, "reach", path).because("the connection was closed").on_lost_connection());
        }
        if path.wire().starts_with('/') {
            return Ok(PathBuf::from(path.wire()));
        }
        match &self.home {
            Some(home) => Ok(home.join(path.wire())),
            None => Err(Error::new(ErrorKind::DestDirMissing, "find the home directory for", path).because("HOME is not set")),
        }
    }

    /// Runs `work` on the place of `path`.
    async fn at<T: Send + 'static>(
        &self,
        operation: &'static str,
        path: &RemotePath,
        work: impl FnOnce(&Path) -> Result<T, Errno> + Send + 'static,
    ) -> Result<T> {
        let (place, path) = (self.place(path)?, path.clone());
        blocking(move || work(&place).map_err(|e| failed(operation, &path, e))).await
    }
}

fn metadata(found: &std::fs::Metadata) -> Metadata {
    Metadata { size: found.len(), modified: timestamp(found.mtime(), found.mtime_nsec()), directory: found.is_dir() }
}

/// Opens with `flags` and makes sure that it is a regular file: a pipe would swallow the bytes.
fn open_file(place: &Path, flags: OFlags, permissions: Option<u32>) -> Result<File, Errno> {
    let mode = Mode::from_raw_mode(permissions.unwrap_or(0o666) & 0o7777);
    let file = File::from(rustix::fs::open(place, flags | OFlags::CLOEXEC | OFlags::NONBLOCK, mode)?);
    let regular = file.metadata().map_err(|e| errno(&e))?.is_file();
    if regular { Ok(file) } else { Err(Errno::ACCESS) }
}

/// Makes a rename survive a crash. Directories that cannot be opened or synced (write-only ones, some network
/// file systems) leave that to the system.
fn sync_directory(of: &Path) -> Result<(), Errno> {
    let Some(parent) = of.parent() else { return Ok(()) };
    let opened = rustix::fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    match opened.and_then(rustix::fs::fsync) {
        Err(Errno::ACCESS | Errno::PERM | Errno::INVAL | Errno::NOTSUP | Errno::NOENT) | Ok(()) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The outcomes of trying to take a name without overwriting.
enum Taken {
    Yes,
    /// Neither `RENAME_NOREPLACE` nor hard links exist here.
    NotInOneStep,
}

fn rename_no_clobber(from: &Path, to: &Path) -> Result<Taken, Errno> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(Taken::Yes),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        Err(error) => return Err(error),
    }
    // A hard link refuses a taken name in one step as well.
    match rustix::fs::linkat(CWD, from, CWD, to, AtFlags::empty()) {
        Ok(()) => rustix::fs::unlink(from).map(|()| Taken::Yes),
        Err(Errno::PERM | Errno::NOTSUP | Errno::NOSYS | Errno::MLINK | Errno::XDEV) => Ok(Taken::NotInOneStep),
        Err(error) => Err(error),
    }
}

fn rename_checked(from: &Path, to: &Path) -> Result<(), Errno> {
    match rustix::fs::lstat(to) {
        Ok(_) => Err(Errno::EXIST),
        Err(Errno::NOENT) => rustix::fs::rename(from, to),
        Err(error) => Err(error),
    }
}

#[async_trait]
impl Connection for LocalConnection {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn identity(&self) -> &ServerIdentity {
        &self.identity
    }

    async fn stat(&self, path: &RemotePath) -> Result<Option<Metadata>> {
        self.at("look at", path, |place| match std::fs::metadata(place) {
            Ok(found) => Ok(Some(metadata(&found))),
            Err(error) => match errno(&error) {
                Errno::NOENT | Errno::NOTDIR => Ok(None),
                other => Err(other),
            },
        })
        .await
    }

    async fn list(&self, path: &RemotePath, limit: usize) -> Result<Vec<Entry>> {
        self.at("list", path, move |place| {
            let mut entries = Vec::new();
            for entry in std::fs::read_dir(place).map_err(|e| errno(&e))?.take(limit) {
                let entry = entry.map_err(|e| errno(&e))?;
                // A name may vanish while we look, and a link may lead nowhere.
                let Ok(found) = std::fs::metadata(entry.path()).or_else(|_| entry.metadata()) else { continue };
                let (name, exact) = match entry.file_name().into_string() {
                    Ok(name) => (name, true),
                    Err(name) => (name.to_string_lossy().into_owned(), false),
                };
                entries.push(Entry { name, exact, metadata: metadata(&found) });
            }
            Ok(entries)
        })
        .await
    }

    async fn make_directory(&self, path: &RemotePath) -> Result<()> {
        self.at("create the directory", path, |place| match rustix::fs::mkdir(place, Mode::from_raw_mode(0o777)) {
            Err(Errno::EXIST) if std::fs::metadata(place).is_ok_and(|found| found.is_dir()) => Ok(()),
            other => other,
        })
        .await
    }

    async fn remove_directory(&self, path: &RemotePath) -> Result<()> {
        self.at("remove the directory", path, |place| match rustix::fs::rmdir(place) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        })
        .await
    }

    async fn open(&self, path: &RemotePath, options: CreateOptions) -> Result<Box<dyn Writer>> {
        let access = if options.read { OFlags::RDWR } else { OFlags::WRONLY };
        let flags = match options.mode {
            OpenMode::CreateNew | OpenMode::CreateOwn => access | OFlags::CREATE | OFlags::EXCL,
            // Our own temporary file is never a link.
            OpenMode::Existing | OpenMode::Continue(_) => access | OFlags::NOFOLLOW,
            OpenMode::Truncate => access | OFlags::CREATE | OFlags::TRUNC,
        };
        let file = self
            .at("open", path, move |place| {
                let file = open_file(place, flags, options.permissions)?;
                // The mask of this process must not take away what was asked for.
                if let (Some(bits), OpenMode::CreateNew | OpenMode::CreateOwn) = (options.permissions, options.mode) {
                    rustix::fs::fchmod(&file, Mode::from_raw_mode(bits & 0o7777))?;
                }
                Ok(file)
            })
            .await?;
        Ok(Box::new(LocalWriter::new(file, path.clone(), options.read, self.gone.clone())))
    }

    async fn open_read(&self, path: &RemotePath) -> Result<Box<dyn Writer>> {
        let file = self.at("open", path, |place| open_file(place, OFlags::RDONLY, None)).await?;
        Ok(Box::new(LocalWriter::new(file, path.clone(), true, self.gone.clone())))
    }

    async fn rename(&self, from: &RemotePath, to: &RemotePath, mode: RenameMode) -> Result<()> {
        let (source, target) = (self.place(from)?, self.place(to)?);
        let (subject, checked) = (to.clone(), self.capabilities.no_clobber == NoClobber::Checked);
        let checked_only = self.checked_only.clone();
        blocking(move || {
            let refused = |e: Errno| {
                let kind = match e {
                    Errno::ISDIR => ErrorKind::DestExists,
                    Errno::XDEV | Errno::INVAL | Errno::IO => ErrorKind::DestPublishFailed,
                    other => super::kind_of(other),
                };
                Error::new(kind, "rename a file to", &subject).because(std::io::Error::from(e))
            };
            match mode {
                RenameMode::Replace => rustix::fs::rename(&source, &target).map_err(refused)?,
                RenameMode::NoClobber if checked => rename_checked(&source, &target).map_err(refused)?,
                RenameMode::NoClobber => match rename_no_clobber(&source, &target).map_err(refused)? {
                    Taken::Yes => {}
                    Taken::NotInOneStep => {
                        // The receipt must not promise what this file system cannot do: the next connection says `Checked`.
                        checked_only.store(true, Ordering::Release);
                        return Err(Error::new(ErrorKind::DestPublishFailed, "rename a file to", &subject)
                            .because("this file system cannot refuse to overwrite in one step; the next connection looks before it renames")
                            .on_lost_connection());
                    }
                },
            }
            sync_directory(&target).map_err(refused)?;
            if source.parent() != target.parent() {
                sync_directory(&source).map_err(refused)?;
            }
            Ok(())
        })
        .await
    }

    async fn remove(&self, path: &RemotePath) -> Result<()> {
        self.at("remove", path, |place| match rustix::fs::unlink(place) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            other => other,
        })
        .await
    }

    async fn set_attributes(&self, path: &RemotePath, modified: Option<jiff::Timestamp>, permissions: Option<u32>) -> Result<()> {
        self.at("set attributes of", path, move |place| {
            if let Some(bits) = permissions {
                rustix::fs::chmod(place, Mode::from_raw_mode(bits & 0o7777))?;
            }
            if let Some(modified) = modified {
                rustix::fs::utimensat(CWD, place, &times(modified), AtFlags::empty())?;
            }
            Ok(())
        })
        .await
    }

    async fn hash(&self, path: &RemotePath, _algorithm: Algorithm) -> Result<Option<Digest>> {
        self.place(path).map(|_| None)
    }

    async fn free_space(&self, path: &RemotePath) -> Result<Option<u64>> {
        self.at("ask for the free space of", path, |place| {
            let found = rustix::fs::statvfs(place)?;
            Ok(Some(found.f_bavail.saturating_mul(found.f_frsize)))
        })
        .await
    }

    async fn ping(&self) -> Result<()> {
        self.place(&RemotePath::root()).map(|_| ())
    }

    async fn close(&self) -> Result<()> {
        self.gone.store(true, Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::os::unix::fs::PermissionsExt;

    fn path(directory: &tempfile::TempDir, name: &str) -> RemotePath {
        RemotePath::from_user(directory.path().to_str().unwrap()).unwrap().join(name).unwrap()
    }

    const NEW: CreateOptions = CreateOptions { mode: OpenMode::CreateNew, read: false, permissions: None };

    #[tokio::test]
    async fn the_home_directory_is_where_tilde_paths_lead() {
        let home = tempfile::tempdir().unwrap();
        let connection = LocalConnector::with_home(Some(home.path().to_owned())).connect().await.unwrap();
        let file = RemotePath::from_user("/~/a").unwrap();
        connection.open(&file, NEW).await.unwrap().close().await.unwrap();
        assert!(home.path().join("a").exists());
        let homeless = LocalConnector::with_home(None).connect().await.unwrap();
        assert_eq!(homeless.stat(&file).await.unwrap_err().kind, ErrorKind::DestDirMissing);
    }

    #[tokio::test]
    async fn asked_permissions_hold_whatever_the_mask_is() {
        let directory = tempfile::tempdir().unwrap();
        let connection = LocalConnector::new().connect().await.unwrap();
        let options = CreateOptions { permissions: Some(0o666), ..NEW };
        connection.open(&path(&directory, "a"), options).await.unwrap();
        assert_eq!(std::fs::metadata(directory.path().join("a")).unwrap().permissions().mode() & 0o777, 0o666);
    }

    #[tokio::test]
    async fn a_full_disk_is_no_space() {
        if std::fs::metadata("/dev/full").is_err() {
            return;
        }
        // The device refuses every write as a full file system does; it is no regular file, so it is opened here.
        let file = File::options().write(true).open("/dev/full").unwrap();
        let writer = LocalWriter::new(file, RemotePath::from_user("/dev/full").unwrap(), false, Arc::default());
        assert_eq!(writer.write_at(0, Bytes::from_static(b"x")).await.unwrap_err().kind, ErrorKind::DestNoSpace);
    }

    #[tokio::test]
    async fn pipes_and_links_in_place_of_our_file_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        rustix::fs::mkfifoat(CWD, directory.path().join("pipe"), Mode::from_raw_mode(0o600)).unwrap();
        std::fs::write(directory.path().join("real"), "").unwrap();
        std::os::unix::fs::symlink("real", directory.path().join("link")).unwrap();
        let connection = LocalConnector::new().connect().await.unwrap();
        for name in ["pipe", "link"] {
            for read in [false, true] {
                let options = CreateOptions { mode: OpenMode::Existing, read, permissions: None };
                assert_eq!(connection.open(&path(&directory, name), options).await.unwrap_err().kind, ErrorKind::DestDenied, "{name}");
            }
        }
    }

    #[test]
    fn a_name_is_taken_by_link_or_look_where_the_kernel_has_no_flag() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("a"), "a").unwrap();
        std::fs::write(at("b"), "b").unwrap();
        assert_eq!(rename_checked(&at("a"), &at("b")), Err(Errno::EXIST));
        rename_checked(&at("a"), &at("c")).unwrap();
        assert_eq!(std::fs::read(at("c")).unwrap(), b"a");
        assert!(matches!(rename_no_clobber(&at("c"), &at("b")), Err(Errno::EXIST)));
        assert!(matches!(rename_no_clobber(&at("c"), &at("d")), Ok(Taken::Yes)));
    }

    #[test]
    fn system_errors_have_the_class_that_names_whose_move_it_is() {
        for (errno, kind) in [
            (Errno::NOSPC, ErrorKind::DestNoSpace),
            (Errno::DQUOT, ErrorKind::DestNoSpace),
            (Errno::ACCESS, ErrorKind::DestDenied),
            (Errno::ROFS, ErrorKind::DestDenied),
            (Errno::NAMETOOLONG, ErrorKind::DestNameInvalid),
            (Errno::NOENT, ErrorKind::DestDirMissing),
            (Errno::EXIST, ErrorKind::DestExists),
        ] {
            assert_eq!(super::super::kind_of(errno), kind);
        }
    }
}
