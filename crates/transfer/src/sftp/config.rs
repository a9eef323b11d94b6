//! What it takes to reach one SFTP server, and how URL, flags, ssh_config and defaults become that.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use model::Endpoint;
use russh::keys::ssh_key::Fingerprint;

use super::jump::{self, JumpSetting};
use super::known_hosts::HostLabel;
use super::ssh_config::{self, Asked, HostSettings};
use crate::error::{Error, ErrorKind, Result, Subject};
pub use crate::road::AddressFamily;
use crate::road::{Addresses, Proxy};

/// A password or passphrase; it prints as nothing.
pub use model::Credential as Secret;

const DEFAULT_KEYS: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

/// Asks a person for a secret. Called on a thread where waiting is allowed.
pub trait Prompt: Send + Sync + fmt::Debug {
    /// `what` is safe to show. `None` when nobody answers.
    fn ask(&self, what: &str) -> Option<Secret>;
}

/// A private key file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub path: PathBuf,
    pub passphrase: Option<Secret>,
    /// Named by a person or a file, so that its absence is worth a word.
    pub named: bool,
}

/// A private key that is in no file of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineKey {
    /// Where it stands, for messages.
    pub name: String,
    pub text: Secret,
    pub passphrase: Option<Secret>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithms {
    #[default]
    Modern,
    /// Also SHA-1 and CBC, for servers that have nothing else; noted on the receipt.
    Legacy,
}

/// One server, one user, and everything needed to prove each to the other.
#[derive(Debug, Clone)]
pub struct SftpConfig {
    /// With port and user filled.
    pub endpoint: Endpoint,
    /// The host to connect to, where ssh_config gives the name in the URL another meaning.
    pub address: Option<String>,
    /// The name under which known_hosts has the server (`HostKeyAlias`).
    pub host_key_alias: Option<String>,
    /// Tried in this order, before the agent's.
    pub identities: Vec<Identity>,
    /// Tried before those.
    pub inline_keys: Vec<InlineKey>,
    /// The agent may sign for `identities`, and offers no others.
    pub identities_only: bool,
    pub password: Option<Secret>,
    pub use_agent: bool,
    /// `SSH_AUTH_SOCK`, or what ssh_config says instead.
    pub agent_socket: Option<PathBuf>,
    /// The first one is where messages tell to add a key.
    pub known_hosts: Vec<PathBuf>,
    /// `SHA256:…`; when there are any, exactly these keys are accepted.
    pub host_key_pins: Vec<String>,
    /// From the name look-up to the end of the login, without the time a person needs to answer.
    pub connect_timeout: Duration,
    /// A write that the network does not take for so long ends the connection.
    pub stall_timeout: Duration,
    pub keepalive: Option<Duration>,
    pub family: AddressFamily,
    pub bind: Option<IpAddr>,
    /// On the way to the server, or to the first jump host.
    pub proxy: Option<Proxy>,
    /// Which addresses the server may have, and the first jump host.
    pub addresses: Addresses,
    /// The hosts on the way, nearest first; each is logged in at, and the next one is reached through it.
    pub jumps: Vec<SftpConfig>,
    /// This is a host on the way to another one.
    pub jump_host: bool,
    /// Certificates of `identities` and of the agent's keys that do not lie beside the key (`CertificateFile`).
    pub certificates: Vec<PathBuf>,
    pub algorithms: Algorithms,
    /// `None`: never ask.
    pub prompt: Option<Arc<dyn Prompt>>,
    /// What in ssh_config was not understood; becomes part of the identity.
    pub notes: Vec<String>,
}

impl SftpConfig {
    /// Defaults with no credential and no known host at all.
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            address: None,
            host_key_alias: None,
            identities: Vec::new(),
            inline_keys: Vec::new(),
            identities_only: false,
            password: None,
            use_agent: false,
            agent_socket: None,
            known_hosts: Vec::new(),
            host_key_pins: Vec::new(),
            connect_timeout: Duration::from_secs(20),
            stall_timeout: Duration::from_secs(60),
            keepalive: Some(Duration::from_secs(15)),
            family: AddressFamily::Any,
            bind: None,
            proxy: None,
            addresses: Addresses::default(),
            jumps: Vec::new(),
            jump_host: false,
            certificates: Vec::new(),
            algorithms: Algorithms::Modern,
            prompt: None,
            notes: Vec::new(),
        }
    }

    pub fn user(&self) -> &str {
        self.endpoint.user.as_deref().unwrap_or_default()
    }

    pub fn port(&self) -> u16 {
        self.endpoint.port.unwrap_or(22)
    }

    /// The host to connect to.
    pub fn host(&self) -> &str {
        self.address.as_deref().unwrap_or(&self.endpoint.host)
    }

    pub(super) fn host_label(&self) -> HostLabel {
        match &self.host_key_alias {
            Some(alias) => HostLabel::alias(alias),
            None => HostLabel::new(self.host(), self.port()),
        }
    }

    /// `host:port` for messages; the address behind an alias is shown too.
    pub(super) fn server(&self) -> Subject {
        Subject::Server(self.name())
    }

    /// The same as text; a host on the way is called so.
    pub(super) fn name(&self) -> String {
        let host = &self.endpoint.host;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let behind = self.address.as_ref().filter(|a| **a != self.endpoint.host).map(|a| format!(" ({a})")).unwrap_or_default();
        let role = if self.jump_host { "jump host " } else { "" };
        format!("{role}{host}:{}{behind}", self.port())
    }
}

/// What flags and a caller say; everything left out comes from the URL, ssh_config or a default.
#[derive(Debug, Clone, Default)]
pub struct SftpOverrides {
    /// Keys to use instead of those of ssh_config and the defaults.
    pub identities: Vec<Identity>,
    /// Keys to use before any file; where only they are given, no file is looked for.
    pub inline_keys: Vec<InlineKey>,
    /// Files to read instead of the usual ones.
    pub known_hosts: Vec<PathBuf>,
    pub host_key_pins: Vec<String>,
    pub password: Option<Secret>,
    /// `Some(false)` leaves the agent alone.
    pub use_agent: Option<bool>,
    pub connect_timeout: Option<Duration>,
    pub stall_timeout: Option<Duration>,
    pub family: AddressFamily,
    pub bind: Option<IpAddr>,
    pub proxy: Option<Proxy>,
    pub addresses: Addresses,
    /// `[USER@]HOST[:PORT],…` or `none`, instead of what ssh_config says.
    pub jump: Option<String>,
    pub algorithms: Algorithms,
    pub prompt: Option<Arc<dyn Prompt>>,
    /// The server is a host on the way to another one.
    pub for_jump_host: bool,
    /// ssh_config files; `None` is `~/.ssh/config` and `/etc/ssh/ssh_config`.
    pub ssh_config: Option<Vec<PathBuf>>,
}

/// Merges, strongest first: `overrides`, URL, ssh_config, defaults. `env` looks up environment variables.
/// Errors are about the settings (a bad pin, a broken ssh_config), never about the server.
pub fn resolve(
    endpoint: &Endpoint,
    overrides: SftpOverrides,
    home: Option<&Path>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<SftpConfig> {
    let (mut config, jump) = resolve_one(endpoint, overrides.clone(), home, env)?;
    config.jumps = jump::resolve(&config, jump.as_ref(), &overrides, home, env)?;
    Ok(config)
}

/// Without the hosts on the way; what ssh_config or a flag says of those is returned beside it.
pub(super) fn resolve_one(
    endpoint: &Endpoint,
    overrides: SftpOverrides,
    home: Option<&Path>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<(SftpConfig, Option<JumpSetting>)> {
    let files = overrides.ssh_config.unwrap_or_else(|| {
        let own = home.map(|home| home.join(".ssh/config"));
        own.into_iter().chain([PathBuf::from("/etc/ssh/ssh_config")]).collect()
    });
    let variable = |name: &str| env(name).filter(|value| !value.is_empty());
    let local_user = variable("USER").or_else(|| variable("LOGNAME"));
    let asked = Asked { host: &endpoint.host, user: endpoint.user.as_deref(), local_user: local_user.as_deref() };
    let settings = ssh_config::lookup(asked, home, &files)?;
    let user = endpoint.user.clone().or_else(|| settings.user.clone()).or_else(|| local_user.clone());
    let Some(user) = user else {
        return Err(Error::new(ErrorKind::DestAuth, "log in at", Subject::Server(endpoint.host.clone()))
            .because("no user name is known; write sftp://USER@HOST/PATH"));
    };
    let port = endpoint.port.or(settings.port).unwrap_or_else(|| endpoint.protocol.default_port());
    let address = match &settings.host_name {
        Some(name) => {
            let name =
                Tokens { host: &endpoint.host, original: &endpoint.host, port, user: &user, local_user: local_user.as_deref(), home }
                    .expand(name)?;
            Some(name).filter(|name| *name != endpoint.host)
        }
        None => None,
    };
    let mut config = SftpConfig::new(Endpoint { port: Some(port), user: Some(user.clone()), ..endpoint.clone() });
    config.address = address;
    let host = config.host().to_owned();
    let tokens = Tokens { host: &host, original: &endpoint.host, port, user: &user, local_user: local_user.as_deref(), home };

    config.jump_host = overrides.for_jump_host;
    let own_keys = !settings.identity_files.is_empty();
    // A key named by a flag is the server's; a host on the way has its own where ssh_config names one.
    let leave = config.jump_host && own_keys;
    let (given, inline) = if leave { (Vec::new(), Vec::new()) } else { (overrides.identities, overrides.inline_keys) };
    config.identities = if given.is_empty() && !inline.is_empty() { Vec::new() } else { identities(given, &settings, &tokens, home)? };
    config.inline_keys = inline;
    config.identities_only = settings.identities_only.unwrap_or(false);
    config.certificates = settings.certificate_files.iter().map(|text| Ok(PathBuf::from(tokens.expand(text)?))).collect::<Result<_>>()?;
    config.known_hosts = known_hosts(overrides.known_hosts, &settings, &tokens, home)?;
    config.agent_socket = match settings.identity_agent.as_deref() {
        None | Some("SSH_AUTH_SOCK") => variable("SSH_AUTH_SOCK").map(PathBuf::from),
        Some("none") => None,
        Some(path) => match path.strip_prefix('$') {
            Some(name) => variable(name).map(PathBuf::from),
            None => Some(PathBuf::from(tokens.expand(path)?)),
        },
    };
    config.use_agent = overrides.use_agent.unwrap_or(true) && config.agent_socket.is_some();
    config.host_key_alias = settings.host_key_alias.clone();
    config.host_key_pins = overrides.host_key_pins.iter().map(|pin| normal_pin(pin)).collect::<Result<_>>()?;
    config.password = overrides.password;
    config.connect_timeout = overrides.connect_timeout.unwrap_or(config.connect_timeout);
    config.stall_timeout = overrides.stall_timeout.unwrap_or(config.stall_timeout);
    config.family = overrides.family;
    config.bind = overrides.bind;
    config.proxy = overrides.proxy;
    config.addresses = overrides.addresses;
    config.algorithms = overrides.algorithms;
    config.prompt = overrides.prompt;
    config.notes = settings.notes;
    let jump = match (overrides.jump, settings.proxy_jump) {
        (Some(text), _) => Some(JumpSetting { text, from: "--jump" }),
        (None, Some(text)) => Some(JumpSetting { text, from: "ProxyJump" }),
        (None, None) => None,
    };
    Ok((config, jump))
}

fn identities(given: Vec<Identity>, settings: &HostSettings, tokens: &Tokens<'_>, home: Option<&Path>) -> Result<Vec<Identity>> {
    if !given.is_empty() {
        return Ok(given);
    }
    if settings.identity_files.is_empty() {
        let directory = home.map(|home| home.join(".ssh"));
        let default = |name| directory.as_ref().map(|d| Identity { path: d.join(name), passphrase: None, named: false });
        return Ok(DEFAULT_KEYS.into_iter().filter_map(default).collect());
    }
    let named = |text: &String| Ok(Identity { path: PathBuf::from(tokens.expand(text)?), passphrase: None, named: true });
    settings.identity_files.iter().filter(|text| *text != "none").map(named).collect()
}

fn known_hosts(given: Vec<PathBuf>, settings: &HostSettings, tokens: &Tokens<'_>, home: Option<&Path>) -> Result<Vec<PathBuf>> {
    if !given.is_empty() {
        return Ok(given);
    }
    let mut files = Vec::new();
    match &settings.user_known_hosts {
        Some(list) => {
            for text in list.iter().filter(|text| *text != "none") {
                files.push(PathBuf::from(tokens.expand(text)?));
            }
        }
        None => files.extend(home.map(|home| home.join(".ssh/known_hosts"))),
    }
    files.push(PathBuf::from("/etc/ssh/ssh_known_hosts"));
    Ok(files)
}

/// `SHA256:…` as OpenSSH prints it, whether or not the user kept the padding.
fn normal_pin(pin: &str) -> Result<String> {
    let text = pin.trim().trim_end_matches('=');
    match text.parse::<Fingerprint>() {
        Ok(fingerprint) if fingerprint.is_sha256() => Ok(fingerprint.to_string()),
        _ => Err(Error::new(ErrorKind::DestHostKey, "use the fingerprint", Subject::Setting(pin.to_owned()))
            .because("--host-key takes SHA256: and 43 characters, as `ssh-keygen -lf KEY.pub` prints it")),
    }
}

/// The values of `~` and the `%` tokens in ssh_config.
struct Tokens<'a> {
    host: &'a str,
    original: &'a str,
    port: u16,
    user: &'a str,
    local_user: Option<&'a str>,
    home: Option<&'a Path>,
}

impl Tokens<'_> {
    fn expand(&self, text: &str) -> Result<String> {
        let wrong =
            |why: String| Error::new(ErrorKind::DestAuth, "expand the ssh_config value", Subject::Setting(text.to_owned())).because(why);
        let home = || self.home.map(|home| home.display().to_string()).ok_or_else(|| wrong("the home directory is not known".to_owned()));
        let mut out = String::new();
        let mut rest = text;
        if let Some(below) = text.strip_prefix("~/") {
            out.push_str(&home()?);
            out.push('/');
            rest = below;
        }
        let mut characters = rest.chars();
        while let Some(c) = characters.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            match characters.next() {
                Some('%') => out.push('%'),
                Some('h') => out.push_str(self.host),
                Some('n') => out.push_str(self.original),
                Some('p') => out.push_str(&self.port.to_string()),
                Some('r') => out.push_str(self.user),
                Some('u') => out.push_str(self.local_user.ok_or_else(|| wrong("the local user name is not known".to_owned()))?),
                Some('d') => out.push_str(&home()?),
                other => return Err(wrong(format!("%{} is not supported", other.map(String::from).unwrap_or_default()))),
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Protocol;

    fn endpoint(host: &str, port: Option<u16>, user: Option<&str>) -> Endpoint {
        Endpoint { protocol: Protocol::Sftp, host: host.to_owned(), port, user: user.map(str::to_owned) }
    }

    fn env(name: &str) -> Option<String> {
        match name {
            "USER" => Some("local".to_owned()),
            "SSH_AUTH_SOCK" => Some("/run/agent".to_owned()),
            _ => None,
        }
    }

    fn with_config(text: &str) -> (tempfile::TempDir, SftpOverrides) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("config");
        std::fs::write(&path, text).unwrap();
        (home, SftpOverrides { ssh_config: Some(vec![path]), ..Default::default() })
    }

    #[test]
    fn without_anything_the_usual_files_and_names_are_used() {
        let home = Path::new("/home/local");
        let overrides = SftpOverrides { ssh_config: Some(Vec::new()), ..Default::default() };
        let config = resolve(&endpoint("h", None, None), overrides, Some(home), &env).unwrap();
        assert_eq!((config.user(), config.port(), config.host()), ("local", 22, "h"));
        let keys: Vec<_> = config.identities.iter().map(|i| i.path.to_str().unwrap()).collect();
        assert_eq!(keys, ["/home/local/.ssh/id_ed25519", "/home/local/.ssh/id_ecdsa", "/home/local/.ssh/id_rsa"]);
        assert_eq!(config.known_hosts[0], home.join(".ssh/known_hosts"));
        assert_eq!(config.known_hosts[1], Path::new("/etc/ssh/ssh_known_hosts"));
        assert!(config.use_agent && config.agent_socket.as_deref() == Some(Path::new("/run/agent")));
    }

    #[test]
    fn flags_win_over_the_url_and_the_url_over_ssh_config() {
        let text =
            "Host h\n HostName real-%h\n Port 2222\n User conf\n IdentityFile ~/k-%h-%r-%u\n IdentityFile %d/%%\n UserKnownHostsFile /kh\n";
        let (home, overrides) = with_config(text);
        let config = resolve(&endpoint("h", None, None), overrides.clone(), Some(home.path()), &env).unwrap();
        assert_eq!((config.user(), config.port(), config.host()), ("conf", 2222, "real-h"));
        assert_eq!(config.identities[0].path, home.path().join("k-real-h-conf-local"));
        assert_eq!(config.identities[1].path, home.path().join("%"));
        assert_eq!(config.known_hosts[0], Path::new("/kh"));
        assert_eq!(config.host_label(), HostLabel::new("real-h", 2222));

        let key = Identity { path: "/k".into(), passphrase: Some(Secret::new("hush")), named: true };
        let overrides = SftpOverrides { identities: vec![key], known_hosts: vec!["/other".into()], ..overrides };
        let config = resolve(&endpoint("h", Some(22), Some("url")), overrides, Some(home.path()), &env).unwrap();
        assert_eq!((config.user(), config.port(), config.identities.len()), ("url", 22, 1));
        assert_eq!(config.known_hosts, [PathBuf::from("/other")]);
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let mut config = SftpConfig::new(endpoint("h", Some(22), Some("u")));
        config.password = Some(Secret::new("hush-password"));
        config.identities = vec![Identity { path: "/k".into(), passphrase: Some(Secret::new("hush-phrase")), named: true }];
        assert!(!format!("{config:?}").contains("hush"));
    }

    #[test]
    fn pins_are_checked_and_brought_into_one_form() {
        let pin = "SHA256:uNiVztksCsDhcc0u9e8BrrJqnJVdSV3UDtvZJI2Hv9g";
        assert_eq!(normal_pin(&format!(" {pin}= ")).unwrap(), pin);
        for bad in ["SHA256:abc", "MD5:00:11", "", "uNiVztksCsDhcc0u9e8BrrJqnJVdSV3UDtvZJI2Hv9g"] {
            assert!(normal_pin(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_agent_can_be_refused_or_moved() {
        let (home, overrides) = with_config("IdentityAgent none\n");
        let config = resolve(&endpoint("h", None, None), overrides, Some(home.path()), &env).unwrap();
        assert!(!config.use_agent);
        let (home, overrides) = with_config("IdentityAgent ~/sock\nIdentitiesOnly yes\n");
        let config = resolve(&endpoint("h", None, None), overrides, Some(home.path()), &env).unwrap();
        assert_eq!(config.agent_socket, Some(home.path().join("sock")));
        assert!(config.identities_only);
    }

    #[test]
    fn a_missing_user_and_an_unknown_token_are_explained() {
        let (home, overrides) = with_config("IdentityFile %z\n");
        assert!(
            resolve(&endpoint("h", None, None), overrides.clone(), Some(home.path()), &|_| None)
                .unwrap_err()
                .to_string()
                .contains("log in")
        );
        let error = resolve(&endpoint("h", None, Some("u")), overrides, Some(home.path()), &env).unwrap_err();
        assert!(crate::error::chain(&error).contains("%z"));
    }
}
