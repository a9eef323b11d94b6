//! What a state asks of its task, and how the task answers: with an output and the changes that are committed with it,
//! or with an error that the definition knows by name.

use model::{ErrorClass, Nature, TransferId};
use serde_json::Value;
use store::{Mutation, OutboxKey, Wish};
use workflow::Fault;

use crate::error::{Error, Refusal, Result};

/// The payload of a state of `workflows/transfer.asl.json`.
#[derive(Debug, Clone)]
pub struct Step {
    /// The state's own name.
    pub name: String,
    pub transfer: TransferId,
    pub run: u32,
    /// `ff-<transfer>-<run>`.
    pub execution: String,
    /// Everything that the execution knows, for the steps of the tail.
    pub data: Value,
}

impl Step {
    pub fn read(payload: &Value) -> Result<Self> {
        let text = |field: &str| payload[field].as_str().map(str::to_owned);
        let wrong = |field: &str| Error::new(ErrorClass::Internal, format!("the payload of a step has no {field}"));
        let transfer = text("transfer_id").and_then(|id| id.parse().ok()).ok_or_else(|| wrong("transfer_id"))?;
        let run = payload["run"].as_u64().and_then(|run| u32::try_from(run).ok()).ok_or_else(|| wrong("run"))?;
        let name = text("step").ok_or_else(|| wrong("step"))?;
        let execution = text("execution").ok_or_else(|| wrong("execution"))?;
        Ok(Self { name, transfer, run, execution, data: payload["data"].clone() })
    }

    /// Names one effect of this step, the same each time the step runs.
    pub fn key(&self, purpose: &str) -> OutboxKey {
        OutboxKey { transfer: self.transfer.clone(), run: self.run, step: self.name.clone(), purpose: purpose.to_owned() }
    }
}

/// What a step leaves behind. The effects happen with the transition to the next state or not at all.
#[derive(Debug, Default)]
pub struct Done {
    pub output: Value,
    pub effects: Vec<Mutation>,
}

impl Done {
    pub fn with(output: Value) -> Self {
        Self { output, effects: Vec::new() }
    }
}

/// Why a step ended otherwise.
#[derive(Debug)]
pub enum Stopped {
    Failed(Error),
    /// Somebody asked for it; the tail runs and the transfer ends so.
    Asked(Wish),
    /// Kept, and waits for a person.
    Held(Error),
    /// Tried as often as it makes sense: another try of this step cannot help, whatever the class.
    GaveUp(Error),
    /// The ten seconds were over before the next state began.
    SessionExpired(Error),
    /// This process ends; the step is done by the next one, and nothing is recorded.
    Interrupted,
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<store::Error> for Stopped {
    fn from(error: store::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl Stopped {
    /// As the definition knows it; `None` where nothing shall be recorded. A class that helps itself is `Transient`,
    /// and its own name leads the cause.
    pub fn fault(&self) -> Option<Fault> {
        let named = |error: &Error| format!("{}: {}", error.class, error.message);
        Some(match self {
            Self::Failed(error) if error.class == ErrorClass::Cancelled => Fault::new("Cancelled", error.message.clone()),
            Self::Failed(error) if error.class.nature() == Nature::Transient => Fault::new("Transient", named(error)),
            // This is written when the records can be written again, and the step is what waits until then.
            Self::Failed(error) if error.refusal == Some(Refusal::NotNow) => Fault::new("Transient", named(error)),
            Self::Failed(error) | Self::GaveUp(error) => Fault::new(error.class.name(), error.message.clone()),
            Self::Asked(Wish::Cancel) => Fault::new("Cancelled", "cancelled: somebody asked for it"),
            Self::Asked(Wish::Pause) => Fault::new("Paused", "cancelled: paused until somebody resumes it"),
            Self::Asked(_) => Fault::new("Held", "policy_denied: held until somebody resumes it"),
            Self::Held(error) => Fault::new("Held", named(error)),
            Self::SessionExpired(error) => Fault::new("SessionExpired", named(error)),
            Self::Interrupted => return None,
        })
    }
}

/// Class and words of an error as an execution carries it.
pub fn class_of(error: &str, cause: &str) -> (ErrorClass, String) {
    if let Ok(class) = error.parse() {
        return (class, cause.to_owned());
    }
    if let Some((word, rest)) = cause.split_once(": ")
        && let Ok(class) = word.parse()
    {
        return (class, rest.to_owned());
    }
    let class = match error {
        "Cancelled" | "Paused" => ErrorClass::Cancelled,
        "SessionExpired" => ErrorClass::SessionExpired,
        "States.Timeout" | "States.HeartbeatTimeout" => ErrorClass::NetworkStalled,
        _ => ErrorClass::Internal,
    };
    (class, if cause.is_empty() { error.to_owned() } else { format!("{error}: {cause}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_comes_back_from_an_execution_with_its_class() {
        for class in ErrorClass::ALL.iter().copied().filter(|class| *class != ErrorClass::Cancelled) {
            let fault = Stopped::from(Error::new(class, "why: so")).fault().unwrap();
            assert_eq!(class_of(&fault.error, &fault.cause), (class, "why: so".to_owned()));
            assert_eq!(fault.error == "Transient", class.is_retryable());
        }
    }
}
