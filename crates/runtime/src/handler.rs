//! The embedded engine's tasks: a call becomes a step of `app::tasks`, its outcome an answer. What takes hours is handed to
//! a worker in this process, which says that it is alive as long as it is.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use app::tasks::{Done, Step, Stopped, Tasks};
use async_trait::async_trait;
use serde_json::json;
use store::Mutation;
use workflow::Fault;
use workflow::executor::{Answer, Executor, Running, TaskCall, TaskHandler};

use crate::beside::beside;
use crate::harbour::Harbour;
use crate::service::StepHook;

/// A worker shows that it is alive so often.
const BEAT: Duration = Duration::from_secs(10);

pub(crate) struct Handler {
    pub tasks: Arc<Tasks>,
    pub harbour: Arc<Harbour>,
    /// Set as soon as there is one; workers answer to it.
    pub executor: OnceLock<Executor<Vec<Mutation>>>,
    /// Something was put into the outbox.
    pub told: Arc<tokio::sync::Notify>,
    pub hook: Option<Arc<StepHook>>,
}

impl Handler {
    /// Carries out a step; one that is cancelled is interrupted and ends at a place from which it can be gone on with.
    async fn carry_out(&self, step: &Step, running: &Running<Vec<Mutation>>, alive: &(dyn Fn() + Send + Sync)) -> Result<Done, Stopped> {
        self.hook(&step.name, false);
        let outcome = {
            let running_step = self.tasks.run(step, alive);
            tokio::pin!(running_step);
            tokio::select! {
                outcome = &mut running_step => outcome,
                _ = running.cancelled.cancelled() => {
                    self.harbour.interrupt(&step.transfer);
                    running_step.await
                }
            }
        };
        self.hook(&step.name, true);
        outcome
    }

    fn hook(&self, step: &str, over: bool) {
        if let Some(hook) = &self.hook {
            hook(step, over);
        }
    }

    async fn work(self: Arc<Self>, step: Step, token: String, running: Running<Vec<Mutation>>) {
        let Some(executor) = self.executor.get() else { return };
        let alive = AtomicBool::new(true);
        let mark = || alive.store(true, Relaxed);
        let outcome = beside(self.carry_out(&step, &running, &mark), beat(executor, &token, &alive)).await;
        let told = match outcome {
            Ok(done) => executor.succeed(&token, done.output, done.effects).await,
            Err(stopped) => match stopped.fault() {
                Some(fault) => executor.fail(&token, fault, Vec::new()).await,
                // The next start hands it over again.
                None => Ok(()),
            },
        };
        if let Err(error) = told {
            tracing::warn!(transfer = %step.transfer, %error, "the end of a worker was not taken");
        }
    }
}

/// Says again and again that a worker is alive, as long as it shows that it is.
async fn beat(executor: &Executor<Vec<Mutation>>, token: &str, alive: &AtomicBool) -> Infallible {
    let mut beat = tokio::time::interval(BEAT);
    loop {
        beat.tick().await;
        if alive.swap(false, Relaxed)
            && let Err(error) = executor.heartbeat(token).await
        {
            tracing::debug!(%error, "nobody waits for this worker any more");
        }
    }
}

/// Held by the executor.
pub(crate) struct Handling(pub Arc<Handler>);

#[async_trait]
impl TaskHandler<Vec<Mutation>> for Handling {
    async fn run(&self, call: TaskCall, running: Running<Vec<Mutation>>) -> Answer<Vec<Mutation>> {
        let step = match Step::read(&call.payload) {
            Ok(step) => step,
            Err(error) => return Answer::fault(error.class.name(), error.message),
        };
        if step.name.ends_with("ByWorker") {
            let handler = self.0.clone();
            // Counted by the executor as long as it keeps `running`.
            tokio::spawn(handler.work(step, call.token, running));
            return Answer::ok(json!({}));
        }
        match self.0.carry_out(&step, &running, &|| {}).await {
            Ok(done) => {
                self.0.told.notify_one();
                Answer::ok(done.output).with(done.effects)
            }
            Err(stopped) => {
                let fault = stopped.fault().unwrap_or_else(|| Fault::new("Transient", "cancelled: this process ends"));
                Answer::fault(fault.error, fault.cause)
            }
        }
    }
}
