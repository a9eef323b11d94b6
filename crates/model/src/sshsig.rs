//! Detached signatures in OpenSSH's form (PROTOCOL.sshsig), so that anybody with `ssh-keygen -Y verify` can check them.

use data_encoding::BASE64;

use crate::receipt::SigningKey;

/// What our signatures are for; `ssh-keygen -Y verify -n` must name the same.
pub const NAMESPACE: &str = "file";
/// The name under which the key stands in a file of allowed signers.
pub const SIGNER: &str = "fileferry";

const MAGIC: &[u8] = b"SSHSIG";
const KEY_TYPE: &[u8] = b"ssh-ed25519";
const HASH: &[u8] = b"sha512";
/// Characters in a line of the armour, as ssh-keygen writes it.
const LINE: usize = 70;

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn key_blob(key: &SigningKey) -> Vec<u8> {
    let mut blob = Vec::new();
    string(&mut blob, KEY_TYPE);
    string(&mut blob, key.public_key());
    blob
}

/// The line that a partner keeps: who may sign, for what, with which key.
pub fn allowed_signer(key: &SigningKey) -> String {
    format!("{SIGNER} namespaces=\"{NAMESPACE}\" ssh-ed25519 {}\n", BASE64.encode(&key_blob(key)))
}

/// The armoured signature over a whole message.
pub fn sign(key: &SigningKey, message: &[u8]) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, message);
    let mut signed = MAGIC.to_vec();
    for part in [NAMESPACE.as_bytes(), b"", HASH, hash.as_ref()] {
        string(&mut signed, part);
    }
    let mut signature = Vec::new();
    string(&mut signature, KEY_TYPE);
    string(&mut signature, &key.sign_bytes(&signed));

    let mut blob = MAGIC.to_vec();
    blob.extend_from_slice(&1u32.to_be_bytes());
    for part in [&key_blob(key)[..], NAMESPACE.as_bytes(), b"", HASH, &signature] {
        string(&mut blob, part);
    }
    let text = BASE64.encode(&blob);
    let mut armour = "-----BEGIN SSH SIGNATURE-----\n".to_owned();
    for line in text.as_bytes().chunks(LINE) {
        armour.extend(line.iter().map(|byte| char::from(*byte)));
        armour.push('\n');
    }
    armour + "-----END SSH SIGNATURE-----\n"
}
