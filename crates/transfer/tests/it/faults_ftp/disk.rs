//! Case B1: the server's disk is full, and says so in its own words, in others', or not at all.

use std::path::Path;
use std::time::{Duration, Instant};

use testkit::disk::SmallDisk;
use testkit::ftp::{FtpProgram, FtpServerOptions};
use testkit::ftp_sandbox::{Behaviour, Full};
use testkit::proxy::Direction;
use transfer::ErrorKind;

use super::{Harbour, IN_FLIGHT, Voyage, able, each};

const MIB: u64 = 1 << 20;

fn free(path: &Path) -> u64 {
    let found = rustix::fs::statvfs(path).unwrap();
    found.f_bavail * found.f_frsize
}

// B1. Mutation: `suspect_full_disk` returns at once (pyftpdlib never answers), or 451 is taken for a broken line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_of_a_real_server_is_named_and_given_back() {
    each(FtpProgram::ALL, 4, async |program| {
        let Some(disk) = SmallDisk::new(16) else { return };
        let options = FtpServerOptions { root: Some(disk.path().to_owned()), ..super::resuming(program) };
        let Some(mut harbour) = Harbour::new(program, options, &[("large", 48 << 20)]).await else { return };
        let name = harbour.name();
        let before = free(disk.path());
        let begun = Instant::now();
        harbour.run().await.unwrap();
        let (kind, text) = harbour.failed("large", name);
        assert_eq!(kind, ErrorKind::DestNoSpace, "{name}: {text}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{name}: {:?}", begun.elapsed());
        let sent = harbour.data(Direction::ToServer);
        println!("{name}: {sent} bytes for {before} that fit, in {:?}: {text}", begun.elapsed());
        assert!(sent < 2 * 16 * MIB, "{name}: {sent} bytes were sent");
        assert!(harbour.leftovers().is_empty(), "{name}: {:?}", harbour.leftovers());
        assert!(free(disk.path()) + MIB > before, "{name}: the space is not given back");
        disk.resize(64);
        harbour.cargo.ferry.wishes.verify = model::Verify::AtLeast(model::Grade::Sampled);
        harbour.run().await.unwrap();
        harbour.assert_delivered(name);
    })
    .await;
}

// B1. Mutation: `class_of_upload` does not know 452, or `suspect_full_disk` returns at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_named_whatever_the_server_says() {
    let reply = |code: u16, text: &str| Full::Reply(code, text.to_owned());
    let ways = [
        reply(452, "Insufficient storage space in system"),
        reply(552, "Requested file action aborted"),
        reply(451, "Failure writing to local file."),
        reply(451, "Requested action aborted: local error in processing"),
        reply(426, "Connection closed; transfer aborted"),
        reply(550, "Failed"),
        Full::CloseData,
        Full::Silence,
    ];
    each(ways, 4, async |full| {
        let which = format!("{full:?}");
        // A server that stops reading leaves two connections full of what it never took.
        let unread = if full == Full::Silence { 2 * IN_FLIGHT } else { 2 * MIB };
        let capacity = 8 * MIB;
        let voyage = Voyage::new(Behaviour { capacity: Some(capacity), full, avbl: false, ..able() }, &[("large", 30_000_000)]).await;
        voyage.run().await.unwrap();
        let (kind, text) = voyage.failed("large", &which);
        assert_eq!(kind, ErrorKind::DestNoSpace, "{which}: {text}");
        assert!(voyage.leftovers().is_empty(), "{which}: {:?}", voyage.leftovers());
        let sent = voyage.data(Direction::ToServer);
        assert!(sent < 2 * capacity + unread, "{which}: {sent} bytes were sent");
        voyage.server.change(|behaviour| behaviour.capacity = None);
        voyage.cargo.run().await.unwrap();
        voyage.assert_delivered(&which);
    })
    .await;
}

// B1. Mutation: `class_of_upload` takes 452 for a broken line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_file_that_does_not_fit_is_sent_once() {
    for (code, text) in [(452, "Full"), (552, "Quota"), (451, "Error during write to file"), (550, "Quota exceeded")] {
        let full = Full::Reply(code, text.to_owned());
        let voyage = Voyage::new(Behaviour { capacity: Some(100_000), full, ..able() }, &[("small", 400_000)]).await;
        voyage.run().await.unwrap();
        assert_eq!(voyage.failed("small", text).0, ErrorKind::DestNoSpace, "{code} {text}");
        assert!(voyage.leftovers().is_empty(), "{:?}", voyage.leftovers());
        assert!(voyage.data(Direction::ToServer) <= 400_000, "sent again");
    }
}
