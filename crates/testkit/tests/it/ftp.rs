//! Every FTP server in every set-up takes a login and a file, and nothing from a stranger.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use testkit::certificates::{CertificateKind, Certificates};
use testkit::ftp::{FtpProgram, FtpSecurity, FtpServer, FtpServerOptions, FtpTlsVersion};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// As little of a client as shows that a server serves.
pub struct Visitor {
    address: SocketAddr,
    tls: Option<TlsConnector>,
    control: Box<dyn Stream>,
    held: Vec<u8>,
}

impl Visitor {
    /// Up to the greeting, and through AUTH TLS where asked for.
    pub async fn connect(address: SocketAddr, security: FtpSecurity, tls: Option<Arc<ClientConfig>>) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        let tls = tls.map(TlsConnector::from);
        let mut visitor = Self { address, tls, control: Box::new(stream), held: Vec::new() };
        if security == FtpSecurity::Implicit {
            visitor.secure_control().await?;
        }
        visitor.expect("220").await?;
        if matches!(security, FtpSecurity::Explicit { .. }) && visitor.tls.is_some() {
            visitor.say("AUTH TLS", "234").await?;
            visitor.secure_control().await?;
        }
        Ok(visitor)
    }

    pub async fn log_in(&mut self, user: &str, password: &str) -> anyhow::Result<()> {
        self.say(&format!("USER {user}"), "331").await?;
        self.say(&format!("PASS {password}"), "230").await?;
        if self.tls.is_some() {
            self.say("PBSZ 0", "200").await?;
            self.say("PROT P", "200").await?;
        }
        self.say("TYPE I", "200").await?;
        Ok(())
    }

    async fn secure_control(&mut self) -> anyhow::Result<()> {
        let plain = std::mem::replace(&mut self.control, Box::new(tokio::io::empty()));
        let connector = self.tls.as_ref().context("no TLS was set up")?;
        self.control = Box::new(connector.connect(ServerName::from(self.address.ip()), plain).await?);
        Ok(())
    }

    pub async fn say(&mut self, command: &str, code: &str) -> anyhow::Result<String> {
        self.control.write_all(format!("{command}\r\n").as_bytes()).await?;
        self.control.flush().await?;
        self.expect(code).await.with_context(|| command.to_owned())
    }

    pub async fn expect(&mut self, code: &str) -> anyhow::Result<String> {
        loop {
            while let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.held.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if line.get(3..4) == Some(" ") && line[..3].parse::<u16>().is_ok() {
                    ensure!(line.starts_with(code), "{line}, and not {code}");
                    return Ok(line);
                }
            }
            ensure!(self.control.read_buf(&mut self.held).await? > 0, "the control connection ended, and not {code}");
        }
    }

    /// A data connection by EPSV for `command`.
    pub async fn data(&mut self, command: &str) -> anyhow::Result<Box<dyn Stream>> {
        let reply = self.say("EPSV", "229").await?;
        let port = reply.split('|').nth(3).context("a port")?.parse()?;
        let stream = TcpStream::connect((self.address.ip(), port)).await?;
        self.say(command, "1").await?;
        Ok(match &self.tls {
            None => Box::new(stream),
            Some(connector) => Box::new(connector.connect(ServerName::from(self.address.ip()), stream).await?),
        })
    }

    pub async fn store(&mut self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        let mut data = self.data(&format!("STOR {name}")).await?;
        data.write_all(content).await?;
        data.shutdown().await?;
        let mut rest = Vec::new();
        // Session tickets may be unread; closing over them would be a reset.
        let _ = data.read_to_end(&mut rest).await;
        drop(data);
        self.expect("226").await?;
        Ok(())
    }
}

pub fn trusting(certificates: &Certificates, client: bool) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificates.authority_file())?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?.with_root_certificates(roots);
    Ok(Arc::new(if client {
        let files = certificates.client()?;
        let certificate = CertificateDer::from_pem_file(files.certificate)?;
        builder.with_client_auth_cert(vec![certificate], PrivateKeyDer::from_pem_file(files.key)?)?
    } else {
        builder.with_no_client_auth()
    }))
}

/// A server, or `None` with a line where this machine may lack it.
pub async fn start(program: FtpProgram, options: FtpServerOptions) -> Option<FtpServer> {
    match FtpServer::start(program, options).await {
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

pub async fn visit(server: &FtpServer) -> anyhow::Result<Visitor> {
    visit_at(server, server.address()).await
}

/// Through whatever leads to the server from this address.
pub async fn visit_at(server: &FtpServer, address: SocketAddr) -> anyhow::Result<Visitor> {
    let options = server.options();
    let tls = options.tls().then(|| trusting(server.certificates(), options.client_certificate_required)).transpose()?;
    let mut visitor = Visitor::connect(address, options.security, tls).await?;
    visitor.log_in(server.user(), server.password()).await?;
    Ok(visitor)
}

async fn takes_files(program: FtpProgram) {
    for (name, options) in program.set_ups() {
        let Some(server) = start(program, options).await else { return };
        let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let work = async {
            let mut visitor = visit(&server).await?;
            let directory = visitor.say("PWD", "257").await?;
            ensure!(directory.contains(&format!("\"{}\"", server.directory())), "{directory}");
            visitor.store("a", &content).await?;
            visitor.store("b", b"").await?;
            ensure!(std::fs::read(server.root().join("a"))? == content, "other bytes");
            if server.options().no_rename {
                let refused = visitor.say("RNFR a", "5").await;
                ensure!(refused.is_ok(), "{refused:?}");
            } else {
                visitor.say("RNFR a", "350").await?;
                visitor.say("RNTO c", "250").await?;
            }
            visitor.say("SIZE b", if server.options().no_size { "5" } else { "213" }).await?;
            if server.options().write_only {
                visitor.say("EPSV", "229").await?;
                visitor.say("RETR c", "5").await?;
                // With 450 by ProFTPD, with 500 by pyftpdlib.
                ensure!(visitor.say("NLST", "1").await.is_err(), "it lists");
            }
            if server.options().max_per_ip == Some(2) {
                let _second = visit(&server).await.context("a second session")?;
                ensure!(visit(&server).await.is_err(), "a third session was let in");
            }
            anyhow::Ok(())
        };
        let outcome = tokio::time::timeout(Duration::from_secs(20), work).await.context("it did not end").and_then(|outcome| outcome);
        assert!(outcome.is_ok(), "{} {name}: {:#}\n{}", program.name(), outcome.unwrap_err(), server.log());
    }
}

#[tokio::test]
async fn vsftpd_takes_files_in_every_set_up() {
    takes_files(FtpProgram::Vsftpd).await;
}

#[tokio::test]
async fn proftpd_takes_files_in_every_set_up() {
    takes_files(FtpProgram::Proftpd).await;
}

#[tokio::test]
async fn pure_ftpd_takes_files_in_every_set_up() {
    takes_files(FtpProgram::PureFtpd).await;
}

#[tokio::test]
async fn pyftpdlib_takes_files_in_every_set_up() {
    takes_files(FtpProgram::Pyftpdlib).await;
}

#[tokio::test]
async fn every_server_refuses_a_wrong_password() {
    for program in FtpProgram::ALL {
        let Some(server) = start(program, FtpServerOptions::default()).await else { continue };
        let mut visitor = Visitor::connect(server.address(), FtpSecurity::Clear, None).await.unwrap();
        visitor.say(&format!("USER {}", server.user()), "331").await.unwrap();
        visitor.say("PASS not-the-password", "530").await.unwrap();
    }
}

#[tokio::test]
async fn every_server_that_requires_tls_refuses_a_login_in_clear_text() {
    for program in FtpProgram::ALL {
        let options = FtpServerOptions { security: FtpSecurity::Explicit { required: true }, ..FtpServerOptions::default() };
        let Some(server) = start(program, options).await else { continue };
        let mut visitor = Visitor::connect(server.address(), FtpSecurity::Clear, None).await.unwrap();
        let log_in = visitor.log_in(server.user(), server.password()).await;
        assert!(log_in.is_err(), "{}", program.name());
    }
}

#[tokio::test]
async fn a_version_of_tls_that_was_excluded_is_refused() {
    for program in FtpProgram::ALL {
        for (allowed, version) in [(FtpTlsVersion::Only12, &rustls::version::TLS13), (FtpTlsVersion::Only13, &rustls::version::TLS12)] {
            let security = FtpSecurity::Explicit { required: true };
            let options = FtpServerOptions { security, tls_version: allowed, ..FtpServerOptions::default() };
            if options.lacking_in(program).is_some() {
                continue;
            }
            let Some(server) = start(program, options).await else { continue };
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(server.certificates().authority_file()).unwrap()).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
            let config = builder.with_root_certificates(roots).with_no_client_auth();
            let visit = Visitor::connect(server.address(), security, Some(Arc::new(config))).await;
            assert!(visit.is_err(), "{} {allowed:?}", program.name());
        }
    }
}

#[tokio::test]
async fn a_demanded_client_certificate_is_demanded() {
    for program in FtpProgram::ALL {
        let security = FtpSecurity::Explicit { required: true };
        let options = FtpServerOptions { security, client_certificate_required: true, ..FtpServerOptions::default() };
        if options.lacking_in(program).is_some() {
            continue;
        }
        let Some(server) = start(program, options).await else { continue };
        let mut visitor = visit(&server).await.unwrap();
        visitor.store("a", b"with a certificate").await.unwrap();
        let without = trusting(server.certificates(), false).unwrap();
        let login =
            async { Visitor::connect(server.address(), security, Some(without)).await?.log_in(server.user(), server.password()).await };
        assert!(login.await.is_err(), "{}", program.name());
    }
}

#[tokio::test]
async fn wrong_certificates_are_wrong() {
    for kind in [CertificateKind::Expired, CertificateKind::WrongHost, CertificateKind::SelfSigned] {
        let security = FtpSecurity::Explicit { required: true };
        let options = FtpServerOptions { security, certificate: kind, ..FtpServerOptions::default() };
        let Some(server) = start(FtpProgram::Proftpd, options).await else { continue };
        let trusting = trusting(server.certificates(), false).unwrap();
        let visit = Visitor::connect(server.address(), security, Some(trusting)).await;
        assert!(visit.is_err(), "{kind:?}");
        assert!(server.certificate().unwrap().fingerprint.starts_with("SHA256:"));
    }
}

#[tokio::test]
async fn a_killed_server_is_gone_and_starts_again_with_its_files() {
    for program in FtpProgram::ALL {
        let Some(mut server) = start(program, FtpServerOptions::default()).await else { continue };
        let mut visitor = visit(&server).await.unwrap();
        visitor.store("a", b"kept").await.unwrap();
        server.kill_server();
        assert!(visitor.say("NOOP", "200").await.is_err(), "{}", program.name());
        assert!(TcpStream::connect(server.address()).await.is_err(), "{}", program.name());
        server.restart().await.unwrap();
        visit(&server).await.unwrap().store("b", b"more").await.unwrap();
        assert_eq!(std::fs::read(server.root().join("a")).unwrap(), b"kept");
    }
}

#[tokio::test]
async fn a_given_directory_takes_the_files() {
    for program in FtpProgram::ALL {
        let root = tempfile::tempdir().unwrap();
        let options = FtpServerOptions { root: Some(root.path().to_owned()), ..FtpServerOptions::default() };
        let Some(server) = start(program, options).await else { continue };
        visit(&server).await.unwrap().store("a", b"here").await.unwrap();
        assert_eq!(std::fs::read(root.path().join("a")).unwrap(), b"here", "{}", program.name());
    }
}

#[tokio::test]
async fn killed_sessions_leave_a_server_that_goes_on() {
    for program in [FtpProgram::Vsftpd, FtpProgram::Proftpd, FtpProgram::PureFtpd] {
        let Some(mut server) = start(program, FtpServerOptions::default()).await else { continue };
        let mut visitor = visit(&server).await.unwrap();
        assert!(server.kill_sessions() > 0);
        assert!(visitor.say("NOOP", "200").await.is_err(), "{}", program.name());
        visit(&server).await.unwrap().store("b", b"more").await.unwrap();
    }
}
