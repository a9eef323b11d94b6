//! What people and programs read while a copy runs.

use super::*;
use crate::output::captured::screen;
use model::{ErrorClass, FileNumber, FileState, TransferState};

fn id() -> TransferId {
    TransferId::from_random([5; 10])
}

fn report(status: FileState, path: &str, error: Option<ErrorReport>) -> FileReport {
    let verification = (status == FileState::Delivered).then(|| "read-back".to_owned());
    FileReport {
        v: 1,
        kind: "file",
        transfer_id: id(),
        file: FileNumber(0),
        status,
        key: "k".into(),
        path: path.into(),
        size: 3 << 20,
        error,
        kept: None,
        verification,
        seconds: 1.0,
    }
}

fn summary(files: u64, failed: u64) -> Summary {
    Summary {
        v: 1,
        kind: "summary",
        transfer_id: Some(id()),
        state: if failed == 0 { TransferState::Completed } else { TransferState::CompletedWithErrors },
        files,
        delivered: files - failed,
        unchanged: 0,
        skipped: 0,
        collected: 0,
        superseded: 0,
        publish_pending: 0,
        held: 0,
        failed,
        not_finished: 0,
        bytes: 6 << 20,
        bytes_sent: 6 << 20,
        bytes_resumed: 0,
        seconds: 2.0,
        companions: 0,
        companions_failed: 0,
        removed: 0,
        source_kept: 0,
        errors: if failed == 0 { BTreeMap::new() } else { [("dest_exists".to_owned(), failed)].into() },
        error: None,
        exit_code: 0,
    }
}

fn events() -> Vec<Event> {
    let error = ErrorReport::new(ErrorClass::DestExists, "could not publish /in/\nb\x1b[0m");
    vec![
        Event::Note("the server\ngrants one login".into()),
        Event::Progress { transfer_id: id(), snapshot: transfer::meter::Meter::default().snapshot() },
        Event::Receipt { line: "{\"v\":1,\"type\":\"file\",\"signature\":{}}".into(), report: report(FileState::Delivered, "/in/a", None) },
        Event::File(report(FileState::Failed, "/in/\nb", Some(error))),
    ]
}

#[test]
fn json_puts_objects_on_stdout_and_all_else_on_stderr() {
    let (screen, out, err) = screen(true, false);
    let mut reporter = Reporter::new(screen, false, false, None);
    events().into_iter().for_each(|event| reporter.event(event));
    reporter.summary(summary(2, 1));
    assert_eq!(reporter.finish(), 6);
    let objects: Vec<serde_json::Value> = out.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<&str> = objects.iter().map(|o| o["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["progress", "file", "file", "summary"], "the summary is printed once and last");
    assert!(objects.iter().all(|o| o["v"] == 1));
    assert_eq!(objects[3]["exit_code"], 6);
    assert!(out.text().contains("{\"v\":1,\"type\":\"file\",\"signature\":{}}\n"), "a receipt is printed as it was signed");
    assert!(err.text().contains("error: ") && err.text().contains("whose move: yours") && err.text().contains("next: "));
}

#[test]
fn a_person_gets_a_line_per_file_and_a_summary() {
    let (screen, out, err) = screen(false, false);
    let mut reporter = Reporter::new(screen, false, false, None);
    events().into_iter().for_each(|event| reporter.event(event));
    reporter.summary(summary(2, 1));
    reporter.finish();
    let lines: Vec<String> = out.text().lines().map(str::to_owned).collect();
    assert_eq!(lines[0], "delivered           3.0 MiB  /in/a  read-back");
    assert!(lines[1].starts_with("failed              3.0 MiB  /in/\\u{a}b  dest_exists: "), "{}", lines[1]);
    assert_eq!(
        lines[2],
        "completed_with_errors: 2 files (1 delivered, 1 failed); 6.0 MiB, 6.0 MiB sent in 2.0 s (3.0 MiB/s); proof: read-back 1"
    );
    assert_eq!(lines.len(), 3);
    assert!(!err.text().contains('\x1b'));
}

#[test]
fn an_empty_selection_is_a_warning() {
    let (screen, _, err) = screen(false, false);
    let mut reporter = Reporter::new(screen, false, false, None);
    reporter.event(Event::Plan(PlanReport {
        v: 1,
        kind: "plan",
        transfer_id: id(),
        run: 1,
        resumed: false,
        source: "s3://b/p/".into(),
        destination: "sftp://h/in/".into(),
        files: 0,
        bytes: 0,
        excluded: 4,
        folder_markers: vec!["p/x/".into()],
        files_direct: 0,
        files_chunked: 0,
        files_parallel: 0,
        verify: "auto".into(),
        proof_bytes: 0,
        if_exists: "fail".into(),
        publish: "rename".into(),
        companions: 0,
        order: None,
        after: "keep".into(),
        dry_run: false,
        listing: vec![],
        more: 0,
        known: None,
    }));
    reporter.summary(summary(0, 0));
    assert_eq!(reporter.finish(), 0);
    assert!(err.text().contains("warning: nothing matches (4 excluded)") && err.text().contains("p/x/"));
}
