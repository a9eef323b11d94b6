//! The progress bar of a terminal: bytes, rate, time left, files and the step that most files are in.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use transfer::meter::Snapshot;

/// Often enough to look alive, rare enough to cost nothing.
const TICK: Duration = Duration::from_millis(250);

pub fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{bar:24} {bytes}/{total_bytes} {binary_bytes_per_sec} ETA {eta} · {wide_msg}")
        .expect("the template is a constant that the tests render")
        .progress_chars("=> ");
    bar.set_style(style);
    bar.enable_steady_tick(TICK);
    bar
}

pub fn update(bar: &ProgressBar, snapshot: &Snapshot) {
    bar.set_length(snapshot.bytes_total);
    bar.set_position(snapshot.bytes_done);
    bar.set_message(message(snapshot));
}

pub fn message(snapshot: &Snapshot) -> String {
    let mut text = format!("{}/{} files", snapshot.files_done + snapshot.files_failed, snapshot.files_total);
    if snapshot.files_failed > 0 {
        text.push_str(&format!(", {} failed", snapshot.files_failed));
    }
    if snapshot.connections > 0 {
        let plural = if snapshot.connections == 1 { "" } else { "s" };
        text.push_str(&format!(", {} connection{plural}", snapshot.connections));
    }
    if !snapshot.step.is_empty() {
        text.push_str(&format!(", {}", snapshot.step));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_counts_what_matters() {
        let meter = transfer::meter::Meter::default();
        meter.expect(3, 30);
        meter.connections(1);
        meter.file_finished(false);
        let _step = meter.step(transfer::meter::Step::Sending);
        assert_eq!(message(&meter.snapshot()), "1/3 files, 1 failed, 1 connection, sending");
        update(&bar(), &meter.snapshot());
    }
}
