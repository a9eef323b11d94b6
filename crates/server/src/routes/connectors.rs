//! `/api/connectors`: the partners' servers.

use api::connectors::{Connector, Connectors, PutConnector, Tested, Trust};
use app::connectors::{self, ConnectorSettings};
use app::policy::{Action, Principal};
use app::settings;
use axum::Extension;
use axum::extract::{Path, State};
use hyper::StatusCode;
use jiff::Timestamp;

use super::Of;
use crate::Refused;
use crate::input::{Answer, Empty, Input, name};

fn connector(named: connectors::Connector) -> Answer<Connector> {
    Answer(Connector {
        name: named.name,
        version: named.version,
        settings: serde_json::to_value(named.settings).unwrap_or_default(),
        updated_by: named.updated_by,
        updated_at: named.updated_at,
    })
}

pub async fn list(State(doors): Of, Extension(who): Extension<Principal>) -> Result<Answer<Connectors>, Refused> {
    let connectors = settings::list::<ConnectorSettings>(&doors.store, &who).await?;
    Ok(Answer(Connectors { connectors: connectors.into_iter().map(|named| connector(named).0).collect() }))
}

pub async fn show(State(doors): Of, Extension(who): Extension<Principal>, Path(text): Path<String>) -> Result<Answer<Connector>, Refused> {
    Ok(connector(settings::show(&doors.store, &who, &name(&text)?).await?))
}

pub async fn put(
    State(doors): Of,
    Extension(who): Extension<Principal>,
    Path(text): Path<String>,
    Input(body): Input<PutConnector>,
) -> Result<Answer<Connector>, Refused> {
    let settings = ConnectorSettings::read(&body.settings)?;
    let put = settings::put(&doors.store, &who, &name(&text)?, settings, body.version, Timestamp::now()).await?;
    doors.loops.wake();
    Ok(connector(put))
}

pub async fn remove(State(doors): Of, Extension(who): Extension<Principal>, Path(text): Path<String>) -> Result<StatusCode, Refused> {
    settings::remove::<ConnectorSettings>(&doors.store, &who, &name(&text)?, Timestamp::now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn trust(
    State(doors): Of,
    Extension(who): Extension<Principal>,
    Path(text): Path<String>,
    Input(body): Input<Trust>,
) -> Result<Answer<Connector>, Refused> {
    Ok(connector(connectors::trust(&doors.store, &who, &name(&text)?, &body.fingerprint, Timestamp::now()).await?))
}

pub async fn enable(
    State(doors): Of,
    Extension(who): Extension<Principal>,
    Path(text): Path<String>,
    _: Empty,
) -> Result<Answer<Connector>, Refused> {
    let enabled = connectors::set_enabled(&doors.store, &who, &name(&text)?, true, Timestamp::now()).await?;
    doors.loops.wake();
    Ok(connector(enabled))
}

pub async fn disable(
    State(doors): Of,
    Extension(who): Extension<Principal>,
    Path(text): Path<String>,
    _: Empty,
) -> Result<Answer<Connector>, Refused> {
    let disabled = connectors::set_enabled(&doors.store, &who, &name(&text)?, false, Timestamp::now()).await?;
    doors.loops.wake();
    Ok(connector(disabled))
}

/// Logs in, and writes and removes a small scratch file, as `probe` does.
pub async fn test(
    State(doors): Of,
    Extension(who): Extension<Principal>,
    Path(text): Path<String>,
    _: Empty,
) -> Result<Answer<Tested>, Refused> {
    who.may(Action::Configure)?;
    let named = settings::show(&doors.store, &who, &name(&text)?).await?;
    let (rehearsed, notes) = runtime::try_connector(&doors.place, &named.settings, doors.stop.child_token()).await?;
    Ok(Answer(Tested {
        verdict: app::verdict::lines(&rehearsed.profile),
        profile: serde_json::to_value(&rehearsed.profile).unwrap_or_default(),
        notes,
    }))
}
