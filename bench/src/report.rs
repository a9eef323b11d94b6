//! The tables: as Markdown, so that a run can be kept as it was printed.

use std::fmt::Write;

use crate::contender::Contender;
use crate::measure::{Run, median};
use crate::row::{Must, Row};

/// More processor time than this spent by others, for each second of wall time, makes a figure noisy.
const NOISE: f64 = 0.1;

/// All runs of one contender, or why there are none.
#[derive(Debug, Default)]
pub struct Outcome {
    pub runs: Vec<Run>,
    pub failures: Vec<String>,
}

#[derive(Debug)]
pub struct Measured {
    pub row: Row,
    pub outcomes: Vec<(Contender, Outcome)>,
}

impl Measured {
    fn of(&self, contender: Contender) -> Option<&Outcome> {
        self.outcomes.iter().find(|(c, _)| *c == contender).map(|(_, outcome)| outcome)
    }

    fn median(&self, contender: Contender, figure: fn(&Run) -> f64) -> f64 {
        self.of(contender).map_or(f64::NAN, |outcome| median(outcome.runs.iter().map(figure).collect()))
    }

    /// A line for each contender.
    pub fn lines(&self) -> String {
        let mut text = String::new();
        for (contender, outcome) in &self.outcomes {
            let _ = write!(text, "| {} | {} | ", self.row.name(), contender.name());
            if outcome.runs.is_empty() {
                let tries = outcome.failures.len();
                let why = outcome.failures.first().map(String::as_str).unwrap_or_default();
                let _ = writeln!(text, "fails {tries} of {tries} times: {why} | | | | | | | |");
                continue;
            }
            let figure = |of: fn(&Run) -> f64| self.median(*contender, of);
            let (wall, client) = (figure(|r| r.wall), figure(|r| r.client));
            let rate = match self.row.files.count {
                count if count > 100 => format!("{:.0} files/s", count as f64 / wall),
                _ => format!("{:.0} MB/s", self.row.files.bytes() as f64 / 1e6 / wall),
            };
            let noisy = if figure(|r| r.other) > NOISE * wall { " (noisy)" } else { "" };
            let failed = if outcome.failures.is_empty() { String::new() } else { format!(" ({} failed)", outcome.failures.len()) };
            let _ = writeln!(
                text,
                "{wall:.2}{noisy}{failed} | {rate} | {client:.2} | {:.2} | {:.2} | {:.0} | {} | {} |",
                figure(|r| r.server),
                figure(|r| r.store),
                figure(|r| r.peak_mib),
                ratio(self.median(Contender::Rclone, |r| r.wall) / wall),
                ratio(client / self.median(Contender::Rclone, |r| r.client)),
            );
        }
        text
    }

    /// What had to be reached and what was.
    pub fn judgement(&self) -> String {
        let Must { wall, cpu, wall_crc, cpu_crc, megabytes_per_second } = self.row.must;
        let mut text = String::new();
        let rclone = (self.median(Contender::Rclone, |r| r.wall), self.median(Contender::Rclone, |r| r.client));
        let mut line = |what: &str, must: Option<f64>, got: f64, least: bool| {
            let Some(must) = must else { return };
            let met = if least { got >= must } else { got <= must };
            let sign = if least { "≥" } else { "≤" };
            let _ = writeln!(
                text,
                "| {} | {what} | {sign} {must} | {} | {} |",
                self.row.name(),
                ratio(got),
                if met { "yes" } else { "**no**" }
            );
        };
        let of = |contender, figure: fn(&Run) -> f64| self.median(contender, figure);
        line("wall, rclone ÷ ours", wall, rclone.0 / of(Contender::Ferry, |r| r.wall), true);
        line("client CPU, ours ÷ rclone", cpu, of(Contender::Ferry, |r| r.client) / rclone.1, false);
        line("wall with CRC only", wall_crc, rclone.0 / of(Contender::FerryCrc, |r| r.wall), true);
        line("client CPU with CRC only", cpu_crc, of(Contender::FerryCrc, |r| r.client) / rclone.1, false);
        let rate = self.row.files.bytes() as f64 / 1e6 / of(Contender::FerryDefault, |r| r.wall);
        line("MB/s, default proof", megabytes_per_second, rate, true);
        let peaks = self.outcomes.iter().filter(|(contender, _)| contender.is_ours()).flat_map(|(_, outcome)| &outcome.runs);
        line("largest peak MiB", Some(64.0), peaks.map(|run| run.peak_mib).fold(0.0, f64::max), false);
        text
    }

    /// Where the time of our run went: the processors of this machine, or waiting.
    pub fn bound(&self, processors: f64) -> String {
        let contender = if self.of(Contender::Ferry).is_some() { Contender::Ferry } else { Contender::FerryDefault };
        if self.of(contender).is_none_or(|outcome| outcome.runs.is_empty()) {
            return String::new();
        }
        let share = |figure: fn(&Run) -> f64| self.median(contender, figure) / (self.median(contender, |r| r.wall) * processors) * 100.0;
        let shares = [share(|r| r.client), share(|r| r.server), share(|r| r.store), share(|r| r.line), share(|r| r.other)];
        let idle = (100.0 - shares.iter().sum::<f64>()).max(0.0);
        let [client, server, store, line, other] = shares;
        format!("| {} | {client:.0} | {server:.0} | {store:.0} | {line:.0} | {other:.0} | {idle:.0} |\n", self.row.name())
    }
}

fn ratio(value: f64) -> String {
    if value.is_nan() { "–".to_owned() } else { format!("{value:.2}") }
}

pub const HEAD: &str = "| row | contender | wall s | rate | client CPU s | server CPU s | store CPU s | peak MiB | wall: rclone ÷ this | CPU: this ÷ rclone |\n|---|---|---|---|---|---|---|---|---|---|\n";
pub const JUDGEMENT_HEAD: &str = "| row | figure | must | got | met |\n|---|---|---|---|---|\n";
pub const BOUND_HEAD: &str = "| row | client % | server % | store % | line % | others % | idle % |\n|---|---|---|---|---|---|---|\n";
