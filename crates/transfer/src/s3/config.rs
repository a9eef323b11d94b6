//! What must be known to reach one bucket. Everything that is not given here comes from where the AWS tools
//! take it: environment, profiles, single sign-on, the machine's role.

use std::time::Duration;

use model::Credential;
use zeroize::Zeroizing;

/// The AES-256 key of objects that were encrypted with a customer's key (SSE-C).
#[derive(Clone)]
pub struct CustomerKey(pub(super) Zeroizing<[u8; 32]>);

impl CustomerKey {
    pub fn new(key: [u8; 32]) -> Self {
        Self(Zeroizing::new(key))
    }
}

impl std::fmt::Debug for CustomerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CustomerKey(hidden)")
    }
}

/// Keys given by value, as other tools' configuration files hold them.
#[derive(Debug, Clone)]
pub struct AccessKey {
    pub id: String,
    pub secret: Credential,
    pub session_token: Option<Credential>,
}

#[derive(Debug, Clone)]
pub struct S3Config {
    pub bucket: String,
    /// Also taken from AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL and the profile.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub profile: Option<String>,
    /// Path style addresses (`host/bucket/key`); by default where an endpoint is known.
    pub path_style: Option<bool>,
    pub request_payer: bool,
    pub customer_key: Option<CustomerKey>,
    /// Send unsigned requests, for public buckets.
    pub anonymous: bool,
    /// Instead of the credential chain.
    pub access_key: Option<AccessKey>,
    /// No byte for this long is `network_stalled`.
    pub stall_timeout: Duration,
    /// Requests in flight at once, at most.
    pub max_connections: usize,
    /// Larger objects are copied in parts.
    pub copy_up_to: u64,
}

impl S3Config {
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            endpoint: None,
            region: None,
            profile: None,
            path_style: None,
            request_payer: false,
            customer_key: None,
            anonymous: false,
            access_key: None,
            stall_timeout: Duration::from_secs(60),
            max_connections: 64,
            copy_up_to: super::remove::COPY_UP_TO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_shows_no_secret() {
        let mut config = S3Config::new("b");
        config.customer_key = Some(CustomerKey::new(*b"0123456789abcdef0123456789abcdef"));
        config.access_key =
            Some(AccessKey { id: "AKIA".into(), secret: Credential::new("hush"), session_token: Some(Credential::new("whisper")) });
        let text = format!("{config:?}");
        assert!(!text.contains("0123456789") && !text.contains("48, 49") && !text.contains("hush") && !text.contains("whisper"), "{text}");
    }
}
