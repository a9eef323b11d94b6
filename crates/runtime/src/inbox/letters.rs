//! What was received from a queue and is not done with: which objects each message names, and which of them are to be looked
//! at now. Knows no queue; the time is given.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use integrations::queue::LONGEST_HIDDEN;
use integrations::{Message, Written};
use model::ObjectKey;

/// Messages held at once, and objects that they name; more stay in the queue.
const MOST_LETTERS: usize = 1_000;
const MOST_OBJECTS: usize = 10_000;
/// The queue hides no message longer than 12 h after it was received: it is given back before, and comes again.
const HELD_AT_MOST: Duration = LONGEST_HIDDEN.saturating_sub(Duration::from_secs(60 * 60));

#[derive(Debug)]
struct Letter {
    receipt: String,
    received: Instant,
    hidden_until: Instant,
    open: usize,
}

#[derive(Debug)]
struct Item {
    /// Messages that name it.
    letters: Vec<String>,
    arrival: u64,
    tried: bool,
    rests_until: Option<Instant>,
}

impl Item {
    fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| until > now)
    }
}

#[derive(Debug)]
pub struct Letters {
    /// How long a message is hidden from others at a time.
    hidden: Duration,
    letters: HashMap<String, Letter>,
    items: HashMap<Written, Item>,
    arrivals: u64,
    finished: Vec<String>,
}

impl Letters {
    pub fn new(hidden: Duration) -> Self {
        Self { hidden, letters: HashMap::new(), items: HashMap::new(), arrivals: 0, finished: Vec::new() }
    }

    /// A message that is held already was shown to us once more: from now on its newer receipt counts.
    pub fn take(&mut self, message: Message, written: Vec<Written>, now: Instant) {
        if let Some(held) = self.letters.get_mut(&message.id) {
            (held.receipt, held.received, held.hidden_until) = (message.receipt, now, now + self.hidden);
            return;
        }
        let mut open = 0;
        for written in written {
            self.arrivals += 1;
            let arrival = self.arrivals;
            let item = self.items.entry(written).or_insert_with(|| Item { letters: Vec::new(), arrival, tried: false, rests_until: None });
            if !item.letters.contains(&message.id) {
                item.letters.push(message.id.clone());
                open += 1;
            }
        }
        if open == 0 {
            self.finished.push(message.receipt);
        } else {
            let letter = Letter { receipt: message.receipt, received: now, hidden_until: now + self.hidden, open };
            self.letters.insert(message.id, letter);
        }
    }

    pub fn has_room(&self) -> bool {
        self.letters.len() < MOST_LETTERS && self.items.len() < MOST_OBJECTS
    }

    pub fn held(&self) -> u64 {
        self.letters.len() as u64
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
        for id in item.letters {
            let Some(letter) = self.letters.get_mut(&id) else { continue };
            letter.open -= 1;
            if letter.open == 0
                && let Some(letter) = self.letters.remove(&id)
            {
                self.finished.push(letter.receipt);
            }
        }
    }

    pub fn rest(&mut self, written: &Written, until: Instant) {
        if let Some(item) = self.items.get_mut(written) {
            (item.tried, item.rests_until) = (true, Some(until));
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
        let soon = |letter: &&Letter| letter.hidden_until < now + self.hidden / 2;
        self.letters.values().filter(soon).map(|letter| letter.receipt.clone()).collect()
    }

    pub fn hidden(&mut self, receipts: &[String], now: Instant) {
        for letter in self.letters.values_mut().filter(|letter| receipts.contains(&letter.receipt)) {
            letter.hidden_until = now + self.hidden;
        }
    }

    /// Messages that were held as long as the queue allows, and, when there is no more room, those that only rest: others must
    /// not wait for them. They come again.
    pub fn let_go(&mut self, now: Instant) -> Vec<String> {
        let full = !self.has_room();
        let mut awake: std::collections::HashSet<&str> = std::collections::HashSet::new();
        for item in self.items.values().filter(|item| !full || !item.rests(now)) {
            awake.extend(item.letters.iter().map(String::as_str));
        }
        let old = |letter: &Letter| now.saturating_duration_since(letter.received) >= HELD_AT_MOST;
        let go: Vec<String> =
            self.letters.iter().filter(|(id, letter)| old(letter) || !awake.contains(id.as_str())).map(|(id, _)| id.clone()).collect();
        self.forget(&go)
    }

    /// Every receipt, for giving all of them back.
    pub fn all(&mut self) -> Vec<String> {
        let ids: Vec<String> = self.letters.keys().cloned().collect();
        self.forget(&ids)
    }

    fn forget(&mut self, ids: &[String]) -> Vec<String> {
        if ids.is_empty() {
            return Vec::new();
        }
        let gone: std::collections::HashSet<&String> = ids.iter().collect();
        self.items.retain(|_, item| {
            item.letters.retain(|id| !gone.contains(id));
            !item.letters.is_empty()
        });
        ids.iter().filter_map(|id| self.letters.remove(id)).map(|letter| letter.receipt).collect()
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
        let (mut letters, now) = (Letters::new(HIDDEN), Instant::now());
        let (one, two) = (written("a", "1", 1), written("b", "1", 1));
        letters.take(message("m", "r"), vec![one.clone(), two.clone(), one.clone()], now);
        letters.take(message("n", "s"), vec![one.clone()], now);
        letters.take(message("test", "t"), vec![], now);
        assert_eq!(letters.finished(), ["t"]);
        assert_eq!(letters.due(now).len(), 2, "one object, named twice");
        letters.settle(&one);
        assert_eq!(letters.finished(), ["s"]);
        letters.settle(&two);
        assert_eq!((letters.finished(), letters.held()), (vec!["r".to_owned()], 0));
    }

    #[test]
    fn of_one_key_the_oldest_version_goes_first_and_the_newest_after_a_failure() {
        let (mut letters, now) = (Letters::new(HIDDEN), Instant::now());
        let (old, new) = (written("a", "1", 1), written("a", "2", 2));
        letters.take(message("m", "r"), vec![new.clone()], now);
        letters.take(message("n", "s"), vec![old.clone()], now);
        assert_eq!(letters.due(now), std::slice::from_ref(&old));
        letters.rest(&old, now + HIDDEN);
        assert_eq!(letters.due(now), std::slice::from_ref(&new), "what rests keeps nothing waiting");
        letters.rest(&new, now + HIDDEN);
        assert_eq!((letters.due(now), letters.next_due()), (vec![], Some(now + HIDDEN)));
        assert_eq!(letters.due(now + HIDDEN), [new]);
    }

    #[test]
    fn a_message_stays_hidden_while_it_is_held_and_its_newest_receipt_counts() {
        let (mut letters, now) = (Letters::new(HIDDEN), Instant::now());
        let one = written("a", "1", 1);
        letters.take(message("m", "r"), vec![one.clone()], now);
        assert!(letters.to_hide(now + HIDDEN / 3).is_empty());
        let later = now + HIDDEN * 2 / 3;
        assert_eq!(letters.to_hide(later), ["r"]);
        letters.hidden(&["r".to_owned()], later);
        assert!(letters.to_hide(later).is_empty());
        letters.take(message("m", "again"), vec![one.clone()], later);
        letters.settle(&one);
        assert_eq!(letters.finished(), ["again"]);
    }

    #[test]
    fn what_only_rests_makes_room_and_nothing_is_held_for_longer_than_the_queue_allows() {
        let (mut letters, now) = (Letters::new(HIDDEN), Instant::now());
        for number in 0..MOST_LETTERS {
            letters.take(message(&format!("m{number}"), &format!("r{number}")), vec![written(&format!("k{number}"), "1", 1)], now);
        }
        assert!(!letters.has_room() && letters.let_go(now).is_empty(), "there is work for each");
        letters.rest(&written("k7", "1", 1), now + HIDDEN);
        assert_eq!(letters.let_go(now), ["r7"]);
        assert!(letters.has_room());
        letters.rest(&written("k8", "1", 1), now + HIDDEN);
        assert!(letters.let_go(now).is_empty(), "there is room");
        assert_eq!(letters.let_go(now + HELD_AT_MOST).len(), MOST_LETTERS - 1);
        assert_eq!((letters.held(), letters.due(now).len()), (0, 0));
    }
}
