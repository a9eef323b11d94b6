//! What was received from a queue and is not done with: which objects each message names, and which of them are to be looked
//! at now. Knows no queue; the time is given.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use integrations::queue::{BATCH, LONGEST_HIDDEN};
use integrations::{Message, Written};
use model::ObjectKey;

/// Messages held at once, and objects that they name; more stay in the queue.
const MOST_MESSAGES: usize = 1_000;
const MOST_OBJECTS: usize = 10_000;
/// The queue hides no message longer than 12 h after it was received: it is given back before, and comes again.
const HELD_AT_MOST: Duration = LONGEST_HIDDEN.saturating_sub(Duration::from_secs(60 * 60));

/// Of what is put off again and again.
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);

#[derive(Debug)]
struct HeldMessage {
    receipt: String,
    received: Instant,
    hidden_until: Instant,
    open: usize,
}

#[derive(Debug)]
struct Item {
    /// Messages that name it.
    messages: Vec<String>,
    arrival: u64,
    tried: bool,
    /// How often it was put off.
    put_off: u32,
    rests_until: Option<Instant>,
}

impl Item {
    fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| until > now)
    }
}

#[derive(Debug)]
pub struct HeldMessages {
    /// How long a message is hidden from others at a time.
    hidden: Duration,
    messages: HashMap<String, HeldMessage>,
    items: HashMap<Written, Item>,
    arrivals: u64,
    finished: Vec<String>,
}

impl HeldMessages {
    pub fn new(hidden: Duration) -> Self {
        Self { hidden, messages: HashMap::new(), items: HashMap::new(), arrivals: 0, finished: Vec::new() }
    }

    /// A message that is held already was shown to us once more: from now on its newer receipt counts.
    pub fn take(&mut self, message: Message, written: Vec<Written>, now: Instant) {
        if let Some(held) = self.messages.get_mut(&message.id) {
            (held.receipt, held.received, held.hidden_until) = (message.receipt, now, now + self.hidden);
            return;
        }
        let mut open = 0;
        for written in written {
            self.arrivals += 1;
            let arrival = self.arrivals;
            let fresh = || Item { messages: Vec::new(), arrival, tried: false, put_off: 0, rests_until: None };
            let item = self.items.entry(written).or_insert_with(fresh);
            if !item.messages.contains(&message.id) {
                item.messages.push(message.id.clone());
                open += 1;
            }
        }
        if open == 0 {
            self.finished.push(message.receipt);
        } else {
            let held = HeldMessage { receipt: message.receipt, received: now, hidden_until: now + self.hidden, open };
            self.messages.insert(message.id, held);
        }
    }

    pub fn has_room(&self) -> bool {
        self.messages.len() < MOST_MESSAGES && self.items.len() < MOST_OBJECTS
    }

    pub fn held(&self) -> u64 {
        self.messages.len() as u64
    }

    /// What is to be looked at now, of each key one version: the oldest that was not tried yet, else the newest.
    pub fn due(&self, now: Instant) -> Vec<Written> {
        let mut of_key: HashMap<&ObjectKey, (&Written, &Item)> = HashMap::new();
        for (written, item) in self.items.iter().filter(|(_, item)| !item.rests(now)) {
            let better = |(other, present): &(&Written, &Item)| {
                let is_older = (written.at, item.arrival) < (other.at, present.arrival);
                match (item.tried, present.tried) {
                    (false, false) => is_older,
                    (true, true) => !is_older,
                    (tried, _) => !tried,
                }
            };
            if of_key.get(&written.key).is_none_or(better) {
                of_key.insert(&written.key, (written, item));
            }
        }
        let mut due: Vec<(&Written, &Item)> = of_key.into_values().collect();
        due.sort_by_key(|(_, item)| item.arrival);
        due.into_iter().map(|(written, _)| written.clone()).collect()
    }

    /// When the first of those that rest is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.items.values().map(|item| item.rests_until).min().flatten()
    }

    /// Delivered, told to have failed for good, or nothing to send: no message needs to come again for it.
    pub fn settle(&mut self, written: &Written) {
        let Some(item) = self.items.remove(written) else { return };
        for id in item.messages {
            let Some(held) = self.messages.get_mut(&id) else { continue };
            held.open -= 1;
            if held.open == 0
                && let Some(held) = self.messages.remove(&id)
            {
                self.finished.push(held.receipt);
            }
        }
    }

    pub fn rest(&mut self, written: &Written, until: Instant) {
        if let Some(item) = self.items.get_mut(written) {
            (item.tried, item.rests_until) = (true, Some(until));
        }
    }

    /// Rests for `first`, and for twice as long each further time.
    pub fn put_off(&mut self, written: &Written, first: Duration, now: Instant) {
        if let Some(item) = self.items.get_mut(written) {
            let pause = first.saturating_mul(2u32.saturating_pow(item.put_off.min(20))).min(LONGEST_PAUSE);
            item.put_off += 1;
            (item.tried, item.rests_until) = (true, Some(now + pause));
        }
    }

    /// Receipts of messages that are done with.
    pub fn finished(&mut self) -> Vec<String> {
        std::mem::take(&mut self.finished)
    }

    /// A deletion that the queue did not take is tried again.
    pub fn unfinished(&mut self, receipts: Vec<String>) {
        self.finished.extend(receipts);
    }

    /// Receipts that must be hidden again soon.
    pub fn to_hide(&self, now: Instant) -> Vec<String> {
        let soon = |held: &&HeldMessage| held.hidden_until < now + self.hidden / 2;
        self.messages.values().filter(soon).map(|held| held.receipt.clone()).collect()
    }

    pub fn hidden(&mut self, receipts: &[String], now: Instant) {
        for held in self.messages.values_mut().filter(|held| receipts.contains(&held.receipt)) {
            held.hidden_until = now + self.hidden;
        }
    }

    /// Messages that were held as long as the queue allows, and, when there is no more room, a few of those that only rest:
    /// others must not wait for them. They come again. Where all rest none is let go: it is no single object's fault then, others
    /// would fare no better, and each handing out counts towards the queue's limit.
    pub fn let_go(&mut self, now: Instant) -> Vec<String> {
        let mut awake: HashSet<&str> = HashSet::new();
        for item in self.items.values().filter(|item| !item.rests(now)) {
            awake.extend(item.messages.iter().map(String::as_str));
        }
        let makes_room = !self.has_room() && !awake.is_empty();
        let old = |held: &HeldMessage| now.saturating_duration_since(held.received) >= HELD_AT_MOST;
        let mut go: Vec<String> = self.messages.iter().filter(|(_, held)| old(held)).map(|(id, _)| id.clone()).collect();
        if makes_room && go.is_empty() {
            go.extend(self.messages.keys().filter(|id| !awake.contains(id.as_str())).take(BATCH).cloned());
        }
        self.forget(&go)
    }

    /// Every receipt, for giving all of them back.
    pub fn all(&mut self) -> Vec<String> {
        let ids: Vec<String> = self.messages.keys().cloned().collect();
        self.forget(&ids)
    }

    fn forget(&mut self, ids: &[String]) -> Vec<String> {
        if ids.is_empty() {
            return Vec::new();
        }
        let gone: HashSet<&String> = ids.iter().collect();
        self.items.retain(|_, item| {
            item.messages.retain(|id| !gone.contains(id));
            !item.messages.is_empty()
        });
        ids.iter().filter_map(|id| self.messages.remove(id)).map(|held| held.receipt).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIDDEN: Duration = Duration::from_secs(300);

    fn written(key: &str, version: &str, second: i64) -> Written {
        let at = jiff::Timestamp::from_second(second).ok();
        Written { bucket: "b".into(), key: ObjectKey::new(key).unwrap(), version: Some(version.into()), etag: None, at }
    }

    fn message(id: &str, receipt: &str) -> Message {
        Message { id: id.into(), receipt: receipt.into(), body: String::new() }
    }

    #[test]
    fn a_message_is_finished_when_all_that_it_names_is_settled() {
        let (mut messages, now) = (HeldMessages::new(HIDDEN), Instant::now());
        let (one, two) = (written("a", "1", 1), written("b", "1", 1));
        messages.take(message("m", "r"), vec![one.clone(), two.clone(), one.clone()], now);
        messages.take(message("n", "s"), vec![one.clone()], now);
        messages.take(message("test", "t"), vec![], now);
        assert_eq!(messages.finished(), ["t"]);
        assert_eq!(messages.due(now).len(), 2, "one object, named twice");
        messages.settle(&one);
        assert_eq!(messages.finished(), ["s"]);
        messages.settle(&two);
        assert_eq!((messages.finished(), messages.held()), (vec!["r".to_owned()], 0));
    }

    #[test]
    fn of_one_key_the_oldest_version_goes_first_and_the_newest_after_a_failure() {
        let (mut messages, now) = (HeldMessages::new(HIDDEN), Instant::now());
        let (old, new) = (written("a", "1", 1), written("a", "2", 2));
        messages.take(message("m", "r"), vec![new.clone()], now);
        messages.take(message("n", "s"), vec![old.clone()], now);
        assert_eq!(messages.due(now), std::slice::from_ref(&old));
        messages.rest(&old, now + HIDDEN);
        assert_eq!(messages.due(now), std::slice::from_ref(&new), "what rests keeps nothing waiting");
        messages.rest(&new, now + HIDDEN);
        assert_eq!((messages.due(now), messages.next_due()), (vec![], Some(now + HIDDEN)));
        assert_eq!(messages.due(now + HIDDEN), [new]);
    }

    #[test]
    fn what_is_put_off_again_and_again_rests_longer_each_time_and_a_quarter_of_an_hour_at_most() {
        let (mut messages, now) = (HeldMessages::new(HIDDEN), Instant::now());
        let one = written("a", "1", 1);
        messages.take(message("m", "r"), vec![one.clone()], now);
        for seconds in [1, 2, 4, 8] {
            messages.put_off(&one, Duration::from_secs(1), now);
            assert_eq!(messages.next_due(), Some(now + Duration::from_secs(seconds)));
        }
        for _ in 0..40 {
            messages.put_off(&one, Duration::from_secs(1), now);
        }
        assert_eq!(messages.next_due(), Some(now + LONGEST_PAUSE));
    }

    #[test]
    fn a_message_stays_hidden_while_it_is_held_and_its_newest_receipt_counts() {
        let (mut messages, now) = (HeldMessages::new(HIDDEN), Instant::now());
        let one = written("a", "1", 1);
        messages.take(message("m", "r"), vec![one.clone()], now);
        assert!(messages.to_hide(now + HIDDEN / 3).is_empty());
        let later = now + HIDDEN * 2 / 3;
        assert_eq!(messages.to_hide(later), ["r"]);
        messages.hidden(&["r".to_owned()], later);
        assert!(messages.to_hide(later).is_empty());
        messages.take(message("m", "again"), vec![one.clone()], later);
        messages.settle(&one);
        assert_eq!(messages.finished(), ["again"]);
    }

    #[test]
    fn one_that_only_rests_makes_room_and_all_that_rest_stay_and_nothing_is_held_for_longer_than_the_queue_allows() {
        let (mut messages, now) = (HeldMessages::new(HIDDEN), Instant::now());
        for number in 0..MOST_MESSAGES {
            messages.take(message(&format!("m{number}"), &format!("r{number}")), vec![written(&format!("k{number}"), "1", 1)], now);
        }
        assert!(!messages.has_room() && messages.let_go(now).is_empty(), "there is work for each");
        for number in 0..MOST_MESSAGES {
            messages.rest(&written(&format!("k{number}"), "1", 1), now + HIDDEN);
        }
        assert!(messages.let_go(now).is_empty(), "all rest: nobody else would fare better");
        assert_eq!(messages.due(now + HIDDEN).len(), MOST_MESSAGES);
        for number in (0..MOST_MESSAGES).filter(|number| *number != 7) {
            messages.rest(&written(&format!("k{number}"), "1", 1), now);
        }
        assert_eq!(messages.let_go(now), ["r7"]);
        assert!(messages.has_room());
        messages.rest(&written("k8", "1", 1), now + HIDDEN);
        assert!(messages.let_go(now).is_empty(), "there is room");
        assert_eq!(messages.let_go(now + HELD_AT_MOST).len(), MOST_MESSAGES - 1);
        assert_eq!((messages.held(), messages.due(now).len()), (0, 0));
    }
}
