//! `make bench`: the real `fileferry` and rclone in turn on the same data, from a store inside this process to SFTP and
//! FTP servers on loopback. Every result is compared byte by byte. Prints medians and ratios: seconds of one machine mean nothing.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use testkit::ftp::{FtpProgram, FtpSecurity, FtpServer, FtpServerOptions, FtpTlsVersion};
use testkit::s3::{Content, S3Server};
use testkit::sshd::{Sshd, SshdOptions};

const BUCKET: &str = "bench";

struct Case {
    name: &'static str,
    prefix: &'static str,
    files: u64,
    size: u64,
}

const CASES: &[Case] = &[
    Case { name: "1 GiB", prefix: "one", files: 1, size: 1 << 30 },
    Case { name: "8 x 128 MiB", prefix: "eight", files: 8, size: 128 << 20 },
    Case { name: "2,000 x 16 KiB", prefix: "small", files: 2_000, size: 16 << 10 },
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Contender {
    Ferry,
    FerryDefaultProof,
    Rclone,
}

impl Contender {
    const ALL: [Self; 3] = [Self::Ferry, Self::FerryDefaultProof, Self::Rclone];

    fn name(self) -> &'static str {
        match self {
            Self::Ferry => "fileferry --verify size",
            Self::FerryDefaultProof => "fileferry (default proof)",
            Self::Rclone => "rclone (default)",
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Run {
    wall: f64,
    cpu: f64,
    peak_mib: f64,
}

/// The partner's server, and how each contender is told to reach it.
enum Partner {
    OpenSsh(Box<Sshd>),
    Ftp(Box<FtpServer>),
}

impl Partner {
    async fn start(name: &str) -> Result<Self> {
        let explicit = FtpSecurity::Explicit { required: true };
        let reuse = FtpServerOptions { security: explicit, require_session_reuse: true, ..FtpServerOptions::default() };
        let (program, options) = match name {
            "OpenSSH" => return Ok(Self::OpenSsh(Box::new(Sshd::start(SshdOptions::default()).await?))),
            "vsftpd" => (FtpProgram::Vsftpd, FtpServerOptions::default()),
            "ProFTPD" => (FtpProgram::Proftpd, FtpServerOptions::default()),
            "Pure-FTPd" => (FtpProgram::PureFtpd, FtpServerOptions::default()),
            "pyftpdlib" => (FtpProgram::Pyftpdlib, FtpServerOptions::default()),
            "vsftpd FTPS" => (FtpProgram::Vsftpd, reuse),
            "vsftpd FTPS 1.2" => (FtpProgram::Vsftpd, FtpServerOptions { tls_version: FtpTlsVersion::Only12, ..reuse }),
            "vsftpd FTPS 1.3" => (FtpProgram::Vsftpd, FtpServerOptions { tls_version: FtpTlsVersion::Only13, ..reuse }),
            "ProFTPD FTPS" => (FtpProgram::Proftpd, reuse),
            "Pure-FTPd FTPS" => (FtpProgram::PureFtpd, FtpServerOptions { security: explicit, ..FtpServerOptions::default() }),
            "pyftpdlib FTPS" => (FtpProgram::Pyftpdlib, FtpServerOptions { security: explicit, ..FtpServerOptions::default() }),
            other => bail!("there is no server {other:?}; choose from {}", SERVERS.join(", ")),
        };
        Ok(Self::Ftp(Box::new(FtpServer::start(program, options).await?)))
    }

    fn user(&self) -> &str {
        match self {
            Self::OpenSsh(server) => server.user(),
            Self::Ftp(server) => server.user(),
        }
    }

    fn address(&self) -> SocketAddr {
        match self {
            Self::OpenSsh(server) => server.address(),
            Self::Ftp(server) => server.address(),
        }
    }

    /// The directory to deliver into: on this machine, and as clients name it.
    fn target(&self) -> (PathBuf, String) {
        match self {
            Self::OpenSsh(server) => (server.directory().join("in"), server.directory().join("in").display().to_string()),
            Self::Ftp(server) => (server.root().join("in"), format!("{}/in", server.directory().trim_end_matches('/'))),
        }
    }

    fn tls(&self) -> bool {
        matches!(self, Self::Ftp(server) if server.options().tls())
    }

    fn for_ferry(&self, command: &mut Command, known_hosts: &Path) {
        match self {
            Self::OpenSsh(server) => {
                command.arg("--known-hosts").arg(known_hosts).arg("--identity").arg(server.client_key());
            }
            Self::Ftp(server) => {
                command.args(["--password-from", "env:BENCH_PASSWORD"]).env("BENCH_PASSWORD", server.password());
                if self.tls() {
                    command.arg("--ca-file").arg(server.certificates().authority_file());
                }
            }
        }
    }

    fn scheme(&self) -> &'static str {
        match self {
            Self::OpenSsh(_) => "sftp",
            Self::Ftp(_) if self.tls() => "ftpes",
            Self::Ftp(_) => "ftp",
        }
    }

    fn for_rclone(&self, command: &mut Command, rclone: &Path) -> Result<()> {
        let (kind, address) = (if matches!(self, Self::OpenSsh(_)) { "sftp" } else { "ftp" }, self.address());
        command.args([format!("--{kind}-host"), address.ip().to_string(), format!("--{kind}-port"), address.port().to_string()]);
        command.args([&format!("--{kind}-user"), self.user()]);
        match self {
            Self::OpenSsh(server) => {
                command.arg("--sftp-key-file").arg(server.client_key());
            }
            Self::Ftp(server) => {
                let obscured = Command::new(rclone).args(["obscure", server.password()]).output()?;
                command.args(["--ftp-pass", String::from_utf8(obscured.stdout)?.trim()]);
                if self.tls() {
                    command.args(["--ftp-explicit-tls", "--ftp-no-check-certificate"]);
                }
            }
        }
        Ok(())
    }
}

const SERVERS: &[&str] = &[
    "OpenSSH",
    "vsftpd",
    "ProFTPD",
    "Pure-FTPd",
    "pyftpdlib",
    "vsftpd FTPS 1.2",
    "vsftpd FTPS 1.3",
    "ProFTPD FTPS",
    "Pure-FTPd FTPS",
    "pyftpdlib FTPS",
];

struct Bench {
    s3: S3Server,
    name: &'static str,
    partner: Partner,
    home: tempfile::TempDir,
    ferry: PathBuf,
    rclone: PathBuf,
}

#[tokio::main]
async fn main() -> Result<()> {
    const USAGE: &str = "usage: bench FILEFERRY RCLONE [ROUNDS [SERVER…]]";
    let mut arguments = std::env::args_os().skip(1);
    let ferry = PathBuf::from(arguments.next().context(USAGE)?);
    let rclone = PathBuf::from(arguments.next().context(USAGE)?);
    let rounds: usize = arguments.next().map_or(Ok(5), |n| n.to_string_lossy().parse())?;
    let chosen: Vec<String> = arguments.map(|name| name.to_string_lossy().into_owned()).collect();
    let mut s3 = S3Server::start().await;
    let bucket = s3.bucket(BUCKET);
    for case in CASES {
        for i in 0..case.files {
            // Held in memory, so that making the bytes costs the contenders nothing.
            let bytes = Content::generated(i + case.size, case.size).bytes();
            bucket.put(&format!("{}/{i:05}.bin", case.prefix), bytes);
        }
    }
    println!("{rounds} rounds, contenders in turn, every result compared byte by byte; medians");
    println!(
        "| server | case | contender | wall s | MB/s | files/s | client CPU s | peak MiB | wall: rclone / this | CPU: this / rclone |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for name in SERVERS.iter().filter(|name| chosen.is_empty() || chosen.iter().any(|c| c == *name)) {
        let partner = Partner::start(name).await?;
        let home = tempfile::tempdir()?;
        if let Partner::OpenSsh(server) = &partner {
            std::fs::write(home.path().join("known_hosts"), server.known_hosts_lines().join("\n") + "\n")?;
        }
        let bench = Bench { s3, name, partner, home, ferry: ferry.clone(), rclone: rclone.clone() };
        // Several large files say of FTP what one says: each has a connection of its own.
        for case in CASES.iter().filter(|case| *name == "OpenSSH" || case.files != 8) {
            bench.case(case, rounds).await?;
        }
        s3 = bench.s3;
    }
    Ok(())
}

impl Bench {
    async fn case(&self, case: &Case, rounds: usize) -> Result<()> {
        let mut runs: Vec<Vec<Run>> = vec![Vec::new(); Contender::ALL.len()];
        let mut failures = Vec::new();
        for round in 0..=rounds {
            for (index, contender) in Contender::ALL.into_iter().enumerate() {
                match self.run(case, contender) {
                    // The first round warms up.
                    Ok(run) if round > 0 => runs[index].push(run),
                    Ok(_) => {}
                    // What rclone cannot do is a result; what we cannot do is not.
                    Err(error) if contender == Contender::Rclone => failures.push(format!("{error:#}")),
                    Err(error) => return Err(error),
                }
            }
        }
        let median = |index: usize, of: fn(&Run) -> f64| {
            let mut values: Vec<f64> = runs[index].iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
        };
        let rclone = Contender::ALL.iter().position(|c| *c == Contender::Rclone).context("rclone is a contender")?;
        let bytes = (case.files * case.size) as f64;
        for (index, contender) in Contender::ALL.iter().enumerate() {
            let (wall, cpu, peak) = (median(index, |r| r.wall), median(index, |r| r.cpu), median(index, |r| r.peak_mib));
            if runs[index].is_empty() {
                println!(
                    "| {} | {} | {} | fails {} of {} times: {} |||||||",
                    self.name,
                    case.name,
                    contender.name(),
                    failures.len(),
                    rounds + 1,
                    failures[0]
                );
                continue;
            }
            println!(
                "| {} | {} | {} | {wall:.2} | {:.0} | {:.0} | {cpu:.2} | {peak:.0} | {:.2} | {:.2} |",
                self.name,
                case.name,
                contender.name(),
                bytes / 1e6 / wall,
                case.files as f64 / wall,
                median(rclone, |r| r.wall) / wall,
                cpu / median(rclone, |r| r.cpu),
            );
        }
        Ok(())
    }

    fn run(&self, case: &Case, contender: Contender) -> Result<Run> {
        let (target, path) = self.partner.target();
        let _ = std::fs::remove_dir_all(&target);
        std::fs::create_dir_all(&target)?;
        let state = self.home.path().join("state");
        let _ = std::fs::remove_dir_all(&state);
        let above = std::fs::metadata(target.parent().context("a directory above")?)?;
        std::os::unix::fs::chown(&target, Some(above.uid()), Some(above.gid()))?;
        let source = format!("{BUCKET}/{}", case.prefix);
        let mut command = match contender {
            Contender::Ferry | Contender::FerryDefaultProof => {
                let url = format!("{}://{}@{}{path}/", self.partner.scheme(), self.partner.user(), self.partner.address());
                let mut command = Command::new(&self.ferry);
                command.args(["copy", &format!("s3://{source}/"), &url, "-q", "--no-progress", "--s3-endpoint"]).arg(self.s3.endpoint());
                self.partner.for_ferry(&mut command, &self.home.path().join("known_hosts"));
                if contender == Contender::Ferry {
                    command.args(["--verify", "size"]);
                }
                command
            }
            Contender::Rclone => {
                let mut command = Command::new(&self.rclone);
                let remote = if matches!(self.partner, Partner::OpenSsh(_)) { "sftp" } else { "ftp" };
                command.args(["copy", &format!(":s3:{source}"), &format!(":{remote}:{path}"), "--config", "/dev/null", "-q"]);
                command.args(["--s3-provider", "Other", "--s3-env-auth", "--s3-force-path-style", "--s3-endpoint", &self.s3.endpoint()]);
                self.partner.for_rclone(&mut command, &self.rclone)?;
                command.stderr(Stdio::null());
                command
            }
        };
        command
            .env("HOME", self.home.path())
            .env("XDG_STATE_HOME", &state)
            .env("AWS_ACCESS_KEY_ID", "bench")
            .env("AWS_SECRET_ACCESS_KEY", "bench")
            .env("AWS_REGION", "us-east-1")
            .env_remove("SSH_AUTH_SOCK")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let (before, begun) = (children_cpu()?, Instant::now());
        let mut child = command.spawn().with_context(|| format!("start {}", contender.name()))?;
        let mut peak_mib = 0.0f64;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            peak_mib = peak_mib.max(peak_of(child.id()));
            std::thread::sleep(Duration::from_millis(2));
        };
        let run = Run { wall: begun.elapsed().as_secs_f64(), cpu: children_cpu()? - before, peak_mib };
        if !status.success() {
            bail!("{} ended with {status}", contender.name());
        }
        self.compare(case, &target)?;
        Ok(run)
    }

    fn compare(&self, case: &Case, target: &Path) -> Result<()> {
        let bucket = self.s3.bucket(BUCKET);
        for i in 0..case.files {
            let sent = bucket.get(&format!("{}/{i:05}.bin", case.prefix)).context("the object is there")?;
            let there = std::fs::read(target.join(format!("{i:05}.bin")))?;
            ensure!(sent.bytes() == there[..], "file {i} of {} differs", case.name);
        }
        Ok(())
    }
}

/// User and system time of the children that were waited for, in seconds.
fn children_cpu() -> Result<f64> {
    /// Ticks a second of /proc on Linux, fixed for user space.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("fields after the name")?.1.split_whitespace().collect();
    let ticks: f64 = [13, 14].iter().filter_map(|i| fields.get(*i)?.parse::<f64>().ok()).sum();
    Ok(ticks / TICKS)
}

fn peak_of(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}
