//! Renaming and removing: the final name holds the whole file or nothing new.

use transfer::{ErrorKind, NoClobber, RenameMode};

use super::{Check, Outcome, Place, cases, holds, needs, refused, wants};

cases! {
    a_rename_gives_the_final_name,
    a_rename_reaches_another_directory,
    no_clobber_refuses_a_taken_name,
    only_one_of_two_renames_takes_a_name,
    replace_takes_the_place_of_a_file,
    replace_takes_a_free_name,
    replace_that_cannot_be_atomic_is_refused,
    a_rename_of_nothing_fails,
    a_rename_into_a_missing_directory_keeps_the_file,
    a_rename_onto_a_directory_fails,
    remove_takes_a_file_away,
    remove_succeeds_when_the_file_is_gone,
    remove_refuses_a_directory,
}

/// The mode in which a free name can be taken on every server.
const FREE: RenameMode = RenameMode::NoClobber;

async fn a_rename_gives_the_final_name(p: Place) -> Check {
    wants!(p, Rename);
    p.put(&p.path("a.part"), b"whole").await?;
    p.connection.rename(&p.path("a.part"), &p.path("a"), FREE).await?;
    p.expect(&p.path("a"), b"whole").await?;
    p.expect_missing(&p.path("a.part")).await?;
    Ok(Outcome::Passed)
}

async fn a_rename_reaches_another_directory(p: Place) -> Check {
    wants!(p, Rename);
    p.connection.make_directory(&p.path("tmp")).await?;
    p.put(&p.path("tmp/a"), b"whole").await?;
    p.connection.rename(&p.path("tmp/a"), &p.path("a"), FREE).await?;
    p.expect(&p.path("a"), b"whole").await?;
    p.expect_missing(&p.path("tmp/a")).await?;
    Ok(Outcome::Passed)
}

async fn no_clobber_refuses_a_taken_name(p: Place) -> Check {
    wants!(p, Rename);
    if p.connection.capabilities().no_clobber == NoClobber::Unsupported {
        return Ok(Outcome::Skipped("no_clobber"));
    }
    p.put(&p.path("new"), b"new").await?;
    p.put(&p.path("old"), b"old").await?;
    refused(p.connection.rename(&p.path("new"), &p.path("old"), RenameMode::NoClobber).await, &[ErrorKind::DestExists])?;
    p.expect(&p.path("old"), b"old").await?;
    p.expect(&p.path("new"), b"new").await?;
    Ok(Outcome::Passed)
}

async fn only_one_of_two_renames_takes_a_name(p: Place) -> Check {
    wants!(p, Rename);
    if p.connection.capabilities().no_clobber != NoClobber::Atomic {
        return Ok(Outcome::Skipped("no_clobber atomic"));
    }
    let other = p.connect().await?;
    for round in 0..8 {
        let (one, two, to) = (p.path(&format!("one{round}")), p.path(&format!("two{round}")), p.path(&format!("to{round}")));
        p.put(&one, b"one").await?;
        p.put(&two, b"two").await?;
        let (first, second) = tokio::join!(p.connection.rename(&one, &to, FREE), other.rename(&two, &to, FREE));
        holds(first.is_ok() != second.is_ok(), "exactly one of two renames must take the name")?;
        let (bytes, loser, kept) = if first.is_ok() { (b"one", second, two) } else { (b"two", first, one) };
        refused(loser, &[ErrorKind::DestExists])?;
        p.expect(&to, bytes).await?;
        p.expect(&kept, if bytes == b"one" { b"two" } else { b"one" }).await?;
    }
    Ok(Outcome::Passed)
}

async fn replace_takes_the_place_of_a_file(p: Place) -> Check {
    wants!(p, Rename);
    needs!(p, atomic_replace);
    p.put(&p.path("new"), b"new").await?;
    p.put(&p.path("old"), b"a longer old file").await?;
    p.connection.rename(&p.path("new"), &p.path("old"), RenameMode::Replace).await?;
    p.expect(&p.path("old"), b"new").await?;
    p.expect_missing(&p.path("new")).await?;
    Ok(Outcome::Passed)
}

async fn replace_takes_a_free_name(p: Place) -> Check {
    wants!(p, Rename);
    needs!(p, atomic_replace);
    p.put(&p.path("new"), b"new").await?;
    p.connection.rename(&p.path("new"), &p.path("free"), RenameMode::Replace).await?;
    p.expect(&p.path("free"), b"new").await?;
    Ok(Outcome::Passed)
}

async fn replace_that_cannot_be_atomic_is_refused(p: Place) -> Check {
    wants!(p, Rename);
    if p.capabilities().atomic_replace {
        return Ok(Outcome::Skipped("no atomic_replace"));
    }
    p.put(&p.path("new"), b"new").await?;
    p.put(&p.path("old"), b"old").await?;
    refused(p.connection.rename(&p.path("new"), &p.path("old"), RenameMode::Replace).await, &[ErrorKind::DestExists])?;
    p.expect(&p.path("old"), b"old").await?;
    p.expect(&p.path("new"), b"new").await?;
    Ok(Outcome::Passed)
}

async fn a_rename_of_nothing_fails(p: Place) -> Check {
    wants!(p, Rename);
    refused(p.connection.rename(&p.path("no"), &p.path("a"), FREE).await, &[ErrorKind::DestDirMissing])?;
    p.expect_missing(&p.path("a")).await?;
    Ok(Outcome::Passed)
}

async fn a_rename_into_a_missing_directory_keeps_the_file(p: Place) -> Check {
    wants!(p, Rename);
    p.put(&p.path("a"), b"kept").await?;
    refused(p.connection.rename(&p.path("a"), &p.path("no/a"), FREE).await, &[ErrorKind::DestDirMissing])?;
    p.expect(&p.path("a"), b"kept").await?;
    Ok(Outcome::Passed)
}

async fn a_rename_onto_a_directory_fails(p: Place) -> Check {
    p.put(&p.path("a"), b"kept").await?;
    p.connection.make_directory(&p.path("d")).await?;
    for mode in [RenameMode::NoClobber, RenameMode::Replace] {
        holds(p.connection.rename(&p.path("a"), &p.path("d"), mode).await.is_err(), "a directory was replaced by a file")?;
    }
    p.expect(&p.path("a"), b"kept").await?;
    Ok(Outcome::Passed)
}

async fn remove_takes_a_file_away(p: Place) -> Check {
    p.put(&p.path("a"), b"x").await?;
    p.put(&p.path("b"), b"y").await?;
    p.connection.remove(&p.path("a")).await?;
    p.expect_missing(&p.path("a")).await?;
    p.expect(&p.path("b"), b"y").await?;
    Ok(Outcome::Passed)
}

async fn remove_succeeds_when_the_file_is_gone(p: Place) -> Check {
    p.connection.remove(&p.path("a")).await?;
    p.connection.remove(&p.path("no/a")).await?;
    Ok(Outcome::Passed)
}

async fn remove_refuses_a_directory(p: Place) -> Check {
    p.connection.make_directory(&p.path("d")).await?;
    holds(p.connection.remove(&p.path("d")).await.is_err(), "a directory was removed as a file")?;
    p.expect_directory(&p.path("d")).await?;
    Ok(Outcome::Passed)
}
