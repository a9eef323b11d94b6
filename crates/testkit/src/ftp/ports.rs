//! Contiguous ports for one FTP server: the first for control, the others for passive data.

use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;

use anyhow::bail;

use crate::sftp::random;

/// Below the ports that systems give to clients, so that no outgoing connection sits on one of ours.
const FIRST: u16 = 20_000;
const BLOCK: u16 = 48;
const BLOCKS: u16 = 250;

/// A block of ports that no other server of these tests uses.
#[derive(Debug)]
pub(super) struct PortBlock {
    first: u16,
    /// Nothing is ever sent: that the first port is bound for UDP is what tells other test processes, and it ends with us.
    _claim: UdpSocket,
}

impl PortBlock {
    pub fn claim(address: IpAddr) -> anyhow::Result<Self> {
        let start = u16::from_le_bytes(random::<2>()?) % BLOCKS;
        for step in 0..BLOCKS {
            let first = FIRST + (start + step) % BLOCKS * BLOCK;
            let Ok(claim) = UdpSocket::bind((Ipv4Addr::LOCALHOST, first)) else { continue };
            // Others, outside of these tests, may listen there.
            if (first..first + BLOCK).all(|port| TcpListener::bind((address, port)).is_ok()) {
                return Ok(Self { first, _claim: claim });
            }
        }
        bail!("no {BLOCK} free ports in a row for an FTP server")
    }

    pub fn control(&self) -> u16 {
        self.first
    }

    pub fn passive(&self) -> RangeInclusive<u16> {
        self.first + 1..=self.first + BLOCK - 1
    }
}
