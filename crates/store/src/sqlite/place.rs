//! Where the state file lies: a private directory on a local disk.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::fs::Access;

use crate::{Error, ErrorKind, Result};

/// Creates the directory (0700) and the file (0600) where they are missing. SQLite gives `-wal` and `-shm` the
/// file's mode.
pub(super) fn prepare(path: &Path, allow_network_filesystem: bool) -> Result<()> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(from_io)?;
    if !allow_network_filesystem {
        refuse_network_filesystem(directory)?;
    }
    create(path)?;
    // Asked and not tried: to open the file and close it again would drop the locks of another store in this process,
    // as POSIX has it. WAL needs the directory as well.
    for place in [path, directory] {
        rustix::fs::access(place, Access::WRITE_OK).map_err(|error| from_io(error.into()))?;
    }
    Ok(())
}

fn create(path: &Path) -> Result<()> {
    // One after the other, because the close below must not come after another thread has its locks.
    static CREATING: Mutex<()> = Mutex::new(());
    let _one = CREATING.lock().unwrap_or_else(PoisonError::into_inner);
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(from_io(error)),
    }
}

pub(crate) fn from_io(error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Full,
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => ErrorKind::ReadOnly,
        _ => ErrorKind::Io,
    };
    Error::bare(kind).because(error)
}

#[cfg(not(target_os = "linux"))]
fn refuse_network_filesystem(_directory: &Path) -> Result<()> {
    Ok(())
}

#[cfg(target_os = "linux")]
fn refuse_network_filesystem(directory: &Path) -> Result<()> {
    let directory = directory.canonicalize().map_err(from_io)?;
    let magic = rustix::fs::statfs(&directory).map_err(|error| from_io(error.into()))?.f_type as u32;
    // Where /proc is not mounted, a FUSE file system cannot be told apart and is let through.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    match network_filesystem(magic, &mounts, &directory) {
        Some(name) => {
            let text = format!("{} is on {name}, a network file system", directory.display());
            Err(Error::bare(ErrorKind::NetworkFilesystem).reason(text))
        }
        None => Ok(()),
    }
}

/// The magic numbers are those of statfs(2).
#[cfg(target_os = "linux")]
fn network_filesystem(magic: u32, mounts: &str, directory: &Path) -> Option<String> {
    const FUSE: u32 = 0x6573_5546;
    const NETWORK: &[(u32, &str)] = &[
        (0x6969, "NFS"),
        (0x517b, "SMB"),
        (0xff53_4d42, "CIFS"),
        (0xfe53_4d42, "SMB"),
        (0x0102_1997, "9P"),
        (0x5346_414f, "AFS"),
        (0x7375_7245, "Coda"),
        (0x00c3_6400, "Ceph"),
        (0x0bd0_0bd0, "Lustre"),
    ];
    // FUSE also carries local disks (NTFS, overlays of rootless containers), so only the known remote ones are refused.
    const REMOTE_FUSE: &[&str] = &[
        "fuse.sshfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.gcsfuse",
        "fuse.mount-s3",
        "fuse.mountpoint-s3",
        "fuse.glusterfs",
        "fuse.juicefs",
        "fuse.curlftpfs",
        "fuse.davfs",
        "fuse.blobfuse2",
    ];
    if magic == FUSE {
        let kind = mount_type(mounts, directory)?;
        return REMOTE_FUSE.contains(&kind).then(|| kind.to_owned());
    }
    NETWORK.iter().find(|(number, _)| *number == magic).map(|(_, name)| (*name).to_owned())
}

/// The type of the file system mounted nearest above `directory`; see proc_pid_mountinfo(5).
#[cfg(target_os = "linux")]
fn mount_type<'a>(mounts: &'a str, directory: &Path) -> Option<&'a str> {
    let mut nearest = (0, None);
    for line in mounts.lines() {
        let (Some(point), Some((_, after))) = (line.split(' ').nth(4), line.split_once(" - ")) else { continue };
        let point = point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\");
        // A later mount on the same point hides the earlier one.
        if directory.starts_with(&point) && point.len() >= nearest.0 {
            nearest = (point.len(), after.split(' ').next());
        }
    }
    nearest.1
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    const MOUNTS: &str = "22 1 0:20 / / rw shared:1 - ext4 /dev/sda1 rw\n\
        30 22 0:40 / /home/a\\040b rw,nosuid shared:2 - fuse.sshfs a@b:/ rw\n\
        31 22 0:41 / /win rw - fuseblk /dev/sdb1 rw\n";

    #[test]
    fn network_file_systems_are_known_by_number_and_fuse_by_its_mount() {
        let named = |magic, path| network_filesystem(magic, MOUNTS, Path::new(path));
        assert_eq!(named(0x6969, "/x").as_deref(), Some("NFS"));
        assert_eq!(named(0xff53_4d42, "/x").as_deref(), Some("CIFS"));
        assert_eq!(named(0x0102_1997, "/x").as_deref(), Some("9P"));
        assert_eq!(named(0x6573_5546, "/home/a b/state").as_deref(), Some("fuse.sshfs"));
        assert_eq!(named(0x6573_5546, "/win/state"), None);
        assert_eq!(named(0xef53, "/x"), None);
    }
}
