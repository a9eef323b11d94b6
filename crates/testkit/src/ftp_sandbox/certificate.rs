//! The authority of the sandbox and its server's certificate, and what TLS needs of them. Made once, in a directory that
//! may outlive the server.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ServerSessionMemoryCache;

use super::behaviour::TlsVersions;

const AUTHORITY: &str = "authority.pem";
const CERTIFICATE: &str = "server.pem";
const KEY: &str = "server.key";

/// A certificate for `localhost` and the loopback addresses, signed by an authority of its own.
#[derive(Debug)]
pub(crate) struct Certificate {
    pub authority: PathBuf,
    /// `SHA256:…` (base64 without padding) of the server's certificate.
    pub fingerprint: String,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Certificate {
    /// What lies in this directory, or a new one put there.
    pub fn at(directory: &Path) -> anyhow::Result<Self> {
        if !directory.join(KEY).exists() {
            make(directory)?;
        }
        let certificate = CertificateDer::from_pem_file(directory.join(CERTIFICATE)).context("read the sandbox's certificate")?;
        let key = PrivateKeyDer::from_pem_file(directory.join(KEY)).context("read the sandbox's key")?;
        let fingerprint = crate::certificates::fingerprint(&certificate);
        Ok(Self { authority: directory.join(AUTHORITY), fingerprint, chain: vec![certificate], key })
    }

    /// The settings of one login: of its control connection and of its data connections. Both share one store of
    /// sessions that no other login sees, so that only the login's own sessions can be resumed.
    pub fn settings(&self, versions: TlsVersions, tickets: Option<usize>) -> anyhow::Result<[Arc<rustls::ServerConfig>; 2]> {
        let versions: &[_] = match versions {
            TlsVersions::Both => rustls::ALL_VERSIONS,
            TlsVersions::Only12 => &[&rustls::version::TLS12],
            TlsVersions::Only13 => &[&rustls::version::TLS13],
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut control = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        control.session_storage = ServerSessionMemoryCache::new(256);
        let mut data = control.clone();
        if let Some(tickets) = tickets {
            control.send_tls13_tickets = tickets;
            data.send_tls13_tickets = 0;
        }
        Ok([Arc::new(control), Arc::new(data)])
    }
}

fn make(directory: &Path) -> anyhow::Result<()> {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "FileFerry sandbox authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;

    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut server = CertificateParams::new(names)?;
    server.distinguished_name.push(DnType::CommonName, "localhost");
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = server.signed_by(&key, &authority)?;

    std::fs::write(directory.join(AUTHORITY), authority.pem())?;
    std::fs::write(directory.join(CERTIFICATE), certificate.pem())?;
    // Last, because its presence says that the others are there.
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(directory.join(KEY))?;
    std::io::Write::write_all(&mut file, key.serialize_pem().as_bytes())?;
    Ok(())
}
