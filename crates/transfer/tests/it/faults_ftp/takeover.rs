//! Case E2: a second process takes a transfer over while the data connection of the first is still open.

use std::sync::Arc;
use std::time::Duration;

use testkit::ftp_sandbox::{Behaviour, Restart};
use testkit::proxy::{self, Counted, Direction, Scope};
use tokio_util::sync::CancellationToken;
use transfer::ErrorKind;
use transfer::ftp::FtpConnector;

use super::{BOUND, Voyage, able, each, sandbox_config};

const SIZE: usize = 6_000_000;

// E2. Mutation: `claim` does not rename (the first would publish), or a stream is opened at our own count instead of the
// server's size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_process_that_wakes_after_its_successor_harms_nothing() {
    let mut cases = Vec::new();
    for (locks, orphan, keeps_tail) in [(false, false, true), (false, false, false), (false, true, true), (true, true, true)] {
        for share in [1, 5, 9, 10] {
            cases.push((Behaviour { locks, orphan, restart: Restart { keeps_tail, ..Restart::default() }, ..able() }, share));
        }
    }
    each(cases, 4, async |(behaviour, share)| {
        let which = format!("locks {}, {:?}, at {share} of 10", behaviour.locks, behaviour.restart);
        let mut voyage = Voyage::new(behaviour, &[("large", SIZE)]).await;
        // The sleeper is patient, its successor is not.
        let mut config = voyage.config();
        (config.stall_timeout, config.reply_timeout) = (Duration::from_secs(30), Duration::from_secs(30));
        voyage.connect_with(config);
        let at = SIZE as u64 * share / 10;
        let up = voyage.proxy.on(Scope::Data).rule(Direction::ToServer, Counted::OverAll, at, proxy::Action::Stall);
        let (engine, _) = voyage.ferry.engine(&CancellationToken::new());
        let feed = voyage.ferry.feed(&["large"], engine.small_up_to()).await;
        let pool = engine.pool().clone();
        let sleeper = tokio::spawn(async move { engine.run(feed).await });
        let reached = async {
            while voyage.data(Direction::ToServer) < at || voyage.ferry.records.kept(0).checkpoint.is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(BOUND, reached).await.expect("the sleeper sends");

        let mut direct = sandbox_config(&voyage.server, voyage.server.address());
        direct.stall_timeout = Duration::from_millis(1500);
        voyage.cargo.ferry.connector = Arc::new(FtpConnector::new(direct).unwrap());
        tokio::time::timeout(BOUND, voyage.ferry.run(&["large"])).await.expect("the successor ends").unwrap();
        let kept = voyage.kept("large");
        assert!(kept.finished.is_some(), "{which}: {:?}", kept.failed);
        assert!(voyage.there("large").unwrap() == voyage.source.bytes("large").unwrap(), "{which}");

        up.remove();
        let outcome = tokio::time::timeout(BOUND, sleeper).await.expect("the sleeper ends").unwrap();
        assert_eq!(outcome.unwrap_err().kind, ErrorKind::LeaseLost, "{which}");
        tokio::time::timeout(BOUND, pool.close()).await.unwrap();
        voyage.assert_delivered(&which);
    })
    .await;
}

// E2. Mutation: `settle` publishes what it did not claim.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rename_that_wakes_up_late_finds_nothing_to_rename() {
    for size in [1000, SIZE] {
        let mut voyage = Voyage::new(able(), &[("a", size)]).await;
        let reached = Arc::new(tokio::sync::Notify::new());
        let (tell, first) = (reached.clone(), std::sync::atomic::AtomicBool::new(true));
        voyage.server.on(move |operation| {
            if operation.is("RNFR") && first.swap(false, std::sync::atomic::Ordering::SeqCst) {
                tell.notify_one();
                return testkit::ftp_sandbox::Action::Delay(Duration::from_millis(1200));
            }
            testkit::ftp_sandbox::Action::Proceed
        });
        let (engine, _) = voyage.ferry.engine(&CancellationToken::new());
        let feed = voyage.ferry.feed(&["a"], engine.small_up_to()).await;
        let pool = engine.pool().clone();
        let sleeper = tokio::spawn(async move { engine.run(feed).await });
        tokio::time::timeout(BOUND, reached.notified()).await.unwrap();
        voyage.connect_with(sandbox_config(&voyage.server, voyage.server.address()));
        voyage.cargo.run().await.unwrap();
        voyage.assert_delivered("the successor");
        let outcome = tokio::time::timeout(BOUND, sleeper).await.expect("the sleeper ends").unwrap();
        assert_eq!(outcome.unwrap_err().kind, ErrorKind::LeaseLost, "{size}");
        tokio::time::timeout(BOUND, pool.close()).await.unwrap();
        voyage.assert_delivered("both");
    }
}
