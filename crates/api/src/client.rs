//! The typed client: one connection to the service's Unix socket for each call.

use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use model::{Name, TransferId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::connectors::{Connector, Connectors, PutConnector, Tested, Trust};
use crate::health::Health;
use crate::problem::Problem;
use crate::secrets::{PutSecret, Rekeyed, Secrets};
use crate::sources::{PutSource, Source, Sources};
use crate::transfers::{History, IDEMPOTENCY_KEY, REPLAYED, SubmitTransfer, Transfer, Transfers};

/// More than any answer that is read whole.
const LONGEST_ANSWER: usize = 256 << 20;
/// More than any line of a stream.
const LONGEST_LINE: usize = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens at the socket.
    #[error("no service is running on {}: {source}", .data.display())]
    NotRunning { data: PathBuf, source: std::io::Error },
    /// The service answered, and refused.
    #[error("{}", .0.detail)]
    Refused(Box<Problem>),
    /// The connection ended, or the answer was not one of ours.
    #[error("the service on {} did not answer as it should: {why}", .data.display())]
    Broken { data: PathBuf, why: String },
}

type Result<T> = std::result::Result<T, ClientError>;

#[derive(Debug, Clone)]
pub struct Client {
    data: PathBuf,
}

/// What was submitted, and whether an earlier request with the same key had done it.
#[derive(Debug, Clone, PartialEq)]
pub struct Submitted {
    pub transfer: Transfer,
    pub replayed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steer {
    Cancel,
    Pause,
    Resume,
    Retry,
    Approve,
}

impl Steer {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Retry => "retry",
            Self::Approve => "approve",
        }
    }
}

impl Client {
    /// The service that runs on this data directory.
    pub fn new(data: &Path) -> Self {
        Self { data: data.to_owned() }
    }

    pub async fn health(&self) -> Result<Health> {
        self.get("/api/health").await
    }

    pub async fn submit(&self, body: &SubmitTransfer, idempotency_key: Option<&str>) -> Result<Submitted> {
        let headers: Vec<(&str, &str)> = idempotency_key.iter().map(|key| (IDEMPOTENCY_KEY, *key)).collect();
        let answer = self.send(Method::POST, "/api/transfer", &headers, Some(self.json(body)?)).await?;
        let replayed = answer.headers().contains_key(REPLAYED);
        Ok(Submitted { transfer: self.read(answer).await?, replayed })
    }

    pub async fn transfers(&self, limit: u32, before: Option<&TransferId>) -> Result<Transfers> {
        let before = before.map_or(String::new(), |id| format!("&before={id}"));
        self.get(&format!("/api/transfer?limit={limit}{before}")).await
    }

    pub async fn transfer(&self, id: &TransferId) -> Result<Transfer> {
        self.get(&format!("/api/transfer/{id}")).await
    }

    pub async fn steer(&self, id: &TransferId, what: Steer) -> Result<Transfer> {
        let answer = self.send(Method::POST, &format!("/api/transfer/{id}/{}", what.as_str()), &[], None).await?;
        self.read(answer).await
    }

    pub async fn history(&self, id: &TransferId) -> Result<History> {
        self.get(&format!("/api/transfer/{id}/history")).await
    }

    /// The signed receipts, a line for each file, exactly as they were signed.
    pub async fn receipts(&self, id: &TransferId) -> Result<Lines> {
        self.lines(&format!("/api/transfer/{id}/receipt")).await
    }

    /// What was done with the transfer: the lines of its chain in the audit, exactly as they were written.
    pub async fn audit_of(&self, id: &TransferId) -> Result<Lines> {
        self.lines(&format!("/api/transfer/{id}/audit")).await
    }

    /// The whole audit: all seals, then all entries chain by chain.
    pub async fn audit(&self) -> Result<Lines> {
        self.lines("/api/audit").await
    }

    /// Lines of [`crate::transfers::Seen`] until the transfer rests.
    pub async fn watch(&self, id: &TransferId) -> Result<Lines> {
        self.lines(&format!("/api/transfer/{id}/events")).await
    }

    pub async fn connectors(&self) -> Result<Connectors> {
        self.get("/api/connectors").await
    }

    pub async fn connector(&self, name: &Name) -> Result<Connector> {
        self.get(&format!("/api/connectors/{name}")).await
    }

    pub async fn put_connector(&self, name: &Name, body: &PutConnector) -> Result<Connector> {
        let answer = self.send(Method::PUT, &format!("/api/connectors/{name}"), &[], Some(self.json(body)?)).await?;
        self.read(answer).await
    }

    pub async fn remove_connector(&self, name: &Name) -> Result<()> {
        self.send(Method::DELETE, &format!("/api/connectors/{name}"), &[], None).await.map(drop)
    }

    pub async fn trust(&self, name: &Name, fingerprint: &str) -> Result<Connector> {
        let body = self.json(&Trust { fingerprint: fingerprint.to_owned() })?;
        let answer = self.send(Method::POST, &format!("/api/connectors/{name}/trust"), &[], Some(body)).await?;
        self.read(answer).await
    }

    pub async fn set_enabled(&self, name: &Name, enabled: bool) -> Result<Connector> {
        let word = if enabled { "enable" } else { "disable" };
        let answer = self.send(Method::POST, &format!("/api/connectors/{name}/{word}"), &[], None).await?;
        self.read(answer).await
    }

    pub async fn test_connector(&self, name: &Name) -> Result<Tested> {
        let answer = self.send(Method::POST, &format!("/api/connectors/{name}/test"), &[], None).await?;
        self.read(answer).await
    }

    pub async fn sources(&self) -> Result<Sources> {
        self.get("/api/sources").await
    }

    pub async fn source(&self, name: &Name) -> Result<Source> {
        self.get(&format!("/api/sources/{name}")).await
    }

    pub async fn put_source(&self, name: &Name, body: &PutSource) -> Result<Source> {
        let answer = self.send(Method::PUT, &format!("/api/sources/{name}"), &[], Some(self.json(body)?)).await?;
        self.read(answer).await
    }

    pub async fn remove_source(&self, name: &Name) -> Result<()> {
        self.send(Method::DELETE, &format!("/api/sources/{name}"), &[], None).await.map(drop)
    }

    pub async fn secrets(&self) -> Result<Secrets> {
        self.get("/api/secrets").await
    }

    pub async fn put_secret(&self, name: &Name, value: &str) -> Result<()> {
        let body = self.json(&PutSecret { value: value.to_owned() })?;
        self.send(Method::PUT, &format!("/api/secrets/{name}"), &[], Some(body)).await.map(drop)
    }

    pub async fn remove_secret(&self, name: &Name) -> Result<()> {
        self.send(Method::DELETE, &format!("/api/secrets/{name}"), &[], None).await.map(drop)
    }

    pub async fn rekey(&self) -> Result<Rekeyed> {
        let answer = self.send(Method::POST, "/api/secrets-key/rotate", &[], None).await?;
        self.read(answer).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let answer = self.send(Method::GET, path, &[], None).await?;
        self.read(answer).await
    }

    async fn lines(&self, path: &str) -> Result<Lines> {
        let answer = self.send(Method::GET, path, &[], None).await?;
        Ok(Lines { data: self.data.clone(), body: answer.into_body(), read: BytesMut::new(), searched: 0 })
    }

    fn json(&self, body: &impl Serialize) -> Result<Bytes> {
        serde_json::to_vec(body).map(Bytes::from).map_err(|e| self.broken(e))
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<Bytes>) -> Result<Response<Incoming>> {
        let socket = self.data.join(crate::SOCKET);
        let stream = UnixStream::connect(&socket).await.map_err(|source| ClientError::NotRunning { data: self.data.clone(), source })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.broken(e))?;
        // Ends with the answer's body.
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "fileferry");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(Full::new(body.unwrap_or_default())).map_err(|e| self.broken(e))?;
        let answer = sender.send_request(request).await.map_err(|e| self.broken(e))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let bytes = self.whole(answer).await?;
        match serde_json::from_slice(&bytes) {
            Ok(problem) => Err(ClientError::Refused(problem)),
            Err(_) => Err(self.broken(format!("it answered {status}"))),
        }
    }

    async fn read<T: DeserializeOwned>(&self, answer: Response<Incoming>) -> Result<T> {
        let bytes = self.whole(answer).await?;
        serde_json::from_slice(&bytes).map_err(|e| self.broken(e))
    }

    async fn whole(&self, answer: Response<Incoming>) -> Result<Bytes> {
        let body = http_body_util::Limited::new(answer.into_body(), LONGEST_ANSWER);
        body.collect().await.map(|collected| collected.to_bytes()).map_err(|e| self.broken(e))
    }

    fn broken(&self, why: impl std::fmt::Display) -> ClientError {
        ClientError::Broken { data: self.data.clone(), why: why.to_string() }
    }
}

/// An answer that comes line by line.
#[derive(Debug)]
pub struct Lines {
    data: PathBuf,
    body: Incoming,
    read: BytesMut,
    /// Where in `read` there is certainly no end of a line.
    searched: usize,
}

impl Lines {
    /// `None` at the end.
    pub async fn next(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(end) = self.read[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(self.searched + end + 1);
                self.searched = 0;
                return self.text(&line[..line.len() - 1]).map(Some);
            }
            self.searched = self.read.len();
            if self.searched > LONGEST_LINE {
                return Err(self.broken("a line has no end"));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.read.extend_from_slice(&data);
                    }
                }
                Some(Err(e)) => return Err(self.broken(e)),
                None if self.read.is_empty() => return Ok(None),
                None => {
                    let line = self.read.split();
                    self.searched = 0;
                    return self.text(&line).map(Some);
                }
            }
        }
    }

    fn text(&self, line: &[u8]) -> Result<String> {
        String::from_utf8(line.to_vec()).map_err(|e| self.broken(e))
    }

    fn broken(&self, why: impl std::fmt::Display) -> ClientError {
        ClientError::Broken { data: self.data.clone(), why: why.to_string() }
    }
}
