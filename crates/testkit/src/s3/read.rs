//! GetObject and HeadObject.

use std::ops::Range;
use std::sync::Arc;

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};

use super::bucket::{BucketState, Encryption, Version};
use super::request::{Asked, AskedRange};
use super::xml::{http_date, parse_http_date};
use super::{Content, S3Error};

/// Which of the request's wishes a fault overrules.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ignored {
    pub conditions: bool,
    pub range: bool,
    pub version: bool,
}

/// What is to be served: the version, status and the bytes.
#[derive(Debug)]
pub(crate) struct Served {
    pub status: u16,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub content: Content,
    pub range: Range<u64>,
}

/// Decides about the request without computing anything dear; headers follow in `headers`, off the lock.
pub(crate) fn find(bucket: &BucketState, asked: &Asked, ignored: Ignored) -> Result<Arc<Version>, S3Error> {
    let version = match asked.version_id().filter(|_| !ignored.version) {
        Some("") => return Err(S3Error::new(400, "InvalidArgument", "Version id cannot be the empty string")),
        Some(id) => {
            bucket.version(&asked.key, id).ok_or_else(|| S3Error::no_such_version().with("Key", asked.key.clone()).with("VersionId", id))?
        }
        None => bucket.current(&asked.key).ok_or_else(|| {
            // Who may not list is not told whether a key exists.
            if bucket.listing_denied { S3Error::access_denied() } else { S3Error::no_such_key().with("Key", asked.key.clone()) }
        })?,
    };
    if version.content.is_none() {
        let id = version.id.clone().unwrap_or_else(|| "null".to_owned());
        let error = if asked.version_id().is_some() {
            S3Error::method_not_allowed()
        } else {
            S3Error::no_such_key().with("Key", asked.key.clone())
        };
        return Err(error.with_header("x-amz-delete-marker", "true").with_header("x-amz-version-id", id));
    }
    Ok(version)
}

/// Reads whole contents for ETags and checksums, so it may take as long as a digest takes.
pub(crate) fn serve(version: &Version, versioned: bool, asked: &Asked, ignored: Ignored) -> Result<Served, S3Error> {
    let content = version.content.clone().expect("delete markers were refused");
    check_key(&version.options.encryption, asked)?;
    let not_modified = if ignored.conditions { false } else { check_conditions(version, asked)? };
    if version.is_archived() && asked.method == Method::GET {
        let class = version.options.storage_class.clone().unwrap_or_default();
        return Err(S3Error::invalid_object_state().with("StorageClass", class));
    }
    let len = content.len();
    let wanted = asked.range.filter(|_| !ignored.range);
    let range = match wanted {
        None => 0..len,
        Some(range) => range.within(len).ok_or_else(|| {
            let text = match range {
                AskedRange::From(start, end) => format!("bytes={start}-{}", end.map_or(String::new(), |end| end.to_string())),
                AskedRange::Last(count) => format!("bytes=-{count}"),
            };
            S3Error::invalid_range()
                .with("RangeRequested", text)
                .with("ActualObjectSize", len.to_string())
                .with_header("content-range", format!("bytes */{len}"))
        })?,
    };
    let status = match (not_modified, wanted) {
        (true, _) => 304,
        (false, Some(_)) => 206,
        (false, None) => 200,
    };
    let mut headers = headers(version, versioned, asked, wanted.is_none());
    if status == 206 {
        let value = format!("bytes {}-{}/{len}", range.start, range.end - 1);
        headers.push((hyper::header::CONTENT_RANGE, HeaderValue::from_str(&value).expect("digits")));
    }
    Ok(Served { status, headers, content, range })
}

/// True for 304.
fn check_conditions(version: &Version, asked: &Asked) -> Result<bool, S3Error> {
    let names_it = |list: &str| list.split(',').map(|tag| tag.trim().trim_matches('"')).any(|tag| tag == "*" || tag == version.etag());
    let date = |name: &str| asked.header(name).and_then(parse_http_date);
    let failed = |name: &str| Err(S3Error::precondition_failed().with("Condition", name));
    if let Some(list) = asked.header("if-match") {
        if !names_it(list) {
            return failed("If-Match");
        }
    } else if date("if-unmodified-since").is_some_and(|date| version.modified.as_second() > date.as_second()) {
        return failed("If-Unmodified-Since");
    }
    if let Some(list) = asked.header("if-none-match") {
        return Ok(names_it(list));
    }
    Ok(date("if-modified-since").is_some_and(|date| version.modified.as_second() <= date.as_second()))
}

fn check_key(encryption: &Encryption, asked: &Asked) -> Result<(), S3Error> {
    let given = asked.header("x-amz-server-side-encryption-customer-key-md5");
    match encryption {
        Encryption::CustomerKey { key_md5 } => match given {
            None => Err(S3Error::invalid_request()),
            Some(given) if given != key_md5 => Err(S3Error::access_denied()),
            Some(_) => Ok(()),
        },
        _ if given.is_some() => Err(S3Error::new(400, "InvalidRequest", "The encryption parameters are not applicable to this object.")),
        _ => Ok(()),
    }
}

fn headers(version: &Version, versioned: bool, asked: &Asked, whole: bool) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
    let mut add = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value.as_bytes())) {
            headers.push((name, value));
        }
    };
    let options = &version.options;
    add("etag", &format!("\"{}\"", version.etag()));
    add("last-modified", &http_date(version.modified));
    add("accept-ranges", "bytes");
    add("content-type", options.content_type.as_deref().unwrap_or("binary/octet-stream"));
    if let Some(encoding) = &options.content_encoding {
        add("content-encoding", encoding);
    }
    if versioned {
        add("x-amz-version-id", version.id.as_deref().unwrap_or("null"));
    }
    if let Some(class) = options.storage_class.as_deref().filter(|class| *class != "STANDARD") {
        add("x-amz-storage-class", class);
    }
    if options.restored {
        add("x-amz-restore", "ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2035 00:00:00 GMT\"");
    }
    match &options.encryption {
        Encryption::None => {}
        Encryption::Aes256 => add("x-amz-server-side-encryption", "AES256"),
        Encryption::Kms(key) => {
            add("x-amz-server-side-encryption", "aws:kms");
            add("x-amz-server-side-encryption-aws-kms-key-id", key);
        }
        Encryption::CustomerKey { key_md5 } => {
            add("x-amz-server-side-encryption-customer-algorithm", "AES256");
            add("x-amz-server-side-encryption-customer-key-md5", key_md5);
        }
    }
    if asked.header("x-amz-request-payer") == Some("requester") {
        add("x-amz-request-charged", "requester");
    }
    for (name, value) in &options.metadata {
        add(&format!("x-amz-meta-{name}"), value);
    }
    // S3 shows the checksum of the whole object only with the whole object.
    let enabled = asked.header("x-amz-checksum-mode").is_some_and(|mode| mode.eq_ignore_ascii_case("enabled"));
    if enabled
        && whole
        && let Some((algorithm, value, kind)) = version.checksum()
    {
        add(&format!("x-amz-checksum-{algorithm}"), value);
        add("x-amz-checksum-type", kind);
    }
    headers
}
