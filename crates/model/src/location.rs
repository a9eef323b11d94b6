//! The URLs of the command line: `s3://BUCKET/KEY`, `sftp://[USER[:PASS]@]HOST[:PORT]/PATH` (also `ftp`, `ftpes`,
//! `ftps`), `file:///PATH`.
//! User and password are percent-decoded; paths and keys are taken as they stand.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{NameError, RemotePath};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Sftp,
    /// FTP in clear text.
    Ftp,
    /// FTP that turns to TLS before the login (AUTH TLS, RFC 4217): explicit FTPS.
    Ftpes,
    /// FTP inside TLS from the first byte: implicit FTPS.
    Ftps,
    File,
    Memory,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sftp => "sftp",
            Self::Ftp => "ftp",
            Self::Ftpes => "ftpes",
            Self::Ftps => "ftps",
            Self::File => "file",
            Self::Memory => "memory",
        }
    }

    /// FTP in one of its three forms.
    pub fn is_ftp(self) -> bool {
        matches!(self, Self::Ftp | Self::Ftpes | Self::Ftps)
    }

    /// What is sent is protected by TLS.
    pub fn has_tls(self) -> bool {
        matches!(self, Self::Ftpes | Self::Ftps)
    }

    pub fn default_port(self) -> u16 {
        match self {
            Self::Sftp => 22,
            Self::Ftp | Self::Ftpes => 21,
            Self::Ftps => 990,
            Self::File | Self::Memory => 0,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a server listens and as whom we log in. `port` and `user` are what the user gave; defaults come later.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    pub protocol: Protocol,
    pub host: String,
    pub port: Option<u16>,
    pub user: Option<String>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.protocol)?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?
        } else {
            f.write_str(&self.host)?
        }
        match self.port {
            Some(port) if port != self.protocol.default_port() => write!(f, ":{port}"),
            _ => Ok(()),
        }
    }
}

/// A password that stood in a URL. It prints as nothing and is kept in no record.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential(String);

impl Credential {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The one way to the text; search for it to see who reads passwords.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(hidden)")
    }
}

/// A parsed URL. `Display` never shows a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// `text` is a key, or a prefix when it is empty or ends in `/`.
    S3 {
        bucket: String,
        text: String,
    },
    Server {
        endpoint: Endpoint,
        password: Option<Credential>,
        path: RemotePath,
        directory: bool,
    },
    File {
        path: RemotePath,
        directory: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    #[error("{0:?} is not a URL; write s3://BUCKET/KEY, sftp://USER@HOST/PATH, ftpes://USER@HOST/PATH or file:///PATH")]
    NotUrl(String),
    #[error("{scheme}:// is not a protocol of this version; it speaks s3, sftp, ftp, ftpes (explicit TLS), ftps (implicit TLS) and file")]
    Scheme { scheme: String },
    #[error("{0} has no bucket name; write s3://BUCKET/KEY")]
    NoBucket(String),
    #[error("{0} has no host; write SCHEME://USER@HOST/PATH")]
    NoHost(String),
    #[error("{url} has the port {port:?}; a port is a number from 1 to 65535")]
    Port { url: String, port: String },
    #[error("{0} has no path; end it in /PATH, or in /~/ for the login directory")]
    NoPath(String),
    #[error("file URLs name this machine: write file:///PATH, not {0}")]
    FileHost(String),
    #[error("the user name or password in {0} holds a bad % sequence")]
    Percent(String),
    #[error(transparent)]
    Name(#[from] NameError),
}

impl Location {
    pub fn parse(url: &str) -> Result<Self, LocationError> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| LocationError::NotUrl(hide(url)))?;
        match scheme {
            "s3" => {
                let (bucket, text) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() {
                    return Err(LocationError::NoBucket(url.to_owned()));
                }
                Ok(Self::S3 { bucket: bucket.to_owned(), text: text.to_owned() })
            }
            "file" => {
                if !rest.starts_with('/') {
                    return Err(LocationError::FileHost(url.to_owned()));
                }
                Ok(Self::File { path: RemotePath::from_user(rest)?, directory: rest.ends_with('/') })
            }
            "sftp" => Self::server(Protocol::Sftp, url, rest),
            "ftp" => Self::server(Protocol::Ftp, url, rest),
            "ftpes" | "ftp+tls" => Self::server(Protocol::Ftpes, url, rest),
            "ftps" => Self::server(Protocol::Ftps, url, rest),
            other => Err(LocationError::Scheme { scheme: other.to_owned() }),
        }
    }

    fn server(protocol: Protocol, url: &str, rest: &str) -> Result<Self, LocationError> {
        let slash = rest.find('/').ok_or_else(|| LocationError::NoPath(hide(url)))?;
        let (authority, path) = rest.split_at(slash);
        // A password may hold `@`; the last one ends it.
        let (userinfo, address) = match authority.rsplit_once('@') {
            Some((userinfo, address)) => (Some(userinfo), address),
            None => (None, authority),
        };
        let (host, port) = match address.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or_else(|| LocationError::NoHost(hide(url)))?;
                (host, after.strip_prefix(':'))
            }
            None => match address.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            },
        };
        if host.is_empty() {
            return Err(LocationError::NoHost(hide(url)));
        }
        let port = match port {
            None => None,
            Some(text) => match text.parse() {
                Ok(0) | Err(_) => return Err(LocationError::Port { url: hide(url), port: text.to_owned() }),
                Ok(port) => Some(port),
            },
        };
        let decode = |text: &str| percent_decode(text).ok_or_else(|| LocationError::Percent(hide(url)));
        let (user, password) = match userinfo.map(|u| u.split_once(':').map_or((u, None), |(u, p)| (u, Some(p)))) {
            None => (None, None),
            Some((user, password)) => (Some(decode(user)?), password.map(decode).transpose()?.map(Credential)),
        };
        let directory = path.ends_with('/') || path == "/~";
        let endpoint = Endpoint { protocol, host: host.to_owned(), port, user: user.filter(|u| !u.is_empty()) };
        Ok(Self::Server { endpoint, password, path: RemotePath::from_user(path)?, directory })
    }

    /// Whether the URL names a directory or a prefix, by its trailing `/`.
    pub fn is_directory(&self) -> bool {
        match self {
            Self::S3 { text, .. } => text.is_empty() || text.ends_with('/'),
            Self::Server { directory, .. } | Self::File { directory, .. } => *directory,
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = |path: &RemotePath, directory: bool| if directory && path.as_str() != "/" { "/" } else { "" };
        match self {
            Self::S3 { bucket, text } => write!(f, "s3://{bucket}/{}", crate::escape_name(text)),
            Self::Server { endpoint, path, directory, .. } => write!(f, "{endpoint}{path}{}", slash(path, *directory)),
            Self::File { path, directory } => write!(f, "file://{path}{}", slash(path, *directory)),
        }
    }
}

pub(crate) fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b == b'%' {
            let (high, low) = (bytes.next()?, bytes.next()?);
            let digit = |c: u8| (c as char).to_digit(16).map(|d| d as u8);
            out.push(digit(high)? << 4 | digit(low)?);
        } else {
            out.push(b);
        }
    }
    String::from_utf8(out).ok()
}

/// A URL with its password blanked, for error texts.
fn hide(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return crate::escape_name(url) };
    let authority = rest.find('/').map_or(rest, |i| &rest[..i]);
    match authority.rsplit_once('@').and_then(|(userinfo, _)| userinfo.split_once(':')) {
        Some((user, password)) => format!("{scheme}://{user}:***{}", &rest[user.len() + 1 + password.len()..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_server_urls_and_never_shows_the_password() {
        let location = Location::parse("sftp://bob:p%40ss@word@files.example:2222/in/").unwrap();
        let Location::Server { endpoint, password, path, directory } = &location else { panic!() };
        assert_eq!(endpoint.user.as_deref(), Some("bob"));
        assert_eq!(password.as_ref().unwrap().expose(), "p@ss@word");
        assert_eq!((endpoint.host.as_str(), endpoint.port, path.as_str(), *directory), ("files.example", Some(2222), "/in", true));
        assert_eq!(location.to_string(), "sftp://bob@files.example:2222/in/");
        assert!(!format!("{location:?}").contains("p@ss"));
        assert!(!Location::parse("sftp://bob:secret@host:99999/x").unwrap_err().to_string().contains("secret"));
    }

    #[test]
    fn reads_ipv6_literals_and_login_directories() {
        let Location::Server { endpoint, path, directory, .. } = Location::parse("sftp://[::1]:22/~/in/a.csv").unwrap() else { panic!() };
        assert_eq!((endpoint.host.as_str(), endpoint.port, path.wire(), directory), ("::1", Some(22), "in/a.csv", false));
        assert!(Location::parse("sftp://host/~/").unwrap().is_directory());
    }

    #[test]
    fn the_four_schemes_of_ftp_lead_to_three_protocols_and_their_ports() {
        for (scheme, protocol, port) in
            [("ftp", Protocol::Ftp, 21), ("ftpes", Protocol::Ftpes, 21), ("ftp+tls", Protocol::Ftpes, 21), ("ftps", Protocol::Ftps, 990)]
        {
            let Location::Server { endpoint, password, path, .. } = Location::parse(&format!("{scheme}://u:p%3Aw@h/~/in/")).unwrap() else {
                panic!("{scheme}")
            };
            assert_eq!((endpoint.protocol, endpoint.protocol.default_port(), path.wire()), (protocol, port, "in"), "{scheme}");
            assert_eq!(password.unwrap().expose(), "p:w");
            assert_eq!((protocol.is_ftp(), protocol.has_tls()), (true, scheme != "ftp"));
            let stored = serde_json::to_string(&protocol).unwrap();
            assert_eq!(serde_json::from_str::<Protocol>(&stored).unwrap(), protocol);
            assert_eq!(stored, format!("\"{}\"", protocol.name()));
        }
        assert_eq!(Location::parse("ftp+tls://u@h:21/in/").unwrap().to_string(), "ftpes://u@h/in/");
        assert_eq!(Location::parse("ftps://u@h:21/in/").unwrap().to_string(), "ftps://u@h:21/in/");
    }

    #[test]
    fn slashes_after_the_host_mean_the_same_for_ftp_and_sftp() {
        for rest in ["//in/a", "/~/in/a", "/in//a", "/~", "/~user/x", "/"] {
            let parsed = |scheme: &str| match Location::parse(&format!("{scheme}://h{rest}")).map_err(|e| e.to_string()) {
                Ok(Location::Server { path, directory, .. }) => Ok((path, directory)),
                Ok(_) => unreachable!("a server's scheme"),
                Err(error) => Err(error),
            };
            assert_eq!(parsed("ftpes"), parsed("sftp"), "{rest}");
            assert_eq!(parsed("ftp"), parsed("sftp"), "{rest}");
        }
    }

    #[test]
    fn a_trailing_slash_or_nothing_is_a_prefix() {
        assert!(Location::parse("s3://bucket").unwrap().is_directory());
        assert!(Location::parse("s3://bucket/out/").unwrap().is_directory());
        assert!(!Location::parse("s3://bucket/out").unwrap().is_directory());
    }

    #[test]
    fn mistakes_are_named() {
        for (url, word) in [
            ("bucket/key", "s3://"),
            ("gopher://h/x", "ftpes (explicit TLS)"),
            ("ftps://h", "/~/"),
            ("ftpes:///x", "host"),
            ("s3:///k", "bucket"),
            ("sftp://h", "path"),
            ("sftp:///x", "host"),
            ("sftp://h:0/x", "port"),
            ("file://host/x", "file:///"),
            ("sftp://u%zz@h/x", "%"),
            ("sftp://h/../etc", ".."),
        ] {
            let text = Location::parse(url).unwrap_err().to_string();
            assert!(text.contains(word), "{url}: {text}");
        }
    }
}
