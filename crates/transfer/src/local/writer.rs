//! An open file of this machine.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use model::RemotePath;
use rustix::fs::{Mode, Timespec, Timestamps, UTIME_OMIT};

use super::{blocking, errno, failed};
use crate::{Error, ErrorKind, Result, Writer};

/// What the port allows a single read to ask for.
const MAX_READ: usize = 256 * 1024;

#[derive(Debug)]
pub struct LocalWriter {
    file: Arc<File>,
    path: RemotePath,
    readable: bool,
    /// Closed with its connection too.
    gone: Arc<AtomicBool>,
    closed: AtomicBool,
}

impl LocalWriter {
    pub(super) fn new(file: File, path: RemotePath, readable: bool, gone: Arc<AtomicBool>) -> Self {
        Self { file: Arc::new(file), path, readable, gone, closed: AtomicBool::new(false) }
    }

    fn usable(&self, operation: &'static str) -> Result<Arc<File>> {
        if self.gone.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::NetworkReset, operation, &self.path)
                .because("the connection was closed")
                .on_lost_connection());
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Internal, operation, &self.path).because("the file was closed"));
        }
        Ok(self.file.clone())
    }
}

/// Leaves the access time alone.
pub(super) fn times(modified: jiff::Timestamp) -> Timestamps {
    let nanoseconds = modified.as_nanosecond();
    let (seconds, rest) = (nanoseconds.div_euclid(1_000_000_000), nanoseconds.rem_euclid(1_000_000_000));
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: i64::try_from(seconds).expect("a timestamp's seconds fit in 64 bits"),
            tv_nsec: i64::try_from(rest).expect("less than a second in nanoseconds"),
        },
    }
}

#[async_trait]
impl Writer for LocalWriter {
    async fn write_at(&self, offset: u64, data: Bytes) -> Result<()> {
        let (file, path) = (self.usable("write")?, self.path.clone());
        blocking(move || file.write_all_at(&data, offset).map_err(|e| failed("write", &path, errno(&e)))).await
    }

    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        let (file, path) = (self.usable("read back")?, self.path.clone());
        if !self.readable {
            return Err(Error::new(ErrorKind::Internal, "read back", &path).because("the file was opened for writing only"));
        }
        blocking(move || {
            let mut buffer = vec![0; length.min(MAX_READ)];
            let mut filled = 0;
            while filled < buffer.len() {
                match file.read_at(&mut buffer[filled..], offset + filled as u64) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(failed("read back", &path, errno(&error))),
                }
            }
            buffer.truncate(filled);
            Ok(Bytes::from(buffer))
        })
        .await
    }

    async fn size(&self) -> Result<u64> {
        let (file, path) = (self.usable("look at")?, self.path.clone());
        blocking(move || file.metadata().map(|m| m.len()).map_err(|e| failed("look at", &path, errno(&e)))).await
    }

    async fn sync(&self) -> Result<()> {
        let (file, path) = (self.usable("sync")?, self.path.clone());
        blocking(move || file.sync_all().map_err(|e| failed("sync", &path, errno(&e)))).await
    }

    async fn set_attributes(&self, modified: Option<jiff::Timestamp>, permissions: Option<u32>) -> Result<()> {
        let (file, path) = (self.usable("set attributes of")?, self.path.clone());
        blocking(move || {
            if let Some(bits) = permissions {
                rustix::fs::fchmod(&file, Mode::from_raw_mode(bits & 0o7777)).map_err(|e| failed("set the mode of", &path, e))?;
            }
            if let Some(modified) = modified {
                rustix::fs::futimens(&file, &times(modified)).map_err(|e| failed("set the time of", &path, e))?;
            }
            Ok(())
        })
        .await
    }

    async fn close(&self) -> Result<()> {
        self.usable("close")?;
        // The descriptor itself goes with the last call in flight; pwrite has no late errors but those of fsync.
        self.closed.store(true, Ordering::Release);
        Ok(())
    }
}
