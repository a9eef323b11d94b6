//! The port of the engine, answered by commands of FTP.

use std::sync::Arc;

use async_trait::async_trait;
use model::{Algorithm, Digest, DigestSet, Endpoint, RemotePath};

use super::config::{FtpConfig, Security};
use super::connect::{Known, Shared, open_session};
use super::control::Command;
use super::error::{Failure, Lost, says_missing};
use super::features::DigestCommand;
use super::list;
use super::look::{Look, number};
use super::open::{Place, Wanted};
use super::reply::Reply;
use super::session::{Line, Session};
use super::tls::Trust;
use super::writer::{FtpWriter, Purpose, Stage};
use crate::destination::{
    Capabilities, Connection, Connector, CreateOptions, Entry, Metadata, OpenMode, RenameMode, ServerIdentity, Writer,
};
use crate::digest::StreamDigests;
use crate::{ErrorKind, Result};

/// Opens sessions on one FTP server, and remembers what they learn of it.
#[derive(Debug, Clone)]
pub struct FtpConnector {
    shared: Arc<Shared>,
}

impl FtpConnector {
    /// Reads every file that the settings of TLS name: a mistake in them is `dest_tls` before anything is sent.
    pub fn new(config: FtpConfig) -> Result<Self> {
        let trust = match config.security {
            Security::Clear => None,
            Security::Explicit | Security::Implicit => Some(Trust::load(&config)?),
        };
        Ok(Self { shared: Arc::new(Shared { config, trust, known: Known::default() }) })
    }

    /// Opens a session, with its own type.
    pub async fn open(&self) -> Result<FtpConnection> {
        let opened = open_session(&self.shared).await?;
        Ok(FtpConnection { session: Arc::new(Session::new(self.shared.clone(), opened)) })
    }
}

#[async_trait]
impl Connector for FtpConnector {
    fn endpoint(&self) -> &Endpoint {
        &self.shared.config.endpoint
    }

    async fn connect(&self) -> Result<Box<dyn Connection>> {
        Ok(Box::new(self.open().await?))
    }
}

/// A session that is logged in.
#[derive(Debug)]
pub struct FtpConnection {
    session: Arc<Session>,
}

pub(super) fn ask_mode(wire: &[u8], mode: u32) -> Result<Command, Failure> {
    Command::new(&format!("SITE CHMOD {:o}", mode & 0o7777), wire)
}

pub(super) fn positive(reply: Reply) -> Result<(), Failure> {
    if reply.is_positive() { Ok(()) } else { Err(reply.into()) }
}

pub(super) async fn set_mode(line: &mut Line, wire: &[u8], mode: u32) -> Result<(), Failure> {
    positive(line.ask(ask_mode(wire, mode)?).await?)
}

/// The command that sets a time.
pub(super) fn ask_time(session: &Session, wire: &[u8], time: jiff::Timestamp) -> Result<Command, Failure> {
    let verb = match &session.features {
        features if features.set_time => "MFMT",
        features if features.set_time_by_query => "MDTM",
        _ => return Err(Failure::refused(ErrorKind::DestProtocol, "the server does not offer to set a time")),
    };
    let utc = time.to_zoned(jiff::tz::TimeZone::UTC);
    if !(0..=9999).contains(&utc.year()) {
        return Err(Failure::refused(ErrorKind::DestDenied, "FTP knows years of four digits only"));
    }
    Command::new(&format!("{verb} {}", utc.strftime("%Y%m%d%H%M%S")), wire)
}

pub(super) fn judge_time(session: &Session, reply: Reply) -> Result<(), Failure> {
    let own = session.features.set_time;
    // MDTM that was taken for a question is answered with a time, or with a refusal of a name nobody has.
    let taken = reply.code == 213 && (own || !reply.first().first().is_some_and(u8::is_ascii_digit));
    if taken || (own && reply.is_positive()) { Ok(()) } else { Err(reply.into()) }
}

pub(super) async fn set_time(session: &Session, line: &mut Line, wire: &[u8], time: jiff::Timestamp) -> Result<(), Failure> {
    let reply = line.ask(ask_time(session, wire, time)?).await?;
    judge_time(session, reply)
}

impl FtpConnection {
    async fn line(&self) -> Result<tokio::sync::MutexGuard<'_, Line>, Failure> {
        self.session.free_line().await
    }

    async fn removed(&self, verb: &str, path: &RemotePath, directory: bool) -> Result<(), Failure> {
        let mut line = self.line().await?;
        let reply = line.ask(Command::new(verb, self.session.wire(path))?).await?;
        if reply.is_positive() {
            return Ok(());
        }
        if !matches!(reply.code, 450 | 550 | 551 | 553) {
            return Err(reply.into());
        }
        match self.session.look(&mut line, path).await {
            Ok(None) => Ok(()),
            Ok(Some(found)) if found.directory != directory => Err(Failure::Reply(reply, Some(ErrorKind::DestDenied))),
            Err(Failure::Lost(lost)) => Err(lost.into()),
            Err(_) if says_missing(&reply.words()) => Ok(()),
            _ => Err(reply.into()),
        }
    }

    async fn opened(&self, line: &mut Line, path: &RemotePath, options: CreateOptions) -> Result<FtpWriter, Failure> {
        let session = &self.session;
        let wire = session.wire(path);
        let owner = session.next_owner();
        let purpose = Purpose { writable: true, readable: options.read, permissions: options.permissions };
        let writer = |stage, purpose| FtpWriter::new(session.clone(), path.clone(), owner, stage, purpose);
        let wanted = Wanted { owner, verb: "STOR", path: &wire, offset: 0, upload: true, fresh: false };
        match options.mode {
            OpenMode::Truncate => {}
            OpenMode::CreateOwn => {
                let place = session.prepare(line, &[], 0).await?.1;
                return self.created(line, path, options, None, Some(place), owner).await;
            }
            OpenMode::CreateNew => {
                let (replies, place) = session.prepare(line, &session.ask_file(&wire)?, 0).await?;
                return self.created(line, path, options, Some(&replies), Some(place), owner).await;
            }
            OpenMode::Existing => {
                is_open_to(session.look(line, path).await?, None)?;
                return Ok(writer(Stage::Ready, Purpose { permissions: None, ..purpose }));
            }
            OpenMode::Continue(offset) => {
                let (replies, place) = match session.prepare(line, &session.ask_look(path)?, offset).await {
                    Ok(prepared) => prepared,
                    Err(failure) => return Err(session.explain(line, failure, path).await),
                };
                let (found, place) = match session.judge_look(&replies) {
                    Some(found) => (found, Some(place)),
                    // A listing uses up the place.
                    None => (session.look_further(line, path, replies).await, None),
                };
                is_open_to(found?, Some(offset))?;
                return match session.begin(line, place, Wanted { offset, ..wanted }).await {
                    Ok(()) => Ok(writer(Stage::Writing, Purpose { permissions: None, ..purpose })),
                    Err(failure) => Err(session.explain(line, failure, path).await),
                };
            }
        }
        match session.begin(line, None, wanted).await {
            Ok(()) => Ok(writer(Stage::Writing, purpose)),
            Err(failure) => Err(session.explain(line, failure, path).await),
        }
    }

    /// Opens a new file, after `replies` to the question whether there is one already, if that was asked.
    async fn created(
        &self,
        line: &mut Line,
        path: &RemotePath,
        options: CreateOptions,
        replies: Option<&[Reply]>,
        place: Option<Place>,
        owner: u64,
    ) -> Result<FtpWriter, Failure> {
        let session = &self.session;
        let wire = session.wire(path);
        let (taken, place) = match replies.map_or(Ok(Look::Nothing), |replies| session.judge_file(replies)) {
            Ok(Look::Found(_)) => (true, None),
            Ok(Look::Nothing) => (false, place),
            // Looking in another way may use up the place. Where nothing can be looked at, as in a drop box,
            // the name is the engine's own and taken by nobody.
            Ok(Look::Unclear) | Err(_) => match session.look(line, path).await {
                Ok(found) => (found.is_some(), None),
                Err(Failure::Lost(lost)) => return Err(lost.into()),
                Err(_) => (false, None),
            },
        };
        if taken {
            return Err(Failure::refused(ErrorKind::DestExists, "the name is taken"));
        }
        let wanted = Wanted { owner, verb: "STOR", path: &wire, offset: 0, upload: true, fresh: true };
        match session.begin(line, place, wanted).await {
            Ok(()) => {
                let purpose = Purpose { writable: true, readable: options.read, permissions: options.permissions };
                Ok(FtpWriter::new(session.clone(), path.clone(), owner, Stage::Writing, purpose))
            }
            Err(failure) => Err(session.explain(line, failure, path).await),
        }
    }

    /// Looks at one name and creates another, in one round trip as far as the answers are clear.
    async fn looked_and_created(
        &self,
        look: &RemotePath,
        path: &RemotePath,
        options: CreateOptions,
    ) -> Result<(Result<Option<Metadata>, Failure>, Result<FtpWriter, Failure>), Failure> {
        let session = &self.session;
        let mut line = self.line().await?;
        let mut commands = session.ask_look(look)?;
        let first = commands.len();
        let asks = options.mode == OpenMode::CreateNew;
        if asks {
            commands.extend(session.ask_file(&session.wire(path))?);
        }
        let (mut replies, place) = session.prepare(&mut line, &commands, 0).await?;
        let about_path = replies.split_off(first);
        let mut place = Some(place);
        let found = match session.judge_look(&replies) {
            Some(found) => found,
            None => {
                // A listing uses up the place.
                place = None;
                session.look_further(&mut line, look, replies).await
            }
        };
        if let Err(Failure::Lost(lost)) = found {
            return Err(lost.into());
        }
        let opened = self.created(&mut line, path, options, asks.then_some(&about_path[..]), place, session.next_owner()).await;
        Ok((found, opened))
    }

    async fn renamed(&self, from: &RemotePath, to: &RemotePath, mode: RenameMode) -> Result<(), Failure> {
        let session = &self.session;
        let (old, new) = (session.wire(from), session.wire(to));
        let mut line = self.line().await?;
        if mode == RenameMode::NoClobber && session.look(&mut line, to).await?.is_some() {
            return Err(Failure::refused(ErrorKind::DestExists, "the name is taken"));
        }
        // One after the other, so that nothing but the answer to the second half can be taken for it.
        line.half_renamed = true;
        let first = line.ask(Command::new("RNFR", &old)?).await?;
        if !first.is_intermediate() {
            line.half_renamed = false;
            return Err(self.why_not_begun(&mut line, first, from).await);
        }
        let reply = line.ask(Command::new("RNTO", &new)?).await?;
        line.half_renamed = false;
        if reply.is_positive() { Ok(()) } else { Err(self.why_not_renamed(&mut line, reply, to).await) }
    }

    /// A refusal of RNFR, likewise.
    async fn why_not_begun(&self, line: &mut Line, reply: Reply, from: &RemotePath) -> Failure {
        match self.session.look(line, from).await {
            Ok(None) => Failure::Reply(reply, Some(ErrorKind::DestDirMissing)),
            Err(Failure::Lost(lost)) => lost.into(),
            // It is there, and nothing was said of the new name yet: this account may not rename.
            Ok(Some(_)) if reply.code >= 500 => {
                let kind = Failure::from(reply.clone()).kind().unwrap_or(ErrorKind::DestDenied);
                Failure::Reply(reply, Some(kind))
            }
            _ => reply.into(),
        }
    }

    /// Both halves of a rename and a look at the new name in one round trip. The last answer is like no other's, and so shows
    /// that each command had exactly one: the facts of a name, or where a look has no such answer that to PWD.
    async fn renamed_and_looked(
        &self,
        from: &RemotePath,
        to: &RemotePath,
        mode: RenameMode,
    ) -> Result<Result<Option<Metadata>, Failure>, Failure> {
        let session = &self.session;
        let mut line = self.line().await?;
        if mode == RenameMode::NoClobber && session.look(&mut line, to).await?.is_some() {
            return Err(Failure::refused(ErrorKind::DestExists, "the name is taken"));
        }
        let mut commands = vec![Command::new("RNFR", session.wire(from))?, Command::new("RNTO", session.wire(to))?];
        commands.extend(session.ask_look(to)?);
        let facts = session.features.machine_lists;
        if !facts {
            commands.push(Command::word("PWD"));
        }
        let mut replies = line.ask_all(&commands).await?;
        let told = facts && replies.last().is_some_and(|last| matches!(session.judge_file(std::slice::from_ref(last)), Ok(Look::Found(_))));
        let last = match facts {
            false => replies.pop(),
            true if told => None,
            true => Some(line.ask(Command::word("PWD")).await?),
        };
        if !told && last.is_none_or(|last| last.code != 257) {
            return line.note(Err(Lost::protocol("it answered more or less than it was asked")));
        }
        let looked = replies.split_off(2);
        let (second, first) = (replies.pop(), replies.pop());
        let (Some(first), Some(second)) = (first, second) else { unreachable!("each command has its reply") };
        if !first.is_intermediate() {
            return Err(self.why_not_begun(&mut line, first, from).await);
        }
        if !second.is_positive() {
            return Err(self.why_not_renamed(&mut line, second, to).await);
        }
        Ok(match session.judge_look(&looked) {
            Some(found) => found,
            None => session.look_further(&mut line, to, looked).await,
        })
    }

    /// A refusal of RNTO, with the class that looking around gives it.
    async fn why_not_renamed(&self, line: &mut Line, reply: Reply, to: &RemotePath) -> Failure {
        let session = &self.session;
        let failure = Failure::from(reply.clone());
        if !matches!(failure.kind(), None | Some(ErrorKind::DestDenied | ErrorKind::DestDirMissing)) {
            return failure;
        }
        let kind = match session.look(line, to).await {
            Ok(Some(_)) => Some(ErrorKind::DestExists),
            Ok(None) => match to.parent() {
                Some(parent) => match session.look(line, &parent).await {
                    Ok(None) => Some(ErrorKind::DestDirMissing),
                    Ok(Some(found)) if !found.directory => Some(ErrorKind::DestDirMissing),
                    _ => failure.kind(),
                },
                None => failure.kind(),
            },
            Err(Failure::Lost(lost)) => return lost.into(),
            Err(_) => failure.kind(),
        };
        Failure::Reply(reply, kind)
    }

    async fn digest(&self, path: &RemotePath, algorithm: Algorithm) -> Result<Option<Digest>, Failure> {
        let session = &self.session;
        let Some(digester) = session.features.digester(algorithm) else { return Ok(None) };
        let wire = session.wire(path);
        let mut line = self.line().await?;
        let size = match session.look(&mut line, path).await {
            Ok(found) => found.map(|found| found.size),
            Err(Failure::Lost(lost)) => return Err(lost.into()),
            Err(_) => None,
        };
        let (empty, size) = (size == Some(0), size.unwrap_or(0));
        // No server that is in its right mind hashes slower than 10 MB a second.
        let bound = session.shared.config.stall_timeout + std::time::Duration::from_secs((size / 10_000_000).min(24 * 3600));
        let verb = match digester.command {
            DigestCommand::Own(verb) => verb,
            DigestCommand::Hash(name) => {
                let chosen = line.ask(Command::new("OPTS HASH", name)?).await?;
                if !chosen.is_positive() {
                    return Err(chosen.into());
                }
                "HASH"
            }
        };
        let reply = line.ask_within(Command::new(verb, &wire)?, bound).await?;
        if !reply.is_positive() {
            // ProFTPD refuses to compute what an empty file has, and every empty file has the same.
            if empty && let Some(digest) = of_nothing(algorithm) {
                return Ok(Some(digest));
            }
            return Err(session.explain(&mut line, reply.into(), path).await);
        }
        // HASH answers "SHA-256 0-49 DIGEST name", the others the digest alone; both may have words around.
        let text = reply.lines.iter().map(|line| String::from_utf8_lossy(line)).collect::<Vec<_>>().join(" ");
        let found = text.split_ascii_whitespace().find_map(|word| Digest::from_hex(algorithm, word).ok());
        match found {
            Some(digest) => Ok(Some(digest)),
            None => Err(Failure::refused(ErrorKind::DestProtocol, format!("there is no {algorithm} in what it says: {reply}"))),
        }
    }
}

/// Whether what a look found can be written to from `offset` on.
fn is_open_to(found: Option<Metadata>, offset: Option<u64>) -> Result<(), Failure> {
    match found {
        None => Err(Failure::refused(ErrorKind::DestDirMissing, "there is no such file")),
        Some(found) if found.directory => Err(Failure::refused(ErrorKind::DestDenied, "it is a directory")),
        // Some servers fill the gap with zeros and call it a success.
        Some(found) if offset.is_some_and(|offset| offset > found.size) => {
            Err(Failure::refused(ErrorKind::DestProtocol, format!("it ends at byte {}", found.size)))
        }
        Some(_) => Ok(()),
    }
}

fn of_nothing(algorithm: Algorithm) -> Option<Digest> {
    let wanted = DigestSet { sha256: algorithm == Algorithm::Sha256, md5: algorithm == Algorithm::Md5 };
    let (sha256, md5) = StreamDigests::new(wanted).finish();
    Digest::from_hex(algorithm, &sha256.or(md5)?).ok()
}

#[async_trait]
impl Connection for FtpConnection {
    fn capabilities(&self) -> &Capabilities {
        &self.session.capabilities
    }

    fn identity(&self) -> &ServerIdentity {
        &self.session.identity
    }

    async fn stat(&self, path: &RemotePath) -> Result<Option<Metadata>> {
        let work = async { self.session.look(&mut *self.line().await?, path).await };
        work.await.map_err(|failure| failure.into_error("look at", path, ErrorKind::DestProtocol))
    }

    async fn list(&self, path: &RemotePath, limit: usize) -> Result<Vec<Entry>> {
        let work = async { list::entries(&self.session, &mut *self.line().await?, path, limit).await };
        work.await.map_err(|failure| failure.into_error("list", path, ErrorKind::DestProtocol))
    }

    async fn make_directory(&self, path: &RemotePath) -> Result<()> {
        let work = async {
            let mut line = self.line().await?;
            let reply = line.ask(Command::new("MKD", self.session.wire(path))?).await?;
            if reply.is_positive() {
                return Ok(());
            }
            // Whatever its words are: it may be there, or lack a place to be.
            match self.session.look(&mut line, path).await {
                Ok(Some(found)) if found.directory => Ok(()),
                Ok(Some(_)) => Err(Failure::Reply(reply, Some(ErrorKind::DestExists))),
                Err(Failure::Lost(lost)) => Err(lost.into()),
                _ => Err(self.session.explain(&mut line, reply.into(), path).await),
            }
        };
        work.await.map_err(|failure| failure.into_error("create the directory", path, ErrorKind::DestDenied))
    }

    async fn remove_directory(&self, path: &RemotePath) -> Result<()> {
        self.removed("RMD", path, true).await.map_err(|failure| failure.into_error("remove the directory", path, ErrorKind::DestDenied))
    }

    async fn open(&self, path: &RemotePath, options: CreateOptions) -> Result<Box<dyn Writer>> {
        let work = async { self.opened(&mut *self.line().await?, path, options).await };
        match work.await {
            Ok(writer) => Ok(Box::new(writer)),
            Err(failure) => Err(failure.into_error("open", path, ErrorKind::DestDenied)),
        }
    }

    async fn look_and_open(
        &self,
        look: &RemotePath,
        path: &RemotePath,
        options: CreateOptions,
    ) -> (Result<Option<Metadata>>, Result<Box<dyn Writer>>) {
        if !matches!(options.mode, OpenMode::CreateNew | OpenMode::CreateOwn) {
            return (self.stat(look).await, self.open(path, options).await);
        }
        let not_seen = |failure: Failure| failure.into_error("look at", look, ErrorKind::DestProtocol);
        let not_opened = |failure: Failure| failure.into_error("open", path, ErrorKind::DestDenied);
        match self.looked_and_created(look, path, options).await {
            Ok((found, Ok(writer))) => (found.map_err(not_seen), Ok(Box::new(writer))),
            Ok((found, Err(failure))) => (found.map_err(not_seen), Err(not_opened(failure))),
            // Whatever stopped both, each says it in its own words.
            Err(Failure::Lost(lost)) => (Err(not_seen(lost.clone().into())), Err(not_opened(lost.into()))),
            Err(_) => (self.stat(look).await, self.open(path, options).await),
        }
    }

    async fn open_read(&self, path: &RemotePath) -> Result<Box<dyn Writer>> {
        let session = &self.session;
        let work = async {
            let mut line = self.line().await?;
            match session.look(&mut line, path).await {
                Ok(None) => return Err(Failure::refused(ErrorKind::DestDirMissing, "there is no such file")),
                Ok(Some(found)) if found.directory => return Err(Failure::refused(ErrorKind::DestDenied, "it is a directory")),
                Err(Failure::Lost(lost)) => return Err(lost.into()),
                // Where looking is refused, reading itself will tell.
                Ok(Some(_)) | Err(_) => {}
            }
            let purpose = Purpose { writable: false, readable: true, permissions: None };
            Ok(FtpWriter::new(session.clone(), path.clone(), session.next_owner(), Stage::Ready, purpose))
        };
        match work.await {
            Ok(writer) => Ok(Box::new(writer)),
            Err(failure) => Err(failure.into_error("open", path, ErrorKind::DestDenied)),
        }
    }

    async fn rename(&self, from: &RemotePath, to: &RemotePath, mode: RenameMode) -> Result<()> {
        self.renamed(from, to, mode).await.map_err(|failure| failure.into_error("rename to", to, ErrorKind::DestPublishFailed))
    }

    async fn rename_and_look(&self, from: &RemotePath, to: &RemotePath, mode: RenameMode) -> Result<Result<Option<Metadata>>> {
        // Only where PWD has an answer of its own.
        if self.session.home.is_none() {
            self.rename(from, to, mode).await?;
            return Ok(self.stat(to).await);
        }
        match self.renamed_and_looked(from, to, mode).await {
            Ok(found) => Ok(found.map_err(|failure| failure.into_error("look at", to, ErrorKind::DestProtocol))),
            Err(failure) => Err(failure.into_error("rename to", to, ErrorKind::DestPublishFailed)),
        }
    }

    async fn remove(&self, path: &RemotePath) -> Result<()> {
        self.removed("DELE", path, false).await.map_err(|failure| failure.into_error("remove", path, ErrorKind::DestDenied))
    }

    async fn set_attributes(&self, path: &RemotePath, modified: Option<jiff::Timestamp>, permissions: Option<u32>) -> Result<()> {
        let work = async {
            let wire = self.session.wire(path);
            let mut line = self.line().await?;
            if let Some(time) = modified {
                set_time(&self.session, &mut line, &wire, time).await?;
            }
            match permissions {
                Some(mode) => set_mode(&mut line, &wire, mode).await,
                None => Ok(()),
            }
        };
        work.await.map_err(|failure| failure.into_error("set the attributes of", path, ErrorKind::DestDenied))
    }

    async fn hash(&self, path: &RemotePath, algorithm: Algorithm) -> Result<Option<Digest>> {
        self.digest(path, algorithm).await.map_err(|failure| failure.into_error("ask for a digest of", path, ErrorKind::DestProtocol))
    }

    async fn free_space(&self, path: &RemotePath) -> Result<Option<u64>> {
        if !self.session.features.free_space {
            return Ok(None);
        }
        let work = async {
            let reply = self.line().await?.ask(Command::new("AVBL", self.session.wire(path))?).await?;
            match number(reply.first()).filter(|_| reply.is_positive()) {
                Some(bytes) => Ok(Some(bytes)),
                None => Err(reply.into()),
            }
        };
        work.await.map_err(|failure: Failure| failure.into_error("ask for free space at", path, ErrorKind::DestProtocol))
    }

    async fn ping(&self) -> Result<()> {
        // Any answer is one.
        let work = async { self.line().await?.ask(Command::word("NOOP")).await.map(|_| ()) };
        work.await.map_err(|failure| failure.into_error("reach", self.session.shared.server(), ErrorKind::NetworkReset))
    }

    async fn close(&self) -> Result<()> {
        self.session.close().await;
        Ok(())
    }
}
