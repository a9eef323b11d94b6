//! FTP and FTPS by the program itself: trust, passwords from everywhere, exit codes, receipts.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering::SeqCst;

use testkit::ftp_sandbox::{Behaviour, FtpServer, Security, SessionReuse};
use testkit::s3::Content;

use super::shop::*;
use super::*;

const LARGE: u64 = 9_000_001;

async fn partner(security: Security, behaviour: Behaviour) -> FtpServer {
    let server = FtpServer::builder().security(security).behaviour(behaviour).start().await.unwrap();
    std::fs::create_dir_all(server.file("/in")).unwrap();
    server
}

fn url(scheme: &str, server: &FtpServer) -> String {
    format!("{scheme}://{}@127.0.0.1:{}/in/", server.user(), server.address().port())
}

fn strict() -> Behaviour {
    Behaviour { session_reuse: SessionReuse::Required(522), tls_required: true, ..Behaviour::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_goes_to_a_strict_partner_by_authority_and_by_pin() {
    for (scheme, security) in [("ftpes", Security::Explicit), ("ftps", Security::Implicit)] {
        let shop = shop().await;
        let server = partner(security, strict()).await;
        shop.bucket.put("p/large", Content::generated(1, LARGE));
        for i in 0..20 {
            shop.bucket.put(&format!("p/small/{i}"), Content::generated(i, 100 + i));
        }
        let to = url(scheme, &server);
        let pin = server.fingerprint().to_owned();
        for (trust, into) in [(["--ca-file", text(server.authority())], "ca/"), (["--tls-pin", &pin], "pin/")] {
            let to = format!("{to}{into}");
            let arguments = [&["copy", "s3://b/p/", &to, "--mkdir", "--password-from", "env:SECRET"][..], &trust[..]].concat();
            let mut command = shop.command(&arguments);
            command.env("SECRET", server.password());
            let ran = ended(shop.start(command));
            assert_eq!(ran.code, 0, "{scheme} {into}: {}", ran.err);
            let there = files_below(&server.file(&format!("/in/{into}")));
            assert_eq!(there.len(), 21, "{scheme} {into}");
            assert_eq!(there[&b"large"[..]].len() as u64, LARGE);
            let delivered = ran.objects().into_iter().find(|line| line["type"] == "file" && line["status"] == "delivered").unwrap();
            assert_eq!(delivered["destination"]["host_key"], pin.as_str());
            assert!(!ran.out.contains(server.password()) && !ran.err.contains(server.password()));
        }
        assert_eq!(server.recorder().clear_passwords.load(SeqCst), 0);
    }
}

// B6. Mutation: the certificate is not judged (`Trust`), or USER is sent before AUTH.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_trusted_gets_no_password_and_the_exit_code_is_23() {
    let shop = shop().await;
    shop.bucket.put("a", "content");
    let server = partner(Security::Explicit, strict()).await;
    let other = format!("SHA256:{}", "A".repeat(43));
    for trust in [&[][..], &["--tls-pin", &other]] {
        let to = url("ftpes", &server);
        let mut command = shop.command(&[&["copy", "s3://b/a", &to, "--password-from", "env:SECRET"][..], trust].concat());
        command.env("SECRET", server.password());
        let ran = ended(shop.start(command));
        assert_eq!(ran.code, 23, "{}", ran.err);
        assert!(ran.err.contains("--tls-pin") && ran.err.contains(server.fingerprint()), "{}", ran.err);
        assert_eq!(server.recorder().passwords.load(SeqCst), 0);
    }
    // A server without TLS: nothing falls back to clear text.
    let server = partner(Security::Clear, Behaviour::default()).await;
    let mut command = shop.command(&["copy", "s3://b/a", &url("ftpes", &server), "--password-from", "env:SECRET"]);
    command.env("SECRET", server.password());
    let ran = ended(shop.start(command));
    assert_eq!((ran.code, server.recorder().passwords.load(SeqCst)), (23, 0), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn clear_text_works_is_warned_about_and_stands_on_the_receipt() {
    let shop = shop().await;
    shop.bucket.put("a", "content");
    let server = partner(Security::Clear, Behaviour::default()).await;
    let netrc = shop.home.path(".netrc");
    std::fs::write(&netrc, format!("machine 127.0.0.1 login {} password {}\n", server.user(), server.password())).unwrap();
    std::fs::set_permissions(&netrc, std::fs::Permissions::from_mode(0o600)).unwrap();
    let ran = shop.run(&["copy", "s3://b/a", &url("ftp", &server)]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("clear text") && ran.err.contains("ftpes://"), "{}", ran.err);
    let delivered = ran.objects().into_iter().find(|line| line["type"] == "file").unwrap();
    assert!(delivered["notes"].to_string().contains("clear text"), "{delivered}");
    assert_eq!(std::fs::read(server.file("/in/a")).unwrap(), b"content");
}

// C5 for FTP. Mutation: `dest_auth` is tried again.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_password_is_sent_once_and_a_missing_one_never() {
    let shop = shop().await;
    shop.bucket.put("a", "content");
    let server = partner(Security::Explicit, strict()).await;
    let to = url("ftpes", &server);
    let authority = text(server.authority());
    let ran = shop.run(&["copy", "s3://b/a", &to, "--ca-file", authority]);
    assert_eq!((ran.code, server.recorder().passwords.load(SeqCst)), (24, 0), "{}", ran.err);
    let mut command = shop.command(&["copy", "s3://b/a", &to, "--ca-file", authority, "--password-from", "env:SECRET"]);
    command.env("SECRET", "wrong");
    let ran = ended(shop.start(command));
    assert_eq!((ran.code, server.recorder().passwords.load(SeqCst)), (24, 1), "{}", ran.err);
}

// E1. Mutation: boundaries are not stored with the checkpoint.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_copy_goes_on_where_the_server_has_the_file() {
    let shop = shop().await;
    let size = 64 << 20;
    shop.bucket.put("a", Content::generated(1, size));
    let server = partner(Security::Explicit, strict()).await;
    let arguments = ["copy", "s3://b/a", &url("ftpes", &server), "--ca-file", text(server.authority()), "--password-from", "env:SECRET"];
    let mut command = shop.command(&arguments);
    command.env("SECRET", server.password());
    let mut child = shop.start(command);
    wait_until("forty megabytes", || server.recorder().bytes_received() > 40 << 20);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!server.file("/in/a").exists());
    let mut command = shop.command(&["resume"]);
    command.env("SECRET", server.password());
    let ran = ended(shop.start(command));
    assert_eq!(ran.code, 0, "{}", ran.err);
    let content = shop.bucket.get("a").unwrap();
    assert!(std::fs::read(server.file("/in/a")).unwrap() == content.read(0..size));
    let again = server.recorder().bytes_received() - size;
    assert!(again <= 32 << 20, "{again} bytes were sent again");
}
