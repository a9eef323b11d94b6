//! Looks at what stands under the final name, says whether there is anything to do, and opens the temporary file.

use model::{FileState, IfExists, Publish, RemotePath};

use super::file::FileRun;
use crate::error::chain;
use crate::pool::Seat;
use crate::port::Finished;
use crate::{Capabilities, CreateOptions, Error, ErrorKind, Metadata, OpenMode, Result, Writer};

/// What stands under the final name.
#[derive(Debug)]
pub(super) enum Seen {
    NotYet,
    Found(Result<Option<Metadata>>),
}

impl FileRun {
    /// What a look at the final name found. A server that lets nobody look is a note and `None`: the rename alone then
    /// obeys the policy.
    pub(super) fn looked_at(&mut self, found: Result<Option<Metadata>>) -> Result<Option<Metadata>> {
        match found {
            Err(error) if matches!(error.kind, ErrorKind::DestDenied | ErrorKind::DestProtocol) && !error.is_connection_lost() => {
                self.notes.push(format!("the server does not tell what stands under a name: {}", chain(&error)));
                Ok(None)
            }
            found => found,
        }
    }

    /// Most likely something has this name already, and nothing will be sent.
    pub(super) fn likely_there(&self) -> bool {
        self.task.previous.is_some() || matches!(self.engine.setup.wishes.if_exists, IfExists::Skip | IfExists::Update)
    }

    /// Whether there is anything to do, from what stands under the final name now.
    pub(super) fn judge(&self, existing: Option<Metadata>, capabilities: &Capabilities) -> Result<Option<Finished>> {
        let wishes = &self.engine.setup.wishes;
        let done = |state| Ok(Some(Finished { state, delivery: None }));
        let exists = |why: &str| Err(Error::new(ErrorKind::DestExists, "deliver to", &self.task.path).because(why.to_owned()));
        if let (false, Some(previous)) = (wishes.resend, &self.task.previous)
            && previous.same_source
        {
            match existing {
                Some(meta) if meta.size == previous.size => return done(FileState::Unchanged),
                None => return done(FileState::Unchanged),
                Some(_) => {}
            }
        }
        let Some(existing) = existing else { return Ok(None) };
        if existing.directory {
            return exists("a directory has this name");
        }
        match wishes.if_exists {
            IfExists::Fail => exists("a file has this name already; --if-exists skip, update or replace decides what to do"),
            IfExists::Skip => done(FileState::Skipped),
            IfExists::Update if self.is_up_to_date(existing) => done(FileState::Unchanged),
            IfExists::Update | IfExists::Replace if !capabilities.atomic_replace && wishes.publish != Publish::InPlace => {
                exists("this server cannot replace a file in one step; --if-exists replace-unsafe moves the old one aside first")
            }
            IfExists::Update | IfExists::Replace | IfExists::ReplaceUnsafe => Ok(None),
        }
    }

    /// `update`: our record says another version was delivered, or size or time differ.
    fn is_up_to_date(&self, existing: Metadata) -> bool {
        if existing.size != self.task.pin.size {
            return false;
        }
        match (&self.task.previous, existing.modified, self.task.pin.modified) {
            (Some(previous), ..) => previous.same_source,
            // Servers keep whole seconds, some two of them.
            (None, Some(there), Some(here)) => there.duration_since(here).abs().as_secs() <= 2,
            (None, ..) => false,
        }
    }

    /// Opens the temporary file for a fresh attempt, creating its directory when the server says it is missing.
    pub(super) async fn open_new(&mut self, seat: &Seat, temp: &RemotePath) -> Result<Box<dyn Writer>> {
        self.open_looking(seat, temp, &mut None).await
    }

    /// Opens our temporary file. Meanwhile it looks at the final name if nobody has, and puts what it saw into `seen`.
    pub(super) async fn open_looking(&mut self, seat: &Seat, temp: &RemotePath, seen: &mut Option<Seen>) -> Result<Box<dyn Writer>> {
        let path = self.task.path.clone();
        let wishes = &self.engine.setup.wishes;
        let replaces = matches!(wishes.if_exists, IfExists::Update | IfExists::Replace | IfExists::ReplaceUnsafe);
        // What this process began in place and could not finish is no file of somebody else.
        let overwrites = wishes.publish == Publish::InPlace && (replaces || self.created);
        let mode = match wishes.publish {
            Publish::InPlace if overwrites => OpenMode::Truncate,
            Publish::InPlace => OpenMode::CreateNew,
            // An open whose answer was lost may have made it.
            _ if self.opened => OpenMode::CreateNew,
            _ => OpenMode::CreateOwn,
        };
        let (mut made_directory, mut removed, mut again) = (false, false, false);
        loop {
            let options = CreateOptions { mode, read: self.readable && seat.capabilities().read, permissions: wishes.permissions };
            let opened = match seen {
                Some(Seen::NotYet) => {
                    let (found, opened) = seat.look_and_open(&path, temp, options).await;
                    *seen = Some(Seen::Found(found));
                    opened
                }
                _ => seat.open(temp, options).await,
            };
            let error = match opened {
                Ok(writer) => {
                    (self.opened, self.created) = (true, true);
                    return Ok(writer);
                }
                Err(error) => error,
            };
            match error.kind {
                ErrorKind::DestDirMissing if !made_directory => {
                    made_directory = true;
                    self.engine.directories.forget(temp).await;
                    let staging = wishes.publish == Publish::StagingDir;
                    self.engine.directories.ensure_parent(&**seat, temp, wishes.make_directories || staging, wishes.make_root).await?;
                }
                // Opening a stream asks for no right to read. A server that gives one refusal for everything may have meant the
                // directory, which another file has made meanwhile.
                ErrorKind::DestDenied if seat.capabilities().is_stream() && !again => again = true,
                // A drop box that does not let us read: try without, and look at what proof is left.
                ErrorKind::DestDenied if options.read && !seat.capabilities().is_stream() => {
                    self.readable = false;
                    let without = self.capabilities(seat);
                    self.plan(&without, false)?;
                }
                // A stream is not written over: what an unanswered open left goes, and another is opened.
                ErrorKind::DestExists if wishes.publish != Publish::InPlace && !removed && seat.capabilities().is_stream() => {
                    removed = true;
                    seat.remove(temp).await?;
                }
                // Our own name: the answer to an earlier open was lost. Nobody else makes it, and writes are idempotent.
                ErrorKind::DestExists if wishes.publish != Publish::InPlace => {
                    let options = CreateOptions { mode: OpenMode::Existing, ..options };
                    let writer = seat.open(temp, options).await?;
                    self.opened = true;
                    return Ok(writer);
                }
                _ => {
                    // It may be there all the same: the answer was lost.
                    self.opened |= error.is_connection_lost();
                    return Err(error);
                }
            }
        }
    }
}
