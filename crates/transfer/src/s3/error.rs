//! Turns what the SDK and the store say into our classes. The text of an answer is the store's; it is shortened
//! here and escaped where it is shown.

use std::fmt;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use crate::error::BoxError;
use crate::{Error, ErrorKind, Subject};

/// Longest text of an answer that is kept; a hostile store may send megabytes.
const MAX_MESSAGE: usize = 400;

/// What one request came to, before anyone decides whether to ask again with other credentials or elsewhere.
#[derive(Debug)]
pub(super) struct Failure {
    pub kind: ErrorKind,
    pub cause: BoxError,
    /// The credentials are too old; new ones may help.
    pub expired: bool,
    /// The store named another region for this bucket.
    pub region: Option<String>,
    /// An answer without a body (HEAD) says too little; a GET would say more.
    pub mute: bool,
}

impl Failure {
    pub fn new(kind: ErrorKind, cause: impl Into<BoxError>) -> Self {
        Self { kind, cause: cause.into(), expired: false, region: None, mute: false }
    }

    pub fn changed(text: String) -> Self {
        Self::new(ErrorKind::SourceChanged, text)
    }

    pub fn into_error(self, operation: &'static str, subject: Subject) -> Error {
        Error::new(self.kind, operation, subject).because(self.cause)
    }
}

/// The store's answer in one line.
#[derive(Debug)]
struct Answer {
    status: u16,
    code: String,
    message: String,
    request: String,
    hint: String,
}

impl std::error::Error for Answer {}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store answered {}", self.status)?;
        for (before, text, after) in
            [(" ", &self.code, ""), (": ", &self.message, ""), (" (request ", &self.request, ")"), ("; ", &self.hint, "")]
        {
            if !text.is_empty() {
                write!(f, "{before}{text}{after}")?;
            }
        }
        Ok(())
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Classifies an error of the SDK. `profile` is named in the hint when no credentials were found.
pub(super) fn classify<E>(error: SdkError<E, HttpResponse>, profile: Option<&str>) -> Failure
where
    E: std::error::Error + ProvideErrorMetadata + RequestId + Send + Sync + 'static,
{
    match error {
        SdkError::TimeoutError(_) => Failure::new(ErrorKind::NetworkStalled, "the store did not answer in time"),
        SdkError::ConstructionFailure(_) => without_answer(error.into(), false, profile),
        SdkError::DispatchFailure(ref failure) => {
            let stalled = failure.is_timeout();
            without_answer(error.into(), stalled, profile)
        }
        SdkError::ResponseError(context) => Failure::new(
            ErrorKind::SourceTruncated,
            format!("the store's answer ({}) could not be read to its end", context.raw().status().as_u16()),
        ),
        SdkError::ServiceError(context) => {
            let headers = context.raw().headers();
            let region = headers.get("x-amz-bucket-region").map(str::to_owned);
            let meta = context.err().meta();
            answered(
                context.raw().status().as_u16(),
                meta.code().unwrap_or_default(),
                meta.message().unwrap_or_default(),
                context.err().request_id().unwrap_or_default(),
                region,
            )
        }
        other => Failure::new(ErrorKind::NetworkReset, other),
    }
}

/// No answer came: no credentials, no connection, or it broke.
fn without_answer(cause: BoxError, stalled: bool, profile: Option<&str>) -> Failure {
    let text = crate::error::chain(&*cause);
    // The chain ends with the cloud machine's metadata service (IMDS): if that refuses, nothing was found before it.
    let no_credentials = ["no providers in chain", "CredentialsNotLoaded", "credential provider was not enabled", "IMDS"]
        .iter()
        .any(|needle| text.contains(needle));
    if no_credentials {
        let profile = match profile {
            Some(name) => format!("the profile {name:?}"),
            None => "the default profile (or AWS_PROFILE)".to_owned(),
        };
        let hint = format!(
            "no credentials were found; tried AWS_ACCESS_KEY_ID, {profile} in ~/.aws/config and ~/.aws/credentials, web identity, \
             the container and the instance. Run `aws sso login`, name another profile, or read public buckets without signing: {text}"
        );
        return Failure::new(ErrorKind::SourceDenied, shortened(&hint));
    }
    // The token cache of `aws sso login` is only renewed by the user.
    if ["identity resolver", "loading credentials", "SSO token"].iter().any(|needle| text.contains(needle)) && !stalled {
        let hint = format!("the credentials could not be loaded: {text}; sign in again or name another profile");
        return Failure::new(ErrorKind::SourceDenied, shortened(&hint));
    }
    if stalled {
        return Failure::new(ErrorKind::NetworkStalled, cause);
    }
    Failure::new(ErrorKind::NetworkReset, cause)
}

/// The class of an answer. Status and code are both looked at: HEAD has no code, and some stores no right status.
pub(super) fn answered(status: u16, code: &str, message: &str, request: &str, region: Option<String>) -> Failure {
    let mut expired = false;
    let mut hint = String::new();
    let kind = match (status, code) {
        (
            _,
            "SlowDown" | "SlowDownRead" | "ServiceUnavailable" | "InternalError" | "Throttling" | "ThrottlingException" | "TooManyRequests",
        ) => ErrorKind::SourceThrottled,
        (_, "RequestTimeout") => ErrorKind::NetworkStalled,
        (_, "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired") => {
            expired = true;
            hint.push_str("the credentials have expired; sign in again");
            ErrorKind::SourceDenied
        }
        (_, "RequestTimeTooSkewed") => {
            hint.push_str("set this machine's clock");
            ErrorKind::SourceDenied
        }
        (_, "InvalidObjectState") => ErrorKind::SourceArchived,
        (_, "NoSuchBucket") => {
            hint.push_str("check the bucket's name and the endpoint");
            ErrorKind::SourceMissing
        }
        // 405 is the answer for a version that is a delete marker.
        (_, "NoSuchKey" | "NoSuchVersion" | "NotFound") | (404 | 405, _) => ErrorKind::SourceMissing,
        (412, _) | (_, "PreconditionFailed") => {
            hint.push_str("the object is not the one that was pinned");
            ErrorKind::SourceChanged
        }
        (416, _) | (_, "InvalidRange") => {
            hint.push_str("the object is shorter than when it was pinned");
            ErrorKind::SourceChanged
        }
        (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "AccountProblem") => {
            hint.push_str("check the access key, or choose another profile");
            ErrorKind::SourceDenied
        }
        (401 | 403, _) => {
            hint.push_str("without s3:ListBucket a missing object looks forbidden too");
            ErrorKind::SourceDenied
        }
        (301 | 302 | 307 | 308, _) | (400, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
            hint = match &region {
                Some(region) => format!("the bucket is in region {region:?}; choose it with --region"),
                None => "the bucket is in another region; choose it with --region".to_owned(),
            };
            ErrorKind::SourceDenied
        }
        (408, _) => ErrorKind::NetworkStalled,
        (429 | 500..=599, _) => ErrorKind::SourceThrottled,
        _ => ErrorKind::SourceDenied,
    };
    let elsewhere =
        matches!(status, 301 | 302 | 307 | 308) || matches!(code, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException");
    let mute = code.is_empty() && matches!(status, 400 | 401 | 403);
    Failure {
        kind,
        expired,
        mute,
        region: region.filter(|_| elsewhere || (mute && status == 400)),
        cause: Box::new(Answer { status, code: shortened(code), message: shortened(message), request: shortened(request), hint }),
    }
}

/// A body that ended or broke before its last byte.
pub(super) fn broken_body(error: BoxError, received: usize, expected: usize) -> Failure {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&*error);
    let mut reset = false;
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut};
            reset |= matches!(io.kind(), ConnectionReset | ConnectionAborted | BrokenPipe | TimedOut);
        }
        next = cause.source();
    }
    let chain = crate::error::chain(&*error);
    // The SDK's own error type is not among what it exports to us.
    if let Some(at) = chain.find("checksum mismatch") {
        return Failure::new(
            ErrorKind::IntegrityMismatch,
            format!("the store's checksum is not that of the bytes it sent: {}", &chain[at..]),
        );
    }
    let text = format!("the answer broke off after {received} of {expected} bytes: {chain}");
    Failure::new(if reset { ErrorKind::NetworkReset } else { ErrorKind::SourceTruncated }, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_class_that_says_what_to_do() {
        for (status, code, kind) in [
            (503, "SlowDown", ErrorKind::SourceThrottled),
            (429, "", ErrorKind::SourceThrottled),
            (500, "", ErrorKind::SourceThrottled),
            (404, "NoSuchKey", ErrorKind::SourceMissing),
            (404, "NoSuchVersion", ErrorKind::SourceMissing),
            (404, "", ErrorKind::SourceMissing),
            (405, "MethodNotAllowed", ErrorKind::SourceMissing),
            (412, "PreconditionFailed", ErrorKind::SourceChanged),
            (416, "InvalidRange", ErrorKind::SourceChanged),
            (403, "AccessDenied", ErrorKind::SourceDenied),
            (403, "InvalidObjectState", ErrorKind::SourceArchived),
            (400, "RequestTimeout", ErrorKind::NetworkStalled),
            (400, "ExpiredToken", ErrorKind::SourceDenied),
            (301, "PermanentRedirect", ErrorKind::SourceDenied),
            (400, "InvalidRequest", ErrorKind::SourceDenied),
        ] {
            assert_eq!(answered(status, code, "", "", None).kind, kind, "{status} {code}");
        }
    }

    #[test]
    fn only_expired_credentials_are_worth_a_refresh_and_only_redirects_a_move() {
        assert!(answered(400, "ExpiredToken", "", "", None).expired);
        assert!(!answered(403, "AccessDenied", "", "", None).expired);
        assert_eq!(answered(301, "", "", "", Some("eu-west-1".into())).region.as_deref(), Some("eu-west-1"));
        assert_eq!(answered(404, "NoSuchKey", "", "", Some("eu-west-1".into())).region, None);
    }

    #[test]
    fn missing_credentials_say_what_was_tried() {
        let failure = without_answer("no providers in chain provided credentials".into(), false, Some("prod"));
        let text = failure.cause.to_string();
        assert_eq!(failure.kind, ErrorKind::SourceDenied);
        assert!(text.contains("AWS_ACCESS_KEY_ID") && text.contains("\"prod\"") && text.contains("aws sso login"), "{text}");
        assert_eq!(without_answer("dns error: lasso.example".into(), false, None).kind, ErrorKind::NetworkReset);
        assert_eq!(without_answer("connect timed out".into(), true, None).kind, ErrorKind::NetworkStalled);
    }

    #[test]
    fn long_answers_are_cut_and_the_line_reads_well() {
        let failure = answered(403, "AccessDenied", &"é".repeat(5000), "R1", None);
        let text = failure.cause.to_string();
        assert!(text.starts_with("the store answered 403 AccessDenied: é") && text.len() < 2000, "{text}");
        assert!(text.contains("(request R1); without s3:ListBucket"), "{text}");
    }
}
