//! Directories at the destination: created when a file needs them, each once, never above what the user allowed.

use std::collections::HashSet;

use model::RemotePath;
use tokio::sync::Mutex;

use crate::{Connection, Error, ErrorKind, Result};

#[derive(Debug)]
pub struct Directories {
    root: RemotePath,
    /// Held while creating, so that a thousand files of one directory create it once.
    known: Mutex<HashSet<RemotePath>>,
}

impl Directories {
    pub fn new(root: RemotePath) -> Self {
        Self { root, known: Mutex::new(HashSet::new()) }
    }

    /// Makes sure that the parent of `path` exists. Returns whether anything may have changed, so that the caller
    /// tries again only when that can help.
    pub async fn ensure_parent(&self, connection: &dyn Connection, path: &RemotePath, below: bool, root: bool) -> Result<bool> {
        let Some(parent) = path.parent() else { return Ok(false) };
        let mut known = self.known.lock().await;
        let mut missing = Vec::new();
        let mut at = Some(parent);
        while let Some(directory) = at {
            if known.contains(&directory) {
                break;
            }
            let there = match connection.stat(&directory).await {
                Ok(found) => found.is_some_and(|m| m.directory),
                Err(error) if error.is_connection_lost() => return Err(error),
                // Nobody may look here: take the user's word for the root, and make what is below it. That succeeds
                // where a directory is there already.
                Err(_) => directory == self.root || !directory.starts_with(&self.root),
            };
            if there {
                known.insert(directory);
                break;
            }
            at = directory.parent();
            missing.push(directory);
        }
        for directory in missing.iter().rev() {
            let allowed = if directory == &self.root || !directory.starts_with(&self.root) { root } else { below };
            if !allowed {
                return Err(
                    Error::new(ErrorKind::DestDirMissing, "find the directory", directory).because("it does not exist at the destination")
                );
            }
            connection.make_directory(directory).await?;
            known.insert(directory.clone());
        }
        Ok(true)
    }

    /// A directory that was there is gone: look again next time.
    pub async fn forget(&self, path: &RemotePath) {
        if let Some(parent) = path.parent() {
            self.known.lock().await.retain(|d| !parent.starts_with(d) || d == &RemotePath::root());
        }
    }
}
