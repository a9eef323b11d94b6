//! What goes with delivered files: checksum, done and control files, made from the receipt of the delivery, so that the
//! same delivery always has the same ones.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use model::contract::{expand, sidecar_key, sum_line};
use model::{ErrorClass, FileNumber, FileState, Grade, ObjectKey, Receipt, RemotePath, Sidecar, SidecarKind};
use serde::{Deserialize, Serialize};
use store::{Batch, FileQuery, FileRecord, Mutation, Part, Store};
use tokio::sync::Mutex;
use tokio::sync::mpsc::UnboundedReceiver;
use transfer::port::{Feed, FileTask, SizeClass};
use transfer::{Pin, Subject};

use crate::companion_source::{CompanionSource, Content};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::feed::{self, OPEN};
use crate::follow::Following;
use crate::manifest::parse;
use crate::transfers::Held;

/// The numbers of the two files that speak of a whole transfer.
pub const MANIFEST: FileNumber = FileNumber(u32::MAX - 2);
pub const DONE: FileNumber = FileNumber(u32::MAX - 1);

/// What stands in the place of a pin until the content is known.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CompanionPin {
    /// The file it goes with; `None`: all of them.
    pub of: Option<FileNumber>,
}

/// What is known of a delivery that we made.
#[derive(Debug, Clone)]
pub struct Facts {
    pub key: ObjectKey,
    pub version: Option<String>,
    pub etag: Option<String>,
    pub size: u64,
    pub sha256: Option<String>,
    pub md5: Option<String>,
    pub crc64nvme: Option<String>,
    pub path: RemotePath,
    pub at: Timestamp,
    /// `None`: the receipt is not in the records any more.
    pub grade: Option<Grade>,
}

impl Facts {
    fn of_receipt(line: &str) -> Result<Self> {
        let receipt: Receipt = parse(line)?;
        Ok(Self {
            key: receipt.source.key,
            version: receipt.source.version,
            etag: receipt.source.etag,
            size: receipt.size,
            sha256: receipt.sha256,
            md5: receipt.md5,
            crc64nvme: Some(receipt.crc64nvme),
            path: receipt.destination.path,
            at: receipt.finished_at,
            grade: Some(receipt.verification.grade),
        })
    }

    /// From this transfer's receipt, or from that of an earlier one when the file was `unchanged`. `None`: the file there
    /// is not of our delivering.
    pub async fn of(store: &Store, destination: &str, source: &str, file: &FileRecord) -> Result<Option<Self>> {
        if let (FileState::Delivered | FileState::Collected, Some(line)) = (file.state, &file.receipt) {
            return Self::of_receipt(line).map(Some);
        }
        if file.state != FileState::Unchanged {
            return Ok(None);
        }
        let pin: Pin = parse(&file.pin)?;
        let ours = |d: &store::Delivery| d.source == source && d.key == file.key && crate::delivery::is_version_of(d, &pin);
        let Some(delivery) = store.delivery(destination, &file.path).await?.filter(ours) else { return Ok(None) };
        let earlier = store.file_by_key(&delivery.transfer, &file.key).await?;
        if let Some(line) = earlier.and_then(|f| f.receipt) {
            let facts = Self::of_receipt(&line)?;
            if facts.etag == delivery.etag && facts.size == delivery.size && facts.at == delivery.published_at {
                return Ok(Some(facts));
            }
        }
        Ok(Some(Self {
            key: delivery.key,
            version: delivery.version,
            etag: delivery.etag,
            size: delivery.size,
            sha256: delivery.sha256,
            md5: None,
            crc64nvme: delivery.crc64nvme,
            path: delivery.path,
            at: delivery.published_at,
            grade: None,
        }))
    }

    /// Content of a sidecar. `Err` names what would have to be known.
    pub fn write(&self, sidecar: &Sidecar) -> std::result::Result<String, String> {
        let name = self.path.name();
        let missing = |what: &str| format!("no {what} of {} is known, because it was delivered without; --resend computes it", self.key);
        match sidecar.kind {
            SidecarKind::Done => Ok(String::new()),
            SidecarKind::Sha256 => Ok(sum_line(self.sha256.as_deref().ok_or_else(|| missing("sha256"))?, name)),
            SidecarKind::Md5 => Ok(sum_line(self.md5.as_deref().ok_or_else(|| missing("md5"))?, name)),
            SidecarKind::Ctl => {
                let unknown = std::cell::Cell::new(None);
                let known = |what: &'static str, value: &Option<String>| {
                    value.clone().or_else(|| {
                        unknown.set(Some(what));
                        Some(String::new())
                    })
                };
                let text = expand(sidecar.text.as_deref().unwrap_or_default(), self.at, |word| match word {
                    "name" => Some(name.to_owned()),
                    "size" => Some(self.size.to_string()),
                    "key" => Some(self.key.to_string()),
                    "version" => Some(self.version.clone().unwrap_or_else(|| "null".to_owned())),
                    "sha256" => known("sha256", &self.sha256),
                    "md5" => known("md5", &self.md5),
                    "crc64nvme" => known("crc64nvme", &self.crc64nvme),
                    _ => None,
                })?;
                unknown.get().map_or(Ok(text), |what| Err(missing(what)))
            }
        }
    }

    /// The same for as long as the same bytes of the same version are spoken of in the same words.
    pub fn identity(&self, text: &str) -> String {
        let version = self.version.as_deref().or(self.etag.as_deref()).unwrap_or_default();
        let crc = self.crc64nvme.as_deref().unwrap_or_default();
        digest(&[self.key.as_str(), version, crc, text])
    }
}

/// A short digest of some texts.
pub fn digest(texts: &[&str]) -> String {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for text in texts {
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    }
    data_encoding::HEXLOWER.encode(&context.finish().as_ref()[..16])
}

/// Turns the numbers of delivered files into the sidecars that go with them.
#[derive(Debug)]
pub struct CompanionFeed {
    pub store: Store,
    pub held: Held,
    pub destination: String,
    /// As the delivery records of the files themselves name the source.
    pub source: String,
    /// As those of the companions do.
    pub companions_source: String,
    pub sidecars: Vec<Sidecar>,
    pub companions: Arc<CompanionSource>,
    pub following: Arc<Following>,
    pub events: tokio::sync::mpsc::Sender<Event>,
    pub ended: Mutex<(UnboundedReceiver<FileNumber>, VecDeque<FileTask>)>,
}

impl CompanionFeed {
    async fn tasks(&self, number: FileNumber) -> Result<Vec<FileTask>> {
        let id = &self.held.record.id;
        let Some(file) = self.store.file(id, number).await? else { return Ok(Vec::new()) };
        let facts = Facts::of(&self.store, &self.destination, &self.source, &file).await?;
        let mut tasks = Vec::new();
        for sidecar in &self.sidecars {
            let key = sidecar_key(sidecar, &file.key);
            let Some(record) = self.store.file_by_key(id, &key).await?.filter(|r| !r.state.is_success()) else { continue };
            let written = match &facts {
                Some(facts) => facts.write(sidecar).map(|text| (facts.identity(&text), text)),
                None => Err(format!("{} is not of our delivering, so nothing is written about it", file.path)),
            };
            let (identity, text) = match written {
                Ok(written) => written,
                Err(why) => {
                    self.skip(&record, why).await?;
                    continue;
                }
            };
            let size = text.len() as u64;
            let pin = self.companions.write(key, Content::Text(text), size, &identity);
            feed::begin(&self.store, &self.held, std::slice::from_ref(&record)).await?;
            let previous = self.store.delivery(&self.destination, &record.path).await?;
            tasks.push(feed::task(&record, pin, previous.as_ref(), &self.companions_source)?);
        }
        let numbers: Vec<FileNumber> = tasks.iter().map(|task| task.number).collect();
        self.following.begin(number, &numbers);
        Ok(tasks)
    }

    async fn skip(&self, record: &FileRecord, why: String) -> Result<()> {
        let skipped = Mutation::FinishFile {
            transfer: record.transfer.clone(),
            number: record.number,
            state: FileState::Skipped,
            receipt: None,
            bytes_sent: 0,
            at: Timestamp::now(),
            delivery: None,
        };
        self.store.commit(Batch::new().guarded_by(self.held.guard()).push(skipped)).await?;
        let _ = self.events.send(Event::Note(format!("{} is left out: {why}", record.path))).await;
        Ok(())
    }
}

#[async_trait]
impl Feed for CompanionFeed {
    async fn next(&self, class: SizeClass) -> transfer::Result<Option<FileTask>> {
        if class == SizeClass::Large {
            return Ok(None);
        }
        let mut ended = self.ended.lock().await;
        let (numbers, ready) = &mut *ended;
        loop {
            if let Some(task) = ready.pop_front() {
                return Ok(Some(task));
            }
            let Some(number) = numbers.recv().await else { return Ok(None) };
            let tasks = self.tasks(number).await;
            let tasks = tasks.map_err(|e| transfer::Error::new(e.class, "write what goes with a file", Subject::Nothing).because(e))?;
            ready.extend(tasks);
        }
    }
}

/// Exactly one file, the manifest or the done file.
#[derive(Debug)]
pub struct OneFile {
    task: Mutex<Option<FileTask>>,
    class: SizeClass,
}

impl OneFile {
    pub async fn new(
        store: &Store,
        held: &Held,
        destination: &str,
        source: &str,
        record: &FileRecord,
        pin: Pin,
        small: u64,
    ) -> Result<Self> {
        feed::begin(store, held, std::slice::from_ref(record)).await?;
        let class = if pin.size <= small { SizeClass::Small } else { SizeClass::Large };
        let previous = store.delivery(destination, &record.path).await?;
        Ok(Self { task: Mutex::new(Some(feed::task(record, pin, previous.as_ref(), source)?)), class })
    }
}

#[async_trait]
impl Feed for OneFile {
    async fn next(&self, class: SizeClass) -> transfer::Result<Option<FileTask>> {
        Ok(if class == self.class { self.task.lock().await.take() } else { None })
    }
}

/// Files that are delivered while something that goes with them is not.
pub async fn waiting(store: &Store, held: &Held) -> Result<Vec<FileNumber>> {
    let (mut found, mut after) = (Vec::<FileNumber>::new(), None);
    loop {
        let query = FileQuery { part: Part::Companions, after, states: Some(OPEN), ..Default::default() };
        let page = store.files(&held.record.id, query).await?;
        let Some(last) = page.last() else { return Ok(found) };
        after = Some(last.number);
        for record in page.iter().filter(|r| r.number < MANIFEST) {
            let pin: CompanionPin = parse(&record.pin)?;
            let Some(of) = pin.of.filter(|of| found.last() != Some(of)) else { continue };
            if store.file(&held.record.id, of).await?.is_some_and(|f| f.state.is_success()) {
                found.push(of);
            }
        }
    }
}

/// What keeps a transfer from being whole: how many files, and how many sidecars, are not where they should be.
pub async fn open(store: &Store, held: &Held) -> Result<(u64, u64)> {
    let mut counts = (0, 0);
    for (part, count) in [(Part::Files, &mut counts.0), (Part::Companions, &mut counts.1)] {
        let mut after = None;
        loop {
            let page = store.files(&held.record.id, FileQuery { part, after, states: Some(OPEN), ..Default::default() }).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.number);
            *count += page.iter().filter(|f| f.number < MANIFEST).count() as u64;
        }
    }
    Ok(counts)
}

/// A line of the manifest: as `sha256sum -c` reads it, or an object.
pub fn manifest_line(facts: &Facts, root: &RemotePath, json: bool) -> Result<String> {
    let full = facts.path.as_str();
    let below = full.strip_prefix(root.as_str()).map_or(full, |rest| rest.trim_start_matches('/'));
    let digest = facts.sha256.as_deref().ok_or_else(|| {
        Error::new(ErrorClass::SourceChanged, format!("no sha256 of {} is known for the manifest", facts.path))
            .next("send it again with --resend")
    })?;
    if !json {
        return Ok(sum_line(digest, below));
    }
    #[derive(Serialize)]
    struct Line<'a> {
        name: &'a str,
        size: u64,
        sha256: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        md5: Option<&'a str>,
        crc64nvme: Option<&'a str>,
        key: &'a str,
        version: Option<&'a str>,
        delivered_at: Timestamp,
    }
    let line = Line {
        name: below,
        size: facts.size,
        sha256: digest,
        md5: facts.md5.as_deref(),
        crc64nvme: facts.crc64nvme.as_deref(),
        key: facts.key.as_str(),
        version: facts.version.as_deref(),
        delivered_at: facts.at,
    };
    Ok(crate::manifest::json(&line)? + "\n")
}
