//! What earlier rehearsals left in the directory because they were killed: known by its name, and removed.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use tracing::debug;

use super::names::MOST_NAMES;
use super::{CLEARING, Ground, RETURN_AFTER, heard};
use crate::error::chain;
use crate::{Error, ErrorKind, Result, Subject};

/// No rehearsal lasts so long: what is older was left, also by one on another machine.
const LEFT: SignedDuration = SignedDuration::from_hours(24);

impl Ground {
    /// Removes scratch files of the rehearsals that are `gone`, and after a day those of any that is not `alive`; both by the
    /// 12 characters of their names. Returns how many. What the server does not let us find or remove stays.
    pub async fn clear_earlier(&mut self, gone: &BTreeSet<String>, alive: &BTreeSet<String>) -> Result<u32> {
        let bound = CLEARING.min(2 * self.patience + RETURN_AFTER);
        let outcome = tokio::time::timeout(bound, self.remove_earlier(gone, alive)).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::NetworkStalled,
                "remove what an earlier rehearsal left in",
                Subject::Path(self.directory.to_string()),
            )
            .on_lost_connection())
        });
        if outcome.is_err() {
            self.connection = None;
        }
        outcome
    }

    async fn remove_earlier(&mut self, gone: &BTreeSet<String>, alive: &BTreeSet<String>) -> Result<u32> {
        let connection = self.connected().await?;
        let now = Timestamp::now();
        let mut removed = 0;
        for entry in heard(connection.list(&self.directory, MOST_NAMES).await)?.unwrap_or_default() {
            let Some(whose) = self.scratch.whose(&entry.name).filter(|_| entry.exact) else { continue };
            let old = entry.metadata.modified.is_some_and(|at| now.duration_since(at) > LEFT);
            if !gone.contains(&whose) && (!old || alive.contains(&whose)) {
                continue;
            }
            let path = self.directory.join(&entry.name)?;
            let outcome = match entry.metadata.directory {
                true => connection.remove_directory(&path).await,
                false => connection.remove(&path).await,
            };
            match outcome {
                Ok(()) => removed += 1,
                Err(error) if error.is_connection_lost() => return Err(error),
                Err(error) => debug!(%path, error = %chain(&error), "left by an earlier rehearsal, and not removed"),
            }
        }
        Ok(removed)
    }
}
