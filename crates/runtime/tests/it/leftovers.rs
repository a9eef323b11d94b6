//! What a transfer that has failed leaves at the partner, and for how long.

use jiff::{SignedDuration, Timestamp};
use model::TransferState;

use crate::scene::{Scene, pattern};

const DAY: SignedDuration = SignedDuration::from_hours(24);

fn later(by: SignedDuration) -> Timestamp {
    Timestamp::now() + by
}

// SEMANTICS S81: "What a failed transfer has left at the destination is removed after seven days; a retry after that begins its
// files anew."
// Mutations: what has failed is kept for ever, or not at all (`kept` in `leftovers`); the records still name what was removed
// (`begin_anew`), and a retry takes it for a file that was published and collected.
#[test]
fn what_a_failed_transfer_left_goes_after_seven_days_and_a_retry_begins_anew() {
    let scene = Scene::new();
    let size = 12 << 20;
    scene.bucket.put("large.bin", pattern(size));
    scene.s3.set_bandwidth(Some(6 << 20));
    let id = scene.submit("large.bin");
    let running = scene.start();
    scene.until("bytes travel", || scene.partner.recorder().bytes_written() > 1 << 20);
    // The name is taken while the file is on its way: the verified file is kept for whoever decides.
    std::fs::write(scene.partner.file("in/large.bin"), "somebody else's").unwrap();
    assert_eq!(scene.rests(&id), TransferState::Failed, "{:#?}", scene.history(&id));
    assert_eq!(scene.names().len(), 2, "{:?}", scene.names());
    let clear =
        |now| scene.runtime.block_on(running.service().clear_leftovers(now)).unwrap_or_else(|failure| panic!("{}", failure.message));

    clear(later(DAY * 7 - SignedDuration::from_hours(1)));
    assert_eq!(scene.names().len(), 2, "it is too early: {:?}", scene.names());
    clear(later(DAY * 7 + SignedDuration::from_hours(1)));
    assert_eq!(scene.names(), ["large.bin"], "the temporary file is gone");
    assert_eq!(scene.received("large.bin"), b"somebody else's");
    assert_eq!(scene.state(&id), TransferState::Failed, "how it ended stays");

    std::fs::remove_file(scene.partner.file("in/large.bin")).unwrap();
    scene.s3.set_bandwidth(None);
    scene.again(&id);
    running.service().wake();
    assert_eq!(scene.rests(&id), TransferState::Completed, "{:#?}", scene.history(&id));
    assert!(scene.received("large.bin") == pattern(size), "it was sent again, whole");
    assert_eq!(scene.names(), ["large.bin"]);
    running.stop();
}
