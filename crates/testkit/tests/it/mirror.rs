//! The proxy in front of a whole FTP server: control and data pass it, also over TLS, and each can be hurt alone.

use std::time::Duration;

use testkit::ftp::{FtpProgram, FtpSecurity, FtpServer, FtpServerOptions};
use testkit::proxy::{Direction, FaultProxy, How, Scope};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::ftp::{Visitor, start, visit_at};

const SOON: Duration = Duration::from_millis(300);
const LATER: Duration = Duration::from_secs(10);

async fn mirrored(program: FtpProgram, security: FtpSecurity) -> Option<(FtpServer, FaultProxy, Visitor)> {
    let server = start(program, FtpServerOptions { security, ..FtpServerOptions::default() }).await?;
    let proxy = FaultProxy::mirror(server.address(), server.passive_ports()).await.unwrap();
    let visitor = visit_at(&server, proxy.address()).await.unwrap();
    Some((server, proxy, visitor))
}

#[tokio::test]
async fn data_over_tls_passes_the_mirror_and_is_counted_as_data() {
    for program in FtpProgram::ALL {
        let Some((server, proxy, mut visitor)) = mirrored(program, FtpSecurity::Explicit { required: true }).await else { continue };
        visitor.store("a", &vec![7; 300_000]).await.unwrap();
        assert_eq!(std::fs::metadata(server.root().join("a")).unwrap().len(), 300_000);
        assert_eq!(proxy.address().port(), server.address().port());
        let connections = proxy.connections();
        assert_eq!(connections.iter().map(|counters| counters.passive).collect::<Vec<_>>(), [false, true], "{}", program.name());
        assert!(connections[1].to_server > 300_000, "{connections:?}");
        assert_eq!(proxy.on(Scope::Data).bytes(Direction::ToServer), connections[1].to_server);
        assert_eq!(proxy.on(Scope::Control).bytes(Direction::ToServer), connections[0].to_server);
    }
}

#[tokio::test]
async fn a_forgotten_control_connection_is_silent_while_data_lives() {
    let Some((server, proxy, mut visitor)) = mirrored(FtpProgram::Vsftpd, FtpSecurity::Clear).await else { return };
    let mut data = visitor.data("STOR a").await.unwrap();
    proxy.on(Scope::Control).forget();
    data.write_all(&[7; 100_000]).await.unwrap();
    data.shutdown().await.unwrap();
    let stored = async {
        while std::fs::metadata(server.root().join("a")).map(|file| file.len()).ok() != Some(100_000) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LATER, stored).await.unwrap();
    assert!(timeout(SOON, visitor.expect("226")).await.is_err(), "nothing comes back");
    assert!(timeout(SOON, visitor.say("NOOP", "200")).await.is_err(), "and nothing gets through");
    visit_at(&server, proxy.address()).await.unwrap().store("b", b"new flows are served").await.unwrap();
}

#[tokio::test]
async fn data_is_cut_and_control_lives() {
    let Some((server, proxy, mut visitor)) = mirrored(FtpProgram::Vsftpd, FtpSecurity::Clear).await else { return };
    let cut = proxy.on(Scope::Data).cut_after(Direction::ToServer, 1000, How::Fin);
    let mut data = visitor.data("STOR a").await.unwrap();
    let _ = data.write_all(&[7; 100_000]).await;
    timeout(LATER, visitor.expect("2")).await.unwrap().unwrap();
    assert_eq!(std::fs::metadata(server.root().join("a")).unwrap().len(), 1000, "the server takes the end for the end");
    cut.remove();
    visitor.store("b", &vec![7; 100_000]).await.unwrap();
}

#[tokio::test]
async fn passive_ports_are_refused_while_control_is_served() {
    let Some((_server, proxy, mut visitor)) = mirrored(FtpProgram::Vsftpd, FtpSecurity::Clear).await else { return };
    proxy.on(Scope::Data).refuse(true).await;
    assert!(visitor.store("a", b"x").await.is_err());
    visitor.say("NOOP", "200").await.unwrap();
    proxy.on(Scope::Data).refuse(false).await;
    visitor.store("a", b"x").await.unwrap();
}

#[tokio::test]
async fn a_rate_and_a_delay_hold_for_their_scope_only() {
    let Some((_server, proxy, mut visitor)) = mirrored(FtpProgram::Vsftpd, FtpSecurity::Clear).await else { return };
    proxy.on(Scope::Data).rate(Direction::ToServer, Some(1_000_000));
    let begun = tokio::time::Instant::now();
    visitor.store("a", &vec![7; 300_000]).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
    proxy.heal();
    proxy.on(Scope::Control).latency(Direction::ToServer, Duration::from_millis(100));
    let begun = tokio::time::Instant::now();
    visitor.say("NOOP", "200").await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(100), "{:?}", begun.elapsed());
}
