//! Files of this machine, as a source and as a destination (`file:///…`).

mod connection;
mod source;
mod writer;

pub use connection::{LocalConnection, LocalConnector};
pub use source::{LocalSource, Skipped};
pub use writer::LocalWriter;

use rustix::io::Errno;

use crate::{Error, ErrorKind, Subject};

/// The class of a system error on the writing side.
fn kind_of(errno: Errno) -> ErrorKind {
    match errno {
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => ErrorKind::DestNoSpace,
        Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::ISDIR | Errno::LOOP | Errno::NXIO | Errno::BUSY | Errno::TXTBSY => {
            ErrorKind::DestDenied
        }
        Errno::NAMETOOLONG | Errno::ILSEQ => ErrorKind::DestNameInvalid,
        Errno::NOENT | Errno::NOTDIR => ErrorKind::DestDirMissing,
        Errno::EXIST | Errno::NOTEMPTY => ErrorKind::DestExists,
        _ => ErrorKind::DestProtocol,
    }
}

fn failed(operation: &'static str, subject: impl Into<Subject>, errno: Errno) -> Error {
    Error::new(kind_of(errno), operation, subject).because(std::io::Error::from(errno))
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Runs file system calls off the reactor.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> crate::Result<T> + Send + 'static) -> crate::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::new(ErrorKind::Internal, "finish a file operation", Subject::Nothing).because(error)),
    }
}

fn timestamp(seconds: i64, nanoseconds: i64) -> Option<jiff::Timestamp> {
    jiff::Timestamp::new(seconds, i32::try_from(nanoseconds).ok()?).ok()
}
