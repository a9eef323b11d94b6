//! F1 to F5: keys that attack, keys that are odd, keys that are long, keys that meet; from the store to the partner.

use std::collections::BTreeSet;

use testkit::sftp::SftpServer;
use testkit::sshd::{Sshd, SshdOptions};

use super::shop::*;
use super::*;

const ATTACKS: [&str; 6] = ["a\r\nDELE victim", "a\nb", "a\u{1b}]0;owned\u{7}\u{1b}[2J", "a\u{0085}b", "\u{7f}", "b\u{0}c"];

// Mutation: control characters pass (`model::path::check`), or are printed as they are (`escape_name`, JSON).
#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_control_characters_is_refused_before_anything_is_connected() {
    let (shop, server) = (shop().await, SftpServer::builder().start().await.unwrap());
    let partner = sandbox(&server);
    std::fs::write(server.file("/in/victim"), "unharmed").unwrap();
    // XML cannot carry a NUL; no store can list such a key.
    for key in &ATTACKS[..5] {
        shop.bucket.put(&format!("p/{key}"), "bad");
    }
    let ran = shop.run(&partner.arguments("s3://b/p/", &[]));
    assert_eq!(ran.code, 6, "{}", ran.err);
    assert_eq!(ran.failed().len(), 5);
    assert!(ran.failed().iter().all(|(_, class)| class == "dest_name_invalid"), "{:?}", ran.failed());
    assert_eq!(server.recorder().attempts.credentials(), 0, "nobody was asked to let us in");
    // With one good key the good one is delivered and the others are not.
    shop.bucket.put("p/good", "good");
    let ran = shop.run(&partner.arguments("s3://b/p/", &[]));
    assert_eq!((ran.code, ran.failed().len()), (6, 5), "{}", ran.err);
    let names: Vec<Vec<u8>> = files_below(&server.file("/in")).into_keys().collect();
    assert_eq!(names, [b"good".to_vec(), b"victim".to_vec()]);
    assert_eq!(std::fs::read(server.file("/in/victim")).unwrap(), b"unharmed");
    for output in [&ran.out, &ran.err] {
        assert!(!output.contains(['\u{1b}', '\r', '\u{7}', '\u{7f}']), "{output:?}");
        assert!(!output.lines().any(|line| line.starts_with("DELE")), "{output:?}");
    }
    // And alone it has the exit code of its class.
    shop.bucket.put("alone/a\r\nDELE victim", "bad");
    assert_eq!(shop.run(&partner.arguments("s3://b/alone/", &[])).code, 28);
}

// Mutation: `..` or an empty segment passes (`model::path::check`), or escapes are decoded somewhere.
#[tokio::test(flavor = "multi_thread")]
async fn no_key_leaves_the_destination_directory() {
    let shop = shop().await;
    let refused = ["../../x", "..", ".", "./c", "a/../../y", "a//b", "/abs", "d/./e"];
    let taken = ["C:\\x", "%2e%2e/e", "..%2ff", "\u{2215}etc\u{2044}passwd", "...", "..x", "%username%"];
    for key in refused.iter().chain(&taken) {
        shop.bucket.put(&format!("p/{key}"), *key);
    }
    let ran = shop.run(&["copy", "s3://b/p/", &shop.out()]);
    assert_eq!(ran.code, 6, "{}", ran.err);
    let failed: BTreeSet<String> = ran.failed().into_iter().map(|(key, _)| key).collect();
    assert_eq!(failed, refused.iter().map(|key| format!("p/{key}")).collect());
    assert!(ran.failed().iter().all(|(_, class)| class == "dest_name_invalid"));
    let there: BTreeSet<Vec<u8>> = shop.files().into_keys().collect();
    assert_eq!(there, taken.iter().map(|key| key.as_bytes().to_vec()).collect());
    assert!(!shop.home.path("x").exists() && !shop.home.path("y").exists());
}

fn odd_names() -> Vec<String> {
    let mut names: Vec<String> = [
        "-rf",
        " lead",
        "trail ",
        "tab\there",
        "~",
        "~user",
        "*",
        "?",
        "[x]",
        "back\\slash",
        "quo'te\"s",
        "$(x)`y`",
        "a;b|c&d>e<f",
        "ÿ\u{ff}",
        "caf\u{e9}",
        "cafe\u{301}",
        "🚢",
        "CON",
        "nul.txt",
        "dot.",
        "%2e",
        "a+b c",
        "#hash?q=1&r",
        "{key}",
        "Twin",
        "twin",
        ".hidden",
        "sub dir/ x /y",
    ]
    .map(str::to_owned)
    .to_vec();
    names.extend(["n".repeat(255), "é".repeat(127), format!("{}/{}", "d".repeat(200), "e".repeat(255))]);
    names
}

// Mutation: a name is normalised, trimmed or unescaped on its way (`RemotePath`, `SftpConnection`, the S3 listing).
#[tokio::test(flavor = "multi_thread")]
async fn odd_names_arrive_byte_for_byte_at_every_destination() {
    let shop = shop().await;
    let sandboxed = SftpServer::builder().start().await.unwrap();
    let openssh = Sshd::start(SshdOptions::default()).await.unwrap();
    for name in odd_names() {
        shop.bucket.put(&format!("p/{name}"), name.as_str());
    }
    let wanted = odd_names().into_iter().map(|name| (name.clone().into_bytes(), name.into_bytes())).collect();
    let sshd = Partner {
        url: format!("sftp://{}@{}{}/", openssh.user(), openssh.address(), text(openssh.directory())),
        flags: vec!["--identity".into(), text(&openssh.client_key()).into(), "--host-key".into(), openssh.host_key_fingerprint()],
    };
    let local = Partner { url: shop.out(), flags: vec![] };
    let directories = [sandboxed.file("/in"), openssh.directory().to_owned(), shop.home.path("out")];
    for (partner, directory) in [sandbox(&sandboxed), sshd, local].iter().zip(directories) {
        let ran = shop.run(&partner.arguments("s3://b/p/", &[]));
        assert_eq!(ran.code, 0, "{}: {} {:?}", partner.url, ran.err, ran.failed());
        assert!(files_below(&directory) == wanted, "{}: {:?}", partner.url, files_below(&directory).keys());
    }
}

// Mutation: a long name is cut to what fits (`RemotePath::join`).
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_too_long_is_refused_and_never_cut() {
    let shop = shop().await;
    for name in ["n".repeat(256), "é".repeat(128), "m".repeat(1000)] {
        shop.bucket.put(&format!("p/{name}"), "long");
    }
    let ran = shop.run(&["copy", "s3://b/p/", &shop.out()]);
    assert_eq!((ran.code, ran.failed().len()), (6, 3), "{}", ran.err);
    assert!(ran.failed().iter().all(|(_, class)| class == "dest_name_invalid"));
    assert!(shop.files().is_empty());
    let alone = shop.run(&["copy", &format!("s3://b/p/{}", "n".repeat(256)), &shop.out()]);
    assert_eq!(alone.code, 28, "{}", alone.err);
    // The longest key of S3 is no problem in parts.
    let key = format!("q/{}/{}/{}/{}", "a".repeat(255), "b".repeat(255), "c".repeat(255), "d".repeat(254));
    assert!(key.len() <= 1024);
    shop.bucket.put(&key, "whole");
    assert_eq!(shop.run(&["copy", "s3://b/q/", &shop.out()]).code, 0);
    assert_eq!(shop.files().into_keys().next().unwrap(), &key.as_bytes()[2..]);
}

// Mutation: paths of one transfer need not differ (the unique index of `store`), or the second overwrites the first.
#[tokio::test(flavor = "multi_thread")]
async fn two_keys_for_one_name_fail_before_anything_is_sent_and_both_are_named() {
    let (shop, server) = (shop().await, SftpServer::builder().start().await.unwrap());
    let partner = sandbox(&server);
    for key in ["p/x/report", "p/y/report", "p/z/other"] {
        shop.bucket.put(key, key);
    }
    let ran = shop.run(&partner.arguments("s3://b/p/", &["--flatten"]));
    assert_eq!(ran.code, 27, "{}", ran.err);
    let said = format!("{} {}", ran.out, ran.err);
    assert!(said.contains("p/x/report") && said.contains("p/y/report"), "{said}");
    assert_eq!(server.recorder().attempts.credentials(), 0);
    assert!(files_below(&server.file("/in")).is_empty());
    assert_eq!(shop.server.bytes_served("p/z/other"), 0);
    // Without the collision the same request works.
    let ran = shop.run(&partner.arguments("s3://b/p/", &["--flatten", "--exclude", "y/**"]));
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(files_below(&server.file("/in")).len(), 2);
}
