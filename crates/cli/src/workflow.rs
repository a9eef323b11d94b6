//! `workflow lint`, `workflow run` and `workflow graph`: definitions in Amazon States Language, looked at and tried out.

use std::io::Read as _;
use std::path::Path;

use ::workflow::trial::{Mocks, Trial, TrialError, run};
use ::workflow::{Finding, Machine, Refused, Seeded, Severity, Start, Status};
use serde_json::{Value, json};

use crate::args::{LintArgs, RunArgs, WorkflowCommand};
use crate::environment::Environment;
use crate::exit;
use crate::output::Screen;
use crate::trouble::Trouble;

/// Step Functions takes definitions of 1 MiB and inputs of 256 KiB; what is longer is some other file.
const MAX_BYTES: u64 = 16 << 20;

pub fn carry_out(command: &WorkflowCommand, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    match command {
        WorkflowCommand::Lint(args) => lint(args, environment, screen),
        WorkflowCommand::Run(args) => try_out(args, environment, screen),
        // It asks the service, and so is carried out beside the others.
        WorkflowCommand::Show(_) => Ok(exit::DONE),
        WorkflowCommand::Graph { file } => {
            let drawing = ::workflow::mermaid(&machine(file, environment)?);
            match screen.json() {
                true => screen.object(&json!({"v": 1, "type": "graph", "file": file.display().to_string(), "mermaid": drawing})),
                false => drawing.lines().for_each(|line| screen.line(line)),
            }
            Ok(exit::DONE)
        }
    }
}

fn lint(args: &LintArgs, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    let (mut errors, mut warnings) = (0_u64, 0_u64);
    for file in &args.files {
        let text = read(file, environment, "a definition in Amazon States Language")?;
        for mut finding in ::workflow::lint(&text) {
            if args.portable && finding.rule.starts_with("portable-") {
                finding.severity = Severity::Error;
            }
            match finding.severity {
                Severity::Error => errors += 1,
                Severity::Warning => warnings += 1,
            }
            tell(file, &finding, screen);
        }
    }
    let files = args.files.len();
    let code = if errors > 0 { exit::USAGE } else { exit::DONE };
    screen.say(&format!("{files} {}, errors: {errors}, warnings: {warnings}", if files == 1 { "definition" } else { "definitions" }));
    screen.object(&json!({"v": 1, "type": "lint", "files": files, "errors": errors, "warnings": warnings, "exit_code": code}));
    Ok(code)
}

fn tell(file: &Path, finding: &Finding, screen: &Screen) {
    let severity = if finding.severity == Severity::Error { "error" } else { "warning" };
    screen.say(&format!("{}:{finding}", file.display()));
    screen.object(&json!({
        "v": 1,
        "type": "finding",
        "file": file.display().to_string(),
        "severity": severity,
        "rule": finding.rule,
        "pointer": finding.pointer,
        "message": finding.message,
    }));
}

fn try_out(args: &RunArgs, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    let machine = machine(&args.file, environment)?;
    let name = args.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = name.split('.').next().unwrap_or_default().to_owned();
    let input = input(&args.input, environment)?;
    let mocks = match &args.mocks {
        None => Mocks::default(),
        Some(wanted) => mocks(wanted, &name, environment)?,
    };
    let began = jiff::Timestamp::now();
    // Only uniqueness is wanted here: these numbers guard nothing.
    let mut chance = Seeded::new(began.as_nanosecond().unsigned_abs() as u64);
    let start =
        Start { input, id: "trial".into(), name: "trial".into(), machine_name: name, token_prefix: "trial-".into(), ..Start::default() };
    let trial = run(&machine, start, &mocks, began, &mut chance).map_err(|error| refused(&error))?;
    if args.history {
        history(&trial, screen);
    }
    let mut outcome = trial.outcome();
    if screen.json() {
        let seconds = trial.ended.duration_since(trial.began).as_secs_f64();
        let mut line = json!({"v": 1, "type": "run"});
        if let (Some(line), Some(outcome)) = (line.as_object_mut(), outcome.as_object_mut()) {
            line.append(outcome);
            line.insert("seconds".into(), json!(seconds));
        }
        screen.object(&line);
    } else {
        let text = serde_json::to_string_pretty(&outcome).unwrap_or_else(|_| outcome.to_string());
        text.lines().for_each(|line| screen.line(line));
    }
    Ok(if matches!(trial.status, Status::Succeeded { .. }) { exit::DONE } else { exit::DID_NOT_SUCCEED })
}

fn history(trial: &Trial, screen: &Screen) {
    for event in &trial.history {
        let seconds = event.timestamp.duration_since(trial.began).as_secs_f64();
        screen.say(&format!("{:>6}  {seconds:>10.3} s  {:<24} {}", event.id, event.kind, event.state().unwrap_or_default()));
        screen.object(&json!({"v": 1, "type": "history", "event": event}));
    }
}

fn refused(error: &TrialError) -> Trouble {
    let next = match error {
        TrialError::NoMock { state, .. } => format!("give the state an answer in the file of --mocks: {{{state:?}: {{\"Return\": {{}}}}}}"),
        TrialError::NoSuchTask(_) => "correct the name in the file of --mocks".to_owned(),
        TrialError::Rejected(_) | TrialError::Stuck => "look at the definition and the input".to_owned(),
    };
    Trouble::usage(format!("could not run the definition: {error}"), next)
}

fn machine(file: &Path, environment: &Environment) -> Result<Machine, Trouble> {
    let text = read(file, environment, "a definition in Amazon States Language")?;
    Machine::parse(&text).map_err(|Refused(findings)| {
        let first = findings.first().map(ToString::to_string).unwrap_or_default();
        let more = match findings.len() {
            0 | 1 => String::new(),
            all => format!(" (and {} more)", all - 1),
        };
        let shown = file.display();
        Trouble::usage(format!("{shown} is not a valid definition: {first}{more}"), format!("`fileferry workflow lint {shown}` names all"))
    })
}

/// JSON as it is, `@FILE`, or `-` for stdin.
fn input(wanted: &str, environment: &Environment) -> Result<Value, Trouble> {
    let text = match wanted.strip_prefix('@') {
        Some(file) => read(Path::new(file), environment, "a file of JSON")?,
        None if wanted == "-" => read(Path::new("-"), environment, "JSON")?,
        None => wanted.to_owned(),
    };
    let hint = "--input takes JSON such as '{\"transfer_id\":\"x\"}', @FILE, or - for stdin";
    serde_json::from_str(&text).map_err(|error| Trouble::usage(format!("the input is not JSON: {error}"), hint))
}

/// `FILE`, or `FILE#TESTCASE` as Step Functions Local writes it.
fn mocks(wanted: &str, machine: &str, environment: &Environment) -> Result<Mocks, Trouble> {
    let (file, case) = match wanted.rsplit_once('#') {
        Some((file, case)) if !environment.expand(Path::new(wanted)).exists() => (file, Some(case)),
        _ => (wanted, None),
    };
    let text = read(Path::new(file), environment, "a file of mocks")?;
    Mocks::parse(&text, Some(machine), case)
        .map_err(|error| Trouble::usage(format!("{file}: {error}"), "docs/guide/workflows.md shows both forms of mocks"))
}

fn read(file: &Path, environment: &Environment, what: &str) -> Result<String, Trouble> {
    let read = || -> std::io::Result<String> {
        let source: Box<dyn std::io::Read> =
            if file == Path::new("-") { Box::new(std::io::stdin()) } else { Box::new(std::fs::File::open(environment.expand(file))?) };
        let mut text = String::new();
        source.take(MAX_BYTES + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_BYTES { Err(std::io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
    };
    read().map_err(|error| Trouble::usage(format!("could not read {}: {error}", file.display()), format!("name {what}, or - for stdin")))
}
