//! Cases B7 and B8: a server that goes on storing for nobody, and a verified file that does not get its name.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use model::{FileState, IfExists};
use testkit::ftp::FtpProgram;
use testkit::ftp_sandbox::{Action, Behaviour, Cut, Restart, Security};
use testkit::proxy::{Direction, How, Opener, Rewrite, Scope};
use transfer::ErrorKind;

use super::{Harbour, OLD, Voyage, able, each, resuming};

const SIZE: usize = 8_000_000;

// B7. Mutation: `settled_size` believes the first answer, or an attempt that starts over keeps its name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orphan_that_goes_on_storing_harms_nothing_and_leaves_nothing() {
    let mut cases = Vec::new();
    for locks in [false, true] {
        for keeps_tail in [false, true] {
            cases.push((locks, keeps_tail));
        }
    }
    each(cases, 4, async |(locks, keeps_tail)| {
        let which = format!("locks: {locks}, keeps the tail: {keeps_tail}");
        let restart = Restart { keeps_tail, ..Restart::default() };
        let cut = Some(Cut::MidData(2_000_000));
        // What lies in the line is stored after the death of the control connection, slowly.
        let behaviour = Behaviour { orphan: true, locks, restart, cut, cut_times: 1, rate: Some(6_000_000), ..able() };
        let voyage = Voyage::new(behaviour, &[("large", SIZE)]).await;
        voyage.proxy.on(Scope::Data).latency(Direction::ToServer, Duration::from_millis(400));
        voyage.run().await.unwrap();
        voyage.assert_delivered(&which);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        voyage.assert_delivered(&which);
    })
    .await;
}

// B7. Mutation: as above.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_servers_may_go_on_storing_after_their_control_connection_died() {
    each(FtpProgram::ALL, 4, async |program| {
        let Some(harbour) = Harbour::new(program, resuming(program), &[("large", SIZE)]).await else { return };
        let name = harbour.name();
        harbour.proxy.on(Scope::Data).latency(Direction::ToServer, Duration::from_millis(400));
        harbour.proxy.on(Scope::Data).rate(Direction::ToServer, Some(10_000_000));
        let cut = async {
            harbour.sent(2_000_000).await;
            harbour.proxy.on(Scope::Control).cut_now(How::Rst);
        };
        let (outcome, ()) = tokio::join!(harbour.run(), cut);
        outcome.unwrap();
        harbour.assert_delivered(name);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        harbour.assert_delivered(name);
        println!("{name}: {} bytes for {SIZE}", harbour.data(Direction::ToServer));
    })
    .await;
}

/// The one way in which the last rename is refused.
#[derive(Debug, Clone)]
enum Obstacle {
    Directory,
    Reply(u16, &'static str),
    /// RNFR already.
    First(u16, &'static str),
}

// B8. Mutation: `give_up` discards a verified file, or `attempt` begins with the first byte although an intent is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verified_file_without_a_name_is_kept_and_only_renamed_later() {
    let obstacles = [
        Obstacle::Directory,
        Obstacle::Reply(550, "Rename/move failure: Operation not permitted"),
        Obstacle::Reply(550, "Failed"),
        Obstacle::Reply(553, "Requested action not taken"),
        Obstacle::Reply(450, "Busy"),
        Obstacle::First(550, "Permission denied"),
        Obstacle::First(450, "Busy"),
    ];
    let mut cases = Vec::new();
    for obstacle in obstacles {
        for size in [1000, 2_000_000] {
            cases.extend([false, true].map(|replaces| (obstacle.clone(), size, replaces)));
        }
    }
    each(cases, 6, async |(obstacle, size, replaces)| {
        let which = format!("{obstacle:?}, {size} bytes, replaces: {replaces}");
        let mut voyage = Voyage::new(able(), &[("a", size)]).await;
        if replaces {
            voyage.cargo.put_old("a");
            voyage.cargo.ferry.wishes.if_exists = IfExists::Replace;
        }
        if replaces && matches!(obstacle, Obstacle::Directory) {
            return;
        }
        let (target, told) = (voyage.server.file("/in/a"), obstacle.clone());
        voyage.server.on(move |operation| match &told {
            Obstacle::Directory if operation.is("RNTO") => {
                let _ = std::fs::create_dir(&target);
                Action::Proceed
            }
            Obstacle::Reply(code, text) if operation.is("RNTO") => Action::Refuse(*code, (*text).to_owned()),
            Obstacle::First(code, text) if operation.is("RNFR") => Action::Refuse(*code, (*text).to_owned()),
            _ => Action::Proceed,
        });
        tokio::time::timeout(super::BOUND, voyage.ferry.run(&["a"])).await.unwrap().unwrap();
        let (kind, text) = voyage.failed("a", &which);
        let wanted = match obstacle {
            Obstacle::Directory => &[ErrorKind::DestExists][..],
            // A refusal for now, given three times.
            Obstacle::Reply(450, _) | Obstacle::First(450, _) => &[ErrorKind::DestPublishFailed, ErrorKind::NetworkReset][..],
            _ if replaces => &[ErrorKind::DestPublishFailed, ErrorKind::DestExists][..],
            _ => &[ErrorKind::DestPublishFailed][..],
        };
        assert!(wanted.contains(&kind), "{which}: {kind:?} {text}");
        let kept = voyage.kept("a").failed.unwrap().2.unwrap_or_else(|| panic!("{which}: the file is not kept: {text}"));
        let bytes = std::fs::read(voyage.server.file(kept.as_str())).unwrap();
        assert!(bytes == voyage.source.bytes("a").unwrap(), "{which}: the kept file is not whole");
        if replaces {
            assert_eq!(voyage.there("a").unwrap(), OLD, "{which}");
        }
        voyage.server.clear_hooks();
        if matches!(obstacle, Obstacle::Directory) {
            std::fs::remove_dir(voyage.server.file("/in/a")).unwrap();
        }
        let sent = voyage.data(Direction::ToServer);
        voyage.run().await.unwrap();
        voyage.assert_delivered(&which);
        assert_eq!(voyage.data(Direction::ToServer), sent, "{which}: sent again");
    })
    .await;
}

/// Makes a directory when the first half of a rename passes.
struct InTheWay {
    path: PathBuf,
    done: Arc<AtomicBool>,
}

#[async_trait]
impl Rewrite for InTheWay {
    async fn rewrite(&mut self, chunk: Bytes, _opener: &Opener) -> Bytes {
        if chunk.windows(4).any(|word| word == b"RNFR") && !self.done.swap(true, SeqCst) {
            std::fs::create_dir(&self.path).unwrap();
        }
        chunk
    }
}

// B8. Mutation: as above.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_in_the_way_of_a_real_server_keeps_the_verified_file() {
    each(FtpProgram::ALL, 4, async |program| {
        let Some(harbour) = Harbour::new(program, resuming(program), &[("a", 1_000_000)]).await else { return };
        let name = harbour.name();
        let (path, done) = (harbour.disk.join("a"), Arc::new(AtomicBool::new(false)));
        let (target, told) = (path.clone(), done.clone());
        harbour.proxy.rewrite(Direction::ToServer, move || Box::new(InTheWay { path: target.clone(), done: told.clone() }));
        tokio::time::timeout(super::BOUND, harbour.ferry.run(&["a"])).await.unwrap().unwrap();
        assert!(done.load(SeqCst), "{name}: nothing was renamed");
        let (kind, text) = harbour.failed("a", name);
        assert!(matches!(kind, ErrorKind::DestExists | ErrorKind::DestPublishFailed), "{name}: {kind:?} {text}");
        assert!(harbour.kept("a").failed.unwrap().2.is_some(), "{name}: {text}");
        let left = harbour.leftovers();
        assert_eq!(left.len(), 1, "{name}: {left:?}");
        assert!(std::fs::read(harbour.disk.join(&left[0])).unwrap() == harbour.source.bytes("a").unwrap(), "{name}");
        std::fs::remove_dir(&path).unwrap();
        let sent = harbour.data(Direction::ToServer);
        harbour.run().await.unwrap();
        harbour.assert_delivered(name);
        assert_eq!(harbour.data(Direction::ToServer), sent, "{name}: sent again");
    })
    .await;
}

// B8. Mutation: a server that never lets us rename is asked three times and told to try again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_never_renames_is_asked_once_and_the_way_out_is_named() {
    let behaviour = Behaviour { rename: testkit::ftp_sandbox::Rename::Denied, ..able() };
    let voyage = Voyage::secured(Security::Clear, behaviour, &[("a", 1000)]).await;
    voyage.run().await.unwrap();
    let (kind, text) = voyage.failed("a", "denied");
    assert_eq!(kind, ErrorKind::DestPublishFailed, "{text}");
    assert!(text.contains("--publish in-place"), "{text}");
    assert_eq!(voyage.commands("RNFR").len(), 1);
    assert_ne!(voyage.kept("a").finished.map(|finished| finished.state), Some(FileState::Delivered));
}

// Mutations: the engine opens its own name with `CreateNew`; `renamed_and_looked` asks PWD in any case.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_file_takes_nine_commands() {
    let mut voyage = Voyage::new(able(), &[("small", 1000)]).await;
    voyage.cargo.ferry.wishes.verify = "size".parse().unwrap();
    voyage.run().await.unwrap();
    voyage.assert_delivered("small");
    let verbs: Vec<String> =
        voyage.server.recorder().commands().iter().filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect();
    let first = verbs.iter().position(|verb| verb == "MLST").expect("a look at the name");
    let of_file: Vec<&str> = verbs[first..].iter().map(String::as_str).filter(|verb| *verb != "QUIT").collect();
    assert_eq!(of_file, ["MLST", "EPSV", "STOR", "MFMT", "SIZE", "MLST", "RNFR", "RNTO", "MLST"]);
}
