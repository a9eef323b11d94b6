//! Reads a bucket of S3 or of any store that speaks its protocol, and removes what was delivered where that is wanted. SDK types do not leave this folder.

mod config;
mod connect;
mod error;
mod listing;
mod reader;
mod remove;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, RwLock};

use async_trait::async_trait;
use bytes::Bytes;
use model::ObjectKey;
use tokio::sync::Semaphore;

pub use config::{AccessKey, CustomerKey, S3Config};
use connect::Session;
use error::Failure;

use crate::source::{Archive, Original};
use crate::{Error, ErrorKind, ListingOptions, Pages, Pin, Result, Source, Subject};

/// Served versions are kept for this many objects, in two generations.
const SERVED_VERSIONS: usize = 4096;

/// One bucket, with the credentials to read it.
pub struct S3Source {
    config: S3Config,
    session: RwLock<Arc<Session>>,
    /// Held while a session is built anew, so that many expired requests cause one login.
    rebuilding: tokio::sync::Mutex<()>,
    slots: Semaphore,
    served: Mutex<[HashMap<Pinned, String>; 2]>,
}

/// Key and ETag: what a served version is remembered by.
type Pinned = (ObjectKey, Option<String>);

impl std::fmt::Debug for S3Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "S3Source({}, {})", self.config.bucket, self.session().region)
    }
}

impl S3Source {
    /// Prepares a client. No request is sent: the first listing or pin shows whether bucket and credentials are right.
    pub async fn connect(config: S3Config) -> Result<Self> {
        let setting = |operation, text: &str| Err(Error::new(ErrorKind::SourceMissing, operation, Subject::Setting(text.to_owned())));
        if config.bucket.is_empty() {
            return setting("read a bucket without a name; write", "s3://BUCKET/KEY");
        }
        if let Some(url) = &config.endpoint
            && !(url.starts_with("http://") || url.starts_with("https://"))
        {
            return setting("use an endpoint that does not begin with http:// or https://:", url);
        }
        let session = connect::build(&config, None, 0).await;
        Ok(Self {
            slots: Semaphore::new(config.max_connections.clamp(1, Semaphore::MAX_PERMITS)),
            session: RwLock::new(Arc::new(session)),
            rebuilding: tokio::sync::Mutex::default(),
            served: Mutex::default(),
            config,
        })
    }

    /// The region that requests are signed for now.
    pub fn region(&self) -> String {
        self.session().region.clone()
    }

    fn session(&self) -> Arc<Session> {
        self.session.read().expect("no panic happens while it is held").clone()
    }

    fn object(&self, key: &ObjectKey) -> Subject {
        Subject::Object(format!("s3://{}/{}", self.config.bucket, key.as_str()))
    }

    /// Sends one request, and once more after expired credentials were renewed or the bucket's region was learnt.
    async fn request<T, F, A>(&self, operation: &'static str, subject: Subject, send: F) -> Result<T>
    where
        F: Fn(Arc<Session>) -> A,
        A: Future<Output = Result<T, Failure>> + Send,
    {
        let _slot = self.slots.acquire().await.expect("the semaphore is never closed");
        let (mut renewed, mut moved) = (false, false);
        loop {
            let session = self.session();
            let failure = match send(session.clone()).await {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            // A named endpoint has no other region to go to: following a redirect would send the signature to a stranger.
            let region = failure.region.clone().filter(|region| !session.custom_endpoint && is_region(region) && *region != session.region);
            match region {
                Some(region) if !moved => {
                    moved = true;
                    self.rebuild(&session, Some(region)).await;
                }
                _ if failure.expired && !renewed && !self.config.anonymous && self.config.access_key.is_none() => {
                    renewed = true;
                    self.rebuild(&session, None).await;
                }
                _ => return Err(failure.into_error(operation, subject)),
            }
        }
    }

    async fn rebuild(&self, failed: &Session, region: Option<String>) {
        let _alone = self.rebuilding.lock().await;
        // Someone else may have done it while we waited.
        if self.session().generation != failed.generation {
            return;
        }
        let region = region.unwrap_or_else(|| failed.region.clone());
        let session = connect::build(&self.config, Some(&region), failed.generation + 1).await;
        *self.session.write().expect("no panic happens while it is held") = Arc::new(session);
    }

    fn remember_version(&self, pin: &Pin, version: &str) {
        let mut served = self.served.lock().expect("no panic happens while it is held");
        if served[0].len() >= SERVED_VERSIONS {
            let [new, old] = &mut *served;
            std::mem::swap(new, old);
            new.clear();
        }
        served[0].insert((pin.key.clone(), pin.etag.clone()), version.to_owned());
    }
}

/// Region names are letters, digits and dashes; the name becomes part of a host name.
fn is_region(text: &str) -> bool {
    (1..=40).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[async_trait]
impl Source for S3Source {
    fn store(&self) -> &'static str {
        "s3"
    }

    fn bucket(&self) -> &str {
        &self.config.bucket
    }

    fn list(&self, options: ListingOptions) -> Box<dyn Pages + '_> {
        Box::new(listing::S3Pages::new(self, options))
    }

    async fn pin(&self, key: &ObjectKey, version: Option<&str>) -> Result<Pin> {
        self.request("look at", self.object(key), |session| reader::pin(self, session, key, version)).await
    }

    async fn read(&self, pin: &Pin, range: Range<u64>) -> Result<Bytes> {
        if range.start > range.end || range.end > pin.size {
            let text = format!("bytes {} to {} of {} were asked for", range.start, range.end, pin.size);
            return Err(Error::new(ErrorKind::Internal, "read", self.object(&pin.key)).because(text));
        }
        self.request("read", self.object(&pin.key), |session| reader::read(self, session, pin, range.clone())).await
    }

    async fn can_remove(&self, example: &ObjectKey) -> Result<()> {
        remove::can_remove(self, example).await
    }

    async fn remove(&self, key: &ObjectKey, version: &str) -> Result<()> {
        // A delete without a version would hide whatever is current.
        if version.is_empty() || version == "null" {
            return Err(Error::new(ErrorKind::PolicyDenied, "delete", self.object(key)).because("it has no version of its own"));
        }
        remove::remove(self, key, version).await
    }

    async fn archive(&self, original: &Original, to: &Archive) -> Result<String> {
        remove::archive(self, original, to).await
    }

    fn served_version(&self, pin: &Pin) -> Option<String> {
        let served = self.served.lock().expect("no panic happens while it is held");
        let name = (pin.key.clone(), pin.etag.clone());
        served.iter().find_map(|map| map.get(&name).cloned()).or_else(|| pin.version.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn source() -> S3Source {
        let mut config = S3Config::new("b");
        config.endpoint = Some("http://127.0.0.1:1".into());
        config.anonymous = true;
        S3Source::connect(config).await.unwrap()
    }

    #[tokio::test]
    async fn settings_that_cannot_work_are_refused_at_once() {
        assert!(S3Source::connect(S3Config::new("")).await.is_err());
        let mut config = S3Config::new("b");
        config.endpoint = Some("localhost:9000".into());
        let error = S3Source::connect(config).await.unwrap_err();
        assert!(error.to_string().contains("localhost:9000"), "{error}");
    }

    #[tokio::test]
    async fn an_endpoint_without_a_region_is_signed_for_us_east_1() {
        if std::env::var_os("AWS_REGION").is_none() && std::env::var_os("AWS_DEFAULT_REGION").is_none() {
            assert_eq!(source().await.region(), "us-east-1");
        }
    }

    #[tokio::test]
    async fn nobody_listening_is_a_reset_and_names_bucket_and_key() {
        let error = source().await.pin(&ObjectKey::new("out/a").unwrap(), None).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NetworkReset, "{}", crate::error::chain(&error));
        assert!(error.to_string().contains("s3://b/out/a"));
    }

    #[tokio::test]
    async fn served_versions_are_remembered_within_bounds() {
        let source = source().await;
        let pin = |n: usize| {
            Pin::from(crate::Object {
                key: ObjectKey::new(n.to_string()).unwrap(),
                size: 1,
                etag: None,
                version: None,
                modified: None,
                archived: false,
            })
        };
        for n in 0..3 * SERVED_VERSIONS {
            source.remember_version(&pin(n), "v");
        }
        assert_eq!(source.served_version(&pin(3 * SERVED_VERSIONS - 1)).as_deref(), Some("v"));
        assert_eq!(source.served_version(&pin(0)), None);
        assert!(source.served.lock().unwrap().iter().all(|map| map.len() <= SERVED_VERSIONS));
    }

    async fn signed() -> S3Source {
        let mut config = S3Config::new("b");
        config.region = Some("us-east-1".into());
        S3Source::connect(config).await.unwrap()
    }

    /// Runs a request whose every answer is this failure; returns in which regions it was sent.
    async fn regions_tried(source: &S3Source, failure: fn() -> Failure) -> Vec<String> {
        let tried = Mutex::new(vec![]);
        let result: Result<()> = source
            .request("read", Subject::Nothing, |session| {
                tried.lock().unwrap().push(session.region.clone());
                async move { Err(failure()) }
            })
            .await;
        assert_eq!(result.unwrap_err().kind, ErrorKind::SourceDenied);
        tried.into_inner().unwrap()
    }

    #[tokio::test]
    async fn expired_credentials_are_renewed_once() {
        let expired = || error::answered(400, "ExpiredToken", "", "", None);
        let source = signed().await;
        assert_eq!(regions_tried(&source, expired).await.len(), 2);
        assert_eq!(source.session().generation, 1);
        // Keys that were given by value cannot be renewed.
        let mut config = S3Config::new("b");
        config.region = Some("us-east-1".into());
        config.access_key = Some(AccessKey { id: "a".into(), secret: model::Credential::new("b"), session_token: None });
        assert_eq!(regions_tried(&S3Source::connect(config).await.unwrap(), expired).await.len(), 1);
    }

    #[tokio::test]
    async fn a_bucket_in_another_region_is_followed_once() {
        // A custom endpoint of the environment would rightly switch this off.
        let source = signed().await;
        if source.session().custom_endpoint {
            return;
        }
        let tried = regions_tried(&source, || error::answered(301, "PermanentRedirect", "", "", Some("eu-west-1".into()))).await;
        assert_eq!(tried, ["us-east-1", "eu-west-1"]);
        assert_eq!(source.region(), "eu-west-1");
    }

    #[test]
    fn a_region_of_the_store_cannot_become_another_host() {
        assert!(is_region("eu-central-1"));
        for bad in ["", "evil.example/", "EU", "a@b", "a.b"] {
            assert!(!is_region(bad), "{bad}");
        }
    }
}
