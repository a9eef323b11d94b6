//! The inbox with a queue in memory: what is held stays hidden, what failed is tried again, what is not done comes back.

use std::collections::VecDeque;

use async_trait::async_trait;
use integrations::{Error, Result};
use serde_json::json;

use super::*;

const HIDDEN_HERE: Duration = Duration::from_millis(400);

#[derive(Debug, Default)]
struct Pretended {
    waiting: Mutex<VecDeque<Message>>,
    hidden: Mutex<Vec<(String, Duration)>>,
    deleted: Mutex<Vec<String>>,
    refused: Mutex<u32>,
    asked: Mutex<u32>,
}

impl Pretended {
    fn push(&self, name: &str, body: String) {
        let message = Message { id: name.into(), receipt: format!("receipt of {name}"), body };
        self.waiting.lock().unwrap().push_back(message);
    }

    fn fail(&self) -> Result<()> {
        let mut refused = self.refused.lock().unwrap();
        if *refused == 0 {
            return Ok(());
        }
        *refused -= 1;
        Err(Error::new("speak to", "the queue", "it sleeps"))
    }
}

#[async_trait]
impl Queue for Pretended {
    fn name(&self) -> &str {
        "the queue"
    }

    async fn receive(&self, _: Duration, _: Duration) -> Result<Vec<Message>> {
        *self.asked.lock().unwrap() += 1;
        self.fail()?;
        loop {
            let message = self.waiting.lock().unwrap().pop_front();
            match message {
                Some(message) => return Ok(vec![message]),
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    async fn delete(&self, receipts: &[String]) -> Result<()> {
        self.fail()?;
        self.deleted.lock().unwrap().extend_from_slice(receipts);
        Ok(())
    }

    async fn hide(&self, receipts: &[String], hidden: Duration) -> Result<()> {
        self.hidden.lock().unwrap().extend(receipts.iter().map(|receipt| (receipt.clone(), hidden)));
        Ok(())
    }
}

fn event(key: &str) -> String {
    let object = json!({"bucket": {"name": "b"}, "object": {"key": key}});
    json!({"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": object}]}).to_string()
}

fn inbox(queue: &Arc<Pretended>) -> (Inbox, mpsc::Receiver<Event>) {
    let (events, heard) = mpsc::channel(100);
    let ours = Ours { bucket: "b".into(), prefix: "p/".into() };
    (Inbox::hiding(HIDDEN_HERE, queue.clone(), ours, events), heard)
}

async fn until(what: &str, happened: impl Fn() -> bool) {
    let begun = Instant::now();
    while !happened() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn nothing_is_received_while_nothing_can_be_sent() {
    let queue = Arc::new(Pretended::default());
    queue.push("m", event("p/a"));
    let (inbox, _heard) = inbox(&queue);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(*queue.asked.lock().unwrap(), 0);
    inbox.pause(false);
    until("the arrival", || inbox.due().len() == 1).await;
    assert_eq!(inbox.close().await.held, 0);
}

#[tokio::test]
async fn what_is_held_is_hidden_again_and_given_back_at_the_end() {
    let queue = Arc::new(Pretended::default());
    for name in ["held", "done"] {
        queue.push(name, event(&format!("p/{name}")));
    }
    let (inbox, _heard) = inbox(&queue);
    inbox.pause(false);
    until("both arrivals", || inbox.due().len() == 2).await;
    let done = inbox.due().into_iter().find(|written| written.key.as_str() == "p/done").unwrap();
    inbox.settle(&done);
    until("the deletion", || *queue.deleted.lock().unwrap() == ["receipt of done"]).await;
    let again = ("receipt of held".to_owned(), HIDDEN_HERE);
    until("a third hiding", || queue.hidden.lock().unwrap().iter().filter(|hidden| **hidden == again).count() == 3).await;
    let report = inbox.close().await;
    assert_eq!((report.received, report.deleted, report.held), (2, 1, 0));
    assert_eq!(queue.hidden.lock().unwrap().last().unwrap(), &("receipt of held".to_owned(), Duration::ZERO));
}

#[tokio::test]
async fn an_outage_of_the_queue_is_told_once_and_a_deletion_is_tried_again() {
    let queue = Arc::new(Pretended::default());
    let (inbox, mut heard) = inbox(&queue);
    *queue.refused.lock().unwrap() = 2;
    queue.push("m", event("p/a"));
    inbox.pause(false);
    until("the outage", || inbox.report().waiting_for.is_some()).await;
    until("the arrival", || inbox.due().len() == 1).await;
    *queue.refused.lock().unwrap() = 1;
    inbox.settle(&inbox.due()[0]);
    until("the deletion", || *queue.deleted.lock().unwrap() == ["receipt of m"]).await;
    until("the end of it", || inbox.report().waiting_for.is_none()).await;
    let _ = inbox.close().await;
    let mut notes = Vec::new();
    while let Ok(Event::Note(note)) = heard.try_recv() {
        notes.push(note);
    }
    let (begun, over): (Vec<_>, Vec<_>) = notes.iter().partition(|note| note.contains("listing goes on"));
    assert_eq!((begun.len(), over.len()), (2, 2), "{notes:?}");
}
