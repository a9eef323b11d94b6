//! Cases C1 to C5: what a destination does to us.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use model::{Clobber, IfExists};
use testkit::proxy::Direction;
use testkit::sftp::{Authentication, Behaviour, Extensions, Limits, Loss, NameEventKind, Operation, RenameRule, SftpServer, Verdict};
use tokio_util::sync::CancellationToken;
use transfer::ErrorKind;
use transfer::sftp::{Identity, Secret};

use super::{CANARY, IN_FLIGHT, OLD, RANGE, Voyage, no_secret};

// C1. Mutation: `known_hosts` or the pins are not looked at and every key is trusted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_credential_leaves_for_an_unknown_or_changed_host_key() {
    let stranger = SftpServer::builder().start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    for case in ["unknown", "changed", "pinned"] {
        let mut voyage = Voyage::new(Behaviour::default(), &[("small", 1000), ("large", 2_000_000)]).await;
        let known = directory.path().join(case);
        let line = stranger.known_hosts_line();
        let key = line.split_once(' ').unwrap().1;
        let text = if case == "changed" { format!("[127.0.0.1]:{} {key}\n", voyage.proxy.port()) } else { String::new() };
        std::fs::write(&known, text).unwrap();
        let mut config = voyage.config();
        config.known_hosts = vec![known];
        config.host_key_pins = if case == "pinned" { vec![stranger.host_key_fingerprint()] } else { Vec::new() };
        voyage.connect_with(config);
        let error = voyage.run().await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::DestHostKey, "{case}");
        let text = transfer::error::chain(&error);
        assert!(text.contains(&voyage.server.host_key_fingerprint()), "{case}: the key seen is named: {text}");
        if case != "unknown" {
            assert!(text.contains(&stranger.host_key_fingerprint()), "{case}: the key expected is named: {text}");
        }
        let recorder = voyage.server.recorder();
        assert_eq!((recorder.attempts.credentials(), recorder.logins.highest()), (0, 0), "{case}");
        assert_eq!(recorder.operations_seen(), 0);
        // A pin does not tell the type of its key, so the server may be asked for each once.
        assert!(voyage.proxy.accepted() <= 2, "{case}: {} connections", voyage.proxy.accepted());
        assert!(voyage.leftovers().is_empty());
    }
}

// C2. Mutation: the checkpoint stores suspect ranges as not written, so that a new process sends them again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_with_answers_out_of_order_leaves_no_hole() {
    for (loss, new_process) in [(Loss::Nothing, false), (Loss::Nothing, true), (Loss::Gone, false), (Loss::Zeroed, true)] {
        let behaviour = Behaviour { reorder: Some(8), tracks_unsynced: true, ..Behaviour::default() };
        let size = 12_000_000;
        let mut voyage = Voyage::new(behaviour, &[("large", size)]).await;
        let (server, writes) = (Arc::downgrade(&voyage.server), AtomicU64::new(0));
        voyage.server.on(move |operation| {
            if operation.is_write() && writes.fetch_add(1, SeqCst) == 60 {
                // Not from within the operation: a crash waits for those under way.
                let server = server.clone();
                std::thread::spawn(move || server.upgrade().map(|server| server.crash(loss).unwrap()));
            }
            Verdict::Proceed
        });
        if new_process {
            voyage.ferry.tuning.backoff.attempts = 1;
            voyage.run().await.unwrap();
            assert_eq!(voyage.failed("large"), ErrorKind::NetworkReset);
        }
        voyage.run().await.unwrap();
        voyage.assert_delivered(&format!("{loss:?}"));
        let delivery = voyage.kept("large").finished.unwrap().delivery.unwrap();
        let lost = if loss == Loss::Nothing { 0 } else { size as u64 };
        assert!(voyage.sent_again() <= lost + 2 * (2 * RANGE + IN_FLIGHT), "{loss:?}: {} sent again", voyage.sent_again());
        if loss == Loss::Nothing && new_process {
            assert!(delivery.bytes_resumed > 0, "nothing was resumed");
        }
    }
}

// C3. Mutation: without posix-rename the old file is removed first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_atomic_replacement_the_old_file_stands() {
    for rename in [RenameRule::RefusesExisting, RenameRule::Overwrites] {
        for policy in [IfExists::Fail, IfExists::Replace, IfExists::Update] {
            let behaviour = Behaviour { extensions: Extensions { posix_rename: false, ..Extensions::ALL }, rename, ..Behaviour::default() };
            let mut voyage = Voyage::with_old(behaviour, &[("small", 1000), ("large", 2_000_000)], &["small", "large"]).await;
            voyage.ferry.wishes.if_exists = policy;
            voyage.run().await.unwrap();
            for key in ["small", "large"] {
                assert_eq!(voyage.failed(key), ErrorKind::DestExists, "{policy}");
                assert_eq!(voyage.there(key).unwrap(), OLD);
            }
            assert!(voyage.leftovers().is_empty(), "{:?}", voyage.leftovers());
        }
    }
}

// C3. Mutation: `rename_aside` does not move the old file back, or `settle` leaves it aside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_stepped_aside_comes_back_or_goes() {
    let renames = 3;
    for broken in 0..=renames {
        let behaviour = Behaviour { extensions: Extensions { posix_rename: false, ..Extensions::ALL }, ..Behaviour::default() };
        let mut voyage = Voyage::with_old(behaviour, &[("small", 1000)], &[]).await;
        std::fs::write(voyage.server.file("/in/small"), OLD).unwrap();
        voyage.ferry.wishes.if_exists = IfExists::ReplaceUnsafe;
        let seen = AtomicU64::new(0);
        voyage.server.on(move |operation| {
            let counts = operation.is_rename() || matches!(operation, Operation::Remove { .. });
            if counts && seen.fetch_add(1, SeqCst) == broken { Verdict::DoneThenDisconnect } else { Verdict::Proceed }
        });
        // The window is the point of this policy: the watcher's word does not count here.
        let outcome = tokio::time::timeout(std::time::Duration::from_secs(20), voyage.ferry.run(&["small"])).await.unwrap();
        outcome.unwrap();
        voyage.wrong.lock().unwrap().clear();
        voyage.assert_delivered(&format!("answer {broken} lost"));
        let delivery = voyage.kept("small").finished.unwrap().delivery.unwrap();
        assert!(matches!(delivery.clobber, Clobber::Unsafe { .. }));
    }
    // Ours cannot take its place: the old one comes back.
    let behaviour = Behaviour { extensions: Extensions { posix_rename: false, ..Extensions::ALL }, ..Behaviour::default() };
    let mut voyage = Voyage::with_old(behaviour, &[("small", 1000)], &[]).await;
    std::fs::write(voyage.server.file("/in/small"), OLD).unwrap();
    voyage.ferry.wishes.if_exists = IfExists::ReplaceUnsafe;
    voyage.server.on(|operation| match operation {
        Operation::Rename { from, to } if &**to == "/in/small" && from.ends_with(".part") => Verdict::status(3),
        _ => Verdict::Proceed,
    });
    voyage.ferry.run(&["small"]).await.unwrap();
    assert_eq!(voyage.there("small").unwrap(), OLD, "{:?}", voyage.leftovers());
    assert_eq!(voyage.failed("small"), ErrorKind::DestPublishFailed);
}

// C4. Mutation: the free space is not asked for after a FAILURE.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_named_and_given_back() {
    for (key, size) in [("small", 400_000), ("large", 30_000_000)] {
        let capacity = if key == "small" { 100_000 } else { 2_000_000 };
        let voyage = Voyage::new(Behaviour { capacity: Some(capacity), ..Behaviour::default() }, &[(key, size)]).await;
        voyage.run().await.unwrap();
        assert_eq!(voyage.failed(key), ErrorKind::DestNoSpace);
        assert!(voyage.there(key).is_none());
        assert!(voyage.leftovers().is_empty(), "the space is given back: {:?}", voyage.leftovers());
        // Not three times: what fits, and what was on its way when the first refusal came.
        let bound = capacity + 2 * (2 * RANGE + IN_FLIGHT) + 200_000;
        assert!(voyage.to_server() <= bound, "{} bytes for {capacity} that fit", voyage.to_server());
        voyage.server.change(|behaviour| behaviour.capacity = None);
        voyage.run().await.unwrap();
        voyage.assert_delivered("with room again");
    }
}

// C5. Mutation: `Session::apply` takes 128 KiB whatever the server told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_the_server_are_kept() {
    let limits = Limits { max_packet: 34_000, max_read: 8_192, max_write: 16_384, max_handles: 2 };
    let files: Vec<(&'static str, usize)> = vec![("a", 100_000), ("b", 100_001), ("c", 99_999), ("d", 5), ("large", 1_500_000)];
    let voyage = Voyage::new(Behaviour { limits, ..Behaviour::default() }, &files).await;
    voyage.run().await.unwrap();
    voyage.assert_delivered("small limits");
    let operations = voyage.server.recorder().operations();
    let too_long = |operation: &&Operation| match operation {
        Operation::Write { length, .. } => *length > 16_384,
        Operation::Read { length, .. } => *length > 8_192,
        _ => false,
    };
    assert_eq!(operations.iter().find(too_long), None);
    // The mark that showed whether offsets are honoured.
    assert!(voyage.sent_again() <= 16, "{} bytes were sent again", voyage.sent_again());
}

// C5. Mutation: the pool forgets a refused login (`state.refused`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_or_key_is_tried_once() {
    let other = SftpServer::builder().start().await.unwrap();
    let files: Vec<(&'static str, usize)> = vec![("a", 10), ("b", 10), ("c", 10), ("d", 10), ("e", 10), ("large", 2_000_000)];
    for by_key in [false, true] {
        let authentication = if by_key { Authentication::Key } else { Authentication::Password };
        let mut voyage = Voyage::new(Behaviour { authentication, ..Behaviour::default() }, &files).await;
        let mut config = voyage.config();
        if by_key {
            config.password = None;
            config.identities = vec![Identity { path: other.client_key().to_owned(), passphrase: None, named: true }];
        } else {
            config.password = Some(Secret::new(format!("not-{CANARY}")));
        }
        voyage.connect_with(config);
        let error = voyage.run().await.unwrap_err();
        no_secret(&error);
        assert_eq!(error.kind, ErrorKind::DestAuth);
        assert!(voyage.server.recorder().attempts.credentials() <= 1, "{:?}", voyage.server.recorder().attempts);
        assert_eq!(voyage.proxy.accepted(), 1, "one login for all files");
        assert_eq!(*voyage.ferry.records.connects.lock().unwrap(), [Err(ErrorKind::DestAuth)], "told once, to be parked");
        assert!(voyage.leftovers().is_empty());
        // Also for two who ask at the same moment, before anybody has stopped the run.
        let before = voyage.server.recorder().attempts.credentials();
        let (engine, _) = voyage.ferry.engine(&CancellationToken::new());
        let (one, other) = tokio::join!(engine.pool().seat(), engine.pool().seat());
        assert_eq!((one.unwrap_err().kind, other.unwrap_err().kind), (ErrorKind::DestAuth, ErrorKind::DestAuth));
        assert!(voyage.server.recorder().attempts.credentials() <= before + 1);
        assert_eq!(voyage.proxy.accepted(), 2, "the second one went to the server too");
    }
}

// C5. Mutation: the length field of a reply is believed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_of_four_gigabytes_or_for_nobody_end_the_connection() {
    for huge in [true, false] {
        let voyage = Voyage::new(Behaviour { huge_replies: huge, wrong_ids: !huge, ..Behaviour::default() }, &[("a", 1000)]).await;
        voyage.run().await.unwrap();
        assert_eq!(voyage.failed("a"), ErrorKind::DestProtocol);
        voyage.server.change(|behaviour| (behaviour.huge_replies, behaviour.wrong_ids) = (false, false));
        voyage.run().await.unwrap();
        voyage.assert_delivered("honest again");
    }
}

// I1, I2. Mutation: the watcher of this module accepts anything; shows that it sees what it must see.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_watcher_sees_a_name_that_is_not_whole() {
    let voyage = Voyage::new(Behaviour::default(), &[("a", 1000)]).await;
    let seen = Arc::new(Mutex::new(0));
    let count = seen.clone();
    voyage.server.watch(move |event| {
        if matches!(event.kind, NameEventKind::RenamedFrom(_)) {
            *count.lock().unwrap() += 1;
        }
    });
    voyage.source.put("a", vec![0; 1000]);
    let before = voyage.source.bytes("a").unwrap();
    voyage.server.on({
        let source = voyage.source.clone();
        move |operation| {
            if operation.is_rename() {
                source.put("a", vec![1; 1000]);
            }
            Verdict::Proceed
        }
    });
    let _ = voyage.ferry.run(&["a"]).await;
    assert_eq!(voyage.there("a").unwrap(), before);
    assert_eq!(*seen.lock().unwrap(), 1);
    assert_eq!(voyage.wrong.lock().unwrap().len(), 1);
    assert!(voyage.proxy.bytes(Direction::ToClient) > 0);
}
