//! What the settings of a remote mean here, type by type. Every key is taken over, silently the same here, or told.

use std::path::{Path, PathBuf};

use app::{S3Settings, ServerSettings};
use data_encoding::{BASE64, BASE64_NOPAD};
use model::{Credential, ProxyAddress};

use super::{Remote, Remotes, Section, Unmapped, reference};
use crate::Failure;

/// The types that are understood, as messages list them.
pub const TYPES: &str = "s3, sftp, ftp, alias and local";
const MAX_HOST_KEYS: usize = 16;

pub(super) fn remote(section: &Section, path: &str, remotes: &Remotes, home: &Path, pinned: bool) -> Result<Remote, Failure> {
    let map = Map { section, file: remotes.file(), home };
    match section.kind() {
        "s3" => map.s3(path),
        "sftp" => map.sftp(path),
        "ftp" => map.ftp(path, pinned),
        "" => Err(map.wrong("it has no type")),
        other => Err(map.wrong(&format!("the type {:?} is not understood; {TYPES} are", model::escape_name(other)))),
    }
}

struct Map<'a> {
    section: &'a Section,
    file: Option<&'a Path>,
    home: &'a Path,
}

impl Map<'_> {
    fn wrong(&self, why: &str) -> Failure {
        Failure {
            next: Some("correct rclone.conf, or write a URL; docs/guide/from-rclone.md says what is taken over".into()),
            ..Failure::usage(format!("rclone.conf: {}: {why}", model::escape_name(&self.section.name)))
        }
    }

    fn reference(&self, key: &str) -> String {
        reference(&self.section.name, key, self.file)
    }

    /// A reference where there is a value.
    fn secret(&self, key: &str) -> Option<String> {
        self.section.text(key).map(|_| self.reference(key))
    }

    fn file(&self, key: &str) -> Option<PathBuf> {
        let text = self.section.text(key)?;
        Some(text.strip_prefix("~/").map_or_else(|| PathBuf::from(text), |rest| self.home.join(rest)))
    }

    /// Everything that is neither `mapped` nor answered by `why` with an empty text.
    fn unmapped(&self, mapped: &[&str], why: impl Fn(&str) -> &'static str) -> Vec<Unmapped> {
        let told = self.section.others(mapped).map(|key| (key, why(key))).filter(|(_, why)| !why.is_empty());
        told.map(|(key, why)| Unmapped { remote: self.section.name.clone(), key: key.to_owned(), why }).collect()
    }

    fn s3(&self, path: &str) -> Result<Remote, Failure> {
        const MAPPED: &[&str] = &[
            "provider",
            "endpoint",
            "region",
            "access_key_id",
            "secret_access_key",
            "session_token",
            "env_auth",
            "profile",
            "force_path_style",
            "requester_pays",
            "sse_customer_key",
            "sse_customer_key_base64",
        ];
        let section = self.section;
        let path = path.trim_start_matches('/');
        if path.is_empty() {
            return Err(self.wrong(&format!("no bucket is named; write {}:BUCKET/PREFIX/", section.name)));
        }
        let keys = match (section.text("access_key_id"), section.text("secret_access_key")) {
            (Some(_), Some(_)) => true,
            (None, None) => false,
            _ => return Err(self.wrong("of access_key_id and secret_access_key only one is set")),
        };
        let env_auth = section.truth("env_auth");
        let profile = section.text("profile").filter(|_| !keys).map(str::to_owned);
        let endpoint = section.text("endpoint").map(|text| if text.contains("://") { text.to_owned() } else { format!("https://{text}") });
        if endpoint.as_deref().is_some_and(|text| text.contains('@')) {
            return Err(self.wrong("endpoint holds a login, which would be kept with the transfer"));
        }
        let path_style = match section.text("force_path_style") {
            Some(_) => Some(section.truth("force_path_style")),
            // These serve buckets as names of hosts only.
            None => {
                section.text("provider").filter(|name| matches!(*name, "Alibaba" | "HuaweiOBS" | "Netease" | "TencentCOS")).map(|_| false)
            }
        };
        let sse = ["sse_customer_key", "sse_customer_key_base64"].into_iter().find_map(|key| self.secret(key));
        let s3 = S3Settings {
            endpoint,
            region: section.text("region").map(str::to_owned),
            // Like rclone: without keys and without leave to look for them, nobody is logged in.
            no_sign_request: !keys && !env_auth && profile.is_none(),
            profile,
            path_style,
            request_payer: section.truth("requester_pays"),
            sse_customer_key_from: sse,
            access_key_from: keys.then(|| self.reference("secret_access_key")),
        };
        let unmapped = self.unmapped(MAPPED, |key| match key {
            // What the key is for is known, and its digest is made here.
            "sse_customer_algorithm" | "sse_customer_key_md5" => "",
            "shared_credentials_file" => "is not read; name it in AWS_SHARED_CREDENTIALS_FILE",
            "role_arn" | "role_session_name" | "role_session_duration" | "role_external_id" => {
                "is not taken over; put the role into an AWS profile and name that as `profile`"
            }
            "location_constraint"
            | "acl"
            | "bucket_acl"
            | "storage_class"
            | "server_side_encryption"
            | "sse_kms_key_id"
            | "upload_cutoff"
            | "max_upload_parts"
            | "copy_cutoff"
            | "upload_concurrency"
            | "leave_parts_on_error"
            | "no_check_bucket" => "is for writing to S3, which is only read here",
            "versions" | "version_at" | "version_deleted" => "has no meaning here; --files-from takes versions",
            "chunk_size" => "has no meaning here; see --chunk-size",
            _ => "has no meaning here",
        });
        Ok(Remote { url: format!("s3://{path}"), s3, server: ServerSettings::default(), unmapped })
    }

    fn sftp(&self, path: &str) -> Result<Remote, Failure> {
        const MAPPED: &[&str] = &[
            "host",
            "user",
            "port",
            "pass",
            "key_file",
            "key_pem",
            "key_file_pass",
            "known_hosts_file",
            "host_keys",
            "use_insecure_cipher",
            "socks_proxy",
            "http_proxy",
        ];
        let section = self.section;
        let server = ServerSettings {
            password_from: self.secret("pass"),
            identities: self.file("key_file").into_iter().collect(),
            key_from: self.secret("key_pem"),
            key_passphrase_from: self.secret("key_file_pass"),
            known_hosts: self.file("known_hosts_file").into_iter().collect(),
            // rclone looks at either, not at both.
            host_keys: if section.text("known_hosts_file").is_some() { Vec::new() } else { self.host_keys()? },
            legacy_algorithms: section.truth("use_insecure_cipher"),
            ..self.proxied()?
        };
        let unmapped = self.unmapped(MAPPED, |key| match key {
            // The agent is always asked, and a person where there is no password.
            "key_use_agent" | "ask_password" | "set_modtime" => "",
            "subsystem" if section.text(key) == Some("sftp") => "",
            "pubkey" | "pubkey_file" => {
                "is not taken over; lay the certificate beside the key as KEY-cert.pub, or name it as CertificateFile in ssh_config"
            }
            "ssh" => "is never run; for a host on the way use --jump or ProxyJump",
            "pin_host_key" => "is not done: a host key is accepted only when it is known; see --host-key",
            "ciphers" | "key_exchange" | "macs" | "host_key_algorithms" => {
                "is not taken over; --ssh-algorithms legacy is the choice there is"
            }
            "connections" => "has no meaning here; see --connections",
            "subsystem" | "server_command" => "is not taken over; the sftp subsystem is asked for",
            "path_override" => "is not taken over; paths are the server's own",
            "shell_type" | "hashes" | "disable_hashcheck" | "md5sum_command" | "sha1sum_command" | "sha256sum_command" => {
                "has no meaning here; no command is ever run on the server"
            }
            _ => "has no meaning here",
        });
        Ok(Remote { url: self.url("sftp", path)?, s3: S3Settings::default(), server, unmapped })
    }

    fn ftp(&self, path: &str, pinned: bool) -> Result<Remote, Failure> {
        const MAPPED: &[&str] =
            &["host", "user", "port", "pass", "tls", "explicit_tls", "no_check_certificate", "socks_proxy", "http_proxy"];
        let section = self.section;
        let scheme = match (section.truth("tls"), section.truth("explicit_tls")) {
            (true, true) => return Err(self.wrong("tls and explicit_tls are both set; only one of them can be")),
            (true, false) => "ftps",
            (false, true) => "ftpes",
            (false, false) => "ftp",
        };
        if section.truth("no_check_certificate") && scheme != "ftp" && !pinned {
            return Err(Failure {
                next: Some(
                    "add --tls-pin SHA256:… with the fingerprint of the server's certificate, which the partner can tell you".into(),
                ),
                ..self.wrong("no_check_certificate is not obeyed: a server that proves nothing gets no password")
            });
        }
        let server = ServerSettings { password_from: self.secret("pass"), ..self.proxied()? };
        let unmapped = self.unmapped(MAPPED, |key| match key {
            "ask_password" => "",
            // TLS 1.2 comes first here anyway.
            "disable_tls13" => "",
            "disable_epsv" | "disable_mlsd" | "disable_utf8" | "writing_mdtm" | "no_check_upload" => {
                "has no meaning here; what a server can do is learnt from it"
            }
            "concurrency" => "has no meaning here; see --connections and --lanes",
            "close_timeout" | "shut_timeout" => "has no meaning here; see --stall-timeout",
            "allow_insecure_tls_ciphers" => "is not obeyed",
            _ => "has no meaning here",
        });
        Ok(Remote { url: self.url(scheme, path)?, s3: S3Settings::default(), server, unmapped })
    }

    fn proxied(&self) -> Result<ServerSettings, Failure> {
        let key = ["socks_proxy", "http_proxy"].into_iter().find(|key| self.section.text(key).is_some());
        let Some((key, text)) = key.and_then(|key| Some((key, self.section.text(key)?))) else { return Ok(ServerSettings::default()) };
        let (address, password) = proxy(key, text).map_err(|error| self.wrong(&format!("{key}: {error}")))?;
        let proxy_password_from = password.map(|_| self.reference(key));
        Ok(ServerSettings { proxy: Some(address), proxy_password_from, ..ServerSettings::default() })
    }

    /// Whole public keys, `ALGORITHM BASE64`, with commas between them, as fingerprints.
    fn host_keys(&self) -> Result<Vec<String>, Failure> {
        let Some(text) = self.section.text("host_keys") else { return Ok(Vec::new()) };
        let fingerprint = |entry: &str| {
            let blob = BASE64.decode(entry.split_whitespace().nth(1)?.as_bytes()).ok()?;
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &blob);
            Some(format!("SHA256:{}", BASE64_NOPAD.encode(digest.as_ref())))
        };
        // A list of values in this format may stand in quotes.
        let entries = text.split(',').map(|entry| entry.trim().trim_matches('"')).filter(|entry| !entry.is_empty());
        let keys: Option<Vec<String>> = entries.take(MAX_HOST_KEYS + 1).map(fingerprint).collect();
        keys.filter(|keys| keys.len() <= MAX_HOST_KEYS).ok_or_else(|| self.wrong("host_keys is no list of public keys"))
    }

    /// The URL with the path as it stands; one without a leading slash begins in the login directory.
    fn url(&self, scheme: &str, path: &str) -> Result<String, Failure> {
        let section = self.section;
        let host = section.text("host").ok_or_else(|| self.wrong("it has no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.contains(|c: char| c.is_whitespace() || c.is_control() || "/@[]".contains(c)) {
            return Err(self.wrong("its host is none"));
        }
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let user = section.text("user").map(|user| format!("{}@", encoded(user))).unwrap_or_default();
        let port = match section.text("port").map(str::parse::<u16>) {
            None => String::new(),
            Some(Ok(port)) if port > 0 => format!(":{port}"),
            Some(_) => return Err(self.wrong("its port is not a number from 1 to 65535")),
        };
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/~/{path}") };
        Ok(format!("{scheme}://{user}{host}{port}{path}"))
    }
}

/// A user name that ends where it should.
fn encoded(user: &str) -> String {
    let mut out = String::new();
    for byte in user.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// rclone's two ways to name a proxy: `[USER[:PASS]@]HOST:PORT`, and a URL whose port may be left out.
pub(super) fn proxy(key: &str, text: &str) -> Result<(ProxyAddress, Option<Credential>), model::ParseProxyError> {
    if key == "socks_proxy" {
        // rclone leaves names to the proxy.
        return ProxyAddress::parse(&format!("socks5h://{text}"));
    }
    let bare = text.trim_end_matches('/');
    let host = bare.rsplit('@').next().unwrap_or(bare).trim_start_matches("http://");
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    ProxyAddress::parse(&if has_port { bare.to_owned() } else { format!("{bare}:80") })
}
