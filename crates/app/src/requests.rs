//! Governed transfers as people ask for them: submit, list, show, steer. Each is one decision and one batch, so that a request
//! is there with everything that belongs to it, or not at all.

use std::collections::HashSet;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::{SignedDuration, Timestamp};
use model::{ByteCount, Grade, IfExists, Location, Name, NameTemplate, ObjectKey, TicketKind, TransferId, TransferState, Verify};
use serde::Serialize;
use store::{
    Approval as Approved, Batch, Conflict, IdempotencyRecord, Mutation, NewTicket, Request, RequestQuery, RequestRecord, StateCount, Store,
    TransferRecord, Waiting, Wish,
};

use crate::binding;
use crate::connectors::{Approval, ConnectorSettings};
use crate::error::{Error, Result};
use crate::policy::{Action, Principal};
use crate::register;
use crate::settings;
use crate::sources::SourceSettings;
use crate::spec::{CopySpec, Mkdir, Options};

/// `Waiting::reason` of a transfer that somebody else has to approve.
pub const WAITS_FOR_APPROVAL: &str = "approval";
/// How long a key stands for its transfer.
const KEY_LASTS: SignedDuration = SignedDuration::from_hours(7 * 24);
/// How long an ended request is read.
const REQUEST_LASTS: SignedDuration = SignedDuration::from_hours(90 * 24);
/// More keys than this are a prefix.
const MOST_KEYS: usize = 10_000;
const LONGEST_IDEMPOTENCY_KEY: usize = 200;
const DEFAULT_GROUP: &str = "DataOps";
const USER_URGENCY: u8 = 2;
const AUDIT_URGENCY: u8 = 3;

/// What is asked. Its JSON is what an idempotency key stands for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Submission {
    pub source: Name,
    pub wanted: Wanted,
    pub connector: Name,
    /// Below the connector's directory.
    pub path: String,
    pub priority: u8,
    pub changes: Changes,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    Key(String),
    Keys(Vec<String>),
    Prefix(String),
}

/// What one transfer decides for itself; `None` leaves it to the connector.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Changes {
    pub if_exists: Option<IfExists>,
    pub verify: Option<Verify>,
    pub name: Option<NameTemplate>,
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    pub min_size: Option<ByteCount>,
    pub max_size: Option<ByteCount>,
    pub min_age: Option<std::time::Duration>,
    pub max_age: Option<std::time::Duration>,
    pub resend: bool,
    pub fail_if_empty: bool,
}

/// A governed transfer in full.
#[derive(Debug, Clone)]
pub struct Shown {
    pub request: RequestRecord,
    pub transfer: TransferRecord,
    pub counts: Vec<StateCount>,
}

#[derive(Debug, Clone)]
pub struct Submitted {
    pub shown: Shown,
    /// An earlier request with the same key has done it.
    pub replayed: bool,
}

/// Records what is asked, with its tickets. `key` makes it safe to ask again.
pub async fn submit(store: &Store, who: &Principal, asked: Submission, key: Option<&str>, now: Timestamp) -> Result<Submitted> {
    who.may(Action::Transfer)?;
    if asked.priority > 9 {
        return Err(Error::invalid("priority", "is 0 to 9"));
    }
    if key.is_some_and(|key| key.is_empty() || key.len() > LONGEST_IDEMPOTENCY_KEY) {
        return Err(Error::invalid("Idempotency-Key", format!("has 1 to {LONGEST_IDEMPOTENCY_KEY} characters")));
    }
    let request_hash = hex(&serde_json::to_vec(&asked).map_err(|e| Error::invalid("request", e))?);
    let key = key.map(|key| format!("{}\n{key}", who.user));
    if let Some(key) = &key
        && let Some(earlier) = store.idempotency(key, now).await?
    {
        return replay(store, who, earlier, &request_hash, now).await;
    }
    let missing = |what: &str, name: &Name| Error::unknown(what, name).next(format!("`fileferry {what} list` shows those there are"));
    let connector: ConnectorSettings =
        settings::load(store, &asked.connector).await?.ok_or_else(|| missing("connector", &asked.connector))?;
    let source: SourceSettings = settings::load(store, &asked.source).await?.ok_or_else(|| missing("source", &asked.source))?;
    if !connector.enabled {
        return Err(Error::conflict(format!("connector {} is disabled", asked.connector))
            .next(format!("`fileferry connector enable {}`, if that is over", asked.connector)));
    }
    let spec = spec(&asked, &connector, &source)?;
    // The same request again has the same id, and so the same tickets, whatever was cut short the first time.
    let id = match &key {
        Some(key) => derived_id(key, &request_hash),
        None => crate::transfers::new_id()?,
    };
    let text = serde_json::to_string(&spec).map_err(|e| Error::invalid("request", e))?;
    let spec_hash = binding::spec_hash(&who.user, asked.connector.as_str(), asked.source.as_str(), &text);
    let pair =
        TicketKind::ALL.iter().map(|kind| Mutation::OpenTicket(Box::new(ticket(*kind, &id, &spec_hash, who, &connector, &spec, now))));
    let mut opening = Batch::new();
    opening.extend(pair);
    let tickets = store.commit(opening).await?.tickets;
    let number = |kind: TicketKind| tickets.iter().find(|ticket| ticket.kind == kind).map(|ticket| register::shown(ticket.number));

    let waits = connector.approval == Approval::SecondPerson;
    let mut request = RequestRecord {
        transfer: id.clone(),
        user: who.user.clone(),
        connector: asked.connector.to_string(),
        source: asked.source.to_string(),
        priority: asked.priority,
        spec_hash,
        approval: Approved { policy: connector.approval.as_str().to_owned(), approved_by: None, approved_at: None },
        user_ticket: number(TicketKind::User),
        audit_ticket: number(TicketKind::Audit),
        wish: Wish::None,
        waiting: waits.then(|| Waiting { class: None, reason: WAITS_FOR_APPROVAL.to_owned() }),
        execution: None,
        created_at: now,
        updated_at: now,
        expires_at: after(now, REQUEST_LASTS)?,
    };
    request.approval.approved_at = (!waits).then_some(now);
    let record = record(&id, &spec, text, if waits { TransferState::Held } else { TransferState::Pending }, now);
    let mut batch = Batch::new().push(Mutation::CreateTransfer(record)).push(Mutation::CreateRequest(Box::new(request)));
    if let Some(key) = key {
        let (transfer, expires_at) = (id.clone(), after(now, KEY_LASTS)?);
        batch = batch.push(Mutation::PutIdempotency(IdempotencyRecord {
            key,
            request_hash: request_hash.clone(),
            transfer,
            created_at: now,
            expires_at,
        }));
    }
    match store.commit(batch.by(&who.user)).await {
        Ok(_) => Ok(Submitted { shown: show(store, who, &id, now).await?, replayed: false }),
        // Two of the same request at the same moment: the other one has done it.
        Err(error) => match error.conflict() {
            Some(Conflict::Idempotency(earlier)) => replay(store, who, earlier.clone(), &request_hash, now).await,
            Some(Conflict::Exists) => Ok(Submitted { shown: show(store, who, &id, now).await?, replayed: true }),
            _ => Err(error.into()),
        },
    }
}

async fn replay(store: &Store, who: &Principal, earlier: IdempotencyRecord, request_hash: &str, now: Timestamp) -> Result<Submitted> {
    if earlier.request_hash != request_hash {
        return Err(Error::conflict(format!(
            "the idempotency key stands for transfer {}, which was asked with another input",
            earlier.transfer
        ))
        .next("send the same input again, or choose another key"));
    }
    Ok(Submitted { shown: show(store, who, &earlier.transfer, now).await?, replayed: true })
}

/// What is asked, the connector's settings and the source's, as one spec. Nothing in it can lead outside both.
fn spec(asked: &Submission, connector: &ConnectorSettings, source: &SourceSettings) -> Result<CopySpec> {
    let mut options = changed(&connector.options, &asked.changes)?;
    let at = |text: &str| format!("s3://{}/{text}", source.bucket);
    let url = match &asked.wanted {
        Wanted::Key(key) => {
            fits("source_key", key)?;
            at(key)
        }
        Wanted::Keys(keys) => {
            let mut seen = HashSet::new();
            if keys.is_empty() || keys.len() > MOST_KEYS {
                return Err(Error::invalid("source_keys", format!("holds 1 to {MOST_KEYS} keys")).next("more of them are a source_prefix"));
            }
            for key in keys {
                fits("source_keys", key)?;
                if !seen.insert(key) {
                    return Err(Error::invalid("source_keys", format!("names {} twice", model::escape_name(key))));
                }
            }
            options.keys = keys.clone();
            at("")
        }
        Wanted::Prefix(prefix) if prefix.is_empty() || prefix.ends_with('/') => at(prefix),
        Wanted::Prefix(_) => {
            return Err(Error::invalid("source_prefix", "ends in / or is empty").next("narrow it with options.include, as in \"2026-*\""));
        }
    };
    let destination = destination(connector, &asked.path, matches!(asked.wanted, Wanted::Key(_)))?;
    // The connector's directory is the given one; what a request names lies below it, and may be made.
    if asked.path.contains('/') && options.mkdir == Mkdir::Below {
        options.mkdir = Mkdir::All;
    }
    let spec = CopySpec { source: url, destination, s3: source.s3.clone(), server: connector.reached(), options };
    // What cannot be read back as it was meant would read something else.
    let meant = match &asked.wanted {
        Wanted::Key(text) | Wanted::Prefix(text) => text.as_str(),
        Wanted::Keys(_) => "",
    };
    match Location::parse(&spec.source) {
        Ok(Location::S3 { bucket, text }) if bucket == source.bucket && text == meant => {}
        _ => return Err(Error::invalid("source_key", "is not a key that can be named")),
    }
    match source.covers(&spec) {
        true => Ok(spec),
        false => Err(Error::denied(format!("source {} does not cover all that was named", asked.source))
            .next(format!("its prefixes are {}", source.prefixes.join(", ")))),
    }
}

fn fits(field: &str, key: &str) -> Result<()> {
    let key = ObjectKey::new(key).map_err(|e| Error::invalid(field, e))?;
    match key.is_folder_marker() {
        true => Err(Error::invalid(field, "ends in /").next("a source_prefix names everything below")),
        false => Ok(()),
    }
}

fn destination(connector: &ConnectorSettings, path: &str, one_file: bool) -> Result<String> {
    let invalid = |why: &str| Error::invalid("destination_path", why);
    if path.starts_with('/') {
        return Err(invalid("is below the connector's directory; it does not begin with /"));
    }
    let url = format!("{}{path}", connector.url);
    let place = |url: &str| match Location::parse(url) {
        Ok(Location::Server { path, directory, .. } | Location::File { path, directory }) => Ok((path, directory)),
        Ok(Location::S3 { .. }) => Err(invalid("is not at a server")),
        Err(e) => Err(Error::invalid("destination_path", e)),
    };
    let ((root, _), (path, directory)) = (place(&connector.url)?, place(&url)?);
    if !path.starts_with(&root) {
        return Err(invalid("leads out of the connector's directory"));
    }
    match directory || one_file {
        true => Ok(url),
        false => Err(invalid("names one file and several are sent").next("end it with /")),
    }
}

/// The connector's options with what the request changes. A request may ask for more proof and never for less.
fn changed(options: &Options, changes: &Changes) -> Result<Options> {
    let mut options = options.clone();
    if let Some(if_exists) = changes.if_exists {
        if if_exists == IfExists::ReplaceUnsafe && options.if_exists != IfExists::ReplaceUnsafe {
            return Err(Error::denied("options.if_exists: replace-unsafe is the connector's to allow").next("use replace, update or skip"));
        }
        options.if_exists = if_exists;
    }
    if let Some(verify) = changes.verify {
        let least = |verify: Verify| match verify {
            Verify::Auto => Grade::Sampled,
            Verify::AtLeast(grade) => grade,
        };
        let weaker = !least(verify).satisfies(least(options.verify)) || (verify == Verify::Auto && options.verify != Verify::Auto);
        if weaker {
            return Err(Error::denied(format!("options.verify: {verify} is weaker than the connector's {}", options.verify))
                .next("leave it out, or ask for a stronger one"));
        }
        options.verify = verify;
    }
    if let Some(name) = &changes.name {
        options.name = name.clone();
    }
    if !changes.include.is_empty() {
        options.include = changes.include.clone();
    }
    // Both exclude: what the connector leaves out, no request sends.
    options.exclude.extend(changes.exclude.iter().cloned());
    options.min_size = changes.min_size.or(options.min_size);
    options.max_size = changes.max_size.or(options.max_size);
    options.min_age = changes.min_age.or(options.min_age);
    options.max_age = changes.max_age.or(options.max_age);
    options.resend |= changes.resend;
    options.fail_if_empty |= changes.fail_if_empty;
    Ok(options)
}

fn ticket(
    kind: TicketKind,
    id: &TransferId,
    spec_hash: &str,
    who: &Principal,
    connector: &ConnectorSettings,
    spec: &CopySpec,
    now: Timestamp,
) -> NewTicket {
    NewTicket {
        correlation_id: format!("ff:{id}:{}", kind.as_str()),
        kind,
        transfer: id.clone(),
        spec_hash: spec_hash.to_owned(),
        urgency: if kind == TicketKind::User { USER_URGENCY } else { AUDIT_URGENCY },
        group: connector.group.clone().unwrap_or_else(|| DEFAULT_GROUP.to_owned()),
        opened_by: who.user.clone(),
        title: format!("Deliver {} to {}", spec.source, spec.destination),
        at: now,
    }
}

fn record(id: &TransferId, spec: &CopySpec, text: String, state: TransferState, now: Timestamp) -> TransferRecord {
    TransferRecord {
        id: id.clone(),
        run: 1,
        identity: binding::new_request_identity(id),
        source: spec.source.clone(),
        destination: spec.destination.clone(),
        spec: text,
        state,
        error_class: None,
        error_text: None,
        files_total: 0,
        bytes_total: 0,
        listed: false,
        pid: 0,
        created_at: now,
        updated_at: now,
        finished_at: None,
    }
}

fn derived_id(key: &str, request_hash: &str) -> TransferId {
    let digest = digest(&SHA256, format!("fileferry transfer\n{key}\n{request_hash}").as_bytes());
    let mut bytes = [0; 10];
    bytes.copy_from_slice(&digest.as_ref()[..10]);
    TransferId::from_random(bytes)
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(digest(&SHA256, bytes).as_ref())
}

fn after(now: Timestamp, time: SignedDuration) -> Result<Timestamp> {
    now.checked_add(time).map_err(|e| Error::new(model::ErrorClass::Internal, e.to_string()))
}

/// Newest first, as far as this caller may see.
pub async fn list(store: &Store, who: &Principal, before: Option<TransferId>, limit: u32, now: Timestamp) -> Result<Vec<Shown>> {
    who.may(Action::Look)?;
    let user = (!who.sees_all()).then(|| who.user.clone());
    let requests = store.requests(RequestQuery { user, before, limit, now: Some(now), ..RequestQuery::default() }).await?;
    let mut shown = Vec::with_capacity(requests.len());
    for request in requests {
        shown.push(in_full(store, request).await?);
    }
    Ok(shown)
}

/// Transfers of others answer as unknown ones do.
pub async fn show(store: &Store, who: &Principal, id: &TransferId, now: Timestamp) -> Result<Shown> {
    in_full(store, find(store, who, id, now).await?).await
}

async fn find(store: &Store, who: &Principal, id: &TransferId, now: Timestamp) -> Result<Request> {
    who.may(Action::Look)?;
    let request = store.request(id, now).await?.filter(|request| who.sees(&request.record));
    request.ok_or_else(|| Error::unknown("transfer", id).next("`fileferry transfer list` shows those there are"))
}

async fn in_full(store: &Store, request: Request) -> Result<Shown> {
    let id = &request.record.transfer;
    let transfer = store.transfer(id).await?.ok_or_else(|| Error::unknown("transfer", id))?;
    let counts = store.counts(id).await?;
    Ok(Shown { transfer, counts, request: request.record })
}

/// The names of a transfer's executions, the oldest first, for whoever may see it.
pub async fn executions(store: &Store, who: &Principal, id: &TransferId, now: Timestamp) -> Result<Vec<String>> {
    let request = find(store, who, id, now).await?;
    Ok((1..=request.run).map(|run| binding::execution_name(id, run)).collect())
}

/// Ends a transfer: at once where nothing is under way, otherwise as soon as its tasks have seen the wish.
pub async fn cancel(store: &Store, who: &Principal, id: &TransferId, now: Timestamp) -> Result<Shown> {
    stop(store, who, id, Wish::Cancel, TransferState::Cancelled, now).await
}

/// Stops a transfer so that it can be resumed.
pub async fn pause(store: &Store, who: &Principal, id: &TransferId, now: Timestamp) -> Result<Shown> {
    stop(store, who, id, Wish::Pause, TransferState::Paused, now).await
}

async fn stop(store: &Store, who: &Principal, id: &TransferId, wish: Wish, end: TransferState, now: Timestamp) -> Result<Shown> {
    who.may(Action::Transfer)?;
    let request = find(store, who, id, now).await?;
    let transfer = id.clone();
    let batch = match request.state {
        state if state == end => return in_full(store, request).await,
        TransferState::InProgress => Batch::from(Mutation::SetWish { transfer, wish, expect: None, at: now }),
        TransferState::Pending | TransferState::Held | TransferState::Paused => {
            let expect = Some(vec![request.state]);
            let mut batch =
                Batch::new().push(Mutation::SetTransferState { transfer: transfer.clone(), state: end, error: None, at: now, expect });
            if end != TransferState::Paused {
                batch = batch.push(Mutation::SetWaiting { transfer: transfer.clone(), waiting: None, at: now });
                batch.extend(closing(&request, now));
            }
            batch
        }
        state => return Err(ended(id, state, &format!("there is nothing to {wish}"))),
    };
    store.commit(batch.by(&who.user)).await.map_err(|e| moved_on(e, id))?;
    show(store, who, id, now).await
}

/// A transfer that never began leaves no open ticket.
fn closing(request: &Request, now: Timestamp) -> impl Iterator<Item = Mutation> {
    let RequestRecord { user_ticket, audit_ticket, .. } = &request.record;
    let numbers: Vec<u64> = [user_ticket, audit_ticket].into_iter().flatten().filter_map(|number| register::number(number)).collect();
    let state = model::TicketState::Canceled;
    numbers.into_iter().map(move |number| Mutation::SetTicketState { number, state, expect: None, at: now })
}

/// Goes on with a paused or held transfer.
pub async fn resume(store: &Store, who: &Principal, id: &TransferId, now: Timestamp) -> Result<Shown> {
    again(store, who, id, &[TransferState::Paused, TransferState::Held], "resumed", now).await
}

/// Sends what has failed; what was delivered stays delivered.
pub async fn retry(store: &Store, who: &Principal, id: &TransferId, now: Timestamp) -> Result<Shown> {
    again(store, who, id, &[TransferState::Failed, TransferState::CompletedWithErrors, TransferState::Held], "retried", now).await
}

async fn again(store: &Store, who: &Principal, id: &TransferId, from: &[TransferState], word: &str, now: Timestamp) -> Result<Shown> {
    who.may(Action::Transfer)?;
    let request = find(store, who, id, now).await?;
    if !from.contains(&request.state) {
        return Err(ended(id, request.state, &format!("only one that is {} is {word}", words(from))));
    }
    let unapproved = request.record.approval.approved_at.is_none();
    if unapproved && request.state == TransferState::Held {
        return Err(Error::conflict(format!("transfer {id} waits for an approval"))
            .next(format!("somebody else runs `fileferry transfer approve {id}`")));
    }
    let (state, waiting) = match unapproved {
        true => (TransferState::Held, Some(Waiting { class: None, reason: WAITS_FOR_APPROVAL.to_owned() })),
        false => (TransferState::Pending, None),
    };
    store.commit(another_run(&request, state, waiting, now).by(&who.user)).await.map_err(|e| moved_on(e, id))?;
    show(store, who, id, now).await
}

/// The next run of a transfer that rests, on the approval and the grant that it has.
pub(crate) fn another_run(request: &Request, state: TransferState, waiting: Option<Waiting>, now: Timestamp) -> Batch {
    let transfer = request.record.transfer.clone();
    let mut batch = Batch::new();
    // A run that never began is still to come.
    if request.record.execution.is_some() {
        batch = batch.push(Mutation::StartRun { transfer: transfer.clone(), run: request.run + 1, pid: 0, at: now });
    }
    batch
        .push(Mutation::SetTransferState { transfer: transfer.clone(), state, error: None, at: now, expect: Some(vec![request.state]) })
        .push(Mutation::SetWish { transfer: transfer.clone(), wish: Wish::None, expect: None, at: now })
        .push(Mutation::SetWaiting { transfer, waiting, at: now })
}

/// Lets a transfer begin that somebody else has asked for.
pub async fn approve(store: &Store, who: &Principal, id: &TransferId, now: Timestamp) -> Result<Shown> {
    who.may(Action::Approve)?;
    let request = find(store, who, id, now).await?;
    if request.record.approval.approved_at.is_some() || request.state != TransferState::Held {
        return Err(ended(id, request.state, "it does not wait for an approval"));
    }
    if request.record.user == who.user {
        return Err(Error::denied(format!("{} has asked for transfer {id} and cannot approve it", who.user))
            .next("somebody else with the right to approve has to"));
    }
    let transfer = id.clone();
    let batch = Batch::new()
        .push(Mutation::ApproveRequest { transfer: transfer.clone(), by: who.user.clone(), at: now })
        .push(Mutation::SetTransferState {
            transfer: transfer.clone(),
            state: TransferState::Pending,
            error: None,
            at: now,
            expect: Some(vec![TransferState::Held]),
        })
        .push(Mutation::SetWaiting { transfer, waiting: None, at: now });
    store.commit(batch.by(&who.user)).await.map_err(|e| moved_on(e, id))?;
    show(store, who, id, now).await
}

fn words(states: &[TransferState]) -> String {
    states.iter().map(|state| state.as_str()).collect::<Vec<_>>().join(" or ")
}

fn ended(id: &TransferId, state: TransferState, why: &str) -> Error {
    Error::conflict(format!("transfer {id} is {state}; {why}")).next(format!("`fileferry transfer show {id}` says how it stands"))
}

/// Between reading and writing the transfer has gone on by itself.
fn moved_on(error: store::Error, id: &TransferId) -> Error {
    match error.kind {
        store::ErrorKind::Conflict => {
            Error::conflict(format!("transfer {id} has moved on: {}", crate::error::cause(&error))).next("look at it and ask again")
        }
        _ => error.into(),
    }
}

#[cfg(test)]
#[path = "requests_tests.rs"]
mod tests;
