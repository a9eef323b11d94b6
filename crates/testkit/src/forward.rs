//! A proxy that is asked for connections: SOCKS5 and HTTP CONNECT on one port of the loopback. It can want a login, knows
//! names that nobody else does, and misbehaves on demand.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use data_encoding::BASE64;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What a test sends as a request is far shorter.
const MAX_REQUEST: usize = 4096;
/// How long it misbehaves.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Manner {
    #[default]
    Honest,
    /// Reads, and never says a word.
    Silent,
    /// Begins a right answer and never ends it.
    Endless,
    /// Speaks another version of what it was asked in.
    WrongVersion,
    /// Hangs up when it is asked.
    HangsUp,
}

#[derive(Debug, Clone, Default)]
pub struct ForwardOptions {
    /// User and password that it wants.
    pub login: Option<(String, String)>,
    /// Names that it resolves to another place than anybody else would; the port of the request counts.
    pub names: HashMap<String, Ipv4Addr>,
    pub manner: Manner,
}

#[derive(Debug, Default)]
struct Seen {
    /// Hosts and ports as they were asked for.
    targets: Vec<String>,
    refused_logins: usize,
    connections: usize,
}

#[derive(Debug)]
pub struct ForwardProxy {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    _running: DropGuard,
}

impl ForwardProxy {
    pub async fn start(options: ForwardOptions) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let running = CancellationToken::new();
        let (shared, stop, options) = (seen.clone(), running.clone(), Arc::new(options));
        tokio::spawn(async move {
            while let Some(Ok((client, _))) = stop.run_until_cancelled(listener.accept()).await {
                let serve = serve(client, options.clone(), shared.clone());
                let stop = stop.clone();
                tokio::spawn(async move { stop.run_until_cancelled(serve).await });
            }
        });
        Ok(Self { address, seen, _running: running.drop_guard() })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was asked for, in order: `host:port`.
    pub fn targets(&self) -> Vec<String> {
        lock(&self.seen).targets.clone()
    }

    pub fn refused_logins(&self) -> usize {
        lock(&self.seen).refused_logins
    }

    pub fn connections(&self) -> usize {
        lock(&self.seen).connections
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(mut client: TcpStream, options: Arc<ForwardOptions>, seen: Arc<Mutex<Seen>>) -> io::Result<()> {
    client.set_nodelay(true)?;
    lock(&seen).connections += 1;
    let mut first = [0];
    client.read_exact(&mut first).await?;
    let socks = first[0] == 5;
    match options.manner {
        Manner::Honest => {}
        Manner::Silent => {
            let mut scrap = [0; 1024];
            while client.read(&mut scrap).await? > 0 {}
            return Ok(());
        }
        Manner::HangsUp => return Ok(()),
        Manner::WrongVersion => {
            client.write_all(if socks { b"\x04\x5a\0\0\0\0\0\0" } else { b"SSH-2.0-proxy\r\n" }).await?;
            return rest(client).await;
        }
        Manner::Endless => {
            client.write_all(if socks { b"\x05\x00\x05\x00\x00\x03\xff" } else { b"HTTP/1.1 200 OK\r\n" }).await?;
            let begun = tokio::time::Instant::now();
            while begun.elapsed() < PATIENCE && !socks {
                client.write_all(&[b'X'; 512]).await?;
            }
            return rest(client).await;
        }
    }
    let asked = if socks { ask_socks(&mut client, &options, &seen).await? } else { ask_http(&mut client, &options, &seen).await? };
    let Some((host, port)) = asked else { return Ok(()) };
    lock(&seen).targets.push(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") });
    let server = match options.names.get(&host) {
        Some(address) => TcpStream::connect((*address, port)).await,
        None => TcpStream::connect((host.as_str(), port)).await,
    };
    let Ok(mut server) = server else {
        client.write_all(if socks { b"\x05\x05\0\x01\0\0\0\0\0\0" } else { b"HTTP/1.1 502 Bad Gateway\r\n\r\n" }).await?;
        return Ok(());
    };
    server.set_nodelay(true)?;
    client.write_all(if socks { b"\x05\0\0\x01\0\0\0\0\0\0" } else { b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n" }).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// Keeps a connection open and listens, so that a hang-up is not what ends a test.
async fn rest(mut client: TcpStream) -> io::Result<()> {
    let mut scrap = [0; 1024];
    let _ = tokio::time::timeout(PATIENCE, async {
        while client.read(&mut scrap).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
    Ok(())
}

async fn ask_socks(client: &mut TcpStream, options: &ForwardOptions, seen: &Mutex<Seen>) -> io::Result<Option<(String, u16)>> {
    let count = client.read_u8().await?;
    let mut methods = vec![0; usize::from(count)];
    client.read_exact(&mut methods).await?;
    let wanted = if options.login.is_some() { 2 } else { 0 };
    if !methods.contains(&wanted) {
        client.write_all(&[5, 0xff]).await?;
        return Ok(None);
    }
    client.write_all(&[5, wanted]).await?;
    if let Some((user, password)) = &options.login {
        let mut texts = Vec::new();
        client.read_u8().await?;
        for _ in 0..2 {
            let mut text = vec![0; usize::from(client.read_u8().await?)];
            client.read_exact(&mut text).await?;
            texts.push(text);
        }
        let right = texts[0] == user.as_bytes() && texts[1] == password.as_bytes();
        client.write_all(&[1, u8::from(!right)]).await?;
        if !right {
            lock(seen).refused_logins += 1;
            return Ok(None);
        }
    }
    let mut head = [0; 4];
    client.read_exact(&mut head).await?;
    let host = match head[3] {
        1 => Ipv4Addr::from_bits(client.read_u32().await?).to_string(),
        4 => Ipv6Addr::from_bits(client.read_u128().await?).to_string(),
        _ => {
            let mut name = vec![0; usize::from(client.read_u8().await?)];
            client.read_exact(&mut name).await?;
            String::from_utf8_lossy(&name).into_owned()
        }
    };
    Ok(Some((host, client.read_u16().await?)))
}

async fn ask_http(client: &mut TcpStream, options: &ForwardOptions, seen: &Mutex<Seen>) -> io::Result<Option<(String, u16)>> {
    let mut request = vec![b'C'];
    while !request.ends_with(b"\r\n\r\n") && request.len() < MAX_REQUEST {
        request.push(client.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    if let Some((user, password)) = &options.login {
        let right = format!("\r\nProxy-Authorization: Basic {}\r\n", BASE64.encode(format!("{user}:{password}").as_bytes()));
        if !text.contains(&right) {
            lock(seen).refused_logins += usize::from(text.contains("Proxy-Authorization"));
            client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 2\r\n\r\nno").await?;
            return Ok(None);
        }
    }
    let authority = text.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    let Some((host, port)) = authority.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?))) else {
        client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await?;
        return Ok(None);
    };
    Ok(Some((host.trim_matches(['[', ']']).to_owned(), port)))
}
