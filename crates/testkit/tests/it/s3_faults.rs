//! Each scripted fault of the S3 server happens where it was asked for, and nowhere else.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use testkit::s3::{Content, Effect, Ending, Fault, Operation, S3Error, S3Server};

use crate::http::Client;

const LEN: u64 = 300_000;

async fn server() -> (S3Server, Client, Content) {
    let server = S3Server::start().await;
    let content = Content::generated(5, LEN);
    server.bucket("b").put("a", content.clone());
    server.bucket("b").put("other", "unharmed");
    let client = Client::connect(server.address()).await;
    (server, client, content)
}

#[tokio::test]
async fn errors_come_as_often_as_told_and_only_for_the_key() {
    let (server, mut client, _) = server().await;
    let slow = server.faults().add(Fault::error(S3Error::slow_down()).bucket("b").key("a").on_get().after(1).times(2));
    let statuses = [200, 503, 503, 200];
    for status in statuses {
        assert_eq!(client.get("/b/a", &[]).await.status, status);
        assert_eq!(client.get("/b/other", &[]).await.status, 200);
    }
    assert_eq!(slow.hits(), 2);
    for (error, status, code) in [
        (S3Error::internal_error(), 500, "InternalError"),
        (S3Error::expired_token(), 400, "ExpiredToken"),
        (S3Error::expired_token().with_status(403), 403, "ExpiredToken"),
        (S3Error::access_denied(), 403, "AccessDenied"),
    ] {
        server.faults().add(Fault::error(error).operation(Operation::ListObjects).once());
        let answer = client.get("/b?list-type=2", &[]).await;
        assert!(answer.status == status && answer.has(code), "{answer:?}");
    }
    assert_eq!(client.get("/b?list-type=2", &[]).await.status, 200);
}

#[tokio::test]
async fn a_body_is_cut_after_exactly_the_bytes_told() {
    for ending in [Ending::Fin, Ending::Rst] {
        let (server, mut client, content) = server().await;
        let cut = server.faults().add(Fault::new(Effect::Cut { after: 70_001, ending }).key("a").range_start(1000).once());
        let answer = client.get("/b/a", &[("Range", "bytes=1000-299999")]).await;
        assert_eq!((answer.status, answer.complete, cut.hits()), (206, false, 1));
        assert_eq!(answer.header("content-length"), Some("299000"));
        match ending {
            Ending::Fin => {
                assert_eq!(answer.error, Some(ErrorKind::UnexpectedEof));
                assert_eq!(answer.body, content.read(1000..71_001));
            }
            // What a reset overtakes is lost.
            Ending::Rst => assert_eq!(answer.error, Some(ErrorKind::ConnectionReset)),
        }
        let again = Client::connect(server.address()).await.get("/b/a", &[("Range", "bytes=1000-299999")]).await;
        assert!(again.complete);
    }
}

#[tokio::test]
async fn a_connection_ends_without_an_answer() {
    for ending in [Ending::Fin, Ending::Rst] {
        let (server, mut client, _) = server().await;
        server.faults().add(Fault::new(Effect::NoAnswer(ending)).once());
        assert!(client.try_send("GET", "/b/a", &[], b"").await.is_none());
        assert_eq!(Client::connect(server.address()).await.get("/b/a", &[]).await.status, 200);
    }
}

#[tokio::test]
async fn a_short_answer_looks_complete_and_a_long_promise_ends_the_connection() {
    let (server, mut client, content) = server().await;
    server.faults().add(Fault::new(Effect::ContentLength(5000)).on_get().once());
    let short = client.get("/b/a", &[("Range", "bytes=0-9999")]).await;
    assert_eq!((short.complete, short.header("content-range")), (true, Some("bytes 0-9999/300000")));
    assert_eq!(short.body, content.read(0..5000));
    assert!(client.get("/b/a", &[]).await.complete, "the connection is still good");
    server.faults().add(Fault::new(Effect::ContentLength(20_000)).on_get().once());
    let long = client.get("/b/a", &[("Range", "bytes=0-9999")]).await;
    assert_eq!((long.error, long.body.len()), (Some(ErrorKind::UnexpectedEof), 10_000));
}

#[tokio::test]
async fn a_stall_lasts_for_ever_or_as_long_as_told() {
    let (server, mut client, content) = server().await;
    server.faults().add(Fault::new(Effect::Stall { after: 1234, duration: None }).nth(1));
    let answer = client.get("/b/a", &[]).await;
    assert_eq!((answer.error, answer.body.len()), (Some(ErrorKind::TimedOut), 1234));
    server.faults().add(Fault::new(Effect::Stall { after: 1234, duration: Some(Duration::from_millis(150)) }).once());
    let begin = Instant::now();
    let answer = Client::connect(server.address()).await.get("/b/a", &[]).await;
    assert_eq!(answer.body, content.bytes());
    assert!(begin.elapsed() >= Duration::from_millis(150));
}

#[tokio::test]
async fn delays_and_bandwidth_limits_take_their_time() {
    let (server, mut client, content) = server().await;
    server.faults().add(Fault::new(Effect::Delay(Duration::from_millis(120))).once());
    let begin = Instant::now();
    client.get("/b/other", &[]).await;
    assert!(begin.elapsed() >= Duration::from_millis(120));
    server.faults().add(Fault::new(Effect::BytesPerSecond(1_000_000)).once());
    let begin = Instant::now();
    assert_eq!(client.get("/b/a", &[]).await.body, content.bytes());
    assert!(begin.elapsed() >= Duration::from_millis(250), "{:?}", begin.elapsed());
    server.set_bandwidth(Some(1_000_000));
    server.set_latency(Duration::from_millis(50));
    let begin = Instant::now();
    client.get("/b/a", &[]).await;
    assert!(begin.elapsed() >= Duration::from_millis(300), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn an_object_changes_between_two_ranges() {
    let (server, mut client, content) = server().await;
    let other = Content::generated(6, LEN);
    server.faults().add(Fault::new(Effect::Replace(other.clone())).key("a").on_get().nth(2));
    let first = client.get("/b/a", &[("Range", "bytes=0-99999")]).await;
    assert_eq!(first.body, content.read(0..100_000));
    let etag = first.header("etag").unwrap().to_owned();
    let second = client.get("/b/a", &[("Range", "bytes=100000-199999"), ("If-Match", &etag)]).await;
    assert_eq!(second.status, 412);

    server.faults().add(Fault::new(Effect::IgnoreConditions).key("a"));
    let mixed = client.get("/b/a", &[("Range", "bytes=100000-199999"), ("If-Match", &etag)]).await;
    assert_eq!(mixed.body, other.read(100_000..200_000), "served although the condition does not hold");
    assert_ne!(mixed.header("etag"), Some(etag.as_str()));
}

#[tokio::test]
async fn a_lying_store_keeps_the_etag_of_other_bytes() {
    let (server, mut client, _) = server().await;
    let etag = client.send("HEAD", "/b/a", &[], b"").await.header("etag").unwrap().to_owned();
    let other = Content::generated(6, LEN);
    server.faults().add(Fault::new(Effect::ReplaceSilently(other.clone())).key("a").on_get().once());
    let answer = client.get("/b/a", &[("If-Match", &etag)]).await;
    assert_eq!((answer.header("etag"), answer.body.as_slice()), (Some(etag.as_str()), other.bytes().as_ref()));
}

#[tokio::test]
async fn ranges_and_versions_are_ignored_bytes_flip_and_objects_vanish() {
    let (server, mut client, content) = server().await;
    server.faults().add(Fault::new(Effect::IgnoreRange).once());
    let answer = client.get("/b/a", &[("Range", "bytes=5-9")]).await;
    assert_eq!((answer.status, answer.body.len() as u64), (200, LEN));

    server.faults().add(Fault::new(Effect::FlipByte(7)).range_start(5).once());
    let flipped = client.get("/b/a", &[("Range", "bytes=5-9")]).await;
    let mut expected = content.read(5..10).to_vec();
    expected[2] ^= 0xff;
    assert_eq!(flipped.body, expected);

    server.faults().add(Fault::new(Effect::IgnoreVersion).once());
    assert_eq!(client.get("/b/a?versionId=unknown", &[]).await.status, 200);

    let fault = server.faults().add(Fault::new(Effect::Delete).key_prefix("a"));
    assert_eq!(client.get("/b/a", &[]).await.status, 404);
    fault.remove();
    server.faults().clear();
}

#[tokio::test]
async fn a_dropped_server_closes_its_port() {
    let (server, mut client, _) = server().await;
    let address = server.address();
    drop(server);
    assert!(client.try_send("GET", "/b/a", &[], b"").await.is_none());
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}
