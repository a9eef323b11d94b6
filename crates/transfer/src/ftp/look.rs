//! Looking at names: whether something is there, what it is, and why a refusal was one.

use model::RemotePath;

use super::control::Command;
use super::error::{Failure, class, says_denied, says_missing};
use super::listing::{Kind, facts, time_value};
use super::reply::Reply;
use super::session::{Line, Session};
use crate::{ErrorKind, Metadata};

/// What the answers to a look say.
#[derive(Debug)]
pub(super) enum Look {
    Found(Metadata),
    Nothing,
    /// It must be asked in another way.
    Unclear,
}

/// The digits that a reply begins with.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let digits = text.trim_ascii_start().split(|b| !b.is_ascii_digit()).next().filter(|d| !d.is_empty() && d.len() <= 20)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A refusal of a look: nothing there, or no answer.
fn nothing(reply: &Reply) -> Result<Look, Failure> {
    match reply.code {
        450 | 550 | 551 | 553 if says_denied(&reply.words()) => Err(Failure::Reply(reply.clone(), Some(ErrorKind::DestDenied))),
        450 | 550 | 551 | 553 => Ok(Look::Nothing),
        500 | 502 | 504 => Ok(Look::Unclear),
        _ => Err(reply.clone().into()),
    }
}

/// The time in the answer to MDTM, the second of its kind.
fn time_told(replies: &[Reply]) -> Option<jiff::Timestamp> {
    let reply = replies.get(1).filter(|reply| reply.code == 213)?;
    time_value(String::from_utf8_lossy(reply.first()).trim())
}

/// What the answers to SIZE, MDTM and two CWD say; `None` when only a listing can tell.
fn judge_parts(replies: &[Reply]) -> Option<Result<Option<Metadata>, Failure>> {
    let time = time_told(replies);
    if replies.get(2).is_some_and(Reply::is_positive) {
        return Some(Ok(Some(Metadata { size: 0, modified: time, directory: true })));
    }
    if let (213, Some(size)) = (replies[0].code, number(replies[0].first())) {
        return Some(Ok(Some(Metadata { size, modified: time, directory: false })));
    }
    // Where SIZE is switched off, the time says that there is something, and a listing its size.
    let untold = |reply: &Reply| reply.is_unsupported() || says_denied(&reply.words());
    if time.is_none() && !untold(&replies[0]) {
        return Some(nothing(&replies[0]).map(|_| None));
    }
    (time.is_none() && !untold(&replies[1]) && replies[1].code == 550).then_some(Ok(None))
}

impl Session {
    /// The cheapest question whether a file has this name: for `judge_file`.
    pub fn ask_file(&self, path: &[u8]) -> Result<Vec<Command>, Failure> {
        if self.features.machine_lists {
            return Ok(vec![Command::new("MLST", path)?]);
        }
        Ok(vec![Command::new("SIZE", path)?, Command::new("MDTM", path)?])
    }

    pub fn judge_file(&self, replies: &[Reply]) -> Result<Look, Failure> {
        let [first, rest @ ..] = replies else { return Ok(Look::Unclear) };
        if self.features.machine_lists {
            if !first.is_positive() {
                // Who may not list may still ask for a size; only clear words are an answer.
                let clear = says_missing(&first.words()) || !matches!(first.code, 450 | 501 | 550 | 553);
                return if clear { nothing(first) } else { Ok(Look::Unclear) };
            }
            let lines = first.lines.get(1..first.lines.len().saturating_sub(1)).unwrap_or_default();
            let Some(listed) = lines.iter().find_map(|line| facts(line)) else { return Ok(Look::Unclear) };
            return Ok(match (listed.kind, listed.size) {
                (Kind::Directory, _) => Look::Found(Metadata { size: 0, modified: listed.modified, directory: true }),
                (Kind::File, Some(size)) => Look::Found(Metadata { size, modified: listed.modified, directory: false }),
                _ => Look::Unclear,
            });
        }
        let modified = rest.first().filter(|reply| reply.code == 213);
        let time = modified.and_then(|reply| time_value(String::from_utf8_lossy(reply.first()).trim()));
        match (first.code, number(first.first())) {
            (213, Some(size)) => Ok(Look::Found(Metadata { size, modified: time, directory: false })),
            // A name with a time and without a size: a directory on some servers.
            _ if modified.is_some() => Ok(Look::Unclear),
            _ => nothing(first),
        }
    }

    /// What a look asks first; for `judge_look`.
    pub fn ask_look(&self, path: &RemotePath) -> Result<Vec<Command>, Failure> {
        let wire = self.wire(path);
        if self.features.machine_lists { self.ask_file(&wire) } else { self.ask_in_parts(&wire) }
    }

    /// What the answers to `ask_look` say; `None` when it must be asked in another way.
    pub fn judge_look(&self, replies: &[Reply]) -> Option<Result<Option<Metadata>, Failure>> {
        if !self.features.machine_lists {
            return judge_parts(replies);
        }
        match self.judge_file(replies) {
            Ok(Look::Found(metadata)) => Some(Ok(Some(metadata))),
            Ok(Look::Nothing) => Some(Ok(None)),
            Ok(Look::Unclear) => None,
            Err(failure) => Some(Err(failure)),
        }
    }

    /// SIZE knows files only, and some servers give directories one: whoever can go there stands in a directory. The
    /// way back is sent with it, so that the working directory is never one that somebody wants to remove.
    fn ask_in_parts(&self, wire: &[u8]) -> Result<Vec<Command>, Failure> {
        let mut commands = vec![Command::new("SIZE", wire)?, Command::new("MDTM", wire)?];
        if let Some(home) = &self.home {
            commands.extend([Command::new("CWD", wire)?, Command::new("CWD", home)?]);
        }
        Ok(commands)
    }

    /// `None` when nothing has this name.
    pub async fn look(&self, line: &mut Line, path: &RemotePath) -> Result<Option<Metadata>, Failure> {
        let replies = line.ask_all(&self.ask_look(path)?).await?;
        match self.judge_look(&replies) {
            Some(answer) => answer,
            None => self.look_further(line, path, replies).await,
        }
    }

    /// Goes on where the answers to `ask_look` were not clear.
    pub async fn look_further(&self, line: &mut Line, path: &RemotePath, mut replies: Vec<Reply>) -> Result<Option<Metadata>, Failure> {
        if self.features.machine_lists {
            replies = line.ask_all(&self.ask_in_parts(&self.wire(path))?).await?;
            if let Some(answer) = judge_parts(&replies) {
                return answer;
            }
        }
        let time = time_told(&replies);
        match Box::pin(super::list::find(self, line, path)).await {
            Ok(Some(entry)) => Ok(Some(Metadata { modified: time.or(entry.metadata.modified), ..entry.metadata })),
            Ok(None) if time.is_none() => Ok(None),
            Err(Failure::Lost(lost)) => Err(lost.into()),
            Err(failure) if failure.kind() == Some(ErrorKind::DestDirMissing) => Ok(None),
            _ => {
                let kind = if replies[0].is_unsupported() { ErrorKind::DestProtocol } else { ErrorKind::DestDenied };
                Err(Failure::Reply(replies[0].clone(), Some(kind)))
            }
        }
    }

    /// A refusal about `path`, with the class that looking at the server gives it where its words give none.
    pub async fn explain(&self, line: &mut Line, failure: Failure, path: &RemotePath) -> Failure {
        let Failure::Reply(reply, None) = failure else { return failure };
        let kind = match class(&reply) {
            Some(kind) => kind,
            // 550 and 553 mean both "missing" and "forbidden" (RFC 959): the parent tells them apart.
            None => match path.parent() {
                None => ErrorKind::DestDenied,
                Some(parent) => match self.look(line, &parent).await {
                    Ok(Some(found)) if found.directory => ErrorKind::DestDenied,
                    Ok(_) => ErrorKind::DestDirMissing,
                    Err(Failure::Lost(lost)) => return lost.into(),
                    Err(_) => ErrorKind::DestDenied,
                },
            },
        };
        Failure::Reply(reply, Some(kind))
    }
}
