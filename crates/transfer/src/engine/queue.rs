//! The hand-over between the reader of a file and its lanes: ranges in memory, each with its share of the budget.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::budget::Reserved;

/// A range on its way from the source to the destination.
#[derive(Debug)]
pub struct Parcel {
    pub index: u64,
    pub offset: u64,
    pub data: Bytes,
    /// The destination has confirmed it; only the proof is missing.
    pub written: bool,
    /// Held for its drop: the memory returns to the budget with the parcel.
    pub _reserved: Reserved,
}

impl Drop for Parcel {
    fn drop(&mut self) {
        crate::buffers::give_back(std::mem::take(&mut self.data));
    }
}

#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    /// For one of those who wait in `pop`…
    changed: Notify,
    /// …and for all of those who wait in `wait`: whoever is woken may have no hand free.
    arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    parcels: VecDeque<Parcel>,
    closed: bool,
}

impl Queue {
    pub fn push(&self, parcel: Parcel) {
        self.state.lock().expect("no panic while holding the lock").parcels.push_back(parcel);
        self.changed.notify_one();
        self.arrived.notify_waiters();
    }

    /// A lane could not deliver it; another one takes it first.
    pub fn give_back(&self, parcel: Parcel) {
        self.state.lock().expect("no panic while holding the lock").parcels.push_front(parcel);
        self.changed.notify_one();
        self.arrived.notify_waiters();
    }

    /// Waits until there is a parcel, which somebody else may take first, and tells its size; `None` once the queue is closed.
    pub async fn wait(&self) -> Option<u64> {
        loop {
            let arrived = self.arrived.notified();
            {
                let state = self.state.lock().expect("no panic while holding the lock");
                if state.closed {
                    return None;
                }
                if let Some(parcel) = state.parcels.front() {
                    return Some(parcel.data.len() as u64);
                }
            }
            arrived.await;
        }
    }

    /// The next parcel, if there is one now.
    pub fn take(&self) -> Option<Parcel> {
        self.state.lock().expect("no panic while holding the lock").parcels.pop_front()
    }

    /// Waits for the next parcel; `None` once the queue is closed.
    pub async fn pop(&self) -> Option<Parcel> {
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.state.lock().expect("no panic while holding the lock");
                if state.closed {
                    return None;
                }
                if let Some(parcel) = state.parcels.pop_front() {
                    if !state.parcels.is_empty() {
                        self.changed.notify_one();
                    }
                    return Some(parcel);
                }
            }
            changed.await;
        }
    }

    /// Nothing more will be sent; what is left is dropped and its memory given back.
    pub fn close(&self) {
        let mut state = self.state.lock().expect("no panic while holding the lock");
        state.closed = true;
        state.parcels.clear();
        drop(state);
        self.changed.notify_waiters();
        self.arrived.notify_waiters();
        // A waiter between its check and its await is covered by this permit.
        self.changed.notify_one();
    }

    pub fn is_closed(&self) -> bool {
        self.state.lock().expect("no panic while holding the lock").closed
    }
}
