//! Where a frame stands in the definition, and the context object `$$` it sees.

use serde_json::{Value, json};

use super::{Execution, Frame};
use crate::definition::{Kind, Machine, Selection};
use crate::path::{Found, Path};

/// The machine in which a frame's state lies: at the top, or inside the state of its parent.
pub(super) fn machine_of<'m>(top: &'m Machine, execution: &Execution, frame: &Frame) -> Option<&'m Machine> {
    let Some(parent) = frame.parent else { return Some(top) };
    let parent = execution.frames.get(&parent)?;
    match &machine_of(top, execution, parent)?.state(&parent.state)?.kind {
        Kind::Parallel { branches } => branches.get(usize::try_from(frame.index).ok()?),
        Kind::Map(map) => Some(&map.processor),
        _ => None,
    }
}

/// The item of the nearest Map state around a frame, with its number.
fn map_item(top: &Machine, execution: &Execution, frame: &Frame) -> Option<(u64, Value)> {
    let parent = execution.frames.get(&frame.parent?)?;
    let state = machine_of(top, execution, parent)?.state(&parent.state)?;
    let Kind::Map(map) = &state.kind else { return map_item(top, execution, parent) };
    let look = |path: &Path, data: &Value| {
        let context = path.context.then(|| of(top, execution, parent, None));
        path.find(context.as_ref().unwrap_or(data)).ok().map(Found::into_value)
    };
    let effective = match &state.input_path {
        Selection::Path(path) => look(path, &parent.input)?,
        Selection::Nothing => return None,
    };
    let items = look(&map.items_path, &effective)?;
    let item = items.get(usize::try_from(frame.index).ok()?)?;
    Some((frame.index, item.clone()))
}

pub(super) fn of(top: &Machine, execution: &Execution, frame: &Frame, token: Option<&str>) -> Value {
    let start = &execution.start;
    let mut context = json!({
        "Execution": {
            "Id": start.id,
            "Input": start.input,
            "Name": start.name,
            "RoleArn": start.role,
            "StartTime": shown(execution.started),
            "RedriveCount": execution.redrives,
        },
        "State": {"EnteredTime": shown(frame.entered), "Name": frame.state, "RetryCount": frame.retry_count},
        "StateMachine": {"Id": start.machine_id, "Name": start.machine_name},
    });
    if let Some(token) = token {
        context["Task"] = json!({"Token": token});
    }
    if let Some((index, value)) = map_item(top, execution, frame) {
        context["Map"] = json!({"Item": {"Index": index, "Value": value}});
    }
    context
}

/// Milliseconds, as AWS writes them.
pub(super) fn shown(moment: jiff::Timestamp) -> String {
    format!("{moment:.3}")
}
