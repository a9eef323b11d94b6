//! Receipts: what was delivered, how it was proved, and a signature over exactly those bytes.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use data_encoding::{BASE64, BASE64_NOPAD};
use serde::{Deserialize, Serialize};

use crate::{FileNumber, FileState, Grade, ObjectKey, Protocol, Publish, RemotePath, TransferId};

/// The proof of one delivery, one JSON line. Field order is the order on the line; `signature` comes last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    pub v: u32,
    /// `file`, or `companion` for what goes with files: in `--json` output the line is the receipt.
    #[serde(rename = "type")]
    pub kind: String,
    pub transfer_id: TransferId,
    pub run: u32,
    pub file: FileNumber,
    pub status: FileState,
    pub source: ReceiptSource,
    pub destination: ReceiptDestination,
    pub size: u64,
    pub crc64nvme: String,
    pub sha256: Option<String>,
    pub md5: Option<String>,
    pub verification: Verification,
    pub published: Published,
    /// File bytes handed to the destination in all attempts of this run, repeats included.
    pub bytes_sent: u64,
    /// File bytes that an earlier run had delivered and this one did not send again.
    pub bytes_resumed: u64,
    pub attempts: u32,
    pub epochs: u32,
    pub connections: u32,
    pub started_at: jiff::Timestamp,
    pub finished_at: jiff::Timestamp,
    pub notes: Vec<String>,
    pub program: String,
    /// Fingerprint of the key that signed this line.
    pub signed_by: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReceiptSource {
    pub store: String,
    pub bucket: String,
    pub key: ObjectKey,
    pub version: Option<String>,
    pub etag: Option<String>,
    pub last_modified: Option<jiff::Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReceiptDestination {
    pub protocol: Protocol,
    pub host: String,
    pub port: u16,
    pub user: Option<String>,
    pub path: RemotePath,
    pub host_key: Option<String>,
    pub server: Option<String>,
}

/// What was compared, and how much of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    pub grade: Grade,
    pub algorithm: Option<String>,
    pub value: Option<String>,
    /// Bytes read back from the destination.
    pub bytes_compared: u64,
    /// For `sampled`: how many blocks those bytes were in.
    pub blocks: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Published {
    pub mode: Publish,
    /// `atomic`, `checked` (looked just before the rename), `replaced`, or the window of an unsafe replacement.
    pub clobber: Clobber,
    /// `synced` when the server confirmed fsync before the rename.
    pub synced: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clobber {
    /// The rename itself refuses an existing name.
    Atomic,
    /// We looked just before the rename; between the two a moment remains.
    Checked,
    /// An existing file was replaced in one step.
    Replaced,
    /// The old file was moved aside first; for this long the name was missing.
    Unsafe { window_ms: u64 },
}

/// A line with its signature checked against its own key.
#[derive(Debug)]
pub struct Verified {
    pub receipt: Receipt,
    pub fingerprint: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    #[error("the line is not a receipt: {0}")]
    NotReceipt(String),
    #[error("the line has no signature")]
    Unsigned,
    #[error("the signature does not fit: the line was changed, or signed by another key than {0}")]
    Broken(String),
    #[error("the signing key is unusable: {0}")]
    Key(String),
}

/// The key that signs this machine's receipts.
pub struct SigningKey {
    pair: Ed25519KeyPair,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.fingerprint())
    }
}

#[derive(Serialize, Deserialize)]
struct Signature {
    algorithm: String,
    public_key: String,
    value: String,
}

impl SigningKey {
    /// `seed` is 32 secret random bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, ReceiptError> {
        Ed25519KeyPair::from_seed_unchecked(seed).map(|pair| Self { pair }).map_err(|e| ReceiptError::Key(e.to_string()))
    }

    pub fn public_key(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    pub fn fingerprint(&self) -> String {
        fingerprint(self.public_key())
    }

    pub(crate) fn sign_bytes(&self, bytes: &[u8]) -> Vec<u8> {
        self.pair.sign(bytes).as_ref().to_vec()
    }

    /// The receipt as one line; the signed bytes are the line without its last member.
    pub fn sign(&self, receipt: &Receipt) -> Result<String, ReceiptError> {
        let mut receipt = receipt.clone();
        receipt.signed_by = self.fingerprint();
        let body = serde_json::to_string(&receipt).map_err(|e| ReceiptError::NotReceipt(e.to_string()))?;
        self.sign_line(&body)
    }

    /// A JSON object with its signature as one member more, the last; signed are exactly the bytes given.
    pub(crate) fn sign_line(&self, body: &str) -> Result<String, ReceiptError> {
        let signature = Signature {
            algorithm: "ed25519".into(),
            public_key: BASE64.encode(self.public_key()),
            value: BASE64.encode(self.pair.sign(body.as_bytes()).as_ref()),
        };
        let signature = serde_json::to_string(&signature).map_err(|e| ReceiptError::NotReceipt(e.to_string()))?;
        Ok(format!("{},\"signature\":{signature}}}", &body[..body.len() - 1]))
    }
}

/// `SHA256:` and the unpadded base64 of the public key's SHA-256, as OpenSSH writes fingerprints.
pub fn fingerprint(public_key: &[u8]) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, public_key);
    format!("SHA256:{}", BASE64_NOPAD.encode(hash.as_ref()))
}

/// Checks that the line is intact and signed by the key it names. Whether that key is trusted is the caller's question.
pub fn verify_line(line: &str) -> Result<Verified, ReceiptError> {
    let opened = open_line(line)?;
    let receipt: Receipt = serde_json::from_str(&opened.body).map_err(|e| ReceiptError::NotReceipt(e.to_string()))?;
    let fits = opened.fits && receipt.signed_by == opened.fingerprint;
    if fits { Ok(Verified { receipt, fingerprint: opened.fingerprint }) } else { Err(ReceiptError::Broken(receipt.signed_by)) }
}

/// A signed line taken apart.
pub(crate) struct Opened {
    /// The object without its signature.
    pub body: String,
    pub fingerprint: String,
    /// The signature is this key's over this body.
    pub fits: bool,
}

pub(crate) fn open_line(line: &str) -> Result<Opened, ReceiptError> {
    const MARK: &str = ",\"signature\":";
    let line = line.trim_end_matches(['\n', '\r']);
    let cut = line.rfind(MARK).ok_or(ReceiptError::Unsigned)?;
    let tail = line[cut + MARK.len()..].strip_suffix('}').ok_or(ReceiptError::Unsigned)?;
    let signature: Signature = serde_json::from_str(tail).map_err(|e| ReceiptError::NotReceipt(e.to_string()))?;
    // The exact text of the last member is checked too, so that no byte of the line can differ.
    let exact = serde_json::to_string(&signature).map_err(|e| ReceiptError::NotReceipt(e.to_string()))?;
    let body = format!("{}}}", &line[..cut]);
    let key = BASE64.decode(signature.public_key.as_bytes()).map_err(|e| ReceiptError::Key(e.to_string()))?;
    let value = BASE64.decode(signature.value.as_bytes()).map_err(|e| ReceiptError::Key(e.to_string()))?;
    let fits =
        exact == tail && signature.algorithm == "ed25519" && UnparsedPublicKey::new(&ED25519, &key).verify(body.as_bytes(), &value).is_ok();
    Ok(Opened { body, fingerprint: fingerprint(&key), fits })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt() -> Receipt {
        Receipt {
            v: 1,
            kind: "file".into(),
            transfer_id: TransferId::from_random([1; 10]),
            run: 1,
            file: FileNumber(0),
            status: FileState::Delivered,
            source: ReceiptSource {
                store: "s3".into(),
                bucket: "b".into(),
                key: ObjectKey::new("k,\"signature\":{").unwrap(),
                version: None,
                etag: Some("\"e\"".into()),
                last_modified: None,
            },
            destination: ReceiptDestination {
                protocol: Protocol::Sftp,
                host: "h".into(),
                port: 22,
                user: Some("u".into()),
                path: RemotePath::from_user("/in/k").unwrap(),
                host_key: Some("SHA256:x".into()),
                server: None,
            },
            size: 3,
            crc64nvme: "0".repeat(16),
            sha256: None,
            md5: None,
            verification: Verification {
                grade: Grade::ReadBack,
                algorithm: Some("crc64nvme".into()),
                value: None,
                bytes_compared: 3,
                blocks: 0,
            },
            published: Published { mode: Publish::Rename, clobber: Clobber::Atomic, synced: true },
            bytes_sent: 3,
            bytes_resumed: 0,
            attempts: 1,
            epochs: 1,
            connections: 1,
            started_at: jiff::Timestamp::UNIX_EPOCH,
            finished_at: jiff::Timestamp::UNIX_EPOCH,
            notes: vec![],
            program: "fileferry 0.1.0".into(),
            signed_by: String::new(),
        }
    }

    #[test]
    fn any_changed_byte_fails() {
        let key = SigningKey::from_seed(&[9; 32]).unwrap();
        let line = key.sign(&receipt()).unwrap();
        assert_eq!(verify_line(&line).unwrap().fingerprint, key.fingerprint());
        for at in 0..line.len() {
            let mut bytes = line.clone().into_bytes();
            bytes[at] ^= 1;
            if let Ok(changed) = String::from_utf8(bytes) {
                assert!(verify_line(&changed).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn a_line_without_signature_is_not_accepted() {
        let body = serde_json::to_string(&receipt()).unwrap();
        assert!(verify_line(&body).is_err());
    }
}
