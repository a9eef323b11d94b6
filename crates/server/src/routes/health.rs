//! Whether the service is there, and who the caller is to it.

use api::health::Health;
use app::policy::Principal;
use axum::extract::State;
use axum::{Extension, response::IntoResponse};

use super::Of;
use crate::input::Answer;

pub async fn show(State(doors): Of, Extension(who): Extension<Principal>) -> impl IntoResponse {
    Answer(Health {
        status: "ok".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started_at: doors.started_at,
        receipt_key: doors.receipt_key.clone(),
        user: who.user,
        role: who.role.to_string(),
    })
}
