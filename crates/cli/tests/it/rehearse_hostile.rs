//! `rehearse` on servers that lie, hang, cut, and refuse to remove; and copies over knowledge that is no longer true.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use testkit::ftp_sandbox::{self, FtpServer, Security};
use testkit::s3::Content;
use testkit::sftp::{Behaviour, Corruption, CorruptionKind, Operation, SftpServer, Verdict};

use super::shop::*;
use super::*;

async fn sftp(behaviour: Behaviour) -> (SftpServer, Partner) {
    let server = SftpServer::builder().behaviour(behaviour).start().await.unwrap();
    let partner = sandbox(&server);
    (server, partner)
}

fn rehearse(shop: &Shop, partner: &Partner, more: &[&str]) -> Ran {
    let flags: Vec<&str> = partner.flags.iter().map(String::as_str).collect();
    shop.run(&[&["rehearse", &partner.url], &flags[..], more].concat())
}

fn known(profile: &serde_json::Value, ability: &str) -> String {
    profile["facts"][ability]["known"].as_str().unwrap_or("nothing").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lies_about_offsets_is_found_out_and_gets_one_stream() {
    let shop = shop().await;
    let (server, partner) = sftp(Behaviour { offsets_ignored: true, ..Behaviour::default() }).await;
    let ran = rehearse(&shop, &partner, &[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let profile = ran.objects().pop().unwrap();
    assert_eq!((known(&profile, "offset_writes"), known(&profile, "read")), ("no".into(), "yes".into()), "{profile:#}");
    assert!(files_below(&server.file("/in")).is_empty());
    shop.bucket.put("large", Content::generated(3, 20 << 20));
    let ran = shop.run(&partner.arguments("s3://b/large", &[]));
    assert!(ran.err.contains("does not honour write offsets"), "said before: {}", ran.err);
    let delivered = std::fs::read(server.file("/in/large")).ok();
    let right = delivered.is_some_and(|there| there == shop.bucket.get("large").unwrap().read(0..20 << 20));
    assert!(ran.code == 0 && right || ran.code == 22, "a right file or integrity_mismatch: {} {}", ran.code, ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stores_other_bytes_is_called_unfaithful() {
    let shop = shop().await;
    let corruption = Corruption { kind: CorruptionKind::FlipByte { offset: 70_000 }, files: usize::MAX };
    let (server, partner) = sftp(Behaviour { corruption: Some(corruption), ..Behaviour::default() }).await;
    let ran = rehearse(&shop, &partner, &[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let profile = ran.objects().pop().unwrap();
    assert_eq!((known(&profile, "faithful"), &profile["verdict"]["proof"]), ("no".into(), &"none".into()), "{profile:#}");
    assert!(profile["facts"]["faithful"]["evidence"].as_str().unwrap().contains("from byte 70000"), "{profile:#}");
    assert!(files_below(&server.file("/in")).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_in_the_middle_ends_the_rehearsal_and_what_stays_is_named() {
    let shop = shop().await;
    let (_server, partner) = sftp(Behaviour { stall_after_writes: Some(40), ..Behaviour::default() }).await;
    let ran = rehearse(&shop, &partner, &["--stall-timeout", "1s", "--connect-timeout", "2s"]);
    assert_eq!(ran.code, 5, "{}\n{}", ran.err, ran.out);
    assert!(ran.err.contains("left behind, because it could not be removed: /in/.ff-"), "{}", ran.err);
    assert!(!shop.home.run(&["profile", "show", &partner.url]).out.contains("resumes"), "half a look is not kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_removal_is_a_finding_and_its_leftovers_are_named() {
    let shop = shop().await;
    let (server, partner) = sftp(Behaviour::default()).await;
    server.on(|operation| match operation {
        Operation::Remove { .. } => Verdict::Status(3, "not yours".to_owned()),
        _ => Verdict::Proceed,
    });
    let ran = rehearse(&shop, &partner, &[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let profile = ran.objects().pop().unwrap();
    let left: Vec<&str> = profile["left_behind"].as_array().unwrap().iter().filter_map(|path| path.as_str()).collect();
    let there = files_below(&server.file("/in"));
    assert!(!there.is_empty() && left.len() >= there.len(), "{left:?} {:?}", there.keys());
    assert_eq!(known(&profile, "remove"), "no");
    let shown = shop.home.run(&["profile", "show", &partner.url]);
    assert!(shown.out.contains("left behind, because it could not be removed"), "{}", shown.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ctrl_c_in_the_middle_leaves_nothing_behind() {
    let shop = shop().await;
    let (server, partner) = sftp(Behaviour::default()).await;
    let (renames, reached) = (AtomicU64::new(0), Arc::new(AtomicBool::new(false)));
    let seen = reached.clone();
    server.on(move |operation| match operation {
        // The third file to be opened for writing waits, so that the signal comes in the middle.
        Operation::Write { .. } if renames.fetch_add(1, SeqCst) == 100 => {
            seen.store(true, SeqCst);
            Verdict::Delay(std::time::Duration::from_secs(3))
        }
        _ => Verdict::Proceed,
    });
    let flags: Vec<&str> = partner.flags.iter().map(String::as_str).collect();
    let child = shop.start(shop.command(&[&["rehearse", &partner.url], &flags[..]].concat()));
    wait_until("a write in the middle", || reached.load(SeqCst));
    signal(child.id(), "INT");
    let ran = ended(child);
    assert_eq!(ran.code, 130, "{}", ran.err);
    assert!(ran.err.contains("removing the scratch files"), "{}", ran.err);
    assert!(files_below(&server.file("/in")).is_empty(), "{:?}", files_below(&server.file("/in")).keys());
    assert!(!shop.home.run(&["profile", "show", &partner.url]).out.contains("resumes"), "half a look is not kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_or_not_trusted_ends_as_in_a_copy() {
    let shop = shop().await;
    let (server, partner) = sftp(Behaviour::default()).await;
    let other = format!("SHA256:{}", "A".repeat(43));
    let ran = shop.run(&["rehearse", &partner.url, "--identity", text(server.client_key()), "--host-key", &other]);
    assert_eq!(ran.code, 23, "{}", ran.err);
    server.change(|behaviour| behaviour.authentication = testkit::sftp::Authentication::Nobody);
    assert_eq!(rehearse(&shop, &partner, &[]).code, 24);
    server.change(|behaviour| behaviour.refuses_connections = true);
    let ran = rehearse(&shop, &partner, &["--retry-auth", "--connect-timeout", "2s"]);
    assert_eq!(ran.code, 5, "{}", ran.err);
}

async fn ftp(behaviour: ftp_sandbox::Behaviour) -> FtpServer {
    let server = FtpServer::builder().security(Security::Clear).behaviour(behaviour).start().await.unwrap();
    std::fs::create_dir_all(server.file("/in")).unwrap();
    server
}

fn run_ftp(shop: &Shop, server: &FtpServer, arguments: &[&str]) -> Ran {
    let mut command = shop.command(&[arguments, &["--password-from", "env:SECRET"]].concat());
    command.env("SECRET", server.password());
    ended(shop.start(command))
}

fn url(server: &FtpServer) -> String {
    format!("ftp://{}@{}/in/", server.user(), server.address())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_learned_since_is_noticed_and_kept() {
    use testkit::ftp_sandbox::{Rename, Restart, RestartRule};
    let strict = ftp_sandbox::Behaviour {
        restart: Restart { rule: RestartRule::DownloadsOnly, ..Restart::default() },
        rename: Rename::Denied,
        ..ftp_sandbox::Behaviour::default()
    };
    let shop = shop().await;
    let server = ftp(strict).await;
    let ran = run_ftp(&shop, &server, &["rehearse", &url(&server)]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let profile = ran.objects().pop().unwrap();
    assert_eq!((known(&profile, "continues"), known(&profile, "rename")), ("no".into(), "no".into()), "{profile:#}");
    assert_eq!((&profile["verdict"]["resumes"], &profile["verdict"]["atomic_replace"]), (&"no".into(), &"no".into()));
    assert!(files_below(&server.file("/in")).is_empty());
    // The partner did as the letter asked: the copy tries, goes through, and the profile follows.
    server.change(|behaviour| (behaviour.rename, behaviour.restart) = (Rename::Replaces, Restart::default()));
    shop.bucket.put("large", Content::generated(3, 12 << 20));
    let ran = run_ftp(&shop, &server, &["copy", "s3://b/large", &url(&server)]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("it does not go on with an interrupted file"), "said before the first byte: {}", ran.err);
    assert!(ran.err.contains("this server has changed: lets us rename: no on"), "{}", ran.err);
    assert_eq!(files_below(&server.file("/in")).len(), 1);
    let shown = shop.home.run(&["profile", "show", &url(&server), "--json"]).objects().pop().unwrap();
    assert_eq!((known(&shown, "rename"), shown["facts"]["rename"]["by"].as_str()), ("yes".into(), Some("copy")));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_other_software_are_not_believed_and_the_receipt_says_so() {
    use testkit::ftp_sandbox::{Action, Restart, RestartRule};
    let restart = Restart { rule: RestartRule::DownloadsOnly, ..Restart::default() };
    let shop = shop().await;
    let server = ftp(ftp_sandbox::Behaviour { restart, ..ftp_sandbox::Behaviour::default() }).await;
    assert_eq!(run_ftp(&shop, &server, &["rehearse", &url(&server)]).code, 0);
    server.change(|behaviour| behaviour.restart = Restart::default());
    server.on(|operation| match operation.is("CONNECT") {
        true => Action::Raw(b"220 Another software, all new\r\n"[..].to_vec().into()),
        false => Action::Proceed,
    });
    shop.bucket.put("large", Content::generated(3, 12 << 20));
    let ran = run_ftp(&shop, &server, &["copy", "s3://b/large", &url(&server)]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("this server has changed: software: ") && ran.err.contains("now Another software"), "{}", ran.err);
    assert!(ran.err.contains("this server has changed: goes on with a file at an offset: no on"), "{}", ran.err);
    let delivered = ran.objects().into_iter().find(|line| line["type"] == "file").unwrap();
    assert!(delivered["notes"].to_string().contains("other software than at the last look"), "{delivered}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_a_server_changes_in_silence_are_found() {
    use ftp_sandbox::Names;
    let shop = shop().await;
    for (names, ability) in [(Names::LowerCase, "keeps_case"), (Names::Trimmed, "keeps_spaces")] {
        let server = ftp(ftp_sandbox::Behaviour { names, ..ftp_sandbox::Behaviour::default() }).await;
        let ran = run_ftp(&shop, &server, &["rehearse", &url(&server)]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        let profile = ran.objects().pop().unwrap();
        assert_eq!(known(&profile, ability), "no", "{profile:#}");
        assert!(files_below(&server.file("/in")).is_empty(), "{:?}", files_below(&server.file("/in")).keys());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_streams_that_lies_or_never_answers_is_found_out() {
    use ftp_sandbox::FinalReply;
    let shop = shop().await;
    let lie = testkit::sftp::Corruption { kind: CorruptionKind::Drop { offset: 1000, length: 5 }, files: usize::MAX };
    let server = ftp(ftp_sandbox::Behaviour { lie: Some(lie), hashes: false, ..ftp_sandbox::Behaviour::default() }).await;
    let ran = run_ftp(&shop, &server, &["rehearse", &url(&server)]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let profile = ran.objects().pop().unwrap();
    let verdict = &profile["verdict"];
    assert_eq!((known(&profile, "faithful"), &verdict["proof"], &verdict["resumes"]), ("no".into(), &"none".into(), &"no".into()));
    assert!(files_below(&server.file("/in")).is_empty());

    let server = ftp(ftp_sandbox::Behaviour { final_reply: FinalReply::Never, ..ftp_sandbox::Behaviour::default() }).await;
    let ran = run_ftp(&shop, &server, &["rehearse", &url(&server), "--stall-timeout", "1s", "--connect-timeout", "2s"]);
    assert_eq!(ran.code, 5, "{}\n{}", ran.err, ran.out);
    assert!(files_below(&server.file("/in")).is_empty(), "removal is answered: {:?}", files_below(&server.file("/in")).keys());
}
