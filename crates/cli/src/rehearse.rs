//! `rehearse`, `probe` and `profile`: trying a destination out, and what is known of it.

use std::path::Path;

use app::{Event, advice, profiles, verdict};
use model::{Drift, ErrorClass, Location, Profile};
use runtime::{Depth, RehearseWish};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::args::{ProfileArgs, ProfileCommand, RehearseArgs, ServerArgs, StoreArgs};
use crate::copy::{end_on_signal, stop_on_signal, warn_about_login};
use crate::environment::Environment;
use crate::output::Screen;
use crate::settings;
use crate::trouble::Trouble;
use crate::{backend, exit};

/// Notes waiting to be printed.
const QUEUE: usize = 64;

pub async fn rehearse(args: &RehearseArgs, quick: bool, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    let location = settings::locate(&args.url)?;
    let to_stdout = args.letter.as_deref() == Some(Path::new("-"));
    if to_stdout && screen.json() {
        return Err(Trouble::usage("--letter - and --json both want stdout", "write the letter into a file"));
    }
    if args.letter.is_some() && matches!(location, Location::File { .. }) {
        return Err(Trouble::usage("nobody is to be written to about a directory of this machine", "leave --letter out"));
    }
    warn_about_login(screen, &location);
    let mut spec = settings::single_spec(&StoreArgs::default(), &args.server, environment)?;
    spec.options.temp_name = args.temp_name.clone().unwrap_or_default();
    let place = environment.place(screen);
    let said = screen.clone();
    let control = stop_on_signal(move |_| said.note("stopping: removing the scratch files; press again to stop at once"))?;
    let in_url = match location {
        Location::Server { password, .. } => password,
        _ => None,
    };
    let password = settings::credential(in_url, spec.server.password_from.as_deref(), &args.url, &place)?;
    let depth = match (args.read_only, quick) {
        (true, _) => Depth::Look,
        (false, true) => Depth::Probe,
        (false, false) => Depth::Rehearse,
    };
    let wish = RehearseWish { depth, directory: args.dir.clone() };
    let (events, mut notes) = mpsc::channel(QUEUE);
    let work = backend::rehearse(&place, &args.url, &spec, password, wish, events, control);
    tokio::pin!(work);
    let outcome = loop {
        tokio::select! {
            biased;
            Some(Event::Note(text)) = notes.recv() => screen.note(&text),
            outcome = &mut work => break outcome,
        }
    };
    while let Ok(Event::Note(text)) = notes.try_recv() {
        screen.note(&text);
    }
    let rehearsed = outcome?;
    screen.object(&object(&rehearsed.profile, &rehearsed.drift));
    for line in verdict::lines(&rehearsed.profile) {
        // The letter alone goes to stdout, so that it can be piped.
        if to_stdout { screen.note(&line) } else { screen.say(&line) }
    }
    for note in profiles::drift_notes(&rehearsed.drift) {
        screen.note(&note);
    }
    match &args.letter {
        None => {}
        Some(_) if to_stdout => rehearsed.letter.lines().for_each(|line| screen.line(&model::escape_name(line))),
        Some(path) => {
            let path = environment.expand(path);
            std::fs::write(&path, &rehearsed.letter).map_err(|error| {
                Trouble::of_class(ErrorClass::Internal, format!("could not write the letter {}: {error}", path.display()))
            })?;
            screen.note(&format!("the letter is in {}", path.display()));
        }
    }
    Ok(exit::DONE)
}

fn object(profile: &Profile, drift: &[Drift]) -> Value {
    let mut object = json!(profile);
    object["type"] = json!("profile");
    object["verdict"] = json!(verdict::verdict(profile));
    object["findings"] = json!(advice::findings(profile));
    object["drift"] = json!(drift.iter().map(Drift::to_string).collect::<Vec<_>>());
    object
}

pub async fn profile(command: &ProfileCommand, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    end_on_signal()?;
    let place = environment.place(screen);
    let spec = |args: &ProfileArgs| {
        settings::locate(&args.url)?;
        settings::single_spec(&StoreArgs::default(), &ServerArgs::default(), environment)
    };
    match command {
        ProfileCommand::Show(args) => match backend::show_profile(&place, &args.url, &spec(args)?).await? {
            Some(profile) => {
                for line in profiles::lines(&profile) {
                    screen.say(&line);
                }
                screen.object(&object(&profile, &[]));
            }
            None => {
                screen.note("nothing is known of this destination yet; `fileferry rehearse` finds out");
                screen.object(&json!({"v": 1, "type": "profile", "destination": null}));
            }
        },
        ProfileCommand::Forget(args) => {
            let forgotten = backend::forget_profile(&place, &args.url, &spec(args)?).await?;
            screen.say(if forgotten { "forgotten" } else { "nothing was known of this destination" });
            screen.object(&json!({"v": 1, "type": "forgotten", "forgotten": forgotten}));
        }
    }
    Ok(exit::DONE)
}
