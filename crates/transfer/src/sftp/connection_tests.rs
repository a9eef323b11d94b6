//! The connection against a server that answers as a test tells it to.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Buf;
use model::Protocol;

use super::super::session::tests::{Asked, DATA, HANDLE, NAME, Peer, session_with, string};
use super::*;

const LIMITS: (&str, &str) = ("limits@openssh.com", "1");

async fn connection(extensions: &[(&str, &str)], limits: Option<[u64; 4]>) -> (Arc<SftpConnection>, Peer) {
    let (session, peer) = session_with(Duration::from_secs(10), extensions, limits).await;
    let endpoint = Endpoint { protocol: Protocol::Sftp, host: "scripted".into(), port: Some(22), user: Some("bob".into()) };
    (Arc::new(SftpConnection::new(session, ServerIdentity::default(), endpoint)), peer)
}

/// Answers every request with what `answer` does, until the client is gone.
fn serve(mut peer: Peer, mut answer: impl FnMut(&Peer, Asked) + Send + 'static) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while let Some(asked) = peer.asked().await {
            answer(&peer, asked);
        }
    })
}

fn path(text: &str) -> RemotePath {
    RemotePath::from_user(text).unwrap()
}

const NEW: CreateOptions = CreateOptions { mode: OpenMode::CreateNew, read: true, permissions: None };

async fn opened(connection: &SftpConnection, peer: &mut Peer) -> Box<dyn Writer> {
    let target = path("/a");
    let (writer, ()) = tokio::join!(connection.open(&target, NEW), async {
        let asked = peer.asked().await.unwrap();
        peer.send(HANDLE, asked.id, &string(b"h"));
    });
    writer.unwrap()
}

#[tokio::test]
async fn writes_in_flight_are_bounded_and_shared_fairly() {
    let (connection, mut peer) = connection(&[LIMITS], Some([262_144, 261_120, 261_120, 100])).await;
    let writer: Arc<dyn Writer> = opened(&connection, &mut peer).await.into();
    let write = |offset: u64| {
        let writer = Arc::clone(&writer);
        tokio::spawn(async move { writer.write_at(offset, Bytes::from(vec![0; 4 << 20])).await })
    };
    let (low, high) = (write(0), write(1 << 40));
    let mut waiting = Vec::new();
    let (mut from_low, mut from_high) = (0, 0);
    // Sixteen packets of 128 KiB are 2 MiB; a seventeenth must not come before one is answered.
    for _ in 0..16 {
        waiting.push(peer.asked().await.unwrap().id);
    }
    assert!(tokio::time::timeout(Duration::from_millis(100), peer.asked()).await.is_err(), "more than 2 MiB in flight");
    for _ in 0..32 {
        peer.status(waiting.remove(0), 0);
        let mut asked = peer.asked().await.unwrap();
        asked.body.advance(5);
        if asked.body.get_u64() < 1 << 40 {
            from_low += 1
        } else {
            from_high += 1
        }
        waiting.push(asked.id);
    }
    assert!(from_low >= 12 && from_high >= 12, "{from_low} and {from_high} packets of two equal writers");
    for id in waiting {
        peer.status(id, 0);
    }
    let rest = serve(peer, |peer, asked| peer.status(asked.id, 0));
    low.await.unwrap().unwrap();
    high.await.unwrap().unwrap();
    drop((writer, connection));
    rest.await.unwrap();
}

#[tokio::test]
async fn a_write_returns_only_when_all_of_its_packets_are_answered() {
    let (connection, mut peer) = connection(&[], None).await;
    let writer = opened(&connection, &mut peer).await;
    let call = tokio::spawn(async move { (writer.write_at(0, Bytes::from(vec![0; 3 * 32_704])).await, writer) });
    let asked = [peer.asked().await.unwrap(), peer.asked().await.unwrap(), peer.asked().await.unwrap()];
    peer.status(asked[0].id, 4);
    peer.status(asked[1].id, 0);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!call.is_finished(), "a packet of the write is still on its way");
    peer.status(asked[2].id, 0);
    let (outcome, _writer) = call.await.unwrap();
    assert_eq!(outcome.unwrap_err().kind, ErrorKind::DestProtocol);
}

#[tokio::test]
async fn a_full_disk_is_recognised_behind_a_bare_failure() {
    let (connection, mut peer) = connection(&[("statvfs@openssh.com", "2")], None).await;
    let writer = opened(&connection, &mut peer).await;
    serve(peer, |peer, asked| match asked.kind {
        6 => peer.status(asked.id, 4),
        200 => {
            let fields: Vec<u8> = [4096u64, 4096, 100, 3, 0, 50, 9, 9, 1, 0, 255].iter().flat_map(|v| v.to_be_bytes()).collect();
            peer.send(201, asked.id, &fields);
        }
        _ => peer.status(asked.id, 0),
    });
    let error = writer.write_at(0, Bytes::from_static(b"x")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::DestNoSpace);
    assert!(!error.is_connection_lost());
    assert!(crate::error::chain(&error).contains("FAILURE (4): as scripted"), "{}", crate::error::chain(&error));
}

#[tokio::test]
async fn short_reads_are_continued_until_the_end_of_the_file() {
    let (connection, mut peer) = connection(&[], None).await;
    let writer = opened(&connection, &mut peer).await;
    let content: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
    let served = content.clone();
    serve(peer, move |peer, mut asked| {
        if asked.kind != 5 {
            return peer.status(asked.id, 0);
        }
        asked.body.advance(5);
        let (offset, length) = (asked.body.get_u64() as usize, asked.body.get_u32() as usize);
        // Never more than 10,000 bytes, whatever was asked for.
        let end = served.len().min(offset + length.min(10_000));
        if offset >= served.len() { peer.status(asked.id, 1) } else { peer.send(DATA, asked.id, &string(&served[offset..end])) }
    });
    assert_eq!(writer.read_at(0, 90_000).await.unwrap(), content[..90_000]);
    assert_eq!(writer.read_at(50_000, 256 * 1024).await.unwrap(), content[50_000..]);
    assert_eq!(writer.read_at(200_000, 10).await.unwrap(), Bytes::new());
}

#[tokio::test]
async fn reads_that_give_nothing_or_too_much_end_the_session() {
    for length in [0, 11] {
        let (connection, mut peer) = connection(&[], None).await;
        let writer = opened(&connection, &mut peer).await;
        serve(peer, move |peer, asked| peer.send(DATA, asked.id, &string(&vec![1; length])));
        let error = writer.read_at(0, 10).await.unwrap_err();
        assert_eq!((error.kind, error.is_connection_lost()), (ErrorKind::DestProtocol, true), "{length} bytes");
    }
}

fn page(names: &[&[u8]]) -> Vec<u8> {
    let mut out = (names.len() as u32).to_be_bytes().to_vec();
    for name in names {
        out.extend(string(name));
        out.extend(string(b"long"));
        out.extend(0u32.to_be_bytes());
    }
    out
}

#[tokio::test]
async fn listed_names_that_could_lead_elsewhere_are_dropped() {
    let (connection, peer) = connection(&[], None).await;
    let mut pages = vec![page(&[b".", b"..", b"a", b"../b", b"/etc/passwd", b"", b"nul\0", b"\xff\xfe", b"c"])];
    serve(peer, move |peer, asked| match (asked.kind, pages.pop()) {
        (11, page) => {
            pages.extend(page);
            peer.send(HANDLE, asked.id, &string(b"d"));
        }
        (12, Some(page)) => peer.send(NAME, asked.id, &page),
        (12, None) => peer.status(asked.id, 1),
        _ => peer.status(asked.id, 0),
    });
    let entries = connection.list(&path("/"), 100).await.unwrap();
    let names: Vec<_> = entries.iter().map(|e| (e.name.as_str(), e.exact)).collect();
    assert_eq!(names, [("a", true), ("\u{fffd}\u{fffd}", false), ("c", true)]);
}

#[tokio::test]
async fn an_endless_listing_stops_at_its_limit_or_when_it_brings_nothing() {
    for (names, limit, expected) in [(&[&b"again"[..]][..], 1000, Some(1000)), (&[], 1000, None), (&[&b"x/y"[..]], 1000, None)] {
        let (connection, peer) = connection(&[], None).await;
        let page = page(names);
        serve(peer, move |peer, asked| match asked.kind {
            11 => peer.send(HANDLE, asked.id, &string(b"d")),
            12 => peer.send(NAME, asked.id, &page),
            _ => peer.status(asked.id, 0),
        });
        match (connection.list(&path("/"), limit).await, expected) {
            (Ok(entries), Some(count)) => assert_eq!(entries.len(), count),
            (Err(error), None) => assert_eq!(error.kind, ErrorKind::DestProtocol),
            (other, _) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn no_more_handles_are_open_than_the_server_allows() {
    let (connection, peer) = connection(&[LIMITS], Some([0, 0, 0, 2])).await;
    assert_eq!(connection.capabilities().multiplex, 2);
    let mut open = 0;
    serve(peer, move |peer, asked| match asked.kind {
        3 => {
            open += 1;
            if open > 2 { peer.status(asked.id, 4) } else { peer.send(HANDLE, asked.id, &string(b"h")) }
        }
        4 => {
            open -= 1;
            peer.status(asked.id, 0);
        }
        _ => peer.status(asked.id, 0),
    });
    let target = path("/a");
    let first = connection.open(&target, NEW).await.unwrap();
    let second = connection.open(&target, NEW).await.unwrap();
    let third = connection.open(&target, NEW);
    tokio::pin!(third);
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut third).await.is_err());
    drop(first);
    let third = third.await.unwrap();
    second.close().await.unwrap();
    third.close().await.unwrap();
}

#[tokio::test]
async fn without_posix_rename_an_existing_file_is_not_replaced() {
    let (connection, peer) = connection(&[], None).await;
    let mut files: HashMap<Vec<u8>, u64> = [(b"/old".to_vec(), 1), (b"/taken".to_vec(), 2)].into();
    serve(peer, move |peer, mut asked| {
        let length = asked.body.get_u32() as usize;
        let name = asked.body.split_to(length).to_vec();
        match asked.kind {
            17 => match files.get(&name) {
                Some(size) => peer.send(105, asked.id, &[&1u32.to_be_bytes()[..], &size.to_be_bytes()].concat()),
                None => peer.status(asked.id, 2),
            },
            18 => {
                // This server overwrites with its plain rename, as some do.
                let length = asked.body.get_u32() as usize;
                let size = files.remove(&name).unwrap();
                files.insert(asked.body.split_to(length).to_vec(), size);
                peer.status(asked.id, 0);
            }
            _ => peer.status(asked.id, 8),
        }
    });
    assert!(!connection.capabilities().atomic_replace);
    for mode in [RenameMode::Replace, RenameMode::NoClobber] {
        let error = connection.rename(&path("/old"), &path("/taken"), mode).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::DestExists, "{mode:?}");
    }
    connection.rename(&path("/old"), &path("/new"), RenameMode::Replace).await.unwrap();
    assert_eq!(connection.stat(&path("/new")).await.unwrap().unwrap().size, 1);
}

#[tokio::test]
async fn a_server_hash_is_used_where_offered_and_nothing_is_invented_where_refused() {
    let (connection, peer) = connection(&[("check-file", "")], None).await;
    serve(peer, |peer, asked| {
        if asked.body.windows(6).any(|w| w == b"sha256") {
            peer.send(201, asked.id, &[string(b"sha256"), vec![0xab; 32]].concat());
        } else {
            peer.status(asked.id, 8);
        }
    });
    let digest = connection.hash(&path("/a"), Algorithm::Sha256).await.unwrap().unwrap();
    assert_eq!(digest.hex(), "ab".repeat(32));
    assert_eq!(connection.hash(&path("/a"), Algorithm::Md5).await.unwrap(), None);
    assert_eq!(connection.hash(&path("/a"), Algorithm::Crc64nvme).await.unwrap(), None);
}

#[tokio::test]
async fn dropping_the_connection_ends_its_writers() {
    let (connection, mut peer) = connection(&[], None).await;
    let writer = opened(&connection, &mut peer).await;
    drop(connection);
    let error = writer.write_at(0, Bytes::from_static(b"x")).await.unwrap_err();
    assert_eq!((error.kind, error.is_connection_lost()), (ErrorKind::NetworkReset, true));
}
