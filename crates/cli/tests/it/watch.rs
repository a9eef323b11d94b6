//! `watch`: each version once, whatever happens to the process, the store or the partner in between.

use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use testkit::s3::{Fault, Operation as Asked, S3Error};
use testkit::sftp::{NameEventKind, SftpServer};

use super::shop::*;
use super::*;

/// Every content that ever got a final name, in order.
pub type Arrivals = Arc<Mutex<Vec<(String, String)>>>;

pub fn arrivals(server: &SftpServer) -> Arrivals {
    let seen = Arrivals::default();
    let noted = seen.clone();
    server.watch(move |event| {
        let name = event.path.rsplit('/').next().unwrap().to_owned();
        if event.kind != NameEventKind::Removed && event.path.starts_with("/in/") && !name.starts_with(".ff-") {
            let content = std::fs::read_to_string(&event.file).unwrap();
            noted.lock().unwrap().push((name, content));
        }
    });
    seen
}

pub fn counted(seen: &Arrivals) -> BTreeMap<(String, String), usize> {
    let mut counts = BTreeMap::new();
    for arrival in seen.lock().unwrap().iter() {
        *counts.entry(arrival.clone()).or_default() += 1;
    }
    counts
}

fn watching(shop: &Shop, partner: &Partner, more: &[&str]) -> Command {
    let settle: &[&str] = if more.contains(&"--settle") { &[] } else { &["--settle", "0ms"] };
    let every: &[&str] = if more.contains(&"--every") { &[] } else { &["--every", "100ms"] };
    let mut arguments = partner.arguments("s3://b/p/", &[every, &["--if-exists", "replace"], settle, more].concat());
    arguments[0] = "watch";
    let endpoint = shop.server.endpoint();
    arguments.extend(["--s3-endpoint", &endpoint]);
    let mut command = shop.command(&arguments);
    command.env("FILEFERRY_TEST_LEASE_MS", "3000");
    command
}

pub fn stopped(child: Child) -> Ran {
    signal(child.id(), "TERM");
    ended(child)
}

// SEMANTICS S41: "A watch delivers each version of an object that it sees exactly once, unless a newer one was delivered first; within
// one second that cannot be told. A kill at any moment, and the start after it, lose nothing and double nothing."
#[tokio::test(flavor = "multi_thread")]
async fn each_version_arrives_exactly_once_through_kills_at_any_moment() {
    let (shop, server) = (shop().await, SftpServer::builder().start().await.unwrap());
    let partner = sandbox(&server);
    shop.bucket.versioning(true);
    let seen = arrivals(&server);
    let mut wanted = Vec::new();
    let put = |wanted: &mut Vec<(String, String)>, round: u32, name: String| {
        let content = format!("{name} of round {round}");
        shop.bucket.put(&format!("p/{name}"), content.as_str());
        wanted.push((name, content));
    };
    let arrived = |wanted: &[(String, String)]| {
        let there = counted(&seen);
        let done = there.iter().filter(|((name, _), _)| name.ends_with(".done")).map(|(_, count)| count).sum::<usize>();
        wanted.iter().all(|one| there.contains_key(one)) && done >= wanted.len()
    };
    // Places of the kills that are the same in every run and different in every round.
    let mut chance = 7u64;
    for round in 0..3 {
        for index in 0..20 {
            put(&mut wanted, round, format!("{round}-{index}"));
        }
        // Overwritten when the version before has arrived, and one is taken away that has.
        if round > 0 {
            (0..5).for_each(|index| put(&mut wanted, round, format!("{}-{index}", round - 1)));
            shop.bucket.delete(&format!("p/{}-19", round - 1));
        }
        for _ in 0..4 {
            let child = shop.start(watching(&shop, &partner, &["--sidecar", "done"]));
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            std::thread::sleep(Duration::from_millis(60 + (chance >> 33) % 400));
            signal(child.id(), "KILL");
            assert!(child.wait_with_output().unwrap().status.code().is_none());
        }
        let listed = shop.server.requests_for(Asked::ListObjects).len();
        let child = shop.start(watching(&shop, &partner, &["--sidecar", "done"]));
        // Everything may have arrived before the kills; a signal must find the program listening.
        wait_until("the round's arrival", || arrived(&wanted) && shop.server.requests_for(Asked::ListObjects).len() > listed + 1);
        let ran = stopped(child);
        assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    }
    let there = counted(&seen);
    for one in &wanted {
        assert_eq!(there.get(one), Some(&1), "{one:?}");
    }
    let done = there.iter().filter(|((name, _), _)| name.ends_with(".done"));
    assert_eq!(done.map(|(_, count)| count).sum::<usize>(), wanted.len(), "{there:?}");
    assert_eq!(there.values().sum::<usize>(), 2 * wanted.len());
    let names = files_below(&server.file("/in"));
    assert!(names.keys().all(|name| !name.starts_with(b".ff-")), "{:?}", names.keys());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_fails_keeps_no_other_waiting_and_is_told_once() {
    let (shop, server) = (shop().await, SftpServer::builder().start().await.unwrap());
    let partner = sandbox(&server);
    let seen = arrivals(&server);
    std::fs::create_dir(server.file("/in/taken")).unwrap();
    shop.bucket.put("p/taken", "x");
    shop.bucket.put("p/a", "a");
    let child = shop.start(watching(&shop, &partner, &[]));
    wait_until("the first", || !seen.lock().unwrap().is_empty());
    shop.bucket.put("p/b", "b");
    wait_until("the second", || seen.lock().unwrap().len() == 2);
    std::thread::sleep(Duration::from_millis(500));
    // What failed for good is tried again when it changes.
    std::fs::remove_dir(server.file("/in/taken")).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(seen.lock().unwrap().len(), 2);
    shop.bucket.put("p/taken", "y");
    wait_until("the third", || seen.lock().unwrap().len() == 3);
    let ran = stopped(child);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert_eq!(ran.failed(), [("p/taken".to_owned(), "dest_exists".to_owned())], "{}", ran.out);
    let last = ran.objects().into_iter().rfind(|line| line["type"] == "watch").unwrap();
    assert_eq!((last["state"].as_str(), last["delivered"].as_u64()), (Some("stopped"), Some(3)), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn outages_and_a_refused_login_are_waited_out() {
    let (shop, server) = (shop().await, SftpServer::builder().start().await.unwrap());
    let partner = sandbox(&server);
    let seen = arrivals(&server);
    shop.bucket.put("p/a", "a");
    let outage = shop.server.faults().add(Fault::error(S3Error::access_denied()).operation(Asked::ListObjects));
    let child = shop.start(watching(&shop, &partner, &[]));
    wait_until("a round in the outage", || outage.hits() >= 2);
    outage.remove();
    wait_until("the arrival", || seen.lock().unwrap().len() == 1);
    let ran = stopped(child);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    let states: Vec<_> =
        ran.objects().into_iter().filter(|l| l["type"] == "watch").map(|l| l["state"].as_str().unwrap().to_owned()).collect();
    assert_eq!(states, ["watching", "waiting", "watching", "stopped"], "{}", ran.err);

    // A password that the partner refuses is tried once; the watch waits for another one.
    shop.bucket.put("p/b", "b");
    let password = shop.home.write("password", "wrong");
    let to = Partner {
        url: partner.url.clone(),
        flags: vec!["--host-key".into(), server.host_key_fingerprint(), "--password-from".into(), format!("file:{}", text(&password))],
    };
    let before = server.recorder().attempts.credentials();
    let child = shop.start(watching(&shop, &to, &[]));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(server.recorder().attempts.credentials() - before, 1);
    shop.home.write("password", server.password());
    wait_until("the arrival", || seen.lock().unwrap().len() == 2);
    assert_eq!(stopped(child).code, 0);
}

/// Mutations: the round counts as well although nothing reached the partner; each file keeps its own pause.
#[tokio::test(flavor = "multi_thread")]
async fn a_partner_that_no_file_of_a_round_reaches_is_waited_for_once_and_not_by_each_file() {
    let (shop, server) = (shop().await, SftpServer::builder().start().await.unwrap());
    let partner = sandbox(&server);
    let seen = arrivals(&server);
    server.change(|behaviour| behaviour.refuses_connections = true);
    shop.bucket.put("p/a", "a");
    shop.bucket.put("p/b", "b");
    let mut child = shop.start(watching(&shop, &partner, &["--every", "500ms", "--retries", "1"]));
    let (pid, over) = (child.id(), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let watched = over.clone();
    std::thread::spawn(move || {
        // A line that never comes ends the test, too.
        std::thread::sleep(Duration::from_secs(45));
        if !watched.load(std::sync::atomic::Ordering::SeqCst) {
            signal(pid, "KILL");
        }
    });
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || {
        let mut told = lines.by_ref().map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap());
        told.find(|line| line["type"] == "watch").expect("the watch goes on")
    };
    assert_eq!(next()["state"], "watching");
    let waiting = next();
    assert_eq!(waiting["state"], "waiting", "{waiting}");
    let reason = waiting["waiting_for"].as_str().unwrap();
    assert!(reason.contains(&server.address().port().to_string()), "{waiting}");
    let begin = std::time::Instant::now();
    server.change(|behaviour| behaviour.refuses_connections = false);
    wait_until("both arrivals", || seen.lock().unwrap().len() == 2);
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    let well = next();
    assert_eq!((&well["state"], &well["waiting_for"]), (&serde_json::json!("watching"), &serde_json::Value::Null), "{well}");
    signal(child.id(), "TERM");
    assert_eq!(next()["state"], "stopped");
    let status = child.wait().unwrap();
    over.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_watch_of_the_same_pair_names_the_first_and_cron_takes_one_round() {
    let (shop, server) = (shop().await, SftpServer::builder().start().await.unwrap());
    let partner = sandbox(&server);
    shop.bucket.put("p/a", "a");
    let seen = arrivals(&server);
    let first = shop.start(watching(&shop, &partner, &[]));
    wait_until("the arrival", || seen.lock().unwrap().len() == 1);
    let second = ended(shop.start(watching(&shop, &partner, &[])));
    assert_eq!(second.code, 5, "{}", second.err);
    assert!(second.err.contains(&format!("process {} is watching", first.id())), "{}", second.err);
    assert_eq!(stopped(first).code, 0);

    shop.bucket.put("p/b", "b");
    let once = ended(shop.start(watching(&shop, &partner, &["--once"])));
    assert_eq!((once.code, seen.lock().unwrap().len()), (0, 2), "{}{}", once.out, once.err);
    let begin = std::time::Instant::now();
    let idle = ended(shop.start(watching(&shop, &partner, &["--once"])));
    assert_eq!((idle.code, seen.lock().unwrap().len()), (0, 2), "{}{}", idle.out, idle.err);
    assert!(idle.objects().iter().all(|line| line["type"] == "watch") && begin.elapsed() < Duration::from_secs(10));
    // What has just changed is left for the next round.
    shop.bucket.put("p/c", "c");
    let settling = ended(shop.start(watching(&shop, &partner, &["--once", "--settle", "1h"])));
    let told = settling.objects().pop().unwrap();
    assert_eq!((settling.code, told["settling"].as_u64(), seen.lock().unwrap().len()), (0, Some(1), 2), "{told}");
    for more in [["--dry-run"], ["--resend"], ["--attach"]] {
        assert_eq!(ended(shop.start(watching(&shop, &partner, &more))).code, 1);
    }
}
