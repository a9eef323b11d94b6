//! The engine on sources and destinations in memory: every policy, every grade, and interruption at every point.

use std::sync::Arc;

use async_trait::async_trait;
use model::{FileNumber, FileState, Grade, IfExists, Publish, RemotePath, Verify};
use transfer::memory::{MemoryDestination, MemorySource};
use transfer::port::Intent;
use transfer::{Capabilities, Connection, Connector, ErrorKind, NoClobber};

use crate::failing::{Break, Failing};
use crate::harness::{Ferry, Kept, pattern};
use crate::tapped::{Tap, Tapped};

fn ferry(files: &[(&str, usize)]) -> (Ferry, MemorySource, MemoryDestination) {
    let source = MemorySource::new();
    for (key, size) in files {
        source.put(key, pattern(*size));
    }
    let destination = MemoryDestination::new();
    destination.make_directories("/in");
    let ferry = Ferry::new(Arc::new(source.clone()), Arc::new(destination.clone()), "/in");
    (ferry, source, destination)
}

fn assert_whole(source: &MemorySource, destination: &MemoryDestination, key: &str) {
    let (sent, there) = (source.bytes(key).unwrap(), destination.bytes(&format!("/in/{key}")));
    assert!(there.as_deref() == Some(&sent[..]), "{key} is not whole");
}

fn only_finals(destination: &MemoryDestination) {
    let left: Vec<_> = destination.names().into_iter().filter(|n| n.contains(".ff-")).collect();
    assert!(left.is_empty(), "temporary files were left: {left:?}");
}

#[tokio::test]
async fn delivers_empty_small_and_large_files_whole() {
    let files = [("empty", 0), ("one", 1), ("small", 100_000), ("exact", 9_437_184), ("large", 80_000_001)];
    let (ferry, source, destination) = ferry(&files);
    let keys: Vec<&str> = files.iter().map(|f| f.0).collect();
    ferry.run(&keys).await.unwrap();
    for (number, (key, size)) in files.iter().enumerate() {
        assert_whole(&source, &destination, key);
        let finished = ferry.records.kept(number as u32).finished.expect(key);
        assert_eq!(finished.state, FileState::Delivered);
        let delivery = finished.delivery.unwrap();
        assert_eq!(delivery.bytes_sent, *size as u64);
        assert_eq!(delivery.sha256.unwrap(), sha256(&source.bytes(key).unwrap()));
    }
    only_finals(&destination);
}

// SEMANTICS S2: "With `--if-exists fail`, the default, a file that is already there is not touched and the copy of it fails
// with `dest_exists`; with `skip` it is not touched either, and counts as `skipped`."
#[tokio::test]
async fn an_existing_name_is_treated_as_asked() {
    for (policy, state, replaced) in [
        (IfExists::Fail, None, false),
        (IfExists::Skip, Some(FileState::Skipped), false),
        (IfExists::Update, Some(FileState::Delivered), true),
        (IfExists::Replace, Some(FileState::Delivered), true),
        (IfExists::ReplaceUnsafe, Some(FileState::Delivered), true),
    ] {
        for size in [10, 20_000_000] {
            let (mut ferry, source, destination) = ferry(&[("a", size)]);
            destination.put("/in/a", b"old");
            ferry.wishes.if_exists = policy;
            ferry.run(&["a"]).await.unwrap();
            let kept = ferry.records.kept(0);
            assert_eq!(kept.finished.map(|f| f.state), state, "{policy} {size}");
            if replaced {
                assert_whole(&source, &destination, "a");
            } else {
                assert_eq!(destination.bytes("/in/a").unwrap(), b"old");
            }
            if policy == IfExists::Fail {
                assert_eq!(kept.failed.unwrap().0, ErrorKind::DestExists);
            }
            only_finals(&destination);
        }
    }
}

// SEMANTICS S3: "With `--if-exists replace` or `update` the old file stays until the new one takes its place in one step; a
// server that cannot do that keeps the old file, and the copy of it fails with `dest_exists`."
#[tokio::test]
async fn a_server_without_atomic_replacement_keeps_the_old_file_unless_told_otherwise() {
    let (mut ferry, source, destination) = ferry(&[("a", 10)]);
    destination.put("/in/a", b"old");
    destination.set_capabilities(Capabilities { atomic_replace: false, no_clobber: NoClobber::Checked, ..MemoryDestination::everything() });
    ferry.wishes.if_exists = IfExists::Replace;
    ferry.run(&["a"]).await.unwrap();
    let (kind, text, _) = ferry.records.kept(0).failed.unwrap();
    assert_eq!(kind, ErrorKind::DestExists);
    assert!(text.contains("replace-unsafe"), "the alternative is named: {text}");
    assert_eq!(destination.bytes("/in/a").unwrap(), b"old");

    ferry.wishes.if_exists = IfExists::ReplaceUnsafe;
    ferry.run(&["a"]).await.unwrap();
    assert_whole(&source, &destination, "a");
    only_finals(&destination);
}

// SEMANTICS S7: "A grade named with `--verify` is the least that is accepted: a stronger one satisfies it, and one that the
// server cannot give is refused before the first byte is sent."
#[tokio::test]
async fn every_grade_is_earned_or_refused() {
    let full = MemoryDestination::everything();
    let blind = Capabilities { read: false, hashes: vec![], ..full.clone() };
    let no_hash = Capabilities { hashes: vec![], ..full.clone() };
    for (capabilities, verify, size, expected) in [
        (&full, Verify::Auto, 100, Some(Grade::ServerHash)),
        (&no_hash, Verify::Auto, 100, Some(Grade::ReadBack)),
        (&no_hash, Verify::Auto, 30_000_000, Some(Grade::ReadBack)),
        (&no_hash, Verify::AtLeast(Grade::Sampled), 30_000_000, Some(Grade::Sampled)),
        (&no_hash, Verify::AtLeast(Grade::Acknowledged), 100, Some(Grade::Acknowledged)),
        (&no_hash, Verify::AtLeast(Grade::Size), 100, Some(Grade::Size)),
        (&no_hash, Verify::AtLeast(Grade::Size), 70_000_000, Some(Grade::Acknowledged)),
        (&blind, Verify::Auto, 100, Some(Grade::Acknowledged)),
        (&blind, Verify::AtLeast(Grade::ReadBack), 100, None),
        (&blind, Verify::AtLeast(Grade::ReadBack), 30_000_000, None),
    ] {
        let (mut ferry, source, destination) = ferry(&[("a", size)]);
        destination.set_capabilities(capabilities.clone());
        ferry.wishes.verify = verify;
        ferry.run(&["a"]).await.unwrap();
        let kept = ferry.records.kept(0);
        match expected {
            Some(grade) => {
                assert_eq!(
                    kept.finished.unwrap_or_else(|| panic!("{verify} {size}: {:?}", kept.failed)).delivery.unwrap().grade,
                    grade,
                    "{verify} {size}"
                );
                assert_whole(&source, &destination, "a");
            }
            None => {
                assert_eq!(kept.failed.unwrap().0, ErrorKind::DestDenied);
                assert_eq!(destination.accepted(), 0, "refused before the first byte");
            }
        }
    }
}

// SEMANTICS S12: "Bytes that a receipt counts as `bytes_resumed` were not sent again, and the digests of a resumed file are
// those of an uninterrupted one."
#[tokio::test]
async fn a_stopped_engine_goes_on_where_it_was() {
    let (mut ferry, source, destination) = ferry(&[("large", 60_000_000)]);
    ferry.tuning.bandwidth = Some(200 << 20).into();
    let stop = tokio_util::sync::CancellationToken::new();
    let meter = ferry.meter.clone();
    let stopper = {
        let stop = stop.clone();
        tokio::spawn(async move {
            while meter.snapshot().bytes_done < 20_000_000 {
                tokio::task::yield_now().await;
            }
            stop.cancel();
        })
    };
    let error = ferry.run_until(&["large"], &stop).await.unwrap_err();
    stopper.await.unwrap();
    assert_eq!(error.kind, ErrorKind::Cancelled);
    assert!(destination.bytes("/in/large").is_none(), "a final name holds the whole file or nothing new");
    let sent_before = destination.accepted();

    ferry.tuning.bandwidth = None.into();
    ferry.run(&["large"]).await.unwrap();
    assert_whole(&source, &destination, "large");
    only_finals(&destination);
    let delivery = ferry.records.kept(0).finished.unwrap().delivery.unwrap();
    assert!(delivery.bytes_resumed > 0, "nothing was resumed");
    assert!(destination.accepted() - sent_before <= 60_000_000 - delivery.bytes_resumed);
    assert_eq!(delivery.sha256.unwrap(), sha256(&source.bytes("large").unwrap()));
}

// SEMANTICS S13: "What a server confirmed and then lost, because it crashed before its disk had it, is found out before the
// file is published and is sent again."
#[tokio::test]
async fn a_server_that_loses_unsynced_data_is_found_out_on_resume() {
    let (ferry, source, destination) = ferry(&[("large", 60_000_000)]);
    let crash = {
        let (meter, destination) = (ferry.meter.clone(), destination.clone());
        tokio::spawn(async move {
            while meter.snapshot().bytes_done < 25_000_000 {
                tokio::task::yield_now().await;
            }
            destination.crash();
        })
    };
    ferry.run(&["large"]).await.unwrap();
    crash.await.unwrap();
    assert!(ferry.records.kept(0).finished.is_some(), "{:?}", ferry.records.kept(0).failed);
    assert_whole(&source, &destination, "large");
    only_finals(&destination);
}

#[tokio::test]
async fn a_full_destination_is_held_and_leaves_nothing_behind() {
    for size in [1_000_000, 60_000_000] {
        let (ferry, _, destination) = ferry(&[("a", size)]);
        destination.set_capacity(Some(500_000));
        ferry.run(&["a"]).await.unwrap();
        assert_eq!(ferry.records.kept(0).failed.unwrap().0, ErrorKind::DestNoSpace);
        assert!(destination.bytes("/in/a").is_none());
        only_finals(&destination);
    }
}

#[tokio::test]
async fn a_refusal_by_limit_never_fails_a_file() {
    let files: Vec<(String, usize)> = (0..40).map(|i| (format!("f{i}"), 300_000)).chain([("large".to_owned(), 70_000_000)]).collect();
    let list: Vec<(&str, usize)> = files.iter().map(|(k, s)| (k.as_str(), *s)).collect();
    let (mut ferry, source, destination) = ferry(&list);
    destination.limit_connections(Some(1));
    ferry.tuning.connections = Some(5);
    let keys: Vec<&str> = list.iter().map(|f| f.0).collect();
    ferry.run(&keys).await.unwrap();
    for key in keys {
        assert_whole(&source, &destination, key);
    }
}

#[tokio::test]
async fn the_gate_holds_a_verified_file_back() {
    let (ferry, _, destination) = ferry(&[("a", 10)]);
    *ferry.records.refuse_publish.lock().unwrap() = Some(ErrorKind::TicketInvalid);
    ferry.run(&["a"]).await.unwrap();
    assert!(destination.bytes("/in/a").is_none());
    assert_eq!(ferry.records.kept(0).failed.unwrap().0, ErrorKind::TicketInvalid);
}

/// Mutation: no checkpoint when the gate says no; then the last ranges are sent a second time.
#[tokio::test]
async fn what_the_gate_held_back_is_published_later_and_not_sent_again() {
    let (ferry, source, destination) = ferry(&[("large", 47_000_001)]);
    *ferry.records.refuse_publish.lock().unwrap() = Some(ErrorKind::WindowClosed);
    ferry.run(&["large"]).await.unwrap();
    assert!(destination.bytes("/in/large").is_none());
    let sent = destination.accepted();
    *ferry.records.refuse_publish.lock().unwrap() = None;
    ferry.run(&["large"]).await.unwrap();
    assert_whole(&source, &destination, "large");
    assert_eq!(destination.accepted(), sent, "what was proved is not sent again");
    only_finals(&destination);
}

#[tokio::test]
async fn in_place_is_only_used_when_asked_for_and_says_so() {
    let (mut ferry, source, destination) = ferry(&[("a", 10), ("b", 20_000_000)]);
    ferry.wishes.publish = Publish::InPlace;
    ferry.run(&["a", "b"]).await.unwrap();
    for (number, key) in ["a", "b"].iter().enumerate() {
        assert_whole(&source, &destination, key);
        assert_eq!(ferry.records.kept(number as u32).finished.unwrap().delivery.unwrap().mode, Publish::InPlace);
    }
}

/// As if the process of epoch 1 had been killed between intent and rename: the verified file has the temporary name of
/// `epoch`, and the records still name that of epoch 1.
async fn between_intent_and_rename(epoch: u32) -> (Ferry, MemorySource, MemoryDestination, Vec<RemotePath>) {
    let (ferry, source, destination) = ferry(&[("a", 1_000)]);
    ferry.run(&["a"]).await.unwrap();
    let delivery = *ferry.records.kept(0).finished.unwrap().delivery.unwrap();
    let path = ferry.path("a");
    let name = |epoch| ferry.temp_name.path(&path, &ferry.transfer, 1, FileNumber(0), 1, epoch).unwrap();
    let names: Vec<_> = (0..4).map(name).collect();
    let bytes = destination.take("/in/a").unwrap();
    destination.put(names[epoch as usize].as_str(), &bytes);
    let intent = Intent { temp: names[1].clone(), path: path.clone(), delivery };
    let kept = Kept { attempt: 1, intent: Some(intent), ..Kept::default() };
    ferry.records.files.lock().unwrap().insert(FileNumber(0), kept);
    (ferry, source, destination, names)
}

#[tokio::test]
async fn a_verified_file_is_found_under_whatever_epoch_a_killed_take_over_left_it() {
    for killed in [1, 2] {
        let (ferry, source, destination, _) = between_intent_and_rename(killed).await;
        *ferry.records.epoch.lock().unwrap() = 2;
        ferry.run(&["a"]).await.unwrap();
        // It was reported as collected, with nothing under its name.
        assert_eq!(ferry.records.kept(0).finished.expect("it is found").state, FileState::Delivered);
        assert_whole(&source, &destination, "a");
        only_finals(&destination);
    }
}

#[tokio::test]
async fn who_lost_the_lease_leaves_the_successor_what_the_records_name() {
    let (ferry, _, destination, names) = between_intent_and_rename(1).await;
    *ferry.records.epoch.lock().unwrap() = 0;
    let (engine, epoch) = ferry.engine(&tokio_util::sync::CancellationToken::new());
    assert_eq!(epoch, 1);
    let feed = ferry.feed(&["a"], engine.small_up_to()).await;
    *ferry.records.epoch.lock().unwrap() = 2;
    assert_eq!(engine.run(feed).await.unwrap_err().kind, ErrorKind::LeaseLost);
    assert!(destination.bytes(names[1].as_str()).is_some(), "the successor would think that it was published");
    assert!(destination.bytes("/in/a").is_none());
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(bytes))
}

// Mutation: what this process created in place is not overwritten by it.
#[tokio::test]
async fn a_cut_copy_in_place_goes_on_in_the_same_run() {
    for streams in [false, true] {
        for policy in [IfExists::Fail, IfExists::Skip] {
            for size in [1000, 12_000_000] {
                let (mut ferry, source, destination) = ferry(&[("a", size)]);
                let everything = MemoryDestination::everything();
                destination.set_capabilities(Capabilities {
                    offset_writes: !streams,
                    confirms_writes: !streams,
                    continues: streams,
                    ..everything
                });
                ferry.wishes.publish = Publish::InPlace;
                ferry.wishes.if_exists = policy;
                ferry.connector = Arc::new(Failing::new(ferry.connector.clone(), 0, Break::Lost).only("write"));
                ferry.run(&["a"]).await.unwrap();
                let kept = ferry.records.kept(0);
                assert_eq!(kept.finished.map(|f| f.state), Some(FileState::Delivered), "{streams} {policy} {size}: {:?}", kept.failed);
                assert_whole(&source, &destination, "a");
            }
        }
    }
}

/// Files get their names only while the next one is being read.
#[derive(Debug)]
struct Overlap {
    source: MemorySource,
    destination: MemoryDestination,
}

#[async_trait]
impl Connector for Overlap {
    fn endpoint(&self) -> &model::Endpoint {
        self.destination.endpoint()
    }

    async fn connect(&self) -> transfer::Result<Box<dyn Connection>> {
        let tap = Overlap { source: self.source.clone(), destination: self.destination.clone() };
        Ok(Box::new(Tapped::new(self.destination.connect().await?, Arc::new(tap))))
    }
}

impl Tap for Overlap {
    const EVERY_FINISH: bool = false;

    async fn call<T: Send>(&self, name: &'static str, operation: impl Future<Output = transfer::Result<T>> + Send) -> transfer::Result<T> {
        while name == "rename" && !self.source.reads().iter().any(|(key, _)| key == "b") {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        operation.await
    }
}

// Mutation: `read_all` keeps the turn of the file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_large_file_is_read_while_the_last_one_is_still_on_its_way() {
    let (mut ferry, source, destination) = ferry(&[("a", 20_000_000), ("b", 20_000_000)]);
    ferry.connector = Arc::new(Overlap { source: source.clone(), destination: destination.clone() });
    ferry.tuning.transfers = 1;
    tokio::time::timeout(std::time::Duration::from_secs(20), ferry.run(&["a", "b"])).await.expect("it ends").unwrap();
    assert_whole(&source, &destination, "a");
    assert_whole(&source, &destination, "b");
}

// Mutation: `parallel_from` knows one size.
#[tokio::test]
async fn a_file_of_some_mib_uses_all_of_many_connections() {
    let (mut ferry, source, destination) = ferry(&[("a", 20_000_000)]);
    ferry.tuning.connections = Some(4);
    ferry.run(&["a"]).await.unwrap();
    assert_whole(&source, &destination, "a");
    assert_eq!(ferry.records.kept(0).finished.unwrap().delivery.unwrap().connections, 4);
}

/// The largest piece that was read of files of this size over this many connections, with room for 32 MiB in memory.
async fn largest_read(files: usize, size: usize, connections: usize) -> u64 {
    let names: Vec<String> = (0..files).map(|number| number.to_string()).collect();
    let named: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), size)).collect();
    let (mut ferry, source, destination) = ferry(&named);
    ferry.tuning.connections = Some(connections);
    let keys: Vec<&str> = names.iter().map(String::as_str).collect();
    ferry.run(&keys).await.unwrap();
    keys.iter().for_each(|key| assert_whole(&source, &destination, key));
    source.reads().into_iter().map(|(_, range)| range.end - range.start).max().unwrap()
}

/// Many connections are what a far server gets. Mutations: the ranges of many files are those of one (`RANGES_PER_FILE` 1, or
/// no share at all).
#[tokio::test]
async fn files_that_share_a_far_line_have_ranges_that_find_room_in_memory_together() {
    let (size, files, budget) = (20 << 20, 5, 32 << 20);
    let near = largest_read(files as usize, size, 2).await;
    let far = largest_read(files as usize, size, 4).await;
    // Of each one range is sent, one is proved or waits, and one is being read.
    assert!(files * 3 * far <= budget, "{far} bytes of each of {files} files at once are more than {budget}");
    assert!(files * 3 * near > budget, "a near server's ranges are larger, which costs fewer requests: {near}");
    assert!(far >= 1 << 20, "smaller ones cost more requests than they fill the line: {far}");
    // One file that has the line for itself, over all connections.
    let alone = largest_read(1, 80 << 20, 4).await;
    assert!(alone >= 1 << 20 && 4 * 4 * alone <= budget, "{alone}");
}
