//! PutObject, CopyObject, DeleteObject and multipart uploads: enough to seed buckets with any client.

use std::collections::{BTreeMap, HashMap};

use bytes::{Bytes, BytesMut};
use crc_fast::CrcAlgorithm;
use data_encoding::{BASE64, HEXLOWER};
use hyper::HeaderMap;
use md5::Digest as _;

use super::bucket::{BucketState, Checksum, Encryption, ObjectOptions, Objects};
use super::request::Asked;
use super::xml::{decode, elements, escape, unescape};
use super::{Content, S3Error};

/// A multipart upload under way.
#[derive(Debug)]
pub(crate) struct Upload {
    bucket: String,
    key: String,
    options: ObjectOptions,
    parts: BTreeMap<u32, Bytes>,
}

pub(crate) type Uploads = HashMap<String, Upload>;

/// An answer without a body to speak of.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub xml: String,
}

/// The bytes that were meant, out of what came: SDKs send `aws-chunked` frames with the checksum as a trailer.
pub(crate) fn payload(asked: &Asked, raw: Bytes) -> Result<(Bytes, Vec<(String, String)>), S3Error> {
    let streaming = asked.header("x-amz-content-sha256").is_some_and(|value| value.starts_with("STREAMING-"));
    let chunked = asked.header("content-encoding").is_some_and(|value| value.split(',').any(|name| name.trim() == "aws-chunked"));
    if !streaming && !chunked {
        return Ok((raw, Vec::new()));
    }
    let (bytes, trailers) = unchunk(&raw).ok_or_else(S3Error::incomplete_body)?;
    let promised = asked.header("x-amz-decoded-content-length").and_then(|text| text.parse::<usize>().ok());
    if promised.is_some_and(|promised| promised != bytes.len()) {
        return Err(S3Error::incomplete_body());
    }
    Ok((bytes, trailers))
}

fn unchunk(raw: &Bytes) -> Option<(Bytes, Vec<(String, String)>)> {
    let line_end = |from: usize| raw.get(from..)?.windows(2).position(|pair| pair == b"\r\n").map(|at| from + at);
    let mut out = BytesMut::new();
    let mut at = 0;
    loop {
        let end = line_end(at)?;
        let line = std::str::from_utf8(&raw[at..end]).ok()?;
        let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        at = end + 2;
        if size == 0 {
            break;
        }
        out.extend_from_slice(raw.get(at..at.checked_add(size)?)?);
        at += size + 2;
    }
    let mut trailers = Vec::new();
    while let Some(end) = line_end(at).filter(|end| *end > at) {
        let (name, value) = std::str::from_utf8(&raw[at..end]).ok()?.split_once(':')?;
        trailers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        at = end + 2;
    }
    Some((out.freeze(), trailers))
}

/// Compares what the client said about the bytes and returns the checksum to keep.
fn check(asked: &Asked, content: &Content, trailers: &[(String, String)]) -> Result<Checksum, S3Error> {
    if asked.header("content-md5").is_some_and(|md5| md5 != BASE64.encode(&content.md5_bytes())) {
        return Err(S3Error::bad_digest());
    }
    let crc32 = |algorithm| BASE64.encode(&(content.crc(algorithm) as u32).to_be_bytes());
    for algorithm in ["crc64nvme", "crc32", "crc32c", "sha256", "sha1"] {
        let name = format!("x-amz-checksum-{algorithm}");
        let trailer = trailers.iter().find(|(candidate, _)| *candidate == name).map(|(_, value)| value.as_str());
        let Some(value) = asked.header(&name).or(trailer) else { continue };
        let expected = match algorithm {
            "crc64nvme" => BASE64.encode(&content.crc64nvme().to_be_bytes()),
            "crc32" => crc32(CrcAlgorithm::Crc32IsoHdlc),
            "crc32c" => crc32(CrcAlgorithm::Crc32Iscsi),
            "sha256" => BASE64.encode(&content.sha256_bytes()),
            // Nothing here computes SHA-1; it is kept as stated.
            _ => value.to_owned(),
        };
        if value != expected {
            return Err(S3Error::bad_digest());
        }
        return Ok(Checksum::Stated { algorithm: algorithm.to_owned(), value: expected, kind: "FULL_OBJECT".to_owned() });
    }
    Ok(Checksum::None)
}

fn options(headers: &HeaderMap) -> ObjectOptions {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let encoding = text("content-encoding")
        .map(|list| list.split(',').map(str::trim).filter(|name| *name != "aws-chunked" && !name.is_empty()).collect::<Vec<_>>().join(","));
    let encryption = match (text("x-amz-server-side-encryption-customer-key-md5"), text("x-amz-server-side-encryption").as_deref()) {
        (Some(key_md5), _) => Encryption::CustomerKey { key_md5 },
        (None, Some("AES256")) => Encryption::Aes256,
        (None, Some(_)) => Encryption::Kms(text("x-amz-server-side-encryption-aws-kms-key-id").unwrap_or_default()),
        (None, None) => Encryption::None,
    };
    let metadata = headers.iter().filter_map(|(name, value)| {
        let name = name.as_str().strip_prefix("x-amz-meta-")?;
        Some((name.to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
    });
    ObjectOptions {
        storage_class: text("x-amz-storage-class"),
        content_type: text("content-type"),
        content_encoding: encoding.filter(|encoding| !encoding.is_empty()),
        encryption,
        metadata: metadata.collect(),
        ..Default::default()
    }
}

fn refuse_synthetic(bucket: &BucketState) -> Result<(), S3Error> {
    if matches!(bucket.objects, Objects::Synthetic { .. }) { Err(S3Error::access_denied()) } else { Ok(()) }
}

fn check_overwrite(bucket: &BucketState, asked: &Asked) -> Result<(), S3Error> {
    let current = bucket.current(&asked.key).filter(|version| version.content.is_some());
    if asked.header("if-none-match") == Some("*") && current.is_some() {
        return Err(S3Error::precondition_failed().with("Condition", "If-None-Match"));
    }
    match (asked.header("if-match"), current) {
        (None, _) => Ok(()),
        (Some(_), None) => Err(S3Error::no_such_key().with("Key", asked.key.clone())),
        (Some(tag), Some(current)) if tag.trim_matches('"') == current.etag() => Ok(()),
        _ => Err(S3Error::precondition_failed().with("Condition", "If-Match")),
    }
}

pub(crate) fn put(bucket: &mut BucketState, asked: &Asked, body: Bytes) -> Result<Done, S3Error> {
    refuse_synthetic(bucket)?;
    check_overwrite(bucket, asked)?;
    let (bytes, trailers) = payload(asked, body)?;
    let content = Content::from(bytes);
    let checksum = check(asked, &content, &trailers)?;
    Ok(store(bucket, &asked.key, content, ObjectOptions { checksum, ..options(&asked.headers) }))
}

fn store(bucket: &mut BucketState, key: &str, content: Content, options: ObjectOptions) -> Done {
    let version = bucket.add(key, Some(content), options);
    let mut headers = vec![("etag", format!("\"{}\"", version.etag()))];
    headers.extend(version.id.clone().map(|id| ("x-amz-version-id", id)));
    Done { status: 200, headers, xml: String::new() }
}

pub(crate) fn delete(bucket: &mut BucketState, asked: &Asked) -> Result<Done, S3Error> {
    refuse_synthetic(bucket)?;
    let mut headers = Vec::new();
    // Deleting what is not there succeeds.
    if let Some(version) = bucket.delete(&asked.key, asked.version_id()) {
        if version.content.is_none() {
            headers.push(("x-amz-delete-marker", "true".to_owned()));
        }
        headers.extend(version.id.clone().map(|id| ("x-amz-version-id", id)));
    }
    Ok(Done { status: 204, headers, xml: String::new() })
}

/// The source of a copy: bucket, key, version.
pub(crate) fn copy_source(asked: &Asked) -> Option<(String, String, Option<String>)> {
    let source = asked.header("x-amz-copy-source")?;
    let (path, version) = match source.split_once("?versionId=") {
        Some((path, version)) => (path, Some(version.to_owned())),
        None => (source, None),
    };
    let path = decode(path, false)?;
    let (bucket, key) = path.strip_prefix('/').unwrap_or(&path).split_once('/')?;
    Some((bucket.to_owned(), key.to_owned(), version))
}

pub(crate) fn copy(bucket: &mut BucketState, asked: &Asked, content: Content, source: &ObjectOptions) -> Result<Done, S3Error> {
    refuse_synthetic(bucket)?;
    let options = ObjectOptions {
        content_type: source.content_type.clone(),
        content_encoding: source.content_encoding.clone(),
        metadata: source.metadata.clone(),
        checksum: source.checksum.clone(),
        ..options(&asked.headers)
    };
    let mut done = store(bucket, &asked.key, content, options);
    let etag = done.headers.remove(0).1;
    done.xml = format!("<CopyObjectResult><ETag>{}</ETag></CopyObjectResult>", escape(&etag));
    Ok(done)
}

pub(crate) fn create_upload(uploads: &mut Uploads, asked: &Asked, id: String) -> Done {
    let xml = format!(
        "<InitiateMultipartUploadResult><Bucket>{}</Bucket><Key>{}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>",
        escape(&asked.bucket),
        escape(&asked.key)
    );
    let upload = Upload { bucket: asked.bucket.clone(), key: asked.key.clone(), options: options(&asked.headers), parts: BTreeMap::new() };
    uploads.insert(id, upload);
    Done { status: 200, xml, ..Done::default() }
}

fn upload_id<'a>(uploads: &Uploads, asked: &'a Asked) -> Result<&'a str, S3Error> {
    let id = asked.query.get("uploadId").unwrap_or_default();
    match uploads.get(id) {
        Some(upload) if upload.bucket == asked.bucket && upload.key == asked.key => Ok(id),
        _ => Err(S3Error::no_such_upload()),
    }
}

pub(crate) fn upload_part(uploads: &mut Uploads, asked: &Asked, body: Bytes) -> Result<Done, S3Error> {
    let id = upload_id(uploads, asked)?;
    let number = asked.query.get("partNumber").and_then(|text| text.parse::<u32>().ok()).filter(|number| (1..=10_000).contains(number));
    let number = number.ok_or_else(S3Error::invalid_argument)?;
    let (bytes, trailers) = payload(asked, body)?;
    let content = Content::from(bytes.clone());
    check(asked, &content, &trailers)?;
    uploads.get_mut(id).expect("just found").parts.insert(number, bytes);
    Ok(Done { status: 200, headers: vec![("etag", format!("\"{}\"", content.md5()))], xml: String::new() })
}

/// A part that comes from another object: `x-amz-copy-source-range: bytes=FIRST-LAST`.
pub(crate) fn upload_part_copy(uploads: &mut Uploads, asked: &Asked, source: &Content) -> Result<Done, S3Error> {
    let id = upload_id(uploads, asked)?;
    let number = asked.query.get("partNumber").and_then(|text| text.parse::<u32>().ok()).ok_or_else(S3Error::invalid_argument)?;
    let range = asked.header("x-amz-copy-source-range").and_then(|text| text.strip_prefix("bytes=")?.split_once('-'));
    let range = range.and_then(|(first, last)| Some(first.parse::<u64>().ok()?..last.parse::<u64>().ok()? + 1));
    let range = range.filter(|range| range.start < range.end && range.end <= source.len()).ok_or_else(S3Error::invalid_argument)?;
    let bytes = source.read(range);
    let tag = Content::from(bytes.clone()).md5();
    uploads.get_mut(id).expect("just found").parts.insert(number, bytes);
    Ok(Done { status: 200, headers: Vec::new(), xml: format!("<CopyPartResult><ETag>&quot;{tag}&quot;</ETag></CopyPartResult>") })
}

pub(crate) fn abort_upload(uploads: &mut Uploads, asked: &Asked) -> Result<Done, S3Error> {
    let id = upload_id(uploads, asked)?;
    uploads.remove(id);
    Ok(Done { status: 204, ..Done::default() })
}

pub(crate) fn complete_upload(uploads: &mut Uploads, bucket: &mut BucketState, asked: &Asked, body: &[u8]) -> Result<Done, S3Error> {
    let id = upload_id(uploads, asked)?;
    refuse_synthetic(bucket)?;
    check_overwrite(bucket, asked)?;
    let text = String::from_utf8_lossy(body);
    let upload = uploads.get(id).expect("just found");
    let (mut whole, mut digests, mut count) = (BytesMut::new(), Vec::new(), 0);
    for part in elements(&text, "Part") {
        let number = elements(part, "PartNumber").first().and_then(|text| text.trim().parse::<u32>().ok());
        let bytes = number.and_then(|number| upload.parts.get(&number)).ok_or_else(S3Error::invalid_part)?;
        let digest = md5::Md5::digest(bytes);
        let stated = elements(part, "ETag").first().map(|tag| unescape(tag).trim_matches('"').to_owned());
        if stated.is_some_and(|stated| stated != HEXLOWER.encode(&digest)) {
            return Err(S3Error::invalid_part());
        }
        digests.extend_from_slice(&digest);
        whole.extend_from_slice(bytes);
        count += 1;
    }
    if count == 0 {
        return Err(S3Error::new(
            400,
            "MalformedXML",
            "The XML you provided was not well-formed or did not validate against our published schema",
        ));
    }
    let options =
        ObjectOptions { etag: Some(format!("{}-{count}", HEXLOWER.encode(&md5::Md5::digest(&digests)))), ..upload.options.clone() };
    uploads.remove(id);
    let mut done = store(bucket, &asked.key, Content::from(whole.freeze()), options);
    let etag = done.headers.remove(0).1;
    done.xml = format!(
        "<CompleteMultipartUploadResult><Bucket>{}</Bucket><Key>{}</Key><ETag>{}</ETag></CompleteMultipartUploadResult>",
        escape(&asked.bucket),
        escape(&asked.key),
        escape(&etag)
    );
    Ok(done)
}
