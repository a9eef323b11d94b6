//! A6 and A7: every kind of ETag, encryption and stored checksum, empty and archived objects.

use model::IfExists;
use testkit::s3::{Checksum, Content, Effect, Encryption, Fault, ObjectOptions};
use transfer::ErrorKind;

use super::*;

const LARGE: u64 = 3 * RANGE + 77;

// Mutation: an ETag is taken for an MD5, or a composite checksum for one of the bytes (`reader::checksum`).
#[tokio::test]
async fn no_etag_encryption_or_checksum_of_an_honest_store_is_taken_for_a_mismatch() {
    let stage = stage().await;
    let plain = ObjectOptions::default;
    let kinds = [
        ("plain", plain()),
        ("multipart", ObjectOptions { multipart_parts: Some(7), ..plain() }),
        ("strange-etag", ObjectOptions { etag: Some("not-a-digest/at all".into()), ..plain() }),
        ("aes256", ObjectOptions { encryption: Encryption::Aes256, etag: Some("0".repeat(32)), ..plain() }),
        ("kms", ObjectOptions { encryption: Encryption::Kms("arn:aws:kms:x".into()), etag: Some("1".repeat(32)), ..plain() }),
        ("crc", ObjectOptions { checksum: Checksum::Crc64Nvme, multipart_parts: Some(3), ..plain() }),
        ("sha", ObjectOptions { checksum: Checksum::Sha256, ..plain() }),
        ("composite", ObjectOptions { checksum: Checksum::CompositeSha256, multipart_parts: Some(3), ..plain() }),
        (
            "composite-lie",
            ObjectOptions {
                checksum: Checksum::Stated { algorithm: "crc32c".into(), value: "AAAAAA==-3".into(), kind: "COMPOSITE".into() },
                multipart_parts: Some(3),
                ..plain()
            },
        ),
        ("encoded", ObjectOptions { content_encoding: Some("gzip".into()), content_type: Some("text/plain".into()), ..plain() }),
    ];
    let mut contents = Vec::new();
    for (number, (name, options)) in kinds.into_iter().enumerate() {
        for size in [LARGE, 1000, 0] {
            let content = Content::generated(number as u64, size);
            let key = format!("{name}-{size}");
            stage.bucket.put_with(&key, content.clone(), options.clone());
            contents.push((key, content));
        }
    }
    let keys: Vec<&str> = contents.iter().map(|(key, _)| key.as_str()).collect();
    stage.ferry.run(&keys).await.unwrap();
    for (number, (key, content)) in contents.iter().enumerate() {
        stage.assert_delivered(number as u32, key, content);
    }
}

/// A full-object CRC-64/NVME of other bytes.
fn lying(content: &Content) -> ObjectOptions {
    let value = data_encoding::BASE64.encode(&(content.crc64nvme() ^ 1).to_be_bytes());
    let checksum = Checksum::Stated { algorithm: "crc64nvme".into(), value, kind: "FULL_OBJECT".into() };
    ObjectOptions { checksum, ..ObjectOptions::default() }
}

// Mutation: `check_source` always agrees (first and second); a mismatch is tried for ever, or only once (third).
#[tokio::test]
async fn a_stored_checksum_that_the_bytes_do_not_have_is_a_mismatch_and_held_after_the_second() {
    for size in [LARGE, 1000] {
        let stage = stage().await;
        let content = Content::generated(1, size);
        stage.bucket.put_with("a", content.clone(), lying(&content));
        stage.ferry.run(&["a"]).await.unwrap();
        let text = stage.assert_failed(0, "a", ErrorKind::IntegrityMismatch);
        assert!(text.contains("the store's c"), "{text}");
        assert_eq!(stage.server.bytes_served("a"), 2 * size, "sent once more from the start, and no third time");
        assert_eq!(stage.ferry.records.kept(0).attempt, 2);
        assert!(stage.temporaries().len() <= 1);
    }
}

// Mutation: `check_source` always agrees. The byte arrives wrongly and nothing else would notice.
#[tokio::test]
async fn a_byte_that_the_store_spoils_once_is_read_again() {
    for size in [LARGE, 1000] {
        let stage = stage().await;
        let content = Content::generated(1, size);
        stage.bucket.put_with("a", content.clone(), ObjectOptions { checksum: Checksum::Crc64Nvme, ..Default::default() });
        let flipped = stage.server.faults().add(Fault::new(Effect::FlipByte(size - 1)).on_get().key("a").nth(size.div_ceil(RANGE)));
        stage.ferry.run(&["a"]).await.unwrap();
        assert_eq!(flipped.hits(), 1);
        stage.assert_delivered(0, "a", &content);
        let delivery = stage.ferry.records.kept(0).finished.unwrap().delivery.unwrap();
        assert!(delivery.attempts == 2 && delivery.notes.iter().any(|note| note.contains("sent again from the start")), "{delivery:?}");
        assert_eq!(stage.server.bytes_served("a"), 2 * size);
    }
}

// Mutation: an empty file is not opened or not published (`send_whole`).
#[tokio::test]
async fn an_empty_object_is_published_and_checked() {
    let mut stage = stage().await;
    stage.bucket.put("empty", "");
    stage.ferry.run(&["empty"]).await.unwrap();
    stage.assert_delivered(0, "empty", &Content::from(""));
    // Again over an old one, which it replaces in one step.
    stage.destination.put("/in/empty", b"old");
    *stage.ferry.records.files.lock().unwrap() = Default::default();
    stage.ferry.wishes.if_exists = IfExists::Replace;
    stage.ferry.run(&["empty"]).await.unwrap();
    stage.assert_delivered(0, "empty", &Content::from(""));
}

// Mutation: `InvalidObjectState` is an ordinary refusal (`error::answered`), or HEAD ignores the class (`is_archived`).
#[tokio::test]
async fn an_archived_object_is_named_as_such_and_a_restored_one_is_delivered() {
    let stage = stage().await;
    let archived = || ObjectOptions { storage_class: Some("DEEP_ARCHIVE".into()), ..Default::default() };
    let (small, large) = (Content::generated(1, 1000), Content::generated(2, LARGE));
    stage.bucket.put_with("small", small.clone(), archived());
    stage.bucket.put_with("large", large.clone(), archived());
    stage.bucket.put_with("restored-small", small.clone(), ObjectOptions { restored: true, ..archived() });
    stage.bucket.put_with("restored-large", large.clone(), ObjectOptions { restored: true, ..archived() });
    stage.ferry.run(&["small", "large", "restored-small", "restored-large"]).await.unwrap();
    stage.assert_failed(0, "small", ErrorKind::SourceArchived);
    stage.assert_failed(1, "large", ErrorKind::SourceArchived);
    stage.assert_delivered(2, "restored-small", &small);
    stage.assert_delivered(3, "restored-large", &large);
}
