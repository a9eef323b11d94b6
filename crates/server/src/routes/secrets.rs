//! `/api/secrets`: values go in; names come out.

use api::secrets::{PutSecret, Rekeyed, Secret, Secrets};
use app::policy::{Action, Principal};
use app::secrets;
use axum::Extension;
use axum::extract::{Path, State};
use hyper::StatusCode;
use jiff::Timestamp;
use model::ErrorClass;
use runtime::sealing;

use super::Of;
use crate::Refused;
use crate::input::{Answer, Empty, Input, name};

pub async fn list(State(doors): Of, Extension(who): Extension<Principal>) -> Result<Answer<Secrets>, Refused> {
    let secret = |kept: secrets::Kept| Secret { name: kept.name, updated_by: kept.updated_by, updated_at: kept.updated_at };
    let kept = secrets::list(&doors.store, &who).await?;
    Ok(Answer(Secrets { secrets: kept.into_iter().map(secret).collect() }))
}

pub async fn put(
    State(doors): Of,
    Extension(who): Extension<Principal>,
    Path(text): Path<String>,
    Input(body): Input<PutSecret>,
) -> Result<StatusCode, Refused> {
    secrets::set(&doors.store, &doors.vault, &who, &name(&text)?, &body.value, Timestamp::now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn remove(State(doors): Of, Extension(who): Extension<Principal>, Path(text): Path<String>) -> Result<StatusCode, Refused> {
    secrets::remove(&doors.store, &doors.vault, &who, &name(&text)?, Timestamp::now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The new key is on disk before anything is sealed with it, the old one until everything is.
pub async fn rekey(State(doors): Of, Extension(who): Extension<Principal>, _: Empty) -> Result<Answer<Rekeyed>, Refused> {
    who.may(Action::Configure)?;
    let failed =
        |e: runtime::keys::KeyError| app::Error::new(ErrorClass::Internal, format!("could not change the key of the secrets: {e}"));
    let _one = doors.rekeying.lock().await;
    let change = sealing::begin_change(&doors.key_file).map_err(failed)?;
    let secrets = secrets::rekey(&doors.store, &doors.vault, &who, change.key(), Timestamp::now()).await?;
    change.finish().map_err(failed)?;
    Ok(Answer(Rekeyed { secrets }))
}
