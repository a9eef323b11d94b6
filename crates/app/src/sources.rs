//! Sources: the buckets that transfers of the service may read, by name, each with the prefixes that are allowed.

use jiff::Timestamp;
use model::{Location, Name};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::{Mutation, SettingRecord, Store};

use crate::error::{Error, Result};
use crate::fields;
use crate::policy::{Action, Principal};
use crate::spec::{CopySpec, S3Settings};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceSettings {
    pub bucket: String,
    /// What may be read; empty: the whole bucket.
    pub prefixes: Vec<String>,
    pub s3: S3Settings,
}

#[derive(Debug, Clone, PartialEq)]
pub struct NamedSource {
    pub name: Name,
    pub version: u32,
    pub settings: SourceSettings,
    pub updated_by: String,
    pub updated_at: Timestamp,
}

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

    /// Names of the service's own secrets that this source needs.
    pub fn secrets(&self) -> Vec<&str> {
        fields::local_names([&self.s3.sse_customer_key_from]).collect()
    }
}

/// Adds a source, or replaces the one of `expect`ed version; 0: only if there is none, `None`: whatever is there.
pub async fn put(
    store: &Store,
    who: &Principal,
    name: &Name,
    settings: SourceSettings,
    expect: Option<u32>,
    now: Timestamp,
) -> Result<NamedSource> {
    who.may(Action::Configure)?;
    for secret in settings.secrets() {
        if store.secret(secret).await?.is_none() {
            return Err(Error::invalid("s3", format!("there is no secret {secret}"))
                .next(format!("keep it first: `fileferry secret set {secret}`")));
        }
    }
    let body = serde_json::to_string(&settings).map_err(|e| Error::invalid("source", e))?;
    let expect = match expect {
        None => store.source(name.as_str()).await?.map(|record| record.version),
        Some(version) => Some(version).filter(|version| *version > 0),
    };
    let put = Mutation::PutSource { name: name.to_string(), body, expect, by: who.user.clone(), at: now };
    store.commit(put).await.map_err(|e| refused(e, name))?;
    show(store, who, name).await
}

pub async fn list(store: &Store, who: &Principal) -> Result<Vec<NamedSource>> {
    who.may(Action::LookAtSettings)?;
    store.sources().await?.into_iter().map(read).collect()
}

pub async fn show(store: &Store, who: &Principal, name: &Name) -> Result<NamedSource> {
    who.may(Action::LookAtSettings)?;
    read(store.source(name.as_str()).await?.ok_or_else(|| unknown(name))?)
}

pub async fn load(store: &Store, name: &Name) -> Result<Option<SourceSettings>> {
    store.source(name.as_str()).await?.map(|record| read(record).map(|source| source.settings)).transpose()
}

pub async fn remove(store: &Store, who: &Principal, name: &Name) -> Result<()> {
    who.may(Action::Configure)?;
    let expect = store.source(name.as_str()).await?.ok_or_else(|| unknown(name))?.version;
    store.commit(Mutation::RemoveSource { name: name.to_string(), expect }).await.map_err(|e| refused(e, name))?;
    Ok(())
}

fn read(record: SettingRecord) -> Result<NamedSource> {
    let unreadable = |e: String| Error::new(model::ErrorClass::Internal, format!("source {} cannot be read: {e}", record.name));
    Ok(NamedSource {
        name: record.name.parse().map_err(|e: model::ParseNameError| unreadable(e.to_string()))?,
        version: record.version,
        settings: serde_json::from_str(&record.body).map_err(|e| unreadable(e.to_string()))?,
        updated_by: record.updated_by,
        updated_at: record.updated_at,
    })
}

fn unknown(name: &Name) -> Error {
    Error::unknown("source", name).next("`fileferry source list` shows those there are")
}

fn refused(error: store::Error, name: &Name) -> Error {
    match error.kind {
        store::ErrorKind::NotFound => unknown(name),
        store::ErrorKind::Conflict => Error::conflict(format!("source {name}: {}", crate::error::cause(&error)))
            .next("look at it again with `fileferry source show`, then decide anew"),
        _ => error.into(),
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
