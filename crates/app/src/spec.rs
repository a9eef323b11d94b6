//! What a copy was asked to do, in the form that is stored with the transfer so that `resume` needs no flags.
//! It holds references to secrets, never secrets.

use std::path::PathBuf;
use std::time::Duration;

use model::{Algorithm, ByteCount, IfExists, NameTemplate, Publish, Rate, TempName, Thresholds, Verify};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CopySpec {
    /// Source URL as typed.
    pub source: String,
    /// Destination URL without password.
    pub destination: String,
    pub s3: S3Settings,
    pub ssh: SshSettings,
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
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SshSettings {
    pub identities: Vec<PathBuf>,
    /// `env:NAME`, `file:PATH` or `prompt`.
    pub password_from: Option<String>,
    pub known_hosts: Vec<PathBuf>,
    /// `SHA256:…`
    pub host_keys: Vec<String>,
    pub legacy_algorithms: bool,
    pub bind: Option<std::net::IpAddr>,
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
    pub bwlimit: Rate,
    pub retries: u32,
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    /// Path of a list, or `-`. The list itself is in the manifest once it was read.
    pub files_from: Option<String>,
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
            bwlimit: Rate(None),
            retries: 3,
            include: Vec::new(),
            exclude: Vec::new(),
            files_from: None,
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
        }
    }
}
