//! What happens to the service's work when its process stands still and when its records cannot be written: E2 and E4 of
//! the fault list.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use model::FileNumber;
use store::Store;
use testkit::disk::SmallDisk;
use testkit::sftp::SftpServer;
use testkit::sshd::SshdOptions;

use super::service::{Served, connect, done, id_of, partner, serving, state};
use super::shop::{Shop, files_below, shop, signal, wait_until};
use super::sites;
use super::*;

const MIB: u64 = 1 << 20;
/// A write-ahead log that was never begun anew is shorter, and one that is full takes nothing more.
const LOG: u64 = 1_000 * 4_120;

fn content(size: u64) -> Vec<u8> {
    (0..size as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn data(shop: &Shop) -> PathBuf {
    shop.home.state().join("service")
}

fn serve(shop: &Shop) -> Served {
    serving(shop.command(&["serve", "-vv"]), |_| {})
}

fn submit(shop: &Shop, key: &str) -> Ran {
    shop.run(&["transfer", "submit", &format!("orders:out/{key}"), "partner"])
}

/// Nothing but whole files, each once, with one receipt.
fn assert_delivered(shop: &Shop, server: &SftpServer, wanted: &[(&str, &str, &[u8])]) {
    let there = files_below(&server.file("/in"));
    assert_eq!(there.len(), wanted.len(), "{:?}", there.keys());
    for (id, name, content) in wanted {
        assert!(there[name.as_bytes()] == *content, "{name} is not whole");
        assert_eq!(done(shop.run(&["transfer", "receipt", id])).out.lines().count(), 1, "{name}");
    }
}

// E2. Mutations: `serve` takes no lock; a lease that is over counts as lost although nobody has taken it (`leases::check`, `renew`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_stood_still_past_its_lease_goes_on_alone() {
    let shop = shop().await;
    let content = content(24 * MIB);
    shop.bucket.put("out/big", content.clone());
    shop.server.set_bandwidth(Some(8 * MIB));
    let Some(site) = sites::openssh(SshdOptions::default()).await else { return };
    let notices = shop.home.path("notices");
    let mut command = shop.command(&["serve", "-vv", "--notices", text(&notices)]);
    command.env("FILEFERRY_TEST_LEASE_MS", "900");
    let service = serving(command, |_| {});
    let trust: Vec<&str> = site.trust.iter().map(String::as_str).collect();
    done(shop.run(&[&["connector", "add", "partner", &site.url, "--allow-private"], &trust[..]].concat()));
    let endpoint = shop.server.endpoint();
    done(shop.run(&["source", "add", "orders", "s3://b/out/", "--s3-endpoint", &endpoint, "--s3-region", "us-east-1"]));
    let id = id_of(&done(submit(&shop, "big")));
    wait_until("a part of it", || shop.server.bytes_served("out/big") > 8 * MIB);

    let pid = service.child.id();
    signal(pid, "STOP");
    // A second one must not take over what the first may still be writing, however long that has said nothing.
    let until = Instant::now() + Duration::from_millis(2_500);
    while Instant::now() < until {
        let second = shop.run(&["serve"]);
        assert_eq!(second.code, 5, "{}{}", second.out, second.err);
        assert!(second.err.contains(&pid.to_string()), "{}", second.err);
        std::thread::sleep(Duration::from_millis(200));
    }
    signal(pid, "CONT");
    shop.server.set_bandwidth(None);
    done(shop.run(&["transfer", "watch", &id]));
    assert_eq!(state(&shop, &id)["state"], "completed");
    let there = files_below(&site.disk);
    assert_eq!(there.len(), 1, "{:?}", there.keys());
    assert!(there[b"big".as_slice()] == content);
    let store = Store::open(data(&shop).join("fileferry.db")).await.unwrap();
    let file = store.file(&id.parse().unwrap(), FileNumber(0)).await.unwrap().unwrap();
    assert_eq!(file.epoch, 1, "nobody had taken the lease that was over: it went on under it");
    store.close().await.unwrap();
    assert_eq!(done(shop.run(&["transfer", "receipt", &id])).out.lines().count(), 1);
    wait_until("the notice", || std::fs::read_to_string(&notices).is_ok_and(|text| text.contains(&id)));
    assert_eq!(std::fs::read_to_string(&notices).unwrap().lines().count(), 1);
}

// SEMANTICS S80: "While the records of the service cannot be written it refuses new work and says why, publishes nothing that is
// not on record, and goes on by itself when they can."
// E4. Mutations: `Stopped::fault` makes no `Transient` of what is for now (it ends `held`); the engine gives a file up for it
// (`concerns_all`); `status_of` alone decides the status.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_under_the_service_refuses_new_work_and_holds_running_work_up() {
    let shop = shop().await;
    let Some(disk) = SmallDisk::mount(&shop.home.path("state"), 24) else { return };
    let content = content(24 * MIB);
    shop.bucket.put("out/big", content.clone());
    shop.bucket.put("out/late", b"late".to_vec());
    // So slow that the disk is full long before the end, also on a machine that has other things to do.
    shop.server.set_bandwidth(Some(2 * MIB));
    let service = serve(&shop);
    let server = partner(&shop).await;
    connect(&shop, &server, &[]);
    let id = id_of(&done(submit(&shop, "big")));
    // Ranges are read side by side: so much is there that some of them are whole and on record.
    wait_until("a part of it", || server.recorder().bytes_written() > 14 * MIB);

    let log = std::fs::metadata(data(&shop).join("fileferry.db-wal")).unwrap().len();
    assert!(log < LOG, "a log of {log} bytes has room of its own");
    disk.fill();
    let refused = submit(&shop, "late");
    assert_eq!(refused.code, 2, "{}{}", refused.out, refused.err);
    assert!(refused.err.contains("full") && refused.err.contains("next: free space on the disk"), "{}", refused.err);
    shop.server.set_bandwidth(None);
    wait_until("it stands still and says so", || service.said().contains("the records cannot be written"));
    let there = files_below(&server.file("/in"));
    assert!(there.keys().all(|name| name.starts_with(b".ff-")), "what is not on record is not published: {:?}", there.keys());
    assert_eq!(state(&shop, &id)["state"], "in_progress");
    assert_eq!(submit(&shop, "late").code, 2, "{}", service.said());

    disk.free();
    let watched = shop.run(&["transfer", "watch", &id]);
    assert_eq!(watched.code, 0, "{}{}\n{}", watched.out, watched.err, service.said());
    let late = id_of(&done(submit(&shop, "late")));
    done(shop.run(&["transfer", "watch", &late]));
    assert_delivered(&shop, &server, &[(&id, "big", &content), (&late, "late", b"late")]);
    assert!(service.said().contains("the records can be written again"));
    let written = server.recorder().bytes_written();
    assert!(written < 24 * MIB + 20 * MIB, "{written} bytes were written for {}", 24 * MIB);
}

// E4. Mutation: `ServerLock::take` or `Store::open` does not name the cause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_that_is_read_only_is_named_at_the_start_and_nothing_is_lost_by_it() {
    let shop = shop().await;
    let Some(disk) = SmallDisk::mount(&shop.home.path("state"), 24) else { return };
    shop.bucket.put("out/a", b"one".to_vec());
    shop.server.set_bandwidth(Some(1));
    let mut service = serve(&shop);
    let server = partner(&shop).await;
    connect(&shop, &server, &[]);
    let id = id_of(&done(submit(&shop, "a")));
    signal(service.child.id(), "KILL");
    service.child.wait().unwrap();
    drop(service);
    disk.set_read_only(true);
    let refused = shop.run(&["serve"]);
    assert_eq!(refused.code, 2, "{}{}", refused.out, refused.err);
    assert!(refused.err.to_lowercase().contains("read-only"), "{}", refused.err);
    assert!(refused.err.contains("next: make the state directory writable"), "{}", refused.err);
    disk.set_read_only(false);
    shop.server.set_bandwidth(None);
    let _again = serve(&shop);
    done(shop.run(&["transfer", "watch", &id]));
    assert_delivered(&shop, &server, &[(&id, "a", b"one")]);
}

/// Another process that has the state file for itself.
fn locked(file: &Path, seconds: f64) -> Child {
    let script = "import sqlite3, sys, time\n\
        held = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)\n\
        held.execute('BEGIN EXCLUSIVE')\n\
        print('locked', flush=True)\n\
        time.sleep(float(sys.argv[2]))\n\
        held.execute('ROLLBACK')\n";
    let mut command = Command::new("python3");
    command.args(["-c", script, text(file), &seconds.to_string()]).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "locked\n");
    child
}

// E4. Mutation: the store waits for nobody (`busy_limit` is zero).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_are_locked_for_ten_seconds_delay_work_and_fail_none() {
    let shop = shop().await;
    let content = content(24 * MIB);
    shop.bucket.put("out/big", content.clone());
    shop.bucket.put("out/late", b"late".to_vec());
    shop.server.set_bandwidth(Some(6 * MIB));
    let _service = serve(&shop);
    let server = partner(&shop).await;
    connect(&shop, &server, &[]);
    let id = id_of(&done(submit(&shop, "big")));
    wait_until("a part of it", || shop.server.bytes_served("out/big") > 8 * MIB);
    let mut other = locked(&data(&shop).join("fileferry.db"), 10.0);
    shop.server.set_bandwidth(None);
    let begun = Instant::now();
    assert_eq!(state(&shop, &id)["state"], "in_progress", "what is there can be read");
    let late = id_of(&done(submit(&shop, "late")));
    assert!(begun.elapsed() > Duration::from_secs(5), "it did not wait for the other process");
    assert!(files_below(&server.file("/in")).keys().all(|name| name.starts_with(b".ff-")) || other.try_wait().unwrap().is_some());
    for id in [&id, &late] {
        done(shop.run(&["transfer", "watch", id]));
    }
    assert!(other.wait().unwrap().success());
    assert_delivered(&shop, &server, &[(&id, "big", &content), (&late, "late", b"late")]);
}

/// Runs this on the state file, which nobody has open.
fn changed(file: &Path, sql: &str) {
    let script = "import sqlite3, sys\nsqlite3.connect(sys.argv[1]).executescript(sys.argv[2])\n";
    let done = Command::new("python3").args(["-c", script, text(file), sql]).status().unwrap();
    assert!(done.success());
}

// SEMANTICS S55: "A state file that a newer version wrote is refused and not touched; one of an older version goes on with its rows."
// E8. Mutations: `migrate_along` sets the version alone; `check_against` lets a higher version pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_the_version_before_go_on_with_what_was_under_way_and_newer_ones_are_left_alone() {
    let shop = shop().await;
    let content = content(24 * MIB);
    shop.bucket.put("out/big", content.clone());
    shop.server.set_bandwidth(Some(8 * MIB));
    let mut service = serve(&shop);
    let server = partner(&shop).await;
    connect(&shop, &server, &[]);
    let id = id_of(&done(submit(&shop, "big")));
    wait_until("a part of it", || shop.server.bytes_served("out/big") > 10 * MIB);
    service.child.kill().unwrap();
    service.child.wait().unwrap();
    let file = data(&shop).join("fileferry.db");
    // As the version before has left it, in the middle of a transfer: events one by one, and nothing of what schema 4 has added.
    let before = "INSERT INTO history
            SELECT place >> 24, json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), json_extract(value, '$[3]')
            FROM steps, json_each(events);
        DROP TABLE steps; DROP TABLE audit; DROP TABLE audit_heads; DROP TABLE seals; DROP TABLE user_contexts;
        PRAGMA user_version = 3;";
    changed(&file, before);
    std::fs::remove_file(data(&shop).join("audit-seals.jsonl")).unwrap();
    shop.server.set_bandwidth(None);
    let service = serve(&shop);
    done(shop.run(&["transfer", "watch", &id]));
    assert_delivered(&shop, &server, &[(&id, "big", &content)]);
    let shown = state(&shop, &id);
    assert_eq!((&shown["run"], &shown["state"]), (&1.into(), &"completed".into()), "the same execution has gone on: {shown}");
    let history = done(shop.run(&["workflow", "show", &id, "--events"])).out;
    assert!(history.contains("ExecutionStarted") && history.contains("ExecutionSucceeded"), "{history}");
    // The chain begins in the middle, and is whole from there.
    let shown = done(shop.run(&["audit", "show", &id])).objects();
    assert!(shown.iter().all(|entry| entry["event"] != "requested") && shown.iter().any(|entry| entry["event"] == "file"), "{shown:?}");
    done(shop.run(&["audit", "verify"]));
    signal(service.child.id(), "TERM");
    drop(service);

    changed(&file, "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA user_version = 99;");
    let before = std::fs::read(&file).unwrap();
    let refused = shop.run(&["serve"]);
    assert!(refused.code != 0 && refused.err.contains("a newer FileFerry wrote it"), "{}{}", refused.out, refused.err);
    assert!(std::fs::read(&file).unwrap() == before, "it was touched");
}
