//! FTP servers that answer wrongly, endlessly, in advance or not at all: every wait and every buffer has a bound, the
//! class says what happened, nothing is sent where it must not go, and no answer is taken for another.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::Bytes;
use model::{Endpoint, Protocol, RemotePath};
use testkit::ftp_sandbox::{
    Action, Behaviour, DataStep, Event, FinalReply, FtpServer, Names, Noop, Operation, Passive, Script, Security, Step,
};
use transfer::ftp::{FtpConfig, FtpConnector, Secret};
use transfer::{Connection, Connector, CreateOptions, Error, ErrorKind, OpenMode, Result};

use crate::harness::pattern;

const NEW: CreateOptions = CreateOptions { mode: OpenMode::CreateNew, read: false, permissions: None };
/// What the sockets of a loopback connection may hold beside the client's own memory.
const SOCKETS: u64 = 16 << 20;

async fn server(security: Security, behaviour: Behaviour) -> FtpServer {
    FtpServer::builder().security(security).behaviour(behaviour).start().await.unwrap()
}

async fn clear() -> FtpServer {
    server(Security::Clear, Behaviour::default()).await
}

async fn scripted(script: Script) -> FtpServer {
    FtpServer::builder().security(Security::Clear).script(script).start().await.unwrap()
}

/// Gives up soon.
fn config(server: &FtpServer) -> FtpConfig {
    let protocol = match server.security() {
        Security::Clear => Protocol::Ftp,
        Security::Explicit => Protocol::Ftpes,
        Security::Implicit => Protocol::Ftps,
    };
    let address = server.address();
    let user = Some(server.user().to_owned());
    let mut config = FtpConfig::new(Endpoint { protocol, host: address.ip().to_string(), port: Some(address.port()), user });
    config.password = Some(Secret::new(server.password()));
    config.tls.ca_files = vec![server.authority().to_owned()];
    config.connect_timeout = Duration::from_secs(4);
    config.stall_timeout = Duration::from_secs(1);
    config.reply_timeout = Duration::from_secs(2);
    config
}

fn connector(server: &FtpServer) -> FtpConnector {
    FtpConnector::new(config(server)).unwrap()
}

async fn connected(server: &FtpServer) -> Box<dyn Connection> {
    connector(server).connect().await.unwrap()
}

/// Why there is no session, which must be known within `seconds`.
async fn refusal(server: &FtpServer, seconds: u64) -> Error {
    let connecting = tokio::time::timeout(Duration::from_secs(seconds), async { connector(server).connect().await.map(drop) });
    connecting.await.expect("every wait has a bound").unwrap_err()
}

fn path(name: &str) -> RemotePath {
    RemotePath::root().join(name).unwrap()
}

async fn put(connection: &dyn Connection, name: &str, content: &[u8]) -> Result<()> {
    let writer = connection.open(&path(name), NEW).await?;
    writer.write_at(0, Bytes::copy_from_slice(content)).await?;
    writer.close().await
}

fn is(error: &Error, kind: ErrorKind, what: &str) {
    assert_eq!(error.kind, kind, "{what}: {}", transfer::error::chain(error));
}

/// How much of an endless answer went out before the client hung up.
async fn taken(server: &FtpServer) -> u64 {
    match server.recorder().wait(Duration::from_secs(10), |event| matches!(event, Event::Closed { .. })).await {
        Some(Event::Closed { sent, .. }) => sent,
        _ => panic!("the client did not hang up"),
    }
}

fn repeat(bytes: &'static str, times: u64) -> Step {
    Step::Repeat { bytes: Bytes::from_static(bytes.as_bytes()), times }
}

/// Answers the first operation of this name with `action`, and all others as ever.
fn once(server: &FtpServer, verb: &'static str, action: Action) -> Arc<AtomicBool> {
    let done = Arc::new(AtomicBool::new(false));
    let told = done.clone();
    server.on(move |operation: &Operation| if operation.is(verb) && !told.swap(true, SeqCst) { action.clone() } else { Action::Proceed });
    done
}

#[tokio::test]
async fn a_greeting_that_is_none_is_left_at_once_whatever_its_length() {
    let nonsense: [(&str, Script); 9] = [
        ("a line of 1 GiB", Script::new().send("220 ").repeat([b'x'; 1024], 1 << 20)),
        ("lines without end", Script::new().repeat("220-more\r\n", 1 << 40)),
        ("a reply of text without end", Script::new().send("220-\r\n").repeat("\r\n", 1 << 40)),
        ("empty lines", Script::new().repeat("\r\n", 1 << 40)),
        ("binary", Script::new().repeat([0, 255, 128, 10, 13], 1 << 40)),
        ("no line end at all", Script::new().repeat([0], 1 << 40)),
        ("preliminary replies without end", Script::new().repeat("120 soon\r\n", 1 << 40)),
        ("another protocol", Script::new().send("SSH-2.0-OpenSSH_10\r\n").silence()),
        ("a code that is none", Script::new().send("999 hello\r\n").silence()),
    ];
    for (what, script) in nonsense {
        let server = scripted(script).await;
        let begun = Instant::now();
        is(&refusal(&server, 30).await, ErrorKind::DestProtocol, what);
        assert!(begun.elapsed() < Duration::from_secs(3), "{what}: {:?}", begun.elapsed());
        assert!(taken(&server).await < SOCKETS, "{what}");
        assert_eq!(server.recorder().commands(), [""; 0], "{what}");
    }
}

#[tokio::test]
async fn an_answer_without_an_end_is_left_at_its_limit() {
    for verb in ["USER", "PASS", "FEAT", "TYPE", "PWD", "OPTS"] {
        for lines in ["230-more\r\n", " more\r\n", "x"] {
            let server = clear().await;
            let steps = vec![Step::Send(Bytes::from_static(b"230-first\r\n")), repeat(lines, 1 << 40)];
            once(&server, verb, Action::Steps(steps));
            is(&refusal(&server, 30).await, ErrorKind::DestProtocol, verb);
            assert!(taken(&server).await < SOCKETS, "{verb}");
        }
    }
    let server = clear().await;
    let steps = vec![Step::Send(Bytes::from_static(b"211-Features:\r\n")), repeat(" X\r\n", 1_000_000), repeat("211 End\r\n", 1)];
    once(&server, "FEAT", Action::Steps(steps));
    is(&refusal(&server, 30).await, ErrorKind::DestProtocol, "a million features");
    let connection = {
        server.clear_hooks();
        connected(&server).await
    };
    for verb in ["MLST", "MKD", "EPSV"] {
        once(&server, verb, Action::Steps(vec![repeat("250-more\r\n", 1 << 40)]));
    }
    let error = connection.stat(&path("a")).await.unwrap_err();
    is(&error, ErrorKind::DestProtocol, "MLST");
    assert!(error.is_connection_lost());
    is(&connected(&server).await.make_directory(&path("d")).await.unwrap_err(), ErrorKind::DestProtocol, "MKD");
    is(&put(&*connected(&server).await, "f", b"x").await.unwrap_err(), ErrorKind::DestProtocol, "EPSV");
}

#[tokio::test]
async fn replies_may_come_byte_by_byte_and_without_carriage_returns() {
    for security in [Security::Clear, Security::Explicit, Security::Implicit] {
        let behaviour = Behaviour { byte_by_byte: true, bare_line_feeds: true, ..Behaviour::default() };
        let server = server(security, behaviour).await;
        let connection = connected(&server).await;
        put(&*connection, "a", &pattern(100_000)).await.unwrap();
        assert_eq!(connection.stat(&path("a")).await.unwrap().unwrap().size, 100_000);
        assert_eq!(connection.list(&RemotePath::root(), 10).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn silence_is_a_stall_at_every_command() {
    for verb in ["CONNECT", "USER", "PASS", "FEAT", "TYPE"] {
        let server = clear().await;
        server.on(move |operation| if operation.is(verb) { Action::Ignore } else { Action::Proceed });
        let error = refusal(&server, 30).await;
        assert!(matches!(error.kind, ErrorKind::NetworkStalled | ErrorKind::DestUnreachable), "{verb}: {}", transfer::error::chain(&error));
    }
    for verb in ["EPSV", "STOR", "MLST"] {
        let server = clear().await;
        server.on(move |operation| if operation.is(verb) { Action::Ignore } else { Action::Proceed });
        let connection = connected(&server).await;
        let begun = Instant::now();
        is(&put(&*connection, "f", b"x").await.unwrap_err(), ErrorKind::NetworkStalled, verb);
        assert!(begun.elapsed() < Duration::from_secs(15), "{verb}: {:?}", begun.elapsed());
    }
    let server = server(Security::Clear, Behaviour { final_reply: FinalReply::Never, ..Behaviour::default() }).await;
    is(&put(&*connected(&server).await, "f", b"x").await.unwrap_err(), ErrorKind::NetworkStalled, "226");
}

/// Every answer must be the right one or an error: two names that differ tell one from the other.
async fn looks_wrong(connection: &dyn Connection) -> bool {
    for _ in 0..5 {
        let there = connection.stat(&path("there")).await;
        let missing = connection.stat(&path("missing")).await;
        if there.is_ok_and(|found| found.map(|found| found.size) != Some(5)) || missing.is_ok_and(|found| found.is_some()) {
            return true;
        }
    }
    false
}

/// What a session takes for true that is not, after an answer that nobody asked for.
async fn mistakes(server: &FtpServer, connection: &dyn Connection) -> Vec<&'static str> {
    let mut mistakes = Vec::new();
    let mut check = |right: bool, what| {
        if !right {
            mistakes.push(what);
        }
    };
    check(!looks_wrong(connection).await, "stat");
    let stored = put(connection, "new", b"content").await.is_ok();
    check(!stored || std::fs::read(server.file("new")).is_ok_and(|content| content == b"content"), "upload");
    let renamed = connection.rename(&path("new"), &path("final"), transfer::RenameMode::NoClobber).await.is_ok();
    check(!renamed || server.file("final").exists(), "rename");
    let removed = connection.remove(&path("final")).await.is_ok();
    check(!removed || !server.file("final").exists(), "remove");
    let made = connection.make_directory(&path("directory")).await.is_ok();
    check(!made || server.file("directory").is_dir(), "make a directory");
    let listed = connection.list(&RemotePath::root(), 10).await;
    check(listed.is_err() || listed.is_ok_and(|entries| entries.iter().any(|entry| entry.name == "there")), "list");
    let _ = connection.ping().await;
    check(!looks_wrong(connection).await, "stat at the end");
    mistakes
}

#[tokio::test]
async fn an_answer_in_advance_is_never_taken_for_the_next_one() {
    let mut wrong = Vec::new();
    for verb in ["PASS", "FEAT", "TYPE", "PWD", "OPTS", "MLST", "EPSV", "STOR", "RNFR", "RNTO", "DELE", "MKD", "MLSD", "NOOP"] {
        for extra in ["250 extra\r\n", "550 extra\r\n", "226 extra\r\n", "200 extra\r\n", "250-half", "150 soon\r\n"] {
            // Half an answer is waited for, which takes its time; where it comes hardly matters.
            if !extra.ends_with("extra\r\n") && !matches!(verb, "MLST" | "RNTO") {
                continue;
            }
            let server = clear().await;
            std::fs::write(server.file("there"), b"12345").unwrap();
            once(&server, verb, Action::DoneThenAlso(Bytes::from_static(extra.as_bytes())));
            let Ok(connection) = connector(&server).connect().await else { continue };
            for mistake in mistakes(&server, &*connection).await {
                wrong.push(format!("{verb}, {extra:?}: {mistake}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What calls that ask several things at once take for true that is not.
async fn mistakes_in_batches(server: &FtpServer, verb: &'static str, extra: &'static str) -> Vec<&'static str> {
    let mut mistakes = Vec::new();
    let arm = || once(server, verb, Action::DoneThenAlso(Bytes::from_static(extra.as_bytes())));
    // The second one has no directory to go to, so that the server refuses its rename.
    for to in ["final", "missing/final"] {
        let connection = connected(server).await;
        // Lost already: the answer was armed for the time before, and noticed.
        if put(&*connection, "new", b"content").await.is_err() {
            continue;
        }
        arm();
        let renamed = connection.rename_and_look(&path("new"), &path(to), transfer::RenameMode::NoClobber).await;
        match renamed {
            Ok(_) if !server.file(to).exists() => mistakes.push("rename"),
            Ok(Ok(found)) if found.map(|found| found.size) != Some(7) => mistakes.push("look after the rename"),
            _ => {}
        }
        if looks_wrong(&*connection).await {
            mistakes.push("stat after the rename");
        }
        let _ = std::fs::remove_file(server.file("final"));
        let _ = std::fs::remove_file(server.file("new"));
    }
    let options = CreateOptions { mode: OpenMode::CreateNew, read: false, permissions: None };
    for (mode, part) in [(OpenMode::CreateOwn, "own"), (OpenMode::CreateNew, "part")] {
        let connection = connected(server).await;
        arm();
        let (found, opened) = connection.look_and_open(&path("there"), &path(part), CreateOptions { mode, ..options }).await;
        if found.is_ok_and(|found| found.map(|found| found.size) != Some(5)) {
            mistakes.push("look before the upload");
        }
        if let Ok(writer) = opened
            && writer.write_at(0, Bytes::from_static(b"content")).await.is_ok()
            && writer.close().await.is_ok()
            && std::fs::read(server.file(part)).is_ok_and(|content| content != b"content")
        {
            mistakes.push("upload");
        }
    }
    let connection = connected(server).await;
    if put(&*connection, "cut", b"con").await.is_ok() {
        arm();
        let options = CreateOptions { mode: OpenMode::Continue(3), ..options };
        if let Ok(writer) = connection.open(&path("cut"), options).await
            && writer.write_at(3, Bytes::from_static(b"tent")).await.is_ok()
            && writer.close().await.is_ok()
            && std::fs::read(server.file("cut")).is_ok_and(|content| content != b"content")
        {
            mistakes.push("upload that goes on");
        }
    }
    mistakes
}

// Mutations: `renamed_and_looked` looks neither for facts nor at the answer to PWD; `prepare` does not look at the answer to REST.
#[tokio::test]
async fn an_answer_too_many_in_a_batch_is_never_taken_for_another() {
    let mut wrong = Vec::new();
    for verb in ["RNFR", "RNTO", "MLST", "SIZE", "CWD", "EPSV", "REST"] {
        for extra in ["250 extra\r\n", "550 extra\r\n", "350 extra\r\n", "213 5\r\n"] {
            let server = clear().await;
            std::fs::write(server.file("there"), b"12345").unwrap();
            for mistake in mistakes_in_batches(&server, verb, extra).await {
                wrong.push(format!("{verb}, {extra:?}: {mistake}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_port_that_is_none_is_refused_and_nothing_is_connected_to() {
    let extended = [
        "229 ",
        "229 ok",
        "229 ()",
        "229 (|||)",
        "229 (||||)",
        "229 (|||0|)",
        "229 (|||65536|)",
        "229 (|||99999999999999999999|)",
        "229 (|||-1|)",
        "229 (|||1e3|)",
        "229 (|||22)",
        "229 |||22|",
        "229 (||22|)",
        "229 (,,,22)",
        "229 (1111221)",
        "229 (|||\u{661}|)",
        "229 (\0\0\0)",
        "200 (|||22|)x",
        "229-(|||\r\n229 |)",
        "227 (127,0,0,1)",
    ];
    let classic = [
        "227 ",
        "227 ok",
        "227 ()",
        "227 (127,0,0,1,0,0)",
        "227 (127,0,0,1,256,1)",
        "227 (127,0,0,1,1,256)",
        "227 (127,0,0,1,4)",
        "227 (1,2,3,4,5,6,7)",
        "227 (,,,,,)",
        "227 (127.0.0.1.4.1)",
        "227 (127,0,0,1,-1,1)",
        "227 (999,0,0,1,4,1)",
        "227 (a,b,c,d,e,f)",
        "227 (127,0,0,1,4294967297,1)",
        "227 127,0,0,1,",
        "227 (\0,\0,\0)",
        "227 (127;0;0;1;4;1)",
        "227 (127,0,0,1,0x4,1)",
        "227-(127,0,0,\r\n227 1",
        "200 ok",
    ];
    for (verb, answers) in [("EPSV", extended), ("PASV", classic)] {
        for answer in answers {
            let passive = Passive { epsv: verb == "EPSV", ..Passive::default() };
            let server = server(Security::Clear, Behaviour { passive, ..Behaviour::default() }).await;
            let raw = Bytes::from(format!("{answer}\r\n"));
            server.on(move |operation| if operation.is(verb) { Action::Raw(raw.clone()) } else { Action::Proceed });
            let connection = connected(&server).await;
            let begun = Instant::now();
            let error = put(&*connection, "f", b"x").await.unwrap_err();
            is(&error, ErrorKind::DestProtocol, answer);
            assert!(begun.elapsed() < Duration::from_secs(1), "{answer}: {:?}", begun.elapsed());
            assert_eq!(connection.stat(&path("f")).await.unwrap(), None, "the session goes on: {answer}");
        }
    }
}

// SEMANTICS S34: "Data connections go to the address of the control connection, whatever address the server names."
#[tokio::test]
async fn data_go_to_the_server_itself_whatever_address_it_names() {
    let trap = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
    let caught = Arc::new(AtomicUsize::new(0));
    let (port, count) = (trap.local_addr().unwrap().port(), caught.clone());
    tokio::spawn(async move {
        while trap.accept().await.is_ok() {
            count.fetch_add(1, SeqCst);
        }
    });
    for epsv in [true, false] {
        for address in [[127, 0, 0, 2], [169, 254, 169, 254]] {
            let passive = Passive { epsv, address: Some(address.into()), epsv_address: Some(address.into()), ..Passive::default() };
            let server = server(Security::Clear, Behaviour { passive, ..Behaviour::default() }).await;
            let connection = connected(&server).await;
            put(&*connection, "f", b"content").await.unwrap();
            assert_eq!(std::fs::read(server.file("f")).unwrap(), b"content");
            server.change(|behaviour| behaviour.passive.port = Some(port));
            put(&*connection, "g", b"content").await.unwrap_err();
        }
    }
    assert_eq!(caught.load(SeqCst), 0);
}

fn no_login(server: &FtpServer, what: &str) {
    let recorder = server.recorder();
    assert_eq!(recorder.passwords.load(SeqCst), 0, "{what}");
    assert!(!recorder.commands().iter().any(|line| line.starts_with("USER")), "{what}: {:?}", recorder.commands());
}

// SEMANTICS S33: "With `ftpes://` and `ftps://` neither a user name nor a password is sent before the server is proved, and
// nothing falls back to clear text."
#[tokio::test]
async fn no_name_and_no_password_are_sent_before_the_server_is_proved() {
    let other = clear().await;
    type Change = fn(&mut FtpConfig, PathBuf);
    let wrong: [(&str, Change); 2] = [
        ("another authority", |config, other| config.tls.ca_files = vec![other]),
        ("another pin", |config, _| config.tls.pins = vec!["SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned()]),
    ];
    for security in [Security::Explicit, Security::Implicit] {
        for (what, change) in wrong {
            let server = server(security, Behaviour::default()).await;
            let mut config = config(&server);
            change(&mut config, other.authority().to_owned());
            let error = FtpConnector::new(config).unwrap().connect().await.map(drop).unwrap_err();
            is(&error, ErrorKind::DestTls, what);
            no_login(&server, what);
        }
    }
    let answers = [
        ("refused", Action::Refuse(500, "AUTH not understood".to_owned())),
        ("refused for now", Action::Refuse(431, "Unavailable".to_owned())),
        ("taken for a login", Action::Refuse(230, "Logged in".to_owned())),
        ("asked for a password", Action::Refuse(331, "Password".to_owned())),
        ("no handshake", Action::Raw(Bytes::from_static(b"234 ok\r\n"))),
        ("a handshake of garbage", Action::Steps(vec![repeat("234 ok\r\n", 1), Step::ReadLine, repeat("\0\u{1}garbage\r\n", 1000)])),
        ("clear text behind the answer", Action::Raw(Bytes::from_static(b"234 ok\r\n331 go on\r\n"))),
        ("an answer in advance", Action::Raw(Bytes::from_static(b"234 ok\r\n331 go on\r\n230 in\r\n"))),
        ("the end", Action::Disconnect),
    ];
    for (what, action) in answers {
        let server = server(Security::Explicit, Behaviour::default()).await;
        once(&server, "AUTH", action);
        let error = refusal(&server, 30).await;
        assert_ne!(error.kind, ErrorKind::DestAuth, "{what}: {}", transfer::error::chain(&error));
        no_login(&server, what);
    }
    let server = server(Security::Explicit, Behaviour { prot_p: false, ..Behaviour::default() }).await;
    is(&refusal(&server, 10).await, ErrorKind::DestTls, "PROT P");
    assert_eq!(server.recorder().clear_passwords.load(SeqCst), 0);
}

#[tokio::test]
async fn listings_without_an_end_are_cut_at_their_limit() {
    for security in [Security::Clear, Security::Explicit] {
        for (verb, line) in [("MLSD", "type=file;size=1; again\r\n"), ("LIST", "-rw-r--r--    1 0 0 1 Jan 01 00:00 again\r\n")] {
            let server = server(security, Behaviour { mlst: verb == "MLSD", ..Behaviour::default() }).await;
            let steps = vec![DataStep::Repeat { bytes: Bytes::from_static(line.as_bytes()), times: 5_000_000 }];
            server.on(move |operation| if operation.is(verb) { Action::Data(steps.clone()) } else { Action::Proceed });
            let connection = connected(&server).await;
            let begun = Instant::now();
            assert_eq!(connection.list(&RemotePath::root(), 1_000).await.unwrap().len(), 1_000, "{verb}");
            assert!(begun.elapsed() < Duration::from_secs(15), "{verb}: {:?}", begun.elapsed());
            server.recorder().wait(Duration::from_secs(10), |event| matches!(event, Event::Data(_))).await.unwrap();
            assert!(server.recorder().data()[0].bytes < SOCKETS, "{verb}: {:?}", server.recorder().data());
        }
    }
    for (what, line) in
        [("no line end", "x"), ("nothing but itself", "type=cdir; .\r\n"), ("empty lines", "\r\n"), ("no facts", "? ? ?\r\n")]
    {
        let server = clear().await;
        let steps = vec![DataStep::Repeat { bytes: Bytes::from_static(line.as_bytes()), times: 1 << 40 }];
        server.on(move |operation| if operation.is("MLSD") { Action::Data(steps.clone()) } else { Action::Proceed });
        is(&connected(&server).await.list(&RemotePath::root(), 1_000).await.unwrap_err(), ErrorKind::DestProtocol, what);
    }
}

#[tokio::test]
async fn names_that_lead_elsewhere_are_not_listed() {
    let names = [&b"../evil"[..], b"a/b", b"/etc/passwd", b"nul\0", b"odd\xff", b"", b"honest"];
    for mlst in [true, false] {
        let behaviour = Behaviour { mlst, extra_names: names.map(<[u8]>::to_vec).to_vec(), ..Behaviour::default() };
        let server = server(Security::Clear, behaviour).await;
        let entries = connected(&server).await.list(&RemotePath::root(), 100).await.unwrap();
        let mut shown: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.exact)).collect();
        shown.sort();
        assert_eq!(shown, [("honest", true), ("odd\u{fffd}", false)], "MLSD: {mlst}");
    }
}

#[tokio::test]
async fn a_success_before_the_end_of_the_data_is_none() {
    for code in [226, 250, 200, 331, 550] {
        let server = server(Security::Clear, Behaviour { final_reply: FinalReply::BeforeData, ..Behaviour::default() }).await;
        let connection = connected(&server).await;
        let stored = put(&*connection, "f", &pattern(3_000_000)).await;
        if stored.is_ok() {
            assert!(std::fs::read(server.file("f")).unwrap() == pattern(3_000_000));
        }
        server.change(|behaviour| behaviour.final_reply = FinalReply::Prompt);
        server
            .on(move |operation| if operation.is("STOR") { Action::DoneThenRefuse(code, "so it is".to_owned()) } else { Action::Proceed });
        let stored = put(&*connected(&server).await, "g", b"x").await;
        assert_eq!(stored.is_ok(), (200..300).contains(&code), "{code}");
    }
}

#[tokio::test]
async fn names_changed_without_a_word_are_not_taken_for_ours() {
    let server = server(Security::Clear, Behaviour { names: Names::LowerCase, ..Behaviour::default() }).await;
    let connection = connected(&server).await;
    put(&*connection, "MiXed", b"x").await.unwrap();
    let listed = connection.list(&RemotePath::root(), 10).await.unwrap();
    assert!(!listed.iter().any(|entry| entry.name == "MiXed"), "only a listing tells: {listed:?}");
}

#[tokio::test]
async fn a_thousand_small_files_over_one_session_are_each_answered_for_themselves() {
    for noop in [Noop::Immediate, Noop::Unknown, Noop::Deferred] {
        let server = server(Security::Clear, Behaviour { noop, ..Behaviour::default() }).await;
        let connection = connected(&server).await;
        for number in 0..1_000 {
            let name = format!("f{number}");
            let content = pattern(number % 300 + 1);
            let writer = connection.open(&path(&name), NEW).await.unwrap();
            writer.write_at(0, content.clone().into()).await.unwrap();
            writer.close().await.unwrap();
            match number % 3 {
                0 => connection.ping().await.unwrap(),
                1 => assert_eq!(connection.stat(&path(&name)).await.unwrap().unwrap().size, content.len() as u64),
                _ => assert_eq!(connection.stat(&path("missing")).await.unwrap(), None),
            }
        }
        for number in 0..1_000 {
            assert!(std::fs::read(server.file(&format!("f{number}"))).unwrap() == pattern(number % 300 + 1), "{number}");
        }
        assert_eq!(server.recorder().connections.highest(), 1);
    }
}
