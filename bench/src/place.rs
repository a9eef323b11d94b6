//! Where a program runs: here, or at one end of the far line, which is a network namespace of its own.

use std::fs::File;
use std::future::Future;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::{Builder, Runtime};

use crate::line::Line;

/// Addresses of the two ends. They exist only inside the namespaces.
const ENDS: [&str; 2] = ["10.77.0.1", "10.77.0.2"];

/// Every thread of this runtime, and so every program and socket that comes from it, is in one network namespace.
#[derive(Debug)]
pub struct Place {
    runtime: Runtime,
}

impl Place {
    pub fn here() -> Result<Self> {
        Ok(Self { runtime: Builder::new_multi_thread().enable_all().build()? })
    }

    fn inside(namespace: &Path) -> Result<Self> {
        let namespace = namespace.to_owned();
        let enter = move || {
            let file = File::open(&namespace).expect("the namespace is there");
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter a namespace");
        };
        Ok(Self { runtime: Builder::new_multi_thread().enable_all().on_thread_start(enter).build()? })
    }

    /// Runs `work` on a thread of this place.
    pub fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        Ok(self.runtime.block_on(self.runtime.spawn(work))?)
    }

    /// Starts a program in this place.
    pub fn spawn(&self, mut command: Command) -> Result<Child> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.run(async move { command.spawn() })?.with_context(|| format!("start {program}"))
    }
}

/// Two places joined by a line.
#[derive(Debug)]
pub struct Far {
    pub near_end: Place,
    pub far_end: Place,
    names: [String; 2],
    line: Child,
}

impl Far {
    /// Needs root, `ip` and `/dev/net/tun`; `None` says that this machine lacks one of them.
    pub fn build(line: Line, tun: &Path) -> Result<Option<Self>> {
        let names = ["c", "s"].map(|end| format!("far-{end}-{}", std::process::id()));
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/net/tun").exists() || ip(&["netns", "add", &names[0]]).is_err() {
            return Ok(None);
        }
        ip(&["netns", "add", &names[1]])?;
        let own = std::env::current_exe()?;
        let mut command = Command::new("ip");
        for (end, name) in names.iter().enumerate() {
            if end > 0 {
                command.arg("ip");
            }
            command.args(["netns", "exec", name, "python3"]).arg(tun).arg(format!("{}/24", ENDS[end])).arg(end.to_string());
        }
        command.arg(own).arg("line").arg(line.bits_per_second.to_string()).arg(line.one_way.as_secs_f64().to_string());
        let line = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("start the line")?;
        let places = names.each_ref().map(|name| Place::inside(&PathBuf::from("/run/netns").join(name)));
        let [near_end, far_end] = places;
        let mut far = Self { near_end: near_end?, far_end: far_end?, names, line };
        far.wait()?;
        Ok(Some(far))
    }

    fn wait(&mut self) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            ensure!(self.line.try_wait()?.is_none(), "the line ended while starting");
            if self.answers()? {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("the two ends of the line do not reach each other")
    }

    /// Where there is no `ping`: a refused connection has been there and back.
    fn answers(&self) -> Result<bool> {
        let attempt = async { tokio::time::timeout(Duration::from_secs(1), tokio::net::TcpStream::connect((ENDS[1], 9))).await };
        Ok(matches!(self.near_end.run(attempt)?, Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused))
    }

    /// Address of the server's end.
    pub fn address() -> std::net::IpAddr {
        ENDS[1].parse().expect("an address")
    }

    pub fn line_pid(&self) -> u32 {
        self.line.id()
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let _ = self.line.kill();
        let _ = self.line.wait();
        for name in &self.names {
            let _ = ip(&["netns", "del", name]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("run ip")?;
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
