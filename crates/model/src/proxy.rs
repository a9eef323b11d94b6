//! A proxy as people write it: `socks5://[USER[:PASS]@]HOST:PORT`, `socks5h://` or `http://`. The password is taken out
//! where it is read.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Credential;
use crate::location::percent_decode;

/// What is spoken with the proxy, and who resolves names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyKind {
    /// Names are resolved here.
    Socks5,
    /// Names are resolved by the proxy.
    Socks5h,
    /// CONNECT; names are resolved by the proxy.
    Http,
}

impl ProxyKind {
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Socks5 => "socks5",
            Self::Socks5h => "socks5h",
            Self::Http => "http",
        }
    }
}

/// A proxy without its password, as records and messages may show it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProxyAddress {
    pub kind: ProxyKind,
    /// Without the brackets of an IPv6 literal.
    pub host: String,
    pub port: u16,
    pub user: Option<String>,
}

/// Why a proxy was not understood. The text never repeats what was given: a password may be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}; write socks5://HOST:PORT, socks5h://HOST:PORT or http://HOST:PORT, with USER@ or USER:PASS@ before the host where needed")]
pub struct ParseProxyError(&'static str);

impl ProxyAddress {
    /// The address, and the password if there was one.
    pub fn parse(text: &str) -> Result<(Self, Option<Credential>), ParseProxyError> {
        let (scheme, rest) = text.trim().split_once("://").ok_or(ParseProxyError("a proxy is a URL"))?;
        let kind = match scheme {
            "socks5" => ProxyKind::Socks5,
            "socks5h" => ProxyKind::Socks5h,
            "http" => ProxyKind::Http,
            "https" => return Err(ParseProxyError("a proxy that is itself reached over TLS is not in this version")),
            "socks4" | "socks4a" | "socks" => return Err(ParseProxyError("of SOCKS only version 5 is spoken")),
            _ => return Err(ParseProxyError("the proxy's protocol is unknown")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        // A password may hold `@` and `/`; the last `@` ends it.
        let (userinfo, address) = match authority.rsplit_once('@') {
            Some((userinfo, address)) => (Some(userinfo), address),
            None => (None, authority),
        };
        let (host, port) = match address.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or(ParseProxyError("the proxy's address has no closing bracket"))?;
                (host, after.strip_prefix(':'))
            }
            None => address.rsplit_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
        };
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control() || "/@[]".contains(c)) {
            return Err(ParseProxyError("the proxy has no host that could be one"));
        }
        let port = port.ok_or(ParseProxyError("the proxy has no port"))?;
        let port =
            port.parse().ok().filter(|port| *port != 0).ok_or(ParseProxyError("the proxy's port is not a number from 1 to 65535"))?;
        let decode = |text: &str| percent_decode(text).ok_or(ParseProxyError("the proxy's user or password holds a bad % sequence"));
        let (user, password) = match userinfo.map(|info| info.split_once(':').map_or((info, None), |(u, p)| (u, Some(p)))) {
            None => (None, None),
            Some((user, password)) => (Some(decode(user)?), password.map(decode).transpose()?),
        };
        let user = user.filter(|user| !user.is_empty());
        let password = password.filter(|password| !password.is_empty()).map(Credential::new);
        if password.is_some() && user.is_none() {
            return Err(ParseProxyError("the proxy has a password and no user"));
        }
        Ok((Self { kind, host: host.to_owned(), port, user }, password))
    }
}

impl FromStr for ProxyAddress {
    type Err = ParseProxyError;

    /// Drops a password.
    fn from_str(text: &str) -> Result<Self, ParseProxyError> {
        Self::parse(text).map(|(address, _)| address)
    }
}

impl fmt::Display for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.kind.scheme())?;
        if let Some(user) = &self.user {
            // What would end the user name is written as it was read.
            for character in user.chars() {
                match character {
                    '%' | '@' | ':' | '/' => write!(f, "%{:02X}", character as u32)?,
                    other => write!(f, "{other}")?,
                }
            }
            f.write_str("@")?;
        }
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

impl Serialize for ProxyAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ProxyAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_taken_out_and_never_shown() {
        let (address, password) = ProxyAddress::parse("socks5h://an%40a:p%3A@w/rd@proxy.example:1080/").unwrap();
        assert_eq!((address.kind, address.host.as_str(), address.port), (ProxyKind::Socks5h, "proxy.example", 1080));
        assert_eq!((address.user.as_deref(), password.unwrap().expose()), (Some("an@a"), "p:@w/rd"));
        assert_eq!(address.to_string(), "socks5h://an%40a@proxy.example:1080");
        let stored = serde_json::to_string(&address).unwrap();
        assert_eq!(serde_json::from_str::<ProxyAddress>(&stored).unwrap(), address);
        let (address, password) = ProxyAddress::parse("http://[::1]:3128").unwrap();
        assert_eq!((address.to_string().as_str(), password), ("http://[::1]:3128", None));
    }

    #[test]
    fn mistakes_are_named_without_the_text() {
        for (text, word) in [
            ("proxy:1080", "URL"),
            ("https://u:secret@h:1", "TLS"),
            ("socks4://h:1", "version 5"),
            ("ftp://u:secret@h:1", "unknown"),
            ("socks5://u:secret@h", "no port"),
            ("socks5://u:secret@h:0", "1 to 65535"),
            ("socks5://u:secret@:1", "no host"),
            ("socks5://u:secret@h\r\nx:1", "no host"),
            ("socks5://:secret@h:1", "no user"),
            ("socks5://u%zz:secret@h:1", "%"),
            ("http://u:secret@[::1:1", "bracket"),
        ] {
            let said = ProxyAddress::parse(text).unwrap_err().to_string();
            assert!(said.contains(word) && !said.contains("secret"), "{text}: {said}");
        }
    }
}
