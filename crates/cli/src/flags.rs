//! The flags that several commands share, in the groups of `--help`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use model::{
    After, Algorithm, Bandwidth, ByteCount, CompanionName, Grade, IfExists, NameTemplate, Order, Publish, Sidecar, TempName, Verify,
    parse_duration,
};

#[derive(Debug, Args, Default)]
#[command(next_help_heading = "S3")]
pub struct StoreArgs {
    /// Address of an S3-compatible store
    #[arg(long, value_name = "URL")]
    pub s3_endpoint: Option<String>,
    #[arg(long, value_name = "REGION", help = "Region of the bucket")]
    pub s3_region: Option<String>,
    #[arg(long, value_name = "NAME", help = "AWS profile to take credentials from")]
    pub profile: Option<String>,
    /// Put the bucket into the path of the URL; the default where an endpoint is given
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub path_style: Option<bool>,
    /// Agree to pay for requests to a requester-pays bucket
    #[arg(long)]
    pub request_payer: bool,
    /// Read a public bucket without credentials
    #[arg(long)]
    pub no_sign_request: bool,
    /// Where the base64 SSE-C key is: env:NAME or file:PATH
    #[arg(long, value_name = "REF")]
    pub sse_customer_key_from: Option<String>,
    /// What a name from rclone.conf stands for; flags outweigh it.
    #[arg(skip)]
    pub remote: app::S3Settings,
}

#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Server")]
pub struct ServerArgs {
    /// SSH: private key file; may be repeated
    #[arg(long, value_name = "FILE")]
    pub identity: Vec<PathBuf>,
    /// Where the password is: env:NAME, file:PATH or prompt
    #[arg(long, value_name = "REF")]
    pub password_from: Option<String>,
    /// SSH: file of known host keys instead of ~/.ssh/known_hosts; may be repeated
    #[arg(long, value_name = "FILE")]
    pub known_hosts: Vec<PathBuf>,
    /// SSH: fingerprint of the server's host key; may be repeated
    #[arg(long, value_name = "SHA256:…", value_parser = fingerprint)]
    pub host_key: Vec<String>,
    /// SSH: also offer algorithms that are no longer considered safe
    #[arg(long, value_name = "SET", value_parser = ["modern", "legacy"])]
    pub ssh_algorithms: Option<String>,
    /// TLS: PEM file of authorities to trust instead of the system's; may be repeated
    #[arg(long, value_name = "FILE")]
    pub ca_file: Vec<PathBuf>,
    /// TLS: fingerprint of the server's certificate, and no other is accepted; may be repeated
    #[arg(long, value_name = "SHA256:…", value_parser = certificate_fingerprint)]
    pub tls_pin: Vec<String>,
    /// TLS: oldest version to accept [default: 1.2]
    #[arg(long, value_name = "VERSION", value_parser = ["1.2", "1.3"])]
    pub tls_min: Option<String>,
    /// TLS: PEM file of our own certificate and its chain
    #[arg(long, value_name = "FILE")]
    pub client_cert: Option<PathBuf>,
    /// TLS: PEM file of its private key [default: the file of --client-cert]
    #[arg(long, value_name = "FILE")]
    pub client_key: Option<PathBuf>,
    /// FTP: the server connects to us for data
    #[arg(long)]
    pub active: bool,
    #[arg(long, value_name = "ADDRESS", help = "Local address to connect from")]
    pub bind: Option<IpAddr>,
    /// Reach the server through socks5://, socks5h:// or http:// [USER[:PASS]@]HOST:PORT; off for none
    #[arg(long, value_name = "URL")]
    pub proxy: Option<String>,
    /// Where the proxy's password is: env:NAME, file:PATH or prompt
    #[arg(long, value_name = "REF")]
    pub proxy_password_from: Option<String>,
    /// Whether the server may be at a private, loopback or other address that is not public [default: true]
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub allow_private: Option<bool>,
    /// SSH: log in at these hosts on the way, nearest first: [USER@]HOST[:PORT],…; none for no host
    #[arg(long, value_name = "HOSTS")]
    pub jump: Option<String>,
    /// Longest wait for a connection and login [default: 20s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub connect_timeout: Option<Duration>,
    /// Longest time in which nothing moves [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub stall_timeout: Option<Duration>,
    /// Try to log in although the last login was refused
    #[arg(long)]
    pub retry_auth: bool,
    /// What a name from rclone.conf stands for; flags outweigh it.
    #[arg(skip)]
    pub remote: app::ServerSettings,
}

#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Selection")]
pub struct SelectArgs {
    /// Only keys that match; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Not the keys that match; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// List of keys, one per line, or JSON lines with versionId; - reads stdin
    #[arg(long, value_name = "FILE")]
    pub files_from: Option<String>,
    #[arg(long, value_name = "SIZE", help = "Only files of at least this size")]
    pub min_size: Option<ByteCount>,
    #[arg(long, value_name = "SIZE", help = "Only files of at most this size")]
    pub max_size: Option<ByteCount>,
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help = "Only files at least this old")]
    pub min_age: Option<Duration>,
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help = "Only files at most this old")]
    pub max_age: Option<Duration>,
}

#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Names")]
pub struct NameArgs {
    /// Name below the destination: {key} {dir} {base} {date:%Y%m%d} {version} [default: {key}]
    #[arg(long, value_name = "TEMPLATE", value_parser = NameTemplate::parse)]
    pub name: Option<NameTemplate>,
    /// Drop directories: the same as --name {base}
    #[arg(long)]
    pub flatten: bool,
}

#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Delivery")]
pub struct DeliveryArgs {
    /// Least proof wanted: auto, server-hash, read-back, sampled, acknowledged, size or none [default: auto]
    #[arg(long, value_name = "GRADE")]
    pub verify: Option<Verify>,
    /// Digest for the receipt: sha256, crc64nvme or md5; may be repeated [default: sha256; CRC-64/NVME always]
    #[arg(long, value_name = "NAME")]
    pub digest: Vec<Algorithm>,
    /// When the name is taken: fail, skip, update, replace or replace-unsafe [default: fail]
    #[arg(long, value_name = "POLICY")]
    pub if_exists: Option<IfExists>,
    /// Send again what was already delivered
    #[arg(long)]
    pub resend: bool,
    /// How a file gets its final name: rename, staging-dir or in-place [default: rename]
    #[arg(long, value_name = "HOW")]
    pub publish: Option<Publish>,
    /// Temporary name; {id} is the unique part [default: .ff-{id}.part]
    #[arg(long, value_name = "TEMPLATE", value_parser = TempName::parse)]
    pub temp_name: Option<TempName>,
    #[arg(long, help = "Give delivered files the time of the source (the default)")]
    pub preserve_time: bool,
    #[arg(long, help = "Leave the time of delivered files to the server")]
    pub no_preserve_time: bool,
    /// Permission bits of delivered files, in octal
    #[arg(long, value_name = "MODE", value_parser = octal)]
    pub chmod: Option<u32>,
    /// Create the destination directory too; without this only directories below it
    #[arg(long)]
    pub mkdir: bool,
    /// Create no directory at all
    #[arg(long)]
    pub no_mkdir: bool,
    /// Exit 4 when nothing matches
    #[arg(long)]
    pub fail_if_empty: bool,
}

#[derive(Debug, Args, Default)]
#[command(next_help_heading = "The partner's contract")]
pub struct ContractArgs {
    /// A small file beside each delivered one: sha256, md5, done or ctl@FILE, with :NAME to name it, as in done:{name}.ok; may be repeated
    #[arg(long, value_name = "KIND[:NAME]")]
    pub sidecar: Vec<Sidecar>,
    /// One file that lists all delivered ones for `sha256sum -c`, or as JSON lines when NAME ends in .json; the last but one
    #[arg(long, value_name = "NAME")]
    pub manifest: Option<CompanionName>,
    /// One empty file after everything else
    #[arg(long, value_name = "NAME")]
    pub done: Option<CompanionName>,
    /// Publish one file after the other: listing, key, size or age; after a failure nothing more
    #[arg(long, value_name = "BY")]
    pub order: Option<Order>,
    /// Originals that were delivered: keep, delete or archive=s3://BUCKET/PREFIX/ [default: keep]
    #[arg(long, value_name = "WHAT")]
    pub after: Option<After>,
    /// Least proof with which an original may go [default: read-back]
    #[arg(long, value_name = "GRADE")]
    pub after_grade: Option<Grade>,
}

#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Speed and limits")]
pub struct SpeedArgs {
    /// Connections of one large file [default: 2, or 5 on a far server]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=32))]
    pub connections: Option<u32>,
    /// Large files at once [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub transfers: Option<u32>,
    /// Lanes for small files [default: 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub lanes: Option<u32>,
    #[arg(long, value_name = "SIZE", help = "Range read and confirmed at once [default: 10M]")]
    pub chunk_size: Option<ByteCount>,
    #[arg(long, value_name = "SIZE", help = "Memory for data under way, whole process [default: 32M]")]
    pub buffer: Option<ByteCount>,
    /// Highest rate, per second: 8M, off, or by local time "08:00,512K 18:00,off", with days Mon-08:00,512K [default: off]
    #[arg(long, value_name = "RATE|TIMETABLE")]
    pub bwlimit: Option<Bandwidth>,
    /// Attempts without progress before a file fails [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub retries: Option<u32>,
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help = "Checkpoint and stop after this time")]
    pub max_duration: Option<Duration>,
}

#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Append the receipt of every delivered file to this file
    #[arg(long, value_name = "FILE")]
    pub receipt: Option<PathBuf>,
    /// Print lines instead of a progress bar
    #[arg(long)]
    pub no_progress: bool,
}

pub fn fingerprint(text: &str) -> Result<String, String> {
    let digest = text.strip_prefix("SHA256:").map(|rest| data_encoding::BASE64_NOPAD.decode(rest.trim_end_matches('=').as_bytes()));
    match digest {
        Some(Ok(bytes)) if bytes.len() == 32 => Ok(text.trim_end_matches('=').to_owned()),
        _ => Err("a fingerprint is SHA256: and 43 characters, as `ssh-keygen -lf` prints it".to_owned()),
    }
}

/// Base64 as `--tls-pin` and our messages write it, or hex with or without colons as openssl prints it; kept as base64.
fn certificate_fingerprint(text: &str) -> Result<String, String> {
    let digest = text.strip_prefix("SHA256:").and_then(|rest| {
        let hex = rest.replace(':', "").to_ascii_lowercase();
        let base64 = || data_encoding::BASE64_NOPAD.decode(rest.trim_end_matches('=').as_bytes()).ok();
        data_encoding::HEXLOWER.decode(hex.as_bytes()).ok().filter(|bytes| bytes.len() == 32).or_else(base64)
    });
    match digest {
        Some(bytes) if bytes.len() == 32 => Ok(format!("SHA256:{}", data_encoding::BASE64_NOPAD.encode(&bytes))),
        _ => Err("a certificate's fingerprint is SHA256: and 43 characters of base64 or 64 hex digits, as \
                  `openssl x509 -noout -fingerprint -sha256` prints them"
            .to_owned()),
    }
}

fn octal(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text.trim_start_matches("0o"), 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err("permission bits are octal, for example 0640".to_owned()),
    }
}
