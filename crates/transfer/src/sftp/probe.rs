//! Looks at the server after an answer that means several things: OpenSSH says FAILURE for a full disk, for a
//! name that is taken and for a read-only file system alike.

use model::RemotePath;

use super::error::{BAD_MESSAGE, FAILURE, Failure, NO_SUCH_FILE, OP_UNSUPPORTED};
use super::session::Session;
use super::wire::{self, Attributes, Fields, FileSystem, Request};
use crate::error::BoxError;
use crate::{Error, ErrorKind};

/// What a name stands for, as far as could be learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    File,
    Directory,
    Unknown,
}

pub(super) async fn stat(session: &Session, path: &RemotePath) -> Result<Option<Attributes>, Failure> {
    match session.attributes(Request::Stat { path: path.wire() }).await {
        Ok(attributes) => Ok(Some(attributes)),
        Err(failure) if failure.code() == Some(NO_SUCH_FILE) || failure.code() == Some(10) => Ok(None),
        Err(failure) => Err(failure),
    }
}

pub(super) async fn look(session: &Session, path: &RemotePath) -> Found {
    match stat(session, path).await {
        Ok(Some(attributes)) if attributes.is_directory() => Found::Directory,
        Ok(Some(_)) => Found::File,
        Ok(None) => Found::Nothing,
        Err(Failure::Lost(_)) => Found::Unknown,
        Err(Failure::Status(_)) => look_by_opening(session, path).await,
    }
}

/// For servers that refuse every stat. The directory first: OpenSSH opens one for reading as if it were a file.
async fn look_by_opening(session: &Session, path: &RemotePath) -> Found {
    if opens(session, Request::OpenDirectory { path: path.wire() }).await.is_ok() {
        return Found::Directory;
    }
    let open = Request::Open { path: path.wire(), flags: wire::READ, attributes: Attributes::default() };
    match opens(session, open).await {
        Ok(()) => Found::File,
        Err(failure) if matches!(failure.code(), Some(NO_SUCH_FILE | 10)) => Found::Nothing,
        Err(_) => Found::Unknown,
    }
}

async fn opens(session: &Session, request: Request<'_>) -> Result<(), Failure> {
    let handle = session.handle(request).await?;
    session.ok(Request::Close { handle: &handle }).await
}

/// Whether a name is taken; an error where the server lets us find out in no way.
pub(super) async fn is_taken(session: &Session, path: &RemotePath) -> Result<bool, Failure> {
    match stat(session, path).await {
        Ok(found) => Ok(found.is_some()),
        Err(failure @ Failure::Lost(_)) => Err(failure),
        Err(failure) => match look_by_opening(session, path).await {
            Found::Nothing => Ok(false),
            Found::File | Found::Directory => Ok(true),
            Found::Unknown => Err(failure),
        },
    }
}

/// Whether the directory that should hold `path` is missing.
pub(super) async fn parent_is_missing(session: &Session, path: &RemotePath) -> bool {
    match path.parent() {
        Some(parent) => matches!(look(session, &parent).await, Found::Nothing | Found::File),
        None => false,
    }
}

pub(super) async fn file_system(session: &Session, path: &RemotePath) -> Result<Option<FileSystem>, Failure> {
    if !session.version.statvfs {
        return Ok(None);
    }
    session.extended(Request::FileSystem { path: path.wire() }, Fields::file_system).await.map(Some)
}

/// Whether the file system of `path` is why `wanted` bytes, or a new file, could not be stored.
async fn storage(session: &Session, path: &RemotePath, wanted: u64) -> Option<(ErrorKind, &'static str)> {
    let state = file_system(session, path).await.ok()??;
    if state.read_only {
        return Some((ErrorKind::DestDenied, "its file system is read-only"));
    }
    if state.free < wanted.max(1) {
        return Some((ErrorKind::DestNoSpace, "its file system is full"));
    }
    // File systems without a fixed number of files report none at all.
    (state.files > 0 && state.free_files == 0).then_some((ErrorKind::DestNoSpace, "its file system can hold no more files"))
}

/// An error whose class was found by looking, with the server's own words as the cause.
#[derive(Debug, thiserror::Error)]
#[error("{found}")]
struct Explained {
    found: &'static str,
    source: BoxError,
}

fn explained(kind: ErrorKind, found: &'static str, failure: Failure, operation: &'static str, path: &RemotePath) -> Error {
    match failure {
        Failure::Lost(lost) => lost.into_error(operation, path),
        Failure::Status(status) => Error::new(kind, operation, path).because(Explained { found, source: status.into() }),
    }
}

/// A failed operation on a name, where looking further makes no sense.
pub(super) fn on_name(failure: Failure, operation: &'static str, path: &RemotePath) -> Error {
    let ambiguous = if failure.code() == Some(BAD_MESSAGE) { ErrorKind::DestNameInvalid } else { ErrorKind::DestProtocol };
    failure.into_error(operation, path, ambiguous)
}

fn is_ambiguous(failure: &Failure) -> bool {
    matches!(failure, Failure::Status(status) if status.code == FAILURE && status.class().is_none())
}

/// A failed write, sync or close of an open file.
pub(super) async fn after_write(session: &Session, failure: Failure, operation: &'static str, path: &RemotePath, length: usize) -> Error {
    if is_ambiguous(&failure)
        && let Some((kind, found)) = storage(session, path, length as u64).await
    {
        return explained(kind, found, failure, operation, path);
    }
    failure.into_error(operation, path, ErrorKind::DestProtocol)
}

/// A failed creation of a name. `exclusive`: an existing name is the likeliest reason.
pub(super) async fn after_create(
    session: &Session,
    failure: Failure,
    operation: &'static str,
    path: &RemotePath,
    exclusive: bool,
) -> Error {
    if !is_ambiguous(&failure) {
        return on_name(failure, operation, path);
    }
    let (kind, found) = match look(session, path).await {
        Found::File | Found::Directory if exclusive => (ErrorKind::DestExists, "the name is taken"),
        Found::Directory => (ErrorKind::DestDenied, "it is a directory"),
        Found::Nothing if parent_is_missing(session, path).await => (ErrorKind::DestDirMissing, "its directory does not exist"),
        _ => {
            let asked = path.parent().unwrap_or_else(RemotePath::root);
            match storage(session, &asked, 1).await {
                Some(reason) => reason,
                None => return on_name(failure, operation, path),
            }
        }
    };
    explained(kind, found, failure, operation, path)
}

/// A failed rename. Some servers say NO_SUCH_FILE or PERMISSION_DENIED where the target exists, so every refusal
/// but a lost connection is looked into.
pub(super) async fn after_rename(session: &Session, failure: Failure, from: &RemotePath, to: &RemotePath, target_counts: bool) -> Error {
    const OPERATION: &str = "rename to";
    if matches!(failure, Failure::Lost(_)) {
        return on_name(failure, OPERATION, to);
    }
    let target = look(session, to).await;
    if matches!(target, Found::Directory) || (target_counts && target == Found::File) {
        return explained(ErrorKind::DestExists, "the new name is taken", failure, OPERATION, to);
    }
    if look(session, from).await == Found::Nothing {
        return explained(ErrorKind::DestDirMissing, "the old name does not exist", failure, OPERATION, to);
    }
    if target == Found::Nothing && parent_is_missing(session, to).await {
        return explained(ErrorKind::DestDirMissing, "the new directory does not exist", failure, OPERATION, to);
    }
    match &failure {
        Failure::Status(status) if status.code == OP_UNSUPPORTED => {
            explained(ErrorKind::DestDenied, "the server knows no rename", failure, OPERATION, to)
        }
        Failure::Status(status) if status.code == NO_SUCH_FILE || status.class().is_none() && status.code != BAD_MESSAGE => {
            explained(ErrorKind::DestPublishFailed, "the server gave no reason that helps", failure, OPERATION, to)
        }
        _ => on_name(failure, OPERATION, to),
    }
}
