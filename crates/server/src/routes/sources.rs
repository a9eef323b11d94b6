//! `/api/sources`: the buckets that transfers may read.

use api::sources::{PutSource, Source, Sources};
use app::policy::Principal;
use app::settings;
use app::sources::{NamedSource, SourceSettings};
use axum::Extension;
use axum::extract::{Path, State};
use hyper::StatusCode;
use jiff::Timestamp;

use super::Of;
use crate::Refused;
use crate::input::{Answer, Input, name};

fn source(named: NamedSource) -> Source {
    Source {
        name: named.name,
        version: named.version,
        settings: serde_json::to_value(named.settings).unwrap_or_default(),
        updated_by: named.updated_by,
        updated_at: named.updated_at,
    }
}

pub async fn list(State(doors): Of, Extension(who): Extension<Principal>) -> Result<Answer<Sources>, Refused> {
    let sources = settings::list::<SourceSettings>(&doors.store, &who).await?;
    Ok(Answer(Sources { sources: sources.into_iter().map(source).collect() }))
}

pub async fn show(State(doors): Of, Extension(who): Extension<Principal>, Path(text): Path<String>) -> Result<Answer<Source>, Refused> {
    Ok(Answer(source(settings::show(&doors.store, &who, &name(&text)?).await?)))
}

pub async fn put(
    State(doors): Of,
    Extension(who): Extension<Principal>,
    Path(text): Path<String>,
    Input(body): Input<PutSource>,
) -> Result<Answer<Source>, Refused> {
    let settings = SourceSettings::read(&body.settings)?;
    let put = settings::put(&doors.store, &who, &name(&text)?, settings, body.version, Timestamp::now()).await?;
    Ok(Answer(source(put)))
}

pub async fn remove(State(doors): Of, Extension(who): Extension<Principal>, Path(text): Path<String>) -> Result<StatusCode, Refused> {
    settings::remove::<SourceSettings>(&doors.store, &who, &name(&text)?, Timestamp::now()).await?;
    Ok(StatusCode::NO_CONTENT)
}
