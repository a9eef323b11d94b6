//! `make bench`: the real `fileferry` and rclone in turn on the same data, from a store inside this process to OpenSSH on
//! loopback. Every result is compared byte by byte. Prints medians and ratios: seconds of one machine mean nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
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

struct Bench {
    s3: S3Server,
    sshd: Sshd,
    home: tempfile::TempDir,
    ferry: PathBuf,
    rclone: PathBuf,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let ferry = PathBuf::from(arguments.next().context("usage: bench FILEFERRY RCLONE [ROUNDS]")?);
    let rclone = PathBuf::from(arguments.next().context("usage: bench FILEFERRY RCLONE [ROUNDS]")?);
    let rounds: usize = arguments.next().map_or(Ok(5), |n| n.to_string_lossy().parse())?;
    let s3 = S3Server::start().await;
    let sshd = Sshd::start(SshdOptions::default()).await?;
    let home = tempfile::tempdir()?;
    std::fs::write(home.path().join("known_hosts"), sshd.known_hosts_lines().join("\n") + "\n")?;
    let bucket = s3.bucket(BUCKET);
    for case in CASES {
        for i in 0..case.files {
            // Held in memory, so that making the bytes costs the contenders nothing.
            let bytes = Content::generated(i + case.size, case.size).bytes();
            bucket.put(&format!("{}/{i:05}.bin", case.prefix), bytes);
        }
    }
    let bench = Bench { s3, sshd, home, ferry, rclone };
    println!("{rounds} rounds, contenders in turn, every result compared byte by byte; medians");
    println!("| case | contender | wall s | MB/s | files/s | client CPU s | peak MiB | wall: rclone / this | CPU: this / rclone |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for case in CASES {
        bench.case(case, rounds).await?;
    }
    Ok(())
}

impl Bench {
    async fn case(&self, case: &Case, rounds: usize) -> Result<()> {
        let mut runs: Vec<Vec<Run>> = vec![Vec::new(); Contender::ALL.len()];
        for round in 0..=rounds {
            for (index, contender) in Contender::ALL.into_iter().enumerate() {
                let run = self.run(case, contender)?;
                // The first round warms up.
                if round > 0 {
                    runs[index].push(run);
                }
            }
        }
        let median = |index: usize, of: fn(&Run) -> f64| {
            let mut values: Vec<f64> = runs[index].iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let rclone = Contender::ALL.iter().position(|c| *c == Contender::Rclone).context("rclone is a contender")?;
        let bytes = (case.files * case.size) as f64;
        for (index, contender) in Contender::ALL.iter().enumerate() {
            let (wall, cpu, peak) = (median(index, |r| r.wall), median(index, |r| r.cpu), median(index, |r| r.peak_mib));
            println!(
                "| {} | {} | {wall:.2} | {:.0} | {:.0} | {cpu:.2} | {peak:.0} | {:.2} | {:.2} |",
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
        let target = self.sshd.directory().join("in");
        let _ = std::fs::remove_dir_all(&target);
        std::fs::create_dir_all(&target)?;
        let state = self.home.path().join("state");
        let _ = std::fs::remove_dir_all(&state);
        let owner = Command::new("chown").arg(self.sshd.user()).arg(&target).status()?;
        ensure!(owner.success(), "the server's user owns the target");
        let address = self.sshd.address();
        let source = format!("{BUCKET}/{}", case.prefix);
        let mut command = match contender {
            Contender::Ferry | Contender::FerryDefaultProof => {
                let url = format!("sftp://{}@{address}{}/", self.sshd.user(), target.display());
                let mut command = Command::new(&self.ferry);
                command
                    .args(["copy", &format!("s3://{source}/"), &url, "-q", "--no-progress", "--known-hosts"])
                    .arg(self.home.path().join("known_hosts"));
                command.arg("--identity").arg(self.sshd.client_key()).arg("--s3-endpoint").arg(self.s3.endpoint());
                if contender == Contender::Ferry {
                    command.args(["--verify", "size"]);
                }
                command
            }
            Contender::Rclone => {
                let mut command = Command::new(&self.rclone);
                command.args(["copy", &format!(":s3:{source}"), &format!(":sftp:{}", target.display()), "--config", "/dev/null", "-q"]);
                command.args(["--s3-provider", "Other", "--s3-env-auth", "--s3-force-path-style", "--s3-endpoint", &self.s3.endpoint()]);
                command.args([
                    "--sftp-host",
                    &address.ip().to_string(),
                    "--sftp-port",
                    &address.port().to_string(),
                    "--sftp-user",
                    self.sshd.user(),
                ]);
                command.arg("--sftp-key-file").arg(self.sshd.client_key());
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
