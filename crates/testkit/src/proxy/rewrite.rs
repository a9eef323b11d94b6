//! The seam for protocols that name addresses inside their streams: a rewriter may open further listeners.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};

use super::Shared;

/// Changes what passes in one direction of one connection, before rules are applied.
#[async_trait]
pub trait Rewrite: Send {
    /// Called with every chunk in order; what it returns is passed on. It may hold bytes back for the next call.
    async fn rewrite(&mut self, chunk: Bytes, opener: &Opener) -> Bytes;
}

/// Opens listeners that belong to the same proxy: same settings, same rules, same counters.
#[derive(Debug)]
pub struct Opener(Arc<Shared>);

impl Opener {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self(shared.clone())
    }

    /// The address behind the proxy.
    pub fn target(&self) -> SocketAddr {
        self.0.target
    }

    /// A port of 127.0.0.1 whose first connection is passed on to `target`.
    pub async fn open(&self, target: SocketAddr) -> io::Result<SocketAddr> {
        super::open_passive(target, &self.0).await
    }
}

/// Lines longer than this are no FTP replies.
const LONGEST_LINE: usize = 8 << 10;

/// Sends FTP data connections through the proxy too: rewrites the replies to PASV and EPSV.
/// After `234` (AUTH TLS) the stream cannot be read any more and passes as it is.
#[derive(Debug, Default)]
pub struct PassiveReplies {
    held: BytesMut,
    blind: bool,
}

impl PassiveReplies {
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Rewrite for PassiveReplies {
    async fn rewrite(&mut self, chunk: Bytes, opener: &Opener) -> Bytes {
        if self.blind {
            return chunk;
        }
        self.held.extend_from_slice(&chunk);
        let mut out = BytesMut::new();
        while let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
            let line = self.held.copy_to_bytes(end + 1);
            self.blind |= line.starts_with(b"234 ");
            let replaced = match passive_address(&line, opener.target().ip()) {
                Some(address) => opener.open(address).await.ok().map(|ours| passive_reply(&line, ours)),
                None => None,
            };
            out.extend_from_slice(&replaced.map_or(line, Bytes::from));
        }
        if self.blind || self.held.len() > LONGEST_LINE {
            out.extend_from_slice(&self.held.split());
        }
        out.freeze()
    }
}

/// Where the server waits, from `227 … (127,0,0,1,p,q)` or `229 … (|||port|)`.
fn passive_address(line: &[u8], server: IpAddr) -> Option<SocketAddr> {
    let text = std::str::from_utf8(line).ok()?;
    let inside = text.split_once('(')?.1.split_once(')')?.0;
    match text.get(..4)? {
        "227 " => {
            let numbers = inside.split(',').map(|number| number.trim().parse::<u8>().ok()).collect::<Option<Vec<_>>>()?;
            let [a, b, c, d, high, low] = numbers[..] else { return None };
            Some(SocketAddr::from(([a, b, c, d], u16::from(high) << 8 | u16::from(low))))
        }
        "229 " => {
            let delimiter = inside.chars().next()?;
            Some(SocketAddr::new(server, inside.split(delimiter).nth(3)?.parse().ok()?))
        }
        _ => None,
    }
}

fn passive_reply(line: &[u8], ours: SocketAddr) -> Vec<u8> {
    if line.starts_with(b"229") {
        return format!("229 Entering Extended Passive Mode (|||{}|)\r\n", ours.port()).into_bytes();
    }
    let [high, low] = ours.port().to_be_bytes();
    format!("227 Entering Passive Mode (127,0,0,1,{high},{low}).\r\n").into_bytes()
}
