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
use crate::settings::{self, Named, Setting};
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

/// A connector on record.
pub type Connector = Named<ConnectorSettings>;

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
}

impl Setting for ConnectorSettings {
    const WORD: &'static str = "connector";
    const REFERS: &'static str = "server";

    fn secrets(&self) -> Vec<&str> {
        let server = &self.server;
        fields::local_names([&server.password_from, &server.proxy_password_from, &server.key_from, &server.key_passphrase_from]).collect()
    }
    async fn find(store: &Store, name: &str) -> store::Result<Option<SettingRecord>> {
        store.connector(name).await
    }

    async fn all(store: &Store) -> store::Result<Vec<SettingRecord>> {
        store.connectors().await
    }

    fn putting(name: String, body: String, expect: Option<u32>, by: String, at: Timestamp) -> Mutation {
        Mutation::PutConnector { name, body, expect, by, at }
    }

    fn removing(name: String, expect: u32, by: String, at: Timestamp) -> Mutation {
        Mutation::RemoveConnector { name, expect, by, at }
    }
}

/// A disabled connector begins no transfer, and holds those that are under way.
pub async fn set_enabled(store: &Store, who: &Principal, name: &Name, enabled: bool, now: Timestamp) -> Result<Connector> {
    who.may(Action::Configure)?;
    let Connector { version, settings, .. } = settings::show(store, who, name).await?;
    settings::put(store, who, name, ConnectorSettings { enabled, ..settings }, Some(version), now).await
}

/// Trusts the server under this fingerprint: an SSH host key, or the certificate where TLS is spoken.
pub async fn trust(store: &Store, who: &Principal, name: &Name, fingerprint: &str, now: Timestamp) -> Result<Connector> {
    who.may(Action::Configure)?;
    let digest = fingerprint.strip_prefix("SHA256:").and_then(|rest| data_encoding::BASE64_NOPAD.decode(rest.as_bytes()).ok());
    if digest.is_none_or(|digest| digest.len() != 32) {
        return Err(Error::invalid("fingerprint", "is SHA256: and 43 characters, as `ssh-keygen -lf` prints it"));
    }
    let Connector { version, mut settings, .. } = settings::show(store, who, name).await?;
    let trusted = match Location::parse(&settings.url) {
        Ok(Location::Server { endpoint, .. }) if endpoint.protocol.has_tls() => &mut settings.server.tls_pins,
        Ok(Location::Server { endpoint, .. }) if !endpoint.protocol.is_ftp() => &mut settings.server.host_keys,
        _ => return Err(Error::invalid("fingerprint", format!("{} has no key and no certificate", settings.url))),
    };
    if !trusted.iter().any(|known| known == fingerprint) {
        trusted.push(fingerprint.to_owned());
    }
    settings::put(store, who, name, settings, Some(version), now).await
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
