//! The launchers of servers that are not ours.

use testkit::asyncssh::{Asyncssh, AsyncsshOptions};
use testkit::sshd::{HostKeyKind, Sshd, SshdOptions, set_ups};

use crate::cli::run;

async fn batch(server: &Sshd, commands: &str) -> (bool, String) {
    run(server.address(), server.user(), &server.client_key(), &server.known_hosts_lines().join("\n"), commands).await
}

async fn put(server: &Sshd, name: &str) -> (bool, String) {
    batch(server, &format!("put {}/Cargo.toml {name}\n", env!("CARGO_MANIFEST_DIR"))).await
}

fn manifest() -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap()
}

#[tokio::test]
async fn every_set_up_of_openssh_takes_a_file() {
    let runs = set_ups().into_iter().map(async |(name, options)| {
        let server = Sshd::start(options).await.unwrap();
        // Without stat the client has no idea where "a" leads, so the path is whole.
        let (ok, output) = put(&server, &server.directory().join("a").display().to_string()).await;
        let stored = std::fs::read(server.directory().join("a")).unwrap_or_default();
        assert!(stored == manifest(), "{name}: {ok} {output}\n{}", server.log());
        assert!(ok || name == "no stat", "{name}: {output}");
        assert_eq!(server.logins(), 1, "{name}");
    });
    futures_util::future::join_all(runs).await;
}

#[tokio::test]
async fn set_ups_refuse_what_their_name_says() {
    let find = |wanted: &str| set_ups().into_iter().find(|(name, _)| *name == wanted).unwrap().1;
    let server = Sshd::start(find("no rename")).await.unwrap();
    assert!(put(&server, "a").await.0);
    let (ok, output) = batch(&server, "rename a b\n").await;
    assert!(!ok && output.contains("ermission denied"), "{output}");

    let server = Sshd::start(find("write-only directory")).await.unwrap();
    assert!(put(&server, "a").await.0);
    let (_, output) = batch(&server, "ls\n").await;
    assert!(output.contains("ermission denied"), "{output}");

    let server = Sshd::start(find("no extensions")).await.unwrap();
    let (ok, output) = batch(&server, "df\n").await;
    assert!(!ok && output.contains("statvfs@openssh.com"), "{output}");
}

#[tokio::test]
async fn sessions_and_server_are_killed_by_pid_and_come_back_on_the_same_port() {
    let mut server = Sshd::start(SshdOptions::default()).await.unwrap();
    assert!(put(&server, "before").await.0);
    let mut client = tokio::process::Command::new("sftp")
        .args(["-q", "-F", "/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
        .args(["-o", "BatchMode=yes", "-P", &server.address().port().to_string(), "-i"])
        .arg(server.client_key())
        .arg(format!("{}@127.0.0.1", server.user()))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    while server.logins() < 2 {
        tokio::task::yield_now().await;
    }
    assert!(server.kill_sessions() > 0);
    assert!(!client.wait().await.unwrap().success(), "its session is gone");
    assert!(put(&server, "between").await.0, "the listener is still there");
    server.kill_server();
    assert!(!put(&server, "down").await.0);
    server.restart().await.unwrap();
    assert!(put(&server, "after").await.0);
    while !server.sessions().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn certificates_prove_the_host_and_the_user() {
    let options = SshdOptions { host_certificate: true, user_certificate: true, ..SshdOptions::default() };
    let server = Sshd::start(options).await.unwrap();
    let authority = server.certificate_authority_line().unwrap();
    // ssh finds KEY-cert.pub beside KEY by itself.
    let (ok, output) = run(server.address(), server.user(), &server.client_key(), &authority, "pwd\n").await;
    assert!(ok, "{output}\n{}", server.log());
    let (ok, _) = run(server.address(), server.user(), &server.second_client_key(), &authority, "pwd\n").await;
    assert!(!ok, "a key without a certificate is refused");
}

#[tokio::test]
async fn several_host_keys_are_offered() {
    let options = SshdOptions { host_keys: vec![HostKeyKind::Ed25519, HostKeyKind::Ecdsa, HostKeyKind::Rsa], ..SshdOptions::default() };
    let server = Sshd::start(options).await.unwrap();
    let lines = server.known_hosts_lines();
    assert_eq!(lines.len(), 3);
    for line in lines {
        let (ok, output) = run(server.address(), server.user(), &server.client_key(), &line, "pwd\n").await;
        assert!(ok, "{line}: {output}");
    }
}

#[tokio::test]
async fn asyncssh_takes_a_file_and_refuses_posix_rename_when_told() {
    let server = Asyncssh::start(AsyncsshOptions { refuses_posix_rename: true }).await.unwrap();
    let put = format!("put {}/Cargo.toml a\n", env!("CARGO_MANIFEST_DIR"));
    let known = server.known_hosts_line();
    let (ok, output) = run(server.address(), server.user(), &server.client_key(), &known, &put).await;
    assert!(ok, "{output}\n{}", server.log());
    assert_eq!(std::fs::read(server.root().join("a")).unwrap(), manifest());
    let (ok, output) = run(server.address(), server.user(), &server.client_key(), &known, "rename a b\n").await;
    assert!(!ok, "{output}");
}
