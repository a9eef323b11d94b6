//! Times, modes, digests of the server, free space.

use bytes::Bytes;
use model::{Algorithm, Digest};
use transfer::Metadata;

use super::{Check, Outcome, Place, cases, equal, holds, needs, wants};

cases! {
    sets_the_time_by_name,
    sets_the_time_of_an_open_file,
    sets_the_mode_by_name_and_of_an_open_file,
    a_set_time_survives_the_rename,
    setting_attributes_of_nothing_fails,
    the_servers_digests_are_right,
    a_digest_that_is_not_offered_is_none,
    free_space_is_told_where_promised,
}

/// A whole second: SFTP version 3 knows no parts of one.
const THEN: jiff::Timestamp = jiff::Timestamp::constant(1_234_567_890, 0);

fn seconds(found: Option<Metadata>) -> Option<i64> {
    found.and_then(|m| m.modified).map(|time| time.as_second())
}

async fn sets_the_time_by_name(p: Place) -> Check {
    needs!(p, set_times);
    wants!(p, Stat);
    p.put(&p.path("a"), b"x").await?;
    p.connection.set_attributes(&p.path("a"), Some(THEN), None).await?;
    equal(seconds(p.connection.stat(&p.path("a")).await?), Some(THEN.as_second()), "the time")?;
    p.expect(&p.path("a"), b"x").await?;
    Ok(Outcome::Passed)
}

async fn sets_the_time_of_an_open_file(p: Place) -> Check {
    needs!(p, set_times, offset_writes);
    wants!(p, Stat);
    let writer = p.create(&p.path("a")).await?;
    writer.write_at(0, Bytes::from_static(b"x")).await?;
    writer.set_attributes(Some(THEN), None).await?;
    writer.close().await?;
    equal(seconds(p.connection.stat(&p.path("a")).await?), Some(THEN.as_second()), "the time")?;
    Ok(Outcome::Passed)
}

async fn sets_the_mode_by_name_and_of_an_open_file(p: Place) -> Check {
    needs!(p, set_mode);
    wants!(p, Mode);
    let writer = p.create(&p.path("a")).await?;
    writer.write_at(0, Bytes::from_static(b"x")).await?;
    writer.set_attributes(None, Some(0o600)).await?;
    writer.close().await?;
    p.connection.set_attributes(&p.path("a"), None, Some(0o640)).await?;
    p.expect(&p.path("a"), b"x").await?;
    Ok(Outcome::Passed)
}

async fn a_set_time_survives_the_rename(p: Place) -> Check {
    needs!(p, set_times);
    wants!(p, Rename, Stat);
    p.put(&p.path("a.part"), b"x").await?;
    p.connection.set_attributes(&p.path("a.part"), Some(THEN), None).await?;
    p.connection.rename(&p.path("a.part"), &p.path("a"), transfer::RenameMode::NoClobber).await?;
    equal(seconds(p.connection.stat(&p.path("a")).await?), Some(THEN.as_second()), "the time")?;
    Ok(Outcome::Passed)
}

async fn setting_attributes_of_nothing_fails(p: Place) -> Check {
    needs!(p, set_times);
    holds(p.connection.set_attributes(&p.path("no"), Some(THEN), None).await.is_err(), "a missing file has no time")?;
    p.expect_missing(&p.path("no")).await?;
    Ok(Outcome::Passed)
}

async fn the_servers_digests_are_right(p: Place) -> Check {
    let offered = p.connection.capabilities().hashes.clone();
    if offered.is_empty() {
        return Ok(Outcome::Skipped("hashes"));
    }
    p.put(&p.path("a"), b"123456789").await?;
    for algorithm in offered {
        // Of the digits 1 to 9, as catalogues of checksums give them.
        let wanted = match algorithm {
            Algorithm::Sha256 => "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
            Algorithm::Md5 => "25f9e794323b453885f5181f1b624d0b",
            Algorithm::Crc64nvme => "ae8b14860a799888",
        };
        let found = p.connection.hash(&p.path("a"), algorithm).await?.map(|digest: Digest| digest.hex());
        equal(found.as_deref(), Some(wanted), "the digest")?;
    }
    Ok(Outcome::Passed)
}

async fn a_digest_that_is_not_offered_is_none(p: Place) -> Check {
    let offered = p.connection.capabilities().hashes.clone();
    p.put(&p.path("a"), b"x").await?;
    let missing: Vec<_> = [Algorithm::Sha256, Algorithm::Md5, Algorithm::Crc64nvme].into_iter().filter(|a| !offered.contains(a)).collect();
    if missing.is_empty() {
        return Ok(Outcome::Skipped("a digest not offered"));
    }
    for algorithm in missing {
        equal(p.connection.hash(&p.path("a"), algorithm).await?, None, "the digest")?;
    }
    Ok(Outcome::Passed)
}

async fn free_space_is_told_where_promised(p: Place) -> Check {
    let told = p.connection.free_space(&p.directory).await?;
    equal(told.is_some(), p.connection.capabilities().free_space, "whether free space is told")?;
    holds(told.is_none_or(|bytes| bytes > 0), "there is room for tests")?;
    Ok(Outcome::Passed)
}
