//! What is done to a copy in progress, and when.

use std::fmt;

use testkit::ftp_sandbox;
use testkit::proxy::{Direction, How, Scope};
use testkit::sftp::{Loss, Operation};

use crate::chance::Chance;
use crate::server::Kind;

/// A request at a sandbox, as the moment of a strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    Open,
    Write,
    Sync,
    Close,
    SetStat,
    Stat,
    Read,
    /// To the final name.
    Rename,
    /// From one temporary name to another: the take-over.
    TakeOver,
    List,
    Remove,
    /// FTP: the password, the port for data, the offset to go on at.
    Login,
    Passive,
    Restart,
}

impl Point {
    pub fn matches(self, operation: &Operation) -> bool {
        let temporary = |path: &str| path.ends_with(".part");
        match operation {
            Operation::Open { .. } => self == Self::Open && operation.is_open_to_write(),
            Operation::Write { .. } => self == Self::Write,
            Operation::Sync { .. } => self == Self::Sync,
            Operation::Close { .. } => self == Self::Close,
            Operation::SetStat { .. } => self == Self::SetStat,
            Operation::Stat { .. } => self == Self::Stat,
            Operation::Read { .. } => self == Self::Read,
            Operation::Rename { to, .. } | Operation::PosixRename { to, .. } => {
                self == if temporary(to) { Self::TakeOver } else { Self::Rename }
            }
            Operation::OpenDirectory { .. } => self == Self::List,
            Operation::Remove { .. } => self == Self::Remove,
            _ => false,
        }
    }

    pub fn matches_ftp(self, operation: &ftp_sandbox::Operation) -> bool {
        let temporary = operation.path.as_ref().is_some_and(|path| path.ends_with(".part"));
        self == match operation.verb.as_str() {
            "PASS" => Self::Login,
            "EPSV" | "PASV" => Self::Passive,
            "REST" => Self::Restart,
            "STOR" => Self::Open,
            "RETR" => Self::Read,
            "SIZE" | "MLST" | "MDTM" => Self::Stat,
            "MFMT" | "SITE CHMOD" => Self::SetStat,
            "RNTO" if temporary => Self::TakeOver,
            "RNTO" => Self::Rename,
            "MLSD" | "LIST" | "NLST" => Self::List,
            "DELE" => Self::Remove,
            _ => return false,
        }
    }

    fn random(chance: &mut Chance, kind: Kind) -> (Self, u64) {
        let ftp = [
            (Self::Open, 150),
            (Self::Open, 8),
            (Self::Passive, 300),
            (Self::Stat, 150),
            (Self::SetStat, 150),
            (Self::Read, 150),
            (Self::Read, 12),
            (Self::Rename, 150),
            (Self::Rename, 20),
            (Self::TakeOver, 3),
            (Self::Login, 6),
            (Self::Restart, 2),
            (Self::List, 6),
            (Self::Remove, 2),
        ];
        if kind.is_ftp() {
            let (point, most) = chance.pick(&ftp);
            return (point, chance.below(most));
        }
        let often = [
            (Self::Open, 150),
            (Self::Write, 600),
            (Self::Sync, 150),
            (Self::Close, 150),
            (Self::SetStat, 150),
            (Self::Stat, 150),
            (Self::Read, 300),
            (Self::Rename, 150),
            (Self::Rename, 20),
            (Self::Rename, 150),
            (Self::TakeOver, 3),
            (Self::TakeOver, 1),
            (Self::List, 2),
            (Self::Remove, 5),
        ];
        let (point, most) = chance.pick(&often);
        (point, chance.below(most))
    }

    /// What a process does first that continues the work of a dead one.
    fn of_a_successor(chance: &mut Chance, kind: Kind) -> (Self, u64) {
        let ftp = [
            (Self::TakeOver, 2),
            (Self::TakeOver, 20),
            (Self::Rename, 10),
            (Self::Stat, 40),
            (Self::Open, 10),
            (Self::Restart, 3),
            (Self::Restart, 1),
            (Self::Read, 6),
            (Self::Passive, 12),
            (Self::List, 2),
            (Self::Login, 2),
        ];
        if kind.is_ftp() {
            let (point, most) = chance.pick(&ftp);
            return (point, chance.below(most));
        }
        let early = [
            (Self::TakeOver, 2),
            (Self::TakeOver, 20),
            (Self::Rename, 10),
            (Self::Stat, 40),
            (Self::Close, 20),
            (Self::Open, 10),
            (Self::Read, 20),
            (Self::List, 2),
            (Self::Remove, 6),
        ];
        let (point, most) = chance.pick(&early);
        (point, chance.below(most))
    }
}

/// When a strike falls.
#[derive(Debug, Clone, Copy)]
pub enum Moment {
    /// After this share of the bytes still missing has arrived.
    Share(f64),
    /// So long after the start of the program.
    After(u64),
    /// At the request number `nth` of this kind; `done`: the server carried it out before anybody died.
    At { point: Point, nth: u64, done: bool },
}

#[derive(Debug, Clone, Copy)]
pub enum Strike {
    /// SIGKILL to the client.
    Kill(Moment),
    /// Every session of the server ends; the server goes on.
    Sessions(Moment),
    /// The server program is killed and started again.
    Restart(Moment, u64),
    /// Everything between client and server, or of an FTP session the control connection or the data alone.
    Cut(Moment, Scope, Direction, How),
    /// The server's machine goes down: what was not synced is lost.
    Crash(Moment, Loss),
    /// The client is stopped until its lease has run out and another one took over, then goes on.
    Zombie { moment: Moment, wakes_after: u64, kill_second: Option<u64>, late_rename: bool },
}

impl Strike {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kill(Moment::At { .. }) => "kill -9 at a request",
            Self::Kill(Moment::Share(_)) => "kill -9 after bytes",
            Self::Kill(Moment::After(_)) => "kill -9 after a time",
            Self::Sessions(_) => "sessions ended",
            Self::Restart(..) => "server restarted",
            Self::Cut(_, Scope::All, ..) => "line cut",
            Self::Cut(_, Scope::Control, ..) => "control connection cut",
            Self::Cut(_, Scope::Data, ..) => "data connection cut",
            Self::Crash(_, Loss::Zeroed) => "reboot, zeros",
            Self::Crash(..) => "reboot, lost",
            Self::Zombie { .. } => "stopped past takeover",
        }
    }

    pub fn is_crash(&self) -> bool {
        matches!(self, Self::Crash(..))
    }

    /// How many writers may have sent something that another one sends again.
    pub fn interruptions(&self) -> u64 {
        match self {
            Self::Zombie { kill_second, .. } => 1 + u64::from(kill_second.is_some()),
            _ => 1,
        }
    }

    pub fn random(chance: &mut Chance, kind: Kind, first: bool) -> Self {
        let sandbox = matches!(kind, Kind::Sandbox | Kind::FtpSandbox);
        let point = |chance: &mut Chance, first: bool| {
            if first { Point::random(chance, kind) } else { Point::of_a_successor(chance, kind) }
        };
        let moment = |chance: &mut Chance| match chance.below(10) {
            // Early: listing, login, take-over.
            0 => Moment::After(chance.below(if first { 700 } else { 400 })),
            1..=3 if sandbox => {
                let (point, nth) = point(chance, first);
                Moment::At { point, nth, done: chance.one_in(2) }
            }
            _ => Moment::Share(chance.fraction()),
        };
        let cut = |chance: &mut Chance, scope: Scope| {
            let how = chance.pick(&[How::Rst, How::Fin]);
            Self::Cut(moment(chance), scope, chance.pick(&[Direction::ToServer, Direction::ToClient]), how)
        };
        let any = chance.below(100);
        match (kind, any) {
            (_, 0..16) => Self::Zombie {
                moment: if sandbox && chance.one_in(2) {
                    // Around the publish, where two writers could do most harm.
                    let point = chance.pick(&[Point::Close, Point::SetStat, Point::Rename, Point::Rename]);
                    let point = if kind.is_ftp() && point == Point::Close { Point::Open } else { point };
                    Moment::At { point, nth: chance.below(150), done: true }
                } else {
                    moment(chance)
                },
                wakes_after: chance.below(4_000),
                kill_second: chance.one_in(3).then(|| chance.below(2_500)),
                late_rename: chance.one_in(2),
            },
            (Kind::File, _) => Self::Kill(moment(chance)),
            (Kind::Sandbox | Kind::FtpSandbox, 16..50) => {
                let first = first || chance.one_in(2);
                let (point, nth) = point(chance, first);
                Self::Kill(Moment::At { point, nth, done: chance.one_in(2) })
            }
            (Kind::Sandbox | Kind::FtpSandbox, 50..62) => Self::Crash(moment(chance), chance.pick(&[Loss::Gone, Loss::Zeroed])),
            (Kind::Sandbox | Kind::FtpSandbox | Kind::OpenSsh, 62..72) => Self::Sessions(moment(chance)),
            // Data does not pass the proxy of a sandbox.
            (Kind::FtpSandbox, 72..84) => cut(chance, Scope::Control),
            (Kind::OpenSsh, 50..62) => Self::Restart(moment(chance), chance.below(300)),
            (Kind::Sandbox | Kind::OpenSsh | Kind::Asyncssh, 72..84) => cut(chance, Scope::All),
            (_, 16..26) if kind.is_ftp() => Self::Sessions(moment(chance)),
            (_, 26..36) if kind.is_ftp() => Self::Restart(moment(chance), chance.below(300)),
            (_, 36..50) if kind.is_ftp() => cut(chance, Scope::Control),
            (_, 50..62) if kind.is_ftp() => cut(chance, Scope::Data),
            (_, 62..68) if kind.is_ftp() => cut(chance, Scope::All),
            _ => Self::Kill(moment(chance)),
        }
    }
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
