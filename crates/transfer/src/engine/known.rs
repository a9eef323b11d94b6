//! What is known of a server before the first connection, and what a run finds out. Only refusals are believed: what was
//! granted once is tried again before anything rests on it, so that old knowledge makes a run careful and never wrong.

use std::collections::{BTreeMap, BTreeSet};

use model::Ability;

use super::Inner;
use super::file::FileRun;
use crate::error::chain;
use crate::pool::Seat;
use crate::{ErrorKind, RenameMode, Result, ServerIdentity};

/// From an earlier look at this server.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// As it called itself then: another one is believed to be able again.
    pub software: Option<String>,
    /// What proved it then. Another one is only told of: whether it is trusted is decided while connecting.
    pub fingerprint: Option<String>,
    /// Sessions that it grants at once, if one more was refused.
    pub logins: Option<usize>,
    pub refused: BTreeSet<Ability>,
}

/// What this run found out.
#[derive(Debug, Clone, Default)]
pub struct Learned {
    pub identity: Option<ServerIdentity>,
    pub facts: BTreeMap<Ability, (bool, String)>,
    /// Sessions that were granted when one more was refused, and how that was said.
    pub logins: Option<(usize, String)>,
}

/// Whether this server's renames are to be tried before anything is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    Nothing,
    /// It refused them in an earlier run.
    Renames,
    /// It refused them in this one.
    Refused,
}

impl Inner {
    pub(super) fn learn(&self, ability: Ability, works: bool, words: impl FnOnce() -> String) {
        let mut learned = self.learned.lock().expect("no panic while holding the lock");
        // The first refusal stays: a later success may be of a directory where more is allowed.
        if learned.facts.get(&ability).is_none_or(|(known, _)| *known && !works) {
            learned.facts.insert(ability, (works, words()));
        }
    }

    pub(super) fn refused_before(&self, ability: Ability) -> bool {
        self.known.refused.contains(&ability)
    }

    /// The first session: with other software than that which is known, its refusals are forgotten.
    pub(super) fn meet(&self, identity: &ServerIdentity) {
        {
            let mut learned = self.learned.lock().expect("no panic while holding the lock");
            if learned.identity.is_some() {
                return;
            }
            learned.identity = Some(identity.clone());
        }
        let now = identity.software.as_deref().map(model::profile::bounded);
        let differs = |before: &Option<String>, now: &Option<String>| before.is_some() && now.is_some() && before != now;
        let mut changed = self.changed.lock().expect("no panic while holding the lock");
        if differs(&self.known.fingerprint, &identity.host_key) {
            changed.push("the server proved itself otherwise than at the last look".to_owned());
        }
        if differs(&self.known.software, &now) {
            changed.push("the server runs other software than at the last look".to_owned());
            *self.offsets.lock().expect("no panic while holding the lock") = None;
            *self.continues.lock().expect("no panic while holding the lock") = None;
            self.set_doubt(Doubt::Nothing);
        }
    }

    fn doubt(&self) -> Doubt {
        *self.doubt.lock().expect("no panic while holding the lock")
    }

    fn set_doubt(&self, doubt: Doubt) {
        *self.doubt.lock().expect("no panic while holding the lock") = doubt;
    }
}

impl FileRun {
    /// Where an earlier run was not allowed to rename, an empty temporary file shows whether it is now, before a byte is
    /// sent that nobody could publish.
    pub(super) async fn doubt_renames(&mut self, seat: &Seat) -> Result<()> {
        let engine = self.engine.clone();
        if engine.doubt() == Doubt::Nothing {
            return Ok(());
        }
        let _others_wait = engine.learning.lock().await;
        let refused = |error| Err(super::publish::may_not_rename(&self.task.path, error));
        match engine.doubt() {
            Doubt::Nothing => return Ok(()),
            Doubt::Refused => {
                return refused(crate::Error::new(ErrorKind::DestDenied, "rename", &self.task.path).because("it was refused a moment ago"));
            }
            Doubt::Renames => {}
        }
        let temp = self.temp()?;
        let other = temp.sibling(&format!("{}.name", temp.name()))?;
        self.open_new(seat, &temp).await?.close().await?;
        let outcome = seat.rename(&temp, &other, RenameMode::NoClobber).await;
        let Err(error) = outcome else {
            seat.remove(&other).await?;
            self.opened = false;
            engine.set_doubt(Doubt::Nothing);
            engine.learn(Ability::Rename, true, || "an empty file was renamed".to_owned());
            return Ok(());
        };
        if error.is_connection_lost() {
            return Err(error);
        }
        seat.remove(&temp).await?;
        self.opened = false;
        if matches!(error.kind, ErrorKind::DestDenied | ErrorKind::DestPublishFailed | ErrorKind::DestProtocol) {
            engine.set_doubt(Doubt::Refused);
            engine.learn(Ability::Rename, false, || chain(&error));
            return Err(super::publish::may_not_rename(&self.task.path, error));
        }
        Err(error)
    }
}
