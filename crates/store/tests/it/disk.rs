//! Disks that are full or read-only. They are small tmpfs mounts, so these tests need to be root; others pass by.

use std::path::{Path, PathBuf};
use std::process::Command;

use store::{Batch, ErrorKind, Mutation, Store};

use crate::{add, finish, id, transfer};

struct SmallDisk {
    directory: tempfile::TempDir,
}

impl SmallDisk {
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let done = mount(&["-t", "tmpfs", "-o", "size=1m", "tmpfs"], directory.path());
        if !done {
            eprintln!("skipped: mounting a tmpfs needs root");
        }
        done.then_some(Self { directory })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn mount(arguments: &[&str], on: &Path) -> bool {
    Command::new("mount").args(arguments).arg(on).output().is_ok_and(|output| output.status.success())
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because the store under test may still close its files.
        let _ = Command::new("umount").arg("-l").arg(self.directory.path()).output();
    }
}

#[tokio::test]
async fn a_full_disk_is_said_loses_nothing_and_is_over_when_there_is_space() {
    let Some(disk) = SmallDisk::mount() else { return };
    let store = Store::open(disk.file("state.db")).await.unwrap();
    store.commit(Batch::new().push(Mutation::CreateTransfer(transfer(1))).push(add(1, 0..20))).await.unwrap();
    let ballast = disk.file("ballast");
    let mut filler = std::fs::File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut filler, &[1; 4096]).is_ok() {}
    let mut done = 0;
    let error = loop {
        match store.commit(Batch::new().push(add(1, 100 + done * 100..200 + done * 100))).await {
            Ok(_) => done += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind, ErrorKind::Full, "{error:?}");
    assert!(error.next_step().contains("free space"));
    let full = store.counts(&id(1)).await.unwrap();
    assert_eq!(full[0].files, 20 + u64::from(done) * 100, "what was answered is there, what failed is not");
    let again = store.commit(Batch::new().push(add(1, 5000..5900))).await.unwrap_err();
    assert_eq!(again.kind, ErrorKind::Full, "it stays usable");

    drop(filler);
    std::fs::remove_file(&ballast).unwrap();
    store.commit(finish(1, 3)).await.expect("the same store goes on");
    store.commit(add(1, 5000..5100)).await.unwrap();
    store.integrity_check().await.unwrap();
}

#[tokio::test]
async fn a_read_only_disk_is_said_when_opening() {
    let Some(disk) = SmallDisk::mount() else { return };
    Store::open(disk.file("state.db")).await.unwrap().close().await.unwrap();
    assert!(mount(&["-o", "remount,ro"], disk.directory.path()));
    let error = Store::open(disk.file("state.db")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::ReadOnly, "{error:?}");
    let error = Store::open(disk.file("other/state.db")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::ReadOnly, "{error:?}");
}
