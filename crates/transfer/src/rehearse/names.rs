//! The step on names that servers are known to change in silence: each is used, and looked for in the listing.

use model::{Ability, MAX_NAME_BYTES, RemotePath, SCRATCH_ENDINGS, Tried};

use super::{Ground, heard};
use crate::{OpenMode, Result};

/// Names of a directory that are looked through.
pub(super) const MOST_NAMES: usize = 100_000;

impl Ground {
    pub(super) async fn names(&mut self) -> Result<()> {
        let kinds = [Ability::KeepsCase, Ability::KeepsSpaces, Ability::KeepsDots, Ability::KeepsUnicode, Ability::LongNames];
        let mut made: Vec<(Ability, RemotePath, String)> = Vec::new();
        for (ability, ending) in kinds.into_iter().zip(SCRATCH_ENDINGS) {
            let stem = self.scratch.unused()?;
            let fill = if ability == Ability::LongNames { MAX_NAME_BYTES - stem.name().len() - ending.len() } else { 0 };
            let path = stem.sibling(&format!("{}{ending}{}", stem.name(), "x".repeat(fill)))?;
            self.scratch.adopt(path.clone());
            let created = async { self.create(&path, OpenMode::CreateNew).await?.close().await };
            match heard(created.await)? {
                Ok(()) => made.push((ability, path, stem.name().to_owned())),
                Err(why) => self.note(ability, false, &format!("refused: {why}")),
            }
        }
        let connection = self.connected().await?;
        let directory = self.directory.clone();
        let entries = match heard(connection.list(&directory, MOST_NAMES).await)? {
            Ok(entries) => entries,
            Err(why) => {
                for (ability, ..) in &made {
                    self.note(*ability, Tried::Unknown, &format!("taken, and the directory cannot be listed: {why}"));
                }
                return Ok(());
            }
        };
        for (ability, path, stem) in made {
            let exact = entries.iter().any(|entry| entry.exact && entry.name == path.name());
            // What it made of the name still begins like it, in one case or the other.
            let instead = entries.iter().find(|entry| entry.name.to_lowercase().starts_with(&stem.to_lowercase()));
            match (exact, instead) {
                (true, _) if ability == Ability::KeepsCase => {
                    let folded = path.sibling(&path.name().to_lowercase())?;
                    match heard(connection.stat(&folded).await)? {
                        Ok(Some(_)) => self.note(ability, false, "names that differ only in their case are one file"),
                        _ => self.note(ability, true, "the name was kept, and another case of it is free"),
                    }
                }
                (true, _) => self.note(ability, true, "the name was kept"),
                (false, Some(entry)) => {
                    let ends: String = entry.name.chars().skip(stem.chars().count()).collect();
                    let wanted: String = path.name().chars().skip(stem.chars().count()).collect();
                    self.note(ability, false, &format!("a name that ends in {wanted:?} was stored with {ends:?}"));
                    if entry.exact
                        && let Ok(other) = directory.join(&entry.name)
                    {
                        self.scratch.adopt(other);
                    }
                }
                (false, None) => self.note(ability, false, "the name was taken and does not show in the listing"),
            }
        }
        Ok(())
    }
}
