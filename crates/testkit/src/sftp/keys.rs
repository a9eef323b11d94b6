//! Host and client keys of the sandbox: made once, in a directory that may outlive the server.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use russh::keys::PrivateKey;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};

/// Bytes from the operating system.
pub(crate) fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Reads the key at `path`, or makes a new Ed25519 key there (0600) with its `.pub` beside it.
pub(crate) fn key_at(path: &Path, comment: &str) -> anyhow::Result<PrivateKey> {
    if path.exists() {
        return PrivateKey::read_openssh_file(path).with_context(|| format!("read the key {}", path.display()));
    }
    let key = PrivateKey::new(KeypairData::Ed25519(Ed25519Keypair::from_seed(&random()?)), comment)?;
    let text = key.to_openssh(LineEnding::LF)?;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    let public = path.with_extension("pub");
    std::fs::write(public, key.public_key().to_openssh()? + "\n")?;
    Ok(key)
}
