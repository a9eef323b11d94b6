//! Who is measured, and with which flags.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::BUCKET;
use crate::partner::Server;
use crate::row::Row;
use crate::stage::Stage;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// `--verify size`, and no other flag: what rclone checks as well.
    Ferry,
    /// The same without SHA-256.
    FerryCrc,
    /// Plain `fileferry copy`: the content is proved.
    FerryDefault,
    Rclone,
    /// The best of the tunings that were tried.
    RcloneBest,
    /// rclone's way to prove content: `check --download` after the copy.
    RcloneChecked,
}

/// The two programs.
#[derive(Debug)]
pub struct Programs {
    pub ferry: PathBuf,
    pub rclone: PathBuf,
    /// What ours runs under, such as `perf record -o FILE`.
    pub wrap: Vec<String>,
}

impl Contender {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ferry => "fileferry --verify size",
            Self::FerryCrc => "fileferry --verify size --digest crc64nvme",
            Self::FerryDefault => "fileferry",
            Self::Rclone => "rclone",
            Self::RcloneBest => "rclone, tuned",
            Self::RcloneChecked => "rclone, then check --download",
        }
    }

    pub fn is_ours(self) -> bool {
        matches!(self, Self::Ferry | Self::FerryCrc | Self::FerryDefault)
    }

    /// What to run, one after another.
    pub fn commands(self, programs: &Programs, stage: &Stage, row: &Row) -> Result<Vec<Command>> {
        let home = stage.home.path();
        if self.is_ours() {
            let mut command = match programs.wrap.split_first() {
                Some((wrap, arguments)) => {
                    let mut command = Command::new(wrap);
                    command.args(arguments).arg(&programs.ferry);
                    command
                }
                None => Command::new(&programs.ferry),
            };
            command.arg("copy").arg(format!("s3://{BUCKET}/{}/", row.files.prefix())).arg(stage.partner.url());
            command.args(["-q", "--no-progress", "--s3-endpoint", &stage.store.endpoint()]);
            stage.partner.for_ferry(&mut command, home)?;
            match self {
                Self::Ferry => command.args(["--verify", "size"]),
                Self::FerryCrc => command.args(["--verify", "size", "--digest", "crc64nvme"]),
                _ => &mut command,
            };
            prepare(&mut command, home);
            return Ok(vec![command]);
        }
        let rclone = |verb: &str| -> Result<Command> {
            let mut command = Command::new(&programs.rclone);
            let target = format!(":{}:{}", stage.partner.rclone_kind(), stage.partner.target().1);
            command.args([verb, &format!(":s3:{BUCKET}/{}", row.files.prefix()), &target, "--config", "/dev/null", "-q"]);
            command.args(["--s3-provider", "Other", "--s3-env-auth", "--s3-force-path-style", "--s3-endpoint", &stage.store.endpoint()]);
            stage.partner.for_rclone(&mut command, &programs.rclone)?;
            prepare(&mut command, home);
            command.stderr(Stdio::null());
            Ok(command)
        };
        let mut copy = rclone("copy")?;
        Ok(match self {
            Self::RcloneChecked => {
                let mut check = rclone("check")?;
                check.arg("--download");
                vec![copy, check]
            }
            Self::RcloneBest => {
                copy.args(tuning(row));
                vec![copy]
            }
            _ => vec![copy],
        })
    }
}

fn tuning(row: &Row) -> Vec<String> {
    let mut flags = vec!["--no-check-dest", "--no-traverse", "--use-server-modtime", "--ignore-checksum"];
    if row.server.is_sftp() {
        flags.extend(["--sftp-set-modtime=false", "--sftp-disable-hashcheck", "--sftp-chunk-size", "255k", "--sftp-concurrency"]);
        flags.push(if row.far { "64" } else { "16" });
    }
    if matches!(row.server, Server::VsftpdTls12 | Server::VsftpdTls13) {
        flags.push("--ftp-disable-tls13");
    }
    let small = row.files.size < 1 << 20;
    let transfers = match (row.far, small, row.server.is_sftp()) {
        (false, false, _) => 2,
        (false, true, true) => 4,
        (false, true, false) => 8,
        (true, false, _) => 8,
        (true, true, true) => 16,
        (true, true, false) => 32,
    };
    let transfers = transfers.min(row.logins.unwrap_or(u32::MAX));
    let mut flags: Vec<String> = flags.into_iter().map(str::to_owned).collect();
    flags.extend(["--transfers".to_owned(), transfers.to_string()]);
    if let (Some(logins), false) = (row.logins, row.server.is_sftp()) {
        flags.extend(["--ftp-concurrency".to_owned(), logins.to_string()]);
    }
    flags
}

/// Nothing of this machine's user may decide a measurement.
fn prepare(command: &mut Command, home: &Path) {
    command
        .env("HOME", home)
        .env("XDG_STATE_HOME", home.join("state"))
        .env("AWS_ACCESS_KEY_ID", "bench")
        .env("AWS_SECRET_ACCESS_KEY", "bench")
        .env("AWS_REGION", "us-east-1")
        .env_remove("SSH_AUTH_SOCK")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
}
