//! Decides whether the key or certificate a server presents is its own. Runs before any credential is sent.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use model::escape_name;
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::{Algorithm, Certificate, EcdsaCurve, HashAlg, PublicKey, PublicKeyOrCertificate};

use super::config::{Algorithms, SftpConfig};
use super::known_hosts::{HostLabel, KnownHosts};
use crate::error::Result;

/// A key that known_hosts or a pin has for this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// `SHA256:…`.
    pub fingerprint: String,
    /// Empty for a pin, which has only a fingerprint.
    pub algorithm: String,
    /// Where it stands; `None` for a pin.
    pub place: Option<(PathBuf, usize)>,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some((file, line)) => write!(f, "{}:{line} has {} {}", file.display(), self.algorithm, self.fingerprint),
            None => write!(f, "--host-key has {}", self.fingerprint),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefusalReason {
    /// Nothing is on record for this host.
    Unknown,
    /// Another key is on record.
    Changed,
    /// A line `@revoked` names this key.
    Revoked,
}

/// Why a server was not trusted, with everything a person needs to decide. The cause of every `dest_host_key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: RefusalReason,
    /// Algorithm of the key that was presented.
    pub algorithm: String,
    /// `SHA256:…` of the key that was presented.
    pub fingerprint: String,
    pub expected: Vec<Expected>,
    /// The line for known_hosts that accepts the presented key.
    pub known_hosts_line: String,
    /// The file to which that line belongs.
    pub known_hosts_file: Option<PathBuf>,
    /// Why a host certificate did not count, and lines that were skipped.
    pub notes: Vec<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { algorithm, fingerprint, .. } = self;
        let expected = || self.expected.iter().map(Expected::to_string).collect::<Vec<_>>().join(", ");
        match self.reason {
            RefusalReason::Unknown => write!(f, "its host key is not known: it presented {algorithm} {fingerprint}")?,
            RefusalReason::Changed => write!(
                f,
                "its host key is not the one on record: it presented {algorithm} {fingerprint}, but {}; either the partner changed the key or somebody is in between",
                expected()
            )?,
            RefusalReason::Revoked => write!(f, "its host key {algorithm} {fingerprint} is revoked: {}", expected())?,
        }
        for note in &self.notes {
            write!(f, "; {note}")?;
        }
        if self.reason == RefusalReason::Revoked {
            return f.write_str("; ask the partner for a new key and do not use this one");
        }
        write!(f, "; ask the partner for the fingerprint by another way, and only if it is {fingerprint} ")?;
        let host = self.known_hosts_line.split(' ').next().unwrap_or_default();
        if self.reason == RefusalReason::Changed
            && let Some(Expected { place: Some((file, _)), .. }) = self.expected.first()
        {
            write!(f, "remove the old key with `ssh-keygen -R '{host}' -f '{}'` and ", file.display())?;
        }
        match &self.known_hosts_file {
            Some(file) => write!(f, "add this line to {}: `{}`", file.display(), self.known_hosts_line)?,
            None => write!(f, "write this line into a known_hosts file: `{}`", self.known_hosts_line)?,
        }
        write!(f, ", or run again with --host-key {fingerprint}")
    }
}

impl std::error::Error for Refusal {}

/// What is trusted for one host: built once per connection, from files and pins.
#[derive(Debug, Clone)]
pub(super) struct Trust {
    label: HostLabel,
    pins: Vec<String>,
    known: KnownHosts,
    first_file: Option<PathBuf>,
    algorithms: Algorithms,
}

impl Trust {
    /// Reads the files; blocking, but they are small.
    pub fn load(config: &SftpConfig) -> Result<Self> {
        let label = config.host_label();
        let known = KnownHosts::read(&config.known_hosts, &label)?;
        Ok(Self {
            label,
            pins: config.host_key_pins.clone(),
            known,
            first_file: config.known_hosts.first().cloned(),
            algorithms: config.algorithms,
        })
    }

    /// `Ok` with the fingerprint that was trusted. `now` in seconds since 1970 bounds certificates.
    pub fn decide(&self, presented: &PublicKeyOrCertificate, now: u64) -> Result<String, Box<Refusal>> {
        let key = presented.public_key();
        let fingerprint = fingerprint(&key);
        let refuse = |reason, expected, notes: Vec<String>| {
            Err(Box::new(Refusal {
                reason,
                algorithm: key.algorithm().as_str().to_owned(),
                fingerprint: fingerprint.clone(),
                expected,
                known_hosts_line: format!("{} {}", self.label.name, key_text(&key)),
                known_hosts_file: self.first_file.clone(),
                notes,
            }))
        };
        let place = |entry: &super::known_hosts::Entry| Expected {
            fingerprint: self::fingerprint(&entry.key),
            algorithm: entry.key.algorithm().as_str().to_owned(),
            place: Some((entry.file.as_ref().clone(), entry.line)),
        };
        // A revocation outweighs a pin: the pin may be older than the theft.
        let authority = presented.certificate().map(|c| PublicKey::new(c.signature_key().clone(), ""));
        for candidate in [Some(&key), authority.as_ref()].into_iter().flatten() {
            if let Some(entry) = self.known.revoked(candidate) {
                return refuse(RefusalReason::Revoked, vec![place(entry)], Vec::new());
            }
        }
        if !self.pins.is_empty() {
            if self.pins.contains(&fingerprint) {
                return Ok(fingerprint);
            }
            let pins = self.pins.iter().map(|pin| Expected { fingerprint: pin.clone(), algorithm: String::new(), place: None });
            return refuse(RefusalReason::Changed, pins.collect(), Vec::new());
        }
        let mut notes = Vec::new();
        if let Some(certificate) = presented.certificate() {
            match self.certificate_counts(certificate, now) {
                Ok(()) => return Ok(fingerprint),
                Err(why) => notes.push(format!("its host certificate does not count: {why}")),
            }
        }
        // The exchange was signed with this very key, so a plain entry for it is as good as without the certificate.
        if self.known.keys().any(|entry| entry.key.key_data() == key.key_data()) {
            return Ok(fingerprint);
        }
        notes.extend(self.known.notes.iter().take(3).cloned());
        // OpenSSH, too, takes a key under the bare name for proof when it fits and for nothing when it does not.
        let expected: Vec<_> = self.known.keys().filter(|entry| !entry.without_port).map(place).collect();
        let reason = if expected.is_empty() { RefusalReason::Unknown } else { RefusalReason::Changed };
        refuse(reason, expected, notes)
    }

    fn certificate_counts(&self, certificate: &Certificate, now: u64) -> Result<(), String> {
        let authorities: Vec<_> = self.known.authorities().map(|entry| entry.key.fingerprint(HashAlg::Sha256)).collect();
        let signer = certificate.signature_key().fingerprint(HashAlg::Sha256);
        if !authorities.contains(&signer) {
            return Err(format!("its authority {signer} is not trusted for this host"));
        }
        if certificate.cert_type() != CertType::Host {
            return Err("it is a user's certificate".to_owned());
        }
        if matches!(certificate.signature().algorithm(), Algorithm::Rsa { hash: None }) && self.algorithms == Algorithms::Modern {
            return Err("it is signed with SHA-1".to_owned());
        }
        if certificate.critical_options().iter().next().is_some() {
            return Err("it holds conditions that only users' certificates have".to_owned());
        }
        if !(certificate.valid_after()..certificate.valid_before()).contains(&now) {
            return Err("it is not valid at this time".to_owned());
        }
        // A certificate that names nobody would stand for every host of its authority.
        let host = self.label.principal();
        if !certificate.valid_principals().iter().any(|name| name.eq_ignore_ascii_case(host)) {
            let names: Vec<_> = certificate.valid_principals().iter().take(5).map(|name| escape_name(name)).collect();
            return Err(format!("it is for {}, not for {host}", if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }));
        }
        certificate.validate_at(now, authorities.iter()).map_err(|_| "its signature is wrong".to_owned())
    }

    /// Host key algorithms in the order to offer them: those for which a key is on record first, so that a server
    /// with several keys presents the one we can compare. `skip` holds types that a pin has already ruled out.
    pub fn host_key_algorithms(&self, skip: &[String]) -> (Vec<Algorithm>, Vec<Algorithm>) {
        let all = host_key_order(self.algorithms);
        let on_record = |algorithm: &Algorithm| self.known.keys().any(|entry| same_type(&entry.key.algorithm(), algorithm));
        let (mut first, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(on_record);
        first.extend(rest);
        // Offering certificates makes a server present one; without an authority that would only hide its plain key.
        let certificates =
            if self.pins.is_empty() && self.known.authorities().next().is_some() { host_key_order(self.algorithms) } else { Vec::new() };
        first.retain(|algorithm| !skip.iter().any(|name| same_type(algorithm, &Algorithm::new(name).unwrap_or(Algorithm::Dsa))));
        (first, certificates)
    }

    /// Pins have no algorithm, so a server with several keys may have to be asked for each.
    pub fn may_ask_for_another_key(&self) -> bool {
        !self.pins.is_empty()
    }
}

fn same_type(a: &Algorithm, b: &Algorithm) -> bool {
    matches!((a, b), (Algorithm::Rsa { .. }, Algorithm::Rsa { .. })) || a == b
}

fn host_key_order(algorithms: Algorithms) -> Vec<Algorithm> {
    let mut order = vec![
        Algorithm::Ed25519,
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
        Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
        Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
    ];
    if algorithms == Algorithms::Legacy {
        order.push(Algorithm::Rsa { hash: None });
    }
    order
}

/// Everything we offer in the key exchange. AES-GCM first: it is the fastest by far, and russh does not offer
/// aes128-gcm by itself.
pub(super) fn preferred(algorithms: Algorithms, keys: Vec<Algorithm>, certificates: Vec<Algorithm>) -> russh::Preferred {
    use russh::{cipher, compression, kex, mac};
    let mut kex = vec![
        kex::MLKEM768X25519_SHA256,
        kex::CURVE25519,
        kex::CURVE25519_PRE_RFC_8731,
        kex::ECDH_SHA2_NISTP256,
        kex::ECDH_SHA2_NISTP384,
        kex::ECDH_SHA2_NISTP521,
        kex::DH_GEX_SHA256,
        kex::DH_G16_SHA512,
        kex::DH_G18_SHA512,
        kex::DH_G14_SHA256,
    ];
    let mut cipher = vec![
        cipher::AES_128_GCM,
        cipher::AES_256_GCM,
        cipher::CHACHA20_POLY1305,
        cipher::AES_128_CTR,
        cipher::AES_192_CTR,
        cipher::AES_256_CTR,
    ];
    let mut mac = vec![mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM, mac::HMAC_SHA256, mac::HMAC_SHA512];
    if algorithms == Algorithms::Legacy {
        kex.extend([kex::DH_GEX_SHA1, kex::DH_G14_SHA1, kex::DH_G1_SHA1]);
        cipher.extend([cipher::AES_128_CBC, cipher::AES_192_CBC, cipher::AES_256_CBC]);
        mac.extend([mac::HMAC_SHA1_ETM, mac::HMAC_SHA1]);
    }
    kex.extend([kex::EXTENSION_SUPPORT_AS_CLIENT, kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT]);
    russh::Preferred {
        kex: Cow::Owned(kex),
        key: Cow::Owned(keys),
        host_key_certificates: Cow::Owned(certificates),
        cipher: Cow::Owned(cipher),
        mac: Cow::Owned(mac),
        // Compressed input from a stranger is a risk, and files that matter are compressed already.
        compression: Cow::Borrowed(&[compression::NONE]),
    }
}

/// What a negotiated set holds that is no longer thought safe, for the receipt.
pub(super) fn legacy_notes(names: &russh::Names) -> Vec<String> {
    let used = [names.kex.as_ref(), names.key.as_str(), names.cipher.as_ref(), names.client_mac.as_ref(), names.server_mac.as_ref()];
    let mut notes: Vec<String> = Vec::new();
    for name in used {
        let old = name.ends_with("-sha1") || name.contains("hmac-sha1") || name == "ssh-rsa" || name.ends_with("-cbc");
        let note = format!("legacy SSH algorithm in use: {name}");
        if old && !notes.contains(&note) {
            notes.push(note);
        }
    }
    notes
}

pub(super) fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

fn key_text(key: &PublicKey) -> String {
    let mut key = key.clone();
    key.set_comment("");
    key.to_openssh().map(|text| text.trim().to_owned()).unwrap_or_default()
}
