//! ProFTPD with its defaults, run wholly as the test user, with users of its own from a file.

use std::process::Command;

use anyhow::Context;

use super::options::{FtpSecurity, FtpServerOptions, FtpTlsVersion};
use super::{PASSWORD_HASH, Site, USER};

pub(super) fn command(site: &Site<'_>, options: &FtpServerOptions) -> anyhow::Result<Command> {
    let program = site.reachable("proftpd/usr/sbin/proftpd")?;
    let module = site.reachable("proftpd/usr/lib/proftpd/mod_tls.so")?;
    site.reachable("proftpd/usr/lib/proftpd/mod_digest.so")?;
    let modules = module.parent().context("a file is in a directory")?;
    let account = site.account;
    let root = site.root.display();
    site.write(&site.home.join("users"), &format!("{USER}:{PASSWORD_HASH}:{}:{}::{root}:/bin/sh\n", account.user, account.group))?;
    let file = site.home.join("proftpd.conf");
    site.write(&file, &configuration(site, options, &modules.display().to_string()))?;
    let mut command = Command::new(program);
    command.arg("--nodaemon").arg("--quiet").arg("--config").arg(file);
    Ok(command)
}

fn configuration(site: &Site<'_>, options: &FtpServerOptions, modules: &str) -> String {
    let (home, account) = (site.home.display(), site.account);
    let (first, last) = (site.passive.start(), site.passive.end());
    let on = |on: bool| if on { "on" } else { "off" };
    let mut lines = vec![
        format!("ModulePath {modules}"),
        "LoadModule mod_tls.c".to_owned(),
        "LoadModule mod_digest.c".to_owned(),
        format!("UseIPv6 {}", on(options.ipv6)),
        format!("DefaultAddress {}", site.address.ip()),
        format!("Port {}", site.address.port()),
        format!("PassivePorts {first} {last}"),
        format!("User {}", account.name),
        format!("Group {}", account.group_name),
        format!("AuthUserFile {home}/users"),
        format!("ScoreboardFile {home}/scoreboard"),
        format!("PidFile {home}/pid"),
        format!("SystemLog {home}/log"),
        format!("DefaultChdir {}", site.root.display()),
    ];
    if options.permissive {
        lines.extend(["AllowOverwrite on", "AllowStoreRestart on", "AllowRetrieveRestart on"].map(str::to_owned));
    }
    if let Some(limit) = options.max_per_ip {
        lines.push(format!("MaxClientsPerHost {limit}"));
    }
    let denied = [(options.write_only, "RETR LIST NLST MLSD MLST STAT"), (options.no_rename, "RNFR RNTO"), (options.no_size, "SIZE")];
    for (_, commands) in denied.iter().filter(|(wanted, _)| *wanted) {
        lines.push(format!("<Limit {commands}>\n  DenyAll\n</Limit>"));
    }
    if let Some(timeout) = options.data_timeout {
        let seconds = timeout.as_secs().max(1);
        lines.extend([format!("TimeoutStalled {seconds}"), format!("TimeoutNoTransfer {seconds}")]);
    }
    if let Some(timeout) = options.idle_timeout {
        lines.push(format!("TimeoutIdle {}", timeout.as_secs().max(1)));
    }
    if let Some(certificate) = site.certificate {
        let versions = match options.tls_version {
            FtpTlsVersion::Any => "TLSv1.2 TLSv1.3",
            FtpTlsVersion::Only12 => "TLSv1.2",
            FtpTlsVersion::Only13 => "TLSv1.3",
        };
        lines.extend([
            "TLSEngine on".to_owned(),
            format!("TLSLog {home}/log"),
            format!("TLSRequired {}", on(options.security != FtpSecurity::Explicit { required: false })),
            format!("TLSProtocol {versions}"),
            format!("TLSECCertificateFile {}", certificate.certificate.display()),
            format!("TLSECCertificateKeyFile {}", certificate.key.display()),
            format!("TLSCACertificateFile {}", site.authority.display()),
            format!("TLSVerifyClient {}", on(options.client_certificate_required)),
        ]);
        // Its default is to demand it.
        if !options.require_session_reuse {
            lines.push("TLSOptions NoSessionReuseRequired".to_owned());
        }
        if options.security == FtpSecurity::Implicit {
            lines.push("TLSOptions UseImplicitSSL".to_owned());
        }
    }
    for line in [
        "ServerType standalone",
        "ServerName test",
        "SocketBindTight on",
        "UseReverseDNS off",
        "DelayEngine off",
        "CapabilitiesEngine off",
        "ControlsEngine off",
        "WtmpLog off",
        "TransferLog none",
        "RequireValidShell off",
        "AuthPAM off",
        "AuthOrder mod_auth_file.c",
        "Umask 022",
    ] {
        lines.push(line.to_owned());
    }
    lines.extend(options.configuration.iter().cloned());
    lines.join("\n") + "\n"
}
