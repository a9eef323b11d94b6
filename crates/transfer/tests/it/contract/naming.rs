//! Names arrive byte for byte, whatever a shell, a glob or a protocol would make of them.

use model::RemotePath;
use transfer::RenameMode;

use super::{Check, Outcome, Place, Wrong, cases, equal, holds, wants};
use crate::servers::Need;

cases! {
    spaces_and_tabs_are_part_of_a_name,
    names_that_look_like_options_or_patterns_are_names,
    quotes_and_backslashes_are_part_of_a_name,
    percent_and_tilde_are_part_of_a_name,
    dots_are_part_of_a_name,
    names_beyond_ascii_are_kept,
    composed_and_decomposed_names_are_kept_as_given,
    a_name_of_255_bytes_fits,
    a_name_of_256_bytes_is_refused_before_it_is_sent,
    odd_names_of_directories_work,
    a_deep_path_works,
}

/// Each name is written under a temporary name, renamed, found, listed exactly, and removed, as far as the server can.
async fn survive(p: &Place, names: &[&str]) -> Result<(), Wrong> {
    for name in names {
        let path = p.path(name);
        if p.has(Need::Rename) {
            p.put(&p.path("x.part"), name.as_bytes()).await?;
            p.connection.rename(&p.path("x.part"), &path, RenameMode::NoClobber).await?;
        } else {
            p.put(&path, name.as_bytes()).await?;
        }
        p.expect(&path, name.as_bytes()).await?;
        if p.has(Need::List) {
            let listed: Vec<_> = p.connection.list(&p.directory, 10).await?.into_iter().map(|e| (e.name, e.exact)).collect();
            equal(listed, vec![((*name).to_owned(), true)], "the listing")?;
        }
        p.connection.remove(&path).await?;
        p.expect_missing(&path).await?;
    }
    Ok(())
}

async fn spaces_and_tabs_are_part_of_a_name(p: Place) -> Check {
    wants!(p, OuterSpaces);
    survive(&p, &["a b", " lead", "trail ", "  ", "tab\there"]).await?;
    Ok(Outcome::Passed)
}

async fn names_that_look_like_options_or_patterns_are_names(p: Place) -> Check {
    survive(&p, &["-rf", "--help", "*", "?", "[x]", "{a,b}", "!x", "#x", "$HOME", "`id`", "a;b", "a|b", "a&b", "<a>"]).await?;
    Ok(Outcome::Passed)
}

async fn quotes_and_backslashes_are_part_of_a_name(p: Place) -> Check {
    wants!(p, Backslashes);
    survive(&p, &["'", "\"", "q'\"q", "a\\b", "\\", "C:\\x", "a\\nb"]).await?;
    Ok(Outcome::Passed)
}

async fn percent_and_tilde_are_part_of_a_name(p: Place) -> Check {
    wants!(p, Tildes);
    survive(&p, &["%", "%2e%2e", "%00", "~", "~root", "a~", "+", "a+b=c"]).await?;
    Ok(Outcome::Passed)
}

async fn dots_are_part_of_a_name(p: Place) -> Check {
    survive(&p, &["...", ".hidden", "a.", "a..b", "..a"]).await?;
    Ok(Outcome::Passed)
}

async fn names_beyond_ascii_are_kept(p: Place) -> Check {
    survive(&p, &["é", "Ünïcödé.csv", "日本語", "😀", "עברית", "\u{a0}"]).await?;
    Ok(Outcome::Passed)
}

async fn composed_and_decomposed_names_are_kept_as_given(p: Place) -> Check {
    survive(&p, &["caf\u{e9}", "cafe\u{301}"]).await?;
    Ok(Outcome::Passed)
}

async fn a_name_of_255_bytes_fits(p: Place) -> Check {
    survive(&p, &[&"n".repeat(255), &"é".repeat(127)]).await?;
    Ok(Outcome::Passed)
}

async fn a_name_of_256_bytes_is_refused_before_it_is_sent(p: Place) -> Check {
    holds(p.directory.join(&"n".repeat(256)).is_err(), "no path holds a name of 256 bytes")?;
    holds(p.directory.join(&"é".repeat(128)).is_err(), "the limit counts bytes")?;
    Ok(Outcome::Passed)
}

async fn odd_names_of_directories_work(p: Place) -> Check {
    for name in ["a b", "-d", "*", "é😀", "tab\t"].into_iter().filter(|name| *name != "*" || p.has(Need::StarDirectories)) {
        let directory: RemotePath = p.path(name);
        p.connection.make_directory(&directory).await?;
        p.put(&p.path(&format!("{name}/f")), b"x").await?;
        if p.has(Need::List) {
            equal(p.connection.list(&directory, 10).await?.len(), 1, "the number of files inside")?;
        }
        p.connection.remove(&p.path(&format!("{name}/f"))).await?;
        p.connection.remove_directory(&directory).await?;
    }
    if p.has(Need::List) {
        equal(p.connection.list(&p.directory, 10).await?.len(), 0, "what is left")?;
    }
    Ok(Outcome::Passed)
}

async fn a_deep_path_works(p: Place) -> Check {
    let mut name = String::from("d0");
    p.connection.make_directory(&p.path(&name)).await?;
    for level in 1..12 {
        name.push_str(&format!("/level-{level}-of-a-deep-tree"));
        p.connection.make_directory(&p.path(&name)).await?;
    }
    p.put(&p.path(&format!("{name}/a")), b"deep").await?;
    p.expect(&p.path(&format!("{name}/a")), b"deep").await?;
    Ok(Outcome::Passed)
}
