//! A service that is stopped: SIGTERM under five transfers, as systemd sends it (E7 of the fault list).

use std::process::Stdio;
use std::time::{Duration, Instant};

use testkit::proxy::{Direction, FaultProxy};
use testkit::sftp::SftpServer;

use super::shop::{ended, files_below, signal, wait_until};
use super::*;

const FILES: usize = 5;
const SIZE: usize = 24 << 20;
/// What a transfer may send again: one range of the default size.
const CHUNK: u64 = 10 << 20;

fn content(number: usize) -> Vec<u8> {
    (0..SIZE as u32).map(|at| ((at ^ number as u32).wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

// Mutation: a stop drops what is in flight without a last checkpoint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_five_transfers_is_soon_over_and_costs_at_most_one_range_each() {
    let server = SftpServer::builder().start().await.unwrap();
    std::fs::create_dir_all(server.file("/in")).unwrap();
    let proxy = FaultProxy::start(server.address()).await;
    proxy.rate(Direction::ToServer, Some(30 << 20));
    let home = Home::new();
    std::fs::create_dir(home.path("out")).unwrap();
    for number in 0..FILES {
        std::fs::write(home.path("out").join(number.to_string()), content(number)).unwrap();
    }
    let source = format!("file://{}/", text(&home.path("out")));
    let destination = format!("sftp://{}@{}/in/", server.user(), proxy.address());
    let host_key = server.host_key_fingerprint();
    let arguments =
        ["copy", &source, &destination, "--json", "--transfers", "5", "--host-key", &host_key, "--identity", text(server.client_key())];
    let start = || home.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();

    let first = start();
    // Less than one file, so that none can be whole, however unevenly they get on.
    wait_until("a part of it", || proxy.bytes(Direction::ToServer) > (FILES * SIZE / 6) as u64);
    let begun = Instant::now();
    signal(first.id(), "TERM");
    let first = ended(first);
    assert_eq!(first.code, 130, "{}", first.err);
    assert!(begun.elapsed() < Duration::from_secs(30), "it took {:?} to stop", begun.elapsed());
    assert!(files_below(&server.file("/in")).keys().all(|name| name.starts_with(b".ff-")), "no file was whole yet");

    let again = ended(start());
    assert_eq!(again.code, 0, "{}{}", again.out, again.err);
    let there = files_below(&server.file("/in"));
    assert_eq!(there.len(), FILES, "{:?}", there.keys());
    assert!((0..FILES).all(|number| there[number.to_string().as_bytes()] == content(number)));
    let sent_again = proxy.bytes(Direction::ToServer).saturating_sub((FILES * SIZE) as u64);
    println!("stopped within {:?}; {:.1} MiB were sent again", begun.elapsed(), sent_again as f64 / f64::from(1 << 20));
    assert!(sent_again <= FILES as u64 * CHUNK, "{sent_again} bytes were sent again");
}
