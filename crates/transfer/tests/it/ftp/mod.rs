//! What the FTP client does on real servers, beyond the contract: TLS sessions, streams that are cut, continued and
//! ended, and certificates that are refused.

mod streams;
mod trust;

use bytes::Bytes;
use model::{Endpoint, Protocol, RemotePath};
use testkit::ftp::{FtpProgram, FtpSecurity, FtpServer, FtpServerOptions, FtpTlsVersion};
use transfer::ftp::{FtpConfig, FtpConnection, FtpConnector, Secret};
use transfer::{Connection, CreateOptions, OpenMode, Result};

pub fn config(server: &FtpServer) -> FtpConfig {
    let protocol = match server.options().security {
        FtpSecurity::Clear => Protocol::Ftp,
        FtpSecurity::Explicit { .. } => Protocol::Ftpes,
        FtpSecurity::Implicit => Protocol::Ftps,
    };
    let address = server.address();
    let endpoint = Endpoint { protocol, host: address.ip().to_string(), port: Some(address.port()), user: Some(server.user().to_owned()) };
    let mut config = FtpConfig::new(endpoint);
    config.password = Some(Secret::new(server.password()));
    if server.options().tls() {
        config.tls.ca_files = vec![server.certificates().authority_file()];
    }
    config
}

/// The server, or `None` where this machine may lack it.
pub async fn start(program: FtpProgram, options: FtpServerOptions) -> Option<FtpServer> {
    if program == FtpProgram::PureFtpd && !rustix::process::geteuid().is_root() {
        println!("skipped: Pure-FTPd serves only when root runs the tests");
        return None;
    }
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

pub async fn session(server: &FtpServer) -> Result<FtpConnection> {
    FtpConnector::new(config(server))?.open().await
}

pub fn path(server: &FtpServer, name: &str) -> RemotePath {
    RemotePath::from_user(server.directory()).unwrap().join(name).unwrap()
}

pub fn options(mode: OpenMode) -> CreateOptions {
    CreateOptions { mode, read: true, permissions: None }
}

pub fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

pub async fn put(connection: &FtpConnection, path: &RemotePath, bytes: &[u8]) -> Result<()> {
    let writer = connection.open(path, options(OpenMode::CreateNew)).await?;
    writer.write_at(0, Bytes::copy_from_slice(bytes)).await?;
    writer.close().await
}

fn tls(version: FtpTlsVersion, require_session_reuse: bool) -> FtpServerOptions {
    FtpServerOptions {
        security: FtpSecurity::Explicit { required: true },
        tls_version: version,
        require_session_reuse,
        ..FtpServerOptions::default()
    }
}

/// Each data connection resumes the session of its own control connection; with TLS 1.3 each ticket serves once, and a
/// server that gives no more of them is logged in to again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_files_go_over_one_connection_to_servers_that_want_sessions_resumed() {
    let bytes = pattern(300_000);
    for program in [FtpProgram::Vsftpd, FtpProgram::Proftpd] {
        for version in [FtpTlsVersion::Only12, FtpTlsVersion::Only13] {
            let Some(server) = start(program, tls(version, true)).await else { continue };
            let connection = session(&server).await.unwrap();
            assert!(connection.identity().host_key.as_ref().unwrap() == &server.certificate().unwrap().fingerprint);
            for number in 0..6 {
                put(&connection, &path(&server, &format!("f{number}")), &bytes)
                    .await
                    .unwrap_or_else(|error| panic!("{program:?} {version:?} file {number}: {}", transfer::error::chain(&error)));
                assert!(std::fs::read(server.root().join(format!("f{number}"))).unwrap() == bytes, "{program:?} {version:?}");
            }
        }
    }
}
