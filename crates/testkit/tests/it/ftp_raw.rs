//! A client that sends FTP commands as they are, right or wrong, and reads answers line by line.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use testkit::ftp_sandbox::{FtpServer, Security};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

pub type Wire = Either<TcpStream, Box<TlsStream<TcpStream>>>;

pub struct Raw {
    wire: Option<Wire>,
    buffer: Vec<u8>,
    address: SocketAddr,
    tls: TlsConnector,
    protected: bool,
}

/// Trusts the sandbox's authority; its sessions are its own.
pub fn connector(server: &FtpServer, versions: &[&'static rustls::SupportedProtocolVersion], resume: bool) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(server.authority()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    if !resume {
        config.resumption = rustls::client::Resumption::disabled();
    }
    Arc::new(config).into()
}

impl Raw {
    /// Connected, and protected where it is implicit; the greeting is not read.
    pub async fn connect(server: &FtpServer) -> Self {
        Self::with(server, connector(server, rustls::ALL_VERSIONS, true)).await
    }

    pub async fn with(server: &FtpServer, tls: TlsConnector) -> Self {
        let wire = Either::Left(TcpStream::connect(server.address()).await.unwrap());
        let mut raw = Self { wire: Some(wire), buffer: Vec::new(), address: server.address(), tls, protected: false };
        if server.security() == Security::Implicit {
            raw.secure().await;
            raw.protected = true;
        }
        raw
    }

    /// Logged in in clear text, in binary.
    pub async fn login(server: &FtpServer) -> Self {
        let mut raw = Self::connect(server).await;
        raw.expect(220).await;
        raw.log_in(server).await;
        raw
    }

    /// Logged in over TLS, with protected data.
    pub async fn secure_login(server: &FtpServer, tls: TlsConnector) -> Self {
        let mut raw = Self::with(server, tls).await;
        raw.expect(220).await;
        if server.security() == Security::Explicit {
            raw.ask("AUTH TLS", 234).await;
            raw.secure().await;
        }
        raw.log_in(server).await;
        raw.ask("PBSZ 0", 200).await;
        raw.ask("PROT P", 200).await;
        raw.protected = true;
        raw
    }

    pub async fn log_in(&mut self, server: &FtpServer) {
        self.ask(&format!("USER {}", server.user()), 331).await;
        self.ask(&format!("PASS {}", server.password()), 230).await;
        self.ask("TYPE I", 200).await;
    }

    pub async fn secure(&mut self) {
        let Some(Either::Left(tcp)) = self.wire.take() else { panic!("already protected") };
        self.wire = Some(Either::Right(Box::new(self.handshake(tcp).await.unwrap())));
    }

    async fn handshake(&self, tcp: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        self.tls.connect(ServerName::try_from("localhost").unwrap(), tcp).await
    }

    pub async fn send(&mut self, line: impl AsRef<[u8]>) {
        let bytes = [line.as_ref(), b"\r\n"].concat();
        let wire = self.wire.as_mut().unwrap();
        wire.write_all(&bytes).await.unwrap();
        wire.flush().await.unwrap();
    }

    /// The next bytes as they come; `None` at the end, whatever kind it is.
    pub async fn bytes(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 64 * 1024];
        let read = tokio::time::timeout(Duration::from_secs(20), self.wire.as_mut().unwrap().read(&mut buffer))
            .await
            .expect("an answer or an end");
        let read = read.unwrap_or(0);
        (read > 0).then(|| buffer[..read].to_vec())
    }

    /// The next line without its end, lossily; `None` when the connection is over.
    pub async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned());
            }
            let bytes = self.bytes().await?;
            self.buffer.extend(bytes);
        }
    }

    /// All lines of the next answer.
    pub async fn answer(&mut self) -> Option<Vec<String>> {
        let mut lines = vec![self.line().await?];
        let end = format!("{} ", &lines[0][..3]);
        while !lines[lines.len() - 1].starts_with(&end) {
            lines.push(self.line().await?);
        }
        Some(lines)
    }

    pub async fn expect(&mut self, code: u16) -> Vec<String> {
        let lines = self.answer().await.unwrap_or_else(|| panic!("{code} and not the end"));
        assert!(lines[0].starts_with(&code.to_string()), "{code}: {lines:?}");
        lines
    }

    /// The last line of the answer, which must have this code.
    pub async fn ask(&mut self, line: impl AsRef<[u8]>, code: u16) -> String {
        self.send(line).await;
        self.expect(code).await.pop().unwrap()
    }

    /// Nothing comes for a while.
    pub async fn hears_nothing(&mut self) -> bool {
        self.buffer.is_empty() && tokio::time::timeout(Duration::from_millis(200), self.line()).await.is_err()
    }

    pub async fn is_over(&mut self) -> bool {
        self.line().await.is_none()
    }

    pub async fn epsv(&mut self) -> SocketAddr {
        let line = self.ask("EPSV", 229).await;
        let port = line.split('|').nth(3).unwrap().parse().unwrap();
        SocketAddr::new(self.address.ip(), port)
    }

    /// A data connection for this command, after its 150.
    pub async fn data(&mut self, command: impl AsRef<[u8]>) -> Wire {
        let address = self.epsv().await;
        let tcp = TcpStream::connect(address).await.unwrap();
        self.send(command).await;
        self.expect(150).await;
        self.protect(tcp).await
    }

    pub async fn protect(&mut self, tcp: TcpStream) -> Wire {
        if self.protected { Either::Right(Box::new(self.handshake(tcp).await.unwrap())) } else { Either::Left(tcp) }
    }

    /// Uploads and ends in good order; the answer is not read.
    pub async fn put(&mut self, command: impl AsRef<[u8]>, content: &[u8]) {
        let mut data = self.data(command).await;
        data.write_all(content).await.unwrap();
        close(data).await;
    }

    pub async fn store(&mut self, name: &str, content: &[u8]) {
        self.put(format!("STOR {name}"), content).await;
        self.expect(226).await;
    }

    pub async fn get(&mut self, command: impl AsRef<[u8]>) -> Vec<u8> {
        let mut data = self.data(command).await;
        let mut content = Vec::new();
        data.read_to_end(&mut content).await.unwrap();
        close(data).await;
        self.expect(226).await;
        content
    }
}

/// close_notify, FIN, and reading to the end.
pub async fn close(mut data: Wire) {
    data.shutdown().await.unwrap();
    let _ = data.read_to_end(&mut Vec::new()).await;
}
