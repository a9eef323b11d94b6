//! What can go wrong inside an execution: an error name, as Amazon States Language has it, and a cause for people.

use serde::{Deserialize, Serialize};

pub const ALL: &str = "States.ALL";
pub const BRANCH_FAILED: &str = "States.BranchFailed";
pub const DATA_LIMIT_EXCEEDED: &str = "States.DataLimitExceeded";
pub const EXCEED_TOLERATED: &str = "States.ExceedToleratedFailureThreshold";
pub const HEARTBEAT_TIMEOUT: &str = "States.HeartbeatTimeout";
pub const INTRINSIC_FAILURE: &str = "States.IntrinsicFailure";
pub const NO_CHOICE_MATCHED: &str = "States.NoChoiceMatched";
pub const PARAMETER_PATH_FAILURE: &str = "States.ParameterPathFailure";
pub const PERMISSIONS: &str = "States.Permissions";
pub const RESULT_PATH_MATCH_FAILURE: &str = "States.ResultPathMatchFailure";
pub const RUNTIME: &str = "States.Runtime";
pub const TASK_FAILED: &str = "States.TaskFailed";
pub const TIMEOUT: &str = "States.Timeout";

/// Every name that the language reserves; others that begin with `States.` are refused by lint.
pub const RESERVED: &[&str] = &[
    ALL,
    BRANCH_FAILED,
    DATA_LIMIT_EXCEEDED,
    EXCEED_TOLERATED,
    HEARTBEAT_TIMEOUT,
    INTRINSIC_FAILURE,
    "States.ItemReaderFailed",
    NO_CHOICE_MATCHED,
    PARAMETER_PATH_FAILURE,
    PERMISSIONS,
    "States.QueryEvaluationError",
    RESULT_PATH_MATCH_FAILURE,
    "States.ResultWriterFailed",
    RUNTIME,
    TASK_FAILED,
    TIMEOUT,
];

/// The end of a state, a branch or an execution that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{error}: {cause}")]
pub struct Fault {
    pub error: String,
    pub cause: String,
}

impl Fault {
    pub fn new(error: impl Into<String>, cause: impl Into<String>) -> Self {
        Self { error: error.into(), cause: cause.into() }
    }

    pub fn runtime(cause: impl Into<String>) -> Self {
        Self::new(RUNTIME, cause)
    }

    pub fn intrinsic(cause: impl Into<String>) -> Self {
        Self::new(INTRINSIC_FAILURE, cause)
    }

    /// Whether a retrier or catcher that lists `name` takes this fault. `of_branch`: it comes from a child of a Parallel state.
    pub(crate) fn is_matched_by(&self, name: &str, of_branch: bool) -> bool {
        match name {
            // Never taken by a wildcard; a fault of the definition itself is not taken at all.
            _ if self.error == RUNTIME => false,
            _ if name == self.error => true,
            ALL => self.error != DATA_LIMIT_EXCEEDED,
            TASK_FAILED => ![TIMEOUT, DATA_LIMIT_EXCEEDED].contains(&self.error.as_str()),
            // The specification counts a missing heartbeat among the timeouts.
            TIMEOUT => self.error == HEARTBEAT_TIMEOUT,
            BRANCH_FAILED => of_branch,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_take_what_the_language_lets_them_take() {
        let taken = |error: &str, name: &str| Fault::new(error, "").is_matched_by(name, false);
        assert!(taken("Mine", "Mine") && taken("Mine", ALL) && taken("Mine", TASK_FAILED) && !taken("Mine", "Other"));
        assert!(taken(TIMEOUT, ALL) && !taken(TIMEOUT, TASK_FAILED));
        assert!(taken(HEARTBEAT_TIMEOUT, TIMEOUT) && taken(HEARTBEAT_TIMEOUT, TASK_FAILED));
        assert!(!taken(RUNTIME, ALL) && !taken(RUNTIME, RUNTIME));
        assert!(!taken(DATA_LIMIT_EXCEEDED, ALL) && taken(DATA_LIMIT_EXCEEDED, DATA_LIMIT_EXCEEDED));
        assert!(!taken("Mine", BRANCH_FAILED) && Fault::new("Mine", "").is_matched_by(BRANCH_FAILED, true));
    }
}
