//! What is measured: one row is one server, one line and one set of files.

use crate::contender::Contender::{self, Ferry, FerryCrc, FerryDefault, Rclone, RcloneBest, RcloneChecked};
use crate::partner::Server;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Files {
    pub count: u64,
    pub size: u64,
}

impl Files {
    pub fn name(self) -> String {
        let size = match self.size {
            size if size.is_multiple_of(1 << 30) => format!("{} GiB", size >> 30),
            size if size.is_multiple_of(1 << 20) => format!("{} MiB", size >> 20),
            size if size.is_multiple_of(1 << 10) => format!("{} KiB", size >> 10),
            size => format!("{} MB", size / 1_000_000),
        };
        if self.count == 1 { size } else { format!("{} x {size}", self.count) }
    }

    pub fn bytes(self) -> u64 {
        self.count * self.size
    }

    pub fn prefix(self) -> String {
        format!("{}x{}", self.count, self.size)
    }
}

/// Least ratio of wall times (rclone's default / ours), most ratio of client CPU (ours / rclone's default).
#[derive(Debug, Clone, Copy, Default)]
pub struct Must {
    pub wall: Option<f64>,
    pub cpu: Option<f64>,
    /// The same with no digest but the CRC.
    pub wall_crc: Option<f64>,
    pub cpu_crc: Option<f64>,
    pub megabytes_per_second: Option<f64>,
}

#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub far: bool,
    pub server: Server,
    pub files: Files,
    /// Sessions that the server grants one address.
    pub logins: Option<u32>,
    pub contenders: &'static [Contender],
    /// No more than these rounds: rclone needs minutes for some.
    pub most_rounds: usize,
    pub must: Must,
}

impl Row {
    pub fn name(&self) -> String {
        let line = if self.far { ", 50 ms" } else { "" };
        let logins = self.logins.map(|logins| format!(", {logins} logins")).unwrap_or_default();
        format!("{}{line}{logins}: {}", self.server.name(), self.files.name())
    }
}

const GIB: Files = Files { count: 1, size: 1 << 30 };
const EIGHT: Files = Files { count: 8, size: 128 << 20 };
const SMALL: Files = Files { count: 2_000, size: 16 << 10 };
const FAR_ONE: Files = Files { count: 1, size: 256 << 20 };
const FAR_EIGHT: Files = Files { count: 8, size: 32 << 20 };
const FAR_SMALL: Files = Files { count: 500, size: 16 << 10 };
const HUGE: Files = Files { count: 1, size: 8 << 30 };

const ALL: &[Contender] = &[Ferry, FerryDefault, Rclone, RcloneBest, RcloneChecked];
const PLAIN: &[Contender] = &[Ferry, FerryDefault, Rclone, RcloneBest];
const WITH_CRC: &[Contender] = &[Ferry, FerryCrc, FerryDefault, Rclone, RcloneBest];
const WITH_CRC_CHECKED: &[Contender] = &[Ferry, FerryCrc, FerryDefault, Rclone, RcloneBest, RcloneChecked];
const OURS: &[Contender] = &[FerryDefault];

const fn near(server: Server, files: Files, contenders: &'static [Contender], must: Must) -> Row {
    Row { far: false, server, files, logins: None, contenders, most_rounds: usize::MAX, must }
}

const fn far(server: Server, files: Files, logins: Option<u32>, most_rounds: usize, contenders: &'static [Contender], must: Must) -> Row {
    Row { far: true, server, files, logins, contenders, most_rounds, must }
}

const fn two_logins(server: Server, files: Files) -> Row {
    Row { logins: Some(2), most_rounds: 2, ..near(server, files, &[Ferry, Rclone], NONE) }
}

const NONE: Must = Must { wall: None, cpu: None, wall_crc: None, cpu_crc: None, megabytes_per_second: None };

const fn must(wall: f64, cpu: f64) -> Must {
    Must { wall: Some(wall), cpu: Some(cpu), ..NONE }
}

const fn wall(wall: f64) -> Must {
    Must { wall: Some(wall), ..NONE }
}

pub const ROWS: &[Row] = &[
    near(Server::OpenSsh, GIB, ALL, must(1.4, 0.75)),
    near(Server::OpenSsh, EIGHT, ALL, must(1.3, 0.9)),
    near(Server::OpenSsh, SMALL, ALL, must(4.0, 0.35)),
    near(Server::Vsftpd, GIB, WITH_CRC_CHECKED, Must { wall_crc: Some(1.0), cpu_crc: Some(1.2), ..must(0.8, 2.0) }),
    near(Server::Vsftpd, EIGHT, PLAIN, NONE),
    near(Server::Vsftpd, SMALL, ALL, must(3.0, 0.4)),
    near(Server::Proftpd, GIB, PLAIN, NONE),
    near(Server::Proftpd, SMALL, PLAIN, NONE),
    near(Server::ProftpdTls, GIB, WITH_CRC, Must { wall_crc: Some(0.95), ..must(0.85, 1.25) }),
    near(Server::ProftpdTls, SMALL, PLAIN, must(2.0, 0.5)),
    near(Server::VsftpdTls12, GIB, PLAIN, NONE),
    near(Server::VsftpdTls12, SMALL, PLAIN, NONE),
    near(Server::VsftpdTls13, GIB, PLAIN, NONE),
    near(Server::VsftpdTls13, SMALL, PLAIN, NONE),
    two_logins(Server::Vsftpd, EIGHT),
    two_logins(Server::Vsftpd, SMALL),
    two_logins(Server::ProftpdTls, SMALL),
    far(Server::OpenSsh, FAR_ONE, None, usize::MAX, PLAIN, wall(2.3)),
    far(Server::OpenSsh, FAR_EIGHT, None, usize::MAX, PLAIN, wall(1.8)),
    far(Server::OpenSsh, FAR_SMALL, None, 1, PLAIN, wall(30.0)),
    far(Server::OpenSsh, HUGE, None, 1, OURS, Must { megabytes_per_second: Some(92.6), ..NONE }),
    far(Server::Vsftpd, FAR_ONE, None, 3, PLAIN, wall(1.15)),
    far(Server::Vsftpd, FAR_SMALL, Some(16), 1, PLAIN, wall(8.0)),
    far(Server::Vsftpd, FAR_SMALL, Some(5), 1, &[Ferry, FerryDefault, Rclone], wall(3.0)),
    far(Server::Vsftpd, FAR_SMALL, Some(2), 1, &[Ferry], NONE),
    // The four expectations of the first design (ST09 to ST12), with the default proof.
    far(Server::OpenSsh, Files { count: 1, size: 10_000_000 }, None, 1, OURS, NONE),
    far(Server::OpenSsh, Files { count: 1, size: 100_000_000 }, None, 1, OURS, NONE),
    far(Server::OpenSsh, Files { count: 1, size: 1_000_000_000 }, None, 1, OURS, NONE),
    far(Server::OpenSsh, Files { count: 1, size: 10_000_000_000 }, None, 1, OURS, NONE),
];
