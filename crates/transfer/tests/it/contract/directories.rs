//! Directories: making, removing, listing, looking.

use transfer::ErrorKind;

use super::{Check, Outcome, Place, cases, equal, holds, refused, wants};

cases! {
    makes_a_directory,
    making_a_directory_twice_succeeds,
    making_a_directory_below_nothing_fails,
    making_a_directory_over_a_file_fails,
    removes_an_empty_directory,
    removing_a_directory_that_is_gone_succeeds,
    a_directory_with_files_is_not_removed,
    lists_names_kinds_and_sizes,
    an_empty_directory_lists_nothing,
    a_listing_stops_at_its_limit,
    listing_a_missing_directory_fails,
    nothing_is_found_under_a_missing_name,
    nothing_is_found_below_a_missing_directory,
    a_directory_is_told_from_a_file,
}

async fn makes_a_directory(p: Place) -> Check {
    p.connection.make_directory(&p.path("d")).await?;
    p.connection.make_directory(&p.path("d/e")).await?;
    p.put(&p.path("d/e/a"), b"x").await?;
    p.expect(&p.path("d/e/a"), b"x").await?;
    Ok(Outcome::Passed)
}

async fn making_a_directory_twice_succeeds(p: Place) -> Check {
    p.connection.make_directory(&p.path("d")).await?;
    p.put(&p.path("d/a"), b"kept").await?;
    p.connection.make_directory(&p.path("d")).await?;
    p.expect(&p.path("d/a"), b"kept").await?;
    Ok(Outcome::Passed)
}

async fn making_a_directory_below_nothing_fails(p: Place) -> Check {
    refused(p.connection.make_directory(&p.path("no/d")).await, &[ErrorKind::DestDirMissing])?;
    p.expect_missing(&p.path("no")).await?;
    Ok(Outcome::Passed)
}

async fn making_a_directory_over_a_file_fails(p: Place) -> Check {
    p.put(&p.path("a"), b"kept").await?;
    holds(p.connection.make_directory(&p.path("a")).await.is_err(), "a file passed for a directory")?;
    p.expect(&p.path("a"), b"kept").await?;
    Ok(Outcome::Passed)
}

async fn removes_an_empty_directory(p: Place) -> Check {
    p.connection.make_directory(&p.path("d")).await?;
    p.connection.remove_directory(&p.path("d")).await?;
    p.expect_missing(&p.path("d")).await?;
    Ok(Outcome::Passed)
}

async fn removing_a_directory_that_is_gone_succeeds(p: Place) -> Check {
    p.connection.remove_directory(&p.path("d")).await?;
    Ok(Outcome::Passed)
}

async fn a_directory_with_files_is_not_removed(p: Place) -> Check {
    p.connection.make_directory(&p.path("d")).await?;
    p.put(&p.path("d/a"), b"kept").await?;
    holds(p.connection.remove_directory(&p.path("d")).await.is_err(), "a directory with a file was removed")?;
    p.expect(&p.path("d/a"), b"kept").await?;
    Ok(Outcome::Passed)
}

async fn lists_names_kinds_and_sizes(p: Place) -> Check {
    wants!(p, List);
    p.put(&p.path("a"), b"12345").await?;
    p.put(&p.path(".hidden"), b"").await?;
    p.connection.make_directory(&p.path("d")).await?;
    p.put(&p.path("d/inner"), b"not listed").await?;
    let mut found: Vec<_> = p
        .connection
        .list(&p.directory, 100)
        .await?
        .into_iter()
        .map(|e| (e.name, e.exact, e.metadata.directory, if e.metadata.directory { 0 } else { e.metadata.size }))
        .collect();
    found.sort();
    let wanted = [(".hidden", true, false, 0), ("a", true, false, 5), ("d", true, true, 0)];
    equal(found, wanted.map(|(name, exact, directory, size)| (name.to_owned(), exact, directory, size)).to_vec(), "the listing")?;
    Ok(Outcome::Passed)
}

async fn an_empty_directory_lists_nothing(p: Place) -> Check {
    wants!(p, List);
    equal(p.connection.list(&p.directory, 100).await?.len(), 0, "the number of entries")?;
    Ok(Outcome::Passed)
}

async fn a_listing_stops_at_its_limit(p: Place) -> Check {
    wants!(p, List);
    for n in 0..12 {
        p.put(&p.path(&format!("f{n}")), b"").await?;
    }
    equal(p.connection.list(&p.directory, 5).await?.len(), 5, "the number of entries")?;
    equal(p.connection.list(&p.directory, 12).await?.len(), 12, "the number of entries")?;
    Ok(Outcome::Passed)
}

async fn listing_a_missing_directory_fails(p: Place) -> Check {
    wants!(p, List);
    refused(p.connection.list(&p.path("no"), 10).await, &[ErrorKind::DestDirMissing])?;
    Ok(Outcome::Passed)
}

async fn nothing_is_found_under_a_missing_name(p: Place) -> Check {
    wants!(p, Stat);
    equal(p.connection.stat(&p.path("no")).await?, None, "what is there")?;
    Ok(Outcome::Passed)
}

async fn nothing_is_found_below_a_missing_directory(p: Place) -> Check {
    wants!(p, Stat);
    equal(p.connection.stat(&p.path("no/where/a")).await?, None, "what is there")?;
    Ok(Outcome::Passed)
}

async fn a_directory_is_told_from_a_file(p: Place) -> Check {
    wants!(p, Stat);
    p.put(&p.path("a"), b"123").await?;
    p.connection.make_directory(&p.path("d")).await?;
    equal(p.connection.stat(&p.path("a")).await?.map(|m| (m.directory, m.size)), Some((false, 3)), "the file")?;
    equal(p.connection.stat(&p.path("d")).await?.map(|m| m.directory), Some(true), "the directory")?;
    Ok(Outcome::Passed)
}
