//! HTTP CONNECT as a client (RFC 9110, section 9.3.6), with Basic login. The answer is read byte by byte up to its empty
//! line: what follows is the target's.

use data_encoding::BASE64;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use zeroize::Zeroizing;

use super::{Obstacle, Proxy, Target, broken};

/// Status line and headers of an answer; no honest proxy needs more.
const MAX_HEAD: usize = 8 << 10;
/// A proxy's words in a message.
const MAX_SHOWN: usize = 120;

/// Returns when what follows on `stream` is the target's.
pub async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), target: &Target, proxy: &Proxy) -> Result<(), Obstacle> {
    const REQUEST: &str = "after it was asked for the connection";
    let request = request(target, proxy)?;
    stream.write_all(&request).await.map_err(|error| broken(REQUEST, error))?;
    let mut head = Vec::with_capacity(256);
    loop {
        let byte = stream.read_u8().await.map_err(|error| broken(REQUEST, error))?;
        head.push(byte);
        if head.ends_with(b"\r\n\r\n") || head.ends_with(b"\n\n") {
            break;
        }
        // Something that greets on its own and says no HTTP would be read to the end of time.
        if head.len() == 5 && head != b"HTTP/" {
            return Err(Obstacle::permanent(format!("does not speak HTTP; its first bytes are \"{}\"", head.escape_ascii())));
        }
        if head.len() >= MAX_HEAD {
            return Err(Obstacle::permanent(format!("answered more than {MAX_HEAD} bytes and did not come to an end")));
        }
    }
    judge(&head, target, proxy)
}

fn request(target: &Target, proxy: &Proxy) -> Result<Zeroizing<Vec<u8>>, Obstacle> {
    let authority = match target {
        Target::Name(name, port) if name.is_ascii() => format!("{name}:{port}"),
        Target::Name(name, _) => {
            let why = format!("takes names in ASCII only; write {} in its xn-- form", model::escape_name(name));
            return Err(Obstacle::permanent(why));
        }
        Target::Address(address) => address.to_string(),
    };
    let user = proxy.address.user.as_deref();
    if user.is_some_and(|user| user.contains(':')) {
        return Err(Obstacle::permanent("takes no user name with a colon in it"));
    }
    let password = proxy.password.as_ref().map_or("", |password| password.expose());
    let mut request = Zeroizing::new(Vec::with_capacity(512 + 2 * (user.map_or(0, str::len) + password.len())));
    let line = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
    request.extend_from_slice(line.as_bytes());
    request.extend_from_slice(concat!("User-Agent: fileferry/", env!("CARGO_PKG_VERSION"), "\r\n").as_bytes());
    if let Some(user) = user {
        let login = Zeroizing::new(format!("{user}:{password}"));
        let encoded = Zeroizing::new(BASE64.encode(login.as_bytes()));
        request.extend_from_slice(b"Proxy-Authorization: Basic ");
        request.extend_from_slice(encoded.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    Ok(request)
}

fn judge(head: &[u8], target: &Target, proxy: &Proxy) -> Result<(), Obstacle> {
    let line = head.split(|&b| b == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let line = line.trim_end();
    let shown = model::escape_name(&line.chars().take(MAX_SHOWN).collect::<String>());
    let mut words = line.splitn(3, ' ');
    let version = words.next().unwrap_or_default();
    let code = words.next().filter(|code| code.len() == 3).and_then(|code| code.parse::<u16>().ok());
    let Some(code) = code.filter(|_| version.starts_with("HTTP/1.")) else {
        return Err(Obstacle::permanent(format!("answered what is no HTTP: {shown:?}")));
    };
    match code {
        200..300 => Ok(()),
        407 if proxy.address.user.is_some() => {
            Err(Obstacle::permanent(format!("refused the login at itself (not the one at the server): {shown:?}")))
        }
        407 => Err(Obstacle::permanent("wants a login; put USER@ before its host and give --proxy-password-from")),
        _ => Err(Obstacle::new(format!("opens no connection to {target}: {shown:?}"))),
    }
}
