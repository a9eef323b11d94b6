//! Secrets that the service keeps itself, sealed. They go in and are used; nothing gives their values back.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use model::{Credential, ErrorClass, Name};
use store::{Batch, MAX_MUTATIONS, Mutation, Store};

use crate::connectors::ConnectorSettings;
use crate::error::{Error, Result};
use crate::policy::{Action, Principal};
use crate::settings::{self, Setting as _};
use crate::sources::SourceSettings;

pub const KEY_BYTES: usize = 32;
/// Keys and passphrases are longer than passwords; a file given by mistake is longer than those.
const LONGEST_VALUE: usize = 16 << 10;
const FORM: u8 = 1;
const KEY_ID_BYTES: usize = 8;

/// One key for sealing. Prints as nothing but its id.
pub struct SealingKey {
    id: [u8; KEY_ID_BYTES],
    key: LessSafeKey,
}

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SealingKey({})", data_encoding::HEXLOWER.encode(&self.id))
    }
}

impl SealingKey {
    pub fn new(bytes: &[u8; KEY_BYTES]) -> Self {
        // The id says which key it was, and nothing about it.
        let digest = digest(&SHA256, &[b"fileferry sealing key ".as_slice(), bytes].concat());
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&digest.as_ref()[..KEY_ID_BYTES]);
        let key = UnboundKey::new(&AES_256_GCM, bytes).expect("the key has the length of AES-256");
        Self { id, key: LessSafeKey::new(key) }
    }

    /// Form, key id, nonce, ciphertext with tag; bound to the name, so that one value cannot stand for another.
    fn seal(&self, name: &str, value: &str) -> Result<Vec<u8>> {
        let broken = |what: &str| Error::new(ErrorClass::Internal, format!("secret {name} cannot be sealed: {what}"));
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| broken("the system gives no random numbers"))?;
        let mut sealed = value.as_bytes().to_vec();
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound_to(name)), &mut sealed)
            .map_err(|_| broken("AES-GCM refused"))?;
        Ok([&[FORM], self.id.as_slice(), &nonce, &sealed].concat())
    }

    fn open(&self, name: &str, sealed: &[u8]) -> Option<Credential> {
        let (id, rest) = sealed.strip_prefix(&[FORM])?.split_at_checked(KEY_ID_BYTES)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        if id != self.id {
            return None;
        }
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let value = self.key.open_in_place(nonce, Aad::from(bound_to(name)), &mut sealed).ok()?;
        std::str::from_utf8(value).ok().map(Credential::new)
    }
}

fn bound_to(name: &str) -> String {
    format!("fileferry secret {name}")
}

/// The sealed values of this process and the keys that open them. The first key seals.
#[derive(Debug, Default)]
pub struct Vault {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    keys: Vec<Arc<SealingKey>>,
    sealed: BTreeMap<String, Vec<u8>>,
}

/// What is told of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub name: Name,
    pub updated_by: String,
    pub updated_at: Timestamp,
}

impl Vault {
    /// Everything the store holds; a value that no key opens is an error now and not in the middle of a transfer.
    pub async fn load(store: &Store, keys: Vec<SealingKey>) -> Result<Self> {
        let mut inner = Inner { keys: keys.into_iter().map(Arc::new).collect(), sealed: BTreeMap::new() };
        for record in store.secrets().await? {
            if inner.open(&record.name, &record.sealed).is_none() {
                return Err(Error::new(ErrorClass::Internal, format!("the key file does not open the secret {}", record.name))
                    .next("start with the key file that this data directory was used with, or set the secret again after removing it"));
            }
            inner.sealed.insert(record.name, record.sealed);
        }
        Ok(Self { inner: RwLock::new(inner) })
    }

    /// The value for whoever logs in with it. The error names the secret only.
    pub fn open(&self, name: &str) -> std::result::Result<Credential, String> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let sealed =
            inner.sealed.get(name).ok_or_else(|| format!("there is no secret {name}; keep it with `fileferry secret set {name}`"))?;
        inner.open(name, sealed).ok_or_else(|| format!("the key file does not open the secret {name}"))
    }

    fn seal(&self, name: &str, value: &str) -> Result<Vec<u8>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let key = inner.keys.first().ok_or_else(|| Error::new(ErrorClass::Internal, "there is no key to seal secrets with"))?;
        key.seal(name, value)
    }

    fn remember(&self, name: &str, sealed: Option<Vec<u8>>) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        match sealed {
            Some(sealed) => inner.sealed.insert(name.to_owned(), sealed),
            None => inner.sealed.remove(name),
        };
    }

    fn names(&self) -> Vec<String> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).sealed.keys().cloned().collect()
    }

    /// From now on `key` seals; the others still open.
    fn take_key(&self, key: SealingKey) {
        self.inner.write().unwrap_or_else(PoisonError::into_inner).keys.insert(0, Arc::new(key));
    }
}

impl Inner {
    fn open(&self, name: &str, sealed: &[u8]) -> Option<Credential> {
        self.keys.iter().find_map(|key| key.open(name, sealed))
    }
}

/// Keeps a value, or replaces it.
pub async fn set(store: &Store, vault: &Vault, who: &Principal, name: &Name, value: &str, now: Timestamp) -> Result<()> {
    who.may(Action::Configure)?;
    if value.is_empty() || value.len() > LONGEST_VALUE {
        return Err(Error::invalid("value", format!("has between 1 and {LONGEST_VALUE} bytes")));
    }
    let sealed = vault.seal(name.as_str(), value)?;
    let expect = version(store, name.as_str()).await?;
    store.commit(Mutation::PutSecret { name: name.to_string(), sealed: sealed.clone(), expect, by: who.user.clone(), at: now }).await?;
    vault.remember(name.as_str(), Some(sealed));
    Ok(())
}

async fn version(store: &Store, name: &str) -> Result<Option<u32>> {
    Ok(store.secret(name).await?.map(|record| record.version))
}

/// Names and times; no route gives a value.
pub async fn list(store: &Store, who: &Principal) -> Result<Vec<Kept>> {
    who.may(Action::Configure)?;
    let unreadable = |e: model::ParseNameError| Error::new(ErrorClass::Internal, format!("a secret cannot be read: {e}"));
    let kept = store.secrets().await?.into_iter().map(|record| {
        Ok(Kept { name: record.name.parse().map_err(unreadable)?, updated_by: record.updated_by, updated_at: record.updated_at })
    });
    kept.collect()
}

/// Forgets a value that nothing refers to any more.
pub async fn remove(store: &Store, vault: &Vault, who: &Principal, name: &Name, now: Timestamp) -> Result<()> {
    who.may(Action::Configure)?;
    let in_use = |what: String| Error::conflict(format!("secret {name} is used by {what}")).next("change that first");
    for connector in settings::list::<ConnectorSettings>(store, who).await? {
        if connector.settings.secrets().contains(&name.as_str()) {
            return Err(in_use(format!("connector {}", connector.name)));
        }
    }
    for source in settings::list::<SourceSettings>(store, who).await? {
        if source.settings.secrets().contains(&name.as_str()) {
            return Err(in_use(format!("source {}", source.name)));
        }
    }
    let unknown = || Error::unknown("secret", name).next("`fileferry secret list` shows those there are");
    let expect = version(store, name.as_str()).await?.ok_or_else(unknown)?;
    store.commit(Mutation::RemoveSecret { name: name.to_string(), expect, by: who.user.clone(), at: now }).await?;
    vault.remember(name.as_str(), None);
    Ok(())
}

/// Seals everything anew under `key`. The caller has stored the key before, and drops the old ones when this has succeeded.
pub async fn rekey(store: &Store, vault: &Vault, who: &Principal, key: SealingKey, now: Timestamp) -> Result<usize> {
    who.may(Action::Configure)?;
    vault.take_key(key);
    let names = vault.names();
    for some in names.chunks(MAX_MUTATIONS) {
        let (mut batch, mut resealed) = (Batch::new(), Vec::with_capacity(some.len()));
        for name in some {
            let value = vault.open(name).map_err(|e| Error::new(ErrorClass::Internal, e))?;
            let sealed = vault.seal(name, value.expose())?;
            let (expect, by) = (version(store, name).await?, who.user.clone());
            batch = batch.push(Mutation::PutSecret { name: name.clone(), sealed: sealed.clone(), expect, by, at: now });
            resealed.push((name, sealed));
        }
        store.commit(batch).await?;
        resealed.into_iter().for_each(|(name, sealed)| vault.remember(name, Some(sealed)));
    }
    Ok(names.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Role;

    fn admin() -> Principal {
        Principal { user: "a".to_owned(), role: Role::Admin }
    }

    #[test]
    fn a_sealed_value_opens_under_its_own_name_and_key_only() {
        let key = SealingKey::new(&[1; KEY_BYTES]);
        let sealed = key.seal("a", "hunter2").unwrap();
        assert_eq!(key.open("a", &sealed).unwrap().expose(), "hunter2");
        assert!(!sealed.windows(7).any(|w| w == b"hunter2"));
        assert!(key.open("b", &sealed).is_none(), "a value cannot stand for another");
        assert!(SealingKey::new(&[2; KEY_BYTES]).open("a", &sealed).is_none());
        for at in 0..sealed.len() {
            let mut broken = sealed.clone();
            broken[at] ^= 1;
            assert!(key.open("a", &broken).is_none(), "byte {at}");
            assert!(key.open("a", &sealed[..at]).is_none(), "cut at {at}");
        }
        assert_ne!(key.seal("a", "hunter2").unwrap(), sealed, "the same value never looks the same");
    }

    #[tokio::test]
    async fn values_survive_a_new_key_and_a_new_start() {
        let store = Store::open_in_memory().await.unwrap();
        let vault = Vault::load(&store, vec![SealingKey::new(&[1; KEY_BYTES])]).await.unwrap();
        let now = Timestamp::now();
        let name = |n: usize| format!("s{n}").parse::<Name>().unwrap();
        for n in 0..150 {
            set(&store, &vault, &admin(), &name(n), &format!("value {n}"), now).await.unwrap();
        }
        assert_eq!(rekey(&store, &vault, &admin(), SealingKey::new(&[2; KEY_BYTES]), now).await.unwrap(), 150);
        let again = Vault::load(&store, vec![SealingKey::new(&[2; KEY_BYTES])]).await.unwrap();
        assert_eq!(again.open("s149").unwrap().expose(), "value 149");
        let wrong = Vault::load(&store, vec![SealingKey::new(&[1; KEY_BYTES])]).await.unwrap_err();
        assert!(wrong.message.contains("does not open the secret"), "{wrong}");
        remove(&store, &vault, &admin(), &name(0), now).await.unwrap();
        assert!(vault.open("s0").is_err() && store.secret("s0").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn nobody_but_an_administrator_touches_secrets() {
        let store = Store::open_in_memory().await.unwrap();
        let vault = Vault::load(&store, vec![SealingKey::new(&[1; KEY_BYTES])]).await.unwrap();
        for role in [Role::Viewer, Role::Operator, Role::Auditor] {
            let who = Principal { user: "x".to_owned(), role };
            let error = set(&store, &vault, &who, &"a".parse().unwrap(), "v", Timestamp::now()).await.unwrap_err();
            assert_eq!(error.refusal, Some(crate::error::Refusal::Denied), "{role}");
        }
    }
}
