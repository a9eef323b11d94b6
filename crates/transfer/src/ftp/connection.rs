//! The port of the engine, answered by commands of FTP.

use std::sync::Arc;

use async_trait::async_trait;
use model::{Algorithm, Digest, DigestSet, Endpoint, RemotePath};

use super::config::{FtpConfig, Security};
use super::connect::{Known, Shared, open_session};
use super::control::Command;
use super::error::{Failure, says_missing};
use super::features::DigestCommand;
use super::list;
use super::look::{Look, number};
use super::open::Wanted;
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

pub(super) async fn set_mode(line: &mut Line, wire: &[u8], mode: u32) -> Result<(), Failure> {
    let reply = line.ask(Command::new(&format!("SITE CHMOD {:o}", mode & 0o7777), wire)?).await?;
    if reply.is_positive() { Ok(()) } else { Err(reply.into()) }
}

pub(super) async fn set_time(session: &Session, line: &mut Line, wire: &[u8], time: jiff::Timestamp) -> Result<(), Failure> {
    let verb = match &session.features {
        features if features.set_time => "MFMT",
        features if features.set_time_by_query => "MDTM",
        _ => return Err(Failure::refused(ErrorKind::DestProtocol, "the server does not offer to set a time")),
    };
    let utc = time.to_zoned(jiff::tz::TimeZone::UTC);
    if !(0..=9999).contains(&utc.year()) {
        return Err(Failure::refused(ErrorKind::DestDenied, "FTP knows years of four digits only"));
    }
    let reply = line.ask(Command::new(&format!("{verb} {}", utc.strftime("%Y%m%d%H%M%S")), wire)?).await?;
    // MDTM that was taken for a question is answered with a time, or with a refusal of a name nobody has.
    let taken = reply.code == 213 && (verb == "MFMT" || !reply.first().first().is_some_and(u8::is_ascii_digit));
    if taken || (verb == "MFMT" && reply.is_positive()) { Ok(()) } else { Err(reply.into()) }
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

    async fn opened(&self, path: &RemotePath, options: CreateOptions) -> Result<FtpWriter, Failure> {
        let session = &self.session;
        let wire = session.wire(path);
        let mut line = self.line().await?;
        let owner = session.next_owner();
        let purpose = Purpose { writable: true, readable: options.read, permissions: options.permissions };
        let writer = |stage, purpose| FtpWriter::new(session.clone(), path.clone(), owner, stage, purpose);
        let wanted = Wanted { owner, verb: "STOR", path: &wire, offset: 0, upload: true, fresh: options.mode == OpenMode::CreateNew };
        let place = match options.mode {
            OpenMode::Truncate => None,
            OpenMode::CreateNew => {
                let (replies, place) = session.prepare(&mut line, &session.ask_file(&wire)?, 0).await?;
                let (taken, place) = match session.judge_file(&replies) {
                    Ok(Look::Found(_)) => (true, None),
                    Ok(Look::Nothing) => (false, Some(place)),
                    // Looking in another way may use up the place. Where nothing can be looked at, as in a drop box,
                    // the name is the engine's own and taken by nobody.
                    Ok(Look::Unclear) | Err(_) => match session.look(&mut line, path).await {
                        Ok(found) => (found.is_some(), None),
                        Err(Failure::Lost(lost)) => return Err(lost.into()),
                        Err(_) => (false, None),
                    },
                };
                if taken {
                    return Err(Failure::refused(ErrorKind::DestExists, "the name is taken"));
                }
                place
            }
            OpenMode::Existing | OpenMode::Continue(_) => {
                let at = match options.mode {
                    OpenMode::Continue(at) => Some(at),
                    _ => None,
                };
                match session.look(&mut line, path).await? {
                    None => return Err(Failure::refused(ErrorKind::DestDirMissing, "there is no such file")),
                    Some(found) if found.directory => return Err(Failure::refused(ErrorKind::DestDenied, "it is a directory")),
                    // Some servers fill the gap with zeros and call it a success.
                    Some(found) if at.is_some_and(|at| at > found.size) => {
                        return Err(Failure::refused(ErrorKind::DestProtocol, format!("it ends at byte {}", found.size)));
                    }
                    Some(_) => {}
                }
                let purpose = Purpose { permissions: None, ..purpose };
                let Some(offset) = at else { return Ok(writer(Stage::Ready, purpose)) };
                let result = session.begin(&mut line, None, Wanted { offset, ..wanted }).await;
                return match result {
                    Ok(()) => Ok(writer(Stage::Writing, purpose)),
                    Err(failure) => Err(session.explain(&mut line, failure, path).await),
                };
            }
        };
        match session.begin(&mut line, place, wanted).await {
            Ok(()) => Ok(writer(Stage::Writing, purpose)),
            Err(failure) => Err(session.explain(&mut line, failure, path).await),
        }
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
            return Err(match session.look(&mut line, from).await {
                Ok(None) => Failure::Reply(first, Some(ErrorKind::DestDirMissing)),
                Err(Failure::Lost(lost)) => lost.into(),
                _ => first.into(),
            });
        }
        let reply = line.ask(Command::new("RNTO", &new)?).await?;
        line.half_renamed = false;
        if reply.is_positive() {
            return Ok(());
        }
        let failure = Failure::from(reply.clone());
        if !matches!(failure.kind(), None | Some(ErrorKind::DestDenied | ErrorKind::DestDirMissing)) {
            return Err(failure);
        }
        let kind = match session.look(&mut line, to).await {
            Ok(Some(_)) => Some(ErrorKind::DestExists),
            Ok(None) => match to.parent() {
                Some(parent) => match session.look(&mut line, &parent).await {
                    Ok(None) => Some(ErrorKind::DestDirMissing),
                    Ok(Some(found)) if !found.directory => Some(ErrorKind::DestDirMissing),
                    _ => failure.kind(),
                },
                None => failure.kind(),
            },
            Err(Failure::Lost(lost)) => return Err(lost.into()),
            Err(_) => failure.kind(),
        };
        Err(Failure::Reply(reply, kind))
    }

    async fn digest(&self, path: &RemotePath, algorithm: Algorithm) -> Result<Option<Digest>, Failure> {
        let session = &self.session;
        let Some(digester) = session.features.digester(algorithm) else { return Ok(None) };
        let wire = session.wire(path);
        let mut line = self.line().await?;
        let size = line.ask(Command::new("SIZE", &wire)?).await?;
        let size = number(size.first()).filter(|_| size.code == 213);
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
        match self.opened(path, options).await {
            Ok(writer) => Ok(Box::new(writer)),
            Err(failure) => Err(failure.into_error("open", path, ErrorKind::DestDenied)),
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
