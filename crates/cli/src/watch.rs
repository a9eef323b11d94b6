//! `watch`: the command line around the rounds of `runtime::watch`.

use std::time::Duration;

use app::Event;
use runtime::{WatchMode, Watched};
use tokio::sync::mpsc;

use crate::args::WatchArgs;
use crate::copy::{QUEUE, listen, reporter, warn_about_login};
use crate::environment::Environment;
use crate::output::Screen;
use crate::settings::Request;
use crate::trouble::Trouble;
use crate::{backend, exit, settings};

pub async fn watch(args: &WatchArgs, request: &Request, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    let copy = &args.copy;
    let (spec, in_url) = settings::copy_spec(copy, request.choices, request.thresholds, environment)?;
    for (given, flag) in [(copy.dry_run, "--dry-run"), (copy.attach, "--attach"), (spec.options.resend, "--resend")] {
        if given {
            return Err(Trouble::usage(format!("{flag} is for copy"), "leave it out, or use `fileferry copy`"));
        }
    }
    if spec.options.files_from.is_some() {
        return Err(Trouble::usage("--files-from is for copy: a watch looks for what is new itself", "leave it out"));
    }
    warn_about_login(screen, &settings::locate(&copy.destination)?);
    let place = environment.place(screen);
    let control = listen(screen)?;
    // A reference to a file or variable is read again in every round, so that a changed password is found; who is asked is asked once.
    let asked = spec.server.password_from.as_deref().filter(|reference| *reference == "prompt");
    let password = settings::credential(in_url, asked, &spec.destination, &place)?;
    // With a queue the listing is only the net below it, and an event comes when its object is whole.
    let (every, settle) = if args.queue.is_some() { (300, 0) } else { (30, 10) };
    let mode = WatchMode {
        every: args.every.unwrap_or(Duration::from_secs(every)),
        settle: args.settle.unwrap_or(Duration::from_secs(settle)),
        once: args.once,
        health_every: args.health_every,
        queue: args.queue.clone(),
    };
    let mut reporter = reporter(&copy.output, request, environment, screen)?;
    let (events, mut follow) = mpsc::channel::<Event>(QUEUE);
    let stop = control.stop.clone();
    let work = backend::watch(&place, spec, password, mode, events, control);
    tokio::pin!(work);
    let outcome = loop {
        tokio::select! {
            Some(event) = follow.recv() => reporter.event(event),
            outcome = &mut work => break outcome,
        }
    };
    follow.close();
    while let Some(event) = follow.recv().await {
        reporter.event(event);
    }
    let written = reporter.finish();
    match outcome {
        Ok(Watched { last, .. }) => match last {
            // Being stopped is how a watch ends.
            _ if stop.is_cancelled() => Ok(exit::DONE),
            Some(summary) if args.once => Ok(exit::of_summary(&summary)),
            _ => Ok(written),
        },
        Err(failure) => {
            let trouble = Trouble::from(failure);
            screen.failure(&trouble);
            Ok(trouble.exit_code)
        }
    }
}
