//! Names, facts and digests of files in the forms that FTP gives them.

use std::fs::Metadata;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use md5::Md5;
use sha2::{Digest, Sha256};

use super::behaviour::Names;
use crate::sftp::{attributes_of, listing_line};

pub(super) fn shown_name(path: &[u8]) -> Arc<str> {
    String::from_utf8_lossy(path).into()
}

/// The path under which the disk has it.
pub(super) fn stored_name(path: &[u8], names: Names) -> Vec<u8> {
    match names {
        Names::Exact => path.to_vec(),
        Names::LowerCase => String::from_utf8_lossy(path).to_lowercase().into_bytes(),
        Names::Trimmed => path.split(|byte| *byte == b'/').map(<[u8]>::trim_ascii).collect::<Vec<_>>().join(&b'/'),
    }
}

/// As PWD and MKD show it: quotation marks doubled.
pub(super) fn quoted(path: &[u8]) -> Vec<u8> {
    let mut quoted = vec![b'"'];
    for byte in path {
        quoted.extend(std::iter::repeat_n(*byte, if *byte == b'"' { 2 } else { 1 }));
    }
    quoted.push(b'"');
    quoted
}

/// `YYYYMMDDHHMMSS` in UTC.
pub(super) fn stamp(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap_or_default();
    time.strftime("%Y%m%d%H%M%S").to_string()
}

/// The facts of MLST and MLSD, up to the space before the name.
pub(super) fn facts(metadata: &Metadata) -> String {
    let kind = if metadata.is_dir() { "dir" } else { "file" };
    let modified = stamp(metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH));
    format!("type={kind};size={};modify={modified};UNIX.mode={:04o};", metadata.len(), metadata.mode() & 0o7777)
}

/// All lines of a listing in the form of this command.
pub(super) fn lines(verb: &str, real: &Path, extra: &[Vec<u8>]) -> io::Result<Vec<u8>> {
    let mut entries: Vec<(Vec<u8>, Metadata)> = Vec::new();
    let metadata = real.metadata()?;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(real)? {
            let entry = entry?;
            // It may have gone meanwhile.
            if let Ok(metadata) = entry.metadata() {
                entries.push((entry.file_name().as_bytes().to_vec(), metadata));
            }
        }
        entries.sort_by(|one, other| one.0.cmp(&other.0));
    } else {
        let name = real.file_name().unwrap_or_default().as_bytes().to_vec();
        entries.push((name, metadata.clone()));
    }
    entries.extend(extra.iter().map(|name| (name.clone(), metadata.clone())));
    let mut lines = Vec::new();
    for (name, metadata) in entries {
        match verb {
            "MLSD" => lines.extend_from_slice(format!("{} ", facts(&metadata)).as_bytes()),
            "LIST" => lines.extend_from_slice(listing_line(b"", &attributes_of(&metadata)).as_bytes()),
            _ => {}
        }
        lines.extend_from_slice(&name);
        lines.extend_from_slice(b"\r\n");
    }
    Ok(lines)
}

/// `SHA-256`, `MD5` or `CRC32` of a whole file, in hex.
pub(super) fn digest(real: &Path, name: &str) -> io::Result<String> {
    let mut file = std::fs::File::open(real)?;
    let (mut sha, mut md5) = (Sha256::new(), Md5::new());
    let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32IsoHdlc);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        let piece = &buffer[..read];
        match name {
            "MD5" => md5.update(piece),
            "CRC32" => crc.update(piece),
            _ => sha.update(piece),
        }
    }
    let hex = &data_encoding::HEXLOWER;
    Ok(match name {
        "MD5" => hex.encode(&md5.finalize()),
        "CRC32" => format!("{:08x}", crc.finalize()),
        _ => hex.encode(&sha.finalize()),
    })
}
