//! The SFTP session's way over SSH: a channel of a logged-in russh client with the `sftp` subsystem started.

use std::time::Duration;

use bytes::Bytes;
use russh::client::{Handle, Msg};
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Disconnect};

use super::connect::ClientHandler;
use super::error::Lost;
use super::session::{Event, GOODBYE, Inbound, Outbound};
use crate::ErrorKind;
use crate::error::BoxError;

/// What is kept of a server's complaints on its error stream.
const MAX_COMPLAINT: usize = 512;
/// How long a server that closes gets to say why.
const LAST_WORDS: Duration = Duration::from_millis(250);

pub(super) struct SshOutbound(ChannelWriteHalf<Msg>);

pub(super) struct SshInbound {
    /// `None` once the SSH session is over.
    handle: Option<Handle<ClientHandler>>,
    channel: ChannelReadHalf,
    refused: bool,
    open: bool,
    complaint: Vec<u8>,
    exit: Option<String>,
}

/// Opens a channel and asks for the subsystem. Its answer is awaited together with the first SFTP packet, which
/// saves a round trip.
pub(super) async fn open(handle: Handle<ClientHandler>) -> Result<(SshOutbound, SshInbound), Lost> {
    let channel = match handle.channel_open_session().await {
        Ok(channel) => channel,
        Err(russh::Error::ChannelOpenFailure(reason)) => {
            return Err(Lost::new(ErrorKind::DestProtocol, format!("the server opens no channel ({reason:?})")));
        }
        Err(error) => return Err(cause(Some(handle)).await.unwrap_or_else(|| Lost::reset("the connection ended").because(error))),
    };
    channel.request_subsystem(true, "sftp").await.map_err(|error| Lost::reset("the connection ended").because(error))?;
    let (channel, writer) = channel.split();
    let inbound = SshInbound { handle: Some(handle), channel, refused: false, open: true, complaint: Vec::new(), exit: None };
    Ok((SshOutbound(writer), inbound))
}

impl Outbound for SshOutbound {
    async fn send(&mut self, data: Bytes) -> Result<(), BoxError> {
        // This waits for the server's window; handing over more would park it where nothing else gets past.
        Ok(self.0.data_bytes(data).await?)
    }

    async fn finish(&mut self) {
        let _ = self.0.close().await;
    }
}

impl SshInbound {
    fn event(&mut self, message: Option<ChannelMsg>) -> Event {
        match message {
            Some(ChannelMsg::Data { data }) => return Event::Data(data),
            Some(ChannelMsg::ExtendedData { data, .. }) => {
                let room = MAX_COMPLAINT - self.complaint.len();
                self.complaint.extend_from_slice(&data[..data.len().min(room)]);
            }
            Some(ChannelMsg::ExitStatus { exit_status }) => self.exit = Some(format!("its SFTP service ended with status {exit_status}")),
            Some(ChannelMsg::ExitSignal { signal_name, .. }) => {
                self.exit = Some(format!("its SFTP service was ended by {signal_name:?}"));
            }
            Some(ChannelMsg::Failure) => {
                self.refused = true;
                return Event::Ended;
            }
            Some(ChannelMsg::Eof) => return Event::Ended,
            Some(ChannelMsg::Close) | None => {
                self.open = false;
                return Event::Ended;
            }
            Some(_) => {}
        }
        Event::Sign
    }
}

impl Inbound for SshInbound {
    async fn receive(&mut self) -> Event {
        let message = self.channel.wait().await;
        self.event(message)
    }

    async fn reason(&mut self) -> Lost {
        if self.refused {
            return Lost::new(ErrorKind::DestProtocol, "the server does not offer the sftp subsystem to this account");
        }
        // Exit status and error text come between EOF and CLOSE.
        let last_words = async {
            while self.open {
                let message = self.channel.wait().await;
                self.event(message);
            }
        };
        let _ = tokio::time::timeout(LAST_WORDS, last_words).await;
        if let Some(handle) = &mut self.handle
            && let Ok(end) = tokio::time::timeout(LAST_WORDS, handle).await
        {
            self.handle = None;
            if let Some(lost) = why(end) {
                return lost;
            }
        }
        let complaint = String::from_utf8_lossy(&self.complaint).trim().to_owned();
        let lost = Lost::reset("the server closed the connection");
        match (complaint.is_empty(), self.exit.take()) {
            (false, _) => lost.because(model::escape_name(&complaint)),
            (true, Some(exit)) => lost.because(exit),
            (true, None) => lost,
        }
    }

    async fn leave(&mut self) {
        if let Some(handle) = self.handle.take() {
            let _ = handle.disconnect(Disconnect::ByApplication, "", "").await;
            let _ = tokio::time::timeout(GOODBYE, handle).await;
        }
    }
}

/// Why the SSH session under `handle` ended, if it did.
async fn cause(handle: Option<Handle<ClientHandler>>) -> Option<Lost> {
    why(tokio::time::timeout(LAST_WORDS, handle?).await.ok()?)
}

/// The handler's error carries the server's parting words and the class, where it found them.
fn why(end: Result<(), <ClientHandler as russh::client::Handler>::Error>) -> Option<Lost> {
    let cause: BoxError = end.err()?.into();
    let stalled = match (cause.downcast_ref::<crate::Error>(), cause.downcast_ref::<russh::Error>()) {
        (Some(error), _) => error.kind == ErrorKind::NetworkStalled,
        (_, Some(error)) => matches!(error, russh::Error::KeepaliveTimeout | russh::Error::InactivityTimeout),
        _ => false,
    };
    let kind = if stalled { ErrorKind::NetworkStalled } else { ErrorKind::NetworkReset };
    Some(Lost::new(kind, "the SSH connection ended").because(cause))
}
