//! What the process finds around it: directories, terminal, the person at it. Read once.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use jiff::SignedDuration;
use model::Credential;
use runtime::Place;

use crate::output::Screen;

/// For tests only: milliseconds after which a stopped process is taken over, so that nobody waits for half a minute.
const TEST_LEASE: &str = "FILEFERRY_TEST_LEASE_MS";

#[derive(Debug, Clone)]
pub struct Environment {
    pub home: PathBuf,
    pub state: PathBuf,
    pub config_home: Option<PathBuf>,
    pub working: PathBuf,
    pub login_name: Option<String>,
    pub ssh_agent: Option<PathBuf>,
    /// stderr is a terminal that can redraw a line.
    pub redraws: bool,
    pub stdout_terminal: bool,
    pub colours: bool,
    /// Someone can be asked for a password.
    pub can_ask: bool,
    pub lease: SignedDuration,
}

impl Environment {
    pub fn read() -> Self {
        let text = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        // The XDG specification: relative paths there are to be ignored.
        let directory = |name: &str| text(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = directory("HOME").unwrap_or_else(|| PathBuf::from("/"));
        let stderr = std::io::stderr().is_terminal();
        let dumb = text("TERM").is_none_or(|term| term == "dumb");
        Self {
            state: directory("XDG_STATE_HOME").unwrap_or_else(|| home.join(".local/state")).join("fileferry"),
            config_home: directory("XDG_CONFIG_HOME").or_else(|| Some(home.join(".config"))),
            working: std::env::current_dir().unwrap_or_default(),
            login_name: text("USER").or_else(|| text("LOGNAME")).and_then(|name| name.into_string().ok()),
            ssh_agent: text("SSH_AUTH_SOCK").map(PathBuf::from),
            redraws: stderr && !dumb,
            stdout_terminal: std::io::stdout().is_terminal(),
            colours: stderr && !dumb && text("NO_COLOR").is_none(),
            can_ask: stderr && std::io::stdin().is_terminal(),
            lease: text(TEST_LEASE).and_then(|ms| ms.to_str()?.parse().ok()).map_or(app::transfers::LEASE, SignedDuration::from_millis),
            home,
        }
    }

    pub fn place(&self, screen: &Screen) -> Place {
        let screen = screen.clone();
        let ask = move |question: &str| -> Option<Credential> {
            let question = model::escape_name(question.trim_end_matches([':', ' ']));
            let answer = screen.suspended(|| rpassword::prompt_password(format!("{question}: ")));
            match answer {
                Ok(text) => Some(Credential::new(text)),
                // Ctrl-C reaches the prompt as a character. Going on without a password would look like a refused login.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {
                    std::process::exit(i32::from(model::ErrorClass::Cancelled.exit_code()))
                }
                Err(_) => None,
            }
        };
        Place {
            state: self.state.clone(),
            home: self.home.clone(),
            login_name: self.login_name.clone(),
            ssh_agent: self.ssh_agent.clone(),
            lease: self.lease,
            prompt: self.can_ask.then(|| std::sync::Arc::new(ask) as _),
            sealed: None,
        }
    }

    /// `~/x` from a file or a variable, where no shell has expanded it.
    pub fn expand(&self, path: &Path) -> PathBuf {
        path.strip_prefix("~").map_or_else(|_| path.to_owned(), |rest| self.home.join(rest))
    }
}
