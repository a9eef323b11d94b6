//! When which execution has to be looked at, and the one task that waits for those times. It also notices when the wall
//! clock was set, and when the process was away.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;

use super::Core;
use super::drive::{Desk, Happening, Live};
use super::port::Effects;

pub(super) struct Timers<E> {
    due: Mutex<Due<E>>,
    earlier: Arc<Notify>,
}

struct Due<E> {
    by_time: BTreeMap<(Timestamp, u64), Weak<Live<E>>>,
    number: u64,
}

impl<E> Default for Timers<E> {
    fn default() -> Self {
        Self { due: Mutex::new(Due { by_time: BTreeMap::new(), number: 0 }), earlier: Arc::new(Notify::new()) }
    }
}

impl<E> Timers<E> {
    fn due(&self) -> MutexGuard<'_, Due<E>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One entry per execution is enough: a later time is found when the earlier one has come.
    pub(super) fn register(&self, live: &Arc<Live<E>>, desk: &mut Desk<E>, wakes: Option<Timestamp>) {
        let Some(at) = wakes.filter(|at| desk.registered.is_none_or(|known| *at < known)) else { return };
        desk.registered = Some(at);
        let first = {
            let mut due = self.due();
            due.number += 1;
            let key = (at, due.number);
            due.by_time.insert(key, Arc::downgrade(live));
            due.by_time.first_key_value().is_some_and(|(first, _)| *first == key)
        };
        if first {
            self.earlier.notify_one();
        }
    }

    fn take_due(&self, now: Timestamp) -> Vec<(Timestamp, Arc<Live<E>>)> {
        let mut due = self.due();
        let mut taken = Vec::new();
        while let Some(first) = due.by_time.first_entry().filter(|first| first.key().0 <= now) {
            let ((at, _), live) = first.remove_entry();
            taken.extend(live.upgrade().map(|live| (at, live)));
        }
        taken
    }

    pub(super) fn next(&self) -> Option<Timestamp> {
        self.due().by_time.first_key_value().map(|((at, _), _)| *at)
    }
}

/// Until the executor stops, or nobody has it any more.
pub(super) async fn run<E: Effects>(core: Weak<Core<E>>) {
    let mut seen: Option<SignedDuration> = None;
    loop {
        let Some(strong) = core.upgrade() else { return };
        let moment = strong.timeline.now();
        if seen.replace(moment.moved).is_some_and(|seen| seen != moment.moved) {
            // Each follows the clock before anything else happens to it.
            strong.tell_all(Happening::clock);
        }
        for (at, live) in strong.timers.take_due(moment.now) {
            let mut desk = live.desk();
            if desk.registered == Some(at) {
                desk.registered = None;
            }
            drop(desk);
            strong.push(&live, Happening::clock());
        }
        let look = strong.options.look;
        let wait = strong.timers.next().map_or(look, |at| until(moment.now, at).min(look));
        let (clock, stopping) = (strong.timeline.clock().clone(), strong.stopping.clone());
        let earlier = strong.timers.earlier.clone();
        let wanted = clock.steady() + wait;
        // Nobody keeps an executor alive by waiting for its timers.
        drop(strong);
        tokio::select! {
            () = clock.sleep_until(wanted) => {}
            () = earlier.notified() => {}
            () = stopping.cancelled() => return,
        }
        let Some(strong) = core.upgrade() else { return };
        if clock.steady().saturating_sub(wanted) > strong.options.away_after {
            strong.tell_all(Happening::away);
        }
    }
}

fn until(now: Timestamp, at: Timestamp) -> Duration {
    let wait = Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO);
    wait.max(Duration::from_millis(1))
}
