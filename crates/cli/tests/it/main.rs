//! The built binary as a person or a script meets it.

mod architecture;
mod audit;
mod contract;
mod contract_on_ftp;
mod from_rclone;
mod ftps;
mod graceful;
mod names;
mod promises;
mod queue;
mod receipts;
mod records;
mod rehearse;
mod rehearse_hostile;
mod rehearse_killed;
mod resources;
mod roads;
mod semantics;
mod service;
mod service_kills;
mod shop;
mod sites;
mod sources;
mod usage;
mod watch;
mod workflow;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A home of its own; nothing of the machine's configuration is seen.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    fn state(&self) -> PathBuf {
        self.path("state/fileferry")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fileferry"));
        command.env_clear().env("HOME", self.0.path()).env("XDG_STATE_HOME", self.path("state"));
        command.env("XDG_CONFIG_HOME", self.path("config")).current_dir(self.0.path()).stdin(Stdio::null()).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().expect("ended by itself"), out: text(output.stdout), err: text(output.stderr) }
    }

    fn objects(&self) -> Vec<serde_json::Value> {
        let object = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.out.lines().map(object).collect()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
