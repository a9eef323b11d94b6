//! The turn of a large file among those that are read at once. It is given on when the last byte has been read, so that the
//! next one is looked at, opened and read while the end of this one is still on its way: a far line never waits for that.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl Turn {
    pub fn of(turns: &Arc<Semaphore>, held: OwnedSemaphorePermit) -> Self {
        Self { turns: turns.clone(), held: Some(held) }
    }

    /// Waits for a turn again, where it was given on and the file must be read once more.
    pub async fn wait(&mut self) {
        if self.held.is_none() {
            self.held = self.turns.clone().acquire_owned().await.ok();
        }
    }

    /// What is to be dropped when everything has been read.
    pub fn take(&mut self) -> Option<OwnedSemaphorePermit> {
        self.held.take()
    }

    pub fn give_back(&mut self, held: Option<OwnedSemaphorePermit>) {
        self.held = self.held.take().or(held);
    }
}
