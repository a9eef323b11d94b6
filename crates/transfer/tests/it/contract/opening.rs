//! Opening: exclusive creation, no truncation, missing names.

use bytes::Bytes;
use transfer::{CreateOptions, ErrorKind, OpenMode};

use super::{Check, Outcome, Place, cases, equal, holds, needs, refused, wants};

cases! {
    creates_a_new_file,
    refuses_to_create_a_name_that_is_taken,
    only_one_of_two_creators_wins,
    opens_an_existing_file_without_truncating_it,
    opening_a_missing_file_fails_and_creates_nothing,
    creating_below_a_missing_directory_fails,
    creating_below_a_file_fails,
    creating_over_a_directory_fails,
    truncate_creates_a_missing_file,
    truncate_empties_an_old_file,
    opening_a_missing_file_for_reading_fails,
    a_file_opened_for_reading_refuses_writes,
    takes_permissions_for_a_new_file,
    opening_to_write_and_read_works_or_is_denied,
}

async fn creates_a_new_file(p: Place) -> Check {
    p.put(&p.path("a"), b"hello").await?;
    p.expect(&p.path("a"), b"hello").await?;
    Ok(Outcome::Passed)
}

async fn refuses_to_create_a_name_that_is_taken(p: Place) -> Check {
    let path = p.path("a");
    p.put(&path, b"first").await?;
    refused(p.connection.open(&path, p.options(OpenMode::CreateNew)).await, &[ErrorKind::DestExists])?;
    p.expect(&path, b"first").await?;
    Ok(Outcome::Passed)
}

async fn only_one_of_two_creators_wins(p: Place) -> Check {
    wants!(p, Exclusive);
    let other = p.connect().await?;
    for round in 0..8 {
        let path = p.path(&format!("race-{round}"));
        let options = p.options(OpenMode::CreateNew);
        let (one, two) = tokio::join!(p.connection.open(&path, options), other.open(&path, options));
        holds(one.is_ok() != two.is_ok(), "exactly one of two exclusive creations must succeed")?;
        let (winner, loser) = if one.is_ok() { (one, two) } else { (two, one) };
        refused(loser, &[ErrorKind::DestExists])?;
        winner?.close().await?;
    }
    Ok(Outcome::Passed)
}

async fn opens_an_existing_file_without_truncating_it(p: Place) -> Check {
    needs!(p, offset_writes);
    let path = p.path("a");
    p.put(&path, b"0123456789").await?;
    let writer = p.connection.open(&path, p.options(OpenMode::Existing)).await?;
    writer.write_at(3, Bytes::from_static(b"xy")).await?;
    writer.close().await?;
    p.expect(&path, b"012xy56789").await?;
    Ok(Outcome::Passed)
}

async fn opening_a_missing_file_fails_and_creates_nothing(p: Place) -> Check {
    refused(p.connection.open(&p.path("a"), p.options(OpenMode::Existing)).await, &[ErrorKind::DestDirMissing])?;
    p.expect_missing(&p.path("a")).await?;
    Ok(Outcome::Passed)
}

async fn creating_below_a_missing_directory_fails(p: Place) -> Check {
    for mode in [OpenMode::CreateNew, OpenMode::Existing, OpenMode::Truncate] {
        refused(p.connection.open(&p.path("no/a"), p.options(mode)).await, &[ErrorKind::DestDirMissing])?;
    }
    p.expect_missing(&p.path("no")).await?;
    Ok(Outcome::Passed)
}

async fn creating_below_a_file_fails(p: Place) -> Check {
    p.put(&p.path("a"), b"file").await?;
    let result = p.connection.open(&p.path("a/b"), p.options(OpenMode::CreateNew)).await;
    // Servers tell this case with words of their own.
    holds(result.is_err(), "a file cannot hold a file")?;
    p.expect(&p.path("a"), b"file").await?;
    Ok(Outcome::Passed)
}

async fn creating_over_a_directory_fails(p: Place) -> Check {
    p.connection.make_directory(&p.path("d")).await?;
    for mode in [OpenMode::CreateNew, OpenMode::Existing, OpenMode::Truncate] {
        holds(p.connection.open(&p.path("d"), p.options(mode)).await.is_err(), "a directory is no file")?;
    }
    p.expect_directory(&p.path("d")).await?;
    Ok(Outcome::Passed)
}

async fn truncate_creates_a_missing_file(p: Place) -> Check {
    let writer = p.connection.open(&p.path("a"), p.options(OpenMode::Truncate)).await?;
    writer.write_at(0, Bytes::from_static(b"new")).await?;
    writer.close().await?;
    p.expect(&p.path("a"), b"new").await?;
    Ok(Outcome::Passed)
}

async fn truncate_empties_an_old_file(p: Place) -> Check {
    wants!(p, Overwrite);
    p.put(&p.path("a"), b"a long old text").await?;
    let writer = p.connection.open(&p.path("a"), p.options(OpenMode::Truncate)).await?;
    writer.write_at(0, Bytes::from_static(b"new")).await?;
    writer.close().await?;
    p.expect(&p.path("a"), b"new").await?;
    Ok(Outcome::Passed)
}

async fn opening_a_missing_file_for_reading_fails(p: Place) -> Check {
    needs!(p, read);
    refused(p.connection.open_read(&p.path("a")).await, &[ErrorKind::DestDirMissing])?;
    Ok(Outcome::Passed)
}

async fn a_file_opened_for_reading_refuses_writes(p: Place) -> Check {
    needs!(p, read);
    p.put(&p.path("a"), b"kept").await?;
    let reader = p.connection.open_read(&p.path("a")).await?;
    holds(reader.write_at(0, Bytes::from_static(b"lost")).await.is_err(), "a reading handle took a write")?;
    drop(reader);
    p.expect(&p.path("a"), b"kept").await?;
    Ok(Outcome::Passed)
}

async fn takes_permissions_for_a_new_file(p: Place) -> Check {
    needs!(p, set_mode);
    let options = CreateOptions { permissions: Some(0o640), ..p.options(OpenMode::CreateNew) };
    let writer = p.connection.open(&p.path("a"), options).await?;
    writer.write_at(0, Bytes::from_static(b"x")).await?;
    writer.close().await?;
    p.expect(&p.path("a"), b"x").await?;
    Ok(Outcome::Passed)
}

/// A drop box that only takes files says so at once, in the class by which the engine knows it, and makes nothing.
async fn opening_to_write_and_read_works_or_is_denied(p: Place) -> Check {
    let options = CreateOptions { mode: OpenMode::CreateNew, read: true, permissions: None };
    match p.connection.open(&p.path("a"), options).await {
        Ok(writer) => {
            writer.write_at(0, Bytes::from_static(b"both")).await?;
            if p.capabilities().read {
                equal(&writer.read_at(0, 10).await?[..], &b"both"[..], "what was read back")?;
            }
            writer.close().await?;
        }
        Err(error) => {
            holds(!p.capabilities().read, "a server that can be read from refused it")?;
            refused(Err::<(), _>(error), &[ErrorKind::DestDenied])?;
            p.put(&p.path("a"), b"only written").await?;
        }
    }
    Ok(Outcome::Passed)
}
