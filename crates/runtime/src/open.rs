//! From a spec to a live source and a connector: URLs, settings and secrets come together here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use app::transfers::{Naming, destination_key};
use app::{CopySpec, Options, S3Settings, ServerSettings};
use async_trait::async_trait;
use model::{Credential, Endpoint, ErrorClass, Location, ObjectKey, RemotePath};
use transfer::ftp::FtpConnector;
use transfer::local::{LocalConnector, LocalSource};
use transfer::road::{Addresses, Proxy};
use transfer::s3::{AccessKey, CustomerKey, S3Config, S3Source};
use transfer::sftp::{self, SftpConnector};
use transfer::{Connector, Source};

use crate::rclone::SecretPlace;
use crate::{Failure, Place};

/// What `copy` writes to, as messages name it.
const DESTINATIONS: &str = "sftp://, ftpes://, ftps://, ftp:// and file://";

/// What is read: a whole prefix or one object.
#[derive(Debug)]
pub struct SourceSide {
    pub source: Arc<dyn Source>,
    /// Everything below this; empty for a whole bucket or directory.
    pub prefix: String,
    pub single: Option<ObjectKey>,
}

/// Where it goes.
#[derive(Debug, Clone)]
pub struct DestinationSide {
    pub connector: Arc<dyn Connector>,
    pub endpoint: Endpoint,
    /// The server as records know it.
    pub key: String,
    pub path: RemotePath,
    pub directory: bool,
    /// Changes when the credential changes; says nothing about it.
    pub credential: String,
}

/// How a service comes to both ends of a transfer. Whoever composes a service chooses it, and nobody who asks for a
/// transfer: what is asked for names sources and connectors only.
#[async_trait]
pub trait Opening: Send + Sync + std::fmt::Debug {
    async fn source(&self, spec: &CopySpec, place: &Place) -> Result<SourceSide, Failure>;
    /// Connects to nothing yet.
    fn destination(&self, spec: &CopySpec, place: &Place) -> Result<DestinationSide, Failure>;
}

/// By the addresses of the spec.
#[derive(Debug, Clone, Copy, Default)]
pub struct ByAddress;

#[async_trait]
impl Opening for ByAddress {
    async fn source(&self, spec: &CopySpec, place: &Place) -> Result<SourceSide, Failure> {
        source(&spec.source, &spec.s3, &spec.options, place).await
    }

    fn destination(&self, spec: &CopySpec, place: &Place) -> Result<DestinationSide, Failure> {
        destination(&spec.destination, &spec.server, &spec.options, None, Login::Now, place)
    }
}

pub async fn source(url: &str, settings: &S3Settings, options: &Options, place: &Place) -> Result<SourceSide, Failure> {
    match parse(url)? {
        Location::S3 { bucket, text } => {
            let config = S3Config {
                endpoint: settings.endpoint.clone(),
                region: settings.region.clone(),
                profile: settings.profile.clone(),
                path_style: settings.path_style,
                request_payer: settings.request_payer,
                anonymous: settings.no_sign_request,
                access_key: settings.access_key_from.as_deref().map(access_key).transpose()?,
                customer_key: settings.sse_customer_key_from.as_deref().map(|reference| customer_key(reference, place)).transpose()?,
                stall_timeout: options.stall_timeout,
                ..S3Config::new(bucket)
            };
            below(Arc::new(S3Source::connect(config).await?), url, text)
        }
        Location::File { path, directory } => {
            let local = PathBuf::from(path.as_str());
            let is_directory = local.is_dir();
            if directory && local.exists() && !is_directory {
                return Err(Failure::usage(format!("{url} ends in / but is a file")));
            }
            let single = if is_directory { None } else { Some(ObjectKey::local(path.name())) };
            Ok(SourceSide { source: Arc::new(LocalSource::open(local).await?), prefix: String::new(), single })
        }
        Location::Server { .. } => Err(Failure::usage(format!("{url} cannot be a source; copy reads from s3:// and file://"))),
    }
}

/// One key of a bucket, or everything below a prefix.
pub fn below(source: Arc<dyn Source>, url: &str, text: String) -> Result<SourceSide, Failure> {
    let directory = text.is_empty() || text.ends_with('/');
    let single = (!directory).then(|| ObjectKey::new(text.clone())).transpose().map_err(|e| Failure::usage(format!("{url}: {e}")))?;
    Ok(SourceSide { source, prefix: if directory { text } else { String::new() }, single })
}

pub fn access_key(reference: &str) -> Result<AccessKey, Failure> {
    let place = reference.strip_prefix("rclone:").and_then(SecretPlace::parse);
    let place = place.ok_or_else(|| Failure::usage("the reference to the access key cannot be read".to_owned()))?;
    place.access_key().map_err(|why| Failure::of(ErrorClass::SourceDenied, why))
}

fn customer_key(reference: &str, place: &Place) -> Result<CustomerKey, Failure> {
    let text = crate::secret(reference, "the SSE-C key", place)?;
    let bytes = data_encoding::BASE64.decode(text.expose().trim().as_bytes()).ok().and_then(|b| <[u8; 32]>::try_from(b).ok());
    bytes.map(CustomerKey::new).ok_or_else(|| Failure::usage("the SSE-C key must be 32 bytes in base64".to_owned()))
}

/// Whether somebody is going to log in, so that a missing password must be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    Now,
    /// Only names and paths are wanted.
    Never,
}

/// `password` is what a flag gave; the URL's own comes after it and after the setting.
pub fn destination(
    url: &str,
    server: &ServerSettings,
    options: &Options,
    password: Option<Credential>,
    login: Login,
    place: &Place,
) -> Result<DestinationSide, Failure> {
    match parse(url)? {
        Location::Server { endpoint, password: in_url, path, directory } => {
            let password = match (password, server.password_from.as_deref(), login) {
                (None, Some(reference), Login::Now) => Some(crate::secret(reference, &endpoint.to_string(), place)?),
                (password, _, _) => password.or(in_url),
            };
            let (connector, credential): (Arc<dyn Connector>, String) = if endpoint.protocol.is_ftp() {
                let (config, credential) = crate::ftp::config(endpoint, server, options, password, login, place)?;
                (Arc::new(FtpConnector::new(config)?), credential)
            } else {
                let config = ssh_config(&endpoint, server, options, password.clone(), login, place)?;
                let credential = ssh_fingerprint(&endpoint, server, &config, password.as_ref(), place);
                (Arc::new(SftpConnector::new(config)), credential)
            };
            let endpoint = connector.endpoint().clone();
            Ok(DestinationSide { key: destination_key(&endpoint), connector, endpoint, path, directory, credential })
        }
        Location::File { path, directory } => {
            let connector = LocalConnector::with_home(Some(place.home.clone()));
            let endpoint = connector.endpoint().clone();
            let directory = directory || std::path::Path::new(path.as_str()).is_dir();
            Ok(DestinationSide {
                key: destination_key(&endpoint),
                connector: Arc::new(connector),
                endpoint,
                path,
                directory,
                credential: String::new(),
            })
        }
        Location::S3 { .. } => Err(Failure::usage(format!("{url} cannot be a destination; copy writes to {DESTINATIONS}"))),
    }
}

fn ssh_config(
    endpoint: &Endpoint,
    server: &ServerSettings,
    options: &Options,
    password: Option<Credential>,
    login: Login,
    place: &Place,
) -> Result<sftp::SftpConfig, Failure> {
    let fetch = |reference: &Option<String>, what: &str| match reference {
        Some(reference) if login == Login::Now => crate::secret(reference, what, place).map(Some),
        _ => Ok(None),
    };
    let passphrase = fetch(&server.key_passphrase_from, "the private key")?;
    let identity = |path: &PathBuf| sftp::Identity { path: path.clone(), passphrase: passphrase.clone(), named: true };
    let inline = fetch(&server.key_from, "the private key")?.map(|text| sftp::InlineKey {
        name: "of rclone.conf".to_owned(),
        text,
        passphrase: passphrase.clone(),
    });
    let overrides = sftp::SftpOverrides {
        identities: server.identities.iter().map(identity).collect(),
        inline_keys: inline.into_iter().collect(),
        known_hosts: server.known_hosts.clone(),
        host_key_pins: server.host_keys.clone(),
        password,
        connect_timeout: Some(options.connect_timeout),
        stall_timeout: Some(options.stall_timeout),
        bind: server.bind,
        proxy: proxy(server, login, place)?,
        addresses: addresses(server),
        jump: server.jump.clone(),
        algorithms: if server.legacy_algorithms { sftp::Algorithms::Legacy } else { sftp::Algorithms::Modern },
        prompt: place.prompt.clone().map(|ask| Arc::new(Asker(ask)) as Arc<dyn sftp::Prompt>),
        ..sftp::SftpOverrides::default()
    };
    let environment = |name: &str| match name {
        "SSH_AUTH_SOCK" => place.ssh_agent.as_ref().and_then(|p| p.to_str().map(str::to_owned)),
        "USER" | "LOGNAME" => place.login_name.clone(),
        _ => None,
    };
    Ok(sftp::resolve(endpoint, overrides, Some(&place.home), &environment)?)
}

/// The proxy of the settings with its password. A person is asked where a user is named and nothing else is.
pub fn proxy(server: &ServerSettings, login: Login, place: &Place) -> Result<Option<Proxy>, Failure> {
    let Some(address) = server.proxy.clone() else { return Ok(None) };
    let what = format!("the proxy {address}");
    let password = match (&server.proxy_password_from, &server.proxy_password, &address.user) {
        _ if login == Login::Never => None,
        (Some(reference), _, _) => Some(crate::secret(reference, &what, place)?),
        (None, Some(password), _) => Some(password.clone()),
        (None, None, Some(_)) => place.prompt.as_ref().and_then(|ask| ask(&format!("Password for {what}: "))),
        (None, None, None) => None,
    };
    Ok(Some(Proxy { address, password }))
}

/// Where connections may lead. Names are the system's to resolve.
pub fn addresses(server: &ServerSettings) -> Addresses {
    Addresses { allow_private: server.allow_private.unwrap_or(true), ..Addresses::default() }
}

/// Source, destination and how names are made, together.
pub fn naming(spec: &CopySpec, source: &SourceSide, destination: &DestinationSide, now: jiff::Timestamp) -> Result<Naming, Failure> {
    if source.single.is_none() && !destination.directory {
        return Err(Failure::usage(format!(
            "{} names many files and {} one; end the destination with / to deliver into that directory",
            spec.source, spec.destination
        )));
    }
    let (root, exact) = if destination.directory {
        (destination.path.clone(), None)
    } else {
        (destination.path.parent().unwrap_or_else(RemotePath::root), Some(destination.path.clone()))
    };
    // A single key below a directory keeps its last segment only.
    let prefix = match &source.single {
        Some(key) => key.as_str().rsplit_once('/').map_or(String::new(), |(dir, _)| format!("{dir}/")),
        None => source.prefix.clone(),
    };
    Ok(Naming { root, template: spec.options.name.clone(), prefix, exact, now })
}

pub fn parse(url: &str) -> Result<Location, Failure> {
    Location::parse(url).map_err(|e| match e {
        model::LocationError::Name(name) => Failure::of(ErrorClass::DestNameInvalid, name.to_string()),
        other => Failure::usage(other.to_string()),
    })
}

fn ssh_fingerprint(
    endpoint: &Endpoint,
    server: &ServerSettings,
    config: &sftp::SftpConfig,
    password: Option<&Credential>,
    place: &Place,
) -> String {
    let defaults = ["id_ed25519", "id_ecdsa", "id_rsa"].map(|name| place.home.join(".ssh").join(name));
    let keys: &[PathBuf] = if server.identities.is_empty() { &defaults } else { &server.identities };
    let on_the_way = config.jumps.iter().flat_map(|hop| &hop.identities).map(|identity| identity.path.as_path());
    fingerprint(endpoint, &keys.iter().map(PathBuf::as_path).chain(on_the_way).collect::<Vec<_>>(), password)
}

/// A value that differs when another credential would be used. Slow to compute on purpose: it is stored, and a
/// password must not be guessed from it.
pub fn fingerprint(endpoint: &Endpoint, files: &[&Path], password: Option<&Credential>) -> String {
    let mut text = String::new();
    for path in files {
        if let Ok(metadata) = std::fs::metadata(path) {
            let changed = metadata.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok()).map_or(0, |d| d.as_nanos());
            text.push_str(&format!("{}:{}:{changed}\n", path.display(), metadata.len()));
        }
    }
    text.push_str(password.map_or("", |p| p.expose()));
    let rounds = std::num::NonZeroU32::new(50_000).expect("not zero");
    let mut out = [0u8; 16];
    aws_lc_rs::pbkdf2::derive(aws_lc_rs::pbkdf2::PBKDF2_HMAC_SHA256, rounds, endpoint.to_string().as_bytes(), text.as_bytes(), &mut out);
    data_encoding::HEXLOWER.encode(&out)
}

struct Asker(Arc<crate::Ask>);

impl std::fmt::Debug for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Asker")
    }
}

impl sftp::Prompt for Asker {
    fn ask(&self, what: &str) -> Option<Credential> {
        (self.0)(what)
    }
}
