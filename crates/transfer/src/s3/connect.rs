//! Builds the client: credentials, region, endpoint, timeouts. Builds it anew when credentials expired or the
//! bucket turns out to live in another region.

use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    Credentials, IdentityCache, RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig,
};
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;

use super::config::S3Config;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Single sign-on and credential processes may ask a server far away.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(30);
/// Where a bucket is asked for when nobody named a region; S3 answers with the right one.
const FIRST_REGION: &str = "us-east-1";

/// A client and what is known about where it leads.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub client: Client,
    pub region: String,
    /// Requests go to a named endpoint and not to the region's own.
    pub custom_endpoint: bool,
    /// Counts the builds, so that of many failing requests one builds anew.
    pub generation: u64,
}

/// An endpoint named by the environment, as the SDK reads it.
fn endpoint_of_environment() -> Option<String> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if set("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return None;
    }
    set("AWS_ENDPOINT_URL_S3").or_else(|| set("AWS_ENDPOINT_URL"))
}

pub(super) async fn build(config: &S3Config, region: Option<&str>, generation: u64) -> Session {
    let endpoint = config.endpoint.clone().or_else(endpoint_of_environment);
    let mut loader = aws_config::defaults(BehaviorVersion::latest());
    if let Some(profile) = &config.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(region) = region.or(config.region.as_deref()) {
        loader = loader.region(Region::new(region.to_owned()));
    } else if endpoint.is_some() {
        // The usual chain ends by asking the cloud machine's metadata, which elsewhere costs seconds of waiting.
        let mut profile = ProfileFileRegionProvider::builder();
        if let Some(name) = &config.profile {
            profile = profile.profile_name(name);
        }
        let chain = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new()).or_else(profile.build());
        loader = loader.region(chain.or_else(Region::new(FIRST_REGION)));
    }
    if config.anonymous {
        loader = loader.no_credentials();
    } else if let Some(key) = &config.access_key {
        let token = key.session_token.as_ref().map(|token| token.expose().to_owned());
        loader = loader.credentials_provider(Credentials::new(&key.id, key.secret.expose(), token, None, "given"));
    }
    let shared = loader.load().await;
    let endpoint = endpoint.or_else(|| shared.endpoint_url().map(str::to_owned));
    let region = shared.region().map_or_else(|| FIRST_REGION.to_owned(), |region| region.as_ref().to_owned());

    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(config.stall_timeout)
        // Bounds a listing's body and a slow login; bodies of objects are read under `stall_timeout` per chunk.
        .operation_attempt_timeout(config.stall_timeout.saturating_add(CREDENTIALS_TIMEOUT).saturating_add(CONNECT_TIMEOUT))
        .build();
    let mut builder = aws_sdk_s3::config::Builder::from(&shared)
        .region(Region::new(region.clone()))
        .force_path_style(config.path_style.unwrap_or(endpoint.is_some()))
        // Checksums cover whole objects and we read ranges; many stores also refuse the newer defaults.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        // The engine retries: it alone knows what was confirmed and how long to wait.
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        // It measures throughput and misfires on slow lines; `reader` measures the silence instead.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .identity_cache(IdentityCache::lazy().load_timeout(CREDENTIALS_TIMEOUT).build());
    if let Some(url) = &config.endpoint {
        builder = builder.endpoint_url(url);
    }
    if config.anonymous {
        builder = builder.allow_no_auth();
    }
    Session { client: Client::from_conf(builder.build()), region, custom_endpoint: endpoint.is_some(), generation }
}
