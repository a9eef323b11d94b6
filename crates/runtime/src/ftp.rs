//! From settings to a configured FTP server: who logs in, with which secret, protected how.

use std::path::Path;

use app::{Options, ServerSettings, TlsMinimum};
use model::{Credential, Endpoint, ErrorClass};
use transfer::ftp::{FtpConfig, TlsSettings, TlsVersion};

use crate::open::{self, Login, fingerprint};
use crate::{Failure, Place, netrc};

/// The configuration, and a text that differs when another credential would be used.
pub fn config(
    endpoint: Endpoint,
    server: &ServerSettings,
    options: &Options,
    password: Option<Credential>,
    login: Login,
    place: &Place,
) -> Result<(FtpConfig, String), Failure> {
    if server.active && server.proxy.is_some() {
        return Err(Failure::usage(
            "--active and --proxy do not go together: in active mode the server connects to us, and a proxy only connects outwards"
                .to_owned(),
        ));
    }
    // A certificate may be proof enough (RFC 4217, 15.3): nobody is asked for a password then.
    let asking = if server.client_cert.is_some() { Login::Never } else { login };
    let (endpoint, password) = who(endpoint, password, asking, place)?;
    let client_certificate = server
        .client_cert
        .as_ref()
        .map(|certificate| (certificate.clone(), server.client_key.clone().unwrap_or_else(|| certificate.clone())));
    let files: Vec<&Path> = client_certificate.iter().flat_map(|(certificate, key)| [certificate.as_path(), key.as_path()]).collect();
    let credential = fingerprint(&endpoint, &files, password.as_ref());
    let config = FtpConfig {
        password,
        tls: TlsSettings {
            ca_files: server.ca_files.clone(),
            pins: server.tls_pins.clone(),
            minimum: server.tls_min.map(|version| match version {
                TlsMinimum::V1_2 => TlsVersion::V1_2,
                TlsMinimum::V1_3 => TlsVersion::V1_3,
            }),
            client_certificate,
        },
        active: server.active,
        proxy: open::proxy(server, login, place)?,
        addresses: open::addresses(server),
        bind: server.bind,
        connect_timeout: options.connect_timeout,
        stall_timeout: options.stall_timeout,
        ..FtpConfig::new(endpoint)
    };
    Ok((config, credential))
}

/// User: the URL, else `~/.netrc`, else the login name of this machine. Password: what flag or URL gave, else
/// `~/.netrc`, else a person at the terminal; with nobody to ask it ends here, before anything is sent.
fn who(
    mut endpoint: Endpoint,
    password: Option<Credential>,
    login: Login,
    place: &Place,
) -> Result<(Endpoint, Option<Credential>), Failure> {
    endpoint.port.get_or_insert(endpoint.protocol.default_port());
    let mut password = password;
    if endpoint.user.is_none() || password.is_none() {
        let known = netrc::login(&place.home.join(".netrc"), &endpoint.host, endpoint.user.as_deref())
            .map_err(|message| Failure::of(ErrorClass::DestAuth, message))?;
        // A password belongs to the user beside it.
        if endpoint.user.is_none() || known.user.is_none() || known.user == endpoint.user {
            password = password.or(known.password);
        }
        endpoint.user = endpoint.user.or(known.user).or_else(|| place.login_name.clone());
    }
    let Some(user) = &endpoint.user else {
        return Err(Failure::of(
            ErrorClass::DestAuth,
            format!("{endpoint} needs a user name; write {}://USER@{}/", endpoint.protocol, endpoint.host),
        ));
    };
    if password.is_none() && matches!(user.as_str(), "anonymous" | "ftp") {
        // RFC 1635: any text will do.
        password = Some(Credential::new("anonymous@"));
    }
    if password.is_none() && login == Login::Now {
        let asked = place.prompt.as_ref().and_then(|ask| ask(&format!("Password for {endpoint}: ")));
        password = Some(asked.ok_or_else(|| Failure {
            next: Some("give --password-from env:NAME or file:PATH, or put the password into ~/.netrc (mode 0600)".to_owned()),
            ..Failure::of(ErrorClass::DestAuth, format!("there is no password for {endpoint} and no terminal to ask for one on"))
        })?);
    }
    Ok((endpoint, password))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Protocol;
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Arc;

    fn endpoint(user: Option<&str>) -> Endpoint {
        Endpoint { protocol: Protocol::Ftpes, host: "ftp.example".into(), port: None, user: user.map(str::to_owned) }
    }

    fn place(home: &Path, prompt: Option<&'static str>) -> Place {
        Place {
            state: home.to_owned(),
            home: home.to_owned(),
            login_name: Some("me".into()),
            ssh_agent: None,
            lease: app::transfers::LEASE,
            prompt: prompt.map(|answer| Arc::new(move |_: &str| Some(Credential::new(answer))) as _),
            sealed: None,
        }
    }

    fn write_netrc(home: &Path, text: &str) {
        std::fs::write(home.join(".netrc"), text).unwrap();
        std::fs::set_permissions(home.join(".netrc"), std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn found(user: Option<&str>, password: Option<&str>, place: &Place) -> (String, String) {
        let (endpoint, password) = who(endpoint(user), password.map(Credential::new), Login::Now, place).unwrap();
        (endpoint.user.unwrap(), password.unwrap().expose().to_owned())
    }

    fn pair(user: &str, password: &str) -> (String, String) {
        (user.to_owned(), password.to_owned())
    }

    #[test]
    fn user_and_password_are_looked_for_in_the_promised_order() {
        let home = tempfile::tempdir().unwrap();
        write_netrc(home.path(), "machine ftp.example login bob password from-netrc\n");
        let place = place(home.path(), Some("typed"));
        assert_eq!(found(Some("eve"), Some("given"), &place), pair("eve", "given"));
        assert_eq!(found(None, None, &place), pair("bob", "from-netrc"));
        assert_eq!(found(Some("bob"), None, &place), pair("bob", "from-netrc"));
        assert_eq!(found(Some("eve"), None, &place), pair("eve", "typed"), "the password of another user is not tried");
        assert_eq!(found(None, Some("given"), &place), pair("bob", "given"));
        write_netrc(home.path(), "");
        assert_eq!(found(None, None, &place), pair("me", "typed"));
        assert_eq!(found(Some("anonymous"), None, &place), pair("anonymous", "anonymous@"));
    }

    #[test]
    fn without_a_password_and_a_terminal_it_ends_with_24_and_a_plan_does_not_ask() {
        let home = tempfile::tempdir().unwrap();
        let place = place(home.path(), None);
        let failure = who(endpoint(Some("u")), None, Login::Now, &place).unwrap_err();
        assert_eq!((failure.class, failure.exit_code), (ErrorClass::DestAuth, 24));
        assert!(failure.next.unwrap().contains("--password-from"));
        assert_eq!(who(endpoint(Some("u")), None, Login::Never, &place).unwrap().1, None);
        let nobody = Place { login_name: None, ..place };
        assert!(who(endpoint(None), None, Login::Never, &nobody).unwrap_err().message.contains("USER@"));
    }

    #[test]
    fn the_fingerprint_changes_with_password_and_certificate_and_tells_neither() {
        let home = tempfile::tempdir().unwrap();
        let certificate = home.path().join("c.pem");
        std::fs::write(&certificate, "one").unwrap();
        let place = place(home.path(), None);
        let of = |password: &str, cert: bool| {
            let server = ServerSettings { client_cert: cert.then(|| certificate.clone()), ..ServerSettings::default() };
            config(endpoint(Some("u")), &server, &Options::default(), Some(Credential::new(password)), Login::Now, &place).unwrap().1
        };
        let seen = [of("a", false), of("b", false), of("a", true)];
        std::fs::write(&certificate, "another").unwrap();
        assert_ne!(of("a", true), seen[2]);
        assert_eq!(of("a", false), seen[0]);
        assert!(seen[0] != seen[1] && seen[0] != seen[2]);
    }

    #[test]
    fn settings_reach_the_configuration() {
        let home = tempfile::tempdir().unwrap();
        let server = ServerSettings {
            ca_files: vec!["/ca".into()],
            tls_pins: vec!["SHA256:x".into()],
            tls_min: Some(TlsMinimum::V1_3),
            client_cert: Some("/both.pem".into()),
            active: true,
            allow_private: Some(false),
            bind: Some([127, 0, 0, 1].into()),
            ..ServerSettings::default()
        };
        let options = Options { stall_timeout: std::time::Duration::from_secs(7), ..Options::default() };
        let password = Some(Credential::new("x"));
        let (config, _) = config(endpoint(Some("u")), &server, &options, password, Login::Now, &place(home.path(), None)).unwrap();
        assert!(!config.addresses.allow_private);
        assert_eq!((config.endpoint.port, config.active, config.stall_timeout.as_secs()), (Some(21), true, 7));
        assert_eq!(config.tls.minimum, Some(TlsVersion::V1_3));
        assert_eq!(config.tls.client_certificate, Some(("/both.pem".into(), "/both.pem".into())));
        assert_eq!((config.tls.ca_files.len(), config.tls.pins.len(), config.bind), (1, 1, server.bind));
    }
}
