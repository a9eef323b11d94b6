//! SOCKS5 as a client (RFC 1928, RFC 1929): greeting, login by user and password, CONNECT. Every answer has a known
//! length, so that nothing of what follows is read here.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use zeroize::Zeroizing;

use super::{Obstacle, Proxy, Target, broken};

const VERSION: u8 = 5;
const NO_LOGIN: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;
const NOTHING_SUITS: u8 = 0xff;
const LOGIN_VERSION: u8 = 1;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Returns when what follows on `stream` is the target's.
pub async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), target: &Target, proxy: &Proxy) -> Result<(), Obstacle> {
    const GREETING: &str = "at the greeting";
    let user = proxy.address.user.as_deref();
    let methods: &[u8] = if user.is_some() { &[NO_LOGIN, USER_AND_PASSWORD] } else { &[NO_LOGIN] };
    let mut greeting = vec![VERSION, methods.len() as u8];
    greeting.extend_from_slice(methods);
    stream.write_all(&greeting).await.map_err(|error| broken(GREETING, error))?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).await.map_err(|error| broken(GREETING, error))?;
    match chosen {
        [VERSION, NO_LOGIN] => {}
        [VERSION, USER_AND_PASSWORD] if user.is_some() => log_in(stream, proxy).await?,
        [VERSION, NOTHING_SUITS] if user.is_some() => {
            return Err(Obstacle::permanent("takes neither a login by user and password nor none"));
        }
        [VERSION, NOTHING_SUITS] => {
            return Err(Obstacle::permanent("wants a login; put USER@ before its host and give --proxy-password-from"));
        }
        [VERSION, other] => return Err(Obstacle::permanent(format!("chose login method {other}, which was not offered"))),
        other => {
            return Err(Obstacle::permanent(format!("does not speak SOCKS5; its first bytes are \"{}\"", other.escape_ascii())));
        }
    }
    open(stream, target).await
}

async fn log_in(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), proxy: &Proxy) -> Result<(), Obstacle> {
    const LOGIN: &str = "at the login";
    let user = proxy.address.user.as_deref().unwrap_or_default();
    let password = proxy.password.as_ref().map_or("", |password| password.expose());
    let (Ok(user_length), Ok(password_length)) = (u8::try_from(user.len()), u8::try_from(password.len())) else {
        return Err(Obstacle::permanent("takes user names and passwords of at most 255 bytes"));
    };
    // Room for all of it at once: a vector that grows leaves copies behind.
    let mut request = Zeroizing::new(Vec::with_capacity(3 + user.len() + password.len()));
    request.extend_from_slice(&[LOGIN_VERSION, user_length]);
    request.extend_from_slice(user.as_bytes());
    request.push(password_length);
    request.extend_from_slice(password.as_bytes());
    stream.write_all(&request).await.map_err(|error| broken(LOGIN, error))?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await.map_err(|error| broken(LOGIN, error))?;
    match answer {
        // RFC 1929 says 1; some answer with the version of SOCKS.
        [LOGIN_VERSION | VERSION, 0] => Ok(()),
        [LOGIN_VERSION | VERSION, _] => Err(Obstacle::permanent("refused the login at itself (not the one at the server)")),
        other => Err(Obstacle::permanent(format!("answered the login with \"{}\"", other.escape_ascii()))),
    }
}

async fn open(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), target: &Target) -> Result<(), Obstacle> {
    const REQUEST: &str = "after it was asked for the connection";
    let mut request = vec![VERSION, CONNECT, 0];
    let port = match target {
        Target::Address(SocketAddr::V4(address)) => {
            request.push(IPV4);
            request.extend_from_slice(&address.ip().octets());
            address.port()
        }
        Target::Address(SocketAddr::V6(address)) => {
            request.push(IPV6);
            request.extend_from_slice(&address.ip().octets());
            address.port()
        }
        Target::Name(name, port) => {
            let Ok(length) = u8::try_from(name.len()) else {
                return Err(Obstacle::permanent("takes host names of at most 255 bytes"));
            };
            request.extend_from_slice(&[NAME, length]);
            request.extend_from_slice(name.as_bytes());
            *port
        }
    };
    request.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&request).await.map_err(|error| broken(REQUEST, error))?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.map_err(|error| broken(REQUEST, error))?;
    let [version, code, _, kind] = answer;
    if version != VERSION {
        return Err(Obstacle::permanent(format!("left SOCKS5 in the middle; its answer began \"{}\"", answer.escape_ascii())));
    }
    if code != 0 {
        return Err(Obstacle::new(format!("opens no connection to {target}: {} (SOCKS {code})", meaning(code))));
    }
    // Its own end of the connection, which says nothing to us and is in the way of what follows.
    let length = match kind {
        IPV4 => 4,
        IPV6 => 16,
        NAME => usize::from(stream.read_u8().await.map_err(|error| broken(REQUEST, error))?),
        other => return Err(Obstacle::permanent(format!("answered with an address of unknown type {other}"))),
    };
    let mut rest = [0; 255 + 2];
    stream.read_exact(&mut rest[..length + 2]).await.map_err(|error| broken(REQUEST, error))?;
    Ok(())
}

fn meaning(code: u8) -> &'static str {
    match code {
        1 => "general failure",
        2 => "its rules do not allow it",
        3 => "network unreachable",
        4 => "host unreachable or unknown",
        5 => "connection refused",
        6 => "it took too long",
        7 => "it makes no connections of this kind",
        8 => "it does not take this type of address",
        _ => "unknown reason",
    }
}
