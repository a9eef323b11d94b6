//! Files one after the other in a promised order: the next begins when the one before has its name and everything that
//! goes with it. After a failure nothing more is published.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use model::{ErrorClass, FileNumber, ObjectKey, Order};
use store::{FileQuery, Part, Store};
use tokio::sync::Mutex;
use transfer::port::{Feed, FileTask, SizeClass};
use transfer::{Pin, Subject};

use crate::error::{Error, Result};
use crate::feed::ManifestFeed;
use crate::follow::{Turn, Turns};
use crate::manifest::parse;
use crate::transfers::Held;

/// More files than this are not held in memory to be sorted.
const MOST: usize = 200_000;

#[derive(Debug)]
pub struct OrderedFeed {
    tasks: ManifestFeed,
    queue: Mutex<VecDeque<(FileNumber, SizeClass)>>,
    turns: Arc<Turns>,
}

impl OrderedFeed {
    pub async fn new(
        store: &Store,
        held: &Held,
        order: Order,
        tasks: ManifestFeed,
        resting: &HashSet<ObjectKey>,
        turns: Arc<Turns>,
    ) -> Result<Self> {
        let mut all: Vec<(String, u64, Option<jiff::Timestamp>, FileNumber)> = Vec::new();
        let mut after = None;
        loop {
            let query = FileQuery { part: Part::Files, after, states: Some(tasks.states()), ..Default::default() };
            let page = store.files(&held.record.id, query).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.number);
            if all.len() + page.len() > MOST {
                let text = format!("--order sorts at most {MOST} files, and more are waiting");
                return Err(Error::new(ErrorClass::PolicyDenied, text).next("copy the prefix in parts, or leave --order out"));
            }
            for file in page {
                if resting.contains(&file.key) {
                    continue;
                }
                let modified = if order == Order::Age { parse::<Pin>(&file.pin)?.modified } else { None };
                let key = if order == Order::Key { file.key.as_str().to_owned() } else { String::new() };
                all.push((key, file.size, modified, file.number));
            }
        }
        match order {
            Order::Listing => {}
            Order::Key => all.sort_by(|a, b| a.0.cmp(&b.0)),
            Order::Size => all.sort_by_key(|(_, size, _, number)| (*size, *number)),
            Order::Age => all.sort_by_key(|(_, _, modified, number)| (*modified, *number)),
        }
        let class = |size: u64| if size <= tasks.small_up_to() { SizeClass::Small } else { SizeClass::Large };
        let queue = all.into_iter().map(|(_, size, _, number)| (number, class(size))).collect();
        Ok(Self { tasks, queue: Mutex::new(queue), turns })
    }
}

#[async_trait]
impl Feed for OrderedFeed {
    async fn next(&self, class: SizeClass) -> transfer::Result<Option<FileTask>> {
        loop {
            let changed = self.turns.changed();
            tokio::pin!(changed);
            // From here on a change is not missed, whoever looks first.
            changed.as_mut().enable();
            {
                let mut queue = self.queue.lock().await;
                match (self.turns.look(), queue.front()) {
                    (Turn::Broken, _) | (Turn::Free | Turn::Taken, None) => {
                        self.turns.wake();
                        return Ok(None);
                    }
                    (Turn::Free, Some((number, wanted))) if *wanted == class => {
                        let number = *number;
                        queue.pop_front();
                        self.turns.take();
                        let task = self.tasks.one(number).await;
                        return task.map_err(|e| transfer::Error::new(e.class, "read the manifest", Subject::Nothing).because(e));
                    }
                    _ => {}
                }
            }
            changed.await;
        }
    }
}
