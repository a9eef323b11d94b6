//! The port to a queue that hands a message out, hides it for a while, and shows it again unless it is deleted.

use std::time::Duration;

use async_trait::async_trait;

use crate::Result;

/// Messages of one request, at most: the limit of SQS.
pub const BATCH: usize = 10;
/// The longest wait of one request for messages: the limit of SQS.
pub const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// How long a message can be hidden from the moment it was received: the limit of SQS.
pub const LONGEST_HIDDEN: Duration = Duration::from_secs(12 * 60 * 60);

/// A message that was handed out.
#[derive(Debug, Clone)]
pub struct Message {
    /// The same each time it is handed out.
    pub id: String,
    /// Names this handing out; a later one gets another.
    pub receipt: String,
    pub body: String,
}

#[async_trait]
pub trait Queue: Send + Sync + std::fmt::Debug {
    /// How messages to people name it.
    fn name(&self) -> &str;

    /// Waits for messages, at most `wait`; up to `BATCH` are handed out and hidden for `hidden`. None is no error.
    async fn receive(&self, wait: Duration, hidden: Duration) -> Result<Vec<Message>>;

    /// Deletes at most `BATCH` messages. One that the queue does not know any more, or that was handed out to somebody
    /// else since, is left as it is and is no error.
    async fn delete(&self, receipts: &[String]) -> Result<()>;

    /// Hides at most `BATCH` messages for `hidden` from now; zero shows them at once. The same exceptions as for `delete`.
    async fn hide(&self, receipts: &[String], hidden: Duration) -> Result<()>;
}
