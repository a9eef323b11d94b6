//! Stand-in until the SSH side is merged, which replaces this file and keeps the signatures of `open_session`,
//! `Opened` and `ClientHandler`: one key file, one pinned host key.

use std::borrow::Cow;
use std::sync::Arc;

use russh::client::{self, DisconnectReason, Handle};
use russh::keys::{HashAlg, PrivateKeyWithHashAlg, PublicKeyOrCertificate, load_secret_key};

use super::config::SftpConfig;
use crate::{Error, ErrorKind, Result, ServerIdentity, Subject};

pub struct Opened {
    pub handle: Handle<ClientHandler>,
    pub identity: ServerIdentity,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("identity", &self.identity).finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub struct ClientHandler {
    host_key: String,
    software: Arc<std::sync::Mutex<Option<String>>>,
}

impl From<russh::Error> for Error {
    fn from(error: russh::Error) -> Self {
        let kind = match error {
            russh::Error::KeepaliveTimeout | russh::Error::InactivityTimeout => ErrorKind::NetworkStalled,
            russh::Error::UnknownKey => ErrorKind::DestHostKey,
            _ => ErrorKind::NetworkReset,
        };
        Error::new(kind, "talk SSH", Subject::Nothing).because(error)
    }
}

impl client::Handler for ClientHandler {
    type Error = Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = key else { return Ok(false) };
        Ok(key.fingerprint(HashAlg::Sha256).to_string() == self.host_key)
    }

    async fn kex_done(
        &mut self,
        _shared_secret: Option<&[u8]>,
        _names: &russh::Names,
        session: &mut client::Session,
    ) -> Result<(), Self::Error> {
        let software = String::from_utf8_lossy(session.remote_sshid()).trim().to_owned();
        *self.software.lock().expect("nothing panics while holding it") = Some(software);
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Self::Error>) -> Result<(), Self::Error> {
        match reason {
            DisconnectReason::ReceivedDisconnect(said) => {
                let text = format!("the server said {:?}: {}", said.reason_code, model::escape_name(&said.message));
                Err(Error::new(ErrorKind::NetworkReset, "go on", Subject::Nothing).because(text))
            }
            DisconnectReason::Error(error) => Err(error),
        }
    }
}

pub async fn open_session(config: &SftpConfig) -> Result<Opened> {
    let failed = |kind, error: russh::Error| Error::new(kind, "connect to", Subject::Server(config.endpoint.to_string())).because(error);
    let ssh = client::Config {
        nodelay: true,
        window_size: 8 * 1024 * 1024,
        maximum_packet_size: 32 * 1024,
        keepalive_interval: Some(config.stall_timeout / 3),
        inactivity_timeout: Some(config.stall_timeout * 2),
        preferred: russh::Preferred {
            cipher: Cow::Borrowed(&[russh::cipher::AES_128_GCM, russh::cipher::AES_256_GCM, russh::cipher::CHACHA20_POLY1305]),
            ..Default::default()
        },
        ..Default::default()
    };
    let software = Arc::default();
    let handler = ClientHandler { host_key: config.host_key.clone(), software: Arc::clone(&software) };
    let address = (config.endpoint.host.as_str(), config.endpoint.port.unwrap_or(22));
    let mut handle = client::connect(Arc::new(ssh), address, handler).await?;
    let key = load_secret_key(&config.key_file, None).map_err(|e| failed(ErrorKind::DestAuth, e.into()))?;
    let user = config.endpoint.user.clone().unwrap_or_default();
    let login = handle
        .authenticate_publickey(user, PrivateKeyWithHashAlg::new(Arc::new(key), Some(HashAlg::Sha512)))
        .await
        .map_err(|e| failed(ErrorKind::DestAuth, e))?;
    if !login.success() {
        return Err(failed(ErrorKind::DestAuth, russh::Error::NotAuthenticated));
    }
    let identity = ServerIdentity {
        host_key: Some(config.host_key.clone()),
        software: software.lock().expect("nothing panics while holding it").clone(),
        ..ServerIdentity::default()
    };
    Ok(Opened { handle, identity })
}
