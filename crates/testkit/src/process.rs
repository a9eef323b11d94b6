//! Server programs as children of a test: their log, their end by pid, and the end of what they started.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long SIGKILL may take to end a process; one in a file system that hangs never ends.
const KILLED: Duration = Duration::from_secs(5);

/// A running program. Dropping it kills it and everything it started.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    /// Descendants seen earlier: they lose their parent when it dies, and would be out of reach.
    seen: Vec<Descendant>,
}

/// A pid and when its process began, so that a pid used again is not taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Descendant {
    pid: i32,
    begun: u64,
}

impl Process {
    /// Starts the program with its output appended to the file `log`.
    pub fn spawn(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let program = command.get_program().to_string_lossy().into_owned();
        let child =
            command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).spawn().with_context(|| format!("start {program}"))?;
        Ok(Self { child, log: log.to_owned(), seen: Vec::new() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Everything it has printed.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Waits until `ready` has an answer; fails when the program ends or `limit` passes, with the end of its log.
    pub async fn wait_until<T>(&mut self, limit: Duration, mut ready: impl FnMut(&Self) -> Option<T>) -> anyhow::Result<T> {
        let begun = Instant::now();
        loop {
            if let Some(answer) = ready(self) {
                return Ok(answer);
            }
            if !self.is_running() {
                bail!("the program ended while starting; its log: {}", self.log());
            }
            if begun.elapsed() > limit {
                bail!("the program was not ready in {limit:?}; its log: {}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// SIGKILL to the program alone.
    pub fn kill(&mut self) {
        // Stopped first, so that nothing is started between the look and the kill.
        if let Some(pid) = i32::try_from(self.child.id()).ok().filter(|_| self.is_running()).and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::STOP);
        }
        self.remember_descendants();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGKILL to everything it started, at whatever depth, and waits until it is gone. Returns how many there were.
    pub fn kill_descendants(&mut self) -> usize {
        self.remember_descendants();
        let alive: Vec<Descendant> = self.seen.drain(..).filter(|descendant| begun(descendant.pid) == Some(descendant.begun)).collect();
        for descendant in &alive {
            if let Some(pid) = Pid::from_raw(descendant.pid) {
                // Gone in the meantime is as good.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        // A signal is only on its way: until the process has ended, its sockets still listen.
        let until = Instant::now() + KILLED;
        while alive.iter().any(|descendant| begun(descendant.pid) == Some(descendant.begun)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        alive.len()
    }

    /// Running processes that it started, directly or not.
    pub fn descendants(&mut self) -> Vec<i32> {
        self.remember_descendants();
        self.seen.iter().map(|descendant| descendant.pid).collect()
    }

    fn remember_descendants(&mut self) {
        self.seen.retain(|descendant| begun(descendant.pid) == Some(descendant.begun));
        let mut parents: Vec<i32> = self.seen.iter().map(|descendant| descendant.pid).collect();
        if let (true, Ok(pid)) = (self.is_running(), i32::try_from(self.child.id())) {
            parents.push(pid);
        }
        let processes = processes();
        while let Some(parent) = parents.pop() {
            for (pid, _, begun) in processes.iter().filter(|(_, of, _)| *of == parent) {
                let descendant = Descendant { pid: *pid, begun: *begun };
                if !self.seen.contains(&descendant) {
                    self.seen.push(descendant);
                    parents.push(*pid);
                }
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The parent first, so that it starts nothing new meanwhile.
        self.kill();
        self.kill_descendants();
    }
}

/// Parent and start time of a process, from /proc; a zombie counts as gone.
fn status(pid: i32) -> Option<(i32, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name is in brackets and may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    if *fields.first()? == "Z" {
        return None;
    }
    Some((fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?))
}

fn begun(pid: i32) -> Option<u64> {
    status(pid).map(|(_, begun)| begun)
}

fn processes() -> Vec<(i32, i32, u64)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let (parent, begun) = status(pid)?;
            Some((pid, parent, begun))
        })
        .collect()
}

/// A port that was free a moment ago. Whoever binds it later must be ready to try another.
pub fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
