//! What S3 sources can be told, from the store to the destination: addresses, versions, who pays, customer keys,
//! regions, long listings.

use data_encoding::BASE64;
use model::ObjectKey;
use testkit::s3::{Content, Encryption, Fault, ObjectOptions, S3Error};
use transfer::s3::CustomerKey;
use transfer::{ErrorKind, ListingOptions, Source};

use super::*;

const LARGE: u64 = 3 * RANGE + 77;

// Mutation: the address style is the SDK's default (`connect::build`).
#[tokio::test]
async fn a_named_store_is_addressed_by_paths() {
    // For an address, and for the shortest bucket names, the SDK itself knows no other way.
    let server = S3Server::start().await;
    let content = Content::generated(1, LARGE);
    server.bucket("partner-files").put("dir/a b+ü%.csv", content.clone());
    let mut named = config(&server);
    named.bucket = "partner-files".into();
    named.endpoint = Some(format!("http://localhost:{}", server.address().port()));
    let source = source(named).await;
    let pin = source.pin(&ObjectKey::new("dir/a b+ü%.csv").unwrap(), None).await.unwrap();
    assert_eq!(source.read(&pin, 0..LARGE).await.unwrap(), content.bytes());
    assert!(server.requests().iter().all(|request| request.bucket == "partner-files"));
}

// Mutation: `request_payer` is not sent with every kind of request (`prepared!`, `listing`).
#[tokio::test]
async fn a_bucket_whose_requester_pays_is_read_by_who_agreed() {
    let mut stage = stage().await;
    let content = Content::generated(1, LARGE);
    stage.bucket.put("a", content.clone());
    stage.bucket.requester_pays(true);
    let key = ObjectKey::new("a").unwrap();
    assert_eq!(stage.ferry.source.pin(&key, None).await.unwrap_err().kind, ErrorKind::SourceDenied);
    let mut agreed = config(&stage.server);
    agreed.request_payer = true;
    stage.ferry.source = source(agreed).await;
    stage.ferry.run(&["a"]).await.unwrap();
    stage.assert_delivered(0, "a", &content);
}

// Mutation: the customer's key is not sent with ranges (`prepared!`).
#[tokio::test]
async fn an_object_under_a_customers_key_is_read_with_it_and_not_without() {
    let mut stage = stage().await;
    let (key, content) = ([7; 32], Content::generated(1, LARGE));
    let key_md5 = BASE64.encode(&Content::from(&key[..]).md5_bytes());
    let options = ObjectOptions { encryption: Encryption::CustomerKey { key_md5 }, ..Default::default() };
    stage.bucket.put_with("a", content.clone(), options.clone());
    stage.bucket.put_with("small", Content::generated(2, 100), options);
    stage.ferry.run(&["a", "small"]).await.unwrap();
    stage.assert_nothing(0, "a", ErrorKind::SourceDenied);
    stage.assert_nothing(1, "small", ErrorKind::SourceDenied);
    let mut keyed = config(&stage.server);
    keyed.customer_key = Some(CustomerKey::new(key));
    stage.ferry.source = source(keyed).await;
    stage.ferry.run(&["a", "small"]).await.unwrap();
    stage.assert_delivered(0, "a", &content);
    stage.assert_delivered(1, "small", &Content::generated(2, 100));
}

// Mutation: a redirect of a named endpoint is followed (`S3Source::request`).
#[tokio::test]
async fn a_bucket_elsewhere_is_said_to_be_there_and_the_signature_stays_here() {
    let stage = stage().await;
    stage.bucket.put("a", Content::generated(1, 1000));
    let moved = S3Error::new(301, "PermanentRedirect", "elsewhere").with_header("x-amz-bucket-region", "eu-west-1");
    let fault = stage.server.faults().add(Fault::error(moved).on_get());
    stage.ferry.run(&["a"]).await.unwrap();
    assert_eq!(fault.hits(), 1);
    let text = stage.assert_nothing(0, "a", ErrorKind::SourceDenied);
    assert!(text.contains("eu-west-1"), "{text}");
}

// Mutation: requests are signed for another region than the one asked for (`connect::build`).
#[tokio::test]
async fn requests_are_signed_for_the_region_that_was_named() {
    let mut stage = stage().await;
    stage.bucket.put("a", Content::generated(1, LARGE));
    let mut frankfurt = config(&stage.server);
    frankfurt.region = Some("eu-central-1".into());
    stage.ferry.source = source(frankfurt).await;
    stage.ferry.run(&["a"]).await.unwrap();
    stage.assert_delivered(0, "a", &Content::generated(1, LARGE));
    for request in stage.server.requests() {
        let signed = request.headers.get("authorization").expect("requests are signed").to_str().unwrap();
        assert!(signed.contains("/eu-central-1/s3/aws4_request"), "{signed}");
    }
}

// Mutation: `pin` ignores the version that was asked for (`reader::pin`).
#[tokio::test]
async fn an_older_version_is_delivered_when_it_is_named() {
    let stage = stage().await;
    let old = Content::generated(1, LARGE);
    let version = stage.bucket.put_versioned("a", old.clone());
    stage.bucket.put_versioned("a", Content::generated(2, LARGE));
    let key = ObjectKey::new("a").unwrap();
    let pin = stage.ferry.source.pin(&key, Some(&version)).await.unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let (engine, _) = stage.ferry.engine(&stop);
    let task = transfer::port::FileTask {
        number: model::FileNumber(0),
        path: stage.ferry.path("a"),
        pin,
        attempt: 1,
        checkpoint: None,
        intent: None,
        previous: None,
    };
    engine.run(std::sync::Arc::new(crate::harness::ListFeed::of(vec![task], engine.small_up_to()))).await.unwrap();
    stage.assert_delivered(0, "a", &old);
    // A version that is gone is missing, not replaced by the newest.
    stage.bucket.delete_version("a", &version);
    assert_eq!(stage.ferry.source.pin(&key, Some(&version)).await.unwrap_err().kind, ErrorKind::SourceMissing);
}

// Mutation: the listing stops after its first page, or asks for each page twice (`listing`).
#[tokio::test]
async fn a_hundred_thousand_keys_are_listed_once_each_and_in_order() {
    let server = S3Server::start().await;
    server.synthetic_bucket("b", 100_000, |index| (format!("k/{index:06}"), index));
    let source = source(config(&server)).await;
    let mut pages = source.list(ListingOptions { prefix: "k/".into(), delimited: false });
    let mut next = 0;
    while let Some(page) = pages.next().await.unwrap() {
        assert!(page.objects.len() <= 1000);
        for object in page.objects {
            assert_eq!((object.key.as_str(), object.size), (format!("k/{next:06}").as_str(), next));
            next += 1;
        }
    }
    assert_eq!((next, server.request_count()), (100_000, 100));
}
