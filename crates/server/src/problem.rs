//! Every error as `application/problem+json`. Statuses are chosen here and nowhere else.

use api::Problem;
use app::error::Refusal;
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use model::ErrorClass;

/// What a handler answers instead of what was asked for.
#[derive(Debug)]
pub struct Refused(pub Problem);

impl Refused {
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>, next: &str) -> Self {
        Self(Problem::new(status.as_u16(), title(status), code, detail, next))
    }

    /// Input that says what cannot be.
    pub fn invalid(detail: impl Into<String>, next: &str) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail, next)
    }
}

/// In plain words; "Unprocessable Entity" helps nobody.
fn title(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST => "the request cannot be read",
        StatusCode::FORBIDDEN => "not allowed",
        StatusCode::NOT_FOUND => "not found",
        StatusCode::METHOD_NOT_ALLOWED => "not done this way",
        StatusCode::REQUEST_TIMEOUT => "the request took too long",
        StatusCode::CONFLICT => "does not fit how things stand",
        StatusCode::PAYLOAD_TOO_LARGE => "too large",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "not in this form",
        StatusCode::UNPROCESSABLE_ENTITY => "the request says what cannot be",
        StatusCode::BAD_GATEWAY => "the partner's side failed",
        StatusCode::SERVICE_UNAVAILABLE => "not now",
        _ => "the service failed",
    }
}

impl From<app::Error> for Refused {
    fn from(error: app::Error) -> Self {
        let (status, code) = match error.refusal {
            Some(Refusal::Invalid) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
            Some(Refusal::Unknown) => (StatusCode::NOT_FOUND, "unknown"),
            Some(Refusal::Conflict) => (StatusCode::CONFLICT, "conflict"),
            Some(Refusal::Denied) => (StatusCode::FORBIDDEN, "denied"),
            Some(Refusal::NotNow) => (StatusCode::SERVICE_UNAVAILABLE, error.class.name()),
            None => (status_of(error.class), error.class.name()),
        };
        if status.is_server_error() {
            tracing::error!(error = %error.message, "a request failed");
        }
        Self::new(status, code, error.message, error.next.as_deref().unwrap_or(error.class.next_step()))
    }
}

impl From<store::Error> for Refused {
    fn from(error: store::Error) -> Self {
        app::Error::from(error).into()
    }
}

impl From<runtime::Failure> for Refused {
    fn from(failure: runtime::Failure) -> Self {
        let next = failure.next.as_deref().unwrap_or(failure.class.next_step());
        match failure.exit_code {
            1 => Self::invalid(failure.message, next),
            _ => Self::new(status_of(failure.class), failure.class.name(), failure.message, next),
        }
    }
}

fn status_of(class: ErrorClass) -> StatusCode {
    match class {
        ErrorClass::PolicyDenied => StatusCode::FORBIDDEN,
        ErrorClass::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorClass::TicketUnavailable | ErrorClass::LeaseLost => StatusCode::SERVICE_UNAVAILABLE,
        ErrorClass::Cancelled | ErrorClass::WindowClosed | ErrorClass::SessionExpired | ErrorClass::TicketInvalid => StatusCode::CONFLICT,
        _ => StatusCode::BAD_GATEWAY,
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        (status, [(CONTENT_TYPE, HeaderValue::from_static(api::problem::MEDIA_TYPE))], body).into_response()
    }
}
