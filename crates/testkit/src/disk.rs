//! A small file system in memory that can be filled, made read-only and made larger while programs use it. Mounting one
//! needs root; where that is not allowed a test says so and passes by.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    at: PathBuf,
    /// Where nobody said where to mount it.
    _directory: Option<tempfile::TempDir>,
}

impl SmallDisk {
    /// In a directory of its own. `None`, and a line about it, where mounting is not allowed.
    pub fn new(mebibytes: u32) -> Option<Self> {
        let directory = tempfile::Builder::new().prefix("small-disk-").tempdir().ok()?;
        let at = directory.path().to_owned();
        mounted(directory.path(), mebibytes).then(|| Self { at, _directory: Some(directory) })
    }

    /// On this directory, which is made where it is missing.
    pub fn mount(on: &Path, mebibytes: u32) -> Option<Self> {
        if let Err(error) = std::fs::create_dir_all(on) {
            println!("skipped: {} cannot be made: {error}", on.display());
            return None;
        }
        mounted(on, mebibytes).then(|| Self { at: on.to_owned(), _directory: None })
    }

    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Takes all the space that is left.
    pub fn fill(&self) {
        let mut ballast = File::create(self.ballast()).expect("a new file on a disk that is not full");
        while ballast.write_all(&[1; 65_536]).is_ok() {}
        while ballast.write_all(&[1; 512]).is_ok() {}
    }

    /// Gives back what `fill` took.
    pub fn free(&self) {
        std::fs::remove_file(self.ballast()).expect("the disk was filled");
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }

    pub fn resize(&self, mebibytes: u32) {
        self.remount(&format!("size={mebibytes}m"));
    }

    /// Refused by the system while a file on it is open for writing.
    pub fn set_read_only(&self, read_only: bool) {
        self.remount(if read_only { "ro" } else { "rw" });
    }

    fn remount(&self, option: &str) {
        mount(&["-o", &format!("remount,{option}")], &self.at).expect("it was mounted by the same user");
    }
}

fn mounted(on: &Path, mebibytes: u32) -> bool {
    let done = mount(&["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"], on);
    done.inspect_err(|why| println!("skipped: a small file system cannot be mounted: {why}")).is_ok()
}

fn mount(arguments: &[&str], on: &Path) -> Result<(), String> {
    let output = Command::new("mount").args(arguments).arg(on).output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the program under test may still close its files.
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}
