//! The control connection. It alone knows which commands wait for a reply, so that no reply is ever taken for the answer
//! to another command; where it cannot know that any more, the session is lost.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroizing;

use super::error::{Failure, Lost};
use super::reply::{Parser, Reply};
use super::stream::Stream;
use crate::ErrorKind;
use crate::road::Target;

/// The reply of an interrupted request is waited for so long before the session is given up. pyftpdlib never answers an
/// upload that was cut.
const SETTLE_TIME: Duration = Duration::from_secs(4);
const MAX_PRELIMINARY: usize = 100;

/// One command, without its line end. Passwords pass through here: it is wiped.
#[derive(Clone)]
pub(super) struct Command(Zeroizing<Vec<u8>>);

impl Command {
    pub fn word(verb: &str) -> Self {
        Self(Zeroizing::new(verb.as_bytes().to_vec()))
    }

    /// A command with one argument, byte for byte. Nothing in it can end the line and begin another command.
    pub fn new(verb: &str, argument: impl AsRef<[u8]>) -> Result<Self, Failure> {
        let argument = argument.as_ref();
        if argument.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')) {
            return Err(Failure::refused(ErrorKind::DestNameInvalid, "the name would end the command that carries it"));
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(verb.len() + argument.len() + 3));
        bytes.extend_from_slice(verb.as_bytes());
        bytes.push(b' ');
        for &byte in argument {
            // 255 is TELNET's escape character and doubled to be itself (RFC 854); UTF-8 has no such byte, but the login
            // directory of an old server may.
            if byte == 0xff {
                bytes.push(0xff);
            }
            bytes.push(byte);
        }
        Ok(Self(bytes))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Command,
    /// A NOOP during a transfer, whose reply may come before or after the transfer's.
    KeepAlive,
}

#[derive(Debug)]
pub(super) struct Control {
    stream: Stream,
    parser: Parser,
    waiting: VecDeque<Sent>,
    /// A command was sent in part.
    torn: bool,
    /// Whom the stream leads to, past a proxy; `peer` is the next machine on the way.
    pub target: Target,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// When the last byte went either way.
    pub active: Instant,
}

impl Control {
    pub fn new(stream: Stream, target: Target) -> std::io::Result<Self> {
        let (peer, local) = (stream.tcp().peer_addr()?, stream.tcp().local_addr()?);
        let (parser, waiting) = (Parser::default(), VecDeque::new());
        Ok(Self { stream, parser, waiting, torn: false, target, peer, local, active: Instant::now() })
    }

    /// The stream under the connection, to put TLS on it. Bytes that came before that are no part of the session:
    /// whoever sits on the line could have sent them.
    pub fn into_stream(self) -> Result<Stream, Lost> {
        if self.parser.is_empty() && self.waiting.is_empty() {
            Ok(self.stream)
        } else {
            Err(Lost::new(
                ErrorKind::DestTls,
                "there are bytes in clear text behind the answer to AUTH TLS; somebody may have put them there",
            ))
        }
    }

    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    async fn fill(&mut self) -> Result<(), Lost> {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes).await {
            Ok(0) => Err(Lost::new(ErrorKind::NetworkReset, "the server closed the control connection")),
            Ok(length) => {
                self.parser.buffer().extend_from_slice(&bytes[..length]);
                self.active = Instant::now();
                Ok(())
            }
            Err(error) => Err(Lost::new(ErrorKind::NetworkReset, "the control connection broke").because(error)),
        }
    }

    /// The server's first reply, before any command.
    pub async fn greeting(&mut self) -> Result<Reply, Lost> {
        self.waiting.push_back(Sent::Command);
        self.last_reply().await
    }

    /// The next reply to a command, also a preliminary one. Dropping the future loses nothing: what has arrived stays.
    pub async fn reply(&mut self) -> Result<Reply, Lost> {
        loop {
            let Some(reply) = self.parser.next().map_err(Lost::protocol)? else {
                self.fill().await?;
                continue;
            };
            if reply.code == 421 {
                return Err(Lost::new(ErrorKind::NetworkReset, "the server ends the session").because(reply));
            }
            if reply.is_preliminary() {
                if self.waiting.is_empty() {
                    return Err(Lost::protocol(format!("nothing was asked; {reply}")));
                }
                return Ok(reply);
            }
            let keep_alive = self.waiting.iter().position(|sent| *sent == Sent::KeepAlive);
            match (keep_alive, self.waiting.front()) {
                // Servers answer a NOOP during a transfer at once, or after the transfer; with 200, or with 500 or 502
                // because they take nothing then. None of these ends a transfer.
                (Some(at), _) if matches!(reply.code, 200 | 500 | 502 | 503) => {
                    self.waiting.remove(at);
                    if self.waiting.is_empty() {
                        return Ok(reply);
                    }
                }
                (_, Some(Sent::Command)) => {
                    self.waiting.pop_front();
                    return Ok(reply);
                }
                _ => return Err(Lost::protocol(format!("nothing was asked; {reply}"))),
            }
        }
    }

    /// The reply that ends a command.
    pub async fn last_reply(&mut self) -> Result<Reply, Lost> {
        for _ in 0..MAX_PRELIMINARY {
            let reply = self.reply().await?;
            if !reply.is_preliminary() {
                return Ok(reply);
            }
        }
        Err(Lost::protocol("preliminary replies without end"))
    }

    pub async fn last_reply_within(&mut self, bound: Duration) -> Result<Reply, Lost> {
        match tokio::time::timeout(bound, self.last_reply()).await {
            Ok(reply) => reply,
            Err(_) => Err(Lost::stalled("the server's answer", bound)),
        }
    }

    /// Reads what earlier requests left unanswered, and makes sure that nothing else is in the line.
    pub async fn settle(&mut self) -> Result<(), Lost> {
        if self.torn {
            return Err(Lost::new(ErrorKind::NetworkReset, "a command was interrupted while it was sent"));
        }
        while !self.waiting.is_empty() {
            self.last_word().await?;
        }
        if self.parser.is_empty() {
            match self.fill().now_or_never() {
                None => return Ok(()),
                Some(Err(lost)) => return Err(lost),
                Some(Ok(())) => {}
            }
        }
        // Most often the farewell of a server that waited too long for us.
        match tokio::time::timeout(SETTLE_TIME, self.reply()).await {
            Ok(Err(lost)) => Err(lost),
            _ => Err(Lost::protocol("it answered without being asked")),
        }
    }

    /// The reply that ends a transfer that was cut, or another request that nobody waited for.
    pub async fn last_word(&mut self) -> Result<(), Lost> {
        let bounded = tokio::time::timeout(SETTLE_TIME, self.reply()).await;
        let reply = bounded.map_err(|_| Lost::stalled("the end of an interrupted request", SETTLE_TIME))??;
        if !reply.is_preliminary() || self.waiting.len() != 1 {
            return Ok(());
        }
        // Either the transfer was only about to begin, or this is Pure-FTPd, which forgets to change the code after a
        // cut download. The answer to a question that every server knows tells which.
        self.put(&[Command::word("NOOP")], Sent::Command, SETTLE_TIME).await?;
        if self.last_reply_within(SETTLE_TIME).await?.code == 200 {
            self.waiting.clear();
        }
        Ok(())
    }

    async fn put(&mut self, commands: &[Command], kind: Sent, bound: Duration) -> Result<(), Lost> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(commands.iter().map(|command| command.0.len() + 2).sum()));
        for command in commands {
            bytes.extend_from_slice(&command.0);
            bytes.extend_from_slice(b"\r\n");
        }
        self.torn = true;
        let sending = async {
            self.stream.write_all(&bytes).await?;
            self.stream.flush().await
        };
        match tokio::time::timeout(bound, sending).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                return Err(self.parting_words(Lost::new(ErrorKind::NetworkReset, "the control connection broke").because(error)).await);
            }
            Err(_) => return Err(Lost::new(ErrorKind::NetworkStalled, "the server takes no more commands")),
        }
        self.torn = false;
        self.active = Instant::now();
        self.waiting.extend(commands.iter().map(|_| kind));
        Ok(())
    }

    /// A server that hangs up may have said why.
    async fn parting_words(&mut self, lost: Lost) -> Lost {
        self.waiting.push_back(Sent::Command);
        match tokio::time::timeout(Duration::from_millis(200), self.reply()).await {
            Ok(Err(words)) if !matches!(words.kind, ErrorKind::DestProtocol) => words,
            _ => lost,
        }
    }

    /// Sends commands in one write. Their replies must be read, one each.
    pub async fn send(&mut self, commands: &[Command], bound: Duration) -> Result<(), Lost> {
        self.settle().await?;
        self.put(commands, Sent::Command, bound).await
    }

    /// One command and the reply that ends it.
    pub async fn ask(&mut self, command: Command, bound: Duration) -> Result<Reply, Lost> {
        self.send(&[command], bound).await?;
        self.last_reply_within(bound).await
    }

    /// Several commands and the replies that end them; sent together if `together`.
    pub async fn ask_all(&mut self, commands: &[Command], together: bool, bound: Duration) -> Result<Vec<Reply>, Lost> {
        let mut replies = Vec::with_capacity(commands.len());
        if together {
            self.send(commands, bound).await?;
            for _ in commands {
                replies.push(self.last_reply_within(bound).await?);
            }
        } else {
            for command in commands {
                replies.push(self.ask(command.clone(), bound).await?);
            }
        }
        Ok(replies)
    }

    /// A NOOP while a transfer runs.
    pub async fn keep_alive(&mut self, bound: Duration) -> Result<(), Lost> {
        self.put(&[Command::word("NOOP")], Sent::KeepAlive, bound).await
    }

    /// A command has not had its last reply yet.
    pub fn is_waiting(&self) -> bool {
        self.waiting.contains(&Sent::Command)
    }

    pub fn keep_alive_waits(&self) -> bool {
        self.waiting.contains(&Sent::KeepAlive)
    }

    /// Says goodbye without waiting long for the answer.
    pub async fn quit(mut self) {
        let farewell = async {
            self.put(&[Command::word("QUIT")], Sent::Command, Duration::from_secs(1)).await?;
            self.last_reply().await
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), farewell).await;
        let _ = tokio::time::timeout(Duration::from_secs(1), self.stream.shutdown()).await;
    }
}
