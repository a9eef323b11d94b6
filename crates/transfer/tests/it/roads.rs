//! Other roads than the direct one: proxies before SFTP and FTP, and jump hosts, on real servers.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use model::{ProxyAddress, RemotePath};
use testkit::forward::{ForwardOptions, ForwardProxy, Manner};
use testkit::ftp::{FtpProgram, FtpSecurity, FtpServerOptions, FtpTlsVersion};
use testkit::proxy::{Direction, FaultProxy};
use testkit::sshd::{Sshd, SshdOptions};
use transfer::error::chain;
use transfer::ftp::FtpConnector;
use transfer::road::Proxy;
use transfer::sftp::{InlineKey, Secret, SftpConfig, SftpConnector};
use transfer::{Connection, Connector, CreateOptions, ErrorKind, OpenMode};

use crate::ftp;
use crate::servers::{or_skip, sshd_config};

/// Nobody resolves it but the proxy of these tests (RFC 2606).
const NAME: &str = "partner.invalid";
const KINDS: [&str; 3] = ["socks5", "socks5h", "http"];
const NEW: CreateOptions = CreateOptions { mode: OpenMode::CreateNew, read: true, permissions: None };

fn proxy_at(scheme: &str, login: &str, forward: &ForwardProxy) -> Option<Proxy> {
    let (address, password) = ProxyAddress::parse(&format!("{scheme}://{login}{}", forward.address())).unwrap();
    Some(Proxy { address, password })
}

async fn forward(login: bool, manner: Manner) -> ForwardProxy {
    let login = login.then(|| ("ann".to_owned(), "hush:@".to_owned()));
    let names = HashMap::from([(NAME.to_owned(), Ipv4Addr::LOCALHOST)]);
    ForwardProxy::start(ForwardOptions { login, names, manner }).await.unwrap()
}

async fn put(connection: &dyn Connection, path: &RemotePath, bytes: &Bytes) -> transfer::Result<()> {
    let writer = connection.open(path, NEW).await?;
    for (index, block) in bytes.chunks(1 << 20).enumerate() {
        writer.write_at((index as u64) << 20, bytes.slice_ref(block)).await?;
    }
    writer.close().await
}

fn in_directory(server: &Sshd, name: &str) -> RemotePath {
    RemotePath::from_user(server.directory().join(name).to_str().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sftp_goes_through_every_kind_of_proxy() {
    let Some(server) = or_skip(Sshd::start(SshdOptions::default()).await) else { return };
    let bytes = Bytes::from(ftp::pattern(3_000_001));
    let port = server.address().port();
    for (number, kind) in KINDS.into_iter().enumerate() {
        for login in [false, true] {
            let forward = forward(login, Manner::Honest).await;
            let mut config = sshd_config(&server);
            config.proxy = proxy_at(kind, if login { "ann:hush%3A%40@" } else { "" }, &forward);
            let target = if kind == "socks5" { format!("127.0.0.1:{port}") } else { format!("{NAME}:{port}") };
            if kind != "socks5" {
                config.endpoint.host = NAME.to_owned();
                config.host_key_pins = vec![server.host_key_fingerprint()];
            }
            let connection = SftpConnector::new(config).connect().await.unwrap_or_else(|e| panic!("{kind} {login}: {}", chain(&e)));
            let name = format!("f{number}{login}");
            put(&*connection, &in_directory(&server, &name), &bytes).await.unwrap();
            assert!(std::fs::read(server.directory().join(&name)).unwrap() == bytes, "{kind}");
            assert_eq!(forward.targets(), [target], "{kind}");
            let notes = connection.identity().notes.join("; ");
            assert!(notes.contains(&format!("through the proxy {kind}://")) && !notes.contains("hush"), "{notes}");
            connection.close().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ftp_takes_the_same_proxy_for_its_data_and_resumes_its_sessions() {
    let bytes = Bytes::from(ftp::pattern(300_000));
    for (program, version) in [(FtpProgram::Vsftpd, FtpTlsVersion::Only12), (FtpProgram::Proftpd, FtpTlsVersion::Only13)] {
        let options = FtpServerOptions {
            security: FtpSecurity::Explicit { required: true },
            tls_version: version,
            require_session_reuse: true,
            ..FtpServerOptions::default()
        };
        let Some(server) = ftp::start(program, options).await else { continue };
        let port = server.address().port();
        for kind in KINDS {
            let forward = forward(true, Manner::Honest).await;
            let mut config = ftp::config(&server);
            config.proxy = proxy_at(kind, "ann:hush%3A%40@", &forward);
            if kind != "socks5" {
                config.endpoint.host = NAME.to_owned();
                config.tls.ca_files.clear();
                config.tls.pins = vec![server.certificate().unwrap().fingerprint.clone()];
            }
            let connection = FtpConnector::new(config).unwrap().connect().await.unwrap_or_else(|e| panic!("{kind}: {}", chain(&e)));
            for number in 0..3 {
                let name = format!("{kind}-{number}");
                let sent = put(&*connection, &ftp::path(&server, &name), &bytes).await;
                sent.unwrap_or_else(|e| panic!("{program:?} {kind}: {}", chain(&e)));
                assert!(std::fs::read(server.root().join(&name)).unwrap() == bytes, "{program:?} {kind}");
            }
            let (host, targets) = (if kind == "socks5" { "127.0.0.1" } else { NAME }, forward.targets());
            assert_eq!(targets[0], format!("{host}:{port}"));
            let data = targets.iter().filter(|target| !target.ends_with(&format!(":{port}"))).count();
            assert!(data >= 3 && targets.iter().all(|target| target.starts_with(&format!("{host}:"))), "{targets:?}");
            connection.close().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_misbehaves_is_named_and_never_waited_for() {
    let Some(server) = or_skip(Sshd::start(SshdOptions::default()).await) else { return };
    for kind in ["socks5h", "http"] {
        for (manner, word) in [
            (Manner::Silent, "did not open the way"),
            (Manner::Endless, if kind == "http" { "did not come to an end" } else { "did not open the way" }),
            (Manner::WrongVersion, "does not speak"),
            (Manner::HangsUp, "closed the connection"),
        ] {
            let forward = forward(false, manner).await;
            let mut config = sshd_config(&server);
            config.proxy = proxy_at(kind, "ann:hush@", &forward);
            config.endpoint.host = NAME.to_owned();
            config.connect_timeout = Duration::from_secs(1);
            let begun = Instant::now();
            let error = SftpConnector::new(config).connect().await.unwrap_err();
            let text = chain(&error);
            assert!(begun.elapsed() < Duration::from_secs(5), "{kind} {manner:?}");
            assert_eq!(error.kind, ErrorKind::DestUnreachable, "{text}");
            assert!(text.contains(word) && text.contains(&format!("the proxy {kind}://ann@")) && !text.contains("hush"), "{text}");
        }
    }
}

/// A refused login at a proxy says nothing about the partner's account, and trying again could lock the one at the proxy.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_refused_by_the_proxy_is_not_the_servers_and_is_not_repeated() {
    let Some(server) = or_skip(Sshd::start(SshdOptions::default()).await) else { return };
    for kind in KINDS {
        let forward = forward(true, Manner::Honest).await;
        let mut config = sshd_config(&server);
        config.proxy = proxy_at(kind, "ann:wrong@", &forward);
        let error = SftpConnector::new(config).connect().await.unwrap_err();
        let text = chain(&error);
        assert_eq!((error.kind, error.is_retryable(), forward.refused_logins()), (ErrorKind::DestUnreachable, false, 1), "{text}");
        assert!(text.contains("refused the login at itself") && !text.contains("wrong"), "{text}");
    }
}

/// A jump host that lets through, and the configuration for it as a host on the way.
async fn jump_host() -> Option<(Sshd, SftpConfig)> {
    let configuration = vec!["AllowTcpForwarding yes".to_owned()];
    let server = or_skip(Sshd::start(SshdOptions { configuration, without_sftp: true, ..SshdOptions::default() }).await)?;
    let config = SftpConfig { jump_host: true, ..sshd_config(&server) };
    Some((server, config))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_reached_through_two_hosts_on_the_way_and_a_proxy_before_them() {
    let Some(server) = or_skip(Sshd::start(SshdOptions::default()).await) else { return };
    let (Some((_first, mut first)), Some((_second, second))) = (jump_host().await, jump_host().await) else { return };
    let forward = forward(false, Manner::Honest).await;
    first.proxy = proxy_at("socks5", "", &forward);
    let mut config = sshd_config(&server);
    config.jumps = vec![first.clone(), second];
    let connection = SftpConnector::new(config).connect().await.unwrap_or_else(|e| panic!("{}", chain(&e)));
    let bytes = Bytes::from(ftp::pattern(40_000_001));
    put(&*connection, &in_directory(&server, "a"), &bytes).await.unwrap();
    assert!(std::fs::read(server.directory().join("a")).unwrap() == bytes);
    assert_eq!(forward.targets(), [format!("127.0.0.1:{}", first.port())]);
    let notes = connection.identity().notes.join("; ");
    assert_eq!(notes.matches("through the jump host 127.0.0.1:").count(), 2, "{notes}");
    connection.close().await.unwrap();
}

/// On a line of 20 ms the windows of the session below must not be what bounds the one above. Mutation: the session with
/// the jump host gets a window of 64 KiB, or its channel buffers one message.
#[tokio::test(flavor = "multi_thread")]
async fn a_jump_host_on_a_long_line_does_not_narrow_it() {
    let Some(server) = or_skip(Sshd::start(SshdOptions::default()).await) else { return };
    let Some((hop, mut way)) = jump_host().await else { return };
    let line = FaultProxy::start(hop.address()).await;
    for direction in [Direction::ToServer, Direction::ToClient] {
        line.latency(direction, Duration::from_millis(10));
    }
    way.host_key_pins = vec![hop.host_key_fingerprint()];
    way.endpoint.port = Some(line.address().port());
    let mut config = sshd_config(&server);
    config.jumps = vec![way];
    let connection = SftpConnector::new(config).connect().await.unwrap();
    let size = 32 << 20;
    let content = Bytes::from(ftp::pattern(size));
    let writer = connection.open(&in_directory(&server, "a"), NEW).await.unwrap();
    let begun = Instant::now();
    let writes = (0..size >> 18).map(|index| writer.write_at((index as u64) << 18, content.slice(index << 18..(index + 1) << 18)));
    futures_util::future::try_join_all(writes).await.unwrap();
    let rate = size as f64 / begun.elapsed().as_secs_f64() / 1e6;
    println!("{rate:.0} MB/s through a jump host 20 ms away");
    // One packet of 32 KiB a round trip would be 1.6 MB/s, a window of 64 KiB twice that; 2 MiB a round trip is 105.
    assert!(rate > 15.0, "{rate} MB/s");
    let reads = (0..size >> 18).map(|index| writer.read_at((index as u64) << 18, 1 << 18));
    let back = futures_util::future::try_join_all(reads).await.unwrap();
    assert!(back.concat() == content);
    writer.close().await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_on_the_way_name_the_host_they_happened_at() {
    let Some(server) = or_skip(Sshd::start(SshdOptions::default()).await) else { return };
    let Some((hop, way)) = jump_host().await else { return };
    let other = format!("SHA256:{}", "A".repeat(43));
    let closed = testkit::process::free_port().unwrap();
    let cases: [(&str, SftpConfig, SftpConfig, ErrorKind); 4] = [
        ("its key", sshd_config(&server), SftpConfig { host_key_pins: vec![other.clone()], ..way.clone() }, ErrorKind::DestHostKey),
        ("its login", sshd_config(&server), SftpConfig { identities: Vec::new(), ..way.clone() }, ErrorKind::DestAuth),
        (
            "behind it",
            {
                let mut config = sshd_config(&server);
                config.endpoint.port = Some(closed);
                config
            },
            way.clone(),
            ErrorKind::DestUnreachable,
        ),
        ("the server's key", SftpConfig { host_key_pins: vec![other], ..sshd_config(&server) }, way.clone(), ErrorKind::DestHostKey),
    ];
    for (what, mut config, way, kind) in cases {
        config.jumps = vec![way];
        let error = SftpConnector::new(config).connect().await.unwrap_err();
        let text = chain(&error);
        assert_eq!(error.kind, kind, "{what}: {text}");
        let named = text.contains(&format!("jump host 127.0.0.1:{}", hop.address().port()));
        assert_eq!(named, what != "the server's key", "{what}: {text}");
    }
}

// Mutation: nobody tells the session above that the one below has ended (`Tunnel::alive`).
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_jump_host_is_a_lost_connection_at_once() {
    let Some(server) = or_skip(Sshd::start(SshdOptions::default()).await) else { return };
    let Some((mut hop, way)) = jump_host().await else { return };
    let mut config = sshd_config(&server);
    config.jumps = vec![way];
    let connection = SftpConnector::new(config).connect().await.unwrap();
    let writer = connection.open(&in_directory(&server, "a"), NEW).await.unwrap();
    writer.write_at(0, Bytes::from(vec![1; 100_000])).await.unwrap();
    assert!(hop.kill_sessions() > 0);
    let begun = Instant::now();
    let error = loop {
        // What fits the buffers on the way is taken; what comes after is not.
        if let Err(error) = writer.write_at(0, Bytes::from(vec![1; 1 << 20])).await {
            break error;
        }
    };
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let text = chain(&error);
    assert!(error.is_connection_lost() && text.contains("jump host 127.0.0.1:"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_in_no_file_logs_in_with_a_certificate_from_elsewhere() {
    let Some(server) = or_skip(Sshd::start(SshdOptions { user_certificate: true, ..SshdOptions::default() }).await) else { return };
    let text = Secret::new(std::fs::read_to_string(server.client_key()).unwrap());
    let mut config = sshd_config(&server);
    config.identities.clear();
    config.inline_keys = vec![InlineKey { name: "of a test".into(), text, passphrase: None }];
    let error = SftpConnector::new(config.clone()).connect().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::DestAuth, "without its certificate: {}", chain(&error));
    config.certificates = vec![server.client_certificate()];
    SftpConnector::new(config).connect().await.unwrap_or_else(|e| panic!("{}", chain(&e)));
}
