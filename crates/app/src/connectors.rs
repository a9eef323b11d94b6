//! Connectors: the partners' servers that transfers of the service may go to, with everything a delivery there needs but its
//! files. They hold references to secrets, never secrets.

use std::time::Duration;

use jiff::Timestamp;
use model::{Location, Name, Window};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::{Mutation, SettingRecord, Store};

use crate::error::{Error, Result};
use crate::fields;
use crate::policy::{Action, Principal};
use crate::spec::{Options, ServerSettings};

/// Transfers at once to a connector that does not say.
pub const DEFAULT_LIMIT: u32 = 5;
const HIGHEST_LIMIT: u32 = 1_000;

/// Who has to agree before a transfer begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Approval {
    /// Its tickets are opened, and it begins.
    #[default]
    Auto,
    /// It waits until somebody else has approved it.
    SecondPerson,
    /// It waits for a change of ServiceNow.
    Change,
}

impl Approval {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::SecondPerson => "second-person",
            Self::Change => "change",
        }
    }
}

/// What becomes of a running transfer while the ticket system does not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenUnreachable {
    #[default]
    Go,
    Hold,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectorSettings {
    /// The directory below which everything goes; ends in `/`, and holds no password.
    pub url: String,
    pub server: ServerSettings,
    pub options: Options,
    /// Transfers at once; `None`: [`DEFAULT_LIMIT`].
    pub limit: Option<u32>,
    pub approval: Approval,
    /// How old a ticket may be when a transfer begins; `None`: the service's own limit.
    pub max_age: Option<Duration>,
    pub when_tickets_unreachable: WhenUnreachable,
    /// The group that tickets are assigned to.
    pub group: Option<String>,
    /// When transfers may begin and go on; `None`: always.
    pub window: Option<Window>,
    pub enabled: bool,
}

impl Default for ConnectorSettings {
    fn default() -> Self {
        Self {
            url: String::new(),
            server: ServerSettings::default(),
            options: Options::default(),
            limit: None,
            approval: Approval::Auto,
            max_age: None,
            when_tickets_unreachable: WhenUnreachable::Go,
            group: None,
            window: None,
            enabled: true,
        }
    }
}

/// A connector with its name and the version under which it is on record.
#[derive(Debug, Clone, PartialEq)]
pub struct Connector {
    pub name: Name,
    pub version: u32,
    pub settings: ConnectorSettings,
    pub updated_by: String,
    pub updated_at: Timestamp,
}

impl ConnectorSettings {
    /// Reads settings strictly, each part by its own list of fields.
    pub fn read(value: &Value) -> Result<Self> {
        let mut outer = value.clone();
        let mut part = |name: &str| outer.as_object_mut().and_then(|object| object.remove(name)).unwrap_or(Value::Null);
        let server = fields::strict("server", &part("server"))?;
        let options = fields::strict("options", &part("options"))?;
        let settings: Self = fields::strict("connector", &outer)?;
        Self { server, options, ..settings }.checked()
    }

    /// How its server is reached. Who may submit a transfer chooses no address, and the owner of a name may let it lead
    /// anywhere: an address that is not public is meant only where the connector says so.
    pub fn reached(&self) -> ServerSettings {
        ServerSettings { allow_private: self.server.allow_private.or(Some(false)), ..self.server.clone() }
    }

    /// What can be seen to be wrong without asking the server.
    fn checked(mut self) -> Result<Self> {
        if fields::holds_password(&self.url) {
            return Err(Error::invalid("url", "holds a password, which would be kept with the connector")
                .next("keep it with `fileferry secret set NAME`, and refer to it with --password-from local:NAME"));
        }
        match Location::parse(&self.url).map_err(|e| Error::invalid("url", e))? {
            Location::S3 { .. } => {
                return Err(Error::invalid("url", "is a source, not a server").next("add it with `fileferry source add`"));
            }
            Location::Server { .. } | Location::File { .. } if !self.url.ends_with('/') => self.url.push('/'),
            _ => {}
        }
        let ServerSettings { password_from, proxy_password_from, key_from, key_passphrase_from, .. } = &self.server;
        for (field, text) in [
            ("server.password_from", password_from),
            ("server.proxy_password_from", proxy_password_from),
            ("server.key_from", key_from),
            ("server.key_passphrase_from", key_passphrase_from),
        ] {
            text.as_deref().map_or(Ok(()), |text| fields::reference(field, text))?;
        }
        if self.options.files_from.is_some() {
            return Err(Error::invalid("options.files_from", "belongs to one transfer, not to a connector"));
        }
        if self.limit.is_some_and(|limit| limit == 0 || limit > HIGHEST_LIMIT) {
            return Err(Error::invalid("limit", format!("is between 1 and {HIGHEST_LIMIT}")));
        }
        if self.approval == Approval::Change {
            return Err(Error::invalid("approval", "change needs ServiceNow, which this version does not speak to")
                .next("use auto or second-person"));
        }
        Ok(self)
    }

    /// Names of the service's own secrets that this connector needs.
    pub fn secrets(&self) -> Vec<&str> {
        let server = &self.server;
        fields::local_names([&server.password_from, &server.proxy_password_from, &server.key_from, &server.key_passphrase_from]).collect()
    }
}

/// Adds a connector, or replaces the one of `expect`ed version; 0: only if there is none, `None`: whatever is there.
pub async fn put(
    store: &Store,
    who: &Principal,
    name: &Name,
    settings: ConnectorSettings,
    expect: Option<u32>,
    now: Timestamp,
) -> Result<Connector> {
    who.may(Action::Configure)?;
    for secret in settings.secrets() {
        if store.secret(secret).await?.is_none() {
            return Err(Error::invalid("server", format!("there is no secret {secret}"))
                .next(format!("keep it first: `fileferry secret set {secret}`")));
        }
    }
    let body = serde_json::to_string(&settings).map_err(|e| Error::invalid("connector", e))?;
    let expect = match expect {
        None => store.connector(name.as_str()).await?.map(|record| record.version),
        Some(version) => Some(version).filter(|version| *version > 0),
    };
    let put = Mutation::PutConnector { name: name.to_string(), body, expect, by: who.user.clone(), at: now };
    store.commit(put).await.map_err(|e| refused(e, name))?;
    show(store, who, name).await
}

pub async fn list(store: &Store, who: &Principal) -> Result<Vec<Connector>> {
    who.may(Action::LookAtSettings)?;
    store.connectors().await?.into_iter().map(read).collect()
}

pub async fn show(store: &Store, who: &Principal, name: &Name) -> Result<Connector> {
    who.may(Action::LookAtSettings)?;
    find(store, name).await
}

async fn find(store: &Store, name: &Name) -> Result<Connector> {
    let record = store.connector(name.as_str()).await?.ok_or_else(|| unknown(name))?;
    read(record)
}

/// The settings alone, for whoever carries out a transfer.
pub async fn load(store: &Store, name: &Name) -> Result<Option<ConnectorSettings>> {
    store.connector(name.as_str()).await?.map(|record| read(record).map(|connector| connector.settings)).transpose()
}

pub async fn remove(store: &Store, who: &Principal, name: &Name) -> Result<()> {
    who.may(Action::Configure)?;
    let expect = store.connector(name.as_str()).await?.ok_or_else(|| unknown(name))?.version;
    store.commit(Mutation::RemoveConnector { name: name.to_string(), expect }).await.map_err(|e| refused(e, name))?;
    Ok(())
}

/// A disabled connector begins no transfer, and holds those that are under way.
pub async fn set_enabled(store: &Store, who: &Principal, name: &Name, enabled: bool, now: Timestamp) -> Result<Connector> {
    who.may(Action::Configure)?;
    let Connector { version, settings, .. } = find(store, name).await?;
    put(store, who, name, ConnectorSettings { enabled, ..settings }, Some(version), now).await
}

/// Trusts the server under this fingerprint: an SSH host key, or the certificate where TLS is spoken.
pub async fn trust(store: &Store, who: &Principal, name: &Name, fingerprint: &str, now: Timestamp) -> Result<Connector> {
    who.may(Action::Configure)?;
    let digest = fingerprint.strip_prefix("SHA256:").and_then(|rest| data_encoding::BASE64_NOPAD.decode(rest.as_bytes()).ok());
    if digest.is_none_or(|digest| digest.len() != 32) {
        return Err(Error::invalid("fingerprint", "is SHA256: and 43 characters, as `ssh-keygen -lf` prints it"));
    }
    let Connector { version, mut settings, .. } = find(store, name).await?;
    let trusted = match Location::parse(&settings.url) {
        Ok(Location::Server { endpoint, .. }) if endpoint.protocol.has_tls() => &mut settings.server.tls_pins,
        Ok(Location::Server { endpoint, .. }) if !endpoint.protocol.is_ftp() => &mut settings.server.host_keys,
        _ => return Err(Error::invalid("fingerprint", format!("{} has no key and no certificate", settings.url))),
    };
    if !trusted.iter().any(|known| known == fingerprint) {
        trusted.push(fingerprint.to_owned());
    }
    put(store, who, name, settings, Some(version), now).await
}

fn read(record: SettingRecord) -> Result<Connector> {
    let unreadable = |e: String| Error::new(model::ErrorClass::Internal, format!("connector {} cannot be read: {e}", record.name));
    Ok(Connector {
        name: record.name.parse().map_err(|e: model::ParseNameError| unreadable(e.to_string()))?,
        version: record.version,
        settings: serde_json::from_str(&record.body).map_err(|e| unreadable(e.to_string()))?,
        updated_by: record.updated_by,
        updated_at: record.updated_at,
    })
}

fn unknown(name: &Name) -> Error {
    Error::unknown("connector", name).next("`fileferry connector list` shows those there are")
}

fn refused(error: store::Error, name: &Name) -> Error {
    match error.kind {
        store::ErrorKind::NotFound => unknown(name),
        store::ErrorKind::Conflict => Error::conflict(format!("connector {name}: {}", crate::error::cause(&error)))
            .next("look at it again with `fileferry connector show`, then decide anew"),
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_error(value: Value) -> Error {
        ConnectorSettings::read(&value).unwrap_err()
    }

    #[test]
    fn a_connector_holds_no_password() {
        let error = read_error(json!({"url": "sftp://u:hunter2@h/in/"}));
        assert!(!error.message.contains("hunter2") && error.next.unwrap().contains("secret set"));
        let error = read_error(json!({"url": "sftp://u@h/in/", "server": {"password_from": "hunter2"}}));
        assert!(!error.message.contains("hunter2") && error.message.starts_with("server.password_from"), "{error}");
    }

    #[test]
    fn what_cannot_be_is_refused_by_field() {
        for (value, field) in [
            (json!({}), "url"),
            (json!({"url": "s3://b/"}), "url"),
            (json!({"url": "sftp://u@h/in/", "limit": 0}), "limit"),
            (json!({"url": "sftp://u@h/in/", "approval": "change"}), "approval"),
            (json!({"url": "sftp://u@h/in/", "aproval": "auto"}), "connector"),
            (json!({"url": "sftp://u@h/in/", "options": {"retrys": 1}}), "options"),
            (json!({"url": "sftp://u@h/in/", "server": {"key_from": "prompt"}}), "server.key_from"),
            (json!({"url": "sftp://u@h/in/", "window": "8-18"}), "connector"),
        ] {
            let error = read_error(value.clone());
            assert!(error.message.starts_with(field), "{value}: {error}");
            assert_eq!(error.refusal, Some(crate::error::Refusal::Invalid));
        }
        let settings = ConnectorSettings::read(&json!({"url": "sftp://u@h/in", "server": {"password_from": "local:p"}})).unwrap();
        assert_eq!((settings.url.as_str(), settings.secrets()), ("sftp://u@h/in/", vec!["p"]));
    }
}
