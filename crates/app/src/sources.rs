//! Sources: the buckets that transfers of the service may read, by name, each with the prefixes that are allowed.

use jiff::Timestamp;
use model::Location;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::{Mutation, SettingRecord, Store};

use crate::error::{Error, Result};
use crate::fields;
use crate::settings::{Named, Setting};
use crate::spec::{CopySpec, S3Settings};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceSettings {
    pub bucket: String,
    /// What may be read; empty: the whole bucket.
    pub prefixes: Vec<String>,
    pub s3: S3Settings,
}

/// A source on record.
pub type NamedSource = Named<SourceSettings>;

impl SourceSettings {
    pub fn read(value: &Value) -> Result<Self> {
        let mut outer = value.clone();
        let s3 = outer.as_object_mut().and_then(|object| object.remove("s3")).unwrap_or(Value::Null);
        let s3 = fields::strict("s3", &s3)?;
        let settings: Self = fields::strict("source", &outer)?;
        Self { s3, ..settings }.checked()
    }

    fn checked(self) -> Result<Self> {
        match Location::parse(&format!("s3://{}/", self.bucket)) {
            Ok(Location::S3 { bucket, text }) if bucket == self.bucket && text.is_empty() => {}
            _ => return Err(Error::invalid("bucket", "is not the name of a bucket")),
        }
        if self.s3.endpoint.as_deref().is_some_and(fields::holds_password) {
            return Err(Error::invalid("s3.endpoint", "holds a password, which would be kept with the source")
                .next("leave it out; credentials come from the AWS profile or variables of the server"));
        }
        if let Some(text) = &self.s3.sse_customer_key_from {
            fields::reference("s3.sse_customer_key_from", text)?;
        }
        if self.s3.access_key_from.is_some() {
            return Err(Error::invalid("s3.access_key_from", "names a file of one person").next("use a profile of the server's account"));
        }
        Ok(self)
    }

    pub fn allows(&self, key_or_prefix: &str) -> bool {
        self.prefixes.is_empty() || self.prefixes.iter().any(|prefix| key_or_prefix.starts_with(prefix.as_str()))
    }

    /// Whether everything that a spec can read lies in what is allowed.
    pub fn covers(&self, spec: &CopySpec) -> bool {
        let Ok(Location::S3 { bucket, text }) = Location::parse(&spec.source) else { return false };
        let keys = &spec.options.keys;
        let allowed = if keys.is_empty() { self.allows(&text) } else { keys.iter().all(|key| self.allows(key)) };
        bucket == self.bucket && spec.s3.endpoint == self.s3.endpoint && allowed
    }
}

impl Setting for SourceSettings {
    const WORD: &'static str = "source";
    const REFERS: &'static str = "s3";

    fn secrets(&self) -> Vec<&str> {
        fields::local_names([&self.s3.sse_customer_key_from]).collect()
    }
    async fn find(store: &Store, name: &str) -> store::Result<Option<SettingRecord>> {
        store.source(name).await
    }

    async fn all(store: &Store) -> store::Result<Vec<SettingRecord>> {
        store.sources().await
    }

    fn putting(name: String, body: String, expect: Option<u32>, by: String, at: Timestamp) -> Mutation {
        Mutation::PutSource { name, body, expect, by, at }
    }

    fn removing(name: String, expect: u32, by: String, at: Timestamp) -> Mutation {
        Mutation::RemoveSource { name, expect, by, at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Options, ServerSettings};
    use serde_json::json;

    #[test]
    fn a_source_covers_its_prefixes_and_nothing_beside_them() {
        let settings = SourceSettings::read(&json!({"bucket": "b", "prefixes": ["out/"]})).unwrap();
        let spec = |source: &str, keys: &[&str]| {
            let options = Options { keys: keys.iter().map(|key| (*key).to_owned()).collect(), ..Options::default() };
            let (source, destination) = (source.to_owned(), String::new());
            CopySpec { source, destination, s3: S3Settings::default(), server: ServerSettings::default(), options }
        };
        assert!(settings.covers(&spec("s3://b/out/x", &[])) && settings.covers(&spec("s3://b/", &["out/a", "out/b"])));
        for outside in [spec("s3://b/", &[]), spec("s3://b/other", &[]), spec("s3://c/out/x", &[]), spec("s3://b/", &["out/a", "x"])] {
            assert!(!settings.covers(&outside), "{outside:?}");
        }
    }

    #[test]
    fn a_source_names_a_bucket_and_holds_no_secret() {
        for (value, field) in [
            (json!({}), "bucket"),
            (json!({"bucket": "b/c"}), "bucket"),
            (json!({"bucket": "b", "s3": {"endpoint": "https://u:hunter2@h/"}}), "s3.endpoint"),
            (json!({"bucket": "b", "s3": {"sse_customer_key_from": "hunter2"}}), "s3.sse_customer_key_from"),
            (json!({"bucket": "b", "prefix": "x"}), "source"),
        ] {
            let error = SourceSettings::read(&value).unwrap_err();
            assert!(error.message.starts_with(field) && !error.message.contains("hunter2"), "{value}: {error}");
        }
    }
}
