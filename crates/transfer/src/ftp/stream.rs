//! One type for a connection in clear text or over TLS, and the data connection that must not end by accident.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// What the kernel may hold back beyond what is on its way, so that the end of a file is not far from our last write. On a
/// line of 1 Gbit/s it lasts for 8 ms, in which a busy machine comes back to us.
#[cfg(target_os = "linux")]
const MAX_UNSENT: u32 = 1024 * 1024;

pub(super) enum Stream {
    Clear(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.tls().is_some() { "Stream(TLS)" } else { "Stream(clear)" })
    }
}

impl Stream {
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Clear(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    pub fn tls(&self) -> Option<&rustls::ClientConnection> {
        match self {
            Self::Clear(_) => None,
            Self::Tls(tls) => Some(tls.get_ref().1),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(tcp) => Pin::new(tcp).poll_read(context, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(tcp) => Pin::new(tcp).poll_write(context, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(tcp) => Pin::new(tcp).poll_flush(context),
            Self::Tls(tls) => Pin::new(tls).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(tcp) => Pin::new(tcp).poll_shutdown(context),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(context),
        }
    }
}

/// A data connection. Unless its end was reached in good order, dropping it resets it: a server takes an ordinary end
/// of the stream for the end of the file.
#[derive(Debug)]
pub(super) struct Data {
    pub stream: Stream,
    ended: bool,
}

impl Data {
    pub fn new(stream: Stream) -> Self {
        #[cfg(target_os = "linux")]
        let _ = SockRef::from(stream.tcp()).set_tcp_notsent_lowat(MAX_UNSENT);
        Self { stream, ended: false }
    }

    /// Both sides have said that this is the end.
    pub fn ended(mut self) {
        self.ended = true;
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        if !self.ended {
            let _ = SockRef::from(self.stream.tcp()).set_linger(Some(Duration::ZERO));
        }
    }
}
