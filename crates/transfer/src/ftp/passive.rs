//! Which port a server listens on for data (227 and 229), and how we name ours (PORT and EPRT).

use std::net::{IpAddr, SocketAddr};

/// The port of a 229 reply: `(|||6446|)`, with any printable delimiter. A protocol or an address between the first
/// delimiters is skipped: data go to the peer of the control connection and nowhere else.
pub fn extended(text: &[u8]) -> Option<u16> {
    let open = text.iter().position(|&b| b == b'(')?;
    let inner = &text[open + 1..];
    let delimiter = *inner.first().filter(|b| b.is_ascii_graphic() && !b.is_ascii_digit())?;
    let mut fields = inner.split(|&b| b == delimiter);
    let port = fields.nth(3)?;
    fields.next()?;
    port_number(port)
}

/// The port of a 227 reply: six numbers, of which the first four name an address that nobody asks. Parentheses and
/// words around them differ from server to server (RFC 1123, 4.1.2.6).
pub fn classic(text: &[u8]) -> Option<u16> {
    let starts = (0..text.len()).filter(|&at| text[at].is_ascii_digit() && (at == 0 || !matches!(text[at - 1], b'0'..=b'9' | b',')));
    for start in starts {
        let end = text[start..].iter().position(|b| !b.is_ascii_digit() && *b != b',').map_or(text.len(), |n| start + n);
        let numbers: Vec<Option<u8>> = text[start..end].split(|&b| b == b',').take(7).map(byte).collect();
        if let [Some(_), Some(_), Some(_), Some(_), Some(high), Some(low)] = numbers[..] {
            return Some(u16::from(high) << 8 | u16::from(low)).filter(|&port| port != 0);
        }
    }
    None
}

fn byte(digits: &[u8]) -> Option<u8> {
    if digits.len() > 3 { None } else { std::str::from_utf8(digits).ok()?.parse().ok() }
}

fn port_number(digits: &[u8]) -> Option<u16> {
    if digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|&port| port != 0)
}

/// The command that tells the server where we listen.
pub fn announcement(address: SocketAddr, extended: bool) -> String {
    match address.ip() {
        IpAddr::V4(ip) if !extended => {
            let [a, b, c, d] = ip.octets();
            let port = address.port();
            format!("PORT {a},{b},{c},{d},{},{}", port >> 8, port & 0xff)
        }
        ip => format!("EPRT |{}|{ip}|{}|", if ip.is_ipv4() { 1 } else { 2 }, address.port()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn takes_only_the_port() {
        assert_eq!(extended(b"Entering Extended Passive Mode (|||6446|)"), Some(6446));
        assert_eq!(extended(b"ok (!!!6446!)."), Some(6446));
        assert_eq!(extended(b"trap (|1|169.254.169.254|80|)"), Some(80));
        assert_eq!(classic(b"Entering Passive Mode (169,254,169,254,0,80)."), Some(80));
        assert_eq!(classic(b"Entering Passive Mode. 127,0,0,1,25,46"), Some(25 << 8 | 46));
        assert_eq!(classic(b"mode 2 =127,0,0,1,25,46"), Some(25 << 8 | 46));
    }

    #[test]
    fn refuses_what_names_no_port() {
        for text in [&b"(|||0|)"[..], b"(|||65536|)", b"(|||6446)", b"(|||-1|)", b"(|||6446", b"()", b"(", b"", b"(1116446111)"] {
            assert_eq!(extended(text), None, "{}", text.escape_ascii());
        }
        for text in [&b"(127,0,0,1,0,0)"[..], b"(127,0,0,1,256,1)", b"(127,0,0,1,1)", b"(1,2,3,4,5,6,7)", b"(,,,,,)", b"", b"(1,2,3,4,5,)"]
        {
            assert_eq!(classic(text), None, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn names_our_own_port_in_both_ways() {
        let four: SocketAddr = "127.0.0.1:6446".parse().unwrap();
        let six: SocketAddr = "[::1]:6446".parse().unwrap();
        assert_eq!(announcement(four, false), "PORT 127,0,0,1,25,46");
        assert_eq!(announcement(four, true), "EPRT |1|127.0.0.1|6446|");
        assert_eq!(announcement(six, false), "EPRT |2|::1|6446|");
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in prop::collection::vec(any::<u8>(), 0..80), numbers in "[(|,0-9 ]{0,40}") {
            for text in [&text[..], numbers.as_bytes()] {
                prop_assert_ne!(extended(text), Some(0));
                prop_assert_ne!(classic(text), Some(0));
            }
        }
    }
}
