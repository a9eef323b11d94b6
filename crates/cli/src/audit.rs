//! `audit show|export|verify`: what was done with transfers and settings and by whom, and whether that is as it was written.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use api::client::Lines;
use model::ErrorClass;
use model::audit::{Entry, Report, Seal, Verifier};
use runtime::keys::TrustedKey;
use serde_json::{Value, json};

use crate::environment::Environment;
use crate::exit;
use crate::output::Screen;
use crate::receipt::trusted_keys;
use crate::service::{client, data};
use crate::service_args::{AuditCommand, AuditVerifyArgs};
use crate::trouble::Trouble;

/// More than any line of an audit.
const LONGEST_LINE: usize = 4 << 20;

pub async fn run(command: &AuditCommand, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    match command {
        AuditCommand::Show(args) => {
            let lines = client(&args.service, environment).audit_of(&args.id).await?;
            show(lines, screen).await
        }
        AuditCommand::Export(service) => {
            let mut lines = client(service, environment).audit().await?;
            while let Some(line) = lines.next().await? {
                // Byte for byte as it was written.
                screen.line(&line);
                if screen.is_closed() {
                    break;
                }
            }
            Ok(exit::DONE)
        }
        AuditCommand::Verify(args) => verify(args, environment, screen).await,
    }
}

async fn show(mut lines: Lines, screen: &Screen) -> Result<u8, Trouble> {
    let mut some = false;
    while let Some(line) = lines.next().await? {
        some = true;
        match screen.json() {
            true => screen.line(&line),
            false => screen.say(&for_people(&line)),
        }
        if screen.is_closed() {
            break;
        }
    }
    if !some {
        screen.note("nothing is on record for it: it was made before this service kept an audit");
    }
    Ok(exit::DONE)
}

fn for_people(line: &str) -> String {
    let Ok(entry) = serde_json::from_str::<Entry>(line) else { return line.to_owned() };
    let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let detail: Vec<String> = entry.detail.iter().map(|(name, value)| format!("{name} {}", shown(value))).collect();
    format!("{:>4}  {:.0}  {:<12}  {:<16}  {}", entry.seq, entry.at, entry.by, entry.event, detail.join(", "))
}

async fn verify(args: &AuditVerifyArgs, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    // The service signs with the key of its own directory.
    let mut trusted = trusted_keys(&args.key, environment)?;
    if args.key.is_empty() {
        trusted.extend(runtime::keys::trusted(&data(&args.service, environment))?);
    }
    let mut checking = Checking { verifier: Verifier::default(), trusted, entries: false, own_seals: args.seals.is_none() };
    if let Some(seals) = &args.seals {
        let path = environment.expand(seals);
        let mut broken = 0;
        each_line(&path, |line| {
            match Seal::read(line) {
                Ok(_) => checking.seal(line),
                Err(_) => broken += 1,
            }
            Ok(())
        })?;
        if broken > 0 {
            // One that a crash cut short is followed by the whole one; where a seal is missing, its number is.
            screen.note(&format!("{broken} lines of {} are no whole seals", path.display()));
        }
    }
    match &args.file {
        Some(file) => each_line(&environment.expand(file), |line| checking.line(line))?,
        None => {
            let mut lines = client(&args.service, environment).audit().await?;
            while let Some(line) = lines.next().await? {
                checking.line(&line)?;
            }
        }
    }
    Ok(tell(&checking.verifier.finish(), screen))
}

struct Checking {
    verifier: Verifier,
    trusted: Vec<TrustedKey>,
    entries: bool,
    /// The seals beside the entries count; otherwise those of the copy decide.
    own_seals: bool,
}

impl Checking {
    fn seal(&mut self, line: &str) {
        let trusted = &self.trusted;
        self.verifier.seal(line, |fingerprint| trusted.iter().any(|key| key.fingerprint == fingerprint));
    }

    fn line(&mut self, line: &str) -> Result<(), Trouble> {
        if line.trim().is_empty() {
            return Ok(());
        }
        // Only the place of a line tells what it should be; what it is, is checked by the verifier.
        if line.contains("\"type\":\"audit-seal\"") && !self.entries {
            if self.own_seals {
                self.seal(line);
            }
            return Ok(());
        }
        self.entries = true;
        self.verifier.entry(line);
        Ok(())
    }
}

fn each_line(path: &Path, mut take: impl FnMut(&str) -> Result<(), Trouble>) -> Result<(), Trouble> {
    let unreadable =
        |why: String| Trouble::usage(format!("could not read {}: {why}", path.display()), "name a file that `audit export` wrote");
    let mut file = BufReader::new(File::open(path).map_err(|e| unreadable(e.to_string()))?);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let read =
            std::io::Read::take(&mut file, LONGEST_LINE as u64).read_until(b'\n', &mut bytes).map_err(|e| unreadable(e.to_string()))?;
        if read == 0 {
            return Ok(());
        }
        if read >= LONGEST_LINE {
            return Err(unreadable("a line has no end".to_owned()));
        }
        let text = String::from_utf8_lossy(&bytes);
        let line = text.trim_end_matches(['\n', '\r']);
        if !line.is_empty() {
            take(line)?;
        }
    }
}

fn tell(report: &Report, screen: &Screen) -> u8 {
    for problem in &report.problems {
        screen.say(&format!("{} {}: {}", problem.chain, problem.seq, problem.what));
        screen.object(&json!({"v": 1, "type": "audit_problem", "chain": problem.chain, "seq": problem.seq, "what": problem.what}));
    }
    let more = report.problem_count.saturating_sub(report.problems.len() as u64);
    if more > 0 {
        screen.say(&format!("and {more} more"));
    }
    let wrong = match report.problem_count {
        0 => "nothing was changed".to_owned(),
        count => format!("NOT as it was written: {count} problems"),
    };
    screen.say(&format!(
        "{} entries in {} chains, {} seals: {wrong}; {} entries are not sealed yet",
        report.entries, report.chains, report.seals, report.unsealed
    ));
    let mut code = exit::DONE;
    if !report.unknown_keys.is_empty() {
        code = ErrorClass::DestHostKey.exit_code();
        screen.note(&format!(
            "seals are signed by {}, which is not trusted here: give --key, as the service prints it when it starts",
            report.unknown_keys.join(", ")
        ));
    }
    if report.problem_count > 0 {
        code = ErrorClass::IntegrityMismatch.exit_code();
    }
    screen.object(&json!({
        "v": 1, "type": "audit_verified", "entries": report.entries, "chains": report.chains, "seals": report.seals,
        "unsealed": report.unsealed, "problems": report.problem_count, "unknown_keys": report.unknown_keys, "exit_code": code,
    }));
    code
}
