//! The file that `--receipt` names: lines are appended as they come and are on disk before the command ends.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use model::ErrorClass;

use crate::trouble::Trouble;

#[derive(Debug)]
pub struct ReceiptFile {
    path: PathBuf,
    file: File,
    failed: Option<std::io::Error>,
}

impl ReceiptFile {
    /// Before anything is sent, so that a wrong path costs nothing. Receipts name hosts and users: mode 0600.
    pub fn open(path: &Path) -> Result<Self, Trouble> {
        let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        let file = opened.map_err(|e| {
            Trouble::usage(format!("could not open {} for receipts: {e}", path.display()), "name a file that can be written with --receipt")
        })?;
        Ok(Self { path: path.to_owned(), file, failed: None })
    }

    pub fn append(&mut self, line: &str) {
        // One write per line, so that two processes with the same file do not mix theirs.
        if let Err(error) = self.file.write_all(format!("{line}\n").as_bytes()) {
            self.failed.get_or_insert(error);
        }
    }

    pub fn finish(self) -> Result<(), Trouble> {
        let directory = || match self.path.parent().filter(|p| !p.as_os_str().is_empty()) {
            Some(parent) => File::open(parent)?.sync_all(),
            None => File::open(".")?.sync_all(),
        };
        let result = match self.failed {
            Some(error) => Err(error),
            // A pipe or /dev/stdout cannot be synced and does not need to be.
            None if !self.file.metadata().is_ok_and(|m| m.is_file()) => Ok(()),
            None => self.file.sync_all().and_then(|()| directory()),
        };
        result.map_err(|e| {
            let mut trouble =
                Trouble::of_class(ErrorClass::Internal, format!("the receipts in {} are not complete: {e}", self.path.display()));
            trouble.whose_move = "yours".into();
            trouble.next = "the files were delivered; free space here, the receipts are kept in this machine's records too".into();
            trouble
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn lines_are_appended_and_only_the_owner_may_read_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("receipts.jsonl");
        for line in ["{\"a\":1}", "{\"b\":2}"] {
            let mut file = ReceiptFile::open(&path).unwrap();
            file.append(line);
            file.finish().unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"b\":2}\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(ReceiptFile::open(&directory.path().join("no/such")).unwrap_err().exit_code, 1);
    }

    #[test]
    fn a_full_disk_is_said_at_the_end() {
        let mut file = ReceiptFile::open(Path::new("/dev/full")).unwrap();
        file.append("x");
        assert_eq!(file.finish().unwrap_err().exit_code, 2);
    }
}
