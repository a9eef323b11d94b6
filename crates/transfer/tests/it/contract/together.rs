//! Calls that do two things: each must end as the two calls one after the other would.

use bytes::Bytes;
use transfer::{ErrorKind, NoClobber, OpenMode, RenameMode};

use super::{Check, Outcome, Place, cases, equal, holds, needs, refused, wants};

cases! {
    looking_and_creating_answers_both,
    looking_and_creating_sees_what_is_there,
    a_taken_name_is_not_created_while_looking,
    a_rename_that_looks_gives_the_final_name,
    a_rename_that_looks_refuses_a_taken_name,
    a_rename_of_nothing_that_looks_fails,
    a_rename_that_looks_into_a_missing_directory_keeps_the_file,
    settling_sets_the_time_and_tells_the_size,
    settling_a_stream_ends_it_first,
}

const THEN: jiff::Timestamp = jiff::Timestamp::constant(1_234_567_890, 0);

async fn looking_and_creating_answers_both(p: Place) -> Check {
    let (found, opened) = p.connection.look_and_open(&p.path("final"), &p.path("part"), p.options(OpenMode::CreateNew)).await;
    if p.has(crate::servers::Need::Stat) {
        holds(found?.is_none(), "nothing should be found")?;
    }
    let writer = opened?;
    writer.write_at(0, Bytes::from_static(b"new")).await?;
    writer.close().await?;
    p.expect(&p.path("part"), b"new").await?;
    Ok(Outcome::Passed)
}

async fn looking_and_creating_sees_what_is_there(p: Place) -> Check {
    wants!(p, Stat);
    p.put(&p.path("final"), b"older").await?;
    let (found, opened) = p.connection.look_and_open(&p.path("final"), &p.path("part"), p.options(OpenMode::CreateNew)).await;
    equal(found?.map(|found| found.size), Some(5), "the size")?;
    let writer = opened?;
    writer.write_at(0, Bytes::from_static(b"new")).await?;
    writer.close().await?;
    p.expect(&p.path("part"), b"new").await?;
    p.expect(&p.path("final"), b"older").await?;
    Ok(Outcome::Passed)
}

async fn a_taken_name_is_not_created_while_looking(p: Place) -> Check {
    wants!(p, Stat);
    p.put(&p.path("part"), b"older").await?;
    let (found, opened) = p.connection.look_and_open(&p.path("final"), &p.path("part"), p.options(OpenMode::CreateNew)).await;
    holds(found?.is_none(), "nothing should be found")?;
    refused(opened, &[ErrorKind::DestExists])?;
    p.expect(&p.path("part"), b"older").await?;
    Ok(Outcome::Passed)
}

async fn a_rename_that_looks_gives_the_final_name(p: Place) -> Check {
    wants!(p, Rename, Stat);
    p.put(&p.path("a.part"), b"whole").await?;
    let found = p.connection.rename_and_look(&p.path("a.part"), &p.path("a"), RenameMode::NoClobber).await??;
    equal(found.map(|found| found.size), Some(5), "the size")?;
    p.expect(&p.path("a"), b"whole").await?;
    p.expect_missing(&p.path("a.part")).await?;
    Ok(Outcome::Passed)
}

async fn a_rename_that_looks_refuses_a_taken_name(p: Place) -> Check {
    wants!(p, Rename, Stat);
    if p.connection.capabilities().no_clobber == NoClobber::Unsupported {
        return Ok(Outcome::Skipped("no_clobber"));
    }
    p.put(&p.path("new"), b"new").await?;
    p.put(&p.path("old"), b"older").await?;
    let outcome = p.connection.rename_and_look(&p.path("new"), &p.path("old"), RenameMode::NoClobber).await;
    refused(outcome, &[ErrorKind::DestExists])?;
    p.expect(&p.path("old"), b"older").await?;
    p.expect(&p.path("new"), b"new").await?;
    Ok(Outcome::Passed)
}

async fn a_rename_of_nothing_that_looks_fails(p: Place) -> Check {
    wants!(p, Rename, Stat);
    let outcome = p.connection.rename_and_look(&p.path("nothing"), &p.path("a"), RenameMode::NoClobber).await;
    refused(outcome, &[ErrorKind::DestDirMissing])?;
    p.expect_missing(&p.path("a")).await?;
    Ok(Outcome::Passed)
}

async fn a_rename_that_looks_into_a_missing_directory_keeps_the_file(p: Place) -> Check {
    wants!(p, Rename, Stat);
    p.put(&p.path("a"), b"whole").await?;
    let outcome = p.connection.rename_and_look(&p.path("a"), &p.path("missing/a"), RenameMode::NoClobber).await;
    refused(outcome, &[ErrorKind::DestDirMissing])?;
    p.expect(&p.path("a"), b"whole").await?;
    Ok(Outcome::Passed)
}

async fn settling_sets_the_time_and_tells_the_size(p: Place) -> Check {
    needs!(p, set_times);
    wants!(p, Stat);
    let writer = p.create(&p.path("a")).await?;
    writer.write_at(0, Bytes::from_static(b"twelve bytes")).await?;
    writer.finish().await?;
    let (attributes, size) = writer.settle(Some(THEN), None).await;
    attributes?;
    equal(size?, 12, "the size")?;
    writer.close().await?;
    let found = p.connection.stat(&p.path("a")).await?;
    equal(found.and_then(|found| found.modified).map(|time| time.as_second()), Some(THEN.as_second()), "the time")?;
    Ok(Outcome::Passed)
}

async fn settling_a_stream_ends_it_first(p: Place) -> Check {
    wants!(p, Stat);
    let writer = p.create(&p.path("a")).await?;
    writer.write_at(0, Bytes::from_static(b"twelve bytes")).await?;
    let (attributes, size) = writer.settle(None, None).await;
    attributes?;
    equal(size?, 12, "the size")?;
    writer.close().await?;
    p.expect(&p.path("a"), b"twelve bytes").await?;
    Ok(Outcome::Passed)
}
