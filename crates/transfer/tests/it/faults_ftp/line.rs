//! Cases D1 to D6 on the sandbox: what the line does to us.

use std::time::Duration;

use testkit::ftp_sandbox::{Action, Behaviour, Noop};
use testkit::proxy::{self, Counted, Direction, How, Scope};
use transfer::ErrorKind;

use super::{IN_FLIGHT, INTERVAL, PROBE, RANGE, Voyage, able, each, slow};

const SIZE: usize = 3_000_000;
const SMALL: usize = 50_000;
const SCOPES: [Scope; 2] = [Scope::Data, Scope::Control];
const DIRECTIONS: [Direction; 2] = [Direction::ToServer, Direction::ToClient];
const ENDS: [How; 3] = [How::Fin, How::Rst, How::HalfClose];

/// The connection that carries the file: with one login its number is always the same.
async fn undisturbed(size: usize) -> (Voyage, u64) {
    let voyage = Voyage::new(able(), &[("a", size)]).await;
    voyage.run().await.unwrap();
    voyage.assert_delivered("undisturbed");
    let carrier = voyage.proxy.connections().into_iter().find(|c| c.passive && c.to_server == size as u64).unwrap().number;
    (voyage, carrier)
}

// D1. Mutation: `interrupted` takes a success before the end of the data for one (half-closed data), or `reopen_stream`
// returns `None` (what is sent again).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_anywhere_is_survived() {
    for size in [SIZE, SMALL] {
        let (model, carrier) = undisturbed(size).await;
        let mut cases = Vec::new();
        for (scope, direction) in SCOPES.into_iter().flat_map(|scope| DIRECTIONS.map(|direction| (scope, direction))) {
            let all = model.proxy.on(scope).bytes(direction);
            for (at, how) in [0, 1, all / 2, all - 1, all].into_iter().flat_map(|at| ENDS.map(|how| (at, how))) {
                cases.push((scope, direction, at, all, how));
            }
        }
        each(cases, 6, async |(scope, direction, at, all, how)| {
            let which = format!("{size} bytes, {how:?} {scope:?} {direction:?} at {at} of {all}");
            let voyage = Voyage::new(able(), &[("a", size)]).await;
            // Before the first byte that mark would be reached on every connection.
            let counted = match (at, scope) {
                (0, Scope::Data) => Counted::OnConnection(carrier),
                (0, _) => Counted::OnConnection(1),
                _ => Counted::OverAll,
            };
            voyage.proxy.on(scope).rule(direction, counted, at, proxy::Action::Cut(how));
            voyage.run().await.unwrap();
            voyage.assert_delivered(&which);
            let again = if size == SMALL { SMALL as u64 } else { RANGE + 3 * PROBE };
            assert!(voyage.sent_again() <= again, "{which}: {} bytes were sent again", voyage.sent_again());
        })
        .await;
    }
}

// D1. Mutation: `settle` starts over when the temporary file is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lost_answer_of_any_command_is_survived() {
    let verbs = ["CONNECT", "USER", "PASS", "FEAT", "TYPE", "EPSV", "REST", "STOR", "RETR", "MLST", "SIZE", "MFMT", "DELE", "RNFR", "RNTO"];
    let actions = [Action::DoneThenDisconnect, Action::Disconnect, Action::DoneThenRefuse(421, "Timeout".to_owned())];
    let mut cases = Vec::new();
    for verb in verbs {
        for nth in 0..4 {
            cases.extend(actions.iter().map(|action| (verb, nth, action.clone())));
        }
    }
    each(cases, 6, async |(verb, nth, action)| {
        let which = format!("{verb} {nth} {action:?}");
        let voyage = Voyage::new(able(), &[("large", SIZE / 2), ("small", SMALL)]).await;
        voyage.once(verb, nth, action);
        if let Err(error) = voyage.run().await {
            // The very first login is no file's: without it a run ends, and the next one begins.
            assert!(error.kind.is_retryable(), "{which}: {}", transfer::error::chain(&error));
            voyage.run().await.unwrap();
        }
        voyage.assert_delivered(&which);
    })
    .await;
}

// D2. Mutation: `Transfer::step` never comes to `Late`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_is_named_and_resumed_and_others_go_on() {
    let cases = SCOPES.into_iter().flat_map(|scope| DIRECTIONS.map(|direction| (scope, direction)));
    each(cases, 4, async |(scope, direction)| {
        let which = format!("{scope:?} {direction:?}");
        let mut voyage = Voyage::new(able(), &[("large", SIZE), ("small", SMALL)]).await;
        let mut config = voyage.config();
        (config.stall_timeout, config.reply_timeout) = (Duration::from_millis(1500), Duration::from_millis(1500));
        voyage.connect_with(config);
        voyage.cargo.ferry.tuning.backoff.attempts = 1;
        voyage.cargo.ferry.tuning.lanes = 2;
        // Control is silent from the first login on that has sent a file.
        let at = if scope == Scope::Data { SIZE as u64 / 2 } else { 400 };
        let rule = voyage.proxy.on(scope).rule(direction, Counted::PerConnection, at, proxy::Action::Stall);
        let outcome = voyage.run().await;
        if scope == Scope::Data {
            outcome.unwrap();
            assert_eq!(voyage.failed("large", &which).0, ErrorKind::NetworkStalled);
            voyage.delivered("small", &which);
        }
        rule.remove();
        voyage.run().await.unwrap();
        voyage.assert_delivered(&which);
        if scope == Scope::Data {
            assert!(voyage.delivered("large", &which).bytes_resumed > 0, "{which}: nothing was resumed");
            // A stall of the proof comes before the newest checkpoint was stored, perhaps.
            let again = if direction == Direction::ToServer { RANGE + 3 * PROBE } else { INTERVAL };
            assert!(voyage.sent_again() <= again, "{which}: {} bytes were sent again", voyage.sent_again());
        }
    })
    .await;
}

// D3. Mutation: `Transfer::step` measures its stall from the beginning of the transfer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_and_long_line_is_no_stall() {
    let mut voyage = Voyage::new(able(), &[("small", 120_000)]).await;
    let mut config = voyage.config();
    (config.stall_timeout, config.reply_timeout) = (Duration::from_secs(4), Duration::from_secs(4));
    voyage.connect_with(config);
    voyage.cargo.ferry.tuning.backoff.attempts = 1;
    let begun = std::time::Instant::now();
    voyage.proxy.round_trip(Duration::from_millis(300));
    voyage.proxy.rate(Direction::ToServer, Some(512_000 / 8));
    voyage.run().await.unwrap();
    voyage.assert_delivered("slow");
    let logins = voyage.proxy.connections().iter().filter(|connection| !connection.passive).count();
    assert_eq!((voyage.sent_again(), logins), (0, 1));
    assert!(begun.elapsed() > Duration::from_secs(4), "no clock of the whole ran out: {:?}", begun.elapsed());
}

// D4. Mutation: after the reply timed out the file is sent again (`reopen_stream` returns `None`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_control_connection_costs_no_byte_of_the_file() {
    each([true, false], 2, async |forget| {
        let mut voyage = Voyage::new(able(), &[("large", SIZE)]).await;
        let mut config = voyage.config();
        (config.stall_timeout, config.reply_timeout) = (Duration::from_secs(2), Duration::from_secs(1));
        voyage.connect_with(config);
        voyage.proxy.on(Scope::Data).rate(Direction::ToServer, Some(3_000_000));
        let silence = async {
            while voyage.data(Direction::ToServer) < SIZE as u64 / 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let control = voyage.proxy.on(Scope::Control);
            if forget {
                control.forget();
            } else {
                control.black_hole(Direction::ToServer, true).black_hole(Direction::ToClient, true);
                // New ones pass when it is over.
                tokio::time::sleep(Duration::from_millis(1800)).await;
                control.black_hole(Direction::ToServer, false).black_hole(Direction::ToClient, false);
            }
        };
        let (outcome, ()) = tokio::join!(voyage.run(), silence);
        outcome.unwrap();
        voyage.assert_delivered("forgotten");
        assert_eq!(voyage.data(Direction::ToServer), SIZE as u64 + PROBE, "sent again");
    })
    .await;
}

/// NOOPs while a file is under way, on a server that answers them so.
async fn kept_alive(noop: Noop, size: usize, rate: u64, every: Option<Duration>) -> usize {
    let mut voyage = Voyage::new(Behaviour { noop, rate: Some(rate), ..able() }, &[("large", size), ("small", SMALL)]).await;
    let mut config = voyage.config();
    (config.stall_timeout, config.reply_timeout) = (Duration::from_secs(20), Duration::from_secs(20));
    if every.is_none() {
        // Minutes of such a line fit into the buffers on the way, and nobody sees them leave.
        config.stall_timeout = Duration::from_secs(400);
    }
    config.keep_alive = every.unwrap_or(config.keep_alive);
    voyage.connect_with(config);
    tokio::time::timeout(Duration::from_secs(540), voyage.cargo.ferry.run(&voyage.keys)).await.unwrap().unwrap();
    voyage.assert_delivered(&format!("{noop:?}"));
    let logins = voyage.proxy.connections().iter().filter(|connection| !connection.passive).count();
    assert_eq!((voyage.sent_again(), logins), (PROBE, 1), "{noop:?}");
    voyage.commands("NOOP").len()
}

// D4, B10. Mutation: `Control::reply` takes the answer to a NOOP for the answer to the transfer, or no NOOP is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_connection_does_not_rest_while_a_file_is_under_way() {
    each([Noop::Immediate, Noop::Unknown, Noop::Deferred], 3, async |noop| {
        let sent = kept_alive(noop, 4_000_000, 2_000_000, Some(Duration::from_millis(150))).await;
        // A server that does not answer them gets one, each time it is new to us.
        let enough = if noop == Noop::Deferred { sent >= 1 } else { sent >= 5 };
        assert!(enough, "{noop:?}: {sent}");
    })
    .await;
    if slow() {
        // As it is by default, for six minutes.
        let sent = kept_alive(Noop::Immediate, 3_600_000, 20_000, None).await;
        assert!((5..40).contains(&sent), "{sent}");
    }
}

// D6. Mutations: `Patience` counts cuts instead of attempts without progress; `progress` of a stream is what was handed over (then one
// run in six gives up: an early end of the data that met all of them in our own buffers counted as the whole file).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flapping_line_gets_there() {
    let cases = DIRECTIONS.into_iter().flat_map(|direction| [How::Fin, How::Rst].map(|how| (direction, how)));
    each(cases, 4, async |(direction, how)| {
        let (size, every) = (20_000_000, 2_500_000);
        let which = format!("{direction:?} {how:?}");
        let voyage = Voyage::new(able(), &[("large", size)]).await;
        // A reset takes what nobody has read yet with it: on a line without a limit that is everything each time.
        voyage.proxy.rate(Direction::ToClient, Some(8_000_000));
        voyage.proxy.on(Scope::Data).rule(direction, Counted::OverAllEvery, every, proxy::Action::Cut(how));
        voyage.run().await.unwrap();
        voyage.assert_delivered(&which);
        let cuts = voyage.data(direction) / every;
        assert!(cuts >= 7, "{which}: only {cuts} cuts");
        assert!(voyage.sent_again() <= (cuts + 1) * RANGE + PROBE, "{which}: {} sent again in {cuts} cuts", voyage.sent_again());
    })
    .await;
}

// D6, I7. Mutation: `Patience::after_failure` never gives up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_never_carries_a_range_is_given_up_with_a_class_and_resumed_later() {
    let voyage = Voyage::new(able(), &[("large", SIZE)]).await;
    voyage.proxy.on(Scope::Data).cut_after(Direction::ToServer, 200_000, How::Rst);
    voyage.run().await.unwrap();
    assert_eq!(voyage.failed("large", "cut").0, ErrorKind::NetworkReset);
    assert!(voyage.data(Direction::ToServer) < 2 * IN_FLIGHT, "{} bytes", voyage.data(Direction::ToServer));
    voyage.proxy.heal();
    voyage.run().await.unwrap();
    voyage.assert_delivered("healed");
}
