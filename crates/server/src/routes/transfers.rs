//! `/api/transfer`: submit, list, show, steer, prove.

use std::sync::Arc;

use api::transfers::{Approval, History, IDEMPOTENCY_KEY, REPLAYED, SubmitTransfer, Transfer, TransferError, Transfers};
use app::policy::Principal;
use app::requests::{self, Changes, Shown, Submission, Wanted};
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::try_unfold;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use model::{FileNumber, FileState, TransferId, parse_duration};
use serde::Deserialize;

use super::Of;
use crate::input::{Answer, Empty, Input, transfer_id};
use crate::{Doors, Refused};

/// Transfers of one answer.
const PAGE: u32 = 100;
/// Receipts read at once.
const RECEIPTS: u32 = 200;
pub const LINES: &str = "application/x-ndjson";

pub async fn submit(
    State(doors): Of,
    Extension(who): Extension<Principal>,
    headers: HeaderMap,
    Input(body): Input<SubmitTransfer>,
) -> Result<Response, Refused> {
    let key = headers.get(IDEMPOTENCY_KEY).map(|value| value.to_str()).transpose();
    let key = key.map_err(|_| Refused::invalid("Idempotency-Key: is not plain text", "use letters, digits and dashes"))?;
    let submitted = requests::submit(&doors.store, &who, submission(body)?, key, Timestamp::now()).await?;
    doors.loops.wake();
    let mut answer = (StatusCode::ACCEPTED, Answer(transfer(&doors, submitted.shown))).into_response();
    if submitted.replayed {
        answer.headers_mut().insert(HeaderName::from_static(REPLAYED), HeaderValue::from_static("true"));
    }
    Ok(answer)
}

fn submission(body: SubmitTransfer) -> Result<Submission, Refused> {
    let wanted = match (body.source_key, body.source_keys, body.source_prefix) {
        (Some(key), None, None) => Wanted::Key(key),
        (None, Some(keys), None) => Wanted::Keys(keys),
        (None, None, Some(prefix)) => Wanted::Prefix(prefix),
        _ => {
            let detail = "exactly one of source_key, source_keys and source_prefix says what is sent";
            return Err(Refused::invalid(detail, "name one key, several keys, or everything below a prefix"));
        }
    };
    let age = |field: &str, text: Option<String>| {
        text.map(|text| parse_duration(&text))
            .transpose()
            .map_err(|e| Refused::invalid(format!("options.{field}: {e}"), "write 90s, 15m, 2h or 1d"))
    };
    let options = body.options;
    let changes = Changes {
        if_exists: options.if_exists,
        verify: options.verify,
        name: options.name,
        include: options.include,
        exclude: options.exclude,
        min_size: options.min_size,
        max_size: options.max_size,
        min_age: age("min_age", options.min_age)?,
        max_age: age("max_age", options.max_age)?,
        resend: options.resend,
        fail_if_empty: options.fail_if_empty,
    };
    let (path, priority) = (body.destination_path.unwrap_or_default(), body.priority.unwrap_or_default());
    Ok(Submission { source: body.source, wanted, connector: body.connector, path, priority, changes })
}

/// A transfer as answers have it, with what the running one says of itself.
pub fn transfer(doors: &Doors, shown: Shown) -> Transfer {
    let Shown { request, transfer, counts } = shown;
    let files = |wanted: fn(FileState) -> bool| counts.iter().filter(|c| wanted(c.state)).map(|c| c.files).sum::<u64>();
    let done: u64 = counts.iter().filter(|c| c.state.is_success()).map(|c| c.bytes).sum();
    let live = doors.loops.progress(&transfer.id).map_or(0, |progress| progress.bytes_done);
    let error = transfer.error_class.map(|class| TransferError {
        class,
        message: transfer.error_text.unwrap_or_default(),
        whose_move: class.whose_move().to_owned(),
        next: class.next_step().to_owned(),
    });
    Transfer {
        run: transfer.run,
        state: transfer.state,
        waiting: request.waiting.map(|waiting| waiting.reason),
        wish: (request.wish != store::Wish::None).then(|| request.wish.as_str().to_owned()),
        error,
        user: request.user,
        source: request.source,
        source_url: transfer.source,
        connector: request.connector,
        destination: transfer.destination,
        priority: request.priority,
        approval: Approval {
            policy: request.approval.policy,
            approved_by: request.approval.approved_by,
            approved_at: request.approval.approved_at,
        },
        user_ticket: request.user_ticket,
        audit_ticket: request.audit_ticket,
        execution: request.execution,
        files_total: transfer.files_total,
        files_done: files(FileState::is_success),
        files_failed: files(|state| matches!(state, FileState::Failed | FileState::Held | FileState::PublishPending)),
        bytes_total: transfer.bytes_total,
        bytes_transferred: done.max(live),
        created_at: transfer.created_at,
        updated_at: transfer.updated_at.max(request.updated_at),
        finished_at: transfer.finished_at,
        transfer_id: transfer.id,
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Page {
    limit: Option<u32>,
    before: Option<String>,
}

pub async fn list(
    State(doors): Of,
    Extension(who): Extension<Principal>,
    query: Result<Query<Page>, axum::extract::rejection::QueryRejection>,
) -> Result<Answer<Transfers>, Refused> {
    let Query(page) = query.map_err(|e| Refused::invalid(format!("the query cannot be read: {e}"), "it takes limit and before"))?;
    let before = page.before.as_deref().map(transfer_id).transpose()?;
    let limit = page.limit.unwrap_or(PAGE).clamp(1, PAGE);
    let found = requests::list(&doors.store, &who, before, limit, Timestamp::now()).await?;
    let next = (found.len() == limit as usize).then(|| found.last().map(|shown| shown.transfer.id.clone())).flatten();
    Ok(Answer(Transfers { transfers: found.into_iter().map(|shown| transfer(&doors, shown)).collect(), next }))
}

pub async fn show(State(doors): Of, Extension(who): Extension<Principal>, Path(id): Path<String>) -> Result<Answer<Transfer>, Refused> {
    let shown = requests::show(&doors.store, &who, &transfer_id(&id)?, Timestamp::now()).await?;
    Ok(Answer(transfer(&doors, shown)))
}

macro_rules! steering {
    ($($verb:ident)*) => {$(
        pub async fn $verb(
            State(doors): Of,
            Extension(who): Extension<Principal>,
            Path(id): Path<String>,
            _: Empty,
        ) -> Result<Answer<Transfer>, Refused> {
            let id = transfer_id(&id)?;
            let shown = requests::$verb(&doors.store, &who, &id, Timestamp::now()).await?;
            doors.loops.wish(&id);
            doors.loops.wake();
            Ok(Answer(transfer(&doors, shown)))
        }
    )*};
}

steering! { cancel pause resume retry approve }

/// The receipts of the delivered files, a line each, byte for byte as they were signed.
pub async fn receipts(State(doors): Of, Extension(who): Extension<Principal>, Path(id): Path<String>) -> Result<Response, Refused> {
    let id = transfer_id(&id)?;
    requests::show(&doors.store, &who, &id, Timestamp::now()).await?;
    let pages = try_unfold((doors, id, None), |(doors, id, after)| async move { page_of_receipts(doors, id, after).await });
    Ok(([(CONTENT_TYPE, HeaderValue::from_static(LINES))], Body::from_stream(pages)).into_response())
}

type Cursor = (Arc<Doors>, TransferId, Option<FileNumber>);

async fn page_of_receipts(doors: Arc<Doors>, id: TransferId, after: Option<FileNumber>) -> Result<Option<(Bytes, Cursor)>, store::Error> {
    let receipts = doors.store.receipts(&id, after, RECEIPTS).await?;
    let Some((last, _)) = receipts.last() else { return Ok(None) };
    let last = *last;
    let text: String = receipts.into_iter().flat_map(|(_, line)| [line, "\n".to_owned()]).collect();
    Ok(Some((Bytes::from(text), (doors, id, Some(last)))))
}

pub async fn history(State(doors): Of, Extension(who): Extension<Principal>, Path(id): Path<String>) -> Result<Answer<History>, Refused> {
    let names = requests::executions(&doors.store, &who, &transfer_id(&id)?, Timestamp::now()).await?;
    let mut executions = Vec::new();
    for name in names {
        executions.extend(super::events::execution(&doors.store, &name).await?);
    }
    Ok(Answer(History { executions }))
}
