//! Data connections: where they come from or go to, their protection, and how they ended.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::either::Either;

use super::behaviour::SessionReuse;
use super::control::{Wire, accept, tcp};
use super::recorder::{DataEnd, TlsSeen};
use super::script::{DataStep, pieces};
use super::session::{PATIENCE, Session, reply};

/// Where the next data connection comes from or goes to.
pub(super) enum Setup {
    Passive(TcpListener),
    Active(SocketAddr),
}

/// The true answer to EPSV or PASV.
pub(super) fn passive_answer(address: SocketAddr, pasv: bool) -> Vec<u8> {
    match address.ip() {
        IpAddr::V4(ip) if pasv => pasv_answer(ip, address.port()),
        _ => reply(229, format!("Entering Extended Passive Mode (|||{}|)", address.port())),
    }
}

fn pasv_answer(ip: Ipv4Addr, port: u16) -> Vec<u8> {
    let [a, b, c, d] = ip.octets();
    let [high, low] = port.to_be_bytes();
    reply(227, format!("Entering Passive Mode ({a},{b},{c},{d},{high},{low})."))
}

impl Session {
    pub async fn passive(&mut self, verb: &str, argument: &[u8]) -> io::Result<Vec<u8>> {
        let rule = self.behaviour.passive.clone();
        let pasv = verb == "PASV";
        if !(if pasv { rule.pasv } else { rule.epsv }) {
            return Ok(reply(500, format!("{verb} not understood")));
        }
        if argument.eq_ignore_ascii_case(b"ALL") {
            return Ok(reply(200, "EPSV ALL ok"));
        }
        let listener = TcpListener::bind((self.local.ip(), 0)).await?;
        let mut address = listener.local_addr()?;
        self.data = Some(Setup::Passive(listener));
        address.set_port(rule.port.unwrap_or(address.port()));
        Ok(match (address.ip(), pasv) {
            (IpAddr::V6(_), true) => {
                self.data = None;
                reply(425, "You cannot use PASV on IPv6 connections. Use EPSV instead.")
            }
            (IpAddr::V4(ip), true) => pasv_answer(rule.address.unwrap_or(ip), address.port()),
            _ => match rule.epsv_address {
                Some(ip) => {
                    let family = if ip.is_ipv4() { 1 } else { 2 };
                    reply(229, format!("Entering Extended Passive Mode (|{family}|{ip}|{}|)", address.port()))
                }
                None => passive_answer(address, false),
            },
        })
    }

    pub fn active(&mut self, verb: &str, argument: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(argument);
        let address = if verb == "PORT" { port_address(&text) } else { eprt_address(&text) };
        match address {
            // Another address than the client's own is a bounce.
            Some(address) if address.ip() == self.peer.ip() => {
                self.data = Some(Setup::Active(address));
                reply(200, format!("{verb} command successful"))
            }
            Some(_) => reply(500, format!("Illegal {verb} command")),
            None => reply(501, format!("{verb} not understood")),
        }
    }

    /// The TCP connection, or the answer that says why there is none.
    pub async fn open_data(&mut self) -> Result<TcpStream, Vec<u8>> {
        let Some(setup) = self.data.take() else { return Err(reply(425, "Use PORT or PASV first.")) };
        let most = self.behaviour.data_connections.unwrap_or(usize::MAX);
        if self.data_opened >= most {
            return Err(reply(425, "Unable to build data connection: Operation not permitted"));
        }
        if !self.protected && self.behaviour.tls_required {
            return Err(reply(522, "SSL/TLS required on the data channel"));
        }
        let peer = self.peer.ip();
        let opened = async {
            match setup {
                Setup::Active(address) => TcpStream::connect(address).await,
                Setup::Passive(listener) => loop {
                    let (stream, from) = listener.accept().await?;
                    if from.ip() == peer {
                        break Ok(stream);
                    }
                },
            }
        };
        match tokio::time::timeout(PATIENCE, opened).await {
            Ok(Ok(stream)) => {
                self.data_opened += 1;
                Ok(stream)
            }
            _ => Err(reply(425, "Failed to establish connection.")),
        }
    }

    /// The handshake, where there has to be one, and whether the session was resumed.
    pub async fn protect(&self, stream: TcpStream) -> Result<(Wire, Option<TlsSeen>), (Vec<u8>, Option<TlsSeen>)> {
        if !self.protected {
            return Ok((Either::Left(stream), None));
        }
        let handshake = tokio::time::timeout(PATIENCE, accept(stream, self.settings[1].clone())).await;
        let Ok(Ok((mut stream, seen))) = handshake else { return Err((reply(425, "TLS handshake failed"), None)) };
        if let SessionReuse::Required(code) = self.behaviour.session_reuse
            && !seen.resumed
        {
            let _ = tokio::time::timeout(Duration::from_secs(1), stream.shutdown()).await;
            return Err((reply(code, "TLS session of data connection not resumed; session reuse required"), Some(seen)));
        }
        Ok((stream, Some(seen)))
    }
}

fn port_address(text: &str) -> Option<SocketAddr> {
    let numbers: Vec<u8> = text.trim().split(',').map(|number| number.parse().ok()).collect::<Option<_>>()?;
    let [a, b, c, d, high, low] = numbers[..] else { return None };
    Some((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])).into())
}

fn eprt_address(text: &str) -> Option<SocketAddr> {
    let separator = text.chars().next()?;
    let parts: Vec<_> = text.split(separator).collect();
    let ["", family, address, port, ""] = parts[..] else { return None };
    let address: IpAddr = address.parse().ok()?;
    let right = family == if address.is_ipv4() { "1" } else { "2" };
    right.then_some((address, port.parse().ok()?).into())
}

/// Ends the server's side of a stream, and waits elsewhere for the client's, so that closing does not destroy what is
/// still on its way there.
pub(super) async fn finish(mut stream: Wire) {
    let _ = tokio::time::timeout(PATIENCE, stream.shutdown()).await;
    tokio::spawn(async move {
        let mut rest = [0; 4096];
        let drained = async { while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {} };
        let _ = tokio::time::timeout(Duration::from_secs(2), drained).await;
    });
}

/// What a failed read says about the other side.
pub(super) fn end_of(error: &io::Error) -> DataEnd {
    // rustls: a TCP end without close_notify.
    if error.kind() == io::ErrorKind::UnexpectedEof { DataEnd::Fin } else { DataEnd::Reset }
}

/// Runs the steps and tells how many bytes moved.
pub(super) async fn run_steps(mut stream: Wire, steps: Vec<DataStep>) -> (u64, DataEnd) {
    let mut moved = 0;
    for step in steps {
        match step {
            DataStep::Send(bytes) => {
                if let Err(error) = stream.write_all(&bytes).await {
                    return (moved, end_of(&error));
                }
                moved += bytes.len() as u64;
            }
            DataStep::Repeat { bytes, times } => {
                for piece in pieces(&bytes, times) {
                    if let Err(error) = stream.write_all(&piece).await {
                        return (moved, end_of(&error));
                    }
                    moved += piece.len() as u64;
                }
            }
            DataStep::Read(most) => {
                let mut buffer = vec![0; 64 * 1024];
                let mut left = most;
                while left > 0 {
                    let room = left.min(buffer.len() as u64) as usize;
                    match stream.read(&mut buffer[..room]).await {
                        Ok(0) => break,
                        Ok(read) => left -= read as u64,
                        Err(error) => return (moved, end_of(&error)),
                    }
                }
                moved += most - left;
            }
            DataStep::Pause(time) => tokio::time::sleep(time).await,
            DataStep::Silence => std::future::pending().await,
            DataStep::Close => return (moved, DataEnd::Server),
            DataStep::Reset => {
                let _ = tcp(&stream).set_zero_linger();
                return (moved, DataEnd::Server);
            }
        }
    }
    finish(stream).await;
    (moved, DataEnd::Server)
}

/// One connection to a listener of a script, in clear text.
pub(super) async fn scripted(listener: TcpListener, steps: Vec<DataStep>) {
    if let Ok(Ok((stream, _))) = tokio::time::timeout(PATIENCE, listener.accept()).await {
        run_steps(Either::Left(stream), steps).await;
    }
}
