//! What an SSH session travels over: a TCP connection, or a channel of the session with a jump host. Both can be ended
//! at once, and both fail a write that makes no progress, for which russh has no clock of its own.

use std::future::Future as _;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use russh::ChannelStream;
use russh::client::{Handle, Msg};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::connect::{ClientHandler, Observed};

/// Ends a session at once, also when the peer no longer takes what we send. Dropping it does nothing to the session
/// itself; the sessions with jump hosts under it end with it.
#[derive(Debug)]
pub struct Socket {
    end: End,
    hops: Vec<Hop>,
}

#[derive(Debug)]
enum End {
    Tcp(std::net::TcpStream),
    Channel(CancellationToken),
}

impl Socket {
    /// Whoever reads or writes this connection gets an error now. russh's task cannot be ended otherwise while the
    /// peer keeps its window shut, because it then no longer looks whether its handle is gone.
    pub fn shut(&self) {
        match &self.end {
            End::Tcp(tcp) => drop(tcp.shutdown(Shutdown::Both)),
            End::Channel(token) => token.cancel(),
        }
        for hop in self.hops.iter().rev() {
            hop.socket.shut();
        }
    }

    pub(super) fn over(mut self, hops: Vec<Hop>) -> Self {
        self.hops = hops;
        self
    }
}

/// Until a session is handed over, giving up must also end russh's task.
#[derive(Debug)]
pub(super) struct ShutOnDrop(pub Option<Socket>);

impl Drop for ShutOnDrop {
    fn drop(&mut self) {
        if let Some(socket) = &self.0 {
            socket.shut();
        }
    }
}

/// A session with a jump host, over which the next one travels.
pub(super) struct Hop {
    /// The session lives as long as this.
    pub handle: Handle<ClientHandler>,
    pub observed: Arc<Observed>,
    /// As messages name it: `jump host bastion:22`.
    pub name: String,
    pub socket: Socket,
}

impl std::fmt::Debug for Hop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hop({})", self.name)
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        self.socket.shut();
    }
}

pub(super) enum Wire {
    Tcp(TcpStream),
    Channel(Box<Tunnel>),
}

/// A channel through a jump host.
pub(super) struct Tunnel {
    stream: ChannelStream<Msg>,
    hop: String,
    /// The session with the jump host is over. Nobody else would wake a writer that waits for its window.
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
    over: CancellationToken,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Tunnel {
    /// Whether there is anything left to wait for.
    fn alive(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.ended.as_mut().poll(cx).is_ready() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if self.gone.as_mut().poll(cx).is_ready() {
            return Err(self.lost());
        }
        Ok(())
    }

    // Not the kind of a connection that the server closed: that would be taken for the server's own doing.
    fn lost(&self) -> io::Error {
        io::Error::other(format!("the connection to the {} ended", self.hop))
    }
}

impl Wire {
    pub fn tcp(tcp: TcpStream) -> io::Result<(Self, Socket)> {
        let tcp = tcp.into_std()?;
        let socket = Socket { end: End::Tcp(tcp.try_clone()?), hops: Vec::new() };
        Ok((Self::Tcp(TcpStream::from_std(tcp)?), socket))
    }

    pub fn through(hop: &Hop, stream: ChannelStream<Msg>) -> (Self, Socket) {
        let end = CancellationToken::new();
        let over = hop.observed.over.clone();
        let tunnel = Tunnel {
            stream,
            hop: hop.name.clone(),
            gone: Box::pin(over.clone().cancelled_owned()),
            over,
            ended: Box::pin(end.clone().cancelled_owned()),
        };
        (Self::Channel(Box::new(tunnel)), Socket { end: End::Channel(end), hops: Vec::new() })
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Self::Channel(tunnel) => {
                let before = buffer.filled().len();
                match Pin::new(&mut tunnel.stream).poll_read(cx, buffer) {
                    Poll::Ready(Ok(())) if buffer.filled().len() == before && tunnel.over.is_cancelled() => Poll::Ready(Err(tunnel.lost())),
                    Poll::Pending => match tunnel.alive(cx) {
                        Ok(()) => Poll::Pending,
                        Err(error) => Poll::Ready(Err(error)),
                    },
                    ready => ready,
                }
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, data),
            Self::Channel(tunnel) => match Pin::new(&mut tunnel.stream).poll_write(cx, data) {
                // It fails only when the session with the jump host takes nothing any more.
                Poll::Ready(Err(_)) => Poll::Ready(Err(tunnel.lost())),
                Poll::Pending => match tunnel.alive(cx) {
                    Ok(()) => Poll::Pending,
                    Err(error) => Poll::Ready(Err(error)),
                },
                ready => ready,
            },
        }
    }
}

/// The wire as russh sees it; it remembers the first bytes for messages.
pub(super) struct Link {
    wire: Wire,
    observed: Arc<Observed>,
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Link {
    pub fn new(wire: Wire, observed: Arc<Observed>, stall: Duration) -> Self {
        Self { wire, observed, stall, stalled: None }
    }

    fn watched<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        let stall = self.stall;
        let clock = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        match clock.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Link {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(self.wire.poll_read(cx, buffer))?;
        self.observed.saw(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let result = self.wire.poll_write(cx, data);
        self.watched(cx, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Wire::Channel(tunnel) => Pin::new(&mut tunnel.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            // An end that cannot be sent any more is one: as an error it would hide why the session ended.
            Wire::Channel(tunnel) => match Pin::new(&mut tunnel.stream).poll_shutdown(cx) {
                Poll::Pending if tunnel.alive(cx).is_ok() => Poll::Pending,
                _ => Poll::Ready(Ok(())),
            },
        }
    }
}
