//! Certificates for TLS tests: an authority of our own, what it signs for servers and clients, and what must be refused.

use std::path::{Path, PathBuf};

use anyhow::Context;
use data_encoding::BASE64_NOPAD;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// What a server shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CertificateKind {
    /// Signed by the authority, for every name and address of the loopback that tests use.
    #[default]
    Valid,
    /// As `Valid`, and past since 2021.
    Expired,
    /// Signed by the authority for another host.
    WrongHost,
    /// For the right names, signed by nobody but itself.
    SelfSigned,
}

/// One certificate and its key, as PEM files.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Key and certificate in one file.
    pub both: PathBuf,
    /// `SHA256:…`, base64 without padding, of the whole certificate.
    pub fingerprint: String,
}

/// An authority and its files in a directory that lives as long as this.
#[derive(Debug)]
pub struct Certificates {
    directory: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Certificates {
    /// Names and addresses that a valid server certificate holds.
    pub const NAMES: [&str; 4] = ["localhost", "127.0.0.1", "127.0.0.2", "::1"];

    pub fn new() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("certificates-").tempdir()?;
        let mut parameters = named("FileFerry test authority", &[])?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?;
        std::fs::write(directory.path().join("authority.pem"), authority.pem())?;
        Ok(Self { directory, authority })
    }

    /// Where the files are; a server that runs as somebody else must be let in.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The authority's certificate, for whoever is to trust it.
    pub fn authority_file(&self) -> PathBuf {
        self.directory.path().join("authority.pem")
    }

    /// A new certificate for a server, under a name that tells its kind.
    pub fn server(&self, kind: CertificateKind) -> anyhow::Result<CertificateFiles> {
        let key = KeyPair::generate()?;
        let names = if kind == CertificateKind::WrongHost { &["partner.example"][..] } else { &Self::NAMES };
        let mut parameters = named("FileFerry test server", names)?;
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if kind == CertificateKind::Expired {
            parameters.not_before = date_time_ymd(2020, 1, 1);
            parameters.not_after = date_time_ymd(2021, 1, 1);
        }
        let certificate = match kind {
            CertificateKind::SelfSigned => parameters.self_signed(&key)?,
            _ => parameters.signed_by(&key, &self.authority)?,
        };
        let name = match kind {
            CertificateKind::Valid => "server",
            CertificateKind::Expired => "expired",
            CertificateKind::WrongHost => "wrong-host",
            CertificateKind::SelfSigned => "self-signed",
        };
        self.files(name, &certificate, &key)
    }

    /// A certificate by which a client proves itself, signed by the authority.
    pub fn client(&self) -> anyhow::Result<CertificateFiles> {
        let key = KeyPair::generate()?;
        let mut parameters = named("FileFerry test client", &[])?;
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = parameters.signed_by(&key, &self.authority)?;
        self.files("client", &certificate, &key)
    }

    fn files(&self, name: &str, certificate: &Certificate, key: &KeyPair) -> anyhow::Result<CertificateFiles> {
        let at = |suffix: &str| self.directory.path().join(format!("{name}{suffix}.pem"));
        let files =
            CertificateFiles { certificate: at(""), key: at("-key"), both: at("-both"), fingerprint: fingerprint(certificate.der()) };
        let write = |path: &Path, text: String| std::fs::write(path, text).with_context(|| format!("write {}", path.display()));
        write(&files.certificate, certificate.pem())?;
        write(&files.key, key.serialize_pem())?;
        write(&files.both, key.serialize_pem() + &certificate.pem())?;
        Ok(files)
    }
}

/// `SHA256:…` of a certificate in DER, base64 without padding.
pub fn fingerprint(der: &[u8]) -> String {
    format!("SHA256:{}", BASE64_NOPAD.encode(&Sha256::digest(der)))
}

fn named(common_name: &str, names: &[&str]) -> anyhow::Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = CertificateParams::new(names)?;
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    Ok(parameters)
}
