//! A1 to A3: the object is replaced or deleted while it is being delivered.

use testkit::s3::{Content, Effect, Fault};
use transfer::ErrorKind;

use super::*;

const LARGE: u64 = 12 * RANGE + 77;

// Mutation: no `If-Match` on ranges and no comparison of ETags (`reader::read`, `reader::compare`).
#[tokio::test]
async fn an_object_replaced_by_one_of_the_same_size_is_never_delivered_as_a_mixture() {
    for size in [LARGE, 1000] {
        let stage = stage().await;
        stage.bucket.put("a", Content::generated(1, size));
        let at = if size == LARGE { 9 * RANGE } else { 0 };
        let replaced = Effect::Replace(Content::generated(2, size));
        let fault = stage.server.faults().add(Fault::new(replaced).on_get().key("a").range_start(at).once());
        stage.ferry.run(&["a"]).await.unwrap();
        assert_eq!(fault.hits(), 1);
        let text = stage.assert_nothing(0, "a", ErrorKind::SourceChanged);
        assert!(text.contains("s3://b/a"), "{text}");
        assert_eq!(stage.asked("a").iter().filter(|start| **start == at).count(), 1, "asking again cannot help");
    }
}

// Mutation: believe the condition and do not compare the answer's ETag with the pin (`reader::compare`).
#[tokio::test]
async fn a_store_that_ignores_conditions_does_not_get_its_mixture_through() {
    for size in [LARGE, 1000] {
        let stage = stage().await;
        let old = stage.bucket.put("a", Content::generated(1, size)).etag();
        let ignored = stage.server.faults().add(Fault::new(Effect::IgnoreConditions).key("a"));
        let replaced = Effect::Replace(Content::generated(2, size));
        let at = if size == LARGE { 9 * RANGE } else { 0 };
        let fault = stage.server.faults().add(Fault::new(replaced).on_get().key("a").range_start(at).once());
        stage.ferry.run(&["a"]).await.unwrap();
        assert_eq!(fault.hits(), 1);
        assert!(ignored.hits() > 0);
        let text = stage.assert_nothing(0, "a", ErrorKind::SourceChanged);
        let new = stage.bucket.put("other", Content::generated(2, size)).etag();
        assert!(text.contains(&old) && text.contains(&new), "both ETags are named: {text}");
    }
}

// Mutation: `check_source` always agrees.
#[tokio::test]
async fn a_store_that_swaps_bytes_under_the_same_etag_is_found_by_its_own_checksum() {
    let stage = stage().await;
    let options = testkit::s3::ObjectOptions { checksum: testkit::s3::Checksum::Crc64Nvme, ..Default::default() };
    stage.bucket.put_with("a", Content::generated(1, LARGE), options);
    let swapped = Effect::ReplaceSilently(Content::generated(2, LARGE));
    let fault = stage.server.faults().add(Fault::new(swapped).on_get().key("a").range_start(9 * RANGE).once());
    stage.ferry.run(&["a"]).await.unwrap();
    assert_eq!(fault.hits(), 1);
    let text = stage.assert_failed(0, "a", ErrorKind::IntegrityMismatch);
    assert!(text.contains("crc64nvme"), "{text}");
}

// Mutation: ranges are read without `versionId` (`reader::read`).
#[tokio::test]
async fn a_new_version_does_not_disturb_the_pinned_one() {
    let stage = stage().await;
    let planned = Content::generated(1, LARGE);
    let version = stage.bucket.put_versioned("a", planned.clone());
    let fault = Fault::new(Effect::Replace(Content::generated(2, LARGE))).on_get().key("a").range_start(5 * RANGE).once();
    let fault = stage.server.faults().add(fault);
    stage.ferry.run(&["a"]).await.unwrap();
    assert_eq!(fault.hits(), 1);
    assert_ne!(stage.bucket.get("a").unwrap(), planned, "there is a newer version");
    stage.assert_delivered(0, "a", &planned);
    let delivery = stage.ferry.records.kept(0).finished.unwrap().delivery.unwrap();
    assert_eq!(delivery.pin.version, Some(version));
}

// Mutation: small files are read without their ETag (`reader::read`, `reader::compare`).
#[tokio::test]
async fn a_small_file_pinned_by_the_listing_is_not_replaced_by_a_newer_version() {
    let stage = stage().await;
    stage.bucket.put_versioned("a", Content::generated(1, 1000));
    let fault = stage.server.faults().add(Fault::new(Effect::Replace(Content::generated(2, 1000))).on_get().key("a").once());
    stage.ferry.run(&["a"]).await.unwrap();
    assert_eq!(fault.hits(), 1);
    stage.assert_nothing(0, "a", ErrorKind::SourceChanged);
}

// Mutation: `source_missing` counts as transient, or a failed file keeps its temporary file (`give_up`).
#[tokio::test]
async fn an_object_deleted_before_or_during_the_transfer_leaves_nothing() {
    for (size, at) in [(LARGE, 9 * RANGE), (LARGE, 0), (1000, 0)] {
        let stage = stage().await;
        stage.bucket.put("a", Content::generated(1, size));
        let fault = stage.server.faults().add(Fault::new(Effect::Delete).on_get().key("a").range_start(at).once());
        stage.ferry.run(&["a"]).await.unwrap();
        assert_eq!(fault.hits(), 1);
        stage.assert_nothing(0, "a", ErrorKind::SourceMissing);
        assert_eq!(stage.asked("a").iter().filter(|start| **start == at).count(), 1, "asking again cannot help");
    }
}

// Mutation: `FileRun::pin` does not look again before a large file or a resume.
#[tokio::test]
async fn an_object_that_went_away_or_changed_while_we_were_stopped_takes_its_temporary_file_with_it() {
    for class in [ErrorKind::SourceChanged, ErrorKind::SourceMissing] {
        let stage = stage().await;
        stage.bucket.put("a", Content::generated(1, LARGE));
        let stalled = Fault::new(Effect::Stall { after: 0, duration: None }).on_get().key("a").range_start(6 * RANGE);
        let stalled = stage.server.faults().add(stalled);
        stage.run_and_stop(&["a"], || stage.checkpoint(0).0 >= 6).await;
        assert!(stalled.hits() > 0);
        assert_eq!(stage.temporaries().len(), 1, "an interrupted file waits for its resume");
        stage.server.faults().clear();
        stage.server.reset_requests();
        match class {
            ErrorKind::SourceChanged => drop(stage.bucket.put("a", Content::generated(2, LARGE))),
            _ => stage.bucket.delete("a"),
        }
        stage.ferry.run(&["a"]).await.unwrap();
        stage.assert_nothing(0, "a", class);
        assert_eq!(stage.server.bytes_served("a"), 0);
    }
}

// Mutation: the digests begin anew at a resume (`Sheet::resume` without the midstate), or all ranges are missing.
#[tokio::test]
async fn after_a_stop_at_nine_tenths_no_byte_before_the_digests_is_read_again() {
    let stage = stage().await;
    let size = 40 * RANGE + 77;
    let content = Content::generated(1, size);
    stage.bucket.put("a", content.clone());
    let stalled = Fault::new(Effect::Stall { after: 0, duration: None }).on_get().key("a").range_start(36 * RANGE);
    let stalled = stage.server.faults().add(stalled);
    stage.run_and_stop(&["a"], || stage.checkpoint(0).0 >= 36).await;
    assert!(stalled.hits() > 0);
    stage.server.faults().clear();
    stage.server.reset_requests();
    stage.ferry.run(&["a"]).await.unwrap();
    stage.assert_delivered(0, "a", &content);
    assert_eq!(stage.asked("a").into_iter().min(), Some(36 * RANGE));
    assert_eq!(stage.server.bytes_served("a"), size - 36 * RANGE);
    let delivery = stage.ferry.records.kept(0).finished.unwrap().delivery.unwrap();
    assert_eq!(delivery.bytes_resumed, 36 * RANGE);
}

// Mutation: a resume reads every range that is not durable again, instead of looking at the destination.
#[tokio::test]
async fn after_a_kill_at_nine_tenths_only_unconfirmed_ranges_of_one_window_are_read_again() {
    let mut stage = stage().await;
    let size = 60 * RANGE + 77;
    let content = Content::generated(1, size);
    stage.bucket.put("a", content.clone());
    // So that it does not end before the checkpoint is seen.
    stage.server.faults().add(Fault::new(Effect::Stall { after: 0, duration: None }).on_get().key("a").range_start(58 * RANGE));
    stage.run_and_kill(&["a"], || stage.checkpoint(0).1 >= size / 10 * 9).await;
    stage.server.faults().clear();
    let checkpoint = stage.ferry.records.kept(0).checkpoint.expect("a killed file has a checkpoint");
    let listed = checkpoint.ranges.iter().enumerate().filter(|(_, range)| range.written);
    let confirmed: Vec<u64> = listed.map(|(index, _)| (checkpoint.settled + index as u64) * checkpoint.range_size).collect();
    // Requests of the dead process may still arrive; its successor has connections of its own.
    let dead = stage.server.connection_count();
    stage.ferry.source = source(config(&stage.server)).await;
    stage.ferry.run(&["a"]).await.unwrap();
    stage.assert_delivered(0, "a", &content);
    let (mut before_the_digests, mut served) = (0, 0);
    for request in stage.server.requests_for(testkit::s3::Operation::GetObject).into_iter().filter(|r| r.connection > dead) {
        let Some(testkit::s3::AskedRange::From(start, _)) = request.range else { panic!("a large file is read in ranges") };
        assert!(start >= checkpoint.settled * checkpoint.range_size && !confirmed.contains(&start), "{start} was confirmed");
        if start < checkpoint.hashed {
            before_the_digests += checkpoint.range_size;
        }
        served += request.bytes_sent;
    }
    assert!(before_the_digests <= 32 << 20, "{before_the_digests} bytes were read twice");
    assert!(served > 0 && served <= size - checkpoint.hashed + before_the_digests, "{served} bytes after {}", checkpoint.hashed);
}
