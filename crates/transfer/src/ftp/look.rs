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

    /// `None` when nothing has this name.
    pub async fn look(&self, line: &mut Line, path: &RemotePath) -> Result<Option<Metadata>, Failure> {
        let wire = self.wire(path);
        let mut commands = self.ask_file(&wire)?;
        if self.features.machine_lists {
            let replies = line.ask_all(&commands).await?;
            match self.judge_file(&replies)? {
                Look::Found(metadata) => return Ok(Some(metadata)),
                Look::Nothing => return Ok(None),
                Look::Unclear => commands = vec![Command::new("SIZE", &wire)?, Command::new("MDTM", &wire)?],
            }
        }
        // SIZE knows files only, and some servers give directories one: whoever can go there stands in a directory. The
        // way back is sent with it, so that the working directory is never one that somebody wants to remove.
        if let Some(home) = &self.home {
            commands.extend([Command::new("CWD", &wire)?, Command::new("CWD", home)?]);
        }
        let replies = line.ask_all(&commands).await?;
        let time = time_value(String::from_utf8_lossy(replies[1].first()).trim()).filter(|_| replies[1].code == 213);
        if replies.get(2).is_some_and(Reply::is_positive) {
            return Ok(Some(Metadata { size: 0, modified: time, directory: true }));
        }
        if let (213, Some(size)) = (replies[0].code, number(replies[0].first())) {
            return Ok(Some(Metadata { size, modified: time, directory: false }));
        }
        // Where SIZE is switched off, the time says that there is something, and a listing its size.
        let untold = |reply: &Reply| reply.is_unsupported() || says_denied(&reply.words());
        if time.is_none() && !untold(&replies[0]) {
            return nothing(&replies[0]).map(|_| None);
        }
        if time.is_none() && !untold(&replies[1]) && replies[1].code == 550 {
            return Ok(None);
        }
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
