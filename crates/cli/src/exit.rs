//! Exit codes, chosen in this one place. The table is in `docs/reference.md`; a test compares the two.

use app::event::Summary;
use model::{ErrorClass, FileState, TransferState};

pub const DONE: u8 = 0;
pub const USAGE: u8 = 1;
pub const SOME_FAILED: u8 = 6;
/// A workflow that was tried out ended, and not well.
pub const DID_NOT_SUCCEED: u8 = 7;

/// Code and meaning, in the order of the reference.
#[cfg(test)]
pub const TABLE: &[(u8, &str)] = &[
    (0, "done and verified as asked"),
    (1, "usage"),
    (2, "other"),
    (3, "directory missing"),
    (4, "source missing"),
    (5, "transient"),
    (6, "some files failed"),
    (7, "permanent"),
    (20, "session or ticket"),
    (21, "window closed"),
    (22, "content mismatch"),
    (23, "host key or TLS trust"),
    (24, "authentication"),
    (25, "source changed"),
    (26, "no space"),
    (27, "destination exists"),
    (28, "name refused"),
    (130, "interrupted"),
];

/// How a transfer ended. A transfer of exactly one file ends with that file's class; any other mixture is 6.
pub fn of_summary(summary: &Summary) -> u8 {
    // What ended the whole run, and an empty listing that was to be an error, are the engine's to judge.
    if summary.exit_code != DONE && (summary.error.is_some() || summary.files == 0) {
        return summary.exit_code;
    }
    let unwell = summary.failed + summary.held + summary.publish_pending + summary.companions_failed;
    if unwell > 0 {
        let mut classes = summary.errors.keys().filter_map(|name| name.parse::<ErrorClass>().ok());
        return match (summary.files, classes.next(), classes.next()) {
            // The verified file is kept only while a rename can still help.
            (1, Some(ErrorClass::DestPublishFailed), None) if summary.publish_pending == 0 => ErrorClass::DestDenied.exit_code(),
            (1, Some(class), None) => class.exit_code(),
            _ => SOME_FAILED,
        };
    }
    match summary.state {
        // Pending: a dry run, which had nothing to do but look.
        TransferState::Completed | TransferState::Pending => DONE,
        _ if summary.not_finished > 0 => ErrorClass::Cancelled.exit_code(),
        TransferState::Paused | TransferState::Cancelled => ErrorClass::Cancelled.exit_code(),
        TransferState::CompletedWithErrors => SOME_FAILED,
        // Says nothing about its files: what the engine decided stands.
        _ => {
            if summary.exit_code == 0 {
                ErrorClass::Internal.exit_code()
            } else {
                summary.exit_code
            }
        }
    }
}

/// Several transfers in one command: one code where they agree, otherwise 6; an interruption wins.
pub fn of_all(codes: impl IntoIterator<Item = u8>) -> u8 {
    let mut result = DONE;
    for code in codes {
        result = match (result, code) {
            (_, 130) | (130, _) => 130,
            (DONE, code) | (code, DONE) => code,
            (a, b) if a == b => a,
            _ => SOME_FAILED,
        };
    }
    result
}

/// Whether a file in this state makes a batch end as `some files failed`.
pub fn is_unwell(state: FileState) -> bool {
    matches!(state, FileState::Failed | FileState::Held | FileState::PublishPending)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn summary(files: u64, failed: &[(&str, u64)]) -> Summary {
        let failed_files: u64 = failed.iter().map(|(_, n)| n).sum();
        Summary {
            v: 1,
            kind: "summary",
            transfer_id: None,
            state: if failed_files == 0 { TransferState::Completed } else { TransferState::CompletedWithErrors },
            files,
            delivered: files - failed_files,
            unchanged: 0,
            skipped: 0,
            collected: 0,
            superseded: 0,
            publish_pending: 0,
            held: 0,
            failed: failed_files,
            not_finished: 0,
            bytes: 0,
            bytes_sent: 0,
            bytes_resumed: 0,
            seconds: 0.0,
            companions: 0,
            companions_failed: 0,
            removed: 0,
            source_kept: 0,
            errors: failed.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect(),
            error: None,
            exit_code: 0,
        }
    }

    // SEMANTICS S31: "Exit code 0 means that every file is `delivered`, `unchanged`, `skipped`, `collected` or `superseded`; a
    // copy of one file that failed ends with the code of its class, several files of which some failed with 6."
    #[test]
    fn one_file_ends_with_its_class_and_a_mixture_with_6() {
        assert_eq!(of_summary(&summary(3, &[])), 0);
        assert_eq!(of_summary(&summary(0, &[])), 0);
        for class in ErrorClass::ALL.iter().filter(|c| **c != ErrorClass::DestPublishFailed) {
            assert_eq!(of_summary(&summary(1, &[(class.name(), 1)])), class.exit_code(), "{class}");
        }
        assert_eq!(of_summary(&summary(2, &[("dest_exists", 2)])), 6);
        assert_eq!(of_summary(&summary(2, &[("dest_exists", 1), ("source_changed", 1)])), 6);
    }

    #[test]
    fn a_refused_rename_is_transient_only_while_the_file_is_kept() {
        let mut kept = summary(1, &[("dest_publish_failed", 1)]);
        assert_eq!(of_summary(&kept), 7);
        (kept.failed, kept.publish_pending) = (0, 1);
        assert_eq!(of_summary(&kept), 5);
    }

    #[test]
    fn an_interrupted_transfer_ends_with_130() {
        let mut stopped = summary(5, &[]);
        (stopped.state, stopped.not_finished) = (TransferState::Paused, 2);
        assert_eq!(of_summary(&stopped), 130);
        assert_eq!(of_all([0, 6, 130]), 130);
        assert_eq!((of_all([]), of_all([0, 5]), of_all([5, 5]), of_all([5, 7])), (0, 5, 5, 6));
    }

    #[test]
    fn the_reference_states_every_code_and_the_class_that_leads_to_it() {
        let reference = include_str!("../../../docs/reference.md");
        for (code, meaning) in TABLE {
            assert!(reference.contains(&format!("| {code} | {meaning} |")), "exit code {code} {meaning} is not in docs/reference.md");
        }
        for class in ErrorClass::ALL {
            assert!(TABLE.iter().any(|(code, _)| *code == class.exit_code()), "{class}");
            assert!(reference.contains(&format!("| `{class}` | {} |", class.exit_code())), "{class} is not in docs/reference.md");
        }
    }
}
