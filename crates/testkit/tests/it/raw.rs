//! A client that sends SFTP packets as they are, right or wrong.

use std::sync::Arc;
use std::time::Duration;

use russh::client::{self, AuthResult, Handle};
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Channel, ChannelMsg};
use testkit::sftp::SftpServer;

#[derive(Debug)]
pub struct TrustAll;

impl client::Handler for TrustAll {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

pub async fn connect(server: &SftpServer) -> Handle<TrustAll> {
    client::connect(Arc::new(client::Config::default()), server.address(), TrustAll).await.unwrap()
}

pub async fn with_key(server: &SftpServer, handle: &mut Handle<TrustAll>) -> AuthResult {
    let key = PrivateKey::read_openssh_file(server.client_key()).unwrap();
    handle.authenticate_publickey(server.user(), PrivateKeyWithHashAlg::new(Arc::new(key), None)).await.unwrap()
}

pub struct Raw {
    _handle: Option<Handle<TrustAll>>,
    channel: Channel<client::Msg>,
    buffer: Vec<u8>,
    next_id: u32,
    pub extensions: Vec<u8>,
}

/// Type, id and the rest of a reply.
#[derive(Debug, Clone, PartialEq)]
pub struct Packet {
    pub kind: u8,
    pub id: u32,
    pub rest: Vec<u8>,
}

impl Packet {
    pub fn status(&self) -> u32 {
        assert_eq!(self.kind, 101, "{self:?}");
        u32::from_be_bytes(self.rest[..4].try_into().unwrap())
    }

    pub fn string(&self) -> Vec<u8> {
        assert!(matches!(self.kind, 102 | 103), "{self:?}");
        self.rest[4..].to_vec()
    }
}

pub fn text(value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    [&(value.len() as u32).to_be_bytes()[..], value].concat()
}

impl Raw {
    pub async fn start(server: &SftpServer) -> Raw {
        let mut handle = connect(server).await;
        assert!(with_key(server, &mut handle).await.success());
        let channel = handle.channel_open_session().await.unwrap();
        let mut raw = Self::on(channel).await;
        raw._handle = Some(handle);
        raw
    }

    pub async fn on(channel: Channel<client::Msg>) -> Raw {
        channel.request_subsystem(true, "sftp").await.unwrap();
        let mut raw = Raw { _handle: None, channel, buffer: Vec::new(), next_id: 0, extensions: Vec::new() };
        raw.send_bytes(&[0, 0, 0, 5, 1, 0, 0, 0, 3]).await;
        let version = raw.receive().await.unwrap();
        assert_eq!((version.kind, version.id), (2, 3));
        raw.extensions = version.rest;
        raw
    }

    pub fn announces(&self, name: &str) -> bool {
        self.extensions.windows(name.len()).any(|window| window == name.as_bytes())
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        let _ = self.channel.data_bytes(bytes.to_vec()).await;
    }

    pub async fn send(&mut self, kind: u8, body: Vec<u8>) -> u32 {
        self.next_id += 1;
        let id = self.next_id;
        let packet = [&(body.len() as u32 + 5).to_be_bytes()[..], &[kind], &id.to_be_bytes(), &body].concat();
        self.send_bytes(&packet).await;
        id
    }

    /// The next bytes as they came, or `None` when the channel ended.
    pub async fn receive_bytes(&mut self) -> Option<Vec<u8>> {
        loop {
            match self.channel.wait().await {
                Some(ChannelMsg::Data { data }) => return Some(data.to_vec()),
                Some(ChannelMsg::Eof | ChannelMsg::Close) | None => return None,
                Some(_) => {}
            }
        }
    }

    pub async fn receive(&mut self) -> Option<Packet> {
        loop {
            if self.buffer.len() >= 4 {
                let length = u32::from_be_bytes(self.buffer[..4].try_into().unwrap()) as usize;
                if self.buffer.len() >= 4 + length {
                    let packet: Vec<u8> = self.buffer.drain(..4 + length).collect();
                    let id = u32::from_be_bytes(packet[5..9].try_into().unwrap());
                    return Some(Packet { kind: packet[4], id, rest: packet[9..].to_vec() });
                }
            }
            let bytes = self.receive_bytes().await?;
            self.buffer.extend(bytes);
        }
    }

    /// Nothing comes for a while.
    pub async fn hears_nothing(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(150), self.receive()).await.is_err()
    }

    pub async fn ask(&mut self, kind: u8, body: Vec<u8>) -> Packet {
        let id = self.send(kind, body).await;
        let packet = self.receive().await.expect("the channel is open");
        assert_eq!(packet.id, id);
        packet
    }

    pub async fn open(&mut self, path: &str, flags: u32) -> Packet {
        self.ask(3, [text(path), flags.to_be_bytes().to_vec(), vec![0; 4]].concat()).await
    }

    /// Creates or empties, and returns the handle.
    pub async fn create(&mut self, path: &str) -> Vec<u8> {
        self.open(path, 2 | 8 | 16).await.string()
    }

    pub fn write_body(handle: &[u8], offset: u64, data: &[u8]) -> Vec<u8> {
        [text(handle), offset.to_be_bytes().to_vec(), text(data)].concat()
    }

    pub async fn write(&mut self, handle: &[u8], offset: u64, data: &[u8]) -> u32 {
        self.ask(6, Self::write_body(handle, offset, data)).await.status()
    }

    pub async fn close(&mut self, handle: &[u8]) -> u32 {
        self.ask(4, text(handle)).await.status()
    }

    pub async fn rename(&mut self, from: &str, to: &str) -> u32 {
        self.ask(18, [text(from), text(to)].concat()).await.status()
    }

    pub async fn extended(&mut self, name: &str, body: Vec<u8>) -> Packet {
        self.ask(200, [text(name), body].concat()).await
    }

    /// Puts a file with writes of `chunk` bytes.
    pub async fn put(&mut self, path: &str, data: &[u8], chunk: usize) {
        let handle = self.create(path).await;
        for (number, piece) in data.chunks(chunk).enumerate() {
            assert_eq!(self.write(&handle, (number * chunk) as u64, piece).await, 0);
        }
        assert_eq!(self.close(&handle).await, 0);
    }
}
