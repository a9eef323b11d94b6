//! Whom the client trusts: authorities and pins, and what it says to everybody else. Never a password.

use testkit::certificates::CertificateKind;
use testkit::ftp::{FtpProgram, FtpSecurity, FtpServer, FtpServerOptions};
use transfer::ErrorKind;
use transfer::ftp::{FtpConfig, FtpConnector, Security};

use super::{config, start};

async fn server(certificate: CertificateKind) -> Option<FtpServer> {
    let security = FtpSecurity::Explicit { required: true };
    start(FtpProgram::Pyftpdlib, FtpServerOptions { security, certificate, ..FtpServerOptions::default() }).await
}

async fn refused(config: FtpConfig) -> String {
    let error = FtpConnector::new(config).unwrap().open().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::DestTls, "{}", transfer::error::chain(&error));
    transfer::error::chain(&error)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_does_not_fit_is_named_and_refused() {
    for (kind, words) in [
        (CertificateKind::Expired, "has expired"),
        (CertificateKind::WrongHost, "is not for the address 127.0.0.1"),
        (CertificateKind::SelfSigned, "not trusted here"),
    ] {
        let Some(server) = server(kind).await else { return };
        let text = refused(config(&server)).await;
        let fingerprint = &server.certificate().unwrap().fingerprint;
        assert!(text.contains(words) && text.contains(&format!("--tls-pin {fingerprint}")), "{text}");
        // With its fingerprint the same certificate is as good as any.
        let mut pinned = config(&server);
        pinned.tls.pins = vec![fingerprint.clone()];
        FtpConnector::new(pinned).unwrap().open().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_certificate_than_the_pinned_one_is_refused_whoever_signed_it() {
    let Some(server) = server(CertificateKind::Valid).await else { return };
    let mut config = config(&server);
    config.tls.pins = vec!["00".repeat(32)];
    let text = refused(config).await;
    assert!(text.contains(&server.certificate().unwrap().fingerprint), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_tls_gets_no_login() {
    let Some(server) = start(FtpProgram::Vsftpd, FtpServerOptions::default()).await else { return };
    let mut config = config(&server);
    config.security = Security::Explicit;
    config.tls.pins = vec!["00".repeat(32)];
    let text = refused(config).await;
    assert!(text.contains("AUTH TLS was refused"), "{text}");
    assert!(!server.log().contains("\"USER"), "{}", server.log());
}
