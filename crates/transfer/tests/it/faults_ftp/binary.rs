//! Case B2: bytes stay bytes on servers that begin in ASCII mode and would change line ends.

use testkit::ftp::{FtpProgram, FtpServerOptions};
use testkit::ftp_sandbox::{Behaviour, Event, Security, SessionReuse, TlsVersions};
use testkit::proxy::{self, Counted, Direction, How, Scope};

use super::{Harbour, Voyage, able, each, resuming};

/// Every byte, every pair of line ends, and lone ones.
fn every_byte(length: usize) -> Vec<u8> {
    let once: Vec<u8> = (0..=255).chain(*b"\r\n\n\r\r\r\n\n\x1a\xff\xff\r").collect();
    once.iter().copied().cycle().take(length).collect()
}

/// Before the first transfer of each login.
fn assert_binary(voyage: &Voyage) -> usize {
    let recorder = voyage.server.recorder();
    let connections = recorder.count(|event| matches!(event, Event::Connected { .. })) as u64;
    let mut logins = 0;
    for connection in 0..connections {
        let commands = recorder.commands_of(connection);
        let moves = commands.iter().position(|line| ["STOR ", "RETR "].iter().any(|verb| line.starts_with(verb)));
        let Some(moves) = moves else { continue };
        logins += 1;
        assert!(commands[..moves].contains(&"TYPE I".to_owned()), "no TYPE I after the login: {commands:?}");
        assert!(!commands.iter().any(|line| line.starts_with("TYPE A")), "{commands:?}");
    }
    logins
}

// B2. Mutation: the login does not send TYPE I.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_login_asks_for_binary_also_those_after_a_cut() {
    let voyage = Voyage::new(able(), &[("large", 4_000_000), ("small", 10_000)]).await;
    voyage.source.put("large", every_byte(4_000_000));
    voyage.source.put("small", every_byte(10_000));
    voyage.proxy.on(Scope::Control).rule(Direction::ToServer, Counted::OverAll, 700, proxy::Action::Cut(How::Rst));
    voyage.proxy.on(Scope::Data).rule(Direction::ToServer, Counted::OverAllEvery, 1_500_000, proxy::Action::Cut(How::Rst));
    voyage.run().await.unwrap();
    voyage.assert_delivered("binary");
    assert!(assert_binary(&voyage) >= 2);

    // Tickets that are used up make the client log in again by itself.
    let behaviour = Behaviour { tls: TlsVersions::Only13, tickets: Some(1), session_reuse: SessionReuse::Required(522), ..able() };
    let voyage = Voyage::secured(Security::Explicit, behaviour, &[("large", 2_000_000), ("small", 10_000)]).await;
    voyage.source.put("large", every_byte(2_000_000));
    voyage.run().await.unwrap();
    voyage.assert_delivered("tickets");
    assert!(assert_binary(&voyage) >= 2);
}

// B2. Mutation: the login does not send TYPE I.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_servers_keep_every_byte() {
    each(FtpProgram::ALL, 4, async |program| {
        let configuration = match program {
            // Off by default, which is the same as binary.
            FtpProgram::Vsftpd => vec!["ascii_upload_enable=YES".to_owned(), "ascii_download_enable=YES".to_owned()],
            _ => Vec::new(),
        };
        let options = FtpServerOptions { configuration, ..resuming(program) };
        let Some(harbour) = Harbour::new(program, options, &[("large", 1_500_000), ("small", 9_000)]).await else { return };
        harbour.source.put("large", every_byte(1_500_000));
        harbour.source.put("small", every_byte(9_000));
        harbour.proxy.on(Scope::Data).rule(Direction::ToServer, Counted::OverAll, 800_000, proxy::Action::Cut(How::Fin));
        harbour.run().await.unwrap();
        harbour.assert_delivered(harbour.name());
    })
    .await;
}
