//! `watch --queue`: an event brings an object at once, and whatever becomes of events, each version arrives once.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::moto::Moto;
use testkit::s3::{Effect, Fault, Operation as Asked, S3Error};
use testkit::sftp::SftpServer;

use super::shop::*;
use super::watch::{Arrivals, arrivals, counted, stopped};
use super::*;

struct Scene {
    shop: Shop,
    _server: SftpServer,
    partner: Partner,
    seen: Arrivals,
    moto: Moto,
    queue: String,
}

async fn scene() -> Scene {
    let (shop, server) = (shop().await, SftpServer::builder().start().await.unwrap());
    let (partner, seen, moto) = (sandbox(&server), arrivals(&server), Moto::start().await.unwrap());
    let queue = moto.queue_url("outbound");
    moto.create_queue("outbound").await.unwrap();
    shop.bucket.versioning(true);
    Scene { shop, _server: server, partner, seen, moto, queue }
}

/// What S3 says when an object is written.
fn event(key: &str, version: &str) -> Value {
    json!({"Records": [{
        "eventVersion": "2.1", "eventSource": "aws:s3", "eventTime": jiff::Timestamp::now().to_string(), "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": "b"}, "object": {"key": key, "size": 1, "eTag": "e", "versionId": version, "sequencer": "00"}}
    }]})
}

impl Scene {
    fn put(&self, key: &str, content: &str) -> String {
        self.shop.bucket.put_versioned(key, content)
    }

    async fn tell(&self, message: &Value) {
        self.moto.send(&self.queue, &message.to_string()).await.unwrap();
    }

    fn command(&self, more: &[&str]) -> Command {
        watching(&self.shop, &self.partner, "s3://b/p/", &[&["--queue", &self.queue], more].concat())
    }

    fn listings(&self) -> usize {
        self.shop.server.requests_for(Asked::ListObjects).len()
    }

    /// A watch that has listed once, and lists no more before the test is over.
    async fn watch(&self, more: &[&str]) -> std::process::Child {
        let (listed, child) = (self.listings(), self.shop.start(self.command(&[&["--every", "1h"], more].concat())));
        wait_until("the first listing", || self.listings() > listed);
        child
    }

    async fn until(&self, what: &str, counts: (u64, u64)) {
        let begin = Instant::now();
        while self.moto.counts(&self.queue).await.unwrap() != counts {
            assert!(begin.elapsed() < Duration::from_secs(30), "{what}: {:?}", self.moto.counts(&self.queue).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn until_arrived(&self, count: usize) {
        wait_until("the arrival", || self.seen.lock().unwrap().len() >= count);
    }
}

fn watching(shop: &Shop, partner: &Partner, source: &str, more: &[&str]) -> Command {
    let mut arguments = partner.arguments(source, &[&["--if-exists", "replace"], more].concat());
    arguments[0] = "watch";
    let endpoint = shop.server.endpoint();
    if !more.contains(&"--s3-endpoint") {
        arguments.extend(["--s3-endpoint", &endpoint]);
    }
    let mut command = shop.command(&arguments);
    command.env("FILEFERRY_TEST_LEASE_MS", "3000");
    command
}

fn told(ran: &Ran) -> Value {
    ran.objects().into_iter().rfind(|line| line["type"] == "watch").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_any_form_brings_its_object_at_once_and_nothing_is_listed_for_it() {
    let scene = scene().await;
    scene.put("p/before", "listed");
    let child = scene.watch(&[]).await;
    scene.until_arrived(1);
    let listed = scene.listings();
    let (plain, inside, bridge) = (scene.put("p/a b+é", "plain"), scene.put("p/in", "sns"), scene.put("p/bridge+", "bridge"));
    let begin = Instant::now();
    scene.tell(&event("p/a+b%2B%C3%A9", &plain)).await;
    let topic = "arn:aws:sns:us-east-1:123456789012:t";
    scene.tell(&json!({"Type": "Notification", "TopicArn": topic, "Message": event("p/in", &inside).to_string()})).await;
    scene
        .tell(&json!({"source": "aws.s3", "detail-type": "Object Created", "time": "2026-01-02T03:04:05Z",
            "detail": {"bucket": {"name": "b"}, "object": {"key": "p/bridge+", "version-id": bridge}}}))
        .await;
    scene.until_arrived(4);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    scene.until("all are deleted", (0, 0)).await;
    let ran = stopped(child);
    assert_eq!((ran.code, scene.listings()), (0, listed), "{}{}", ran.out, ran.err);
    let names: Vec<String> = counted(&scene.seen).into_keys().map(|(name, _)| name).collect();
    assert_eq!(names, ["a b+é", "before", "bridge+", "in"]);
    let queue = &told(&ran)["queue"];
    assert_eq!((&queue["received"], &queue["deleted"], &queue["held"]), (&json!(3), &json!(3), &json!(0)), "{queue}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_comes_twice_late_or_for_nothing_sends_nothing_twice_and_nothing_old() {
    let scene = scene().await;
    let child = scene.watch(&[]).await;
    // Two versions within one second, told in the wrong order and more than once.
    let (old, new) = (scene.put("p/a", "old"), scene.put("p/a", "new"));
    scene.tell(&event("p/a", &new)).await;
    scene.until_arrived(1);
    for version in [&old, &new, &old] {
        scene.tell(&event("p/a", version)).await;
    }
    let gone = scene.put("p/gone", "x");
    scene.shop.bucket.delete("p/gone");
    scene.tell(&event("p/gone", &gone)).await;
    scene.tell(&event("p/never", "nonsense")).await;
    scene.until("all are deleted", (0, 0)).await;
    // Both versions in one message: the older first.
    let (first, second) = (scene.put("p/b", "first"), scene.put("p/b", "second"));
    let mut both = event("p/b", &first);
    let next = event("p/b", &second)["Records"][0].clone();
    both["Records"].as_array_mut().unwrap().push(next);
    scene.tell(&both).await;
    scene.until_arrived(3);
    scene.until("it is deleted", (0, 0)).await;
    let ran = stopped(child);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    let seen: Vec<(String, String)> = scene.seen.lock().unwrap().clone();
    let expected = [("a", "new"), ("b", "first"), ("b", "second")];
    assert_eq!(seen, expected.map(|(name, content)| (name.to_owned(), content.to_owned())));
    let queue = told(&ran)["queue"].clone();
    assert!(queue["superseded"].as_u64() >= Some(1), "{queue}");
    assert!(ran.failed().is_empty(), "{}", ran.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_event_is_found_by_the_next_listing_and_its_late_twin_finds_it_on_record() {
    let scene = scene().await;
    let child = scene.shop.start(scene.command(&["--every", "300ms"]));
    let version = scene.put("p/a", "a");
    scene.until_arrived(1);
    scene.tell(&event("p/a", &version)).await;
    scene.until("it is deleted", (0, 0)).await;
    assert_eq!(stopped(child).code, 0);
    assert_eq!(scene.seen.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_not_for_us_is_left_and_an_event_that_says_nothing_is_deleted() {
    let scene = scene().await;
    let child = scene.watch(&["--exclude", "*.tmp"]).await;
    let mut removed = event("p/a", "v");
    removed["Records"][0]["eventName"] = json!("ObjectRemoved:Delete");
    let excluded = scene.put("p/a.tmp", "x");
    let test = |bucket: &str| json!({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": bucket});
    for message in [&removed, &event("elsewhere/a", "v"), &event("p/a.tmp", &excluded), &test("b")] {
        scene.tell(message).await;
    }
    scene.until("they are deleted", (0, 0)).await;
    scene.moto.send(&scene.queue, "an order of somebody else").await.unwrap();
    scene.moto.send(&scene.queue, "another one").await.unwrap();
    let mut foreign = event("p/a", "v");
    foreign["Records"][0]["s3"]["bucket"]["name"] = json!("theirs");
    scene.tell(&foreign).await;
    foreign["Records"][0]["eventName"] = json!("ObjectRemoved:Delete");
    scene.tell(&foreign).await;
    scene.tell(&test("theirs")).await;
    scene.until("they are hidden and not deleted", (0, 5)).await;
    let version = scene.put("p/z", "z");
    scene.tell(&event("p/z", &version)).await;
    scene.until_arrived(1);
    let ran = stopped(child);
    assert_eq!((ran.code, scene.seen.lock().unwrap().len()), (0, 1), "{}{}", ran.out, ran.err);
    assert_eq!(ran.err.matches("is left there").count(), 2, "{}", ran.err);
    let queue = told(&ran)["queue"].clone();
    assert_eq!((&queue["not_ours"], &queue["not_understood"]), (&json!(3), &json!(5)), "{queue}");
    assert_eq!(scene.moto.counts(&scene.queue).await.unwrap(), (0, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_cannot_be_looked_at_rests_alone_and_the_watch_does_not_wait() {
    let scene = scene().await;
    let child = scene.watch(&["--retries", "1"]).await;
    let (listed, sick) = (scene.listings(), scene.put("p/sick", "x"));
    let fault = scene.shop.server.faults().add(Fault::error(S3Error::access_denied()).operation(Asked::HeadObject).key("p/sick"));
    scene.tell(&event("p/sick", &sick)).await;
    wait_until("the look", || fault.hits() >= 1);
    wait_until("a listing that tells whether the store is away", || scene.listings() > listed);
    let version = scene.put("p/well", "x");
    scene.tell(&event("p/well", &version)).await;
    wait_until("the other's arrival", || scene.seen.lock().unwrap().iter().any(|(name, _)| name == "well"));
    let listed = scene.listings();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(scene.listings(), listed, "no listing follows another");
    let ran = stopped(child);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert_eq!(ran.err.matches("cannot be looked at").count(), 1, "{}", ran.err);
    let states: Vec<_> = ran.objects().into_iter().filter(|l| l["type"] == "watch").map(|l| l["state"].clone()).collect();
    assert_eq!(states, ["watching", "stopped"], "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_away_is_told_once_and_listing_goes_on() {
    let mut scene = scene().await;
    scene.queue = scene.moto.queue_url("later");
    scene.put("p/a", "a");
    let child = scene.shop.start(scene.command(&["--every", "200ms"]));
    scene.until_arrived(1);
    std::thread::sleep(Duration::from_secs(2));
    scene.put("p/b", "b");
    scene.until_arrived(2);
    scene.moto.create_queue("later").await.unwrap();
    let version = scene.put("p/c", "c");
    scene.tell(&event("p/c", &version)).await;
    scene.until("it is deleted", (0, 0)).await;
    let ran = stopped(child);
    assert_eq!((ran.code, scene.seen.lock().unwrap().len()), (0, 3), "{}{}", ran.out, ran.err);
    assert_eq!(ran.err.matches("listing goes on").count(), 1, "{}", ran.err);
    assert_eq!(ran.err.matches("answers again").count(), 1, "{}", ran.err);
    let states: Vec<_> = ran.objects().into_iter().filter(|l| l["type"] == "watch").map(|l| l["state"].clone()).collect();
    assert_eq!(states, ["watching", "stopped"], "the watch itself did not wait");
}

/// Mutation: the look at named objects goes on to its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_the_middle_of_a_look_comes_at_once_and_gives_back_what_was_not_seen() {
    let scene = scene().await;
    let child = scene.watch(&[]).await;
    let late = Fault::new(Effect::Delay(Duration::from_secs(40))).operation(Asked::HeadObject).key("p/late");
    let late = scene.shop.server.faults().add(late);
    // One message names both, so that both are looked at together.
    let (well, slow) = (scene.put("p/well", "well"), scene.put("p/late", "late"));
    let mut both = event("p/well", &well);
    both["Records"].as_array_mut().unwrap().push(event("p/late", &slow)["Records"][0].clone());
    scene.tell(&both).await;
    wait_until("the look", || late.hits() >= 1);
    let begin = Instant::now();
    let ran = stopped(child);
    assert!(begin.elapsed() < Duration::from_secs(15), "the stop waited for the store: {:?}", begin.elapsed());
    assert_eq!((ran.code, scene.seen.lock().unwrap().len()), (0, 0), "{}{}", ran.out, ran.err);
    assert_eq!(told(&ran)["queue"]["deleted"], json!(0), "{}", told(&ran));
    scene.until("it was given back", (1, 0)).await;
    late.remove();
    let child = scene.shop.start(scene.command(&["--every", "1h"]));
    scene.until_arrived(2);
    scene.until("it is deleted", (0, 0)).await;
    assert_eq!(stopped(child).code, 0);
    assert!(counted(&scene.seen).values().all(|count| *count == 1), "{:?}", scene.seen);
}

// SEMANTICS S50: "A message of a watch's queue is deleted only when each object that it names was delivered, is on record, is gone or
// superseded, has failed for good and was told, or is none that the watch sends; otherwise the queue shows it again."
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_done_keeps_its_message_and_a_stop_gives_it_back() {
    let scene = scene().await;
    let outage = scene.shop.server.faults().add(Fault::error(S3Error::slow_down()).operation(Asked::GetObject).key("p/slow"));
    let child = scene.watch(&["--retries", "1"]).await;
    let slow = scene.put("p/slow", "slow");
    scene.tell(&event("p/slow", &slow)).await;
    wait_until("the failure", || outage.hits() >= 1);
    // Others go on, the file that rests is neither forgotten nor tried with them, and its message is held.
    let hits = || outage.hits();
    for number in 0..3 {
        let version = scene.put(&format!("p/{number}"), "x");
        scene.tell(&event(&format!("p/{number}"), &version)).await;
        scene.until_arrived(number + 1);
    }
    scene.until("one is held", (0, 1)).await;
    let tried = hits();
    let version = scene.put("p/last", "x");
    scene.tell(&event("p/last", &version)).await;
    scene.until_arrived(4);
    scene.until("one is held", (0, 1)).await;
    assert_eq!(hits(), tried);
    let ran = stopped(child);
    assert_eq!(ran.failed(), [("p/slow".to_owned(), "source_throttled".to_owned())], "{}", ran.out);
    assert_eq!(told(&ran)["retrying"], json!(1), "{}", told(&ran));
    scene.until("it was given back", (1, 0)).await;

    // A bucket that is away: nothing is received that cannot be sent.
    outage.remove();
    let away = scene.shop.server.faults().add(Fault::error(S3Error::access_denied()).operation(Asked::ListObjects));
    let child = scene.shop.start(scene.command(&["--every", "1h"]));
    wait_until("a round in the outage", || away.hits() >= 1);
    let version = scene.put("p/more", "x");
    scene.tell(&event("p/more", &version)).await;
    std::thread::sleep(Duration::from_secs(1));
    let (visible, hidden) = scene.moto.counts(&scene.queue).await.unwrap();
    assert_eq!((visible, hidden), (2, 0));
    away.remove();
    scene.until_arrived(6);
    scene.until("all are deleted", (0, 0)).await;
    assert_eq!(stopped(child).code, 0);
    assert!(counted(&scene.seen).values().all(|count| *count == 1), "{:?}", scene.seen);
}

// SEMANTICS S41: "A watch delivers each version of an object that it sees exactly once, unless a newer one was delivered first; within
// one second that cannot be told. A kill at any moment, and the start after it, lose nothing and double nothing."
#[tokio::test(flavor = "multi_thread")]
async fn each_version_that_is_told_of_arrives_once_through_kills_at_any_moment() {
    let scene = scene().await;
    let (mut wanted, mut events) = (Vec::new(), Vec::new());
    let mut chance = 11u64;
    for round in 0..5 {
        let child = scene.shop.start(scene.command(&["--every", "1h", "--sidecar", "done"]));
        for index in 0..12 {
            let (name, content) = (format!("{round}-{index}"), format!("{index} of {round}"));
            let version = scene.put(&format!("p/{name}"), &content);
            wanted.push((name.clone(), content));
            events.push(event(&format!("p/{name}"), &version));
            scene.tell(events.last().unwrap()).await;
        }
        // At least once: some come again, as those do whose deletion the kill prevented.
        for index in [0, events.len() / 2, events.len() - 1] {
            scene.tell(&events[index]).await;
        }
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        tokio::time::sleep(Duration::from_millis(50 + (chance >> 33) % 700)).await;
        signal(child.id(), "KILL");
        assert!(child.wait_with_output().unwrap().status.code().is_none());
    }
    let child = scene.watch(&["--sidecar", "done"]).await;
    for event in &events {
        scene.tell(event).await;
    }
    scene.until_arrived(2 * wanted.len());
    // What the killed ones had received stays hidden for its five minutes; all else is done with.
    let begin = Instant::now();
    while scene.moto.counts(&scene.queue).await.unwrap().0 > 0 {
        assert!(begin.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ran = stopped(child);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert_eq!(told(&ran)["queue"]["held"], json!(0), "{}", told(&ran));
    let there = counted(&scene.seen);
    for one in &wanted {
        assert_eq!(there.get(one), Some(&1), "{one:?}");
    }
    assert_eq!(there.values().sum::<usize>(), 2 * wanted.len(), "{there:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_watches_on_one_queue_deliver_each_its_own_once() {
    let scene = scene().await;
    let other = shop().await;
    let endpoint = scene.shop.server.endpoint();
    let arguments = ["--every", "1s", "--queue", &scene.queue, "--name", "r-{key}", "--s3-endpoint", &endpoint];
    let second = other.start(watching(&other, &scene.partner, "s3://b/r/", &arguments));
    let first = scene.shop.start(scene.command(&["--every", "1s"]));
    for number in 0..15 {
        for prefix in ["p", "r"] {
            let version = scene.put(&format!("{prefix}/{number}"), "x");
            scene.tell(&event(&format!("{prefix}/{number}"), &version)).await;
        }
    }
    scene.until_arrived(30);
    scene.until("all are deleted", (0, 0)).await;
    assert_eq!((stopped(first).code, stopped(second).code), (0, 0));
    let there = counted(&scene.seen);
    assert_eq!((there.len(), there.values().all(|count| *count == 1)), (30, true), "{there:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_that_a_store_sends_itself_are_understood() {
    let scene = scene().await;
    scene.moto.create_bucket("store", "outbound").await.unwrap();
    let endpoint = scene.moto.endpoint();
    let mut command = watching(
        &scene.shop,
        &scene.partner,
        "s3://store/p/",
        &["--queue", "outbound", "--every", "1h", "--health-every", "200ms", "--s3-endpoint", &endpoint],
    );
    // By its name: the endpoint comes from the environment then.
    command.env("AWS_ENDPOINT_URL_SQS", &endpoint);
    let child = scene.shop.start(command);
    scene.moto.put("store", "p/before%2B%20%C3%A9", b"one").await.unwrap();
    scene.until_arrived(1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.moto.put("store", "p/after%2B%20%C3%A9", b"two").await.unwrap();
    scene.until_arrived(2);
    scene.until("all are deleted", (0, 0)).await;
    let ran = stopped(child);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    let names: Vec<String> = counted(&scene.seen).into_keys().map(|(name, _)| name).collect();
    assert_eq!(names, ["after+ é", "before+ é"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_cannot_serve_the_watch_is_refused_at_once() {
    let (shop, server) = (shop().await, SftpServer::builder().start().await.unwrap());
    let partner = sandbox(&server);
    let queue = "https://sqs.eu-west-1.amazonaws.com/123456789012/q";
    let local = shop.out();
    for (source, more) in [
        ("s3://b/p/", ["--queue", "no queue", "--every", "1h"]),
        ("s3://b/p/", ["--queue", queue, "--once", "-v"]),
        ("s3://b/p/", ["--queue", queue, "--name", "{version}-{key}"]),
        (local.as_str(), ["--queue", queue, "--every", "1h"]),
    ] {
        let ran = ended(shop.start(watching(&shop, &partner, source, &more)));
        assert_eq!(ran.code, 1, "{more:?}: {}", ran.err);
        assert!(ran.err.contains("queue"), "{}", ran.err);
    }
}
