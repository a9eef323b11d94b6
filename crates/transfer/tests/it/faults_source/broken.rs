//! A4 and A5: answers that end early, throttling, credentials that expire.

use testkit::s3::{Content, Effect, Ending, Fault, S3Error};
use transfer::ErrorKind;

use super::*;

const LARGE: u64 = 12 * RANGE + 77;
const AT: u64 = 9 * RANGE;

fn short_answers() -> [Effect; 4] {
    [
        Effect::Cut { after: 1000, ending: Ending::Fin },
        Effect::Cut { after: 0, ending: Ending::Fin },
        Effect::Cut { after: 70_000, ending: Ending::Rst },
        Effect::ContentLength(500),
    ]
}

// Mutation: `collect` returns what came, or `read_range` does not try again.
#[tokio::test]
async fn an_answer_that_ends_early_is_read_again_and_only_that_range() {
    for effect in short_answers() {
        for (size, at) in [(LARGE, AT), (LARGE, 12 * RANGE), (200_000, 0)] {
            let stage = stage().await;
            let content = Content::generated(1, size);
            stage.bucket.put("a", content.clone());
            let fault = Fault::new(effect.clone()).on_get().key("a").range_start(at).once();
            // The last range is shorter than some cuts, which then are none. A whole object that announces another
            // length is another object.
            let first_byte = matches!(effect, Effect::Cut { after: 0, .. });
            if (at == 12 * RANGE && !first_byte) || (at == 0 && matches!(effect, Effect::ContentLength(_))) {
                continue;
            }
            let fault = stage.server.faults().add(fault);
            stage.ferry.run(&["a"]).await.unwrap();
            assert_eq!(fault.hits(), 1, "{effect:?}");
            stage.assert_delivered(0, "a", &content);
            let asked = stage.asked("a");
            assert_eq!(asked.len() as u64, size.div_ceil(RANGE) + 1, "{effect:?}: {asked:?}");
            assert!(stage.server.bytes_served("a") <= size + RANGE);
        }
    }
}

// Mutation: a retry without an end (`from_source`), or a short range is written (`collect`).
#[tokio::test]
async fn a_store_that_always_breaks_off_is_given_up_after_three_tries_and_resumed_later() {
    for (effect, class) in [
        (Effect::Cut { after: 1000, ending: Ending::Fin }, ErrorKind::SourceTruncated),
        (Effect::ContentLength(500), ErrorKind::SourceTruncated),
    ] {
        let stage = stage().await;
        let content = Content::generated(1, LARGE);
        stage.bucket.put("a", content.clone());
        let fault = stage.server.faults().add(Fault::new(effect).on_get().key("a").range_start(AT));
        stage.ferry.run(&["a"]).await.unwrap();
        assert_eq!(fault.hits(), 3);
        stage.assert_failed(0, "a", class);
        assert_eq!(stage.temporaries().len(), 1, "what was sent waits for a resume");
        assert_eq!(stage.checkpoint(0).0, 9);
        fault.remove();
        stage.server.reset_requests();
        stage.ferry.run(&["a"]).await.unwrap();
        stage.assert_delivered(0, "a", &content);
        assert_eq!(stage.asked("a").into_iter().min(), Some(AT));
        assert_eq!(stage.server.bytes_served("a"), LARGE - AT);
    }
}

// Mutation: a small file's temporary file stays after a failure (`give_up`).
#[tokio::test]
async fn a_small_file_that_cannot_be_read_leaves_nothing() {
    let stage = stage().await;
    stage.bucket.put("a", Content::generated(1, 200_000));
    let fault = stage.server.faults().add(Fault::new(Effect::Cut { after: 1000, ending: Ending::Fin }).on_get().key("a"));
    stage.ferry.run(&["a"]).await.unwrap();
    assert_eq!(fault.hits(), 3);
    stage.assert_nothing(0, "a", ErrorKind::SourceTruncated);
}

// Mutation: `source_throttled` is not transient, or its count of tries goes on over all ranges of a file.
#[tokio::test]
async fn throttling_here_and_there_costs_one_more_request_each() {
    let stage = stage().await;
    let content = Content::generated(1, LARGE);
    stage.bucket.put("a", content.clone());
    let throttled = [1, 3, 4, 7, 12]
        .map(|range| stage.server.faults().add(Fault::error(S3Error::slow_down()).on_get().key("a").range_start(range * RANGE).times(2)));
    stage.ferry.run(&["a"]).await.unwrap();
    assert!(throttled.iter().all(|fault| fault.hits() == 2));
    stage.assert_delivered(0, "a", &content);
    assert_eq!(stage.server.bytes_served("a") - 10 * error_length(&stage), LARGE);
    assert_eq!(stage.asked("a").len(), 13 + 10);
}

/// Bytes of one refusal's body, which the server counts as well.
fn error_length(stage: &Stage) -> u64 {
    let refused = stage.server.requests().into_iter().find(|request| request.status == 503).expect("something was refused");
    refused.bytes_sent
}

// Mutation: more than three tries (`Backoff::attempts`), or the file's attempts multiply the range's (`exhausted`).
#[tokio::test]
async fn a_range_that_is_throttled_five_times_is_tried_three_times_and_goes_on_in_the_next_run() {
    let stage = stage().await;
    let content = Content::generated(1, LARGE);
    stage.bucket.put("a", content.clone());
    let slow = stage.server.faults().add(Fault::error(S3Error::slow_down()).on_get().key("a").range_start(AT).times(5));
    stage.ferry.run(&["a"]).await.unwrap();
    assert_eq!(slow.hits(), 3);
    stage.assert_failed(0, "a", ErrorKind::SourceThrottled);
    stage.server.reset_requests();
    stage.ferry.run(&["a"]).await.unwrap();
    assert_eq!(slow.hits(), 5);
    stage.assert_delivered(0, "a", &content);
    assert_eq!(stage.asked("a").into_iter().min(), Some(AT), "nothing before it is read again");
}

// Mutation: expired credentials count as transient (`error::answered`).
#[tokio::test]
async fn credentials_that_expire_and_cannot_be_renewed_end_the_file_at_once() {
    let stage = stage().await;
    stage.bucket.put("a", Content::generated(1, LARGE));
    let expired = stage.server.faults().add(Fault::error(S3Error::expired_token()).on_get().key("a").range_start(AT));
    stage.ferry.run(&["a"]).await.unwrap();
    assert_eq!(expired.hits(), 1);
    let text = stage.assert_failed(0, "a", ErrorKind::SourceDenied);
    assert!(text.contains("expired"), "{text}");
}

// Mutation: `stall_timeout` is not applied to bodies (`reader::collect`).
#[tokio::test]
async fn a_store_that_falls_silent_is_a_stall_and_is_asked_again() {
    let mut stage = stage().await;
    let content = Content::generated(1, LARGE);
    stage.bucket.put("a", content.clone());
    let mut quick = config(&stage.server);
    quick.stall_timeout = std::time::Duration::from_millis(400);
    stage.ferry.source = source(quick).await;
    let silent = Fault::new(Effect::Stall { after: 500_000, duration: None }).on_get().key("a").range_start(AT).once();
    let silent = stage.server.faults().add(silent);
    stage.ferry.run(&["a"]).await.unwrap();
    assert_eq!(silent.hits(), 1);
    stage.assert_delivered(0, "a", &content);
}
