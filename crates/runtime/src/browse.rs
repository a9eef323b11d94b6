//! `ls`, `check` and `hash`: looking without changing anything.

use std::collections::BTreeSet;

use app::CopySpec;
use model::{Algorithm, Credential, DigestSet, ErrorClass, Location, ObjectKey, RemotePath};
use tokio::sync::mpsc;
use transfer::digest::{StreamDigests, combine, crc64};
use transfer::source::{ListingOptions, Pin};
use transfer::{Connection, ErrorKind};

use crate::open::{self, Login, SourceSide};
use crate::select::{Chooser, Counts};
use crate::{CheckSummary, Difference, Failure, ListedEntry, Place};

/// Entries read of one remote directory.
const ENTRIES: usize = 1_000_000;
/// Read at once for a digest.
const STEP: u64 = 4 << 20;
/// One read of a remote file.
const BLOCK: usize = 256 << 10;
/// Files of a remote tree compared by `check`; deeper trees are cut there with an error, not silently.
const DEPTH: usize = 64;

/// Lists what a URL names: objects, or the entries of a remote directory.
pub async fn list(place: &Place, url: &str, spec: &CopySpec, recursive: bool, out: mpsc::Sender<ListedEntry>) -> Result<(), Failure> {
    match open::parse(url)? {
        Location::S3 { .. } => list_source(place, url, spec, recursive, out).await,
        Location::File { .. } | Location::Server { .. } => {
            let side = open::destination(url, &spec.server, &spec.options, None, Login::Now, place)?;
            let connection = side.connector.connect().await?;
            let metadata = connection.stat(&side.path).await?;
            match metadata {
                None => return Err(Failure::of(ErrorClass::DestDirMissing, format!("{url} does not exist"))),
                Some(meta) if !meta.directory => {
                    let entry =
                        ListedEntry { name: side.path.name().to_owned(), directory: false, size: meta.size, modified: meta.modified };
                    let _ = out.send(entry).await;
                }
                Some(_) => walk(&*connection, &side.path, recursive, &out).await?,
            }
            connection.close().await?;
            Ok(())
        }
    }
}

async fn list_source(place: &Place, url: &str, spec: &CopySpec, recursive: bool, out: mpsc::Sender<ListedEntry>) -> Result<(), Failure> {
    let side = open::source(url, &spec.s3, &spec.options, place).await?;
    // Without a trailing slash the text may be a key or the beginning of one; both are shown.
    let prefix = side.single.as_ref().map_or(side.prefix.clone(), |key| key.as_str().to_owned());
    let mut pages = side.source.list(ListingOptions { prefix, delimited: !recursive });
    let mut found = false;
    while let Some(page) = pages.next().await? {
        for folder in page.folders {
            found = true;
            let entry = ListedEntry { name: model::escape_name(&folder), directory: true, size: 0, modified: None };
            if out.send(entry).await.is_err() {
                return Ok(());
            }
        }
        for object in page.objects {
            found = true;
            let entry = ListedEntry { name: object.key.to_string(), directory: false, size: object.size, modified: object.modified };
            if out.send(entry).await.is_err() {
                return Ok(());
            }
        }
    }
    if found || side.single.is_none() { Ok(()) } else { Err(Failure::of(ErrorClass::SourceMissing, format!("nothing begins with {url}"))) }
}

/// Sends the entries of a remote directory, below it too when asked; names are relative to it.
async fn walk(connection: &dyn Connection, root: &RemotePath, recursive: bool, out: &mpsc::Sender<ListedEntry>) -> Result<(), Failure> {
    let mut waiting = vec![(root.clone(), String::new(), 0)];
    while let Some((directory, prefix, depth)) = waiting.pop() {
        let mut entries = connection.list(&directory, ENTRIES).await?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in entries {
            let name = format!("{prefix}{}", entry.name);
            if recursive && entry.metadata.directory && entry.exact {
                if depth >= DEPTH {
                    return Err(Failure::of(ErrorClass::DestProtocol, format!("{directory} is more than {DEPTH} directories deep")));
                }
                // A server that lists `..` or a name with a slash must not lead us anywhere.
                if let Ok(below) = directory.join(&entry.name) {
                    waiting.push((below, format!("{name}/"), depth + 1));
                }
                continue;
            }
            let listed = ListedEntry {
                name: model::escape_name(&name) + if entry.metadata.directory { "/" } else { "" },
                directory: entry.metadata.directory,
                size: entry.metadata.size,
                modified: entry.metadata.modified,
            };
            if out.send(listed).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Compares source and destination and changes nothing. Content is compared unless `--verify size` (or weaker) is asked.
pub async fn check(
    place: &Place,
    spec: CopySpec,
    password: Option<Credential>,
    out: mpsc::Sender<Difference>,
) -> Result<CheckSummary, Failure> {
    let destination = open::destination(&spec.destination, &spec.server, &spec.options, password, Login::Now, place)?;
    let source = open::source(&spec.source, &spec.s3, &spec.options, place).await?;
    let naming = open::naming(&spec, &source, &destination, jiff::Timestamp::now())?;
    let chooser = Chooser::new(&spec.options, &source, &naming)?;
    let connection = destination.connector.connect().await?;
    let by_content = !matches!(spec.options.verify, model::Verify::AtLeast(grade) if !grade.satisfies(model::Grade::Sampled));
    let mut summary = CheckSummary::default();
    let mut expected = BTreeSet::new();
    let mut objects = chooser.objects(&source);
    let mut counts = Counts::default();
    while let Some(page) = objects.next(&mut counts).await? {
        for object in page {
            let key = object.key.to_string();
            let path = match naming.path(&object.key, object.version.as_deref()) {
                Ok(path) => path,
                Err(error) => {
                    summary.failed += 1;
                    let _ = out.send(Difference::Failed { key, class: ErrorClass::DestNameInvalid, message: error.to_string() }).await;
                    continue;
                }
            };
            let difference = match compare(&*connection, &source, &Pin::from(object), &path, by_content).await {
                Ok(difference) => difference,
                Err(error) if error.is_connection_lost() => return Err(error.into()),
                Err(error) => Difference::Failed { key, class: error.kind, message: transfer::error::chain(&error) },
            };
            expected.insert(path);
            match &difference {
                Difference::Same { .. } => summary.same += 1,
                Difference::Differs { .. } => summary.differs += 1,
                Difference::MissingAtDestination { .. } => summary.missing += 1,
                Difference::OnlyAtDestination { .. } => summary.only_at_destination += 1,
                Difference::Failed { .. } => summary.failed += 1,
            }
            if out.send(difference).await.is_err() {
                return Ok(summary);
            }
        }
    }
    if naming.exact.is_none() && source.single.is_none() {
        summary.only_at_destination += surplus(&*connection, &naming.root, &expected, &out).await?;
    }
    connection.close().await?;
    Ok(summary)
}

/// Files of the destination that the source does not have.
async fn surplus(
    connection: &dyn Connection,
    root: &RemotePath,
    expected: &BTreeSet<RemotePath>,
    out: &mpsc::Sender<Difference>,
) -> Result<u64, Failure> {
    if connection.stat(root).await?.is_none() {
        return Ok(0);
    }
    let (listed, mut entries) = mpsc::channel(64);
    let walking = async {
        let outcome = walk(connection, root, true, &listed).await;
        drop(listed);
        outcome
    };
    let counting = async {
        let mut surplus = 0;
        while let Some(entry) = entries.recv().await {
            let known = root.join(&entry.name).is_ok_and(|path| expected.contains(&path));
            if !entry.directory && !known {
                surplus += 1;
                let _ = out.send(Difference::OnlyAtDestination { path: format!("{root}/{}", entry.name) }).await;
            }
        }
        surplus
    };
    let (outcome, surplus) = tokio::join!(walking, counting);
    outcome.map(|()| surplus)
}

async fn compare(
    connection: &dyn Connection,
    source: &SourceSide,
    pin: &Pin,
    path: &RemotePath,
    by_content: bool,
) -> transfer::Result<Difference> {
    let key = pin.key.to_string();
    let Some(there) = connection.stat(path).await?.filter(|m| !m.directory) else { return Ok(Difference::MissingAtDestination { key }) };
    if there.size != pin.size {
        return Ok(Difference::Differs { key, how: format!("size {} there, {} here", there.size, pin.size) });
    }
    if !by_content {
        return Ok(Difference::Same { key, how: "size".to_owned() });
    }
    let now = source.source.pin(&pin.key, pin.version.as_deref()).await?;
    let ours = match now.checksum.crc64nvme {
        Some(crc) => crc,
        None => {
            let mut crc = crc64(&[]);
            for at in (0..now.size).step_by(STEP as usize) {
                let data = source.source.read(&now, at..(at + STEP).min(now.size)).await?;
                crc = combine(crc, crc64(&data), data.len() as u64);
            }
            crc
        }
    };
    let file = connection.open_read(path).await?;
    let mut theirs = crc64(&[]);
    let mut at = 0;
    while at < there.size {
        let data = file.read_at(at, BLOCK).await?;
        if data.is_empty() {
            break;
        }
        theirs = combine(theirs, crc64(&data), data.len() as u64);
        at += data.len() as u64;
    }
    file.close().await?;
    Ok(if ours == theirs {
        Difference::Same { key, how: format!("crc64nvme {ours}") }
    } else {
        Difference::Differs { key, how: format!("crc64nvme {theirs} there, {ours} here") }
    })
}

/// Digests of what a URL names: objects of a prefix, or one remote file.
pub async fn hash(
    place: &Place,
    url: &str,
    spec: &CopySpec,
    algorithms: &[Algorithm],
    out: mpsc::Sender<(String, Algorithm, String)>,
) -> Result<(), Failure> {
    let wanted = if algorithms.is_empty() { vec![Algorithm::Sha256] } else { algorithms.to_vec() };
    if let Location::Server { .. } = open::parse(url)? {
        let side = open::destination(url, &spec.server, &spec.options, None, Login::Now, place)?;
        let connection = side.connector.connect().await?;
        let missing = || Failure::of(ErrorClass::SourceMissing, format!("{url} is not a file there"));
        let size = connection.stat(&side.path).await?.filter(|m| !m.directory).ok_or_else(missing)?.size;
        let file = connection.open_read(&side.path).await?;
        let mut digests = Digests::new(&wanted);
        let mut at = 0;
        while at < size {
            let data = file.read_at(at, BLOCK).await?;
            if data.is_empty() {
                return Err(transfer::Error::new(ErrorKind::DestProtocol, "read", &side.path).because("the file became shorter").into());
            }
            digests.update(&data);
            at += data.len() as u64;
        }
        tell(&out, side.path.name(), &wanted, digests).await;
        connection.close().await?;
        return Ok(());
    }
    let side = open::source(url, &spec.s3, &spec.options, place).await?;
    let mut pages = side
        .source
        .list(ListingOptions { prefix: side.single.as_ref().map_or(side.prefix.clone(), |k| k.as_str().to_owned()), delimited: false });
    let mut found = false;
    while let Some(page) = pages.next().await? {
        for object in page.objects {
            if object.key.is_folder_marker() || side.single.as_ref().is_some_and(|k| *k != object.key) {
                continue;
            }
            found = true;
            let key: ObjectKey = object.key.clone();
            let pin = Pin::from(object);
            let mut digests = Digests::new(&wanted);
            for at in (0..pin.size).step_by(STEP as usize) {
                digests.update(&side.source.read(&pin, at..(at + STEP).min(pin.size)).await?);
            }
            tell(&out, &key.to_string(), &wanted, digests).await;
        }
    }
    if found { Ok(()) } else { Err(Failure::of(ErrorClass::SourceMissing, format!("{url} names no object"))) }
}

struct Digests {
    ordered: StreamDigests,
    crc: model::Crc64,
}

impl Digests {
    fn new(wanted: &[Algorithm]) -> Self {
        Self {
            ordered: StreamDigests::new(DigestSet { sha256: wanted.contains(&Algorithm::Sha256), md5: wanted.contains(&Algorithm::Md5) }),
            crc: crc64(&[]),
        }
    }

    fn update(&mut self, data: &[u8]) {
        self.ordered.update(data);
        self.crc = combine(self.crc, crc64(data), data.len() as u64);
    }
}

async fn tell(out: &mpsc::Sender<(String, Algorithm, String)>, name: &str, wanted: &[Algorithm], digests: Digests) {
    let (sha256, md5) = digests.ordered.finish();
    for algorithm in wanted {
        let value = match algorithm {
            Algorithm::Sha256 => sha256.clone(),
            Algorithm::Md5 => md5.clone(),
            Algorithm::Crc64nvme => Some(digests.crc.to_string()),
        };
        if let Some(value) = value {
            let _ = out.send((model::escape_name(name), *algorithm, value)).await;
        }
    }
}
