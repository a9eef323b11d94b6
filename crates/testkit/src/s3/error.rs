//! Refusals in the words S3 uses.

use hyper::StatusCode;

use super::xml::escape;

/// An error answer. `extra` are elements S3 adds to some of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Error {
    pub status: u16,
    pub code: String,
    pub message: String,
    pub(crate) extra: Vec<(&'static str, String)>,
    pub(crate) headers: Vec<(&'static str, String)>,
}

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $status:literal $code:literal $message:literal;)*) => {
        impl S3Error {
            $($(#[$doc])* pub fn $name() -> Self { Self::new($status, $code, $message) })*
        }
    };
}

errors! {
    slow_down = 503 "SlowDown" "Please reduce your request rate.";
    service_unavailable = 503 "ServiceUnavailable" "Service is unable to handle request.";
    internal_error = 500 "InternalError" "We encountered an internal error. Please try again.";
    access_denied = 403 "AccessDenied" "Access Denied";
    expired_token = 400 "ExpiredToken" "The provided token has expired.";
    invalid_access_key_id = 403 "InvalidAccessKeyId" "The AWS Access Key Id you provided does not exist in our records.";
    request_time_too_skewed = 403 "RequestTimeTooSkewed" "The difference between the request time and the current time is too large.";
    invalid_object_state = 403 "InvalidObjectState" "The operation is not valid for the object's storage class";
    no_such_key = 404 "NoSuchKey" "The specified key does not exist.";
    no_such_bucket = 404 "NoSuchBucket" "The specified bucket does not exist";
    no_such_version = 404 "NoSuchVersion" "The specified version does not exist.";
    no_such_upload = 404 "NoSuchUpload" "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.";
    method_not_allowed = 405 "MethodNotAllowed" "The specified method is not allowed against this resource.";
    precondition_failed = 412 "PreconditionFailed" "At least one of the pre-conditions you specified did not hold";
    invalid_range = 416 "InvalidRange" "The requested range is not satisfiable";
    invalid_part = 400 "InvalidPart" "One or more of the specified parts could not be found.  The part may not have been uploaded, or the specified entity tag may not match the part's entity tag.";
    bad_digest = 400 "BadDigest" "The Content-MD5 or checksum value that you specified did not match what the server received.";
    incomplete_body = 400 "IncompleteBody" "You did not provide the number of bytes specified by the Content-Length HTTP header.";
    invalid_request = 400 "InvalidRequest" "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to retrieve the object.";
    invalid_argument = 400 "InvalidArgument" "Invalid Argument";
    not_implemented = 501 "NotImplemented" "A header you provided implies functionality that is not implemented";
}

impl S3Error {
    pub fn new(status: u16, code: &str, message: &str) -> Self {
        Self { status, code: code.to_owned(), message: message.to_owned(), extra: Vec::new(), headers: Vec::new() }
    }

    /// The same error with another HTTP status: `ExpiredToken` is 400 at AWS and 403 elsewhere.
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn with(mut self, element: &'static str, value: impl Into<String>) -> Self {
        self.extra.push((element, value.into()));
        self
    }

    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    pub(crate) fn xml(&self, resource: &str, request_id: &str) -> String {
        let extra: String = self.extra.iter().map(|(name, value)| format!("<{name}>{}</{name}>", escape(value))).collect();
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{}</Code><Message>{}</Message>{extra}<Resource>{}</Resource>\
             <RequestId>{request_id}</RequestId><HostId>{request_id}</HostId></Error>",
            escape(&self.code),
            escape(&self.message),
            escape(resource),
        )
    }
}
