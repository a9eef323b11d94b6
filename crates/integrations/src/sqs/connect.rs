//! Builds the client: the same chain of credentials and the same HTTP stack as the source, with the queue's own endpoint.

use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::{Credentials, IdentityCache};
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;

use super::SqsConfig;
use crate::queue::LONGEST_WAIT;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(30);
/// What an answer may take beyond the wait that was asked for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// For endpoints that know no regions; a signature needs one.
const FIRST_REGION: &str = "us-east-1";

pub(super) async fn client(config: &SqsConfig) -> Client {
    let endpoint = config.queue.endpoint();
    let mut loader = aws_config::defaults(BehaviorVersion::latest());
    if let Some(profile) = &config.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(region) = config.queue.region().or(config.region.as_deref()) {
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
    if let Some(key) = &config.access_key {
        let token = key.session_token.as_ref().map(|token| token.expose().to_owned());
        loader = loader.credentials_provider(Credentials::new(&key.id, key.secret.expose(), token, None, "given"));
    }
    let shared = loader.load().await;
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(LONGEST_WAIT + ANSWER_TIMEOUT)
        .operation_attempt_timeout(LONGEST_WAIT + ANSWER_TIMEOUT + CREDENTIALS_TIMEOUT + CONNECT_TIMEOUT)
        .build();
    let mut builder = aws_sdk_sqs::config::Builder::from(&shared)
        // Whoever asks waits between two requests, and knows that listing goes on.
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .identity_cache(IdentityCache::lazy().load_timeout(CREDENTIALS_TIMEOUT).build());
    if shared.region().is_none() {
        builder = builder.region(Region::new(FIRST_REGION));
    }
    // An address of AWS may be asked for in another form, which the SDK makes from the region; it takes no endpoint then.
    let other_form = config.queue.region().is_some() && (shared.use_fips() == Some(true) || shared.use_dual_stack() == Some(true));
    if let Some(endpoint) = endpoint.filter(|_| !other_form) {
        builder = builder.endpoint_url(endpoint);
    }
    Client::from_conf(builder.build())
}
