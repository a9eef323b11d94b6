//! The bookkeeping of one file: ranges that are confirmed one by one, and streams.

use model::ObjectKey;

use super::*;
use crate::digest::crc64;

const SET: DigestSet = DigestSet { sha256: true, md5: false };

fn pin(size: u64) -> Pin {
    Pin { key: ObjectKey::local("k"), size, etag: Some("e".into()), version: None, modified: None, checksum: Default::default() }
}

fn data(index: u64, sheet: &Sheet) -> Vec<u8> {
    sheet.range(index).map(|at| (at % 250) as u8).collect()
}

fn send(sheet: &mut Sheet, index: u64) {
    let bytes = data(index, sheet);
    if sheet.is_ahead(index) {
        assert!(sheet.read(index, &bytes, crc64(&bytes)));
    }
    sheet.written(index);
    sheet.proved(index, ProofCount { bytes: bytes.len() as u64, blocks: 1 });
}

fn stored(sheet: &Sheet) -> Checkpoint {
    let temp = RemotePath::from_user("/t").unwrap();
    let json = serde_json::to_string(&sheet.checkpoint(&pin(sheet.size), &temp, 1, 1)).unwrap();
    serde_json::from_str(&json).unwrap()
}

#[test]
fn only_unsettled_ranges_are_stored() {
    let mut sheet = Sheet::new(1000, 100, SET, true, true);
    let opened = Instant::now();
    for index in 0..8 {
        send(&mut sheet, index);
    }
    let before = sheet.before_sync(opened);
    sheet.synced(&before);
    assert!(stored(&sheet).ranges.is_empty());
    assert_eq!(stored(&sheet).settled, 8);
    assert_eq!(sheet.missing(), vec![8, 9]);
}

#[test]
fn what_is_not_durable_is_suspect_after_a_lost_connection() {
    let mut sheet = Sheet::new(1000, 100, SET, true, true);
    for index in 0..4 {
        send(&mut sheet, index);
    }
    sheet.synced(&[0, 1]);
    sheet.connection_lost();
    assert_eq!(sheet.suspects().iter().map(|s| s.0).collect::<Vec<_>>(), vec![2, 3]);
    sheet.cleared(2);
    sheet.lost(3);
    assert_eq!(sheet.missing(), vec![3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(sheet.confirmed_bytes(), 300);
}

#[test]
fn what_a_younger_handle_cannot_vouch_for_is_suspect_and_not_synced_by_it() {
    let mut sheet = Sheet::new(400, 100, SET, true, true);
    for index in 0..2 {
        send(&mut sheet, index);
    }
    std::thread::sleep(Duration::from_millis(1));
    let opened = Instant::now();
    for index in 2..4 {
        send(&mut sheet, index);
    }
    assert_eq!(sheet.before_sync(opened), vec![2, 3]);
    sheet.other_connection_lost(opened);
    assert_eq!(sheet.suspects().iter().map(|s| s.0).collect::<Vec<_>>(), vec![0, 1]);
    assert!(!sheet.is_complete());
}

#[test]
fn a_written_range_without_its_proof_is_never_forgotten() {
    let mut sheet = Sheet::new(100, 100, SET, true, true);
    sheet.read(0, &[1; 100], crc64(&[1; 100]));
    sheet.written(0);
    sheet.attempt_ended();
    assert_eq!(sheet.suspects().len(), 1, "neither missing nor suspect, nobody would finish it");
}

#[test]
fn a_suspect_range_is_still_one_to_look_at_for_the_next_process() {
    let mut sheet = Sheet::new(200, 100, SET, true, true);
    send(&mut sheet, 0);
    sheet.connection_lost();
    let resumed = Sheet::resume(&stored(&sheet), SET, true, true).unwrap();
    assert_eq!(resumed.suspects().len(), 1);
    assert_eq!(resumed.missing(), vec![1]);
}

#[test]
fn a_resumed_sheet_ends_with_the_digests_of_an_uninterrupted_one() {
    let mut whole = Sheet::new(1050, 100, SET, true, true);
    for index in 0..whole.count() {
        send(&mut whole, index);
    }
    assert!(whole.is_complete());
    let mut first = Sheet::new(1050, 100, SET, true, true);
    for index in [0, 1, 2, 3] {
        let bytes = data(index, &first);
        first.read(index, &bytes, crc64(&bytes));
    }
    for index in [0, 2] {
        first.written(index);
        first.proved(index, ProofCount::default());
    }
    let mut second = Sheet::resume(&stored(&first), SET, true, true).unwrap();
    for (index, _) in second.suspects() {
        second.cleared(index);
    }
    assert_eq!(second.missing()[..2], [1, 3]);
    for index in second.missing() {
        send(&mut second, index);
    }
    assert!(second.is_complete());
    assert_eq!(second.digests().finish(), whole.digests().finish());
    assert_eq!(second.crc(), whole.crc());
    assert_eq!(second.confirmed_bytes(), 1050);
}

#[test]
fn a_range_that_reads_differently_the_second_time_is_noticed() {
    let mut sheet = Sheet::new(200, 100, SET, false, true);
    assert!(sheet.read(0, &[1; 100], crc64(&[1; 100])));
    assert!(!sheet.read(0, &[2; 100], crc64(&[2; 100])));
}

#[test]
fn a_checkpoint_that_does_not_fit_is_refused() {
    let mut sheet = Sheet::new(1000, 100, SET, true, true);
    send(&mut sheet, 0);
    let mut bad = stored(&sheet);
    bad.hashed = 150;
    assert!(Sheet::resume(&bad, SET, true, true).is_none());
    let other = DigestSet { sha256: true, md5: true };
    assert!(Sheet::resume(&stored(&sheet), other, true, true).is_none());
}

#[test]
fn an_empty_file_has_one_empty_range() {
    let mut sheet = Sheet::new(0, 100, SET, true, true);
    assert_eq!((sheet.count(), sheet.range(0)), (1, 0..0));
    send(&mut sheet, 0);
    assert!(sheet.is_complete());
    assert_eq!(sheet.crc(), crc64(b""));
}

/// Hands over ranges `from..to`, as a lane does.
fn hand_over(sheet: &mut Sheet, ranges: Range<u64>) {
    for index in ranges {
        let bytes = data(index, sheet);
        assert!(sheet.read(index, &bytes, crc64(&bytes)));
        sheet.written(index);
    }
}

#[test]
fn a_stream_goes_on_from_the_boundary_that_the_server_still_has_and_ends_with_the_same_digests() {
    let whole: Vec<u8> = (0..1050u64).map(|at| (at % 250) as u8).collect();
    let mut straight = StreamDigests::new(SET);
    straight.update(&whole);
    let mut sheet = Sheet::stream(1050, 100, SET, true);
    hand_over(&mut sheet, 0..8);
    // Two more were read and not handed over.
    for index in 8..10 {
        let bytes = data(index, &sheet);
        sheet.read(index, &bytes, crc64(&bytes));
    }
    let checkpoint = stored(&sheet);
    assert!(Sheet::resume(&checkpoint, SET, false, false).is_none(), "nothing of a stream counts as being there");
    let mut sheet = Sheet::resume_stream(&checkpoint, SET, true).unwrap();
    let boundary = sheet.notes().unwrap().up_to(650).unwrap().clone();
    assert_eq!((boundary.offset, boundary.tail_length), (600, 100));
    assert!(sheet.go_back_to(&boundary));
    assert_eq!(sheet.missing(), (6..11).collect::<Vec<_>>());
    assert_eq!(sheet.confirmed_bytes(), 600);
    hand_over(&mut sheet, 6..11);
    assert!(sheet.is_complete());
    assert_eq!(sheet.digests().finish(), straight.finish());
    assert_eq!(sheet.crc(), crc64(&whole));
    for sample in &sheet.notes().unwrap().samples {
        let stretch = &whole[sample.offset as usize..(sample.offset + sample.length) as usize];
        assert_eq!(sample.crc, Some(crc64(stretch)));
    }
    assert!(sheet.notes().unwrap().samples.iter().any(|s| s.offset == 500 && s.length == 100), "the seam is compared");
}
