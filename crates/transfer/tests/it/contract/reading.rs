//! Reading back: offsets, the end of a file, several reads at once.

use bytes::Bytes;
use futures_util::future::try_join_all;

use super::{Check, Outcome, Place, cases, equal, needs, pattern, wants};

cases! {
    reads_begin_at_any_offset,
    a_read_across_the_end_is_short,
    a_read_at_or_beyond_the_end_is_empty,
    the_largest_read_is_exact,
    many_reads_are_in_flight,
    what_was_written_is_read_through_the_same_file,
    a_reader_knows_the_size,
}

async fn reads_begin_at_any_offset(p: Place) -> Check {
    needs!(p, read);
    let bytes = pattern(300_000, 1);
    p.put(&p.path("a"), &bytes).await?;
    let reader = p.connection.open_read(&p.path("a")).await?;
    for (offset, length) in [(0, 1), (1, 4096), (99_999, 50_000), (299_999, 1), (0, 65_536)] {
        equal(&reader.read_at(offset as u64, length).await?[..], &bytes[offset..offset + length], "a block")?;
    }
    Ok(Outcome::Passed)
}

async fn a_read_across_the_end_is_short(p: Place) -> Check {
    needs!(p, read);
    p.put(&p.path("a"), b"0123456789").await?;
    let reader = p.connection.open_read(&p.path("a")).await?;
    equal(&reader.read_at(7, 100).await?[..], &b"789"[..], "the last bytes")?;
    Ok(Outcome::Passed)
}

async fn a_read_at_or_beyond_the_end_is_empty(p: Place) -> Check {
    needs!(p, read);
    p.put(&p.path("a"), b"0123456789").await?;
    let reader = p.connection.open_read(&p.path("a")).await?;
    for offset in [10, 11, 5 << 30] {
        equal(reader.read_at(offset, 100).await?.len(), 0, "the length beyond the end")?;
    }
    equal(reader.read_at(3, 0).await?.len(), 0, "the length of nothing")?;
    Ok(Outcome::Passed)
}

async fn the_largest_read_is_exact(p: Place) -> Check {
    needs!(p, read);
    let bytes = pattern(300_000, 2);
    p.put(&p.path("a"), &bytes).await?;
    let reader = p.connection.open_read(&p.path("a")).await?;
    equal(reader.read_at(1000, 256 * 1024).await? == bytes[1000..1000 + 256 * 1024], true, "256 KiB read as they were written")?;
    Ok(Outcome::Passed)
}

async fn many_reads_are_in_flight(p: Place) -> Check {
    needs!(p, read, offset_writes);
    let bytes = pattern(640_000, 3);
    p.put(&p.path("a"), &bytes).await?;
    let reader = p.connection.open_read(&p.path("a")).await?;
    let blocks = try_join_all((0..20).map(|n| reader.read_at(n * 32_000, 32_000))).await?;
    equal(blocks.concat() == bytes, true, "twenty blocks in order as they were written")?;
    Ok(Outcome::Passed)
}

async fn what_was_written_is_read_through_the_same_file(p: Place) -> Check {
    needs!(p, read, offset_writes, confirms_writes);
    let writer = p.create(&p.path("a")).await?;
    for n in 0..10u64 {
        let block = pattern(10_000, n);
        writer.write_at(n * 10_000, Bytes::from(block.clone())).await?;
        equal(writer.read_at(n * 10_000, 10_000).await? == block, true, "a block read behind the write")?;
    }
    writer.close().await?;
    Ok(Outcome::Passed)
}

async fn a_reader_knows_the_size(p: Place) -> Check {
    needs!(p, read);
    wants!(p, Stat);
    p.put(&p.path("a"), &pattern(12_345, 4)).await?;
    let reader = p.connection.open_read(&p.path("a")).await?;
    equal(reader.size().await?, 12_345, "the size")?;
    Ok(Outcome::Passed)
}
