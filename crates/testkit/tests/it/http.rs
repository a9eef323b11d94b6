//! A small HTTP/1.1 client that shows exactly what came, truncated answers included.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// All bytes that `Content-Length` promised have come.
    pub complete: bool,
    /// How the connection ended, if it did before the body was complete.
    pub error: Option<std::io::ErrorKind>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(candidate, _)| candidate == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn has(&self, text: &str) -> bool {
        self.text().contains(text)
    }
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// `None` when the connection ended before an answer.
    pub async fn try_send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Answer> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: s3\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        self.stream.write_all(head.as_bytes()).await.unwrap();
        self.stream.write_all(body).await.unwrap();
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            if self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                return None;
            }
        };
        let head = String::from_utf8(self.buffer.drain(..end + 4).collect()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut answer = Answer { status, headers, body: Vec::new(), complete: false, error: None };
        let length: usize = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        let length = if method == "HEAD" || status == 304 { 0 } else { length };
        while self.buffer.len() < length {
            match tokio::time::timeout(Duration::from_millis(500), self.stream.read_buf(&mut self.buffer)).await {
                Ok(Ok(0)) => {
                    answer.error = Some(std::io::ErrorKind::UnexpectedEof);
                    break;
                }
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    answer.error = Some(error.kind());
                    break;
                }
                Err(_) => {
                    answer.error = Some(std::io::ErrorKind::TimedOut);
                    break;
                }
            }
        }
        answer.complete = self.buffer.len() >= length;
        answer.body = self.buffer.drain(..length.min(self.buffer.len())).collect();
        Some(answer)
    }

    pub async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.try_send(method, path, headers, body).await.expect("an answer")
    }

    pub async fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send("GET", path, headers, b"").await
    }
}
