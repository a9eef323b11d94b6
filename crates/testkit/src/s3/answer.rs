//! From a request to its answer: log, faults, permissions, operation.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};

use super::body::{Body, BodyFaults};
use super::bucket::{BucketState, Objects};
use super::connection::EndAfterFlush;
use super::read::{self, Ignored, Served};
use super::request::Asked;
use super::write::{self, Done};
use super::xml::{HEAD, NAMESPACE, escape, iso};
use super::{Checksum, Content, Effect, InFlight, Logged, Operation, REQUESTS_KEPT, Request, S3Error, Shared, fault, listing};

/// Objects above this are read on a blocking thread when their checksum is asked for.
const CHEAP_DIGEST: u64 = 4 << 20;

/// What the faults of one request amount to.
#[derive(Debug, Default)]
struct Plan {
    body: BodyFaults,
    ignored: Ignored,
    content_length: Option<u64>,
}

type Answer = Response<Body>;

pub(crate) async fn answer(
    shared: Arc<Shared>,
    request: hyper::Request<Incoming>,
    connection: u64,
    end: EndAfterFlush,
) -> Result<Answer, Infallible> {
    let number = shared.requests.fetch_add(1, Ordering::SeqCst) + 1;
    let request_id = format!("{number:016X}");
    let in_flight = InFlight::new(&shared);
    let (parts, incoming) = request.into_parts();
    let asked = match Asked::parse(parts.method.clone(), &parts.uri, parts.headers) {
        Ok(asked) => asked,
        Err(error) => return Ok(refusal(&error, parts.uri.path(), parts.method == Method::HEAD, &request_id, end)),
    };
    let (status, sent) = log(&shared, &asked, connection);
    let (latency, bandwidth) = {
        let settings = shared.settings.read().expect("no panic while locked");
        (settings.latency, settings.bytes_per_second)
    };
    if latency > Duration::ZERO {
        tokio::time::sleep(latency).await;
    }
    let result = match prepare(&shared, &asked, &end).await {
        Err(error) => Err(error),
        Ok(plan) => match incoming.collect().await {
            Ok(body) => perform(&shared, &asked, body.to_bytes(), plan, &request_id, end.clone()).await,
            Err(_) => Err(S3Error::incomplete_body()),
        },
    };
    let mut answer = result.unwrap_or_else(|error| refusal(&error, &asked.path, asked.method == Method::HEAD, &request_id, end));
    status.store(answer.status().as_u16(), Ordering::SeqCst);
    answer.body_mut().observed(sent, in_flight);
    if let Some(bytes_per_second) = bandwidth {
        answer.body_mut().paced(shared.pace.clone(), bytes_per_second);
    }
    Ok(answer)
}

fn log(shared: &Shared, asked: &Asked, connection: u64) -> (Arc<AtomicU16>, Arc<AtomicU64>) {
    let (status, sent) = (Arc::<AtomicU16>::default(), Arc::<AtomicU64>::default());
    let request = Request {
        operation: asked.operation,
        method: asked.method.to_string(),
        bucket: asked.bucket.clone(),
        key: asked.key.clone(),
        range: asked.range,
        version_id: asked.version_id().map(str::to_owned),
        if_match: asked.header("if-match").map(str::to_owned),
        headers: asked.headers.clone(),
        connection,
        at: Instant::now(),
        status: 0,
        bytes_sent: 0,
    };
    let mut log = shared.log.lock().expect("no panic while locked");
    if log.len() == REQUESTS_KEPT {
        log.pop_front();
    }
    log.push_back(Logged { request, status: status.clone(), sent: sent.clone() });
    (status, sent)
}

/// Lets the faults happen that come before the answer, and collects the others.
async fn prepare(shared: &Shared, asked: &Asked, end: &EndAfterFlush) -> Result<Plan, S3Error> {
    let mut plan = Plan::default();
    let met = fault::Asked { operation: asked.operation, bucket: &asked.bucket, key: &asked.key, range_start: asked.range_start() };
    for effect in shared.faults.meet(&met) {
        match effect {
            Effect::Error(error) => return Err(error),
            Effect::NoAnswer(ending) => {
                // Seen by the connection as soon as hyper finds nothing to write.
                end.set(ending);
                std::future::pending::<()>().await;
            }
            Effect::Delay(delay) => tokio::time::sleep(delay).await,
            Effect::Cut { after, ending } => plan.body.cut = Some((after, ending)),
            Effect::Stall { after, duration } => plan.body.stall = Some((after, duration)),
            Effect::BytesPerSecond(rate) => plan.body.bytes_per_second = Some(rate),
            Effect::FlipByte(offset) => plan.body.flip = Some(offset),
            Effect::ContentLength(length) => plan.content_length = Some(length),
            Effect::IgnoreConditions => plan.ignored.conditions = true,
            Effect::IgnoreRange => plan.ignored.range = true,
            Effect::IgnoreVersion => plan.ignored.version = true,
            Effect::Replace(content) => {
                with_bucket(shared, &asked.bucket, |bucket| {
                    let options = bucket.current(&asked.key).map(|version| version.options.clone()).unwrap_or_default();
                    // What was stated about the old bytes is not true of the new ones.
                    let checksum = match options.checksum {
                        Checksum::Stated { .. } => Checksum::None,
                        computed => computed,
                    };
                    let options = super::ObjectOptions { etag: None, modified: None, checksum, ..options };
                    bucket.add(&asked.key, Some(content), options);
                });
            }
            Effect::ReplaceSilently(content) => with_bucket(shared, &asked.bucket, |bucket| bucket.overwrite_silently(&asked.key, content)),
            Effect::Delete => with_bucket(shared, &asked.bucket, |bucket| {
                bucket.delete(&asked.key, None);
            }),
        }
    }
    let settings = shared.settings.read().expect("no panic while locked");
    if let Some(expected) = &settings.access_key {
        match asked.access_key() {
            None => return Err(S3Error::access_denied()),
            Some(given) if given != expected => return Err(S3Error::invalid_access_key_id().with("AWSAccessKeyId", given)),
            Some(_) => {}
        }
    }
    Ok(plan)
}

fn with_bucket(shared: &Shared, name: &str, change: impl FnOnce(&mut BucketState)) {
    if let Some(bucket) = shared.buckets.write().expect("no panic while locked").get_mut(name) {
        change(bucket);
    }
}

async fn perform(
    shared: &Arc<Shared>,
    asked: &Asked,
    body: Bytes,
    plan: Plan,
    request_id: &str,
    end: EndAfterFlush,
) -> Result<Answer, S3Error> {
    if matches!(asked.operation, Operation::GetObject | Operation::HeadObject) {
        let served = find_object(shared, asked, plan.ignored).await?;
        return Ok(object_answer(served, plan, asked.method == Method::HEAD, request_id, end));
    }
    let done = other_operation(shared, asked, body)?;
    let content = Content::from(
        if done.xml.is_empty() || done.xml.starts_with("<?xml") { done.xml } else { HEAD.to_owned() + &done.xml }.into_bytes(),
    );
    let mut answer = new_answer(done.status, request_id);
    for (name, value) in done.headers {
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            answer.headers_mut().insert(name, value);
        }
    }
    let length = content.len();
    if length > 0 {
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    }
    if done.status != 204 {
        answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(plan.content_length.unwrap_or(length)));
    }
    let promised = plan.content_length.unwrap_or(length);
    Ok(answer.map(|()| Body::new(content, 0..length.min(promised), end).with_faults(plan.body, promised > length)))
}

async fn find_object(shared: &Arc<Shared>, asked: &Asked, ignored: Ignored) -> Result<Served, S3Error> {
    let (version, versioned) = {
        let buckets = shared.buckets.read().expect("no panic while locked");
        let bucket = open_bucket(&buckets, asked)?;
        (read::find(bucket, asked, ignored)?, bucket.versioning != super::Versioning::Never)
    };
    let size = version.content.as_ref().map_or(0, Content::len);
    if size > CHEAP_DIGEST && asked.header("x-amz-checksum-mode").is_some() {
        let version = version.clone();
        tokio::task::spawn_blocking(move || version.checksum().is_some()).await.map_err(|_| S3Error::internal_error())?;
    }
    read::serve(&version, versioned, asked, ignored)
}

fn open_bucket<'a>(buckets: &'a std::collections::BTreeMap<String, BucketState>, asked: &Asked) -> Result<&'a BucketState, S3Error> {
    let bucket = buckets.get(&asked.bucket).ok_or_else(|| S3Error::no_such_bucket().with("BucketName", asked.bucket.clone()))?;
    if bucket.requester_pays && asked.header("x-amz-request-payer") != Some("requester") {
        return Err(S3Error::access_denied());
    }
    Ok(bucket)
}

fn object_answer(served: Served, plan: Plan, head: bool, request_id: &str, end: EndAfterFlush) -> Answer {
    let mut answer = new_answer(served.status, request_id);
    answer.headers_mut().extend(served.headers);
    let length = served.range.end - served.range.start;
    let promised = plan.content_length.unwrap_or(length);
    if served.status == 304 {
        return answer.map(|()| Body::new(Content::from(""), 0..0, end));
    }
    answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(promised));
    let range = if head { 0..0 } else { served.range.start..served.range.end.min(served.range.start + promised) };
    answer.map(|()| Body::new(served.content, range, end).with_faults(plan.body, !head && promised > length))
}

fn other_operation(shared: &Arc<Shared>, asked: &Asked, body: Bytes) -> Result<Done, S3Error> {
    use Operation::*;
    if asked.operation == CreateBucket {
        let mut buckets = shared.buckets.write().expect("no panic while locked");
        buckets.entry(asked.bucket.clone()).or_insert_with(|| BucketState::new(Objects::Stored(Default::default())));
        return Ok(Done { status: 200, headers: vec![("location", format!("/{}", asked.bucket))], xml: String::new() });
    }
    if matches!(asked.operation, ListBuckets | HeadBucket | GetBucketLocation | GetBucketVersioning | ListObjects) {
        return look(shared, asked);
    }
    if asked.operation == Unknown {
        return Err(S3Error::not_implemented());
    }
    let mut buckets = shared.buckets.write().expect("no panic while locked");
    open_bucket(&buckets, asked)?;
    let source = match write::copy_source(asked) {
        Some((name, key, version)) => {
            let bucket = buckets.get(&name).ok_or_else(S3Error::no_such_bucket)?;
            let version = version.map_or_else(|| bucket.current(&key), |id| bucket.version(&key, &id));
            Some(version.filter(|version| version.content.is_some()).ok_or_else(S3Error::no_such_key)?)
        }
        None => None,
    };
    let bucket = buckets.get_mut(&asked.bucket).expect("just opened");
    let mut uploads = shared.uploads.lock().expect("no panic while locked");
    match asked.operation {
        PutObject => write::put(bucket, asked, body),
        DeleteObject => write::delete(bucket, asked),
        CopyObject => {
            let source = source.ok_or_else(S3Error::invalid_argument)?;
            write::copy(bucket, asked, source.content.clone().expect("markers were filtered"), &source.options)
        }
        CreateMultipartUpload => {
            let id = format!("upload-{}", shared.requests.load(Ordering::SeqCst));
            Ok(write::create_upload(&mut uploads, asked, id))
        }
        UploadPart => match source {
            Some(source) => write::upload_part_copy(&mut uploads, asked, &source.content.clone().expect("markers were filtered")),
            None => write::upload_part(&mut uploads, asked, body),
        },
        CompleteMultipartUpload => write::complete_upload(&mut uploads, bucket, asked, &body),
        AbortMultipartUpload => write::abort_upload(&mut uploads, asked),
        _ => Err(S3Error::not_implemented()),
    }
}

/// The operations that change nothing and are not about one object.
fn look(shared: &Shared, asked: &Asked) -> Result<Done, S3Error> {
    let buckets = shared.buckets.read().expect("no panic while locked");
    let xml = |xml: String| Done { status: 200, headers: Vec::new(), xml };
    if asked.operation == Operation::ListBuckets {
        let rows: String = buckets
            .iter()
            .map(|(name, bucket)| {
                format!("<Bucket><Name>{}</Name><CreationDate>{}</CreationDate></Bucket>", escape(name), iso(bucket.created))
            })
            .collect();
        return Ok(xml(format!(
            "<ListAllMyBucketsResult xmlns=\"{NAMESPACE}\"><Owner><ID>owner</ID></Owner><Buckets>{rows}</Buckets></ListAllMyBucketsResult>"
        )));
    }
    let bucket = open_bucket(&buckets, asked)?;
    let mut done = match asked.operation {
        Operation::GetBucketLocation => {
            // The oldest region has no name.
            let region = if bucket.region == "us-east-1" { "" } else { &bucket.region };
            xml(format!("<LocationConstraint xmlns=\"{NAMESPACE}\">{region}</LocationConstraint>"))
        }
        Operation::GetBucketVersioning => {
            let status = match bucket.versioning {
                super::Versioning::Never => "",
                super::Versioning::Enabled => "<Status>Enabled</Status>",
                super::Versioning::Suspended => "<Status>Suspended</Status>",
            };
            xml(format!("<VersioningConfiguration xmlns=\"{NAMESPACE}\">{status}</VersioningConfiguration>"))
        }
        Operation::ListObjects if bucket.listing_denied => return Err(S3Error::access_denied()),
        Operation::ListObjects => xml(listing::list_objects(bucket, &asked.bucket, &asked.query)?),
        _ => xml(String::new()),
    };
    done.headers.push(("x-amz-bucket-region", bucket.region.clone()));
    Ok(done)
}

fn refusal(error: &S3Error, path: &str, head: bool, request_id: &str, end: EndAfterFlush) -> Answer {
    let mut answer = new_answer(error.status, request_id);
    *answer.status_mut() = error.status();
    for (name, value) in &error.headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            answer.headers_mut().insert(*name, value);
        }
    }
    let xml = if head || error.status == 304 { String::new() } else { error.xml(path, request_id) };
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    if !head {
        answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(xml.len() as u64));
    }
    let content = Content::from(xml.into_bytes());
    let length = content.len();
    answer.map(|()| Body::new(content, 0..length, end))
}

fn new_answer(status: u16, request_id: &str) -> Response<()> {
    let mut answer = Response::new(());
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let id = HeaderValue::from_str(request_id).expect("hexadecimal");
    answer.headers_mut().insert("x-amz-request-id", id.clone());
    answer.headers_mut().insert("x-amz-id-2", id);
    answer.headers_mut().insert("server", HeaderValue::from_static("AmazonS3"));
    answer
}
