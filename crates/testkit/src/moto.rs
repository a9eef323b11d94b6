//! The server of moto: SQS, and an S3 that sends its notifications there, in a Python of their own.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::asyncssh::virtual_environment;
use crate::process::Process;

/// Whose queues and buckets they are, unless a request says otherwise.
const ACCOUNT: &str = "123456789012";
const REGION: &str = "us-east-1";

/// A running server; everything in it is lost with it.
#[derive(Debug)]
pub struct Moto {
    process: Process,
    _home: TempDir,
    port: u16,
}

impl Moto {
    pub async fn start() -> anyhow::Result<Self> {
        let program = virtual_environment().join("bin/moto_server");
        ensure!(program.exists(), "the Python package moto is not installed for tests: run `make setup`");
        let home = tempfile::Builder::new().prefix("moto-").tempdir()?;
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", "0"]).current_dir(home.path());
        let mut process = Process::spawn(&mut command, &home.path().join("log"))?;
        let announced = |process: &Process| {
            let log = process.log();
            let port = log.split("Running on http://127.0.0.1:").nth(1)?;
            port.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        };
        let port = process.wait_until(Duration::from_secs(60), announced).await?;
        Ok(Self { process, _home: home, port })
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The URL that a queue of this name has, or will have.
    pub fn queue_url(&self, name: &str) -> String {
        format!("{}/{ACCOUNT}/{name}", self.endpoint())
    }

    pub async fn create_queue(&self, name: &str) -> anyhow::Result<String> {
        self.sqs("CreateQueue", json!({"QueueName": name})).await?;
        Ok(self.queue_url(name))
    }

    pub async fn send(&self, queue: &str, body: &str) -> anyhow::Result<()> {
        self.sqs("SendMessage", json!({"QueueUrl": queue, "MessageBody": body})).await.map(drop)
    }

    /// Messages that can be received, and those that somebody has received and not deleted.
    pub async fn counts(&self, queue: &str) -> anyhow::Result<(u64, u64)> {
        let answer = self.sqs("GetQueueAttributes", json!({"QueueUrl": queue, "AttributeNames": ["All"]})).await?;
        let count = |name: &str| answer["Attributes"][name].as_str().and_then(|text| text.parse().ok()).context("a count");
        Ok((count("ApproximateNumberOfMessages")?, count("ApproximateNumberOfMessagesNotVisible")?))
    }

    /// A bucket that tells a queue of each object that is written to it.
    pub async fn create_bucket(&self, bucket: &str, queue: &str) -> anyhow::Result<()> {
        self.s3(&format!("/{bucket}"), b"").await?;
        let versions = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
        self.s3(&format!("/{bucket}?versioning"), versions).await?;
        let arn = format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}");
        let notify = format!(
            "<NotificationConfiguration><QueueConfiguration><Queue>{arn}</Queue><Event>s3:ObjectCreated:*</Event></QueueConfiguration></NotificationConfiguration>"
        );
        self.s3(&format!("/{bucket}?notification"), notify.as_bytes()).await
    }

    /// `key` as it stands in a URL.
    pub async fn put(&self, bucket: &str, key: &str, content: &[u8]) -> anyhow::Result<()> {
        self.s3(&format!("/{bucket}/{key}"), content).await
    }

    async fn sqs(&self, action: &str, body: Value) -> anyhow::Result<Value> {
        let headers = format!("Content-Type: application/x-amz-json-1.0\r\nX-Amz-Target: AmazonSQS.{action}\r\n");
        let (status, answer) = self.ask("POST", "/", "sqs", &headers, body.to_string().as_bytes()).await?;
        ensure!(status == 200, "{action}: {status} {answer}");
        Ok(serde_json::from_str(&answer)?)
    }

    async fn s3(&self, path: &str, body: &[u8]) -> anyhow::Result<()> {
        let (status, answer) = self.ask("PUT", path, "s3", "", body).await?;
        ensure!(status == 200, "PUT {path}: {status} {answer}");
        Ok(())
    }

    /// The server believes any signature; its scope says which service is meant.
    async fn ask(&self, method: &str, path: &str, service: &str, headers: &str, body: &[u8]) -> anyhow::Result<(u16, String)> {
        let scope = format!("AKIATEST/20260101/{REGION}/{service}/aws4_request");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}Authorization: AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0\r\n\r\n",
            self.address(),
            body.len()
        );
        let answer = tokio::time::timeout(Duration::from_secs(30), async {
            let mut stream = TcpStream::connect(self.address()).await?;
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(body).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            std::io::Result::Ok(String::from_utf8_lossy(&answer).into_owned())
        });
        let answer = answer.await??;
        let status = answer.split(' ').nth(1).and_then(|text| text.parse().ok()).context("a status")?;
        Ok((status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
    }
}
