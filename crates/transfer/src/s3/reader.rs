//! HEAD and ranged GET. Every answer is compared with the pin: some stores ignore conditions and ranges.

use std::ops::Range;
use std::sync::Arc;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{ArchiveStatus, ChecksumMode, ChecksumType, RequestPayer, StorageClass};
use aws_smithy_types::DateTime;
use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use md5::Digest as _;
use model::{Crc64, ObjectKey};

use super::S3Source;
use super::connect::Session;
use super::error::{Failure, broken_body, classify};
use crate::{ErrorKind, Pin, StoredChecksum};

/// Quoted and without a weak mark, so that listings, HEAD and GET of one store compare equal.
pub(super) fn etag(text: &str) -> String {
    let text = text.trim();
    let text = text.strip_prefix("W/").unwrap_or(text);
    format!("\"{}\"", text.trim_matches('"'))
}

pub(super) fn timestamp(time: &DateTime) -> Option<jiff::Timestamp> {
    jiff::Timestamp::new(time.secs(), i32::try_from(time.subsec_nanos()).ok()?).ok()
}

/// A request with what every request of this source carries.
macro_rules! prepared {
    ($source:expr, $request:expr, $key:expr) => {{
        let mut request = $request.bucket(&$source.config.bucket).key($key.as_str());
        if $source.config.request_payer {
            request = request.request_payer(RequestPayer::Requester);
        }
        if let Some(key) = &$source.config.customer_key {
            request = request
                .sse_customer_algorithm("AES256")
                .sse_customer_key(BASE64.encode(&key.0[..]))
                .sse_customer_key_md5(BASE64.encode(&md5::Md5::digest(&key.0[..])));
        }
        request
    }};
}

pub(super) async fn pin(source: &S3Source, session: Arc<Session>, key: &ObjectKey, version: Option<&str>) -> Result<Pin, Failure> {
    let request = prepared!(source, session.client.head_object(), key).checksum_mode(ChecksumMode::Enabled);
    let profile = source.config.profile.as_deref();
    let head = match request.set_version_id(version.map(str::to_owned)).send().await {
        Ok(head) => head,
        Err(error) => {
            let failure = classify(error, profile);
            return Err(if failure.mute && failure.region.as_ref().is_none_or(|region| *region == session.region) {
                explain(source, &session, key, version, failure).await
            } else {
                failure
            });
        }
    };
    if is_archived(&head) {
        let class = head.storage_class().map_or("archive", StorageClass::as_str).to_owned();
        return Err(Failure::new(ErrorKind::SourceArchived, format!("its storage class is {class} and no restored copy is ready")));
    }
    let size = size(head.content_length())?;
    if let (Some(asked), Some(got)) = (version, head.version_id())
        && asked != got
    {
        return Err(Failure::changed(format!("version {asked:?} was asked for and the store answered with {got:?}")));
    }
    Ok(Pin {
        key: key.clone(),
        size,
        etag: head.e_tag().map(etag),
        version: version.or(head.version_id()).map(str::to_owned),
        modified: head.last_modified().and_then(timestamp),
        checksum: checksum(&head),
    })
}

/// HEAD has no body and so no reason; a GET of one byte is refused with one.
async fn explain(source: &S3Source, session: &Session, key: &ObjectKey, version: Option<&str>, silent: Failure) -> Failure {
    let request = prepared!(source, session.client.get_object(), key).range("bytes=0-0").set_version_id(version.map(str::to_owned));
    match request.send().await {
        Err(error) => {
            let reason = classify(error, source.config.profile.as_deref());
            // An empty object refuses any range; that would not explain why HEAD was refused.
            if reason.kind == ErrorKind::SourceChanged || reason.kind.is_retryable() { silent } else { reason }
        }
        Ok(_) => silent,
    }
}

fn size(length: Option<i64>) -> Result<u64, Failure> {
    length
        .and_then(|length| u64::try_from(length).ok())
        .ok_or_else(|| Failure::new(ErrorKind::SourceTruncated, "the store did not say how long the object is"))
}

fn is_archived(head: &HeadObjectOutput) -> bool {
    let class = matches!(head.storage_class(), Some(StorageClass::Glacier | StorageClass::DeepArchive));
    let tier = matches!(head.archive_status(), Some(ArchiveStatus::ArchiveAccess | ArchiveStatus::DeepArchiveAccess));
    let restored = head.restore().is_some_and(|text| text.contains("ongoing-request=\"false\""));
    (class || tier) && !restored
}

/// Only checksums of the whole object: composites (`…-N`) are digests of digests.
pub(super) fn checksum(head: &HeadObjectOutput) -> StoredChecksum {
    // Stores that do not state the type never made CRC-64/NVME composites; of SHA-256 nobody can know.
    let stated = head.checksum_type();
    let whole = stated == Some(&ChecksumType::FullObject);
    let crc64nvme = head.checksum_crc64_nvme().filter(|_| whole || stated.is_none()).and_then(Crc64::from_base64);
    let sha256 = head
        .checksum_sha256()
        .filter(|text| whole && !text.contains('-'))
        .and_then(|text| BASE64.decode(text.trim().as_bytes()).ok())
        .filter(|bytes| bytes.len() == 32)
        .map(|bytes| HEXLOWER.encode(&bytes));
    StoredChecksum { crc64nvme, sha256 }
}

pub(super) async fn read(source: &S3Source, session: Arc<Session>, pin: &Pin, range: Range<u64>) -> Result<Bytes, Failure> {
    let whole = range.start == 0 && range.end == pin.size;
    // An empty range in the midst of an object has no form in HTTP; one byte is asked for and dropped.
    let probe = range.is_empty() && !whole;
    let asked = match probe {
        true if range.start == pin.size => range.start.saturating_sub(1)..range.start,
        true => range.start..range.start + 1,
        false => range.clone(),
    };
    // Both conditions: the version names the bytes, and the ETag guards versions called "null", which can be overwritten.
    let mut request =
        prepared!(source, session.client.get_object(), pin.key).set_version_id(pin.version.clone()).set_if_match(pin.etag.clone());
    request = match whole {
        // Files that fit in one range are pinned by the listing, which shows no checksums: here the SDK compares the
        // body with the one of the whole object.
        true => request.checksum_mode(ChecksumMode::Enabled),
        false => request.range(format!("bytes={}-{}", asked.start, asked.end - 1)),
    };
    let answer = request.send().await.map_err(|error| classify(error, source.config.profile.as_deref()))?;
    compare(pin, &asked, whole, &answer)?;
    if pin.version.is_none()
        && let Some(version) = answer.version_id()
    {
        source.remember_version(pin, version);
    }
    let bytes = collect(answer, asked.end - asked.start, source.config.stall_timeout).await?;
    Ok(if probe { Bytes::new() } else { bytes })
}

/// Whether the answer is about the pinned bytes, by everything that it says of itself.
fn compare(pin: &Pin, asked: &Range<u64>, whole: bool, answer: &GetObjectOutput) -> Result<(), Failure> {
    let served = answer.e_tag().map(etag);
    if pin.etag.is_some() && served != pin.etag {
        let served = served.unwrap_or_else(|| "none".to_owned());
        return Err(Failure::changed(format!("its ETag was {} and is now {served}", pin.etag.as_deref().unwrap_or_default())));
    }
    if let (Some(pinned), Some(served)) = (pin.version.as_deref(), answer.version_id())
        && pinned != served
    {
        return Err(Failure::changed(format!("version {pinned:?} was asked for and the store answered with {served:?}")));
    }
    let modified = answer.last_modified().and_then(timestamp);
    if pin.etag.is_none() && pin.modified.is_some() && modified.map(|t| t.as_second()) != pin.modified.map(|t| t.as_second()) {
        return Err(Failure::changed("it was modified after it was pinned".to_owned()));
    }
    let length = size(answer.content_length())?;
    match answer.content_range() {
        Some(text) => {
            let (first, last, total) =
                content_range(text).ok_or_else(|| Failure::new(ErrorKind::SourceTruncated, "the store's Content-Range makes no sense"))?;
            if total.is_some_and(|total| total != pin.size) {
                return Err(Failure::changed(format!("it had {} bytes and now has {}", pin.size, total.unwrap_or_default())));
            }
            if first != asked.start || last.checked_add(1) != Some(asked.end) {
                return Err(Failure::new(
                    ErrorKind::SourceTruncated,
                    format!("bytes {}-{} were asked for and {first}-{last} were answered", asked.start, asked.end - 1),
                ));
            }
        }
        None if length != pin.size => return Err(Failure::changed(format!("it had {} bytes and now has {length}", pin.size))),
        None if !whole => {
            return Err(Failure::new(ErrorKind::SourceTruncated, "the store ignores ranges and answers with the whole object"));
        }
        None => {}
    }
    let expected = asked.end - asked.start;
    if length != expected {
        return Err(Failure::new(ErrorKind::SourceTruncated, format!("{expected} bytes were asked for and {length} are announced")));
    }
    Ok(())
}

/// `bytes FIRST-LAST/TOTAL`, TOTAL may be `*`.
fn content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((first.parse().ok()?, last.parse().ok()?, total))
}

/// The whole body in one buffer, so that no body stays open behind a slow destination.
async fn collect(mut answer: GetObjectOutput, expected: u64, stall: std::time::Duration) -> Result<Bytes, Failure> {
    let expected = usize::try_from(expected).map_err(|_| Failure::new(ErrorKind::Internal, "the range does not fit in memory"))?;
    let mut buffer = crate::buffers::take(expected);
    loop {
        let chunk = tokio::time::timeout(stall, answer.body.next()).await.map_err(|_| {
            let text = format!("no byte came for {} s, after {} of {expected} bytes", stall.as_secs(), buffer.len());
            Failure::new(ErrorKind::NetworkStalled, text)
        })?;
        match chunk {
            None if buffer.len() == expected => return Ok(buffer.freeze()),
            None => {
                let text = format!("the answer ended after {} of {expected} bytes", buffer.len());
                return Err(Failure::new(ErrorKind::SourceTruncated, text));
            }
            Some(Ok(bytes)) if bytes.len() > expected - buffer.len() => {
                return Err(Failure::new(ErrorKind::SourceTruncated, format!("the answer is longer than the {expected} bytes asked for")));
            }
            Some(Ok(bytes)) => buffer.extend_from_slice(&bytes),
            Some(Err(error)) => return Err(broken_body(error.into(), buffer.len(), expected)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pinned(size: u64) -> Pin {
        Pin {
            key: ObjectKey::new("k").unwrap(),
            size,
            etag: Some("\"e\"".into()),
            version: Some("v1".into()),
            modified: None,
            checksum: StoredChecksum::default(),
        }
    }

    fn answer(etag: &str, version: Option<&str>, range: Option<&str>, length: i64) -> GetObjectOutput {
        GetObjectOutput::builder()
            .e_tag(etag)
            .set_version_id(version.map(str::to_owned))
            .set_content_range(range.map(str::to_owned))
            .content_length(length)
            .build()
    }

    fn kind(result: Result<(), Failure>) -> Option<ErrorKind> {
        result.err().map(|failure| failure.kind)
    }

    #[test]
    fn an_answer_about_other_bytes_is_noticed_without_the_stores_help() {
        let pin = pinned(100);
        let check = |answer| kind(compare(&pin, &(10..20), false, &answer));
        assert_eq!(check(answer("e", Some("v1"), Some("bytes 10-19/100"), 10)), None);
        assert_eq!(check(answer("\"other\"", Some("v1"), Some("bytes 10-19/100"), 10)), Some(ErrorKind::SourceChanged));
        assert_eq!(check(answer("\"e\"", Some("v2"), Some("bytes 10-19/100"), 10)), Some(ErrorKind::SourceChanged));
        assert_eq!(check(answer("\"e\"", None, Some("bytes 10-19/101"), 10)), Some(ErrorKind::SourceChanged));
        assert_eq!(check(answer("\"e\"", None, Some("bytes 10-14/100"), 5)), Some(ErrorKind::SourceTruncated));
        assert_eq!(check(answer("\"e\"", None, Some("bytes 10-18446744073709551615/100"), 5)), Some(ErrorKind::SourceTruncated));
        assert_eq!(check(answer("\"e\"", None, None, 100)), Some(ErrorKind::SourceTruncated));
        assert_eq!(check(answer("\"e\"", None, None, 90)), Some(ErrorKind::SourceChanged));
        assert_eq!(kind(compare(&pin, &(0..100), true, &answer("\"e\"", None, None, 100))), None);
    }

    #[test]
    fn a_store_that_forgets_the_etag_is_not_believed() {
        let silent = GetObjectOutput::builder().content_length(100).build();
        assert_eq!(kind(compare(&pinned(100), &(0..100), true, &silent)), Some(ErrorKind::SourceChanged));
    }

    #[test]
    fn composite_checksums_are_never_taken_for_the_objects() {
        let sha = BASE64.encode(&[7; 32]);
        let head = |kind: Option<ChecksumType>, sha: &str| {
            HeadObjectOutput::builder().set_checksum_type(kind).checksum_sha256(sha).checksum_crc64_nvme(Crc64(5).base64()).build()
        };
        let full = checksum(&head(Some(ChecksumType::FullObject), &sha));
        assert_eq!((full.crc64nvme, full.sha256), (Some(Crc64(5)), Some("07".repeat(32))));
        assert_eq!(checksum(&head(Some(ChecksumType::Composite), &sha)), StoredChecksum::default());
        assert_eq!(checksum(&head(Some(ChecksumType::FullObject), &format!("{sha}-3"))).sha256, None);
        assert_eq!(checksum(&head(None, &sha)).sha256, None);
    }

    #[test]
    fn archived_objects_need_a_restored_copy() {
        let head = |class: StorageClass, restore: Option<&str>| {
            is_archived(&HeadObjectOutput::builder().storage_class(class).set_restore(restore.map(str::to_owned)).build())
        };
        assert!(head(StorageClass::Glacier, None));
        assert!(head(StorageClass::DeepArchive, Some("ongoing-request=\"true\"")));
        assert!(!head(StorageClass::Glacier, Some("ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2030 00:00:00 GMT\"")));
        assert!(!head(StorageClass::GlacierIr, None));
        assert!(is_archived(&HeadObjectOutput::builder().archive_status(ArchiveStatus::ArchiveAccess).build()));
    }

    #[test]
    fn content_ranges_are_read_strictly() {
        assert_eq!(content_range("bytes 0-9/100"), Some((0, 9, Some(100))));
        assert_eq!(content_range("bytes 0-9/*"), Some((0, 9, None)));
        for bad in ["", "bytes */100", "items 0-9/10", "bytes 0-/10", "bytes 0-9"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn short_and_long_bodies_are_errors() {
        let body = |bytes: &'static [u8]| GetObjectOutput::builder().body(aws_sdk_s3::primitives::ByteStream::from_static(bytes)).build();
        let stall = std::time::Duration::from_secs(5);
        assert_eq!(collect(body(b"0123"), 4, stall).await.unwrap(), &b"0123"[..]);
        assert_eq!(collect(body(b"0123"), 5, stall).await.unwrap_err().kind, ErrorKind::SourceTruncated);
        assert_eq!(collect(body(b"0123"), 3, stall).await.unwrap_err().kind, ErrorKind::SourceTruncated);
    }
}
