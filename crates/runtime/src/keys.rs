//! The key that signs this machine's receipts, and the keys it trusts: `state/receipt-key` (a 32-byte seed,
//! mode 0600), older ones as `receipt-key.1` and on, `state/trusted-receipt-keys` with a fingerprint a line.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use app::tasks::SessionKey;
use data_encoding::BASE64;
use model::receipt::SigningKey;

const KEY: &str = "receipt-key";
const SESSION_KEY: &str = "session-key";
const TRUST: &str = "trusted-receipt-keys";
const SEED_BYTES: usize = 32;
/// A trust file is written by people; anything larger is another file.
const MAX_TRUST_BYTES: u64 = 1 << 20;
/// Old keys kept; rotating more often than this is a script gone wrong.
const MAX_ROTATIONS: u32 = 10_000;

#[derive(Debug)]
pub struct KeyError {
    pub path: PathBuf,
    pub message: String,
}

impl std::fmt::Display for KeyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.message)
    }
}

impl std::error::Error for KeyError {}

fn fail(path: &Path, message: impl ToString) -> KeyError {
    KeyError { path: path.to_owned(), message: message.to_string() }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKey {
    pub fingerprint: String,
    pub comment: String,
}

#[derive(Debug)]
pub struct Rotated {
    pub old: Option<String>,
    pub new: SigningKey,
}

/// The signing key; made at the first call, exactly once even when two processes start together.
pub fn load_or_create(state: &Path) -> Result<SigningKey, KeyError> {
    let seed = seed_or_create(state, KEY)?;
    SigningKey::from_seed(&seed).map_err(|e| fail(&state.join(KEY), e))
}

/// What the sessions of this machine's service are made with.
pub(crate) fn session_key(state: &Path) -> Result<SessionKey, KeyError> {
    seed_or_create(state, SESSION_KEY).map(|seed| SessionKey::new(&seed))
}

fn seed_or_create(state: &Path, name: &str) -> Result<[u8; SEED_BYTES], KeyError> {
    let path = state.join(name);
    if let Some(seed) = load_seed(&path)? {
        return Ok(seed);
    }
    let fresh = write_fresh(state)?;
    // A link takes the name only if it is free, so the first of two processes wins and both use its key.
    let linked = std::fs::hard_link(&fresh, &path);
    let _ = std::fs::remove_file(&fresh);
    match linked {
        Ok(()) => sync_directory(state)?,
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        Err(e) => return Err(fail(&path, format!("cannot be created: {e}"))),
    }
    load_seed(&path)?.ok_or_else(|| fail(&path, "vanished right after it was created"))
}

/// The signing key if there is one.
pub fn current(state: &Path) -> Result<Option<SigningKey>, KeyError> {
    load(&state.join(KEY))
}

/// Makes a new signing key. The old one is kept, and its receipts stay trusted.
pub fn rotate(state: &Path) -> Result<Rotated, KeyError> {
    let path = state.join(KEY);
    create_directory(state)?;
    let _lock = lock(state)?;
    let old = load(&path)?;
    if let Some(old) = &old {
        let mut number = 1;
        loop {
            let kept = state.join(format!("{KEY}.{number}"));
            match std::fs::hard_link(&path, &kept) {
                Ok(()) => break,
                Err(e) if e.kind() == ErrorKind::AlreadyExists && number < MAX_ROTATIONS => number += 1,
                Err(e) => return Err(fail(&kept, format!("the old key cannot be kept: {e}"))),
            }
        }
        // Trusted before it is replaced: a crash in between leaves a key that is trusted twice, never one that is not.
        append_trust(state, &old.fingerprint(), "rotated on this machine")?;
    }
    let fresh = write_fresh(state)?;
    std::fs::rename(&fresh, &path).map_err(|e| fail(&path, format!("cannot be replaced: {e}")))?;
    sync_directory(state)?;
    let new = load(&path)?.ok_or_else(|| fail(&path, "vanished right after it was written"))?;
    Ok(Rotated { old: old.map(|key| key.fingerprint()), new })
}

/// Adds a key to the trust file, once.
pub fn trust(state: &Path, fingerprint: &str, comment: &str) -> Result<(), KeyError> {
    create_directory(state)?;
    let _lock = lock(state)?;
    append_trust(state, fingerprint, comment)
}

/// The trust file's keys, and this machine's own key first.
pub fn trusted(state: &Path) -> Result<Vec<TrustedKey>, KeyError> {
    let own = current(state)?.map(|key| TrustedKey { fingerprint: key.fingerprint(), comment: "this machine".to_owned() });
    let mut keys: Vec<TrustedKey> = own.into_iter().collect();
    let path = state.join(TRUST);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(keys),
        Err(e) => return Err(fail(&path, format!("cannot be read: {e}"))),
    };
    let metadata = file.metadata().map_err(|e| fail(&path, e))?;
    if metadata.mode() & 0o022 != 0 {
        return Err(fail(&path, "others may write to it, so it proves nothing; run `chmod 600` on it after reading it through"));
    }
    if metadata.len() > MAX_TRUST_BYTES {
        return Err(fail(&path, "is too large for a trust file"));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(|e| fail(&path, format!("cannot be read: {e}")))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    keys.extend(lines.map(|line| {
        let (fingerprint, comment) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        TrustedKey { fingerprint: fingerprint.to_owned(), comment: comment.trim().to_owned() }
    }));
    Ok(keys)
}

pub fn is_trusted(state: &Path, fingerprint: &str) -> Result<bool, KeyError> {
    Ok(trusted(state)?.iter().any(|key| key.fingerprint == fingerprint))
}

/// The public key as it is handed to partners.
pub fn public_text(key: &SigningKey) -> String {
    BASE64.encode(key.public_key())
}

fn load(path: &Path) -> Result<Option<SigningKey>, KeyError> {
    let seed = load_seed(path)?;
    seed.map(|seed| SigningKey::from_seed(&seed).map_err(|e| fail(path, e))).transpose()
}

fn load_seed(path: &Path) -> Result<Option<[u8; SEED_BYTES]>, KeyError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fail(path, format!("cannot be read: {e}"))),
    };
    let metadata = file.metadata().map_err(|e| fail(path, e))?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(fail(path, format!("the key may be read by others (mode {mode:04o}); run `chmod 600`, and rotate it")));
    }
    if metadata.len() != SEED_BYTES as u64 {
        return Err(fail(path, format!("a key has {SEED_BYTES} bytes, this has {}", metadata.len())));
    }
    let mut seed = [0; SEED_BYTES];
    file.read_exact(&mut seed).map_err(|e| fail(path, format!("cannot be read: {e}")))?;
    Ok(Some(seed))
}

/// A new seed under a name of its own, on disk before it gets the real one.
fn write_fresh(state: &Path) -> Result<PathBuf, KeyError> {
    create_directory(state)?;
    let mut random = [0; SEED_BYTES + 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| fail(state, "the system gives no random numbers"))?;
    let (seed, name) = random.split_at(SEED_BYTES);
    let path = state.join(format!("{KEY}.new-{}", data_encoding::HEXLOWER.encode(name)));
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(seed)?;
        file.sync_all()
    };
    write().map_err(|e| {
        let _ = std::fs::remove_file(&path);
        fail(&path, format!("cannot be written: {e}"))
    })?;
    Ok(path)
}

fn append_trust(state: &Path, fingerprint: &str, comment: &str) -> Result<(), KeyError> {
    if is_listed(state, fingerprint)? {
        return Ok(());
    }
    let path = state.join(TRUST);
    // One line whatever the comment holds.
    let comment: String = comment.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = format!("{fingerprint} {}\n", comment.trim());
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        file.write_all(line.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|e| fail(&path, format!("cannot be written: {e}")))
}

/// In the trust file itself; the own key is trusted without a line.
fn is_listed(state: &Path, fingerprint: &str) -> Result<bool, KeyError> {
    let own = current(state)?.map(|key| key.fingerprint());
    let listed = trusted(state)?.iter().filter(|key| key.fingerprint == fingerprint).count();
    Ok(listed > usize::from(own.as_deref() == Some(fingerprint)))
}

fn lock(state: &Path) -> Result<File, KeyError> {
    let path = state.join("receipt-key.lock");
    let open = || -> std::io::Result<File> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        file.lock()?;
        Ok(file)
    };
    open().map_err(|e| fail(&path, format!("cannot be locked: {e}")))
}

fn create_directory(state: &Path) -> Result<(), KeyError> {
    DirBuilder::new().recursive(true).mode(0o700).create(state).map_err(|e| fail(state, format!("cannot be created: {e}")))
}

fn sync_directory(state: &Path) -> Result<(), KeyError> {
    File::open(state).and_then(|directory| directory.sync_all()).map_err(|e| fail(state, format!("cannot be synced: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// A directory of its own that is removed at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("fileferry-keys-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_key_is_made_once_and_only_its_owner_may_read_it() {
        let state = Scratch::new("once");
        let first = load_or_create(&state.0).unwrap().fingerprint();
        assert_eq!(load_or_create(&state.0).unwrap().fingerprint(), first);
        assert_eq!(std::fs::metadata(state.0.join(KEY)).unwrap().mode() & 0o777, 0o600);
        assert!(is_trusted(&state.0, &first).unwrap(), "the own key needs no line");
        let names: Vec<_> = std::fs::read_dir(&state.0).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, [KEY], "nothing half-made is left");
    }

    #[test]
    fn processes_that_start_together_use_one_key() {
        let state = Scratch::new("race");
        let fingerprints: std::collections::BTreeSet<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(|| load_or_create(&state.0).unwrap().fingerprint())).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(fingerprints.len(), 1);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let state = Scratch::new("open");
        load_or_create(&state.0).unwrap();
        std::fs::set_permissions(state.0.join(KEY), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(load_or_create(&state.0).unwrap_err().to_string().contains("chmod 600"));
    }

    #[test]
    fn receipts_of_a_rotated_key_stay_trusted() {
        let state = Scratch::new("rotate");
        let first = load_or_create(&state.0).unwrap().fingerprint();
        let rotated = rotate(&state.0).unwrap();
        assert_eq!(rotated.old.as_deref(), Some(first.as_str()));
        assert_ne!(rotated.new.fingerprint(), first);
        let second = rotate(&state.0).unwrap();
        for fingerprint in [&first, &rotated.new.fingerprint(), &second.new.fingerprint()] {
            assert!(is_trusted(&state.0, fingerprint).unwrap());
        }
        assert!(state.0.join("receipt-key.1").exists() && state.0.join("receipt-key.2").exists());
    }

    #[test]
    fn a_trusted_key_is_listed_once_and_a_comment_cannot_add_a_line() {
        let state = Scratch::new("trust");
        for _ in 0..2 {
            trust(&state.0, "SHA256:abc", "partner\nSHA256:evil").unwrap();
        }
        assert!(is_trusted(&state.0, "SHA256:abc").unwrap());
        assert!(!is_trusted(&state.0, "SHA256:evil").unwrap());
        assert_eq!(trusted(&state.0).unwrap().len(), 1);
        std::fs::set_permissions(state.0.join(TRUST), std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(trusted(&state.0).is_err(), "others may write to it");
    }
}
