//! A connection of which every operation passes somebody who may count, break or delay it, or change what is written.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use model::{Algorithm, Digest, RemotePath};
use transfer::{Capabilities, Connection, CreateOptions, Entry, Metadata, RenameMode, Result, ServerIdentity, Writer};

pub trait Tap: Debug + Send + Sync + 'static {
    /// Carries an operation out, or does not.
    fn call<T: Send>(
        &self,
        name: &'static str,
        operation: impl Future<Output = Result<T>> + Send,
    ) -> impl Future<Output = Result<T>> + Send;

    /// What is written instead, to the file of that name.
    fn instead(&self, _name: &str, data: Bytes) -> Bytes {
        data
    }

    /// Whether `finish` also passes where there is nothing to end.
    const EVERY_FINISH: bool;
}

#[derive(Debug)]
pub struct Tapped<T> {
    inner: Box<dyn Connection>,
    tap: Arc<T>,
}

impl<T: Tap> Tapped<T> {
    pub fn new(inner: Box<dyn Connection>, tap: Arc<T>) -> Self {
        Self { inner, tap }
    }

    fn writer(&self, inner: Box<dyn Writer>, path: &RemotePath) -> Box<dyn Writer> {
        let finishes = T::EVERY_FINISH || self.inner.capabilities().is_stream();
        Box::new(TappedWriter { inner, tap: self.tap.clone(), name: path.name().to_owned(), finishes })
    }
}

#[async_trait]
impl<T: Tap> Connection for Tapped<T> {
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn identity(&self) -> &ServerIdentity {
        self.inner.identity()
    }

    async fn stat(&self, path: &RemotePath) -> Result<Option<Metadata>> {
        self.tap.call("stat", self.inner.stat(path)).await
    }

    async fn list(&self, path: &RemotePath, limit: usize) -> Result<Vec<Entry>> {
        self.tap.call("list", self.inner.list(path, limit)).await
    }

    async fn make_directory(&self, path: &RemotePath) -> Result<()> {
        self.tap.call("make directory", self.inner.make_directory(path)).await
    }

    async fn remove_directory(&self, path: &RemotePath) -> Result<()> {
        self.tap.call("remove directory", self.inner.remove_directory(path)).await
    }

    async fn open(&self, path: &RemotePath, options: CreateOptions) -> Result<Box<dyn Writer>> {
        Ok(self.writer(self.tap.call("open", self.inner.open(path, options)).await?, path))
    }

    async fn open_read(&self, path: &RemotePath) -> Result<Box<dyn Writer>> {
        Ok(self.writer(self.tap.call("open to read", self.inner.open_read(path)).await?, path))
    }

    async fn rename(&self, from: &RemotePath, to: &RemotePath, mode: RenameMode) -> Result<()> {
        self.tap.call("rename", self.inner.rename(from, to, mode)).await
    }

    async fn remove(&self, path: &RemotePath) -> Result<()> {
        self.tap.call("remove", self.inner.remove(path)).await
    }

    async fn set_attributes(&self, path: &RemotePath, modified: Option<jiff::Timestamp>, permissions: Option<u32>) -> Result<()> {
        self.tap.call("set attributes", self.inner.set_attributes(path, modified, permissions)).await
    }

    async fn hash(&self, path: &RemotePath, algorithm: Algorithm) -> Result<Option<Digest>> {
        self.tap.call("hash", self.inner.hash(path, algorithm)).await
    }

    async fn free_space(&self, path: &RemotePath) -> Result<Option<u64>> {
        self.tap.call("free space", self.inner.free_space(path)).await
    }

    async fn ping(&self) -> Result<()> {
        self.tap.call("ping", self.inner.ping()).await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

#[derive(Debug)]
struct TappedWriter<T> {
    inner: Box<dyn Writer>,
    tap: Arc<T>,
    name: String,
    finishes: bool,
}

#[async_trait]
impl<T: Tap> Writer for TappedWriter<T> {
    async fn write_at(&self, offset: u64, data: Bytes) -> Result<()> {
        let write = async { self.inner.write_at(offset, self.tap.instead(&self.name, data)).await };
        self.tap.call("write", write).await
    }

    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        self.tap.call("read", self.inner.read_at(offset, length)).await
    }

    async fn size(&self) -> Result<u64> {
        self.tap.call("size", self.inner.size()).await
    }

    async fn sync(&self) -> Result<()> {
        self.tap.call("sync", self.inner.sync()).await
    }

    async fn set_attributes(&self, modified: Option<jiff::Timestamp>, permissions: Option<u32>) -> Result<()> {
        self.tap.call("set attributes", self.inner.set_attributes(modified, permissions)).await
    }

    async fn finish(&self) -> Result<()> {
        if !self.finishes {
            return self.inner.finish().await;
        }
        self.tap.call("finish", self.inner.finish()).await
    }

    async fn close(&self) -> Result<()> {
        self.tap.call("close", self.inner.close()).await
    }
}
