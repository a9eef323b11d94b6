//! Steps on names that exist: renaming to a free name, onto a taken one, and onto one that must stay.

use model::{Ability, Tried};

use super::{Ground, heard};
use crate::{ErrorKind, NoClobber, RenameMode, Result};

const OLD: &[u8] = b"the old file";

impl Ground {
    pub(super) async fn rename(&mut self) -> Result<()> {
        let connection = self.connected().await?;
        let (from, size) = self.main()?;
        let to = self.scratch.fresh()?;
        match heard(connection.rename(&from, &to, RenameMode::NoClobber).await)? {
            Ok(()) => {
                self.note(Ability::Rename, true, "a scratch file was renamed");
                self.scratch.removed(&from);
                self.main = Some((to, size));
            }
            Err(why) => {
                self.note(Ability::Rename, false, &why);
                self.scratch.removed(&to);
            }
        }
        Ok(())
    }

    fn may_rename(&mut self, ability: Ability) -> bool {
        let may = self.profile.knows(Ability::Rename) != Tried::No;
        if !may {
            self.note(ability, false, "every rename is refused");
        }
        may
    }

    pub(super) async fn rename_onto(&mut self) -> Result<()> {
        if !self.may_rename(Ability::Replace) {
            return Ok(());
        }
        let connection = self.connected().await?;
        let (from, size) = self.main()?;
        let onto = self.small_file(OLD).await?;
        match heard(connection.rename(&from, &onto, RenameMode::Replace).await)? {
            Ok(()) => {
                self.scratch.removed(&from);
                match heard(connection.stat(&onto).await)? {
                    Ok(Some(found)) if found.size == size => self.note(Ability::Replace, true, "a rename took the place of another file"),
                    Ok(_) => self.note(Ability::Replace, false, "it said that a rename replaced a file, and the old one is there"),
                    Err(_) => self.note(Ability::Replace, true, "a rename onto another file was taken; nobody may look at the result"),
                }
                self.main = Some((onto, size));
            }
            Err(why) => self.note(Ability::Replace, false, &why),
        }
        Ok(())
    }

    /// A rename that must not replace, onto a name that is taken.
    pub(super) async fn keep_taken(&mut self) -> Result<()> {
        if !self.may_rename(Ability::NoClobber) {
            return Ok(());
        }
        let connection = self.connected().await?;
        let (from, size) = self.main()?;
        let taken = self.small_file(OLD).await?;
        match connection.rename(&from, &taken, RenameMode::NoClobber).await {
            Err(error) if error.is_connection_lost() => return Err(error),
            Err(error) if error.kind != ErrorKind::DestExists => {
                self.note(Ability::NoClobber, Tried::Unknown, &crate::error::chain(&error));
            }
            Err(_) if connection.capabilities().no_clobber == NoClobber::Atomic => {
                self.note(Ability::NoClobber, true, "a rename onto a taken name was refused");
            }
            // Where we look first it is not the server that refused, unless it also refuses to replace.
            Err(_) if self.profile.knows(Ability::Replace) == Tried::No => {
                self.note(Ability::NoClobber, true, "every rename onto a taken name is refused");
            }
            Err(_) => self.note(Ability::NoClobber, false, "only because we look before the rename; a moment remains"),
            Ok(()) => {
                self.note(Ability::NoClobber, false, "a rename that must not replace did replace");
                self.scratch.removed(&from);
                self.main = Some((taken, size));
            }
        }
        Ok(())
    }
}
