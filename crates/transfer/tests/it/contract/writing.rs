//! Writing: offsets, order, size, several at once, several connections.

use bytes::Bytes;
use futures_util::future::try_join_all;
use transfer::OpenMode;

use super::{Check, Outcome, Place, Wrong, cases, equal, holds, needs, pattern, wants};
use crate::servers::Need;

cases! {
    a_file_without_bytes_exists_after_close,
    an_empty_write_changes_nothing,
    every_byte_value_survives,
    line_ends_are_not_translated,
    a_write_larger_than_the_largest_arrives_whole,
    writes_of_one_byte_add_up,
    a_file_of_some_megabytes_arrives_whole,
    writes_out_of_order_fill_the_file,
    a_write_repeated_changes_nothing,
    a_later_write_replaces_an_earlier_one,
    a_hole_reads_as_zeros,
    many_writes_are_in_flight_on_one_file,
    two_connections_write_one_file,
    writes_cross_two_to_the_32,
    writes_go_beyond_five_gibibytes,
    a_confirmed_write_is_seen_by_another_connection,
    size_is_what_the_server_has,
    another_connection_goes_on_where_one_stopped,
    sixteen_files_are_written_at_once,
    an_abandoned_writer_leaves_the_connection_usable,
    a_closed_writer_takes_no_more,
    synced_bytes_are_there,
    an_empty_file_can_be_synced,
}

async fn a_file_without_bytes_exists_after_close(p: Place) -> Check {
    p.create(&p.path("a")).await?.close().await?;
    p.expect(&p.path("a"), b"").await?;
    Ok(Outcome::Passed)
}

async fn an_empty_write_changes_nothing(p: Place) -> Check {
    let writer = p.create(&p.path("a")).await?;
    writer.write_at(0, Bytes::new()).await?;
    writer.write_at(0, Bytes::from_static(b"abc")).await?;
    writer.write_at(3, Bytes::new()).await?;
    writer.close().await?;
    p.expect(&p.path("a"), b"abc").await?;
    Ok(Outcome::Passed)
}

async fn every_byte_value_survives(p: Place) -> Check {
    let bytes: Vec<u8> = (0..=255).cycle().take(1024).collect();
    p.put(&p.path("a"), &bytes).await?;
    p.expect(&p.path("a"), &bytes).await?;
    Ok(Outcome::Passed)
}

async fn line_ends_are_not_translated(p: Place) -> Check {
    let text = b"unix\nwindows\r\nold\rtelnet \xff\xff\x1a end\n";
    p.put(&p.path("a.txt"), text).await?;
    p.expect(&p.path("a.txt"), text).await?;
    Ok(Outcome::Passed)
}

async fn a_write_larger_than_the_largest_arrives_whole(p: Place) -> Check {
    let bytes = pattern((p.capabilities().max_write * 2 + 12_345).min(4 << 20), 1);
    let writer = p.create(&p.path("a")).await?;
    writer.write_at(0, Bytes::from(bytes.clone())).await?;
    writer.close().await?;
    p.expect(&p.path("a"), &bytes).await?;
    Ok(Outcome::Passed)
}

async fn writes_of_one_byte_add_up(p: Place) -> Check {
    let bytes = pattern(50, 2);
    let writer = p.create(&p.path("a")).await?;
    for (at, byte) in bytes.iter().enumerate() {
        writer.write_at(at as u64, Bytes::copy_from_slice(&[*byte])).await?;
    }
    writer.close().await?;
    p.expect(&p.path("a"), &bytes).await?;
    Ok(Outcome::Passed)
}

async fn a_file_of_some_megabytes_arrives_whole(p: Place) -> Check {
    let bytes = pattern((3 << 20) + 1, 3);
    p.put(&p.path("a"), &bytes).await?;
    p.expect(&p.path("a"), &bytes).await?;
    Ok(Outcome::Passed)
}

async fn writes_out_of_order_fill_the_file(p: Place) -> Check {
    needs!(p, offset_writes);
    let bytes = pattern(10_000, 4);
    let writer = p.create(&p.path("a")).await?;
    for number in [7, 2, 9, 0, 5, 1, 8, 3, 6, 4] {
        writer.write_at(number * 1000, Bytes::copy_from_slice(&bytes[number as usize * 1000..][..1000])).await?;
    }
    writer.close().await?;
    p.expect(&p.path("a"), &bytes).await?;
    Ok(Outcome::Passed)
}

async fn a_write_repeated_changes_nothing(p: Place) -> Check {
    needs!(p, offset_writes);
    let bytes = pattern(5000, 5);
    let writer = p.create(&p.path("a")).await?;
    for (from, to) in [(0, 3000), (2000, 5000), (0, 3000)] {
        writer.write_at(from as u64, Bytes::copy_from_slice(&bytes[from..to])).await?;
    }
    writer.close().await?;
    p.expect(&p.path("a"), &bytes).await?;
    Ok(Outcome::Passed)
}

async fn a_later_write_replaces_an_earlier_one(p: Place) -> Check {
    needs!(p, offset_writes);
    let writer = p.create(&p.path("a")).await?;
    writer.write_at(0, Bytes::from_static(b"aaaaaaaaaa")).await?;
    writer.write_at(2, Bytes::from_static(b"bbb")).await?;
    writer.close().await?;
    p.expect(&p.path("a"), b"aabbbaaaaa").await?;
    Ok(Outcome::Passed)
}

async fn a_hole_reads_as_zeros(p: Place) -> Check {
    needs!(p, offset_writes, read);
    let writer = p.create(&p.path("a")).await?;
    writer.write_at(200_000, Bytes::from_static(b"end")).await?;
    writer.close().await?;
    let mut bytes = vec![0; 200_000];
    bytes.extend_from_slice(b"end");
    p.expect(&p.path("a"), &bytes).await?;
    Ok(Outcome::Passed)
}

async fn many_writes_are_in_flight_on_one_file(p: Place) -> Check {
    needs!(p, offset_writes);
    let bytes = pattern(2 << 20, 6);
    let writer = p.create(&p.path("a")).await?;
    let step = 32_000;
    try_join_all(bytes.chunks(step).enumerate().map(|(n, chunk)| writer.write_at((n * step) as u64, Bytes::copy_from_slice(chunk))))
        .await?;
    writer.close().await?;
    p.expect(&p.path("a"), &bytes).await?;
    Ok(Outcome::Passed)
}

async fn two_connections_write_one_file(p: Place) -> Check {
    needs!(p, offset_writes);
    let (path, bytes) = (p.path("a"), pattern(1 << 20, 7));
    let one = p.create(&path).await?;
    let connection = p.connect().await?;
    let two = connection.open(&path, p.options(OpenMode::Existing)).await?;
    let step = 16_384;
    // Every other block by each, at the same time.
    try_join_all(bytes.chunks(step).enumerate().map(|(n, chunk)| {
        let writer = if n % 2 == 0 { &one } else { &two };
        writer.write_at((n * step) as u64, Bytes::copy_from_slice(chunk))
    }))
    .await?;
    one.close().await?;
    two.close().await?;
    p.expect(&path, &bytes).await?;
    Ok(Outcome::Passed)
}

/// Writes `bytes` at `offset` of a new file full of nothing, and looks at size and bytes.
async fn far(p: &Place, offset: u64, bytes: &'static [u8]) -> Result<(), Wrong> {
    let path = p.path("far");
    let writer = p.create(&path).await?;
    writer.write_at(offset, Bytes::from_static(bytes)).await?;
    writer.write_at(0, Bytes::from_static(b"begin")).await?;
    let end = offset + bytes.len() as u64;
    if p.has(Need::Stat) {
        equal(writer.size().await?, end, "the size of the open file")?;
    }
    if p.capabilities().read {
        equal(&writer.read_at(offset, 100).await?[..], bytes, "the far end")?;
        equal(&writer.read_at(0, 5).await?[..], &b"begin"[..], "the beginning")?;
    }
    writer.close().await?;
    if p.has(Need::Stat) {
        equal(p.connection.stat(&path).await?.map(|m| m.size), Some(end), "the size by name")?;
    }
    Ok(p.connection.remove(&path).await?)
}

async fn writes_cross_two_to_the_32(p: Place) -> Check {
    needs!(p, offset_writes);
    far(&p, (1 << 32) - 3, b"crossing").await?;
    Ok(Outcome::Passed)
}

async fn writes_go_beyond_five_gibibytes(p: Place) -> Check {
    needs!(p, offset_writes);
    far(&p, 5 << 30, b"far away").await?;
    Ok(Outcome::Passed)
}

async fn a_confirmed_write_is_seen_by_another_connection(p: Place) -> Check {
    needs!(p, confirms_writes);
    wants!(p, Stat);
    let writer = p.create(&p.path("a")).await?;
    writer.write_at(0, Bytes::from_static(b"seen")).await?;
    let other = p.connect().await?;
    equal(other.stat(&p.path("a")).await?.map(|m| m.size), Some(4), "the size that another connection sees")?;
    writer.close().await?;
    Ok(Outcome::Passed)
}

async fn size_is_what_the_server_has(p: Place) -> Check {
    needs!(p, confirms_writes);
    wants!(p, Stat);
    let writer = p.create(&p.path("a")).await?;
    equal(writer.size().await?, 0, "the size of a new file")?;
    writer.write_at(0, Bytes::from_static(b"12345")).await?;
    equal(writer.size().await?, 5, "the size after a write")?;
    writer.close().await?;
    Ok(Outcome::Passed)
}

async fn another_connection_goes_on_where_one_stopped(p: Place) -> Check {
    needs!(p, offset_writes);
    let (path, bytes) = (p.path("a"), pattern(100_000, 8));
    let first = p.connect().await?;
    let writer = first.open(&path, p.options(OpenMode::CreateNew)).await?;
    writer.write_at(0, Bytes::copy_from_slice(&bytes[..60_000])).await?;
    drop(writer);
    first.close().await?;
    drop(first);
    let writer = p.connection.open(&path, p.options(OpenMode::Existing)).await?;
    if p.has(Need::Stat) {
        equal(writer.size().await?, 60_000, "what the first connection left")?;
    }
    writer.write_at(60_000, Bytes::copy_from_slice(&bytes[60_000..])).await?;
    writer.close().await?;
    p.expect(&path, &bytes).await?;
    Ok(Outcome::Passed)
}

async fn sixteen_files_are_written_at_once(p: Place) -> Check {
    if p.capabilities().multiplex < 16 {
        return Ok(Outcome::Skipped("multiplex 16"));
    }
    let bytes = |n: u64| pattern(20_000 + n as usize, 100 + n);
    let p = &p;
    try_join_all((0..16).map(|n| async move { p.put(&p.path(&format!("f{n}")), &bytes(n)).await })).await?;
    for n in 0..16 {
        p.expect(&p.path(&format!("f{n}")), &bytes(n)).await?;
    }
    Ok(Outcome::Passed)
}

async fn an_abandoned_writer_leaves_the_connection_usable(p: Place) -> Check {
    let writer = p.create(&p.path("half")).await?;
    writer.write_at(0, Bytes::from_static(b"half")).await?;
    drop(writer);
    let fresh = p.connect().await?;
    fresh.ping().await?;
    if p.capabilities().multiplex > 1 {
        p.connection.ping().await?;
        p.put(&p.path("whole"), b"whole").await?;
        p.expect(&p.path("whole"), b"whole").await?;
    }
    Ok(Outcome::Passed)
}

async fn a_closed_writer_takes_no_more(p: Place) -> Check {
    let writer = p.create(&p.path("a")).await?;
    writer.write_at(0, Bytes::from_static(b"done")).await?;
    writer.close().await?;
    holds(writer.write_at(4, Bytes::from_static(b"more")).await.is_err(), "a closed file took a write")?;
    p.expect(&p.path("a"), b"done").await?;
    Ok(Outcome::Passed)
}

async fn synced_bytes_are_there(p: Place) -> Check {
    needs!(p, sync);
    let writer = p.create(&p.path("a")).await?;
    writer.write_at(0, Bytes::from_static(b"one")).await?;
    writer.sync().await?;
    writer.write_at(3, Bytes::from_static(b"two")).await?;
    writer.sync().await?;
    writer.close().await?;
    p.expect(&p.path("a"), b"onetwo").await?;
    Ok(Outcome::Passed)
}

async fn an_empty_file_can_be_synced(p: Place) -> Check {
    needs!(p, sync);
    let writer = p.create(&p.path("a")).await?;
    writer.sync().await?;
    writer.close().await?;
    p.expect(&p.path("a"), b"").await?;
    Ok(Outcome::Passed)
}
