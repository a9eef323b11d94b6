//! Real servers as a partner has them: an address, what is needed to trust it and to log in, and its disk.

use std::any::Any;
use std::process::Child;

use testkit::ftp::{FtpProgram, FtpSecurity, FtpServer, FtpServerOptions};
use testkit::sshd::{Sshd, SshdOptions};

use super::shop::*;
use super::*;

/// A partner's server, and nothing but what is needed to trust it and to log in.
pub struct Site {
    pub name: String,
    pub url: String,
    pub trust: Vec<String>,
    password: String,
    pub disk: PathBuf,
    _server: Box<dyn Any>,
}

fn or_skip<T, E: std::fmt::Display>(started: Result<T, E>) -> Option<T> {
    started
        .map_err(|error| {
            let text = format!("{error:#}");
            let may_skip = std::env::var("FILEFERRY_TESTS_MAY_SKIP").is_ok_and(|value| value == "1");
            assert!(may_skip && text.contains("make setup"), "{text}");
            println!("skipped: {text}");
        })
        .ok()
}

pub async fn openssh(options: SshdOptions) -> Option<Site> {
    let server = or_skip(Sshd::start(options).await)?;
    let url = format!("sftp://{}@{}{}/", server.user(), server.address(), text(server.directory()));
    let trust = ["--identity".into(), text(&server.client_key()).to_owned(), "--host-key".into(), server.host_key_fingerprint()].to_vec();
    let disk = server.directory().to_owned();
    Some(Site { name: "OpenSSH".into(), url, trust, password: "unused".into(), disk, _server: Box::new(server) })
}

pub async fn ftp(program: FtpProgram, options: FtpServerOptions) -> Option<Site> {
    if program == FtpProgram::PureFtpd && !rustix::process::geteuid().is_root() {
        println!("skipped: Pure-FTPd serves only when root runs the tests");
        return None;
    }
    let name = format!("{} {options:?}", program.name());
    let server = or_skip(FtpServer::start(program, options).await)?;
    let scheme = match server.options().security {
        FtpSecurity::Clear => "ftp",
        FtpSecurity::Explicit { .. } => "ftpes",
        FtpSecurity::Implicit => "ftps",
    };
    let directory = server.directory().trim_end_matches('/');
    let url = format!("{scheme}://{}@{}{directory}/", server.user(), server.address());
    let mut trust = vec!["--password-from".to_owned(), "env:SECRET".to_owned()];
    if server.options().tls() {
        trust.extend(["--ca-file".to_owned(), text(&server.certificates().authority_file()).to_owned()]);
    }
    let (password, disk) = (server.password().to_owned(), server.root().to_owned());
    Some(Site { name, url, trust, password, disk, _server: Box::new(server) })
}

impl Site {
    pub fn run(&self, shop: &Shop, arguments: &[&str]) -> Ran {
        ended(self.start(shop, arguments))
    }

    pub fn start(&self, shop: &Shop, arguments: &[&str]) -> Child {
        let trust: Vec<&str> = self.trust.iter().map(String::as_str).collect();
        let mut command = shop.command(&[arguments, &trust].concat());
        command.env("SECRET", &self.password);
        shop.start(command)
    }
}

pub fn explicit() -> FtpServerOptions {
    FtpServerOptions { security: FtpSecurity::Explicit { required: true }, ..FtpServerOptions::default() }
}

pub fn implicit() -> FtpServerOptions {
    FtpServerOptions { security: FtpSecurity::Implicit, ..FtpServerOptions::default() }
}
