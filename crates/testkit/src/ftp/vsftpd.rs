//! vsftpd, run wholly as the test user: it knows "anonymous", let in by a password, as others need PAM and root.

use std::path::Path;
use std::process::Command;

use super::Site;
use super::options::{FtpSecurity, FtpServerOptions};

pub(super) const USER: &str = "anonymous";

pub(super) fn command(site: &Site<'_>, options: &FtpServerOptions) -> anyhow::Result<Command> {
    let program = site.reachable("vsftpd/usr/sbin/vsftpd")?;
    let file = site.home.join("vsftpd.conf");
    let passwords = site.home.join("passwords");
    site.write(&passwords, &format!("{}\n", super::PASSWORD))?;
    site.write(&file, &configuration(site, options, &passwords))?;
    let mut command = Command::new(program);
    command.arg(file);
    if let Some(openssl) = site.openssl_configuration(options)? {
        command.env("OPENSSL_CONF", openssl);
    }
    Ok(command)
}

fn configuration(site: &Site<'_>, options: &FtpServerOptions, passwords: &Path) -> String {
    let yes = |on: bool| if on { "YES" } else { "NO" };
    let account = &site.account.name;
    let (first, last) = (site.passive.start(), site.passive.end());
    let mut lines = vec![
        format!("listen_port={}", site.address.port()),
        format!("pasv_min_port={first}"),
        format!("pasv_max_port={last}"),
        format!("ftp_username={account}"),
        format!("nopriv_user={account}"),
        format!("anon_root={}", site.root.display()),
        format!("email_password_file={}", passwords.display()),
        format!("vsftpd_log_file={}", site.home.join("log").display()),
        format!("secure_chroot_dir={}", site.home.display()),
        format!("download_enable={}", yes(!options.write_only)),
        format!("dirlist_enable={}", yes(!options.write_only)),
        format!("max_per_ip={}", options.max_per_ip.unwrap_or(0)),
    ];
    let listen = format!("listen_address={}", site.address.ip());
    lines.extend(if options.ipv6 {
        ["listen=NO", "listen_ipv6=YES", "listen_address6=::1"].map(str::to_owned)
    } else {
        ["listen=YES", "listen_ipv6=NO", &listen].map(str::to_owned)
    });
    let denied = [(options.no_rename, "RNFR,RNTO"), (options.no_size, "SIZE")];
    let denied: Vec<&str> = denied.into_iter().filter_map(|(on, commands)| on.then_some(commands)).collect();
    if !denied.is_empty() {
        lines.push(format!("cmds_denied={}", denied.join(",")));
    }
    if let Some(timeout) = options.data_timeout {
        lines.push(format!("data_connection_timeout={}", timeout.as_secs().max(1)));
    }
    if let Some(timeout) = options.idle_timeout {
        lines.push(format!("idle_session_timeout={}", timeout.as_secs().max(1)));
    }
    if let Some(certificate) = site.certificate {
        let required = yes(options.security != FtpSecurity::Explicit { required: false });
        lines.extend([
            "ssl_enable=YES".to_owned(),
            "allow_anon_ssl=YES".to_owned(),
            // Its own choice is a cipher that today's clients do not offer.
            "ssl_ciphers=HIGH".to_owned(),
            format!("implicit_ssl={}", yes(options.security == FtpSecurity::Implicit)),
            format!("force_anon_logins_ssl={required}"),
            format!("force_anon_data_ssl={required}"),
            format!("require_ssl_reuse={}", yes(options.require_session_reuse)),
            format!("rsa_cert_file={}", certificate.certificate.display()),
            format!("rsa_private_key_file={}", certificate.key.display()),
        ]);
        if options.client_certificate_required {
            lines.extend(["require_cert=YES".to_owned(), "validate_cert=YES".to_owned()]);
            lines.push(format!("ca_certs_file={}", site.authority.display()));
        }
    }
    for line in [
        "background=NO",
        "run_as_launching_user=YES",
        // Containers forbid what these would ask of the kernel.
        "seccomp_sandbox=NO",
        "isolate=NO",
        "isolate_network=NO",
        "local_enable=NO",
        "anonymous_enable=YES",
        "secure_email_list_enable=YES",
        "write_enable=YES",
        "anon_upload_enable=YES",
        "anon_mkdir_write_enable=YES",
        "anon_other_write_enable=YES",
        "anon_world_readable_only=NO",
        "anon_umask=022",
        "file_open_mode=0666",
        "xferlog_enable=YES",
        "log_ftp_protocol=YES",
        "delay_failed_login=0",
    ] {
        lines.push(line.to_owned());
    }
    lines.extend(options.configuration.iter().cloned());
    lines.join("\n") + "\n"
}
