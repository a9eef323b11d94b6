//! The sandbox as an able and honest FTP server: every command, in clear text and over TLS.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use testkit::ftp_sandbox::{DataEnd, Event, FtpServer, Security};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::ftp_raw::{Raw, close, connector};

async fn server(security: Security) -> FtpServer {
    FtpServer::builder().security(security).start().await.unwrap()
}

pub fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 256) as u8).collect()
}

#[tokio::test]
async fn files_go_up_come_back_and_change_their_names() {
    let server = server(Security::Clear).await;
    let mut raw = Raw::login(&server).await;
    let sent = content(300_000);
    raw.store("a.part", &sent).await;
    assert_eq!(raw.ask("SIZE a.part", 213).await, "213 300000");
    assert!(raw.get("RETR a.part").await == sent);
    raw.ask("RNFR a.part", 350).await;
    raw.ask("RNTO /a", 250).await;
    raw.ask("SIZE a.part", 550).await;
    raw.ask("REST 299000", 350).await;
    assert!(raw.get("RETR a").await == sent[299_000..]);
    assert!(std::fs::read(server.file("/a")).unwrap() == sent);
    raw.ask("DELE a", 250).await;
    raw.ask("DELE a", 550).await;
    raw.ask("AUTH TLS", 500).await;
    raw.ask("QUIT", 221).await;
    assert!(raw.is_over().await);
    let seen = server.recorder().data();
    assert_eq!((seen[0].verb.as_str(), seen[0].bytes, seen[0].end, seen[0].path.as_str()), ("STOR", 300_000, DataEnd::Fin, "/a.part"));
    assert_eq!((seen[1].verb.as_str(), seen[1].bytes), ("RETR", 300_000));
    let commands = server.recorder().commands();
    assert_eq!(commands[..3], ["USER partner", "PASS ***", "TYPE I"]);
    assert!(!format!("{:?}", server.recorder().events()).contains(server.password()));
    assert_eq!(server.recorder().clear_passwords.load(std::sync::atomic::Ordering::SeqCst), 1);
    server.recorder().wait(Duration::from_secs(5), |event| matches!(event, Event::Closed { .. })).await.unwrap();
    assert_eq!((server.recorder().connections.now(), server.recorder().logins.now()), (0, 0));
}

#[tokio::test]
async fn both_kinds_of_tls_protect_both_connections() {
    for security in [Security::Explicit, Security::Implicit] {
        for (versions, name) in [(&[&rustls::version::TLS12], "1.2"), (&[&rustls::version::TLS13], "1.3")] {
            let server = server(security).await;
            let mut raw = Raw::secure_login(&server, connector(&server, versions, true)).await;
            let sent = content(200_000);
            for number in 0..5 {
                raw.store(&format!("f{number}"), &sent).await;
                assert!(std::fs::read(server.file(&format!("f{number}"))).unwrap() == sent);
            }
            assert!(raw.get("RETR f3").await == sent, "{security:?} {name}");
            let seen = server.recorder().data();
            assert!(seen.iter().all(|data| data.tls.as_ref().is_some_and(|tls| tls.version == name && tls.resumed)), "{seen:?}");
            assert!(seen[..5].iter().all(|data| data.end == DataEnd::CloseNotify && data.bytes == 200_000), "{seen:?}");
            assert_eq!(server.recorder().clear_passwords.load(std::sync::atomic::Ordering::SeqCst), 0);
        }
    }
}

#[tokio::test]
async fn the_fingerprint_is_that_of_the_certificate() {
    use sha2::Digest;
    let directory = tempfile::tempdir().unwrap();
    let start = || FtpServer::builder().certificates_in(directory.path()).security(Security::Implicit).start();
    let server = start().await.unwrap();
    let first = server.fingerprint().to_owned();
    let tcp = TcpStream::connect(server.address()).await.unwrap();
    let tls = connector(&server, rustls::ALL_VERSIONS, true).connect("127.0.0.1".try_into().unwrap(), tcp).await.unwrap();
    let shown = tls.get_ref().1.peer_certificates().unwrap()[0].clone();
    let digest = data_encoding::BASE64_NOPAD.encode(&sha2::Sha256::digest(&shown));
    assert_eq!(first, format!("SHA256:{digest}"));
    drop(server);
    assert_eq!(start().await.unwrap().fingerprint(), first);
}

#[tokio::test]
async fn names_are_bytes_and_stay_below_the_root() {
    let server = server(Security::Clear).await;
    let mut raw = Raw::login(&server).await;
    for name in [&b" lead"[..], b"trail ", b"tab\there", b"back\\slash", b"~t", b"latin\xe9", b"quo\"te", b"d\xc3\xa9"] {
        raw.put([b"STOR ", name].concat(), b"x").await;
        raw.expect(226).await;
        assert!(server.root().join(std::ffi::OsStr::from_bytes(name)).exists(), "{name:?}");
        raw.ask([b"SIZE ", name].concat(), 213).await;
    }
    let listing = raw.get("MLSD").await;
    assert!(listing.windows(8).any(|window| window == b" latin\xe9\r"), "{}", String::from_utf8_lossy(&listing));
    raw.ask("RETR ../../../../etc/passwd", 550).await;
    std::os::unix::fs::symlink("/etc", server.root().join("out")).unwrap();
    raw.ask("SIZE out/passwd", 550).await;
    raw.ask("CWD out", 550).await;
    raw.ask(format!("SIZE {}", "n".repeat(300)), 553).await;
}

#[tokio::test]
async fn directories_are_made_entered_listed_and_removed() {
    let server = server(Security::Clear).await;
    let mut raw = Raw::login(&server).await;
    assert_eq!(raw.ask("MKD in \"box\"", 257).await, "257 \"/in \"\"box\"\"\" created");
    raw.ask("CWD in \"box\"", 250).await;
    assert_eq!(raw.ask("PWD", 257).await, "257 \"/in \"\"box\"\"\" is the current directory");
    raw.store("one", b"12345").await;
    raw.ask("MFMT 20260102030405 one", 213).await;
    assert_eq!(raw.ask("MDTM one", 213).await, "213 20260102030405");
    raw.ask("SITE CHMOD 640 one", 200).await;
    let listed = String::from_utf8(raw.get("MLSD").await).unwrap();
    assert_eq!(listed, "type=file;size=5;modify=20260102030405;UNIX.mode=0640; one\r\n");
    let listed = String::from_utf8(raw.get("LIST -la").await).unwrap();
    assert!(listed.starts_with("-rw-r-----") && listed.ends_with(" one\r\n"), "{listed}");
    assert_eq!(raw.get("NLST").await, b"one\r\n");
    raw.send("MLST one").await;
    assert_eq!(raw.expect(250).await[1], " type=file;size=5;modify=20260102030405;UNIX.mode=0640; /in \"box\"/one");
    let mode = std::fs::metadata(server.file("in \"box\"/one")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    raw.ask("CWD /", 250).await;
    raw.ask("RMD in \"box\"", 550).await;
    raw.ask("DELE in \"box\"/one", 250).await;
    raw.ask("RMD in \"box\"", 250).await;
    raw.ask("RMD /", 550).await;
}

#[tokio::test]
async fn an_upload_goes_on_where_it_ended() {
    let server = server(Security::Clear).await;
    let mut raw = Raw::login(&server).await;
    raw.store("f", b"0123456789").await;
    raw.ask("REST 4", 350).await;
    raw.put("STOR f", b"ab").await;
    raw.expect(226).await;
    assert_eq!(std::fs::read(server.file("f")).unwrap(), b"0123ab6789");
    raw.ask("REST 11", 350).await;
    raw.ask("STOR f", 554).await;
    raw.ask("APPE f", 550).await;
}

#[tokio::test]
async fn text_mode_is_the_default_and_changes_the_bytes() {
    let server = server(Security::Clear).await;
    let mut raw = Raw::connect(&server).await;
    raw.expect(220).await;
    raw.ask("SIZE x", 530).await;
    raw.log_in(&server).await;
    raw.ask("TYPE A", 200).await;
    raw.store("f", b"a\r\nb\r\n").await;
    assert_eq!(std::fs::read(server.file("f")).unwrap(), b"a\nb\n");
    raw.ask("SIZE f", 550).await;
}

#[tokio::test]
async fn digests_and_free_space_are_told() {
    let server = server(Security::Clear).await;
    server.change(|behaviour| behaviour.capacity = Some(1000));
    let mut raw = Raw::login(&server).await;
    raw.store("f", b"abc").await;
    let sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(raw.ask("HASH f", 213).await, format!("213 SHA-256 0-2 {sha} f"));
    assert_eq!(raw.ask("XSHA256 f", 250).await, format!("250 {sha}"));
    assert_eq!(raw.ask("XMD5 f", 250).await, "250 900150983cd24fb0d6963f7d28e17f72");
    assert_eq!(raw.ask("XCRC f", 250).await, "250 352441c2");
    raw.ask("OPTS HASH MD5", 200).await;
    assert!(raw.ask("HASH f", 213).await.starts_with("213 MD5 0-2 9001"));
    assert_eq!(raw.ask("AVBL /", 213).await, "213 997");
    raw.send("FEAT").await;
    let features = raw.expect(211).await.join("\n");
    for feature in [" UTF8", " EPSV", " SIZE", " REST STREAM", " MLST type*;", " HASH SHA-256*;", " MFMT", " AVBL"] {
        assert!(features.contains(feature), "{features}");
    }
}

#[tokio::test]
async fn data_comes_by_any_of_the_four_ways() {
    let server = server(Security::Clear).await;
    let mut raw = Raw::login(&server).await;
    raw.store("f", b"abc").await;
    let line = raw.ask("PASV", 227).await;
    let numbers: Vec<u16> =
        line[line.find('(').unwrap() + 1..line.find(')').unwrap()].split(',').map(|number| number.parse().unwrap()).collect();
    assert_eq!(numbers[..4], [127, 0, 0, 1]);
    let mut data = TcpStream::connect(("127.0.0.1", numbers[4] * 256 + numbers[5])).await.unwrap();
    raw.send("RETR f").await;
    raw.expect(150).await;
    let mut got = Vec::new();
    data.read_to_end(&mut got).await.unwrap();
    raw.expect(226).await;
    assert_eq!(got, b"abc");
    for verb in ["PORT", "EPRT"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let argument = if verb == "PORT" { format!("127,0,0,1,{},{}", port / 256, port % 256) } else { format!("|1|127.0.0.1|{port}|") };
        raw.ask(format!("{verb} {argument}"), 200).await;
        raw.send("RETR f").await;
        let (mut data, _) = listener.accept().await.unwrap();
        raw.expect(150).await;
        let mut got = Vec::new();
        data.read_to_end(&mut got).await.unwrap();
        raw.expect(226).await;
        assert_eq!(got, b"abc");
    }
    raw.ask("PORT 10,0,0,1,4,4", 500).await;
    raw.ask("RETR f", 425).await;
}

#[tokio::test]
async fn an_aborted_transfer_is_told_twice_and_the_session_goes_on() {
    let server = server(Security::Clear).await;
    let mut raw = Raw::login(&server).await;
    let mut data = raw.data("STOR f").await;
    data.write_all(b"abc").await.unwrap();
    raw.send(b"\xff\xf4\xff\xf2ABOR").await;
    raw.expect(426).await;
    raw.expect(226).await;
    raw.store("g", b"abc").await;
}

#[tokio::test]
async fn commands_sent_ahead_are_answered_in_order() {
    let server = server(Security::Clear).await;
    let mut raw = Raw::login(&server).await;
    raw.send("PWD\r\nSYST\r\nNOOP\r\nSIZE none").await;
    for code in [257, 215, 200, 550] {
        raw.expect(code).await;
    }
    let mut data = raw.data("STOR f").await;
    raw.send("SIZE f\r\nPWD").await;
    assert!(raw.hears_nothing().await);
    data.write_all(b"abc").await.unwrap();
    close(data).await;
    for code in [226, 213, 257] {
        raw.expect(code).await;
    }
}

#[tokio::test]
async fn dropping_the_server_ends_every_connection() {
    let server = server(Security::Clear).await;
    let mut raw = Raw::login(&server).await;
    let mut other = Raw::login(&server).await;
    let mut data = other.data("STOR f").await;
    let (address, root) = (server.address(), server.root().to_owned());
    drop(server);
    assert!(raw.is_over().await && other.is_over().await);
    assert!(data.read(&mut [0]).await.map_or(true, |read| read == 0));
    assert!(TcpStream::connect(address).await.is_err());
    assert!(!root.exists());
}
