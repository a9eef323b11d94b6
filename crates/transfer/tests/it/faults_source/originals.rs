//! Originals that go after their delivery: one version, after a copy that was made sure of, never anything else.

use model::ObjectKey;
use testkit::s3::{Content, Effect, Fault};
use transfer::{Archive, ErrorKind, Original, Source};

use super::*;

const SIZE: u64 = (11 << 20) + 7;

fn to(key: &str) -> Archive {
    Archive { bucket: "archive".into(), key: key.into() }
}

async fn pinned(source: &dyn Source, key: &str) -> Original {
    let pin = source.pin(&ObjectKey::new(key).unwrap(), None).await.unwrap();
    Original { key: pin.key, version: pin.version.unwrap(), size: pin.size, etag: pin.etag, crc64nvme: None }
}

// Mutation: a part begins or ends one byte beside its place (`copy_parts`), or the key is not encoded (`copy_source`).
#[tokio::test]
async fn a_large_original_is_copied_in_parts_and_made_sure_of() {
    let (server, bucket, _) = ferry_to(Arc::new(MemoryDestination::new()), "/in").await;
    let archive = server.bucket("archive");
    bucket.versioning(true);
    let content = Content::generated(3, SIZE);
    bucket.put("p/ä + %41?", content.clone());
    let source = source(S3Config { copy_up_to: 5 << 20, ..config(&server) }).await;
    let original = pinned(&*source, "p/ä + %41?").await;
    bucket.put("p/ä + %41?", "newer");
    assert_eq!(source.archive(&original, &to("sent/x")).await.unwrap(), "sent/x");
    assert_eq!(server.requests_for(Operation::UploadPart).len(), 3);
    assert!(archive.get("sent/x").unwrap().sha256() == content.sha256());
    // Asked again after a kill: the copy is found. A name that something else has is not taken from it.
    let crc = Some(model::Crc64(content.crc64nvme()).to_string());
    archive.put("sent/other", Content::generated(4, SIZE));
    let known = Original { crc64nvme: crc, ..original.clone() };
    assert_eq!(source.archive(&known, &to("sent/other")).await.unwrap(), format!("sent/other.{}", original.version));
    assert!(archive.get("sent/other").unwrap().sha256() != content.sha256());
    source.remove(&original.key, &original.version).await.unwrap();
    source.remove(&original.key, &original.version).await.unwrap();
    assert_eq!(bucket.get("p/ä + %41?").unwrap().bytes(), "newer");
}

// Mutation: `archive` does not look at the copy, or `is_copy` compares nothing.
#[tokio::test]
async fn a_copy_that_is_not_what_was_delivered_is_found_and_nothing_without_a_version_goes() {
    let (server, bucket, _) = ferry_to(Arc::new(MemoryDestination::new()), "/in").await;
    server.bucket("archive");
    bucket.versioning(true);
    bucket.put("p/a", "delivered");
    let source = source(config(&server)).await;
    let original = pinned(&*source, "p/a").await;
    server.faults().add(Fault::new(Effect::Replace(Content::from("DELIVERED"))).operation(Operation::HeadObject).key("sent/a").nth(2));
    let error = source.archive(&original, &to("sent/a")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::IntegrityMismatch);
    for version in ["null", ""] {
        assert_eq!(source.remove(&original.key, version).await.unwrap_err().kind, ErrorKind::PolicyDenied);
    }
    assert!(server.requests_for(Operation::DeleteObject).is_empty() && bucket.get("p/a").is_some());
    source.can_remove(&original.key).await.unwrap();
    bucket.versioning(false);
    bucket.put("p/b", "b");
    assert_eq!(source.can_remove(&ObjectKey::new("p/b").unwrap()).await.unwrap_err().kind, ErrorKind::PolicyDenied);
}
