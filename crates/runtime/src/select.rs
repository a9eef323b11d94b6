//! Which objects of a source are sent, page by page: one key, a prefix with filters, or a list.

use std::io::BufRead;

use app::Options;
use app::transfers::Naming;
use model::{ErrorClass, ObjectKey};
use transfer::select::{Decision, Selection, Wanted, files_from};
use transfer::source::{ListingOptions, Object, Pages};

use crate::Failure;
use crate::open::SourceSide;

/// Keys of folders shown in the plan; more are only counted.
const MARKERS_SHOWN: usize = 100;
/// Objects of a list looked up at once.
const LOOKED_UP_AT_ONCE: usize = 16;

/// What was seen while choosing.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    pub excluded: u64,
    pub folder_markers: Vec<String>,
    /// Direct, chunked, parallel.
    pub by_strategy: [u64; 3],
    pub proof_bytes: u64,
}

#[derive(Debug)]
pub struct Chooser {
    selection: Selection,
    options: Options,
    prefix: String,
    now: jiff::Timestamp,
}

impl Chooser {
    pub fn new(options: &Options, source: &SourceSide, naming: &Naming) -> Result<Self, Failure> {
        let mut selection = Selection::new(&options.include, &options.exclude).map_err(|e| Failure::usage(e.to_string()))?;
        selection.min_size = options.min_size.map(|s| s.get());
        selection.max_size = options.max_size.map(|s| s.get());
        selection.min_age = options.min_age;
        selection.max_age = options.max_age;
        if options.files_from.is_some() && source.single.is_some() {
            return Err(Failure::usage("--files-from needs a bucket or prefix as source: end it with /".to_owned()));
        }
        Ok(Self { selection, options: options.clone(), prefix: naming.prefix.clone(), now: naming.now })
    }

    pub fn objects<'a>(&'a self, source: &'a SourceSide) -> Objects<'a> {
        let from = match (&source.single, &self.options.files_from) {
            (Some(_), _) => From::Single,
            (None, _) if !self.options.keys.is_empty() => From::Named(0),
            (None, Some(list)) => From::List { path: list.clone(), lines: None },
            (None, None) => From::Pages(source.source.list(ListingOptions { prefix: source.prefix.clone(), delimited: false })),
        };
        Objects { chooser: self, source, from: Some(from) }
    }

    fn count(&self, object: &Object, counts: &mut Counts) {
        counts.by_strategy[crate::passage::strategy_index(&self.options, object.size)] += 1;
        counts.proof_bytes += proof_estimate(&self.options, object.size);
    }

    /// Objects that were chosen already.
    pub fn given<'a>(&'a self, source: &'a SourceSide, objects: Vec<Object>) -> Objects<'a> {
        Objects { chooser: self, source, from: Some(From::Given(objects)) }
    }

    pub(crate) fn take(&self, object: &Object, counts: &mut Counts) -> bool {
        let relative = object.key.as_str().strip_prefix(&self.prefix).unwrap_or(object.key.as_str());
        match self.selection.decide(relative, object, self.now) {
            Decision::Send => {
                self.count(object, counts);
                true
            }
            Decision::FolderMarker => {
                if counts.folder_markers.len() < MARKERS_SHOWN {
                    counts.folder_markers.push(object.key.to_string());
                }
                false
            }
            Decision::Excluded { .. } => {
                counts.excluded += 1;
                false
            }
        }
    }
}

/// What the proof will read back at most, before the server's abilities are known.
fn proof_estimate(options: &Options, size: u64) -> u64 {
    use model::{Grade, Verify};
    match options.least_proof() {
        Verify::AtLeast(Grade::ReadBack) => size,
        Verify::Auto if size <= transfer::plan::READ_BACK_UP_TO => size,
        Verify::Auto | Verify::AtLeast(Grade::Sampled) => (size / 256).min(size),
        _ => 0,
    }
}

enum From<'a> {
    Single,
    List {
        path: String,
        lines: Option<Box<dyn BufRead + Send>>,
    },
    Pages(Box<dyn Pages + 'a>),
    Given(Vec<Object>),
    /// The keys of the request from this one on.
    Named(usize),
}

/// The chosen objects in pages.
pub struct Objects<'a> {
    chooser: &'a Chooser,
    source: &'a SourceSide,
    from: Option<From<'a>>,
}

impl Objects<'_> {
    pub async fn next(&mut self, counts: &mut Counts) -> app::Result<Option<Vec<Object>>> {
        match self.from.take() {
            None => Ok(None),
            Some(From::Given(objects)) => {
                for object in &objects {
                    self.chooser.count(object, counts);
                }
                Ok(Some(objects))
            }
            Some(From::Single) => self.single(counts).await.map(Some),
            Some(From::Pages(mut pages)) => {
                let Some(page) = pages.next().await? else { return Ok(None) };
                self.from = Some(From::Pages(pages));
                Ok(Some(page.objects.into_iter().filter(|o| self.chooser.take(o, counts)).collect()))
            }
            Some(From::List { path, lines }) => self.listed(path, lines, counts).await,
            Some(From::Named(from)) => self.named(from, counts).await,
        }
    }

    async fn single(&mut self, counts: &mut Counts) -> app::Result<Vec<Object>> {
        let Some(key) = &self.source.single else { return Ok(Vec::new()) };
        let pin = match self.source.source.pin(key, None).await {
            Ok(pin) => pin,
            Err(error) if error.kind == ErrorClass::SourceMissing => {
                return Err(app::Error::from(error).next("check it with `fileferry ls`; a prefix ends in /"));
            }
            Err(error) => return Err(error.into()),
        };
        let object = Object { key: pin.key, size: pin.size, etag: pin.etag, version: pin.version, modified: pin.modified, archived: false };
        // A single key was named; filters and folder rules are for many.
        counts.by_strategy[crate::passage::strategy_index(&self.chooser.options, object.size)] += 1;
        counts.proof_bytes += proof_estimate(&self.chooser.options, object.size);
        Ok(vec![object])
    }

    /// The next lines of a list. A listed key that is missing is an error: somebody expected it.
    async fn listed(
        &mut self,
        path: String,
        lines: Option<Box<dyn BufRead + Send>>,
        counts: &mut Counts,
    ) -> app::Result<Option<Vec<Object>>> {
        let unreadable = |e: std::io::Error| app::Error::new(ErrorClass::SourceMissing, format!("could not read the list {path}: {e}"));
        let mut reader: Box<dyn BufRead + Send> = match lines {
            Some(lines) => lines,
            None if path == "-" => Box::new(std::io::BufReader::new(std::io::stdin())),
            None => Box::new(std::io::BufReader::new(std::fs::File::open(&path).map_err(unreadable)?)),
        };
        let mut wanted = Vec::new();
        for line in files_from(&mut reader).take(1_000) {
            let line = line.map_err(|e| app::Error::new(ErrorClass::SourceMissing, format!("the list {path}: {e}")))?;
            wanted.push(line);
        }
        if wanted.is_empty() {
            return Ok(None);
        }
        let objects = self.looked_up(&wanted, counts).await?;
        self.from = Some(From::List { path, lines: Some(reader) });
        Ok(Some(objects))
    }

    /// The next keys of the request. One that is missing is an error: somebody expected it.
    async fn named(&mut self, from: usize, counts: &mut Counts) -> app::Result<Option<Vec<Object>>> {
        let keys: Vec<&String> = self.chooser.options.keys.iter().skip(from).take(1_000).collect();
        if keys.is_empty() {
            return Ok(None);
        }
        let bad = |key: &str, e: model::ObjectKeyError| app::Error::new(ErrorClass::SourceMissing, format!("{key}: {e}"));
        let wanted: Vec<Wanted> = keys
            .iter()
            .map(|key| Ok(Wanted { key: ObjectKey::new(key.as_str()).map_err(|e| bad(key, e))?, version: None }))
            .collect::<app::Result<_>>()?;
        self.from = Some(From::Named(from + keys.len()));
        self.looked_up(&wanted, counts).await.map(Some)
    }

    async fn looked_up(&mut self, wanted: &[Wanted], counts: &mut Counts) -> app::Result<Vec<Object>> {
        let mut objects = Vec::with_capacity(wanted.len());
        for group in wanted.chunks(LOOKED_UP_AT_ONCE) {
            let pins = group.iter().map(|w| self.source.source.pin(&w.key, w.version.as_deref()));
            for pin in futures_util::future::join_all(pins).await {
                let pin = pin?;
                let object =
                    Object { key: pin.key, size: pin.size, etag: pin.etag, version: pin.version, modified: pin.modified, archived: false };
                if self.chooser.take(&object, counts) {
                    objects.push(object);
                }
            }
        }
        Ok(objects)
    }
}
