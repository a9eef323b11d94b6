//! The file of the keys that seal the service's secrets: a key a line in base64, the first one seals, all of them open.
//! Mode 0600, made at the first start.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use app::secrets::{KEY_BYTES, SealingKey};
use data_encoding::BASE64;
use zeroize::Zeroizing;

use crate::keys::KeyError;

/// In the data directory, unless another place is named.
pub const FILE: &str = "secret-key";
/// Old keys are dropped after a change of keys; more than a few are another file.
const LONGEST_FILE: u64 = 1024;

type Bytes = Zeroizing<[u8; KEY_BYTES]>;

/// The keys, the sealing one first; makes the file where it is missing.
pub fn load_or_create(path: &Path) -> Result<Vec<SealingKey>, KeyError> {
    let keys = match read(path)? {
        Some(keys) => keys,
        None => {
            let key = fresh(path)?;
            write(path, std::slice::from_ref(&key))?;
            vec![key]
        }
    };
    Ok(keys.iter().map(|key| SealingKey::new(key)).collect())
}

/// A change of keys in progress: the new key is on disk beside the old ones, which still open.
#[derive(Debug)]
pub struct Change<'a> {
    path: &'a Path,
    new: Bytes,
}

/// Puts a new key before the old ones. A crash after this leaves a file that opens everything.
pub fn begin_change(path: &Path) -> Result<Change<'_>, KeyError> {
    let mut keys = read(path)?.ok_or_else(|| fail(path, "is gone"))?;
    let new = fresh(path)?;
    keys.insert(0, new.clone());
    write(path, &keys)?;
    Ok(Change { path, new })
}

impl Change<'_> {
    pub fn key(&self) -> SealingKey {
        SealingKey::new(&self.new)
    }

    /// Everything is sealed under the new key: the old ones are dropped.
    pub fn finish(self) -> Result<(), KeyError> {
        write(self.path, std::slice::from_ref(&self.new))
    }
}

fn fail(path: &Path, message: impl ToString) -> KeyError {
    KeyError { path: path.to_owned(), message: message.to_string() }
}

fn fresh(path: &Path) -> Result<Bytes, KeyError> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    aws_lc_rs::rand::fill(&mut key[..]).map_err(|_| fail(path, "the system gives no random numbers"))?;
    Ok(key)
}

fn read(path: &Path) -> Result<Option<Vec<Bytes>>, KeyError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fail(path, format!("cannot be read: {e}"))),
    };
    let metadata = file.metadata().map_err(|e| fail(path, e))?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(fail(
            path,
            format!("the key of the secrets may be read by others (mode {mode:04o}); run `chmod 600`, then `fileferry secret rekey`"),
        ));
    }
    if metadata.len() > LONGEST_FILE {
        return Err(fail(path, "is too large for a file of keys"));
    }
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text).map_err(|e| fail(path, format!("cannot be read: {e}")))?;
    let key =
        |line: &str| BASE64.decode(line.as_bytes()).ok().and_then(|bytes| Some(Zeroizing::new(<[u8; KEY_BYTES]>::try_from(bytes).ok()?)));
    let keys: Option<Vec<Bytes>> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(key).collect();
    match keys.filter(|keys| !keys.is_empty()) {
        Some(keys) => Ok(Some(keys)),
        None => Err(fail(path, format!("holds something else than keys of {KEY_BYTES} bytes in base64, one a line"))),
    }
}

/// Whole or not at all, and on disk before it has its name.
fn write(path: &Path, keys: &[Bytes]) -> Result<(), KeyError> {
    let text = Zeroizing::new(keys.iter().map(|key| BASE64.encode(&key[..]) + "\n").collect::<String>());
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|e| {
        let _ = std::fs::remove_file(&beside);
        fail(path, format!("cannot be written: {e}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_made_once_and_survives_a_change_that_was_cut_short() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let shown = |keys: &[SealingKey]| keys.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>();
        let first = shown(&load_or_create(&path).unwrap());
        assert_eq!(shown(&load_or_create(&path).unwrap()), first);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let change = begin_change(&path).unwrap();
        let both = shown(&load_or_create(&path).unwrap());
        assert_eq!(both, [format!("{:?}", change.key()), first[0].clone()], "a crash here loses nothing");
        change.finish().unwrap();
        assert_eq!(shown(&load_or_create(&path).unwrap()), both[..1]);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing half-made is left");
    }

    #[test]
    fn a_key_file_that_others_can_read_or_that_holds_something_else_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        load_or_create(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(load_or_create(&path).unwrap_err().to_string().contains("chmod 600"));
        std::fs::write(&path, "hunter2\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let error = load_or_create(&path).unwrap_err().to_string();
        assert!(error.contains("base64") && !error.contains("hunter2"), "{error}");
    }
}
