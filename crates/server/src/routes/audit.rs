//! `/api/audit`: seals and entries as they were written, a line each.

use std::collections::VecDeque;
use std::sync::Arc;

use app::audit;
use app::policy::{Action, Principal};
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::try_unfold;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use jiff::Timestamp;
use model::TransferId;
use store::AuditCursor;

use super::Of;
use super::transfers::LINES;
use crate::input::transfer_id;
use crate::{Doors, Refused};

/// Entries read at once.
const PAGE: u32 = 500;
/// Seals read at once; one may have more than a hundred thousand characters.
const SEALS: u32 = 20;

/// Everything: the seals first, then the entries chain by chain. So every seal is followed by what it speaks of.
pub async fn export(State(doors): Of, Extension(who): Extension<Principal>) -> Result<Response, Refused> {
    who.may(Action::Audit)?;
    Ok(stream(Reading { doors, who, left: VecDeque::from([Part::Seals(0), Part::Entries(AuditCursor::default())]) }))
}

/// The chain of one transfer, for whoever sees it.
pub async fn of_transfer(State(doors): Of, Extension(who): Extension<Principal>, Path(id): Path<String>) -> Result<Response, Refused> {
    let id = transfer_id(&id)?;
    audit::may_read(&doors.store, &who, &id, Timestamp::now()).await?;
    Ok(stream(Reading { doors, who, left: VecDeque::from([Part::Chain(id, AuditCursor::default())]) }))
}

struct Reading {
    doors: Arc<Doors>,
    who: Principal,
    left: VecDeque<Part>,
}

/// What is still to be read, and where from.
enum Part {
    Seals(u64),
    Entries(AuditCursor),
    Chain(TransferId, AuditCursor),
}

fn stream(reading: Reading) -> Response {
    let pages = try_unfold(reading, |mut reading| async move { Ok::<_, app::Error>(reading.page().await?.map(|page| (page, reading))) });
    ([(CONTENT_TYPE, HeaderValue::from_static(LINES))], Body::from_stream(pages)).into_response()
}

impl Reading {
    async fn page(&mut self) -> app::Result<Option<Bytes>> {
        while let Some(part) = self.left.pop_front() {
            let (lines, next): (Vec<String>, Option<Part>) = match part {
                Part::Seals(after) => {
                    let page = audit::seals(&self.doors.store, &self.who, after, SEALS).await?;
                    let next = page.last().map(|(number, _)| Part::Seals(*number));
                    (page.into_iter().map(|(_, line)| line).collect(), next)
                }
                Part::Entries(after) => {
                    let page = audit::entries(&self.doors.store, &self.who, after, PAGE).await?;
                    let next = page.last().map(|line| Part::Entries(line.into()));
                    (page.into_iter().map(|line| line.line).collect(), next)
                }
                Part::Chain(id, after) => {
                    let page = audit::of_transfer(&self.doors.store, &id, after, PAGE).await?;
                    let next = page.last().map(|line| Part::Chain(id, line.into()));
                    (page.into_iter().map(|line| line.line).collect(), next)
                }
            };
            if let Some(next) = next {
                self.left.push_front(next);
                let text: String = lines.into_iter().flat_map(|line| [line, "\n".to_owned()]).collect();
                return Ok(Some(Bytes::from(text)));
            }
        }
        Ok(None)
    }
}
