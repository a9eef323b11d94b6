//! Giving a verified file its final name: the gate, the intent, the rename that obeys the policy, and what to do
//! when its answer is lost.

use std::time::Instant;

use model::{Ability, Clobber, FileState, IfExists, Publish, RemotePath};
use tracing::{debug, warn};

use super::file::FileRun;
use crate::error::chain;
use crate::meter::Step;
use crate::pool::Seat;
use crate::port::{Delivery, Finished, Intent};
use crate::{CreateOptions, Error, ErrorKind, Metadata, NoClobber, OpenMode, RenameMode, Result};

/// Why the rename of a verified file was refused for good, and the one way that is left.
#[derive(Debug, thiserror::Error)]
#[error("this account may not rename here; --publish in-place writes under the final name from the start")]
struct MayNotRename {
    source: Error,
}

#[derive(Debug, thiserror::Error)]
#[error("--if-exists replace-unsafe moves the old file aside first")]
struct CannotReplace {
    source: Error,
}

/// The refusal of renames that nothing but another way to publish can help.
pub(super) fn may_not_rename(path: &RemotePath, source: Error) -> Error {
    Error::new(ErrorKind::DestPublishFailed, "publish", path).because(MayNotRename { source }).exhausted()
}

const STORED_OTHERWISE: &str = "the server stores this name differently than it was given; --name can give the file another one";

/// Directories with more names than this are not searched for one.
const MOST_NAMES: usize = 100_000;

impl FileRun {
    /// From here on nothing is sent any more: a failure keeps the verified file and only the rename is tried again.
    pub(super) async fn publish(&mut self, seat: &Seat, temp: RemotePath, mut delivery: Delivery) -> Result<Finished> {
        let engine = self.engine.clone();
        let _step = engine.setup.meter.step(Step::Publishing);
        delivery.clobber = self.clobber(seat);
        self.refuse_changed_ends(seat, &temp).await?;
        let intent = Intent { temp, path: self.task.path.clone(), delivery };
        self.verified = Some(intent.clone());
        self.rename(seat, intent).await
    }

    /// Some servers drop spaces at the ends of a name without a word, and do not find the file under the name that they were
    /// given. An empty file of our own shows it, before ours takes the place of somebody else's.
    async fn refuse_changed_ends(&self, seat: &Seat, temp: &RemotePath) -> Result<()> {
        let name = self.task.path.name();
        let bare = name.trim_matches([' ', '\t']);
        if bare.len() == name.len() || seat.capabilities().exact_names || self.engine.setup.wishes.publish == Publish::InPlace {
            return Ok(());
        }
        let (front, back) = name.split_once(bare).filter(|_| !bare.is_empty()).unwrap_or((name, ""));
        let changed = format!("{}.ends", temp.name());
        let (Ok(given), Ok(changed)) = (temp.sibling(&format!("{front}{changed}{back}")), temp.sibling(&changed)) else { return Ok(()) };
        let options = CreateOptions { mode: OpenMode::Truncate, read: false, permissions: None };
        let stored = async {
            seat.open(&given, options).await?.close().await?;
            self.stored_exactly(seat, &given).await
        };
        let stored = match stored.await {
            Err(error) if error.is_connection_lost() => return Err(error),
            // Refused, or nothing can be listed: the rename will tell.
            stored => stored.unwrap_or(true),
        };
        seat.remove(&given).await?;
        if stored {
            return Ok(());
        }
        // Dropped ends, or others in their place: Pure-FTPd makes a trailing space an underscore.
        let parent = temp.parent().unwrap_or_else(RemotePath::root);
        for entry in seat.list(&parent, MOST_NAMES).await?.iter().filter(|entry| entry.exact && entry.name.contains(changed.name())) {
            seat.remove(&parent.join(&entry.name)?).await?;
        }
        Err(Error::new(ErrorKind::DestNameInvalid, "publish", &self.task.path).because(STORED_OTHERWISE))
    }

    /// What the rename of this policy is worth on this server.
    fn clobber(&self, seat: &Seat) -> Clobber {
        let capabilities = seat.capabilities();
        match self.engine.setup.wishes.if_exists {
            IfExists::Fail | IfExists::Skip if capabilities.no_clobber == NoClobber::Atomic => Clobber::Atomic,
            IfExists::Fail | IfExists::Skip => Clobber::Checked,
            IfExists::ReplaceUnsafe if !capabilities.atomic_replace => Clobber::Unsafe { window_ms: 0 },
            IfExists::Update | IfExists::Replace | IfExists::ReplaceUnsafe => Clobber::Replaced,
        }
    }

    async fn rename(&mut self, seat: &Seat, mut intent: Intent) -> Result<Finished> {
        match self.ask_gate().await {
            Ok(None) => {}
            Ok(Some(finished)) => {
                self.discard(Some(seat)).await;
                return Ok(finished);
            }
            Err(error) => {
                self.keep_what_is_proved(&intent.temp).await;
                return Err(error);
            }
        }
        self.recorded = true;
        self.engine.setup.ledger.intent(self.task.number, &intent).await?;
        if self.engine.setup.wishes.publish == Publish::InPlace {
            return Ok(delivered(FileState::Delivered, intent));
        }
        let (temp, path) = (intent.temp.clone(), intent.path.clone());
        let mut seen = None;
        let outcome = match intent.delivery.clobber {
            Clobber::Atomic => self.rename_seeing(seat, &intent, RenameMode::NoClobber, &mut seen).await,
            Clobber::Checked if seat.capabilities().no_clobber == NoClobber::Checked => {
                self.rename_seeing(seat, &intent, RenameMode::NoClobber, &mut seen).await
            }
            Clobber::Checked => self.rename_after_look(seat, &temp, &path).await,
            Clobber::Replaced => self.rename_seeing(seat, &intent, RenameMode::Replace, &mut seen).await,
            Clobber::Unsafe { .. } => self.rename_aside(seat, &mut intent).await,
        };
        // Replacing was announced and refused when it came to it.
        let outcome = match outcome {
            Err(error) if error.kind == ErrorKind::DestExists && intent.delivery.clobber == Clobber::Replaced => {
                self.engine.learn(Ability::Replace, false, || chain(&error));
                match self.engine.setup.wishes.if_exists {
                    IfExists::ReplaceUnsafe => self.rename_aside(seat, &mut intent).await,
                    _ => Err(Error::new(ErrorKind::DestExists, "replace", &path).because(CannotReplace { source: error })),
                }
            }
            outcome => outcome,
        };
        match outcome {
            Ok(()) => {
                self.engine.learn(Ability::Rename, true, || "a verified file got its name".to_owned());
                self.confirm(seat, intent, seen).await
            }
            Err(error) if error.kind == ErrorKind::DestExists => self.name_taken(seat, error).await,
            // Our temporary name is gone: either an earlier, unanswered rename did it, or a successor took over.
            Err(error) if error.kind == ErrorKind::DestDirMissing => match self.settle(seat, intent).await? {
                Some(finished) => Ok(finished),
                None => Err(error),
            },
            // Asking again would not help: what is left is for a person to decide.
            Err(error) if error.kind == ErrorKind::DestDenied => {
                self.engine.learn(Ability::Rename, false, || chain(&error));
                Err(may_not_rename(&path, error))
            }
            Err(error) => {
                if error.is_connection_lost() {
                    seat.lost();
                }
                Err(error)
            }
        }
    }

    /// The last checkpoint may be older than the last ranges: with this one a file that must wait for its name is not sent
    /// again, in whole or in part. It is no intent, which would say that a missing file was published.
    async fn keep_what_is_proved(&mut self, temp: &RemotePath) {
        let Some(sheet) = &self.sheet else { return };
        let setup = &self.engine.setup;
        let (checkpoint, done) = (sheet.checkpoint(&self.task.pin, temp, self.attempt, setup.epoch), sheet.confirmed_bytes());
        let kept = setup.ledger.checkpoint(self.task.number, &checkpoint, done).await;
        match kept {
            Ok(()) => self.recorded = true,
            Err(error) => warn!(file = %self.task.number, error = %chain(&error), "checkpoint not saved"),
        }
    }

    /// The rename, with the look that `confirm` will want where that costs no round trip of its own.
    async fn rename_seeing(&self, seat: &Seat, intent: &Intent, mode: RenameMode, seen: &mut Option<Look>) -> Result<()> {
        if seat.capabilities().exact_names || !is_plain(intent.path.name()) {
            return seat.rename(&intent.temp, &intent.path, mode).await;
        }
        *seen = Some(seat.rename_and_look(&intent.temp, &intent.path, mode).await?);
        Ok(())
    }

    async fn rename_after_look(&self, seat: &Seat, temp: &RemotePath, path: &RemotePath) -> Result<()> {
        // A server that does not tell of names is asked by opening one; a drop box lets nobody do that either.
        match is_there(seat, path).await {
            Ok(true) => {
                return Err(
                    Error::new(ErrorKind::DestExists, "publish", path).because("a file appeared under this name while ours was sent")
                );
            }
            Ok(false) => {}
            Err(error) if error.is_connection_lost() => return Err(error),
            Err(error) => debug!(error = %chain(&error), "could not look before the rename"),
        }
        seat.rename(temp, path, RenameMode::NoClobber).await
    }

    /// `replace-unsafe` on a server without atomic replacement: the old file steps aside, comes back if ours cannot
    /// take its place, and is removed afterwards. An old file that cannot step aside is left where it is: whoever may
    /// not rename it could not put ours in its place either. Notes for how long the name was missing.
    async fn rename_aside(&self, seat: &Seat, intent: &mut Intent) -> Result<()> {
        let aside = self.aside(intent)?;
        let (temp, path) = (intent.temp.clone(), intent.path.clone());
        let begin = Instant::now();
        let moved = match is_there(seat, &path).await? {
            // It stepped aside already if an earlier try was cut after that.
            false => is_there(seat, &aside).await?,
            true => match seat.rename(&path, &aside, RenameMode::NoClobber).await {
                Ok(()) => true,
                Err(error) if error.is_connection_lost() => return Err(error),
                // Refused, and yet it may be done.
                Err(error) => match (is_there(seat, &path).await?, is_there(seat, &aside).await?) {
                    (false, true) => true,
                    _ => return Err(error),
                },
            },
        };
        if let Err(error) = seat.rename(&temp, &path, RenameMode::NoClobber).await {
            if moved && let Err(lost) = seat.rename(&aside, &path, RenameMode::NoClobber).await {
                warn!(aside = %aside, error = %chain(&lost), "the old file could not be moved back");
            }
            return Err(error);
        }
        let window_ms = if moved { begin.elapsed().as_millis() as u64 } else { 0 };
        intent.delivery.clobber = Clobber::Unsafe { window_ms };
        if moved { self.remove_aside(seat, intent).await } else { Ok(()) }
    }

    /// Where an old file waits while ours takes its place: the same name in every epoch, so that a successor finds it.
    fn aside(&self, intent: &Intent) -> Result<RemotePath> {
        let setup = &self.engine.setup;
        let stable = setup.temp_name.path(&intent.path, &setup.transfer, setup.run, self.task.number, intent.delivery.attempts, 0)?;
        Ok(stable.sibling(&format!("{}.old", stable.name()))?)
    }

    /// Ours is in place: an old file that stays is worth a note and no failure.
    async fn remove_aside(&self, seat: &Seat, intent: &mut Intent) -> Result<()> {
        let aside = self.aside(intent)?;
        let mut outcome = seat.remove(&aside).await;
        if outcome.as_ref().is_err_and(|error| !error.is_connection_lost()) {
            outcome = seat.remove(&aside).await;
        }
        match outcome {
            Err(error) if !error.is_connection_lost() => {
                intent.delivery.notes.push(format!("the old file is still there as {aside}: {}", chain(&error)));
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Servers that store names differently than they were given are found out here, not by the partner.
    async fn confirm(&mut self, seat: &Seat, mut intent: Intent, seen: Option<Look>) -> Result<Finished> {
        if seat.capabilities().exact_names {
            return Ok(delivered(FileState::Delivered, intent));
        }
        if !is_plain(intent.path.name()) {
            match self.stored_exactly(seat, &intent.path).await {
                Ok(true) => return Ok(delivered(FileState::Delivered, intent)),
                Ok(false) => return self.stored_otherwise(seat, intent).await,
                Err(error) if error.is_connection_lost() => return Err(error),
                Err(error) => intent.delivery.notes.push(format!("could not look for the exact name: {}", chain(&error))),
            }
        }
        let seen = match seen {
            Some(seen) => seen,
            None => seat.stat(&intent.path).await,
        };
        match seen {
            Ok(Some(meta)) if meta.size == intent.delivery.pin.size => Ok(delivered(FileState::Delivered, intent)),
            Ok(None) => Ok(delivered(FileState::Collected, intent)),
            Ok(Some(meta)) => {
                intent.delivery.notes.push(format!("the size was {} just after publishing", meta.size));
                Ok(delivered(FileState::Delivered, intent))
            }
            Err(error) => {
                intent.delivery.notes.push(format!("could not look after publishing: {}", chain(&error)));
                Ok(delivered(FileState::Delivered, intent))
            }
        }
    }

    async fn stored_exactly(&self, seat: &Seat, path: &RemotePath) -> Result<bool> {
        let parent = path.parent().unwrap_or_else(RemotePath::root);
        let entries = seat.list(&parent, MOST_NAMES).await?;
        let found = entries.iter().any(|entry| entry.exact && entry.name == path.name());
        if !found && entries.len() >= MOST_NAMES {
            return Err(Error::new(ErrorKind::DestProtocol, "find", path).because("its directory has too many names"));
        }
        Ok(found)
    }

    /// The exact name is not there: the partner has collected the file, or the server took another name for it.
    async fn stored_otherwise(&mut self, seat: &Seat, mut intent: Intent) -> Result<Finished> {
        if !is_there(seat, &intent.path).await? {
            return Ok(delivered(FileState::Collected, intent));
        }
        // Out of the partner's sight again, by the same way of naming it.
        match seat.rename(&intent.path, &intent.temp, RenameMode::NoClobber).await {
            Ok(()) => {
                // The records must not take a file that is gone for one that was collected.
                self.engine.setup.ledger.restart(self.task.number, self.attempt + 1).await?;
                self.verified = None;
                Err(Error::new(ErrorKind::DestNameInvalid, "publish", &intent.path).because(STORED_OTHERWISE))
            }
            Err(error) => {
                intent.delivery.notes.push(format!("the server stored the file under a name that differs: {}", chain(&error)));
                Ok(delivered(FileState::Delivered, intent))
            }
        }
    }

    async fn name_taken(&mut self, seat: &Seat, error: Error) -> Result<Finished> {
        if self.engine.setup.wishes.if_exists == IfExists::Skip {
            self.discard(Some(seat)).await;
            return Ok(Finished { state: FileState::Skipped, delivery: None });
        }
        Err(error)
    }

    /// After an intent whose rename may or may not have happened, the temporary file decides: still there means not
    /// renamed. `None`: nothing of ours is left, start over.
    pub(super) async fn settle(&mut self, seat: &Seat, mut intent: Intent) -> Result<Option<Finished>> {
        if self.engine.setup.wishes.publish == Publish::InPlace {
            if intent.temp != intent.path {
                // An earlier process was to rename it; this one writes under the final name.
                if let Err(error) = seat.remove(&intent.temp).await {
                    warn!(path = %intent.temp, error = %chain(&error), "a temporary file was left behind");
                }
                return Ok(None);
            }
            let there = seat.stat(&intent.path).await?;
            let whole = there.is_some_and(|m| m.size == intent.delivery.pin.size);
            return Ok(whole.then(|| delivered(FileState::Delivered, intent)));
        }
        let setup = &self.engine.setup;
        let own =
            setup.temp_name.path(&intent.path, &setup.transfer, setup.run, self.task.number, intent.delivery.attempts, setup.epoch)?;
        self.attempt = intent.delivery.attempts;
        if intent.temp != own {
            // Fences the process that wrote it: its rename of the old name fails from now on.
            if self.claim(seat, (&intent.temp, intent.delivery.attempts, intent.delivery.epoch), &own).await? {
                intent.temp = own;
                intent.delivery.epoch = setup.epoch;
            }
        }
        if is_there(seat, &intent.temp).await? {
            self.opened = true;
            // The policy of this run counts, not that of the one that wrote the intent.
            intent.delivery.clobber = self.clobber(seat);
            self.verified = Some(intent.clone());
            return Box::pin(self.rename(seat, intent)).await.map(Some);
        }
        // Only the holder of the lease may say that the file was delivered.
        setup.ledger.intent(self.task.number, &intent).await?;
        let unsafely = matches!(intent.delivery.clobber, Clobber::Unsafe { .. });
        let there = seat.stat(&intent.path).await;
        if unsafely && matches!(there, Ok(None)) {
            let aside = self.aside(&intent)?;
            if is_there(seat, &aside).await? {
                // Someone took our temporary file away between the two renames.
                seat.rename(&aside, &intent.path, RenameMode::NoClobber).await?;
                return Ok(None);
            }
        }
        let note = "the answer to the rename was lost; settled by looking";
        intent.delivery.notes.push(note.to_owned());
        match there {
            Ok(Some(meta)) if meta.size == intent.delivery.pin.size => self.settled(seat, intent, unsafely).await,
            Ok(None) => Ok(Some(delivered(FileState::Collected, intent))),
            Ok(Some(_)) => Ok(None),
            Err(error) if error.is_connection_lost() => Err(error),
            // Without stat: our temporary file is gone, and only we rename it.
            Err(_) if is_there(seat, &intent.path).await? => self.settled(seat, intent, unsafely).await,
            Err(_) => Ok(Some(delivered(FileState::Collected, intent))),
        }
    }

    /// The rename did happen: what is left of an unsafe replacement is cleared away.
    async fn settled(&self, seat: &Seat, mut intent: Intent, unsafely: bool) -> Result<Option<Finished>> {
        if unsafely {
            self.remove_aside(seat, &mut intent).await?;
        }
        Ok(Some(delivered(FileState::Delivered, intent)))
    }
}

/// What a look at a name said.
type Look = Result<Option<Metadata>>;

/// Whether something has this name, also where the server refuses to say so: opening it tells.
pub(super) async fn is_there(seat: &Seat, path: &RemotePath) -> Result<bool> {
    let refused = match seat.stat(path).await {
        Ok(found) => return Ok(found.is_some()),
        Err(error) if error.is_connection_lost() => return Err(error),
        Err(error) => error,
    };
    match seat.open_read(path).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind == ErrorKind::DestDirMissing => Ok(false),
        Err(_) => Err(refused),
    }
}

/// Names that every server stores as they are given.
fn is_plain(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+' | b'=' | b',' | b'@');
    name.bytes().all(plain) && !name.starts_with('-') && !name.ends_with('.')
}

fn delivered(state: FileState, intent: Intent) -> Finished {
    Finished { state, delivery: Some(Box::new(intent.delivery)) }
}
