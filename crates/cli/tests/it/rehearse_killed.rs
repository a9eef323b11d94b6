//! What a rehearsal leaves that is killed in the middle: the next one removes it, and `clean` does after its time.

use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, SystemTime};

use testkit::ftp::{FtpProgram, FtpServerOptions};
use testkit::sftp::{Operation, SftpServer, Verdict};
use testkit::sshd::SshdOptions;

use super::shop::*;
use super::sites::*;
use super::*;

/// Files in the directory, which may be coming and going.
fn names(disk: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(disk).unwrap().map(Result::unwrap);
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let mut names: Vec<String> = files.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn kill(mut child: Child) {
    signal(child.id(), "KILL");
    assert!(child.wait().unwrap().code().is_none(), "it was to be killed");
}

/// Kills a rehearsal as soon as it has files there.
fn killed_in_the_middle(site: &Site, shop: &Shop) {
    let child = site.start(shop, &["rehearse", &site.url]);
    wait_until("a scratch file", || !names(&site.disk).is_empty());
    kill(child);
    assert!(!names(&site.disk).is_empty(), "{}: a kill leaves what is there", site.name);
}

// SEMANTICS S44: "Scratch files of a rehearsal that was killed are removed by the next one in that directory, and by `clean`
// once they are older than `--older-than`; those of one that is under way on the same machine are left alone by both."
#[tokio::test(flavor = "multi_thread")]
async fn the_next_rehearsal_removes_what_a_killed_one_left() {
    let ssh = openssh(SshdOptions { own_account: true, ..SshdOptions::default() }).await;
    let reused = FtpServerOptions { require_session_reuse: true, ..explicit() };
    let servers = [ssh, ftp(FtpProgram::Vsftpd, reused).await, ftp(FtpProgram::Proftpd, FtpServerOptions::default()).await];
    for site in servers.into_iter().flatten() {
        let shop = shop().await;
        killed_in_the_middle(&site, &shop);
        // One that only looks removes as little as it writes.
        let left = names(&site.disk);
        assert_eq!(site.run(&shop, &["probe", &site.url, "--read-only"]).code, 0);
        let still = names(&site.disk);
        assert!(left.iter().all(|name| still.contains(name)), "{}: {left:?} {still:?}", site.name);
        let ran = site.run(&shop, &["rehearse", &site.url]);
        assert_eq!(ran.code, 0, "{}: {}", site.name, ran.err);
        assert!(
            ran.err.contains(&format!("removed {} scratch file(s) that an earlier rehearsal left", still.len())),
            "{}: {}",
            site.name,
            ran.err
        );
        assert!(names(&site.disk).is_empty(), "{}: {:?}", site.name, names(&site.disk));
        let again = site.run(&shop, &["probe", &site.url]);
        assert!(again.code == 0 && !again.err.contains("an earlier rehearsal"), "{}", again.err);
    }
}

// SEMANTICS S44
#[tokio::test(flavor = "multi_thread")]
async fn clean_removes_scratch_files_after_their_time_and_nothing_else() {
    let Some(site) = ftp(FtpProgram::Vsftpd, FtpServerOptions::default()).await else { return };
    let shop = shop().await;
    killed_in_the_middle(&site, &shop);
    let young = names(&site.disk);
    // Names on which a rehearsal tries what a server makes of them; and names that only look like ours.
    let stem = young[0].split("-0-").next().unwrap().to_owned();
    let tried = [".part", ".part.Case", ".PART.CASE", ".part.space", ".part.dot", ".part.\u{e9}\u{e9}", ".part.longxxx"];
    let tried = tried.map(|ending| format!("{stem}-0-77-1-1{ending}"));
    let others =
        [format!("{stem}-0-77-1-1.part.old"), format!("{stem}-1-77-1-1.part"), ".ff-someone-elses.part".to_owned(), "a.part".to_owned()];
    for name in tried.iter().chain(&others) {
        std::fs::write(site.disk.join(name), "x").unwrap();
    }
    std::fs::create_dir(site.disk.join(format!("{stem}-0-78-1-1.part"))).unwrap();
    let clean = |more: &[&str]| {
        let ran = site.run(&shop, &[&["clean", &site.url], more].concat());
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.objects()
    };
    let removed = |lines: &[serde_json::Value]| lines.iter().filter(|line| line["removed"] == true).count();
    let first = clean(&[]);
    assert!(removed(&first) == 0 && first.iter().any(|line| line["kept_because"] == "it is younger than --older-than"), "{first:?}");
    let old = SystemTime::now() - Duration::from_secs(3 * 24 * 3600);
    for name in names(&site.disk) {
        std::fs::File::open(site.disk.join(name)).unwrap().set_modified(old).unwrap();
    }
    assert_eq!(removed(&clean(&["--dry-run"])), 0);
    let ours = names(&site.disk).len() - others.len();
    assert!(ours > tried.len());
    assert_eq!(removed(&clean(&[])), ours);
    let mut left = others.to_vec();
    left.sort();
    assert_eq!(names(&site.disk), left);
    // The directory was made just now.
    assert_eq!(removed(&clean(&["--older-than", "1ms"])), 1);
    assert!(!site.disk.join(format!("{stem}-0-78-1-1.part")).exists());
}

// SEMANTICS S44
#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_rehearsal_that_is_under_way_are_left_alone() {
    let (shop, server) = (shop().await, SftpServer::builder().start().await.unwrap());
    let partner = sandbox(&server);
    let (writes, reached) = (AtomicU64::new(0), Arc::new(AtomicBool::new(false)));
    let seen = reached.clone();
    server.on(move |operation| match operation {
        Operation::Write { .. } if writes.fetch_add(1, SeqCst) == 100 => {
            seen.store(true, SeqCst);
            Verdict::Delay(Duration::from_secs(3))
        }
        _ => Verdict::Proceed,
    });
    let flags: Vec<&str> = partner.flags.iter().map(String::as_str).collect();
    let arguments = |command| [&[command, partner.url.as_str()], &flags[..]].concat();
    let first = shop.start(shop.command(&arguments("rehearse")));
    wait_until("a write in the middle", || reached.load(SeqCst));
    let cleaned = shop.run(&[&arguments("clean")[..], &["--older-than", "0s"]].concat());
    assert!(cleaned.code == 0 && cleaned.out.contains("a rehearsal is using it"), "{}{}", cleaned.out, cleaned.err);
    let second = shop.run(&arguments("probe"));
    assert!(second.code == 0 && !second.err.contains("an earlier rehearsal"), "{}", second.err);
    let first = ended(first);
    assert_eq!(first.code, 0, "{}", first.err);
    assert_eq!(first.objects().pop().unwrap()["verdict"]["resumes"], "yes", "{}", first.out);
    assert!(names(&server.file("/in")).is_empty());
}
