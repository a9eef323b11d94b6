//! What each type of state does when it is entered.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Command, Doing, FrameId, Run, TaskRequest, after, context, history};
use crate::definition::{Amount, Kind, Selection, State, Task, Wait, Words};
use crate::fault::{self, Fault};
use crate::path::Path;
use crate::template::{Scope, Template};
use crate::value;
use crate::{Chance, MAX_DATA, MAX_DEPTH};

/// What a path selects of some data.
pub(super) fn select(selection: &Selection, field: &str, scope: &Scope<'_>) -> Result<Value, Fault> {
    match selection {
        Selection::Nothing => Ok(Value::Object(Map::new())),
        Selection::Path(path) => find(path, field, scope),
    }
}

pub(super) fn find(path: &Path, field: &str, scope: &Scope<'_>) -> Result<Value, Fault> {
    scope.find(path).map_err(|_| Fault::runtime(format!("Invalid path '{path}' in {field}: nothing is there in {}", scope.shown(path))))
}

impl Run<'_> {
    /// Runs `work` with the context object of a frame at hand.
    pub(super) fn looking<T>(
        &mut self,
        id: FrameId,
        data: &Value,
        token: Option<&str>,
        work: impl FnOnce(&Scope<'_>, &mut dyn Chance) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let (machine, execution) = (self.machine, &*self.execution);
        let Some(frame) = execution.frames.get(&id) else { return Err(Fault::runtime("the frame is gone")) };
        let make = || context::of(machine, execution, frame, token);
        work(&Scope::with_context(data, &make), &mut *self.chance)
    }

    pub(super) fn enter(&mut self, id: FrameId) {
        let Some(state) = self.state(id) else {
            let name = self.frame(id).state.clone();
            return self.end(super::Status::Failed(Fault::runtime(format!("the definition has no state '{name}'"))));
        };
        if self.frame(id).fresh {
            let now = self.now;
            let frame = self.frame(id);
            (frame.fresh, frame.entered, frame.retry_count) = (false, now, 0);
            frame.retries = vec![0; state.retry.len()];
            self.state_entered(id, &state.kind);
        }
        if let Err(fault) = self.carry_out(id, state) {
            if self.frame(id).group.is_some() {
                self.stop_children(id);
            }
            let event = self.frame(id).entered_event;
            // What a Fail state says is said in its own words.
            let cause = match state.kind {
                Kind::Fail { .. } => fault.cause,
                _ => history::placed(&fault.cause, &state.name, event),
            };
            self.failed(id, state, Fault { error: fault.error, cause }, false);
        }
    }

    fn carry_out(&mut self, id: FrameId, state: &State) -> Result<(), Fault> {
        let raw = self.frame(id).input.clone();
        let input = match &state.input_path {
            Selection::Path(path) if path.is_whole() => raw,
            selection => self.looking(id, &raw, None, |scope, _| select(selection, "InputPath", scope))?,
        };
        match &state.kind {
            Kind::Pass { result } => {
                let result = match result {
                    Some(result) => result.clone(),
                    None => self.filled(id, state.parameters.as_ref(), &input, None)?,
                };
                let output = self.combined(id, state, result)?;
                self.leave(id, state, state.next.as_deref(), output)
            }
            Kind::Succeed => {
                let output = self.looking(id, &input, None, |scope, _| select(&state.output_path, "OutputPath", scope))?;
                self.leave(id, state, None, output)
            }
            Kind::Fail { error, cause } => {
                let fault = self.looking(id, &input, None, |scope, chance| {
                    Ok(Fault::new(words(error, "ErrorPath", scope, chance)?, words(cause, "CausePath", scope, chance)?))
                })?;
                Err(fault)
            }
            Kind::Choice { rules, default } => {
                let (next, output) = self.looking(id, &input, None, |scope, _| {
                    let mut next = default.as_deref();
                    for rule in rules {
                        if rule.condition.holds(scope)? {
                            next = Some(&rule.next);
                            break;
                        }
                    }
                    let none = || Fault::new(fault::NO_CHOICE_MATCHED, "Failed to transition out of the state: no rule matches");
                    Ok((next.ok_or_else(none)?, select(&state.output_path, "OutputPath", scope)?))
                })?;
                self.leave(id, state, Some(next), output)
            }
            Kind::Wait(wait) => {
                let until = self.looking(id, &input, None, |scope, _| moment(wait, scope))?;
                let now = self.now;
                let (until, named) = match until {
                    Until::Moment(moment) => (moment, true),
                    Until::Seconds(seconds) => (after(now, seconds), false),
                };
                self.frame(id).doing = Doing::Wait { until, named };
                if until <= now {
                    self.wait_is_over(id);
                }
                Ok(())
            }
            Kind::Task(task) => self.start_task(id, state, task, &input),
            Kind::Parallel { branches } => {
                let input = self.filled(id, state.parameters.as_ref(), &input, None)?;
                self.start_branches(id, branches, input)
            }
            Kind::Map(map) => self.start_map(id, map, &input),
        }
    }

    /// A payload template filled in, or the data as it is.
    pub(super) fn filled(&mut self, id: FrameId, template: Option<&Template>, data: &Value, token: Option<&str>) -> Result<Value, Fault> {
        let Some(template) = template else { return Ok(data.clone()) };
        let filled = self.looking(id, data, token, |scope, chance| template.evaluate(scope, chance))?;
        within_limit(filled)
    }

    pub(super) fn wait_is_over(&mut self, id: FrameId) {
        let Some(state) = self.state(id) else { return };
        let raw = self.frame(id).input.clone();
        let left = self.looking(id, &raw, None, |scope, _| select(&state.input_path, "InputPath", scope)).and_then(|input| {
            let output = self.looking(id, &input, None, |scope, _| select(&state.output_path, "OutputPath", scope))?;
            self.leave(id, state, state.next.as_deref(), output)
        });
        if let Err(fault) = left {
            self.failed(id, state, fault, false);
        }
    }

    fn start_task(&mut self, id: FrameId, state: &State, task: &Task, input: &Value) -> Result<(), Fault> {
        let token = format!("{}{}", self.execution.start.token_prefix, self.execution.next_task);
        let shown = task.resource.waits_for_token.then_some(token.as_str());
        let parameters = self.filled(id, state.parameters.as_ref(), input, shown)?;
        let (timeout, heartbeat_seconds) = self.looking(id, input, None, |scope, _| {
            let timeout = amount(task.timeout.as_ref(), "TimeoutSecondsPath", 1, scope)?;
            Ok((timeout, amount(task.heartbeat.as_ref(), "HeartbeatSecondsPath", 1, scope)?))
        })?;
        self.execution.next_task += 1;
        let deadline = timeout.map(|seconds| after(self.now, seconds));
        let heartbeat_by = heartbeat_seconds.map(|seconds| after(self.now, seconds));
        let scheduled = [
            ("parameters", Value::String(parameters.to_string())),
            ("timeoutInSeconds", timeout.map_or(Value::Null, |seconds| json!(seconds))),
            ("heartbeatInSeconds", heartbeat_seconds.map_or(Value::Null, |seconds| json!(seconds))),
        ];
        self.task_event(id, "TaskScheduled", scheduled);
        self.task_event(id, "TaskStarted", []);
        let frame = self.frame(id);
        frame.doing = Doing::Task {
            token: token.clone(),
            timeout_seconds: timeout,
            deadline,
            heartbeat_seconds,
            heartbeat_by,
            submitted: false,
            parameters: parameters.clone(),
        };
        let attempt = frame.retry_count;
        let request = TaskRequest {
            frame: id,
            state: state.name.clone(),
            token,
            resource: task.resource.clone(),
            parameters,
            attempt,
            deadline,
            heartbeat_seconds,
        };
        self.done.commands.push(Command::StartTask(Box::new(request)));
        Ok(())
    }

    pub(super) fn heartbeat(&mut self, id: FrameId) {
        let now = self.now;
        if let Doing::Task { heartbeat_seconds: Some(seconds), heartbeat_by, .. } = &mut self.frame(id).doing {
            *heartbeat_by = Some(after(now, *seconds));
        }
    }
}

pub(super) fn within_limit(data: Value) -> Result<Value, Fault> {
    if !value::is_at_most_deep(&data, MAX_DEPTH) {
        return Err(Fault::runtime(format!("The data is nested more than {MAX_DEPTH} levels deep")));
    }
    if value::size(&data, MAX_DATA) > MAX_DATA {
        let cause = format!("The data has a size exceeding the maximum number of bytes service limit: more than {MAX_DATA}");
        return Err(Fault::new(fault::DATA_LIMIT_EXCEEDED, cause));
    }
    Ok(data)
}

pub(super) fn amount(amount: Option<&Amount>, field: &str, least: u64, scope: &Scope<'_>) -> Result<Option<u64>, Fault> {
    match amount {
        None => Ok(None),
        Some(Amount::Fixed(number)) => Ok(Some(*number)),
        Some(Amount::Path(path)) => {
            let found = find(path, field, scope)?;
            let number = found.as_u64().filter(|number| *number >= least && *number <= 99_999_999);
            let wrong = || Fault::runtime(format!("{field} '{path}' must lead to a whole number of at least {least}, not {found}"));
            number.map(Some).ok_or_else(wrong)
        }
    }
}

fn words(words: &Option<Words>, field: &str, scope: &Scope<'_>, chance: &mut dyn Chance) -> Result<String, Fault> {
    match words {
        None => Ok(String::new()),
        Some(Words::Fixed(text)) => Ok(text.clone()),
        Some(Words::Expression(expression)) => match expression.evaluate(field, fault::RUNTIME, scope, chance)? {
            Value::String(text) => Ok(text),
            other => Err(Fault::runtime(format!("{field} must lead to a text, not {}", value::kind(&other)))),
        },
    }
}

enum Until {
    Seconds(u64),
    Moment(Timestamp),
}

fn moment(wait: &Wait, scope: &Scope<'_>) -> Result<Until, Fault> {
    match wait {
        Wait::Seconds(seconds) => Ok(Until::Seconds(*seconds)),
        Wait::Timestamp(moment) => Ok(Until::Moment(*moment)),
        Wait::SecondsPath(path) => {
            let seconds = amount(Some(&Amount::Path(path.clone())), "SecondsPath", 0, scope)?;
            Ok(Until::Seconds(seconds.unwrap_or(0)))
        }
        Wait::TimestampPath(path) => {
            let found = find(path, "TimestampPath", scope)?;
            let moment = found.as_str().and_then(crate::definition::timestamp);
            moment.map(Until::Moment).ok_or_else(|| Fault::runtime(format!("TimestampPath '{path}' leads to no time: {found}")))
        }
    }
}
