//! What an executor keeps of an execution and takes up again: its head, its frames one by one, the tasks it waits for,
//! and what becomes of times when the clock is set or the process was away.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Doing, Execution, Frame, FrameId, Run, Start, Status, TaskRequest, after, context};
use crate::Machine;
use crate::definition::Kind;

/// An execution without what it was started with and without its frames: what changes with every step, in one row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    pub started: Timestamp,
    pub deadline: Option<Timestamp>,
    pub status: Status,
    pub redrives: u32,
    pub next_frame: FrameId,
    pub next_task: u64,
    pub last_event: u64,
}

impl Execution {
    pub fn head(&self) -> Head {
        Head {
            started: self.started,
            deadline: self.deadline,
            status: self.status.clone(),
            redrives: self.redrives,
            next_frame: self.next_frame,
            next_task: self.next_task,
            last_event: self.last_event,
        }
    }

    /// The execution whose head, start and frames were stored.
    pub fn from_parts(start: Start, head: Head, frames: impl IntoIterator<Item = Frame>) -> Self {
        Self {
            start,
            started: head.started,
            deadline: head.deadline,
            status: head.status,
            redrives: head.redrives,
            frames: frames.into_iter().map(|frame| (frame.id, frame)).collect(),
            next_frame: head.next_frame,
            next_task: head.next_task,
            last_event: head.last_event,
        }
    }

    /// The tasks that the execution waits for, and whether each was handed over already.
    pub fn open_tasks(&self, machine: &Machine) -> Vec<(TaskRequest, bool)> {
        let open = self.frames.values().filter_map(|frame| {
            let Doing::Task { token, deadline, heartbeat_seconds, submitted, parameters, .. } = &frame.doing else { return None };
            let state = context::machine_of(machine, self, frame)?.state(&frame.state)?;
            let Kind::Task(task) = &state.kind else { return None };
            let request = TaskRequest {
                frame: frame.id,
                state: frame.state.clone(),
                token: token.clone(),
                resource: task.resource.clone(),
                parameters: parameters.clone(),
                attempt: frame.retry_count,
                deadline: *deadline,
                heartbeat_seconds: *heartbeat_seconds,
            };
            Some((request, *submitted))
        });
        open.collect()
    }

    /// Nobody was there to run the tasks until now: their time begins anew. That of the whole execution does not.
    pub fn tasks_begin_anew(&mut self, now: Timestamp) {
        for frame in self.frames.values_mut() {
            if let Doing::Task { timeout_seconds, deadline, heartbeat_seconds, heartbeat_by, .. } = &mut frame.doing {
                *deadline = timeout_seconds.map(|seconds| after(now, seconds));
                *heartbeat_by = heartbeat_seconds.map(|seconds| after(now, seconds));
            }
        }
    }

    /// Takes over the times of tasks that are the same in another state of this execution, and perhaps not stored.
    pub fn keep_task_times(&mut self, of: &Self) {
        for (id, frame) in &mut self.frames {
            let Some(Doing::Task { token: known, deadline: until, heartbeat_by: beat, .. }) = of.frames.get(id).map(|frame| &frame.doing)
            else {
                continue;
            };
            if let Doing::Task { token, deadline, heartbeat_by, .. } = &mut frame.doing
                && token == known
            {
                (*deadline, *heartbeat_by) = (*until, *beat);
            }
        }
    }
}

impl Run<'_> {
    pub(super) fn task_submitted(&mut self, id: FrameId, output: &Value) {
        let Doing::Task { submitted, .. } = &mut self.frame(id).doing else { return };
        // Handed over again after a restart: the history has it already.
        if !std::mem::replace(submitted, true) {
            self.task_event(id, "TaskSubmitted", [("output", Value::String(output.to_string()))]);
        }
    }

    pub(super) fn clock_moved(&mut self, by: SignedDuration) {
        let moved = |at: &mut Timestamp| *at = at.checked_add(by).unwrap_or(if by.is_negative() { Timestamp::MIN } else { Timestamp::MAX });
        if let Some(deadline) = &mut self.execution.deadline {
            moved(deadline);
        }
        let all: Vec<FrameId> = self.execution.frames.keys().copied().collect();
        for id in all {
            let counted = match self.execution.frames.get(&id).map(|frame| &frame.doing) {
                Some(Doing::Task { deadline, heartbeat_by, .. }) => deadline.is_some() || heartbeat_by.is_some(),
                Some(Doing::Wait { named, .. }) => !named,
                Some(Doing::Retry { .. }) => true,
                _ => false,
            };
            if !counted {
                continue;
            }
            match &mut self.frame(id).doing {
                Doing::Task { deadline, heartbeat_by, .. } => [deadline, heartbeat_by].into_iter().flatten().for_each(moved),
                Doing::Wait { until: at, .. } | Doing::Retry { at } => moved(at),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Event, Seeded, step};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_clock_that_is_set_moves_what_was_counted_and_leaves_what_was_named() {
        let definition = json!({"StartAt": "Both", "TimeoutSeconds": 600, "States": {"Both": {"Type": "Parallel", "End": true, "Branches": [
            {"StartAt": "Counted", "States": {"Counted": {"Type": "Wait", "Seconds": 10, "End": true}}},
            {"StartAt": "Named", "States": {"Named": {"Type": "Wait", "Timestamp": "2026-01-01T00:00:20Z", "End": true}}}]}}});
        let machine = Machine::parse(&definition.to_string()).unwrap();
        let (now, mut chance) = (at("2026-01-01T00:00:00Z"), Seeded::new(1));
        let (mut execution, _) = Execution::start(&machine, Start::default(), now, &mut chance).unwrap();
        let by = SignedDuration::from_hours(1);
        let moved = step(&machine, &mut execution, Event::ClockMoved { by }, at("2026-01-01T01:00:00Z"), &mut chance).unwrap();
        assert!(moved.history.is_empty() && moved.touched.len() == 1, "{moved:?}");
        let mut wakes: Vec<Timestamp> = execution.frames.values().filter_map(Frame::wakes).collect();
        wakes.sort();
        assert_eq!(wakes, [at("2026-01-01T00:00:20Z"), at("2026-01-01T01:00:10Z")]);
        assert_eq!(execution.deadline, Some(at("2026-01-01T01:10:00Z")));
        assert_eq!(Execution::from_parts(execution.start.clone(), execution.head(), execution.frames.clone().into_values()), execution);
    }
}
