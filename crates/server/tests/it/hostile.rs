//! Every peer is hostile: sizes, depths, forms and patience are bounded.

use std::time::Instant;

use super::*;

// Mutations: a body of any size is read (`collect`), a compressed one, one not declared as JSON; a field that was meant is not named, or
// an error repeats all of what was sent (`misread`); a submission may name nothing.
#[tokio::test]
async fn a_body_is_bounded_in_size_depth_and_form() {
    let service = service().await;
    let huge = format!(r#"{{"source_keys": ["{}"]}}"#, "x".repeat(api::LONGEST_BODY));
    let deep = "[".repeat(100_000);
    let wide = format!(r#"{{"{}": 1}}"#, "x".repeat(100_000));
    let compressed = format!("{JSON}content-encoding: gzip\r\n");
    for (headers, body, status, words) in [
        (JSON, huge.as_str(), 413, "larger than"),
        (JSON, deep.as_str(), 422, "not what this request takes"),
        (JSON, wide.as_str(), 422, "not what this request takes"),
        (compressed.as_str(), "{}", 415, "compressed"),
        ("", "{}", 415, "application/json"),
        (JSON, "", 422, "EOF"),
        (JSON, "{", 422, "EOF"),
        (JSON, r#"{"source": "s", "conector": "c"}"#, 422, "did you mean \\\"connector\\\"?"),
        (JSON, r#"{"source": "../x", "connector": "c"}"#, 422, "not a name"),
        (JSON, r#"{"source": "s", "connector": "c"}"#, 422, "exactly one of"),
        (JSON, r#"{"source": "s", "connector": "c", "source_key": "k", "priority": 11}"#, 422, "priority"),
        (JSON, r#"{"source": "s", "connector": "c", "source_key": "k", "priority": -1}"#, 422, "invalid value"),
        (JSON, r#"{"source": "s", "connector": "c", "source_key": "k", "options": {"min_age": "5"}}"#, 422, "min_age"),
    ] {
        let (got, answer) = service.ask("POST", "/api/transfer", headers, body).await;
        let start: String = body.chars().take(60).collect();
        assert_eq!(got, status, "{start}: {answer}");
        assert!(answer.contains(words), "{start}: {answer}");
        assert!(answer.len() < 2_000, "an answer does not repeat what was sent");
    }
    let deep = format!(r#"{{"settings": {deep}"#);
    let (status, answer) = service.ask("PUT", "/api/connectors/partner", JSON, &deep).await;
    assert!(status == 422 && answer.contains("recursion"), "{answer}");
    assert_eq!(service.client.health().await.unwrap().status, "ok");
}

// Mutations: an id that cannot be is not unknown (`transfer_id`); a wrong method is an unknown path.
#[tokio::test]
async fn paths_and_methods_that_are_not_there_are_problems_too() {
    let service = service().await;
    for (method, path, status) in [
        ("GET", "/", 404),
        ("GET", "/api/transfer/not-an-id", 404),
        ("GET", "/api/transfer/../../etc/passwd", 404),
        ("POST", "/api/health", 405),
        ("GET", "/api/transfer?limit=x", 422),
        ("GET", "/api/transfer?page=1", 422),
        ("GET", "/api/connectors/%00", 422),
        ("GET", "/api/connectors/..%2f..", 422),
        ("DELETE", "/api/secrets/none", 404),
        ("POST", "/api/transfer/aeaqcaibaeaqcaib/explode", 404),
    ] {
        let (got, body) = service.ask(method, path, "", "").await;
        let problem: api::Problem = serde_json::from_str(&body).unwrap_or_else(|e| panic!("{method} {path}: {e}: {body}"));
        assert_eq!((got, problem.status), (status, status), "{method} {path}: {body}");
        assert!(!problem.next.is_empty() && problem.kind.starts_with("urn:fileferry:problem:"), "{body}");
    }
}

// Mutation: headers may take their time, or any room (`connection`).
#[tokio::test]
async fn who_sends_nothing_or_nonsense_is_let_go() {
    let service = service().await;
    let began = Instant::now();
    let started = b"POST /api/transfer HTTP/1.1\r\nhost:".to_vec();
    let (silent, nonsense, headers) = tokio::join!(
        service.raw(started),
        service.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        service.raw(format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(1 << 20)).into_bytes()),
    );
    assert!(began.elapsed() < Duration::from_secs(19), "headers that never end are not waited for: {silent:?}");
    assert!(nonsense.is_empty() || nonsense.contains("400"), "{nonsense}");
    assert!(headers.is_empty() || headers.contains("431") || headers.contains("400"), "{headers}");
    assert_eq!(service.client.health().await.unwrap().status, "ok");
}

// Mutation: socket and directory are open to all without grants (`listen`).
#[tokio::test]
async fn the_socket_is_for_its_owner() {
    use std::os::unix::fs::PermissionsExt as _;
    let service = service().await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&service.data.path().join(api::SOCKET)), 0o600);
    assert_eq!(mode(service.data.path()), 0o700);
}
