//! The look at objects that somebody named, without a listing: what the store has of each now, and whether it is on record.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use app::delivery::{is_version_of, source_name};
use app::transfers::Naming;
use futures_util::future::join_all;
use integrations::Written;
use model::{ErrorClass, ObjectKey, RemotePath};
use store::{Delivery, Store};
use tokio_util::sync::CancellationToken;
use transfer::{Object, Pin};

use super::{FIRST_PAUSE, Fate, HELD_PAUSE, Outlook, Seen};
use crate::open::SourceSide;
use crate::select::{Chooser, Counts};

/// Objects that are remembered as told.
const MOST_TOLD: usize = 10_000;
const LOOKED_AT_AT_ONCE: usize = 16;
/// After an object was found to be another one while it was read.
const CHANGED_PAUSE: Duration = Duration::from_secs(1);

/// What is to be done about an object that was named.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Send(ObjectKey),
    Later(Instant),
    /// Later, and later still each further time; this is the first pause.
    PutOff(Duration),
    /// On record, gone, or told already that it cannot be sent.
    Done,
    NotOurs,
    Superseded,
}

#[derive(Debug, Default)]
pub struct Named {
    pub objects: Vec<Object>,
    pub found: Vec<(Written, Found)>,
    pub notes: Vec<String>,
    /// None could be looked at: a listing tells whether the store is away.
    pub unseen: bool,
}

/// What the store has.
enum There {
    Gone,
    /// Nothing that another look could not change.
    Refused(app::Error),
    /// The named version, and the version that is current where that is another one.
    Here(Box<Pin>, Option<String>),
}

impl Outlook {
    pub async fn look_at(
        &mut self,
        store: &Store,
        source: &SourceSide,
        destination: &str,
        naming: &Naming,
        chooser: &Chooser,
        wanted: Vec<Written>,
        stop: &CancellationToken,
    ) -> app::Result<Named> {
        self.shown.clear();
        let (mut named, mut seen, mut counts) = (Named::default(), Seen::default(), Counts::default());
        let mut here = Vec::<(Written, Object, Option<String>, RemotePath)>::new();
        let mut looked_at = 0;
        for group in wanted.chunks(LOOKED_AT_AT_ONCE) {
            let looks = join_all(group.iter().map(|written| look(source, written)));
            let looks = tokio::select! {
                looks = looks => looks,
                () = stop.cancelled() => return Ok(Named::default()),
            };
            looked_at += group.len();
            let all_failed = looks.iter().all(|there| match there {
                Ok(There::Refused(error)) => error.class == ErrorClass::SourceDenied,
                there => there.is_err(),
            });
            for (written, there) in group.iter().cloned().zip(looks) {
                let there = match there {
                    Ok(there) => there,
                    Err(error) => {
                        tracing::info!(key = %written.key, error = %error.message, "an object that an event names cannot be looked at");
                        named.found.push((written, Found::PutOff(FIRST_PAUSE)));
                        continue;
                    }
                };
                let (pin, current) = match there {
                    There::Here(pin, current) => (*pin, current),
                    There::Gone => {
                        named.found.push((written, Found::Done));
                        continue;
                    }
                    There::Refused(error) => {
                        let archived = error.class == ErrorClass::SourceArchived;
                        named.notes.extend(self.denial(&written.key, &error, named.notes.is_empty()));
                        let found = if archived { Found::Later(Instant::now() + HELD_PAUSE) } else { Found::PutOff(FIRST_PAUSE) };
                        named.found.push((written, found));
                        continue;
                    }
                };
                let version = pin.version.filter(|_| written.version.is_some());
                let object = Object { key: pin.key, size: pin.size, etag: pin.etag, version, modified: pin.modified, archived: false };
                if !chooser.take(&object, &mut counts) {
                    named.found.push((written, Found::NotOurs));
                    continue;
                }
                match naming.path(&object.key, object.version.as_deref()) {
                    Ok(path) => here.push((written, object, current, path)),
                    Err(error) => {
                        self.give_up(&object, &error, &mut seen);
                        named.found.push((written, Found::Done));
                    }
                }
            }
            // One object that cannot be looked at keeps no other waiting; where none can, the store may be away, and each
            // look would wait for it as long.
            if all_failed {
                named.unseen = looked_at == group.len();
                break;
            }
        }
        let rest = wanted.into_iter().skip(looked_at);
        named.found.extend(rest.map(|written| (written, Found::Later(Instant::now() + FIRST_PAUSE))));
        let ours = source_name(source.source.store(), source.source.bucket());
        let paths: Vec<RemotePath> = here.iter().map(|(.., path)| path.clone()).collect();
        let mut deliveries: HashMap<RemotePath, Delivery> = HashMap::new();
        for paths in paths.chunks(500) {
            deliveries.extend(store.deliveries(destination, paths).await?.into_iter().map(|d| (d.path.clone(), d)));
        }
        for (written, object, current, path) in here {
            let delivery = deliveries.get(&path).filter(|d| d.source == ours && d.key == object.key);
            let found = match delivery {
                Some(delivery) if is_version_of(delivery, &Pin::from(object.clone())) => Found::Done,
                Some(delivery) if is_older(&object, current.as_deref(), delivery) => Found::Superseded,
                _ => self.sort_one(object, &mut seen),
            };
            named.found.push((written, found));
        }
        named.objects = seen.objects;
        named.notes.extend(seen.notes);
        Ok(named)
    }

    /// Told once of each object, and of one in each look.
    fn denial(&mut self, key: &ObjectKey, error: &app::Error, first: bool) -> Option<String> {
        if error.class != ErrorClass::SourceDenied || !first {
            return None;
        }
        if self.denied.len() >= MOST_TOLD {
            self.denied.clear();
        }
        self.denied.insert(key.clone()).then(|| format!("{key} was named by an event and cannot be looked at: {}", error.message))
    }

    fn sort_one(&mut self, object: Object, seen: &mut Seen) -> Found {
        let (key, fresh, settling) = (object.key.clone(), seen.fresh, seen.settling);
        self.sort(object, seen);
        if seen.fresh > fresh {
            return Found::Send(key);
        }
        if seen.settling > settling {
            return Found::Later(Instant::now() + self.settle);
        }
        if seen.resting.remove(&key) {
            seen.objects.pop();
        }
        match self.known.get(&key).map(|known| &known.fate) {
            Some(Fate::After(at)) => Found::Later(*at),
            _ => Found::Done,
        }
    }

    /// What is to be done about an object after a round sent it; `heard`: it ended, and whether it was another by then.
    pub fn became(&self, key: &ObjectKey, heard: Option<bool>, now: Instant) -> Found {
        match heard {
            // It had no turn.
            None => Found::Later(now + FIRST_PAUSE),
            Some(true) => Found::PutOff(CHANGED_PAUSE),
            Some(false) => match self.known.get(key).map(|known| &known.fate) {
                Some(Fate::After(at)) => Found::Later(*at),
                _ => Found::Done,
            },
        }
    }
}

/// Whether a version that is not current came before what was delivered. Times of versions are whole seconds, so of two in
/// one second the delivered one counts as the newer: what stands there never goes back.
fn is_older(object: &Object, current: Option<&str>, delivery: &Delivery) -> bool {
    let Some(current) = current else { return false };
    let later = match (delivery.modified, object.modified) {
        (Some(there), Some(ours)) => there.as_second() >= ours.as_second(),
        _ => false,
    };
    later || delivery.version.as_deref() == Some(current)
}

async fn look(source: &SourceSide, written: &Written) -> app::Result<There> {
    let refused = |error: transfer::Error| match error.kind {
        ErrorClass::SourceMissing => Ok(There::Gone),
        ErrorClass::SourceChanged | ErrorClass::SourceArchived | ErrorClass::SourceDenied => Ok(There::Refused(error.into())),
        _ => Err(error.into()),
    };
    // Without a version first: what was deleted since is not wanted any more, though its versions are still there.
    let current = match source.source.pin(&written.key, None).await {
        Ok(pin) => pin,
        Err(error) => return refused(error),
    };
    let older = written.version.as_deref().filter(|named| current.version.as_deref().is_some_and(|now| now != *named));
    let Some(older) = older else { return Ok(There::Here(Box::new(current), None)) };
    match source.source.pin(&written.key, Some(older)).await {
        Ok(pin) => Ok(There::Here(Box::new(pin), current.version)),
        Err(error) => refused(error),
    }
}
