//! Each behaviour of the FTP sandbox does what it says, and the recorder saw it.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use bytes::Bytes;
use testkit::ftp_sandbox::{
    Action, Behaviour, Corruption, CorruptionKind, Cut, DataEnd, DataStep, Event, FinalReply, FtpServer, Full, LoginLimit, LoginRefusal,
    Names, Noop, Passive, Rename, Restart, RestartRule, Script, Security, SessionReuse, Step, TlsVersions,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::ftp_raw::{Raw, Wire, close, connector};
use crate::ftp_sandbox::content;

const SOON: Duration = Duration::from_secs(5);

async fn server(change: impl FnOnce(&mut Behaviour)) -> FtpServer {
    let mut behaviour = Behaviour::default();
    change(&mut behaviour);
    FtpServer::builder().behaviour(behaviour).start().await.unwrap()
}

async fn clear(change: impl FnOnce(&mut Behaviour)) -> (FtpServer, Raw) {
    let server = server(change).await;
    let raw = Raw::login(&server).await;
    (server, raw)
}

fn stored(server: &FtpServer, name: &str) -> Vec<u8> {
    std::fs::read(server.file(name)).unwrap()
}

#[tokio::test]
async fn what_a_server_lacks_is_neither_announced_nor_done() {
    let lacking = |behaviour: &mut Behaviour| {
        *behaviour = Behaviour {
            mlst: false,
            size: false,
            times: false,
            hashes: false,
            avbl: false,
            site_chmod: false,
            restart: Restart { rule: RestartRule::Unknown, ..Restart::default() },
            passive: Passive { epsv: false, ..Passive::default() },
            ..Behaviour::default()
        };
    };
    let (_server, mut raw) = clear(lacking).await;
    raw.send("FEAT").await;
    let features = raw.expect(211).await.join("\n");
    for feature in ["MLST", "SIZE", "MDTM", "REST", "HASH", "EPSV", "AVBL", "CHMOD"] {
        assert!(!features.contains(feature), "{features}");
    }
    for command in ["MLST f", "MLSD", "SIZE f", "MDTM f", "MFMT 20260101000000 f", "REST 1", "HASH f", "XMD5 f", "AVBL", "SITE CHMOD 644 f"]
    {
        raw.ask(command, 502).await;
    }
    raw.ask("EPSV", 500).await;
    raw.ask("PASV", 227).await;
}

#[tokio::test]
async fn refusals_are_those_of_real_servers() {
    let (server, mut raw) = clear(|behaviour| behaviour.restart.rule = RestartRule::DownloadsOnly).await;
    raw.store("f", b"0123456789").await;
    raw.ask("REST 4", 350).await;
    raw.ask("STOR f", 550).await;
    server.change(|behaviour| {
        behaviour.restart = Restart { rule: RestartRule::Able, keeps_tail: false, beyond_end: true };
        behaviour.no_overwrite = true;
        behaviour.rename = Rename::RefusesExisting;
    });
    raw.ask("STOR f", 550).await;
    raw.ask("REST 4", 350).await;
    raw.store("f", b"ab").await;
    assert_eq!(stored(&server, "f"), b"0123ab");
    raw.ask("REST 8", 350).await;
    raw.store("f", b"c").await;
    assert_eq!(stored(&server, "f"), b"0123ab\0\0c");
    raw.store("g", b"g").await;
    raw.ask("RNFR g", 350).await;
    raw.ask("RNTO f", 550).await;
    assert_eq!(stored(&server, "f").len(), 9);
    server.change(|behaviour| {
        behaviour.rename = Rename::Replaces;
        behaviour.write_only = true;
    });
    raw.ask("RNFR g", 350).await;
    raw.ask("RNTO f", 250).await;
    assert_eq!(stored(&server, "f"), b"g");
    for command in ["RETR f", "LIST", "MLSD"] {
        raw.ask(command, 550).await;
    }
    server.change(|behaviour| behaviour.rename = Rename::Denied);
    raw.ask("RNFR f", 550).await;
}

#[tokio::test]
async fn logins_are_limited_and_refused_as_told() {
    for (refusal, code) in [(LoginRefusal::Greeting, 421), (LoginRefusal::Password, 421), (LoginRefusal::NotLoggedIn, 530)] {
        let server = server(|behaviour| behaviour.logins = Some(LoginLimit { count: 1, refusal })).await;
        let _first = Raw::login(&server).await;
        let mut second = Raw::connect(&server).await;
        if refusal == LoginRefusal::Greeting {
            second.expect(code).await;
        } else {
            second.expect(220).await;
            second.ask(format!("USER {}", server.user()), 331).await;
            second.ask(format!("PASS {}", server.password()), code).await;
        }
        if code == 421 {
            assert!(second.is_over().await);
        }
        assert_eq!((server.recorder().logins.highest(), server.recorder().refused_logins.load(SeqCst)), (1, 1));
    }
    let server = server(|behaviour| behaviour.login_refused = true).await;
    let mut raw = Raw::connect(&server).await;
    raw.expect(220).await;
    raw.ask(format!("USER {}", server.user()), 331).await;
    raw.ask(format!("PASS {}", server.password()), 530).await;
    server.change(|behaviour| {
        behaviour.tls_required = true;
        behaviour.auth = false;
    });
    raw.ask("USER x", 530).await;
    raw.ask("AUTH TLS", 500).await;
}

#[tokio::test]
async fn names_are_changed_without_a_word() {
    for (names, sent, kept) in [(Names::Trimmed, " lead", "lead"), (Names::LowerCase, "MiXed", "mixed")] {
        let (server, mut raw) = clear(|behaviour| behaviour.names = names).await;
        raw.store(sent, b"x").await;
        assert_eq!(stored(&server, kept), b"x");
        assert!(!server.file(sent).exists());
    }
}

#[tokio::test]
async fn passive_answers_lead_elsewhere() {
    let passive = Passive {
        address: Some([169, 254, 169, 254].into()),
        epsv_address: Some([10, 0, 0, 1].into()),
        port: Some(4321),
        ..Passive::default()
    };
    let (_server, mut raw) = clear(|behaviour| behaviour.passive = passive).await;
    assert!(raw.ask("PASV", 227).await.contains("(169,254,169,254,16,225)"));
    assert!(raw.ask("EPSV", 229).await.contains("(|1|10.0.0.1|4321|)"));
}

#[tokio::test]
async fn a_data_connection_must_resume_its_own_session() {
    for code in [522, 425] {
        let server = server(|behaviour| behaviour.session_reuse = SessionReuse::Required(code)).await;
        for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
            let mut raw = Raw::secure_login(&server, connector(&server, versions, true)).await;
            raw.store("f", b"x").await;
            let mut raw = Raw::secure_login(&server, connector(&server, versions, false)).await;
            let data = raw.data("STOR g").await;
            raw.expect(code).await;
            drop(data);
            let shared = connector(&server, versions, true);
            let mut one = Raw::secure_login(&server, shared.clone()).await;
            let _two = Raw::secure_login(&server, shared).await;
            // The client now presents the second login's session, which the first one does not know.
            let _data = one.data("STOR h").await;
            one.expect(code).await;
        }
    }
}

#[tokio::test]
async fn tickets_of_a_login_run_out() {
    let server = server(|behaviour| {
        behaviour.session_reuse = SessionReuse::Required(425);
        behaviour.tickets = Some(2);
    })
    .await;
    let mut raw = Raw::secure_login(&server, connector(&server, &[&rustls::version::TLS13], true)).await;
    raw.store("1", b"x").await;
    raw.store("2", b"x").await;
    let _data = raw.data("STOR 3").await;
    raw.expect(425).await;
    let mut raw = Raw::secure_login(&server, connector(&server, &[&rustls::version::TLS12], true)).await;
    for number in 0..5 {
        raw.store(&format!("{number}"), b"x").await;
    }
    server.change(|behaviour| behaviour.data_connections = Some(5));
    raw.epsv().await;
    raw.send("STOR 6").await;
    raw.expect(425).await;
}

#[tokio::test]
async fn tls_versions_and_protection_are_refused() {
    for (versions, name) in [(TlsVersions::Only12, "1.2"), (TlsVersions::Only13, "1.3")] {
        let server = server(|behaviour| {
            behaviour.tls = versions;
            behaviour.prot_p = false;
        })
        .await;
        let mut raw = Raw::connect(&server).await;
        raw.expect(220).await;
        raw.ask("AUTH TLS", 234).await;
        raw.secure().await;
        raw.ask("PBSZ 0", 200).await;
        raw.ask("PROT P", 536).await;
        let secured = server.recorder().wait(SOON, |event| matches!(event, Event::Secured { .. })).await;
        assert!(matches!(secured, Some(Event::Secured { tls, .. }) if tls.version == name && !tls.resumed));
    }
}

#[tokio::test]
async fn the_recorder_tells_how_data_ended() {
    let server = server(|behaviour| behaviour.close_notify_required = true).await;
    let mut raw = Raw::secure_login(&server, connector(&server, &[&rustls::version::TLS12], true)).await;
    raw.store("a", b"x").await;
    let data = raw.data("STOR b").await;
    let Wire::Right(mut tls) = data else { panic!("protected") };
    tls.get_mut().0.shutdown().await.unwrap();
    raw.expect(426).await;
    let data = raw.data("STOR c").await;
    let Wire::Right(mut tls) = data else { panic!("protected") };
    tls.write_all(b"x").await.unwrap();
    tls.flush().await.unwrap();
    // A reset overtakes what the server has not read yet.
    arrived(&server, 2).await;
    tls.get_ref().0.set_zero_linger().unwrap();
    drop(tls);
    raw.expect(426).await;
    let ends: Vec<_> = server.recorder().data().iter().map(|data| data.end).collect();
    assert_eq!(ends, [DataEnd::CloseNotify, DataEnd::Fin, DataEnd::Reset]);
}

async fn arrived(server: &FtpServer, bytes: u64) {
    while server.recorder().bytes_received() < bytes {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Writes until the server does not want any more.
async fn pour(data: &mut Wire, bytes: usize) {
    let piece = content(10_000);
    for _ in 0..bytes / piece.len() {
        if data.write_all(&piece).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_full_disk_shows_in_three_ways() {
    for full in [Full::Reply(451, "I/O error".to_owned()), Full::CloseData, Full::Silence] {
        let (server, mut raw) = clear(|behaviour| {
            behaviour.capacity = Some(100_001);
            behaviour.full = full.clone();
        })
        .await;
        let mut data = raw.data("STOR f").await;
        let poured = tokio::time::timeout(Duration::from_secs(1), pour(&mut data, 50_000_000)).await;
        assert_eq!(poured.is_err(), full == Full::Silence);
        match full {
            Full::Reply(code, _) => drop(raw.expect(code).await),
            Full::CloseData | Full::Silence => assert!(raw.hears_nothing().await),
        }
        assert!(stored(&server, "f") == content(10_000).repeat(11)[..100_001]);
    }
}

#[tokio::test]
async fn noop_during_a_transfer_is_answered_in_three_ways() {
    for noop in [Noop::Immediate, Noop::Unknown, Noop::Deferred] {
        let (_server, mut raw) = clear(|behaviour| behaviour.noop = noop).await;
        let mut data = raw.data("STOR f").await;
        data.write_all(b"x").await.unwrap();
        raw.send("NOOP").await;
        match noop {
            Noop::Immediate => drop(raw.expect(200).await),
            Noop::Unknown => drop(raw.expect(500).await),
            Noop::Deferred => assert!(raw.hears_nothing().await),
        }
        close(data).await;
        raw.expect(226).await;
        if noop == Noop::Deferred {
            raw.expect(200).await;
        }
        raw.ask("PWD", 257).await;
    }
}

#[tokio::test]
async fn the_last_answer_comes_late_early_or_never() {
    let (server, mut raw) = clear(|behaviour| behaviour.final_reply = FinalReply::Never).await;
    raw.put("STOR f", b"x").await;
    assert!(raw.hears_nothing().await);
    server.change(|behaviour| behaviour.final_reply = FinalReply::After(Duration::from_millis(300)));
    let begun = Instant::now();
    raw.store("f", b"x").await;
    assert!(begun.elapsed() >= Duration::from_millis(300));
    server.change(|behaviour| behaviour.final_reply = FinalReply::BeforeData);
    let mut data = raw.data("STOR g").await;
    raw.expect(226).await;
    data.write_all(b"late").await.unwrap();
    close(data).await;
    raw.ask("PWD", 257).await;
    assert_eq!(stored(&server, "g"), b"late");
}

#[tokio::test]
async fn a_lying_server_says_226_and_stores_something_else() {
    let sent = content(1000);
    let flipped = [&sent[..500], &[!sent[500]], &sent[501..]].concat();
    let dropped = [&sent[..100], &sent[200..]].concat();
    let hole = [&sent[..100], &[0; 100], &sent[200..]].concat();
    let lies = [
        (CorruptionKind::FlipByte { offset: 500 }, flipped),
        (CorruptionKind::Drop { offset: 300, length: u64::MAX }, sent[..300].to_vec()),
        (CorruptionKind::Drop { offset: 100, length: 100 }, dropped),
        (CorruptionKind::Hole { offset: 100, length: 100 }, hole),
    ];
    for (kind, expected) in lies {
        let (server, mut raw) = clear(|behaviour| behaviour.lie = Some(Corruption { kind, files: 1 })).await;
        raw.store("f", &sent).await;
        assert!(stored(&server, "f") == expected, "{kind:?}");
        raw.store("g", &sent).await;
        assert!(stored(&server, "g") == sent, "only the first: {kind:?}");
    }
}

#[tokio::test]
async fn the_control_connection_is_cut_where_told() {
    for cut in [Cut::BeforePreliminary, Cut::MidData(5), Cut::BeforeFinal, Cut::AfterRenameFrom, Cut::AfterRename] {
        let (server, mut raw) = clear(|behaviour| behaviour.cut_times = 0).await;
        raw.store("old", b"x").await;
        server.change(|behaviour| {
            behaviour.cut = Some(cut);
            behaviour.cut_times = 1;
        });
        match cut {
            Cut::BeforePreliminary => {
                raw.epsv().await;
                raw.send("STOR f").await;
            }
            Cut::MidData(_) => {
                let mut data = raw.data("STOR f").await;
                data.write_all(b"123456").await.unwrap();
                assert!(raw.is_over().await);
                let _ = data.write_all(b"78").await;
            }
            Cut::BeforeFinal => raw.put("STOR f", b"123456").await,
            Cut::AfterRenameFrom => raw.send("RNFR old").await,
            Cut::AfterRename => {
                raw.ask("RNFR old", 350).await;
                raw.send("RNTO new").await;
            }
        }
        assert!(raw.is_over().await, "{cut:?}");
        server.recorder().wait(SOON, |event| matches!(event, Event::Closed { .. })).await.unwrap();
        match cut {
            Cut::BeforePreliminary => assert_eq!(stored(&server, "f"), b""),
            Cut::MidData(_) | Cut::BeforeFinal => assert_eq!(stored(&server, "f"), b"123456"),
            Cut::AfterRenameFrom => assert!(server.file("old").exists()),
            Cut::AfterRename => assert!(server.file("new").exists() && !server.file("old").exists()),
        }
        let mut raw = Raw::login(&server).await;
        raw.store("f", b"again").await;
    }
}

#[tokio::test]
async fn an_orphan_goes_on_storing() {
    for orphan in [true, false] {
        let (server, mut raw) = clear(|behaviour| behaviour.orphan = orphan).await;
        let mut data = raw.data("STOR f").await;
        data.write_all(b"123").await.unwrap();
        arrived(&server, 3).await;
        drop(raw);
        if orphan {
            tokio::time::sleep(Duration::from_millis(100)).await;
            data.write_all(b"456").await.unwrap();
            close(data).await;
        } else {
            assert!(data.read(&mut [0]).await.map_or(true, |read| read == 0));
        }
        let seen = server.recorder().wait(SOON, |event| matches!(event, Event::Data(_))).await;
        assert!(matches!(seen, Some(Event::Data(data)) if data.end == DataEnd::Abandoned));
        assert_eq!(stored(&server, "f").len(), if orphan { 6 } else { 3 });
    }
}

#[tokio::test]
async fn a_second_writer_waits_or_interleaves() {
    let (server, mut one) = clear(|behaviour| behaviour.locks = true).await;
    let mut two = Raw::login(&server).await;
    let mut first = one.data("STOR f").await;
    first.write_all(b"1111").await.unwrap();
    let address = two.epsv().await;
    let mut second = TcpStream::connect(address).await.unwrap();
    two.send("STOR f").await;
    assert!(two.hears_nothing().await);
    close(first).await;
    one.expect(226).await;
    two.expect(150).await;
    second.write_all(b"22").await.unwrap();
    drop(second);
    two.expect(226).await;
    assert_eq!(stored(&server, "f"), b"22");
    server.change(|behaviour| behaviour.locks = false);
    let mut first = one.data("STOR g").await;
    let mut second = two.data("STOR g").await;
    second.write_all(b"22").await.unwrap();
    close(second).await;
    two.expect(226).await;
    first.write_all(b"1").await.unwrap();
    close(first).await;
    one.expect(226).await;
    assert_eq!(stored(&server, "g"), b"12");
}

#[tokio::test]
async fn hooks_break_one_operation_in_four_ways() {
    let actions = [
        (Action::refuse(), true, false),
        (Action::DoneThenRefuse(550, "no".to_owned()), true, true),
        (Action::Disconnect, false, false),
        (Action::DoneThenDisconnect, false, true),
    ];
    for (action, answered, done) in actions {
        let (server, mut raw) = clear(|_| {}).await;
        let number = server.recorder().operations();
        let hook = action.clone();
        server.on(move |operation| if operation.number == number { hook.clone() } else { Action::Proceed });
        raw.send("MKD d").await;
        match answered {
            true => drop(raw.expect(550).await),
            false => assert!(raw.is_over().await, "{action:?}"),
        }
        assert_eq!(server.file("d").exists(), done, "{action:?}");
    }
    let (server, mut raw) = clear(|_| {}).await;
    server.on(|operation| match (operation.verb.as_str(), operation.path.as_deref()) {
        ("STOR", Some("/d/f")) => Action::Silent,
        ("SITE CHMOD", Some("/d/f")) => Action::Raw(Bytes::from_static(b"999 what\r\n")),
        ("MLSD", _) => Action::Data(vec![DataStep::Repeat { bytes: Bytes::from_static(b"type=file; f\r\n"), times: 100_000 }]),
        _ => Action::Proceed,
    });
    raw.ask("MKD d", 257).await;
    raw.ask("CWD d", 250).await;
    raw.put("STOR f", b"x").await;
    assert!(raw.hears_nothing().await && server.file("d/f").exists());
    raw.ask("SITE CHMOD 600 f", 999).await;
    assert_eq!(raw.get("MLSD").await.len(), 14 * 100_000);
}

#[tokio::test]
async fn answers_come_in_pieces_and_with_others_behind_them() {
    let (server, mut raw) = clear(|behaviour| {
        behaviour.byte_by_byte = true;
        behaviour.bare_line_feeds = true;
    })
    .await;
    let mut pieces = 0;
    for _ in 0..20 {
        raw.send("PWD").await;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\n") {
            answer.extend(raw.bytes().await.unwrap());
            pieces += 1;
        }
        assert!(answer.starts_with(b"257 ") && !answer.contains(&b'\r'));
    }
    assert!(pieces > 20, "{pieces}");
    server.change(|behaviour| *behaviour = Behaviour::default());
    server.on(|operation| if operation.is("NOOP") { Action::DoneThenAlso(Bytes::from_static(b"250 extra\r\n")) } else { Action::Proceed });
    raw.ask("NOOP", 200).await;
    raw.expect(250).await;
}

#[tokio::test]
async fn a_script_is_followed_byte_by_byte() {
    let script = Script::new()
        .send_by_byte("220-a\r\n220 b\r\n")
        .expect("USER")
        .repeat("230-x\r\n", 100_000)
        .send("230 \n")
        .answer(b"\xff\0\r\n")
        .listen(false, vec![DataStep::Send(Bytes::from_static(b"hello")), DataStep::Read(1), DataStep::Reset])
        .expect("QUIT");
    let serving = Script::new().send("220 honest\r\n").serve();
    let server = FtpServer::builder().security(Security::Clear).script(script).script(serving).start().await.unwrap();
    let mut raw = Raw::connect(&server).await;
    assert_eq!(raw.expect(220).await.len(), 2);
    raw.send("USER a").await;
    assert_eq!(raw.expect(230).await.len(), 100_001);
    raw.send("anything").await;
    assert_eq!(raw.line().await.unwrap(), "\u{fffd}\0");
    let line = raw.expect(229).await.pop().unwrap();
    let port: u16 = line.split('|').nth(3).unwrap().parse().unwrap();
    let mut data = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    data.write_all(b"x").await.unwrap();
    assert!(data.read_to_end(&mut Vec::new()).await.is_err());
    raw.send("PASS secret").await;
    assert!(raw.is_over().await);
    let unexpected = server.recorder().wait(SOON, |event| matches!(event, Event::Unexpected { .. })).await.unwrap();
    assert!(!format!("{unexpected:?}").contains("secret"));
    Raw::login(&server).await;
    server.on(|operation| if operation.is("PWD") { Action::Steps(vec![Step::Reset]) } else { Action::Proceed });
    let mut raw = Raw::login(&server).await;
    raw.send("PWD").await;
    assert!(raw.is_over().await);
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_an_endless_answer() {
    let endless = Script::new().repeat(vec![b'x'; 1024], 1 << 20);
    let server = FtpServer::builder().script(endless).start().await.unwrap();
    let mut raw = Raw::connect(&server).await;
    raw.bytes().await.unwrap();
    drop(raw);
    let closed = server.recorder().wait(SOON, |event| matches!(event, Event::Closed { .. })).await;
    assert!(matches!(closed, Some(Event::Closed { sent, .. }) if sent < 100 << 20), "{closed:?}");
}

#[tokio::test]
async fn a_rate_is_kept() {
    let (_server, mut raw) = clear(|behaviour| behaviour.rate = Some(1_000_000)).await;
    let begun = Instant::now();
    raw.store("f", &content(500_000)).await;
    assert!((450..2000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
}
