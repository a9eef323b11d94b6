//! What a watch sees in a prefix: what is new, what settles, what is tried again later and what is given up until it changes.

mod named;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use app::delivery::{is_version_of, source_name};
use app::transfers::Naming;
use jiff::{SignedDuration, Timestamp};
use model::{ErrorClass, FileState, NameError, Nature, ObjectKey, RemotePath};
use store::Store;
use tokio_util::sync::CancellationToken;
use transfer::{Object, Pin};

use crate::open::SourceSide;
use crate::select::{Chooser, Counts};
pub use named::{Found, Named};

/// Objects of one round; the next follows at once.
const ONE_ROUND: usize = 10_000;
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);
/// What waits for a person on the other side is looked at again after this.
const HELD_PAUSE: Duration = Duration::from_secs(30 * 60);

#[derive(Debug)]
struct Known {
    /// Size, ETag and the second it was written: a listing may have parts of one, which a single look has not.
    identity: (u64, Option<String>, Option<i64>),
    first_seen: Instant,
    failures: u32,
    fate: Fate,
    /// Of which listing it was last.
    listing: u64,
}

#[derive(Debug, PartialEq)]
enum Fate {
    Open,
    After(Instant),
    /// Until the object changes.
    GivenUp,
}

/// What one look found.
#[derive(Debug, Default)]
pub struct Seen {
    /// To be sent now, and those of an unfinished transfer that rest.
    pub objects: Vec<Object>,
    pub resting: HashSet<ObjectKey>,
    pub fresh: u64,
    pub settling: u64,
    pub given_up: u64,
    pub more: bool,
    pub notes: Vec<String>,
}

#[derive(Debug)]
pub struct Outlook {
    settle: Duration,
    known: HashMap<ObjectKey, Known>,
    /// Keys as events show them.
    shown: HashMap<String, ObjectKey>,
    listing: u64,
    companions: Option<(u32, Instant)>,
    /// What is told once: objects that we may not look at.
    denied: HashSet<ObjectKey>,
}

impl Outlook {
    pub fn new(settle: Duration) -> Self {
        Self { settle, known: HashMap::new(), shown: HashMap::new(), listing: 0, companions: None, denied: HashSet::new() }
    }

    pub async fn look(
        &mut self,
        store: &Store,
        source: &SourceSide,
        destination: &str,
        naming: &Naming,
        chooser: &Chooser,
        stop: &CancellationToken,
    ) -> app::Result<Seen> {
        self.listing += 1;
        self.shown.clear();
        let (mut seen, mut counts) = (Seen::default(), Counts::default());
        let ours = source_name(source.source.store(), source.source.bucket());
        let mut objects = chooser.objects(source);
        while let Some(page) = objects.next(&mut counts).await? {
            let mut named: Vec<(Object, RemotePath)> = Vec::with_capacity(page.len());
            for object in page {
                match naming.path(&object.key, object.version.as_deref()) {
                    Ok(path) => named.push((object, path)),
                    Err(error) => self.give_up(&object, &error, &mut seen),
                }
            }
            let paths: Vec<RemotePath> = named.iter().map(|(_, path)| path.clone()).collect();
            let mut deliveries = HashMap::new();
            for paths in paths.chunks(500) {
                deliveries.extend(store.deliveries(destination, paths).await?.into_iter().map(|d| (d.path.clone(), d)));
            }
            for (mut object, path) in named {
                if let Some(delivery) = deliveries.get(&path).filter(|d| d.source == ours && d.key == object.key) {
                    match written_again(source, &object, delivery).await? {
                        Again::Same => {
                            self.known.remove(&object.key);
                            continue;
                        }
                        Again::Other => {}
                        Again::OtherVersion(version) => object.version = Some(version),
                    }
                }
                self.sort(object, &mut seen);
            }
            if stop.is_cancelled() || seen.more {
                break;
            }
        }
        if !seen.more {
            // What the source no longer has needs no memory.
            let listing = self.listing;
            self.known.retain(|_, known| known.listing == listing);
        }
        Ok(seen)
    }

    fn give_up(&mut self, object: &Object, error: &NameError, seen: &mut Seen) {
        let known = self.meet(object);
        if known.fate != Fate::GivenUp {
            known.fate = Fate::GivenUp;
            seen.notes.push(format!("{} cannot be delivered: {error}", object.key));
        }
        seen.given_up += 1;
    }

    fn meet(&mut self, object: &Object) -> &mut Known {
        let identity = (object.size, object.etag.clone(), object.modified.map(Timestamp::as_second));
        let fresh = |identity| Known { identity, first_seen: Instant::now(), failures: 0, fate: Fate::Open, listing: 0 };
        let known = self.known.entry(object.key.clone()).or_insert_with(|| fresh(identity.clone()));
        if known.identity != identity {
            *known = fresh(identity);
        }
        known.listing = self.listing;
        known
    }

    fn sort(&mut self, object: Object, seen: &mut Seen) {
        let settle = self.settle;
        let (key, modified) = (object.key.clone(), object.modified);
        let known = self.meet(&object);
        // By the store's clock, or by ours where the two do not agree.
        let age = modified.map(|at| Timestamp::now().duration_since(at));
        let settled = age.is_some_and(|age| age >= SignedDuration::try_from(settle).unwrap_or(SignedDuration::MAX))
            || known.first_seen.elapsed() >= settle;
        match known.fate {
            Fate::GivenUp => seen.given_up += 1,
            Fate::After(at) if at > Instant::now() => {
                seen.resting.insert(key);
                seen.objects.push(object);
            }
            _ if !settled => seen.settling += 1,
            _ => {
                seen.fresh += 1;
                self.shown.insert(key.to_string(), key);
                seen.objects.push(object);
                seen.more = seen.fresh as usize >= ONE_ROUND;
            }
        }
    }

    fn find(&mut self, shown: &str) -> Option<(ObjectKey, &mut Known)> {
        let key = self.shown.get(shown)?.clone();
        let known = self.known.get_mut(&key)?;
        Some((key, known))
    }

    pub fn delivered(&mut self, shown: &str) {
        if let Some((key, _)) = self.find(shown) {
            self.known.remove(&key);
        }
    }

    /// Skipped because of what stands there, or superseded: nothing to do until the object changes. `unchanged` is on record.
    pub fn settled_otherwise(&mut self, shown: &str, state: FileState) {
        if let Some((_, known)) = self.find(shown)
            && state.is_success()
        {
            known.fate = Fate::GivenUp;
        }
    }

    pub fn failed(&mut self, shown: &str, class: ErrorClass, now: Instant) {
        let Some((key, known)) = self.find(shown) else { return };
        known.failures += 1;
        let pause = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(known.failures.min(10) - 1)).min(LONGEST_PAUSE);
        known.fate = match (class, class.nature()) {
            // The next listing shows what it is now.
            (ErrorClass::SourceChanged | ErrorClass::SourceMissing, _) => {
                self.known.remove(&key);
                return;
            }
            (ErrorClass::SourceArchived, _) | (_, Nature::Held) => Fate::After(now + HELD_PAUSE),
            (_, Nature::Transient) => Fate::After(now + pause),
            (_, Nature::Permanent) => Fate::GivenUp,
        };
    }

    /// Failed in a round that reached nobody: its end is waited for, and then all are due.
    pub fn due_again(&mut self, shown: &str) {
        if let Some((_, known)) = self.find(shown) {
            (known.failures, known.fate) = (0, Fate::Open);
        }
    }

    pub fn retrying(&self) -> u64 {
        self.known.values().filter(|known| matches!(known.fate, Fate::After(_))).count() as u64
    }

    pub fn companions_due(&self, now: Instant) -> bool {
        self.companions.is_some_and(|(_, at)| at <= now)
    }

    pub fn companions_ended(&mut self, failed: bool, now: Instant) {
        let failures = self.companions.map_or(0, |(n, _)| n) + 1;
        let pause = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(failures.min(10) - 1)).min(LONGEST_PAUSE);
        self.companions = failed.then_some((failures, now + pause));
    }
}

enum Again {
    Same,
    Other,
    OtherVersion(String),
}

/// The same bytes under a newer date may be a version of their own; the store tells by its id.
async fn written_again(source: &SourceSide, object: &Object, delivery: &store::Delivery) -> app::Result<Again> {
    if !is_version_of(delivery, &Pin::from(object.clone())) {
        return Ok(Again::Other);
    }
    let second = |at: Option<Timestamp>| at.map(Timestamp::as_second);
    let same_time = second(object.modified) == second(delivery.modified);
    let Some(known) = delivery.version.as_deref().filter(|_| !same_time && object.modified.is_some()) else { return Ok(Again::Same) };
    let now = match source.source.pin(&object.key, None).await {
        Ok(pin) => pin,
        Err(error) if error.kind == ErrorClass::SourceMissing => return Ok(Again::Same),
        Err(error) => return Err(error.into()),
    };
    Ok(match now.version {
        Some(version) if version != known && now.etag == object.etag => Again::OtherVersion(version),
        _ => Again::Same,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: &str, etag: &str, age: i64) -> Object {
        let modified = Timestamp::now().checked_sub(SignedDuration::from_secs(age)).unwrap();
        Object {
            key: ObjectKey::new(key).unwrap(),
            size: 1,
            etag: Some(etag.to_owned()),
            version: None,
            modified: Some(modified),
            archived: false,
        }
    }

    fn sorted(outlook: &mut Outlook, object: &Object) -> Seen {
        let mut seen = Seen::default();
        outlook.sort(object.clone(), &mut seen);
        seen
    }

    #[test]
    fn an_object_settles_by_the_stores_clock_or_by_ours() {
        let mut outlook = Outlook::new(Duration::from_millis(50));
        let future = object("a", "1", -3600);
        assert_eq!(sorted(&mut outlook, &future).settling, 1);
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(sorted(&mut outlook, &future).fresh, 1);
        assert_eq!(sorted(&mut outlook, &object("a", "2", -3600)).settling, 1, "it changed");
        assert_eq!(sorted(&mut outlook, &object("b", "1", 10)).fresh, 1);
    }

    #[test]
    fn a_listing_and_a_look_at_one_object_agree_on_it_within_the_second() {
        let mut outlook = Outlook::new(Duration::ZERO);
        let mut one = object("a", "1", 10);
        one.modified = Some("2026-01-02T03:04:05.678Z".parse().unwrap());
        sorted(&mut outlook, &one);
        outlook.failed("a", ErrorClass::DestExists, Instant::now());
        one.modified = Some("2026-01-02T03:04:05Z".parse().unwrap());
        assert_eq!(sorted(&mut outlook, &one).given_up, 1);
    }

    #[test]
    fn what_failed_rests_or_is_given_up_until_it_changes() {
        let mut outlook = Outlook::new(Duration::ZERO);
        let one = object("a", "1", 10);
        sorted(&mut outlook, &one);
        let now = Instant::now();
        outlook.failed("a", ErrorClass::NetworkReset, now);
        let seen = sorted(&mut outlook, &one);
        assert_eq!((seen.fresh, seen.resting.len(), seen.objects.len(), outlook.retrying()), (0, 1, 1, 1));
        outlook.failed("a", ErrorClass::NetworkReset, now.checked_sub(Duration::from_secs(61)).unwrap());
        assert_eq!(sorted(&mut outlook, &one).fresh, 1, "its pause of 60 s is over");
        outlook.failed("a", ErrorClass::DestExists, now);
        let seen = sorted(&mut outlook, &one);
        assert_eq!((seen.given_up, seen.objects.len()), (1, 0));
        assert_eq!(sorted(&mut outlook, &object("a", "2", 10)).fresh, 1);
        outlook.failed("a", ErrorClass::SourceChanged, now);
        assert_eq!(sorted(&mut outlook, &object("a", "3", 10)).fresh, 1);
    }
}
