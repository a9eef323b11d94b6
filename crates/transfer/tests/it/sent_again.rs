//! What an interruption costs, counted at the proxy before each server: bytes to the server beyond the file itself, after
//! the client died or the line was cut. Every test prints its rows of `docs/operations/kills.md`.

use std::sync::Arc;
use std::time::Duration;

use model::{Grade, RemotePath, Verify};
use testkit::ftp::FtpProgram;
use testkit::proxy::{Direction, FaultProxy, How};
use testkit::sshd::SshdOptions;
use tokio_util::sync::CancellationToken;
use transfer::Connector;
use transfer::memory::MemorySource;

use crate::harness::{Ferry, pattern};
use crate::servers::ftp::{FtpPartner, config_at};
use crate::servers::openssh;

const SIZE: usize = 48 << 20;
/// One checkpoint interval, and what is in flight: two ranges in hand, kernels, proxy.
const MOST: u64 = (16 << 20) + (8 << 20);
/// Where the interruption comes, in bytes to the server; one of them in `make test`, all in `make test-all`.
const PLACES: [u64; 3] = [27 << 20, 13 << 20, 41 << 20];

fn places() -> &'static [u64] {
    if std::env::var_os("FILEFERRY_SLOW").is_some() { &PLACES } else { &PLACES[..1] }
}

#[derive(Debug, Clone, Copy)]
enum Interruption {
    /// The client is gone from one moment to the next, with all its connections; another one goes on.
    Death,
    Cut(How),
}

/// Delivers one file through `proxy`, interrupted once at `place`, and returns what went to the server beyond its size.
async fn cost(connector: Arc<dyn Connector>, proxy: &FaultProxy, root: &RemotePath, place: u64, interruption: Interruption) -> u64 {
    let source = MemorySource::new();
    source.put("a", pattern(SIZE));
    let mut ferry = Ferry::new(Arc::new(source), connector, root.as_str());
    // What the proof reads comes back; a sample is enough here.
    ferry.wishes.verify = Verify::AtLeast(Grade::Sampled);
    ferry.tuning.backoff.base = Duration::from_millis(50);
    proxy.rate(Direction::ToServer, Some(80 << 20));
    let before = proxy.bytes(Direction::ToServer);
    let passed = async {
        while proxy.bytes(Direction::ToServer) - before < place {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let within = Duration::from_secs(60);
    match interruption {
        Interruption::Death => {
            let (engine, _) = ferry.engine(&CancellationToken::new());
            let feed = ferry.feed(&["a"], engine.small_up_to()).await;
            tokio::select! {
                outcome = engine.run(feed) => panic!("it ended before it could be interrupted: {outcome:?}"),
                () = passed => {}
            }
            drop(engine);
            tokio::time::timeout(within, ferry.run(&["a"])).await.expect("every wait is bounded").unwrap();
        }
        Interruption::Cut(how) => {
            let cut = async {
                passed.await;
                proxy.cut_now(how);
            };
            let (ran, ()) =
                tokio::time::timeout(within, async { tokio::join!(ferry.run(&["a"]), cut) }).await.expect("every wait is bounded");
            ran.unwrap();
        }
    }
    let kept = ferry.records.kept(0);
    let delivery = kept.finished.unwrap_or_else(|| panic!("{:?}", kept.failed)).delivery.unwrap();
    assert!(delivery.pin.size == SIZE as u64);
    (proxy.bytes(Direction::ToServer) - before).saturating_sub(SIZE as u64)
}

async fn table(name: &str, connector: &dyn Fn() -> Arc<dyn Connector>, proxy: &FaultProxy, make_directory: &dyn Fn(&str) -> RemotePath) {
    for (number, interruption) in [Interruption::Death, Interruption::Cut(How::Rst), Interruption::Cut(How::Fin)].into_iter().enumerate() {
        let mut costs = Vec::new();
        for place in places().iter().copied() {
            let root = make_directory(&format!("{number}-{place}"));
            let cost = cost(connector(), proxy, &root, place, interruption).await;
            assert!(cost <= MOST, "{name}: {interruption:?} after {place} bytes: {cost} bytes were sent again");
            costs.push(format!("{:.1}", cost as f64 / (1 << 20) as f64));
        }
        let what = match interruption {
            Interruption::Death => "client gone",
            Interruption::Cut(How::Rst) => "line cut, reset",
            Interruption::Cut(_) => "line cut, end of stream",
        };
        println!("| {name} | {what} | {} |", costs.join(" | "));
    }
}

async fn on_ftp(program: FtpProgram) {
    let set_ups = program.set_ups();
    let (name, options) = set_ups.iter().find(|(name, _)| *name == "permissive").unwrap_or(&set_ups[0]).clone();
    let Some(partner) = FtpPartner::start(program, name, options).await else { return };
    let proxy = FaultProxy::mirror(partner.server.address(), partner.server.passive_ports()).await.unwrap();
    let connector = || -> Arc<dyn Connector> {
        Arc::new(transfer::ftp::FtpConnector::new(config_at(&partner.server, proxy.address())).expect("a valid configuration"))
    };
    table(program.name(), &connector, &proxy, &|name| partner.make_directory(name)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interruption_costs_one_checkpoint_on_openssh() {
    let Some(partner) = openssh("plain", SshdOptions::default()).await else { return };
    let server = partner.config.endpoint.clone();
    let target = format!("{}:{}", server.host, server.port.expect("a port of its own")).parse().unwrap();
    let proxy = FaultProxy::start(target).await;
    let connector = || -> Arc<dyn Connector> {
        let mut config = partner.config.clone();
        config.endpoint.port = Some(proxy.port());
        Arc::new(transfer::sftp::SftpConnector::new(config))
    };
    table("OpenSSH", &connector, &proxy, &|name| partner.make_directory(name)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interruption_costs_one_checkpoint_on_vsftpd() {
    on_ftp(FtpProgram::Vsftpd).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interruption_costs_one_checkpoint_on_proftpd() {
    on_ftp(FtpProgram::Proftpd).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interruption_costs_one_checkpoint_on_pure_ftpd() {
    on_ftp(FtpProgram::PureFtpd).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interruption_costs_one_checkpoint_on_pyftpdlib() {
    on_ftp(FtpProgram::Pyftpdlib).await;
}
