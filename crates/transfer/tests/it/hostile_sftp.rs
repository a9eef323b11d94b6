//! SFTP servers that answer wrongly, endlessly or not at all: every wait and every buffer has a bound, the class says
//! what happened, and no wrong bytes get a final name.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use model::{RemotePath, Verify};
use testkit::sftp::{Behaviour, Extensions, Limits, Operation, SftpServer, Verdict};
use transfer::memory::MemorySource;
use transfer::sftp::SftpConnector;
use transfer::{Connection, Connector, CreateOptions, Error, ErrorKind, OpenMode};

use crate::harness::{Ferry, pattern};
use crate::servers::sandbox_config;

const NEW: CreateOptions = CreateOptions { mode: OpenMode::CreateNew, read: true, permissions: None };

async fn server(behaviour: Behaviour) -> SftpServer {
    SftpServer::builder().behaviour(behaviour).start().await.unwrap()
}

/// Gives up soon.
fn impatient(server: &SftpServer) -> SftpConnector {
    let mut config = sandbox_config(server);
    config.stall_timeout = Duration::from_secs(1);
    config.connect_timeout = Duration::from_secs(3);
    SftpConnector::new(config)
}

async fn connected(server: &SftpServer) -> Box<dyn Connection> {
    impatient(server).connect().await.unwrap()
}

fn path(name: &str) -> RemotePath {
    RemotePath::root().join(name).unwrap()
}

fn breaks_the_protocol(error: Error) {
    let text = transfer::error::chain(&error);
    assert_eq!(error.kind, ErrorKind::DestProtocol, "{text}");
    assert!(error.is_connection_lost(), "{text}");
}

fn broken() -> [fn(&mut Behaviour); 2] {
    [|behaviour| behaviour.huge_replies = true, |behaviour| behaviour.wrong_ids = true]
}

#[tokio::test]
async fn a_server_that_breaks_the_protocol_is_left_at_once() {
    for spoil in broken() {
        let server = server(Behaviour::default()).await;
        let connection = connected(&server).await;
        let writer = connection.open(&path("a"), NEW).await.unwrap();
        server.change(spoil);
        let begun = Instant::now();
        breaks_the_protocol(connection.stat(&path("a")).await.unwrap_err());
        breaks_the_protocol(writer.write_at(0, Bytes::from_static(b"x")).await.unwrap_err());
        breaks_the_protocol(impatient(&server).connect().await.map(drop).unwrap_err());
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn names_that_lead_elsewhere_are_not_listed() {
    let names = [&b"../evil"[..], b"a/b", b"/etc/passwd", b"nul\0", b"odd\xff", b"", b"honest"];
    let server = server(Behaviour { extra_names: names.map(<[u8]>::to_vec).to_vec(), ..Behaviour::default() }).await;
    let entries = connected(&server).await.list(&RemotePath::root(), 100).await.unwrap();
    let mut shown: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.exact)).collect();
    shown.sort();
    assert_eq!(shown, [("honest", true), ("odd\u{fffd}", false)]);
}

/// One page of a listing as an answer to the request of this number.
fn page(request: u32, name: &str) -> Bytes {
    const NAMES: u32 = 100;
    let mut body = BytesMut::new();
    body.put_u8(104);
    body.put_u32(request);
    body.put_u32(NAMES);
    for _ in 0..NAMES {
        for text in [name, ""] {
            body.put_u32(text.len() as u32);
            body.put_slice(text.as_bytes());
        }
        body.put_u32(0);
    }
    let mut packet = BytesMut::new();
    packet.put_u32(body.len() as u32);
    packet.put_slice(&body);
    packet.freeze()
}

/// A server whose every listing goes on for ever, and the number of pages it gave out.
async fn endless(name: &'static str) -> (SftpServer, Arc<AtomicU32>) {
    let server = server(Behaviour::default()).await;
    // The client counts its requests from 1; one connection asks one thing after the other.
    let (requests, pages) = (AtomicU32::new(0), Arc::new(AtomicU32::new(0)));
    let given = pages.clone();
    server.on(move |operation| {
        let request = requests.fetch_add(1, SeqCst) + 1;
        match operation {
            Operation::ReadDirectory { .. } => {
                given.fetch_add(1, SeqCst);
                Verdict::Raw(page(request, name))
            }
            _ => Verdict::Proceed,
        }
    });
    (server, pages)
}

#[tokio::test]
async fn a_listing_without_an_end_is_cut_at_its_limit() {
    let (server, pages) = endless("again").await;
    let entries = connected(&server).await.list(&RemotePath::root(), 1_000).await.unwrap();
    assert_eq!((entries.len(), pages.load(SeqCst)), (1_000, 10));
}

#[tokio::test]
async fn pages_without_a_name_do_not_go_on_for_ever() {
    let (server, pages) = endless(".").await;
    breaks_the_protocol(connected(&server).await.list(&RemotePath::root(), 1_000).await.unwrap_err());
    assert!(pages.load(SeqCst) < 50, "{pages:?}");
}

fn ferry(server: &SftpServer, files: &[(&str, usize)]) -> (Ferry, MemorySource) {
    let source = MemorySource::new();
    files.iter().for_each(|(key, size)| source.put(key, pattern(*size)));
    (Ferry::new(Arc::new(source.clone()), Arc::new(impatient(server)), "/"), source)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_falls_silent_is_a_stall_and_not_a_wait_without_end() {
    let server = server(Behaviour { stall_after_writes: Some(40), ..Behaviour::default() }).await;
    let (ferry, _) = ferry(&server, &[("large", 20_000_000), ("small", 1000)]);
    let begun = Instant::now();
    tokio::time::timeout(Duration::from_secs(60), ferry.run(&["large", "small"])).await.expect("every wait has a bound").unwrap();
    let (kind, text, _) = ferry.records.kept(0).failed.unwrap();
    assert_eq!(kind, ErrorKind::NetworkStalled, "{text}");
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    assert!(!server.file("large").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_fit_a_server_that_ends_on_larger_packets_than_the_draft_demands() {
    // The draft asks for 34,000 bytes; this server tells no limits and ends the connection at one byte more.
    let limits = Limits { max_packet: 34_000, max_read: 32 * 1024, max_write: 32 * 1024, max_handles: 64 };
    let server = server(Behaviour { extensions: Extensions::NONE, limits, ..Behaviour::default() }).await;
    let (ferry, source) = ferry(&server, &[("a", 20_000_000)]);
    ferry.run(&["a"]).await.unwrap();
    let kept = ferry.records.kept(0);
    let delivery = kept.finished.unwrap_or_else(|| panic!("{:?}", kept.failed)).delivery.unwrap();
    assert_eq!((delivery.attempts, delivery.connections), (1, 1));
    assert!(std::fs::read(server.file("a")).unwrap() == source.bytes("a").unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_ignores_offsets_gets_a_right_file_or_none() {
    for verify in ["auto", "size", "none"] {
        let server = server(Behaviour { offsets_ignored: true, ..Behaviour::default() }).await;
        let files = [("small", 100_000), ("medium", 30_000_000), ("large", 90_000_000)];
        let (mut ferry, source) = ferry(&server, &files);
        ferry.wishes.verify = verify.parse::<Verify>().unwrap();
        ferry.run(&["small", "medium", "large"]).await.unwrap();
        for (number, (key, _)) in files.iter().enumerate() {
            let kept = ferry.records.kept(number as u32);
            match kept.failed {
                Some((kind, text, _)) => {
                    assert_eq!(kind, ErrorKind::IntegrityMismatch, "{verify} {key}: {text}");
                    assert!(!server.file(key).exists(), "{verify} {key}");
                }
                None => {
                    assert!(kept.finished.is_some());
                    assert!(std::fs::read(server.file(key)).unwrap() == source.bytes(key).unwrap(), "{verify} {key} is wrong");
                }
            }
        }
    }
}
