//! Case B3: servers that forbid to go on with a file, or to replace one.

use std::collections::BTreeSet;

use model::{Clobber, IfExists};
use testkit::ftp::{FtpProgram, FtpServerOptions};
use testkit::ftp_sandbox::{Behaviour, Rename, Restart, RestartRule};
use testkit::proxy::{self, Counted, Direction, How, Scope};
use tokio_util::sync::CancellationToken;
use transfer::ErrorKind;

use super::{Cargo, Harbour, OLD, Voyage, able};

const SIZE: usize = 4_000_000;

/// A run, and what the engine says about the server.
async fn notes_of(cargo: &Cargo) -> Vec<String> {
    let (engine, _) = cargo.ferry.engine(&CancellationToken::new());
    let feed = cargo.ferry.feed(&cargo.keys, engine.small_up_to()).await;
    tokio::time::timeout(super::BOUND, engine.run(feed)).await.expect("it ends").unwrap();
    let notes = engine.pool().take_notes();
    engine.pool().close().await;
    notes
}

// B3. Mutation: `learn_to_continue` takes the server's word (DownloadsOnly), or a fresh attempt keeps its old name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_resumed_starts_over_under_another_name_and_says_so() {
    for rule in [RestartRule::Unknown, RestartRule::DownloadsOnly] {
        let behaviour = Behaviour { restart: Restart { rule, ..Restart::default() }, no_overwrite: true, ..able() };
        let voyage = Voyage::new(behaviour, &[("large", SIZE)]).await;
        voyage.proxy.on(Scope::Data).rule(Direction::ToServer, Counted::OverAll, 2_000_000, proxy::Action::Cut(How::Rst));
        let notes = notes_of(&voyage).await;
        assert!(notes.iter().any(|note| note.contains("resume=not_supported")), "{rule:?}: {notes:?}");
        voyage.assert_delivered(&format!("{rule:?}"));
        let delivery = voyage.delivered("large", "resume");
        assert_eq!((delivery.bytes_resumed, delivery.attempts), (0, 2), "{rule:?}");
        // The one that was cut, the one after it, and the one on which going on was tried.
        let names: BTreeSet<String> = voyage.commands("STOR ").into_iter().collect();
        assert_eq!(names.len(), if rule == RestartRule::Unknown { 2 } else { 3 }, "{rule:?}: {names:?}");
        // The probe alone asked to go on.
        let asked = voyage.commands("REST ");
        assert!(asked.iter().all(|line| line == "REST 0" || line == "REST 16"), "{rule:?}: {asked:?}");
        assert!(voyage.commands("APPE").is_empty());
    }
}

// Mutations: `learn_to_continue_first` tries in any case; `reopen_stream` does not try.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn far_away_a_server_is_tried_when_a_file_was_cut_and_not_before() {
    for (rule, cut) in [(RestartRule::Able, false), (RestartRule::Able, true), (RestartRule::DownloadsOnly, true)] {
        let mut voyage = Voyage::new(Behaviour { restart: Restart { rule, ..Restart::default() }, ..able() }, &[("large", SIZE)]).await;
        voyage.cargo.ferry.tuning.far = transfer::pool::FAR;
        voyage.proxy.round_trip(std::time::Duration::from_millis(30));
        if cut {
            voyage.proxy.on(Scope::Data).rule(Direction::ToServer, Counted::OverAll, 2_000_000, proxy::Action::Cut(How::Rst));
        }
        let notes = notes_of(&voyage).await;
        voyage.assert_delivered(&format!("{rule:?}, {cut}"));
        assert_eq!(voyage.commands("REST 16").len(), usize::from(cut), "{rule:?}: {:?}", voyage.commands("REST "));
        let works = rule == RestartRule::Able;
        assert_eq!(voyage.delivered("large", "far").attempts, if works { 1 } else { 2 }, "{rule:?}: goes on, or starts over");
        assert_eq!(notes.iter().any(|note| note.contains("resume=not_supported")), !works, "{notes:?}");
    }
}

// B3. Mutation: `CannotReplace` is not made of a refused replacement, or the old file is removed first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_replaced_stands_and_the_sent_file_is_kept() {
    for (key, size) in [("small", 1000), ("large", SIZE)] {
        let behaviour = Behaviour { rename: Rename::RefusesExisting, no_overwrite: true, ..able() };
        let mut voyage = Voyage::new(behaviour, &[(key, size)]).await;
        voyage.cargo.put_old(key);
        for policy in [IfExists::Fail, IfExists::Replace, IfExists::Update] {
            voyage.cargo.ferry.wishes.if_exists = policy;
            voyage.run().await.unwrap();
            let (kind, text) = voyage.failed(key, &policy.to_string());
            assert_eq!(kind, ErrorKind::DestExists, "{policy}: {text}");
            assert_eq!(voyage.there(key).unwrap(), OLD);
            assert_eq!(text.contains("replace-unsafe"), policy != IfExists::Fail, "{policy}: {text}");
        }
        assert!(voyage.commands("DELE").iter().all(|line| line.contains(".ff-")), "{:?}", voyage.commands("DELE"));
        // Allowed to, it takes the file that is there already.
        let sent = voyage.data(Direction::ToServer);
        voyage.cargo.ferry.wishes.if_exists = IfExists::ReplaceUnsafe;
        voyage.cargo.olds.clear();
        tokio::time::timeout(super::BOUND, voyage.ferry.run(&[key])).await.unwrap().unwrap();
        voyage.wrong.lock().unwrap().clear();
        assert!(matches!(voyage.delivered(key, "unsafe").clobber, Clobber::Unsafe { .. }));
        assert_eq!(voyage.data(Direction::ToServer), sent, "sent again");
        voyage.assert_delivered("unsafe");
    }
}

// B3. Mutation: `learn_to_continue` takes the server's word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proftpd_as_it_comes_starts_over_and_never_replaces() {
    let Some(mut harbour) = Harbour::new(FtpProgram::Proftpd, FtpServerOptions::default(), &[("large", SIZE)]).await else { return };
    harbour.proxy.on(Scope::Data).rule(Direction::ToServer, Counted::OverAll, 2_000_000, proxy::Action::Cut(How::Rst));
    let notes = notes_of(&harbour).await;
    assert!(notes.iter().any(|note| note.contains("resume=not_supported")), "{notes:?}");
    harbour.assert_delivered("ProFTPD");
    let delivery = harbour.delivered("large", "ProFTPD");
    assert_eq!((delivery.bytes_resumed, delivery.attempts), (0, 2));

    let Some(again) = Harbour::new(FtpProgram::Proftpd, FtpServerOptions::default(), &[("large", SIZE)]).await else { return };
    harbour = again;
    harbour.cargo.put_old("large");
    harbour.cargo.ferry.wishes.if_exists = IfExists::Replace;
    harbour.run().await.unwrap();
    assert_eq!(harbour.failed("large", "ProFTPD").0, ErrorKind::DestExists);
    assert_eq!(harbour.there("large").unwrap(), OLD);
}
