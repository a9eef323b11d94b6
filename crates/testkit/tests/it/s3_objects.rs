//! What the S3 server does when nothing is broken.

use std::time::Instant;

use testkit::s3::{Checksum, Content, Encryption, ObjectOptions, Operation, S3Server};

use crate::http::Client;

async fn server() -> (S3Server, Client) {
    let server = S3Server::start().await;
    server.bucket("b");
    let client = Client::connect(server.address()).await;
    (server, client)
}

#[tokio::test]
async fn ranges_of_generated_objects_are_the_bytes_asked_for() {
    let (server, mut client) = server().await;
    let content = Content::generated(9, 5 << 40);
    let stored = server.bucket("b").put("big", content.clone());
    let etag = format!("\"{}\"", stored.etag());
    let answer = client.get("/b/big", &[("Range", "bytes=4398046511100-4398046611099"), ("If-Match", &etag)]).await;
    assert_eq!(answer.status, 206);
    assert_eq!(answer.header("content-range"), Some("bytes 4398046511100-4398046611099/5497558138880"));
    assert_eq!(answer.body, content.read(4_398_046_511_100..4_398_046_611_100));
    let last = client.get("/b/big", &[("Range", "bytes=-5")]).await;
    assert_eq!(last.body, content.read((5 << 40) - 5..5 << 40));
    assert_eq!(server.bytes_served("big"), 100_005);
    let requests = server.requests_for(Operation::GetObject);
    assert_eq!((requests.len(), requests[0].if_match.as_deref(), requests[0].status), (2, Some(etag.as_str()), 206));
    assert_eq!(server.connection_count(), 1, "the connection is kept");
}

#[tokio::test]
async fn head_shows_the_object_and_sends_nothing() {
    let (server, mut client) = server().await;
    let options = ObjectOptions {
        multipart_parts: Some(7),
        checksum: Checksum::Crc64Nvme,
        encryption: Encryption::Kms("key-1".into()),
        metadata: vec![("owner".into(), "me".into())],
        ..Default::default()
    };
    server.bucket("b").put_with("a", "123456789", options);
    let answer = client.send("HEAD", "/b/a", &[("x-amz-checksum-mode", "ENABLED")], b"").await;
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("9")));
    assert!(answer.header("etag").unwrap().ends_with("-7\""));
    assert_eq!(answer.header("x-amz-checksum-crc64nvme"), Some("rosUhgp5mIg="));
    assert_eq!(answer.header("x-amz-checksum-type"), Some("FULL_OBJECT"));
    assert_eq!(answer.header("x-amz-server-side-encryption"), Some("aws:kms"));
    assert_eq!(answer.header("x-amz-meta-owner"), Some("me"));
    let plain = client.send("HEAD", "/b/a", &[], b"").await;
    assert_eq!(plain.header("x-amz-checksum-crc64nvme"), None);
    assert_eq!(client.send("HEAD", "/b/none", &[], b"").await.status, 404);
    assert_eq!(client.get("/b/a", &[]).await.text(), "123456789");
}

#[tokio::test]
async fn refusals_are_worded_as_s3_words_them() {
    let (server, mut client) = server().await;
    let bucket = server.bucket("b");
    bucket.put("a", "abc");
    bucket.put_with("cold", "abc", ObjectOptions { storage_class: Some("GLACIER".into()), ..Default::default() });
    let customer = Encryption::CustomerKey { key_md5: "bWQ1".into() };
    bucket.put_with("locked", "abc", ObjectOptions { encryption: customer, ..Default::default() });
    server.bucket("paid").requester_pays(true);
    server.bucket("paid").put("a", "abc");
    server.bucket("blind").deny_listing(true);
    for (path, header, status, code) in [
        ("/b/none", ("x", "y"), 404, "NoSuchKey"),
        ("/none/a", ("x", "y"), 404, "NoSuchBucket"),
        ("/b/a?versionId=nope", ("x", "y"), 404, "NoSuchVersion"),
        ("/b/a", ("If-Match", "\"other\""), 412, "PreconditionFailed"),
        ("/b/a", ("Range", "bytes=3-"), 416, "InvalidRange"),
        ("/b/cold", ("x", "y"), 403, "InvalidObjectState"),
        ("/b/locked", ("x", "y"), 400, "InvalidRequest"),
        ("/paid/a", ("x", "y"), 403, "AccessDenied"),
        ("/blind/a", ("x", "y"), 403, "AccessDenied"),
        ("/blind?list-type=2", ("x", "y"), 403, "AccessDenied"),
    ] {
        let answer = client.get(path, &[header]).await;
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.has(&format!("<Code>{code}</Code>")), "{path}: {}", answer.text());
    }
    assert_eq!(client.get("/paid/a", &[("x-amz-request-payer", "requester")]).await.text(), "abc");
    assert_eq!(client.get("/b/locked", &[("x-amz-server-side-encryption-customer-key-MD5", "bWQ1")]).await.text(), "abc");
    assert_eq!(client.send("HEAD", "/b/cold", &[], b"").await.header("x-amz-storage-class"), Some("GLACIER"));
    let etag = bucket.put("a", "abc").etag();
    assert_eq!(client.get("/b/a", &[("If-None-Match", &etag)]).await.status, 304);
}

#[tokio::test]
async fn only_the_required_access_key_is_let_in() {
    let (server, mut client) = server().await;
    server.bucket("b").put("a", "abc");
    server.require_access_key("AKIAGOOD");
    assert!(client.get("/b/a", &[]).await.has("AccessDenied"));
    let other = [("Authorization", "AWS4-HMAC-SHA256 Credential=AKIABAD/20260101/us-east-1/s3/aws4_request, Signature=0")];
    assert!(client.get("/b/a", &other).await.has("InvalidAccessKeyId"));
    let good = [("Authorization", "AWS4-HMAC-SHA256 Credential=AKIAGOOD/20260101/us-east-1/s3/aws4_request, Signature=0")];
    assert_eq!(client.get("/b/a", &good).await.status, 200);
}

#[tokio::test]
async fn versions_stay_readable_and_delete_markers_hide() {
    let (server, mut client) = server().await;
    let bucket = server.bucket("b");
    bucket.put("a", "before versions");
    let first = bucket.put_versioned("a", "one");
    let second = bucket.put_versioned("a", "two");
    assert_eq!(client.get("/b/a", &[]).await.header("x-amz-version-id"), Some(second.as_str()));
    assert_eq!(client.get(&format!("/b/a?versionId={first}"), &[]).await.text(), "one");
    assert_eq!(client.get("/b/a?versionId=null", &[]).await.text(), "before versions");
    bucket.delete("a");
    let gone = client.get("/b/a", &[]).await;
    assert_eq!((gone.status, gone.header("x-amz-delete-marker")), (404, Some("true")));
    let marker = gone.header("x-amz-version-id").unwrap().to_owned();
    assert_eq!(client.get(&format!("/b/a?versionId={marker}"), &[]).await.status, 405);
    assert_eq!(client.get(&format!("/b/a?versionId={second}"), &[]).await.text(), "two");
    assert!(!client.get("/b?list-type=2", &[]).await.has("<Key>a</Key>"));
    assert_eq!(client.send("DELETE", &format!("/b/a?versionId={marker}"), &[], b"").await.status, 204);
    assert_eq!(client.get("/b/a", &[]).await.text(), "two");
}

#[tokio::test]
async fn any_key_is_stored_listed_and_read() {
    let (server, mut client) = server().await;
    let keys = ["a\r\nb", "../up", "a//b", "/lead", "plus+ space", "ü&<>", "tab\t", "a/../b", "%41", "~*"];
    for key in keys {
        let path: String = key.bytes().map(|byte| format!("%{byte:02X}")).collect();
        client.send("PUT", &format!("/b/{path}"), &[], key.as_bytes()).await;
        assert_eq!(server.bucket("b").get(key).unwrap().bytes(), key.as_bytes());
        assert_eq!(client.get(&format!("/b/{path}"), &[]).await.body, key.as_bytes());
    }
    let listing = client.get("/b?list-type=2&encoding-type=url", &[]).await;
    for shown in ["a%0D%0Ab", "../up", "a//b", "/lead", "plus%2B+space", "%C3%BC%26%3C%3E", "%2541", "%7E*"] {
        assert!(listing.has(&format!("<Key>{shown}</Key>")), "{shown}: {}", listing.text());
    }
    assert!(client.get("/b?list-type=2", &[]).await.has("<Key>a&#xd;&#xa;b</Key>"));
}

fn texts(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open).skip(1).map(|rest| rest.split_once(&close).unwrap().0.to_owned()).collect()
}

#[tokio::test]
async fn a_million_keys_are_listed_page_by_page_without_being_held() {
    let (server, mut client) = server().await;
    server.synthetic_bucket("m", 1_000_000, |index| (format!("d{:03}/{:07}", index / 1000, index), index % 5000));
    let mut path = "/m?list-type=2&prefix=d99&max-keys=1000".to_owned();
    let mut keys = Vec::new();
    loop {
        let page = client.get(&path, &[]).await.text();
        keys.extend(texts(&page, "Key"));
        let Some(token) = texts(&page, "NextContinuationToken").pop() else { break };
        path = format!("/m?list-type=2&prefix=d99&continuation-token={token}");
    }
    assert_eq!((keys.len(), keys[0].as_str(), keys[9999].as_str()), (10_000, "d990/0990000", "d999/0999999"));
    assert!(keys.is_sorted());
    let folders = client.get("/m?list-type=2&delimiter=/&max-keys=3&start-after=d500/0500500", &[]).await.text();
    assert_eq!(texts(&folders, "Prefix"), ["", "d500/", "d501/", "d502/"]);
    assert!(folders.contains("<IsTruncated>true</IsTruncated>"));
    let content = client.get("/m/d123/0123456", &[]).await;
    assert_eq!(content.body, Content::generated(123_456, 3456).bytes());
    assert_eq!(client.get("/m/d123/9", &[]).await.status, 404);
}

#[tokio::test]
async fn delimited_pages_neither_repeat_nor_lose_anything() {
    let (server, mut client) = server().await;
    for key in ["a", "b/1", "b/2", "b/3", "c", "d/x/1", "d/y", "e"] {
        server.bucket("b").put(key, "x");
    }
    for size in 1..=6 {
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let page = client.get(&format!("/b?list-type=2&delimiter=%2F&max-keys={size}{token}"), &[]).await.text();
            let mut both = texts(&page, "Key");
            both.extend(texts(&page, "Prefix").into_iter().filter(|prefix| !prefix.is_empty()));
            assert!(both.len() <= size);
            seen.extend(both);
            let Some(next) = texts(&page, "NextContinuationToken").pop() else { break };
            token = format!("&continuation-token={next}");
        }
        seen.sort();
        assert_eq!(seen, ["a", "b/", "c", "d/", "e"], "pages of {size}");
    }
}

#[tokio::test]
async fn uploads_as_sdks_send_them_are_unpacked_and_checked() {
    let (server, mut client) = server().await;
    let headers = [
        ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
        ("Content-Encoding", "aws-chunked"),
        ("x-amz-decoded-content-length", "9"),
        ("x-amz-trailer", "x-amz-checksum-crc32"),
    ];
    let good = b"5\r\n12345\r\n4\r\n6789\r\n0\r\nx-amz-checksum-crc32:y/Q5Jg==\r\n\r\n";
    assert_eq!(client.send("PUT", "/b/a", &headers, good).await.status, 200);
    assert_eq!(client.get("/b/a", &[]).await.text(), "123456789");
    let bad = b"9\r\n123456780\r\n0\r\nx-amz-checksum-crc32:y/Q5Jg==\r\n\r\n";
    assert!(client.send("PUT", "/b/a", &headers, bad).await.has("BadDigest"));
    assert_eq!(server.bucket("b").get("a").unwrap().bytes(), "123456789");
    assert_eq!(client.send("PUT", "/b/a", &[("If-None-Match", "*")], b"x").await.status, 412);
}

#[tokio::test]
async fn parts_become_one_object() {
    let (_server, mut client) = server().await;
    let created = client.send("POST", "/b/a?uploads", &[], b"").await.text();
    let id = texts(&created, "UploadId").remove(0);
    let mut list = String::new();
    for (number, part) in ["one ", "two"].iter().enumerate() {
        let number = number + 1;
        let answer = client.send("PUT", &format!("/b/a?partNumber={number}&uploadId={id}"), &[], part.as_bytes()).await;
        list += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>", answer.header("etag").unwrap());
    }
    let done = client.send("POST", &format!("/b/a?uploadId={id}"), &[], format!("<C>{list}</C>").as_bytes()).await;
    assert!(done.has("-2&quot;</ETag>"), "{}", done.text());
    assert_eq!(client.get("/b/a", &[]).await.text(), "one two");
    assert_eq!(client.send("PUT", "/b/c", &[("x-amz-copy-source", "b/a")], b"").await.status, 200);
    assert_eq!(client.get("/b/c", &[]).await.text(), "one two");
}

/// The promise is 1.5 GB/s; the assertion leaves room for a machine that is busy with other tests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_objects_are_served_fast() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (server, _client) = server().await;
    let len: u64 = 1 << 30;
    server.bucket("b").put("big", Content::generated(1, len));
    let begin = Instant::now();
    let mut stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(b"GET /b/big HTTP/1.1\r\nHost: s3\r\nConnection: close\r\n\r\n").await.unwrap();
    let (mut total, mut buffer) = (0, vec![0; 1 << 20]);
    loop {
        match stream.read(&mut buffer).await.unwrap() {
            0 => break,
            count => total += count as u64,
        }
    }
    let rate = total as f64 / begin.elapsed().as_secs_f64() / 1e9;
    println!("{rate:.2} GB/s");
    assert!(total > len && rate > 0.2, "{total} bytes at {rate:.2} GB/s");
}
