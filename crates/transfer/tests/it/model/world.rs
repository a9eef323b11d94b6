//! The plain map: what may stand under each final name. It watches the destination, moves only where a transfer or the
//! partner may move it, and writes down every sight that nobody was entitled to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use model::{IfExists, Publish};
use transfer::memory::{MemoryDestination, MemorySource};

pub const KEYS: [&str; 3] = ["a", "b", "c"];

/// What others do to the world, between the operations of a transfer or between transfers.
#[derive(Debug, Clone)]
pub enum Act {
    Overwrite {
        key: usize,
        size: usize,
    },
    Unsource {
        key: usize,
    },
    Take {
        key: usize,
    },
    Replace {
        key: usize,
        size: usize,
    },
    /// Every connection is cut.
    Disconnect,
    /// The server dies and comes back without what was not synced.
    Crash,
    /// From now on only so many bytes fit.
    Full {
        room: u64,
    },
}

/// What the running transfer was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The version of each key that was there when the transfer began.
    pub wanted: BTreeMap<&'static str, Bytes>,
    pub policy: IfExists,
    pub publish: Publish,
    pub atomic_replace: bool,
    /// The server's rename refuses a taken name.
    pub refuses_taken: bool,
    pub syncs: bool,
}

#[derive(Debug, Default)]
pub struct Truth {
    pub standing: BTreeMap<&'static str, Vec<u8>>,
    pub asked: Option<Asked>,
    /// Where something stood when the transfer began: with what others put there since, all that may be in its way.
    pub before: BTreeSet<&'static str>,
    /// Written in place: anything may stand there until the transfer ends.
    pub vague: BTreeSet<&'static str>,
    pub published: BTreeSet<&'static str>,
    pub taken: BTreeSet<&'static str>,
    pub put: BTreeSet<&'static str>,
    pub source_changed: BTreeSet<&'static str>,
    /// What was to be delivered stood there already; a rename cannot be seen.
    pub alike: BTreeSet<&'static str>,
    pub full: bool,
    /// Left unfinished by a transfer in place, so never synced.
    loose: BTreeSet<&'static str>,
    pub problems: Vec<String>,
    tags: u64,
}

#[derive(Debug)]
pub struct World {
    pub source: MemorySource,
    pub destination: MemoryDestination,
    pub truth: Mutex<Truth>,
}

/// Bytes that no other tag has, except for the shortest.
fn content(tag: u64, size: usize) -> Vec<u8> {
    let mut state = tag.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        bytes.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

pub fn final_name(key: &str) -> String {
    format!("/in/{key}")
}

impl Truth {
    fn fresh(&mut self, size: usize) -> Vec<u8> {
        self.tags += 1;
        content(self.tags, size)
    }

    fn problem(&mut self, text: String) {
        if self.problems.len() < 8 {
            self.problems.push(text);
        }
    }
}

fn told(bytes: Option<&[u8]>) -> String {
    bytes.map_or("nothing".to_owned(), |b| format!("{} bytes, crc64nvme {}", b.len(), transfer::digest::crc64(b)))
}

impl World {
    pub fn new(destination: MemoryDestination, sizes: [usize; 3]) -> Arc<Self> {
        let world = Self { source: MemorySource::new(), destination, truth: Mutex::default() };
        world.destination.make_directories("/in");
        for (key, size) in sizes.into_iter().enumerate() {
            world.act(&Act::Overwrite { key, size });
        }
        Arc::new(world)
    }

    pub fn begin(&self, asked: Asked) {
        let mut truth = self.truth.lock().unwrap();
        truth.published.clear();
        truth.taken.clear();
        truth.put.clear();
        truth.source_changed.clear();
        truth.vague.clear();
        truth.before = truth.standing.keys().copied().collect();
        let alike = |(key, whole): &(&&'static str, &Bytes)| truth.standing.get(**key).is_some_and(|there| there[..] == whole[..]);
        truth.alike = asked.wanted.iter().filter(alike).map(|(key, _)| *key).collect();
        if asked.publish == Publish::InPlace {
            let keeps = matches!(asked.policy, IfExists::Fail | IfExists::Skip);
            let open = asked.wanted.keys().copied().filter(|key| !keeps || !truth.standing.contains_key(key)).collect();
            truth.vague = open;
        }
        truth.asked = Some(asked);
    }

    /// The transfer is over: what was written in place is now what it is.
    pub fn end(&self) {
        self.look("the end");
        let mut truth = self.truth.lock().unwrap();
        for key in std::mem::take(&mut truth.vague) {
            truth.loose.insert(key);
            match self.destination.bytes(&final_name(key)) {
                Some(bytes) => truth.standing.insert(key, bytes),
                None => truth.standing.remove(key),
            };
        }
        for (key, old) in truth.standing.clone() {
            if self.destination.bytes(&final_name(key)).as_ref() != Some(&old) {
                truth.problem(format!("{key} ends without its file: {}", told(self.destination.bytes(&final_name(key)).as_deref())));
            }
        }
        truth.asked = None;
        truth.full = false;
        self.destination.set_capacity(None);
    }

    /// Compares every final name with the map, and moves the map where that was allowed.
    pub fn look(&self, after: &str) {
        let mut truth = self.truth.lock().unwrap();
        for key in KEYS {
            if truth.vague.contains(key) {
                continue;
            }
            let there = self.destination.bytes(&final_name(key));
            let standing = truth.standing.get(key).cloned();
            if there == standing {
                continue;
            }
            let asked = truth.asked.clone();
            let wanted = asked.as_ref().and_then(|asked| Some((asked, asked.wanted.get(key)?)));
            let before = || format!("after {after}, {key}: {} stood there", told(standing.as_deref()));
            match (&there, wanted) {
                (Some(bytes), Some((asked, whole))) if bytes[..] == whole[..] => {
                    if let Some(why) = forbids(asked, &truth, key) {
                        let text = format!("{} and was replaced: {why}", before());
                        truth.problem(text);
                    }
                    if truth.published.contains(key) && truth.taken.contains(key) && !truth.put.contains(key) {
                        let text = format!("{}; it was published, taken away, and published again", before());
                        truth.problem(text);
                    }
                    truth.published.insert(key);
                    truth.loose.remove(key);
                    truth.standing.insert(key, bytes.clone());
                }
                // `replace-unsafe`: the old file has stepped aside, and is still somewhere.
                (None, Some((asked, _))) if asked.policy == IfExists::ReplaceUnsafe && !asked.atomic_replace => {
                    let somewhere = self.destination.names().iter().any(|name| self.destination.bytes(name) == standing);
                    if !somewhere {
                        let text = format!("{} and is nowhere now", before());
                        truth.problem(text);
                    }
                }
                _ => {
                    let text = format!("{} and now there is {}", before(), told(there.as_deref()));
                    truth.problem(text);
                    match there {
                        Some(bytes) => truth.standing.insert(key, bytes),
                        None => truth.standing.remove(key),
                    };
                }
            }
        }
    }

    pub fn act(&self, act: &Act) {
        let mut guard = self.truth.lock().unwrap();
        let truth = &mut *guard;
        // Nobody else touches what is written in place, or waits aside: what they would leave is theirs to explain.
        let hands_off = truth
            .asked
            .as_ref()
            .is_some_and(|asked| asked.publish == Publish::InPlace || (asked.policy == IfExists::ReplaceUnsafe && !asked.atomic_replace));
        match *act {
            Act::Overwrite { key, size } => {
                let bytes = truth.fresh(size);
                self.source.put(KEYS[key], bytes);
                truth.source_changed.insert(KEYS[key]);
            }
            Act::Unsource { key } => {
                self.source.remove(KEYS[key]);
                truth.source_changed.insert(KEYS[key]);
            }
            Act::Take { key } if !hands_off => {
                if self.destination.take(&final_name(KEYS[key])).is_some() {
                    truth.taken.insert(KEYS[key]);
                }
                truth.standing.remove(KEYS[key]);
            }
            Act::Replace { key, size } if !hands_off => {
                let bytes = truth.fresh(size);
                self.destination.put(&final_name(KEYS[key]), &bytes);
                truth.put.insert(KEYS[key]);
                truth.loose.remove(KEYS[key]);
                truth.standing.insert(KEYS[key], bytes);
            }
            Act::Take { .. } | Act::Replace { .. } => {}
            Act::Disconnect => self.destination.disconnect_all(),
            // What was not synced is lost also where it was published; only a server that syncs can be held to more.
            Act::Crash if truth.asked.as_ref().is_none_or(|asked| asked.syncs) => {
                self.destination.crash();
                for key in &truth.loose {
                    if let (Some(standing), Some(there)) = (truth.standing.get_mut(key), self.destination.bytes(&final_name(key))) {
                        *standing = there;
                    }
                }
            }
            Act::Crash => self.destination.disconnect_all(),
            Act::Full { room } => {
                let names = self.destination.names();
                let used: usize = names.iter().filter_map(|name| self.destination.bytes(name)).map(|bytes| bytes.len()).sum();
                self.destination.set_capacity(Some(used as u64 + room));
                truth.full = true;
            }
        }
    }
}

/// Why the whole new version may not take the place of what stands there.
fn forbids(asked: &Asked, truth: &Truth, key: &str) -> Option<&'static str> {
    if !truth.standing.contains_key(key) {
        return None;
    }
    match asked.policy {
        // Without a rename that refuses, a moment remains between the look and the rename.
        IfExists::Fail | IfExists::Skip if !asked.refuses_taken && truth.put.contains(key) => None,
        IfExists::Fail | IfExists::Skip => Some("it was to be left alone"),
        IfExists::Update | IfExists::Replace if !asked.atomic_replace => Some("this server cannot replace in one step"),
        _ => None,
    }
}
