//! Disks that are full or read-only. They are small tmpfs mounts, so these tests need to be root; others pass by.

use std::path::{Path, PathBuf};
use std::process::Command;

use model::ExecutionStatus;
use store::{Batch, Delivering, ErrorKind, Mutation, SaveStep, Store};

use crate::{add, executions, finish, id, outbox, transfer};

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

#[tokio::test]
async fn a_store_that_is_full_refuses_a_step_whole_and_the_executions_go_on_when_there_is_space() {
    let Some(disk) = SmallDisk::mount() else { return };
    let store = Store::open(disk.file("state.db")).await.unwrap();
    store.commit(executions::create(1, 1)).await.unwrap();
    let ballast = disk.file("ballast");
    let mut filler = std::fs::File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut filler, &[1; 4096]).is_ok() {}
    let step = |expect, size| {
        let head = "x".repeat(size);
        let message = outbox::add(&format!("after-{expect}"), "T", Delivering::AtLeastOnce);
        let step = SaveStep { head, ..executions::step(1, 1, expect, ExecutionStatus::Running) };
        Batch::new().push(Mutation::SaveStep(Box::new(step))).push(message)
    };
    let (done, error) = until_full(&store, &step).await;
    assert_eq!(error.kind, ErrorKind::Full, "{error:?}");
    let last = 2 + done * 2;
    let name = executions::record(1, 1).name;
    let present = store.execution(&name).await.unwrap().unwrap();
    assert_eq!(present.last_event, last);
    assert_eq!(store.history(&name, 0, 0).await.unwrap().len() as u64, last);
    assert_eq!(store.outbox(&[], None, 0, 0).await.unwrap().len() as u64, done, "no effect is on record without its step");

    drop(filler);
    std::fs::remove_file(&ballast).unwrap();
    store.commit(step(last, 10)).await.expect("the same step goes through");
    store.integrity_check().await.unwrap();
}

/// How many steps went through, and what the next one met.
async fn until_full(store: &Store, step: &impl Fn(u64, usize) -> Batch) -> (u64, store::Error) {
    for done in 0..1_000 {
        if let Err(error) = store.commit(step(2 + done * 2, 40_000)).await {
            return (done, error);
        }
    }
    panic!("the disk is never full");
}
