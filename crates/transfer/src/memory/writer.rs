//! An open file of the server in memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use model::RemotePath;

use super::destination::{Session, SharedNode, State, lock};
use crate::{Capabilities, Error, ErrorKind, Result, Writer};

const MAX_READ: usize = 256 * 1024;

pub(super) fn refused(kind: ErrorKind, operation: &'static str, path: &RemotePath, why: &'static str) -> Error {
    Error::new(kind, operation, path).because(why)
}

pub(super) fn set_attributes(
    capabilities: &Capabilities,
    node: &SharedNode,
    path: &RemotePath,
    modified: Option<jiff::Timestamp>,
    permissions: Option<u32>,
) -> Result<()> {
    if (modified.is_some() && !capabilities.set_times) || (permissions.is_some() && !capabilities.set_mode) {
        return Err(refused(ErrorKind::DestDenied, "set attributes of", path, "this server does not set them"));
    }
    let mut node = lock(node);
    node.modified = modified.or(node.modified);
    node.permissions = permissions.or(node.permissions);
    Ok(())
}

#[derive(Debug)]
pub struct MemoryWriter {
    session: Arc<Session>,
    node: SharedNode,
    path: RemotePath,
    readable: bool,
    writable: bool,
    capabilities: Capabilities,
    /// An error that a server without confirmations tells only at the end.
    late: Mutex<Option<Error>>,
    closed: AtomicBool,
}

impl MemoryWriter {
    pub(super) fn new(
        session: Arc<Session>,
        node: SharedNode,
        path: RemotePath,
        readable: bool,
        writable: bool,
        capabilities: Capabilities,
    ) -> Self {
        Self { session, node, path, readable, writable, capabilities, late: Mutex::default(), closed: AtomicBool::new(false) }
    }

    fn enter(&self, operation: &'static str) -> Result<MutexGuard<'_, State>> {
        if self.closed.load(Ordering::Acquire) {
            return Err(refused(ErrorKind::Internal, operation, &self.path, "the file was closed"));
        }
        self.session.enter(operation, &self.path)
    }
}

#[async_trait]
impl Writer for MemoryWriter {
    async fn write_at(&self, offset: u64, data: Bytes) -> Result<()> {
        // Other writers get their turn, so that tests see every order of concurrent writes.
        tokio::task::yield_now().await;
        let mut state = self.enter("write")?;
        if !self.writable {
            return Err(refused(ErrorKind::DestDenied, "write", &self.path, "the file is open for reading only"));
        }
        // Counted only where it matters: every file is looked at.
        let used = state.capacity.map(|capacity| (capacity, state.used()));
        let mut node = lock(&self.node);
        if !self.capabilities.offset_writes && offset != node.now.size() {
            return Err(refused(ErrorKind::DestProtocol, "write", &self.path, "this server only appends"));
        }
        if let Some((capacity, used)) = used {
            let mut grown = node.now.clone();
            grown.write(offset, &data);
            if used - node.now.stored() + grown.stored() > capacity {
                let full = refused(ErrorKind::DestNoSpace, "write", &self.path, "the disk is full");
                if self.capabilities.confirms_writes {
                    return Err(full);
                }
                *lock(&self.late) = Some(full);
                return Ok(());
            }
        }
        node.now.write(offset, &data);
        state.accepted += data.len() as u64;
        Ok(())
    }

    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        let _state = self.enter("read back")?;
        if !self.readable {
            return Err(refused(ErrorKind::DestDenied, "read back", &self.path, "the file is not open for reading"));
        }
        Ok(Bytes::from(lock(&self.node).now.read(offset, length.min(MAX_READ))))
    }

    async fn size(&self) -> Result<u64> {
        let _state = self.enter("look at")?;
        Ok(lock(&self.node).now.size())
    }

    async fn sync(&self) -> Result<()> {
        let _state = self.enter("sync")?;
        if !self.capabilities.sync {
            return Err(refused(ErrorKind::DestDenied, "sync", &self.path, "this server has no sync"));
        }
        let mut node = lock(&self.node);
        node.durable = node.now.clone();
        Ok(())
    }

    async fn set_attributes(&self, modified: Option<jiff::Timestamp>, permissions: Option<u32>) -> Result<()> {
        let _state = self.enter("set attributes of")?;
        set_attributes(&self.capabilities, &self.node, &self.path, modified, permissions)
    }

    async fn close(&self) -> Result<()> {
        let _state = self.enter("close")?;
        self.closed.store(true, Ordering::Release);
        lock(&self.late).take().map_or(Ok(()), Err)
    }
}
