//! One server works on a state directory. Commands that only read or copy go on beside it; leases keep those apart.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::sqlite::from_io;
use crate::{Error, ErrorKind, Result};

const NAME: &str = "server.lock";
/// More than any process id has digits.
const LONGEST: u64 = 20;

/// Held until it is dropped or its process ends, however that dies.
#[derive(Debug)]
pub struct ServerLock {
    file: File,
}

impl ServerLock {
    /// Takes the lock on the directory, which is created (0700) where it is missing. `ServerRunning`, naming the process,
    /// while another server has it.
    pub fn take(directory: &Path) -> Result<Self> {
        Self::take_file(directory).map_err(|error| error.at("lock", || directory.display().to_string()))
    }

    fn take_file(directory: &Path) -> Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(from_io)?;
        // Never removed: who waits for a name that was removed has a lock that nobody else sees.
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(directory.join(NAME));
        let mut file = open.map_err(from_io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Its number is for people; a holder that has not yet written it is a server all the same.
                let _ = (&file).take(LONGEST).read_to_string(&mut holder);
                let who = match holder.trim() {
                    "" => "another process".to_owned(),
                    pid => format!("process {pid}"),
                };
                return Err(Error::bare(ErrorKind::ServerRunning).reason(format!("{who} is a server on it")));
            }
            Err(TryLockError::Error(error)) => return Err(from_io(error)),
        }
        let mark = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        mark(&mut file).map_err(from_io)?;
        Ok(Self { file })
    }
}

impl Drop for ServerLock {
    fn drop(&mut self) {
        // The lock goes with the file; a number that stays behind in it is never believed without a lock.
        let _ = self.file.set_len(0);
    }
}
