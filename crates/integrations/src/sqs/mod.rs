//! The queue of SQS, or of a program that speaks its protocol. Types of the AWS SDK stay in this folder.

mod address;
mod connect;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry};
use model::Credential;

pub use address::{AddressError, QueueAddress};

use crate::error::BoxError;
use crate::queue::{BATCH, LONGEST_HIDDEN, LONGEST_WAIT};
use crate::{Error, Message, Queue, Result};

/// Longest text of an answer that is kept.
const MAX_MESSAGE: usize = 400;

/// Keys given by value, instead of the credential chain.
#[derive(Debug, Clone)]
pub struct AccessKey {
    pub id: String,
    pub secret: Credential,
    pub session_token: Option<Credential>,
}

/// What must be known to reach a queue; everything else comes from where the AWS tools take it.
#[derive(Debug, Clone)]
pub struct SqsConfig {
    pub queue: QueueAddress,
    /// Where the address names none.
    pub region: Option<String>,
    pub profile: Option<String>,
    pub access_key: Option<AccessKey>,
}

pub struct SqsQueue {
    config: SqsConfig,
    name: String,
    /// The client and the queue's URL; made at the first request and after one failed, so that new credentials and a queue
    /// that is made later are found.
    session: tokio::sync::Mutex<Option<(Client, String)>>,
}

impl fmt::Debug for SqsQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqsQueue({})", self.name)
    }
}

impl SqsQueue {
    /// Asks nobody yet.
    pub fn new(config: SqsConfig) -> Self {
        let name = model::escape_name(&config.queue.to_string());
        Self { config, name, session: tokio::sync::Mutex::default() }
    }

    async fn session(&self, operation: &'static str) -> Result<(Client, String)> {
        let mut session = self.session.lock().await;
        if let Some(known) = &*session {
            return Ok(known.clone());
        }
        let client = connect::client(&self.config).await;
        let url = match &self.config.queue {
            QueueAddress::Url { url, .. } => url.clone(),
            QueueAddress::Name { name, account, .. } => {
                let asked = client.get_queue_url().queue_name(name).set_queue_owner_aws_account_id(account.clone()).send().await;
                let url = asked.map_err(|e| Error::new(operation, self.name.as_str(), cause(e)))?.queue_url;
                url.ok_or_else(|| Error::new(operation, self.name.as_str(), "the answer names no URL"))?
            }
        };
        Ok(session.insert((client, url)).clone())
    }

    async fn forget<E, R>(&self, operation: &'static str, error: SdkError<E, R>) -> Error
    where
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
        R: fmt::Debug + Send + Sync + 'static,
    {
        *self.session.lock().await = None;
        Error::new(operation, self.name.as_str(), cause(error))
    }
}

/// What the service answered, in one line; it may be long, and another program may answer in its place.
fn cause<E, R>(error: SdkError<E, R>) -> BoxError
where
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
    R: fmt::Debug + Send + Sync + 'static,
{
    if let Some(service) = error.as_service_error()
        && let Some(code) = service.code()
    {
        let text = format!("the queue answered {code}: {}", service.message().unwrap_or("no reason"));
        let end = text.char_indices().nth(MAX_MESSAGE).map_or(text.len(), |(end, _)| end);
        return model::escape_name(&text[..end]).into();
    }
    match error.into_source() {
        Ok(source) => source,
        Err(error) => error.to_string().into(),
    }
}

fn seconds(time: Duration, longest: Duration) -> i32 {
    i32::try_from(time.min(longest).as_secs()).expect("no limit of SQS is longer than a day")
}

#[async_trait]
impl Queue for SqsQueue {
    fn name(&self) -> &str {
        &self.name
    }

    async fn receive(&self, wait: Duration, hidden: Duration) -> Result<Vec<Message>> {
        let operation = "receive from";
        let (client, url) = self.session(operation).await?;
        let request = client
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(BATCH as i32)
            .wait_time_seconds(seconds(wait, LONGEST_WAIT))
            .visibility_timeout(seconds(hidden, LONGEST_HIDDEN));
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return Err(self.forget(operation, error).await),
        };
        let read = |message: aws_sdk_sqs::types::Message| {
            Some(Message { id: message.message_id?, receipt: message.receipt_handle?, body: message.body.unwrap_or_default() })
        };
        Ok(answer.messages.unwrap_or_default().into_iter().take(BATCH).filter_map(read).collect())
    }

    async fn delete(&self, receipts: &[String]) -> Result<()> {
        let operation = "delete messages of";
        let (client, url) = self.session(operation).await?;
        let entry = |(index, receipt): (usize, &String)| {
            DeleteMessageBatchRequestEntry::builder()
                .id(index.to_string())
                .receipt_handle(receipt)
                .build()
                .expect("id and receipt are given")
        };
        let entries = receipts.iter().take(BATCH).enumerate().map(entry).collect();
        match client.delete_message_batch().queue_url(url).set_entries(Some(entries)).send().await {
            Ok(answer) => refused(answer.failed).map_err(|why| Error::new(operation, self.name.as_str(), why)),
            Err(error) => Err(self.forget(operation, error).await),
        }
    }

    async fn hide(&self, receipts: &[String], hidden: Duration) -> Result<()> {
        let operation = "hold messages of";
        let (client, url) = self.session(operation).await?;
        let hidden = seconds(hidden, LONGEST_HIDDEN);
        let entry = |(index, receipt): (usize, &String)| {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(index.to_string()).receipt_handle(receipt);
            entry.visibility_timeout(hidden).build().expect("id and receipt are given")
        };
        let entries = receipts.iter().take(BATCH).enumerate().map(entry).collect();
        match client.change_message_visibility_batch().queue_url(url).set_entries(Some(entries)).send().await {
            Ok(answer) => refused(answer.failed).map_err(|why| Error::new(operation, self.name.as_str(), why)),
            Err(error) => Err(self.forget(operation, error).await),
        }
    }
}

/// A failure of the service's own is worth another try; a receipt that it refuses stays refused.
fn refused(failed: Vec<aws_sdk_sqs::types::BatchResultErrorEntry>) -> std::result::Result<(), BoxError> {
    let Some(failure) = failed.iter().find(|entry| !entry.sender_fault || entry.code.contains("AccessDenied")) else { return Ok(()) };
    let code: String = failure.code.chars().take(MAX_MESSAGE).collect();
    Err(format!("the queue answered {}", model::escape_name(&code)).into())
}
