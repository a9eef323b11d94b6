//! Trying a server out with scratch files: what it can do, what it refuses, what it changes in silence. Each step is a few
//! requests within a bounded time and notes facts in a profile; in which order, and when to stop, is for the caller.

mod earlier;
mod files;
mod names;
mod renames;
mod scratch;
mod sessions;

use std::sync::Arc;
use std::time::Duration;

use model::{Ability, Algorithm, Profile, RemotePath, TempName, Tried};
use tracing::debug;

use crate::error::chain;
use crate::{Connection, Connector, CreateOptions, Error, ErrorKind, NoClobber, OpenMode, Result, Writer};
use scratch::Scratch;

/// How much is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Nothing is written.
    Look,
    /// One small file, in some round trips.
    Probe,
    /// Everything, a deliberate cut among it.
    Rehearse,
}

/// One thing to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Look,
    Upload,
    ReadBack,
    Digests,
    Attributes,
    Rename,
    RenameOnto,
    KeepTaken,
    Overwrite,
    Directory,
    Offsets,
    Continue,
    Cut,
    Names,
    Logins,
}

impl Step {
    /// The steps of a depth, in their order: later ones count on what earlier ones found out.
    pub fn of(depth: Depth) -> &'static [Self] {
        match depth {
            Depth::Look => &[Self::Look],
            Depth::Probe => &[Self::Look, Self::Upload, Self::ReadBack, Self::Digests, Self::Attributes, Self::Rename, Self::RenameOnto],
            Depth::Rehearse => &[
                Self::Look,
                Self::Upload,
                Self::ReadBack,
                Self::Digests,
                Self::Attributes,
                Self::Rename,
                Self::RenameOnto,
                Self::KeepTaken,
                Self::Overwrite,
                Self::Directory,
                Self::Offsets,
                Self::Continue,
                Self::Cut,
                Self::Names,
                Self::Logins,
            ],
        }
    }

    /// What is being done, for whoever waits.
    pub fn words(self) -> &'static str {
        match self {
            Self::Look => "looking at the directory",
            Self::Upload => "sending a scratch file",
            Self::ReadBack => "reading it back",
            Self::Digests => "asking for its digest",
            Self::Attributes => "setting its time and permissions",
            Self::Rename => "renaming it",
            Self::RenameOnto => "renaming it onto another file",
            Self::KeepTaken => "renaming it onto a name that must stay",
            Self::Overwrite => "writing a file anew",
            Self::Directory => "creating a directory",
            Self::Offsets => "writing at offsets",
            Self::Continue => "going on with a file",
            Self::Cut => "cutting the line in the middle of a file, and going on",
            Self::Names => "trying names",
            Self::Logins => "opening more sessions",
        }
    }

    fn abilities(self) -> &'static [Ability] {
        match self {
            Self::Look => &[Ability::Stat, Ability::List, Ability::FreeSpace],
            Self::Upload => &[Ability::Write, Ability::Sync],
            Self::ReadBack => &[Ability::Read, Ability::Faithful],
            Self::Digests => &[Ability::HashSha256, Ability::HashMd5],
            Self::Attributes => &[Ability::SetTimes, Ability::SetMode],
            Self::Rename => &[Ability::Rename],
            Self::RenameOnto => &[Ability::Replace],
            Self::KeepTaken => &[Ability::NoClobber],
            Self::Overwrite => &[Ability::Overwrite],
            Self::Directory => &[Ability::MakeDirectory],
            Self::Offsets => &[Ability::OffsetWrites],
            Self::Continue => &[Ability::Continues],
            Self::Cut => &[Ability::Resumes],
            Self::Names => &[Ability::KeepsCase, Ability::KeepsSpaces, Ability::KeepsDots, Ability::KeepsUnicode, Ability::LongNames],
            Self::Logins => &[],
        }
    }

    /// The longest that a step may take, on a line that is allowed to be silent for `patience`.
    fn bound(self, patience: Duration) -> Duration {
        match self {
            Self::Upload | Self::ReadBack => patience + 2 * files::MOVED_FOR,
            Self::Cut => 2 * patience + 4 * files::MOVED_FOR,
            Self::Logins | Self::Names => 2 * patience + Duration::from_secs(20),
            _ => patience + Duration::from_secs(10),
        }
    }
}

/// So often may the connection be lost while trying, before the rest is left.
const LOSSES: u32 = 3;
/// Tries to come back after a lost connection: a server may count the old session for a moment.
const RETURNS: u32 = 6;
const RETURN_AFTER: Duration = Duration::from_millis(500);
/// The most that clearing up may take, all together.
const CLEARING: Duration = Duration::from_secs(30);
/// And the closing of a session in good order.
const GOODBYE: Duration = Duration::from_secs(5);

/// Where things are tried: a directory of a server, the scratch files in it, and what was found out.
#[derive(Debug)]
pub struct Ground {
    connector: Arc<dyn Connector>,
    connection: Option<Arc<dyn Connection>>,
    directory: RemotePath,
    scratch: Scratch,
    profile: Profile,
    patience: Duration,
    /// How large the scratch file is to be, and how large it became.
    wanted: u64,
    main: Option<(RemotePath, u64)>,
    losses: u32,
}

impl Ground {
    /// `unique` makes the names of the scratch files; `patience` is how long the server may be silent.
    pub fn new(
        connector: Arc<dyn Connector>,
        connection: Box<dyn Connection>,
        directory: RemotePath,
        names: (TempName, model::TransferId),
        profile: Profile,
        depth: Depth,
        patience: Duration,
    ) -> Self {
        let wanted = if depth == Depth::Rehearse { files::REHEARSED } else { files::PROBED };
        let scratch = Scratch::new(directory.clone(), names.0, names.1);
        let mut ground =
            Self { connector, connection: Some(connection.into()), directory, scratch, profile, patience, wanted, main: None, losses: 0 };
        ground.meet();
        ground.announced();
        ground
    }

    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Notes something that was found out elsewhere.
    pub fn note(&mut self, ability: Ability, known: impl Into<Tried>, evidence: &str) {
        self.profile.note(ability, known, evidence, jiff::Timestamp::now());
    }

    /// Whether trying more makes sense: without a file there is nothing to try.
    pub fn may_go_on(&self) -> bool {
        self.profile.knows(Ability::Write) != Tried::No
    }

    /// Takes one step. What the server refuses is a fact; an error is what ends the whole: a directory that is not there, a
    /// server that cannot be reached any more.
    pub async fn take(&mut self, step: Step) -> Result<()> {
        self.connected().await?;
        let bound = step.bound(self.patience);
        let outcome = tokio::time::timeout(bound, self.carry_out(step)).await;
        let error = match outcome {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) if error.kind == ErrorKind::DestDirMissing && matches!(step, Step::Look | Step::Upload) => return Err(error),
            Ok(Err(error)) => error,
            Err(_) => Error::new(ErrorKind::NetworkStalled, "finish", crate::Subject::Nothing)
                .because(format!("{} took longer than {} s", step.words(), bound.as_secs()))
                .on_lost_connection(),
        };
        debug!(?step, error = %chain(&error), "a step came to no answer");
        for ability in step.abilities() {
            if self.profile.fact(*ability).is_none_or(|fact| fact.known == Tried::Unknown) {
                self.note(*ability, Tried::Unknown, &chain(&error));
            }
        }
        if !error.is_connection_lost() {
            return Ok(());
        }
        self.connection = None;
        self.losses += 1;
        if self.losses >= LOSSES { Err(error) } else { Ok(()) }
    }

    async fn carry_out(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Look => self.look().await,
            Step::Upload => self.upload().await,
            Step::ReadBack => self.read_back().await,
            Step::Digests => self.digests().await,
            Step::Attributes => self.attributes().await,
            Step::Rename => self.rename().await,
            Step::RenameOnto => self.rename_onto().await,
            Step::KeepTaken => self.keep_taken().await,
            Step::Overwrite => self.overwrite().await,
            Step::Directory => self.directory().await,
            Step::Offsets => self.offsets().await,
            Step::Continue => self.go_on().await,
            Step::Cut => self.cut().await,
            Step::Names => self.names().await,
            Step::Logins => self.logins().await,
        }
    }

    /// Removes every scratch file, over a new connection where the old one is gone, within a bounded time. What could not
    /// be removed is in the profile.
    pub async fn clear(&mut self) {
        let worked = tokio::time::timeout(CLEARING.min(2 * self.patience + RETURN_AFTER), self.remove_all()).await;
        if worked.is_err() {
            self.connection = None;
        }
        for path in self.scratch.left() {
            self.profile.left(path.as_str());
        }
        if let Some(connection) = self.connection.take() {
            let _ = tokio::time::timeout(self.patience.min(GOODBYE), connection.close()).await;
        }
    }

    /// Whatever step was interrupted holds the line no more.
    pub fn interrupted(&mut self) {
        self.connection = None;
    }

    async fn remove_all(&mut self) {
        for path in self.scratch.left() {
            for _ in 0..2 {
                let Ok(connection) = self.connected().await else { return };
                let outcome = match self.scratch.is_directory(&path) {
                    true => connection.remove_directory(&path).await,
                    false => connection.remove(&path).await,
                };
                match outcome {
                    Ok(()) => {
                        self.scratch.removed(&path);
                        if self.profile.knows(Ability::Remove) != Tried::No {
                            self.note(Ability::Remove, true, "scratch files were removed");
                        }
                    }
                    Err(error) if error.is_connection_lost() => {
                        self.connection = None;
                        continue;
                    }
                    Err(error) => self.note(Ability::Remove, false, &chain(&error)),
                }
                break;
            }
        }
    }

    /// The connection, opened again where it was lost.
    async fn connected(&mut self) -> Result<Arc<dyn Connection>> {
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        let mut tries = 0;
        let connection = loop {
            tries += 1;
            match self.connector.connect().await {
                Ok(connection) => break connection,
                Err(error) if tries >= RETURNS || matches!(error.kind, ErrorKind::DestHostKey | ErrorKind::DestTls) => return Err(error),
                // A good login that is refused now is one too many for the moment, but nobody's account shall be locked for it.
                Err(error) if error.kind == ErrorKind::DestAuth && tries >= 2 => return Err(error),
                Err(error) => debug!(error = %chain(&error), "the server does not let us back yet"),
            }
            tokio::time::sleep(RETURN_AFTER * tries).await;
        };
        let connection: Arc<dyn Connection> = connection.into();
        self.connection = Some(connection.clone());
        self.meet();
        Ok(connection)
    }

    /// Takes over what the server says of itself.
    fn meet(&mut self) {
        let Some(connection) = self.connection.clone() else { return };
        let identity = connection.identity();
        self.profile.software = identity.software.as_deref().map(model::profile::bounded);
        self.profile.fingerprint = identity.host_key.clone();
        self.profile.address = identity.address.map(|address| address.to_string());
        self.profile.local_address = identity.local_address.map(|address| address.to_string());
        self.profile.round_trip_ms = identity.round_trip.as_secs_f64() * 1000.0;
        for fact in &identity.facts {
            self.profile.detail(fact.name, &fact.value);
        }
    }

    /// What is offered is not yet known to work; what is not offered is known not to.
    fn announced(&mut self) {
        let Some(connection) = self.connection.clone() else { return };
        let capabilities = connection.capabilities();
        let offers = [
            (Ability::OffsetWrites, capabilities.offset_writes),
            (Ability::Sync, capabilities.sync),
            (Ability::Replace, capabilities.atomic_replace),
            (Ability::SetTimes, capabilities.set_times),
            (Ability::SetMode, capabilities.set_mode),
            (Ability::HashSha256, capabilities.hashes.contains(&Algorithm::Sha256)),
            (Ability::HashMd5, capabilities.hashes.contains(&Algorithm::Md5)),
            (Ability::FreeSpace, capabilities.free_space),
        ];
        for (ability, offered) in offers {
            match offered {
                true => self.note(ability, Tried::Unknown, "offered, not tried"),
                false => self.note(ability, false, "not offered"),
            }
        }
        // Where offsets can be written there is nothing to continue.
        if !capabilities.offset_writes {
            match capabilities.continues {
                true => self.note(Ability::Continues, Tried::Unknown, "offered, not tried"),
                false => self.note(Ability::Continues, false, "not offered"),
            }
        }
        let confirms = if capabilities.confirms_writes { "by the protocol" } else { "only the end of a file is answered" };
        self.note(Ability::ConfirmsWrites, capabilities.confirms_writes, confirms);
        if capabilities.no_clobber == NoClobber::Atomic {
            self.note(Ability::NoClobber, Tried::Unknown, "offered, not tried");
        }
    }

    async fn look(&mut self) -> Result<()> {
        let connection = self.connected().await?;
        let directory = self.directory.clone();
        match heard(connection.stat(&directory).await)? {
            Ok(Some(found)) if found.directory => self.note(Ability::Stat, true, "the directory was looked at"),
            Ok(_) => {
                return Err(Error::new(ErrorKind::DestDirMissing, "use the directory", &directory).because("there is no such directory"));
            }
            Err(why) => self.note(Ability::Stat, false, &why),
        }
        match heard(connection.list(&directory, 1000).await)? {
            Ok(_) => self.note(Ability::List, true, "the directory was listed"),
            Err(why) => self.note(Ability::List, false, &why),
        }
        if connection.capabilities().free_space {
            match heard(connection.free_space(&directory).await)? {
                Ok(Some(bytes)) => {
                    self.profile.free_bytes = Some(bytes);
                    self.note(Ability::FreeSpace, true, "it was told");
                }
                Ok(None) => self.note(Ability::FreeSpace, false, "it is not told here"),
                Err(why) => self.note(Ability::FreeSpace, false, &why),
            }
        }
        Ok(())
    }

    /// A scratch file that holds `data`, closed.
    async fn small_file(&mut self, data: &'static [u8]) -> Result<RemotePath> {
        let path = self.scratch.fresh()?;
        let writer = self.create(&path, OpenMode::CreateNew).await?;
        writer.write_at(0, bytes::Bytes::from_static(data)).await?;
        writer.close().await?;
        Ok(path)
    }

    async fn create(&mut self, path: &RemotePath, mode: OpenMode) -> Result<Box<dyn Writer>> {
        let connection = self.connected().await?;
        let read = connection.capabilities().read && self.profile.knows(Ability::Read) != Tried::No;
        match connection.open(path, CreateOptions { mode, read, permissions: None }).await {
            // A drop box refuses whoever also wants to read.
            Err(error) if error.kind == ErrorKind::DestDenied && read && !connection.capabilities().is_stream() => {
                let writer = connection.open(path, CreateOptions { mode, read: false, permissions: None }).await?;
                self.note(Ability::Read, false, &chain(&error));
                Ok(writer)
            }
            outcome => outcome,
        }
    }

    /// The scratch file that was sent, or why nothing can be tried on it.
    fn main(&self) -> Result<(RemotePath, u64)> {
        let missing = || Error::new(ErrorKind::DestDenied, "try it", crate::Subject::Nothing).because("no scratch file could be sent");
        self.main.clone().ok_or_else(missing)
    }
}

/// An answer is one even if it is a refusal, in its words; only what a lost connection explains is an error.
fn heard<T>(outcome: Result<T>) -> Result<std::result::Result<T, String>> {
    match outcome {
        Ok(value) => Ok(Ok(value)),
        Err(error) if error.is_connection_lost() => Err(error),
        Err(error) => Ok(Err(chain(&error))),
    }
}
