//! The `fileferry` command line: reads what is asked, calls the runtime, prints what comes of it.

mod args;
mod audit;
mod backend;
mod backup;
mod browse;
mod config;
mod connector;
mod copy;
mod environment;
mod exit;
mod explain;
mod flags;
mod history;
mod manual;
mod names;
mod output;
mod page;
mod progress;
mod receipt;
mod receipt_file;
mod rehearse;
mod report;
mod secret;
mod serve;
mod service;
mod service_args;
mod settings;
mod signals;
mod source;
mod states;
mod transfer;
mod trouble;
mod watch;
mod workflow;
mod yaml;

use std::ffi::OsString;
use std::process::ExitCode;

use args::{Command, HistoryCommand, WorkflowCommand};
use environment::Environment;
use output::Screen;
use settings::{ParseError, Request};
use trouble::Trouble;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // A panic is a fault of ours and ends like one, with the code that says so.
    match std::panic::catch_unwind(|| run(&arguments)) {
        Ok(code) => ExitCode::from(code),
        Err(_) => ExitCode::from(model::ErrorClass::Internal.exit_code()),
    }
}

fn run(arguments: &[OsString]) -> u8 {
    let environment = Environment::read();
    let load = |named: Option<&std::path::Path>| {
        let named = named.map(|path| environment.expand(path));
        let places = config::places(&environment.working, environment.config_home.as_deref());
        config::load(named.as_deref(), &places, &|name| std::env::var(name).ok())
    };
    let mut request = match settings::parse(arguments, load) {
        Ok(request) => request,
        Err(error) => return refuse(error, arguments, &environment),
    };
    let global = &request.cli.global;
    let screen = Screen::new(global.json, global.quiet, environment.colours);
    // Who runs a service wants to see what it does.
    let least = if matches!(request.cli.command, Command::Serve(_)) && !global.quiet { 1 } else { 0 };
    log_to_stderr(global.verbose.max(least), environment.colours);
    match names::expand(&mut request, &environment) {
        Ok(unmapped) => names::tell(&unmapped, &screen),
        Err(trouble) => {
            screen.failure(&trouble);
            return trouble.exit_code;
        }
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            screen.failure(&Trouble::of_class(model::ErrorClass::Internal, format!("could not start: {error}")));
            return model::ErrorClass::Internal.exit_code();
        }
    };
    let code = runtime.block_on(carry_out(&request, &environment, &screen)).unwrap_or_else(|mut trouble| {
        // The commands that look take their URL as it was typed, and a message may repeat it.
        trouble.what = settings::without_passwords(&trouble.what, arguments);
        // Code 0 with nothing to say: the reader of stdout went away.
        if trouble.exit_code != exit::DONE {
            screen.failure(&trouble);
        }
        trouble.exit_code
    });
    // What still runs has been told to stop; a blocked read of a terminal or a disk must not keep the process.
    runtime.shutdown_background();
    code
}

/// The command line or the configuration was not understood. Usage errors end with 1; clap would end with 2, which
/// here means a fault of ours.
fn refuse(error: ParseError, arguments: &[OsString], environment: &Environment) -> u8 {
    let json = arguments.iter().any(|argument| argument == "--json");
    let screen = Screen::new(json, false, environment.colours);
    match error {
        ParseError::Clap(error) if !error.use_stderr() => {
            let _ = error.print();
            exit::DONE
        }
        ParseError::Clap(error) => {
            let text = settings::without_passwords(&error.render().to_string(), arguments);
            for line in text.trim_end().lines() {
                screen.note(line);
            }
            let what = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            screen.failure_object(&Trouble::usage(what, "see `fileferry --help`"));
            exit::USAGE
        }
        ParseError::Config(error) => {
            screen.failure(&Trouble::usage(error.to_string(), "correct the file, or name another with --config"));
            exit::USAGE
        }
    }
}

async fn carry_out(request: &Request, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    request.fits()?;
    let command = &request.cli.command;
    if matches!(command, Command::Ls(_) | Command::Check(_) | Command::Hash(_) | Command::Clean(_)) {
        copy::end_on_signal()?;
    }
    match command {
        Command::Copy(args) => copy::copy(args, request, environment, screen).await,
        Command::Watch(args) => watch::watch(args, request, environment, screen).await,
        Command::Ls(args) => browse::ls(args, environment, screen).await,
        Command::Check(args) => browse::check(args, request, environment, screen).await,
        Command::Hash(args) => browse::hash(args, environment, screen).await,
        Command::Clean(args) => browse::clean(args, environment, screen).await,
        Command::Resume(args) => copy::resume(args, request, environment, screen).await,
        Command::Rehearse(args) => rehearse::rehearse(args, false, environment, screen).await,
        Command::Probe(args) => rehearse::rehearse(args, true, environment, screen).await,
        Command::Profile { command } => rehearse::profile(command, environment, screen).await,
        Command::History(args) => match &args.command {
            None => history::show(args.limit, environment, screen).await,
            Some(HistoryCommand::Prune { older_than }) => history::prune(*older_than, environment, screen).await,
        },
        Command::Receipt { command } => receipt::run(command, environment, screen),
        Command::Backup(args) => backup::backup(args, environment, screen).await,
        Command::Restore(args) => backup::restore(args, environment, screen).await,
        Command::Serve(args) => serve::serve(args, environment, screen).await,
        Command::Transfer { command } => transfer::run(command, environment, screen).await,
        Command::Connector { command } => connector::run(command, request, environment, screen).await,
        Command::Source { command } => source::run(command, environment, screen).await,
        Command::Secret { command } => secret::run(command, environment, screen).await,
        Command::Audit { command } => audit::run(command, environment, screen).await,
        Command::Workflow { command: WorkflowCommand::Show(args) } => states::show(args, environment, screen).await,
        Command::Workflow { command } => workflow::carry_out(command, environment, screen),
        Command::Explain(args) => explain::explain(args.subject.as_deref(), environment, screen).await,
        Command::Completion { shell } => manual::completion(*shell),
        Command::Man { directory } => manual::pages(&environment.expand(directory)),
    }
}

/// `RUST_LOG` where it is set, otherwise what `-v` asks for.
fn log_to_stderr(verbose: u8, colours: bool) {
    use tracing_subscriber::EnvFilter;
    let (ours, others) = match verbose {
        0 => ("error", "error"),
        1 => ("info", "warn"),
        2 => ("debug", "warn"),
        // Not more: at `debug` and below, SDK and SSH crates may write what was signed or sent, with tokens in it.
        _ => ("trace", "info"),
    };
    let asked = format!(
        "{others},transfer={ours},store={ours},app={ours},runtime={ours},server={ours},integrations={ours},workflow={ours},fileferry={ours}"
    );
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(asked));
    let _ = tracing_log::LogTracer::init();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).finish();
    let _ = tracing::subscriber::set_global_default(subscriber);
}
