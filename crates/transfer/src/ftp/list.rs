//! The entries of a directory, read line by line and never more of them than were asked for.

use model::RemotePath;

use super::control::Command;
use super::error::Failure;
use super::listing::{Kind, Listed, facts, listed};
use super::open::Wanted;
use super::reply::MAX_LINE;
use super::session::{Line, Session};
use crate::{Entry, ErrorKind, Metadata};

const BLOCK: usize = 64 * 1024;
/// Lines that are no entries count too: this much in all, and this much more for each entry that is wanted.
const SPARE_BYTES: u64 = 1 << 20;
const BYTES_PER_ENTRY: u64 = 1024;
/// A directory in which one name is looked for.
const MAX_SEARCHED: u64 = 64 << 20;

pub(super) async fn entries(session: &Session, line: &mut Line, path: &RemotePath, limit: usize) -> Result<Vec<Entry>, Failure> {
    let mut entries = Vec::new();
    if limit == 0 {
        return Ok(entries);
    }
    let budget = SPARE_BYTES.saturating_add((limit as u64).saturating_mul(BYTES_PER_ENTRY));
    let take = |entry| {
        entries.push(entry);
        entries.len() < limit
    };
    each(session, line, path, budget, take).await?;
    Ok(entries)
}

/// The entry of this name, for servers that tell nothing of a single file.
pub(super) async fn find(session: &Session, line: &mut Line, path: &RemotePath) -> Result<Option<Entry>, Failure> {
    let mut found = None;
    let Some(parent) = path.parent() else { return Ok(None) };
    let take = |entry: Entry| {
        if entry.exact && entry.name == path.name() {
            found = Some(entry);
        }
        found.is_none()
    };
    each(session, line, &parent, MAX_SEARCHED, take).await?;
    Ok(found)
}

/// Hands out the entries of a directory until `take` has enough of them.
async fn each(
    session: &Session,
    line: &mut Line,
    path: &RemotePath,
    budget: u64,
    mut take: impl FnMut(Entry) -> bool + Send,
) -> Result<(), Failure> {
    let wire = session.wire(path);
    if session.features.machine_lists {
        return match stream(session, line, "MLSD", &wire, budget, facts, &mut take).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(missing_or(session, line, failure, path).await),
        };
    }
    // LIST takes a path for a pattern, and an empty answer for a missing directory: from inside, both are no question.
    let reply = line.ask(Command::new("CWD", &wire)?).await?;
    if !reply.is_positive() {
        return Err(missing_or(session, line, reply.into(), path).await);
    }
    let now = jiff::Timestamp::now();
    let mut result = stream(session, line, "LIST -a", b"", budget, |line| listed(line, now), &mut take).await;
    // Servers that know no options look for a file "-a".
    if matches!(&result, Err(Failure::Reply(..)) | Ok(0)) {
        result = stream(session, line, "LIST", b"", budget, |line| listed(line, now), &mut take).await;
    }
    if let Some(home) = &session.home {
        line.ask(Command::new("CWD", home)?).await?;
    }
    result.map(|_| ())
}

async fn missing_or(session: &Session, line: &mut Line, failure: Failure, path: &RemotePath) -> Failure {
    let Failure::Reply(reply, None) = &failure else { return failure };
    if failure.kind().is_some() {
        return failure;
    }
    let (there, answer) = (Command::new("CWD", session.wire(path)), reply.clone());
    // Whoever can go there stands in a directory that only must not be listed.
    let there = match (there, &session.home) {
        (Ok(there), Some(home)) => match Command::new("CWD", home) {
            Ok(back) => line.ask_all(&[there, back]).await,
            Err(failure) => Err(failure),
        },
        _ => return Failure::Reply(answer, Some(ErrorKind::DestDirMissing)),
    };
    match there {
        Ok(replies) if replies[0].is_positive() => Failure::Reply(answer, Some(ErrorKind::DestDenied)),
        Err(Failure::Lost(lost)) => lost.into(),
        _ => Failure::Reply(answer, Some(ErrorKind::DestDirMissing)),
    }
}

/// The number of lines.
async fn stream(
    session: &Session,
    line: &mut Line,
    verb: &'static str,
    wire: &[u8],
    mut budget: u64,
    parse: impl Fn(&[u8]) -> Option<Listed> + Send,
    take: &mut (impl FnMut(Entry) -> bool + Send),
) -> Result<usize, Failure> {
    let wanted = Wanted { owner: 0, verb, path: wire, offset: 0, upload: false, fresh: false };
    session.begin(line, None, wanted).await?;
    let (mut lines, mut rest, mut fresh) = (0, Vec::new(), true);
    loop {
        let (block, end) = match line.read(session, wire, BLOCK).await {
            // After a login the working directory is another, and LIST speaks of the working directory.
            Err(failure) if fresh && !wire.is_empty() => {
                fresh = false;
                session.begin_again(line, failure, wanted).await?;
                continue;
            }
            result => result?,
        };
        fresh = false;
        budget = match budget.checked_sub(block.len() as u64) {
            Some(left) => left,
            None => {
                line.end_reading().await?;
                return Err(Failure::refused(ErrorKind::DestProtocol, "its listing has far more bytes than entries"));
            }
        };
        rest.extend_from_slice(&block);
        if end && !rest.is_empty() && !rest.ends_with(b"\n") {
            rest.push(b'\n');
        }
        let mut from = 0;
        while let Some(length) = rest[from..].iter().position(|&b| b == b'\n') {
            lines += 1;
            let entry = parse(&rest[from..from + length]).and_then(entry);
            from += length + 1;
            if entry.is_some_and(|entry| !take(entry)) {
                line.end_reading().await?;
                return Ok(lines);
            }
        }
        rest.drain(..from);
        if end {
            return Ok(lines);
        }
        if rest.len() > MAX_LINE {
            line.end_reading().await?;
            return Err(Failure::refused(ErrorKind::DestProtocol, "a line of its listing has no end"));
        }
    }
}

/// A name with a slash is no name in this directory; whoever used it would leave the directory.
fn entry(listed: Listed) -> Option<Entry> {
    if listed.current_or_parent || listed.name.is_empty() || listed.name.iter().any(|b| matches!(b, b'/' | 0)) {
        return None;
    }
    let directory = listed.kind == Kind::Directory;
    let metadata = Metadata { size: listed.size.unwrap_or(0), modified: listed.modified, directory };
    let (name, exact) = match String::from_utf8(listed.name) {
        Ok(name) => (name, true),
        Err(error) => (String::from_utf8_lossy(error.as_bytes()).into_owned(), false),
    };
    Some(Entry { name, exact, metadata })
}
