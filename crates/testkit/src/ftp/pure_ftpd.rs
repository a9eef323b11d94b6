//! Pure-FTPd, which serves only when started by root; sessions run as the test user and see their directory as `/`.

use std::process::Command;

use anyhow::{Context, ensure};

use super::options::{FtpSecurity, FtpServerOptions};
use super::{PASSWORD_HASH, Site, USER, installed};

pub(super) fn command(site: &Site<'_>, options: &FtpServerOptions) -> anyhow::Result<Command> {
    let program = installed("pure-ftpd/usr/sbin/pure-ftpd")?;
    let account = site.account;
    let (users, database) = (site.home.join("users"), site.home.join("users.pdb"));
    let root = site.root.display();
    // Eighteen fields; those that are empty limit nothing.
    site.write(&users, &format!("{USER}:{PASSWORD_HASH}:{}:{}::{root}/./::::::::::::\n", account.user, account.group))?;
    let made = Command::new(installed("pure-ftpd/usr/bin/pure-pw")?).arg("mkdb").arg(&database).arg("-f").arg(&users).output();
    let made = made.context("run pure-pw")?;
    ensure!(made.status.success(), "pure-pw failed: {}", String::from_utf8_lossy(&made.stderr));
    let mut command = Command::new(program);
    command.arg("-S").arg(format!("{},{}", site.address.ip(), site.address.port()));
    command.arg("-p").arg(format!("{}:{}", site.passive.start(), site.passive.end()));
    command.arg("-l").arg(format!("puredb:{}", database.display()));
    command.arg("-g").arg(site.home.join("pid"));
    // The test user is a system user; the default is to let in ordinary ones only.
    command.args(["-u", "1", "-E", "-H", "-c", "100", "-U", "133:022", "-f", "none"]);
    command.arg(if options.ipv6 { "-6" } else { "-4" });
    if let Some(limit) = options.max_per_ip {
        command.arg("-C").arg(limit.to_string());
    }
    if options.no_rename {
        command.arg("-G");
    }
    if let Some(certificate) = site.certificate {
        let mode = if options.security == (FtpSecurity::Explicit { required: true }) { "3" } else { "1" };
        command.arg("-Y").arg(mode).arg("-2").arg(&certificate.both);
    }
    if let Some(openssl) = site.openssl_configuration(options)? {
        command.env("OPENSSL_CONF", openssl);
    }
    command.args(&options.configuration);
    Ok(command)
}
