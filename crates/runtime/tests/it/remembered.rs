//! What is remembered of the objects of a source, and that it decides nothing.

use jiff::Timestamp;
use model::{ByteCount, IfExists, TransferId, TransferState};
use serde_json::{Value, json};
use store::{CachedObject, Mutation};
use transfer::Pin;

use crate::scene::{BUCKET, Scene, SetClock, pattern};

fn submit(scene: &Scene) -> TransferId {
    scene.submit_with("a.bin", "ann", 5, |options| {
        (options.thresholds.small, options.thresholds.large) = (ByteCount(1 << 20), ByteCount(64 << 20));
        options.if_exists = IfExists::Replace;
    })
}

/// Delivers the object that is there now; gives what DownloadFromS3 planned and what the cache had said.
fn planned(scene: &Scene) -> (Value, Value) {
    let id = submit(scene);
    let running = scene.start();
    assert_eq!(scene.rests(&id), TransferState::Completed, "{:#?}", scene.history(&id));
    running.stop();
    let output = output(scene, &id);
    (output["strategy"].clone(), output["cache"].clone())
}

fn output(scene: &Scene, id: &TransferId) -> Value {
    let execution = app::binding::execution_name(id, 1);
    let rows = scene.runtime.block_on(scene.store.history(&execution, 0, 1_000)).unwrap();
    let outputs = rows.iter().filter_map(|row| {
        let event: Value = serde_json::from_str(&row.body).unwrap();
        let output: Value = serde_json::from_str(event["taskSucceededEventDetails"]["output"].as_str()?).unwrap();
        Some(output["Payload"].clone())
    });
    outputs.into_iter().find(|payload| payload["cache"].is_object()).expect("DownloadFromS3 has said what it found")
}

fn remembered(scene: &Scene) -> Pin {
    let cached = scene.runtime.block_on(scene.store.cached_object(&format!("{BUCKET}#a.bin"), Timestamp::now())).unwrap();
    serde_json::from_str(&cached.expect("it is remembered").body).unwrap()
}

fn counts(hits: u32, stale: u32, misses: u32) -> Value {
    json!({"hits": hits, "stale": stale, "misses": misses})
}

/// Mutation: the largest size is taken from what is remembered: the second object is planned as `direct`. A stale entry is not
/// replaced: the size that is remembered stays the old one. What has expired is asked for too: the last look is a hit.
#[test]
fn what_is_remembered_of_an_object_is_revalidated_and_plans_nothing() {
    let (mut scene, clock) = (Scene::new(), SetClock::new());
    scene.settings.clock = clock.clone();
    scene.bucket.put("a.bin", pattern(1_000));
    assert_eq!(planned(&scene), (json!("direct"), counts(0, 0, 1)));
    let first = remembered(&scene);
    assert_eq!(first.size, 1_000);
    assert_eq!(planned(&scene), (json!("direct"), counts(1, 0, 0)));
    scene.bucket.put("a.bin", pattern(2 << 20));
    assert_eq!(planned(&scene), (json!("chunked"), counts(0, 1, 0)), "the plan is made from what is there");
    let second = remembered(&scene);
    assert!(second.size == 2 << 20 && second.etag != first.etag, "{second:?}");
    assert!(scene.received("a.bin") == pattern(2 << 20));
    // A day later it counts for nothing, also while it has not been swept: the first sweep of this service is over by then.
    let old = CachedObject { key: "old".into(), body: "{}".into(), expires_at: Timestamp::now() };
    scene.runtime.block_on(scene.store.commit(Mutation::PutCached(old))).unwrap();
    let running = scene.start();
    let is_swept = || scene.runtime.block_on(scene.store.cached_object("old", Timestamp::UNIX_EPOCH)).unwrap().is_none();
    scene.until("it has swept", is_swept);
    clock.set_ahead(25);
    let id = submit(&scene);
    running.service().wake();
    assert_eq!(scene.rests(&id), TransferState::Completed, "{:#?}", scene.history(&id));
    running.stop();
    assert_eq!(output(&scene, &id)["cache"], counts(0, 0, 1));
}
