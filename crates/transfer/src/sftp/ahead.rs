//! Sessions begun before they are asked for. Over a long way ten round trips pass before a session is of use. Four of them, up
//! to the proof of the server, wait for nothing; the others for the login of the first session, which proves the user, and
//! not for what comes after that. Before it nothing of the user is told.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::config::SftpConfig;
use super::connect::{Opened, begin, finish};
use super::trust::Trust;
use crate::{ErrorKind, Result};

/// Below this round trip there is nothing to win.
const LONG_WAY: Duration = Duration::from_millis(10);
/// Servers give a client that does not log in two minutes, some of them less.
const KEPT: Duration = Duration::from_secs(15);

/// What one connector has begun, and how many sessions it was told to expect beside the first.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    state: Mutex<State>,
    /// The login of a session of this connector was accepted.
    proved: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    expected: usize,
    begun: Vec<Begun>,
}

#[derive(Debug)]
struct Begun {
    task: JoinHandle<Option<Result<Opened>>>,
    since: Instant,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ahead {
    pub fn expect(&self, sessions: usize) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).expected = sessions;
    }

    pub fn prove(&self) {
        self.proved.cancel();
    }

    /// The server of this connector was reached over `round_trip`: begins what is expected, once.
    pub fn reached(&self, round_trip: Duration, config: &SftpConfig, trust: &Arc<Trust>, preferred: &russh::Preferred) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let expected = std::mem::take(&mut state.expected);
        if round_trip < LONG_WAY {
            return;
        }
        for _ in 0..expected {
            let (config, trust, preferred) = (config.clone(), trust.clone(), preferred.clone());
            let proved = self.proved.clone();
            let task = tokio::spawn(async move {
                // What goes wrong here goes wrong again where it is told.
                let shaken = begin(&config, trust, preferred).await.ok()?;
                tokio::time::timeout(KEPT, proved.cancelled()).await.ok()?;
                match finish(&config, shaken, Instant::now() + config.connect_timeout).await {
                    Ok((opened, _)) => Some(Ok(opened)),
                    // A login that was refused is not tried again.
                    Err(error) if error.kind == ErrorKind::DestAuth => Some(Err(error)),
                    Err(_) => None,
                }
            });
            state.begun.push(Begun { task, since: Instant::now() });
        }
    }

    /// A session that was begun, as soon as it is logged in; an error is the server's word on that.
    pub async fn take(&self) -> Option<Result<Opened>> {
        loop {
            let mut begun = self.state.lock().unwrap_or_else(PoisonError::into_inner).begun.pop()?;
            if begun.since.elapsed() > KEPT {
                continue;
            }
            match (&mut begun.task).await {
                Ok(Some(Ok(opened))) if opened.handle.is_closed() => {}
                Ok(Some(opened)) => return Some(opened),
                _ => {}
            }
        }
    }
}
