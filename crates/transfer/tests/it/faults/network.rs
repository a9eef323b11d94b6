//! Cases D1, D2, D3 and D6: what the line does to us.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use testkit::proxy::{Action, Counted, Direction, How};
use testkit::sftp::{Behaviour, Operation, Verdict};
use tokio_util::sync::CancellationToken;
use transfer::ErrorKind;
use transfer::memory::{MemoryDestination, MemorySource};

use super::{IN_FLIGHT, RANGE, Voyage};
use crate::harness::{Ferry, pattern};

const SIZE: usize = 3_000_000;

async fn voyage() -> Voyage {
    Voyage::new(Behaviour::default(), &[("large", SIZE), ("small", 50_000)]).await
}

// D1. Mutation: an attempt after a lost connection starts over instead of reopening its temporary file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_anywhere_is_survived() {
    let undisturbed = voyage().await;
    undisturbed.run().await.unwrap();
    undisturbed.assert_delivered("undisturbed");
    for direction in [Direction::ToServer, Direction::ToClient] {
        let all = undisturbed.proxy.bytes(direction);
        // The last bytes of all are the good-bye; the last ones that matter lie somewhat before.
        for at in [0, 1, all / 2, all - 1500, all - 1, all] {
            for how in [How::Fin, How::Rst, How::HalfClose] {
                let voyage = voyage().await;
                // Nothing passes before the first byte, so that mark would be reached again and again.
                let counted = if at == 0 { Counted::OnConnection(1) } else { Counted::OverAll };
                voyage.proxy.rule(direction, counted, at, Action::Cut(how));
                voyage.run().await.unwrap();
                voyage.assert_delivered(&format!("{how:?} {direction:?} at {at} of {all}"));
                // One cut: the ranges in hand of one connection, and a small file.
                assert!(voyage.sent_again() <= 2 * RANGE + IN_FLIGHT + 50_000, "{how:?} at {at}: {}", voyage.sent_again());
            }
        }
    }
}

// D1. Mutation: `settle` starts over when the temporary file is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lost_answer_of_any_request_is_survived() {
    type Choose = fn(&Operation) -> bool;
    let kinds: [(&str, Choose); 8] = [
        ("open", |o| o.is_open_to_write()),
        ("write", |o| o.is_write()),
        ("read", |o| matches!(o, Operation::Read { .. })),
        ("stat", |o| matches!(o, Operation::Stat { .. })),
        ("setstat", |o| matches!(o, Operation::SetStat { .. })),
        ("sync", |o| matches!(o, Operation::Sync { .. })),
        ("close", |o| matches!(o, Operation::Close { .. })),
        ("rename", |o| o.is_rename()),
    ];
    for (name, choose) in kinds {
        for nth in [0, 1] {
            for verdict in [Verdict::DoneThenDisconnect, Verdict::Disconnect] {
                let voyage = voyage().await;
                let (seen, told) = (AtomicU64::new(0), verdict.clone());
                voyage.server.on(
                    move |operation| {
                        if choose(operation) && seen.fetch_add(1, SeqCst) == nth { told.clone() } else { Verdict::Proceed }
                    },
                );
                voyage.run().await.unwrap();
                voyage.assert_delivered(&format!("{name} {nth} {verdict:?}"));
            }
        }
    }
}

// Mutation: what a lane could not deliver is dropped instead of given back to the others (`Queue::give_back`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_is_lost_while_the_other_goes_on_or_all_die_together() {
    // From 64 MiB on a file has several lanes.
    for all in [false, true] {
        let mut voyage = Voyage::new(Behaviour::default(), &[("large", 68_000_000)]).await;
        voyage.ferry.tuning.range_size = 2 << 20;
        voyage.ferry.tuning.backoff.attempts = 2;
        if all {
            let (server, writes) = (std::sync::Arc::downgrade(&voyage.server), AtomicU64::new(0));
            voyage.server.on(move |operation| {
                if operation.is_write() && writes.fetch_add(1, SeqCst) == 250 {
                    let server = server.clone();
                    std::thread::spawn(move || server.upgrade().map(|server| server.kill_connections()));
                }
                Verdict::Proceed
            });
        } else {
            voyage.proxy.rule(Direction::ToServer, Counted::OnConnection(2), 8_000_000, Action::Cut(How::Rst));
        }
        voyage.run().await.unwrap();
        voyage.assert_delivered(if all { "all lanes" } else { "one lane" });
        assert!(voyage.proxy.accepted() >= 2, "it had one lane only");
        let lanes = if all { 2 } else { 1 };
        assert!(voyage.sent_again() <= lanes * (2 * (2 << 20) + IN_FLIGHT), "{} bytes sent again", voyage.sent_again());
    }
}

// Pool. Mutation: `Seat::lost` does not put the other connections in doubt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_that_died_cost_no_file_its_tries() {
    for size in [1000, 2_000_000] {
        let (source, destination) = (MemorySource::new(), MemoryDestination::new());
        source.put("a", pattern(size));
        let mut ferry = Ferry::new(std::sync::Arc::new(source.clone()), std::sync::Arc::new(destination.clone()), "/in");
        (ferry.tuning.connections, ferry.tuning.range_size) = (Some(4), RANGE);
        let (engine, _) = ferry.engine(&CancellationToken::new());
        let mut seats = vec![engine.pool().seat().await.unwrap()];
        while seats.len() < 4 {
            let held: Vec<u64> = seats.iter().map(|seat| seat.id()).collect();
            seats.push(engine.pool().another(&held).await.unwrap());
        }
        drop(seats);
        destination.disconnect_all();
        engine.run(ferry.feed(&["a"], engine.small_up_to()).await).await.unwrap();
        assert!(ferry.records.kept(0).finished.is_some(), "{:?}", ferry.records.kept(0).failed);
        assert!(destination.bytes("/in/a").as_deref() == source.bytes("a").as_deref());
    }
}

// Pool. Mutation: `seat_apart` asks like `seat`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_large_file_has_a_connection_of_its_own_while_more_may_be_opened() {
    let (source, destination) = (MemorySource::new(), MemoryDestination::new());
    let mut ferry = Ferry::new(std::sync::Arc::new(source), std::sync::Arc::new(destination), "/in");
    ferry.tuning.connections = Some(3);
    let (engine, _) = ferry.engine(&CancellationToken::new());
    let mut seats = Vec::new();
    for _ in 0..4 {
        seats.push(engine.pool().seat_apart(5 << 20).await.unwrap());
    }
    let ids: std::collections::BTreeSet<u64> = seats.iter().map(|seat| seat.id()).collect();
    assert_eq!(ids.len(), 3, "the fourth shares one of three");
    drop(seats);
    // A file that travels over all of them takes the first that is free and waits for no login.
    let (engine, _) = ferry.engine(&CancellationToken::new());
    let seats = [engine.pool().seat_apart(8 << 20).await.unwrap(), engine.pool().seat_apart(8 << 20).await.unwrap()];
    assert_eq!(seats[0].id(), seats[1].id());
}

// D2. Mutation: `stalled` never finds a stall.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_is_named_and_resumed() {
    for direction in [Direction::ToServer, Direction::ToClient] {
        let mut voyage = voyage().await;
        let mut config = voyage.config();
        config.stall_timeout = Duration::from_millis(600);
        config.keepalive = None;
        voyage.connect_with(config);
        voyage.ferry.tuning.backoff.attempts = 1;
        let at = if direction == Direction::ToServer { SIZE as u64 / 2 } else { 1_000_000 };
        let rule = voyage.proxy.rule(direction, Counted::PerConnection, at, Action::Stall);
        voyage.run().await.unwrap();
        assert_eq!(voyage.failed("large"), ErrorKind::NetworkStalled, "{direction:?}");
        rule.remove();
        voyage.run().await.unwrap();
        voyage.assert_delivered("after the stall");
        let delivery = voyage.kept("large").finished.unwrap().delivery.unwrap();
        assert!(delivery.bytes_resumed > 0, "{direction:?}: nothing was resumed");
    }
}

// D3. Mutation: the stall clock is not set back by bytes that move.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_and_long_line_is_no_stall() {
    let mut voyage = Voyage::new(Behaviour::default(), &[("small", 100_000)]).await;
    let mut config = voyage.config();
    config.stall_timeout = Duration::from_millis(2_500);
    config.connect_timeout = Duration::from_secs(10);
    voyage.connect_with(config);
    voyage.ferry.tuning.connections = Some(1);
    voyage.ferry.tuning.backoff.attempts = 1;
    voyage.proxy.round_trip(Duration::from_millis(300));
    voyage.proxy.rate(Direction::ToServer, Some(512_000 / 8));
    voyage.run().await.unwrap();
    voyage.assert_delivered("slow");
    assert_eq!((voyage.sent_again(), voyage.proxy.accepted()), (0, 1));
}

// D6. Mutation: `Patience` counts cuts instead of attempts without progress.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flapping_line_gets_there() {
    for how in [How::Fin, How::Rst] {
        let size = 20_000_000;
        let voyage = Voyage::new(Behaviour::default(), &[("large", size)]).await;
        let every = 2_500_000;
        voyage.proxy.flap_every_bytes(Direction::ToServer, every, how);
        voyage.run().await.unwrap();
        voyage.assert_delivered("flapping");
        let cuts = voyage.to_server() / every;
        assert!(cuts >= 7, "only {cuts} cuts");
        let bound = cuts * (2 * RANGE + IN_FLIGHT);
        assert!(voyage.sent_again() <= bound, "{} sent again in {cuts} cuts", voyage.sent_again());
        // Counted at the line, with what SSH and the proof add.
        assert!(voyage.to_server() <= size as u64 * 11 / 10 + bound, "{} bytes in {cuts} cuts", voyage.to_server());
    }
}

// D6, I7. Mutation: `Patience::after_failure` never gives up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_never_carries_a_range_is_given_up_with_a_class() {
    let voyage = Voyage::new(Behaviour::default(), &[("large", SIZE)]).await;
    voyage.proxy.cut_after(Direction::ToServer, 200_000, How::Rst);
    voyage.run().await.unwrap();
    assert_eq!(voyage.failed("large"), ErrorKind::NetworkReset);
    assert!(voyage.proxy.accepted() <= 8, "{} connections", voyage.proxy.accepted());
    voyage.proxy.heal();
    voyage.run().await.unwrap();
    voyage.assert_delivered("healed");
}
