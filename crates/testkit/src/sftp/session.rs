//! One SFTP channel: packets in, operations on the storage, replies out. The misbehaviour of `Behaviour` that concerns
//! replies (late, shuffled, absurd) is in `send_replies`, the rest in `Session::perform` and `files`.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use russh::ChannelMsg;
use russh::server::Msg;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Shared;
use super::behaviour::Behaviour;
use super::operation::{Operation, Verdict};
use super::storage::normalise;
use super::wire::{self, Attributes, Request};

/// Why a channel ends.
#[derive(Debug)]
pub(super) enum End {
    /// The client closed it, or the transport is gone.
    Closed,
    /// The whole connection is to be cut.
    Cut,
}

pub(super) struct OpenFile {
    pub file: Arc<File>,
    pub path: Arc<str>,
    pub readable: bool,
    pub writable: bool,
    pub append: bool,
    /// The corruption that was chosen for this file when it was created.
    pub spoilt: bool,
}

pub(super) struct OpenDirectory {
    pub path: Arc<str>,
    pub entries: Vec<(Vec<u8>, String, Attributes)>,
}

pub(super) enum Handle {
    File(OpenFile),
    Directory(OpenDirectory),
}

impl Handle {
    pub fn path(&self) -> &Arc<str> {
        match self {
            Self::File(file) => &file.path,
            Self::Directory(directory) => &directory.path,
        }
    }
}

pub(super) struct Session {
    pub shared: Arc<Shared>,
    pub generation: u64,
    pub handles: HashMap<Bytes, Handle>,
    pub behaviour: Arc<Behaviour>,
}

impl Drop for Session {
    fn drop(&mut self) {
        for handle in self.handles.values() {
            if matches!(handle, Handle::File(_)) {
                self.shared.recorder.open_files.down();
            }
        }
        self.shared.recorder.channels.down();
    }
}

/// Serves one channel until the client, a fault or the server's end closes it.
pub(super) async fn serve(shared: Arc<Shared>, connection: u64, generation: u64, channel: russh::Channel<Msg>) {
    let (mut incoming, outgoing) = channel.split();
    let mut changes = shared.changes.subscribe();
    let (replies, queue) = mpsc::unbounded_channel();
    let sender = tokio::spawn(send_replies(shared.clone(), queue, outgoing));
    let behaviour = shared.behaviour();
    let mut session = Session { shared: shared.clone(), generation, handles: HashMap::new(), behaviour };
    let mut buffer = BytesMut::new();
    let end = loop {
        let message = tokio::select! {
            message = incoming.wait() => message,
            () = killed(&shared, generation, &mut changes) => break End::Closed,
        };
        match message {
            Some(ChannelMsg::Data { data }) => buffer.extend_from_slice(&data),
            Some(ChannelMsg::Eof | ChannelMsg::Close) | None => break End::Closed,
            Some(_) => continue,
        }
        if let Err(end) = session.consume(&mut buffer, &replies, &mut changes).await {
            break end;
        }
    };
    drop(session);
    drop(replies);
    if matches!(end, End::Cut) {
        sender.abort();
        shared.cut(connection);
    } else {
        // Replies that are still waiting (latency, reordering) leave before the channel closes.
        let _ = sender.await;
    }
}

async fn killed(shared: &Shared, generation: u64, changes: &mut watch::Receiver<u64>) {
    while shared.generation() == generation {
        if changes.changed().await.is_err() {
            return;
        }
    }
}

struct Outgoing {
    due: Instant,
    reply: Bytes,
}

async fn send_replies(shared: Arc<Shared>, mut queue: mpsc::UnboundedReceiver<Outgoing>, channel: russh::ChannelWriteHalf<Msg>) {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut batch = Vec::new();
    let mut joined = BytesMut::new();
    while let Some(first) = queue.recv().await {
        batch.push(first);
        if let Some(window) = shared.behaviour().reorder {
            // Whoever waits for one answer before asking again gets it after this pause.
            let pause = tokio::time::sleep(Duration::from_millis(3));
            tokio::pin!(pause);
            while batch.len() < window {
                tokio::select! {
                    Some(next) = queue.recv() => batch.push(next),
                    () = &mut pause => break,
                }
            }
            for place in (1..batch.len()).rev() {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                batch.swap(place, (seed % (place as u64 + 1)) as usize);
            }
        } else {
            while batch.len() < 64 {
                let Ok(next) = queue.try_recv() else { break };
                batch.push(next);
            }
        }
        for outgoing in batch.drain(..) {
            if outgoing.due > Instant::now() {
                if !joined.is_empty() && channel.data_bytes(joined.split().freeze()).await.is_err() {
                    return;
                }
                tokio::time::sleep_until(outgoing.due).await;
            }
            joined.extend_from_slice(&outgoing.reply);
            if joined.len() > 128 * 1024 && channel.data_bytes(joined.split().freeze()).await.is_err() {
                return;
            }
        }
        if !joined.is_empty() && channel.data_bytes(joined.split().freeze()).await.is_err() {
            return;
        }
    }
    let _ = channel.eof().await;
    let _ = channel.close().await;
}

impl Session {
    async fn consume(
        &mut self,
        buffer: &mut BytesMut,
        replies: &mpsc::UnboundedSender<Outgoing>,
        changes: &mut watch::Receiver<u64>,
    ) -> Result<(), End> {
        while buffer.len() >= 4 {
            let length = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as usize;
            self.behaviour = self.shared.behaviour();
            if length == 0 || length > self.behaviour.limits.max_packet as usize {
                return Err(End::Cut);
            }
            if buffer.len() < 4 + length {
                buffer.reserve(4 + length - buffer.len());
                break;
            }
            let mut packet = buffer.split_to(4 + length).freeze();
            let (id, request) = wire::parse(packet.split_off(4)).map_err(|_| End::Cut)?;
            self.wait_while_stalled(changes).await?;
            if let Some(reply) = self.answer(id, request).await? {
                let due = Instant::now() + self.behaviour.latency;
                replies.send(Outgoing { due, reply }).map_err(|_| End::Closed)?;
            }
        }
        Ok(())
    }

    async fn wait_while_stalled(&mut self, changes: &mut watch::Receiver<u64>) -> Result<(), End> {
        while self.behaviour.stall_after_writes.is_some_and(|writes| self.shared.recorder.writes() >= writes) {
            changes.changed().await.map_err(|_| End::Closed)?;
            if self.shared.generation() != self.generation {
                return Err(End::Closed);
            }
            self.behaviour = self.shared.behaviour();
        }
        Ok(())
    }

    async fn answer(&mut self, id: u32, request: Request) -> Result<Option<Bytes>, End> {
        if let Request::Initialise = request {
            return Ok(Some(wire::version(&self.behaviour.extensions.announced())));
        }
        let operation = self.describe(&request);
        self.shared.recorder.saw(&operation);
        let mut silent = false;
        let mut cut = false;
        match self.shared.verdict(&operation) {
            Verdict::Proceed => {}
            Verdict::Delay(delay) => tokio::time::sleep(delay).await,
            Verdict::Status(code, text) => return Ok(Some(wire::status(id, code, &text))),
            Verdict::AckButDrop => return Ok(Some(wire::status(id, wire::OK, wire::text_of(wire::OK)))),
            Verdict::Disconnect => return Err(End::Cut),
            Verdict::DoneThenDisconnect => cut = true,
            Verdict::Silent => silent = true,
            Verdict::Ignore => return Ok(None),
            Verdict::Raw(bytes) => return Ok(Some(bytes)),
        }
        let reply = self.perform_unless_killed(id, request)?;
        if cut {
            return Err(End::Cut);
        }
        Ok(if silent { None } else { Some(self.disguise(reply)) })
    }

    /// Holds the generation while it works, so that nothing is written after a crash or a kill returned.
    fn perform_unless_killed(&mut self, id: u32, request: Request) -> Result<Bytes, End> {
        let shared = self.shared.clone();
        let generation = shared.hold_generation();
        if *generation != self.generation {
            return Err(End::Closed);
        }
        Ok(self.perform(id, request))
    }

    fn disguise(&self, reply: Bytes) -> Bytes {
        if !self.behaviour.huge_replies && !self.behaviour.wrong_ids {
            return reply;
        }
        let mut reply = BytesMut::from(&reply[..]);
        if self.behaviour.huge_replies {
            reply[..4].copy_from_slice(&u32::MAX.to_be_bytes());
        }
        if self.behaviour.wrong_ids {
            reply[5] ^= 0x80;
        }
        reply.freeze()
    }

    fn describe(&self, request: &Request) -> Operation {
        let path = |path: &Bytes| -> Arc<str> { shown(&normalise(path)) };
        let of_handle = |handle: &Bytes| self.handles.get(handle).map_or_else(|| Arc::from("?"), |handle| handle.path().clone());
        match request {
            Request::Open { path: name, flags, attributes } => Operation::Open { path: path(name), flags: *flags, attributes: *attributes },
            Request::Close { handle } => Operation::Close { path: of_handle(handle) },
            Request::Read { handle, offset, length } => Operation::Read { path: of_handle(handle), offset: *offset, length: *length },
            Request::Write { handle, offset, data } => Operation::Write { path: of_handle(handle), offset: *offset, length: data.len() },
            Request::Stat { path: name, .. } => Operation::Stat { path: path(name) },
            Request::StatHandle { handle } => Operation::Stat { path: of_handle(handle) },
            Request::SetStat { path: name, attributes } => Operation::SetStat { path: path(name), attributes: *attributes },
            Request::SetStatHandle { handle, attributes } => Operation::SetStat { path: of_handle(handle), attributes: *attributes },
            Request::OpenDirectory { path: name } => Operation::OpenDirectory { path: path(name) },
            Request::ReadDirectory { handle } => Operation::ReadDirectory { path: of_handle(handle) },
            Request::Remove { path: name } => Operation::Remove { path: path(name) },
            Request::MakeDirectory { path: name, .. } => Operation::MakeDirectory { path: path(name) },
            Request::RemoveDirectory { path: name } => Operation::RemoveDirectory { path: path(name) },
            Request::RealPath { path: name } => Operation::RealPath { path: path(name) },
            Request::ReadLink { path: name } => Operation::ReadLink { path: path(name) },
            Request::Rename { from, to } => Operation::Rename { from: path(from), to: path(to) },
            Request::PosixRename { from, to } => Operation::PosixRename { from: path(from), to: path(to) },
            Request::HardLink { from, to } => Operation::HardLink { from: path(from), to: path(to) },
            Request::Sync { handle } => Operation::Sync { path: of_handle(handle) },
            Request::FreeSpace { path: name } => Operation::FreeSpace { path: path(name) },
            Request::FreeSpaceHandle { handle } => Operation::FreeSpace { path: of_handle(handle) },
            Request::Limits => Operation::Limits,
            Request::Extended { name } => Operation::Unknown { name: name.clone() },
            Request::Initialise => Operation::Unknown { name: "INIT".to_owned() },
            Request::Unknown { kind } => Operation::Unknown { name: format!("type {kind}") },
        }
    }

    /// Sixteen bytes that are not text, so that a client which treats them as text fails here first.
    pub(super) fn new_handle(&mut self, handle: Handle) -> Bytes {
        let number = self.shared.next_handle.fetch_add(1, Ordering::SeqCst);
        let mut bytes = self.shared.handle_seed.map(|byte| byte.wrapping_add(number as u8).rotate_left(3));
        bytes[0] |= 0x80;
        bytes[1] = 0xff;
        bytes[2] = 0;
        // The number itself keeps them different; mixed so that handles of one file do not look alike.
        bytes[8..].copy_from_slice(&(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_be_bytes());
        let bytes = Bytes::copy_from_slice(&bytes);
        if matches!(handle, Handle::File(_)) {
            self.shared.recorder.open_files.up();
        }
        self.handles.insert(bytes.clone(), handle);
        bytes
    }
}

pub(super) fn shown(path: &[u8]) -> Arc<str> {
    Arc::from(String::from_utf8_lossy(path))
}
