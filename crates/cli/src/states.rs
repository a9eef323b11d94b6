//! `workflow show`: what the workflow of a transfer has done, its states gathered under the eleven duties.

use api::transfers::{Execution, HistoryEvent};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::args::ShowArgs;
use crate::environment::Environment;
use crate::exit;
use crate::output::Screen;
use crate::service::client;
use crate::trouble::Trouble;

/// The duties of `workflows/transfer.asl.json`, each with the states that help it.
const DUTIES: &[(&str, &[&str])] = &[
    ("ValidateInput", &[]),
    ("AuthenticateSSO", &["SessionAgain", "GiveUpOnSession"]),
    ("DownloadFromS3", &[]),
    ("CheckFileSize", &[]),
    ("TransferToFTP", &["OpenTransfer", "WhoSends", "SendSlice", "MoreToSend", "SendByWorker", "FinishTransfer"]),
    (
        "ChunkedTransfer",
        &["OpenChunks", "WhoSendsChunks", "SendChunks", "SendChunk", "MoreChunks", "LaneDone", "SendChunksByWorker", "FinishChunks"],
    ),
    ("HandleError", &[]),
    ("UpdateServiceNow", &[]),
    ("NotifyUser", &[]),
    ("CleanupAndLogout", &[]),
    ("TransferComplete", &["HowItEnded", "TransferFailed"]),
];

/// One duty as an execution has gone through it.
#[derive(Debug, Clone, PartialEq)]
struct Course {
    duty: String,
    entered_at: Timestamp,
    left_at: Option<Timestamp>,
    /// Its own state was entered too, not only a helper.
    itself: bool,
    /// How often each helper was entered, in the order of their first time.
    helpers: Vec<(String, u64)>,
    failures: u64,
    /// The last failure's name and cause.
    error: Option<String>,
}

impl Course {
    fn begun(duty: &str, entered_at: Timestamp) -> Self {
        let (itself, failures) = (false, 0);
        Self { duty: duty.to_owned(), entered_at, left_at: None, itself, helpers: Vec::new(), failures, error: None }
    }

    fn enter(&mut self, state: &str) {
        if state == self.duty {
            self.itself = true;
        } else if let Some((_, times)) = self.helpers.iter_mut().find(|(name, _)| name == state) {
            *times += 1;
        } else {
            self.helpers.push((state.to_owned(), 1));
        }
    }
}

pub async fn show(args: &ShowArgs, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    let mut history = client(&args.service, environment).history(&args.id.transfer).await?;
    if history.executions.is_empty() {
        screen.note("its workflow has not begun; `fileferry transfer show` says what it waits for");
    } else if let Some(name) = &args.id.execution {
        history.executions.retain(|execution| execution.name == *name);
        if history.executions.is_empty() {
            let all = format!("`fileferry workflow show {}` shows all of its runs", args.id.transfer);
            return Err(Trouble::usage(format!("there is no execution {name}"), all));
        }
    }
    for execution in &history.executions {
        tell(execution, screen);
        for course in courses(&execution.events) {
            tell_course(&execution.name, &course, screen);
        }
        if args.events {
            execution.events.iter().for_each(|event| tell_event(&execution.name, event, screen));
        }
        if execution.more {
            screen.note("there are more events than are shown here");
        }
    }
    Ok(exit::DONE)
}

fn tell(execution: &Execution, screen: &Screen) {
    let Execution { name, status, started_at, finished_at, events, more } = execution;
    let ended = finished_at.map_or(String::new(), |at| format!("  {:.3} s", at.duration_since(*started_at).as_secs_f64()));
    screen.say(&format!("{name}  {status}  {started_at:.0}{ended}"));
    screen.object(&json!({
        "v": 1, "type": "execution", "name": name, "status": status, "started_at": started_at, "finished_at": finished_at,
        "events": events.len(), "more": more,
    }));
}

fn tell_course(execution: &str, course: &Course, screen: &Screen) {
    let took = course.left_at.map_or("…".to_owned(), |at| format!("{:.3} s", at.duration_since(course.entered_at).as_secs_f64()));
    let counted: Vec<String> = course.helpers.iter().map(|(name, times)| format!("{name} x{times}")).collect();
    let failed = course.error.as_ref().map_or(String::new(), |error| format!("  failed x{}: {error}", course.failures));
    screen.say(&format!("  {:<18} {:.3}  {took:>10}  {}{failed}", course.duty, course.entered_at, counted.join(", ")));
    let helpers: serde_json::Map<String, Value> = course.helpers.iter().map(|(name, times)| (name.clone(), json!(times))).collect();
    screen.object(&json!({
        "v": 1, "type": "duty", "execution": execution, "duty": course.duty, "entered_at": course.entered_at, "left_at": course.left_at,
        "helpers": helpers, "failures": course.failures, "error": course.error,
    }));
}

fn tell_event(execution: &str, event: &HistoryEvent, screen: &Screen) {
    screen.say(&format!("  {:>6}  {:.3}  {:<28} {}", event.id, event.timestamp, event.kind, event.state.as_deref().unwrap_or_default()));
    screen.object(&json!({"v": 1, "type": "history", "execution": execution, "event": event}));
}

/// The duty that a state belongs to; a state of another definition is its own.
fn duty_of(state: &str) -> &str {
    DUTIES.iter().find(|(duty, helpers)| *duty == state || helpers.contains(&state)).map_or(state, |(duty, _)| duty)
}

fn courses(events: &[HistoryEvent]) -> Vec<Course> {
    let mut courses: Vec<Course> = Vec::new();
    for event in events {
        let state = event.state.as_deref();
        match state.map(duty_of) {
            Some(duty) if event.kind.ends_with("StateEntered") => {
                // Going through a duty again, as after an expired session, is another course of it.
                let goes_on = courses.last().is_some_and(|last| last.duty == duty && !(last.itself && state == Some(duty)));
                if !goes_on {
                    courses.push(Course::begun(duty, event.timestamp));
                }
                if let (Some(course), Some(state)) = (courses.last_mut(), state) {
                    course.enter(state);
                }
            }
            Some(duty) if event.kind.ends_with("StateExited") => {
                if let Some(course) = courses.iter_mut().rev().find(|course| course.duty == duty) {
                    course.left_at = Some(event.timestamp);
                }
            }
            _ if is_failure(&event.kind) => {
                if let Some(course) = courses.last_mut() {
                    course.failures += 1;
                    course.error = error_of(&event.details).or(course.error.take());
                }
            }
            _ => {}
        }
    }
    courses
}

fn is_failure(kind: &str) -> bool {
    (kind.ends_with("Failed") || kind.ends_with("TimedOut") || kind.ends_with("Aborted")) && !kind.starts_with("Execution")
}

/// `error: cause`, wherever in the details they stand.
fn error_of(details: &Value) -> Option<String> {
    let here = |value: &Value| {
        let error = value.get("error")?.as_str()?;
        let cause = value.get("cause").and_then(Value::as_str).unwrap_or_default();
        Some(if cause.is_empty() { error.to_owned() } else { format!("{error}: {cause}") })
    };
    here(details).or_else(|| details.as_object()?.values().find_map(here))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: u64, kind: &str, state: Option<&str>, details: Value) -> HistoryEvent {
        let timestamp = Timestamp::from_second(id as i64).unwrap();
        HistoryEvent { id, timestamp, kind: kind.into(), state: state.map(str::to_owned), details }
    }

    #[test]
    fn every_state_of_the_transfer_belongs_to_one_of_eleven_duties() {
        let definition: Value = serde_json::from_str(include_str!("../../../workflows/transfer.asl.json")).unwrap();
        let mut found = Vec::new();
        let mut machines = vec![&definition];
        while let Some(machine) = machines.pop() {
            for (name, state) in machine["States"].as_object().unwrap() {
                found.push(name.as_str());
                machines.extend(state["Branches"].as_array().into_iter().flatten());
                machines.extend(state.get("ItemProcessor"));
            }
        }
        let mut known: Vec<&str> =
            DUTIES.iter().flat_map(|(duty, helpers)| std::iter::once(*duty).chain(helpers.iter().copied())).collect();
        found.sort_unstable();
        known.sort_unstable();
        assert_eq!(found, known);
        assert_eq!(DUTIES.len(), 11);
        let top = definition["States"].as_object().unwrap();
        assert!(DUTIES.iter().all(|(duty, _)| top.contains_key(*duty)), "every duty is a state of the machine itself");
    }

    #[test]
    fn helpers_are_counted_under_their_duty_and_failures_keep_their_cause() {
        let events = [
            event(1, "ExecutionStarted", None, json!({})),
            event(2, "TaskStateEntered", Some("ValidateInput"), json!({})),
            event(3, "LambdaFunctionFailed", None, json!({"error": "Transient", "cause": "the line broke"})),
            event(4, "TaskStateExited", Some("ValidateInput"), json!({})),
            event(5, "ParallelStateEntered", Some("TransferToFTP"), json!({})),
            event(6, "TaskStateEntered", Some("SendSlice"), json!({})),
            event(7, "TaskStateExited", Some("SendSlice"), json!({})),
            event(8, "TaskStateEntered", Some("SendSlice"), json!({})),
            event(9, "ParallelStateExited", Some("TransferToFTP"), json!({})),
            event(10, "ChoiceStateEntered", Some("HowItEnded"), json!({})),
            event(11, "ChoiceStateExited", Some("HowItEnded"), json!({})),
            event(12, "SucceedStateEntered", Some("TransferComplete"), json!({})),
        ];
        let courses = courses(&events);
        assert_eq!(
            courses.iter().map(|course| course.duty.as_str()).collect::<Vec<_>>(),
            ["ValidateInput", "TransferToFTP", "TransferComplete"]
        );
        assert_eq!((courses[0].failures, courses[0].error.as_deref()), (1, Some("Transient: the line broke")));
        assert_eq!(courses[1].helpers, [("SendSlice".to_owned(), 2)]);
        assert_eq!(courses[1].left_at, Some(Timestamp::from_second(9).unwrap()));
    }
}
