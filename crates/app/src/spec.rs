//! What a copy was asked to do, in the form that is stored with the transfer so that `resume` needs no flags.
//! It holds references to secrets, never secrets.

use std::path::PathBuf;
use std::time::Duration;

use model::{
    After, Algorithm, Bandwidth, ByteCount, CompanionName, Credential, Grade, IfExists, NameTemplate, Order, ProxyAddress, Publish,
    Sidecar, SidecarKind, TempName, Thresholds, Verify,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CopySpec {
    /// Source URL as typed.
    pub source: String,
    /// Destination URL without password.
    pub destination: String,
    pub s3: S3Settings,
    /// Stored under the name it had when SSH was all there was.
    #[serde(rename = "ssh")]
    pub server: ServerSettings,
    pub options: Options,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct S3Settings {
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub profile: Option<String>,
    /// `None`: path style when an endpoint is set.
    pub path_style: Option<bool>,
    pub request_payer: bool,
    pub no_sign_request: bool,
    /// Reference to a base64 SSE-C key, `env:NAME` or `file:PATH`.
    pub sse_customer_key_from: Option<String>,
    /// Reference to an access key, `rclone:NAME#secret_access_key#FILE`, instead of the chain of AWS.
    pub access_key_from: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerSettings {
    /// `env:NAME`, `file:PATH` or `prompt`.
    pub password_from: Option<String>,
    pub bind: Option<std::net::IpAddr>,
    /// Without its password.
    pub proxy: Option<ProxyAddress>,
    /// `env:NAME`, `file:PATH` or `prompt`.
    pub proxy_password_from: Option<String>,
    /// From the proxy's URL, for this process only.
    #[serde(skip)]
    pub proxy_password: Option<Credential>,
    /// `Some(false)`: the server must have public addresses only. `None` allows any, where the person at this machine chose it.
    pub allow_private: Option<bool>,

    // SSH.
    /// `[USER@]HOST[:PORT],…` or `none`, instead of what ssh_config says.
    pub jump: Option<String>,
    pub identities: Vec<PathBuf>,
    /// Reference to a private key that is in no file of its own.
    pub key_from: Option<String>,
    /// Reference to the passphrase of the keys above.
    pub key_passphrase_from: Option<String>,
    pub known_hosts: Vec<PathBuf>,
    /// `SHA256:…`
    pub host_keys: Vec<String>,
    pub legacy_algorithms: bool,

    // FTP, and the TLS around it.
    /// PEM files of authorities that are trusted instead of the system's.
    pub ca_files: Vec<PathBuf>,
    /// `SHA256:…` of the server's certificate.
    pub tls_pins: Vec<String>,
    pub tls_min: Option<TlsMinimum>,
    pub client_cert: Option<PathBuf>,
    /// `None`: the key stands in the file of the certificate.
    pub client_key: Option<PathBuf>,
    /// The server connects to us for data.
    pub active: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsMinimum {
    #[serde(rename = "1.2")]
    V1_2,
    #[serde(rename = "1.3")]
    V1_3,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    pub verify: Verify,
    pub digests: Vec<Algorithm>,
    pub if_exists: IfExists,
    pub resend: bool,
    pub publish: Publish,
    pub temp_name: TempName,
    /// `None`: two, or four when the server is far.
    pub connections: Option<u32>,
    pub transfers: u32,
    pub lanes: u32,
    pub chunk_size: ByteCount,
    pub buffer: ByteCount,
    pub bwlimit: Bandwidth,
    pub retries: u32,
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    /// Path of a list, or `-`. The list itself is in the manifest once it was read.
    pub files_from: Option<String>,
    /// Exactly these keys of the bucket.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    pub min_size: Option<ByteCount>,
    pub max_size: Option<ByteCount>,
    pub min_age: Option<Duration>,
    pub max_age: Option<Duration>,
    pub name: NameTemplate,
    pub preserve_time: bool,
    /// Permission bits of delivered files.
    pub chmod: Option<u32>,
    /// `--mkdir`: also the directory itself; `--no-mkdir`: not even below it; default: below it only.
    pub mkdir: Mkdir,
    pub fail_if_empty: bool,
    pub connect_timeout: Duration,
    pub stall_timeout: Duration,
    pub max_duration: Option<Duration>,
    pub retry_auth: bool,
    pub thresholds: Thresholds,

    // What the partner agreed on besides the files.
    pub sidecars: Vec<Sidecar>,
    /// One file that lists all others of the transfer.
    pub manifest: Option<CompanionName>,
    /// One empty file after everything else.
    pub done: Option<CompanionName>,
    pub order: Option<Order>,
    pub after: After,
    /// The least proof with which an original may go; `None`: `read-back`.
    pub after_grade: Option<Grade>,
}

impl Options {
    /// The least proof with which an original may go.
    pub fn removal_grade(&self) -> Grade {
        self.after_grade.unwrap_or(Grade::ReadBack)
    }

    /// Deleting needs a proof, so asking for the one is asking for the other.
    pub fn least_proof(&self) -> Verify {
        match (self.verify, &self.after) {
            (Verify::Auto, After::Delete | After::Archive { .. }) => Verify::AtLeast(self.removal_grade()),
            (verify, _) => verify,
        }
    }

    /// With those that sidecars and the manifest are made of.
    pub fn wanted_digests(&self) -> Vec<Algorithm> {
        let mut digests = self.digests.clone();
        let md5 = self.sidecars.iter().any(|s| s.kind == SidecarKind::Md5 || s.text.as_deref().is_some_and(|t| t.contains("{md5}")));
        let sha256 = self.manifest.is_some() || !self.sidecars.is_empty();
        if md5 || !digests.is_empty() && sha256 {
            digests.push(Algorithm::Sha256);
        }
        if md5 {
            digests.push(Algorithm::Md5);
        }
        digests
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mkdir {
    Below,
    All,
    Never,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            verify: Verify::Auto,
            digests: Vec::new(),
            if_exists: IfExists::Fail,
            resend: false,
            publish: Publish::Rename,
            temp_name: TempName::default(),
            connections: None,
            transfers: 5,
            lanes: 16,
            chunk_size: ByteCount::mib(10),
            buffer: ByteCount::mib(32),
            bwlimit: Bandwidth::default(),
            retries: 3,
            include: Vec::new(),
            exclude: Vec::new(),
            files_from: None,
            keys: Vec::new(),
            min_size: None,
            max_size: None,
            min_age: None,
            max_age: None,
            name: NameTemplate::keep(),
            preserve_time: true,
            chmod: None,
            mkdir: Mkdir::Below,
            fail_if_empty: false,
            connect_timeout: Duration::from_secs(20),
            stall_timeout: Duration::from_secs(60),
            max_duration: None,
            retry_auth: false,
            thresholds: Thresholds::default(),
            sidecars: Vec::new(),
            manifest: None,
            done: None,
            order: None,
            after: After::Keep,
            after_grade: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_that_was_stored_before_ftp_still_loads() {
        let stored = r#"{"source":"s3://b/k","destination":"sftp://u@h/in/","s3":{},
            "ssh":{"identities":["/k"],"password_from":"env:P","known_hosts":[],"host_keys":["SHA256:x"],"legacy_algorithms":true,"bind":"127.0.0.1"},
            "options":{"verify":"auto","retries":7}}"#;
        let spec: CopySpec = serde_json::from_str(stored).unwrap();
        assert_eq!((spec.server.password_from.as_deref(), spec.server.legacy_algorithms), (Some("env:P"), true));
        assert_eq!(spec.server.bind, Some(std::net::IpAddr::from([127, 0, 0, 1])));
        assert_eq!((spec.server.ca_files.len(), spec.server.tls_min, spec.server.active), (0, None, false));
        assert_eq!(spec.options.retries, 7);
    }

    #[test]
    fn the_password_of_a_proxy_is_not_stored() {
        let (proxy, proxy_password) = ProxyAddress::parse("socks5://u:hush@h:1080").unwrap();
        let server = ServerSettings { proxy: Some(proxy), proxy_password, jump: Some("a,b".into()), ..ServerSettings::default() };
        let text = serde_json::to_string(&server).unwrap();
        assert!(
            text.contains(r#""proxy":"socks5://u@h:1080""#) && !text.contains("hush") && !format!("{server:?}").contains("hush"),
            "{text}"
        );
        let read: ServerSettings = serde_json::from_str(&text).unwrap();
        assert_eq!((read.proxy, read.proxy_password, read.jump), (server.proxy, None, server.jump));
    }

    #[test]
    fn what_ftp_needs_is_stored_and_read_again() {
        let server = ServerSettings {
            ca_files: vec!["/ca.pem".into()],
            tls_pins: vec!["SHA256:x".into()],
            tls_min: Some(TlsMinimum::V1_3),
            client_cert: Some("/c.pem".into()),
            client_key: Some("/k.pem".into()),
            active: true,
            ..ServerSettings::default()
        };
        let spec = CopySpec { source: "s".into(), destination: "d".into(), s3: S3Settings::default(), server, options: Options::default() };
        let text = serde_json::to_string(&spec).unwrap();
        assert!(text.contains(r#""tls_min":"1.3""#) && text.contains(r#""ssh":{"#), "{text}");
        assert_eq!(serde_json::from_str::<CopySpec>(&text).unwrap(), spec);
    }
}
