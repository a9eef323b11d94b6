//! From what a server answers to the class that callers act on. One code means several things on several servers, so
//! the words are asked too; what stays ambiguous is told apart by looking at the server.

use std::fmt;
use std::sync::Arc;

use super::reply::Reply;
use crate::error::BoxError;
use crate::{Error, ErrorKind, Subject};

/// Why a session serves no further request.
#[derive(Debug, Clone)]
pub(super) struct Lost {
    pub kind: ErrorKind,
    text: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Lost {
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), source: None }
    }

    pub fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    pub fn protocol(source: impl Into<BoxError>) -> Self {
        Self::new(ErrorKind::DestProtocol, "the server broke the FTP protocol").because(source)
    }

    pub fn stalled(what: &str, bound: std::time::Duration) -> Self {
        Self::new(ErrorKind::NetworkStalled, format!("{what} did not come within {} s", bound.as_secs_f32().ceil()))
    }

    pub fn closed() -> Self {
        Self::new(ErrorKind::NetworkReset, "the session was closed")
    }

    pub fn into_error(self, operation: &'static str, subject: impl Into<Subject>) -> Error {
        Error::new(self.kind, operation, subject).because(self).on_lost_connection()
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&model::escape_name(&self.text))
    }
}

impl std::error::Error for Lost {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

/// Why one request did not succeed.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// The server's words. With what they mean, where that was found out.
    Reply(Reply, Option<ErrorKind>),
    Lost(Lost),
    /// Our own judgement; the session goes on.
    Refused(ErrorKind, String),
}

impl Failure {
    pub fn refused(kind: ErrorKind, why: impl Into<String>) -> Self {
        Self::Refused(kind, why.into())
    }

    /// The class as far as it is known.
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Reply(reply, kind) => kind.or_else(|| class(reply)),
            Self::Lost(lost) => Some(lost.kind),
            Self::Refused(kind, _) => Some(*kind),
        }
    }

    /// The error, with `ambiguous` as the class where the answer alone does not tell.
    pub fn into_error(self, operation: &'static str, subject: impl Into<Subject>, ambiguous: ErrorKind) -> Error {
        let kind = self.kind().unwrap_or(ambiguous);
        match self {
            Self::Lost(lost) => lost.into_error(operation, subject),
            Self::Reply(reply, _) => Error::new(kind, operation, subject).because(reply),
            Self::Refused(kind, why) => Error::new(kind, operation, subject).because(why),
        }
    }
}

impl From<Lost> for Failure {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

impl From<Reply> for Failure {
    fn from(reply: Reply) -> Self {
        Self::Reply(reply, None)
    }
}

fn any(text: &str, phrases: &[&str]) -> bool {
    phrases.iter().any(|phrase| text.contains(phrase))
}

fn speaks_of_space(text: &str) -> bool {
    any(
        text,
        &["no space", "disk full", "disk is full", "quota", "enough space", "insufficient s", "out of space", "disk space", "storage"],
    )
}

pub(super) fn says_missing(text: &str) -> bool {
    any(
        text,
        &[
            "no such file",
            "no such dir",
            "not found",
            "not exist",
            "doesn't exist",
            "cannot find",
            "can't find",
            "no such path",
            "check for file existence",
        ],
    )
}

pub(super) fn says_denied(text: &str) -> bool {
    any(text, &["permission denied", "access denied", "access is denied", "not permitted", "privilege", "read-only", "forbidden", "denied"])
}

/// What a refusal about a name means, where code and words decide it. `None`: the reason must be looked for.
pub(super) fn class(reply: &Reply) -> Option<ErrorKind> {
    let text = reply.words();
    match reply.code {
        421 => Some(ErrorKind::NetworkReset),
        452 | 552 => Some(ErrorKind::DestNoSpace),
        400..500 if speaks_of_space(&text) => Some(ErrorKind::DestNoSpace),
        // ProFTPD's 451 for a policy, "Append/Restart not permitted, try again", is permanent in spite of its code.
        400..500 if text.contains("not permitted") => Some(ErrorKind::DestDenied),
        // Pure-FTPd: "451 Rename/move failure: No such file or directory".
        450 | 451 if says_missing(&text) => Some(ErrorKind::DestDirMissing),
        450 | 451 if says_denied(&text) => Some(ErrorKind::DestDenied),
        400..500 => Some(ErrorKind::NetworkReset),
        500 | 502 | 503 | 504 => Some(ErrorKind::DestProtocol),
        521 | 522 | 533..=536 => Some(ErrorKind::DestTls),
        530 | 532 => Some(ErrorKind::DestDenied),
        554 => Some(ErrorKind::DestProtocol),
        _ if speaks_of_space(&text) => Some(ErrorKind::DestNoSpace),
        // ProFTPD: "Overwrite permission denied".
        _ if any(&text, &["overwrite", "file exists", "already exist"]) => Some(ErrorKind::DestExists),
        _ if any(&text, &["name too long", "prohibited file name", "invalid file name", "invalid directory name", "illegal name"]) => {
            Some(ErrorKind::DestNameInvalid)
        }
        _ if says_missing(&text) => Some(ErrorKind::DestDirMissing),
        _ if says_denied(&text) => Some(ErrorKind::DestDenied),
        _ => None,
    }
}

/// What a refusal at the end of an upload means. A full disk is 451 on most servers, each with words of its own.
pub(super) fn class_of_upload(reply: &Reply) -> ErrorKind {
    let text = reply.words();
    match reply.code {
        // vsftpd "Failure writing to local file.", ProFTPD "Input/output error", Pure-FTPd "Error during write to file".
        451 | 450 if any(&text, &["writ", "input/output", "i/o error", "disk"]) => ErrorKind::DestNoSpace,
        // A local error without words for it: not the line's fault, and twice at the same byte most likely a full disk.
        450 | 451 => class(reply).filter(|kind| *kind != ErrorKind::NetworkReset).unwrap_or(ErrorKind::DestProtocol),
        // The data connection was refused, for example because its TLS session was not resumed.
        425 | 521 | 522 => ErrorKind::NetworkReset,
        _ => class(reply).unwrap_or(ErrorKind::DestProtocol),
    }
}

/// What a refused login means. Only a clear no to the credential is `dest_auth`: that parks the connector.
pub(super) fn class_of_login(reply: &Reply, clear: bool) -> ErrorKind {
    let text = reply.words();
    let crowded = any(&text, &["too many", "maximum number", "max number", "connection limit", "try again later", "limit reached"]);
    match reply.code {
        430 | 431 => ErrorKind::DestAuth,
        400..500 => ErrorKind::DestUnreachable,
        _ if crowded => ErrorKind::DestUnreachable,
        500..600 if clear && any(&text, &["tls", "ssl", "encrypt", "secure"]) => ErrorKind::DestTls,
        500..600 | 332 => ErrorKind::DestAuth,
        _ => ErrorKind::DestProtocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(code: u16, text: &str) -> Reply {
        Reply { code, lines: vec![text.as_bytes().to_vec()] }
    }

    #[test]
    fn a_full_disk_is_known_in_the_words_of_each_server() {
        for (code, text) in [
            (451, "Failure writing to local file."),
            (451, "/a: Input/output error"),
            (451, "Error during write to file"),
            (452, "x"),
            (552, "Quota exceeded"),
            (426, "Data connection closed, disk full"),
        ] {
            assert_eq!(class_of_upload(&reply(code, text)), ErrorKind::DestNoSpace, "{code} {text}");
        }
        assert_eq!(class_of_upload(&reply(426, "Failure reading network stream.")), ErrorKind::NetworkReset);
        assert_eq!(class_of_upload(&reply(522, "SSL connection failed; session reuse required")), ErrorKind::NetworkReset);
    }

    #[test]
    fn names_are_judged_by_code_and_words_and_otherwise_left_open() {
        for (code, text, kind) in [
            (550, "no/a: No such file or directory", Some(ErrorKind::DestDirMissing)),
            (550, "a: Overwrite permission denied", Some(ErrorKind::DestExists)),
            (550, "Not enough privileges.", Some(ErrorKind::DestDenied)),
            (553, "Could not create file.", None),
            (550, "Rename failed.", None),
            (551, "a: File name too long", Some(ErrorKind::DestNameInvalid)),
            (451, "Rename/move failure: No such file or directory", Some(ErrorKind::DestDirMissing)),
            (550, "*: Invalid directory name", Some(ErrorKind::DestNameInvalid)),
            (451, "a: Append/Restart not permitted, try again", Some(ErrorKind::DestDenied)),
            (554, "REST: invalid argument", Some(ErrorKind::DestProtocol)),
        ] {
            assert_eq!(class(&reply(code, text)), kind, "{code} {text}");
        }
    }

    #[test]
    fn only_a_clear_no_parks_the_login() {
        assert_eq!(class_of_login(&reply(530, "Login incorrect."), false), ErrorKind::DestAuth);
        assert_eq!(
            class_of_login(&reply(530, "Sorry, the maximum number of clients (1) already connected"), false),
            ErrorKind::DestUnreachable
        );
        assert_eq!(class_of_login(&reply(421, "Too many users"), false), ErrorKind::DestUnreachable);
        assert_eq!(class_of_login(&reply(530, "Non-anonymous sessions must use encryption."), true), ErrorKind::DestTls);
        assert_eq!(class_of_login(&reply(530, "Non-anonymous sessions must use encryption."), false), ErrorKind::DestAuth);
    }
}
