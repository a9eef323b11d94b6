//! `transfer …`: deliveries by the service: ask for them, follow them, steer them, prove them.

use std::io::BufRead as _;
use std::path::Path;

use api::Client;
use api::client::Steer;
use api::transfers::{Progress, Seen, SubmitTransfer, Transfer, TransferOptions};
use model::{ByteCount, ErrorClass, Name, TransferId, TransferState};
use serde_json::{Value, json};

use crate::environment::Environment;
use crate::output::Screen;
use crate::report::files;
use crate::service::client;
use crate::service_args::{OneTransfer, SubmitArgs, TransferCommand};
use crate::trouble::Trouble;
use crate::{copy, exit};

/// A list of keys that is longer is a prefix.
const LONGEST_LIST: usize = 10_000;

pub async fn run(command: &TransferCommand, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    let steered = |what: Steer, args: &OneTransfer| {
        let (client, id) = (client(&args.service, environment), args.id.clone());
        async move { client.steer(&id, what).await }
    };
    match command {
        TransferCommand::Submit(args) => return submit(args, environment, screen).await,
        TransferCommand::List { limit, service } => list(&client(service, environment), *limit, screen).await?,
        TransferCommand::Show(args) => {
            let transfer = client(&args.service, environment).transfer(&args.id).await?;
            tell(&transfer, screen);
            details(&transfer, screen);
        }
        TransferCommand::Watch(args) => return watch(&client(&args.service, environment), &args.id, screen).await,
        TransferCommand::Cancel(args) => tell(&steered(Steer::Cancel, args).await?, screen),
        TransferCommand::Pause(args) => tell(&steered(Steer::Pause, args).await?, screen),
        TransferCommand::Resume(args) => tell(&steered(Steer::Resume, args).await?, screen),
        TransferCommand::Retry(args) => tell(&steered(Steer::Retry, args).await?, screen),
        TransferCommand::Approve(args) => tell(&steered(Steer::Approve, args).await?, screen),
        TransferCommand::Receipt(args) => receipts(&client(&args.service, environment), &args.id, screen).await?,
    }
    Ok(exit::DONE)
}

async fn submit(args: &SubmitArgs, environment: &Environment, screen: &Screen) -> Result<u8, Trouble> {
    let body = asked(args, environment)?;
    let key = match &args.idempotency_key {
        Some(key) => key.clone(),
        // A new one each time; it still makes a repeated request over a broken connection harmless.
        None => format!("submit-{}", app::transfers::new_id().map_err(|e| Trouble::of_class(e.class, e.message))?),
    };
    let client = client(&args.service, environment);
    let submitted = client.submit(&body, Some(&key)).await?;
    tell(&submitted.transfer, screen);
    let id = &submitted.transfer.transfer_id;
    if submitted.replayed {
        screen.note("this was submitted before under the same key; nothing new was begun");
    }
    if args.wait {
        return watch(&client, id, screen).await;
    }
    if let Some(reason) = &submitted.transfer.waiting {
        screen.note(&format!("it waits: {reason}"));
    }
    screen.note(&format!("follow it with `fileferry transfer watch {id}`"));
    Ok(exit::DONE)
}

fn asked(args: &SubmitArgs, environment: &Environment) -> Result<SubmitTransfer, Trouble> {
    let usage = |what: &str, next: &str| Trouble::usage(what.to_owned(), next.to_owned());
    let named = |text: &str| {
        text.parse::<Name>().map_err(|e| Trouble::usage(e.to_string(), "the service's list commands show the names there are"))
    };
    let Some((source, wanted)) = args.source.split_once(':') else {
        return Err(usage(
            "a source is SOURCE:KEY or SOURCE:PREFIX/",
            "name a source of `fileferry source list`, a colon, and what is to be sent",
        ));
    };
    let (connector, path) = args.destination.split_once(':').unwrap_or((&args.destination, ""));
    let (mut source_key, mut source_keys, mut source_prefix) = (None, None, None);
    match &args.files_from {
        Some(_) if !wanted.is_empty() => {
            return Err(usage("--files-from lists whole keys, so nothing may stand after the colon of SOURCE:", "write SOURCE: alone"));
        }
        Some(list) => source_keys = Some(listed(list, environment)?),
        None if wanted.is_empty() || wanted.ends_with('/') => source_prefix = Some(wanted.to_owned()),
        None => source_key = Some(wanted.to_owned()),
    }
    let age = |age: Option<std::time::Duration>| age.map(|age| format!("{}ms", age.as_millis()));
    let options = TransferOptions {
        if_exists: args.if_exists,
        verify: args.verify,
        name: args.name.clone(),
        include: args.include.clone(),
        exclude: args.exclude.clone(),
        min_size: args.min_size,
        max_size: args.max_size,
        min_age: age(args.min_age),
        max_age: age(args.max_age),
        resend: args.resend,
        fail_if_empty: args.fail_if_empty,
    };
    Ok(SubmitTransfer {
        source: named(source)?,
        source_key,
        source_keys,
        source_prefix,
        connector: named(connector)?,
        destination_path: (!path.is_empty()).then(|| path.to_owned()),
        priority: (args.priority > 0).then_some(args.priority),
        options,
    })
}

fn listed(list: &Path, environment: &Environment) -> Result<Vec<String>, Trouble> {
    let wrong = |why: String| Trouble::usage(format!("the list {}: {why}", list.display()), "give a key per line");
    let reader: Box<dyn std::io::BufRead> = match list == Path::new("-") {
        true => Box::new(std::io::stdin().lock()),
        false => Box::new(std::io::BufReader::new(std::fs::File::open(environment.expand(list)).map_err(|e| wrong(e.to_string()))?)),
    };
    let mut keys = Vec::new();
    for line in reader.lines() {
        let line = line.map_err(|e| wrong(e.to_string()))?;
        if !line.is_empty() {
            keys.push(line);
        }
        if keys.len() > LONGEST_LIST {
            return Err(wrong(format!("has more than {LONGEST_LIST} keys; submit a prefix")));
        }
    }
    Ok(keys)
}

async fn list(client: &Client, limit: u32, screen: &Screen) -> Result<(), Trouble> {
    let (mut left, mut before) = (limit, None);
    while left > 0 {
        let page = client.transfers(left, before.as_ref()).await?;
        page.transfers.iter().for_each(|transfer| tell(transfer, screen));
        if page.transfers.is_empty() && before.is_none() {
            screen.note("nothing was submitted yet");
        }
        left = left.saturating_sub(page.transfers.len() as u32);
        match page.next {
            Some(next) => before = Some(next),
            None => break,
        }
    }
    Ok(())
}

async fn watch(client: &Client, id: &TransferId, screen: &Screen) -> Result<u8, Trouble> {
    copy::end_on_signal()?;
    let mut lines = client.watch(id).await?;
    let mut last = None;
    while let Some(line) = lines.next().await? {
        let Ok(seen) = serde_json::from_str::<Seen>(&line) else { continue };
        match seen {
            Seen::Transfer(transfer) => {
                tell(&transfer, screen);
                last = Some(*transfer);
            }
            Seen::Progress(progress) => tell_progress(&progress, screen),
        }
        if screen.is_closed() {
            return Ok(exit::DONE);
        }
    }
    // The stream ends when the transfer rests, and when the service does.
    match last {
        Some(transfer) if rests(transfer.state) => {
            details(&transfer, screen);
            Ok(code(&transfer))
        }
        _ => Err(Trouble {
            class: None,
            exit_code: 5,
            what: "the service stopped before the transfer had ended".to_owned(),
            whose_move: "yours".to_owned(),
            next: format!("start it again; the transfer goes on, and `fileferry transfer watch {id}` follows it"),
        }),
    }
}

fn rests(state: TransferState) -> bool {
    state.is_terminal() || matches!(state, TransferState::Paused | TransferState::Held)
}

/// How a transfer that rests ends the command.
fn code(transfer: &Transfer) -> u8 {
    match (transfer.state, &transfer.error) {
        (TransferState::Completed, _) => exit::DONE,
        (TransferState::CompletedWithErrors, _) => exit::SOME_FAILED,
        (TransferState::Cancelled | TransferState::Paused, _) => ErrorClass::Cancelled.exit_code(),
        (_, Some(error)) => error.class.exit_code(),
        // Held without an error: a person or a ticket is waited for.
        (TransferState::Held, None) => ErrorClass::TicketUnavailable.exit_code(),
        _ => ErrorClass::Internal.exit_code(),
    }
}

async fn receipts(client: &Client, id: &TransferId, screen: &Screen) -> Result<(), Trouble> {
    let mut lines = client.receipts(id).await?;
    let mut some = false;
    while let Some(line) = lines.next().await? {
        some = true;
        // Byte for byte as it was signed.
        screen.line(&line);
        if screen.is_closed() {
            return Ok(());
        }
    }
    if !some {
        screen.note("nothing was delivered yet, so there is no receipt");
    }
    Ok(())
}

fn tell(transfer: &Transfer, screen: &Screen) {
    let waits = match (&transfer.wish, &transfer.waiting) {
        (Some(wish), _) => format!(" ({wish} is wished)"),
        (None, Some(reason)) => format!(" ({reason})"),
        (None, None) => String::new(),
    };
    screen.say(&format!(
        "{}  {:.0}  {}{waits}  {}/{} ({})  {} -> {}",
        transfer.transfer_id,
        transfer.created_at,
        transfer.state,
        transfer.files_done,
        files(transfer.files_total),
        ByteCount(transfer.bytes_total),
        transfer.source_url,
        transfer.destination
    ));
    screen.object(&object(transfer));
}

fn details(transfer: &Transfer, screen: &Screen) {
    let tickets = [&transfer.user_ticket, &transfer.audit_ticket].map(|ticket| ticket.as_deref().unwrap_or("none"));
    screen.say(&format!(
        "  source {}, connector {}, priority {}, run {}",
        transfer.source, transfer.connector, transfer.priority, transfer.run
    ));
    screen.say(&format!("  asked by {}, tickets {} and {}", transfer.user, tickets[0], tickets[1]));
    if let Some(by) = &transfer.approval.approved_by {
        screen.say(&format!("  approved by {by}"));
    }
    if transfer.files_failed > 0 {
        screen.say(&format!("  not delivered: {}", files(transfer.files_failed)));
    }
    if let Some(error) = &transfer.error {
        screen.say(&format!("  {}: {}", error.class, error.message));
        screen.say(&format!("  whose move: {}", error.whose_move));
        screen.say(&format!("  next: {}", error.next));
    }
}

fn object(transfer: &Transfer) -> Value {
    typed("transfer", json!(transfer))
}

/// `v` and `type` come first, as in every line.
fn typed(kind: &str, fields: Value) -> Value {
    let mut object = json!({"v": 1, "type": kind});
    if let (Some(object), Value::Object(mut fields)) = (object.as_object_mut(), fields) {
        object.append(&mut fields);
    }
    object
}

fn tell_progress(progress: &Progress, screen: &Screen) {
    screen.say(&format!(
        "  {:>5.1} %  {} of {}  {}/s  {}/{}",
        progress.percentage,
        ByteCount(progress.bytes_transferred),
        ByteCount(progress.total),
        ByteCount(progress.rate),
        progress.files_done,
        files(progress.files_total)
    ));
    screen.object(&typed("progress", json!(progress)));
}
