//! Parallel and Map: starting their children, gathering results, and what a child's failure means.

use serde_json::Value;
use serde_json::json;

use super::states::{amount, find, select, within_limit};
use super::{Doing, FrameId, Group, Run};
use crate::definition::{Kind, Machine, Map, Selection};
use crate::fault::{self, Fault};

/// "Inline mode … up to 40 concurrent iterations."
const MAX_CONCURRENCY: u64 = 40;

impl Run<'_> {
    pub(super) fn start_branches(&mut self, id: FrameId, branches: &[Machine], input: Value) -> Result<(), Fault> {
        self.frame_event(id, "ParallelStateStarted", None);
        let total = branches.len() as u64;
        let frame = self.frame(id);
        frame.doing = Doing::Children;
        frame.group = Some(Group { total, started: total, running: total, failed: 0, limit: total, tolerated: None });
        let event = frame.last_event;
        for (index, branch) in (0..).zip(branches) {
            self.add_frame(Some(id), index, &branch.start_at, input.clone(), event);
        }
        Ok(())
    }

    pub(super) fn start_map(&mut self, id: FrameId, map: &Map, input: &Value) -> Result<(), Fault> {
        let group = self.looking(id, input, None, |scope, _| {
            let items = find(&map.items_path, "ItemsPath", scope)?;
            let Some(items) = items.as_array() else {
                let cause = format!("Reference path '{}' of ItemsPath must lead to an array, not {items}", map.items_path);
                return Err(Fault::runtime(cause));
            };
            let total = items.len() as u64;
            let limit = amount(Some(&map.max_concurrency), "MaxConcurrencyPath", 0, scope)?.filter(|limit| *limit > 0);
            let count = amount(map.tolerated_count.as_ref(), "ToleratedFailureCountPath", 0, scope)?;
            let percentage = amount(map.tolerated_percentage.as_ref(), "ToleratedFailurePercentagePath", 0, scope)?;
            let share = percentage.map(|percentage| total.saturating_mul(percentage.min(100)) / 100);
            // On AWS a distributed Map tolerates nothing unless told to, and says so with an error of its own.
            let tolerated = [count, share].into_iter().flatten().min().or(map.processor.distributed.then_some(0));
            Ok(Group { total, started: 0, running: 0, failed: 0, limit: limit.unwrap_or(MAX_CONCURRENCY).min(MAX_CONCURRENCY), tolerated })
        })?;
        self.frame_event(id, "MapStateStarted", Some(("mapStateStarted", json!({"length": group.total}))));
        let frame = self.frame(id);
        frame.doing = Doing::Children;
        frame.group = Some(group);
        self.go_on(id)
    }

    /// Starts further items while there is room, or gathers the results when all have ended.
    fn go_on(&mut self, id: FrameId) -> Result<(), Fault> {
        let Some(state) = self.state(id) else { return Ok(()) };
        let Some(group) = self.frame(id).group.clone() else { return Ok(()) };
        if group.started == group.total && group.running == 0 {
            let results = self.results(id);
            self.completed(id, state, within_limit(results));
            return Ok(());
        }
        let Kind::Map(map) = &state.kind else { return Ok(()) };
        let room = group.limit.saturating_sub(group.running).min(group.total - group.started);
        if room == 0 {
            return Ok(());
        }
        let raw = self.frame(id).input.clone();
        let input = match &state.input_path {
            Selection::Path(path) if path.is_whole() => raw,
            selection => self.looking(id, &raw, None, |scope, _| select(selection, "InputPath", scope))?,
        };
        let items = self.looking(id, &input, None, |scope, _| find(&map.items_path, "ItemsPath", scope))?;
        let event = self.frame(id).last_event;
        for index in group.started..group.started + room {
            let item = usize::try_from(index).ok().and_then(|index| items.get(index)).cloned().unwrap_or(Value::Null);
            let child = self.add_frame(Some(id), index, &map.processor.start_at, item, event);
            if let Some(selector) = &map.item_selector {
                // With the child's own context, in which `$$.Map.Item` is this item.
                match self.looking(child, &input, None, |scope, chance| selector.evaluate(scope, chance)).and_then(within_limit) {
                    Ok(selected) => self.frame(child).input = selected,
                    Err(fault) => {
                        self.execution.frames.remove(&child);
                        self.done.removed.insert(child);
                        return Err(fault);
                    }
                }
            }
            self.iteration_event(child, "Started");
            if let Some(group) = &mut self.frame(id).group {
                group.started += 1;
                group.running += 1;
            }
        }
        Ok(())
    }

    fn results(&self, id: FrameId) -> Value {
        let children = self.execution.frames.range(id + 1..).map(|(_, frame)| frame).filter(|frame| frame.parent == Some(id));
        let mut results: Vec<(u64, &Value)> = children
            .filter_map(|frame| match &frame.doing {
                Doing::Done { output } => Some((frame.index, output)),
                // A failure that was tolerated has no result.
                _ => None,
            })
            .collect();
        results.sort_by_key(|(index, _)| *index);
        results.into_iter().map(|(_, output)| output.clone()).collect()
    }

    pub(super) fn child_ended(&mut self, parent: FrameId) {
        if let Some(group) = &mut self.frame(parent).group {
            group.running = group.running.saturating_sub(1);
        }
        self.try_to_go_on(parent);
    }

    fn try_to_go_on(&mut self, parent: FrameId) {
        if let Err(fault) = self.go_on(parent)
            && let Some(state) = self.state(parent)
        {
            self.stop_children(parent);
            self.failed(parent, state, fault, false);
        }
    }

    pub(super) fn child_failed(&mut self, parent: FrameId, fault: Fault) {
        let Some(state) = self.state(parent) else { return };
        let Some(group) = &mut self.frame(parent).group else { return };
        group.running = group.running.saturating_sub(1);
        group.failed += 1;
        let fault = match group.tolerated {
            Some(tolerated) if group.failed <= tolerated => return self.try_to_go_on(parent),
            Some(tolerated) => {
                let cause = format!("{} of {} items failed, more than the {tolerated} that are tolerated", group.failed, group.total);
                Fault::new(fault::EXCEED_TOLERATED, cause)
            }
            None => fault,
        };
        self.stop_children(parent);
        let of_branch = matches!(state.kind, Kind::Parallel { .. });
        self.failed(parent, state, fault, of_branch);
    }

    pub(super) fn stop_children(&mut self, parent: FrameId) {
        for below in self.descendants(parent) {
            let stopped = matches!(self.frame(below).doing, Doing::Ready | Doing::Task { .. } | Doing::Wait { .. } | Doing::Retry { .. });
            self.abort(below);
            let frame = self.frame(below);
            let was_running = stopped || frame.doing == Doing::Children;
            if was_running && frame.parent == Some(parent) {
                self.iteration_event(below, "Aborted");
            }
        }
    }

    /// After a redrive: children that had failed run again, and the counts are what they are now.
    pub(super) fn regroup(&mut self, id: FrameId) {
        let children = self.execution.frames.range(id + 1..).map(|(_, frame)| frame).filter(|frame| frame.parent == Some(id));
        let (mut all, mut done) = (0, 0);
        for frame in children {
            all += 1;
            done += u64::from(matches!(frame.doing, Doing::Done { .. }));
        }
        let frame = self.frame(id);
        frame.doing = Doing::Children;
        frame.retries.iter_mut().for_each(|used| *used = 0);
        if let Some(group) = &mut frame.group {
            (group.started, group.running, group.failed) = (all, all - done, 0);
        }
        // All done, and the state failed when it gathered them: it gathers once more.
        if all == done {
            self.try_to_go_on(id);
        }
    }
}
