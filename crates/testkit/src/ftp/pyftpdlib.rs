//! The server of the Python library pyftpdlib: one process, one thread, sessions see their directory as `/`.

use std::process::Command;

use anyhow::ensure;
use serde_json::json;

use super::options::{FtpSecurity, FtpServerOptions, FtpTlsVersion};
use super::{PASSWORD, Site, USER};
use crate::asyncssh::virtual_environment;

const SCRIPT: &str = include_str!("../../python/pyftpdlib_server.py");

pub(super) fn command(site: &Site<'_>, options: &FtpServerOptions) -> anyhow::Result<Command> {
    let python = virtual_environment().join("bin/python");
    let library = virtual_environment().join("lib");
    ensure!(python.exists() && library.exists(), "the Python package pyftpdlib is not installed for tests: run `make setup`");
    let script = site.home.join("pyftpdlib_server.py");
    site.write(&script, SCRIPT)?;
    let settings = json!({
        "host": site.address.ip().to_string(),
        "port": site.address.port(),
        "passive": [site.passive.start(), site.passive.end()],
        "user": USER,
        "password": PASSWORD,
        "account": site.account.other.then_some([site.account.user, site.account.group]),
        "root": site.root.display().to_string(),
        "certificate": site.certificate.map(|certificate| certificate.both.display().to_string()),
        "authority": site.authority.display().to_string(),
        "implicit": options.security == FtpSecurity::Implicit,
        "required": options.security != FtpSecurity::Explicit { required: false },
        "tls_version": match options.tls_version {
            FtpTlsVersion::Any => "",
            FtpTlsVersion::Only12 => "1.2",
            FtpTlsVersion::Only13 => "1.3",
        },
        "client_certificate": options.client_certificate_required,
        "write_only": options.write_only,
        "no_rename": options.no_rename,
        "no_size": options.no_size,
        "max_per_ip": options.max_per_ip,
        "data_timeout": options.data_timeout.map(|timeout| timeout.as_secs_f64()),
        "idle_timeout": options.idle_timeout.map(|timeout| timeout.as_secs_f64()),
    });
    let file = site.home.join("settings.json");
    site.write(&file, &settings.to_string())?;
    let mut command = Command::new(python);
    command.arg("-B").arg(script).arg(file);
    Ok(command)
}
