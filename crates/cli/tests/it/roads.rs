//! Jump hosts and proxies as a person sets them: ssh_config, flags, exit codes, and what is kept of their passwords.

use testkit::forward::{ForwardOptions, ForwardProxy};
use testkit::s3::Content;
use testkit::sshd::{Sshd, SshdOptions};

use super::shop::*;
use super::*;

const LARGE: u64 = 32 << 20;

async fn started(options: SshdOptions) -> Option<Sshd> {
    match Sshd::start(options).await {
        Ok(server) => Some(server),
        Err(error) => {
            let text = format!("{error:#}");
            let may_skip = std::env::var("FILEFERRY_TESTS_MAY_SKIP").is_ok_and(|value| value == "1");
            assert!(may_skip && text.contains("make setup"), "{text}");
            println!("skipped: {text}");
            None
        }
    }
}

/// A partner and a host on the way to it, both known to the ssh_config of the shop's home.
async fn behind_a_bastion(shop: &Shop) -> Option<(Sshd, Sshd)> {
    let partner = started(SshdOptions::default()).await?;
    let forwarding = SshdOptions { configuration: vec!["AllowTcpForwarding yes".into()], without_sftp: true, ..SshdOptions::default() };
    let bastion = started(forwarding).await?;
    let host = |name: &str, server: &Sshd| {
        let (port, user, key) = (server.address().port(), server.user(), server.client_key());
        format!("Host {name}\n HostName 127.0.0.1\n Port {port}\n User {user}\n IdentityFile {}\n", text(&key))
    };
    let config = format!("{}{}Match originalhost partner\n ProxyJump bastion\n", host("partner", &partner), host("bastion", &bastion));
    shop.home.write(".ssh/config", &config);
    let known = [partner.known_hosts_lines(), bastion.known_hosts_lines()].concat().join("\n");
    shop.home.write(".ssh/known_hosts", &(known + "\n"));
    Some((partner, bastion))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_whose_jump_host_dies_is_resumed_through_it() {
    let shop = shop().await;
    shop.bucket.put("a", Content::generated(1, LARGE));
    let Some((partner, mut bastion)) = behind_a_bastion(&shop).await else { return };
    let to = format!("sftp://partner{}/", text(partner.directory()));
    let arguments = ["copy", "s3://b/a", &to, "--bwlimit", "8M", "--retries", "1"];
    let child = shop.start(shop.command(&arguments));
    let sent = || std::fs::read_dir(partner.directory()).unwrap().any(|file| file.unwrap().metadata().is_ok_and(|m| m.len() > 20 << 20));
    wait_until("twenty megabytes", sent);
    bastion.kill_server();
    let ran = ended(child);
    assert_eq!(ran.code, 5, "{}", ran.err);
    assert!(ran.err.contains("jump host bastion:"), "{}", ran.err);
    bastion.restart().await.unwrap();
    let ran = shop.run(&["resume"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let content = shop.bucket.get("a").unwrap();
    assert!(std::fs::read(partner.directory().join("a")).unwrap() == content.read(0..LARGE));
    let delivered = ran.objects().into_iter().find(|line| line["type"] == "file").unwrap();
    assert!(delivered["bytes_resumed"].as_u64() > Some(0), "{delivered}");
    assert!(delivered["notes"].to_string().contains("through the jump host bastion:"), "{delivered}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jump_host_must_prove_itself_too() {
    let shop = shop().await;
    shop.bucket.put("a", "content");
    let Some((partner, bastion)) = behind_a_bastion(&shop).await else { return };
    let known: Vec<String> = partner.known_hosts_lines();
    // The partner's key under the bastion's name.
    let forged = known[0].replace(&format!(":{}", partner.address().port()), &format!(":{}", bastion.address().port()));
    shop.home.write(".ssh/known_hosts", &format!("{}\n{forged}\n", known[0]));
    let to = format!("sftp://partner{}/", text(partner.directory()));
    let ran = shop.run(&["copy", "s3://b/a", &to]);
    assert_eq!(ran.code, 23, "{}", ran.err);
    assert!(ran.err.contains("jump host bastion:") && ran.err.contains(&bastion.host_key_fingerprint()), "{}", ran.err);
    assert_eq!((bastion.logins(), partner.logins()), (0, 0));
    // Without the way through it the server is reached directly; a flag outweighs ssh_config.
    let ran = shop.run(&["copy", "s3://b/a", &to, "--jump", "none"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let ran = shop.run(&["ls", &to, "--jump", "u:secret@h"]);
    assert!(ran.err.contains("a password never stands there"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_serves_every_command_and_its_password_is_kept_nowhere() {
    const SECRET: &str = "hunter2-not-to-be-seen";
    let shop = shop().await;
    shop.bucket.put("a", "content");
    let server = testkit::sftp::SftpServer::builder().start().await.unwrap();
    let partner = sandbox(&server);
    let login = Some(("ann".to_owned(), SECRET.to_owned()));
    let forward = ForwardProxy::start(ForwardOptions { login, ..ForwardOptions::default() }).await.unwrap();
    let bare = format!("socks5h://ann@{}", forward.address());
    let with_password = format!("http://ann:{SECRET}@{}", forward.address());

    let mut command =
        shop.command(&partner.arguments("s3://b/a", &["--proxy", &bare, "--proxy-password-from", "env:PROXY_SECRET", "-vvv"]));
    command.env("PROXY_SECRET", SECRET);
    let ran = ended(shop.start(command));
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(!ran.out.contains(SECRET) && !ran.err.contains(SECRET));
    assert_eq!(std::fs::read(server.file("/in/a")).unwrap(), b"content");
    assert!(forward.targets().iter().all(|target| *target == server.address().to_string()), "{:?}", forward.targets());

    let asked = forward.targets().len();
    let flags: Vec<&str> = partner.flags.iter().map(String::as_str).collect();
    let ran = shop.run(&[&["ls", &partner.url, "--proxy", &with_password][..], &flags].concat());
    assert!(ran.code == 0 && ran.err.contains("warning: a password in the proxy's URL"), "{}", ran.err);
    assert!(forward.targets().len() > asked && !ran.err.contains(SECRET) && !ran.out.contains(SECRET));

    // A refused login at the proxy leaves the partner's login alone.
    let wrong = with_password.replace("hunter2", "wrong");
    let ran = shop.run(&partner.arguments("s3://b/a", &["--proxy", &wrong, "--resend", "--if-exists", "replace"]));
    assert_eq!((ran.code, forward.refused_logins()), (5, 1), "{}", ran.err);
    assert!(ran.err.contains("refused the login at itself") && !ran.err.contains("wrong-not"), "{}", ran.err);
    let mut command = shop.command(&partner.arguments("s3://b/a", &["--resend", "--if-exists", "replace"]));
    command.env("FILEFERRY_PROXY", &with_password);
    let ran = ended(shop.start(command));
    assert_eq!(ran.code, 0, "{}", ran.err);

    for (name, bytes) in files_below(shop.home.0.path()) {
        assert!(!bytes.windows(SECRET.len()).any(|w| w == SECRET.as_bytes()), "{}", String::from_utf8_lossy(&name));
    }
}

#[test]
fn roads_that_lead_nowhere_are_usage_errors() {
    let home = Home::new();
    for (arguments, word) in [
        (&["copy", "s3://b/k", "ftpes://u@h/in/", "--active", "--proxy", "socks5://p:1"][..], "only connects outwards"),
        (&["copy", "s3://b/k", "ftpes://u@h/in/", "--jump", "b"], "--jump does not fit"),
        (&["ls", "sftp://u@h/in/", "--proxy", "https://u:hush@p:1"], "--proxy: "),
        (&["ls", "sftp://u@h/in/", "--proxy", "p:1"], "write socks5://"),
        (&["ls", "sftp://u@h/in/", "--proxy", "http://p:1", "--proxy-password-from", "hush"], "by reference"),
    ] {
        let ran = home.run(arguments);
        assert_eq!(ran.code, 1, "{arguments:?}: {}", ran.err);
        assert!(ran.err.contains(word) && !ran.err.contains("hush"), "{arguments:?}: {}", ran.err);
    }
    home.write("fileferry.yaml", "copy:\n  proxy: gopher://p:1\n");
    let ran = home.run(&["history"]);
    assert!(ran.code == 1 && ran.err.contains("fileferry.yaml:2: copy.proxy"), "{}", ran.err);
}
