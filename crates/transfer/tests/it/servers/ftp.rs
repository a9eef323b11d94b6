//! The FTP servers that tests of this crate run against, each in every set-up of the testkit, with what a set-up lacks
//! on purpose.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use model::{Endpoint, Protocol, RemotePath};
use testkit::ftp::{FtpProgram, FtpSecurity, FtpServer, FtpServerOptions};
use transfer::ftp::{FtpConfig, FtpConnector, Secret};

use super::{Lacks, Need, make_directory, or_skip};

pub struct FtpPartner {
    pub name: String,
    pub config: FtpConfig,
    /// The directory for uploads as the server sees it.
    pub directory: RemotePath,
    pub lacks: Lacks,
    /// A login may be refused because the one before has not been cleared away yet.
    pub few_logins: bool,
    pub server: FtpServer,
}

impl FtpPartner {
    /// The server in this set-up, or `None` where this machine may lack it.
    pub async fn start(program: FtpProgram, name: &str, options: FtpServerOptions) -> Option<Self> {
        if program == FtpProgram::PureFtpd && !rustix::process::geteuid().is_root() {
            println!("skipped: Pure-FTPd serves only when root runs the tests");
            return None;
        }
        let lacks = lacks(program, &options);
        let few_logins = options.max_per_ip.is_some();
        let server = or_skip(FtpServer::start(program, options).await)?;
        Some(Self {
            name: format!("{}, {name}", program.name()),
            config: config_at(&server, server.address()),
            directory: RemotePath::from_user(server.directory()).expect("a valid path"),
            lacks,
            few_logins,
            server,
        })
    }

    pub fn connector(&self) -> Arc<FtpConnector> {
        Arc::new(FtpConnector::new(self.config.clone()).expect("a valid configuration"))
    }

    pub fn has(&self, need: Need) -> bool {
        self.lacks.iter().all(|(lacking, _)| *lacking != need)
    }

    /// The directory for uploads on this machine.
    pub fn disk(&self) -> &Path {
        self.server.root()
    }

    /// A directory of its own for one case, made on the disk with the owner of the one above.
    pub fn make_directory(&self, name: &str) -> RemotePath {
        make_directory(self.disk(), name, None);
        self.directory.join(name).expect("a valid name")
    }
}

/// What reaches the server at `address`, which may be that of a proxy in front of it.
pub fn config_at(server: &FtpServer, address: SocketAddr) -> FtpConfig {
    let protocol = match server.options().security {
        FtpSecurity::Clear => Protocol::Ftp,
        FtpSecurity::Explicit { .. } => Protocol::Ftpes,
        FtpSecurity::Implicit => Protocol::Ftps,
    };
    let endpoint = Endpoint { protocol, host: address.ip().to_string(), port: Some(address.port()), user: Some(server.user().to_owned()) };
    let mut config = FtpConfig::new(endpoint);
    config.password = Some(Secret::new(server.password()));
    if server.options().tls() {
        config.tls.ca_files = vec![server.certificates().authority_file()];
    }
    config
}

fn lacks(program: FtpProgram, options: &FtpServerOptions) -> Lacks {
    let mut lacks = Lacks::new();
    lacks.push((Need::Exclusive, "FTP has no word for it: the client looks, then stores"));
    match program {
        FtpProgram::Proftpd => {
            lacks.push((Need::Tildes, "ProFTPD takes a tilde for somebody's home"));
            lacks.push((Need::StarDirectories, "ProFTPD refuses to make a directory called *"));
        }
        FtpProgram::PureFtpd => {
            lacks.push((Need::OuterSpaces, "Pure-FTPd stores such a file under another name"));
            lacks.push((Need::Backslashes, "Pure-FTPd refuses them"));
        }
        FtpProgram::Vsftpd => lacks.push((Need::Mode, "vsftpd lets nobody anonymous change a mode")),
        FtpProgram::Pyftpdlib => {}
    }
    if options.no_rename {
        lacks.push((Need::Rename, "the server refuses RNFR and RNTO"));
    }
    if options.write_only {
        lacks.push((Need::List, "the server refuses every listing"));
        lacks.push((Need::Read, "the server refuses RETR"));
    }
    if program == FtpProgram::Proftpd && !options.permissive {
        lacks.push((Need::Replace, "AllowOverwrite is off, as ProFTPD has it"));
        lacks.push((Need::Overwrite, "AllowOverwrite is off, as ProFTPD has it"));
    }
    if options.max_per_ip.is_some_and(|limit| limit < 4) {
        lacks.push((Need::FourLogins, "the server grants two sessions an address"));
    }
    lacks
}
