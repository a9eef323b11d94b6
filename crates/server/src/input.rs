//! What comes in: bodies that are bounded, of one form, and read strictly; ids and names out of the path.

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use model::{Name, TransferId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Refused;

/// A JSON body.
#[derive(Debug)]
pub struct Input<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Input<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refused> {
        let bytes = bytes(request).await?;
        // serde_json's own limit of depth keeps a deep body off the stack.
        serde_json::from_slice(&bytes).map(Self).map_err(|error| misread(&error.to_string()))
    }
}

/// A request that has nothing to say brings no body, or an empty object.
#[derive(Debug)]
pub struct Empty;

impl<S: Sync> FromRequest<S> for Empty {
    type Rejection = Refused;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refused> {
        refuse_compression(&request)?;
        let bytes = collect(request.into_body()).await?;
        match bytes.is_empty() || bytes.trim_ascii() == b"{}" {
            true => Ok(Self),
            false => Err(Refused::invalid("this request takes no body", "leave the body out")),
        }
    }
}

async fn bytes(request: Request) -> Result<bytes::Bytes, Refused> {
    refuse_compression(&request)?;
    let media_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let detail = "the body is not declared as application/json";
        return Err(Refused::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported",
            detail,
            "send JSON with Content-Type: application/json",
        ));
    }
    collect(request.into_body()).await
}

/// A small compressed body may be a huge one.
fn refuse_compression(request: &Request) -> Result<(), Refused> {
    let encoding = request.headers().get(CONTENT_ENCODING).map(HeaderValue::as_bytes).unwrap_or_default();
    if encoding.is_empty() || encoding.eq_ignore_ascii_case(b"identity") {
        return Ok(());
    }
    let detail = "compressed requests are not read";
    Err(Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported", detail, "send the body as it is, without Content-Encoding"))
}

async fn collect(body: Body) -> Result<bytes::Bytes, Refused> {
    match Limited::new(body, api::LONGEST_BODY).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let detail = format!("the body is larger than {} bytes", api::LONGEST_BODY);
            Err(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid", detail, "name a source_prefix instead of many keys"))
        }
        Err(error) => {
            Err(Refused::new(StatusCode::BAD_REQUEST, "invalid", format!("the body did not come whole: {error}"), "send it again"))
        }
    }
}

/// A text that was given where something else belongs is not repeated: it may be a secret.
fn without_value(error: &str) -> String {
    match (error.find(": string \""), error.rfind("\", expected")) {
        (Some(begin), Some(end)) if begin < end => format!("{}: a text{}", &error[..begin], &error[end + 1..]),
        _ => error.to_owned(),
    }
}

/// What serde says, with the field that was meant where one was misspelt.
fn misread(error: &str) -> Refused {
    let mut ticks = error.split('`').skip(1).step_by(2);
    let next = match error.starts_with("unknown field `") {
        true => {
            let given = ticks.next().unwrap_or_default();
            let known: Vec<&str> = ticks.collect();
            match model::nearest(given, known.iter().copied()) {
                Some(name) => format!("did you mean {name:?}?"),
                None => format!("its fields are {}", known.join(", ")),
            }
        }
        false => "correct the body; docs/guide/service.md shows one".to_owned(),
    };
    let shown: String = model::escape_name(&without_value(error)).chars().take(300).collect();
    Refused::invalid(format!("the body is not what this request takes: {shown}"), &next)
}

/// Ids that cannot be answer as those that are not there.
pub fn transfer_id(text: &str) -> Result<TransferId, Refused> {
    text.parse().map_err(|_| app::Error::unknown("transfer", model::escape_name(&short(text))).into())
}

pub fn name(text: &str) -> Result<Name, Refused> {
    text.parse().map_err(|error: model::ParseNameError| Refused::invalid(error.to_string(), "choose another name"))
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A JSON answer.
#[derive(Debug)]
pub struct Answer<T>(pub T);

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(bytes) => ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], bytes).into_response(),
            Err(error) => {
                let error = app::Error::new(model::ErrorClass::Internal, format!("an answer cannot be written: {error}"));
                Refused::from(error).into_response()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_field_is_answered_with_the_one_that_was_meant() {
        let refused = misread("unknown field `conector`, expected one of `source`, `connector`, `priority` at line 1 column 11");
        assert_eq!((refused.0.status, refused.0.next.as_str()), (422, "did you mean \"connector\"?"));
        let refused = misread("invalid type: string \"hunter2\", expected struct PutSecret at line 1 column 9");
        assert!(!refused.0.detail.contains("hunter2") && refused.0.detail.contains("a text, expected struct"), "{}", refused.0.detail);
        let refused = misread("unknown field `zzzzzzzz`, expected one of `source`, `connector`");
        assert_eq!(refused.0.next, "its fields are source, connector");
    }
}
