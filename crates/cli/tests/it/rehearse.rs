//! `rehearse`, then `copy` with no flag but trust and credential, on every real server; and what the profile is good for.

use serde_json::Value;
use testkit::ftp::{FtpProgram, FtpServerOptions};
use testkit::s3::Content;
use testkit::sshd::SshdOptions;

use super::shop::*;
use super::sites::*;
use super::*;

const LARGE: u64 = 30 << 20;

impl Site {
    /// The profile that a rehearsal finds; nothing may be left behind.
    fn rehearse(&self, shop: &Shop) -> Value {
        let ran = self.run(shop, &["rehearse", &self.url]);
        assert_eq!(ran.code, 0, "{}: {}", self.name, ran.err);
        assert!(ran.err.contains("writing scratch files"), "{}: {}", self.name, ran.err);
        let profile = ran.objects().pop().unwrap();
        let left: Vec<String> = files_below(&self.disk).into_keys().map(|name| String::from_utf8_lossy(&name).into_owned()).collect();
        assert!(left.is_empty(), "{}: {left:?}", self.name);
        assert_eq!((&profile["type"], &profile["left_behind"]), (&"profile".into(), &serde_json::json!([])), "{}", self.name);
        profile
    }

    /// A prefix with an empty file, small ones and a large one.
    fn deliver(&self, shop: &Shop, grade: &str) {
        shop.bucket.put("p/empty", "");
        for i in 0..5 {
            shop.bucket.put(&format!("p/small/{i}"), Content::generated(i, 1000 + i));
        }
        shop.bucket.put("p/large", Content::generated(9, LARGE));
        let ran = self.run(shop, &["copy", "s3://b/p/", &self.url]);
        assert_eq!(ran.code, 0, "{}: {}\n{}", self.name, ran.err, ran.out);
        let there = files_below(&self.disk);
        let names: Vec<String> = there.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        assert_eq!(names.len(), 7, "{}: {names:?}", self.name);
        let large = shop.bucket.get("p/large").unwrap().read(0..LARGE);
        assert!(there[&b"large"[..]] == large && there[&b"empty"[..]].is_empty(), "{}", self.name);
        let delivered = ran.objects().into_iter().find(|line| line["type"] == "file" && line["source"]["key"] == "p/large");
        assert_eq!(delivered.unwrap()["verification"]["grade"], grade, "{}", self.name);
    }
}

fn verdict(profile: &Value) -> (&str, &str, &str) {
    let part = |name: &str| profile["verdict"][name].as_str().unwrap();
    (part("resumes"), part("atomic_replace"), part("proof"))
}

fn known<'a>(profile: &'a Value, ability: &str) -> &'a str {
    profile["facts"][ability]["known"].as_str().unwrap_or("nothing")
}

// SEMANTICS S42: "`rehearse` and `probe` say which directory they write scratch files into before they do, and remove them
// again; what they could not remove is named."
#[tokio::test(flavor = "multi_thread")]
async fn openssh_needs_no_flag() {
    let Some(site) = openssh(SshdOptions { own_account: true, ..SshdOptions::default() }).await else { return };
    let shop = shop().await;
    let profile = site.rehearse(&shop);
    assert_eq!(verdict(&profile), ("yes", "yes", "read-back"), "{profile:#}");
    assert_eq!((known(&profile, "offset_writes"), known(&profile, "no_clobber"), known(&profile, "set_times")), ("yes", "yes", "yes"));
    assert_eq!((known(&profile, "sync"), known(&profile, "keeps_spaces"), known(&profile, "long_names")), ("yes", "yes", "yes"));
    assert!(profile["free_bytes"].as_u64().unwrap() > 0 && profile["rate"]["bytes"] == 8 << 20, "{profile:#}");
    assert_eq!((&profile["logins"]["granted"], &profile["logins"]["limited"]), (&8.into(), &false.into()));
    site.deliver(&shop, "read-back");
    let shown = shop.home.run(&["profile", "show", &site.url]);
    assert!(shown.out.contains("resumes: yes · atomic replace: yes · proof: read-back · 1 TB ≈ "), "{}", shown.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn vsftpd_needs_no_flag_in_clear_text_and_with_tls() {
    let reused = FtpServerOptions { require_session_reuse: true, ..explicit() };
    for (options, tls) in [(FtpServerOptions::default(), false), (reused, true), (implicit(), true)] {
        let Some(site) = ftp(FtpProgram::Vsftpd, options).await else { return };
        let shop = shop().await;
        let profile = site.rehearse(&shop);
        assert_eq!(verdict(&profile), ("yes", "yes", "read-back"), "{}: {profile:#}", site.name);
        assert_eq!((known(&profile, "continues"), known(&profile, "set_times")), ("yes", "yes"), "{}: {profile:#}", site.name);
        assert_eq!(profile["details"]["tls"].is_string(), tls, "{}: {profile:#}", site.name);
        site.deliver(&shop, "read-back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_box_is_known_for_one() {
    let Some(site) = ftp(FtpProgram::Vsftpd, FtpServerOptions { write_only: true, ..FtpServerOptions::default() }).await else { return };
    let shop = shop().await;
    let profile = site.rehearse(&shop);
    assert_eq!((known(&profile, "read"), known(&profile, "list"), verdict(&profile).2), ("no", "no", "size"), "{profile:#}");
    let settings: Vec<&str> = profile["findings"].as_array().unwrap().iter().filter_map(|f| f["setting"].as_str()).collect();
    assert!(settings.iter().any(|text| text.contains("download_enable=YES")), "{settings:?}");
    site.deliver(&shop, "size");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_logins_are_found_and_not_exceeded() {
    let Some(site) = ftp(FtpProgram::Vsftpd, FtpServerOptions { max_per_ip: Some(2), ..FtpServerOptions::default() }).await else { return };
    let shop = shop().await;
    let profile = site.rehearse(&shop);
    assert_eq!((&profile["logins"]["granted"], &profile["logins"]["limited"]), (&2.into(), &true.into()), "{profile:#}");
    shop.bucket.put("many/x", "");
    for i in 0..60 {
        shop.bucket.put(&format!("many/{i}"), Content::generated(i, 50_000));
    }
    let ran = site.run(&shop, &["copy", "s3://b/many/", &site.url]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("it grants 2 login(s) at once"), "{}", ran.err);
    assert!(!ran.err.contains("going on with these"), "more logins were tried: {}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn proftpd_needs_no_flag_and_its_defaults_are_named() {
    let permissive = |options: FtpServerOptions| FtpServerOptions { permissive: true, ..options };
    let cases = [
        (FtpServerOptions::default(), ("no", "no", "server-hash")),
        (explicit(), ("no", "no", "server-hash")),
        (permissive(FtpServerOptions::default()), ("yes", "yes", "server-hash")),
        (permissive(explicit()), ("yes", "yes", "server-hash")),
        (implicit(), ("no", "no", "server-hash")),
    ];
    for (options, wanted) in cases {
        let strict = !options.permissive;
        let Some(site) = ftp(FtpProgram::Proftpd, options).await else { return };
        let shop = shop().await;
        let profile = site.rehearse(&shop);
        assert_eq!(verdict(&profile), wanted, "{}: {profile:#}", site.name);
        let findings = profile["findings"].to_string();
        assert_eq!(findings.contains("AllowStoreRestart on"), strict, "{}: {findings}", site.name);
        site.deliver(&shop, "server-hash");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pure_ftpd_needs_no_flag_and_its_names_are_known() {
    for options in [FtpServerOptions::default(), explicit()] {
        let Some(site) = ftp(FtpProgram::PureFtpd, options).await else { return };
        let shop = shop().await;
        let profile = site.rehearse(&shop);
        assert_eq!(verdict(&profile), ("yes", "yes", "read-back"), "{}: {profile:#}", site.name);
        assert_eq!((known(&profile, "keeps_spaces"), known(&profile, "keeps_case")), ("no", "yes"), "{profile:#}");
        site.deliver(&shop, "read-back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pyftpdlib_needs_no_flag_in_clear_text_and_with_tls() {
    for options in [FtpServerOptions::default(), explicit(), implicit()] {
        let tls = options.tls();
        let Some(site) = ftp(FtpProgram::Pyftpdlib, options).await else { return };
        let shop = shop().await;
        let profile = site.rehearse(&shop);
        let newer = if tls { "yes" } else { "nothing" };
        assert_eq!((profile["details"]["tls"] == "TLS 1.2", known(&profile, "tls_1_3")), (tls, newer), "{}: {profile:#}", site.name);
        assert_eq!(verdict(&profile), ("yes", "yes", "read-back"), "{}: {profile:#}", site.name);
        site.deliver(&shop, "read-back");
    }
}

// SEMANTICS S43: "What is known of a server makes a copy careful and never wrong: only refusals are believed, each for a
// bounded time, and a refusal that would fail the copy is tried once more before it does."
#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_rename_fails_before_a_byte_is_sent_and_may_change_its_mind() {
    let denying = || SshdOptions { own_account: true, ..SshdOptions::denying(&["rename", "posix-rename", "hardlink"]) };
    let Some(site) = openssh(denying()).await else { return };
    let shop = shop().await;
    let profile = site.rehearse(&shop);
    assert_eq!((known(&profile, "rename"), verdict(&profile).1), ("no", "no"), "{profile:#}");
    shop.bucket.put("p/large", Content::generated(9, LARGE));
    let ran = site.run(&shop, &["copy", "s3://b/p/large", &site.url]);
    assert_eq!((ran.code, ran.failed()), (7, vec![("p/large".to_owned(), "dest_publish_failed".to_owned())]), "{}", ran.err);
    assert_eq!(ran.summary()["bytes_sent"], 0, "{}", ran.out);
    assert!(ran.err.contains("--publish in-place") && ran.err.contains("this server refused a rename on"), "{}", ran.err);
    assert!(ran.err.contains("sftp-server denies (-P)"), "{}", ran.err);
    assert!(files_below(&site.disk).is_empty());
    let id = ran.summary()["transfer_id"].as_str().unwrap().to_owned();
    let explained = shop.home.run(&["explain", &id]);
    assert!(explained.out.contains("this server refused a rename on"), "{}", explained.out);

    // The same place, now with renames: a server of the test that allows them is known as the one that did not.
    let forgotten = shop.home.run(&["profile", "forget", &site.url]);
    assert!(forgotten.code == 0 && forgotten.out.contains("forgotten"), "{}", forgotten.err);
    let ran = site.run(&shop, &["copy", "s3://b/p/large", &site.url]);
    assert_eq!(ran.code, 7, "{}", ran.err);
    assert!(ran.summary()["bytes_sent"].as_u64().unwrap() > 0, "nothing was known, so it was found out: {}", ran.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_writes_little_and_read_only_writes_nothing() {
    let Some(site) = openssh(SshdOptions { own_account: true, ..SshdOptions::default() }).await else { return };
    let shop = shop().await;
    // A directory that nobody may write into shows whether something was tried.
    let read_only = site.run(&shop, &["probe", &site.url, "--read-only"]);
    assert_eq!(read_only.code, 0, "{}", read_only.err);
    assert!(read_only.err.contains("nothing is written"), "{}", read_only.err);
    let profile = read_only.objects().pop().unwrap();
    assert_eq!((known(&profile, "write"), known(&profile, "list"), known(&profile, "replace")), ("nothing", "yes", "unknown"));
    let probed = site.run(&shop, &["probe", &site.url]).objects().pop().unwrap();
    assert_eq!((known(&probed, "write"), known(&probed, "replace"), known(&probed, "resumes")), ("yes", "yes", "nothing"));
    assert!(files_below(&site.disk).is_empty());
    let missing = site.run(&shop, &["probe", &site.url, "--dir", "no-such-directory"]);
    assert_eq!(missing.code, 3, "{}", missing.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_what_is_known_of_the_server() {
    let Some(site) = ftp(FtpProgram::Proftpd, FtpServerOptions::default()).await else { return };
    let shop = shop().await;
    shop.bucket.put("p/a", "a");
    let dry_run = ["copy", "s3://b/p/", &site.url, "--dry-run"];
    let ran = site.run(&shop, &dry_run);
    assert!(
        ran.code == 0 && ran.err.contains(&format!("nothing is known of this server yet; `fileferry rehearse {}`", site.url)),
        "{}",
        ran.err
    );
    assert!(ran.objects()[0]["known"].is_null() && !shop.home.state().join("fileferry.db").exists(), "{}", ran.out);
    site.rehearse(&shop);
    let ran = site.run(&shop, &dry_run);
    let known = &ran.objects()[0]["known"];
    assert_eq!((&known["resumes"], &known["atomic_replace"], &known["by"]), (&"no".into(), &"no".into(), &"rehearse".into()), "{known}");
    assert_eq!((&known["proof"], &known["connections"]), (&"server-hash".into(), &2.into()), "{known}");
    assert!(ran.err.contains(": resumes: no · atomic replace: no · proof of the largest file: server-hash"), "{}", ran.err);
    assert!(ran.err.contains("would start over") && ran.err.contains("AllowStoreRestart on"), "{}", ran.err);
    let insisting = site.run(&shop, &[&dry_run[..], &["--connections", "1", "--verify", "read-back"]].concat());
    let known = &insisting.objects()[0]["known"];
    assert_eq!((&known["proof"], &known["connections"]), (&"read-back".into(), &1.into()), "{known}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_letter_has_key_fingerprint_and_settings() {
    let denying = SshdOptions { own_account: true, ..SshdOptions::denying(&["rename", "posix-rename", "hardlink"]) };
    let Some(site) = openssh(denying).await else { return };
    let shop = shop().await;
    let file = shop.home.path("letter.txt");
    let ran = site.run(&shop, &["probe", &site.url, "--letter", text(&file)]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let letter = std::fs::read_to_string(&file).unwrap();
    let flat = letter.split_whitespace().collect::<Vec<_>>().join(" ");
    let key = std::fs::read_to_string(format!("{}.pub", site.trust[1])).unwrap();
    let key = key.split_whitespace().nth(1).unwrap();
    for part in [key, &site.trust[3], "127.0.0.1", "posix-rename out of the requests", "by telephone"] {
        assert!(flat.contains(part), "{part}: {letter}");
    }
    assert!(!letter.contains("PRIVATE"));
    assert_eq!(site.run(&shop, &["probe", &site.url, "--letter", "-"]).code, 1, "two things for stdout");
}
