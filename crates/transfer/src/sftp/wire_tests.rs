//! Packets as they go over the wire, and packets that nobody should believe.

use proptest::prelude::*;

use super::*;

fn string(text: &[u8]) -> Vec<u8> {
    let mut out = (text.len() as u32).to_be_bytes().to_vec();
    out.extend_from_slice(text);
    out
}

fn reply(kind: u8, id: u32, body: &[u8]) -> Bytes {
    let mut out = vec![kind];
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(body);
    out.into()
}

fn framed(packet: &[u8]) -> Vec<u8> {
    string(packet)
}

#[test]
fn a_write_has_the_layout_of_the_draft() {
    let handle = Bytes::from_static(b"\0\0\0\x80");
    let small = Request::Write { handle: &handle, offset: 5, data: Bytes::from_static(b"abc") }.encode(7);
    let expected = [0, 0, 0, 28, 6, 0, 0, 0, 7, 0, 0, 0, 4, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 3, b'a', b'b', b'c'];
    assert_eq!(small.header[..], expected);
    assert!(small.payload.is_empty());
}

#[test]
fn a_large_payload_is_not_copied() {
    let handle = Bytes::from_static(b"h");
    let data = Bytes::from(vec![1; 128 * 1024]);
    let large = Request::Write { handle: &handle, offset: 0, data: data.clone() }.encode(1);
    assert_eq!(large.payload.as_ptr(), data.as_ptr());
    let announced = u32::from_be_bytes(large.header[..4].try_into().unwrap()) as usize;
    assert_eq!(announced, large.header.len() - 4 + data.len());
}

#[test]
fn handles_are_opaque_and_bounded() {
    let binary = Bytes::from((0..=255).collect::<Vec<u8>>());
    let (id, decoded) = Reply::decode(reply(HANDLE, 9, &string(&binary))).unwrap();
    assert_eq!((id, decoded), (9, Reply::Handle(binary)));
    assert_eq!(Reply::decode(reply(HANDLE, 9, &string(b""))), Err(Malformed::Handle(0)));
    assert_eq!(Reply::decode(reply(HANDLE, 9, &string(&[7; 1000]))), Err(Malformed::Handle(1000)));
}

#[test]
fn a_count_of_four_billion_names_allocates_nothing() {
    assert_eq!(Reply::decode(reply(NAME, 1, &u32::MAX.to_be_bytes())), Err(Malformed::Short("name")));
}

#[test]
fn a_string_longer_than_its_packet_is_refused() {
    assert_eq!(Reply::decode(reply(DATA, 1, &[0xff, 0xff, 0xff, 0xff, 1, 2])), Err(Malformed::Short("data")));
}

#[test]
fn every_truncation_of_a_listing_is_refused() {
    let mut body = 1u32.to_be_bytes().to_vec();
    body.extend(string(b"a.csv"));
    body.extend(string(b"-rw-r--r-- a.csv"));
    body.extend((ATTRIBUTE_SIZE | ATTRIBUTE_OWNER | ATTRIBUTE_PERMISSIONS | ATTRIBUTE_TIMES | ATTRIBUTE_EXTENDED).to_be_bytes());
    body.extend(42u64.to_be_bytes());
    body.extend([0; 8]);
    body.extend(0o100_644u32.to_be_bytes());
    body.extend(1u32.to_be_bytes());
    body.extend(2u32.to_be_bytes());
    body.extend(1u32.to_be_bytes());
    body.extend(string(b"x@y"));
    body.extend(string(b"z"));
    let whole = reply(NAME, 3, &body);
    let attributes = Attributes { size: Some(42), permissions: Some(0o100_644), times: Some((1, 2)) };
    assert_eq!(Reply::decode(whole.clone()), Ok((3, Reply::Names(vec![Name { name: Bytes::from_static(b"a.csv"), attributes }]))));
    for end in 0..whole.len() {
        assert!(Reply::decode(whole.slice(..end)).is_err(), "{end} bytes");
    }
}

#[test]
fn a_status_without_text_is_a_status() {
    let (_, decoded) = Reply::decode(reply(STATUS, 1, &4u32.to_be_bytes())).unwrap();
    assert_eq!(decoded, Reply::Status(StatusError { code: 4, message: String::new() }));
}

#[test]
fn extensions_count_only_in_the_revision_we_speak() {
    let mut packet = vec![VERSION, 0, 0, 0, 3];
    for (name, data) in [("posix-rename@openssh.com", "1"), ("statvfs@openssh.com", "7"), ("unknown", ""), ("check-file", "md5,sha256")] {
        packet.extend(string(name.as_bytes()));
        packet.extend(string(data.as_bytes()));
    }
    let version = Version::decode(packet.into()).unwrap();
    assert_eq!(version, Version { number: 3, posix_rename: true, check_file: true, ..Version::default() });
}

#[test]
fn a_digest_is_found_in_both_drafts() {
    let plain = Fields([string(b"sha256"), vec![1; 32]].concat().into());
    let named = Fields([string(b"check-file"), string(b"sha256"), vec![1; 32]].concat().into());
    assert_eq!(plain.check_file("sha256").unwrap().unwrap().len(), 32);
    assert_eq!(named.clone().check_file("sha256").unwrap().unwrap().len(), 32);
    assert_eq!(named.check_file("md5").unwrap(), None);
}

#[test]
fn packets_are_found_however_the_stream_is_cut() {
    let packets: Vec<Vec<u8>> = vec![vec![1], vec![2; 300], vec![3; 5], vec![4; 70_000]];
    let stream: Vec<u8> = packets.iter().flat_map(|p| framed(p)).collect();
    for size in [1, 2, 3, 5, 7, 100, 4096, stream.len()] {
        let mut assembler = Assembler::default();
        let mut found = Vec::new();
        for chunk in stream.chunks(size) {
            assembler.push(Bytes::copy_from_slice(chunk));
            while let Some(packet) = assembler.next().unwrap() {
                found.push(packet.to_vec());
            }
        }
        assert_eq!(found, packets, "in chunks of {size}");
    }
}

#[test]
fn four_gigabytes_are_refused_before_anything_is_kept() {
    let mut assembler = Assembler::default();
    assembler.push(Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 1]));
    assert_eq!(assembler.next(), Err(Malformed::TooLong(u32::MAX)));
    let mut assembler = Assembler::default();
    assembler.push(Bytes::from_static(&[0, 0, 0, 0]));
    assert_eq!(assembler.next(), Err(Malformed::Short("type")));
}

#[test]
fn a_login_script_that_prints_is_named() {
    let mut assembler = Assembler::default();
    assembler.push(Bytes::from_static(b"Welcome to files.example\r\n"));
    assert_eq!(assembler.next(), Err(Malformed::Text("Welcome to files.example\r\n".to_owned())));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn decoding_garbage_never_panics(kind in prop_oneof![Just(2u8), 101u8..=105, Just(201), any::<u8>()], body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let packet: Bytes = [vec![kind], body.clone()].concat().into();
        let _ = Reply::decode(packet.clone());
        let _ = Version::decode(packet);
        let fields = Fields(body.into());
        let _ = fields.clone().limits();
        let _ = fields.clone().file_system();
        let _ = fields.check_file("md5");
    }

    #[test]
    fn cutting_garbage_never_panics_and_never_keeps_more_than_a_packet(chunks in proptest::collection::vec(proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..50), 0..20)) {
        let mut assembler = Assembler::default();
        'stream: for chunk in chunks {
            assembler.push(chunk.into());
            loop {
                match assembler.next() {
                    Ok(Some(packet)) => prop_assert!(packet.len() <= MAX_PACKET),
                    Ok(None) => break,
                    Err(_) => break 'stream,
                }
            }
            prop_assert!(assembler.partial.len() <= MAX_PACKET + 4);
        }
    }
}
