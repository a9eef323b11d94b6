//! rclone's obscured passwords: AES-256-CTR under a key that everybody knows, so that nobody reads them over a shoulder.
//! base64url without padding; the first 16 bytes are the initialisation vector.

use aws_lc_rs::cipher::{AES_256, DecryptingKey, DecryptionContext, UnboundCipherKey};
use data_encoding::BASE64URL_NOPAD;
use model::Credential;
use zeroize::Zeroizing;

/// Public, the same in every rclone (`fs/config/obscure`).
const KEY: [u8; 32] = [
    0x9c, 0x93, 0x5b, 0x48, 0x73, 0x0a, 0x55, 0x4d, 0x6b, 0xfd, 0x7c, 0x63, 0xc8, 0x86, 0xa9, 0x2b, 0xd3, 0x90, 0x19, 0x8e, 0xb8, 0x12,
    0x8a, 0xfb, 0xf4, 0xde, 0x16, 0x2b, 0x8b, 0x95, 0xf6, 0x38,
];
const VECTOR: usize = 16;
const WRONG: &str = "it is not obscured as rclone does it; `rclone config` or `rclone obscure` writes it so";

/// The password behind an obscured one; the error does not repeat it.
pub fn reveal(text: &str) -> Result<Credential, &'static str> {
    let bytes = BASE64URL_NOPAD.decode(text.trim().trim_end_matches('=').as_bytes()).map_err(|_| WRONG)?;
    let (vector, sealed) = bytes.split_at_checked(VECTOR).ok_or(WRONG)?;
    let vector: [u8; VECTOR] = vector.try_into().map_err(|_| WRONG)?;
    let key = UnboundCipherKey::new(&AES_256, &KEY).and_then(DecryptingKey::ctr).map_err(|_| WRONG)?;
    let mut open = Zeroizing::new(sealed.to_vec());
    key.decrypt(&mut open, DecryptionContext::Iv128(vector.into())).map_err(|_| WRONG)?;
    // What was not obscured becomes noise.
    std::str::from_utf8(&open).map(Credential::new).map_err(|_| WRONG)
}
