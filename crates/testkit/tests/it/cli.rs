//! The sandbox under OpenSSH's own client, which shares no code with it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use testkit::sftp::{Behaviour, SftpServer};

/// Runs commands with OpenSSH's `sftp`; whether it succeeded, and what it said.
pub async fn run(address: SocketAddr, user: &str, key: &Path, known_hosts: &str, commands: &str) -> (bool, String) {
    let home = tempfile::tempdir().unwrap();
    let known_hosts_file = home.path().join("known_hosts");
    std::fs::write(&known_hosts_file, format!("{known_hosts}\n")).unwrap();
    let script = home.path().join("batch");
    std::fs::write(&script, commands).unwrap();
    let output = tokio::process::Command::new("sftp")
        .args(["-q", "-F", "/dev/null", "-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"])
        .args(["-o", "Ciphers=aes128-gcm@openssh.com", "-P", &address.port().to_string()])
        .arg("-o")
        .arg(format!("UserKnownHostsFile={}", known_hosts_file.display()))
        .arg("-i")
        .arg(key)
        .arg("-b")
        .arg(&script)
        .arg(format!("{user}@127.0.0.1"))
        .output()
        .await
        .expect("the sftp client of openssh-client is installed (make setup)");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

async fn batch(server: &SftpServer, commands: &str) -> (bool, String) {
    run(server.address(), server.user(), server.client_key(), &server.known_hosts_line(), commands).await
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|place| (place * 31 + place / 251) as u8).collect()
}

fn write(path: &Path, length: usize) -> Vec<u8> {
    let data = pattern(length);
    std::fs::write(path, &data).unwrap();
    data
}

#[tokio::test]
async fn the_openssh_client_puts_lists_renames_gets_and_removes() {
    let server = SftpServer::builder().in_memory().start().await.unwrap();
    let local = tempfile::tempdir().unwrap();
    let data = write(&local.path().join("a.bin"), 3_000_001);
    let here = local.path().display();
    let (ok, output) = batch(
        &server,
        &format!(
            "mkdir in\ncd in\nput -p {here}/a.bin\nrename a.bin b.bin\nls -l\nln b.bin c.bin\ndf\nget -p b.bin {here}/back.bin\nrm b.bin\nrm c.bin\ncd ..\nrmdir in\nls -la\n"
        ),
    )
    .await;
    assert!(ok, "{output}");
    assert!(output.contains("b.bin") && output.contains("3000001"), "{output}");
    assert_eq!(std::fs::read(local.path().join("back.bin")).unwrap(), data);
    assert_eq!(std::fs::read_dir(server.root()).unwrap().count(), 0);
    assert!(server.recorder().names().contains("/in/b.bin"));
    assert_eq!(server.recorder().bytes_written_to("/in/a.bin"), 3_000_001);
    assert_eq!(server.recorder().open_files.now(), 0);
}

#[tokio::test]
async fn a_big_file_arrives_whole_and_quickly() {
    let server = SftpServer::builder().in_memory().start().await.unwrap();
    let local = tempfile::tempdir().unwrap();
    let data = write(&local.path().join("big"), 64 << 20);
    let begun = Instant::now();
    let (ok, output) = batch(&server, &format!("put {}/big\n", local.path().display())).await;
    let rate = data.len() as f64 / begun.elapsed().as_secs_f64() / 1e6;
    assert!(ok, "{output}");
    println!("{rate:.0} MB/s");
    assert!(std::fs::read(server.file("/big")).unwrap() == data, "the stored file differs");
    assert!(rate > 20.0, "{rate:.0} MB/s is too slow for a demonstration");
}

#[tokio::test]
async fn several_clients_are_served_at_once() {
    let server = SftpServer::builder().in_memory().start().await.unwrap();
    let local = tempfile::tempdir().unwrap();
    let data = write(&local.path().join("f"), 5 << 20);
    let commands: Vec<String> = (0..4).map(|number| format!("put {}/f to-{number}\n", local.path().display())).collect();
    let runs = commands.iter().map(|commands| batch(&server, commands));
    for (ok, output) in futures_util::future::join_all(runs).await {
        assert!(ok, "{output}");
    }
    for number in 0..4 {
        assert!(std::fs::read(server.file(&format!("/to-{number}"))).unwrap() == data);
    }
    assert_eq!(server.recorder().attempts.credentials(), 4);
}

#[tokio::test]
async fn the_client_cannot_leave_the_root() {
    let server = SftpServer::builder().in_memory().start().await.unwrap();
    let (ok, output) = batch(&server, "get ../../../../etc/hostname /dev/null\n").await;
    assert!(!ok, "{output}");
    assert!(output.contains("not found"), "{output}");
}

#[tokio::test]
async fn a_restarted_sandbox_is_still_the_known_host() {
    let state = tempfile::tempdir().unwrap();
    let keys = state.path().join("keys");
    let first = SftpServer::builder().root(state.path().join("files")).keys_in(&keys).start().await.unwrap();
    let fingerprint = first.host_key_fingerprint();
    assert!(fingerprint.starts_with("SHA256:"));
    let port = first.address();
    drop(first);
    assert!(std::net::TcpStream::connect(port).is_err(), "nobody listens after the end");
    let again = SftpServer::builder().root(state.path().join("files")).keys_in(&keys).start().await.unwrap();
    assert_eq!(again.host_key_fingerprint(), fingerprint);
}

#[tokio::test]
async fn a_write_only_server_takes_files_and_gives_none() {
    let server = SftpServer::builder().in_memory().behaviour(Behaviour { write_only: true, ..Behaviour::default() }).start().await.unwrap();
    let local = tempfile::tempdir().unwrap();
    write(&local.path().join("f"), 1000);
    let here = local.path().display();
    let (ok, output) = batch(&server, &format!("put {here}/f\n")).await;
    assert!(ok, "{output}");
    let (ok, _) = batch(&server, &format!("get f {here}/back\n")).await;
    assert!(!ok);
    // The client calls a listing that was denied a success.
    let (_, output) = batch(&server, "ls\n").await;
    assert!(output.contains("ermission denied"), "{output}");
}
