//! `copy` and `resume`: starts the engine, follows its events, listens for signals.

use std::future::Future;

use app::Event;
use app::event::Summary;
use model::{Location, Protocol, TransferId};
use runtime::{Control, CopyMode, Failure, Place};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::args::{CopyArgs, OutputArgs, ResumeArgs};
use crate::environment::Environment;
use crate::output::Screen;
use crate::receipt_file::ReceiptFile;
use crate::report::Reporter;
use crate::settings::Request;
use crate::trouble::Trouble;
use crate::{backend, exit, settings, signals};

/// Events waiting to be printed. A slow terminal then slows the reports, not the memory.
pub const QUEUE: usize = 256;

pub async fn copy(args: &CopyArgs, request: &Request, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    let (spec, in_url) = settings::copy_spec(args, request.choices, request.thresholds, environment)?;
    tracing::debug!(?spec, "asked");
    warn_about_login(screen, &settings::locate(&args.destination)?);
    warn_about_proxy(screen, &spec.server);
    if spec.server.legacy_algorithms {
        screen.note("warning: --ssh-algorithms legacy also offers algorithms that are no longer considered safe");
    }
    let place = environment.place(screen);
    // Before anybody is asked: see `signals::install_end`.
    let control = listen(screen)?;
    let password = settings::credential(in_url, spec.server.password_from.as_deref(), &spec.destination, &place)?;
    let mode = CopyMode { dry_run: args.dry_run, attach: args.attach };
    let reporter = reporter(&args.output, request, environment, screen)?;
    let (events, follow) = mpsc::channel(QUEUE);
    let engine = async { backend::copy(&place, spec, password, mode, events, control).await.map(|summary| vec![summary]) };
    Ok(run(engine, follow, reporter, screen).await)
}

pub async fn resume(args: &ResumeArgs, request: &Request, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    let place = environment.place(screen);
    let control = listen(screen)?;
    let named = args.id.as_ref().map_or("the unfinished copies", |id| id.as_str());
    let password = settings::credential(None, args.password_from.as_deref(), named, &place)?;
    if args.abandon {
        return abandon(args, &place, password, screen).await;
    }
    let reporter = reporter(&args.output, request, environment, screen)?;
    let (events, follow) = mpsc::channel(QUEUE);
    let engine = backend::resume(&place, args.id.clone(), password, events, control);
    Ok(run(engine, follow, reporter, screen).await)
}

async fn abandon(args: &ResumeArgs, place: &Place, password: Option<model::Credential>, screen: &Screen) -> Result<u8, Trouble> {
    if args.id.is_none() && !args.all {
        return Err(Trouble::usage(
            "--abandon needs the id of a transfer, or --all",
            "see `fileferry history` for ids; nothing was given up",
        ));
    }
    #[derive(Serialize)]
    struct Abandoned {
        v: u32,
        r#type: &'static str,
        transfer_id: TransferId,
    }
    let given_up = backend::abandon(place, args.id.clone(), password).await?;
    for id in &given_up {
        screen.say(&format!("abandoned {id}: its state and temporary files are removed"));
        screen.object(&Abandoned { v: 1, r#type: "abandoned", transfer_id: id.clone() });
    }
    if given_up.is_empty() {
        screen.note("nothing is unfinished");
    }
    Ok(exit::DONE)
}

/// Drives the engine and the reports together and returns the exit code.
async fn run(
    engine: impl Future<Output = Result<Vec<Summary>, Failure>>,
    mut follow: mpsc::Receiver<Event>,
    mut reporter: Reporter,
    screen: &Screen,
) -> u8 {
    tokio::pin!(engine);
    let result = loop {
        tokio::select! {
            Some(event) = follow.recv() => reporter.event(event),
            result = &mut engine => break result,
        }
    };
    // Closing keeps what is queued and does not wait for a sender that somebody still holds.
    follow.close();
    while let Some(event) = follow.recv().await {
        reporter.event(event);
    }
    match result {
        Ok(summaries) => {
            if summaries.is_empty() {
                screen.note("nothing is unfinished");
            }
            summaries.into_iter().for_each(|summary| reporter.summary(summary));
            if screen.is_closed() {
                screen.note("nobody read stdout to its end; the copy went on");
            }
            reporter.finish()
        }
        Err(failure) => {
            reporter.finish();
            let trouble = Trouble::from(failure);
            screen.failure(&trouble);
            trouble.exit_code
        }
    }
}

pub fn reporter(output: &OutputArgs, request: &Request, environment: &Environment, screen: &Screen) -> Result<Reporter, Trouble> {
    let receipts = output.receipt.as_deref().map(|path| ReceiptFile::open(&environment.expand(path))).transpose()?;
    let global = &request.cli.global;
    // Log lines would tear a bar to pieces.
    let bar = environment.redraws && !output.no_progress && !global.json && !global.quiet && global.verbose == 0;
    Ok(Reporter::new(screen.clone(), bar, environment.stdout_terminal, receipts))
}

pub fn listen(screen: &Screen) -> Result<Control, Trouble> {
    let said = screen.clone();
    stop_on_signal(move |line| said.note(line))
}

/// `say` gets the line with which a signal is answered.
pub fn stop_on_signal(say: impl Fn(&str) + Send + 'static) -> Result<Control, Trouble> {
    let control = Control::default();
    signals::install(control.clone(), say).map_err(deaf)?;
    Ok(control)
}

/// For commands with nothing to checkpoint.
pub fn end_on_signal() -> Result<(), Trouble> {
    signals::install_end().map_err(deaf)
}

fn deaf(error: std::io::Error) -> Trouble {
    Trouble::of_class(model::ErrorClass::Internal, format!("could not listen for signals: {error}"))
}

/// What others can read of the login at a proxy.
pub fn warn_about_proxy(screen: &Screen, server: &app::ServerSettings) {
    if server.proxy_password.is_some() {
        screen.note("warning: a password in the proxy's URL can be read in the process list and the shell's history; --proxy-password-from keeps it out of both");
    }
}

/// What others can read of a login: a password in a URL, everything where nothing is encrypted.
pub fn warn_about_login(screen: &Screen, location: &Location) {
    let Location::Server { endpoint, password, .. } = location else { return };
    if password.is_some() {
        screen.note(
            "warning: a password in a URL can be read in the process list and the shell's history; --password-from keeps it out of both",
        );
    }
    if endpoint.protocol == Protocol::Ftp {
        screen.note(
            "warning: ftp:// sends user name, password and files in clear text; use ftpes:// (FTP with TLS) where the server offers it",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::captured::screen;

    #[tokio::test]
    async fn a_failed_command_ends_with_its_own_code_and_an_error_object() {
        let (screen, out, err) = screen(true, false);
        let (events, follow) = mpsc::channel(4);
        let engine = async move {
            events.send(Event::Note("almost".into())).await.unwrap();
            // A sender that outlives the engine must not keep the command waiting.
            std::mem::forget(events.clone());
            let class = model::ErrorClass::DestHostKey;
            Err(Failure { class, exit_code: class.exit_code(), message: "the key changed".into(), next: Some("look".into()) })
        };
        let reporter = Reporter::new(screen.clone(), false, false, None);
        assert_eq!(run(engine, follow, reporter, &screen).await, 23);
        let object: serde_json::Value = serde_json::from_str(out.text().trim()).unwrap();
        assert_eq!(
            (object["type"].as_str(), object["class"].as_str(), object["next"].as_str()),
            (Some("error"), Some("dest_host_key"), Some("look"))
        );
        assert!(err.text().contains("almost\nerror: the key changed (dest_host_key)\n"));
    }
}
