//! Our SFTP client against OpenSSH.

mod server;

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use model::Algorithm;
use rustix::process::Signal;
use server::Sshd;
use transfer::{Connection, Connector, CreateOptions, ErrorKind, NoClobber, OpenMode, RenameMode, Writer};

const NEW: CreateOptions = CreateOptions { mode: OpenMode::CreateNew, read: true, permissions: None };
const PATIENT: Duration = Duration::from_secs(30);

async fn connected() -> Option<(Sshd, Box<dyn Connection>)> {
    let server = Sshd::start().await?;
    let connection = server.connector(PATIENT).connect().await.unwrap();
    Some((server, connection))
}

fn noise(length: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_written_in_any_order_are_the_file() {
    let Some((server, connection)) = connected().await else { return };
    let content = noise(5 * 1024 * 1024 + 4321);
    let (part, finished) = (server.path(".ff-a.part"), server.path("a.bin"));
    let options = CreateOptions { permissions: Some(0o640), ..NEW };
    let writer = connection.open(&part, options).await.unwrap();
    let size = 700_001;
    let writes = (0..content.len().div_ceil(size)).rev().map(|index| {
        let range = index * size..content.len().min((index + 1) * size);
        writer.write_at(range.start as u64, content.slice(range))
    });
    try_join_all(writes).await.unwrap();
    assert_eq!(writer.size().await.unwrap(), content.len() as u64);
    writer.sync().await.unwrap();
    let reads = (0..content.len().div_ceil(256 * 1024)).map(|block| writer.read_at(block as u64 * 256 * 1024, 256 * 1024));
    assert_eq!(try_join_all(reads).await.unwrap().concat(), content);
    assert!(writer.read_at(content.len() as u64, 10).await.unwrap().is_empty());
    let modified = jiff::Timestamp::from_second(1_000_000_000).unwrap();
    writer.set_attributes(Some(modified), None).await.unwrap();
    writer.close().await.unwrap();
    writer.close().await.unwrap();
    assert_eq!(writer.write_at(0, Bytes::from_static(b"late")).await.unwrap_err().kind, ErrorKind::Internal);

    connection.rename(&part, &finished, RenameMode::NoClobber).await.unwrap();
    assert_eq!(connection.stat(&part).await.unwrap(), None);
    let metadata = connection.stat(&finished).await.unwrap().unwrap();
    assert_eq!((metadata.size, metadata.modified, metadata.directory), (content.len() as u64, Some(modified), false));
    assert_eq!(std::fs::read(server.files().join("a.bin")).unwrap(), content);
    assert_eq!(std::fs::metadata(server.files().join("a.bin")).unwrap().permissions().mode() & 0o777, 0o640);
    connection.set_attributes(&finished, None, Some(0o600)).await.unwrap();
    assert_eq!(std::fs::metadata(server.files().join("a.bin")).unwrap().mode() & 0o777, 0o600);
    connection.close().await.unwrap();
    assert!(connection.ping().await.unwrap_err().is_connection_lost());
}

#[tokio::test(flavor = "multi_thread")]
async fn openssh_is_recognised_with_all_it_can_do() {
    let Some((server, connection)) = connected().await else { return };
    let can = connection.capabilities();
    assert!(can.offset_writes && can.confirms_writes && can.read && can.sync && can.atomic_replace && can.free_space);
    assert_eq!((can.no_clobber, can.multiplex, can.max_write), (NoClobber::Atomic, 64, 128 * 1024));
    assert!(can.hashes.is_empty());
    assert!(connection.identity().round_trip > Duration::ZERO);
    assert!(connection.free_space(&server.path("")).await.unwrap().unwrap() > 0);
    assert_eq!(connection.hash(&server.path("x"), Algorithm::Sha256).await.unwrap(), None);
    connection.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_to_open_has_its_own_class() {
    let Some((server, connection)) = connected().await else { return };
    std::fs::write(server.files().join("taken"), "x").unwrap();
    let existing = CreateOptions { mode: OpenMode::Existing, ..NEW };
    let kind = async |name: &str, options| connection.open(&server.path(name), options).await.map(drop).unwrap_err().kind;
    assert_eq!(kind("taken", NEW).await, ErrorKind::DestExists);
    assert_eq!(kind("missing/a", NEW).await, ErrorKind::DestDirMissing);
    assert_eq!(kind("gone", existing).await, ErrorKind::DestDirMissing);
    assert_eq!(kind("", existing).await, ErrorKind::DestDenied);
    assert_eq!(std::fs::read(server.files().join("taken")).unwrap(), b"x", "a refused open must not truncate");

    let kept = connection.open(&server.path("taken"), existing).await.unwrap();
    kept.write_at(1, Bytes::from_static(b"y")).await.unwrap();
    kept.close().await.unwrap();
    assert_eq!(std::fs::read(server.files().join("taken")).unwrap(), b"xy");
    let emptied = connection.open(&server.path("taken"), CreateOptions { mode: OpenMode::Truncate, ..NEW }).await.unwrap();
    assert_eq!(emptied.size().await.unwrap(), 0);

    let reader = connection.open_read(&server.path("taken")).await.unwrap();
    assert_eq!(reader.write_at(0, Bytes::from_static(b"z")).await.unwrap_err().kind, ErrorKind::DestDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn renames_obey_their_mode() {
    let Some((server, connection)) = connected().await else { return };
    for name in ["old", "taken"] {
        std::fs::write(server.files().join(name), name).unwrap();
    }
    let rename = async |from: &str, to: &str, mode| connection.rename(&server.path(from), &server.path(to), mode).await;
    let kind = async |from: &str, to: &str, mode| rename(from, to, mode).await.unwrap_err().kind;
    assert_eq!(kind("old", "taken", RenameMode::NoClobber).await, ErrorKind::DestExists);
    assert_eq!(std::fs::read(server.files().join("taken")).unwrap(), b"taken");
    for mode in [RenameMode::NoClobber, RenameMode::Replace] {
        assert_eq!(kind("gone", "new", mode).await, ErrorKind::DestDirMissing);
        assert_eq!(kind("old", "missing/new", mode).await, ErrorKind::DestDirMissing);
    }
    rename("old", "taken", RenameMode::Replace).await.unwrap();
    assert_eq!(std::fs::read(server.files().join("taken")).unwrap(), b"old");
}

#[tokio::test(flavor = "multi_thread")]
async fn making_and_removing_twice_succeeds() {
    let Some((server, connection)) = connected().await else { return };
    let directory = server.path("d");
    for _ in 0..2 {
        connection.make_directory(&directory).await.unwrap();
    }
    assert_eq!(connection.make_directory(&server.path("no/d")).await.unwrap_err().kind, ErrorKind::DestDirMissing);
    std::fs::write(server.files().join("d/f"), "x").unwrap();
    assert_eq!(connection.make_directory(&server.path("d/f")).await.unwrap_err().kind, ErrorKind::DestExists);
    assert_eq!(connection.remove_directory(&directory).await.unwrap_err().kind, ErrorKind::DestDenied);
    assert_eq!(connection.remove(&directory).await.unwrap_err().kind, ErrorKind::DestDenied);
    for _ in 0..2 {
        connection.remove(&server.path("d/f")).await.unwrap();
    }
    for _ in 0..2 {
        connection.remove_directory(&directory).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_are_whole_bounded_and_honest_about_names() {
    let Some((server, connection)) = connected().await else { return };
    for index in 0..250 {
        std::fs::write(server.files().join(format!("f{index}")), vec![0; index]).unwrap();
    }
    std::fs::create_dir(server.files().join("d")).unwrap();
    std::fs::write(server.files().join(std::ffi::OsStr::from_bytes(b"odd\xff")), "").unwrap();
    let entries = connection.list(&server.path(""), 10_000).await.unwrap();
    assert_eq!(entries.len(), 252);
    assert_eq!(entries.iter().find(|e| e.name == "f249").unwrap().metadata.size, 249);
    assert!(entries.iter().find(|e| e.name == "d").unwrap().metadata.directory);
    assert_eq!(entries.iter().filter(|e| !e.exact).map(|e| e.name.as_str()).collect::<Vec<_>>(), ["odd\u{fffd}"]);
    assert_eq!(connection.list(&server.path(""), 7).await.unwrap().len(), 7);
    assert_eq!(connection.list(&server.path("gone"), 7).await.unwrap_err().kind, ErrorKind::DestDirMissing);
    assert_eq!(connection.list(&server.path("f1"), 7).await.unwrap_err().kind, ErrorKind::DestDirMissing);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_open_files_keep_their_own_content() {
    let Some((server, connection)) = connected().await else { return };
    // OpenSSH's handles are counters of four bytes, so the 129th is not text.
    let paths: Vec<_> = (0..200).map(|index| server.path(&format!("f{index}"))).collect();
    let writers = try_join_all(paths.iter().map(|path| connection.open(path, NEW))).await.unwrap();
    try_join_all(writers.iter().enumerate().map(|(index, writer)| writer.write_at(0, Bytes::from(index.to_string())))).await.unwrap();
    try_join_all(writers.iter().map(|writer| writer.close())).await.unwrap();
    for index in 0..200 {
        assert_eq!(std::fs::read_to_string(server.files().join(format!("f{index}"))).unwrap(), index.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_no_space() {
    let Some((server, connection)) = connected().await else { return };
    let mount = server.files().join("small");
    std::fs::create_dir(&mount).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(&mount).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this account cannot mount a tmpfs");
        return;
    }
    let outcome = async {
        let writer = connection.open(&server.path("small/a"), NEW).await?;
        writer.write_at(0, Bytes::from(vec![1; 8 * 1024 * 1024])).await
    };
    let outcome = outcome.await;
    let _ = Command::new("umount").arg("-l").arg(&mount).status();
    let error = outcome.unwrap_err();
    assert_eq!(error.kind, ErrorKind::DestNoSpace, "{}", transfer::error::chain(&error));
    assert!(!error.is_connection_lost());
    connection.ping().await.unwrap();
}

/// A writer that is kept busy until something fails.
async fn write_until_failure(writer: Arc<dyn Writer>) -> transfer::Error {
    let block = noise(1024 * 1024);
    loop {
        if let Err(error) = writer.write_at(0, block.clone()).await {
            return error;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_is_a_reset_for_every_open_call() {
    let Some((server, connection)) = connected().await else { return };
    let writer: Arc<dyn Writer> = connection.open(&server.path("a"), NEW).await.unwrap().into();
    let calls = [tokio::spawn(write_until_failure(Arc::clone(&writer))), tokio::spawn(write_until_failure(writer))];
    server.signal_sessions(Signal::KILL);
    for call in calls {
        let error = tokio::time::timeout(Duration::from_secs(10), call).await.unwrap().unwrap();
        assert_eq!(error.kind, ErrorKind::NetworkReset, "{}", transfer::error::chain(&error));
        assert!(error.is_connection_lost());
    }
    assert!(connection.ping().await.unwrap_err().is_connection_lost());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_is_a_stall_within_the_time_allowed() {
    let Some(server) = Sshd::start().await else { return };
    let connection = server.connector(Duration::from_secs(1)).connect().await.unwrap();
    let writer: Arc<dyn Writer> = connection.open(&server.path("a"), NEW).await.unwrap().into();
    let call = tokio::spawn(write_until_failure(writer));
    server.signal_sessions(Signal::STOP);
    let frozen = Instant::now();
    let error = tokio::time::timeout(Duration::from_secs(20), call).await.unwrap().unwrap();
    assert_eq!(error.kind, ErrorKind::NetworkStalled, "{}", transfer::error::chain(&error));
    assert!(error.is_connection_lost());
    assert!(frozen.elapsed() < Duration::from_secs(5), "{:?}", frozen.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_connection_leaves_the_server() {
    let Some((server, connection)) = connected().await else { return };
    let writer = connection.open(&server.path("a"), NEW).await.unwrap();
    assert!(!server.sessions().is_empty());
    drop(connection);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !server.sessions().is_empty() {
        assert!(Instant::now() < deadline, "the session is still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(writer.write_at(0, Bytes::from_static(b"x")).await.unwrap_err().is_connection_lost());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_without_sftp_is_told_so() {
    let Some(server) = Sshd::start_without_sftp().await else { return };
    let error = server.connector(PATIENT).connect().await.map(drop).unwrap_err();
    assert_eq!(error.kind, ErrorKind::DestProtocol);
    assert!(transfer::error::chain(&error).contains("does not offer the sftp subsystem"), "{}", transfer::error::chain(&error));
}
