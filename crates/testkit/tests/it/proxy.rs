//! Each fault of the proxy happens, at the byte and in the direction told, and can be taken back.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use testkit::proxy::{Action, Counted, Direction, FaultProxy, How, PassiveReplies};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const SOON: Duration = Duration::from_millis(300);

/// Sends back what it gets, to the end of the stream.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    address
}

async fn proxied() -> (FaultProxy, TcpStream) {
    let proxy = FaultProxy::start(echo().await).await;
    let stream = TcpStream::connect(proxy.address()).await.unwrap();
    (proxy, stream)
}

fn pattern(len: usize) -> Vec<u8> {
    testkit::s3::Content::generated(11, len as u64).bytes().to_vec()
}

/// Everything that comes until the end, and how it ends.
async fn read_all(stream: &mut TcpStream) -> (Vec<u8>, Option<ErrorKind>) {
    let mut bytes = Vec::new();
    loop {
        match timeout(SOON, stream.read_buf(&mut bytes)).await {
            Ok(Ok(0)) => return (bytes, None),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return (bytes, Some(error.kind())),
            Err(_) => return (bytes, Some(ErrorKind::TimedOut)),
        }
    }
}

async fn round_trip(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    let mut back = vec![0; bytes.len()];
    let (mut read, mut write) = stream.split();
    let (sent, received) = tokio::join!(write.write_all(bytes), read.read_exact(&mut back));
    sent.unwrap();
    received.unwrap();
    back
}

#[tokio::test]
async fn without_faults_bytes_and_ends_pass_and_are_counted() {
    let (proxy, mut stream) = proxied().await;
    let bytes = pattern(5_000_000);
    assert_eq!(round_trip(&mut stream, &bytes).await, bytes);
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream).await, (vec![], None));
    assert_eq!((proxy.bytes(Direction::ToServer), proxy.bytes(Direction::ToClient)), (5_000_000, 5_000_000));
    let connections = proxy.connections();
    assert_eq!((connections.len(), connections[0].to_server, connections[0].to_client), (1, 5_000_000, 5_000_000));
}

#[tokio::test]
async fn latency_is_a_delay_and_no_limit_of_speed() {
    let (proxy, mut stream) = proxied().await;
    proxy.round_trip(Duration::from_millis(100));
    let begin = Instant::now();
    round_trip(&mut stream, b"x").await;
    assert!(begin.elapsed() >= Duration::from_millis(100), "{:?}", begin.elapsed());
    let bytes = pattern(8_000_000);
    let begin = Instant::now();
    assert_eq!(round_trip(&mut stream, &bytes).await, bytes);
    // Stop-and-wait with reads of 256 KiB would take 3 s.
    assert!((Duration::from_millis(100)..Duration::from_secs(2)).contains(&begin.elapsed()), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn rates_hold_for_all_connections_or_for_each() {
    let (proxy, mut one) = proxied().await;
    let mut two = TcpStream::connect(proxy.address()).await.unwrap();
    let bytes = pattern(200_000);
    proxy.rate(Direction::ToServer, Some(1_000_000));
    let begin = Instant::now();
    tokio::join!(round_trip(&mut one, &bytes), round_trip(&mut two, &bytes));
    assert!(begin.elapsed() >= Duration::from_millis(350), "{:?}", begin.elapsed());
    proxy.heal().rate_per_connection(Direction::ToClient, Some(1_000_000));
    let begin = Instant::now();
    tokio::join!(round_trip(&mut one, &bytes), round_trip(&mut two, &bytes));
    assert!(begin.elapsed() >= Duration::from_millis(180), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_cut_delivers_exactly_the_bytes_before_it() {
    let bytes = pattern(400_000);
    for how in [How::Fin, How::Rst] {
        let (proxy, mut stream) = proxied().await;
        proxy.cut_after(Direction::ToClient, 123_457, how);
        stream.write_all(&bytes).await.unwrap();
        let (got, error) = read_all(&mut stream).await;
        match how {
            How::Rst => assert!(matches!(error, Some(ErrorKind::ConnectionReset)), "{error:?}"),
            _ => assert_eq!((got.len(), error), (123_457, None)),
        }
        assert_eq!(got, bytes[..got.len()]);
        assert_eq!(proxy.bytes(Direction::ToClient), 123_457);
    }
}

#[tokio::test]
async fn a_half_close_ends_one_direction_only() {
    let (proxy, mut stream) = proxied().await;
    proxy.cut_after(Direction::ToClient, 3, How::HalfClose);
    stream.write_all(b"abcdef").await.unwrap();
    assert_eq!(read_all(&mut stream).await, (b"abc".to_vec(), None));
    stream.write_all(b"ghi").await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while proxy.bytes(Direction::ToServer) < 9 {
        assert!(Instant::now() < deadline, "the other direction goes on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn only_the_connection_told_is_cut_and_a_shared_count_cuts_once() {
    let (proxy, mut one) = proxied().await;
    round_trip(&mut one, b"x").await;
    proxy.rule(Direction::ToServer, Counted::OnConnection(2), 4, Action::Cut(How::Fin));
    let mut two = TcpStream::connect(proxy.address()).await.unwrap();
    two.write_all(b"12345678").await.unwrap();
    assert_eq!(read_all(&mut two).await.1, None);
    assert_eq!(proxy.connections()[1].to_server, 4);
    assert_eq!(round_trip(&mut one, b"12345678").await, b"12345678");

    let passed = proxy.bytes(Direction::ToServer);
    proxy.rule(Direction::ToServer, Counted::OverAll, passed + 10, Action::Cut(How::Fin));
    round_trip(&mut one, b"123456").await;
    let mut three = TcpStream::connect(proxy.address()).await.unwrap();
    three.write_all(b"123456").await.unwrap();
    assert_eq!(read_all(&mut three).await.1, None);
    assert_eq!(proxy.connections()[2].to_server, 4);
    assert_eq!(round_trip(&mut one, b"123456").await, b"123456", "once is enough");
}

#[tokio::test]
async fn a_stall_holds_bytes_and_removing_it_lets_them_go() {
    let (proxy, mut stream) = proxied().await;
    let stall = proxy.stall_after(Direction::ToClient, 5);
    stream.write_all(b"0123456789").await.unwrap();
    assert_eq!(read_all(&mut stream).await, (b"01234".to_vec(), Some(ErrorKind::TimedOut)));
    stall.remove();
    let mut rest = [0; 5];
    stream.read_exact(&mut rest).await.unwrap();
    assert_eq!(&rest, b"56789");
}

#[tokio::test]
async fn a_black_hole_swallows_for_good() {
    let (proxy, mut stream) = proxied().await;
    round_trip(&mut stream, b"x").await;
    proxy.black_hole(Direction::ToServer, true);
    stream.write_all(&pattern(5_000_000)).await.unwrap();
    assert_eq!(read_all(&mut stream).await, (vec![], Some(ErrorKind::TimedOut)));
    proxy.black_hole(Direction::ToServer, false);
    stream.write_all(b"y").await.unwrap();
    assert_eq!(read_all(&mut stream).await, (vec![], Some(ErrorKind::TimedOut)));
    let mut fresh = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(round_trip(&mut fresh, b"z").await, b"z");
}

#[tokio::test]
async fn one_byte_is_corrupted() {
    let (proxy, mut stream) = proxied().await;
    proxy.corrupt(Direction::ToServer, 100_000);
    let mut bytes = pattern(300_000);
    let back = round_trip(&mut stream, &bytes).await;
    bytes[100_000] ^= 0xff;
    assert_eq!(back, bytes);
}

#[tokio::test]
async fn connections_are_refused_and_the_port_comes_back() {
    let (proxy, mut stream) = proxied().await;
    round_trip(&mut stream, b"accepted").await;
    for _ in 0..3 {
        proxy.refuse(true).await;
        let refused = TcpStream::connect(proxy.address()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(round_trip(&mut stream, b"open ones go on").await, b"open ones go on");
        proxy.refuse(false).await;
        let mut fresh = TcpStream::connect(proxy.address()).await.unwrap();
        round_trip(&mut fresh, b"x").await;
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once() {
    let (proxy, mut stream) = proxied().await;
    proxy.max_connections(Some(1));
    round_trip(&mut stream, b"x").await;
    let mut second = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(read_all(&mut second).await, (vec![], None));
    assert_eq!((proxy.accepted(), proxy.open_connections()), (2, 1));
}

#[tokio::test]
async fn everything_is_cut_now() {
    for how in [How::Fin, How::Rst] {
        let (proxy, mut one) = proxied().await;
        let mut two = TcpStream::connect(proxy.address()).await.unwrap();
        tokio::join!(round_trip(&mut one, b"x"), round_trip(&mut two, b"x"));
        proxy.cut_now(how);
        for stream in [&mut one, &mut two] {
            let expected = (how == How::Rst).then_some(ErrorKind::ConnectionReset);
            assert_eq!(read_all(stream).await, (vec![], expected));
        }
        let mut fresh = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(round_trip(&mut fresh, b"y").await, b"y");
    }
}

#[tokio::test]
async fn a_line_flaps_by_bytes_and_by_time() {
    let (proxy, mut stream) = proxied().await;
    let flap = proxy.flap_every_bytes(Direction::ToServer, 1000, How::Fin);
    for round in 1..=3 {
        stream.write_all(&pattern(1500)).await.unwrap();
        read_all(&mut stream).await;
        assert_eq!(proxy.bytes(Direction::ToServer), round * 1000);
        stream = TcpStream::connect(proxy.address()).await.unwrap();
    }
    flap.remove();
    proxy.flap_every(Some(Duration::from_millis(100)), How::Rst);
    let (_, error) = timeout(Duration::from_secs(5), read_all(&mut stream)).await.unwrap();
    assert_eq!(error, Some(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn the_end_of_a_stream_comes_late() {
    let (proxy, mut stream) = proxied().await;
    proxy.close_delay(Duration::from_millis(60));
    let begin = Instant::now();
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream).await, (vec![], None));
    assert!(begin.elapsed() >= Duration::from_millis(120), "once each way: {:?}", begin.elapsed());
}

#[tokio::test]
async fn passive_replies_lead_through_the_proxy() {
    let data = echo().await;
    let control = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = FaultProxy::start(control.local_addr().unwrap()).await;
    proxy.rewrite(Direction::ToClient, || Box::new(PassiveReplies::new()));
    proxy.rule(Direction::ToServer, Counted::PerPassiveConnection, 4, Action::Cut(How::Fin));
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let (mut server, _) = control.accept().await.unwrap();
    server.write_all(format!("220 hello\r\n229 Entering (|||{}|)\r\n", data.port()).as_bytes()).await.unwrap();
    let mut text = vec![0; 512];
    let mut len = 0;
    while text[..len].iter().filter(|byte| **byte == b'\n').count() < 2 {
        len += client.read(&mut text[len..]).await.unwrap();
    }
    let text = String::from_utf8_lossy(&text[..len]).into_owned();
    let port: u16 = text.split('|').nth(3).unwrap().parse().unwrap();
    assert!(text.starts_with("220 hello\r\n229 ") && port != data.port());
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(b"123456").await.unwrap();
    read_all(&mut stream).await;
    let passive = proxy.connections()[1];
    assert!(passive.passive && passive.to_server == 4, "{passive:?}");
}
