//! The partner's contract: what goes with files, in which order, what comes last, and what becomes of the originals.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use testkit::s3::{Content, Fault, Operation as Asked, S3Error};
use testkit::sftp::{Operation, SftpServer, Verdict};
use testkit::sshd::SshdOptions;

use super::shop::*;
use super::sites::*;
use super::*;

fn told(ran: &Ran, kind: &str) -> Vec<serde_json::Value> {
    ran.objects().into_iter().filter(|line| line["type"] == kind).collect()
}

/// `sha256sum -c` and its like, in the partner's directory.
pub fn checks(tool: &str, list: &str, directory: &Path) -> bool {
    Command::new(tool).args(["--strict", "--quiet", "-c", list]).current_dir(directory).status().unwrap().success()
}

const ALL: &[&str] = &[
    "--sidecar",
    "sha256",
    "--sidecar",
    "md5",
    "--sidecar",
    "done:{name}.ok",
    "--sidecar",
    "ctl:{name}.json@letter",
    "--manifest",
    "MANIFEST",
    "--done",
    "DONE",
];

// SEMANTICS S36: "A sidecar gets its name after the file it speaks of, the manifest after all files and sidecars, and the done file
// last of all; manifest and done file are published only when every file is delivered."
#[tokio::test(flavor = "multi_thread")]
async fn sidecars_manifest_and_done_file_are_as_the_partners_tools_read_them() {
    let Some(site) = openssh(SshdOptions::default()).await else { return };
    everything_is_as_the_partners_tools_read_it(&site).await;
}

/// A prefix with all that can go with files, to an empty directory, and once more.
pub async fn everything_is_as_the_partners_tools_read_it(site: &Site) {
    let shop = shop().await;
    let arguments = [&["copy", "s3://b/p/", &site.url][..], ALL].concat();
    shop.bucket.put("p/a.csv", "one");
    shop.bucket.put("p/d/b \\ c.csv", "two");
    shop.bucket.put("p/large", Content::generated(1, 6 << 20));
    shop.home.write("letter", r#"{"file": "{name}", "bytes": {size}, "sha256": "{sha256}", "md5": "{md5}", "of": "{key}"}"#);
    let ran = site.run(&shop, &arguments);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    let there = files_below(&site.disk);
    assert_eq!(there.len(), 3 * 5 + 2, "{:?}", there.keys());
    assert!(checks("sha256sum", "MANIFEST", &site.disk));
    assert!(checks("sha256sum", "large.sha256", &site.disk) && checks("md5sum", "a.csv.md5", &site.disk));
    assert!(checks("sha256sum", "b \\ c.csv.sha256", &site.disk.join("d")));
    assert_eq!((there[&b"DONE"[..]].len(), there[&b"a.csv.ok"[..]].len()), (0, 0));
    let letter: serde_json::Value = serde_json::from_slice(&there[&b"a.csv.json"[..]]).unwrap();
    assert_eq!((letter["file"].as_str(), letter["bytes"].as_u64(), letter["of"].as_str()), (Some("a.csv"), Some(3), Some("p/a.csv")));
    assert_eq!(letter["md5"], "f97c5d29941bfb1b2fdab0874906ab82");
    let summary = ran.summary();
    assert_eq!((summary["files"].as_u64(), summary["companions"].as_u64()), (Some(3), Some(14)), "{summary}");
    // Each has a signed receipt of its own; that of the done file is the last line but one.
    assert_eq!(told(&ran, "companion").len(), 14);
    let last = told(&ran, "companion").pop().unwrap();
    assert!(last["destination"]["path"].as_str().unwrap().ends_with("/DONE") && last["signature"].is_object());
    shop.home.write("receipts", &ran.out);
    let verified = shop.home.run(&["receipt", "verify", text(&shop.home.path("receipts"))]);
    assert_eq!(verified.code, 0, "{}{}", verified.out, verified.err);

    // Nothing of it is done twice.
    let again = site.run(&shop, &arguments);
    assert_eq!(again.code, 0, "{}{}", again.out, again.err);
    let summary = again.summary();
    assert_eq!(
        (summary["bytes_sent"].as_u64(), told(&again, "companion").iter().filter(|l| l["status"] != "unchanged").count()),
        (Some(0), 0)
    );
    assert!(files_below(&site.disk) == there);
}

/// Kills the program when the server is asked for this, once.
fn kill_at(server: &SftpServer, pid: &Arc<AtomicU32>, when: impl Fn(&Operation) -> bool + Send + Sync + 'static) -> Arc<AtomicBool> {
    let (pid, done) = (pid.clone(), Arc::new(AtomicBool::new(false)));
    let killed = done.clone();
    server.on(move |operation| {
        if !when(operation) || killed.swap(true, SeqCst) {
            return Verdict::Proceed;
        }
        while pid.load(SeqCst) == 0 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        signal(pid.load(SeqCst), "KILL");
        Verdict::Disconnect
    });
    done
}

fn killed(shop: &Shop, arguments: &[&str], pid: &AtomicU32) {
    let mut child = shop.start(shop.command(arguments));
    pid.store(child.id(), SeqCst);
    assert!(child.wait().unwrap().code().is_none(), "it was to be killed");
}

// SEMANTICS S37: "A kill between a file and what goes with it loses nothing and repeats nothing: the next run writes what is missing."
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_any_companion_has_its_name_is_made_good_and_nothing_is_sent_twice() {
    for (at, after) in [("a.sha256", false), ("a.sha256", true), ("MANIFEST", false), ("MANIFEST", true), ("DONE", false)] {
        let (shop, server) = (shop().await, SftpServer::builder().start().await.unwrap());
        let partner = sandbox(&server);
        for name in ["a", "b", "c"] {
            shop.bucket.put(&format!("p/{name}"), name);
        }
        let arguments = partner.arguments("s3://b/p/", &["--sidecar", "sha256", "--manifest", "MANIFEST", "--done", "DONE"]);
        let names = Arc::new(Mutex::new(Vec::new()));
        let seen = names.clone();
        server.watch(move |event| seen.lock().unwrap().push((event.kind.clone(), event.path.to_string())));
        let pid = Arc::new(AtomicU32::new(0));
        let final_name = format!("/in/{at}");
        let renamed = Arc::new(AtomicBool::new(false));
        let death = kill_at(&server, &pid, move |operation| {
            if operation.is_rename() && operation.path() == Some(&final_name) {
                renamed.store(true, SeqCst);
                return !after;
            }
            // The first thing that is asked after the rename was carried out.
            after && renamed.load(SeqCst)
        });
        killed(&shop, &arguments, &pid);
        assert!(death.load(SeqCst), "{at} {after}");
        server.clear_hooks();
        let ran = shop.run(&arguments);
        assert_eq!(ran.code, 0, "{at} {after}: {}{}", ran.out, ran.err);
        let there: Vec<_> = files_below(&server.file("/in")).into_keys().map(|name| String::from_utf8(name).unwrap()).collect();
        assert_eq!(there, ["DONE", "MANIFEST", "a", "a.sha256", "b", "b.sha256", "c", "c.sha256"], "{at} {after}");
        assert!(checks("sha256sum", "MANIFEST", &server.file("/in")));
        let names = names.lock().unwrap();
        for name in &there {
            let path = format!("/in/{name}");
            let appeared = names.iter().filter(|(kind, at)| *kind != testkit::sftp::NameEventKind::Removed && *at == path).count();
            assert_eq!(appeared, 1, "{at} {after}: {name}");
        }
        let order = |name: &str| names.iter().position(|(_, at)| *at == format!("/in/{name}")).unwrap();
        assert!(order("a") < order("a.sha256") && order("c.sha256") < order("MANIFEST") && order("MANIFEST") < order("DONE"));
    }
}

// SEMANTICS S36
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_fails_keeps_manifest_and_done_file_back_until_it_is_delivered() {
    let (shop, server) = (shop().await, SftpServer::builder().start().await.unwrap());
    let partner = sandbox(&server);
    for name in ["a", "b"] {
        shop.bucket.put(&format!("p/{name}"), name);
    }
    std::fs::write(server.file("/in/b"), "theirs").unwrap();
    let more = ["--sidecar", "done", "--manifest", "list.json", "--done", "DONE"];
    let ran = shop.run(&partner.arguments("s3://b/p/", &more));
    assert_eq!(ran.code, 6, "{}{}", ran.out, ran.err);
    assert!(ran.err.contains("manifest and done file are not published"), "{}", ran.err);
    let names =
        |server: &SftpServer| files_below(&server.file("/in")).into_keys().map(|n| String::from_utf8(n).unwrap()).collect::<Vec<_>>();
    assert_eq!(names(&server), ["a", "a.done", "b"]);
    std::fs::remove_file(server.file("/in/b")).unwrap();
    let ran = shop.run(&partner.arguments("s3://b/p/", &more));
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert_eq!(names(&server), ["DONE", "a", "a.done", "b", "b.done", "list.json"]);
    let list = std::fs::read_to_string(server.file("/in/list.json")).unwrap();
    let lines: Vec<serde_json::Value> = list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|l| l["name"].as_str().unwrap()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(lines.iter().all(|l| l["size"] == 1 && l["sha256"].as_str().unwrap().len() == 64));

    // Something new brings another list and another mark, by the same policy as everything else.
    shop.bucket.put("p/c", "c");
    let ran = shop.run(&partner.arguments("s3://b/p/", &more));
    assert_eq!(ran.code, 6, "{}{}", ran.out, ran.err);
    assert!(told(&ran, "companion").iter().any(|l| l["error"]["class"] == "dest_exists"), "{}", ran.out);
    let ran = shop.run(&partner.arguments("s3://b/p/", &[&more[..], &["--if-exists", "replace"]].concat()));
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert_eq!(std::fs::read_to_string(server.file("/in/list.json")).unwrap().lines().count(), 3);
}

// SEMANTICS S38: "With `--order` a file gets its name only when the one before it and everything that goes with that have theirs; after
// a failure nothing more is published."
#[tokio::test(flavor = "multi_thread")]
async fn files_are_published_in_the_promised_order_and_not_beyond_a_failure() {
    let (shop, server) = (shop().await, SftpServer::builder().start().await.unwrap());
    let partner = sandbox(&server);
    let sizes = [("p/a", 9 << 20), ("p/b", 10), ("p/c", 5 << 20), ("p/d", 1), ("p/e", 100)];
    for (key, size) in sizes {
        shop.bucket.put(key, Content::generated(1, size));
    }
    let names = Arc::new(Mutex::new(Vec::new()));
    let seen = names.clone();
    server.watch(move |event| {
        if event.kind != testkit::sftp::NameEventKind::Removed && !event.path.contains(".ff-") {
            seen.lock().unwrap().push(event.path.rsplit('/').next().unwrap().to_owned());
        }
    });
    let ran = shop.run(&partner.arguments("s3://b/p/", &["--order", "size", "--sidecar", "done"]));
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    let expected = ["d", "d.done", "b", "b.done", "e", "e.done", "c", "c.done", "a", "a.done"];
    assert_eq!(*names.lock().unwrap(), expected);

    names.lock().unwrap().clear();
    let other = format!("{}other/", partner.url);
    std::fs::create_dir_all(server.file("/in/other")).unwrap();
    std::fs::write(server.file("/in/other/c"), "theirs").unwrap();
    let mut arguments = partner.arguments("s3://b/p/", &["--order", "key"]);
    arguments[2] = &other;
    let ran = shop.run(&arguments);
    assert_eq!(ran.code, 27, "{}{}", ran.out, ran.err);
    assert_eq!(*names.lock().unwrap(), ["a", "b"]);
    std::fs::remove_file(server.file("/in/other/c")).unwrap();
    let ran = shop.run(&arguments);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert_eq!(*names.lock().unwrap(), ["a", "b", "c", "d", "e"]);
}

// SEMANTICS S39: "An original is deleted only by its version, only when its delivery is on record with the proof that was asked for, and
// after an archive copy was made sure of; whatever was written under its key meanwhile stays."
#[tokio::test(flavor = "multi_thread")]
async fn originals_go_by_version_and_what_was_written_meanwhile_stays() {
    let (shop, server) = (shop().await, SftpServer::builder().start().await.unwrap());
    let partner = sandbox(&server);
    let sent = shop.server.bucket("archive");
    shop.bucket.versioning(true);
    for name in ["a", "d/b c+&", "large"] {
        shop.bucket.put(&format!("p/{name}"), if name == "large" { Content::generated(1, 6 << 20) } else { name.into() });
    }
    // Somebody overwrites `a` while it is published.
    let (bucket, once) = (shop.bucket.clone(), AtomicBool::new(false));
    server.on(move |operation| {
        if operation.is_rename() && operation.path() == Some("/in/a") && !once.swap(true, SeqCst) {
            bucket.put("p/a", "newer");
        }
        Verdict::Proceed
    });
    let arguments = partner.arguments("s3://b/p/", &["--after", "archive=s3://archive/sent/"]);
    let ran = shop.run(&arguments);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    let after = told(&ran, "after");
    assert!(after.len() == 3 && after.iter().all(|line| line["state"] == "archived"), "{after:?}");
    assert_eq!(shop.bucket.get("p/a").unwrap().bytes(), "newer");
    assert!(shop.bucket.get("p/large").is_none() && shop.bucket.get("p/d/b c+&").is_none());
    assert_eq!(sent.get("sent/a").unwrap().bytes(), "a");
    assert_eq!(sent.get("sent/d/b c+&").unwrap().bytes(), "d/b c+&");
    assert_eq!(sent.get("sent/large").unwrap().len(), 6 << 20);
    assert!(shop.server.requests_for(Asked::DeleteObject).iter().all(|request| request.version_id.is_some()));

    // The newer version is delivered and archived under a name of its own; nothing in the archive is overwritten.
    let ran = shop.run(&[&arguments[..], &["--if-exists", "replace"]].concat());
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    let to = told(&ran, "after")[0]["to"].as_str().unwrap().to_owned();
    assert!(to.starts_with("s3://archive/sent/a."), "{to}");
    assert_eq!(sent.get("sent/a").unwrap().bytes(), "a");
    assert!(shop.bucket.get("p/a").is_none());
}

// SEMANTICS S39
#[tokio::test(flavor = "multi_thread")]
async fn what_forbids_removing_originals_is_found_before_the_first_byte() {
    let (shop, server) = (shop().await, SftpServer::builder().start().await.unwrap());
    let partner = sandbox(&server);
    shop.bucket.put("p/a", "a");
    let delete = partner.arguments("s3://b/p/", &["--after", "delete"]);
    let ran = shop.run(&delete);
    assert_eq!(ran.code, 7, "{}{}", ran.out, ran.err);
    assert!(ran.err.contains("keeps no versions") && ran.err.contains("--after keep"), "{}", ran.err);
    shop.bucket.delete("p/a");
    shop.bucket.versioning(true);
    shop.bucket.put("p/a", "a");
    let denied = shop.server.faults().add(Fault::error(S3Error::access_denied()).operation(Asked::DeleteObject));
    let ran = shop.run(&delete);
    assert_eq!((ran.code, ran.summary()["error"]["class"].as_str()), (7, Some("source_denied")), "{}{}", ran.out, ran.err);
    assert!(files_below(&server.file("/in")).is_empty());
    denied.remove();
    // A permission that goes away later keeps the original, and the file is delivered all the same.
    shop.server.faults().add(Fault::error(S3Error::access_denied()).operation(Asked::DeleteObject).key("p/a"));
    let ran = shop.run(&delete);
    assert_eq!((ran.code, ran.summary()["source_kept"].as_u64()), (0, Some(1)), "{}{}", ran.out, ran.err);
    assert_eq!(told(&ran, "after")[0]["error"]["class"], "source_denied");
    assert!(shop.bucket.get("p/a").is_some() && files_below(&server.file("/in")).len() == 1);
    // The next run, which finds the file unchanged, does what is left.
    shop.server.faults().clear();
    let ran = shop.run(&delete);
    assert_eq!((ran.code, ran.summary()["removed"].as_u64(), ran.summary()["unchanged"].as_u64()), (0, Some(1), Some(1)), "{}", ran.out);
    assert!(shop.bucket.get("p/a").is_none());
    // Too little proof is a mistake in the request.
    let ran = shop.run(&[&delete[..], &["--verify", "size"]].concat());
    assert!(ran.code == 1 && ran.err.contains("--after-grade"), "{}", ran.err);
}

// SEMANTICS S40: "The sums of a receipt page are what `sha256sum -c` reads and carry a signature that `ssh-keygen -Y verify` checks; one
// changed byte fails."
#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_page_is_checked_with_public_tools_alone() {
    let shop = shop().await;
    let hostile = "<script>alert(1)</script>&\"'.csv";
    for (key, content) in [("p/a.csv", "one"), ("p/d/b.csv", "two")] {
        shop.bucket.put(key, content);
    }
    shop.bucket.put(&format!("p/{}", hostile.replace('/', "_")), "three");
    let receipts = shop.home.path("receipts.jsonl");
    assert_eq!(shop.run(&["copy", "s3://b/p/", &shop.out(), "--receipt", text(&receipts)]).code, 0);
    let pages = shop.home.path("pages");
    let ran = shop.home.run(&["receipt", "page", text(&receipts), "--out", text(&pages), "--json"]);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    let name = ran.objects()[0]["transfer_id"].as_str().unwrap().to_owned();
    let verify = |directory: &Path| {
        let sums = std::fs::File::open(directory.join(format!("{name}.sha256"))).unwrap();
        let signature = format!("{name}.sha256.sig");
        let arguments = ["-Y", "verify", "-f", "allowed_signers", "-I", "fileferry", "-n", "file", "-s", &signature];
        Command::new("ssh-keygen").args(arguments).current_dir(directory).stdin(sums).output().unwrap().status.success()
    };
    assert!(verify(&pages));
    let delivered = shop.home.path("out");
    let list = text(&pages.join(format!("{name}.sha256"))).to_owned();
    assert!(checks("sha256sum", &list, &delivered));
    let html = std::fs::read_to_string(pages.join(format!("{name}.html"))).unwrap();
    assert!(!html.contains("<script") && html.contains("&lt;script&gt;") && html.contains("&quot;&#39;.csv"), "{html}");
    let plain = std::fs::read_to_string(pages.join(format!("{name}.txt"))).unwrap();
    assert!(plain.contains("read back from the server") && plain.contains("ssh-keygen -Y verify"), "{plain}");

    std::fs::write(delivered.join("a.csv"), "onE").unwrap();
    assert!(!checks("sha256sum", &list, &delivered));
    let sums = std::fs::read_to_string(&list).unwrap();
    std::fs::write(&list, sums.replacen("a.csv", "b.csv", 1)).unwrap();
    assert!(!verify(&pages));
    // Nobody signs what was not signed before.
    let changed = std::fs::read_to_string(&receipts).unwrap().replacen("\"size\":3", "\"size\":4", 1);
    let ran = shop.home.run(&["receipt", "page", text(&shop.home.write("changed", &changed)), "--out", text(&pages)]);
    assert_eq!(ran.code, 22, "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_shows_what_was_agreed_and_mistakes_are_named() {
    let shop = shop().await;
    shop.bucket.put("p/a", "a");
    let ran = shop.run(&["copy", "s3://b/p/", &shop.out(), "--dry-run", "--sidecar", "sha256", "--done", "D-{date:%Y}", "--order", "age"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let plan = &told(&ran, "plan")[0];
    let paths: Vec<_> = plan["listing"].as_array().unwrap().iter().map(|l| l["path"].as_str().unwrap().to_owned()).collect();
    assert!(paths[0].ends_with("/out/a") && paths[1].ends_with("/out/a.sha256") && paths[2].contains("/out/D-2"), "{paths:?}");
    assert_eq!((plan["companions"].as_u64(), plan["order"].as_str()), (Some(2), Some("age")));
    assert!(ran.err.contains("one after the other, by age; 2 files go with them"), "{}", ran.err);
    shop.home.write("bad", "{nmae}");
    for (more, word) in [
        (&["--sidecar", "sha1"][..], "sha256, md5, done, ctl"),
        (&["--sidecar", "ctl"], "@FILE"),
        (&["--sidecar", "ctl@bad"], "nmae"),
        (&["--sidecar", "ctl@missing"], "missing"),
        (&["--sidecar", "done:x{name}", "--sidecar", "sha256:x{name}"], "two sidecars"),
        (&["--done", "a/b"], "same directory"),
        (&["--after", "archive=sftp://h/"], "s3://BUCKET/PREFIX/"),
    ] {
        let ran = shop.run(&[&["copy", "s3://b/p/", &shop.out()][..], more].concat());
        assert!(ran.code == 1 && ran.err.contains(word), "{more:?}: {}", ran.err);
    }
    // A sidecar may meet the name of another file; then nothing is sent.
    shop.bucket.put("p/a.sha256", "theirs");
    let ran = shop.run(&["copy", "s3://b/p/", &shop.out(), "--sidecar", "sha256"]);
    assert_eq!(ran.code, 27, "{}", ran.err);
    assert!(shop.files().is_empty());
}
