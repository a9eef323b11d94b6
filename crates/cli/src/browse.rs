//! The commands that look: `ls`, `check`, `hash`; and `clean`, which removes what was left behind.

use std::future::Future;

use model::{Algorithm, ByteCount, ErrorClass, Location};
use runtime::{Difference, Failure};
use serde_json::json;
use tokio::sync::mpsc;

use crate::args::{CheckArgs, CleanArgs, HashArgs, LsArgs, StoreArgs};
use crate::copy::{warn_about_login, warn_about_proxy};
use crate::environment::Environment;
use crate::output::Screen;
use crate::settings::{self, Request};
use crate::trouble::Trouble;
use crate::{backend, exit};

/// Lines waiting to be printed: a million keys need the memory of these.
const QUEUE: usize = 1024;

pub async fn ls(args: &LsArgs, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    warn_about_login(screen, &settings::locate(&args.url)?);
    let spec = settings::single_spec(&args.store, &args.server, environment)?;
    warn_about_proxy(screen, &spec.server);
    let place = environment.place(screen);
    let (out, lines) = mpsc::channel(QUEUE);
    let work = backend::list(&place, &args.url, &spec, args.recursive, out);
    print(work, lines, screen, |entry| {
        let size = if entry.directory { "-".to_owned() } else { ByteCount(entry.size).to_string() };
        let modified = entry.modified.map_or_else(|| "-".to_owned(), |time| format!("{time:.0}"));
        screen.say(&format!("{size:>11}  {modified:<20}  {}{}", entry.name, slash(&entry)));
        screen.object(&json!({"v": 1, "type": "entry", "name": entry.name, "directory": entry.directory, "size": entry.size,
            "modified": entry.modified}));
    })
    .await?;
    Ok(exit::DONE)
}

fn slash(entry: &runtime::ListedEntry) -> &'static str {
    if entry.directory && !entry.name.ends_with('/') { "/" } else { "" }
}

pub async fn check(args: &CheckArgs, request: &Request, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    let (spec, in_url) = settings::check_spec(args, request.choices, environment)?;
    warn_about_login(screen, &settings::locate(&args.destination)?);
    warn_about_proxy(screen, &spec.server);
    let place = environment.place(screen);
    let password = settings::credential(in_url, spec.server.password_from.as_deref(), &spec.destination, &place)?;
    let (out, lines) = mpsc::channel(QUEUE);
    let work = backend::check(&place, spec, password, out);
    let mut worst = Vec::new();
    let summary = print(work, lines, screen, |difference| {
        let (word, name, how, code) = describe(&difference);
        worst.push(code);
        screen.say(format!("{word:<15} {name}  {how}").trim_end());
        screen.object(&json!({"v": 1, "type": "difference", "state": word, "name": name, "how": how}));
    })
    .await?;
    screen.say(&format!(
        "{} same, {} different, {} missing, {} only at the destination, {} could not be compared",
        summary.same, summary.differs, summary.missing, summary.only_at_destination, summary.failed
    ));
    let code = exit::of_all(worst);
    screen.object(&json!({"v": 1, "type": "check", "same": summary.same, "differs": summary.differs, "missing": summary.missing,
        "only_at_destination": summary.only_at_destination, "failed": summary.failed, "exit_code": code}));
    Ok(code)
}

/// Word, name, remark and exit code. A file that is only at the destination is no fault of the delivery.
fn describe(difference: &Difference) -> (&'static str, &str, String, u8) {
    match difference {
        Difference::Same { key, how } => ("same", key, how.clone(), exit::DONE),
        Difference::OnlyAtDestination { path } => ("extra", path, String::new(), exit::DONE),
        Difference::MissingAtDestination { key } => ("missing", key, String::new(), ErrorClass::IntegrityMismatch.exit_code()),
        Difference::Differs { key, how } => ("different", key, how.clone(), ErrorClass::IntegrityMismatch.exit_code()),
        Difference::Failed { key, class, message } => ("failed", key, format!("{class}: {message}"), class.exit_code()),
    }
}

pub async fn hash(args: &HashArgs, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    warn_about_login(screen, &settings::locate(&args.url)?);
    let spec = settings::single_spec(&args.store, &args.server, environment)?;
    warn_about_proxy(screen, &spec.server);
    let place = environment.place(screen);
    let algorithms = if args.digest.is_empty() { vec![Algorithm::Sha256] } else { args.digest.clone() };
    let (out, lines) = mpsc::channel(QUEUE);
    let work = backend::hash(&place, &args.url, &spec, &algorithms, out);
    print(work, lines, screen, |(name, algorithm, hex)| {
        // One algorithm prints as sha256sum does; several need their names.
        match algorithms.as_slice() {
            [_] => screen.say(&format!("{hex}  {name}")),
            _ => screen.say(&format!("{algorithm}  {hex}  {name}")),
        }
        screen.object(&json!({"v": 1, "type": "digest", "name": name, "algorithm": algorithm.name(), "value": hex}));
    })
    .await?;
    Ok(exit::DONE)
}

pub async fn clean(args: &CleanArgs, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    if matches!(settings::locate(&args.url)?, Location::S3 { .. }) {
        return Err(Trouble::usage(
            "clean looks at destinations; nothing of ours is left in a bucket",
            "name a directory of a server or file:///DIRECTORY/",
        ));
    }
    warn_about_login(screen, &settings::locate(&args.url)?);
    let mut spec = settings::single_spec(&StoreArgs::default(), &args.server, environment)?;
    warn_about_proxy(screen, &spec.server);
    spec.options.temp_name = args.temp_name.clone().unwrap_or_default();
    let place = environment.place(screen);
    let (out, lines) = mpsc::channel(QUEUE);
    let work = backend::clean(&place, &args.url, &spec, args.older_than, args.dry_run, out);
    let (mut removed, mut kept) = (0u64, 0u64);
    print(work, lines, screen, |leftover| {
        let word = match (leftover.removed, &leftover.kept_because) {
            (true, _) => "removed",
            (false, None) if args.dry_run => "would remove",
            (false, _) => "kept",
        };
        *(if word == "kept" { &mut kept } else { &mut removed }) += 1;
        let why = leftover.kept_because.as_deref().unwrap_or_default();
        screen.say(format!("{word:<12} {:>11}  {}  {why}", ByteCount(leftover.size).to_string(), leftover.path).trim_end());
        screen.object(&json!({"v": 1, "type": "leftover", "path": leftover.path, "size": leftover.size, "modified": leftover.modified,
            "removed": leftover.removed, "kept_because": leftover.kept_because}));
    })
    .await?;
    let verb = if args.dry_run { "would be removed" } else { "removed" };
    screen.say(&format!("{removed} {verb}, {kept} kept"));
    Ok(exit::DONE)
}

/// Prints what arrives while the work goes on. When nobody reads stdout any more the work is dropped: what is left
/// to say has no reader.
async fn print<T, R>(
    work: impl Future<Output = Result<R, Failure>>,
    mut lines: mpsc::Receiver<T>,
    screen: &Screen,
    mut show: impl FnMut(T),
) -> Result<R, Trouble> {
    tokio::pin!(work);
    let result = loop {
        tokio::select! {
            Some(line) = lines.recv() => {
                show(line);
                if screen.is_closed() {
                    // Who closed it has what they wanted, as with `head`.
                    return Err(Trouble { exit_code: exit::DONE, ..Trouble::usage("", "") });
                }
            }
            result = &mut work => break result,
        }
    };
    lines.close();
    while let Some(line) = lines.recv().await {
        show(line);
    }
    Ok(result?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::captured;

    #[tokio::test]
    async fn what_arrives_is_printed_before_the_result_counts() {
        let (screen, out, _) = captured::screen(false, false);
        let (send, lines) = mpsc::channel(2);
        let work = async move {
            for number in 0..10 {
                send.send(number).await.unwrap();
            }
            Ok(7)
        };
        assert_eq!(print(work, lines, &screen, |n: i32| screen.say(&n.to_string())).await.unwrap(), 7);
        assert_eq!(out.text().lines().count(), 10);
    }

    #[test]
    fn only_what_was_asked_to_be_delivered_decides_the_code() {
        let codes = |list: &[Difference]| exit::of_all(list.iter().map(|d| describe(d).3));
        let same = Difference::Same { key: "a".into(), how: "sha256".into() };
        let extra = Difference::OnlyAtDestination { path: "/x".into() };
        let missing = Difference::MissingAtDestination { key: "b".into() };
        let failed = Difference::Failed { key: "c".into(), class: ErrorClass::DestDenied, message: "no".into() };
        assert_eq!(codes(&[same.clone(), extra]), 0);
        assert_eq!(codes(&[same, missing.clone()]), 22);
        assert_eq!(codes(&[missing, failed]), 6);
    }
}
