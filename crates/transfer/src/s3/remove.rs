//! What may happen to an object once it is delivered: one version of it is deleted, or copied elsewhere first.
//! Only ever by version, so that what somebody has written meanwhile is not touched.

use std::sync::Arc;

use aws_sdk_s3::types::{ChecksumMode, CompletedMultipartUpload, CompletedPart, RequestPayer};
use model::ObjectKey;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::S3Source;
use super::connect::Session;
use super::error::{Failure, classify};
use super::reader::{checksum, etag};
use crate::source::{Archive, Original};
use crate::{Error, ErrorKind, Result, Source as _, Subject};

/// What one request copies at most (Amazon S3 User Guide, "Copying objects").
pub(super) const COPY_UP_TO: u64 = 5 << 30;
const PART: u64 = 1 << 30;
/// A store's own copy of a large part may take minutes before the answer comes; the request's timeout bounds it.
const IN_A_COPY_SOURCE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

const UNVERSIONED: &str = "the bucket keeps no versions, so an object that is overwritten while it is delivered could not be told from \
                           the delivered one; switch versioning on, or keep the originals with --after keep";

/// Whether one version of an object near `example` may be deleted, asked by deleting a version that does not exist.
pub(super) async fn can_remove(source: &S3Source, example: &ObjectKey) -> Result<()> {
    let pin = source.pin(example, None).await?;
    if pin.version.as_deref().is_none_or(|version| version == "null") {
        return Err(Error::new(ErrorKind::PolicyDenied, "remove originals of", source.object(example)).because(UNVERSIONED));
    }
    let mut random = [0u8; 10];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| Error::new(ErrorKind::Internal, "make a random name", Subject::Nothing))?;
    let directory = example.as_str().rsplit_once('/').map_or(String::new(), |(directory, _)| format!("{directory}/"));
    let nobodys = ObjectKey::local(format!("{directory}.fileferry-may-delete-{}", data_encoding::HEXLOWER.encode(&random)));
    match remove(source, &nobodys, "null").await {
        Err(error) if error.kind == ErrorKind::SourceDenied => {
            Err(Error::new(ErrorKind::SourceDenied, "remove originals of", source.object(example)).because(error))
        }
        Err(error) if error.kind.is_retryable() => Err(error),
        // Stores word it differently that there is no such version; that is not a refusal.
        _ => Ok(()),
    }
}

pub(super) async fn remove(source: &S3Source, key: &ObjectKey, version: &str) -> Result<()> {
    let send = |session: Arc<Session>| async move {
        let mut request = session.client.delete_object().bucket(&source.config.bucket).key(key.as_str()).version_id(version);
        if source.config.request_payer {
            request = request.request_payer(RequestPayer::Requester);
        }
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) => {
                let failure = classify(error, source.config.profile.as_deref());
                // An earlier run deleted it and was stopped before it could say so.
                if failure.kind == ErrorKind::SourceMissing { Ok(()) } else { Err(failure) }
            }
        }
    };
    source.request("delete", source.object(key), send).await
}

/// What stands under a name in the archive.
struct Found {
    size: Option<u64>,
    etag: Option<String>,
    crc64nvme: Option<String>,
}

async fn look(source: &S3Source, to: &Archive) -> Result<Option<Found>> {
    let subject = Subject::Object(format!("s3://{}/{}", to.bucket, to.key));
    let send = |session: Arc<Session>| async move {
        let request = session.client.head_object().bucket(&to.bucket).key(&to.key).checksum_mode(ChecksumMode::Enabled);
        match request.send().await {
            Ok(head) => Ok(Some(Found {
                size: head.content_length().and_then(|length| u64::try_from(length).ok()),
                etag: head.e_tag().map(etag),
                crc64nvme: checksum(&head).crc64nvme.map(|crc| crc.to_string()),
            })),
            Err(error) => {
                let failure = classify(error, source.config.profile.as_deref());
                if failure.kind == ErrorKind::SourceMissing { Ok(None) } else { Err(failure) }
            }
        }
    };
    source.request("look into the archive at", subject, send).await
}

/// Copies a version and makes sure of the copy. Returns the key it got: a name that another object has is not taken from it.
pub(super) async fn archive(source: &S3Source, original: &Original, to: &Archive) -> Result<String> {
    let mut to = to.clone();
    let before = look(source, &to).await?;
    if before.as_ref().is_some_and(|found| !is_copy(found, original, None)) {
        to.key = format!("{}.{}", to.key, original.version);
    } else if before.is_some() {
        return Ok(to.key);
    }
    let copied = if original.size <= source.config.copy_up_to {
        copy(source, original, &to).await?
    } else {
        copy_in_parts(source, original, &to).await?
    };
    match look(source, &to).await? {
        Some(found) if is_copy(&found, original, copied.as_deref()) => Ok(to.key),
        _ => Err(Error::new(ErrorKind::IntegrityMismatch, "archive", source.object(&original.key))
            .because(format!("the copy at s3://{}/{} is not what was delivered", to.bucket, to.key))),
    }
}

/// A digest decides where both sides have one; otherwise the store must show the ETag that it gave the copy.
fn is_copy(found: &Found, original: &Original, copied: Option<&str>) -> bool {
    if found.size != Some(original.size) {
        return false;
    }
    match (&found.crc64nvme, &original.crc64nvme) {
        (Some(there), Some(ours)) => there == ours,
        _ if found.etag.is_some() && found.etag == original.etag => true,
        _ => copied.is_some() && found.etag.as_deref() == copied,
    }
}

fn copy_source(source: &S3Source, original: &Original) -> String {
    let key = utf8_percent_encode(original.key.as_str(), IN_A_COPY_SOURCE);
    format!("{}/{key}?versionId={}", source.config.bucket, utf8_percent_encode(&original.version, NON_ALPHANUMERIC))
}

async fn copy(source: &S3Source, original: &Original, to: &Archive) -> Result<Option<String>> {
    let from = copy_source(source, original);
    let from = from.as_str();
    let send = |session: Arc<Session>| async move {
        let request = session.client.copy_object().copy_source(from).bucket(&to.bucket).key(&to.key);
        let request = request.set_copy_source_if_match(original.etag.clone());
        let done = request.send().await.map_err(|error| classify(error, source.config.profile.as_deref()))?;
        Ok(done.copy_object_result().and_then(|result| result.e_tag()).map(etag))
    };
    source.request("archive", source.object(&original.key), send).await
}

async fn copy_in_parts(source: &S3Source, original: &Original, to: &Archive) -> Result<Option<String>> {
    let subject = || source.object(&original.key);
    let begin = |session: Arc<Session>| async move {
        let request = session.client.create_multipart_upload().bucket(&to.bucket).key(&to.key);
        let begun = request.send().await.map_err(|error| classify(error, source.config.profile.as_deref()))?;
        let none = || Failure::new(ErrorKind::SourceTruncated, "the store began an upload without naming it");
        begun.upload_id().map(str::to_owned).ok_or_else(none)
    };
    let upload = source.request("archive", subject(), begin).await?;
    let outcome = copy_parts(source, original, to, &upload).await;
    if outcome.is_err() {
        let upload = upload.as_str();
        let give_up = |session: Arc<Session>| async move {
            let request = session.client.abort_multipart_upload().bucket(&to.bucket).key(&to.key).upload_id(upload);
            request.send().await.map(drop).map_err(|error| classify(error, source.config.profile.as_deref()))
        };
        if let Err(error) = source.request("give up the copy of", subject(), give_up).await {
            tracing::warn!(error = %crate::error::chain(&error), "parts of a copy were left in the archive");
        }
    }
    outcome
}

async fn copy_parts(source: &S3Source, original: &Original, to: &Archive, upload: &str) -> Result<Option<String>> {
    let from = copy_source(source, original);
    let from = from.as_str();
    let part = PART.min(source.config.copy_up_to);
    let mut parts = Vec::new();
    for (number, start) in (1i32..).zip((0..original.size).step_by(part as usize)) {
        let range = format!("bytes={start}-{}", (start + part).min(original.size) - 1);
        let range = range.as_str();
        let send = |session: Arc<Session>| async move {
            let request = session.client.upload_part_copy().copy_source(from).copy_source_range(range).part_number(number);
            let request = request.bucket(&to.bucket).key(&to.key).upload_id(upload).set_copy_source_if_match(original.etag.clone());
            let done = request.send().await.map_err(|error| classify(error, source.config.profile.as_deref()))?;
            Ok(done.copy_part_result().and_then(|result| result.e_tag()).map(str::to_owned))
        };
        let tag = source.request("archive", source.object(&original.key), send).await?;
        parts.push(CompletedPart::builder().part_number(number).set_e_tag(tag).build());
    }
    let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    let parts = &parts;
    let finish = |session: Arc<Session>| async move {
        let request = session.client.complete_multipart_upload().bucket(&to.bucket).key(&to.key).upload_id(upload);
        let done = request.multipart_upload(parts.clone()).send().await;
        Ok(done.map_err(|error| classify(error, source.config.profile.as_deref()))?.e_tag().map(etag))
    };
    source.request("archive", source.object(&original.key), finish).await
}
