//! `make bench`: FileFerry and rclone in turn on the same data, over SFTP, FTP and FTPS, near and far. Every byte of every
//! result is compared. Ratios count: seconds of one machine mean nothing.

mod contender;
mod line;
mod measure;
mod partner;
mod place;
mod report;
mod row;
mod stage;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use contender::{Contender, Programs};
use measure::Watched;
use place::{Far, Place};
use report::{Measured, Outcome};
use row::{ROWS, Row};
use stage::{LINE, Stage};

const BUCKET: &str = "bench";
const USAGE: &str = "usage: bench FILEFERRY RCLONE [--rounds N] [--only TEXT]… [--who NAME]… [--wrap COMMAND] [--write FILE] [--list]";

#[derive(Debug)]
struct Settings {
    rounds: usize,
    /// Only rows whose name holds all of these.
    only: Vec<String>,
    /// Only these contenders; all when empty.
    who: Vec<String>,
    write: Option<PathBuf>,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next().context(USAGE)?;
    if first == "line" {
        let mut number = || arguments.next().context("line BITS_PER_SECOND ONE_WAY_SECONDS")?.parse::<f64>().context("a number");
        return line::run(line::Line { bits_per_second: number()?, one_way: Duration::from_secs_f64(number()?) });
    }
    let mut programs = Programs { ferry: first.into(), rclone: arguments.next().context(USAGE)?.into(), wrap: Vec::new() };
    let mut settings = Settings { rounds: 5, only: Vec::new(), who: Vec::new(), write: None };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().context(USAGE);
        match argument.as_str() {
            "--rounds" => settings.rounds = value()?.parse().context("--rounds wants a number")?,
            "--only" => settings.only.push(value()?),
            "--who" => settings.who.push(value()?),
            "--wrap" => programs.wrap = value()?.split_whitespace().map(str::to_owned).collect(),
            "--write" => settings.write = Some(value()?.into()),
            "--list" => {
                ROWS.iter().for_each(|row| println!("{}", row.name()));
                return Ok(());
            }
            _ => bail!(USAGE),
        }
    }
    bench(&programs, &settings)
}

fn bench(programs: &Programs, settings: &Settings) -> Result<()> {
    let rows: Vec<&Row> = ROWS.iter().filter(|row| settings.only.iter().all(|text| row.name().contains(text))).collect();
    let here = Place::here()?;
    let tun = Path::new(env!("CARGO_MANIFEST_DIR")).join("tun.py");
    let far = if rows.iter().any(|row| row.far) { Far::build(LINE, &tun)? } else { None };
    let line = match &far {
        _ if !rows.iter().any(|row| row.far) => "",
        Some(_) => " Far rows: two network namespaces joined by a line of 1 Gbit/s and 50 ms, with a queue of one bandwidth-delay product.",
        None => " Far rows: a proxy of 1 Gbit/s and 50 ms that ends TCP on both sides (no root here: no network namespaces).",
    };
    let mut text = format!(
        "{}\nContenders in turn after one round of warming up, up to {} rounds, medians; every byte compared.{line}\n\n",
        machine(programs)?,
        settings.rounds
    );
    print!("{text}{}", report::HEAD);
    let mut measured = Vec::new();
    for row in rows {
        let row = measure_row(row, programs, settings, &here, far.as_ref())?;
        print!("{}", row.lines());
        measured.push(row);
    }
    let all = |of: &dyn Fn(&Measured) -> String| measured.iter().map(of).collect::<String>();
    let processors = std::thread::available_parallelism()?.get() as f64;
    let judged = format!("{}{}", report::JUDGEMENT_HEAD, all(&Measured::judgement));
    let bounds = format!("{}{}", report::BOUND_HEAD, all(&|row| row.bound(processors)));
    println!("\n{judged}\n{bounds}");
    if let Some(path) = &settings.write {
        text += &format!("## Must reach\n\n{judged}\n## All figures\n\n{}{}\n", report::HEAD, all(&Measured::lines));
        text += &format!("## Who had the processors\n\nShares of all processors during our run.\n\n{bounds}");
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn measure_row(row: &Row, programs: &Programs, settings: &Settings, here: &Place, far: Option<&Far>) -> Result<Measured> {
    let mut stage = Stage::set(row, here, far)?;
    let chosen = row.contenders.iter().filter(|who| settings.who.is_empty() || settings.who.iter().any(|name| name == who.name()));
    let mut outcomes: Vec<(Contender, Outcome)> = chosen.map(|contender| (*contender, Outcome::default())).collect();
    let far = far.filter(|_| row.far);
    let place = far.map_or(here, |far| &far.near_end);
    let rounds = settings.rounds.min(row.most_rounds);
    // What takes minutes needs no warming up.
    let warm_up = usize::from(row.most_rounds > 1);
    for round in 0..rounds + warm_up {
        for (contender, outcome) in &mut outcomes {
            stage.clear()?;
            let commands = contender.commands(programs, &stage, row)?;
            let watched = Watched { server: &stage.account, line: far.map(Far::line_pid) };
            let run = measure::run(place, commands, watched, || stage.partner.sessions() == 0);
            match run.and_then(|run| stage.compare(row.files).map(|()| run)) {
                Ok(run) if round >= warm_up => outcome.runs.push(run),
                Ok(_) => {}
                // What rclone cannot do is a result; what we cannot do is not.
                Err(error) if contender.is_ours() => return Err(error.context(row.name())),
                Err(error) => outcome.failures.push(format!("{error:#}")),
            }
        }
    }
    Ok(Measured { row: *row, outcomes })
}

/// What the figures depend on.
fn machine(programs: &Programs) -> Result<String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let cpu =
        cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default().trim_start_matches([' ', '\t', ':']).to_owned();
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let memory = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() >> 20;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let version = |program: &Path| -> Result<String> {
        let output = std::process::Command::new(program).arg("--version").output()?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
    };
    Ok(format!(
        "{} processors ({cpu}), {memory} GiB, Linux {}; {}, {}. Client, store and servers share the processors; data on {}.\n",
        std::thread::available_parallelism()?,
        kernel.trim(),
        version(&programs.ferry)?,
        version(&programs.rclone)?,
        std::env::temp_dir().display()
    ))
}
