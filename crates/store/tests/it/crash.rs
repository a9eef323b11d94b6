//! Processes that die, and processes that write at the same time.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use store::{Mutation, Store};

use crate::{at, id, transfer};

const FILE: &str = "STORE_TEST_FILE";
const FIRST: &str = "STORE_TEST_FIRST";
const LANES: u8 = 4;

/// What the children of the tests below do; without their setting it is nothing. Each lane counts up the total of its
/// own transfer and says a number once its commit was answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_counts_up() {
    let Some(file) = std::env::var_os(FILE) else { return };
    let first: u8 = std::env::var(FIRST).unwrap().parse().unwrap();
    let store = Store::open(file).await.unwrap();
    let lanes: Vec<_> = (first..first + LANES)
        .map(|lane| {
            let store = store.clone();
            tokio::spawn(async move {
                let from = store.transfer(&id(lane)).await.unwrap().unwrap().files_total;
                for files_total in from + 1..from + 20_000 {
                    let totals = Mutation::SetTransferTotals { transfer: id(lane), files_total, bytes_total: 0, listed: false, at: at(0) };
                    store.commit(totals).await.unwrap();
                    println!("\nack {lane} {files_total}");
                }
            })
        })
        .collect();
    for lane in lanes {
        lane.await.unwrap();
    }
}

fn spawn(file: &Path, first: u8) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child_that_counts_up", "--nocapture", "--test-threads=1"])
        .env(FILE, file)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    (child, stdout)
}

/// Reads until `enough` numbers were said, kills, and reads what had still been said. The highest number of each lane.
fn kill_after(mut child: Child, stdout: BufReader<ChildStdout>, enough: usize) -> BTreeMap<u8, u64> {
    let (mut said, mut count) = (BTreeMap::new(), 0);
    for line in stdout.lines() {
        let line = line.unwrap_or_default();
        let mut words = line.split(' ');
        if words.next() == Some("ack") {
            let (Some(lane), Some(Ok(number))) = (words.next(), words.next().map(str::parse)) else { continue };
            said.insert(lane.parse().unwrap(), number);
            count += 1;
            if count == enough {
                child.kill().unwrap();
            }
        }
    }
    child.wait().unwrap();
    assert!(count >= enough, "the child ended by itself after {count}");
    said
}

async fn with_transfers(file: &Path, count: u8) {
    let store = Store::open(file).await.unwrap();
    for n in 0..count {
        store.commit(Mutation::CreateTransfer(transfer(n))).await.unwrap();
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn every_answered_commit_is_there_after_fifty_kills() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    with_transfers(&file, LANES).await;
    for round in 0..50 {
        let (child, stdout) = spawn(&file, 0);
        let said = kill_after(child, stdout, 1 + round * 7 % 40);
        let store = Store::open(&file).await.unwrap();
        for (lane, number) in said {
            let stored = store.transfer(&id(lane)).await.unwrap().unwrap().files_total;
            // One commit a lane may have been made and not yet said.
            assert!(stored == number || stored == number + 1, "round {round}, lane {lane}: said {number}, stored {stored}");
        }
        store.integrity_check().await.unwrap();
    }
}

#[tokio::test]
async fn two_processes_write_to_one_file_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.db");
    with_transfers(&file, 2 * LANES + 1).await;
    let store = Store::open(&file).await.unwrap();
    let children = [spawn(&file, 0), spawn(&file, LANES)];
    let readers = children.map(|(child, stdout)| std::thread::spawn(move || kill_after(child, stdout, 400)));
    // And this process is a third, as long as the others live.
    let mut bytes_total = 0;
    while !readers.iter().all(|reader| reader.is_finished()) {
        bytes_total += 1;
        let own = Mutation::SetTransferTotals { transfer: id(2 * LANES), files_total: 0, bytes_total, listed: false, at: at(0) };
        store.commit(own).await.unwrap();
    }
    assert_eq!(store.transfer(&id(2 * LANES)).await.unwrap().unwrap().bytes_total, bytes_total);
    for reader in readers {
        for (lane, number) in reader.join().unwrap() {
            assert!(store.transfer(&id(lane)).await.unwrap().unwrap().files_total >= number, "lane {lane}");
        }
    }
    store.integrity_check().await.unwrap();
}
