//! One control connection: greeting, commands in order, hooks and scripts around them.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::behaviour::{Behaviour, LoginRefusal};
use super::control::{Control, over};
use super::operation::{Action, Operation};
use super::recorder::Event;
use super::script::{Script, Step, pieces};
use super::{Security, Shared, data};
use crate::sftp::normalise;

/// Time for a handshake, and for the client to come to a data connection.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// An answer, ready to be sent; empty for none. An error is the end of the connection.
pub(super) type Answer = io::Result<Vec<u8>>;

pub(super) fn reply(code: u16, text: impl AsRef<str>) -> Vec<u8> {
    format!("{code} {}\r\n", text.as_ref()).into_bytes()
}

pub(super) struct Session {
    pub shared: Arc<Shared>,
    pub number: u64,
    pub control: Control,
    pub behaviour: Arc<Behaviour>,
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// Of this login only: the control connection's and the data connections'.
    pub settings: [Arc<rustls::ServerConfig>; 2],
    pub user: Vec<u8>,
    pub logged_in: bool,
    pub directory: Vec<u8>,
    pub binary: bool,
    pub restart: u64,
    pub protected: bool,
    pub rename_from: Option<Vec<u8>>,
    pub data: Option<data::Setup>,
    pub data_opened: usize,
    pub hash: String,
    /// Commands that came while data moved.
    pub pending: VecDeque<Vec<u8>>,
    pub quitting: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        let recorder = &self.shared.recorder;
        recorder.connections.down();
        if self.logged_in {
            recorder.logins.down();
        }
        recorder.saw(Event::Closed { connection: self.number, sent: self.control.sent });
    }
}

pub(super) async fn serve(shared: Arc<Shared>, number: u64, stream: TcpStream) {
    let behaviour = shared.behaviour();
    let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else { return };
    let Ok(settings) = shared.certificate.settings(behaviour.tls, behaviour.tickets) else { return };
    shared.recorder.connections.up();
    shared.recorder.saw(Event::Connected { connection: number, peer });
    let script = shared.take_script();
    let mut session = Session {
        shared,
        number,
        control: Control::new(stream),
        behaviour,
        local,
        peer,
        settings,
        user: Vec::new(),
        logged_in: false,
        directory: b"/".to_vec(),
        binary: false,
        restart: 0,
        protected: false,
        rename_from: None,
        data: None,
        data_opened: 0,
        hash: "SHA-256".to_owned(),
        pending: VecDeque::new(),
        quitting: false,
    };
    // An error is the end of this connection; `Recorder` has what led to it.
    let _ = session.run(script).await;
}

impl Session {
    async fn run(&mut self, script: Option<Script>) -> io::Result<()> {
        if self.shared.security == Security::Implicit {
            self.secure().await?;
            self.protected = true;
        }
        if let Some(script) = script {
            let serves = script.serves;
            self.follow(script.steps).await?;
            if !serves {
                return Ok(());
            }
        } else {
            self.answer("CONNECT", b"").await?;
        }
        while !self.quitting {
            let line = match self.pending.pop_front() {
                Some(line) => line,
                None => match self.control.line().await? {
                    Some(line) => line,
                    None => return Ok(()),
                },
            };
            self.behaviour = self.shared.behaviour();
            self.record_command(&line);
            let (verb, argument) = split(&line);
            self.answer(&verb, argument).await?;
        }
        self.control.finish().await;
        Ok(())
    }

    pub fn record_command(&self, line: &[u8]) {
        let (verb, argument) = split(line);
        let secure = self.control.is_secure();
        let line = if verb == "PASS" { format!("PASS {}", shown(&verb, argument)) } else { String::from_utf8_lossy(line).into_owned() };
        self.shared.recorder.saw(Event::Command { connection: self.number, line, secure });
    }

    async fn answer(&mut self, verb: &str, argument: &[u8]) -> io::Result<()> {
        let operation = self.operation(verb, argument);
        let answer = match self.shared.action(&operation) {
            Action::Proceed => self.perform(verb, argument, None).await?,
            Action::Data(steps) => self.perform(verb, argument, Some(steps)).await?,
            Action::Refuse(code, text) => {
                self.data = None;
                reply(code, text)
            }
            Action::DoneThenRefuse(code, text) => {
                self.perform(verb, argument, None).await?;
                reply(code, text)
            }
            Action::Disconnect => return Err(over()),
            Action::DoneThenDisconnect => {
                self.perform(verb, argument, None).await?;
                return Err(over());
            }
            Action::Delay(time) => {
                tokio::time::sleep(time).await;
                self.perform(verb, argument, None).await?
            }
            Action::Silent => {
                self.perform(verb, argument, None).await?;
                Vec::new()
            }
            Action::Ignore => Vec::new(),
            Action::Raw(bytes) => bytes.to_vec(),
            Action::DoneThenRaw(bytes) => {
                self.perform(verb, argument, None).await?;
                bytes.to_vec()
            }
            Action::DoneThenAlso(bytes) => [self.perform(verb, argument, None).await?, bytes.to_vec()].concat(),
            Action::Steps(steps) => {
                self.follow(steps).await?;
                Vec::new()
            }
        };
        self.say(&answer).await
    }

    fn operation(&self, verb: &str, argument: &[u8]) -> Operation {
        let (mut verb, mut named) = (verb.to_owned(), argument);
        let mut shown = shown(&verb, argument);
        if verb == "SITE" {
            let (sub, rest) = split(argument);
            verb = format!("SITE {sub}");
            shown = String::from_utf8_lossy(rest).into_owned();
            named = rest.splitn(2, |byte| *byte == b' ').nth(1).unwrap_or_default();
        } else if verb == "MFMT" {
            named = argument.splitn(2, |byte| *byte == b' ').nth(1).unwrap_or_default();
        }
        const ABOUT_A_PATH: [&str; 21] = [
            "STOR",
            "RETR",
            "APPE",
            "SIZE",
            "MDTM",
            "MFMT",
            "MLST",
            "MLSD",
            "LIST",
            "NLST",
            "RNFR",
            "RNTO",
            "DELE",
            "MKD",
            "RMD",
            "CWD",
            "HASH",
            "XSHA256",
            "XMD5",
            "XCRC",
            "SITE CHMOD",
        ];
        let path = ABOUT_A_PATH.contains(&verb.as_str()).then(|| String::from_utf8_lossy(&self.path(named)).into());
        Operation { number: self.shared.recorder.next_operation(), connection: self.number, verb, argument: shown, path }
    }

    /// What the client means: absolute, plain, and changed as the behaviour wants names changed.
    pub fn path(&self, argument: &[u8]) -> Vec<u8> {
        let path = match argument {
            [b'/', ..] => normalise(argument),
            _ => normalise(&[&self.directory[..], b"/", argument].concat()),
        };
        super::listing::stored_name(&path, self.behaviour.names)
    }

    /// Sends an answer and records its last line.
    pub async fn say(&mut self, answer: &[u8]) -> io::Result<()> {
        if answer.is_empty() {
            return Ok(());
        }
        if !self.behaviour.latency.is_zero() {
            tokio::time::sleep(self.behaviour.latency).await;
        }
        let line = answer.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()).unwrap_or_default();
        let line = String::from_utf8_lossy(&line[..line.len().min(200)]).trim_end().to_owned();
        self.shared.recorder.saw(Event::Answer { connection: self.number, line });
        let plain: Vec<u8>;
        let mut answer = answer;
        if self.behaviour.bare_line_feeds {
            plain = answer.iter().copied().filter(|byte| *byte != b'\r').collect();
            answer = &plain;
        }
        if self.behaviour.byte_by_byte { self.send_by_byte(answer).await } else { self.control.send(answer).await }
    }

    async fn send_by_byte(&mut self, bytes: &[u8]) -> io::Result<()> {
        for byte in bytes {
            self.control.send(&[*byte]).await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    pub async fn secure(&mut self) -> io::Result<()> {
        let settings = self.settings[0].clone();
        let handshake = tokio::time::timeout(PATIENCE, self.control.secure(settings)).await;
        match handshake.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(tls) => self.shared.recorder.saw(Event::Secured { connection: self.number, tls }),
            Err(error) => {
                self.shared.recorder.saw(Event::HandshakeFailed { connection: self.number, error: error.to_string() });
                return Err(over());
            }
        }
        Ok(())
    }

    /// 421 for one connection too many, otherwise 220.
    pub async fn greeting(&mut self) -> Answer {
        let limit = self.behaviour.logins.filter(|limit| limit.refusal == LoginRefusal::Greeting);
        if limit.is_some_and(|limit| self.shared.recorder.connections.now() > limit.count) {
            self.shared.recorder.refused_logins.fetch_add(1, Ordering::SeqCst);
            self.quitting = true;
            return Ok(reply(421, "There are too many connections from your internet address."));
        }
        Ok(reply(220, "FileFerry sandbox"))
    }

    /// Lets the rightly authenticated in, as far as the limit allows.
    pub fn admit(&mut self) -> Vec<u8> {
        if self.logged_in {
            return reply(230, "Already logged in");
        }
        let limit = self.behaviour.logins.filter(|limit| limit.refusal != LoginRefusal::Greeting);
        let recorder = &self.shared.recorder;
        self.logged_in = recorder.logins.up_to(limit.map_or(usize::MAX, |limit| limit.count));
        if self.logged_in {
            return reply(230, "Logged in");
        }
        recorder.refused_logins.fetch_add(1, Ordering::SeqCst);
        if limit.is_some_and(|limit| limit.refusal == LoginRefusal::Password) {
            self.quitting = true;
            return reply(421, "Too many users logged in");
        }
        reply(530, "Too many users logged in")
    }

    async fn follow(&mut self, steps: Vec<Step>) -> io::Result<()> {
        for step in steps {
            match step {
                Step::Send(bytes) => self.control.send(&bytes).await?,
                Step::SendByByte(bytes) => self.send_by_byte(&bytes).await?,
                Step::Repeat { bytes, times } => {
                    for piece in pieces(&bytes, times) {
                        self.control.send(&piece).await?;
                    }
                }
                Step::Expect(prefix) => {
                    let line = self.control.line().await?.ok_or_else(over)?;
                    self.record_command(&line);
                    if !line.starts_with(prefix.as_bytes()) {
                        let line = shown(&split(&line).0, &line);
                        self.shared.recorder.saw(Event::Unexpected { connection: self.number, expected: prefix.into_owned(), line });
                        return Err(over());
                    }
                }
                Step::ReadLine => {
                    let line = self.control.line().await?.ok_or_else(over)?;
                    self.record_command(&line);
                }
                Step::Secure => self.secure().await?,
                Step::Listen { pasv, steps } => {
                    let listener = TcpListener::bind((self.local.ip(), 0)).await?;
                    let answer = data::passive_answer(listener.local_addr()?, pasv);
                    tokio::spawn(data::scripted(listener, steps));
                    self.say(&answer).await?;
                }
                Step::Pause(time) => tokio::time::sleep(time).await,
                Step::Silence => {
                    while let Some(line) = self.control.line().await? {
                        self.record_command(&line);
                    }
                    return Err(over());
                }
                Step::Close => return Err(over()),
                Step::Reset => {
                    self.control.reset();
                    return Err(over());
                }
            }
        }
        Ok(())
    }
}

/// The command in capitals and what follows its first space.
pub(super) fn split(line: &[u8]) -> (String, &[u8]) {
    let end = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    (String::from_utf8_lossy(&line[..end]).to_ascii_uppercase(), line.get(end + 1..).unwrap_or_default())
}

fn shown(verb: &str, argument: &[u8]) -> String {
    if verb == "PASS" { "***".to_owned() } else { String::from_utf8_lossy(argument).into_owned() }
}
