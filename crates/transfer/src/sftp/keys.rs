//! Private keys, certificates and the agent: what can prove who we are. Which of them is tried when is `auth`'s.

use std::path::{Path, PathBuf};
use std::time::Duration;

use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::ssh_encoding::Encode;
use russh::keys::ssh_key::Signature;
use russh::keys::ssh_key::private::KeypairData;
use russh::keys::{Certificate, HashAlg, PrivateKey, PublicKey, decode_secret_key, signature};
use tokio::net::UnixStream;

use super::config::{Identity, InlineKey, Secret};
use super::known_hosts::read_bounded;

const MAX_KEY_BYTES: usize = 64 << 10;
const MAX_AGENT_KEYS: usize = 64;
const AGENT_TIMEOUT: Duration = Duration::from_secs(5);

/// A private key file, read and not yet unlocked.
pub(super) struct KeyFile {
    pub path: PathBuf,
    text: Secret,
    pub encrypted: bool,
    /// Known without the passphrase for most formats.
    pub public: Option<PublicKey>,
    /// From `PATH-cert.pub`.
    pub certificate: Option<Certificate>,
    pub passphrase: Option<Secret>,
}

/// The public half of a private key file, as a line of authorized_keys; `None` where there is none to be read. Blocking.
pub fn public_key_line(path: &Path) -> Option<String> {
    let identity = Identity { path: path.to_owned(), passphrase: None, named: true };
    KeyFile::read(&identity).ok().flatten()?.public?.to_openssh().ok()
}

impl KeyFile {
    /// `Ok(None)` when there is no such file. Blocking.
    pub fn read(identity: &Identity) -> Result<Option<Self>, String> {
        let Some(text) = read_text(&identity.path)? else { return Ok(None) };
        Self::of(identity, text).map(Some)
    }

    /// A key that is in no file of its own, under the name that messages give it.
    pub fn inline(key: &InlineKey) -> (Identity, Result<Option<Self>, String>) {
        let identity = Identity { path: PathBuf::from(&key.name), passphrase: key.passphrase.clone(), named: true };
        let file = Self::of(&identity, key.text.expose().to_owned()).map(Some);
        (identity, file)
    }

    fn of(identity: &Identity, text: String) -> Result<Self, String> {
        let parsed = PrivateKey::from_openssh(text.as_bytes()).ok();
        let encrypted = match &parsed {
            Some(key) => key.is_encrypted(),
            None => {
                let putty = text.starts_with("PuTTY-User-Key-File-") && !text.contains("\nEncryption: none");
                putty || text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("\nDEK-Info:")
            }
        };
        let beside = |ending: &str| {
            let mut name = identity.path.clone().into_os_string();
            name.push(ending);
            PathBuf::from(name)
        };
        let public = match &parsed {
            Some(key) => Some(key.public_key().clone()),
            None => read_text(&beside(".pub")).ok().flatten().and_then(|text| PublicKey::from_openssh(text.trim()).ok()),
        };
        let certificate = read_certificate(&beside("-cert.pub")).map_err(|why| format!("its certificate cannot be read: {why}"))?;
        // A certificate for another key would only waste an attempt.
        let certificate = certificate.filter(|c| public.as_ref().is_none_or(|p| p.key_data() == c.public_key()));
        Ok(Self {
            path: identity.path.clone(),
            text: Secret::new(text),
            encrypted,
            public,
            certificate,
            passphrase: identity.passphrase.clone(),
        })
    }

    /// Blocking, and slow on purpose where there is a passphrase.
    pub fn unlock(&self, passphrase: Option<&Secret>) -> Result<PrivateKey, String> {
        // The decoder takes any passphrase for a sign that the key is encrypted.
        let passphrase = passphrase.filter(|_| self.encrypted).map(Secret::expose);
        decode_secret_key(self.text.expose(), passphrase).map_err(|error| match self.encrypted {
            true => "the passphrase is wrong, or the file is damaged".to_owned(),
            false => format!("it cannot be read: {error}"),
        })
    }
}

/// `Ok(None)` when there is no such file. Blocking.
pub(super) fn read_certificate(path: &Path) -> Result<Option<Certificate>, String> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    Certificate::from_openssh(text.trim()).map(Some).map_err(|error| error.to_string())
}

fn read_text(path: &Path) -> Result<Option<String>, String> {
    let bytes = match read_bounded(path) {
        Ok(None) => return Ok(None),
        Ok(Some(bytes)) if bytes.len() <= MAX_KEY_BYTES => bytes,
        Ok(Some(_)) => return Err(format!("{} is too large for a key", path.display())),
        Err(error) => return Err(format!("it cannot be read: {error}")),
    };
    String::from_utf8(bytes).map(Some).map_err(|_| format!("{} is not a key file", path.display()))
}

/// Signs with a key in memory. russh's own certificate login signs RSA under a name that current servers refuse.
pub(super) struct KeySigner<'a>(pub &'a PrivateKey);

impl russh::Signer for KeySigner<'_> {
    type Error = russh::AgentAuthError;

    async fn auth_sign(&mut self, _: &AgentIdentity, hash: Option<HashAlg>, mut to_sign: Vec<u8>) -> Result<Vec<u8>, Self::Error> {
        let signed: Result<Signature, _> = match self.0.key_data() {
            KeypairData::Rsa(pair) => signature::Signer::try_sign(&(pair, hash), &to_sign),
            pair => signature::Signer::try_sign(pair, &to_sign),
        };
        let failed = |error: russh::keys::ssh_key::Error| russh::AgentAuthError::Key(error.into());
        let mut blob = Vec::new();
        signed.map_err(|error| failed(error.into()))?.encode(&mut blob).map_err(|error| failed(error.into()))?;
        blob.as_slice().encode(&mut to_sign).map_err(|error| failed(error.into()))?;
        Ok(to_sign)
    }
}

pub(super) type Agent = AgentClient<UnixStream>;

/// Opens the agent and lists what it holds, bound to this session where the agent knows how.
pub(super) async fn open_agent(
    socket: &Path,
    binding: Option<&russh::keys::agent::AgentSessionBinding>,
) -> Result<(Agent, Vec<AgentIdentity>), String> {
    let open = async {
        let mut agent = Agent::connect_uds(socket).await.map_err(|error| error.to_string())?;
        if let Some(binding) = binding {
            // Agents older than OpenSSH 8.9 refuse this and work all the same.
            let _ = agent.bind_session(binding, false).await;
        }
        let mut identities = agent.request_identities().await.map_err(|error| error.to_string())?;
        identities.truncate(MAX_AGENT_KEYS);
        Ok((agent, identities))
    };
    tokio::time::timeout(AGENT_TIMEOUT, open).await.unwrap_or_else(|_| Err("it does not answer".to_owned()))
}
