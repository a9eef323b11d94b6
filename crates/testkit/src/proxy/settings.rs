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

/// Which connections something happens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Scope {
    #[default]
    All,
    /// Those on the proxy's own port.
    Control,
    /// FTP data connections: those on a port that a rewriter opened, or on a mirrored passive port.
    Data,
}

impl Scope {
    pub(super) fn of(passive: bool) -> Self {
        if passive { Self::Data } else { Self::Control }
    }

    pub(super) fn holds(self, passive: bool) -> bool {
        self == Self::All || self == Self::of(passive)
    }

    pub(super) fn index(self) -> usize {
        match self {
            Self::All => 0,
            Self::Control => 1,
            Self::Data => 2,
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
    /// Over all connections of the rule's scope together, from the start of the proxy; happens once.
    OverAll,
    /// Over all connections of the rule's scope together; happens each time so many bytes have passed.
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
    pub scope: Scope,
    pub counted: Counted,
    pub bytes: u64,
    pub action: Action,
}

/// Of one direction.
#[derive(Debug, Clone, Default)]
pub(super) struct Lane {
    pub latency: Duration,
    /// All connections of the scope together.
    pub bytes_per_second: Option<u64>,
    /// Each connection.
    pub bytes_per_second_each: Option<u64>,
    pub black_hole: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    /// By scope, then by direction.
    pub lanes: [[Lane; 2]; 3],
    pub rules: Vec<Rule>,
    pub refuse: [bool; 3],
    pub max_connections: Option<usize>,
    pub close_delay: Duration,
    pub lifetime: Option<(Duration, How)>,
    /// Each grows with every cut of all connections of its scope.
    pub cuts: [u64; 3],
    pub last_cut: [Option<How>; 3],
    /// Grows whenever the connections of its scope that are open then are forgotten.
    pub forgotten: [u64; 3],
}

impl Settings {
    /// What applies to one connection: the settings of all, and those of its kind.
    pub fn lanes(&self, passive: bool, direction: Direction) -> [&Lane; 2] {
        [Scope::All, Scope::of(passive)].map(|scope| &self.lanes[scope.index()][direction.index()])
    }

    pub fn latency(&self, passive: bool, direction: Direction) -> Duration {
        self.lanes(passive, direction).iter().map(|lane| lane.latency).sum()
    }

    pub fn black_hole(&self, passive: bool, direction: Direction) -> bool {
        self.lanes(passive, direction).iter().any(|lane| lane.black_hole)
    }

    pub fn refuses(&self, passive: bool) -> bool {
        self.refuse[0] || self.refuse[Scope::of(passive).index()]
    }

    pub fn forgotten(&self, passive: bool) -> u64 {
        self.forgotten[0] + self.forgotten[Scope::of(passive).index()]
    }

    /// How connections were ended since `cuts` were counted.
    pub fn cut_since(&self, cuts: [u64; 3], passive: bool) -> Option<How> {
        let scopes = [Scope::All, Scope::of(passive)].map(Scope::index);
        let scope = scopes.into_iter().find(|scope| self.cuts[*scope] != cuts[*scope])?;
        Some(self.last_cut[scope].unwrap_or(How::Fin))
    }
}
