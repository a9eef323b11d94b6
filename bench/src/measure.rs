//! Wall time, processor time by who spent it, and peak memory of one run.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::place::Place;

/// Ticks a second of /proc on Linux, fixed for user space.
const TICKS: f64 = 100.0;

#[derive(Debug, Clone, Copy, Default)]
pub struct Run {
    pub wall: f64,
    pub client: f64,
    pub server: f64,
    /// The store, which is part of this process.
    pub store: f64,
    pub line: f64,
    /// Whatever else the machine did.
    pub other: f64,
    pub peak_mib: f64,
}

/// Whose processor time is told apart.
#[derive(Debug, Clone, Copy)]
pub struct Watched<'a> {
    pub server: &'a Account,
    pub line: Option<u32>,
}

/// What a server and everything it starts has spent. A control group loses nothing; without one, processes that their
/// parent did not wait for are missing.
#[derive(Debug)]
pub struct Account {
    pid: u32,
    group: Option<PathBuf>,
}

impl Account {
    /// Must be opened before the server has sessions.
    pub fn open(pid: u32) -> Self {
        let places = ["/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup"];
        let group = places.iter().map(|place| Path::new(place).join(format!("bench-{pid}"))).find(|group| {
            let made = std::fs::create_dir(group).and_then(|()| std::fs::write(group.join("cgroup.procs"), pid.to_string()));
            made.is_ok() && spent(group).is_some()
        });
        Self { pid, group }
    }

    fn spent(&self) -> f64 {
        self.group.as_deref().and_then(spent).unwrap_or_else(|| family(self.pid))
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // It stays while somebody is in it; an empty group costs nothing.
        self.group.as_deref().map(std::fs::remove_dir);
    }
}

/// Seconds, from either generation of control groups.
fn spent(group: &Path) -> Option<f64> {
    if let Ok(nanoseconds) = std::fs::read_to_string(group.join("cpuacct.usage")) {
        return nanoseconds.trim().parse::<f64>().ok().map(|spent| spent / 1e9);
    }
    let stat = std::fs::read_to_string(group.join("cpu.stat")).ok()?;
    stat.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse::<f64>().ok()).map(|spent| spent / 1e6)
}

/// Runs the commands one after another. `settled` is asked until the server has noticed the end of its sessions.
pub fn run(place: &Place, commands: Vec<Command>, watched: Watched<'_>, mut settled: impl FnMut() -> bool) -> Result<Run> {
    let before = Spent::now(watched);
    let begun = Instant::now();
    let mut peak_mib = 0.0f64;
    for command in commands {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = place.spawn(command)?;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            peak_mib = peak_mib.max(peak_of(&child));
            std::thread::sleep(Duration::from_millis(2));
        };
        if !status.success() {
            bail!("{} ended with {status}", program.rsplit('/').next().unwrap_or_default());
        }
    }
    let wall = begun.elapsed().as_secs_f64();
    let children = children() - before.children;
    let until = Instant::now() + Duration::from_secs(3);
    while !settled() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    let after = Spent::now(watched);
    let (server, store, line) = (after.server - before.server, after.store - before.store, after.line - before.line);
    let other = (after.machine - before.machine - children - server - store - line).max(0.0);
    Ok(Run { wall, client: children, server, store, line, other, peak_mib })
}

#[derive(Debug, Clone, Copy)]
struct Spent {
    children: f64,
    server: f64,
    store: f64,
    line: f64,
    machine: f64,
}

impl Spent {
    fn now(watched: Watched<'_>) -> Self {
        Self {
            children: children(),
            server: watched.server.spent(),
            store: fields("/proc/self/stat").map_or(0.0, |stat| seconds(&stat, &[11, 12])),
            line: watched.line.and_then(|pid| fields(&format!("/proc/{pid}/stat"))).map_or(0.0, |stat| seconds(&stat, &[11, 12])),
            machine: machine(),
        }
    }
}

/// The children of this process that were waited for.
fn children() -> f64 {
    fields("/proc/self/stat").map_or(0.0, |stat| seconds(&stat, &[13, 14]))
}

/// A process, the children it has waited for, and those that live.
fn family(pid: u32) -> f64 {
    let own = fields(&format!("/proc/{pid}/stat")).map_or(0.0, |stat| seconds(&stat, &[11, 12, 13, 14]));
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    own + children.split_whitespace().filter_map(|child| child.parse().ok()).map(family).sum::<f64>()
}

/// What all processors did, without waiting.
fn machine() -> f64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let first: Vec<f64> = text.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    [0, 1, 2, 5, 6].iter().filter_map(|i| first.get(*i)).sum::<f64>() / TICKS
}

/// The fields behind the program's name, which may hold anything.
fn fields(path: &str) -> Option<Vec<f64>> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect())
}

fn seconds(stat: &[f64], which: &[usize]) -> f64 {
    which.iter().filter_map(|i| stat.get(*i)).sum::<f64>() / TICKS
}

fn peak_of(child: &Child) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
