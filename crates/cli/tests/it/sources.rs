//! A1 to A7 and the settings of the source, by the program itself: exit codes, lines, and nothing half-done.

use testkit::s3::{Content, Effect, Encryption, Fault, ObjectOptions, Operation, S3Error};

use super::shop::*;
use super::*;

const RANGE: u64 = 1 << 20;
const LARGE: u64 = 12 * RANGE + 77;

// Mutation: `source_changed` or `source_missing` counts as transient, or the temporary file stays (`give_up`).
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_changes_or_goes_away_ends_with_its_code_and_leaves_nothing() {
    for (effect, at, code, class) in [
        (Effect::Replace(Content::generated(2, LARGE)), 9 * RANGE, 25, "source_changed"),
        (Effect::Delete, 9 * RANGE, 4, "source_missing"),
        (Effect::Delete, 0, 4, "source_missing"),
    ] {
        let shop = shop().await;
        shop.bucket.put("a", Content::generated(1, LARGE));
        let fault = shop.server.faults().add(Fault::new(effect).on_get().range_start(at).once());
        let ran = shop.run(&["copy", "s3://b/a", &shop.out(), "--chunk-size", "1M"]);
        assert_eq!(fault.hits(), 1);
        assert_eq!(ran.code, code, "{}", ran.err);
        assert_eq!(ran.failed(), [("a".to_owned(), class.to_owned())]);
        assert_eq!((ran.summary()["failed"].as_u64(), ran.summary()["exit_code"].as_u64()), (Some(1), Some(code as u64)));
        assert!(shop.files().is_empty(), "{:?}", shop.files().keys());
    }
    let shop = shop().await;
    let ran = shop.run(&["copy", "s3://b/never", &shop.out()]);
    assert_eq!((ran.code, shop.files().len()), (4, 0), "{}", ran.err);
}

/// Starts a copy of "a" that waits for its range 9, interrupts it, and forgets what the store has seen.
fn interrupt(shop: &Shop) {
    let stalled = Fault::new(Effect::Stall { after: 0, duration: None }).on_get().key("a").range_start(9 * RANGE);
    let stalled = shop.server.faults().add(stalled);
    let child = shop.start(shop.command(&["copy", "s3://b/a", &shop.out(), "--chunk-size", "1M"]));
    let written = || std::fs::read_dir(shop.home.path("out")).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum::<u64>();
    wait_until("the ninth range", || stalled.hits() > 0 && written() >= 9 * RANGE);
    signal(child.id(), "INT");
    let ran = ended(child);
    assert_eq!(ran.code, 130, "{}", ran.err);
    assert_eq!(shop.files().len(), 1, "the temporary file waits");
    assert!(!shop.files().contains_key(&b"a"[..]));
    shop.server.faults().clear();
    shop.server.reset_requests();
}

// Mutation: a resume does not look at the source again (`FileRun::pin`), or leaves the file of the interrupted run.
#[tokio::test(flavor = "multi_thread")]
async fn a_resume_after_the_source_changed_is_refused_and_tidies_up() {
    let shop = shop().await;
    shop.bucket.put("a", Content::generated(1, LARGE));
    interrupt(&shop);
    shop.bucket.put("a", Content::generated(2, LARGE));
    let ran = shop.run(&["resume"]);
    assert_eq!(ran.code, 25, "{}", ran.err);
    assert!(shop.files().is_empty(), "{:?}", shop.files().keys());
    assert_eq!(shop.server.bytes_served("a"), 0);
    // Asked anew, the new object is what is wanted.
    let ran = shop.run(&["copy", "s3://b/a", &shop.out(), "--chunk-size", "1M"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(shop.files()[&b"a"[..]] == Content::generated(2, LARGE).bytes() && shop.files().len() == 1);
}

// Mutation: the checkpoint is not stored at the interruption, or not read at the resume.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_copy_is_resumed_without_reading_what_was_confirmed() {
    let shop = shop().await;
    let content = Content::generated(1, LARGE);
    shop.bucket.put("a", content.clone());
    interrupt(&shop);
    let ran = shop.run(&["resume"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(shop.files()[&b"a"[..]] == content.bytes() && shop.files().len() == 1);
    // Two ranges may have been written and not yet confirmed.
    assert!(shop.server.bytes_served("a") <= LARGE - 7 * RANGE, "{}", shop.server.bytes_served("a"));
    assert_eq!(ran.summary()["delivered"], 1);
}

// Mutation: expired credentials are not renewed (`S3Source::request`), or the whole file is sent again.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_expire_midway_are_renewed_once_and_nothing_is_read_twice() {
    let shop = shop().await;
    let content = Content::generated(1, LARGE);
    shop.bucket.put("a", content.clone());
    let script = "#!/bin/sh\necho asked >> \"$0.log\"\necho '{\"Version\":1,\"AccessKeyId\":\"AKIATEST\",\"SecretAccessKey\":\"s\"}'\n";
    let script = shop.home.write("credentials.sh", script);
    shop.home.write("aws", &format!("[default]\ncredential_process = /bin/sh {}\n", text(&script)));
    let expired = shop.server.faults().add(Fault::error(S3Error::expired_token()).on_get().range_start(9 * RANGE).once());
    let mut command = shop.command(&["copy", "s3://b/a", &shop.out(), "--chunk-size", "1M"]);
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY").env("PATH", "/bin:/usr/bin");
    command.env("AWS_CONFIG_FILE", shop.home.path("aws")).env("AWS_SHARED_CREDENTIALS_FILE", shop.home.path("none"));
    let ran = ended(shop.start(command));
    assert_eq!((ran.code, expired.hits()), (0, 1), "{}", ran.err);
    assert!(shop.files()[&b"a"[..]] == content.bytes());
    assert_eq!(std::fs::read_to_string(shop.home.path("credentials.sh.log")).unwrap().lines().count(), 2);
    let gets = shop.server.requests_for(Operation::GetObject);
    assert_eq!(gets.iter().filter(|get| get.status == 206).count() as u64, LARGE.div_ceil(RANGE));
}

// Mutation: archived objects are tried and retried (`error::answered`), folder keys are sent (`Selection::decide`).
#[tokio::test(flavor = "multi_thread")]
async fn archived_objects_and_folder_keys_are_told_from_files() {
    let shop = shop().await;
    shop.bucket.put("p/dir/", "");
    shop.bucket.put("p/dir/empty", "");
    shop.bucket.put("p/file", "x");
    let ran = shop.run(&["copy", "s3://b/p/", &shop.out()]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ran.objects()[0]["folder_markers"], serde_json::json!(["p/dir/"]));
    let names: Vec<Vec<u8>> = shop.files().into_keys().collect();
    assert_eq!(names, [b"dir/empty".to_vec(), b"file".to_vec()]);
    let archived = ObjectOptions { storage_class: Some("GLACIER".into()), ..Default::default() };
    shop.bucket.put_with("p/old", "old", archived);
    assert_eq!(shop.run(&["copy", "s3://b/p/old", &shop.out()]).code, 7);
    let ran = shop.run(&["copy", "s3://b/p/", &shop.out()]);
    assert_eq!(ran.failed(), [("p/old".to_owned(), "source_archived".to_owned())], "{}", ran.err);
    assert_eq!((ran.code, shop.files().len()), (6, 2));
}

// Mutation: a listed version is looked up without its id (`Objects::listed`).
#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_versions_delivers_those_versions() {
    let shop = shop().await;
    let old = shop.bucket.put_versioned("p/a", "old");
    shop.bucket.put_versioned("p/a", "new");
    shop.bucket.put_versioned("p/b", "b");
    let list = shop.home.write("list", &format!("{{\"key\":\"p/a\",\"versionId\":\"{old}\"}}\n{{\"key\":\"p/b\"}}\n"));
    let ran = shop.run(&["copy", "s3://b/p/", &shop.out(), "--files-from", text(&list)]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let files: Vec<_> = shop.files().into_iter().collect();
    assert_eq!(files, [(b"a".to_vec(), b"old".to_vec()), (b"b".to_vec(), b"b".to_vec())]);
}

// Mutation: a flag of the source is not handed to it (`runtime::open::source`).
#[tokio::test(flavor = "multi_thread")]
async fn who_pays_and_whose_key_is_a_matter_of_flags() {
    let shop = shop().await;
    shop.bucket.requester_pays(true);
    let (key, secret) = ([9; 32], data_encoding::BASE64.encode(&[9; 32]));
    let key_md5 = data_encoding::BASE64.encode(&Content::from(&key[..]).md5_bytes());
    let options = ObjectOptions { encryption: Encryption::CustomerKey { key_md5 }, ..Default::default() };
    shop.bucket.put_with("a", Content::generated(1, LARGE), options);
    assert_eq!(shop.run(&["copy", "s3://b/a", &shop.out()]).code, 7);
    assert_eq!(shop.run(&["copy", "s3://b/a", &shop.out(), "--request-payer"]).code, 7);
    let flags = ["copy", "s3://b/a", &shop.out(), "--request-payer", "--sse-customer-key-from", "env:CUSTOMER_KEY"];
    let mut command = shop.command(&flags);
    command.env("CUSTOMER_KEY", &secret);
    let ran = ended(shop.start(command));
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(shop.files()[&b"a"[..]] == Content::generated(1, LARGE).bytes());
    assert!(!ran.out.contains(&secret) && !ran.err.contains(&secret));
}
