//! The S3 source against a server that answers as it is told: what comes when a store misbehaves.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use model::ObjectKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use transfer::s3::{S3Config, S3Source};
use transfer::{ErrorKind, Listing, ListingOptions, Pin, Source, StoredChecksum};

/// What follows the bytes of an answer.
#[derive(Clone, Copy)]
enum Then {
    Close,
    Reset,
    Silence,
}

/// Gives each request the next answer (the last one for ever) and keeps the request lines and headers.
struct Canned {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Canned {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Canned {
    async fn start(answers: Vec<(String, Then)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        let task = tokio::spawn(async move {
            for number in 0.. {
                let Ok((stream, _)) = listener.accept().await else { break };
                let (text, then) = answers[number.min(answers.len() - 1)].clone();
                tokio::spawn(answer(stream, text, then, seen.clone()));
            }
        });
        Self { url, requests, task }
    }

    async fn source(&self) -> S3Source {
        let mut config = S3Config::new("bucket");
        config.endpoint = Some(self.url.clone());
        config.region = Some("us-east-1".into());
        config.anonymous = true;
        config.stall_timeout = Duration::from_millis(300);
        S3Source::connect(config).await.unwrap()
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn answer(mut stream: TcpStream, text: String, then: Then, seen: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    seen.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.flush().await;
    match then {
        Then::Close => {}
        // Zero linger turns the close into a reset; the bytes before it need a moment to be read.
        Then::Reset => {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let _ = stream.set_zero_linger();
        }
        Then::Silence => std::future::pending().await,
    }
}

fn ok(headers: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{headers}\r\n{body}")
}

fn partial(range: &str, etag: &str, length: usize, body: &str) -> String {
    format!(
        "HTTP/1.1 206 Partial Content\r\nconnection: close\r\netag: \"{etag}\"\r\ncontent-range: bytes {range}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

fn refusal(status: u16, code: &str, headers: &str) -> String {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>because</Message></Error>");
    format!("HTTP/1.1 {status} X\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

fn pin() -> Pin {
    Pin {
        key: ObjectKey::new("a b/é").unwrap(),
        size: 100,
        etag: Some("\"e\"".into()),
        version: None,
        modified: None,
        checksum: StoredChecksum::default(),
    }
}

/// The class of reading bytes 10 to 19 from a store that answers like this.
async fn read(text: String, then: Then) -> Result<bytes::Bytes, ErrorKind> {
    let server = Canned::start(vec![(text, then)]).await;
    let result = server.source().await.read(&pin(), 10..20).await;
    assert_eq!(server.requests().len(), 1, "the source does not retry");
    result.map_err(|error| {
        assert!(error.to_string().contains("s3://bucket/a b/é"), "{error}");
        error.kind
    })
}

#[tokio::test]
async fn an_exact_answer_is_the_range_and_every_request_carries_the_pin() {
    let server = Canned::start(vec![(partial("10-19/100", "e", 10, "0123456789"), Then::Close)]).await;
    let versioned = Pin { version: Some("v/1+2".into()), ..pin() };
    assert_eq!(server.source().await.read(&versioned, 10..20).await.unwrap(), "0123456789");
    let request = server.requests()[0].to_ascii_lowercase();
    assert!(!request.contains("authorization:"), "anonymous requests are not signed: {request}");
    for part in ["get /bucket/a%20b/%c3%a9?", "versionid=v%2f1%2b2", "range: bytes=10-19", "if-match: \"e\""] {
        assert!(request.contains(part), "{part} is not in {request}");
    }
}

#[tokio::test]
async fn a_body_that_ends_early_is_truncated() {
    assert_eq!(read(partial("10-19/100", "e", 10, "0123"), Then::Close).await, Err(ErrorKind::SourceTruncated));
    assert_eq!(read(partial("10-13/100", "e", 4, "0123"), Then::Close).await, Err(ErrorKind::SourceTruncated));
}

#[tokio::test]
async fn a_reset_and_a_silence_are_told_apart() {
    assert_eq!(read(partial("10-19/100", "e", 10, "0123"), Then::Reset).await, Err(ErrorKind::NetworkReset));
    assert_eq!(read(partial("10-19/100", "e", 10, "0123"), Then::Silence).await, Err(ErrorKind::NetworkStalled));
    assert_eq!(read(String::new(), Then::Silence).await, Err(ErrorKind::NetworkStalled));
    assert_eq!(read(String::new(), Then::Close).await, Err(ErrorKind::NetworkReset));
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_found_out() {
    assert_eq!(read(partial("10-19/100", "other", 10, "0123456789"), Then::Close).await, Err(ErrorKind::SourceChanged));
    assert_eq!(read(partial("10-19/99", "e", 10, "0123456789"), Then::Close).await, Err(ErrorKind::SourceChanged));
    let whole = ok("etag: \"e\"\r\ncontent-length: 100\r\n", &"x".repeat(100));
    assert_eq!(read(whole, Then::Close).await, Err(ErrorKind::SourceTruncated));
}

#[tokio::test]
async fn refusals_have_their_class() {
    for (status, code, kind) in [
        (503, "SlowDown", ErrorKind::SourceThrottled),
        (500, "InternalError", ErrorKind::SourceThrottled),
        (412, "PreconditionFailed", ErrorKind::SourceChanged),
        (416, "InvalidRange", ErrorKind::SourceChanged),
        (404, "NoSuchVersion", ErrorKind::SourceMissing),
        (403, "AccessDenied", ErrorKind::SourceDenied),
        (403, "InvalidObjectState", ErrorKind::SourceArchived),
        // Nothing can be renewed here: requests are not signed.
        (400, "ExpiredToken", ErrorKind::SourceDenied),
    ] {
        assert_eq!(read(refusal(status, code, ""), Then::Close).await, Err(kind), "{status} {code}");
    }
}

#[tokio::test]
async fn a_redirect_of_a_named_endpoint_is_not_followed_but_explained() {
    let moved = refusal(301, "PermanentRedirect", "x-amz-bucket-region: eu-west-1\r\n");
    let server = Canned::start(vec![(moved, Then::Close)]).await;
    let error = server.source().await.read(&pin(), 10..20).await.unwrap_err();
    let text = transfer::error::chain(&error);
    assert!(error.kind == ErrorKind::SourceDenied && text.contains("eu-west-1"), "{text}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_refused_head_is_explained_by_a_get() {
    for status in ["403 Forbidden", "400 Bad Request"] {
        let silent = format!("HTTP/1.1 {status}\r\nconnection: close\r\nx-amz-bucket-region: us-east-1\r\n\r\n");
        let server = Canned::start(vec![(silent, Then::Close), (refusal(403, "AccessDenied", ""), Then::Close)]).await;
        let error = server.source().await.pin(&ObjectKey::new("k").unwrap(), None).await.unwrap_err();
        let text = transfer::error::chain(&error);
        assert!(error.kind == ErrorKind::SourceDenied && text.contains("AccessDenied: because"), "{text}");
    }
}

#[tokio::test]
async fn a_pin_takes_version_and_full_object_checksum() {
    let crc = model::Crc64(7).base64();
    let head = ok(
        &format!(
            "etag: W/\"e\"\r\ncontent-length: 100\r\nx-amz-version-id: v1\r\nx-amz-checksum-crc64nvme: {crc}\r\nx-amz-checksum-type: FULL_OBJECT\r\n"
        ),
        "",
    );
    let server = Canned::start(vec![(head, Then::Close)]).await;
    let pin = server.source().await.pin(&ObjectKey::new("k").unwrap(), None).await.unwrap();
    assert_eq!((pin.size, pin.etag.as_deref(), pin.version.as_deref()), (100, Some("\"e\""), Some("v1")));
    assert_eq!(pin.checksum.crc64nvme, Some(model::Crc64(7)));
    assert!(server.requests()[0].to_ascii_lowercase().contains("x-amz-checksum-mode: enabled"));
}

fn page(keys: &[&str], next: Option<&str>) -> String {
    let keys: String =
        keys.iter().map(|k| format!("<Contents><Key>{k}</Key><Size>1</Size><ETag>&quot;e&quot;</ETag></Contents>")).collect();
    let next = match next {
        Some(token) => format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"),
        None => "<IsTruncated>false</IsTruncated>".to_owned(),
    };
    let body = format!("<?xml version=\"1.0\"?><ListBucketResult><EncodingType>url</EncodingType>{next}{keys}</ListBucketResult>");
    ok(&format!("content-length: {}\r\n", body.len()), &body)
}

#[tokio::test]
async fn a_listing_reads_every_page_and_every_character() {
    let pages = vec![(page(&["a%0D%0Ab", "c+d"], Some("t=1")), Then::Close), (page(&["e%2Bf"], None), Then::Close)];
    let server = Canned::start(pages).await;
    let source = server.source().await;
    let mut pages = source.list(ListingOptions { prefix: "x y".into(), delimited: false });
    let mut keys = Vec::new();
    while let Some(Listing { objects, .. }) = pages.next().await.unwrap() {
        keys.extend(objects.into_iter().map(|o| o.key.as_str().to_owned()));
    }
    assert_eq!(keys, ["a\r\nb", "c d", "e+f"]);
    assert!(server.requests()[0].contains("encoding-type=url") && server.requests()[1].contains("continuation-token=t%3D1"));
}

#[tokio::test]
async fn a_listing_that_repeats_itself_is_stopped() {
    let server = Canned::start(vec![(page(&["a"], Some("same")), Then::Close)]).await;
    let source = server.source().await;
    let mut pages = source.list(ListingOptions::default());
    pages.next().await.unwrap();
    assert_eq!(pages.next().await.unwrap_err().kind, ErrorKind::SourceTruncated);
}
