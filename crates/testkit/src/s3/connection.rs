//! The server's side of one TCP connection, able to end it at an exact byte.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// An orderly end of the stream.
    Fin,
    /// A reset.
    Rst,
}

/// Set by a response body, obeyed once everything written before has left for the socket.
#[derive(Debug, Clone, Default)]
pub(crate) struct EndAfterFlush(Arc<Mutex<Option<Ending>>>);

impl EndAfterFlush {
    pub fn set(&self, ending: Ending) {
        *self.0.lock().expect("no panic while locked") = Some(ending);
    }

    fn take(&self) -> Option<Ending> {
        self.0.lock().expect("no panic while locked").take()
    }
}

#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    end: EndAfterFlush,
}

impl Connection {
    pub fn new(stream: TcpStream, end: EndAfterFlush) -> Self {
        Self { stream, end }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper calls this only with its own buffers empty, so the bytes before the end are with the kernel.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.end.take() {
            None => Pin::new(&mut self.stream).poll_flush(cx),
            Some(ending) => {
                if ending == Ending::Rst {
                    self.stream.set_zero_linger()?;
                }
                Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "ended by a fault")))
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
