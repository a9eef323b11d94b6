//! The hosts on the way to a server (`--jump`, ProxyJump): how they are written, and how each gets settings of its own.

use std::path::Path;

use model::{Endpoint, Protocol};

use super::config::{Algorithms, SftpConfig, SftpOverrides, resolve_one};
use crate::error::{Error, ErrorKind, Result, Subject};

/// More than anybody has; a loop in ssh_config ends here.
const MAX_HOPS: usize = 8;

/// A list of hosts as it was written, and where.
#[derive(Debug, Clone)]
pub(super) struct JumpSetting {
    pub text: String,
    pub from: &'static str,
}

/// Whether `--jump` can be understood.
pub fn check_jump(text: &str) -> Result<(), String> {
    parse(text).map(drop)
}

/// `[USER@]HOST[:PORT]` or `ssh://[USER@]HOST[:PORT]`, comma between them; `none` is nobody.
fn parse(text: &str) -> Result<Vec<Endpoint>, String> {
    if text.trim().eq_ignore_ascii_case("none") {
        return Ok(Vec::new());
    }
    let mut hosts = Vec::new();
    for part in text.split(',') {
        // What has a colon before its host may hold a password, and is not repeated.
        let shown =
            if part.split('@').next().is_some_and(|user| part.contains('@') && user.contains(':')) { "one of them" } else { part.trim() };
        let wrong = |what: &str| format!("{shown:?} {what}; a jump host is [USER@]HOST[:PORT], and a comma stands between two");
        let address = part.trim();
        let address = address.strip_prefix("ssh://").unwrap_or(address);
        let (user, address) = match address.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, address),
        };
        let (host, port) = match address.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or_else(|| wrong("has no closing bracket"))?;
                match after.strip_prefix(':') {
                    None if !after.is_empty() => return Err(wrong("goes on after its bracket")),
                    port => (host, port),
                }
            }
            // More than one colon is an address of IPv6, and has no port without brackets.
            None if address.matches(':').count() > 1 => (address, None),
            None => address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
        };
        if host.is_empty() || host.starts_with('-') || host.contains(|c: char| c.is_whitespace() || c.is_control() || "/@%".contains(c)) {
            return Err(wrong("has no host that could be one"));
        }
        if user.is_some_and(|user| user.is_empty() || user.contains(':')) {
            return Err(wrong("has a user that cannot be one; a password never stands there"));
        }
        let port = match port.map(str::parse) {
            None => None,
            Some(Ok(0) | Err(_)) => return Err(wrong("has a port that is not a number from 1 to 65535")),
            Some(Ok(port)) => Some(port),
        };
        hosts.push(Endpoint { protocol: Protocol::Sftp, host: host.to_owned(), port, user: user.map(str::to_owned) });
    }
    if hosts.len() > MAX_HOPS { Err(format!("there are more than {MAX_HOPS} jump hosts")) } else { Ok(hosts) }
}

/// The hosts on the way to the server of `config`, nearest first. The first one may itself have hosts on its way in
/// ssh_config; of the others that is not asked, because the one before them is their way.
pub(super) fn resolve(
    config: &SftpConfig,
    setting: Option<&JumpSetting>,
    overrides: &SftpOverrides,
    home: Option<&Path>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<SftpConfig>> {
    let mut way: Vec<SftpConfig> = Vec::new();
    let mut setting = setting.cloned();
    let mut server = config.clone();
    while let Some(JumpSetting { text, from }) = setting.take() {
        let wrong = |why: String| Error::new(ErrorKind::DestAuth, "read", Subject::Setting(from.to_owned())).because(why);
        let hosts = parse(&text).map_err(wrong)?;
        let mut found = Vec::new();
        for (index, endpoint) in hosts.iter().enumerate() {
            let (hop, own) = resolve_one(endpoint, for_hop(overrides), home, env)?;
            // `Host *` with a ProxyJump also speaks of the jump host itself.
            if index == 0 && is_same(&hop, &server) {
                return Ok(way);
            }
            if index == 0 {
                setting = own.filter(|setting| !setting.text.trim().eq_ignore_ascii_case("none"));
            }
            found.push(hop);
        }
        if way.len() + found.len() > MAX_HOPS {
            return Err(wrong(format!("there are more than {MAX_HOPS} jump hosts; do they lead in a circle?")));
        }
        let Some(first) = found.first() else { break };
        server = first.clone();
        found.append(&mut way);
        way = found;
    }
    Ok(way)
}

fn is_same(a: &SftpConfig, b: &SftpConfig) -> bool {
    a.host().eq_ignore_ascii_case(b.host()) && a.port() == b.port() && a.user() == b.user()
}

/// What of the server's settings holds for a host on the way. Never the password, and no pinned key: those are the
/// server's alone.
fn for_hop(overrides: &SftpOverrides) -> SftpOverrides {
    SftpOverrides {
        host_key_pins: Vec::new(),
        password: None,
        algorithms: Algorithms::Modern,
        jump: None,
        for_jump_host: true,
        ..overrides.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sftp::{Identity, Secret, resolve};

    fn way(config: &str, url_host: &str, jump: Option<&str>) -> Result<Vec<String>> {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("config");
        std::fs::write(&path, config).unwrap();
        let key = Identity { path: "/flag".into(), passphrase: None, named: true };
        let overrides = SftpOverrides {
            ssh_config: Some(vec![path]),
            jump: jump.map(str::to_owned),
            identities: vec![key],
            password: Some(Secret::new("hush")),
            host_key_pins: vec!["SHA256:uNiVztksCsDhcc0u9e8BrrJqnJVdSV3UDtvZJI2Hv9g".into()],
            ..SftpOverrides::default()
        };
        let endpoint = Endpoint { protocol: Protocol::Sftp, host: url_host.into(), port: None, user: Some("me".into()) };
        let config = resolve(&endpoint, overrides, Some(home.path()), &|name| (name == "USER").then(|| "local".to_owned()))?;
        assert!(!config.jump_host && config.password.is_some());
        let shown = |hop: &SftpConfig| {
            assert!(hop.jump_host && hop.password.is_none() && hop.host_key_pins.is_empty() && hop.jumps.is_empty());
            let keys: Vec<_> = hop.identities.iter().map(|identity| identity.path.display().to_string()).collect();
            format!("{}@{}:{} {}", hop.user(), hop.host(), hop.port(), keys.join(","))
        };
        Ok(config.jumps.iter().map(shown).collect())
    }

    #[test]
    fn each_host_on_the_way_has_settings_of_its_own() {
        let text = "Host a\n HostName a.example\n Port 2200\n User ann\n IdentityFile /a-key\nHost partner\n ProxyJump a,bob@b:23\n";
        assert_eq!(way(text, "partner", None).unwrap(), ["ann@a.example:2200 /a-key", "bob@b:23 /flag"]);
        assert_eq!(way(text, "other", None).unwrap(), [""; 0]);
        assert_eq!(way(text, "partner", Some("none")).unwrap(), [""; 0]);
        assert_eq!(way(text, "other", Some("x@[::1]:24, ssh://a")).unwrap(), ["x@::1:24 /flag", "ann@a.example:2200 /a-key"]);
        assert_eq!(way("", "h", Some("fe80::1")).unwrap(), ["local@fe80::1:22 /flag"]);
    }

    #[test]
    fn the_first_host_may_have_a_way_of_its_own_and_a_circle_ends() {
        let text = "Host a\n ProxyJump z\nHost b\n ProxyJump nobody\nHost partner\n ProxyJump a,b\n";
        let hosts = |hops: Vec<String>| hops.iter().map(|h| h[6..7].to_owned()).collect::<String>();
        assert_eq!(hosts(way(text, "partner", None).unwrap()), "zab");
        assert_eq!(hosts(way("Host *\n ProxyJump j\n", "partner", None).unwrap()), "j", "the jump host is not its own way");
        let error = way("Host a\n ProxyJump b\nHost b\n ProxyJump a\n", "h", Some("a")).unwrap_err();
        assert!(crate::error::chain(&error).contains("circle"), "{}", crate::error::chain(&error));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("", "no host"),
            ("a,,b", "no host"),
            ("-oProxyCommand=x", "no host"),
            ("u:secret@h", "password never"),
            ("ssh://u:secret@h", "password never"),
            ("h:0", "65535"),
            ("[::1", "bracket"),
            ("[::1]x", "bracket"),
        ] {
            let said = parse(text).unwrap_err();
            assert!(said.contains(word) && !said.contains("secret"), "{text}: {said}");
        }
        assert!(parse(&["h"; 9].join(",")).unwrap_err().contains("more than 8"));
    }
}
