//! The line between client and server: commands in, answers out, in clear text or over TLS.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::recorder::TlsSeen;

/// A longer command ends the connection.
const MAX_LINE: usize = 64 * 1024;

/// TCP with or without TLS on it, for control and data connections.
pub(super) type Wire = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// The error that means: this connection is over, and there is nobody to tell.
pub(super) fn over() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

pub(super) fn tcp(wire: &Wire) -> &TcpStream {
    match wire {
        Either::Left(tcp) => tcp,
        Either::Right(tls) => tls.get_ref().0,
    }
}

/// Turns a stream into a protected one and tells what was agreed on.
pub(super) async fn accept(stream: TcpStream, settings: Arc<rustls::ServerConfig>) -> io::Result<(Wire, TlsSeen)> {
    let stream = TlsAcceptor::from(settings).accept(stream).await?;
    let tls = &stream.get_ref().1;
    let version = match tls.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "1.3",
        _ => "1.2",
    };
    let seen = TlsSeen { version, resumed: tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed) };
    Ok((Either::Right(Box::new(stream)), seen))
}

pub(super) struct Control {
    stream: Option<Wire>,
    buffer: Vec<u8>,
    /// Bytes that went out, before encryption.
    pub sent: u64,
}

impl Control {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream: Some(Either::Left(stream)), buffer: Vec::new(), sent: 0 }
    }

    pub fn is_secure(&self) -> bool {
        matches!(self.stream, Some(Either::Right(_)))
    }

    /// The next command without its line end; `None` when the client is gone. May be dropped while it waits.
    pub async fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
                line.pop();
                line.pop_if(|byte| *byte == b'\r');
                // ABOR may come after Telnet's "interrupt process" and "synch".
                let telnet = line.iter().take_while(|byte| matches!(byte, 0xff | 0xf4 | 0xf2)).count();
                line.drain(..telnet);
                return Ok(Some(line));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let Some(stream) = &mut self.stream else { return Ok(None) };
            if stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let stream = self.stream.as_mut().ok_or_else(over)?;
        stream.write_all(bytes).await?;
        stream.flush().await?;
        self.sent += bytes.len() as u64;
        Ok(())
    }

    /// The handshake after AUTH, or at the beginning. What was sent before it in clear text is forgotten.
    pub async fn secure(&mut self, settings: Arc<rustls::ServerConfig>) -> io::Result<TlsSeen> {
        self.buffer.clear();
        let Some(Either::Left(stream)) = self.stream.take() else { return Err(over()) };
        let (stream, seen) = accept(stream, settings).await?;
        self.stream = Some(stream);
        Ok(seen)
    }

    /// Gone, with FIN and nothing else.
    pub fn drop_stream(&mut self) {
        self.stream = None;
    }

    /// Gone, with RST.
    pub fn reset(&mut self) {
        if let Some(stream) = self.stream.take() {
            let _ = tcp(&stream).set_zero_linger();
        }
    }

    /// Ends in good order, with close_notify where there is TLS.
    pub async fn finish(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            let _ = stream.shutdown().await;
        }
    }
}
