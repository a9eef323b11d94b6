//! Events of an execution's history, with the names and details that Step Functions gives them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

#[cfg(test)]
use super::context;
use super::{Doing, FrameId, Run, Status};
use crate::definition::Kind;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEvent {
    pub timestamp: Timestamp,
    #[serde(rename = "type")]
    pub kind: String,
    pub id: u64,
    pub previous_event_id: u64,
    /// At most one member, such as `stateEnteredEventDetails`.
    #[serde(flatten)]
    pub details: Map<String, Value>,
}

impl HistoryEvent {
    /// The state that is entered or left, or the state of a Map's item.
    pub fn state(&self) -> Option<&str> {
        self.details.values().find_map(|details| details.get("name")?.as_str())
    }
}

/// JSON within JSON, as the events carry it.
fn text(value: &Value) -> Value {
    Value::String(value.to_string())
}

impl Run<'_> {
    /// Writes an event; returns its number.
    fn write(&mut self, kind: &str, previous: u64, details: Option<(&str, Value)>) -> u64 {
        self.execution.last_event += 1;
        let details = details.map(|(name, details)| (format!("{name}EventDetails"), details)).into_iter().collect();
        let event = HistoryEvent {
            timestamp: self.now,
            kind: kind.to_owned(),
            id: self.execution.last_event,
            previous_event_id: previous,
            details,
        };
        self.done.history.push(event);
        self.execution.last_event
    }

    /// An event of what happens at one frame.
    pub(super) fn frame_event(&mut self, id: FrameId, kind: &str, details: Option<(&str, Value)>) {
        let previous = self.execution.frames.get(&id).map_or(0, |frame| frame.last_event);
        let written = self.write(kind, previous, details);
        self.frame(id).last_event = written;
    }

    pub(super) fn execution_started(&mut self, input: &Value) {
        let details = json!({"input": text(input), "roleArn": self.execution.start.role});
        self.write("ExecutionStarted", 0, Some(("executionStarted", details)));
    }

    pub(super) fn execution_redriven(&mut self) {
        let previous = self.execution.last_event;
        let details = json!({"redriveCount": self.execution.redrives});
        let written = self.write("ExecutionRedriven", previous, Some(("executionRedriven", details)));
        for frame in self.execution.frames.values_mut() {
            if matches!(frame.doing, Doing::Failed(_) | Doing::Aborted) {
                frame.last_event = written;
            }
        }
    }

    pub(super) fn execution_ended(&mut self, status: &Status) {
        let previous = self.execution.last_event;
        let fault = |fault: &crate::Fault| json!({"error": fault.error, "cause": fault.cause});
        let (kind, name, details) = match status {
            Status::Running => return,
            Status::Succeeded { output } => ("ExecutionSucceeded", "executionSucceeded", json!({"output": text(output)})),
            Status::Failed(why) => ("ExecutionFailed", "executionFailed", fault(why)),
            Status::TimedOut(why) => ("ExecutionTimedOut", "executionTimedOut", fault(why)),
            Status::Aborted(why) => ("ExecutionAborted", "executionAborted", fault(why)),
        };
        self.write(kind, previous, Some((name, details)));
    }

    pub(super) fn state_entered(&mut self, id: FrameId, kind: &Kind) {
        let (name, input) = self.execution.frames.get(&id).map(|frame| (frame.state.clone(), text(&frame.input))).unwrap_or_default();
        self.frame_event(id, &format!("{}StateEntered", kind.name()), Some(("stateEntered", json!({"name": name, "input": input}))));
        let frame = self.frame(id);
        frame.entered_event = frame.last_event;
    }

    pub(super) fn state_exited(&mut self, id: FrameId, kind: &Kind, output: &Value) {
        let name = self.execution.frames.get(&id).map(|frame| frame.state.clone()).unwrap_or_default();
        let details = json!({"name": name, "output": text(output)});
        self.frame_event(id, &format!("{}StateExited", kind.name()), Some(("stateExited", details)));
    }

    /// `TaskScheduled` and its kin; `resourceType` and `resource` are added.
    pub(super) fn task_event<const N: usize>(&mut self, id: FrameId, kind: &str, details: [(&str, Value); N]) {
        let mut object = Map::new();
        if let Some(Kind::Task(task)) = self.state(id).map(|state| &state.kind) {
            object.insert("resourceType".into(), json!(task.resource.service));
            let suffix = if task.resource.waits_for_token { ".waitForTaskToken" } else { "" };
            object.insert("resource".into(), json!(format!("{}{suffix}", task.resource.action)));
        }
        object.extend(details.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.to_owned(), value)));
        let (first, rest) = kind.split_at(1);
        let name = format!("{}{rest}", first.to_ascii_lowercase());
        self.frame_event(id, kind, Some((&name, Value::Object(object))));
    }

    /// `MapIterationStarted` and its kin, told by the child. Branches of a Parallel have no such events.
    pub(super) fn iteration_event(&mut self, id: FrameId, what: &str) {
        let Some(frame) = self.execution.frames.get(&id) else { return };
        let (index, parent) = (frame.index, frame.parent);
        let Some(state) = parent.and_then(|parent| self.state(parent)) else { return };
        if matches!(state.kind, Kind::Map(_)) {
            let details = json!({"name": state.name, "index": index});
            self.frame_event(id, &format!("MapIteration{what}"), Some((&format!("mapIteration{what}"), details)));
        }
    }
}

/// Where an error happened, in the words of Step Functions.
pub(super) fn placed(cause: &str, state: &str, entered_event: u64) -> String {
    format!("An error occurred while executing the state '{state}' (entered at the event id #{entered_event}). {cause}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_moment_is_written_with_milliseconds() {
        assert_eq!(super::context::shown("2026-03-14T01:59:00Z".parse().unwrap()), "2026-03-14T01:59:00.000Z");
    }
}
