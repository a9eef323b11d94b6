//! What a partner gets besides the files, and what becomes of the originals: sidecars follow each file over the same
//! connections, manifest and done file come last, and an original goes only when its delivery is on record.

use std::collections::HashSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use app::companion::{self, CompanionFeed, Facts, OneFile};
use app::companion_source::{CompanionSource, Content};
use app::delivery::{Letterhead, source_name};
use app::event::{AfterReport, ErrorReport};
use app::feed::ManifestFeed;
use app::follow::{Following, OfCompanions, Turns};
use app::ledger::{StoreLedger, Tally};
use app::order::OrderedFeed;
use app::transfers::Held;
use app::{Event, Options};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use model::{After, ErrorClass, FileNumber, FileState, ObjectKey, RemotePath};
use store::{Batch, FileQuery, FileRecord, Mutation, Part, Store};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use transfer::engine::Engine;
use transfer::port::Feed;
use transfer::{Archive, Original, Source};

/// Originals deleted or archived at once.
const AT_ONCE: usize = 8;
/// Objects of which one is asked whether it could be removed.
const EXAMPLES: u32 = 5;
const DELIVERED: &[FileState] = &[FileState::Delivered, FileState::Unchanged, FileState::Collected];

/// One run's agreement with the partner.
pub(crate) struct Agreed {
    pub store: Store,
    pub held: Held,
    pub options: Options,
    pub letterhead: Letterhead,
    /// The server, as records know it.
    pub destination: String,
    pub root: RemotePath,
    /// What is cut from the front of a key for its name in the archive.
    pub prefix: String,
    pub source: Arc<dyn Source>,
    pub events: mpsc::Sender<Event>,
    pub spool: PathBuf,
    pub following: Arc<Following>,
    turns: Option<Arc<Turns>>,
    companions: Arc<CompanionSource>,
    numbers: Option<mpsc::UnboundedReceiver<FileNumber>>,
}

/// What was done besides delivering files.
#[derive(Debug, Default)]
pub(crate) struct Besides {
    pub companions: Tally,
    pub removed: u64,
    pub kept: u64,
}

impl Agreed {
    #[allow(clippy::too_many_arguments, reason = "each is a different thing that only the caller has")]
    pub async fn new(
        store: Store,
        held: Held,
        options: Options,
        letterhead: Letterhead,
        destination: String,
        naming: &app::transfers::Naming,
        source: Arc<dyn Source>,
        events: mpsc::Sender<Event>,
        state: &std::path::Path,
    ) -> app::Result<Self> {
        let turns = options.order.map(|_| Arc::new(Turns::default()));
        let (to, numbers) = mpsc::unbounded_channel();
        let wanted = !options.sidecars.is_empty();
        if wanted {
            for number in companion::waiting(&store, &held).await? {
                let _ = to.send(number);
            }
        }
        Ok(Self {
            following: Arc::new(Following::new(wanted.then_some(to), turns.clone())),
            companions: Arc::new(CompanionSource::new(source.bucket())),
            numbers: wanted.then_some(numbers),
            spool: state.join("companions"),
            root: naming.root.clone(),
            prefix: naming.prefix.clone(),
            store,
            held,
            options,
            letterhead,
            destination,
            source,
            events,
            turns,
        })
    }

    /// What would refuse the originals' removal is found out before anything is sent.
    pub async fn may_begin(&self) -> app::Result<()> {
        if self.options.after == After::Keep {
            return Ok(());
        }
        let open: Vec<FileState> = FileState::ALL.iter().copied().filter(|state| !state.is_success()).collect();
        let query = FileQuery { part: Part::Files, states: Some(&open), limit: EXAMPLES, ..Default::default() };
        for example in self.store.files(&self.held.record.id, query).await? {
            match self.source.can_remove(&example.key).await {
                // It went since the listing; its own delivery will say so.
                Err(error) if error.kind == ErrorClass::SourceMissing => {}
                Err(error) if error.kind == ErrorClass::PolicyDenied => {
                    return Err(app::Error::from(error).next("switch versioning on for the bucket, or leave --after out"));
                }
                answer => return Ok(answer?),
            }
        }
        Ok(())
    }

    /// The files, in the promised order where there is one.
    pub async fn feed(&self, tasks: ManifestFeed, resting: HashSet<ObjectKey>) -> app::Result<Arc<dyn Feed>> {
        match (self.options.order, &self.turns) {
            (Some(order), Some(turns)) => {
                Ok(Arc::new(OrderedFeed::new(&self.store, &self.held, order, tasks, &resting, turns.clone()).await?))
            }
            _ => Ok(Arc::new(tasks.without(resting))),
        }
    }

    /// The ledger and the source of what goes with the files.
    pub fn beside(&self) -> (Arc<StoreLedger>, Arc<dyn Source>) {
        let letterhead = Letterhead {
            store: self.companions.store().to_owned(),
            bucket: self.companions.bucket().to_owned(),
            ..self.letterhead.clone()
        };
        let ledger = StoreLedger::new(
            self.store.clone(),
            letterhead,
            self.destination.clone(),
            self.options.if_exists,
            self.companions.clone(),
            self.events.clone(),
        );
        (Arc::new(ledger.of_companions().followed_by(Arc::new(OfCompanions(self.following.clone())))), self.companions.clone())
    }

    fn companions_source(&self) -> String {
        source_name(self.companions.store(), self.companions.bucket())
    }

    /// Delivers the files, and with each what goes with it.
    pub async fn deliver(&mut self, main: &Engine, beside: &Engine, feed: Arc<dyn Feed>) -> transfer::Result<()> {
        let files = async {
            let outcome = main.run(feed).await;
            self.following.close();
            outcome
        };
        let Some(numbers) = self.numbers.take() else { return self.in_order(files.await) };
        let companions = CompanionFeed {
            store: self.store.clone(),
            held: self.held.clone(),
            destination: self.destination.clone(),
            source: self.letterhead.source(),
            companions_source: self.companions_source(),
            sidecars: self.options.sidecars.clone(),
            companions: self.companions.clone(),
            following: self.following.clone(),
            events: self.events.clone(),
            ended: tokio::sync::Mutex::new((numbers, Default::default())),
        };
        let (files, companions) = tokio::join!(files, beside.run(Arc::new(companions)));
        self.in_order(files.and(companions))
    }

    fn in_order(&self, outcome: transfer::Result<()>) -> transfer::Result<()> {
        let broken = self.turns.as_ref().and_then(|turns| turns.broken());
        match (outcome, broken) {
            (Ok(()), Some(class)) => Err(transfer::Error::new(class, "go on in the promised order", transfer::Subject::Nothing)
                .because("a file or what goes with it failed, and with --order nothing after it is published")),
            (outcome, _) => outcome,
        }
    }

    /// The manifest and then the done file, when everything else is where it should be.
    pub async fn at_the_end(&self, beside: &Engine) -> app::Result<()> {
        let id = &self.held.record.id;
        let mut wanted = Vec::new();
        for number in [companion::MANIFEST, companion::DONE] {
            wanted.extend(self.store.file(id, number).await?.filter(|record| !record.state.is_success()));
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let (files, companions) = companion::open(&self.store, &self.held).await?;
        if files + companions > 0 {
            let what = match companions {
                0 => format!("{files} files are"),
                _ => format!("{files} files and {companions} sidecars are"),
            };
            let text =
                format!("manifest and done file are not published: {what} not delivered; the run that completes this one publishes them");
            let _ = self.events.send(Event::Note(text)).await;
            return Ok(());
        }
        let path = self.spool.join(format!("{id}.manifest"));
        let outcome = self.publish_at_the_end(beside, &wanted, &path).await;
        let _ = std::fs::remove_file(&path);
        outcome
    }

    async fn publish_at_the_end(&self, beside: &Engine, wanted: &[FileRecord], path: &std::path::Path) -> app::Result<()> {
        let manifest = self.options.manifest.as_ref().filter(|_| wanted.iter().any(|r| r.number == companion::MANIFEST));
        let (size, identity) = self.write_manifest(path, manifest.map(|name| name.as_str().ends_with(".json"))).await?;
        for record in wanted {
            let content = if record.number == companion::DONE { Content::Text(String::new()) } else { Content::File(path.to_owned()) };
            let size = if record.number == companion::DONE { 0 } else { size };
            let pin = self.companions.write(record.key.clone(), content, size, &identity);
            let feed =
                OneFile::new(&self.store, &self.held, &self.destination, &self.companions_source(), record, pin, beside.small_up_to())
                    .await?;
            beside.run(Arc::new(feed)).await?;
            let delivered = self.store.file(&self.held.record.id, record.number).await?.is_some_and(|r| r.state.is_success());
            if !delivered {
                // A done file promises that the manifest is there.
                break;
            }
        }
        Ok(())
    }

    /// Writes the list and returns its size, and what identifies this set of deliveries. `json`: `None` writes nothing.
    async fn write_manifest(&self, path: &std::path::Path, json: Option<bool>) -> app::Result<(u64, String)> {
        let broken = |e: std::io::Error| app::Error::new(ErrorClass::Internal, format!("{}: {e}", path.display()));
        std::fs::create_dir_all(&self.spool).map_err(broken)?;
        let mut file = std::io::BufWriter::new(std::fs::File::create(path).map_err(broken)?);
        let (mut size, mut identity, mut strangers, mut after) = (0, String::new(), 0, None);
        loop {
            let query = FileQuery { part: Part::Files, after, limit: 500, ..Default::default() };
            let page = self.store.files(&self.held.record.id, query).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.number);
            for record in page {
                let Some(facts) = Facts::of(&self.store, &self.destination, &self.letterhead.source(), &record).await? else {
                    strangers += 1;
                    continue;
                };
                identity = companion::digest(&[&identity, &facts.identity(facts.path.as_str())]);
                if let Some(json) = json {
                    let line = companion::manifest_line(&facts, &self.root, json)?;
                    size += line.len() as u64;
                    file.write_all(line.as_bytes()).map_err(broken)?;
                }
            }
        }
        file.flush().map_err(broken)?;
        if strangers > 0 {
            let text = format!("{strangers} files that were there already are not in the manifest, because they are not of our delivering");
            let _ = self.events.send(Event::Note(text)).await;
        }
        Ok((size, identity))
    }

    /// Deletes or archives the originals of what was delivered with enough proof. A refusal is told and fails nothing.
    pub async fn originals(&self, stop: &CancellationToken, besides: &mut Besides) -> app::Result<()> {
        if self.options.after == After::Keep {
            return Ok(());
        }
        let mut after = None;
        loop {
            let query = FileQuery { part: Part::Files, after, states: Some(DELIVERED), limit: 500 };
            let page = self.store.files(&self.held.record.id, query).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.number);
            let kept: Vec<_> = page.iter().filter(|f| f.original.is_none()).map(|f| self.original(f)).collect();
            let mut outcomes = futures_util::stream::iter(kept).buffer_unordered(AT_ONCE);
            while let Some(report) = outcomes.next().await {
                let Some(report) = report? else { continue };
                if report.state == "kept" {
                    besides.kept += 1
                } else {
                    besides.removed += 1
                }
                let _ = self.events.send(Event::After(report)).await;
                if stop.is_cancelled() {
                    return Ok(());
                }
            }
        }
    }

    async fn original(&self, file: &FileRecord) -> app::Result<Option<AfterReport>> {
        let mut report = AfterReport {
            v: 1,
            kind: "after",
            transfer_id: self.held.record.id.clone(),
            key: file.key.to_string(),
            version: None,
            state: "kept",
            to: None,
            error: None,
        };
        let facts = Facts::of(&self.store, &self.destination, &self.letterhead.source(), file).await?;
        let Some(facts) = facts else { return Ok(None) };
        report.version.clone_from(&facts.version);
        let least = self.options.removal_grade();
        let refused = match (facts.grade, facts.version.as_deref()) {
            (None, _) => Some("the proof of its delivery is not in the records any more".to_owned()),
            (Some(grade), _) if !grade.satisfies(least) => Some(format!("it was delivered with proof {grade}, and {least} is asked for")),
            (_, None | Some("null")) => Some("it has no version of its own in the bucket".to_owned()),
            _ => None,
        };
        if let Some(why) = refused {
            report.error = Some(ErrorReport::new(ErrorClass::PolicyDenied, why));
            return Ok(Some(report));
        }
        let version = facts.version.clone().unwrap_or_default();
        match self.remove(&facts, &version).await {
            Ok(to) => {
                report.state = if to.is_some() { "archived" } else { "deleted" };
                report.to = to;
                let done = Mutation::SetOriginal {
                    transfer: file.transfer.clone(),
                    number: file.number,
                    original: report.state.to_owned(),
                    at: Timestamp::now(),
                };
                self.store.commit(Batch::new().guarded_by(self.held.guard()).push(done)).await?;
            }
            Err(error) => report.error = Some(ErrorReport::new(error.kind, transfer::error::chain(&error))),
        }
        Ok(Some(report))
    }

    async fn remove(&self, facts: &Facts, version: &str) -> transfer::Result<Option<String>> {
        let mut to = None;
        if let After::Archive { bucket, prefix } = &self.options.after {
            let key = facts.key.as_str();
            let below = key.strip_prefix(&self.prefix).filter(|rest| !rest.is_empty()).unwrap_or(key);
            let wanted = Archive { bucket: bucket.clone(), key: format!("{prefix}{below}") };
            let original = Original {
                key: facts.key.clone(),
                version: version.to_owned(),
                size: facts.size,
                etag: facts.etag.clone(),
                crc64nvme: facts.crc64nvme.clone(),
            };
            let archived = match self.source.archive(&original, &wanted).await {
                // Archived and deleted by a run that was stopped before it could say so.
                Err(error) if error.kind == ErrorClass::SourceMissing => return Ok(Some(format!("s3://{bucket}/{}", wanted.key))),
                archived => archived?,
            };
            to = Some(format!("s3://{bucket}/{archived}"));
        }
        self.source.remove(&facts.key, version).await?;
        Ok(to)
    }
}
