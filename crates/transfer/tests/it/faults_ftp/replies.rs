//! Case B4: the last word about a file never comes, comes late, or its connection dies just before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use testkit::ftp::{FtpProgram, FtpSecurity, FtpServerOptions};
use testkit::ftp_sandbox::{Action, Behaviour, Cut, FinalReply};
use testkit::proxy::{Direction, How, Scope};

use super::{Harbour, PROBE, RANGE, Voyage, able, each, resuming};

const SIZE: usize = 6_000_000;

/// A voyage whose replies may be waited for so long.
async fn waiting(behaviour: Behaviour, reply_time: Duration) -> Voyage {
    let mut voyage = Voyage::new(behaviour, &[("large", SIZE)]).await;
    let mut config = voyage.config();
    config.reply_timeout = reply_time;
    voyage.connect_with(config);
    voyage
}

/// The large file's own data connection is the fourth that is asked for: two of the probe and its look come before.
fn during_the_file(voyage: &Voyage, change: impl Fn(&mut Behaviour, bool) + Send + Sync + 'static) {
    let (server, seen) = (Arc::downgrade(&voyage.server), AtomicU64::new(0));
    voyage.server.on(move |operation| {
        if operation.is("EPSV")
            && let Some(server) = server.upgrade()
        {
            let nth = seen.fetch_add(1, SeqCst);
            server.change(|behaviour| change(behaviour, nth == 3));
        }
        Action::Proceed
    });
}

// B4. Mutation: `Line::finish` waits without a bound, or the next attempt starts over (`reopen_stream` returns `None`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_word_that_never_comes_or_comes_late_costs_no_byte() {
    let replies = [FinalReply::Never, FinalReply::After(Duration::from_millis(900)), FinalReply::After(Duration::from_millis(1100))];
    each(replies, 3, async |reply| {
        let which = format!("{reply:?}");
        let voyage = waiting(able(), Duration::from_secs(1)).await;
        during_the_file(&voyage, move |behaviour, file| behaviour.final_reply = if file { reply } else { FinalReply::Prompt });
        let begun = Instant::now();
        voyage.run().await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(15), "{which}: {:?}", begun.elapsed());
        voyage.assert_delivered(&which);
        assert_eq!(voyage.data(Direction::ToServer), SIZE as u64 + PROBE, "{which}: sent again");
    })
    .await;
}

// B4. Mutation: as above.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_gives_no_last_word_at_all_gets_the_file_once() {
    let voyage = waiting(Behaviour { final_reply: FinalReply::Never, ..able() }, Duration::from_millis(500)).await;
    voyage.run().await.unwrap();
    voyage.assert_delivered("never");
    assert!(voyage.data(Direction::ToServer) <= SIZE as u64 + 4 * PROBE, "{} bytes were sent", voyage.data(Direction::ToServer));
}

// B4. Mutation: the next attempt starts over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_connection_that_dies_near_the_end_costs_little() {
    for (cut, again) in [(Cut::MidData(SIZE as u64 * 99 / 100), RANGE), (Cut::BeforeFinal, 0)] {
        let voyage = waiting(able(), Duration::from_secs(4)).await;
        let fell = Arc::new(AtomicU64::new(0));
        let count = fell.clone();
        during_the_file(&voyage, move |behaviour, file| {
            behaviour.cut = file.then_some(cut);
            count.fetch_add(u64::from(file), SeqCst);
        });
        voyage.run().await.unwrap();
        voyage.assert_delivered(&format!("{cut:?}"));
        assert_eq!(fell.load(SeqCst), 1);
        assert!(voyage.sent_again() <= again + PROBE, "{cut:?}: {} bytes were sent again", voyage.sent_again());
    }
}

/// Cuts the control connection when so many bytes of the file have passed, and says how many passed in all.
async fn control_dies(program: FtpProgram, security: FtpSecurity, at: u64, how: How) -> Option<(Harbour, u64)> {
    let options = FtpServerOptions { security, ..resuming(program) };
    let mut harbour = Harbour::new(program, options, &[("large", SIZE)]).await?;
    let mut config = harbour.config();
    config.reply_timeout = Duration::from_secs(1);
    harbour.connect_with(config);
    // So that the mark is not passed before it is seen.
    harbour.proxy.on(Scope::Data).rate(Direction::ToServer, Some(8_000_000));
    let cut = async {
        harbour.sent(at).await;
        harbour.proxy.on(Scope::Control).cut_now(how);
    };
    let (outcome, ()) = tokio::join!(harbour.run(), cut);
    outcome.unwrap();
    harbour.assert_delivered(harbour.name());
    let sent = harbour.data(Direction::ToServer);
    Some((harbour, sent))
}

// B4. Mutation: the next attempt starts over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_servers_are_looked_at_when_their_last_word_is_lost() {
    let size = SIZE as u64;
    let mut cases = Vec::new();
    for program in FtpProgram::ALL {
        cases.push((program, FtpSecurity::Clear, PROBE + size * 99 / 100, How::Fin));
        cases.push((program, FtpSecurity::Clear, PROBE + size, How::Rst));
        cases.push((program, FtpSecurity::Explicit { required: true }, size, How::Rst));
    }
    each(cases, 4, async |(program, security, at, how)| {
        let Some((harbour, sent)) = control_dies(program, security, at, how).await else { return };
        let name = harbour.name();
        // At 99 % the line may hold what a reset throws away; TLS and its records come on top.
        assert!(sent <= size + size / 2, "{name} {security:?} at {at}: {sent} bytes were sent");
    })
    .await;
}
