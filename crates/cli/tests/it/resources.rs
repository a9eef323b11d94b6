//! J1: what happens when this machine has little: memory for a long listing, disk for the records, descriptors.

use std::process::Stdio;
use std::time::{Duration, Instant};

use testkit::disk::SmallDisk;
use testkit::machine::processor_seconds;
use testkit::s3::{Content, Effect, Fault};
use testkit::sftp::SftpServer;

use super::shop::*;

const MIB: u64 = 1 << 20;

/// A bucket of a million keys of 200 bytes.
fn million(shop: &Shop) {
    let prefix = "p".repeat(192);
    shop.server.synthetic_bucket("million", 1_000_000, move |index| (format!("{prefix}/{index:07}"), index));
}

/// Lists that bucket until `pages` pages were asked for or the listing is over. Returns the highest resident size in
/// bytes when an eighth of the pages was asked for and at the end, and the pages.
fn memory_of_a_listing(shop: &Shop, pages: u64) -> (u64, u64, u64) {
    let mut command = shop.command(&["copy", "s3://million/", &shop.out(), "--dry-run"]);
    let output = std::fs::File::create(shop.home.path("output")).unwrap();
    let mut child = command.stdout(output).stderr(Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    let (mut early, mut highest) = (0, 0);
    while child.try_wait().unwrap().is_none() {
        let asked = shop.server.request_count();
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        if let Some(line) = status.lines().find(|line| line.starts_with("VmHWM:")) {
            highest = line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10;
        }
        if asked <= pages / 8 {
            early = highest;
        }
        if asked > pages {
            child.kill().unwrap();
        }
        assert!(begin.elapsed() < Duration::from_secs(300), "the listing does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    (early, highest, shop.server.request_count())
}

// Mutation: the dry run keeps every object (`dry_run::dry_run`), or the listing every page.
#[tokio::test(flavor = "multi_thread")]
async fn the_listing_of_a_million_keys_takes_the_memory_of_a_few_pages() {
    let shop = shop().await;
    million(&shop);
    let (early, highest, pages) = memory_of_a_listing(&shop, 40);
    assert!(pages > 40 && early > 0);
    assert!(highest < 64 * MIB, "{} MiB after {pages} pages", highest / MIB);
    assert!(highest - early < 8 * MIB, "{} KiB at page 5 and {} KiB at page 40", early >> 10, highest >> 10);
}

// Mutation: as above.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "lists all of a million keys, which takes minutes"]
async fn a_million_keys_to_the_end_take_less_than_64_mib() {
    let shop = shop().await;
    million(&shop);
    let (_, highest, pages) = memory_of_a_listing(&shop, 1_000);
    let lines = std::fs::read_to_string(shop.home.path("output")).unwrap();
    let plan: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!((plan["files"].as_u64(), pages), (Some(1_000_000), 1_000));
    eprintln!("{:.1} MiB at most", highest as f64 / MIB as f64);
    assert!(highest < 64 * MIB, "{} MiB", highest / MIB);
}

// Mutation: a checkpoint or a result that cannot be stored is ignored before the rename (`FileRun::rename`), or is
// tried again without a pause (`Work::keep`).
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_for_the_records_stops_before_publishing_without_spinning_and_goes_on_later() {
    let shop = shop().await;
    let Some(disk) = SmallDisk::mount(&shop.home.path("state"), 1) else { return };
    let content = Content::generated(1, 12 * MIB + 77);
    shop.bucket.put("a", content.clone());
    let stall = Fault::new(Effect::Stall { after: 0, duration: Some(Duration::from_secs(3)) }).on_get().range_start(9 * MIB).once();
    let stall = shop.server.faults().add(stall);
    let child = shop.start(shop.command(&["copy", "s3://b/a", &shop.out(), "--chunk-size", "1M"]));
    let pid = child.id();
    wait_until("the stall", || stall.hits() > 0 && shop.server.bytes_served("a") >= 9 * MIB);
    disk.fill();
    let (before, begin) = (processor_seconds(pid).unwrap(), Instant::now());
    std::thread::sleep(Duration::from_secs(2));
    let used = processor_seconds(pid).unwrap_or(before) - before;
    assert!(used < 0.2 * begin.elapsed().as_secs_f64(), "{used} s of processor time while blocked");
    let ran = ended(child);
    assert_eq!(ran.code, 2, "{}", ran.err);
    let said = format!("{}{}", ran.out, ran.err).to_lowercase();
    assert!(said.contains("full") || said.contains("no space"), "{said}");
    assert!(!shop.files().contains_key(&b"a"[..]), "nothing is published that is not written down");
    disk.free();
    let ran = shop.run(&["copy", "s3://b/a", &shop.out(), "--chunk-size", "1M"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(shop.files()[&b"a"[..]] == content.bytes());
    assert_eq!(shop.files().len(), 1, "{:?}", shop.files().keys());
}

// Mutation: none alone. With the failures of `Manifest::flush` and `complete` ignored, the next write of the records
// still stops the run before anything is sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_too_small_for_the_manifest_sends_nothing_and_goes_on_when_there_is_room() {
    let shop = shop().await;
    let Some(disk) = SmallDisk::mount(&shop.home.path("state"), 1) else { return };
    for index in 0..3000 {
        shop.bucket.put(&format!("p/{index:04}"), "x");
    }
    let ran = shop.run(&["copy", "s3://b/p/", &shop.out()]);
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(shop.files().is_empty());
    disk.resize(64);
    let ran = shop.run(&["copy", "s3://b/p/", &shop.out()]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(shop.files().len(), 3000);
}

// Mutation: a request that finds no descriptor is fatal, or is tried again at once and for ever.
#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_descriptors_are_enough_for_many_files_and_a_large_one() {
    let (shop, server) = (shop().await, SftpServer::builder().start().await.unwrap());
    let partner = sandbox(&server);
    for index in 0..300 {
        shop.bucket.put(&format!("p/{index:03}"), "small");
    }
    shop.bucket.put("p/large", Content::generated(1, 12 * MIB));
    let program = env!("CARGO_BIN_EXE_fileferry");
    for arguments in [partner.arguments("s3://b/p/", &["--chunk-size", "1M"]), vec!["copy", "s3://b/p/", &shop.out(), "--chunk-size", "1M"]]
    {
        let limited = shop.command(&arguments);
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\"", program]).args(limited.get_args()).env_clear();
        command.envs(limited.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(shop.home.0.path());
        let begin = Instant::now();
        let ran = ended(shop.start(command));
        assert!(begin.elapsed() < Duration::from_secs(30));
        if ran.code != 0 {
            // Too few is a failure with a class of its own for each file, and over with the limit.
            assert!(ran.failed().iter().all(|(_, class)| class != "internal"), "{:?} {}", ran.failed(), ran.err);
            assert_eq!(shop.run(&arguments).code, 0);
        }
        eprintln!("with 64 descriptors: {} {:?}", ran.code, ran.summary()["errors"]);
    }
    assert_eq!((files_below(&server.file("/in")).len(), shop.files().len()), (301, 301));
}
