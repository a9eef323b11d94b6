//! TLS as FTP needs it: who is trusted, our own certificate, and one session store per control connection, because a
//! data connection must resume the session of its own control connection and of no other.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use data_encoding::{BASE64, BASE64_NOPAD, HEXLOWER_PERMISSIVE};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue, WebPkiServerVerifier,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, NamedGroup, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::config::{FtpConfig, TlsSettings, TlsVersion};
use crate::{Error, ErrorKind, Result, Subject};

/// A file of certificates is read whole; this is far above a system's store of authorities.
const MAX_PEM: u64 = 16 << 20;
/// Servers give two tickets, some give more; only so many are worth keeping.
const MAX_TICKETS: usize = 8;

/// What all connections of a connector share.
#[derive(Debug)]
pub(super) struct Trust {
    provider: Arc<CryptoProvider>,
    authorities: Option<Arc<WebPkiServerVerifier>>,
    pins: Vec<[u8; 32]>,
    own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    minimum: TlsVersion,
    name: ServerName<'static>,
}

fn unusable(setting: impl Into<String>, why: impl Into<crate::error::BoxError>) -> Error {
    Error::new(ErrorKind::DestTls, "use", Subject::Setting(setting.into())).because(why)
}

impl Trust {
    /// Reads every file that the settings name, so that a mistake shows before anything is sent.
    pub fn load(config: &FtpConfig) -> Result<Self> {
        let settings = &config.tls;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let pins = settings.pins.iter().map(|text| pin(text)).collect::<Result<Vec<_>>>()?;
        let authorities = if pins.is_empty() { Some(authorities(settings, provider.clone())?) } else { None };
        let own = settings.client_certificate.as_ref().map(|(chain, key)| own_certificate(chain, key)).transpose()?;
        let host = config.endpoint.host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.trim_end_matches('.').to_owned())
            .map_err(|error| unusable(format!("the host {host}"), format!("it is no name that a certificate can carry: {error}")))?;
        let trust = Self { provider, authorities, pins, own, minimum: settings.minimum.unwrap_or(TlsVersion::V1_2), name };
        trust.session(trust.minimum)?;
        Ok(trust)
    }

    pub fn minimum(&self) -> TlsVersion {
        self.minimum
    }

    /// What one control connection and its data connections use.
    pub fn session(&self, version: TlsVersion) -> Result<TlsSession> {
        let versions: &[&rustls::SupportedProtocolVersion] = match version {
            TlsVersion::V1_2 => &[&rustls::version::TLS12],
            TlsVersion::V1_3 => &[&rustls::version::TLS13],
        };
        let verifier = Arc::new(Verifier {
            authorities: self.authorities.clone(),
            pins: self.pins.clone(),
            provider: self.provider.clone(),
            presented: Mutex::new(None),
        });
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(versions)
            .map_err(|error| unusable("--tls-min", error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone());
        let mut config = match &self.own {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder
                .with_client_auth_cert(chain.clone(), key.clone_key())
                .map_err(|error| unusable("the client certificate", format!("certificate and key do not fit together: {error}")))?,
        };
        let tickets = Arc::new(Tickets {
            control: ClientSessionMemoryCache::new(MAX_TICKETS),
            data: ClientSessionMemoryCache::new(MAX_TICKETS),
            left: Mutex::new((0, 0)),
            last: Mutex::new(Origin::Nowhere),
            control_only: AtomicBool::new(false),
        });
        config.resumption = Resumption::store(Arc::new(View(tickets.clone(), false)));
        // A copy counts as the same configuration: it has the same verifier, without which rustls resumes nothing.
        let mut data = config.clone();
        data.resumption = Resumption::store(Arc::new(View(tickets.clone(), true)));
        Ok(TlsSession { control: Arc::new(config), data: Arc::new(data), name: self.name.clone(), verifier, tickets, version })
    }
}

fn authorities(settings: &TlsSettings, provider: Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>> {
    let mut roots = RootCertStore::empty();
    if settings.ca_files.is_empty() {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let why = "there are none; install the system's authorities (package ca-certificates), or give --ca-file or --tls-pin";
            return Err(unusable("the authorities of this system", why));
        }
    }
    for file in &settings.ca_files {
        for certificate in certificates("--ca-file", file)? {
            roots.add(certificate).map_err(|error| unusable(format!("--ca-file {}", file.display()), error))?;
        }
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| unusable("the trusted authorities", error.to_string()))
}

fn read_pem(setting: &str, file: &Path) -> Result<Vec<u8>> {
    use std::io::Read as _;
    let failed = |error: std::io::Error| unusable(format!("{setting} {}", file.display()), error);
    let mut bytes = Vec::new();
    std::fs::File::open(file).map_err(failed)?.take(MAX_PEM).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn certificates(setting: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = read_pem(setting, file)?;
    let found = CertificateDer::pem_slice_iter(&bytes)
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|error| unusable(format!("{setting} {}", file.display()), format!("it is no PEM file of certificates: {error}")))?;
    if found.is_empty() {
        return Err(unusable(format!("{setting} {}", file.display()), "it holds no certificate in PEM form"));
    }
    Ok(found)
}

fn own_certificate(chain: &Path, key: &Path) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let bytes = zeroize::Zeroizing::new(read_pem("--client-key", key)?);
    let private = PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        unusable(format!("--client-key {}", key.display()), "it holds no private key in PEM form that can be read without a password")
    })?;
    Ok((certificates("--client-cert", chain)?, private))
}

/// The SHA-256 that a pin names: `SHA256:` and base64, or hexadecimal digits with or without colons.
fn pin(text: &str) -> Result<[u8; 32]> {
    let digits = match text.get(..7) {
        Some(prefix) if prefix.eq_ignore_ascii_case("sha256:") => &text[7..],
        _ => text,
    };
    let hex: String = digits.chars().filter(|c| *c != ':').collect();
    let bytes = HEXLOWER_PERMISSIVE
        .decode(hex.as_bytes())
        .ok()
        .filter(|bytes| bytes.len() == 32)
        .or_else(|| BASE64.decode(digits.as_bytes()).ok())
        .or_else(|| BASE64_NOPAD.decode(digits.as_bytes()).ok());
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| unusable(format!("--tls-pin {text}"), "it is no SHA-256: give SHA256: and base64, or 64 hexadecimal digits"))
}

/// `SHA256:…` of a certificate, written as OpenSSH writes those of host keys.
fn fingerprint(hash: &[u8; 32]) -> String {
    format!("SHA256:{}", BASE64_NOPAD.encode(hash))
}

/// Judges the server's certificate and keeps what was presented, for the words of a refusal.
#[derive(Debug)]
struct Verifier {
    /// `None` where pins decide.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    pins: Vec<[u8; 32]>,
    provider: Arc<CryptoProvider>,
    presented: Mutex<Option<[u8; 32]>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let hash: [u8; 32] = Sha256::digest(end).into();
        *self.presented.lock().unwrap_or_else(PoisonError::into_inner) = Some(hash);
        match &self.authorities {
            Some(authorities) => authorities.verify_server_cert(end, chain, name, ocsp, now),
            None if self.pins.contains(&hash) => Ok(ServerCertVerified::assertion()),
            None => Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    // A pin says which certificate is right; that the peer holds its key is proved here all the same.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Where the session came from that the last data connection offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Control,
    /// From an earlier data connection. ProFTPD takes only those of the control connection.
    Data,
    Nowhere,
}

/// The sessions of one control connection. A TLS 1.3 ticket serves once, so they are counted, and those that came over
/// data connections are kept apart.
#[derive(Debug)]
struct Tickets {
    control: ClientSessionMemoryCache,
    data: ClientSessionMemoryCache,
    left: Mutex<(usize, usize)>,
    last: Mutex<Origin>,
    /// Tickets of data connections are worth nothing to this server.
    control_only: AtomicBool,
}

impl Tickets {
    fn left(&self) -> (usize, usize) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let mut origin = Origin::Control;
        let mut ticket = self.control.take_tls13_ticket(name);
        left.0 = if ticket.is_some() { left.0.saturating_sub(1) } else { 0 };
        if ticket.is_none() && !self.control_only.load(Ordering::Relaxed) {
            origin = Origin::Data;
            ticket = self.data.take_tls13_ticket(name);
            left.1 = if ticket.is_some() { left.1.saturating_sub(1) } else { 0 };
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = if ticket.is_some() { origin } else { Origin::Nowhere };
        ticket
    }
}

/// The store as a control connection (`false`) or its data connections (`true`) use it.
#[derive(Debug)]
struct View(Arc<Tickets>, bool);

impl ClientSessionStore for View {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.0.control.set_kx_hint(name, group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.control.kx_hint(name)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.control.set_tls12_session(name, value);
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.control.tls12_session(name)
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.0.control.remove_tls12_session(name);
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut left = self.0.left.lock().unwrap_or_else(PoisonError::into_inner);
        if self.1 {
            self.0.data.insert_tls13_ticket(name, value);
            left.1 = (left.1 + 1).min(MAX_TICKETS);
        } else {
            self.0.control.insert_tls13_ticket(name, value);
            left.0 = (left.0 + 1).min(MAX_TICKETS);
        }
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take(name)
    }
}

/// TLS of one control connection and its data connections.
#[derive(Debug, Clone)]
pub(super) struct TlsSession {
    control: Arc<ClientConfig>,
    data: Arc<ClientConfig>,
    name: ServerName<'static>,
    verifier: Arc<Verifier>,
    tickets: Arc<Tickets>,
    pub version: TlsVersion,
}

impl TlsSession {
    pub async fn connect(&self, tcp: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        TlsConnector::from(self.control.clone()).connect(self.name.clone(), tcp).await
    }

    pub async fn connect_data(&self, tcp: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        TlsConnector::from(self.data.clone()).connect(self.name.clone(), tcp).await
    }

    /// Nothing is left that could resume this session once more.
    pub fn is_used_up(&self) -> bool {
        let (control, data) = self.tickets.left();
        let data = if self.tickets.control_only.load(Ordering::Relaxed) { 0 } else { data };
        self.version == TlsVersion::V1_3 && control + data == 0
    }

    pub fn use_control_tickets_only(&self) {
        self.tickets.control_only.store(true, Ordering::Relaxed);
    }

    /// Where the session came from that the last data connection resumed, if it did.
    pub fn origin(&self, connection: &rustls::ClientConnection) -> Origin {
        match (connection.handshake_kind(), self.version) {
            (Some(rustls::HandshakeKind::Resumed), TlsVersion::V1_2) => Origin::Control,
            (Some(rustls::HandshakeKind::Resumed), _) => *self.tickets.last.lock().unwrap_or_else(PoisonError::into_inner),
            _ => Origin::Nowhere,
        }
    }

    /// `SHA256:…` of the certificate that was presented.
    pub fn presented(&self) -> Option<String> {
        self.verifier.presented.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(fingerprint)
    }

    /// Why the handshake failed, with what was presented and what to do.
    pub fn explain(&self, error: &std::io::Error) -> String {
        let presented = self.presented().unwrap_or_else(|| "no certificate".to_owned());
        let pin = format!("if that is the partner's, give --tls-pin {presented}");
        let Some(reason) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return format!("the TLS handshake broke: {error}");
        };
        let rustls::Error::InvalidCertificate(reason) = reason else {
            return format!("the TLS handshake failed: {}", model::escape_name(&reason.to_string()));
        };
        let name = match &self.name {
            ServerName::IpAddress(_) => "the address",
            _ => "the name",
        };
        match reason {
            CertificateError::ApplicationVerificationFailure => {
                format!(
                    "the server presented {presented}, which no --tls-pin names; if the partner announced a new certificate, change the pin"
                )
            }
            CertificateError::UnknownIssuer => format!(
                "the server presented {presented}, signed by itself or by an authority that is not trusted here; give that authority with --ca-file, or {pin}"
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                format!("the server's certificate {presented} has expired; the partner must renew it, or {pin}")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                format!("the server's certificate {presented} is not valid yet; check the clocks, or {pin}")
            }
            CertificateError::NotValidForName => {
                format!("the server's certificate {presented} is not for {name} {}; {pin}", self.name.to_str())
            }
            CertificateError::NotValidForNameContext { presented: names, .. } => {
                let names: String = names.iter().take(10).map(String::as_str).collect::<Vec<_>>().join(", ").chars().take(300).collect();
                let names = if names.is_empty() { "no name at all".to_owned() } else { model::escape_name(&names) };
                format!(
                    "the server's certificate {presented} is not for {name} {} but for {names}; use a name that it carries, or {pin}",
                    self.name.to_str()
                )
            }
            other => format!("the server's certificate {presented} cannot be trusted: {}; {pin}", model::escape_name(&other.to_string())),
        }
    }
}

/// The server wants another version of TLS than the one that was offered.
pub(super) fn wants_another_version(error: &std::io::Error) -> bool {
    use rustls::AlertDescription as Alert;
    let reason = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(
        reason,
        Some(
            rustls::Error::AlertReceived(Alert::ProtocolVersion | Alert::HandshakeFailure | Alert::InsufficientSecurity)
                | rustls::Error::PeerIncompatible(_)
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_written_in_any_usual_way() {
        let hash: [u8; 32] = std::array::from_fn(|n| n as u8 * 7);
        let hex = data_encoding::HEXUPPER.encode(&hash);
        let colons = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect::<Vec<_>>().join(":");
        for text in [
            fingerprint(&hash),
            format!("{}=", fingerprint(&hash)),
            hex.clone(),
            hex.to_lowercase(),
            colons.clone(),
            format!("SHA256:{colons}"),
            BASE64.encode(&hash),
        ] {
            assert_eq!(pin(&text).unwrap(), hash, "{text}");
        }
        for text in ["", "SHA256:", "MD5:00", &hex[1..], "SHA256:é"] {
            let error = pin(text).unwrap_err();
            assert_eq!(error.kind, ErrorKind::DestTls);
            assert!(error.to_string().contains("--tls-pin"), "{error}");
        }
    }
}
