//! What must hold after every strike and at the end, looked at without trusting anything that the program said.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use model::FileState;
use store::{FileQuery, Store, TransferQuery};
use testkit::s3::Content;

use crate::stage::Stage;

/// Pure-FTPd writes some uploads under a name of its own first, which nobody removes when its session is killed.
const SERVERS_OWN: &str = ".pureftpd-upload.";

/// Compares whole files, each one once as long as it is not touched.
#[derive(Debug, Default)]
pub struct Eye {
    known: HashMap<(u64, i64, i64, u64), Which>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    New,
    Old,
    Neither,
}

impl Eye {
    /// I1, I2 and the temporary names. Returns how many of the latter there are.
    pub fn look(&mut self, stage: &Stage, at_the_end: bool, violations: &mut Vec<String>) -> usize {
        let mut found = BTreeMap::new();
        walk(&stage.directory, "", &mut found);
        violations.extend(stage.seen.lock().unwrap().drain(..).map(|trouble| format!("I1/I2 watcher: {trouble}")));
        let mut temporary = 0;
        for file in &stage.collection.files {
            let path = stage.directory.join(&file.name);
            let there = match found.remove(&file.name) {
                // It may have come while we walked.
                None if path.exists() => Some(self.which(&path, &file.content, &file.old)),
                None => None,
                Some(()) => Some(self.which(&path, &file.content, &file.old)),
            };
            let fine = match there {
                Some(Which::New) => true,
                Some(Which::Old) => stage.replace && !at_the_end,
                Some(Which::Neither) => false,
                None => !stage.replace && !at_the_end,
            };
            if !fine {
                let size = path.metadata().map(|m| m.len());
                violations.push(format!("I1/I2: {} is {there:?} ({size:?} of {})", file.name, file.content.len()));
            }
        }
        for name in found.keys() {
            let last = name.rsplit('/').next().unwrap_or(name);
            if last.starts_with(".ff-") && last.ends_with(".part") {
                temporary += 1;
                if at_the_end {
                    violations.push(format!("I5: {name} is left"));
                }
            } else if !last.starts_with(SERVERS_OWN) {
                violations.push(format!("I5: an unknown name {name}"));
            }
        }
        temporary
    }

    fn which(&mut self, path: &Path, new: &Content, old: &Content) -> Which {
        let Ok(meta) = path.metadata() else { return Which::Neither };
        let key = (meta.ino(), meta.ctime(), meta.ctime_nsec(), meta.len());
        let size = meta.len();
        *self.known.entry(key).or_insert_with(|| match size {
            _ if size == new.len() && same(path, new) => Which::New,
            _ if size == old.len() && same(path, old) => Which::Old,
            _ => Which::Neither,
        })
    }
}

fn same(path: &Path, content: &Content) -> bool {
    let Ok(mut file) = File::open(path) else { return false };
    let mut same = true;
    let mut buffer = vec![0; 1 << 20];
    content.for_each_block(|block| {
        let buffer = &mut buffer[..block.len()];
        same = same && file.read_exact(buffer).is_ok() && *buffer == *block;
    });
    same && matches!(file.read(&mut [0]), Ok(0))
}

fn walk(directory: &Path, before: &str, found: &mut BTreeMap<String, ()>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = format!("{before}{}", entry.file_name().to_string_lossy());
        // A name that goes while we look is not there.
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&entry.path(), &format!("{name}/"), found),
            Ok(_) => drop(found.insert(name, ())),
            Err(_) => {}
        }
    }
}

/// The records: every file delivered exactly once, with a receipt that verifies and tells the truth.
pub async fn receipts(stage: &Stage, violations: &mut Vec<String>) -> anyhow::Result<()> {
    let store = Store::open(stage.database()).await?;
    let mut delivered: HashMap<String, u32> = HashMap::new();
    for transfer in store.transfers(TransferQuery::default()).await? {
        for file in store.files(&transfer.id, FileQuery::default()).await? {
            match file.state {
                FileState::Delivered | FileState::Unchanged => {}
                other => violations.push(format!("record: {} is {other}", file.path)),
            }
            if let Some(line) = &file.receipt {
                let name = check_line(stage, line, violations);
                *delivered.entry(name).or_default() += 1;
            }
        }
        if !transfer.state.is_terminal() {
            violations.push(format!("I7: transfer {} is {}", transfer.id, transfer.state));
        }
    }
    if !store.leases().await?.is_empty() {
        violations.push("a lease is still held".to_owned());
    }
    store.integrity_check().await?;
    store.close().await?;
    for file in &stage.collection.files {
        let count = delivered.get(&file.name).copied().unwrap_or(0);
        if count != 1 {
            violations.push(format!("receipts: {} has {count}", file.name));
        }
    }
    // The file of receipts may miss what a killed process did not write any more; it never has one twice.
    let mut printed: HashMap<String, u32> = HashMap::new();
    let text = std::fs::read_to_string(stage.receipts())?;
    for line in text.lines() {
        let name = check_line(stage, line, violations);
        *printed.entry(name).or_default() += 1;
    }
    violations.extend(printed.iter().filter(|(_, n)| **n > 1).map(|(name, n)| format!("receipt file: {name} is there {n} times")));
    Ok(())
}

fn check_line(stage: &Stage, line: &str, violations: &mut Vec<String>) -> String {
    let receipt = match model::receipt::verify_line(line) {
        Ok(verified) => verified.receipt,
        Err(error) => {
            violations.push(format!("receipt: {error}: {line}"));
            return String::new();
        }
    };
    let key = receipt.source.key.to_string();
    let name = key.strip_prefix(stage.collection.prefix.as_str()).unwrap_or(&key).to_owned();
    let Some(file) = stage.collection.files.iter().find(|f| f.name == name) else {
        violations.push(format!("receipt: of an unknown key {key}"));
        return name;
    };
    if receipt.sha256.as_deref() != Some(&file.sha256) || receipt.size != file.content.len() {
        violations.push(format!("receipt: {name} says {:?} and {} bytes", receipt.sha256, receipt.size));
    }
    if receipt.status != FileState::Delivered {
        violations.push(format!("receipt: {name} is {}", receipt.status));
    }
    name
}
