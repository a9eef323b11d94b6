//! Which path leads to which handler, and what holds for all of them.

mod audit;
mod connectors;
mod events;
mod health;
mod secrets;
mod sources;
mod transfers;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post, put};
use hyper::StatusCode;

use crate::{Doors, Refused};

/// Longest time for an ordinary request, its body included.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// A look at a partner's server logs in and writes there.
const TESTED_WITHIN: Duration = Duration::from_secs(180);

type Of = State<Arc<Doors>>;

pub fn router(doors: Arc<Doors>) -> Router {
    let steer = |path: &str| format!("/api/transfer/{{id}}/{path}");
    let ordinary = Router::new()
        .route("/api/health", get(health::show))
        .route("/api/transfer", post(transfers::submit).get(transfers::list))
        .route("/api/transfer/{id}", get(transfers::show))
        .route(&steer("cancel"), post(transfers::cancel))
        .route(&steer("pause"), post(transfers::pause))
        .route(&steer("resume"), post(transfers::resume))
        .route(&steer("retry"), post(transfers::retry))
        .route(&steer("approve"), post(transfers::approve))
        .route(&steer("receipt"), get(transfers::receipts))
        .route(&steer("history"), get(transfers::history))
        .route(&steer("events"), get(events::watch))
        .route(&steer("audit"), get(audit::of_transfer))
        .route("/api/audit", get(audit::export))
        .route("/api/connectors", get(connectors::list))
        .route("/api/connectors/{name}", get(connectors::show).put(connectors::put).delete(connectors::remove))
        .route("/api/connectors/{name}/trust", post(connectors::trust))
        .route("/api/connectors/{name}/enable", post(connectors::enable))
        .route("/api/connectors/{name}/disable", post(connectors::disable))
        .route("/api/sources", get(sources::list))
        .route("/api/sources/{name}", get(sources::show).put(sources::put).delete(sources::remove))
        .route("/api/secrets", get(secrets::list))
        .route("/api/secrets/{name}", put(secrets::put))
        .route("/api/secrets/{name}", delete(secrets::remove))
        .route("/api/secrets-key/rotate", post(secrets::rekey))
        .layer(from_fn(|request, next| within(ANSWERED_WITHIN, request, next)));
    let slow = Router::new()
        .route("/api/connectors/{name}/test", post(connectors::test))
        .layer(from_fn(|request, next| within(TESTED_WITHIN, request, next)));
    ordinary
        .merge(slow)
        .fallback(async || Refused::new(StatusCode::NOT_FOUND, "unknown", "nothing is at this path", "docs/reference.md lists the paths"))
        .method_not_allowed_fallback(async || {
            Refused::new(StatusCode::METHOD_NOT_ALLOWED, "invalid", "this path takes another method", "docs/reference.md lists the paths")
        })
        .layer(from_fn_with_state(doors.clone(), noted))
        .with_state(doors)
}

async fn within(time: Duration, request: Request, next: Next) -> Response {
    match tokio::time::timeout(time, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = format!("no answer within {} s", time.as_secs());
            Refused::new(StatusCode::REQUEST_TIMEOUT, "invalid", detail, "send the request at once, or look whether it was done")
                .into_response()
        }
    }
}

/// One line for each request, without its body or query.
async fn noted(State(doors): Of, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let user = request.extensions().get::<app::policy::Principal>().map(|principal| principal.user.clone());
    let response = next.run(request).await;
    if !doors.stop.is_cancelled() {
        tracing::debug!(%method, path, user, status = response.status().as_u16(), "request");
    }
    response
}
