//! The entries of a directory, read line by line and never more of them than were asked for.

use model::RemotePath;

use super::control::Command;
use super::error::Failure;
use super::listing::{Kind, Listed, facts, listed};
use super::reply::MAX_LINE;
use super::session::{Line, Session};
use super::transfer::Wanted;
use crate::{Entry, ErrorKind, Metadata};

const BLOCK: usize = 64 * 1024;
/// Lines that are no entries count too: this much in all, and this much more for each entry that is wanted.
const SPARE_BYTES: u64 = 1 << 20;
const BYTES_PER_ENTRY: u64 = 1024;

pub(super) async fn entries(session: &Session, line: &mut Line, path: &RemotePath, limit: usize) -> Result<Vec<Entry>, Failure> {
    let wire = session.wire(path);
    if session.features.machine_lists {
        return match stream(session, line, "MLSD", &wire, limit, facts).await {
            Ok((entries, _)) => Ok(entries),
            Err(failure) => Err(missing_or(session, line, failure, path).await),
        };
    }
    // LIST takes a path for a pattern, and an empty answer for a missing directory: from inside, both are no question.
    let reply = line.ask(Command::new("CWD", &wire)?).await?;
    if !reply.is_positive() {
        return Err(missing_or(session, line, reply.into(), path).await);
    }
    let now = jiff::Timestamp::now();
    let mut result = stream(session, line, "LIST -a", b"", limit, |line| listed(line, now)).await;
    // Servers that know no options look for a file "-a".
    if matches!(&result, Err(Failure::Reply(..)) | Ok((_, 0))) {
        result = stream(session, line, "LIST", b"", limit, |line| listed(line, now)).await;
    }
    if let Some(home) = &session.home {
        line.ask(Command::new("CWD", home)?).await?;
    }
    Ok(result?.0)
}

async fn missing_or(session: &Session, line: &mut Line, failure: Failure, path: &RemotePath) -> Failure {
    let Failure::Reply(reply, None) = &failure else { return failure };
    if failure.kind().is_some() {
        return failure;
    }
    match session.look(line, path).await {
        Ok(None) => Failure::Reply(reply.clone(), Some(ErrorKind::DestDirMissing)),
        Err(Failure::Lost(lost)) => lost.into(),
        _ => Failure::Reply(reply.clone(), Some(ErrorKind::DestDenied)),
    }
}

/// The entries and the number of lines.
async fn stream(
    session: &Session,
    line: &mut Line,
    verb: &'static str,
    wire: &[u8],
    limit: usize,
    parse: impl Fn(&[u8]) -> Option<Listed> + Send,
) -> Result<(Vec<Entry>, usize), Failure> {
    session.begin(line, None, Wanted { owner: 0, verb, path: wire, offset: 0, upload: false }).await?;
    let mut budget = SPARE_BYTES.saturating_add((limit as u64).saturating_mul(BYTES_PER_ENTRY));
    let (mut entries, mut lines, mut rest) = (Vec::new(), 0, Vec::new());
    loop {
        let (block, end) = line.read(session, wire, BLOCK).await?;
        budget = match budget.checked_sub(block.len() as u64) {
            Some(left) => left,
            None => {
                line.end_reading().await?;
                return Err(Failure::refused(ErrorKind::DestProtocol, "its listing has far more bytes than entries"));
            }
        };
        rest.extend_from_slice(&block);
        let mut from = 0;
        while let Some(length) = rest[from..].iter().position(|&b| b == b'\n') {
            lines += 1;
            entries.extend(parse(&rest[from..from + length]).and_then(entry));
            from += length + 1;
            if entries.len() >= limit {
                line.end_reading().await?;
                return Ok((entries, lines));
            }
        }
        rest.drain(..from);
        if end {
            lines += usize::from(!rest.is_empty());
            entries.extend(parse(&rest).and_then(entry));
            return Ok((entries, lines));
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
