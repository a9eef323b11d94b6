//! How a state ends: its result becomes output, or its failure is tried again, caught, or handed up.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::states::{select, within_limit};
use super::{Command, Doing, FrameId, Run, Status};
use crate::definition::{Kind, Retrier, Selection, State};
use crate::fault::{self, Fault};

/// No retry waits longer than the language's longest time.
const MAX_DELAY: f64 = 99_999_999.0;

impl Run<'_> {
    pub(super) fn task_succeeded(&mut self, id: FrameId, output: Value) {
        let Some(state) = self.state(id) else { return };
        self.task_event(id, "TaskSucceeded", [("output", Value::String(output.to_string()))]);
        let result = within_limit(output);
        self.completed(id, state, result);
    }

    pub(super) fn task_failed(&mut self, id: FrameId, fault: Fault) {
        let Some(state) = self.state(id) else { return };
        self.task_event(id, "TaskFailed", [("error", json!(fault.error)), ("cause", json!(fault.cause))]);
        self.failed(id, state, fault, false);
    }

    /// `whole`: the time for the task is over; otherwise no heartbeat came.
    pub(super) fn task_timed_out(&mut self, id: FrameId, whole: bool) {
        let Some(state) = self.state(id) else { return };
        if let Doing::Task { token, .. } = &self.frame(id).doing {
            let token = token.clone();
            self.done.commands.push(Command::CancelTask { token });
        }
        let fault = match whole {
            true => Fault::new(fault::TIMEOUT, "the task did not end within TimeoutSeconds"),
            false => Fault::new(fault::HEARTBEAT_TIMEOUT, "no heartbeat came within HeartbeatSeconds"),
        };
        self.task_event(id, "TaskTimedOut", [("error", json!(fault.error)), ("cause", json!(fault.cause))]);
        self.failed(id, state, fault, false);
    }

    /// A Task, Parallel or Map has its result.
    pub(super) fn completed(&mut self, id: FrameId, state: &State, result: Result<Value, Fault>) {
        let selected = result.and_then(|result| self.filled(id, state.result_selector.as_ref(), &result, None));
        let left = selected.and_then(|result| self.combined(id, state, result)).and_then(|output| {
            if let Kind::Parallel { .. } | Kind::Map(_) = state.kind {
                self.frame_event(id, &format!("{}StateSucceeded", state.kind.name()), None);
            }
            self.leave(id, state, state.next.as_deref(), output)
        });
        if let Err(fault) = left {
            let event = self.frame(id).entered_event;
            let cause = super::history::placed(&fault.cause, &state.name, event);
            self.failed(id, state, Fault { error: fault.error, cause }, false);
        }
    }

    /// Result and raw input put together by ResultPath, and what OutputPath takes of it.
    pub(super) fn combined(&mut self, id: FrameId, state: &State, result: Value) -> Result<Value, Fault> {
        let raw = &self.frame(id).input;
        let merged = put(&state.result_path, raw, result)?;
        match &state.output_path {
            Selection::Path(path) if path.is_whole() => Ok(merged),
            selection => self.looking(id, &merged, None, |scope, _| select(selection, "OutputPath", scope)),
        }
    }

    /// Goes on to `next`, or ends the machine where there is none.
    pub(super) fn leave(&mut self, id: FrameId, state: &State, next: Option<&str>, output: Value) -> Result<(), Fault> {
        let output = within_limit(output)?;
        if self.frame(id).group.is_some() {
            self.remove_descendants(id);
        }
        self.state_exited(id, &state.kind, &output);
        match next {
            Some(next) => {
                let frame = self.frame(id);
                frame.state = next.to_owned();
                frame.input = output;
                frame.fresh = true;
                self.make_ready(id);
            }
            None => match self.frame(id).parent {
                None => self.end(Status::Succeeded { output }),
                Some(parent) => {
                    self.frame(id).doing = Doing::Done { output };
                    self.iteration_event(id, "Succeeded");
                    self.child_ended(parent);
                }
            },
        }
        Ok(())
    }

    /// A state failed: retriers first, then catchers, then whoever is above.
    pub(super) fn failed(&mut self, id: FrameId, state: &State, fault: Fault, of_branch: bool) {
        let takes = |errors: &[String]| errors.iter().any(|name| fault.is_matched_by(name, of_branch));
        if let Some(index) = state.retry.iter().position(|retrier| takes(&retrier.errors)) {
            let retrier = &state.retry[index];
            let used = self.frame(id).retries.get(index).copied().unwrap_or(0);
            if used < retrier.max_attempts {
                let at = self.retry_at(retrier, used);
                self.remove_descendants(id);
                let frame = self.frame(id);
                if let Some(used) = frame.retries.get_mut(index) {
                    *used += 1;
                }
                frame.retry_count += 1;
                frame.doing = Doing::Retry { at };
                return;
            }
        }
        if let Kind::Parallel { .. } | Kind::Map(_) = state.kind {
            self.frame_event(id, &format!("{}StateFailed", state.kind.name()), None);
        }
        if let Some(catcher) = state.catch.iter().find(|catcher| takes(&catcher.errors)) {
            let output = json!({"Error": fault.error, "Cause": fault.cause});
            let caught = put(&catcher.result_path, &self.frame(id).input, output);
            let caught = caught.and_then(|output| {
                self.remove_descendants(id);
                self.leave(id, state, Some(&catcher.next), output)
            });
            return match caught {
                Ok(()) => {}
                Err(fault) => self.hand_up(id, fault),
            };
        }
        self.hand_up(id, fault);
    }

    fn retry_at(&mut self, retrier: &Retrier, used: u64) -> Timestamp {
        let used = i32::try_from(used).unwrap_or(i32::MAX);
        let most = retrier.max_delay_seconds.map_or(MAX_DELAY, |most| most as f64);
        let mut seconds = (retrier.interval_seconds as f64 * retrier.backoff_rate.powi(used)).min(most);
        if retrier.full_jitter {
            seconds *= self.chance.fraction();
        }
        let delay = SignedDuration::try_from_secs_f64(seconds).unwrap_or(SignedDuration::ZERO);
        self.now.checked_add(delay).unwrap_or(Timestamp::MAX)
    }

    /// Nobody here takes the fault: it is the end of the branch, the item or the execution.
    fn hand_up(&mut self, id: FrameId, fault: Fault) {
        let frame = self.frame(id);
        frame.doing = Doing::Failed(fault.clone());
        match frame.parent {
            None => self.end(Status::Failed(fault)),
            Some(parent) => {
                self.iteration_event(id, "Failed");
                self.child_failed(parent, fault);
            }
        }
    }
}

fn put(path: &Selection, raw: &Value, result: Value) -> Result<Value, Fault> {
    match path {
        Selection::Nothing => Ok(raw.clone()),
        Selection::Path(path) if path.is_whole() => Ok(result),
        Selection::Path(path) => {
            let mut merged = raw.clone();
            let wrong = |()| {
                let cause = format!("Unable to apply ReferencePath {path} to input {}", crate::template::Scope::of(raw).shown(path));
                Fault::new(fault::RESULT_PATH_MATCH_FAILURE, cause)
            };
            path.put(&mut merged, result).map(|()| merged).map_err(wrong)
        }
    }
}
