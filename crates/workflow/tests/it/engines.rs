//! Engines for state machines that are not ours, moto and MiniStack, and the public linters of definitions. They are
//! installed by `make setup`.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

const SCRIPT: &str = include_str!("../engines/state_machines.py");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Moto,
    MiniStack,
}

impl Engine {
    pub fn name(self) -> &'static str {
        match self {
            Self::Moto => "moto",
            Self::MiniStack => "ministack",
        }
    }

    /// Runs each case (`name`, `definition`, `input`, and `functions`, `queues`, `mocks`) in one process and tells how its
    /// execution ended: `name`, `status`, `output`, `error`, `cause`. An execution has 40 seconds.
    pub fn run(self, cases: &[Value]) -> Vec<Value> {
        let python = virtual_environment().join("bin/python");
        assert!(python.exists(), "{} is not installed for tests: run `make setup`", self.name());
        let home = tempfile::Builder::new().prefix("state-machines-").tempdir().unwrap();
        let script = home.path().join("state_machines.py");
        std::fs::write(&script, SCRIPT).unwrap();
        let log = std::fs::File::create(home.path().join("log")).unwrap();
        let mut command = Command::new(python);
        command.arg(&script).args([self.name(), &free_port().to_string()]).env("TMPDIR", home.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        // Dropped after the write: the end of the input is its end.
        child.stdin.take().unwrap().write_all(json!({"cases": cases}).to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let ended: Vec<Value> = String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        if ended.len() != cases.len() {
            let log = std::fs::read_to_string(home.path().join("log")).unwrap_or_default();
            panic!("{} ended after {} of {} cases; its log: {log}", self.name(), ended.len(), cases.len());
        }
        ended
    }
}

/// What statelint and asl-validator object to, where they are installed: nothing where they are content.
pub fn public_linters(file: &Path) -> Vec<(&'static str, String)> {
    let node = root().join(".cache/node/node_modules/.bin/asl-validator");
    let tools: [(&'static str, PathBuf, &[&str]); 2] =
        [("statelint", virtual_environment().join("bin/statelint"), &[]), ("asl-validator", node, &["--json-path"])];
    let installed = tools.into_iter().filter(|(_, program, _)| program.exists());
    installed.map(|(name, program, options)| (name, said(Command::new(program).args(options).arg(file)))).collect()
}

/// Everything it printed, or that it failed; empty where it was content.
fn said(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    if output.status.success() {
        return String::new();
    }
    format!("{} {}", output.status, String::from_utf8_lossy(&[output.stdout, output.stderr].concat()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn virtual_environment() -> PathBuf {
    std::env::var_os("FILEFERRY_TEST_VENV").map_or_else(|| root().join(".cache/venv"), PathBuf::from)
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
