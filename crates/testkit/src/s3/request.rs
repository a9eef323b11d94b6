//! One request, taken apart: operation, bucket, key, query, range.

use hyper::header::{AUTHORIZATION, HeaderMap, RANGE};
use hyper::{Method, Uri};

use super::{Operation, S3Error, xml};

/// The query, decoded, in order.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Option<Self> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((xml::decode(name, true)?, xml::decode(value, true)?))
        });
        pairs.collect::<Option<Vec<_>>>().map(Self)
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(candidate, _)| candidate == name).map(|(_, value)| value.as_str())
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
}

/// `Range` as asked; `bytes=5-` is `From(5, None)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskedRange {
    From(u64, Option<u64>),
    Last(u64),
}

impl AskedRange {
    /// `None` for what S3 ignores: other units, several ranges, nonsense.
    fn parse(text: &str) -> Option<Self> {
        let (start, end) = text.trim().strip_prefix("bytes=")?.split_once('-')?;
        let number = |text: &str| text.trim().parse::<u64>().ok();
        match (start.trim(), end.trim()) {
            ("", last) => number(last).map(Self::Last),
            (start, "") => Some(Self::From(number(start)?, None)),
            (start, end) => {
                let (start, end) = (number(start)?, number(end)?);
                (start <= end).then_some(Self::From(start, Some(end)))
            }
        }
    }

    /// The bytes of an object of `len`, or `None` where the range cannot be satisfied.
    pub(crate) fn within(self, len: u64) -> Option<std::ops::Range<u64>> {
        match self {
            Self::From(start, end) => (start < len).then(|| start..end.map_or(len, |end| end.saturating_add(1).min(len))),
            Self::Last(0) => None,
            Self::Last(count) => (len > 0).then(|| len.saturating_sub(count)..len),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Asked {
    pub method: Method,
    pub path: String,
    pub operation: Operation,
    pub bucket: String,
    pub key: String,
    pub query: Query,
    pub headers: HeaderMap,
    pub range: Option<AskedRange>,
}

impl Asked {
    pub fn parse(method: Method, uri: &Uri, headers: HeaderMap) -> Result<Self, S3Error> {
        let invalid_uri = || S3Error::new(400, "InvalidURI", "Couldn't parse the specified URI.");
        let path = uri.path();
        let (bucket, key) = path.strip_prefix('/').unwrap_or(path).split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
        let bucket = xml::decode(bucket, false).ok_or_else(invalid_uri)?;
        let key = xml::decode(key, false).ok_or_else(invalid_uri)?;
        let query = Query::parse(uri.query().unwrap_or_default()).ok_or_else(invalid_uri)?;
        let operation = operation(&method, &bucket, &key, &query, &headers);
        let range = headers.get(RANGE).and_then(|value| value.to_str().ok()).and_then(AskedRange::parse);
        Ok(Self { method, path: path.to_owned(), operation, bucket, key, query, headers, range })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn version_id(&self) -> Option<&str> {
        self.query.get("versionId")
    }

    pub fn range_start(&self) -> u64 {
        match self.range {
            Some(AskedRange::From(start, _)) => start,
            _ => 0,
        }
    }

    /// The access key of the signature, in the header or in a presigned URL. Signatures are not checked.
    pub fn access_key(&self) -> Option<&str> {
        let authorization = self.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let credential = match authorization {
            Some(text) => text.split_once("Credential=").map(|(_, rest)| rest),
            None => self.query.get("X-Amz-Credential"),
        };
        credential.map(|credential| credential.split('/').next().unwrap_or_default())
    }
}

fn operation(method: &Method, bucket: &str, key: &str, query: &Query, headers: &HeaderMap) -> Operation {
    use Operation::*;
    if bucket.is_empty() {
        return if method == Method::GET { ListBuckets } else { Unknown };
    }
    if key.is_empty() {
        return match *method {
            Method::HEAD => HeadBucket,
            Method::PUT => CreateBucket,
            Method::GET if query.has("location") => GetBucketLocation,
            Method::GET if query.has("versioning") => GetBucketVersioning,
            Method::GET if ["versions", "uploads", "policy", "acl", "tagging"].iter().any(|name| query.has(name)) => Unknown,
            Method::GET => ListObjects,
            _ => Unknown,
        };
    }
    let upload = query.has("uploadId");
    match *method {
        Method::HEAD => HeadObject,
        Method::GET if upload || ["acl", "tagging", "attributes"].iter().any(|name| query.has(name)) => Unknown,
        Method::GET => GetObject,
        Method::PUT if upload => UploadPart,
        Method::PUT if headers.contains_key("x-amz-copy-source") => CopyObject,
        Method::PUT => PutObject,
        Method::POST if query.has("uploads") => CreateMultipartUpload,
        Method::POST if upload => CompleteMultipartUpload,
        Method::DELETE if upload => AbortMultipartUpload,
        Method::DELETE => DeleteObject,
        _ => Unknown,
    }
}
