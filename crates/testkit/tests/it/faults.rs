//! Each fault of `Behaviour` and each verdict of a hook is really there.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use testkit::sftp::{
    Behaviour, Corruption, CorruptionKind, Extensions, Limits, Loss, NameEventKind, Operation, RenameRule, SftpServer, Verdict, wire,
};

use crate::raw::{Raw, text};

async fn server(behaviour: Behaviour) -> SftpServer {
    SftpServer::builder().in_memory().behaviour(behaviour).start().await.unwrap()
}

fn stored(server: &SftpServer, path: &str) -> Vec<u8> {
    std::fs::read(server.file(path)).unwrap()
}

#[tokio::test]
async fn handles_are_binary_and_different() {
    let server = server(Behaviour::default()).await;
    let mut client = Raw::start(&server).await;
    let mut handles = std::collections::HashSet::new();
    for number in 0..200 {
        let handle = client.create(&format!("f{number}")).await;
        assert_eq!(handle.len(), 16);
        assert!(std::str::from_utf8(&handle).is_err(), "{handle:?} is text");
        handles.insert(handle);
    }
    assert_eq!(handles.len(), 200);
    assert_eq!(server.recorder().open_files.highest(), 200);
    assert_eq!(client.close(b"never given out").await, wire::FAILURE);
}

#[tokio::test]
async fn extensions_that_are_not_announced_do_not_work() {
    let server = server(Behaviour { extensions: Extensions { posix_rename: false, ..Extensions::ALL }, ..Behaviour::default() }).await;
    let mut client = Raw::start(&server).await;
    assert!(!client.announces("posix-rename@openssh.com") && client.announces("fsync@openssh.com"));
    client.put("a", b"a", 1).await;
    assert_eq!(client.extended("posix-rename@openssh.com", [text("a"), text("b")].concat()).await.status(), wire::OP_UNSUPPORTED);
    server.change(|behaviour| behaviour.extensions = Extensions::ALL);
    assert_eq!(client.extended("posix-rename@openssh.com", [text("a"), text("b")].concat()).await.status(), wire::OK);
}

#[tokio::test]
async fn rename_refuses_replaces_or_is_not_there() {
    let server = server(Behaviour::default()).await;
    let mut client = Raw::start(&server).await;
    client.put("new", b"new", 8).await;
    client.put("old", b"old", 8).await;
    assert_eq!(client.rename("new", "old").await, wire::FAILURE);
    for (rule, code) in [(RenameRule::Denied, wire::PERMISSION_DENIED), (RenameRule::Unsupported, wire::OP_UNSUPPORTED)] {
        server.change(|behaviour| behaviour.rename = rule);
        assert_eq!(client.rename("new", "free").await, code);
        assert_eq!(client.extended("posix-rename@openssh.com", [text("new"), text("old")].concat()).await.status(), code);
    }
    assert_eq!(stored(&server, "old"), b"old");
    server.change(|behaviour| behaviour.rename = RenameRule::Overwrites);
    assert_eq!(client.rename("new", "old").await, wire::OK);
    assert_eq!(stored(&server, "old"), b"new");
}

#[tokio::test]
async fn limits_are_announced_and_enforced() {
    let limits = Limits { max_write: 32 * 1024, max_handles: 1, ..Limits::default() };
    let server = server(Behaviour { limits, ..Behaviour::default() }).await;
    let mut client = Raw::start(&server).await;
    let answer = client.extended("limits@openssh.com", Vec::new()).await;
    assert_eq!(answer.kind, 201);
    assert_eq!(answer.rest[16..24], (32_u64 * 1024).to_be_bytes());
    let handle = client.create("one").await;
    assert_eq!(client.open("two", 2 | 8).await.status(), wire::FAILURE);
    assert_eq!(client.write(&handle, 0, &vec![1; 32 * 1024 + 1]).await, wire::FAILURE);
    assert_eq!(client.write(&handle, 0, &vec![1; 32 * 1024]).await, wire::OK);
    client.send_bytes(&(256_u32 * 1024 + 1).to_be_bytes()).await;
    assert_eq!(client.receive().await, None, "a packet over 256 KiB ends the connection");
}

#[tokio::test]
async fn a_full_disk_is_a_failure_and_a_close_that_is_fine() {
    let server = server(Behaviour { capacity: Some(1000), ..Behaviour::default() }).await;
    let mut client = Raw::start(&server).await;
    let handle = client.create("f").await;
    assert_eq!(client.write(&handle, 0, &[1; 1000]).await, wire::OK);
    assert_eq!(client.write(&handle, 0, &[2; 1000]).await, wire::OK, "overwriting needs no room");
    assert_eq!(client.write(&handle, 1000, &[1]).await, wire::FAILURE);
    assert_eq!(client.close(&handle).await, wire::OK);
    let space = client.extended("statvfs@openssh.com", text("/")).await;
    assert_eq!(space.rest[32..40], 0_u64.to_be_bytes());
    assert_eq!(client.ask(13, text("f")).await.status(), wire::OK);
    let handle = client.create("g").await;
    assert_eq!(client.write(&handle, 0, &[1; 1000]).await, wire::OK, "what was removed is free again");
}

#[tokio::test]
async fn each_corruption_spoils_the_first_file_and_no_other() {
    let data: Vec<u8> = (0..200_u8).collect();
    let range = |from: usize, to: usize| data[from..to].to_vec();
    let flipped = {
        let mut bytes = data.clone();
        bytes[77] ^= 0xff;
        bytes
    };
    let cases = [
        (CorruptionKind::FlipByte { offset: 77 }, flipped),
        (CorruptionKind::Drop { offset: 50, length: 30 }, [range(0, 50), range(80, 200)].concat()),
        (
            CorruptionKind::Swap { first: 20, second: 120, length: 30 },
            [range(0, 20), range(120, 150), range(50, 120), range(20, 50), range(150, 200)].concat(),
        ),
        (CorruptionKind::Duplicate { offset: 40, length: 40 }, [range(0, 80), range(40, 80), range(120, 200)].concat()),
        (CorruptionKind::StaleTail { length: 9 }, [data.clone(), vec![b'~'; 9]].concat()),
        (CorruptionKind::Hole { offset: 60, length: 70 }, [range(0, 60), vec![0; 70], range(130, 200)].concat()),
    ];
    for (kind, expected) in cases {
        // Writes of 16 bytes do not line up with any of the ranges.
        for chunk in [16, 200] {
            let server = server(Behaviour { corruption: Some(Corruption { kind, files: 1 }), ..Behaviour::default() }).await;
            let mut client = Raw::start(&server).await;
            client.put("first", &data, chunk).await;
            client.put("second", &data, chunk).await;
            assert_eq!(stored(&server, "first"), expected, "{kind:?} in writes of {chunk}");
            assert_eq!(stored(&server, "second"), data, "{kind:?}");
        }
    }
}

#[tokio::test]
async fn offsets_that_are_ignored_append() {
    let server = server(Behaviour { offsets_ignored: true, ..Behaviour::default() }).await;
    let mut client = Raw::start(&server).await;
    let handle = client.create("f").await;
    client.write(&handle, 3, b"def").await;
    client.write(&handle, 0, b"abc").await;
    assert_eq!(stored(&server, "f"), b"defabc");
}

#[tokio::test]
async fn replies_come_out_of_order() {
    let server = server(Behaviour { reorder: Some(16), ..Behaviour::default() }).await;
    let mut client = Raw::start(&server).await;
    let handle = client.create("f").await;
    let mut sent = Vec::new();
    for number in 0..64_u64 {
        sent.push(client.send(6, Raw::write_body(&handle, number * 10, &[number as u8; 10])).await);
    }
    let mut heard = Vec::new();
    for _ in 0..64 {
        let reply = client.receive().await.unwrap();
        assert_eq!(reply.status(), 0);
        heard.push(reply.id);
    }
    assert_ne!(heard, sent);
    heard.sort_unstable();
    assert_eq!(heard, sent, "every reply came once");
    assert_eq!(stored(&server, "f").len(), 640);
}

#[tokio::test]
async fn a_crash_loses_what_was_not_synced() {
    for (loss, expected) in
        [(Loss::Gone, b"durable".to_vec()), (Loss::Zeroed, b"durable\0\0\0\0".to_vec()), (Loss::Nothing, b"durablelost".to_vec())]
    {
        let server = server(Behaviour { tracks_unsynced: true, ..Behaviour::default() }).await;
        let mut client = Raw::start(&server).await;
        let handle = client.create("f").await;
        client.write(&handle, 0, b"durable").await;
        assert_eq!(client.extended("fsync@openssh.com", text(&handle)).await.status(), 0);
        client.write(&handle, 7, b"lost").await;
        client.close(&handle).await;
        assert_eq!(client.rename("f", "g").await, 0);
        server.crash(loss).unwrap();
        assert_eq!(client.receive().await, None);
        assert_eq!(stored(&server, "g"), expected, "{loss:?}");
        let mut again = Raw::start(&server).await;
        again.put("after", b"the same port serves again", 100).await;
    }
}

#[tokio::test]
async fn killed_connections_write_nothing_more() {
    let server = server(Behaviour::default()).await;
    let mut client = Raw::start(&server).await;
    let handle = client.create("f").await;
    for number in 0..500_u64 {
        client.send(6, Raw::write_body(&handle, number * 1000, &[1; 1000])).await;
    }
    server.kill_connections();
    let size = stored(&server, "f").len();
    while client.receive().await.is_some() {}
    assert_eq!(stored(&server, "f").len(), size);
}

#[tokio::test]
async fn a_stalled_server_answers_nothing_until_it_goes_on() {
    let server = server(Behaviour { stall_after_writes: Some(2), ..Behaviour::default() }).await;
    let mut client = Raw::start(&server).await;
    let handle = client.create("f").await;
    assert_eq!(client.write(&handle, 0, b"a").await, 0);
    assert_eq!(client.write(&handle, 1, b"b").await, 0);
    client.send(6, Raw::write_body(&handle, 2, b"c")).await;
    assert!(client.hears_nothing().await);
    assert_eq!(stored(&server, "f"), b"ab");
    server.change(|behaviour| behaviour.stall_after_writes = None);
    assert_eq!(client.receive().await.unwrap().status(), 0);
    assert_eq!(stored(&server, "f"), b"abc");
}

#[tokio::test]
async fn latency_overlaps_and_a_delay_does_not() {
    let server = server(Behaviour::default()).await;
    let mut client = Raw::start(&server).await;
    server.change(|behaviour| behaviour.latency = Duration::from_millis(60));
    let begun = Instant::now();
    for _ in 0..10 {
        client.send(17, text("/")).await;
    }
    for _ in 0..10 {
        client.receive().await.unwrap();
    }
    assert!((60..400).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    server.change(|behaviour| behaviour.latency = Duration::ZERO);
    server.on(|operation| match operation {
        Operation::Stat { .. } => Verdict::Delay(Duration::from_millis(20)),
        _ => Verdict::Proceed,
    });
    let begun = Instant::now();
    for _ in 0..5 {
        client.send(17, text("/")).await;
    }
    for _ in 0..5 {
        client.receive().await.unwrap();
    }
    assert!(begun.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn absurd_replies_are_sent_as_told() {
    let server = server(Behaviour { extra_names: vec![b"../evil".to_vec(), b"a/b".to_vec(), vec![0xff]], ..Behaviour::default() }).await;
    let mut client = Raw::start(&server).await;
    let directory = client.ask(11, text("/")).await.string();
    let listing = client.ask(12, text(&directory)).await;
    assert_eq!(listing.kind, 104);
    assert!(listing.rest.windows(7).any(|window| window == b"../evil"));
    server.change(|behaviour| behaviour.wrong_ids = true);
    let id = client.send(17, text("/")).await;
    assert_ne!(client.receive().await.unwrap().id, id);
    server.change(|behaviour| (behaviour.wrong_ids, behaviour.huge_replies) = (false, true));
    client.send(17, text("/")).await;
    assert_eq!(client.receive_bytes().await.unwrap()[..4], [0xff; 4]);
}

#[tokio::test]
async fn a_hook_answers_in_the_servers_place() {
    let server = server(Behaviour::default()).await;
    let mut client = Raw::start(&server).await;
    server.on(|operation| match operation.path() {
        Some("/refused") => Verdict::status(wire::PERMISSION_DENIED),
        Some("/raw") => Verdict::Raw(bytes::Bytes::from_static(b"\0\0\0\x01\xff")),
        Some("/done") if operation.is_rename() => Verdict::DoneThenDisconnect,
        Some("/never") => Verdict::Ignore,
        _ => Verdict::Proceed,
    });
    assert_eq!(client.open("refused", 2 | 8).await.status(), wire::PERMISSION_DENIED);
    assert!(!server.file("refused").exists());
    client.send(17, text("/raw")).await;
    assert_eq!(client.receive_bytes().await.unwrap(), b"\0\0\0\x01\xff");
    client.send(17, text("/never")).await;
    assert!(client.hears_nothing().await);
    client.put("temporary", b"whole", 100).await;
    client.send(18, [text("temporary"), text("done")].concat()).await;
    assert_eq!(client.receive().await, None);
    assert_eq!(stored(&server, "done"), b"whole");
}

#[tokio::test]
async fn an_acknowledged_write_can_be_dropped() {
    let server = server(Behaviour::default()).await;
    let mut client = Raw::start(&server).await;
    server.on(|operation| match operation {
        Operation::Write { offset: 5, .. } => Verdict::AckButDrop,
        _ => Verdict::Proceed,
    });
    client.put("f", b"abcdefghij", 5).await;
    assert_eq!(stored(&server, "f"), b"abcde");
}

#[tokio::test]
async fn names_are_told_with_their_content_before_the_client_hears() {
    let server = server(Behaviour::default()).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let keep = seen.clone();
    server.watch(move |event| {
        let size = std::fs::metadata(&event.file).map(|metadata| metadata.len()).ok();
        keep.lock().unwrap().push((event.kind.clone(), event.path.to_string(), size));
    });
    let mut client = Raw::start(&server).await;
    client.put(".part", b"12345", 5).await;
    client.rename(".part", "final").await;
    client.ask(13, text("final")).await;
    let expected = [
        (NameEventKind::Created, "/.part".to_owned(), Some(0)),
        (NameEventKind::RenamedFrom("/.part".into()), "/final".to_owned(), Some(5)),
        (NameEventKind::Removed, "/final".to_owned(), None),
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
    assert_eq!(server.recorder().names().into_iter().collect::<Vec<_>>(), ["/.part", "/final"]);
    assert_eq!(server.recorder().count(Operation::is_write), 1);
}

#[tokio::test]
async fn reading_listing_and_stat_can_be_denied() {
    let server = server(Behaviour { write_only: true, stat_denied: true, ..Behaviour::default() }).await;
    let mut client = Raw::start(&server).await;
    client.put("f", b"in", 2).await;
    assert_eq!(client.open("f", 1).await.status(), wire::PERMISSION_DENIED);
    assert_eq!(client.ask(11, text("/")).await.status(), wire::PERMISSION_DENIED);
    assert_eq!(client.ask(17, text("f")).await.status(), wire::PERMISSION_DENIED);
    let handle = client.open("f", 2).await.string();
    assert_eq!(client.ask(8, text(&handle)).await.status(), wire::PERMISSION_DENIED);
    assert_eq!(client.ask(5, [text(&handle), vec![0; 12]].concat()).await.status(), wire::PERMISSION_DENIED);
}

#[tokio::test]
async fn attributes_are_set_by_name_and_by_handle() {
    let server = server(Behaviour::default()).await;
    let mut client = Raw::start(&server).await;
    let handle = client.create("f").await;
    client.write(&handle, 0, b"0123456789").await;
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
    assert_eq!(client.ask(10, [text(&handle), words(&[1, 0, 4])].concat()).await.status(), wire::OK);
    assert_eq!(client.ask(9, [text("f"), words(&[4 | 8, 0o640, 1_000, 2_000])].concat()).await.status(), wire::OK);
    let found = client.ask(17, text("f")).await.rest;
    assert_eq!(found[..12], words(&[1 | 2 | 4 | 8, 0, 4]));
    assert_eq!(found[20..], words(&[0o100_640, 1_000, 2_000]));
    assert_eq!(client.ask(9, [text("missing"), words(&[4, 0o640])].concat()).await.status(), wire::NO_SUCH_FILE);
}

#[tokio::test]
async fn an_exclusive_open_refuses_what_is_there() {
    let server = server(Behaviour::default()).await;
    let mut client = Raw::start(&server).await;
    client.put("f", b"first", 5).await;
    assert_eq!(client.open("f", 2 | 8 | 32).await.status(), wire::FAILURE);
    assert_eq!(client.open("missing", 2).await.status(), wire::NO_SUCH_FILE);
    assert_eq!(client.open("no/parent", 2 | 8).await.status(), wire::NO_SUCH_FILE);
    let handle = client.open("f", 2).await.string();
    assert_eq!(client.write(&handle, 1, b"I").await, wire::OK);
    assert_eq!(stored(&server, "f"), b"fIrst");
}

#[tokio::test]
async fn nothing_is_left_when_the_server_goes_in_the_middle_of_work() {
    let server = server(Behaviour::default()).await;
    let root = server.root().to_owned();
    let mut client = Raw::start(&server).await;
    server.change(|behaviour| behaviour.latency = Duration::from_secs(60));
    client.send(17, text("/")).await;
    while server.recorder().operations_seen() == 0 {
        tokio::task::yield_now().await;
    }
    drop(server);
    assert!(!root.exists());
}
