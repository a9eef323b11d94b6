//! Begins what waits, as soon as there is room: after every submission and every end, and now and then besides.

use std::sync::Arc;
use std::time::Duration;

use app::admission::{Admitted, choose};
use app::tasks::DEFINITION;
use workflow::executor::{Error, NewExecution};

use crate::service::Inner;

/// Looked at without being told, because a window opened or a connector was changed.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The name of the state machine.
const MACHINE: &str = "FileFerry-TransferStateMachine";
/// There is one worker queue on one machine: this process.
const WORKERS: &str = "embedded";

pub(crate) async fn run(inner: Arc<Inner>) {
    let mut wait = Duration::ZERO;
    loop {
        tokio::select! {
            _ = inner.stop.cancelled() => return,
            _ = inner.wake.notified() => {}
            _ = tokio::time::sleep(wait) => {}
        }
        wait = match admit(&inner).await {
            Ok(wait) => wait,
            Err(error) => {
                tracing::warn!(error = %error.message, "the queues cannot be looked at");
                LOOK_EVERY
            }
        };
    }
}

/// How long there is nothing to do.
async fn admit(inner: &Inner) -> app::Result<Duration> {
    let mut wait = LOOK_EVERY;
    loop {
        let room = inner.settings.transfers.saturating_sub(inner.executor.running());
        let now = inner.settings.clock.wall();
        let admission = choose(&inner.store, room, WORKERS, now).await?;
        if let Some(at) = admission.again_at {
            wait = wait.min(at.duration_since(now).unsigned_abs());
        }
        if admission.admitted.is_empty() {
            return Ok(wait);
        }
        // Together, so that their beginnings share a commit.
        let begun = futures_util::future::join_all(admission.admitted.into_iter().map(|admitted| begin(inner, admitted))).await;
        if !begun.contains(&true) {
            return Ok(wait);
        }
    }
}

/// Whether it has begun.
async fn begin(inner: &Inner, admitted: Admitted) -> bool {
    let Admitted { request, execution, input, effects, .. } = admitted;
    let new = NewExecution { name: execution, machine: MACHINE.to_owned(), definition: DEFINITION.to_owned(), input };
    match inner.executor.start(new, effects).await {
        Ok(started) => !started.already,
        // The slot or the state went to somebody else; the next look decides anew.
        Err(Error::Refused(_) | Error::Stopping) => false,
        Err(error) => {
            tracing::warn!(transfer = %request.transfer, %error, "a transfer could not begin");
            false
        }
    }
}
