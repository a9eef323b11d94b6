//! What proxies answer, honest and hostile, over streams in memory; and which way is taken.

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;

fn proxy(text: &str) -> Proxy {
    let (address, password) = ProxyAddress::parse(text).unwrap();
    Proxy { address, password }
}

/// Asks a proxy that says `answer` whatever it hears; also returns what it heard and what was left of the answer.
async fn asked(proxy: &Proxy, target: &Target, answer: &[u8]) -> (Result<(), Obstacle>, Vec<u8>, Vec<u8>) {
    let (mut ours, mut theirs) = duplex(64 << 10);
    theirs.write_all(answer).await.unwrap();
    let (mut heard, mut said) = tokio::io::split(theirs);
    said.shutdown().await.unwrap();
    let result = match proxy.address.kind {
        ProxyKind::Http => connect::ask(&mut ours, target, proxy).await,
        _ => socks::ask(&mut ours, target, proxy).await,
    };
    let mut left = Vec::new();
    ours.read_to_end(&mut left).await.unwrap();
    drop(ours);
    let mut request = Vec::new();
    heard.read_to_end(&mut request).await.unwrap();
    (result, request, left)
}

fn name() -> Target {
    Target::Name("partner.example".into(), 22)
}

#[tokio::test]
async fn socks_is_spoken_as_the_rfc_says_and_what_follows_is_left_alone() {
    let answer = b"\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50SSH-2.0-x";
    let (result, request, left) = asked(&proxy("socks5h://h:1"), &name(), answer).await;
    result.unwrap();
    assert_eq!(request, b"\x05\x01\x00\x05\x01\x00\x03\x0fpartner.example\x00\x16");
    assert_eq!(left, b"SSH-2.0-x");
    let target = Target::Address("[::1]:2222".parse().unwrap());
    let answer = b"\x05\x02\x01\x00\x05\x00\x00\x03\x03abc\x00\x00220 ";
    let (result, request, left) = asked(&proxy("socks5://u:pw@h:1"), &target, answer).await;
    result.unwrap();
    assert_eq!(&request[..4], b"\x05\x02\x00\x02");
    assert_eq!(&request[4..10], b"\x01\x01u\x02pw");
    assert_eq!(&request[10..14], b"\x05\x01\x00\x04");
    assert_eq!((&request[request.len() - 2..], &left[..]), (&2222u16.to_be_bytes()[..], &b"220 "[..]));
}

#[tokio::test]
async fn connect_is_spoken_as_the_rfc_says_and_what_follows_is_left_alone() {
    let answer = b"HTTP/1.1 200 Connection established\r\nVia: x\r\nContent-Length: 7\r\n\r\n220 hello";
    let (result, request, left) = asked(&proxy("http://u:p%3Aw@h:1"), &name(), answer).await;
    result.unwrap();
    let request = String::from_utf8(request).unwrap();
    assert!(request.starts_with("CONNECT partner.example:22 HTTP/1.1\r\nHost: partner.example:22\r\n"), "{request}");
    assert!(request.contains("\r\nProxy-Authorization: Basic dTpwOnc=\r\n") && request.ends_with("\r\n\r\n"), "{request}");
    assert_eq!(left, b"220 hello");
    let target = Target::Address("[::1]:21".parse().unwrap());
    let (result, request, _) = asked(&proxy("http://h:1"), &target, b"HTTP/1.0 200\n\n").await;
    result.unwrap();
    assert!(request.starts_with(b"CONNECT [::1]:21 HTTP/1.1\r\n"));
    assert!(!request.windows(5).any(|w| w == b"Basic"));
}

#[tokio::test]
async fn refusals_say_what_the_proxy_said_and_whether_trying_again_helps() {
    for (url, answer, word, permanent) in [
        ("socks5h://h:1", &b"\x05\xff"[..], "--proxy-password-from", true),
        ("socks5h://u:hush@h:1", b"\x05\xff", "neither", true),
        ("socks5h://u:hush@h:1", b"\x05\x02\x01\x01", "refused the login at itself", true),
        ("socks5h://h:1", b"\x05\x02", "method 2", true),
        ("socks5h://h:1", b"HTTP/1.1 400", "does not speak SOCKS5", true),
        ("socks5h://h:1", b"\x04\x5a", "does not speak SOCKS5", true),
        ("socks5h://h:1", b"\x05\x00\x05\x02\x00\x01", "rules do not allow", false),
        ("socks5h://h:1", b"\x05\x00\x05\x05\x00\x01", "refused", false),
        ("socks5h://h:1", b"\x05\x00\x05\x00\x00\x09", "type 9", true),
        ("socks5h://h:1", b"\x05\x00\x05\x00\x00\x01\x00", "closed the connection", false),
        ("socks5h://h:1", b"", "closed the connection at the greeting", false),
        ("http://h:1", b"HTTP/1.1 407 Login\r\n\r\n", "--proxy-password-from", true),
        ("http://u:hush@h:1", b"HTTP/1.1 407 No\r\n\r\n", "refused the login at itself", true),
        ("http://h:1", b"HTTP/1.1 403 For\x1bbidden\r\n\r\n", "403 For", false),
        ("http://h:1", b"HTTP/2 200\r\n\r\n", "no HTTP", true),
        ("http://h:1", b"HTTP/1.1 2000 OK\r\n\r\n", "no HTTP", true),
        ("http://h:1", b"SSH-2.0-OpenSSH\r\n", "does not speak HTTP", true),
        ("http://h:1", b"HTTP/1.1 200 OK\r\n", "closed the connection", false),
    ] {
        let (result, _, _) = asked(&proxy(url), &name(), answer).await;
        let obstacle = result.unwrap_err();
        let text = obstacle.to_string();
        assert!(text.contains(word) && obstacle.permanent == permanent, "{url} {}: {text}", answer.escape_ascii());
        assert!(!text.contains("hush") && !text.contains('\x1b'), "{text}");
    }
}

#[tokio::test]
async fn an_answer_without_an_end_is_cut_off() {
    let mut answer = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
    answer.resize(20 << 10, b'x');
    let (result, _, left) = asked(&proxy("http://h:1"), &name(), &answer).await;
    assert!(result.unwrap_err().to_string().contains("8192 bytes"));
    assert_eq!(left.len(), (20 << 10) - 8192);
}

#[tokio::test]
async fn a_silent_proxy_is_left_at_the_deadline_and_named_without_its_password() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    for scheme in ["socks5h", "http"] {
        let proxy = proxy(&format!("{scheme}://u:hush@{}", listener.local_addr().unwrap()));
        let road = Road {
            host: "partner.example",
            port: 22,
            family: AddressFamily::Any,
            bind: None,
            proxy: Some(&proxy),
            addresses: &Addresses::default(),
        };
        let error = reach(road, Instant::now() + Duration::from_millis(400)).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("{scheme}://u@127.0.0.1")) && text.contains("partner.example:22 within"), "{text}");
        assert!(!text.contains("hush") && !format!("{proxy:?}").contains("hush"));
    }
    let address = listener.local_addr().unwrap();
    drop(listener);
    let proxy = proxy(&format!("socks5://{address}"));
    let road =
        Road { host: "127.0.0.1", port: 22, family: AddressFamily::Any, bind: None, proxy: Some(&proxy), addresses: &Addresses::default() };
    let text = reach(road, Instant::now() + Duration::from_secs(5)).await.unwrap_err().to_string();
    assert!(text.contains("cannot be reached") && text.contains(&address.to_string()), "{text}");
}

#[tokio::test]
async fn a_name_that_would_end_the_request_goes_nowhere() {
    let proxy = proxy("http://127.0.0.1:1");
    for host in ["a\r\nX: y", "a b", &"x".repeat(300)] {
        let road = Road { host, port: 22, family: AddressFamily::Any, bind: None, proxy: Some(&proxy), addresses: &Addresses::default() };
        assert!(reach(road, Instant::now() + Duration::from_secs(5)).await.unwrap_err().permanent, "{host:?}");
    }
}

/// What a name means behind a jump host or a proxy is its business; a number means the same there.
#[tokio::test]
async fn whom_somebody_else_connects_to_is_judged_where_it_is_a_number() {
    let public = Addresses { allow_private: false, ..Addresses::default() };
    for (host, forbidden) in [("10.0.0.1", true), ("[::1]", true), ("::ffff:127.0.0.1", true), ("8.8.8.8", false), ("localhost", false)] {
        assert_eq!(may_name(host, &public).is_err(), forbidden, "{host}");
        assert!(may_name(host, &Addresses::default()).is_ok(), "{host}");
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    for scheme in ["socks5", "socks5h", "http"] {
        let proxy = proxy(&format!("{scheme}://{}", listener.local_addr().unwrap()));
        let road = Road { host: "127.0.0.1", port: 22, family: AddressFamily::Any, bind: None, proxy: Some(&proxy), addresses: &public };
        let obstacle = reach(road, Instant::now() + Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(obstacle.kind, ErrorClass::PolicyDenied, "{scheme}: {obstacle}");
    }
    let nobody = tokio::time::timeout(Duration::from_millis(100), listener.accept()).await;
    assert!(nobody.is_err(), "the proxy was asked for what is forbidden");
}

proptest! {
    /// Whatever comes, an answer ends in a verdict, and only a whole one is taken for success.
    #[test]
    fn any_answer_is_judged(bytes in prop::collection::vec(any::<u8>(), 0..300), begin in 0usize..4, kind in 0usize..2) {
        let beginnings: [&[u8]; 4] = [b"", b"\x05\x00\x05\x00\x00", b"HTTP/1.1 200", b"\x05\x02\x01\x00\x05"];
        let answer = [beginnings[begin], &bytes].concat();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let proxy = proxy(["socks5h://u:p@h:1", "http://u:p@h:1"][kind]);
        let (result, _, left) = runtime.block_on(asked(&proxy, &name(), &answer));
        if result.is_ok() {
            let used = &answer[..answer.len() - left.len()];
            let whole = if kind == 0 { used.len() >= 8 } else { used.ends_with(b"\n\n") || used.ends_with(b"\r\n\r\n") };
            prop_assert!(whole);
        }
    }
}
