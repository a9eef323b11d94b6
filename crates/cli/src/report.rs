//! Turns the engine's events into lines for a person or for a program.

use std::collections::BTreeMap;

use app::Event;
use app::event::{ErrorReport, FileReport, PlanReport, Summary, WatchReport};
use indicatif::ProgressBar;
use model::{ByteCount, TransferId};
use serde::Serialize;
use transfer::meter::Snapshot;

use crate::output::Screen;
use crate::receipt_file::ReceiptFile;
use crate::trouble::Trouble;
use crate::{exit, progress};

/// The follower of one command's transfers.
#[derive(Debug)]
pub struct Reporter {
    screen: Screen,
    bar: Option<ProgressBar>,
    /// A line for every file; otherwise only for those that need attention.
    every_file: bool,
    receipts: Option<ReceiptFile>,
    /// How many files have which proof.
    proofs: BTreeMap<String, u64>,
    /// The first error of each class.
    errors: BTreeMap<String, ErrorReport>,
    printed: Vec<Option<TransferId>>,
    pub exit_codes: Vec<u8>,
}

#[derive(Serialize)]
struct ProgressLine<'a> {
    v: u32,
    #[serde(rename = "type")]
    kind: &'static str,
    transfer_id: &'a TransferId,
    #[serde(flatten)]
    snapshot: &'a Snapshot,
}

impl Reporter {
    pub fn new(screen: Screen, show_bar: bool, stdout_terminal: bool, receipts: Option<ReceiptFile>) -> Self {
        let bar = show_bar.then(progress::bar);
        if let Some(bar) = &bar {
            screen.show(bar.clone());
        }
        let every_file = !(show_bar && stdout_terminal);
        let (proofs, errors) = Default::default();
        Self { screen, bar, every_file, receipts, proofs, errors, printed: Vec::new(), exit_codes: Vec::new() }
    }

    pub fn event(&mut self, event: Event) {
        match event {
            Event::Plan(plan) => self.plan(&plan),
            Event::Progress { transfer_id, snapshot } => {
                if let Some(bar) = &self.bar {
                    progress::update(bar, &snapshot);
                }
                self.screen.object(&ProgressLine { v: 1, kind: "progress", transfer_id: &transfer_id, snapshot: &snapshot });
            }
            Event::Receipt { line, report } => {
                if let Some(receipts) = &mut self.receipts {
                    receipts.append(&line);
                }
                // The bytes that were signed, not a new rendering of them.
                if self.screen.json() {
                    self.screen.line(&line);
                }
                self.file(&report);
            }
            Event::File(report) => {
                self.screen.object(&report);
                self.file(&report);
            }
            Event::After(report) => {
                self.screen.object(&report);
                let to = report.to.as_ref().map_or(String::new(), |to| format!(" as {to}"));
                match &report.error {
                    Some(error) => self.screen.note(&format!("the original {} is kept ({}): {}", report.key, error.class, error.message)),
                    None if self.every_file => self.screen.say(&format!("{:<15} {:>11}  {}{to}", report.state, "", report.key)),
                    None => {}
                }
            }
            Event::Round(summary) => {
                self.summary(*summary);
                // Rounds without end must not be remembered one by one, and a transfer may go on in the next.
                self.printed.clear();
                self.exit_codes.clear();
            }
            Event::Watch(report) => self.watch(&report),
            Event::Note(text) => self.screen.note(&text),
        }
    }

    fn plan(&mut self, plan: &PlanReport) {
        self.screen.object(plan);
        let verb = if plan.dry_run {
            "would copy"
        } else if plan.resumed {
            "resuming"
        } else {
            "copying"
        };
        self.screen.note(&format!(
            "{verb} {} ({}) from {} to {} as {}",
            files(plan.files),
            ByteCount(plan.bytes),
            plan.source,
            plan.destination,
            plan.transfer_id
        ));
        let order = plan.order.as_ref().map(|order| format!("one after the other, by {order}"));
        let beside = (plan.companions > 0).then(|| format!("{} go with them", files(plan.companions)));
        let after = (plan.after != "keep").then(|| format!("originals: {}", plan.after));
        let contract: Vec<String> = [order, beside, after].into_iter().flatten().collect();
        if !contract.is_empty() {
            self.screen.note(&contract.join("; "));
        }
        if plan.proof_bytes > 0 {
            self.screen.note(&format!("proof {}: reads back {}", plan.verify, ByteCount(plan.proof_bytes)));
        }
        if let Some(known) = &plan.known {
            self.screen.note(&known.line());
            known.warnings.iter().for_each(|warning| self.screen.note(warning));
        }
        if !plan.folder_markers.is_empty() {
            let names = plan.folder_markers.join(", ");
            self.screen.note(&format!("{} ending in / hold no file and are left out: {names}", plan.folder_markers.len()));
        }
        if plan.files == 0 {
            let excluded = if plan.excluded > 0 { format!(" ({} excluded)", plan.excluded) } else { String::new() };
            self.screen.note(&format!("warning: nothing matches{excluded}; --fail-if-empty makes this an error"));
        }
        for file in &plan.listing {
            self.screen.say(&format!("{:>11}  {} -> {}", ByteCount(file.size).to_string(), file.key, file.path));
        }
        if plan.more > 0 {
            self.screen.say(&format!("and {} more", plan.more));
        }
    }

    fn watch(&self, report: &WatchReport) {
        self.screen.object(report);
        let mut line = format!("{} after {} rounds: {} delivered", report.state, report.rounds, files(report.delivered));
        for (count, what) in [(report.retrying, "tried again later"), (report.given_up, "left alone"), (report.settling, "settling")] {
            if count > 0 {
                line.push_str(&format!(", {count} {what}"));
            }
        }
        if let Some(at) = report.last_delivery {
            line.push_str(&format!("; last delivery {at:.0}"));
        }
        if let Some(why) = &report.waiting_for {
            line.push_str(&format!("; waiting: {why}"));
        }
        if let Some(queue) = &report.queue {
            line.push_str(&format!("; queue: {} received, {} held", queue.received, queue.held));
            if queue.not_understood > 0 {
                line.push_str(&format!(", {} left there", queue.not_understood));
            }
            if let Some(why) = &queue.waiting_for {
                line.push_str(&format!(", waiting: {why}"));
            }
        }
        self.screen.note(&line);
    }

    fn file(&mut self, report: &FileReport) {
        if let Some(grade) = report.verification.as_ref().filter(|_| report.kind == "file") {
            *self.proofs.entry(grade.clone()).or_default() += 1;
        }
        if let Some(error) = &report.error {
            self.errors.entry(error.class.name().to_owned()).or_insert_with(|| error.clone());
        }
        let unwell = exit::is_unwell(report.status);
        if self.every_file || unwell {
            let detail = match (&report.error, &report.verification) {
                (Some(error), _) => format!("{}: {}", error.class, error.message),
                (None, Some(grade)) => grade.clone(),
                (None, None) => String::new(),
            };
            let size = ByteCount(report.size).to_string();
            let line = format!("{:<15} {size:>11}  {}  {detail}", report.status.as_str(), report.path);
            self.screen.say(line.trim_end());
            if let Some(kept) = &report.kept {
                self.screen.say(&format!("{:<15} {:>11}  {kept}", "kept", ""));
            }
        }
    }

    /// Prints a transfer's last line, once, whether it came as an event or as the command's result.
    pub fn summary(&mut self, mut summary: Summary) {
        if self.printed.contains(&summary.transfer_id) {
            return;
        }
        self.printed.push(summary.transfer_id.clone());
        summary.exit_code = exit::of_summary(&summary);
        self.exit_codes.push(summary.exit_code);
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.screen.say(&summary_line(&summary, &self.proofs));
        for (class, count) in &summary.errors {
            if let Some(report) = self.errors.get(class) {
                let mut trouble = Trouble::from(report);
                if *count > 1 {
                    trouble.what = format!("{} failed alike, the first: {}", files(*count), trouble.what);
                }
                self.screen.trouble(&trouble);
            }
        }
        if let Some(error) = summary.error.as_ref().filter(|e| e.class != model::ErrorClass::Cancelled) {
            self.screen.trouble(&Trouble::from(error));
        }
        if summary.not_finished > 0 {
            let id = summary.transfer_id.as_ref().map_or(String::new(), |id| format!(" {id}"));
            self.screen.note(&format!("{} not finished; `fileferry resume{id}` goes on", files(summary.not_finished)));
        }
        self.screen.object(&summary);
        self.proofs.clear();
        self.errors.clear();
    }

    /// Closes the receipt file and takes the bar off the screen. Returns the command's exit code.
    pub fn finish(mut self) -> u8 {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let code = exit::of_all(self.exit_codes.iter().copied());
        match self.receipts.take().map(ReceiptFile::finish) {
            Some(Err(trouble)) => {
                self.screen.trouble(&trouble);
                if code == exit::DONE { trouble.exit_code } else { code }
            }
            _ => code,
        }
    }
}

pub fn files(count: u64) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

fn summary_line(summary: &Summary, proofs: &BTreeMap<String, u64>) -> String {
    let counts = [
        (summary.delivered, "delivered"),
        (summary.unchanged, "unchanged"),
        (summary.skipped, "skipped"),
        (summary.collected, "collected"),
        (summary.superseded, "superseded"),
        (summary.publish_pending, "waiting for their rename"),
        (summary.held, "held"),
        (summary.failed, "failed"),
        (summary.not_finished, "not finished"),
        (summary.companions_failed, "companions failed"),
    ];
    let counts: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    let mut line = format!("{}: {}", summary.state, files(summary.files));
    if !counts.is_empty() {
        line.push_str(&format!(" ({})", counts.join(", ")));
    }
    line.push_str(&format!("; {}, {} sent", ByteCount(summary.bytes), ByteCount(summary.bytes_sent)));
    if summary.bytes_resumed > 0 {
        line.push_str(&format!(", {} were there already", ByteCount(summary.bytes_resumed)));
    }
    line.push_str(&format!(" in {:.1} s", summary.seconds));
    if summary.seconds > 0.0 && summary.bytes_sent > 0 {
        line.push_str(&format!(" ({}/s)", ByteCount((summary.bytes_sent as f64 / summary.seconds) as u64)));
    }
    for (count, what) in [
        (summary.companions, "went with them"),
        (summary.removed, "originals removed"),
        (summary.source_kept, "originals kept that should have gone"),
    ] {
        if count > 0 {
            line.push_str(&format!("; {count} {what}"));
        }
    }
    if !proofs.is_empty() {
        let proofs: Vec<String> = proofs.iter().map(|(grade, count)| format!("{grade} {count}")).collect();
        line.push_str(&format!("; proof: {}", proofs.join(", ")));
    }
    line
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
