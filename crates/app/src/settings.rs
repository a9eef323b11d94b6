//! What connectors and sources have in common: settings under a name, changed by version, by whoever may configure. What they
//! say is theirs (`connectors.rs`, `sources.rs`).

use jiff::Timestamp;
use model::Name;
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::{Mutation, SettingRecord, Store};

use crate::error::{Error, Result};
use crate::policy::{Action, Principal};

/// One kind of them, with its table.
pub trait Setting: Serialize + DeserializeOwned + Send + Sync {
    /// What people call one: `connector`.
    const WORD: &'static str;
    /// The part of it that refers to secrets.
    const REFERS: &'static str;

    /// Names of the service's own secrets that it needs.
    fn secrets(&self) -> Vec<&str>;

    fn find(store: &Store, name: &str) -> impl Future<Output = store::Result<Option<SettingRecord>>> + Send;

    /// All, by name.
    fn all(store: &Store) -> impl Future<Output = store::Result<Vec<SettingRecord>>> + Send;

    fn putting(name: String, body: String, expect: Option<u32>, by: String, at: Timestamp) -> Mutation;

    fn removing(name: String, expect: u32, by: String, at: Timestamp) -> Mutation;
}

/// Settings with their name and the version under which they are on record.
#[derive(Debug, Clone, PartialEq)]
pub struct Named<S> {
    pub name: Name,
    pub version: u32,
    pub settings: S,
    pub updated_by: String,
    pub updated_at: Timestamp,
}

/// Adds one, or replaces the one of `expect`ed version; 0: only if there is none, `None`: whatever is there.
pub async fn put<S: Setting>(
    store: &Store,
    who: &Principal,
    name: &Name,
    settings: S,
    expect: Option<u32>,
    now: Timestamp,
) -> Result<Named<S>> {
    who.may(Action::Configure)?;
    for secret in settings.secrets() {
        if store.secret(secret).await?.is_none() {
            return Err(Error::invalid(S::REFERS, format!("there is no secret {secret}"))
                .next(format!("keep it first: `fileferry secret set {secret}`")));
        }
    }
    let body = serde_json::to_string(&settings).map_err(|e| Error::invalid(S::WORD, e))?;
    let expect = match expect {
        None => S::find(store, name.as_str()).await?.map(|record| record.version),
        Some(version) => Some(version).filter(|version| *version > 0),
    };
    let put = S::putting(name.to_string(), body, expect, who.user.clone(), now);
    store.commit(put).await.map_err(|e| refused::<S>(e, name))?;
    show(store, who, name).await
}

pub async fn list<S: Setting>(store: &Store, who: &Principal) -> Result<Vec<Named<S>>> {
    who.may(Action::LookAtSettings)?;
    S::all(store).await?.into_iter().map(read).collect()
}

pub async fn show<S: Setting>(store: &Store, who: &Principal, name: &Name) -> Result<Named<S>> {
    who.may(Action::LookAtSettings)?;
    read(S::find(store, name.as_str()).await?.ok_or_else(|| unknown::<S>(name))?)
}

/// The settings alone, for whoever carries out a transfer.
pub async fn load<S: Setting>(store: &Store, name: &Name) -> Result<Option<S>> {
    S::find(store, name.as_str()).await?.map(|record| read(record).map(|named| named.settings)).transpose()
}

pub async fn remove<S: Setting>(store: &Store, who: &Principal, name: &Name, now: Timestamp) -> Result<()> {
    who.may(Action::Configure)?;
    let expect = S::find(store, name.as_str()).await?.ok_or_else(|| unknown::<S>(name))?.version;
    store.commit(S::removing(name.to_string(), expect, who.user.clone(), now)).await.map_err(|e| refused::<S>(e, name))?;
    Ok(())
}

fn read<S: Setting>(record: SettingRecord) -> Result<Named<S>> {
    let unreadable = |e: String| Error::new(model::ErrorClass::Internal, format!("{} {} cannot be read: {e}", S::WORD, record.name));
    Ok(Named {
        name: record.name.parse().map_err(|e: model::ParseNameError| unreadable(e.to_string()))?,
        version: record.version,
        settings: serde_json::from_str(&record.body).map_err(|e| unreadable(e.to_string()))?,
        updated_by: record.updated_by,
        updated_at: record.updated_at,
    })
}

fn unknown<S: Setting>(name: &Name) -> Error {
    Error::unknown(S::WORD, name).next(format!("`fileferry {} list` shows those there are", S::WORD))
}

fn refused<S: Setting>(error: store::Error, name: &Name) -> Error {
    match error.kind {
        store::ErrorKind::NotFound => unknown::<S>(name),
        store::ErrorKind::Conflict => Error::conflict(format!("{} {name}: {}", S::WORD, crate::error::cause(&error)))
            .next(format!("look at it again with `fileferry {} show`, then decide anew", S::WORD)),
        _ => error.into(),
    }
}
