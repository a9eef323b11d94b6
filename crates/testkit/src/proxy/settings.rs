//! What a proxy does to the connections through it; changed while they run.

use std::time::Duration;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    ToServer,
    ToClient,
}

impl Direction {
    pub(super) fn index(self) -> usize {
        match self {
            Self::ToServer => 0,
            Self::ToClient => 1,
        }
    }
}

/// How a connection is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// An orderly end towards both sides.
    Fin,
    /// A reset towards both sides. Bytes still in buffers may be lost with it, as on a real network.
    Rst,
    /// An orderly end towards the receiver only; the other direction goes on.
    HalfClose,
}

/// Where a rule counts its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// From the beginning of each connection; happens once on each.
    PerConnection,
    /// From the beginning of each connection on a port that a rewriter opened: FTP data connections.
    PerPassiveConnection,
    /// On this connection only, numbered from 1.
    OnConnection(u64),
    /// Over all connections together, from the start of the proxy; happens once.
    OverAll,
    /// Over all connections together; happens each time so many bytes have passed.
    OverAllEvery,
}

/// What happens at the counted byte. The bytes before it are delivered first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Cut(How),
    /// Nothing passes any more in this direction until the rule is removed.
    Stall,
    /// The byte after them is changed by this mask.
    Corrupt(u8),
}

/// `action` once `bytes` have passed in `direction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    pub id: u64,
    pub direction: Direction,
    pub counted: Counted,
    pub bytes: u64,
    pub action: Action,
}

/// Of one direction.
#[derive(Debug, Clone, Default)]
pub(super) struct Lane {
    pub latency: Duration,
    /// All connections together.
    pub bytes_per_second: Option<u64>,
    /// Each connection.
    pub bytes_per_second_each: Option<u64>,
    pub black_hole: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    pub lanes: [Lane; 2],
    pub rules: Vec<Rule>,
    pub refuse: bool,
    pub max_connections: Option<usize>,
    pub close_delay: Duration,
    pub lifetime: Option<(Duration, How)>,
    /// Grows with every cut of all connections.
    pub cuts: u64,
    pub last_cut: Option<How>,
}
