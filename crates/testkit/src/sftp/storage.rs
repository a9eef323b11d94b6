//! The directory behind the server: names confined to it, how full it may get, what a crash would lose.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::recorder::lock;
use super::wire::Attributes;

/// What becomes of writes that were acknowledged and not fsynced when the server crashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// They are kept, as after a crash of the server program alone.
    Nothing,
    /// The file ends where it ended at the last fsync; overwritten bytes before that are zeros.
    Gone,
    /// The file keeps its length, the bytes are zeros.
    Zeroed,
}

#[derive(Debug)]
struct Unsynced {
    file: Arc<File>,
    durable_size: u64,
    ranges: Vec<(u64, u64)>,
}

#[derive(Debug)]
pub(crate) struct Storage {
    root: PathBuf,
    _temporary: Option<TempDir>,
    /// By device and inode, so that a rename does not matter.
    unsynced: Mutex<HashMap<(u64, u64), Unsynced>>,
    /// Bytes in all files; `None` when something shrank and they have to be counted again.
    used: Mutex<Option<u64>>,
}

impl Storage {
    pub fn on(root: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(root)?;
        Ok(Self { root: root.canonicalize()?, _temporary: None, unsynced: Mutex::default(), used: Mutex::default() })
    }

    /// A private directory, in memory where the machine has a memory file system with room.
    pub fn temporary() -> io::Result<Self> {
        let memory = Path::new("/dev/shm");
        let roomy = rustix::fs::statvfs(memory).is_ok_and(|fs| fs.f_bavail * fs.f_frsize >= 1 << 30);
        let mut builder = tempfile::Builder::new();
        builder.prefix("sftp-");
        let directory = if roomy { builder.tempdir_in(memory).or_else(|_| builder.tempdir()) } else { builder.tempdir() }?;
        let root = directory.path().canonicalize()?;
        Ok(Self { root, _temporary: Some(directory), unsynced: Mutex::default(), used: Mutex::default() })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file behind a normalised path. Symbolic links are followed only while they stay below the root.
    pub fn resolve(&self, path: &[u8], follow_last: bool) -> io::Result<PathBuf> {
        let relative = Path::new(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)));
        let full = self.root.join(relative);
        if relative.as_os_str().is_empty() {
            return Ok(self.root.clone());
        }
        let (Some(parent), Some(name)) = (full.parent(), full.file_name()) else { return Err(ErrorKind::InvalidInput.into()) };
        let parent = self.confined(parent.canonicalize()?)?;
        let file = parent.join(name);
        if follow_last && file.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink()) {
            return self.confined(file.canonicalize()?);
        }
        Ok(file)
    }

    fn confined(&self, path: PathBuf) -> io::Result<PathBuf> {
        if path.starts_with(&self.root) { Ok(path) } else { Err(rustix::io::Errno::ACCESS.into()) }
    }

    /// Stores bytes, or fails with "no space" when `capacity` does not allow the file to grow so far.
    pub fn write(&self, file: &File, offset: u64, data: &[u8], capacity: Option<u64>) -> io::Result<()> {
        let Some(capacity) = capacity else { return file.write_all_at(data, offset) };
        let mut used = lock(&self.used);
        let now = self.used_bytes(&mut used)?;
        let growth = (offset + data.len() as u64).saturating_sub(file.metadata()?.len());
        if now + growth > capacity {
            return Err(rustix::io::Errno::NOSPC.into());
        }
        file.write_all_at(data, offset)?;
        *used = Some(now + growth);
        Ok(())
    }

    pub fn free(&self, capacity: u64) -> io::Result<u64> {
        Ok(capacity.saturating_sub(self.used_bytes(&mut lock(&self.used))?))
    }

    /// Something became smaller or went away.
    pub fn shrank(&self) {
        *lock(&self.used) = None;
    }

    fn used_bytes(&self, used: &mut Option<u64>) -> io::Result<u64> {
        if let Some(used) = *used {
            return Ok(used);
        }
        let mut total = 0;
        let mut directories = vec![self.root.clone()];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory)? {
                let entry = entry?;
                let metadata = entry.metadata()?;
                if metadata.is_dir() {
                    directories.push(entry.path());
                } else {
                    total += metadata.len();
                }
            }
        }
        Ok(*used.insert(total))
    }

    /// Notes a write before it happens.
    pub fn will_write(&self, file: &Arc<File>, offset: u64, length: u64) -> io::Result<()> {
        let metadata = file.metadata()?;
        let mut unsynced = lock(&self.unsynced);
        let entry = unsynced.entry((metadata.dev(), metadata.ino())).or_insert_with(|| Unsynced {
            file: file.clone(),
            durable_size: metadata.len(),
            ranges: Vec::new(),
        });
        match entry.ranges.last_mut() {
            Some((_, end)) if *end == offset => *end += length,
            _ => entry.ranges.push((offset, offset + length)),
        }
        Ok(())
    }

    pub fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()?;
        let metadata = file.metadata()?;
        lock(&self.unsynced).remove(&(metadata.dev(), metadata.ino()));
        Ok(())
    }

    pub fn lose(&self, loss: Loss) -> io::Result<()> {
        let unsynced = std::mem::take(&mut *lock(&self.unsynced));
        self.shrank();
        for lost in unsynced.into_values() {
            let zeroed_to = match loss {
                Loss::Nothing => continue,
                Loss::Gone => {
                    lost.file.set_len(lost.durable_size)?;
                    lost.durable_size
                }
                Loss::Zeroed => u64::MAX,
            };
            for (start, end) in lost.ranges {
                let zeros = vec![0; 64 * 1024];
                let mut at = start;
                while at < end.min(zeroed_to) {
                    let length = (end.min(zeroed_to) - at).min(zeros.len() as u64);
                    lost.file.write_all_at(&zeros[..length as usize], at)?;
                    at += length;
                }
            }
        }
        Ok(())
    }
}

/// Makes a client's path absolute and plain. `..` stops at the root, as in a chroot.
pub(crate) fn normalise(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let mut plain = vec![b'/'];
    plain.extend_from_slice(&parts.join(&b'/'));
    plain
}

pub(crate) fn attributes_of(metadata: &std::fs::Metadata) -> Attributes {
    let seconds = |time: i64| u32::try_from(time).unwrap_or(0);
    Attributes {
        size: Some(metadata.len()),
        owner: Some((metadata.uid(), metadata.gid())),
        permissions: Some(metadata.mode()),
        times: Some((seconds(metadata.atime()), seconds(metadata.mtime()))),
    }
}

pub(crate) fn times_of(times: (u32, u32)) -> rustix::fs::Timestamps {
    let at = |seconds: u32| rustix::fs::Timespec { tv_sec: i64::from(seconds), tv_nsec: 0 };
    rustix::fs::Timestamps { last_access: at(times.0), last_modification: at(times.1) }
}

/// The line that `ls -l` would show, for clients that print it.
pub(crate) fn listing_line(name: &[u8], attributes: &Attributes) -> String {
    let mode = attributes.permissions.unwrap_or(0);
    let kind = if mode & 0o170_000 == 0o040_000 { 'd' } else { '-' };
    let bits: String = (0..9).rev().map(|bit| if mode >> bit & 1 == 1 { ['x', 'w', 'r'][bit % 3] } else { '-' }).collect();
    let (user, group) = attributes.owner.unwrap_or_default();
    let size = attributes.size.unwrap_or(0);
    let modified = jiff::Timestamp::from_second(i64::from(attributes.times.unwrap_or_default().1)).unwrap_or_default();
    format!("{kind}{bits}    1 {user:<8} {group:<8} {size:>12} {} {}", modified.strftime("%b %e %H:%M"), String::from_utf8_lossy(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_never_leaves_the_root() {
        assert_eq!(normalise(b"a/./b//../c"), b"/a/c");
        assert_eq!(normalise(b"/../../etc/passwd"), b"/etc/passwd");
        assert_eq!(normalise(b"."), b"/");
        let storage = Storage::temporary().unwrap();
        std::os::unix::fs::symlink("/etc", storage.root().join("out")).unwrap();
        assert!(storage.resolve(b"/out/passwd", true).is_err());
        assert!(storage.resolve(b"/out", true).is_err());
        assert_eq!(storage.resolve(b"/in", true).unwrap(), storage.root().join("in"));
    }
}
