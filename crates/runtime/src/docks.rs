//! The docks of a process that delivers many transfers: one for each server and way to it, whose sessions stay for a
//! while after the last transfer, so that the next one need not log in again. Sources and connectors are kept likewise.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use app::CopySpec;
use model::{ErrorClass, Location};
use transfer::engine::Dock;
use transfer::meter::Meter;

use crate::ends::{Ends, with_staging_directory};
use crate::open::{self, DestinationSide, Opening, SourceSide};
use crate::passage::{Acquaintance, Passage};
use crate::{Failure, Place};

/// Sessions without work are kept so long.
const KEEP: Duration = Duration::from_secs(30);
/// After so long a server may have ended them on its own.
const RESTED: Duration = Duration::from_secs(5);
/// Secrets and settings behind a connector are read again after so long.
const FRESH: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Docks {
    opening: Arc<dyn Opening>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    docks: HashMap<String, Moored>,
    sources: HashMap<String, (Instant, Arc<dyn transfer::Source>)>,
    destinations: HashMap<String, (Instant, DestinationSide)>,
}

#[derive(Debug)]
struct Moored {
    dock: Dock,
    meter: Arc<Meter>,
    users: usize,
    since: Instant,
}

/// A place at a dock, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Berth {
    docks: Arc<Docks>,
    name: String,
    pub dock: Dock,
    meter: Arc<Meter>,
}

impl Berth {
    /// Counts one transfer, and with it what the whole dock does.
    pub fn meter(&self) -> Meter {
        Meter::part_of(self.meter.clone())
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        let mut state = self.docks.lock();
        // A dock that was refused may have been replaced since.
        if let Some(moored) = state.docks.get_mut(&self.name).filter(|moored| Arc::ptr_eq(moored.dock.pool(), self.dock.pool())) {
            moored.users -= 1;
            moored.since = Instant::now();
        }
    }
}

impl Docks {
    pub fn new(opening: Arc<dyn Opening>) -> Self {
        Self { opening, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while holding the lock")
    }

    /// Both ends of a transfer, from those that are open already where they are the same.
    pub async fn ends(&self, place: &Place, spec: CopySpec) -> Result<Ends, Failure> {
        let spec = with_staging_directory(spec)?;
        let destination = self.destination(place, &spec)?;
        let source = self.source(place, &spec).await?;
        Ends::of(spec, source, destination, jiff::Timestamp::now())
    }

    async fn source(&self, place: &Place, spec: &CopySpec) -> Result<SourceSide, Failure> {
        let Location::S3 { bucket, text } = open::parse(&spec.source)? else {
            return self.opening.source(spec, place).await;
        };
        let name = text_of(&(&bucket, &spec.s3, spec.options.stall_timeout));
        let known = self.lock().sources.get(&name).filter(|(since, _)| since.elapsed() < FRESH).map(|(_, source)| source.clone());
        if let Some(source) = known {
            return open::below(source, &spec.source, text);
        }
        let side = self.opening.source(spec, place).await?;
        self.lock().sources.insert(name, (Instant::now(), side.source.clone()));
        Ok(side)
    }

    fn destination(&self, place: &Place, spec: &CopySpec) -> Result<DestinationSide, Failure> {
        let Location::Server { endpoint, path, directory, .. } = open::parse(&spec.destination)? else {
            return self.opening.destination(spec, place);
        };
        let name = way(&endpoint.to_string(), spec);
        let known = self.lock().destinations.get(&name).filter(|(since, _)| since.elapsed() < FRESH).map(|(_, side)| side.clone());
        if let Some(side) = known {
            return Ok(DestinationSide { path, directory, ..side });
        }
        let side = self.opening.destination(spec, place)?;
        self.lock().destinations.insert(name, (Instant::now(), side.clone()));
        Ok(side)
    }

    /// A berth at the dock of this transfer's server; a new dock where there is none, or where the login of the old one
    /// was refused.
    pub fn enter(self: &Arc<Self>, passage: &Passage, acquaintance: &Acquaintance) -> Berth {
        let Ends { spec, destination, .. } = &*passage.ends;
        let name = format!("{} {} {}", destination.key, destination.credential, way("", spec));
        let mut state = self.lock();
        let known = state.docks.get_mut(&name).filter(|moored| !moored.dock.pool().is_refused());
        let (dock, meter) = match known {
            Some(moored) => {
                if moored.users == 0 && moored.since.elapsed() > RESTED {
                    moored.dock.pool().rested();
                }
                moored.users += 1;
                (moored.dock.clone(), moored.meter.clone())
            }
            None => {
                let meter = Arc::new(Meter::default());
                let dock = passage.dock(meter.clone(), acquaintance);
                state.docks.insert(name.clone(), Moored { dock: dock.clone(), meter: meter.clone(), users: 1, since: Instant::now() });
                (dock, meter)
            }
        };
        Berth { docks: self.clone(), name, dock, meter }
    }

    /// A refused login may have been mended by the time somebody tries again.
    pub fn forget_destination(&self, spec: &CopySpec, class: ErrorClass) {
        if !matches!(class, ErrorClass::DestAuth | ErrorClass::DestHostKey | ErrorClass::DestTls) {
            return;
        }
        if let Ok(Location::Server { endpoint, .. }) = open::parse(&spec.destination) {
            self.lock().destinations.remove(&way(&endpoint.to_string(), spec));
        }
    }

    /// Ends the sessions that nobody has used for a while.
    pub async fn tidy(&self) {
        self.leave(|moored| moored.users == 0 && moored.since.elapsed() > KEEP).await;
        let mut state = self.lock();
        state.sources.retain(|_, (since, _)| since.elapsed() < FRESH);
        state.destinations.retain(|_, (since, _)| since.elapsed() < FRESH);
    }

    /// Ends all sessions in good order.
    pub async fn close(&self) {
        self.leave(|_| true).await;
    }

    async fn leave(&self, which: impl Fn(&Moored) -> bool) {
        let left: Vec<Moored> = {
            let mut state = self.lock();
            let names: Vec<String> = state.docks.iter().filter(|(_, moored)| which(moored)).map(|(name, _)| name.clone()).collect();
            names.iter().filter_map(|name| state.docks.remove(name)).collect()
        };
        for moored in left {
            moored.dock.pool().close().await;
        }
    }
}

/// What two transfers must have in common to use the same sessions.
fn way(endpoint: &str, spec: &CopySpec) -> String {
    let o = &spec.options;
    let tuning = (o.connections, o.lanes, o.chunk_size, o.buffer, &o.bwlimit, o.connect_timeout, o.stall_timeout, o.retry_auth);
    text_of(&(endpoint, &spec.server, tuning))
}

/// Settings as text to compare; they hold references to secrets, never secrets.
fn text_of<T: serde::Serialize + std::fmt::Debug>(settings: &T) -> String {
    // A path that is no text is shown instead of written.
    serde_json::to_string(settings).unwrap_or_else(|_| format!("{settings:?}"))
}
