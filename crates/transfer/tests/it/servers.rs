//! The SFTP servers that tests of this crate run against: OpenSSH, asyncssh and the sandbox, each in every set-up of
//! the testkit, with what a set-up lacks on purpose.

pub mod ftp;

use std::any::Any;
use std::fmt::Display;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Endpoint, Protocol, RemotePath};
use testkit::asyncssh::{Asyncssh, AsyncsshOptions};
use testkit::sftp::{Behaviour, RenameRule, SftpServer};
use testkit::sshd::{Sshd, SshdOptions};
use transfer::sftp::{Identity, Secret, SftpConfig, SftpConnector};

/// What `Capabilities` cannot tell, because a server shows it only when asked to do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Rename,
    /// A rename that takes the place of a file, although it is announced.
    Replace,
    /// Names and open files can be looked at.
    Stat,
    List,
    Read,
    FourLogins,
    /// Of two that create one name, one is refused.
    Exclusive,
    /// A file that is there can be written anew.
    Overwrite,
    /// A name is kept with spaces at its beginning or end.
    OuterSpaces,
    Backslashes,
    /// A name that begins with a tilde is a name.
    Tildes,
    /// A directory may be called `*`.
    StarDirectories,
    /// Modes can be changed.
    Mode,
}

impl Need {
    pub fn name(self) -> &'static str {
        match self {
            Self::Rename => "rename",
            Self::Replace => "replace",
            Self::Stat => "stat",
            Self::List => "list",
            Self::Read => "read",
            Self::FourLogins => "four logins",
            Self::Exclusive => "exclusive creation",
            Self::Overwrite => "overwriting",
            Self::OuterSpaces => "outer spaces in names",
            Self::Backslashes => "backslashes in names",
            Self::Tildes => "tildes before names",
            Self::StarDirectories => "directories called *",
            Self::Mode => "changing modes",
        }
    }
}

/// What a set-up lacks on purpose, and how it does so.
pub type Lacks = Vec<(Need, &'static str)>;

pub struct Partner {
    pub name: String,
    pub config: SftpConfig,
    /// The directory for uploads, as the server sees it and as this machine does.
    pub directory: RemotePath,
    pub disk: PathBuf,
    pub lacks: Lacks,
    /// Modes of directories that the suite makes on the disk, where the server's own would undo the set-up.
    pub mode: Option<u32>,
    /// A login may be refused because the one before has not been cleared away yet.
    pub few_logins: bool,
    pub guard: Box<dyn Any + Send + Sync>,
}

impl Partner {
    pub fn connector(&self) -> Arc<SftpConnector> {
        Arc::new(SftpConnector::new(self.config.clone()))
    }

    pub fn has(&self, need: Need) -> bool {
        self.lacks.iter().all(|(lacking, _)| *lacking != need)
    }

    /// A directory of its own for one case, made on the disk with the owner and mode of the one above.
    pub fn make_directory(&self, name: &str) -> RemotePath {
        make_directory(&self.disk, name, self.mode);
        self.directory.join(name).expect("a valid name")
    }
}

pub fn make_directory(above: &Path, name: &str, mode: Option<u32>) {
    let path = above.join(name);
    std::fs::create_dir(&path).expect("make a directory for a case");
    let owner = std::fs::metadata(above).expect("look at the directory for uploads");
    chown(&path, Some(owner.uid()), Some(owner.gid())).expect("give the directory to the server's user");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode.unwrap_or(0o755))).expect("set the directory's mode");
}

/// What was started, or `None` with a line about what is missing where tests may be skipped for that.
pub fn or_skip<T, E: Display>(started: Result<T, E>) -> Option<T> {
    match started {
        Ok(server) => Some(server),
        Err(error) => {
            let text = format!("{error:#}");
            let may_skip = std::env::var("FILEFERRY_TESTS_MAY_SKIP").is_ok_and(|value| value == "1");
            assert!(may_skip && text.contains("make setup"), "{text}");
            println!("skipped: {text}");
            None
        }
    }
}

pub fn config(address: std::net::SocketAddr, user: &str, key: &Path, fingerprint: String, password: Option<&str>) -> SftpConfig {
    let endpoint =
        Endpoint { protocol: Protocol::Sftp, host: address.ip().to_string(), port: Some(address.port()), user: Some(user.to_owned()) };
    let mut config = SftpConfig::new(endpoint);
    config.identities = vec![Identity { path: key.to_owned(), passphrase: None, named: true }];
    config.host_key_pins = vec![fingerprint];
    config.password = password.map(Secret::new);
    config
}

pub fn sandbox_config(server: &SftpServer) -> SftpConfig {
    config(server.address(), server.user(), server.client_key(), server.host_key_fingerprint(), Some(server.password()))
}

pub fn sshd_config(server: &Sshd) -> SftpConfig {
    config(server.address(), server.user(), &server.client_key(), server.host_key_fingerprint(), None)
}

pub async fn openssh(name: &str, options: SshdOptions) -> Option<Partner> {
    let denied = |request: &str| options.denied_requests.iter().any(|name| name == request);
    let mut lacks = Lacks::new();
    if denied("rename") {
        lacks.push((Need::Rename, "sftp-server refuses rename, posix-rename and hardlink"));
    }
    if denied("stat") {
        lacks.push((Need::Stat, "sftp-server refuses stat, lstat and fstat"));
    }
    if options.write_only {
        lacks.push((Need::List, "the directories have mode 0300"));
    }
    let mode = options.write_only.then_some(0o300);
    let server = or_skip(Sshd::start(options).await)?;
    let disk = server.directory().to_owned();
    Some(Partner {
        name: format!("OpenSSH, {name}"),
        config: sshd_config(&server),
        directory: RemotePath::from_user(disk.to_str().expect("temporary paths are UTF-8")).expect("a valid path"),
        disk,
        lacks,
        mode,
        few_logins: false,
        guard: Box::new(server),
    })
}

pub async fn asyncssh(name: &str, options: AsyncsshOptions) -> Option<Partner> {
    let mut lacks = Lacks::new();
    if options.refuses_posix_rename {
        lacks.push((Need::Replace, "the server announces posix-rename and refuses it"));
    }
    let server = or_skip(Asyncssh::start(options).await)?;
    let key = server.client_key();
    Some(Partner {
        name: format!("asyncssh, {name}"),
        config: config(server.address(), server.user(), &key, server.host_key_fingerprint(), None),
        directory: RemotePath::root(),
        disk: server.root(),
        lacks,
        mode: None,
        few_logins: false,
        guard: Box::new(server),
    })
}

pub async fn sandbox(name: &str, behaviour: Behaviour) -> Partner {
    let mut lacks = Lacks::new();
    match behaviour.rename {
        RenameRule::Denied => lacks.push((Need::Rename, "the server denies every rename")),
        RenameRule::Unsupported => lacks.push((Need::Rename, "the server knows no rename")),
        RenameRule::RefusesExisting | RenameRule::Overwrites => {}
    }
    if behaviour.stat_denied {
        lacks.push((Need::Stat, "the server denies every stat"));
    }
    if behaviour.write_only {
        lacks.push((Need::List, "the server denies listing"));
        lacks.push((Need::Read, "the server denies opening a file for reading"));
    }
    if behaviour.logins.is_some() {
        lacks.push((Need::FourLogins, "the server grants two logins"));
    }
    let few_logins = behaviour.logins.is_some();
    let server = SftpServer::builder().behaviour(behaviour).start().await.expect("the sandbox needs nothing but a port");
    Partner {
        name: format!("sandbox, {name}"),
        config: sandbox_config(&server),
        directory: RemotePath::root(),
        disk: server.root().to_owned(),
        lacks,
        mode: None,
        few_logins,
        guard: Box::new(server),
    }
}
